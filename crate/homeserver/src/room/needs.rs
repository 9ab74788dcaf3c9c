//! What a decision needs, read from the store ([`Need`]).

use super::{
    error::Result,
    event::Event,
    invitee::Invitee,
    resolution::Resolutions,
    rooms::RoomInfo,
    state_tree::{Node, NodeId},
    stop::Need,
};
use crate::{
    damaged::Damaged,
    federation::outbox::Queues,
    homeserver::Homeserver,
    position::Position,
    tables::{self, IndirectRelation, Membership, UserNid},
    time_slice::TimeSlice,
};
use ephapse_events::Pdu;
use ephapse_store::{Direction, KeyPart, Table};
use ruma::{OwnedEventId, OwnedServerName, OwnedUserId};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    rc::Rc,
};

/// How many events a long auth chain may bring in ahead of being asked for.
const READ_AHEAD: usize = 256;
/// How many rows of what may be many are read before others go on.
const PORTION: usize = 256;

/// What was read for one decision, so that it cannot be evicted while the decision is made.
#[derive(Default)]
pub(super) struct Known {
    pub(super) nodes: HashMap<NodeId, Rc<Node>>,
    pub(super) events: HashMap<Position, Rc<Event>>,
    pub(super) ids: HashMap<OwnedEventId, Option<Position>>,
    /// Of the ids that are none of this room's events, those that are another's.
    pub(super) elsewhere: HashSet<OwnedEventId>,
    pub(super) users: HashMap<OwnedUserId, UserNid>,
    pub(super) members: HashMap<UserNid, Option<Membership>>,
    pub(super) relations: HashMap<OwnedEventId, Vec<(Position, IndirectRelation)>>,
    pub(super) waiting_redactions: HashMap<OwnedEventId, Vec<(UserNid, Position)>>,
    pub(super) annotations: HashMap<(OwnedEventId, [u8; 16]), Option<Position>>,
    pub(super) invitees: HashMap<OwnedUserId, Invitee>,
    pub(super) guests: HashMap<UserNid, bool>,
    pub(super) queues: HashMap<OwnedServerName, Rc<Queues>>,
    pub(super) servers: Option<Rc<BTreeMap<OwnedServerName, u32>>>,
    pub(super) authorized_by: HashMap<Position, (Vec<Position>, bool)>,
    pub(super) resolutions: Resolutions,
    /// Events that the room's policy server has signed, by what they say.
    pub(super) signed: Vec<(String, Pdu)>,
}

impl Homeserver {
    /// Reads into `known` what a decision needs.
    pub(super) async fn read_needs(&self, room: &RoomInfo, known: &mut Known, needs: Vec<Need>) -> Result<()> {
        let slice = TimeSlice::new(&*self.host);
        let mut nodes = Vec::new();
        let mut positions = Vec::new();
        let mut ids = Vec::new();
        let mut members = Vec::new();
        let (mut users, mut related, mut redacted) = (Vec::new(), Vec::new(), Vec::new());
        for need in needs {
            match need {
                Need::Node(id) => nodes.push(id),
                Need::Event(position) => positions.push(position),
                Need::EventId(id) => ids.push(id),
                Need::User(id) => users.push(id),
                Need::Member(user) => members.push((user, room.nid)),
                Need::AuthEdges(auth_event, count) => {
                    let found = tables::AUTH_EDGES.scan(self.store(), &(room.nid, auth_event), Direction::Backward, count).await?;
                    let all = found.len() < count;
                    known.authorized_by.insert(auth_event, (found.into_iter().map(|((_, _, position), ())| position).collect(), all));
                }
                Need::Relations(id) => related.push(id),
                Need::WaitingRedactions(id) => redacted.push(id),
                Need::Annotation(id, fingerprint) => {
                    let found = tables::ANNOTATIONS.get(self.store(), &(room.nid, id.clone(), fingerprint)).await?;
                    known.annotations.insert((id, fingerprint), found);
                }
                Need::Invitee(user) => {
                    let invitee = self.invitee(&user).await?;
                    known.invitees.insert(user, invitee);
                }
                Need::Guest(user) => {
                    known.guests.insert(user, self.is_guest(user).await?);
                }
                Need::Queues(server) => {
                    let queues = self.queues(&server).await?;
                    known.queues.insert(server, queues);
                    slice.step().await;
                }
                Need::Servers => known.servers = Some(self.servers_in(room.nid).await?),
            }
        }
        for users in users.chunks(PORTION) {
            known.users.extend(self.intern_users(users).await?.into_iter().map(|(id, nid)| (id.to_owned(), nid)));
            slice.step().await;
        }
        // Most rooms have none, and those that have some have few.
        let is_related = self.has_any(&tables::RELATIONS, room, related.len()).await?;
        for id in related {
            let found = if is_related { self.all_related(room, &id, &slice).await? } else { Vec::new() };
            known.relations.insert(id, found);
        }
        let is_redacted = self.has_any(&tables::WAITING_REDACTIONS, room, redacted.len()).await?;
        for id in redacted {
            // One for each sender: any of them may be the one who has the power.
            let found = if is_redacted { self.all_of(&tables::WAITING_REDACTIONS, &(room.nid, id.clone()), &slice).await? } else { Vec::new() };
            let found: Vec<_> = found.into_iter().map(|((_, _, sender), position)| (sender, position)).collect();
            positions.extend(found.iter().map(|(_, position)| *position));
            known.waiting_redactions.insert(id, found);
        }
        for members in members.chunks(PORTION) {
            let found = tables::MEMBERSHIPS.get_all(self.store(), members).await?;
            known.members.extend(members.iter().map(|(user, _)| *user).zip(found));
            slice.step().await;
        }
        if !nodes.is_empty() {
            known.nodes.extend(self.load_nodes(room.nid, &nodes).await?);
        }
        for positions in positions.chunks(PORTION) {
            let events = self.events_at(room.nid, positions).await?;
            for (position, event) in positions.iter().zip(events) {
                let event = event.ok_or_else(|| Damaged::new(format!("the event at {position} of {}", room.id), "it is damaged or missing"))?;
                known.events.insert(*position, event);
            }
            slice.step().await;
        }
        if !ids.is_empty() {
            self.read_events_by_id(room, known, ids).await?;
        }
        Ok(())
    }

    /// Whether a table has anything of a room, where more than one place of it is asked for: to
    /// find nothing at each of many takes long.
    async fn has_any<K: KeyPart, V: Serialize + DeserializeOwned>(&self, table: &Table<K, V>, room: &RoomInfo, asked: usize) -> Result<bool> {
        Ok(asked == 1 || asked > 1 && !table.scan(self.store(), &room.nid, Direction::Forward, 1).await?.is_empty())
    }

    /// What refers to an event, also through others.
    async fn all_related(&self, room: &RoomInfo, id: &OwnedEventId, slice: &TimeSlice<'_>) -> Result<Vec<(Position, IndirectRelation)>> {
        let place = (room.nid, id.clone());
        let direct = self.all_of(&tables::RELATIONS, &place, slice).await?.into_iter();
        let direct = direct.map(|((_, _, position), relation)| (position, IndirectRelation { relation, through: Vec::new() }));
        let indirect = self.all_of(&tables::INDIRECT_RELATIONS, &place, slice).await?.into_iter();
        Ok(direct.chain(indirect.map(|((_, _, position), indirect)| (position, indirect))).collect())
    }

    /// Everything that a table has at a place; others go on while it is read.
    async fn all_of<K: KeyPart, V: Serialize + DeserializeOwned>(
        &self,
        table: &Table<K, V>,
        place: &impl KeyPart,
        slice: &TimeSlice<'_>,
    ) -> Result<Vec<(K, V)>> {
        let mut range = table.range(place);
        let mut all = Vec::new();
        loop {
            let portion = table.scan_range(self.store(), range.clone(), Direction::Forward, PORTION).await?;
            let last = portion.last().filter(|_| portion.len() == PORTION).map(|(key, _)| table.key(key));
            all.extend(portion);
            // The first key after it.
            let Some(last) = last else { return Ok(all) };
            range.start = [&last[..], &[0]].concat();
            slice.step().await;
        }
    }

    /// Reads events, and ahead into their auth chains, since who asks for one mostly walks on.
    async fn read_events_by_id(&self, room: &RoomInfo, known: &mut Known, mut ids: Vec<OwnedEventId>) -> Result<()> {
        let mut read = 0;
        while !ids.is_empty() {
            let mut positions = Vec::new();
            let asked = std::mem::take(&mut ids);
            let found = self.find_events(&asked).await?;
            for (id, found) in asked.into_iter().zip(found) {
                let place = found.filter(|(nid, _)| *nid == room.nid).map(|(_, position)| position);
                if found.is_some() && place.is_none() {
                    known.elsewhere.insert(id.clone());
                }
                known.ids.insert(id, place);
                positions.extend(place.filter(|position| !known.events.contains_key(position)));
            }
            read += positions.len();
            let events = self.events_at(room.nid, &positions).await?;
            for event in events.into_iter().flatten() {
                if read < READ_AHEAD {
                    ids.extend(event.pdu.auth_events.iter().filter(|id| !known.ids.contains_key(*id)).cloned());
                }
                known.events.insert(event.position, event);
            }
            ids.sort_unstable();
            ids.dedup();
        }
        Ok(())
    }
}
