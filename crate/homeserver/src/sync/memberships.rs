//! Each syncing user's rooms, in memory: which changes concern whom is asked at every change and
//! every sync.
//!
//! Bounded by the number of rooms held in all. What changes is marked, and read again when it is
//! next needed.

use crate::{
    homeserver::Homeserver,
    tables::{self, Change, Membership, MembershipKind, RoomNid, UserNid},
};
use ephapse_store::{Direction, StoreError};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    rc::{Rc, Weak},
};

/// How many memberships are held in all, beside those of users who are waited for.
const MAX_MEMBERSHIPS: usize = 50_000;
/// How many of a user's rooms are asked for at once.
const BATCH: usize = 64;

/// So few users' rooms need no clearing up.
const MIN_USERS: usize = 64;

/// One user's rooms.
#[derive(Default)]
pub struct UserRooms {
    rooms: RefCell<HashMap<RoomNid, Membership>>,
    /// What changed since it was read.
    stale: RefCell<BTreeMap<RoomNid, u64>>,
    complete: Cell<bool>,
    /// Its place among those that are kept, and what it counts there.
    held: Cell<(u64, usize)>,
}

impl UserRooms {
    /// The user's membership in a room, if there is one.
    pub fn get(&self, room: RoomNid) -> Option<Membership> {
        self.rooms.borrow().get(&room).cloned()
    }

    /// Every room the user has or had a membership in.
    pub fn all(&self) -> Vec<(RoomNid, Membership)> {
        let mut all: Vec<_> = self.rooms.borrow().iter().map(|(room, membership)| (*room, membership.clone())).collect();
        all.sort_unstable_by_key(|(room, _)| *room);
        all
    }

    /// Whether the user is joined to a room, as far as it was read.
    pub fn is_joined(&self, room: RoomNid) -> bool {
        self.rooms.borrow().get(&room).is_some_and(|membership| membership.kind == MembershipKind::Join)
    }

    /// The rooms the user is joined to, in order.
    pub fn joined(&self) -> Vec<RoomNid> {
        let rooms = self.rooms.borrow();
        let mut joined: Vec<RoomNid> =
            rooms.iter().filter(|(_, membership)| membership.kind == MembershipKind::Join).map(|(room, _)| *room).collect();
        joined.sort_unstable();
        joined
    }

    /// Whether the user is joined to one of some rooms, which are in order.
    fn is_joined_to_one_of(&self, rooms: &[RoomNid]) -> bool {
        if rooms.len() <= self.rooms.borrow().len() {
            return rooms.iter().any(|room| self.is_joined(*room));
        }
        let own = self.rooms.borrow();
        own.iter().any(|(room, membership)| membership.kind == MembershipKind::Join && rooms.binary_search(room).is_ok())
    }

    /// Whether there is a room that both users are joined to.
    pub fn shares(&self, other: &Self) -> bool {
        let (few, many) = if self.rooms.borrow().len() <= other.rooms.borrow().len() { (self, other) } else { (other, self) };
        few.rooms.borrow().iter().any(|(room, membership)| membership.kind == MembershipKind::Join && many.is_joined(*room))
    }

    /// Whether the users share a room, or may have come to do so just now.
    fn may_share(&self, other: &Self) -> bool {
        let may = |one: &Self, other: &Self| !one.complete.get() || one.stale.borrow().keys().any(|room| other.may_be_joined(*room));
        self.shares(other) || may(self, other) || may(other, self)
    }

    /// Whether the user is joined to a room, or may have become so just now.
    pub fn may_be_joined(&self, room: RoomNid) -> bool {
        !self.complete.get()
            || self.stale.borrow().contains_key(&room)
            || self.get(room).is_some_and(|membership| membership.kind == MembershipKind::Join)
    }
}

/// The users' rooms.
#[derive(Default)]
pub struct Memberships {
    /// By when they were last asked for.
    held: RefCell<BTreeMap<u64, Rc<UserRooms>>>,
    /// The counts of all that are held.
    total: Cell<usize>,
    known: RefCell<HashMap<UserNid, Weak<UserRooms>>>,
    /// How many of `known` were in use when the others were last dropped.
    in_use: Cell<usize>,
    /// Counts marks and places.
    marks: Cell<u64>,
}

impl Memberships {
    /// Bytes that those take that are held, roughly.
    pub fn cached_bytes(&self) -> usize {
        let each = size_of::<(RoomNid, Membership)>();
        self.held.borrow().values().map(|rooms| size_of::<UserRooms>() + each * rooms.rooms.borrow().capacity()).sum()
    }

    /// Marks what has to be read again.
    pub fn changed(&self, changes: &[Change]) {
        let known = self.known.borrow();
        for change in changes {
            let (user, room) = match change {
                Change::Event { room, member: Some(user) } | Change::Forgotten { user, room } => (user, room),
                Change::StateReset { room } => {
                    for rooms in known.values().filter_map(Weak::upgrade) {
                        self.mark(&rooms, *room);
                    }
                    continue;
                }
                _ => continue,
            };
            if let Some(rooms) = known.get(user).and_then(Weak::upgrade) {
                self.mark(&rooms, *room);
            }
        }
    }

    fn mark(&self, rooms: &UserRooms, room: RoomNid) {
        rooms.stale.borrow_mut().insert(room, self.next_mark());
    }

    fn next_mark(&self) -> u64 {
        self.marks.set(self.marks.get() + 1);
        self.marks.get()
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.held.borrow_mut().clear();
        self.total.set(0);
        for rooms in self.known.borrow().values().filter_map(Weak::upgrade) {
            rooms.complete.set(false);
        }
    }

    fn of(&self, user: UserNid) -> Rc<UserRooms> {
        let mut known = self.known.borrow_mut();
        if let Some(rooms) = known.get(&user).and_then(Weak::upgrade) {
            return rooms;
        }
        if known.len() >= 2 * self.in_use.get().max(MIN_USERS) {
            known.retain(|_, rooms| rooms.strong_count() > 0);
            self.in_use.set(known.len());
        }
        let rooms = Rc::new(UserRooms::default());
        known.insert(user, Rc::downgrade(&rooms));
        rooms
    }

    /// Whether a user shares a room with the one whose rooms these are, as far as memory can tell:
    /// `true` where it cannot.
    pub fn may_share(&self, rooms: &UserRooms, user: UserNid) -> bool {
        self.known.borrow().get(&user).and_then(Weak::upgrade).is_none_or(|other| rooms.may_share(&other))
    }

    /// A user's rooms, if they are in memory and nothing of them has changed.
    fn at_hand(&self, user: UserNid) -> Option<Rc<UserRooms>> {
        let rooms = self.known.borrow().get(&user).and_then(Weak::upgrade)?;
        (rooms.complete.get() && rooms.stale.borrow().is_empty()).then_some(rooms)
    }

    /// Keeps `rooms` as those last asked for, and drops the ones that were not for longest when
    /// they are too many.
    fn hold(&self, rooms: &Rc<UserRooms>) {
        let mut held = self.held.borrow_mut();
        let (place, counted) = rooms.held.get();
        let mut total = self.total.get();
        if held.remove(&place).is_some() {
            total -= counted;
        }
        let (place, count) = (self.next_mark(), 1 + rooms.rooms.borrow().len());
        rooms.held.set((place, count));
        held.insert(place, rooms.clone());
        total += count;
        while total > MAX_MEMBERSHIPS && held.len() > 1 {
            total -= held.pop_first().map_or(0, |(_, dropped)| dropped.held.get().1);
        }
        self.total.set(total);
    }
}

impl Homeserver {
    /// Whether a user is joined to one of some rooms, which are in order. What is read grows with
    /// these, however many rooms the user has.
    pub(crate) async fn is_joined_to_one_of(&self, user: UserNid, rooms: &[RoomNid]) -> Result<bool, StoreError> {
        if let Some(theirs) = self.sync.memberships.at_hand(user) {
            return Ok(theirs.is_joined_to_one_of(rooms));
        }
        if rooms.len() > BATCH {
            // Most users have few rooms.
            let theirs = tables::MEMBERSHIPS.scan(self.store(), &user, Direction::Forward, BATCH).await?;
            if theirs.len() < BATCH {
                let mut joined = theirs.iter().filter(|(_, membership)| membership.kind == MembershipKind::Join);
                return Ok(joined.any(|((_, room), _)| rooms.binary_search(room).is_ok()));
            }
        }
        for rooms in rooms.chunks(BATCH) {
            let keys: Vec<_> = rooms.iter().map(|room| (user, *room)).collect();
            let found = tables::MEMBERSHIPS.get_many(self.store(), &keys).await?;
            if found.into_iter().flatten().any(|membership| membership.kind == MembershipKind::Join) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A user's rooms, as they are now.
    pub(crate) async fn user_rooms(&self, user: UserNid) -> Result<Rc<UserRooms>, StoreError> {
        let rooms = self.sync.memberships.of(user);
        while !rooms.complete.get() {
            let generation = self.store().generation();
            let found = tables::MEMBERSHIPS.scan(self.store(), &user, Direction::Forward, usize::MAX).await?;
            // What changed while this read is marked, and read again below.
            if self.store().generation() == generation {
                *rooms.rooms.borrow_mut() = found.into_iter().map(|((_, room), membership)| (room, membership)).collect();
                rooms.complete.set(true);
            }
        }
        loop {
            let stale: Vec<(RoomNid, u64)> = rooms.stale.borrow().iter().map(|(room, mark)| (*room, *mark)).collect();
            if stale.is_empty() {
                self.sync.memberships.hold(&rooms);
                return Ok(rooms);
            }
            let keys: Vec<_> = stale.iter().map(|(room, _)| (user, *room)).collect();
            let found = tables::MEMBERSHIPS.get_many(self.store(), &keys).await?;
            let mut map = rooms.rooms.borrow_mut();
            let mut marks = rooms.stale.borrow_mut();
            for ((room, mark), membership) in stale.into_iter().zip(found) {
                // Marked again while this read: what was found may be the older one.
                if marks.get(&room) != Some(&mark) {
                    continue;
                }
                marks.remove(&room);
                match membership {
                    Some(membership) => map.insert(room, membership),
                    None => map.remove(&room),
                };
            }
        }
    }
}
