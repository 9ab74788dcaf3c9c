//! Events of other servers: the checks on receipt of a PDU, in the order of the specification
//! (server-server-api, "Checks performed on receipt of a PDU").

use super::{
    append::{Ruling, Verdict},
    error::Refused,
    event::Event,
    state_tree::NodeId,
    stop::Stop,
    write::Write,
};
use ephapse_events::{Pdu, create_of_room};
use ruma::{EventId, OwnedEventId, events::StateEventType};
use std::{collections::HashMap, rc::Rc};

impl Write<'_> {
    /// Takes in an event whose format, signatures and hash have been checked (steps 1 to 3), and
    /// whose parents and auth events are here. One that is here already stays as it is.
    ///
    /// # Errors
    /// [`Refused::OfRoom`]. [`Refused::MissingEvents`] names all that must be fetched first.
    /// [`Refused::OfAnotherRoom`]: up to v2 its server gave it the id, and may have given it twice.
    pub fn receive(&mut self, pdu: Pdu) -> Result<Rc<Event>, Stop> {
        if let Some(known) = self.known(&pdu)? {
            return Ok(known);
        }
        let mut missing = Vec::new();
        for id in pdu.auth_events.iter().chain(&pdu.prev_events) {
            let is_here = |event: &Rc<Event>| event.has_state() || !pdu.prev_events.contains(id);
            if self.event_by_id(id)?.is_none_or(|event| !is_here(&event)) && !missing.contains(id) {
                missing.push(id.clone());
            }
        }
        if !missing.is_empty() {
            return Err(Refused::MissingEvents { event: pdu.event_id, missing }.into());
        }
        let before = self.state_after_all(&pdu)?;
        self.judge(pdu, before, self.state())
    }

    /// As [`Self::receive`], for an event whose parents are not all here: in what the states that
    /// another server says were before it resolve to, as far as those are here, with the ones after
    /// the parents which are.
    ///
    /// # Errors
    /// As there, with the auth events that are missing; and as [`Self::told_state`].
    pub fn receive_in_states(&mut self, pdu: Pdu, told: &[Vec<OwnedEventId>]) -> Result<Rc<Event>, Stop> {
        if let Some(known) = self.known(&pdu)? {
            return Ok(known);
        }
        self.check_auth_events_are_here(&pdu)?;
        let mut states = Vec::new();
        for id in &pdu.prev_events {
            let parent = self.event_by_id(id)?.filter(|parent| parent.has_state());
            states.extend(parent.map(|parent| parent.state_after));
        }
        for state in told {
            states.push(self.told_state(&pdu.event_id, state)?);
        }
        let before = self.resolve(&states)?;
        // What is before it has not made the room's state yet: who joined there is no stranger.
        let ends = self.head.extremities.iter().map(|end| NodeId(end.state));
        let current: Vec<NodeId> = ends.chain([before]).collect();
        let current = self.resolve(&current)?;
        let event = self.judge(pdu, before, current)?;
        self.remember_missing_parents(&event)?;
        Ok(event)
    }

    /// The event, where it has its place in the room already.
    ///
    /// # Errors
    /// [`Refused::OfRoom`], [`Refused::OfAnotherRoom`]
    pub(super) fn known(&self, pdu: &Pdu) -> Result<Option<Rc<Event>>, Stop> {
        if pdu.room_id != self.room.id {
            return Err(Refused::OfRoom(pdu.event_id.clone(), pdu.room_id.clone()).into());
        }
        let known = self.event_by_id(&pdu.event_id)?;
        if known.is_none() && self.stands_elsewhere(&pdu.event_id) {
            return Err(Refused::OfAnotherRoom(pdu.event_id.clone()).into());
        }
        Ok(known.filter(|known| !known.is_outlier()))
    }

    /// By the state before it, and by the one that the room has with it.
    fn judge(&mut self, pdu: Pdu, before: NodeId, current: NodeId) -> Result<Rc<Event>, Stop> {
        let rejected = self.rejected(&pdu, before)?;
        // 6. "Passes authorization rules based on the current state of the room, otherwise it is
        // soft failed."
        // 7. A policy server that does not recommend it, "otherwise it is soft failed" too.
        let is_recommended = !self.not_recommended.contains(&pdu.event_id);
        let is_allowed_now = current == before || self.check_in_state(&pdu, current)?.is_ok();
        let soft_failed = rejected.is_none() && !(is_recommended && is_allowed_now);
        let pdu = Pdu { rejected: rejected.is_some(), ..pdu };
        self.new_servers.clear();
        let event = self.append(pdu, before, Verdict { rejected, soft_failed }, None)?;
        self.send_ends_to_new_servers(&event)?;
        self.redact_if_asked_before(&event)?;
        self.relate_those_before(&event)?;
        Ok(event)
    }

    /// Why an event is rejected whatever the room is now, if it is.
    pub(super) fn rejected(&self, pdu: &Pdu, before: NodeId) -> Result<Option<String>, Stop> {
        // 4. "Passes authorization rules based on the event's auth events, otherwise it is
        // rejected."
        if let Err(reason) = self.check_by_auth_events(pdu)? {
            return Ok(Some(reason));
        }
        let ruling = self.check_in_auth_events(pdu)?;
        // 5. "Passes authorization rules based on the state before the event, otherwise it is
        // rejected."
        match ruling.said {
            Ok(()) => Ok(self.check_again(pdu, &ruling, before)?.err()),
            Err(reason) => Ok(Some(reason)),
        }
    }

    /// As [`Self::receive`], for an event that its server has given to this one, which passes it on
    /// to the other servers in the room.
    pub fn receive_for_others(&mut self, pdu: Pdu) -> Result<Rc<Event>, Stop> {
        let is_known = self.event_by_id(&pdu.event_id)?.is_some_and(|known| !known.is_outlier());
        let servers = self.servers_told()?;
        let event = self.receive(pdu)?;
        if !is_known && event.is_accepted() {
            self.send_to_servers(&event, servers)?;
        }
        Ok(event)
    }

    /// The state before an event: what its parents' states resolve to.
    pub(super) fn state_after_all(&mut self, pdu: &Pdu) -> Result<NodeId, Stop> {
        let mut states = Vec::with_capacity(pdu.prev_events.len());
        for id in &pdu.prev_events {
            let parent = self.event_by_id(id)?.ok_or_else(|| missing(pdu, id))?;
            states.push(parent.state_after);
        }
        self.resolve(&states)
    }

    /// The rules in the state that the event's own auth events make.
    pub(super) fn check_in_auth_events(&self, pdu: &Pdu) -> Result<Ruling, Stop> {
        let mut state = HashMap::new();
        for id in &pdu.auth_events {
            let event = self.event_by_id(id)?.ok_or_else(|| missing(pdu, id))?;
            state.extend(event.pdu.key().map(|key| (key, event.pdu.clone())));
        }
        // Since v12 the create event is no auth event, but implied by the room's id.
        if self.room.rules.authorization.room_create_event_id_as_room_id && !pdu.is_create() {
            let id = create_of_room(&pdu.room_id).ok_or_else(|| Refused::Malformed(format!("{} is not made of an event's id", pdu.room_id)))?;
            let create = self.event_by_id(&id)?.ok_or_else(|| missing(pdu, &id))?;
            state.insert((StateEventType::RoomCreate, String::new()), create.pdu.clone());
        }
        self.rule(pdu, |kind, state_key| Ok(state.get(&(kind.clone(), state_key.to_owned())).cloned()))
    }
}

fn missing(pdu: &Pdu, id: &EventId) -> Refused {
    Refused::MissingEvents { event: pdu.event_id.clone(), missing: vec![id.to_owned()] }
}
