//! Events of other servers: the checks on receipt of a PDU, in the order of the specification
//! (server-server-api, "Checks performed on receipt of a PDU").

use super::{append::Verdict, error::Refused, event::Event, state_tree::NodeId, stop::Stop, write::Write};
use ephapse_events::{Pdu, create_of_room};
use ruma::{EventId, events::StateEventType};
use std::{collections::HashMap, rc::Rc};

impl Write<'_> {
    /// Takes in an event whose format, signatures and hash have been checked (steps 1 to 3), and
    /// whose parents and auth events are here. One that is here already stays as it is.
    ///
    /// # Errors
    /// [`Refused::OfRoom`]. [`Refused::MissingEvents`] names all that must be fetched first.
    /// [`Refused::OfAnotherRoom`]: up to v2 its server gave it the id, and may have given it twice.
    pub fn receive(&mut self, pdu: Pdu) -> Result<Rc<Event>, Stop> {
        if pdu.room_id != self.room.id {
            return Err(Refused::OfRoom(pdu.event_id, pdu.room_id).into());
        }
        if let Some(known) = self.event_by_id(&pdu.event_id)?.filter(|known| !known.is_outlier()) {
            return Ok(known);
        }
        if self.stands_elsewhere(&pdu.event_id) {
            return Err(Refused::OfAnotherRoom(pdu.event_id).into());
        }
        let mut missing = Vec::new();
        for id in pdu.auth_events.iter().chain(&pdu.prev_events) {
            // Of an outlier it is not known what state comes after it.
            let is_here = |event: &Rc<Event>| !event.is_outlier() || !pdu.prev_events.contains(id);
            if self.event_by_id(id)?.is_none_or(|event| !is_here(&event)) && !missing.contains(id) {
                missing.push(id.clone());
            }
        }
        if !missing.is_empty() {
            return Err(Refused::MissingEvents { event: pdu.event_id, missing }.into());
        }
        let before = self.state_after_all(&pdu)?;
        let mut verdict = Verdict::default();
        // 4. "Passes authorization rules based on the event's auth events, otherwise it is rejected."
        if let Err(reason) = self.check_by_auth_events(&pdu)? {
            verdict.rejected = Some(reason);
        } else if let Err(reason) = self.check_in_auth_events(&pdu)? {
            verdict.rejected = Some(reason);
        // 5. "Passes authorization rules based on the state before the event, otherwise it is rejected."
        } else if let Err(reason) = self.check_in_state(&pdu, before)? {
            verdict.rejected = Some(reason);
        // 6. "Passes authorization rules based on the current state of the room, otherwise it is soft failed."
        } else if self.check_in_state(&pdu, self.state())?.is_err() {
            verdict.soft_failed = true;
        }
        let pdu = Pdu { rejected: verdict.rejected.is_some(), ..pdu };
        let event = self.append(pdu, before, verdict, None)?;
        self.redact_if_asked_before(&event)?;
        self.relate_those_before(&event)?;
        Ok(event)
    }

    /// As [`Self::receive`], for an event that its server has given to this one, which passes it on
    /// to the other servers in the room.
    pub fn receive_for_others(&mut self, pdu: Pdu) -> Result<Rc<Event>, Stop> {
        self.receive(pdu)
    }

    /// The state before an event: what its parents' states resolve to.
    fn state_after_all(&mut self, pdu: &Pdu) -> Result<NodeId, Stop> {
        let mut states = Vec::with_capacity(pdu.prev_events.len());
        for id in &pdu.prev_events {
            let parent = self.event_by_id(id)?.ok_or_else(|| missing(pdu, id))?;
            states.push(parent.state_after);
        }
        self.resolve(&states)
    }

    /// The rules in the state that the event's own auth events make.
    pub(super) fn check_in_auth_events(&self, pdu: &Pdu) -> Result<Result<(), String>, Stop> {
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
        self.check_by(pdu, |kind, state_key| Ok(state.get(&(kind.clone(), state_key.to_owned())).cloned()))
    }
}

fn missing(pdu: &Pdu, id: &EventId) -> Refused {
    Refused::MissingEvents { event: pdu.event_id.clone(), missing: vec![id.to_owned()] }
}
