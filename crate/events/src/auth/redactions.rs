//! Which redactions take effect (rooms/v3.md "Handling redactions").

use super::{AuthError, PowerLevels, found, unless_missing};
use crate::Pdu;
use ruma::{
    UserId,
    events::StateEventType,
    room_version_rules::{AuthorizationRules, RoomVersionRules},
};
use std::{cell::RefCell, sync::Arc};

/// Whether `redaction` takes the content of `target` away: "the power level of the redaction's
/// sender is at least the redact level, or the domains of both senders are the same". In versions 1
/// and 2 the authorization rules have decided that already.
///
/// `fetch` gives the event that holds a place of the state before the redaction, or `None` if
/// nobody does.
///
/// # Errors
/// [`AuthError`]: forbidden is it where the power levels cannot be read.
pub fn may_redact<M>(
    rules: &RoomVersionRules,
    redaction: &Pdu,
    target: &Pdu,
    fetch: impl Fn(&StateEventType, &str) -> Result<Option<Arc<Pdu>>, M>,
) -> Result<bool, AuthError<M>> {
    if rules.authorization.special_case_room_redaction || redaction.sender.server_name() == target.sender.server_name() {
        return Ok(true);
    }
    let missing = RefCell::new(Vec::new());
    let has_level = by_level(&rules.authorization, &redaction.sender, &|event_type, state_key| found(fetch(event_type, state_key), &missing));
    unless_missing(missing.into_inner(), has_level)
}

fn by_level(rules: &AuthorizationRules, user: &UserId, fetch: &dyn Fn(&StateEventType, &str) -> Option<Arc<Pdu>>) -> Result<bool, String> {
    let (create, levels) = (fetch(&StateEventType::RoomCreate, ""), fetch(&StateEventType::RoomPowerLevels, ""));
    // Without a create event nobody has a level, and nothing takes one.
    create.map_or(Ok(true), |create| PowerLevels::new(create, levels, rules)?.may_redact_others(user))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Draft, Model};
    use serde_json::json;
    use std::convert::Infallible;

    #[test]
    fn others_are_redacted_with_the_level_for_it() {
        for (version, whoever, with_level) in [(2, true, true), (3, false, true), (11, false, true), (12, false, true)] {
            let room = Model::public(version);
            let message = |user: &str| room.build(&room.parents(), Draft::message(user, "m.room.message", json!({ "body": "hello" })));
            let state = room.state_after(&room.parents());
            let held = |event_type: &StateEventType, state_key: &str| {
                Ok::<_, Infallible>(state.get(&(event_type.clone(), state_key.to_owned())).map(|id| room.event(id).clone()))
            };
            let (of_alice, of_bob, of_carol) = (message("alice"), message("bob"), message("carol"));
            assert_eq!(may_redact(&room.rules, &of_bob, &of_carol, held), Ok(whoever), "version {version}");
            assert_eq!(may_redact(&room.rules, &of_alice, &of_carol, held), Ok(with_level), "version {version}");
            assert_eq!(may_redact(&room.rules, &of_bob, &message("bob"), held), Ok(true), "version {version}");
        }
    }
}
