//! What changed for a user between two positions, read from the one list of changes; where that would be long, from the user's rooms instead.

use super::memberships::UserRooms;
use crate::{
    error::Result,
    homeserver::Homeserver,
    position::Position,
    tables::{self, Change, MembershipKind, ReceiptKind, RoomSn, UserSn},
};
use ephapse_store::Direction;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// From how many changes on it is cheaper to look at each of the user's rooms.
const WALK_FROM: i64 = 2000;

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
    pub receipts: Which<(UserSn, ReceiptKind)>,
    /// Somebody began or stopped typing.
    pub typing: bool,
    /// Account data of the user in the room.
    pub account_data: Which<String>,
}

/// What changed for a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// In rooms that the user is in or has left meanwhile.
    pub rooms: BTreeMap<RoomSn, RoomChanges>,
    /// Account data outside of rooms.
    pub account_data: Which<String>,
    /// Whose presence, known to this user or not.
    pub presence: Which<UserSn>,
    /// Whose membership changed, and where.
    pub moved: BTreeSet<(RoomSn, UserSn)>,
}

impl Changes {
    fn take(&mut self, user: UserSn, change: &Change) {
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
            Change::Presence { user } => self.presence.add(*user),
            _ => {}
        }
    }
}

impl Homeserver {
    /// What changed for anybody after `range.start`, up to and including `range.end`; `None`: too much to be listed.
    pub(crate) async fn changes_between(&self, range: Range<Position>) -> Result<Option<Vec<(Position, Change)>>> {
        if range.end.0 - range.start.0 > WALK_FROM {
            return Ok(None);
        }
        let keys = tables::CHANGES.key(&range.start.next())..tables::CHANGES.key(&range.end.next());
        Ok(Some(tables::CHANGES.scan_range(self.store(), keys, Direction::Forward, usize::MAX).await?))
    }

    /// What of that is a user's business.
    pub(super) async fn changes_for(&self, user: UserSn, rooms: &UserRooms, since: Position, list: Option<&[(Position, Change)]>) -> Result<Changes> {
        let mut changes = match list {
            Some(list) => {
                let mut changes = Changes::default();
                list.iter().for_each(|(_, change)| changes.take(user, change));
                changes
            }
            None => self.walk(rooms, since).await?,
        };
        changes.rooms.retain(|room, changes| changes.own || rooms.get(*room).is_some_and(|membership| membership.kind == MembershipKind::Join));
        Ok(changes)
    }

    async fn walk(&self, rooms: &UserRooms, since: Position) -> Result<Changes> {
        let mut changes = Changes { account_data: Which::Unknown, presence: Which::Unknown, ..Changes::default() };
        let all = rooms.all();
        let joined: Vec<RoomSn> = all.iter().filter(|(_, membership)| membership.kind == MembershipKind::Join).map(|(room, _)| *room).collect();
        for (room, membership) in all {
            if membership.position > since {
                let changes = changes.rooms.entry(room).or_default();
                (changes.events, changes.members, changes.own) = (true, true, true);
            }
        }
        for head in self.room_heads(&joined).await?.into_iter().zip(joined) {
            let (head, room) = head;
            let changes = changes.rooms.entry(room).or_default();
            changes.events |= head.newest > since;
            // Between two states everybody may have come and gone, the user too.
            changes.members |= head.newest_state > since;
            changes.own |= head.newest_state > since;
            changes.receipts = Which::Unknown;
            changes.account_data = Which::Unknown;
            changes.typing = !self.sync.typing.in_room(room).is_empty();
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_receipts_of_others_are_nobodys_business() {
        let mut changes = Changes::default();
        let kind = |private| ReceiptKind { private, thread: None };
        for (user, private) in [(1, true), (1, false), (2, true), (2, false)] {
            changes.take(1, &Change::Receipt { room: 5, user, kind: kind(private) });
        }
        let expected = BTreeSet::from([(1, kind(true)), (1, kind(false)), (2, kind(false))]);
        assert_eq!(changes.rooms[&5].receipts, Which::These(expected));
    }

    #[test]
    fn account_data_of_others_is_nobodys_business() {
        let mut changes = Changes::default();
        for (user, room) in [(1, 0), (2, 0), (1, 5), (2, 6)] {
            changes.take(1, &Change::AccountData { user, room, kind: "t".to_owned() });
        }
        assert_eq!(changes.account_data, Which::These(BTreeSet::from(["t".to_owned()])));
        assert_eq!(changes.rooms.keys().copied().collect::<Vec<_>>(), [5]);
    }
}
