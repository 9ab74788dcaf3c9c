//! The auth difference and the conflicted state subgraph, without walking what all states have in
//! common (rooms/v2.md, v12.md "Definitions").
//!
//! Auth chains are walked from the conflicting entries down, the greatest auth depth first, and end
//! where every event left is in all of them. An event also belongs to all of them when an entry in
//! which the states agree has it in its auth chain. There may be as many such entries as the room
//! has members, so that is asked from below: which events does this one authorize, and does one of
//! those, or one above it, hold an unconflicted place?

use super::known::{Gather, Waiting};
use crate::{Inserted, Pdu};
use ruma::{EventId, OwnedEventId, state_res::StateMap};
use std::collections::{BTreeSet, HashMap, HashSet};

/// How far the walks of one resolution have come: a question that is asked again goes on here.
#[derive(Default)]
pub(super) struct Walks {
    descent: Option<Descent>,
    is_below_unconflicted: HashMap<OwnedEventId, bool>,
    between: Option<Between>,
}

/// The auth depth, unless the event was stored without.
pub(super) fn auth_depth(event: &Pdu) -> Option<u64> {
    (event.auth_depth > 0 || event.auth_events.is_empty()).then_some(event.auth_depth)
}

/// The events that are in the auth chain of some states but not of all; of conflicted events, all
/// that were met.
pub(super) fn auth_difference(
    walks: &mut Walks,
    states: &[StateMap<OwnedEventId>],
    conflicted: &BTreeSet<OwnedEventId>,
    gather: &Gather<'_>,
) -> Result<BTreeSet<OwnedEventId>, Waiting> {
    if walks.descent.is_none() {
        walks.descent = Some(Descent::begin(states, gather)?);
    }
    let Some(descent) = &mut walks.descent else { return Err(Waiting) };
    let mut ascent = Ascent { conflicted, gather, found: &mut walks.is_below_unconflicted };
    while let Some(event) = descent.next(gather)? {
        // A conflicted event is part of the full conflicted set anyway.
        if descent.is_partial(&event.event_id) && !conflicted.contains(&event.event_id) {
            match ascent.leads_to_unconflicted(&event.event_id) {
                Ok(true) => descent.reach(&event.event_id, descent.all),
                Ok(false) => {}
                Err(Waiting) => {
                    descent.ask_ahead(&mut ascent);
                    return Err(Waiting);
                }
            }
        }
        descent.pass(event);
    }
    Ok(descent.difference())
}

/// How many events the walk down asks about beside the one it waits for.
const READ_AHEAD: usize = 16;

/// A walk down the auth chains of several states at once.
struct Descent {
    all: u128,
    /// The states, as bits, in whose auth chain an event is.
    reached: HashMap<OwnedEventId, u128>,
    /// Reached and not passed yet.
    pending: HashSet<OwnedEventId>,
    /// Of those, the ones that have to be loaded for their auth depth.
    arriving: BTreeSet<OwnedEventId>,
    /// Of those, the others in the order of auth depths.
    waiting: BTreeSet<(u64, OwnedEventId)>,
    /// How many that are pending are not common to all states.
    partial: usize,
    /// All auth depths are known.
    may_stop: bool,
}

impl Descent {
    fn begin(states: &[StateMap<OwnedEventId>], gather: &Gather<'_>) -> Result<Self, Waiting> {
        let mut descent = Self {
            all: if states.len() == 128 { u128::MAX } else { (1 << states.len()) - 1 },
            reached: HashMap::new(),
            pending: HashSet::new(),
            arriving: BTreeSet::new(),
            waiting: BTreeSet::new(),
            partial: 0,
            may_stop: true,
        };
        let mut is_complete = true;
        for (state, bit) in states.iter().zip(0..) {
            for id in state.values() {
                match gather.event(id) {
                    Some(event) => event.auth_events.iter().for_each(|id| descent.reach(id, 1 << bit)),
                    None => is_complete = false,
                }
            }
        }
        if is_complete { Ok(descent) } else { Err(Waiting) }
    }

    fn is_partial(&self, id: &EventId) -> bool {
        self.reached.get(id) != Some(&self.all)
    }

    fn reach(&mut self, id: &OwnedEventId, states: u128) {
        let before = self.reached.get(id).copied();
        let after = before.unwrap_or(0) | states;
        if before == Some(after) {
            return;
        }
        self.reached.insert(id.clone(), after);
        if !self.pending.contains(id) {
            // Also one that was passed: where auth depths are not known it may have been too early.
            self.pending.insert(id.clone());
            self.arriving.insert(id.clone());
            self.partial += usize::from(after != self.all);
        } else if after == self.all {
            self.partial -= 1;
        }
    }

    /// The pending event of the greatest auth depth, until all that are pending are common to all
    /// states.
    fn next<'k>(&mut self, gather: &Gather<'k>) -> Result<Option<&'k Pdu>, Waiting> {
        if self.partial == 0 && self.may_stop {
            return Ok(None);
        }
        for id in std::mem::take(&mut self.arriving) {
            if let Some(event) = gather.event(&id) {
                self.may_stop &= auth_depth(event).is_some();
                self.waiting.insert((event.auth_depth, id));
            } else {
                self.arriving.insert(id);
            }
        }
        if !self.arriving.is_empty() {
            return Err(Waiting);
        }
        self.waiting.last().map(|(_, id)| gather.event(id).ok_or(Waiting)).transpose()
    }

    fn pass(&mut self, event: &Pdu) {
        self.waiting.remove(&(event.auth_depth, event.event_id.clone()));
        self.pending.remove(&event.event_id);
        self.partial -= usize::from(self.is_partial(&event.event_id));
        let states = self.reached[&event.event_id];
        event.auth_events.iter().for_each(|id| self.reach(id, states));
    }

    /// Lets those that come next say what they miss.
    fn ask_ahead(&self, ascent: &mut Ascent<'_, '_>) {
        let next = self.waiting.iter().rev().skip(1).take(READ_AHEAD);
        for event in next.filter_map(|(_, id)| ascent.gather.event(id)) {
            if self.is_partial(&event.event_id) && !ascent.conflicted.contains(&event.event_id) {
                // The answer is asked for again in its turn.
                let _ = ascent.leads_to_unconflicted(&event.event_id);
            }
        }
    }

    fn difference(&self) -> BTreeSet<OwnedEventId> {
        self.reached.iter().filter(|(_, states)| **states != self.all).map(|(id, _)| id.clone()).inserted()
    }
}

/// How much one walk from below asks for at a time.
const BATCH: usize = 64;

/// The walk from below, remembering what it learned.
struct Ascent<'a, 'k> {
    conflicted: &'a BTreeSet<OwnedEventId>,
    gather: &'a Gather<'k>,
    found: &'a mut HashMap<OwnedEventId, bool>,
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
            if self.gather.missing_count() >= BATCH {
                break;
            }
        }
        if is_found {
            self.found.extend(path.into_iter().map(|step| (step.event.to_owned(), true)));
            return Some(true);
        }
        (self.gather.missing_count() == 0).then_some(false)
    }

    /// Whether one of those that `event` authorizes is such an entry; else the way goes on above
    /// them, if they are at hand.
    fn is_below_unconflicted(&self, event: &'k EventId, path: &mut Vec<Step<'k>>) -> bool {
        let missing_before = self.gather.missing_count();
        let authorized_by = self.gather.authorized_by(event);
        let is_directly = authorized_by.iter().any(|id| self.is_unconflicted(id));
        if !is_directly && self.gather.missing_count() == missing_before {
            self.gather.want_more_authorized_by(event);
            path.push(Step { event, above: authorized_by.iter() });
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

/// Since v12: all events on paths along `auth_events` from one conflicted event to another, these
/// included.
pub(super) fn conflicted_subgraph(
    walks: &mut Walks,
    conflicted: &BTreeSet<OwnedEventId>,
    gather: &Gather<'_>,
) -> Result<BTreeSet<OwnedEventId>, Waiting> {
    if walks.between.is_none() {
        walks.between = Some(Between::begin(conflicted, gather)?);
    }
    let Some(between) = &mut walks.between else { return Err(Waiting) };
    between.descend(gather)?;
    let mut subgraph = conflicted.clone();
    let mut up: Vec<&OwnedEventId> = conflicted.iter().collect();
    while let Some(id) = up.pop() {
        for above in between.authorized_by.get(id).into_iter().flatten() {
            if subgraph.insert(above.clone()) {
                up.push(above);
            }
        }
    }
    Ok(subgraph)
}

/// A walk from the conflicted events down to the least of them.
struct Between {
    least: u64,
    seen: HashSet<OwnedEventId>,
    down: Vec<OwnedEventId>,
    authorized_by: HashMap<OwnedEventId, Vec<OwnedEventId>>,
}

impl Between {
    fn begin(conflicted: &BTreeSet<OwnedEventId>, gather: &Gather<'_>) -> Result<Self, Waiting> {
        let events: Vec<&Pdu> = conflicted.iter().filter_map(|id| gather.event(id)).collect();
        if events.len() < conflicted.len() {
            return Err(Waiting);
        }
        // No way down leads from an event to one of the same or a greater auth depth.
        let least = events.into_iter().map(auth_depth).min().flatten().unwrap_or(0);
        Ok(Self { least, seen: conflicted.iter().cloned().collect(), down: conflicted.iter().cloned().collect(), authorized_by: HashMap::new() })
    }

    fn descend(&mut self, gather: &Gather<'_>) -> Result<(), Waiting> {
        let mut arriving = Vec::new();
        while let Some(id) = self.down.pop() {
            let Some(event) = gather.event(&id) else {
                arriving.push(id);
                continue;
            };
            if auth_depth(event).is_some_and(|auth_depth| auth_depth <= self.least) {
                continue;
            }
            for auth_event in &event.auth_events {
                self.authorized_by.entry(auth_event.clone()).or_default().push(id.clone());
                if self.seen.insert(auth_event.clone()) {
                    self.down.push(auth_event.clone());
                }
            }
        }
        self.down = arriving;
        if self.down.is_empty() { Ok(()) } else { Err(Waiting) }
    }
}
