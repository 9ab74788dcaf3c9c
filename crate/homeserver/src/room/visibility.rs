//! What somebody sees of a timeline, judged at the event by one function, everywhere: by the
//! history's visibility (Client-Server API, "Room History Visibility"), and nothing of those whom
//! the user ignores ("Ignoring Users"), but for state events, which make the room what it is.

use super::{error::Result, event::Event, rooms::RoomInfo, state_tree::NodeId};
use crate::{
    homeserver::Homeserver,
    position::Position,
    requester::Requester,
    tables::{self, Membership, MembershipKind},
    time_slice::TimeSlice,
};
use ephapse_events::StateKey;
use ruma::{
    OwnedUserId,
    events::{StateEventType, TimelineEventType, room::history_visibility::HistoryVisibility},
};
use serde::Deserialize;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    rc::Rc,
};

/// Whether a user sees an event, from the history visibility at it, the user's membership at it,
/// and whether the user was joined at any point after it.
pub fn is_visible(visibility: &HistoryVisibility, membership: Option<MembershipKind>, joined_after: bool) -> bool {
    match (visibility, membership) {
        (HistoryVisibility::WorldReadable, _) | (_, Some(MembershipKind::Join)) => true,
        (HistoryVisibility::Invited, Some(MembershipKind::Invite)) => true,
        (HistoryVisibility::Joined | HistoryVisibility::Invited, _) => false,
        // "shared" is the default, also for values nobody knows.
        _ => joined_after,
    }
}

/// What visibility depends on in one state.
#[derive(Clone, Debug)]
struct AtState {
    visibility: HistoryVisibility,
    membership: Option<MembershipKind>,
}

/// Somebody's eyes on one room.
pub struct Viewer {
    room: Rc<RoomInfo>,
    user: Option<OwnedUserId>,
    /// The user's part in the room now.
    membership: Option<Membership>,
    /// Whom the user ignores.
    ignored: Rc<BTreeSet<OwnedUserId>>,
    states: HashMap<NodeId, AtState>,
}

impl Viewer {
    /// The eyes of who asks.
    pub async fn new(hs: &Homeserver, room: &Rc<RoomInfo>, requester: Requester<'_>) -> Result<Self> {
        match requester {
            Requester::User(session) | Requester::Guest(session) => {
                let membership = tables::MEMBERSHIPS.get(hs.store(), &(session.user, room.nid)).await?;
                Ok(Self::of(room, session.user_id.clone(), membership, hs.ignored_by(session.user).await?))
            }
            // It sees what everybody sees: what else a server may see follows from its members.
            Requester::Server(_) => Ok(Self { room: room.clone(), user: None, membership: None, ignored: Rc::default(), states: HashMap::new() }),
        }
    }

    /// The eyes of a user whose part in the room has been read already, and whom they ignore. Who
    /// has forgotten it "will no longer be able to retrieve history", and sees what everybody sees.
    pub fn of(room: &Rc<RoomInfo>, user: OwnedUserId, membership: Option<Membership>, ignored: Rc<BTreeSet<OwnedUserId>>) -> Self {
        let forgotten = membership.as_ref().is_some_and(|membership| membership.forgotten);
        let (user, membership) = ((!forgotten).then_some(user), membership.filter(|_| !forgotten));
        Self { room: room.clone(), user, membership, ignored, states: HashMap::new() }
    }

    /// Those of `events` that the user sees, in their order.
    pub async fn visible(&mut self, hs: &Homeserver, events: Vec<Rc<Event>>) -> Result<Vec<Rc<Event>>> {
        let states = events.iter().flat_map(|event| self.states_of(event)).collect();
        self.read_states(hs, states).await?;
        Ok(events.into_iter().filter(|event| self.judge(event)).collect())
    }

    /// Whether the user sees an event.
    pub async fn sees(&mut self, hs: &Homeserver, event: &Rc<Event>) -> Result<bool> {
        Ok(!self.visible(hs, vec![event.clone()]).await?.is_empty())
    }

    /// Whether the user sees what was there at a position, in the state of then: what an event
    /// there would be judged by.
    pub async fn sees_state(&mut self, hs: &Homeserver, state: NodeId, position: Position) -> Result<bool> {
        self.read_states(hs, HashSet::from([state])).await?;
        let joined_after = self.joined_after(position);
        Ok(self.states.get(&state).is_some_and(|at| is_visible(&at.visibility, at.membership, joined_after)))
    }

    /// The user's membership at an event that was judged, "including any changes caused by the
    /// event", and "leave" before there was any; `None` for an event that was not, and where the
    /// user is nobody in particular.
    pub fn membership_at(&self, event: &Event) -> Option<MembershipKind> {
        self.user.as_ref()?;
        if self.is_own(event) {
            return Some(super::append::membership_of(event));
        }
        self.states.get(&event.state_before).map(|at| at.membership.unwrap_or(MembershipKind::Leave))
    }

    /// Whether the user was in the room at an event, before it or by it.
    pub(super) async fn was_joined(&mut self, hs: &Homeserver, event: &Rc<Event>) -> Result<bool> {
        self.read_states(hs, self.states_of(event).into_iter().collect()).await?;
        let joined = |state: &NodeId| self.states.get(state).is_some_and(|at| at.membership == Some(MembershipKind::Join));
        Ok(self.states_of(event).iter().any(joined))
    }

    fn is_own(&self, event: &Event) -> bool {
        event.pdu.event_type == TimelineEventType::RoomMember && event.pdu.state_key.as_deref() == self.user.as_deref().map(|user| user.as_str())
    }

    fn judge(&self, event: &Event) -> bool {
        event.is_shown()
            && !self.ignores(event)
            && self
                .states_of(event)
                .iter()
                .filter_map(|state| self.states.get(state))
                .any(|at| is_visible(&at.visibility, at.membership, self.joined_after(event.position)))
    }

    fn ignores(&self, event: &Event) -> bool {
        event.pdu.state_key.is_none() && self.ignored.contains(&event.pdu.sender)
    }

    fn joined_after(&self, position: Position) -> bool {
        self.membership
            .as_ref()
            .is_some_and(|membership| membership.kind == MembershipKind::Join || membership.last_left.is_some_and(|left| left > position))
    }

    /// The state before it; a change of the visibility or of the user's own membership is judged on
    /// both sides, and the kinder one counts.
    fn states_of(&self, event: &Event) -> Vec<NodeId> {
        if self.is_own(event) || event.pdu.event_type == TimelineEventType::RoomHistoryVisibility {
            vec![event.state_before, event.state_after]
        } else {
            vec![event.state_before]
        }
    }

    async fn read_states(&mut self, hs: &Homeserver, mut states: HashSet<NodeId>) -> Result<()> {
        states.retain(|state| !self.states.contains_key(state));
        let slice = TimeSlice::new(&*hs.host);
        for state in states {
            let mut keys: Vec<StateKey> = vec![(StateEventType::RoomHistoryVisibility, String::new())];
            keys.extend(self.user.as_ref().map(|user| (StateEventType::RoomMember, user.to_string())));
            let found = hs.state_get(self.room.nid, state, &keys).await?;
            let positions: Vec<Position> = found.iter().flatten().copied().collect();
            let events = hs.events_at(self.room.nid, &positions).await?;
            let at = |position: Option<Position>| events.iter().flatten().find(|event| Some(event.position) == position);
            let visibility = match found.first().copied().flatten() {
                None => HistoryVisibility::Shared,
                // What it says cannot be read: at least those who were there have seen the rest.
                position => at(position).map_or(HistoryVisibility::Joined, |event| visibility_of(event)),
            };
            let membership = found.get(1).and_then(|position| at(*position)).map(|event| super::append::membership_of(event));
            self.states.insert(state, AtState { visibility, membership });
            slice.step().await;
        }
        Ok(())
    }
}

/// Who sees what happens in a state.
pub(super) async fn visibility_in(hs: &Homeserver, room: &RoomInfo, state: NodeId) -> Result<HistoryVisibility> {
    let key = (StateEventType::RoomHistoryVisibility, String::new());
    let Some(position) = hs.state_get(room.nid, state, &[key]).await?.first().copied().flatten() else { return Ok(HistoryVisibility::Shared) };
    let event = hs.events_at(room.nid, &[position]).await?.into_iter().next().flatten();
    // What it says cannot be read: at least those who were there have seen the rest.
    Ok(event.map_or(HistoryVisibility::Joined, |event| visibility_of(&event)))
}

fn visibility_of(event: &Event) -> HistoryVisibility {
    #[derive(Deserialize)]
    struct Content {
        history_visibility: HistoryVisibility,
    }
    serde_json::from_str::<Content>(event.pdu.content.get()).map_or(HistoryVisibility::Shared, |content| content.history_visibility)
}

#[cfg(test)]
mod tests;
