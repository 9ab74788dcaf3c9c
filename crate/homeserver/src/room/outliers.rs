//! Events that come without a place in the timeline, and the state of a room as other servers tell
//! it: what a join, or an event whose parents are not here, stands on.

use super::{
    append::{Verdict, membership_of},
    error::Refused,
    event::Event,
    state_tree,
    state_tree::NodeId,
    stop::Stop,
    write::Write,
};
use crate::{position::Position, tables::MembershipKind};
use ephapse_events::{Pdu, StateKey};
use ruma::{EventId, OwnedEventId, events::StateEventType};
use std::{collections::HashMap, rc::Rc, sync::Arc};

/// The state of a room as another server tells it, as far as its events are here: without the
/// events, which may be more than memory should hold.
#[derive(Default)]
pub struct StateHere {
    entries: HashMap<StateKey, Position>,
    /// What the member events among them make of their users, and where these stand.
    members: HashMap<Position, (MembershipKind, Position)>,
}

impl StateHere {
    /// Adds an event, unless it is no part of any state. Of two for the same place the last counts.
    pub fn add(&mut self, event: &Event) {
        let Some(key) = event.pdu.key().filter(|_| event.rejected.is_none()) else { return };
        if key.0 == StateEventType::RoomMember {
            self.members.insert(event.state_position(), (membership_of(event), event.position));
        }
        self.entries.insert(key, event.state_position());
    }

    /// What a member event makes of its user, and where it stands.
    pub(super) fn member(&self, state_position: Position) -> Option<(MembershipKind, Position)> {
        self.members.get(&state_position).copied()
    }
}

impl Write<'_> {
    /// Keeps an event of which it is not known where it stands. Its signatures and hash have been
    /// checked, and its auth events are here; by those it is accepted or rejected (check 4 on
    /// receipt of a PDU). One that is here already stays as it is.
    ///
    /// # Errors
    /// [`Refused::OfRoom`], [`Refused::OfAnotherRoom`], and [`Refused::MissingEvents`] with the
    /// auth events that are not here.
    pub fn add_outlier(&mut self, pdu: Pdu) -> Result<Rc<Event>, Stop> {
        if pdu.room_id != self.room.id {
            return Err(Refused::OfRoom(pdu.event_id, pdu.room_id).into());
        }
        if let Some(known) = self.event_by_id(&pdu.event_id)? {
            return Ok(known);
        }
        if self.stands_elsewhere(&pdu.event_id) {
            return Err(Refused::OfAnotherRoom(pdu.event_id).into());
        }
        self.check_auth_events_are_here(&pdu)?;
        let rejected = match self.check_by_auth_events(&pdu)? {
            Err(reason) => Some(reason),
            Ok(()) => self.check_in_auth_events(&pdu)?.said.err(),
        };
        let auth_depth = self.auth_depth_of(&pdu)?;
        let position = self.next_outlier();
        let event = Rc::new(Event {
            room: self.room.nid,
            position,
            pdu: Arc::new(Pdu { auth_depth, rejected: rejected.is_some(), ..pdu }),
            rejected,
            soft_failed: false,
            waiting: false,
            state_before: NodeId::EMPTY,
            state_after: NodeId::EMPTY,
            room_state: NodeId::EMPTY,
            txn_id: None,
            replaces: None,
            redacted_by: None,
            outlier: None,
        });
        self.put_event(event.clone());
        if event.pdu.state_key.is_some() && event.rejected.is_none() {
            self.add_auth_edges(position, &event.pdu.auth_events)?;
        }
        self.redact_if_asked_before(&event)?;
        Ok(event)
    }

    /// Asks for all auth events of an event at once.
    ///
    /// # Errors
    /// [`Refused::MissingEvents`] with those that are not here.
    pub(super) fn check_auth_events_are_here(&self, pdu: &Pdu) -> Result<(), Stop> {
        let (mut missing, mut needs) = (Vec::new(), Vec::new());
        for id in &pdu.auth_events {
            match self.event_by_id(id) {
                Ok(Some(_)) => {}
                Ok(None) => missing.push(id.clone()),
                Err(need) => needs.push(need),
            }
        }
        if !needs.is_empty() {
            return Err(Stop::Missing(needs));
        }
        if missing.is_empty() { Ok(()) } else { Err(Refused::MissingEvents { event: pdu.event_id.clone(), missing }.into()) }
    }

    /// The root of the state that consists of these events, which are here. Those that were
    /// rejected are no part of it; of two for the same place the last counts.
    ///
    /// # Errors
    /// [`Refused::MissingEvents`] with those that are not here, for `of`.
    pub fn state_of(&mut self, of: &EventId, events: &[OwnedEventId]) -> Result<NodeId, Stop> {
        let (mut missing, mut needs) = (Vec::new(), Vec::new());
        let mut entries = HashMap::with_capacity(events.len());
        for id in events {
            match self.event_by_id(id) {
                Ok(Some(event)) if event.rejected.is_none() => {
                    entries.extend(event.pdu.key().map(|key| (key, Some(event.state_position()))));
                }
                Ok(Some(_)) => {}
                Ok(None) => missing.push(id.clone()),
                Err(need) => needs.push(need),
            }
        }
        if !needs.is_empty() {
            return Err(Stop::Missing(needs));
        }
        if !missing.is_empty() {
            return Err(Refused::MissingEvents { event: of.to_owned(), missing }.into());
        }
        let update = state_tree::update(NodeId::EMPTY, entries, &|id| self.node(id))?;
        self.add_nodes(update.new_nodes);
        Ok(update.root)
    }

    /// The root of the state before `of` as another server tells it, as far as its events are here:
    /// those that could not be verified are no part of it.
    ///
    /// # Errors
    /// [`Refused::NotAllowed`] where it has no create event.
    pub(super) fn told_state(&mut self, of: &EventId, state: &[OwnedEventId]) -> Result<NodeId, Stop> {
        let (mut here, mut needs, mut has_create) = (Vec::with_capacity(state.len()), Vec::new(), false);
        for id in state {
            match self.event_by_id(id) {
                Ok(Some(event)) => {
                    has_create |= event.pdu.is_create();
                    here.push(id.clone());
                }
                Ok(None) => {}
                Err(need) => needs.push(need),
            }
        }
        if !needs.is_empty() {
            return Err(Stop::Missing(needs));
        }
        if !has_create {
            return Err(Refused::NotAllowed("The state of the room has no create event".to_owned()).into());
        }
        self.state_of(of, &here)
    }

    /// Enters the room by a join that another server has accepted, in a state that it tells, as far
    /// as its events are here: those that could not be verified are no part of it. Unless users of
    /// this server are in the room already, what was known of its end before counts
    /// no more.
    ///
    /// # Errors
    /// [`Refused::MissingEvents`] with the auth events of the join that are not here.
    /// [`Refused::NotAllowed`] where the auth rules do not allow the join in that state, and where
    /// it has no create event.
    pub fn enter(&mut self, state: &Rc<StateHere>, join: Pdu) -> Result<Rc<Event>, Stop> {
        if let Some(known) = self.event_by_id(&join.event_id)?.filter(|known| !known.is_outlier()) {
            return Ok(known);
        }
        self.check_auth_events_are_here(&join)?;
        if !state.entries.contains_key(&(StateEventType::RoomCreate, String::new())) {
            return Err(Refused::NotAllowed("The state of the room has no create event".to_owned()).into());
        }
        let entries = state.entries.iter().map(|(key, position)| (key.clone(), Some(*position)));
        let update = state_tree::update(NodeId::EMPTY, entries, &|id| self.node(id))?;
        self.add_nodes(update.new_nodes);
        let before = update.root;
        self.entered = state.clone();
        for checked in [self.check_by_auth_events(&join)?, self.check_in_state(&join, before)?] {
            checked.map_err(Refused::NotAllowed)?;
        }
        if self.head.joined <= self.servers()?.values().sum() {
            self.head.extremities.clear();
            self.head.entered_at = join.depth;
        }
        let is_guest = self.hs.users.guests.may_be() && self.is_guest(self.user_nid(&join.sender)?)?;
        let event = self.append(join, before, Verdict::default(), None)?;
        self.remember_missing_parents(&event)?;
        if is_guest {
            // What the room says of guests is known only now.
            self.guest_access_changed();
        }
        Ok(event)
    }

    /// Takes in a membership of a user of this server in a room that it is not in: an invitation, a
    /// knock, or the end of either. It changes what is known of the state, and is no end of the
    /// room's graph.
    pub fn add_membership(&mut self, pdu: Pdu) -> Result<Rc<Event>, Stop> {
        if pdu.room_id != self.room.id {
            return Err(Refused::OfRoom(pdu.event_id, pdu.room_id).into());
        }
        if let Some(known) = self.event_by_id(&pdu.event_id)?.filter(|known| !known.is_outlier()) {
            return Ok(known);
        }
        if self.stands_elsewhere(&pdu.event_id) {
            return Err(Refused::OfAnotherRoom(pdu.event_id).into());
        }
        let extremities = self.head.extremities.clone();
        // By the state as it is known, it is the only one after which this state comes.
        self.head.extremities.clear();
        let added = self.append(pdu, self.state(), Verdict::default(), None);
        self.head.extremities = extremities;
        let event = added?;
        let event = Rc::new(Event { outlier: Some(event.position), ..Event::clone(&event) });
        self.put_event(event.clone());
        // Once this server is in the room, its history goes on there.
        self.remember_missing_parents(&event)?;
        Ok(event)
    }
}

/// Events in an order in which each comes after those of its auth events that are among them, each
/// only once; what stands in a circle is left out.
pub fn by_auth_events(events: Vec<Pdu>) -> Vec<Pdu> {
    let numbers: HashMap<OwnedEventId, usize> = events.iter().map(|event| event.event_id.clone()).zip(0..).collect();
    // Since v12 the create event is no auth event, but implied by the room's id.
    let create = events.iter().find(|event| event.gives_room_id).map(|event| &event.event_id);
    let needs = |number: usize| {
        let event: &Pdu = &events[number];
        let implied = create.filter(|id| **id != event.event_id);
        event.auth_events.iter().chain(implied).filter_map(|id| numbers.get(id).copied()).collect()
    };
    let order = in_order(events.len(), needs);
    let is_last = |number: &usize| numbers[&events[*number].event_id] == *number;
    let order: Vec<usize> = order.into_iter().filter(is_last).collect();
    let mut events: Vec<Option<Pdu>> = events.into_iter().map(Some).collect();
    order.into_iter().filter_map(|number| events[number].take()).collect()
}

/// The numbers below `count` in an order in which each comes after those that it needs; what stands
/// in a circle is left out.
pub fn in_order(count: usize, needs: impl Fn(usize) -> Vec<usize>) -> Vec<usize> {
    let mut waits = Vec::with_capacity(count);
    let mut needed_by: Vec<Vec<u32>> = vec![Vec::new(); count];
    for number in 0..count {
        let needs = needs(number);
        waits.push(needs.len());
        for needed in needs {
            needed_by[needed].push(number as u32);
        }
    }
    let mut ready: Vec<usize> = (0..count).filter(|number| waits[*number] == 0).collect();
    let mut ordered = Vec::with_capacity(count);
    while let Some(number) = ready.pop() {
        for next in std::mem::take(&mut needed_by[number]) {
            let next = next as usize;
            waits[next] -= 1;
            if waits[next] == 0 {
                ready.push(next);
            }
        }
        ordered.push(number);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use ephapse_events::{JsonObject, NewPdu, signing_key};
    use ruma::{MilliSecondsSinceUnixEpoch, UInt, room_version_rules::RoomVersionRules, server_name, user_id};

    #[test]
    fn events_come_after_those_that_allow_them() {
        let rules = RoomVersionRules::V10;
        let key = signing_key(&[7; 32], "1");
        let event = |n: u32, auth_events: &[&Pdu]| {
            let new = NewPdu {
                room_id: Some(ruma::room_id!("!a:one.example").to_owned()),
                sender: user_id!("@a:one.example").to_owned(),
                event_type: "m.test".into(),
                state_key: Some(n.to_string()),
                content: JsonObject::default(),
                prev_events: Vec::new(),
                auth_events: auth_events.iter().map(|event| event.reference(&rules).expect("a reference")).collect(),
                depth: 1,
                origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::from(n)),
                redacts: None,
                event_localpart: String::new(),
            };
            new.sign(server_name!("one.example"), &key, &rules).expect("it is signed")
        };
        let first = event(1, &[]);
        let second = event(2, &[&first]);
        let third = event(3, &[&first, &second]);
        let ordered = by_auth_events(vec![third.clone(), second.clone(), third.clone(), first.clone()]);
        let ids: Vec<_> = ordered.iter().map(|event| &event.event_id).collect();
        assert_eq!(ids, [&first.event_id, &second.event_id, &third.event_id]);
    }
}
