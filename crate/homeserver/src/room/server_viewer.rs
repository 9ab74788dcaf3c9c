//! What another server is shown of a room's timeline (Server-Server API, "Backfilling and
//! retrieving missing events"): what its users could see, and of everything else what a redaction
//! leaves, which is enough to go on along the graph.

use super::{append::membership_of, error::Result, event::Event, rooms::RoomInfo, state_tree::NodeId, visibility::visibility_in};
use crate::{
    damaged::LeaveOut,
    homeserver::Homeserver,
    position::Position,
    requester::Requester,
    tables::{self, MembershipKind},
    time_slice::TimeSlice,
};
use ephapse_events::StateKey;
use ephapse_store::Direction;
use ruma::{
    OwnedServerName, ServerName,
    events::{StateEventType, TimelineEventType, room::history_visibility::HistoryVisibility},
};
use std::{collections::HashMap, rc::Rc, sync::Arc};

/// How many members are looked at at once.
const PORTION: usize = 256;
/// How many memberships are looked at at once in a state: one that is found ends the search.
const MEMBERSHIPS: usize = 32;

/// Another server's eyes on one room.
pub struct ServerViewer {
    room: Rc<RoomInfo>,
    server: OwnedServerName,
    /// Its users who are or were members, once they are asked for.
    users: Option<Rc<Vec<String>>>,
    /// Whether it sees what happens in a state.
    states: HashMap<NodeId, bool>,
}

impl ServerViewer {
    /// The eyes of a server that is in the room.
    pub fn new(room: &Rc<RoomInfo>, server: &ServerName) -> Self {
        Self { room: room.clone(), server: server.to_owned(), users: None, states: HashMap::new() }
    }

    /// Events as the server is shown them, in their order: those that it does not see, and those of
    /// erased users, as a redaction leaves them. Damaged ones are left out.
    pub async fn shown(&mut self, hs: &Homeserver, events: Vec<Rc<Event>>) -> Result<Vec<Rc<Event>>> {
        let mut shown = Vec::with_capacity(events.len());
        let slice = TimeSlice::new(&*hs.host);
        for event in hs.served(&events, Requester::Server(&self.server)).await?.iter() {
            if self.sees(hs, event).await? {
                shown.push(event.clone());
            } else {
                let redacted = event.pdu.redacted(&self.room.rules).map_err(|error| event.damaged(&self.room.id, error)).leave_out()?;
                shown.extend(redacted.map(|pdu| Rc::new(Event { pdu: Arc::new(pdu), ..Event::clone(event) })));
            }
            slice.step().await;
        }
        Ok(shown)
    }

    /// Those of `events` that the server sees.
    pub async fn visible(&mut self, hs: &Homeserver, events: Vec<Rc<Event>>) -> Result<Vec<Rc<Event>>> {
        let mut visible = Vec::new();
        let slice = TimeSlice::new(&*hs.host);
        for event in events {
            if event.is_shown() && self.sees(hs, &event).await? {
                visible.push(event);
            }
            slice.step().await;
        }
        Ok(visible)
    }

    /// A change of the visibility or of one of its own memberships is judged on both sides, and the
    /// kinder one counts. Where the state is not known, as of an outlier, the current one does.
    async fn sees(&mut self, hs: &Homeserver, event: &Event) -> Result<bool> {
        if !event.has_state() {
            let now = NodeId(hs.room_head(self.room.nid).await?.state);
            return Ok(event.pdu.sender.server_name() == self.server || !is_restricted(&visibility_in(hs, &self.room, now).await?));
        }
        let is_own = event.pdu.event_type == TimelineEventType::RoomMember && event.pdu.state_key.as_deref().is_some_and(|user| self.is_of(user));
        let is_both = is_own || event.pdu.event_type == TimelineEventType::RoomHistoryVisibility;
        Ok(self.sees_in(hs, event.state_before).await? || is_both && self.sees_in(hs, event.state_after).await?)
    }

    async fn sees_in(&mut self, hs: &Homeserver, state: NodeId) -> Result<bool> {
        if let Some(sees) = self.states.get(&state) {
            return Ok(*sees);
        }
        let sees = match visibility_in(hs, &self.room, state).await? {
            HistoryVisibility::Joined => self.has_member(hs, state, &[MembershipKind::Join]).await?,
            HistoryVisibility::Invited => self.has_member(hs, state, &[MembershipKind::Join, MembershipKind::Invite]).await?,
            _ => true,
        };
        self.states.insert(state, sees);
        Ok(sees)
    }

    /// Whether one of its users has one of these memberships in a state.
    async fn has_member(&mut self, hs: &Homeserver, state: NodeId, wanted: &[MembershipKind]) -> Result<bool> {
        let users = self.users(hs).await?;
        let slice = TimeSlice::new(&*hs.host);
        for users in users.chunks(MEMBERSHIPS) {
            let keys: Vec<StateKey> = users.iter().map(|user| (StateEventType::RoomMember, user.clone())).collect();
            let positions: Vec<Position> = hs.state_get(self.room.nid, state, &keys).await?.into_iter().flatten().collect();
            let events = hs.events_at(self.room.nid, &positions).await?;
            if events.iter().flatten().any(|event| wanted.contains(&membership_of(event))) {
                return Ok(true);
            }
            slice.step().await;
        }
        Ok(false)
    }

    /// Those who have joined now come first.
    async fn users(&mut self, hs: &Homeserver) -> Result<Rc<Vec<String>>> {
        if let Some(users) = &self.users {
            return Ok(users.clone());
        }
        let mut users = Vec::new();
        let slice = TimeSlice::new(&*hs.host);
        let mut range = tables::MEMBERS.range(&self.room.nid);
        loop {
            let members = tables::MEMBERS.scan_range(hs.store(), range.clone(), Direction::Forward, PORTION).await?;
            let Some((last, _)) = members.last() else { break };
            // The first key after it.
            range.start = [&tables::MEMBERS.key(last)[..], &[0]].concat();
            let numbers: Vec<_> = members.iter().map(|((_, _, user), _)| *user).collect();
            let ids = tables::USERS.get_many(hs.store(), &numbers).await?;
            users.extend(ids.into_iter().flatten().filter(|id| id.server_name() == self.server).map(|id| id.to_string()));
            slice.step().await;
        }
        let users = Rc::new(users);
        self.users = Some(users.clone());
        Ok(users)
    }

    fn is_of(&self, user: &str) -> bool {
        user.split_once(':').is_some_and(|(_, server)| server == self.server)
    }
}

fn is_restricted(visibility: &HistoryVisibility) -> bool {
    matches!(visibility, HistoryVisibility::Joined | HistoryVisibility::Invited)
}
