//! The auth difference and the conflicted state subgraph, without walking what all states have in common (rooms/v2.md, v12.md "Definitions").
//!
//! Auth chains are walked from the conflicting entries down, the greatest generation first, and end where every event left is in all of them. An event
//! also belongs to all of them when an entry in which the states agree has it in its auth chain. There may be as many such entries as the room has members,
//! so that is asked from below: which events cite this one, and does one of those, or one above it, hold an unconflicted place?

use super::{
    super::pdu::Pdu,
    known::{Gather, Waiting},
};
use ruma::{EventId, OwnedEventId, state_res::StateMap};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};

/// The generation, unless the event was stored without.
fn generation(event: &Pdu) -> Option<u64> {
    (event.generation > 0 || event.auth_events.is_empty()).then_some(event.generation)
}

/// The events that are in the auth chain of some states but not of all.
pub(super) fn auth_difference(states: &[StateMap<OwnedEventId>], conflicted: &BTreeSet<OwnedEventId>, gather: &Gather<'_>) -> BTreeSet<OwnedEventId> {
    let mut walk = Descent::new(states.len(), gather);
    for (state, bit) in states.iter().zip(0..) {
        for event in state.values().filter_map(|id| gather.event(id)) {
            walk.reach_auth_events(event, 1 << bit);
        }
    }
    let mut ascent = Ascent { conflicted, gather, found: HashMap::new() };
    while let Some(event) = walk.next() {
        // A conflicted event is part of the full conflicted set anyway.
        if !walk.is_common(&event.event_id) && !conflicted.contains(&event.event_id) {
            match ascent.leads_to_unconflicted(&event.event_id) {
                Ok(true) => walk.make_common(&event.event_id),
                Ok(false) => {}
                Err(Waiting) => continue,
            }
        }
        let states = walk.reached[&event.event_id];
        walk.reach_auth_events(event, states);
    }
    walk.difference()
}

/// A walk down the auth chains of several states at once.
struct Descent<'a, 'k> {
    all: u128,
    /// The states, as bits, in whose auth chain an event is.
    reached: HashMap<OwnedEventId, u128>,
    waiting: BinaryHeap<(u64, OwnedEventId)>,
    is_waiting: HashSet<OwnedEventId>,
    /// How many of those waiting are not common.
    partial: usize,
    may_stop: bool,
    gather: &'a Gather<'k>,
}

impl<'a, 'k> Descent<'a, 'k> {
    fn new(states: usize, gather: &'a Gather<'k>) -> Self {
        let all = if states == 128 { u128::MAX } else { (1 << states) - 1 };
        Self { all, reached: HashMap::new(), waiting: BinaryHeap::new(), is_waiting: HashSet::new(), partial: 0, may_stop: true, gather }
    }

    fn is_common(&self, id: &EventId) -> bool {
        self.reached.get(id) == Some(&self.all)
    }

    fn make_common(&mut self, id: &EventId) {
        self.reached.insert(id.to_owned(), self.all);
    }

    fn reach_auth_events(&mut self, event: &Pdu, states: u128) {
        for id in &event.auth_events {
            self.reach(id, states);
        }
    }

    fn reach(&mut self, id: &OwnedEventId, states: u128) {
        let before = self.reached.get(id).copied();
        let after = before.unwrap_or(0) | states;
        if before == Some(after) {
            return;
        }
        self.reached.insert(id.clone(), after);
        if self.is_waiting.contains(id) {
            self.partial -= usize::from(after == self.all);
        } else if let Some(event) = self.gather.event(id) {
            self.may_stop &= generation(event).is_some();
            self.waiting.push((event.generation, id.clone()));
            self.is_waiting.insert(id.clone());
            self.partial += usize::from(after != self.all);
        }
    }

    /// The event of the greatest generation, until all that wait are common to all states.
    fn next(&mut self) -> Option<&'k Pdu> {
        if self.partial == 0 && self.may_stop {
            return None;
        }
        let (_, id) = self.waiting.pop()?;
        self.is_waiting.remove(&id);
        self.partial -= usize::from(!self.is_common(&id));
        self.gather.event(&id)
    }

    fn difference(self) -> BTreeSet<OwnedEventId> {
        self.reached.into_iter().filter(|(_, states)| *states != self.all).map(|(id, _)| id).collect()
    }
}

/// How much one walk from below asks for at a time.
const ASK_AT_ONCE: usize = 64;

/// The walk from below, remembering what it learned.
struct Ascent<'a, 'k> {
    conflicted: &'a BTreeSet<OwnedEventId>,
    gather: &'a Gather<'k>,
    found: HashMap<OwnedEventId, bool>,
}

/// An event on the way up, and the events above it still to try.
struct Step<'k> {
    event: &'k EventId,
    above: std::slice::Iter<'k, OwnedEventId>,
}

impl<'k> Ascent<'_, 'k> {
    /// Whether an event is in the auth chain of an entry in which the states agree.
    fn leads_to_unconflicted(&mut self, event: &'k EventId) -> Result<bool, Waiting> {
        let gather = self.gather;
        gather.attempt(|| self.climb(event))
    }

    /// None while something is missing and nothing was found.
    fn climb(&mut self, event: &'k EventId) -> Option<bool> {
        let mut seen: HashSet<&EventId> = HashSet::from([event]);
        let mut path = Vec::new();
        let mut is_found = self.is_below_unconflicted(event, &mut path);
        while let (false, Some(step)) = (is_found, path.last_mut()) {
            let Some(next) = step.above.next() else {
                if self.gather.missing_count() == 0 {
                    self.found.insert(step.event.to_owned(), false);
                }
                path.pop();
                continue;
            };
            match self.found.get(next) {
                Some(is_below) => is_found = *is_below,
                None if seen.insert(next) => is_found = self.is_below_unconflicted(next, &mut path),
                None => {}
            }
            if self.gather.missing_count() >= ASK_AT_ONCE {
                break;
            }
        }
        if is_found {
            self.found.extend(path.into_iter().map(|step| (step.event.to_owned(), true)));
            return Some(true);
        }
        (self.gather.missing_count() == 0).then_some(false)
    }

    /// Whether one of those that cite `event` is such an entry; else the way goes on above them, if they are at hand.
    fn is_below_unconflicted(&self, event: &'k EventId, path: &mut Vec<Step<'k>>) -> bool {
        let missing_before = self.gather.missing_count();
        let citing = self.gather.citing(event);
        let is_directly = citing.iter().any(|id| self.is_unconflicted(id));
        if !is_directly && self.gather.missing_count() == missing_before {
            self.gather.want_more_citing(event);
            path.push(Step { event, above: citing.iter() });
        }
        is_directly
    }

    fn is_unconflicted(&self, id: &OwnedEventId) -> bool {
        if self.conflicted.contains(id) {
            return false;
        }
        let key = self.gather.event(id).and_then(Pdu::key);
        key.is_some_and(|key| self.gather.unconflicted(&key) == Some(id))
    }
}

/// Since v12: all events on paths along `auth_events` from one conflicted event to another, these included.
pub(super) fn conflicted_subgraph(conflicted: &BTreeSet<OwnedEventId>, gather: &Gather<'_>) -> BTreeSet<OwnedEventId> {
    let events: Vec<&Pdu> = conflicted.iter().filter_map(|id| gather.event(id)).collect();
    // No way down leads from an event to one of the same or a greater generation.
    let least = events.iter().map(|event| generation(event)).min().flatten().unwrap_or(0);
    let mut cited_by: BTreeMap<&EventId, Vec<&EventId>> = BTreeMap::new();
    let mut seen: HashSet<&EventId> = events.iter().map(|event| &*event.event_id).collect();
    let mut down = events;
    while let Some(event) = down.pop() {
        for id in &event.auth_events {
            cited_by.entry(id).or_default().push(&event.event_id);
            if seen.insert(id)
                && let Some(cited) = gather.event(id)
                && generation(cited).is_none_or(|generation| generation > least)
            {
                down.push(cited);
            }
        }
    }
    let mut subgraph = conflicted.clone();
    let mut up: Vec<&EventId> = conflicted.iter().map(|id| &**id).collect();
    while let Some(id) = up.pop() {
        for above in cited_by.get(id).into_iter().flatten() {
            if subgraph.insert((*above).to_owned()) {
                up.push(above);
            }
        }
    }
    subgraph
}
