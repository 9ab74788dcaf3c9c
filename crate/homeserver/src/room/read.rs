//! Reads of rooms: from memory where it has them, else from the store, as many at once as are known
//! to be needed.

use super::{
    error::{Error, Refused, Result},
    event::Event,
    rooms::{RoomInfo, weight_of_servers},
    state_tree::{self, Missing, Node, NodeId, Part},
};
use crate::{
    damaged::{Damaged, LeaveOut},
    homeserver::Homeserver,
    host::Host,
    position::Position,
    rows::ReadSince,
    tables::{self, RoomHead, RoomNid},
    time_slice::TimeSlice,
};
use ephapse_events::{Inserted, StateKey, auth::PowerLevels};
use ephapse_store::Direction;
use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId, events::StateEventType};
use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

/// Events of so many bytes are read or written in one go before others get their turn.
const SLICE: usize = 256 << 10;
/// How many events are read at once at most.
const MAX_BATCH: usize = 256;
/// How many are read at once while nothing is known of their size.
const FIRST_BATCH: usize = 16;

/// Many events one after another, as many at a time as others can wait for.
pub(super) struct Portions<'a> {
    next: usize,
    slice: TimeSlice<'a>,
}

impl<'a> Portions<'a> {
    pub(super) fn new(host: &'a dyn Host) -> Self {
        Self { next: FIRST_BATCH, slice: TimeSlice::of(host, SLICE) }
    }

    /// How many to read now, going by the size of those before.
    pub(super) fn count(&self) -> usize {
        self.next
    }

    /// Takes note of some that were read or written; others have their turn when it is time.
    pub(super) async fn took(&mut self, events: &[Rc<Event>]) {
        let bytes: usize = events.iter().map(|event| event.weight()).sum();
        self.next = (SLICE * events.len()).checked_div(bytes).map_or(MAX_BATCH, |count| count.clamp(1, MAX_BATCH));
        self.slice.spend(bytes);
        self.slice.check().await;
    }
}

impl Homeserver {
    /// The room of an id, if this server knows it.
    pub async fn room(&self, id: &RoomId) -> Result<Option<Rc<RoomInfo>>> {
        if let Some(info) = self.rooms.by_id.get(id) {
            return Ok(Some(info));
        }
        let Some(nid) = tables::ROOM_NIDS.get(self.store(), &id.to_owned()).await? else { return Ok(None) };
        self.room_by_nid(nid).await.map(Some)
    }

    /// The room of a number.
    pub async fn room_by_nid(&self, nid: RoomNid) -> Result<Rc<RoomInfo>> {
        if let Some(info) = self.rooms.by_nid.get(&nid) {
            return Ok(info);
        }
        let since = (self.rooms.by_id.read_since(), self.rooms.by_nid.read_since());
        let room =
            tables::ROOMS.get(self.store(), &nid).await?.ok_or_else(|| Damaged::new(format!("room number {nid}"), "it is not in the table"))?;
        self.found_room(nid, room, since)
    }

    fn found_room(&self, nid: RoomNid, room: tables::Room, (by_id, by_nid): (ReadSince, ReadSince)) -> Result<Rc<RoomInfo>> {
        let version = &room.version;
        let rules = version.rules().ok_or_else(|| Damaged::new(format!("room {}", room.id), format_args!("unknown room version {version}")))?;
        Ok(self.rooms.found_info(by_id, by_nid, Rc::new(RoomInfo { nid, id: room.id, version: room.version, rules })))
    }

    /// The head of a room.
    ///
    /// # Errors
    /// [`Refused::NotInRoom`], as for a room that is not known, when everybody has forgotten the
    /// room meanwhile.
    pub async fn room_head(&self, nid: RoomNid) -> Result<Rc<RoomHead>> {
        if let Some(head) = self.rooms.heads.get(&nid) {
            return Ok(head);
        }
        let since = self.rooms.heads.read_since();
        let head = tables::ROOM_HEADS.get(self.store(), &nid).await?.ok_or(Refused::NotInRoom)?;
        Ok(self.rooms.found_head(since, nid, Rc::new(head)))
    }

    /// The other servers that have members who have joined a room, and how many each.
    pub async fn servers_in(&self, nid: RoomNid) -> Result<Rc<BTreeMap<OwnedServerName, u32>>> {
        if let Some(servers) = self.rooms.servers.get(&nid) {
            return Ok(servers);
        }
        let since = self.rooms.servers.read_since();
        let found = tables::ROOM_SERVERS.scan(self.store(), &nid, Direction::Forward, usize::MAX).await?;
        let servers = Rc::new(found.into_iter().map(|((_, server), count)| (server, count)).inserted());
        let weight = weight_of_servers(&servers);
        Ok(self.rooms.servers.found(since, nid, servers, weight))
    }

    /// Whether a user of this server has joined a room: only then is what is here of it up to date.
    pub async fn is_resident(&self, nid: RoomNid) -> Result<bool> {
        let joined = self.room_head(nid).await?.joined;
        let others: u32 = self.servers_in(nid).await?.values().sum();
        Ok(joined > others)
    }

    /// The rooms of `numbers`, in their order; none where what is stored of one is damaged.
    pub async fn rooms_by_nid(&self, numbers: &[RoomNid]) -> Result<Vec<Option<Rc<RoomInfo>>>> {
        let missing: Vec<RoomNid> = numbers.iter().copied().filter(|nid| self.rooms.by_nid.get(nid).is_none()).collect();
        let mut read = HashMap::new();
        let since = (self.rooms.by_id.read_since(), self.rooms.by_nid.read_since());
        for (nid, room) in missing.iter().zip(tables::ROOMS.get_many(self.store(), &missing).await?) {
            let Some(room) = room else { continue };
            if let Some(info) = self.found_room(*nid, room, since).leave_out()? {
                read.insert(*nid, info);
            }
        }
        let mut rooms = Vec::with_capacity(numbers.len());
        for nid in numbers {
            rooms.push(match read.get(nid) {
                Some(info) => Some(info.clone()),
                None => self.room_by_nid(*nid).await.leave_out()?,
            });
        }
        Ok(rooms)
    }

    /// The heads of the rooms of `numbers`, in their order; none of a room that everybody has
    /// forgotten meanwhile.
    pub async fn room_heads(&self, numbers: &[RoomNid]) -> Result<Vec<Option<Rc<RoomHead>>>> {
        let mut heads: Vec<Option<Rc<RoomHead>>> = numbers.iter().map(|nid| self.rooms.heads.get(nid)).collect();
        let missing: Vec<usize> = (0..numbers.len()).filter(|index| heads[*index].is_none()).collect();
        let keys: Vec<RoomNid> = missing.iter().map(|index| numbers[*index]).collect();
        let since = self.rooms.heads.read_since();
        for (index, head) in missing.into_iter().zip(tables::ROOM_HEADS.get_many(self.store(), &keys).await?) {
            heads[index] = head.map(|head| self.rooms.found_head(since, numbers[index], Rc::new(head)));
        }
        Ok(heads)
    }

    /// The events at `positions`, in their order; none where nothing stands, or what stands there
    /// is damaged.
    pub async fn events_at(&self, room: RoomNid, positions: &[Position]) -> Result<Vec<Option<Rc<Event>>>> {
        let mut found: Vec<Option<Rc<Event>>> = positions.iter().map(|position| self.rooms.events.get(&(room, *position))).collect();
        let missing: Vec<usize> = (0..positions.len()).filter(|index| found[*index].is_none()).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        let info = self.room_by_nid(room).await?;
        let (mut rest, mut portions) = (&missing[..], Portions::new(&*self.host));
        while !rest.is_empty() {
            let (now, later) = rest.split_at(portions.count().min(rest.len()));
            let keys: Vec<_> = now.iter().map(|index| (room, positions[*index])).collect();
            let since = self.rooms.events.read_since();
            let mut read = Vec::new();
            for (index, record) in now.iter().zip(tables::EVENTS.get_many(self.store(), &keys).await?) {
                let Some(record) = record else { continue };
                if let Some(event) = self.decode_event(&info, positions[*index], record, since).leave_out()? {
                    read.push(event.clone());
                    found[*index] = Some(event);
                }
            }
            if !later.is_empty() {
                portions.took(&read).await;
            }
            rest = later;
        }
        Ok(found)
    }

    /// The event at a position that must be there.
    pub async fn event_at(&self, room: RoomNid, position: Position) -> Result<Rc<Event>> {
        let found = self.events_at(room, &[position]).await?;
        match found.into_iter().next().flatten() {
            Some(event) => Ok(event),
            None => {
                let id = self.room_by_nid(room).await?.id.clone();
                Err(Damaged::new(format!("the event at {position} of {id}"), "it is damaged or missing").into())
            }
        }
    }

    /// An event that was read from the table; the newest, where memory has it.
    pub(crate) fn decode_event(
        &self,
        room: &RoomInfo,
        position: Position,
        record: tables::EventRecord,
        since: ReadSince,
    ) -> Result<Rc<Event>, Damaged> {
        if let Some(event) = self.rooms.events.get(&(room.nid, position)) {
            return Ok(event);
        }
        let event_id = record.event_id.clone();
        let event = Event::from_record(room, position, record).map_err(|error| Damaged::new(format!("event {event_id} of {}", room.id), error))?;
        let weight = event.weight();
        Ok(self.rooms.events.found(since, (room.nid, position), Rc::new(event), weight))
    }

    /// Where an event stands.
    pub async fn find_event(&self, id: &EventId) -> Result<Option<(RoomNid, Position)>> {
        if let Some(place) = self.rooms.ids.get(id) {
            return Ok(Some(place));
        }
        let since = self.rooms.ids.read_since();
        let place = tables::EVENT_IDS.get(self.store(), &id.to_owned()).await?;
        Ok(place.map(|place| self.rooms.ids.found(since, id.to_owned(), place, id.as_str().len())))
    }

    /// As [`Self::find_event`], of several; the answer is in their order.
    pub async fn find_events(&self, ids: &[OwnedEventId]) -> Result<Vec<Option<(RoomNid, Position)>>> {
        let since = self.rooms.ids.read_since();
        let mut places: Vec<Option<(RoomNid, Position)>> = ids.iter().map(|id| self.rooms.ids.get(id)).collect();
        let (missing, rest): (Vec<usize>, Vec<OwnedEventId>) =
            places.iter().zip(ids).enumerate().filter(|(_, (place, _))| place.is_none()).map(|(number, (_, id))| (number, id.clone())).unzip();
        let found = tables::EVENT_IDS.get_all(self.store(), &rest).await?;
        for ((number, id), place) in missing.into_iter().zip(rest).zip(found) {
            let weight = id.as_str().len();
            places[number] = place.map(|place| self.rooms.ids.found(since, id, place, weight));
        }
        Ok(places)
    }

    /// An event of a room by its id.
    pub async fn event_by_id(&self, room: RoomNid, id: &EventId) -> Result<Option<Rc<Event>>> {
        match self.find_event(id).await? {
            Some((found, position)) if found == room => self.event_at(room, position).await.map(Some),
            _ => Ok(None),
        }
    }

    /// What holds each of `keys` in a state.
    pub async fn state_get(&self, room: RoomNid, root: NodeId, keys: &[StateKey]) -> Result<Vec<Option<Position>>> {
        self.with_nodes(room, |nodes| state_tree::get(root, keys, nodes)).await
    }

    /// The event that holds `key` in a state.
    pub async fn state_event(&self, room: RoomNid, root: NodeId, key: StateKey) -> Result<Option<Rc<Event>>> {
        match self.state_get(room, root, &[key]).await?.first().copied().flatten() {
            Some(position) => self.event_at(room, position).await.map(Some),
            None => Ok(None),
        }
    }

    /// Every entry of a part of a state, in no particular order.
    pub async fn state_entries(&self, room: RoomNid, root: NodeId, part: Part) -> Result<Vec<(StateKey, Position)>> {
        self.with_nodes(room, |nodes| state_tree::entries(root, part, nodes)).await
    }

    /// Where two states differ.
    pub async fn state_diff(&self, room: RoomNid, before: NodeId, after: NodeId) -> Result<Vec<state_tree::Difference>> {
        self.with_nodes(room, |nodes| state_tree::diff(before, after, nodes)).await
    }

    /// The levels in a state of a room.
    pub async fn levels<'a>(&self, room: &'a RoomInfo, state: NodeId) -> Result<PowerLevels<'a>> {
        let create = self.state_event(room.nid, state, (StateEventType::RoomCreate, String::new())).await?;
        let create = create.ok_or_else(|| Error::Internal(format!("{} has no create event", room.id)))?;
        let levels = self.state_event(room.nid, state, (StateEventType::RoomPowerLevels, String::new())).await?;
        let levels = levels.map(|event| event.pdu.clone());
        PowerLevels::new(create.pdu.clone(), levels, &room.rules.authorization).map_err(|reason| Refused::NotAllowed(reason).into())
    }

    /// Asks a question of the tree, again with more nodes as long as some are missing; each time it
    /// gets further down.
    async fn with_nodes<T>(&self, room: RoomNid, ask: impl Fn(state_tree::Nodes<'_>) -> Result<T, Missing>) -> Result<T> {
        let mut loaded = HashMap::new();
        loop {
            let nodes = |id: NodeId| loaded.get(&id).cloned().or_else(|| self.rooms.nodes.get(&(room, id)));
            match ask(&nodes) {
                Ok(answer) => return Ok(answer),
                Err(Missing(ids)) => loaded.extend(self.load_nodes(room, &ids).await?),
            }
        }
    }

    /// Nodes from the store.
    pub(super) async fn load_nodes(&self, room: RoomNid, ids: &[NodeId]) -> Result<Vec<(NodeId, Rc<Node>)>> {
        let keys: Vec<_> = ids.iter().map(|id| (room, id.0)).collect();
        let since = self.rooms.nodes.read_since();
        let values = tables::STATE_NODES.get_all(self.store(), &keys).await?;
        let mut nodes = Vec::with_capacity(ids.len());
        for (id, value) in ids.iter().zip(values) {
            let damaged = |why: &dyn std::fmt::Display| Damaged::new(format!("state node {id:?} of room number {room}"), why);
            let bytes = value.ok_or_else(|| damaged(&"it is missing"))?.0;
            let node = Node::decode(&bytes).map_err(|error| damaged(&error))?;
            let weight = node.weight();
            nodes.push((*id, self.rooms.nodes.found(since, (room, *id), Rc::new(node), weight)));
        }
        Ok(nodes)
    }
}
