//! A room on the server under test with a second server in it, which signs what it sends.

use super::super::{
    Draft, Error, Event, NodeId, RoomInfo, Stop, Write,
    state_tree::{Node, Part},
};
use crate::{
    position::Position,
    tables::{self, Room},
    test_support::{TestServer, TestUser},
};
use ephapse_events::{NewPdu, Pdu, ROOM_VERSIONS, ReceivedPdu, auth, public_keys, signing_key};
use ephapse_store::{Direction, Reader};
use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, OwnedServerName, OwnedUserId, RoomVersionId, UInt,
    events::{StateEventType, TimelineEventType},
    signatures::Ed25519KeyPair,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

/// Another server: a name and a key.
pub(super) struct Remote {
    pub(super) name: OwnedServerName,
    pub(super) key: Ed25519KeyPair,
}

impl Remote {
    pub(super) fn new(name: &str, seed: u8) -> Self {
        Self { name: name.try_into().expect("a name"), key: signing_key(&[seed; 32], "a") }
    }

    pub(super) fn user(&self, localpart: &str) -> OwnedUserId {
        format!("@{localpart}:{}", self.name).try_into().expect("a user id")
    }
}

/// A room on the server under test, and what tests do in it.
pub(super) struct Forked {
    pub(super) server: TestServer,
    pub(super) room: Rc<RoomInfo>,
    pub(super) alice: TestUser,
    pub(super) remote: Remote,
    pub(super) clock: std::cell::Cell<u64>,
    /// What the other server says of the depth of its events, at least.
    pub(super) depth: std::cell::Cell<u64>,
}

impl Forked {
    /// A public room that alice of the server under test made, in which `@eve:other.example` has
    /// joined.
    pub(super) fn new(version: &RoomVersionId) -> Self {
        let server = TestServer::new();
        let alice = server.register("alice");
        let room = public_room(&server, &alice, version);
        let forked = Self {
            server,
            room,
            alice,
            remote: Remote::new("other.example", 9),
            clock: std::cell::Cell::new(1_700_000_100_000),
            depth: Default::default(),
        };
        forked.join("eve");
        forked
    }

    /// Somebody of the other server joins.
    pub(super) fn join(&self, localpart: &str) -> Rc<Event> {
        let user = self.remote.user(localpart);
        let join = Draft::state(user.clone(), StateEventType::RoomMember, user.as_str(), object(&json!({ "membership": "join" })));
        self.receive(self.remote_event(join, &self.end()))
    }

    /// The events at the end of the room.
    pub(super) fn end(&self) -> Vec<Rc<Event>> {
        let (hs, nid) = (self.server.hs.clone(), self.room.nid);
        self.server.run(async move {
            let head = hs.room_head(nid).await.expect("a head");
            let positions: Vec<Position> = head.extremities.iter().map(|extremity| extremity.position).collect();
            hs.events_at(nid, &positions).await.expect("events").into_iter().flatten().collect()
        })
    }

    /// An event of the other server, built on `parents`, which must not be in conflict.
    pub(super) fn remote_event(&self, draft: Draft, parents: &[Rc<Event>]) -> Pdu {
        self.remote_event_of(&self.remote, draft, parents)
    }

    /// The same of any other server.
    pub(super) fn remote_event_of(&self, remote: &Remote, draft: Draft, parents: &[Rc<Event>]) -> Pdu {
        let rules = &self.room.rules;
        let content = serde_json::value::to_raw_value(&*draft.content).expect("JSON");
        let keys =
            auth::auth_events_of(&draft.event_type, &draft.sender, draft.state_key.as_deref(), &content, &rules.authorization).expect("auth types");
        let (hs, nid, state) = (self.server.hs.clone(), self.room.nid, parents[0].state_after);
        let auth_events = self.server.run(async move {
            let found = hs.state_get(nid, state, &keys).await.expect("a state");
            hs.events_at(nid, &found.into_iter().flatten().collect::<Vec<_>>()).await.expect("events")
        });
        self.clock.set(self.clock.get() + 1000);
        let new = NewPdu {
            room_id: Some(self.room.id.clone()),
            sender: draft.sender,
            event_type: draft.event_type,
            state_key: draft.state_key,
            content: draft.content,
            prev_events: parents.iter().map(|event| event.pdu.reference(rules).expect("a reference")).collect(),
            auth_events: auth_events.into_iter().flatten().map(|event| event.pdu.reference(rules).expect("a reference")).collect(),
            depth: (1 + parents.iter().map(|event| event.pdu.depth).max().unwrap_or(0)).max(self.depth.get()),
            origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.clock.get())),
            redacts: draft.redacts,
            event_localpart: self.clock.get().to_string(),
        };
        let signed = new.sign(&remote.name, &remote.key, rules).expect("an event");
        // As it would come over the wire: parsed, its signature and hash verified.
        let received = ReceivedPdu::parse(&signed.json, rules).expect("an event");
        received.verify(&public_keys(&remote.name, &remote.key), rules).expect("a good signature")
    }

    pub(super) fn message(&self, body: &str, parents: &[Rc<Event>]) -> Pdu {
        let content = object(&json!({ "msgtype": "m.text", "body": body }));
        self.remote_event(Draft::message(self.remote.user("eve"), TimelineEventType::RoomMessage, content), parents)
    }

    /// Somebody of the other server redacts an event that need not be here.
    pub(super) fn redaction(&self, localpart: &str, target: &Pdu, parents: &[Rc<Event>]) -> Pdu {
        let draft = Draft::message(self.remote.user(localpart), TimelineEventType::RoomRedaction, CanonicalJsonObject::new());
        self.remote_event(Draft { redacts: Some(target.event_id.clone()), ..draft }, parents)
    }

    pub(super) fn receive(&self, pdu: Pdu) -> Rc<Event> {
        self.try_receive(pdu).expect("received")
    }

    pub(super) fn try_receive(&self, pdu: Pdu) -> Result<Rc<Event>, Error> {
        received(&self.server, &self.room, pdu)
    }

    pub(super) fn say(&self, body: &str) -> Rc<Event> {
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{body}", self.room.id);
        let sent = self.server.put(&self.alice, &path, json!({ "msgtype": "m.text", "body": body })).ok();
        self.event(sent["event_id"].as_str().expect("an id"))
    }

    pub(super) fn event(&self, id: &str) -> Rc<Event> {
        let (hs, nid, id) = (self.server.hs.clone(), self.room.nid, ruma::OwnedEventId::try_from(id).expect("an id"));
        self.server.run(async move { hs.event_by_id(nid, &id).await }).expect("a read").expect("the event")
    }

    pub(super) fn seen(&self) -> Vec<String> {
        let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=100", self.room.id);
        let page = self.server.get(&self.alice, &path).ok();
        page["chunk"].as_array().expect("a chunk").iter().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
    }

    pub(super) fn state_of(&self, root: NodeId) -> BTreeMap<(String, String), String> {
        let (hs, nid) = (self.server.hs.clone(), self.room.nid);
        self.server.run(async move {
            let mut state = BTreeMap::new();
            for ((kind, key), position) in hs.state_entries(nid, root, Part::All).await.expect("a state") {
                state.insert((kind.to_string(), key), hs.event_at(nid, position).await.expect("an event").pdu.event_id.to_string());
            }
            state
        })
    }
}

pub(super) fn versions() -> Vec<RoomVersionId> {
    ROOM_VERSIONS.to_vec()
}

pub(super) fn public_room(server: &TestServer, owner: &TestUser, version: &RoomVersionId) -> Rc<RoomInfo> {
    let request = json!({ "preset": "public_chat", "room_version": version });
    let id = server.post(owner, "/_matrix/client/v3/createRoom", request).ok()["room_id"].as_str().expect("an id").to_owned();
    let id: ruma::OwnedRoomId = id.try_into().expect("a room id");
    let hs = server.hs.clone();
    server.run(async move { hs.room(&id).await }).expect("a read").expect("the room")
}

pub(super) fn object(json: &Value) -> CanonicalJsonObject {
    serde_json::from_value(json.clone()).expect("canonical JSON")
}

/// The topic that a client knows after a sync, when it does with the answer what the specification
/// says.
pub(super) fn topic_after(answer: &Value, room: &str, known: Option<String>) -> Option<String> {
    let joined = &answer["rooms"]["join"][room];
    let events = match joined.get("state_after") {
        Some(state) => state["events"].as_array().cloned().unwrap_or_default(),
        None => [&joined["state"]["events"], &joined["timeline"]["events"]].into_iter().filter_map(Value::as_array).flatten().cloned().collect(),
    };
    let mut topics = events.iter().filter(|event| event["type"] == "m.room.topic");
    topics.next_back().and_then(|event| event["content"]["topic"].as_str().map(str::to_owned)).or(known)
}

/// Every event of a room, in the order in which it came.
pub(super) fn events_of(forked: &Forked) -> Vec<Rc<Event>> {
    let (hs, nid) = (forked.server.hs.clone(), forked.room.nid);
    forked.server.run(async move { hs.events_between(nid, Position::MIN..Position::MAX, Direction::Forward, 1000).await }).expect("events")
}

/// Nodes of the room's state tree that are stored although no event refers to them. Nothing
/// collects such nodes, since there must be none: only what an event refers to is written, and
/// events go with their room only.
pub(super) fn stray_nodes(forked: &Forked) -> BTreeSet<NodeId> {
    let (store, nid) = (Reader::new(forked.server.store.clone()), forked.room.nid);
    let stored = forked.server.run(async move { tables::STATE_NODES.scan(&store, &nid, Direction::Forward, usize::MAX).await }).expect("nodes");
    let mut stored: BTreeMap<NodeId, Node> =
        stored.into_iter().map(|((_, id), bytes)| (NodeId(id), Node::decode(&bytes.0).expect("a node"))).collect();
    let mut referred: Vec<NodeId> = events_of(forked).iter().flat_map(|event| [event.state_before, event.state_after, event.room_state]).collect();
    while let Some(id) = referred.pop() {
        if let Some(Node::Branch(children)) = stored.remove(&id) {
            referred.extend(children.into_iter().map(|(_, child)| child));
        }
    }
    stored.into_keys().collect()
}

/// A room on a server that is told of its create event.
pub(super) fn begun(server: &TestServer, version: &RoomVersionId, create: &Pdu) -> Rc<RoomInfo> {
    let hs = server.hs.clone();
    let rules = version.rules().expect("rules");
    let room = Rc::new(RoomInfo { nid: hs.rooms.next_nid(), id: create.room_id.clone(), version: version.clone(), rules });
    let (create, written) = (create.clone(), room.clone());
    let written = async move {
        let begin = async |write: &mut Write<'_>| -> Result<(), Stop> {
            tables::ROOMS.put(write.tx, &written.nid, &Room { id: written.id.clone(), version: written.version.clone() });
            write.begin(create.clone())
        };
        hs.write_new_room(&written, 0, 1, HashMap::new(), HashMap::new(), begin).await
    };
    server.run(written).expect("a room");
    room
}

pub(super) fn received(server: &TestServer, room: &Rc<RoomInfo>, pdu: Pdu) -> Result<Rc<Event>, Error> {
    let (hs, room) = (server.hs.clone(), room.clone());
    server.run(async move { hs.write_room(&room, 0, |write: &mut Write<'_>| write.receive(pdu.clone())).await })
}

/// The same room on a fresh server that is told of `events` in this order.
pub(super) fn told(version: &RoomVersionId, events: &[Pdu]) -> Forked {
    let server = TestServer::new();
    let alice = server.register("alice");
    let (create, rest) = events.split_first().expect("a create event");
    let room = begun(&server, version, create);
    let forked = Forked { server, room, alice, remote: Remote::new("other.example", 9), clock: Default::default(), depth: Default::default() };
    for event in rest {
        forked.receive(event.clone());
    }
    forked
}

/// What a server that knows nothing else keeps of the last of `events`, when it is told of them in
/// this order; none if it does not take it in.
pub(super) fn kept(version: &RoomVersionId, events: &[Pdu]) -> Option<Rc<Event>> {
    let server = TestServer::new();
    let ([create, between @ ..], last) = (&events[..events.len() - 1], &events[events.len() - 1]) else { panic!("a create event and another") };
    let room = begun(&server, version, create);
    for pdu in between {
        received(&server, &room, Pdu { rejected: false, ..pdu.clone() }).expect("received");
    }
    received(&server, &room, last.clone()).ok()
}
