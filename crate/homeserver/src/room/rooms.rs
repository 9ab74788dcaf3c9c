//! Room ids and their numbers, and what memory keeps of rooms lately used. All of it can be dropped at any time without changing an answer.

use super::{
    event::Event,
    state_tree::{Node, NodeId},
};
use crate::{
    position::Position,
    tables::{self, RoomHead, RoomSn},
};
use ephapse_store::{Direction, Store, StoreError};
use hashlink::LruCache;
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
const CACHED_ROOMS: usize = 2048;

/// What memory holds of rooms.
pub struct Rooms {
    newest: Cell<RoomSn>,
    /// When the newest room was made here, in ms.
    newest_creation: Cell<u64>,
    pub(super) by_id: RefCell<LruCache<OwnedRoomId, Rc<RoomInfo>>>,
    pub(super) by_sn: RefCell<LruCache<RoomSn, Rc<RoomInfo>>>,
    pub(super) heads: RefCell<LruCache<RoomSn, Rc<RoomHead>>>,
    pub(super) events: RefCell<Weighed<(RoomSn, Position), Rc<Event>>>,
    pub(super) ids: RefCell<LruCache<OwnedEventId, (RoomSn, Position)>>,
    pub(super) nodes: RefCell<Weighed<(RoomSn, NodeId), Rc<Node>>>,
}

impl Rooms {
    pub(crate) fn new(newest: RoomSn) -> Self {
        Self {
            newest: Cell::new(newest),
            newest_creation: Cell::new(0),
            by_id: RefCell::new(LruCache::new(CACHED_ROOMS)),
            by_sn: RefCell::new(LruCache::new(CACHED_ROOMS)),
            heads: RefCell::new(LruCache::new(CACHED_ROOMS)),
            events: RefCell::new(Weighed::new(CACHED_BYTES)),
            ids: RefCell::new(LruCache::new(8192)),
            nodes: RefCell::new(Weighed::new(CACHED_BYTES)),
        }
    }

    pub(crate) async fn newest_stored(store: &dyn Store) -> Result<RoomSn, StoreError> {
        Ok(tables::ROOMS.scan(store, &(), Direction::Backward, 1).await?.first().map_or(0, |(sn, _)| *sn))
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
        self.by_id.borrow_mut().insert(info.id.clone(), info.clone());
        self.by_sn.borrow_mut().insert(info.sn, info.clone());
    }

    /// Forgets a room that is no more. (Its events are found by number, which is not given again.)
    pub(super) fn forget(&self, room: &RoomInfo) {
        self.by_id.borrow_mut().remove(&room.id);
        self.heads.borrow_mut().remove(&room.sn);
        self.ids.borrow_mut().retain(|_, (sn, _)| *sn != room.sn);
    }

    /// Bytes that decoded events and tree nodes take, roughly.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.events.borrow().bytes + self.nodes.borrow().bytes
    }
}

/// A cache that is bounded by the weight of what it holds, in bytes.
pub(super) struct Weighed<K, V> {
    map: LruCache<K, (V, usize)>,
    bytes: usize,
    limit: usize,
}

impl<K: std::hash::Hash + Eq, V: Clone> Weighed<K, V> {
    fn new(limit: usize) -> Self {
        Self { map: LruCache::new_unbounded(), bytes: 0, limit }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        self.map.get(key).map(|(value, _)| value.clone())
    }

    pub(super) fn insert(&mut self, key: K, value: V, weight: usize) {
        if let Some((_, old)) = self.map.insert(key, (value, weight)) {
            self.bytes -= old;
        }
        self.bytes += weight;
        while self.bytes > self.limit {
            let Some((_, (_, weight))) = self.map.remove_lru() else { break };
            self.bytes -= weight;
        }
    }

    fn clear(&mut self) {
        self.map.clear();
        self.bytes = 0;
    }
}
