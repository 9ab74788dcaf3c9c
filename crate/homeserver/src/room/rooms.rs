//! Room ids and their numbers, and what memory keeps of rooms lately used. All of it can be dropped
//! at any time without changing an answer.

use super::{
    event::Event,
    state_tree::{Node, NodeId},
};
use crate::{
    position::Position,
    rows::{ReadSince, Rows},
    tables::{self, RoomHead, RoomNid},
};
use ephapse_store::{Reader, StoreError};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomVersionId, room_version_rules::RoomVersionRules};
use std::{cell::Cell, collections::BTreeMap, rc::Rc};

/// What never changes about a room, with the rules of its version.
#[derive(Debug)]
pub struct RoomInfo {
    /// Its number on this server.
    pub nid: RoomNid,
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
    newest: Cell<RoomNid>,
    /// When the newest room was made here, in ms.
    newest_creation: Cell<u64>,
    pub(super) by_id: Rows<OwnedRoomId, Rc<RoomInfo>>,
    pub(super) by_nid: Rows<RoomNid, Rc<RoomInfo>>,
    pub(super) heads: Rows<RoomNid, Rc<RoomHead>>,
    pub(super) events: Rows<(RoomNid, Position), Rc<Event>>,
    pub(super) ids: Rows<OwnedEventId, (RoomNid, Position)>,
    pub(super) nodes: Rows<(RoomNid, NodeId), Rc<Node>>,
    /// The other servers in rooms.
    pub(super) servers: Rows<RoomNid, Rc<BTreeMap<OwnedServerName, u32>>>,
}

impl Rooms {
    pub(crate) fn new(newest: RoomNid, reader: &Reader) -> Self {
        Self {
            newest: Cell::new(newest),
            newest_creation: Cell::new(0),
            by_id: Rows::new(reader, INFOS_BYTES),
            by_nid: Rows::new(reader, INFOS_BYTES),
            heads: Rows::new(reader, HEADS_BYTES),
            events: Rows::new(reader, CACHED_BYTES),
            ids: Rows::new(reader, INFOS_BYTES),
            nodes: Rows::new(reader, CACHED_BYTES),
            servers: Rows::new(reader, INFOS_BYTES),
        }
    }

    pub(crate) async fn newest_stored(store: &Reader) -> Result<RoomNid, StoreError> {
        Ok(tables::ROOMS.last_key(store, &()).await?.unwrap_or(0))
    }

    /// Forgets everything in memory; new rooms go on after the numbers given.
    pub(crate) fn forget_all(&self) {
        self.by_id.clear();
        self.by_nid.clear();
        self.heads.clear();
        self.events.clear();
        self.ids.clear();
        self.nodes.clear();
        self.servers.clear();
    }

    /// The time at which a new room is made: now, or as little later as makes it differ from every
    /// other room's.
    pub(super) fn next_creation(&self, now: u64) -> u64 {
        self.newest_creation.set(now.max(self.newest_creation.get() + 1));
        self.newest_creation.get()
    }

    /// A number for a new room.
    pub(super) fn next_nid(&self) -> RoomNid {
        self.newest.set(self.newest.get() + 1);
        self.newest.get()
    }

    /// A room that is new.
    pub(super) fn set_info(&self, info: &Rc<RoomInfo>) {
        self.by_id.set(info.id.clone(), info.clone(), weight_of_info(info) + info.id.as_str().len());
        self.by_nid.set(info.nid, info.clone(), weight_of_info(info));
    }

    /// A room that was read by its number.
    pub(super) fn found_info(&self, by_id: ReadSince, by_nid: ReadSince, info: Rc<RoomInfo>) -> Rc<RoomInfo> {
        self.by_id.found(by_id, info.id.clone(), info.clone(), weight_of_info(&info) + info.id.as_str().len());
        let weight = weight_of_info(&info);
        self.by_nid.found(by_nid, info.nid, info, weight)
    }

    /// A head that a writer has just made.
    pub(super) fn set_head(&self, nid: RoomNid, head: Rc<RoomHead>) {
        let weight = weight_of_head(&head);
        self.heads.set(nid, head, weight);
    }

    /// A head that was read; the newest.
    pub(super) fn found_head(&self, since: ReadSince, nid: RoomNid, head: Rc<RoomHead>) -> Rc<RoomHead> {
        let weight = weight_of_head(&head);
        self.heads.found(since, nid, head, weight)
    }

    /// Forgets a room that is no more. (Its events are found by number, which is not given again.)
    pub(super) fn forget(&self, room: &RoomInfo) {
        self.by_id.forget(&room.id);
        self.heads.forget(&room.nid);
        self.servers.forget(&room.nid);
        self.ids.retain(|(nid, _)| *nid != room.nid);
    }

    /// Bytes that all of it takes, roughly.
    pub(crate) fn cached_bytes(&self) -> usize {
        let infos = self.by_id.bytes() + self.by_nid.bytes();
        infos + self.servers.bytes() + self.heads.bytes() + self.ids.bytes() + self.events.bytes() + self.nodes.bytes()
    }
}

/// Bytes that the servers in a room take in memory, roughly.
pub(super) fn weight_of_servers(servers: &BTreeMap<OwnedServerName, u32>) -> usize {
    servers.keys().map(|server| 48 + server.as_str().len()).sum()
}

fn weight_of_info(info: &RoomInfo) -> usize {
    size_of::<RoomInfo>() + info.id.as_str().len()
}

fn weight_of_head(head: &RoomHead) -> usize {
    size_of::<RoomHead>() + head.extremities.iter().map(|of| size_of_val(of) + of.event_id.as_str().len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ephapse_store::MemoryStore;

    #[test]
    fn many_rooms_take_no_more_than_they_may() {
        let rooms = Rooms::new(0, &Reader::new(Rc::new(MemoryStore::new())));
        for nid in 0..40_000 {
            let id = OwnedRoomId::try_from(format!("!{nid}:test.example")).expect("an id");
            let version = RoomVersionId::V12;
            let rules = version.rules().expect("a known version");
            rooms.set_info(&Rc::new(RoomInfo { nid, id, version, rules }));
            rooms.set_head(nid, Rc::default());
            let event = OwnedEventId::try_from(format!("${nid}:test.example")).expect("an id");
            let weight = event.as_str().len();
            rooms.ids.set(event, (nid, Position(1)), weight);
        }
        let (least, most) = (HEADS_BYTES + INFOS_BYTES, HEADS_BYTES + 3 * INFOS_BYTES);
        assert!((least..=most).contains(&rooms.cached_bytes()), "{}", rooms.cached_bytes());
    }
}
