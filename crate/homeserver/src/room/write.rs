//! Gather, decide, commit: how every change of a room is made.
//!
//! Whoever changes a room gives [`Homeserver::write_room`] a plain function over a [`Write`]. It
//! decides on what is in memory; where that is not enough it stops with what it [`Need`]s, the
//! needs are read from the store, and it runs again from the start, in a new transaction. Where it
//! is long it stops as [`Stop::Unfinished`], others have their turn, and it runs again as well:
//! only state resolutions go on where they stopped. When it ends, everything it staged becomes one
//! batch.
//!
//! The room's lock is held from the first read to the moment the batch is submitted, so nothing of
//! the room can change under it. What stands outside of the room, such as whether a user is a guest
//! or takes invitations, is as of when it was read.

use super::{
    error::{Error, Result},
    event::Event,
    invitee::Invitee,
    needs::Known,
    outliers::StateHere,
    policy::Unsigned,
    resolution::Resolutions,
    rooms::{RoomInfo, weight_of_servers},
    state_tree::{self, Node, NodeId},
    stop::{Need, Stop},
};
use crate::{
    federation::{outbox::Queues, policy},
    homeserver::Homeserver,
    locks::LockKey,
    position::Position,
    tables::{self, Change, IndirectRelation, Membership, MembershipKind, RoomHead, UserNid},
    time_slice::{self, TimeSlice},
    transaction::{Submitted, Tx},
};
use ephapse_events::Pdu;
use futures_util::FutureExt;
use ruma::{EventId, OwnedEventId, OwnedServerName, OwnedUserId, ServerName, UserId};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    rc::Rc,
};

/// How often a decision is begun anew with more in memory. Each time reads a level of a tree or a
/// generation of an auth chain.
const ROUNDS: usize = 4096;
/// How far ahead of the last position given a new room begins that is made in turns: so many
/// positions may be given meanwhile.
const POSITIONS_AHEAD: i64 = 1 << 12;

/// Events of one decision that a policy server signs.
const MOST_SIGNED: usize = 64;

/// What a decision came to.
enum Decided<T> {
    /// It is made; and whether the room may say something else of guests now.
    Made(T, bool),
    /// A policy server has to sign an event first.
    Unsigned(Box<Unsigned>),
}

/// A room as one decision sees it, and what the decision stages.
pub struct Write<'a> {
    pub(super) hs: &'a Homeserver,
    /// The room.
    pub room: Rc<RoomInfo>,
    known: &'a Known,
    /// Nobody else knows of the room: it has only what is staged here.
    pub(super) is_new: bool,
    /// Whether the room may say something else of guests now.
    pub(super) guest_access_changed: bool,
    /// None where all is decided in one go.
    slice: Option<TimeSlice<'a>>,
    /// The head as the decision leaves it.
    pub(super) head: RoomHead,
    /// What is written with it.
    pub tx: &'a mut Tx,
    /// Events staged or changed, by position.
    events: BTreeMap<Position, Rc<Event>>,
    ids: HashMap<OwnedEventId, Position>,
    nodes: RefCell<HashMap<NodeId, Rc<Node>>>,
    members: HashMap<UserNid, Membership>,
    /// Events that the room's policy server does not recommend.
    pub(super) not_recommended: HashSet<OwnedEventId>,
    /// Those who were in the room and are not any more.
    pub(super) left: Vec<UserNid>,
    authorized_by: HashMap<Position, Vec<Position>>,
    /// The state that another server tells of a room that the decision enters.
    pub(super) entered: Rc<StateHere>,
    /// The other servers in the room, where the decision changes them.
    servers: Option<Rc<BTreeMap<OwnedServerName, u32>>>,
    /// Those of them that were not in the room before, since this was last looked at.
    pub(super) new_servers: BTreeSet<OwnedServerName>,
}

impl Homeserver {
    /// Decides and writes a change of a room; it can be seen when this returns, and is durable
    /// before a request is answered ([`Homeserver::handle`]).
    ///
    /// # Errors
    /// Whatever `change` refuses with, or why the write was refused at once.
    pub async fn write_room<T, E: From<Error>>(
        &self,
        room: &Rc<RoomInfo>,
        generation: u64,
        mut change: impl FnMut(&mut Write<'_>) -> Result<T, Stop<E>>,
    ) -> Result<T, E> {
        let mut signed: Vec<(String, Pdu)> = Vec::new();
        while signed.len() < MOST_SIGNED {
            let guard = self.lock(LockKey::Room(room.nid)).await;
            let head = self.room_head(room.nid).await?;
            let decided = self.decide_until_made(room, RoomHead::clone(&head), generation, signed.clone(), &mut change).await?;
            // Nobody waits for the room while another server is asked.
            drop(guard);
            match decided {
                Decided::Made(answer, guest_access_changed) => {
                    if guest_access_changed {
                        self.send_guests_away(room).await;
                    }
                    return Ok(answer);
                }
                Decided::Unsigned(event) => {
                    let asked = policy::signed(self, &event.by, &event.pdu, &room.rules).await;
                    signed.push((event.says, asked.map_err(|error| Unsigned::refused(error.to_string()))?));
                }
            }
        }
        Err(too_many_rounds(room).into())
    }

    /// Decides and writes the first events of a room that nobody else knows of yet, about `events`
    /// of them, which concern `users` and invite `invitees`. Many are decided on in turns: others
    /// go on between them ([`Write::turn`]), and the room's positions are some way ahead of theirs,
    /// so that in the end it is still newer than all they did.
    ///
    /// `decide` awaits nothing but [`Write::turn`]: few events are decided on in an ordinary
    /// transaction, in which nothing can wait, and anything else that waits would panic there.
    pub(super) async fn write_new_room<T, E: From<Error>>(
        &self,
        room: &Rc<RoomInfo>,
        generation: u64,
        events: usize,
        users: HashMap<OwnedUserId, UserNid>,
        invitees: HashMap<OwnedUserId, Invitee>,
        mut change: impl AsyncFnMut(&mut Write<'_>) -> Result<T, Stop<E>>,
    ) -> Result<T, E> {
        let is_long = events > time_slice::STEPS;
        // Two at once would have to know of each other's positions.
        let guard = if is_long { Some(self.lock(LockKey::LongCreation).await) } else { None };
        let slice = TimeSlice::new(&*self.host);
        let mut ahead = POSITIONS_AHEAD;
        let mut known = Known { users, invitees, ..Known::default() };
        for _ in 0..ROUNDS {
            let mut fill = async |tx: &mut Tx| {
                let slice = is_long.then(|| TimeSlice::new(&*self.host));
                let mut write = Write { is_new: true, slice, ..Write::new(self, room, &known, RoomHead::default(), tx) };
                let answer = change(&mut write).await?;
                for event in write.changed_events() {
                    write.encode(&event);
                    write.turn().await;
                }
                write.finish(&RoomHead::default());
                Ok(answer)
            };
            let written = if is_long {
                self.transaction_in_turns(generation, ahead, fill).await
            } else {
                // `Write::turn` goes on at once where there is no slice.
                let at_once = |tx: &mut Tx| fill(tx).now_or_never().expect("only a long creation takes turns");
                self.transaction(generation, at_once).map(Some)
            };
            match written {
                Ok(Some(written)) => {
                    drop(guard);
                    return Ok(written.visible());
                }
                Ok(None) => ahead *= 2,
                Err(Stop::Refused(error)) => return Err(error),
                // Nobody of another server is in it.
                Err(Stop::Unsigned(_)) => return Err(Unsigned::refused("The policy server is not in the room".to_owned()).into()),
                Err(Stop::Missing(needs)) => self.read_needs(room, &mut known, needs).await?,
                Err(Stop::Unfinished) => slice.end().await,
            }
        }
        Err(too_many_rounds(room).into())
    }

    /// Runs `change` until it stops no more, each time with more of what it needs in memory.
    async fn decide_until_made<T, E: From<Error>>(
        &self,
        room: &Rc<RoomInfo>,
        head: RoomHead,
        generation: u64,
        signed: Vec<(String, Pdu)>,
        change: &mut impl FnMut(&mut Write<'_>) -> Result<T, Stop<E>>,
    ) -> Result<Decided<T>, E> {
        let mut known = Known { signed, ..Known::default() };
        let slice = TimeSlice::new(&*self.host);
        let mut rounds = 0;
        while rounds < ROUNDS {
            let written = self.transaction(generation, |tx| {
                let mut write = Write::new(self, room, &known, head.clone(), tx);
                let answer = change(&mut write)?;
                write.end_typing();
                for event in write.changed_events() {
                    write.encode(&event);
                }
                let guest_access_changed = write.guest_access_changed;
                write.finish(&head);
                Ok(Decided::Made(answer, guest_access_changed))
            });
            match written.map(Submitted::visible) {
                Ok(decided) => return Ok(decided),
                Err(Stop::Refused(error)) => return Err(error),
                Err(Stop::Unsigned(event)) => return Ok(Decided::Unsigned(event)),
                // The room's lock is held: whatever others do now, nothing of the room changes.
                Err(Stop::Missing(needs)) => {
                    rounds += 1;
                    self.read_needs(room, &mut known, needs).await?;
                    slice.step().await;
                }
                Err(Stop::Unfinished) => slice.end().await,
            }
        }
        Err(too_many_rounds(room).into())
    }
}

fn too_many_rounds(room: &RoomInfo) -> Error {
    Error::Internal(format!("a decision in {} needs more reads than {ROUNDS} rounds", room.id))
}

impl<'a> Write<'a> {
    fn new(hs: &'a Homeserver, room: &Rc<RoomInfo>, known: &'a Known, head: RoomHead, tx: &'a mut Tx) -> Self {
        Self {
            hs,
            room: room.clone(),
            known,
            is_new: false,
            guest_access_changed: false,
            slice: None,
            head,
            tx,
            events: BTreeMap::new(),
            ids: HashMap::new(),
            nodes: RefCell::default(),
            members: HashMap::new(),
            entered: Rc::default(),
            not_recommended: HashSet::new(),
            left: Vec::new(),
            authorized_by: HashMap::new(),
            servers: None,
            new_servers: BTreeSet::new(),
        }
    }
}

impl Write<'_> {
    /// After each of many events: lets others go on when its turn is over. Only rooms that nobody
    /// knows of yet are made in turns; elsewhere this does nothing.
    pub async fn turn(&mut self) {
        if let Some(slice) = &self.slice {
            slice.step().await;
        }
    }

    /// The head as it is now, staged changes included.
    pub fn head(&self) -> &RoomHead {
        &self.head
    }

    /// The root of the current state.
    pub fn state(&self) -> NodeId {
        NodeId(self.head.state)
    }

    /// A node: staged, read for this decision, or in the cache.
    pub(super) fn node(&self, id: NodeId) -> Option<Rc<Node>> {
        if let Some(node) = self.nodes.borrow().get(&id).or_else(|| self.known.nodes.get(&id)) {
            return Some(node.clone());
        }
        self.hs.rooms.nodes.get(&(self.room.nid, id))
    }

    /// The event at a position that must be there.
    pub fn event(&self, position: Position) -> Result<Rc<Event>, Need> {
        if let Some(event) = self.events.get(&position).or_else(|| self.known.events.get(&position)) {
            return Ok(event.clone());
        }
        self.hs.rooms.events.get(&(self.room.nid, position)).ok_or(Need::Event(position))
    }

    /// An event of this room by its id; `None` when this server does not have it.
    pub fn event_by_id(&self, id: &EventId) -> Result<Option<Rc<Event>>, Need> {
        let cached = || self.hs.rooms.ids.get(id).filter(|(nid, _)| *nid == self.room.nid).map(|(_, position)| position);
        match self.ids.get(id).copied().or_else(cached).map(Some).or_else(|| self.known.ids.get(id).copied()) {
            Some(Some(position)) => self.event(position).map(Some),
            Some(None) => Ok(None),
            None => Err(Need::EventId(id.to_owned())),
        }
    }

    /// The position of an event among the outliers. Who takes in another server's event has asked
    /// for it by its id; one that was built just now is nowhere, and would be another one, with
    /// another time, when that had been read.
    pub(super) fn outlier(&self, id: &EventId) -> Result<Option<Position>, Need> {
        match self.event_by_id(id) {
            Ok(known) => Ok(known.filter(|known| known.is_outlier()).map(|known| known.position)),
            Err(Need::EventId(_)) => Ok(None),
            Err(need) => Err(need),
        }
    }

    /// Whether an event of which [`Self::event_by_id`] has said that this room does not have it
    /// stands in another room.
    pub(super) fn stands_elsewhere(&self, id: &EventId) -> bool {
        let cached = self.hs.rooms.ids.get(id);
        self.known.elsewhere.contains(id) || cached.is_some_and(|(nid, _)| nid != self.room.nid)
    }

    /// The number of a user.
    pub fn user_nid(&self, id: &UserId) -> Result<UserNid, Need> {
        self.known.users.get(id).copied().or_else(|| self.hs.cached_user(id)).ok_or_else(|| Need::User(id.to_owned()))
    }

    /// A user's membership as it is now, staged changes included.
    pub fn member(&self, user: UserNid) -> Result<Option<Membership>, Need> {
        match self.members.get(&user) {
            Some(member) => Ok(Some(member.clone())),
            None if self.is_new => Ok(None),
            None => self.known.members.get(&user).cloned().ok_or(Need::Member(user)),
        }
    }

    /// Changes a user's part in the room and the index by membership.
    pub(super) fn set_member(&mut self, user: UserNid, before: Option<MembershipKind>, member: Membership) {
        if let Some(kind) = before {
            tables::MEMBERS.delete(self.tx, &(self.room.nid, kind as u8, user));
        }
        tables::MEMBERS.put(self.tx, &(self.room.nid, member.kind as u8, user), &member.position);
        tables::MEMBERSHIPS.put(self.tx, &(user, self.room.nid), &member);
        self.members.insert(user, member);
    }

    /// What refers to an event that has only now arrived, also through others.
    pub(super) fn relations(&self, id: &EventId) -> Result<&[(Position, IndirectRelation)], Need> {
        self.known.relations.get(id).map(Vec::as_slice).ok_or_else(|| Need::Relations(id.to_owned()))
    }

    /// Redactions of an event that has only now arrived: who sent them, and where they stand.
    pub(super) fn waiting_redactions(&self, id: &EventId) -> Result<&[(UserNid, Position)], Need> {
        self.known.waiting_redactions.get(id).map(Vec::as_slice).ok_or_else(|| Need::WaitingRedactions(id.to_owned()))
    }

    /// The newest annotation of an event with a fingerprint.
    pub(super) fn annotation(&self, id: &EventId, fingerprint: [u8; 16]) -> Result<Option<Position>, Need> {
        let key = (id.to_owned(), fingerprint);
        self.known.annotations.get(&key).copied().ok_or(Need::Annotation(key.0, key.1))
    }

    /// What would become of an invitation of a user.
    pub(super) fn invitee(&self, user: &UserId) -> Result<Invitee, Need> {
        self.known.invitees.get(user).copied().ok_or_else(|| Need::Invitee(user.to_owned()))
    }

    /// Whether a user is a guest of this server.
    pub(super) fn is_guest(&self, user: UserNid) -> Result<bool, Need> {
        self.known.guests.get(&user).copied().ok_or(Need::Guest(user))
    }

    /// The newest accepted state events that have the event at `auth_event` among their auth
    /// events, at least `count` of them or all.
    pub(super) fn authorized_by(&self, auth_event: Position, count: usize) -> Result<(Vec<Position>, bool), Need> {
        let staged = self.authorized_by.get(&auth_event).map(Vec::as_slice).unwrap_or_default();
        let (stored, all) = match self.known.authorized_by.get(&auth_event) {
            Some((stored, all)) if *all || stored.len() >= count => (stored.as_slice(), *all),
            _ if auth_event > self.tx.base() => (&[][..], true),
            _ => return Err(Need::AuthEdges(auth_event, count)),
        };
        Ok((staged.iter().rev().chain(stored).copied().collect(), all))
    }

    /// Remembers which events an accepted state event has among its auth events.
    pub(super) fn add_auth_edges(&mut self, authorized: Position, auth_events: &[OwnedEventId]) -> Result<(), Stop> {
        for id in auth_events {
            let Some(auth_event) = self.event_by_id(id)? else { continue };
            tables::AUTH_EDGES.put(self.tx, &(self.room.nid, auth_event.state_position(), authorized), &());
            self.authorized_by.entry(auth_event.state_position()).or_default().push(authorized);
        }
        Ok(())
    }

    /// The other servers that have members who have joined the room, staged changes included.
    pub fn servers(&self) -> Result<Rc<BTreeMap<OwnedServerName, u32>>, Need> {
        if let Some(servers) = &self.servers {
            return Ok(servers.clone());
        }
        if self.is_new {
            return Ok(Rc::default());
        }
        self.known.servers.clone().or_else(|| self.hs.rooms.servers.get(&self.room.nid)).ok_or(Need::Servers)
    }

    /// What waits for another server, if memory has it.
    pub(super) fn queues_of(&self, server: &ServerName) -> Option<Rc<Queues>> {
        self.known.queues.get(server).cloned().or_else(|| self.hs.queues_at_hand(server))
    }

    /// A member of another server has joined, or is in the room no more.
    pub(super) fn server_moved(&mut self, server: &ServerName, joined: bool) -> Result<(), Need> {
        let mut shared = self.servers()?;
        self.servers = None;
        // It is copied once in a decision: from then on nobody else has it.
        let servers = Rc::make_mut(&mut shared);
        let count = servers.entry(server.to_owned()).or_default();
        if joined && *count == 0 {
            self.new_servers.insert(server.to_owned());
        }
        *count = if joined { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            servers.remove(server);
            self.new_servers.remove(server);
        }
        self.servers = Some(shared);
        Ok(())
    }

    /// Events that the room's policy server has signed, by what they say.
    pub(super) fn signed(&self) -> &[(String, Pdu)] {
        &self.known.signed
    }

    pub(super) fn resolutions(&self) -> &Resolutions {
        &self.known.resolutions
    }

    /// What holds each of `keys` in a state.
    pub fn state_get(&self, root: NodeId, keys: &[ephapse_events::StateKey]) -> Result<Vec<Option<Position>>, Stop> {
        Ok(state_tree::get(root, keys, &|id| self.node(id))?)
    }

    /// The position of the next event or change.
    pub(super) fn next_position(&self) -> Position {
        self.tx.next_position()
    }

    /// Adds something clients can see, at [`Self::next_position`].
    pub fn change(&mut self, change: Change) -> Position {
        self.tx.change(change)
    }

    pub(super) fn add_nodes(&mut self, nodes: Vec<(NodeId, Rc<Node>)>) {
        for (id, node) in &nodes {
            tables::STATE_NODES.put(self.tx, &(self.room.nid, id.0), &tables::RawBytes(node.encode()));
        }
        self.nodes.get_mut().extend(nodes);
    }

    /// Puts an event where it stands: a new one, or a changed one in place of what stood there.
    pub(super) fn put_event(&mut self, event: Rc<Event>) {
        self.ids.insert(event.pdu.event_id.clone(), event.position);
        if let Some(outlier) = event.outlier {
            // States refer to it as it is.
            let copy = Event { position: outlier, outlier: None, ..Event::clone(&event) };
            self.events.insert(outlier, Rc::new(copy));
        }
        self.events.insert(event.position, event);
    }

    /// The position of the next outlier.
    pub(super) fn next_outlier(&mut self) -> Position {
        self.head.outliers += 1;
        // From far below upwards, so that they stand in the order of their arrival.
        Position(i64::MIN.saturating_add_unsigned(self.head.outliers).min(Position::LAST_OUTLIER.0))
    }

    /// Who has left types no more, and those who stay are told.
    fn end_typing(&mut self) {
        let mut typing = self.hs.sync.typing.in_room(self.room.nid);
        self.left.retain(|user| typing.contains(user));
        if !self.left.is_empty() {
            typing.retain(|user| !self.left.contains(user));
            self.change(Change::Typing { room: self.room.nid, anybody: !typing.is_empty() });
        }
    }

    /// Events staged or changed.
    fn changed_events(&self) -> Vec<Rc<Event>> {
        self.events.values().cloned().collect()
    }

    fn encode(&mut self, event: &Event) {
        let place = (self.room.nid, event.position);
        tables::EVENTS.put(self.tx, &place, &event.to_record());
        // Outliers and what was fetched of the past stand below all positions that are given.
        let is_old = event.position <= Position(0);
        let is_new = event.position > self.tx.base() || is_old && self.ids.get(&event.pdu.event_id) == Some(&event.position);
        if is_new {
            tables::EVENT_IDS.put(self.tx, &event.pdu.event_id, &place);
        }
    }

    /// Stages the head as the decision leaves it, and what memory keeps of all this.
    fn finish(self, before: &RoomHead) {
        let room = self.room;
        if self.is_new || self.head != *before {
            tables::ROOM_HEADS.put(self.tx, &room.nid, &self.head);
        }
        let servers = self.servers;
        if let Some(servers) = &servers {
            let stored = self.known.servers.clone().or_else(|| self.hs.rooms.servers.get(&room.nid)).unwrap_or_default();
            for server in stored.keys().filter(|server| !servers.contains_key(*server)) {
                tables::ROOM_SERVERS.delete(self.tx, &(room.nid, server.clone()));
            }
            for (server, count) in servers.iter().filter(|(server, count)| stored.get(*server) != Some(count)) {
                tables::ROOM_SERVERS.put(self.tx, &(room.nid, server.clone()), count);
            }
        }
        let mut nodes = self.nodes.into_inner();
        if self.slice.is_some() {
            // Of many states only the one that the room goes on from: the others would take its
            // place in memory.
            nodes = nodes_of(NodeId(self.head.state), nodes);
        }
        let (is_new, left, head, events, ids) = (self.is_new, self.left, self.head, self.events, self.ids);
        self.tx.then(move |hs| {
            let (rooms, nid) = (&hs.rooms, room.nid);
            left.iter().for_each(|user| hs.sync.typing.left(nid, *user));
            if is_new {
                rooms.set_info(&room);
            }
            rooms.set_head(nid, Rc::new(head));
            if let Some(servers) = servers {
                if !servers.is_empty() {
                    hs.federation.outbox.found_peers();
                }
                let weight = weight_of_servers(&servers);
                rooms.servers.set(nid, servers, weight);
            }
            for (id, position) in ids {
                let weight = id.as_str().len();
                rooms.ids.set(id, (nid, position), weight);
            }
            for (position, event) in events {
                let weight = event.weight();
                rooms.events.set((nid, position), event, weight);
            }
            for (id, node) in nodes {
                let weight = node.weight();
                rooms.nodes.set((nid, id), node, weight);
            }
        });
    }
}

/// Those of `nodes` that a state consists of.
fn nodes_of(root: NodeId, mut nodes: HashMap<NodeId, Rc<Node>>) -> HashMap<NodeId, Rc<Node>> {
    let mut found = HashMap::new();
    let mut reached = vec![root];
    while let Some(id) = reached.pop() {
        let Some(node) = nodes.remove(&id) else { continue };
        if let Node::Branch(children) = &*node {
            reached.extend(children.iter().map(|(_, child)| *child));
        }
        found.insert(id, node);
    }
    found
}
