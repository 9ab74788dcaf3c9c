//! State resolution of room version 1 (rooms/v1.md "State resolution"). Where the spec is silent
//! this follows what servers do: places of one kind are resolved each against the same state, and
//! among other events the last in order stands when the rules allow none.

use super::{Changes, Unresolved, auth_keys, judgements::Judgements, known::Gather};
use crate::{Inserted, Pdu, StateKey, auth::in_state};
use ruma::{OwnedEventId, events::StateEventType, room_version_rules::AuthorizationRules, state_res::StateMap};
use sha1::{Digest, Sha1};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// The events that stand for one place.
type Conflicted<'k> = BTreeMap<StateKey, Vec<&'k Arc<Pdu>>>;

pub(super) fn resolve(
    rules: &AuthorizationRules,
    states: &[StateMap<OwnedEventId>],
    gather: &Gather<'_>,
    judgements: &mut Judgements,
) -> Result<Changes, Unresolved> {
    judgements.begin();
    let contenders = contenders(states, gather);
    gather.complete()?;
    // A place that some states do not have is no conflict, if the others agree.
    let (agreed, conflicts): (Conflicted<'_>, Conflicted<'_>) = contenders.into_iter().partition(|(_, events)| events.len() == 1);
    let mut state = read_state(&agreed, &conflicts, rules, gather);
    gather.complete()?;

    let mut changes: Changes = agreed.iter().map(|(key, events)| (key.clone(), Some(events[0].event_id.clone()))).inserted();
    let (mut left, mut resolved) = (conflicts, Vec::new());
    for kind in [StateEventType::RoomPowerLevels, StateEventType::RoomJoinRules, StateEventType::RoomMember] {
        let is_of_kind = |key: &StateKey| key.0 == kind && (kind == StateEventType::RoomMember || key.1.is_empty());
        let (now, later): (Conflicted<'_>, Conflicted<'_>) = left.into_iter().partition(|(key, _)| is_of_kind(key));
        left = later;
        let mut winners = Vec::with_capacity(now.len());
        for (key, events) in now {
            let winner = last_allowed(&key, &events, Rules { rules, state: &state, judgements: &mut *judgements })?;
            winners.push((key, winner));
        }
        state.extend(winners.iter().cloned());
        resolved.extend(winners);
    }
    for (key, events) in left {
        let winner = first_allowed(&events, Rules { rules, state: &state, judgements: &mut *judgements })?;
        resolved.push((key, winner));
    }
    changes.extend(resolved.into_iter().map(|(key, event)| (key, Some(event.event_id.clone()))));
    Ok(changes)
}

fn contenders<'k>(states: &[StateMap<OwnedEventId>], gather: &Gather<'k>) -> Conflicted<'k> {
    let mut ids: BTreeMap<&StateKey, BTreeSet<&OwnedEventId>> = BTreeMap::new();
    for (key, id) in states.iter().flatten() {
        ids.entry(key).or_default().insert(id);
    }
    let in_order = |ids: BTreeSet<&OwnedEventId>| {
        let mut events: Vec<&Arc<Pdu>> = ids.into_iter().filter_map(|id| gather.shared(id)).collect();
        events.sort_by_cached_key(|event| order(event));
        events
    };
    ids.into_iter().map(|(key, ids)| (key.clone(), in_order(ids))).inserted()
}

/// Ascending depth, then descending SHA-1 of the event id.
fn order(event: &Pdu) -> (u64, std::cmp::Reverse<[u8; 20]>) {
    (event.depth, std::cmp::Reverse(Sha1::digest(event.event_id.as_bytes()).into()))
}

/// What the rules read of the state for the conflicting events, the conflict itself left out.
fn read_state<'k>(
    agreed: &Conflicted<'k>,
    conflicts: &Conflicted<'k>,
    rules: &AuthorizationRules,
    gather: &Gather<'k>,
) -> HashMap<StateKey, &'k Arc<Pdu>> {
    let keys: BTreeSet<StateKey> = conflicts.values().flatten().flat_map(|event| auth_keys(event, rules)).inserted();
    let mut state = HashMap::new();
    for key in keys {
        if conflicts.contains_key(&key) {
            continue;
        }
        let event = match agreed.get(&key) {
            Some(events) => events.first().copied(),
            None => gather.unconflicted(&key).and_then(|id| gather.shared(id)),
        };
        state.extend(event.map(|event| (key, event)));
    }
    state
}

/// The rules in a state.
struct Rules<'a, 'k> {
    rules: &'a AuthorizationRules,
    state: &'a HashMap<StateKey, &'k Arc<Pdu>>,
    judgements: &'a mut Judgements,
}

impl Rules<'_, '_> {
    /// Whether an event is allowed, with `other` in a place of the state.
    fn allow(&mut self, event: &Pdu, other: Option<(&StateKey, &Arc<Pdu>)>) -> Result<bool, Unresolved> {
        let Self { rules, state, judgements } = self;
        judgements.allow(|| {
            let bytes = Cell::new(event.content.get().len());
            let fetch = |event_type: &StateEventType, state_key: &str| {
                let key = (event_type.clone(), state_key.to_owned());
                let found = other.filter(|(place, _)| **place == key).map(|(_, event)| event).or_else(|| state.get(&key).copied());
                bytes.set(bytes.get() + found.map_or(0, |event| event.content.get().len()));
                found.cloned()
            };
            let is_allowed = in_state(rules, event, &fetch).is_ok();
            Ok((is_allowed, bytes.get()))
        })
    }
}

/// Each event in order takes the place if the one before it allows it; the first that may not ends
/// this.
fn last_allowed<'k>(key: &StateKey, events: &[&'k Arc<Pdu>], mut rules: Rules<'_, 'k>) -> Result<&'k Arc<Pdu>, Unresolved> {
    let mut winner = events[0];
    for event in &events[1..] {
        if !rules.allow(event, Some((key, winner)))? {
            break;
        }
        winner = event;
    }
    Ok(winner)
}

/// The deepest that the state allows.
fn first_allowed<'k>(events: &[&'k Arc<Pdu>], mut rules: Rules<'_, 'k>) -> Result<&'k Arc<Pdu>, Unresolved> {
    for event in events.iter().rev() {
        if rules.allow(event, None)? {
            return Ok(event);
        }
    }
    Ok(events[0])
}

#[cfg(test)]
mod tests;
