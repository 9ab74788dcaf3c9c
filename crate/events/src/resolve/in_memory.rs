//! The resolution of states that are in memory as a whole, for those who have them so: tools and
//! tests.

use super::{Changes, Missing, Resolution, Unresolved};
use crate::{Inserted, Pdu, StateKey};
use ruma::{OwnedEventId, room_version_rules::RoomVersionRules, state_res::StateMap};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// What each state holds of the places in which any two of them differ: what a [`Resolution`] is
/// given.
pub fn conflicts(states: &[StateMap<OwnedEventId>]) -> Vec<StateMap<OwnedEventId>> {
    let keys: BTreeSet<&StateKey> = states.iter().flat_map(HashMap::keys).inserted();
    let differs = |key: &&StateKey| states.iter().any(|state| state.get(*key) != states[0].get(*key));
    let keys: Vec<&StateKey> = keys.into_iter().filter(differs).collect();
    let held = |state: &StateMap<OwnedEventId>| keys.iter().filter_map(|key| Some(((*key).clone(), state.get(*key)?.clone()))).collect();
    states.iter().map(held).collect()
}

/// Resolves whole states of a room whose events are all in memory, those that were rejected too.
///
/// # Errors
/// [`Unresolved::Missing`] names events that are in a state or an auth chain, but not in `events`.
/// [`Unresolved::Failed`]
pub fn resolve_in_memory(
    rules: &RoomVersionRules,
    states: &[StateMap<OwnedEventId>],
    events: &HashMap<OwnedEventId, Arc<Pdu>>,
) -> Result<StateMap<OwnedEventId>, Unresolved> {
    let Some(first) = states.first() else { return Ok(StateMap::new()) };
    let authorized_by = authorized_by(events);
    let mut resolution = Resolution::new(conflicts(states));
    loop {
        match resolution.resolve(rules) {
            Ok(changes) => return Ok(changed(first, changes)),
            Err(Unresolved::Missing(missing)) => load(missing, first, events, &authorized_by, &mut resolution)?,
            Err(Unresolved::Unfinished) => {}
            Err(failed @ Unresolved::Failed(_)) => return Err(failed),
        }
    }
}

/// A state with what a resolution changes in it.
fn changed(state: &StateMap<OwnedEventId>, changes: Changes) -> StateMap<OwnedEventId> {
    let mut changed = state.clone();
    for (key, id) in changes {
        match id {
            Some(id) => changed.insert(key, id),
            None => changed.remove(&key),
        };
    }
    changed
}

/// The accepted state events that name an event in their `auth_events`, by that event.
fn authorized_by(events: &HashMap<OwnedEventId, Arc<Pdu>>) -> HashMap<&OwnedEventId, Vec<OwnedEventId>> {
    let mut authorized_by: HashMap<&OwnedEventId, Vec<OwnedEventId>> = HashMap::new();
    for event in events.values().filter(|event| event.state_key.is_some() && !event.rejected) {
        for auth_event in &event.auth_events {
            authorized_by.entry(auth_event).or_default().push(event.event_id.clone());
        }
    }
    authorized_by
}

fn load(
    missing: Missing,
    state: &StateMap<OwnedEventId>,
    events: &HashMap<OwnedEventId, Arc<Pdu>>,
    authorized_by: &HashMap<&OwnedEventId, Vec<OwnedEventId>>,
    resolution: &mut Resolution,
) -> Result<(), Unresolved> {
    let absent: BTreeSet<OwnedEventId> = missing.events.iter().filter(|id| !events.contains_key(*id)).cloned().inserted();
    if !absent.is_empty() {
        return Err(Unresolved::Missing(Missing { events: absent, ..Missing::default() }));
    }
    missing.events.iter().for_each(|id| resolution.add_event(events[id].clone()));
    for key in missing.unconflicted {
        let event = state.get(&key).cloned();
        resolution.add_unconflicted(key, event);
    }
    for id in missing.authorized_by.into_keys() {
        let all = authorized_by.get(&id).cloned().unwrap_or_default();
        resolution.add_authorized_by(id, all, true);
    }
    Ok(())
}
