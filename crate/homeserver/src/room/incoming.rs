//! Several events of other servers in one decision: one batch, whatever becomes of each.

use super::{
    error::{Refused, Result},
    event::Event,
    rooms::RoomInfo,
    stop::{Need, Stop},
    write::Write,
};
use crate::{failure::Failure, federation::policy, homeserver::Homeserver};
use ephapse_events::Pdu;
use ruma::{OwnedUserId, events::TimelineEventType};
use std::{collections::HashSet, rc::Rc};

/// What became of an event of another server.
#[derive(Debug)]
pub enum Received {
    /// It is here, whatever the rules say of it.
    In(Rc<Event>),
    /// It refers to events that are not here.
    Missing,
    /// It is not taken in, and why.
    Refused(Refused),
}

impl Homeserver {
    /// Takes in events of a room whose format, signatures and hashes have been checked, in an order
    /// in which each comes after those among them that it refers to. The answer is in the order of
    /// `events`.
    ///
    /// # Errors
    /// The store failed, or the room is gone. What is wrong with one event is in the answer.
    pub async fn receive(&self, room: &Rc<RoomInfo>, generation: u64, events: &[Pdu]) -> Result<Vec<Received>> {
        let checked = policy::recommended(self, room, events).await?;
        let (events, refused) = checked.as_ref().map_or((events, None), |(events, refused)| (&events[..], Some(refused)));
        let receive = |write: &mut Write<'_>, events: &[Pdu]| {
            write.not_recommended = refused.cloned().unwrap_or_default();
            write.receive_all(events)
        };
        let all = self.write_room(room, generation, |write| receive(write, events)).await;
        match all {
            // Something here that one of them needs is broken: the others come in.
            Err(error @ (Failure::Damaged(_) | Failure::Internal(_))) if events.len() > 1 => {
                tracing::error!("{} events of {} could not be taken in at once: {error}", events.len(), room.id);
            }
            all => return all,
        }
        let mut received = Vec::with_capacity(events.len());
        for event in events {
            let one = std::slice::from_ref(event);
            match self.write_room(room, generation, |write| receive(write, one)).await {
                Ok(mut one) => received.extend(one.pop()),
                Err(error @ (Failure::Damaged(_) | Failure::Internal(_))) => {
                    tracing::error!("{} of {} could not be taken in: {error}", event.event_id, room.id);
                    received.push(Received::Refused(Refused::Malformed("The event could not be taken in".to_owned())));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(received)
    }

    /// Takes in one event as `enter` does, once the room's policy server was asked about it.
    pub async fn receive_one(
        &self,
        room: &Rc<RoomInfo>,
        event: Pdu,
        mut enter: impl FnMut(&mut Write<'_>, Pdu) -> Result<Rc<Event>, Stop>,
    ) -> Result<Rc<Event>> {
        let checked = policy::recommended(self, room, std::slice::from_ref(&event)).await?;
        let (mut checked, refused) = checked.unwrap_or_else(|| (vec![event.clone()], HashSet::new()));
        let event = checked.pop().unwrap_or(event);
        // To ask may have taken long.
        let generation = self.begin_reading();
        let receive = |write: &mut Write<'_>| {
            write.not_recommended.clone_from(&refused);
            enter(write, event.clone())
        };
        self.write_room(room, generation, receive).await
    }
}

impl Write<'_> {
    /// As [`Self::receive`], of several. What one of them is refused for costs itself alone.
    pub(super) fn receive_all(&mut self, events: &[Pdu]) -> Result<Vec<Received>, Stop> {
        self.look_up(events)?;
        let mut received: Vec<Option<Received>> = events.iter().map(|_| None).collect();
        loop {
            let mut is_progress = false;
            for (event, place) in events.iter().zip(&mut received).filter(|(_, place)| place.is_none()) {
                *place = match self.receive(event.clone()) {
                    Ok(event) => Some(Received::In(event)),
                    Err(Stop::Refused(Failure::Refused(Refused::MissingEvents { .. }))) => continue,
                    // It is refused before anything of it is staged.
                    Err(Stop::Refused(Failure::Refused(refused))) => Some(Received::Refused(refused)),
                    Err(stop) => return Err(stop),
                };
                is_progress = true;
            }
            // One that came before its parents is looked at again.
            if !is_progress || received.iter().all(Option::is_some) {
                return Ok(received.into_iter().map(|place| place.unwrap_or(Received::Missing)).collect());
            }
        }
    }

    /// As [`Self::look_up`], for events that get no place in the timeline.
    pub fn look_up_outliers(&self, events: &[Pdu]) -> Result<(), Stop> {
        let mut needs: HashSet<Need> = HashSet::new();
        for event in events {
            needs.extend(event.auth_events.iter().chain([&event.event_id]).filter_map(|id| self.event_by_id(id).err()));
            needs.extend(self.waiting_redactions(&event.event_id).err());
        }
        if needs.is_empty() { Ok(()) } else { Err(Stop::Missing(needs.into_iter().collect())) }
    }

    /// Asks for all that these events need, as far as they say it themselves: one by one they would
    /// be begun anew for each.
    pub(super) fn look_up(&self, events: &[Pdu]) -> Result<(), Stop> {
        let mut needs: HashSet<Need> = HashSet::new();
        for event in events {
            let ids = event.prev_events.iter().chain(&event.auth_events).chain(&event.redacts);
            needs.extend(ids.chain([&event.event_id]).filter_map(|id| self.event_by_id(id).err()));
            needs.extend(self.waiting_redactions(&event.event_id).err());
            needs.extend(self.relations(&event.event_id).err());
            if event.event_type == TimelineEventType::RoomMember
                && let Some(user) = event.state_key.as_deref().and_then(|user| OwnedUserId::try_from(user).ok())
            {
                match self.user_nid(&user) {
                    Ok(user) => needs.extend(self.member(user).err()),
                    Err(need) => drop(needs.insert(need)),
                }
                needs.extend(self.servers().err());
            }
        }
        if needs.is_empty() { Ok(()) } else { Err(Stop::Missing(needs.into_iter().collect())) }
    }
}
