//! State resolution of room version 1 (rooms/v1.md "State resolution"). Where the spec is silent this follows what servers do: places of one kind are
//! resolved each against the same state, and among other events the last in order stands when the rules allow none.

use super::{
    super::pdu::{Pdu, StateKey},
    Changes, Unresolved, auth_keys,
    known::Gather,
};
use ruma::{
    OwnedEventId,
    events::StateEventType,
    room_version_rules::AuthorizationRules,
    state_res::{StateMap, check_state_dependent_auth_rules},
};
use sha1::{Digest, Sha1};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The events that stand for one place.
type Contenders<'k> = BTreeMap<StateKey, Vec<&'k Pdu>>;

pub(super) fn resolve(rules: &AuthorizationRules, states: &[StateMap<OwnedEventId>], gather: &Gather<'_>) -> Result<Changes, Unresolved> {
    let contenders = contenders(states, gather);
    gather.complete()?;
    // A place that some states do not have is no conflict, if the others agree.
    let (agreed, conflicts): (Contenders<'_>, Contenders<'_>) = contenders.into_iter().partition(|(_, events)| events.len() == 1);
    let mut state = read_state(&agreed, &conflicts, rules, gather);
    gather.complete()?;

    let mut changes: Changes = agreed.iter().map(|(key, events)| (key.clone(), Some(events[0].event_id.clone()))).collect();
    let (mut left, mut resolved) = (conflicts, Vec::new());
    for kind in [StateEventType::RoomPowerLevels, StateEventType::RoomJoinRules, StateEventType::RoomMember] {
        let is_of_kind = |key: &StateKey| key.0 == kind && (kind == StateEventType::RoomMember || key.1.is_empty());
        let (now, later): (Contenders<'_>, Contenders<'_>) = left.into_iter().partition(|(key, _)| is_of_kind(key));
        left = later;
        let winners: Vec<_> = now.into_iter().map(|(key, events)| (key.clone(), last_allowed(key, events, &state, rules))).collect();
        state.extend(winners.iter().cloned());
        resolved.extend(winners);
    }
    resolved.extend(left.into_iter().map(|(key, events)| (key, first_allowed(events, &state, rules))));
    changes.extend(resolved.into_iter().map(|(key, event)| (key, Some(event.event_id.clone()))));
    Ok(changes)
}

fn contenders<'k>(states: &[StateMap<OwnedEventId>], gather: &Gather<'k>) -> Contenders<'k> {
    let mut ids: BTreeMap<&StateKey, BTreeSet<&OwnedEventId>> = BTreeMap::new();
    for (key, id) in states.iter().flatten() {
        ids.entry(key).or_default().insert(id);
    }
    let in_order = |ids: BTreeSet<&OwnedEventId>| {
        let mut events: Vec<&Pdu> = ids.into_iter().filter_map(|id| gather.event(id)).collect();
        events.sort_by_cached_key(|event| order(event));
        events
    };
    ids.into_iter().map(|(key, ids)| (key.clone(), in_order(ids))).collect()
}

/// Ascending depth, then descending SHA-1 of the event id.
fn order(event: &Pdu) -> (u64, std::cmp::Reverse<[u8; 20]>) {
    (event.depth, std::cmp::Reverse(Sha1::digest(event.event_id.as_bytes()).into()))
}

/// What the rules read of the state for the conflicting events, the conflict itself left out.
fn read_state<'k>(
    agreed: &Contenders<'k>,
    conflicts: &Contenders<'k>,
    rules: &AuthorizationRules,
    gather: &Gather<'k>,
) -> HashMap<StateKey, &'k Pdu> {
    let keys: BTreeSet<StateKey> = conflicts.values().flatten().flat_map(|event| auth_keys(event, rules)).collect();
    let mut state = HashMap::new();
    for key in keys {
        if conflicts.contains_key(&key) {
            continue;
        }
        let event = match agreed.get(&key) {
            Some(events) => events.first().copied(),
            None => gather.unconflicted(&key).and_then(|id| gather.event(id)),
        };
        state.extend(event.map(|event| (key, event)));
    }
    state
}

fn is_allowed(event: &Pdu, state: &HashMap<StateKey, &Pdu>, rules: &AuthorizationRules) -> bool {
    let fetch = |event_type: &StateEventType, state_key: &str| state.get(&(event_type.clone(), state_key.to_owned())).copied();
    check_state_dependent_auth_rules(rules, event, fetch).is_ok()
}

/// Each event in order takes the place if the one before it allows it; the first that may not ends this.
fn last_allowed<'k>(key: StateKey, events: Vec<&'k Pdu>, state: &HashMap<StateKey, &'k Pdu>, rules: &AuthorizationRules) -> &'k Pdu {
    let mut state = state.clone();
    let mut winner = events[0];
    for event in &events[1..] {
        state.insert(key.clone(), winner);
        if !is_allowed(event, &state, rules) {
            break;
        }
        winner = event;
    }
    winner
}

/// The deepest that the state allows.
fn first_allowed<'k>(events: Vec<&'k Pdu>, state: &HashMap<StateKey, &'k Pdu>, rules: &AuthorizationRules) -> &'k Pdu {
    let allowed = events.iter().rev().find(|event| is_allowed(event, state, rules));
    allowed.copied().unwrap_or(events[0])
}

#[cfg(test)]
mod tests;
