//! What changed for a user between two positions, read from the one list of changes; where that
//! would be long or is not listed any more, from the user's rooms instead.

use super::{forget::outliving, memberships::UserRooms};
use crate::{
    error::Result,
    homeserver::Homeserver,
    position::Position,
    room::NodeId,
    tables::{self, Change, Membership, MembershipKind, ReceiptKind, RoomNid, UserNid},
    time_slice::TimeSlice,
};
use ephapse_store::{Direction, StoreError};
use ruma::{OwnedUserId, events::StateEventType};
use std::collections::{BTreeMap, BTreeSet};

/// From how many changes on it is cheaper to look at each of the user's rooms.
pub(super) const MAX_CHANGES_READ: usize = 2000;
/// How many changes are read at once.
const PAGE: usize = 1000;

/// Which of many things changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which<T> {
    /// Exactly these.
    These(BTreeSet<T>),
    /// Those that say so themselves, by their position.
    Unknown,
}

impl<T> Default for Which<T> {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl<T: Ord> Which<T> {
    /// Whether it may be any at all.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::These(these) if these.is_empty())
    }

    fn add(&mut self, one: T) {
        if let Self::These(these) = self {
            these.insert(one);
        }
    }
}

/// What changed in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomChanges {
    /// Events came.
    pub events: bool,
    /// Somebody's membership changed.
    pub members: bool,
    /// The user's own membership changed.
    pub own: bool,
    /// Receipts moved.
    pub receipts: Which<(UserNid, ReceiptKind)>,
    /// Somebody began or stopped typing.
    pub typing: bool,
    /// Account data of the user in the room.
    pub account_data: Which<String>,
}

/// What changed for a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// In rooms that the user is in or has left meanwhile.
    pub rooms: BTreeMap<RoomNid, RoomChanges>,
    /// Account data outside of rooms.
    pub account_data: Which<String>,
    /// Whose presence, known to this user or not.
    pub presence: BTreeSet<UserNid>,
    /// Whose membership changed, and where.
    pub moved: BTreeSet<(RoomNid, UserNid)>,
}

/// What the list says of everybody's changes.
pub(crate) struct Listed {
    /// In order.
    pub changes: Vec<(Position, Change)>,
    /// Whether these are all; otherwise only those that nothing else tells of, and some of them may
    /// come after the end that was asked for.
    pub complete: bool,
}

impl Changes {
    fn take(&mut self, user: UserNid, change: &Change) {
        match change {
            Change::Event { room, member } => {
                self.moved.extend(member.filter(|member| *member != user).map(|member| (*room, member)));
                let room = self.rooms.entry(*room).or_default();
                room.events = true;
                room.members |= member.is_some();
                room.own |= *member == Some(user);
            }
            Change::StateReset { room } => {
                let room = self.rooms.entry(*room).or_default();
                (room.events, room.members, room.own) = (true, true, true);
            }
            Change::Receipt { room, user: whose, kind } if *whose == user || !kind.private => {
                self.rooms.entry(*room).or_default().receipts.add((*whose, kind.clone()));
            }
            Change::Typing { room, .. } => self.rooms.entry(*room).or_default().typing = true,
            Change::AccountData { user: whose, room: 0, kind } if *whose == user => self.account_data.add(kind.clone()),
            Change::AccountData { user: whose, room, kind } if *whose == user => self.rooms.entry(*room).or_default().account_data.add(kind.clone()),
            Change::Presence { user } => drop(self.presence.insert(*user)),
            // Others' own.
            Change::Receipt { .. } | Change::AccountData { .. } => {}
            // Looked up elsewhere: `keys::device_lists`, and the device's queue.
            Change::DeviceList { .. } | Change::KeySignature { .. } | Change::ToDevice { .. } => {}
            // Nobody is told of them.
            Change::Forgotten { .. } | Change::Hidden => {}
        }
    }
}

impl Homeserver {
    /// What changed for anybody after `since`, up to and including `to`.
    pub(crate) async fn changes_between(&self, since: Position, to: Position) -> Result<Listed, StoreError> {
        let is_listed = || since >= self.sync.changes_floor.get();
        if is_listed() {
            let keys = tables::CHANGES.key(&since.next())..tables::CHANGES.key(&to.next());
            let changes = tables::CHANGES.scan_range(self.store(), keys, Direction::Forward, MAX_CHANGES_READ + 1).await?;
            // The beginning may have gone while this was read.
            if changes.len() <= MAX_CHANGES_READ && is_listed() {
                return Ok(Listed { changes, complete: true });
            }
        }
        let slice = TimeSlice::new(&*self.host);
        let mut listed = Listed { changes: Vec::new(), complete: false };
        let mut from = since.next();
        loop {
            let keys = tables::CHANGES.key(&from)..tables::CHANGES.range(&()).end;
            let page = tables::CHANGES.scan_range(self.store(), keys, Direction::Forward, PAGE).await?;
            let end = page.last().filter(|_| page.len() == PAGE).map(|(position, _)| position.next());
            listed.changes.extend(page.into_iter().filter(|(_, change)| outliving(change).is_some()));
            match end {
                Some(end) => from = end,
                None => return Ok(listed),
            }
            slice.end().await;
        }
    }

    /// What changed for a user after `since`, as of `to`; `listed` is what changed for anybody.
    pub(super) async fn changes_for(&self, user: UserNid, rooms: &UserRooms, since: Position, to: Position, listed: &Listed) -> Result<Changes> {
        let mut changes = if listed.complete { Changes::default() } else { self.changes_of_rooms(user, rooms, since).await? };
        listed.changes.iter().for_each(|(_, change)| changes.take(user, change));
        // Who left a room after `to` was still in it at `to`, and no later sync tells what came
        // before.
        let may_have_been_in = |room: Membership| room.kind == MembershipKind::Join || room.position > to;
        changes.rooms.retain(|room, changes| changes.own || rooms.get(*room).is_some_and(may_have_been_in));
        Ok(changes)
    }

    /// What the list says of a room that a user is not in, but may read.
    pub(super) fn changes_in(user: UserNid, room: RoomNid, listed: &Listed) -> RoomChanges {
        let mut changes = Changes::default();
        listed.changes.iter().for_each(|(_, change)| changes.take(user, change));
        changes.rooms.remove(&room).unwrap_or_default()
    }

    /// What changed for a user after `since` by the heads of their rooms, for where the list does
    /// not reach back that far.
    async fn changes_of_rooms(&self, user: UserNid, rooms: &UserRooms, since: Position) -> Result<Changes> {
        let mut changes = Changes { account_data: Which::Unknown, ..Changes::default() };
        let own = (StateEventType::RoomMember, self.user_id(user).await?.to_string());
        let all = rooms.all();
        let joined: Vec<RoomNid> = all.iter().filter(|(_, membership)| membership.kind == MembershipKind::Join).map(|(room, _)| *room).collect();
        for (room, membership) in all {
            if membership.position > since {
                let in_room = changes.rooms.entry(room).or_default();
                (in_room.events, in_room.members, in_room.own) = (true, true, true);
                in_room.account_data = Which::Unknown;
            }
        }
        let mut moved: Vec<(RoomNid, String)> = Vec::new();
        for (head, room) in self.room_heads(&joined).await?.into_iter().zip(joined) {
            // Everybody may have left and forgotten the room meanwhile.
            let Some(head) = head else { continue };
            let in_room = changes.rooms.entry(room).or_default();
            in_room.events |= head.newest > since;
            if head.newest_state > since {
                let before = self.room_state_at(room, &head, since).await?;
                let differences = self.state_diff(room, before, NodeId(head.state)).await?;
                in_room.own |= differences.iter().any(|difference| difference.key == own);
                let members = differences.into_iter().filter(|difference| difference.key.0 == StateEventType::RoomMember);
                moved.extend(members.map(|difference| (room, difference.key.1)));
                in_room.members |= moved.last().is_some_and(|(last, _)| *last == room);
            }
            in_room.receipts = Which::Unknown;
            in_room.account_data = Which::Unknown;
        }
        for (room, member) in moved.into_iter().filter(|(_, member)| *member != own.1) {
            let Ok(member) = OwnedUserId::try_from(member) else { continue };
            changes.moved.extend(self.find_user(&member).await?.map(|member| (room, member)));
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_receipts_of_others_are_not_shown() {
        let mut changes = Changes::default();
        let kind = |private| ReceiptKind { private, thread: None };
        for (user, private) in [(1, true), (1, false), (2, true), (2, false)] {
            changes.take(1, &Change::Receipt { room: 5, user, kind: kind(private) });
        }
        let expected = BTreeSet::from([(1, kind(true)), (1, kind(false)), (2, kind(false))]);
        assert_eq!(changes.rooms[&5].receipts, Which::These(expected));
    }

    #[test]
    fn account_data_of_others_is_not_shown() {
        let mut changes = Changes::default();
        for (user, room) in [(1, 0), (2, 0), (1, 5), (2, 6)] {
            changes.take(1, &Change::AccountData { user, room, kind: "t".to_owned() });
        }
        assert_eq!(changes.account_data, Which::These(BTreeSet::from(["t".to_owned()])));
        assert_eq!(changes.rooms.keys().copied().collect::<Vec<_>>(), [5]);
    }
}
