//! A room's history from before what is here: where it goes on elsewhere, and events that are
//! fetched from there.

use super::{
    append::Verdict,
    error::{Refused, Result},
    event::Event,
    stop::Stop,
    write::Write,
};
use crate::{
    failure::Failure,
    homeserver::Homeserver,
    position::Position,
    tables::{self, RoomNid},
};
use ephapse_events::Pdu;
use ephapse_store::Direction;
use ruma::{EventId, OwnedEventId};
use std::{collections::HashMap, rc::Rc};

/// Missing events of a room that are looked at.
const MOST_MISSING: usize = 1000;

impl Homeserver {
    /// Whether it is known what the room's state is after an event.
    pub async fn has_state_after(&self, room: RoomNid, id: &EventId) -> Result<bool> {
        match self.find_event(id).await? {
            Some((nid, position)) if nid == room && !position.is_outlier() => Ok(self.event_at(room, position).await?.has_state()),
            _ => Ok(false),
        }
    }

    /// Events that are not here though others are which are built on them: those first that the
    /// newest events are built on.
    pub async fn missing_parents(&self, room: RoomNid) -> Result<Vec<OwnedEventId>> {
        let mut missing = Vec::new();
        for ((_, id), child) in tables::MISSING_PARENTS.scan(self.store(), &room, Direction::Forward, MOST_MISSING).await? {
            // One that came in another way is missing no more.
            if self.find_event(&id).await?.is_none_or(|(nid, position)| nid != room || position.is_outlier()) {
                missing.push((child, id));
            }
        }
        missing.sort_unstable_by(|a, b| b.cmp(a));
        Ok(missing.into_iter().map(|(_, id)| id).collect())
    }
}

impl Write<'_> {
    /// Remembers those parents of an event that have no place here.
    pub(super) fn remember_missing_parents(&mut self, event: &Event) -> Result<(), Stop> {
        for id in &event.pdu.prev_events {
            if self.event_by_id(id)?.is_none_or(|parent| parent.is_outlier()) {
                tables::MISSING_PARENTS.put(self.tx, &(self.room.nid, id.clone()), &event.position);
            }
        }
        Ok(())
    }

    /// Adds events from before what is here, whose format, signatures and hashes have been checked,
    /// each after its parents among them. `states` says for some what another server says was
    /// before them. Those of which the state before them is not known stay out. They are no part of
    /// the room as it is now: it was decided without them.
    pub fn prepend(&mut self, events: &[Pdu], states: &HashMap<OwnedEventId, Vec<OwnedEventId>>) -> Result<usize, Stop> {
        self.look_up(events)?;
        let first = self.head.oldest.0.saturating_sub_unsigned(events.len() as u64);
        let mut added = 0;
        for (number, pdu) in events.iter().enumerate() {
            let position = Position(first.saturating_add_unsigned(number as u64));
            match self.prepend_one(pdu, states.get(&pdu.event_id).map(Vec::as_slice), position) {
                Ok(is_new) => added += usize::from(is_new),
                // It is refused before anything of it is staged.
                Err(Stop::Refused(Failure::Refused(refused))) => tracing::debug!("{} of {} is left out: {refused}", pdu.event_id, self.room.id),
                Err(stop) => return Err(stop),
            }
        }
        if added > 0 {
            self.head.oldest = Position(first);
        }
        Ok(added)
    }

    fn prepend_one(&mut self, pdu: &Pdu, state: Option<&[OwnedEventId]>, position: Position) -> Result<bool, Stop> {
        if self.known(pdu)?.is_some() {
            return Ok(false);
        }
        self.check_auth_events_are_here(pdu)?;
        let before = match state {
            Some(state) => self.told_state(&pdu.event_id, state)?,
            None => {
                self.check_parents_are_here(pdu)?;
                self.state_after_all(pdu)?
            }
        };
        let rejected = self.rejected(pdu, before)?;
        let pdu = Pdu { rejected: rejected.is_some(), ..pdu.clone() };
        let event = self.placed(pdu, before, Verdict { rejected, soft_failed: false }, None, position)?;
        self.relate(&event)?;
        if event.is_accepted() {
            self.redact_target(&event)?;
        }
        self.redact_if_asked_before(&event)?;
        self.relate_those_before(&event)?;
        tables::MISSING_PARENTS.delete(self.tx, &(self.room.nid, event.pdu.event_id.clone()));
        self.remember_missing_parents(&event)?;
        Ok(true)
    }

    fn check_parents_are_here(&self, pdu: &Pdu) -> Result<(), Stop> {
        let mut missing = Vec::new();
        for id in &pdu.prev_events {
            if self.event_by_id(id)?.is_none_or(|parent: Rc<Event>| !parent.has_state()) {
                missing.push(id.clone());
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(Refused::MissingEvents { event: pdu.event_id.clone(), missing }.into()) }
    }
}
