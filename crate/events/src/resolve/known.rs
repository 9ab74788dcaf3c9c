//! What is at hand for a resolution, and what is found to be missing.

use super::Unresolved;
use crate::{Pdu, StateKey};
use ruma::{EventId, OwnedEventId};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// What was loaded for a resolution.
#[derive(Default)]
pub(super) struct Known {
    pub(super) events: HashMap<OwnedEventId, Arc<Pdu>>,
    /// What all states hold of a place in which they agree, None if nothing.
    pub(super) unconflicted: HashMap<StateKey, Option<OwnedEventId>>,
    /// The events that name an event in their `auth_events`.
    pub(super) authorized_by: HashMap<OwnedEventId, AuthorizedEvents>,
}

/// The accepted state events that name an event in their `auth_events`, as far as loaded.
#[derive(Clone, Debug, Default)]
pub(super) struct AuthorizedEvents {
    /// Their ids, the newest first.
    pub(super) events: Vec<OwnedEventId>,
    /// Whether these are all.
    pub(super) all: bool,
}

/// What to add to a [`Resolution`](super::Resolution) before it goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Events: [`add_event`](super::Resolution::add_event).
    pub events: BTreeSet<OwnedEventId>,
    /// Places in which the states agree: [`add_unconflicted`](super::Resolution::add_unconflicted).
    pub unconflicted: BTreeSet<StateKey>,
    /// The accepted state events that name an event in their `auth_events`, after this many of
    /// them that are known: [`add_authorized_by`](super::Resolution::add_authorized_by). Pages may
    /// grow with that number.
    pub authorized_by: BTreeMap<OwnedEventId, usize>,
}

impl Missing {
    /// Whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.unconflicted.is_empty() && self.authorized_by.is_empty()
    }
}

/// Looks up what is known and keeps a record of what is not.
pub(super) struct Gather<'a> {
    known: &'a Known,
    missing: RefCell<Missing>,
}

impl<'a> Gather<'a> {
    pub(super) fn new(known: &'a Known) -> Self {
        Self { known, missing: RefCell::default() }
    }

    /// An error if anything was missing so far.
    pub(super) fn complete(&self) -> Result<(), Unresolved> {
        let missing = self.missing.borrow();
        if missing.is_empty() { Ok(()) } else { Err(Unresolved::Missing(missing.clone())) }
    }

    pub(super) fn shared(&self, id: &EventId) -> Option<&'a Arc<Pdu>> {
        let found = self.known.events.get(id);
        if found.is_none() {
            self.missing.borrow_mut().events.insert(id.to_owned());
        }
        found
    }

    /// As [`Gather::shared`], for who only looks.
    pub(super) fn event(&self, id: &EventId) -> Option<&'a Pdu> {
        self.shared(id).map(Arc::as_ref)
    }

    pub(super) fn unconflicted(&self, key: &StateKey) -> Option<&'a OwnedEventId> {
        let found = self.known.unconflicted.get(key);
        if found.is_none() {
            self.missing.borrow_mut().unconflicted.insert(key.clone());
        }
        found?.as_ref()
    }

    /// The events that `id` is known to authorize; all of them if
    /// [`Gather::want_more_authorized_by`] has nothing to ask.
    pub(super) fn authorized_by(&self, id: &EventId) -> &'a [OwnedEventId] {
        self.known.authorized_by.get(id).map_or(&[], |authorized_by| &authorized_by.events)
    }

    pub(super) fn want_more_authorized_by(&self, id: &EventId) {
        let authorized_by = self.known.authorized_by.get(id);
        if !authorized_by.is_some_and(|authorized_by| authorized_by.all) {
            let known = authorized_by.map_or(0, |authorized_by| authorized_by.events.len());
            self.missing.borrow_mut().authorized_by.insert(id.to_owned(), known);
        }
    }

    /// Runs `question` and takes back what it found missing if it has an answer in spite of that.
    pub(super) fn attempt<T>(&self, question: impl FnOnce() -> Option<T>) -> Result<T, Waiting> {
        let before = self.missing.replace(Missing::default());
        let answer = question();
        let found_missing = self.missing.replace(before);
        answer.ok_or_else(|| {
            let mut missing = self.missing.borrow_mut();
            missing.events.extend(found_missing.events);
            missing.unconflicted.extend(found_missing.unconflicted);
            missing.authorized_by.extend(found_missing.authorized_by);
            Waiting
        })
    }

    /// How much is missing; in an [`Gather::attempt`], of what was asked since it began.
    pub(super) fn missing_count(&self) -> usize {
        let missing = self.missing.borrow();
        missing.events.len() + missing.unconflicted.len() + missing.authorized_by.len()
    }
}

/// The answer needs what is missing.
pub(super) struct Waiting;
