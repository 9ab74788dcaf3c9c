//! The authorization rules (rooms/v1.md to v12.md "Authorization rules", server-server-api.md "Auth
//! events selection").
//!
//! A server asks them three times of a received event (server-server-api.md "Checks performed on
//! receipt of a PDU"): by the events that it names, in the state before it, and in the state as it
//! is now; and of its own events before it sends them.
//!
//! The rules are ruma's. They look at few places of the state, and which ones depends on what they
//! find: so they are given a function that fetches an event. Where an event has to be loaded first,
//! the function says so instead, with whatever its owner needs to load it; the question then ends
//! with [`AuthError::Missing`] and is asked again.

mod power_levels;
mod redactions;

pub use self::{
    power_levels::{PowerLevels, check_power_levels},
    redactions::may_redact,
};

use crate::{Pdu, StateKey};
use ruma::{
    EventId, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::AuthorizationRules,
    state_res::{auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules},
};
use serde_json::value::RawValue;
use std::{cell::RefCell, sync::Arc};

/// Why the rules do not allow an event, or cannot say yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError<M> {
    /// The rules forbid it; the reason in words.
    #[error("{0}")]
    Forbidden(String),
    /// What `fetch` said has to be loaded first. There may be more of it once this is there.
    #[error("{} events must be loaded first", .0.len())]
    Missing(Vec<M>),
}

/// The places of the state whose events a new event names in its `auth_events`. Places that nobody
/// holds are left out of it.
///
/// Of the content only that of member events is looked at.
///
/// # Errors
/// Why the content is not that of a member event.
pub fn auth_events_of(
    event_type: &TimelineEventType,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
    rules: &AuthorizationRules,
) -> Result<Vec<StateKey>, String> {
    auth_types_for_event(event_type, sender, state_key, content, rules)
}

/// Asks the rules that need no state: whether the events that `event` names are those that it must
/// name, and are accepted ones of its room.
///
/// `fetch` gives an event of the room by its id, or `None` if there is no such event.
///
/// # Errors
/// [`AuthError`]
pub fn check_auth_events<M>(
    rules: &AuthorizationRules,
    event: &Pdu,
    fetch: impl Fn(&EventId) -> Result<Option<Arc<Pdu>>, M>,
) -> Result<(), AuthError<M>> {
    let missing = RefCell::new(Vec::new());
    let verdict = by_auth_events(rules, event, &|id| found(fetch(id), &missing));
    unless_missing(missing.into_inner(), verdict)
}

/// Asks the rules that need a state: whether `event` is allowed in it.
///
/// `fetch` gives the event that holds a place of the state, or `None` if nobody does.
///
/// # Errors
/// [`AuthError`]
pub fn check_in_state<M>(
    rules: &AuthorizationRules,
    event: &Pdu,
    fetch: impl Fn(&StateEventType, &str) -> Result<Option<Arc<Pdu>>, M>,
) -> Result<(), AuthError<M>> {
    let missing = RefCell::new(Vec::new());
    let verdict = in_state(rules, event, &|event_type, state_key| found(fetch(event_type, state_key), &missing));
    unless_missing(missing.into_inner(), verdict)
}

fn found<M>(fetched: Result<Option<Arc<Pdu>>, M>, missing: &RefCell<Vec<M>>) -> Option<Arc<Pdu>> {
    fetched.unwrap_or_else(|wanted| {
        missing.borrow_mut().push(wanted);
        None
    })
}

/// A verdict counts only when nothing was missing: what a rule does not find it leaves out without
/// saying so.
fn unless_missing<T, M>(missing: Vec<M>, verdict: Result<T, String>) -> Result<T, AuthError<M>> {
    if missing.is_empty() { verdict.map_err(AuthError::Forbidden) } else { Err(AuthError::Missing(missing)) }
}

// The rules are compiled once, whoever asks: they are large.

fn by_auth_events(rules: &AuthorizationRules, event: &Pdu, fetch: &dyn Fn(&EventId) -> Option<Arc<Pdu>>) -> Result<(), String> {
    check_state_independent_auth_rules(rules, event, fetch)
}

/// Asks the rules that need a state, where nothing can be missing.
pub(crate) fn in_state(rules: &AuthorizationRules, event: &Pdu, fetch: &dyn Fn(&StateEventType, &str) -> Option<Arc<Pdu>>) -> Result<(), String> {
    check_state_dependent_auth_rules(rules, event, fetch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Draft, Model};
    use serde_json::json;
    use std::convert::Infallible;

    /// What is not found is left out by the rules: an event would be refused for what is only not
    /// loaded yet.
    #[test]
    fn there_is_no_verdict_while_something_must_be_loaded() {
        let room = Model::public(11);
        let rules = &room.rules.authorization;
        let message = room.build(&room.parents(), Draft::message("alice", "m.room.message", json!({ "body": "hello" })));
        let state = room.state_after(&room.parents());
        let place = |event_type: &StateEventType, state_key: &str| (event_type.clone(), state_key.to_owned());
        let held = |event_type: &StateEventType, state_key: &str| state.get(&place(event_type, state_key)).map(|id| room.event(id).clone());

        let all = |event_type: &StateEventType, state_key: &str| Ok::<_, Infallible>(held(event_type, state_key));
        assert_eq!(check_in_state(rules, &message, all), Ok(()));
        let without_member = |event_type: &StateEventType, state_key: &str| {
            Ok::<_, Infallible>(held(event_type, state_key).filter(|event| event.event_type != TimelineEventType::RoomMember))
        };
        assert!(matches!(check_in_state(rules, &message, without_member), Err(AuthError::Forbidden(_))));
        let not_loaded = |event_type: &StateEventType, state_key: &str| match event_type {
            StateEventType::RoomMember => Err(place(event_type, state_key)),
            _ => Ok(held(event_type, state_key)),
        };
        let member = place(&StateEventType::RoomMember, "@alice:alice.example");
        assert_eq!(check_in_state(rules, &message, not_loaded), Err(AuthError::Missing(vec![member])));

        let none_loaded = check_auth_events(rules, &message, |id| Err::<Option<Arc<Pdu>>, _>(id.to_owned()));
        assert!(matches!(none_loaded, Err(AuthError::Missing(ids)) if message.auth_events.contains(&ids[0])));
        let here = |id: &EventId| Ok::<_, Infallible>(Some(room.event(id).clone()));
        assert_eq!(check_auth_events(rules, &message, here), Ok(()));
    }
}
