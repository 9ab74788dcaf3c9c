//! Whose devices a user has to look at again (Client-Server API, Tracking the device list for a
//! user).
//!
//! Changed are those who share a room and whose keys changed, those who share a room since, and
//! those in a room that is encrypted since. Left are those with whom no room is shared any more, or
//! no encrypted one. More than the specification asks for is told: it speaks of encrypted rooms
//! only, but allows what keeps the rules simple.

use crate::{
    damaged::LeaveOut,
    homeserver::Homeserver,
    position::Position,
    room::{self, NodeId, membership_of},
    sync::Listed,
    tables::{self, Change, Membership, MembershipKind, RoomHead, RoomNid, UserNid},
    time_slice::TimeSlice,
};
use ephapse_events::Inserted;
use ephapse_store::Direction;
use ruma::{OwnedUserId, UserId, events::StateEventType};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What fails are reads, of the store and of rooms.
type Result<T> = std::result::Result<T, room::Error>;

/// Whoever joins a room without encryption is told of its members only when it is no larger: their
/// devices matter if it is ever encrypted, and clients ask for all of them then.
const SMALL: usize = 200;

/// Members of a room that are read at once.
const PAGE: usize = 1000;

/// Whose devices a user has to look at again.
#[derive(Default)]
pub struct DeviceLists {
    /// Those of users who changed, or who share a room since or are invited to one.
    pub changed: Vec<OwnedUserId>,
    /// Those that do not matter any more.
    pub left: Vec<OwnedUserId>,
}

/// What a user has to know of others' devices after `since`, of which `listed` is what the list
/// says.
pub async fn device_lists(hs: &Homeserver, user: UserNid, since: Position, listed: &Listed) -> Result<DeviceLists> {
    let mut found = Found::default();
    found.add(user, &listed.changes);
    found.add_encrypted(hs, user, since).await?;
    if !listed.complete {
        found.add_members(hs, user, since).await?;
    }
    found.judge(hs, user, since).await
}

/// What the changes of a time say of memberships and keys.
#[derive(Default)]
struct Found {
    /// Whose keys changed.
    keys: BTreeSet<UserNid>,
    /// Whose keys the user has signed; the user, who has a new key to sign with.
    signed: BTreeSet<UserNid>,
    /// Whose membership changed in which room, and what it was before.
    members: BTreeMap<(RoomNid, UserNid), Before>,
    /// Rooms whose state changed without an event.
    reset: BTreeSet<RoomNid>,
    /// Rooms where something happened.
    active: BTreeSet<RoomNid>,
    /// Rooms of the user that were not encrypted before.
    encrypted: BTreeSet<RoomNid>,
}

/// What a membership was before it changed.
#[derive(Clone, Copy)]
enum Before {
    /// What the event at this position replaced: the first that changed it.
    First(Position),
    /// What the event at this position says.
    Was(Option<Position>),
}

impl Found {
    fn add(&mut self, user: UserNid, changes: &[(Position, Change)]) {
        for (position, change) in changes {
            match change {
                Change::DeviceList { user } => {
                    self.keys.insert(*user);
                }
                Change::KeySignature { by, of } if *by == user => {
                    self.signed.insert(*of);
                }
                Change::Event { room, member: Some(member) } => {
                    self.members.entry((*room, *member)).or_insert(Before::First(*position));
                }
                Change::Event { room, member: None } => {
                    self.active.insert(*room);
                }
                Change::StateReset { room } => {
                    self.reset.insert(*room);
                }
                _ => {}
            }
        }
    }

    /// Adds the rooms of the user that are encrypted since a position.
    async fn add_encrypted(&mut self, hs: &Homeserver, user: UserNid, since: Position) -> Result<()> {
        let mine = hs.user_rooms(user).await?;
        let is_in = |room: &&RoomNid| mine.get(**room).is_some_and(|membership| membership.kind == MembershipKind::Join);
        let rooms: Vec<RoomNid> = self.active.iter().filter(is_in).copied().collect();
        for (room, head) in rooms.iter().zip(hs.room_heads(&rooms).await?) {
            // Most of what happens in rooms does not change their state; and the room may have been
            // forgotten by everybody meanwhile.
            let Some(head) = head.filter(|head| head.newest_state > since) else { continue };
            // Where that cannot be read, rather one list too many than one too few.
            if became_encrypted(hs, *room, &head, since).await.leave_out()?.unwrap_or(true) {
                self.encrypted.insert(*room);
            }
        }
        Ok(())
    }

    /// Adds the members who changed since a position, by the states of the user's rooms then and
    /// now.
    async fn add_members(&mut self, hs: &Homeserver, user: UserNid, since: Position) -> Result<()> {
        let rooms = hs.user_rooms(user).await?.all().into_iter();
        let was_there = rooms.filter(|(_, membership)| membership.kind == MembershipKind::Join || membership.position > since);
        let rooms: Vec<RoomNid> = was_there.map(|(room, _)| room).collect();
        let heads = tables::ROOM_HEADS.get_many(hs.store(), &rooms).await?;
        let slice = TimeSlice::new(&*hs.host);
        for (room, head) in rooms.into_iter().zip(heads) {
            // The room may have been forgotten by everybody meanwhile.
            let Some(head) = head.filter(|head| head.newest_state > since) else { continue };
            let before = match hs.room_state_at(room, &head, since).await.leave_out()? {
                Some(before) => hs.state_diff(room, before, NodeId(head.state)).await.leave_out()?,
                None => None,
            };
            for difference in before.into_iter().flatten() {
                if difference.key.0 == StateEventType::RoomEncryption && difference.key.1.is_empty() && difference.before.is_none() {
                    self.encrypted.insert(room);
                }
                let (StateEventType::RoomMember, member) = difference.key else { continue };
                let Ok(member) = UserId::parse(member) else { continue };
                if let Some(member) = hs.find_user(&member).await? {
                    self.members.insert((room, member), Before::Was(difference.before));
                }
            }
            slice.end().await;
        }
        Ok(())
    }

    async fn judge(self, hs: &Homeserver, user: UserNid, since: Position) -> Result<DeviceLists> {
        if self.keys.is_empty() && self.signed.is_empty() && self.members.is_empty() && self.reset.is_empty() && self.encrypted.is_empty() {
            return Ok(DeviceLists::default());
        }
        let rooms = hs.user_rooms(user).await?.all().into_iter();
        let mine = rooms.filter(|(_, membership)| membership.kind == MembershipKind::Join).map(|(room, _)| room).inserted();
        let mut judge = Judge { hs, mine, encrypted: HashMap::new(), slice: TimeSlice::new(&*hs.host) };
        let mut changed = self.signed.clone();
        for other in &self.keys {
            if *other == user || !judge.shared_with(*other).await?.is_empty() {
                changed.insert(*other);
            }
        }
        let mut has_come = false;
        // With whom the user parted, and in which room.
        let mut parted: BTreeMap<UserNid, BTreeSet<RoomNid>> = BTreeMap::new();
        for ((room, member), before) in &self.members {
            let i_am_in = judge.mine.contains(room);
            if *member != user && !i_am_in && !self.members.contains_key(&(*room, user)) {
                continue;
            }
            judge.slice.step().await;
            let was_in = was_joined(hs, *room, *before).await.leave_out()?.unwrap_or(true);
            let is_in = is_joined(hs, *room, *member).await.leave_out()?.unwrap_or(false);
            match (was_in, is_in) {
                (false, true) if *member == user => {
                    changed.extend(judge.members_to_know(*room).await?);
                    has_come = true;
                }
                (true, false) if *member == user => {
                    for other in judge.members(*room, MembershipKind::Join, usize::MAX).await? {
                        parted.entry(other).or_default().insert(*room);
                    }
                }
                (false, true) if i_am_in => {
                    changed.insert(*member);
                }
                (true, false) => {
                    parted.entry(*member).or_default().insert(*room);
                }
                // Who left and came back may have changed meanwhile without this server being told.
                (true, true) if *member == user && judge.came_back(*room, user, since).await.leave_out()?.unwrap_or(true) => {
                    changed.extend(judge.members_to_know(*room).await?);
                }
                (true, true)
                    if i_am_in && !judge.is_local(*member).await? && judge.came_back(*room, *member, since).await.leave_out()?.unwrap_or(true) =>
                {
                    changed.insert(*member);
                }
                // Messages are encrypted for those too who are only invited.
                (false, false) if *member != user && i_am_in && judge.is_expected(*room, *member).await.leave_out()?.unwrap_or(true) => {
                    changed.insert(*member);
                }
                _ => {}
            }
        }
        for room in &self.encrypted {
            if judge.mine.contains(room) {
                changed.extend(judge.members_to_know(*room).await?);
            }
        }
        for room in &self.reset {
            if !judge.mine.contains(room) {
                continue;
            }
            changed.extend(judge.members_to_know(*room).await?);
            for kind in [MembershipKind::Leave, MembershipKind::Ban] {
                for other in judge.members(*room, kind, usize::MAX).await? {
                    parted.entry(other).or_default().insert(*room);
                }
            }
        }
        // Who has come has to be known there with all their devices: as Synapse, which names the
        // user among the members.
        changed.retain(|other| *other != user || has_come || self.keys.contains(&user) || self.signed.contains(&user));
        let mut left = BTreeSet::new();
        for (other, rooms) in parted.into_iter().filter(|(other, _)| *other != user && !changed.contains(other)) {
            if judge.has_left(other, &rooms).await? {
                left.insert(other);
            }
        }
        Ok(DeviceLists { changed: judge.names(changed).await?, left: judge.names(left).await? })
    }
}

/// One judgement over many users, in turns.
struct Judge<'a> {
    hs: &'a Homeserver,
    /// The rooms that the asking user is in.
    mine: BTreeSet<RoomNid>,
    /// Which rooms are encrypted, as far as that was asked.
    encrypted: HashMap<RoomNid, bool>,
    slice: TimeSlice<'a>,
}

impl Judge<'_> {
    /// The rooms that both are in. They are looked up one user after another: memory is for the
    /// rooms of those who sync.
    async fn shared_with(&mut self, other: UserNid) -> Result<Vec<RoomNid>> {
        self.slice.step().await;
        let store = self.hs.store();
        let is_in = |membership: &Membership| membership.kind == MembershipKind::Join;
        // Who is in fewer rooms than the asking user is named by those, and who is in more, by the
        // asking user's.
        let enough = self.mine.len() + 1;
        let theirs = tables::MEMBERSHIPS.scan(store, &other, Direction::Forward, enough).await?;
        if theirs.len() < enough {
            let both = theirs.into_iter().filter(|((_, room), membership)| is_in(membership) && self.mine.contains(room));
            return Ok(both.map(|((_, room), _)| room).collect());
        }
        let places: Vec<_> = self.mine.iter().map(|room| (other, *room)).collect();
        let found = tables::MEMBERSHIPS.get_many(store, &places).await?;
        let both = places.into_iter().zip(found).filter(|(_, membership)| membership.as_ref().is_some_and(is_in));
        Ok(both.map(|((_, room), _)| room).collect())
    }

    /// Whether those who parted in `rooms` share no room any more, or no encrypted one, although
    /// one of `rooms` is encrypted.
    async fn has_left(&mut self, other: UserNid, rooms: &BTreeSet<RoomNid>) -> Result<bool> {
        let shared = self.shared_with(other).await?;
        for room in &shared {
            if self.is_encrypted(*room).await? {
                return Ok(false);
            }
        }
        if shared.is_empty() {
            return Ok(true);
        }
        for room in rooms {
            if self.is_encrypted(*room).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether somebody who is in a room left it after a position.
    async fn came_back(&self, room: RoomNid, user: UserNid, since: Position) -> Result<bool> {
        let membership = tables::MEMBERSHIPS.get(self.hs.store(), &(user, room)).await?;
        Ok(membership.is_some_and(|membership| membership.last_left > Some(since)))
    }

    /// Whether somebody is invited to a room, or wants to come.
    async fn is_expected(&self, room: RoomNid, user: UserNid) -> Result<bool> {
        let membership = tables::MEMBERSHIPS.get(self.hs.store(), &(user, room)).await?;
        Ok(membership.is_some_and(|membership| matches!(membership.kind, MembershipKind::Invite | MembershipKind::Knock)))
    }

    async fn is_local(&self, user: UserNid) -> Result<bool> {
        Ok(self.hs.user_id(user).await.leave_out()?.is_none_or(|user| self.hs.is_local(&user)))
    }

    async fn is_encrypted(&mut self, room: RoomNid) -> Result<bool> {
        if let Some(known) = self.encrypted.get(&room) {
            return Ok(*known);
        }
        // The room may have been forgotten by everybody meanwhile.
        let is_encrypted = is_encrypted(self.hs, room).await.leave_out()?.unwrap_or(true);
        self.encrypted.insert(room, is_encrypted);
        Ok(is_encrypted)
    }

    /// The members of a room that somebody has joined, if their devices matter there.
    async fn members_to_know(&mut self, room: RoomNid) -> Result<Vec<UserNid>> {
        let limit = if self.is_encrypted(room).await? { usize::MAX } else { SMALL + 1 };
        let found = self.members(room, MembershipKind::Join, limit).await?;
        Ok(if limit != usize::MAX && found.len() > SMALL { Vec::new() } else { found })
    }

    async fn members(&mut self, room: RoomNid, kind: MembershipKind, limit: usize) -> Result<Vec<UserNid>> {
        let mut range = tables::MEMBERS.range(&(room, kind as u8));
        let mut members = Vec::new();
        while members.len() < limit {
            let page = (limit - members.len()).min(PAGE);
            let found = tables::MEMBERS.scan_range(self.hs.store(), range.clone(), Direction::Forward, page).await?;
            members.extend(found.iter().map(|((_, _, member), _)| *member));
            let Some((last, _)) = found.last().filter(|_| found.len() == page) else { break };
            range.start = tables::MEMBERS.key(last);
            // The first key after it.
            range.start.push(0);
            self.slice.step().await;
        }
        Ok(members)
    }

    async fn names(&mut self, users: BTreeSet<UserNid>) -> Result<Vec<OwnedUserId>> {
        let mut names = Vec::with_capacity(users.len());
        for user in users {
            names.extend(self.hs.user_id(user).await.leave_out()?);
            self.slice.check().await;
        }
        Ok(names)
    }
}

async fn is_encrypted(hs: &Homeserver, room: RoomNid) -> Result<bool> {
    let Some(head) = tables::ROOM_HEADS.get(hs.store(), &room).await? else { return Ok(false) };
    let place = (StateEventType::RoomEncryption, String::new());
    Ok(hs.state_get(room, NodeId(head.state), &[place]).await?.first().copied().flatten().is_some())
}

/// Whether a room is encrypted since a position.
async fn became_encrypted(hs: &Homeserver, room: RoomNid, head: &RoomHead, since: Position) -> Result<bool> {
    let place = (StateEventType::RoomEncryption, String::new());
    let Some(encryption) = hs.state_event(room, NodeId(head.state), place.clone()).await? else { return Ok(false) };
    if encryption.position <= since {
        return Ok(false);
    }
    // It may have been configured anew since it was encrypted.
    let before = hs.room_state_at(room, head, since).await?;
    Ok(hs.state_event(room, before, place).await?.is_none())
}

async fn was_joined(hs: &Homeserver, room: RoomNid, before: Before) -> Result<bool> {
    let before = match before {
        Before::Was(before) => before,
        // The event may be gone with its room.
        Before::First(first) => match hs.events_at(room, &[first]).await?.into_iter().next().flatten() {
            Some(first) => first.replaces,
            None => return Ok(true),
        },
    };
    let Some(before) = before else { return Ok(false) };
    let before = hs.events_at(room, &[before]).await?.into_iter().next().flatten();
    Ok(before.is_none_or(|before| membership_of(&before) == MembershipKind::Join))
}

async fn is_joined(hs: &Homeserver, room: RoomNid, user: UserNid) -> Result<bool> {
    Ok(tables::MEMBERSHIPS.get(hs.store(), &(user, room)).await?.is_some_and(|membership| membership.kind == MembershipKind::Join))
}
