//! Events of users who wanted theirs erased (Client-Server API, `erase` of `POST
//! /account/deactivate`): whoever was not in the room at an event is served a copy as a redaction
//! would leave it.
//!
//! What is the room's state now stays as it is, also for those who come later: it is how the room
//! works, and a client that is told of no encryption would not encrypt.

use super::{error::Result, event::Event, state_tree::NodeId, visibility::Viewer};
use crate::{damaged::LeaveOut, homeserver::Homeserver, position::Position, requester::Requester, tables::RoomNid, time_slice::TimeSlice};
use ephapse_events::StateKey;
use ruma::UserId;
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
};

impl Homeserver {
    /// Events of one room as who asks is served them, but for damaged ones. Where nobody
    /// wanted theirs erased, as they are.
    pub async fn served<'a>(&self, events: &'a [Rc<Event>], requester: Requester<'_>) -> Result<Cow<'a, [Rc<Event>]>> {
        let Some(first) = events.first().filter(|_| self.users.erased.may_be()) else { return Ok(Cow::Borrowed(events)) };
        let erased = self.erased_of(events).await?;
        if erased.is_empty() {
            return Ok(Cow::Borrowed(events));
        }
        let room = self.room_by_nid(first.room).await?;
        let theirs: Vec<Rc<Event>> = events.iter().filter(|event| erased.contains(&*event.pdu.sender)).cloned().collect();
        let state = self.still_state(room.nid, &theirs).await?;
        let mut viewer = Viewer::new(self, &room, requester).await?;
        let slice = TimeSlice::new(&*self.host);
        let mut copies: HashMap<Position, Option<Rc<Event>>> = HashMap::new();
        for event in theirs.iter().filter(|event| !state.contains(&event.position)) {
            if !viewer.was_joined(self, event).await? {
                let pdu = event.pdu.redacted(&room.rules).map_err(|error| event.damaged(&room.id, error)).leave_out()?;
                copies.insert(event.position, pdu.map(|pdu| Rc::new(Event { pdu: Arc::new(pdu), ..Event::clone(event) })));
            }
            slice.step().await;
        }
        Ok(events.iter().filter_map(|event| copies.get(&event.position).cloned().unwrap_or_else(|| Some(event.clone()))).collect())
    }

    /// Which senders of `events` wanted theirs erased.
    async fn erased_of<'a>(&self, events: &'a [Rc<Event>]) -> Result<HashSet<&'a UserId>> {
        let mut erased = HashSet::new();
        let senders: HashSet<&UserId> = events.iter().map(|event| &*event.pdu.sender).filter(|sender| self.is_local(sender)).collect();
        for sender in senders {
            if let Some(user) = self.find_user(sender).await?
                && self.has_flag(&self.users.erased, user).await?
            {
                erased.insert(sender);
            }
        }
        Ok(erased)
    }

    /// Where those of `events` stand that are of the room's state now.
    async fn still_state(&self, room: RoomNid, events: &[Rc<Event>]) -> Result<HashSet<Position>> {
        let keys: HashSet<StateKey> = events.iter().filter_map(|event| event.pdu.key()).collect();
        let keys: Vec<StateKey> = keys.into_iter().collect();
        let root = NodeId(self.room_head(room).await?.state);
        Ok(self.state_get(room, root, &keys).await?.into_iter().flatten().collect())
    }
}
