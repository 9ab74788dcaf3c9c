//! Room ids and their numbers, and what memory keeps of rooms lately used. All of it can be dropped at any time without changing an answer.

use super::{
    event::Event,
    state_tree::{Node, NodeId},
};
use crate::{
    cache::Cache,
    position::Position,
    tables::{self, RoomHead, RoomSn},
};
use ephapse_store::{Reader, StoreError};
use ruma::{OwnedEventId, OwnedRoomId, RoomVersionId, room_version_rules::RoomVersionRules};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

/// What never changes about a room, with the rules of its version.
#[derive(Debug)]
pub struct RoomInfo {
    /// Its number on this server.
    pub sn: RoomSn,
    /// Its id.
    pub id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// The rules of that version.
    pub rules: RoomVersionRules,
}

/// Bytes of decoded events kept, at most; tree nodes may take as much again.
const CACHED_BYTES: usize = 4 << 20;
/// Bytes of heads.
const HEADS_BYTES: usize = 2 << 20;
/// Bytes of what never changes about rooms, and of the places of events; of each.
const INFOS_BYTES: usize = 1 << 20;

/// What memory holds of rooms.
pub struct Rooms {
    newest: Cell<RoomSn>,
    /// When the newest room was made here, in ms.
    newest_creation: Cell<u64>,
    pub(super) by_id: RefCell<Cache<OwnedRoomId, Rc<RoomInfo>>>,
    pub(super) by_sn: RefCell<Cache<RoomSn, Rc<RoomInfo>>>,
    pub(super) heads: RefCell<Cache<RoomSn, Rc<RoomHead>>>,
    pub(super) events: RefCell<Cache<(RoomSn, Position), Rc<Event>>>,
    pub(super) ids: RefCell<Cache<OwnedEventId, (RoomSn, Position)>>,
    pub(super) nodes: RefCell<Cache<(RoomSn, NodeId), Rc<Node>>>,
}

impl Rooms {
    pub(crate) fn new(newest: RoomSn) -> Self {
        Self {
            newest: Cell::new(newest),
            newest_creation: Cell::new(0),
            by_id: RefCell::new(Cache::new(INFOS_BYTES)),
            by_sn: RefCell::new(Cache::new(INFOS_BYTES)),
            heads: RefCell::new(Cache::new(HEADS_BYTES)),
            events: RefCell::new(Cache::new(CACHED_BYTES)),
            ids: RefCell::new(Cache::new(INFOS_BYTES)),
            nodes: RefCell::new(Cache::new(CACHED_BYTES)),
        }
    }

    pub(crate) async fn newest_stored(store: &Reader) -> Result<RoomSn, StoreError> {
        Ok(tables::ROOMS.last_key(store, &()).await?.unwrap_or(0))
    }

    /// Forgets everything in memory; new rooms go on behind the numbers given.
    pub(crate) fn forget_all(&self) {
        self.by_id.borrow_mut().clear();
        self.by_sn.borrow_mut().clear();
        self.heads.borrow_mut().clear();
        self.events.borrow_mut().clear();
        self.ids.borrow_mut().clear();
        self.nodes.borrow_mut().clear();
    }

    /// The time at which a new room is made: now, or as little later as makes it differ from every other room's.
    pub(super) fn next_creation(&self, now: u64) -> u64 {
        self.newest_creation.set(now.max(self.newest_creation.get() + 1));
        self.newest_creation.get()
    }

    /// A number for a new room.
    pub(super) fn next_sn(&self) -> RoomSn {
        self.newest.set(self.newest.get() + 1);
        self.newest.get()
    }

    pub(super) fn remember(&self, info: &Rc<RoomInfo>) {
        let weight = size_of::<RoomInfo>() + info.id.as_str().len();
        self.by_id.borrow_mut().insert(info.id.clone(), info.clone(), weight + info.id.as_str().len());
        self.by_sn.borrow_mut().insert(info.sn, info.clone(), weight);
    }

    /// Keeps a head that a writer has just made.
    pub(super) fn keep_head(&self, sn: RoomSn, head: Rc<RoomHead>) {
        let weight = size_of::<RoomHead>() + head.extremities.iter().map(|of| size_of_val(of) + of.event_id.as_str().len()).sum::<usize>();
        self.heads.borrow_mut().insert(sn, head, weight);
    }

    /// Keeps a head that was read, unless a writer or another reader has put a newer one there meanwhile; the newest.
    pub(super) fn found_head(&self, sn: RoomSn, head: Rc<RoomHead>) -> Rc<RoomHead> {
        if let Some(newer) = self.heads.borrow_mut().get(&sn) {
            return newer;
        }
        self.keep_head(sn, head.clone());
        head
    }

    /// Keeps where an event is.
    pub(super) fn keep_place(&self, id: OwnedEventId, place: (RoomSn, Position)) {
        let weight = id.as_str().len();
        self.ids.borrow_mut().insert(id, place, weight);
    }

    /// Forgets a room that is no more. (Its events are found by number, which is not given again.)
    pub(super) fn forget(&self, room: &RoomInfo) {
        self.by_id.borrow_mut().remove(&room.id);
        self.heads.borrow_mut().remove(&room.sn);
        self.ids.borrow_mut().retain(|(sn, _)| *sn != room.sn);
    }

    /// Bytes that all of it takes, roughly.
    pub(crate) fn cached_bytes(&self) -> usize {
        let infos = self.by_id.borrow().bytes() + self.by_sn.borrow().bytes();
        infos + self.heads.borrow().bytes() + self.ids.borrow().bytes() + self.events.borrow().bytes() + self.nodes.borrow().bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rooms_take_no_more_than_they_may() {
        let rooms = Rooms::new(0);
        for sn in 0..40_000 {
            let id = OwnedRoomId::try_from(format!("!{sn}:test.example")).expect("an id");
            let version = RoomVersionId::V12;
            let rules = version.rules().expect("a known version");
            rooms.remember(&Rc::new(RoomInfo { sn, id, version, rules }));
            rooms.keep_head(sn, Rc::default());
            rooms.keep_place(OwnedEventId::try_from(format!("${sn}:test.example")).expect("an id"), (sn, Position(1)));
        }
        let (least, most) = (HEADS_BYTES + INFOS_BYTES, HEADS_BYTES + 3 * INFOS_BYTES);
        assert!((least..=most).contains(&rooms.cached_bytes()), "{}", rooms.cached_bytes());
    }
}
