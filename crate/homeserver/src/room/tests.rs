//! Rooms with a second server in them: forks, late events, conflicting bans, through the one append.

#[path = "../../tests/client/support.rs"]
#[allow(dead_code, clippy::unwrap_used, missing_docs)]
mod support;

use super::{
    Draft, Event, NewPdu, NodeId, Pdu, ReceivedPdu, RoomInfo, Stop, Write,
    state_tree::{Node, Part},
};
use crate::{
    position::Position,
    property::holds,
    tables::{self, Room},
};
use ephapse_store::Direction;
use proptest::{prelude::*, test_runner::TestCaseResult};
use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, OwnedServerName, OwnedUserId, RoomVersionId, UInt,
    events::{StateEventType, TimelineEventType},
    signatures::{Ed25519KeyPair, KeyPair},
    state_res::auth_types_for_event,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};
use support::{TestServer, TestUser};

/// Another server: a name and a key.
struct Remote {
    name: OwnedServerName,
    key: Ed25519KeyPair,
}

impl Remote {
    fn new(name: &str, seed: u8) -> Self {
        use ed25519_dalek::pkcs8::EncodePrivateKey;
        let der = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).to_pkcs8_der().expect("a key");
        Self { name: name.try_into().expect("a name"), key: Ed25519KeyPair::from_der(der.as_bytes(), "a".to_owned()).expect("a key") }
    }

    fn user(&self, localpart: &str) -> OwnedUserId {
        format!("@{localpart}:{}", self.name).try_into().expect("a user id")
    }
}

/// A room on the server under test, and what tests do in it.
struct Forked {
    server: TestServer,
    room: Rc<RoomInfo>,
    alice: TestUser,
    remote: Remote,
    clock: std::cell::Cell<u64>,
    /// What the other server says of the depth of its events, at least.
    depth: std::cell::Cell<u64>,
}

fn public_room(server: &TestServer, owner: &TestUser, version: &RoomVersionId) -> Rc<RoomInfo> {
    let request = json!({ "preset": "public_chat", "room_version": version });
    let id = server.post(owner, "/_matrix/client/v3/createRoom", request).ok()["room_id"].as_str().expect("an id").to_owned();
    let id: ruma::OwnedRoomId = id.try_into().expect("a room id");
    let hs = server.hs.clone();
    server.run(async move { hs.room(&id).await }).expect("a read").expect("the room")
}

fn object(json: &Value) -> CanonicalJsonObject {
    serde_json::from_value(json.clone()).expect("canonical JSON")
}

impl Forked {
    /// A public room that alice of the server under test made, in which `@eve:other.example` has joined.
    fn new(version: &RoomVersionId) -> Self {
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
    fn join(&self, localpart: &str) -> Rc<Event> {
        let user = self.remote.user(localpart);
        let join = Draft::state(user.clone(), StateEventType::RoomMember, user.as_str(), object(&json!({ "membership": "join" })));
        self.receive(self.remote_event(join, &self.end()))
    }

    /// The events at the end of the room.
    fn end(&self) -> Vec<Rc<Event>> {
        let (hs, sn) = (self.server.hs.clone(), self.room.sn);
        self.server.run(async move {
            let head = hs.room_head(sn).await.expect("a head");
            let positions: Vec<Position> = head.extremities.iter().map(|extremity| extremity.position).collect();
            hs.events_at(sn, &positions).await.expect("events").into_iter().flatten().collect()
        })
    }

    /// An event of the other server, built on `parents`, which must not be in conflict.
    fn remote_event(&self, draft: Draft, parents: &[Rc<Event>]) -> Pdu {
        let rules = &self.room.rules;
        let content = serde_json::value::to_raw_value(&draft.content).expect("JSON");
        let keys =
            auth_types_for_event(&draft.event_type, &draft.sender, draft.state_key.as_deref(), &content, &rules.authorization).expect("auth types");
        let (hs, sn, state) = (self.server.hs.clone(), self.room.sn, parents[0].state_after);
        let auth_events = self.server.run(async move {
            let found = hs.state_get(sn, state, &keys).await.expect("a state");
            hs.events_at(sn, &found.into_iter().flatten().collect::<Vec<_>>()).await.expect("events")
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
        let signed = new.sign(&self.remote.name, &self.remote.key, rules).expect("an event");
        // As it would come over the wire: parsed, its signature and hash verified.
        let received = ReceivedPdu::parse(&signed.json, rules).expect("an event");
        let keys = BTreeMap::from([(
            self.remote.name.to_string(),
            BTreeMap::from([(format!("ed25519:{}", self.remote.key.version()), ruma::serde::Base64::new(self.remote.key.public_key().to_vec()))]),
        )]);
        assert_eq!(KeyPair::sign(&self.remote.key, b"x").algorithm(), ruma::SigningKeyAlgorithm::Ed25519);
        received.verify(&keys.into_iter().collect(), rules).expect("a good signature")
    }

    fn message(&self, body: &str, parents: &[Rc<Event>]) -> Pdu {
        let content = object(&json!({ "msgtype": "m.text", "body": body }));
        self.remote_event(Draft::message(self.remote.user("eve"), TimelineEventType::RoomMessage, content), parents)
    }

    /// Somebody of the other server redacts an event that need not be here.
    fn redaction(&self, localpart: &str, target: &Pdu, parents: &[Rc<Event>]) -> Pdu {
        let draft = Draft::message(self.remote.user(localpart), TimelineEventType::RoomRedaction, CanonicalJsonObject::new());
        self.remote_event(Draft { redacts: Some(target.event_id.clone()), ..draft }, parents)
    }

    fn receive(&self, pdu: Pdu) -> Rc<Event> {
        self.try_receive(pdu).expect("received")
    }

    fn try_receive(&self, pdu: Pdu) -> crate::error::Result<Rc<Event>> {
        received(&self.server, &self.room, pdu)
    }

    fn say(&self, body: &str) -> Rc<Event> {
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{body}", self.room.id);
        let sent = self.server.put(&self.alice, &path, json!({ "msgtype": "m.text", "body": body })).ok();
        self.event(sent["event_id"].as_str().expect("an id"))
    }

    fn event(&self, id: &str) -> Rc<Event> {
        let (hs, sn, id) = (self.server.hs.clone(), self.room.sn, ruma::OwnedEventId::try_from(id).expect("an id"));
        self.server.run(async move { hs.event_by_id(sn, &id).await }).expect("a read").expect("the event")
    }

    fn seen(&self) -> Vec<String> {
        let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=100", self.room.id);
        let page = self.server.get(&self.alice, &path).ok();
        page["chunk"].as_array().expect("a chunk").iter().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
    }

    fn state_of(&self, root: NodeId) -> BTreeMap<(String, String), String> {
        let (hs, sn) = (self.server.hs.clone(), self.room.sn);
        self.server.run(async move {
            let mut state = BTreeMap::new();
            for ((kind, key), position) in hs.state_entries(sn, root, Part::All).await.expect("a state") {
                state.insert((kind.to_string(), key), hs.event_at(sn, position).await.expect("an event").pdu.event_id.to_string());
            }
            state
        })
    }
}

/// Nodes of the room's state tree that are stored although no event refers to them. Nothing collects such nodes, since there must be none: only what
/// an event refers to is written, and events go with their room only.
fn stray_nodes(forked: &Forked) -> BTreeSet<NodeId> {
    let (store, sn) = (forked.server.store.clone(), forked.room.sn);
    let stored = forked.server.run(async move { tables::STATE_NODES.scan(&*store, &sn, Direction::Forward, usize::MAX).await }).expect("nodes");
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

fn versions() -> Vec<RoomVersionId> {
    super::VERSIONS.to_vec()
}

#[test]
fn a_late_event_is_shown_and_the_next_one_merges_the_fork() {
    for version in versions() {
        let forked = Forked::new(&version);
        let before = forked.end();
        let one = forked.say("one");
        let late = forked.receive(forked.message("late", &before));
        assert!(late.is_shown());
        let merging = forked.say("two");
        let parents: BTreeSet<_> = merging.pdu.prev_events.iter().collect();
        assert_eq!(parents, BTreeSet::from([&one.pdu.event_id, &late.pdu.event_id]), "version {version}");
        assert_eq!(forked.seen(), ["two", "late", "one"]);
    }
}

/// Clients were told of redactions that this server did not apply, and clients apply what they are told of.
#[test]
fn clients_are_told_of_a_redaction_when_it_is_applied() {
    for version in versions().into_iter().filter(|version| version.rules().is_some_and(|rules| !rules.authorization.special_case_room_redaction)) {
        let mut forked = Forked::new(&version);
        let sync = |forked: &Forked, since: &str| {
            let answer = forked.server.get(&forked.alice, &format!("/_matrix/client/v3/sync?timeout=0{since}")).ok();
            let timeline = answer["rooms"]["join"][forked.room.id.as_str()]["timeline"]["events"].as_array().cloned().unwrap_or_default();
            (timeline, format!("&since={}", answer["next_batch"].as_str().expect("a token")))
        };
        let hers = forked.say("hers");
        let (_, since) = sync(&forked, "");
        // Eve has no power over alice's events.
        let refused = forked.receive(forked.redaction("eve", &hers.pdu, &forked.end()));
        assert!(refused.is_accepted() && !refused.is_shown(), "version {version}");
        assert!(forked.event(hers.pdu.event_id.as_str()).redacted_by.is_none());
        // What eve redacts of her own is not here yet.
        let target = forked.message("secret", &forked.end());
        let early = forked.receive(forked.redaction("eve", &target, &forked.end()));
        assert_eq!(sync(&forked, &since).0, Vec::<Value>::new());
        forked.server = forked.server.restart();
        for hidden in [&refused, &early] {
            let id = percent_encoding::utf8_percent_encode(hidden.pdu.event_id.as_str(), percent_encoding::NON_ALPHANUMERIC);
            forked.server.get(&forked.alice, &format!("/_matrix/client/v3/rooms/{}/event/{id}", forked.room.id)).fails(404, "M_NOT_FOUND");
        }
        let (_, since) = sync(&forked, &since);
        let target = forked.receive(target);
        let (timeline, since) = sync(&forked, &since);
        let ids: Vec<_> = timeline.iter().map(|event| event["event_id"].as_str().expect("an id")).collect();
        assert_eq!(ids, [target.pdu.event_id.as_str(), early.pdu.event_id.as_str()], "version {version}");
        assert_eq!((&timeline[0]["content"], &timeline[1]["redacts"]), (&json!({}), &json!(target.pdu.event_id)));
        assert_eq!(timeline[0]["unsigned"]["redacted_because"]["event_id"], early.pdu.event_id.as_str());
        // Both are ends of the room all the same, and the early one stands in one place only.
        let next = forked.say("next");
        assert!(next.pdu.prev_events.contains(&early.pdu.event_id));
        assert_eq!(sync(&forked, &since).0.len(), 1);
        assert_eq!(events_of(&forked).iter().filter(|event| event.pdu.event_id == early.pdu.event_id).count(), 1);
        assert_eq!(stray_nodes(&forked), BTreeSet::new());
    }
}

#[test]
fn behind_the_deepest_event_there_is_nothing_deeper() {
    for version in versions() {
        let forked = Forked::new(&version);
        let deepest = super::max_depth(&forked.room.rules);
        forked.depth.set(deepest);
        let deep = forked.receive(forked.message("deep", &forked.end()));
        assert_eq!(deep.pdu.depth, deepest);
        let next = forked.say("next");
        assert_eq!((next.pdu.depth, &next.pdu.prev_events[0]), (deepest, &deep.pdu.event_id), "version {version}");
    }
}

/// A redaction that came before what it redacts was one of what relates to it, of which 256 were read.
#[test]
fn a_redaction_is_not_lost_behind_what_came_before_it() {
    for version in [RoomVersionId::V1, RoomVersionId::V11] {
        let forked = Forked::new(&version);
        let end = forked.end();
        let target = forked.message("secret", &end);
        for n in 0..260 {
            let content = json!({ "body": n, "m.relates_to": { "rel_type": "m.reference", "event_id": target.event_id } });
            forked.receive(forked.remote_event(Draft::message(forked.remote.user("eve"), TimelineEventType::RoomMessage, object(&content)), &end));
        }
        forked.receive(forked.redaction("eve", &target, &end));
        let redacted = forked.receive(target);
        assert!(forked.event(redacted.pdu.event_id.as_str()).redacted_by.is_some(), "version {version}");
        assert!(!forked.seen().contains(&"secret".to_owned()));
    }
}

/// Where servers give ids themselves, the same id in a second room took the event away from the first, which could not be read or written any more.
#[test]
fn an_id_is_given_in_one_room_only() {
    for version in [RoomVersionId::V1, RoomVersionId::V2] {
        for restarted in [false, true] {
            let mut forked = Forked::new(&version);
            let end = forked.end();
            let first = forked.receive(forked.message("here", &end));
            let clock = forked.clock.get();
            let second = public_room(&forked.server, &forked.alice, &version);
            let first_room = std::mem::replace(&mut forked.room, second);
            forked.join("eve");
            let end = forked.end();
            forked.clock.set(clock - 1000);
            let again = forked.message("there", &end);
            assert_eq!(again.event_id, first.pdu.event_id);
            if restarted {
                forked.server = forked.server.restart();
            }
            let refused = forked.try_receive(again).expect_err("the id is another event's");
            assert!(matches!(refused, crate::error::Error::Matrix(_)), "{refused}");
            assert_eq!(forked.say("still").pdu.prev_events.len(), 1);
            forked.room = first_room;
            assert_eq!(forked.event(first.pdu.event_id.as_str()).pdu.json, first.pdu.json);
            forked.say("also");
            assert_eq!(forked.seen(), ["also", "here"], "version {version}");
        }
    }
}

/// What relates to an event through one that this server did not have yet.
#[test]
fn what_relates_through_a_late_event_is_found_when_that_has_come() {
    let forked = Forked::new(&RoomVersionId::V11);
    let end = forked.end();
    let relating = |body: &str, rel_type: &str, parent: &Pdu| {
        let content = json!({ "msgtype": "m.text", "body": body, "m.relates_to": { "rel_type": rel_type, "event_id": parent.event_id } });
        forked.remote_event(Draft::message(forked.remote.user("eve"), TimelineEventType::RoomMessage, object(&content)), &end)
    };
    let root = forked.message("root", &end);
    let late = relating("late", "m.thread", &root);
    let child = relating("child", "m.annotation", &late);
    let grandchild = relating("grandchild", "m.reference", &child);
    for pdu in [&root, &child, &grandchild, &late] {
        forked.receive(pdu.clone());
    }
    let path = format!("/_matrix/client/v1/rooms/{}/relations/{}?dir=f&recurse=", forked.room.id, root.event_id);
    let found = |recurse: bool| {
        let page = forked.server.get(&forked.alice, &format!("{path}{recurse}")).ok();
        page["chunk"].as_array().expect("a chunk").iter().map(|event| event["content"]["body"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(found(true), ["child", "grandchild", "late"]);
    assert_eq!(found(false), ["late"]);
}

/// The specification's example of soft failure: a banned user's server sends an event that claims to be from before the ban.
#[test]
fn what_a_banned_user_sends_from_before_the_ban_is_kept_but_shown_to_nobody() {
    for version in versions() {
        let forked = Forked::new(&version);
        let before = forked.end();
        let ban = format!("/_matrix/client/v3/rooms/{}/ban", forked.room.id);
        forked.server.post(&forked.alice, &ban, json!({ "user_id": "@eve:other.example" })).ok();
        let evading = forked.receive(forked.message("evading", &before));
        assert!(evading.soft_failed && evading.rejected.is_none(), "version {version}");
        assert!(forked.seen().is_empty());
        let next = forked.say("next");
        assert!(!next.pdu.prev_events.contains(&evading.pdu.event_id), "it must not become part of the room's end");
        forked
            .server
            .get(&forked.alice, &format!("/_matrix/client/v3/rooms/{}/event/{}", forked.room.id, evading.pdu.event_id))
            .fails(404, "M_NOT_FOUND");
        // After the ban, in the open: rejected.
        let open = forked.receive(forked.message("open", &forked.end()));
        assert!(open.rejected.is_some());
    }
}

/// The oldest extremity was dropped for the newest: 64 forks from before a ban, each with a state of its own, undid the ban.
#[test]
fn a_ban_holds_against_forks_without_end() {
    for version in [RoomVersionId::V1, RoomVersionId::V6, RoomVersionId::V12] {
        let forked = Forked::new(&version);
        let room = forked.room.id.as_str();
        let bob = forked.server.register("bob");
        forked.server.post(&bob, &format!("/_matrix/client/v3/join/{room}"), json!({})).ok();
        let before = forked.end();
        let eve = forked.remote.user("eve");
        let renamed = |n: usize| {
            let content = object(&json!({ "membership": "join", "displayname": n.to_string() }));
            forked.remote_event(Draft::state(eve.clone(), StateEventType::RoomMember, eve.as_str(), content), &before)
        };
        forked.server.post(&forked.alice, &format!("/_matrix/client/v3/rooms/{room}/ban"), json!({ "user_id": bob.id })).ok();
        let membership = || {
            let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/{}", bob.id);
            forked.server.get(&forked.alice, &path).ok()["membership"].clone()
        };
        for n in 0..70 {
            let fork = forked.receive(renamed(n));
            assert!(fork.is_shown(), "version {version}");
        }
        assert!(forked.end().len() <= 64);
        assert_eq!(membership(), "ban", "version {version}");
        // Who speaks makes fewer of them.
        for body in ["one", "two", "three", "four"] {
            forked.say(body);
        }
        assert_eq!(forked.end().len(), 1);
        assert_eq!(membership(), "ban", "version {version}");
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/t");
        forked.server.put(&bob, &path, json!({ "body": "here" })).fails(403, "M_FORBIDDEN");
    }
}

/// A local event was judged by the state of its parents alone, which are the newest 20 ends of the room: 20 messages from before a ban let the banned speak.
#[test]
fn who_is_banned_may_not_speak_whatever_the_newest_ends_say() {
    for version in versions() {
        let forked = Forked::new(&version);
        let room = forked.room.id.as_str();
        let bob = forked.server.register("bob");
        forked.server.post(&bob, &format!("/_matrix/client/v3/join/{room}"), json!({})).ok();
        let before = forked.end();
        forked.server.post(&forked.alice, &format!("/_matrix/client/v3/rooms/{room}/ban"), json!({ "user_id": bob.id })).ok();
        for n in 0..20 {
            forked.receive(forked.message(&n.to_string(), &before));
        }
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/t");
        forked.server.put(&bob, &path, json!({ "body": "here" })).fails(403, "M_FORBIDDEN");
        forked.server.post(&bob, &format!("/_matrix/client/v3/join/{room}"), json!({})).fails(403, "M_FORBIDDEN");
        forked.say("end");
        forked.server.put(&bob, &path, json!({ "body": "here" })).fails(403, "M_FORBIDDEN");
    }
}

/// A rejected or soft-failed event takes the place of no extremity, and what came after it took the place of itself alone: what stood before it stayed an end
/// of the room forever.
#[test]
fn what_others_stand_on_through_rejected_and_soft_failed_events_is_no_end_of_the_room() {
    for version in versions() {
        let forked = Forked::new(&version);
        let frank = forked.remote.user("frank");
        let joined = forked.join("frank");
        let says = |body: &str, parent: &Rc<Event>| {
            let content = object(&json!({ "body": body }));
            forked.receive(forked.remote_event(Draft::message(frank.clone(), TimelineEventType::RoomMessage, content), std::slice::from_ref(parent)))
        };
        let path = format!("/_matrix/client/v3/rooms/{}/ban", forked.room.id);
        forked.server.post(&forked.alice, &path, json!({ "user_id": "@eve:other.example" })).ok();
        let banned = forked.end();
        let other = says("from before the ban", &joined);
        let soft_failed = forked.receive(forked.message("soft-failed", std::slice::from_ref(&other)));
        assert!(soft_failed.soft_failed);
        let behind = says("behind it", &soft_failed);
        let ends = || forked.end().iter().map(|event| event.pdu.event_id.clone()).collect::<BTreeSet<_>>();
        assert_eq!(ends(), BTreeSet::from([banned[0].pdu.event_id.clone(), behind.pdu.event_id.clone()]), "version {version}");

        let rejected = forked.receive(forked.message("rejected", &banned));
        let again = forked.receive(forked.message("rejected too", std::slice::from_ref(&rejected)));
        assert!(rejected.rejected.is_some() && again.rejected.is_some());
        let last = says("behind both", &again);
        assert_eq!(ends(), BTreeSet::from([behind.pdu.event_id.clone(), last.pdu.event_id.clone()]), "version {version}");
    }
}

/// The specification's example of soft failure goes on: another server, which has not seen the ban when the event came, builds on both.
#[test]
fn what_another_server_builds_on_a_soft_failed_event_is_taken_as_it_is() {
    for version in versions() {
        let forked = Forked::new(&version);
        let room = forked.room.id.as_str();
        let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.power_levels/");
        let mut levels = forked.server.get(&forked.alice, &path).ok();
        levels["users"]["@eve:other.example"] = json!(50);
        forked.server.put(&forked.alice, &path, levels).ok();
        forked.join("frank");
        let a = forked.end();
        forked.server.post(&forked.alice, &format!("/_matrix/client/v3/rooms/{room}/ban"), json!({ "user_id": "@eve:other.example" })).ok();
        let b = forked.end().remove(0);
        let topic = Draft::state(forked.remote.user("eve"), StateEventType::RoomTopic, "", object(&json!({ "topic": "evading" })));
        let c = forked.receive(forked.remote_event(topic, &a));
        assert!(c.soft_failed, "version {version}");
        let sync = forked.server.get(&forked.alice, "/_matrix/client/v3/sync?timeout=0").ok();
        assert_eq!(topic_after(&sync, room, None), None);
        let content = object(&json!({ "body": "d" }));
        let d = Draft::message(forked.remote.user("frank"), TimelineEventType::RoomMessage, content);
        let d = forked.receive(forked.remote_event(d, &[b, c.clone()]));
        assert!(d.is_shown(), "version {version}");
        assert_eq!(forked.seen(), ["d"]);
        assert_eq!(forked.end().iter().map(|event| &event.pdu.event_id).collect::<Vec<_>>(), [&d.pdu.event_id]);
        // "The state at D may resolve to a state which includes C, in which case clients should also be told that the state has changed": in v1, where what
        // one branch alone has is no conflict.
        let expected = (version == RoomVersionId::V1).then_some("evading");
        let state = forked.server.get(&forked.alice, &format!("/_matrix/client/v3/rooms/{room}/state/m.room.topic/"));
        assert_eq!(state.body["topic"].as_str(), expected, "version {version}");
        let since = sync["next_batch"].as_str().expect("a token");
        let sync = forked.server.get(&forked.alice, &format!("/_matrix/client/v3/sync?timeout=0&since={since}")).ok();
        assert_eq!(topic_after(&sync, room, None).as_deref(), expected, "version {version}");
        let member = forked.server.get(&forked.alice, &format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/@eve:other.example")).ok();
        assert_eq!(member["membership"], "ban", "version {version}");
    }
}

#[test]
fn of_two_conflicting_bans_that_of_the_higher_level_holds() {
    for version in versions() {
        let forked = Forked::new(&version);
        let mut levels = forked.server.get(&forked.alice, &format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", forked.room.id)).ok();
        levels["users"]["@eve:other.example"] = json!(50);
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", forked.room.id);
        forked.server.put(&forked.alice, &path, levels).ok();
        let bob = forked.server.register("bob");
        forked.server.post(&bob, &format!("/_matrix/client/v3/join/{}", forked.room.id), json!({})).ok();
        let before = forked.end();
        // Eve bans bob while alice bans eve.
        let ban = Draft::state(forked.remote.user("eve"), StateEventType::RoomMember, bob.id.as_str(), object(&json!({ "membership": "ban" })));
        let eves = forked.remote_event(ban, &before);
        let path = format!("/_matrix/client/v3/rooms/{}/ban", forked.room.id);
        forked.server.post(&forked.alice, &path, json!({ "user_id": "@eve:other.example" })).ok();
        let eves = forked.receive(eves);
        assert!(eves.soft_failed, "version {version}");
        // Another branch of eve's server refers to the ban: both bans are in the conflict now.
        let follow = forked.remote_event(
            Draft::message(forked.remote.user("eve"), TimelineEventType::RoomMessage, object(&json!({ "body": "follow" }))),
            std::slice::from_ref(&eves),
        );
        let follow = forked.receive(follow);
        assert!(follow.soft_failed && follow.rejected.is_none());
        forked.say("end");
        let members = forked.server.get(&forked.alice, &format!("/_matrix/client/v3/rooms/{}/joined_members", forked.room.id)).ok();
        let joined: Vec<_> = members["joined"].as_object().expect("members").keys().cloned().collect();
        assert_eq!(joined, ["@alice:test.example", "@bob:test.example"], "version {version}");
    }
}

/// Each membership cost a round of the whole decision, and past some thousand of them the event could never be received.
#[test]
fn a_merge_that_changes_many_memberships_is_decided_in_few_rounds() {
    const MANY: usize = 300;
    let forked = Forked::new(&RoomVersionId::V11);
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", forked.room.id);
    let mut levels = forked.server.get(&forked.alice, &path).ok();
    levels["users"]["@eve:other.example"] = json!(100);
    forked.server.put(&forked.alice, &path, levels.clone()).ok();
    let bob = forked.server.register("bob");
    forked.server.post(&bob, &format!("/_matrix/client/v3/join/{}", forked.room.id), json!({})).ok();
    let before = forked.end();
    let bob: OwnedUserId = bob.id.try_into().expect("a user id");
    for n in 0..MANY {
        let invite = object(&json!({ "membership": "invite" }));
        let invite = Draft::state(bob.clone(), StateEventType::RoomMember, format!("@u{n}:other.example"), invite);
        let (hs, room) = (forked.server.hs.clone(), forked.room.clone());
        forked.server.run(async move { hs.write_room(&room, 0, |write: &mut Write<'_>| write.send(invite.clone())).await }).expect("sent");
    }
    let invited = || {
        let members = forked.server.get(&forked.alice, &format!("/_matrix/client/v3/rooms/{}/members?membership=invite", forked.room.id)).ok();
        members["chunk"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(invited(), MANY);
    // Before them, as eve says, inviting took more than bob has.
    levels["invite"] = json!(100);
    let levels = forked.remote_event(Draft::state(forked.remote.user("eve"), StateEventType::RoomPowerLevels, "", object(&levels)), &before);
    let (hs, room) = (forked.server.hs.clone(), forked.room.clone());
    let rounds = forked.server.run(async move {
        let mut rounds = 0;
        let receive = |write: &mut Write<'_>| {
            rounds += 1;
            write.receive(levels.clone())
        };
        hs.write_room(&room, 0, receive).await.expect("received");
        rounds
    });
    assert_eq!(invited(), 0);
    // Some of them because others have their turn.
    assert!(rounds <= 20, "{rounds} rounds");
}

/// The rules were asked for all events of a conflict in one turn, each time parsing the power levels: some hundred invitations under levels of 50 KB kept
/// everybody waiting.
#[test]
fn a_merge_under_large_power_levels_lets_others_go_on() {
    const MANY: usize = 40;
    for version in [RoomVersionId::V6, RoomVersionId::V12] {
        let forked = Forked::new(&version);
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", forked.room.id);
        let mut levels = forked.server.get(&forked.alice, &path).ok();
        for n in 0..1000 {
            levels["users"][format!("@somebody-whose-name-is-long-{n}:other.example")] = json!(1);
        }
        levels["users"]["@eve:other.example"] = json!(100);
        levels["users"]["@bob:test.example"] = json!(50);
        forked.server.put(&forked.alice, &path, levels.clone()).ok();
        let bob = forked.server.register("bob");
        forked.server.post(&bob, &format!("/_matrix/client/v3/join/{}", forked.room.id), json!({})).ok();
        let before = forked.end();
        for n in 0..MANY {
            let invite = json!({ "user_id": format!("@u{n}:other.example") });
            forked.server.post(&bob, &format!("/_matrix/client/v3/rooms/{}/invite", forked.room.id), invite).ok();
        }
        levels["invite"] = json!(100);
        let levels = forked.remote_event(Draft::state(forked.remote.user("eve"), StateEventType::RoomPowerLevels, "", object(&levels)), &before);
        let yielded = forked.server.host.yielded.get();
        let started = std::time::Instant::now();
        forked.receive(levels);
        let yielded = forked.server.host.yielded.get() - yielded;
        println!("version {version}: {yielded} turns in {:?}", started.elapsed());
        assert!(yielded as usize >= MANY / 4, "version {version}: {yielded} turns");
    }
}

/// Each of those who were in the room had all of their rooms read into memory, one after another in one turn.
#[test]
fn who_leaves_a_room_of_many_is_told_of_all_of_them_in_turns() {
    let forked = Forked::new(&RoomVersionId::V11);
    for n in 0..150 {
        let user = forked.remote.user(&format!("u{n}"));
        let join = Draft::state(user.clone(), StateEventType::RoomMember, user.as_str(), object(&json!({ "membership": "join" })));
        let end = forked.end();
        forked.receive(forked.remote_event(join, &end));
    }
    let alice = &forked.alice;
    let since = forked.server.get(alice, "/_matrix/client/v3/sync?timeout=0").ok()["next_batch"].as_str().expect("a token").to_owned();
    // One of them is in another room with alice.
    let body = json!({ "preset": "public_chat" });
    let other = forked.server.post(alice, "/_matrix/client/v3/createRoom", body).ok()["room_id"].as_str().expect("a room").to_owned();
    let bob = forked.server.register("bob");
    for room in [forked.room.id.as_str(), &other] {
        forked.server.post(&bob, &format!("/_matrix/client/v3/join/{room}"), json!({})).ok();
    }
    forked.server.post(alice, &format!("/_matrix/client/v3/rooms/{}/leave", forked.room.id), json!({})).ok();
    let before = forked.server.host.yielded.get();
    let answer = forked.server.get(alice, &format!("/_matrix/client/v3/sync?timeout=0&since={since}")).ok();
    let yields = forked.server.host.yielded.get() - before;
    assert_eq!(answer["device_lists"]["left"].as_array().map(Vec::len), Some(151));
    assert_eq!(answer["device_lists"]["changed"], json!([bob.id]));
    assert!(yields >= 151 / 64, "{yields} yields");
}

/// The topic that a client knows after a sync, when it does with the answer what the specification says.
fn topic_after(answer: &Value, room: &str, known: Option<String>) -> Option<String> {
    let joined = &answer["rooms"]["join"][room];
    let events = match joined.get("state_after") {
        Some(state) => state["events"].as_array().cloned().unwrap_or_default(),
        None => [&joined["state"]["events"], &joined["timeline"]["events"]].into_iter().filter_map(Value::as_array).flatten().cloned().collect(),
    };
    let mut topics = events.iter().filter(|event| event["type"] == "m.room.topic");
    topics.next_back().and_then(|event| event["content"]["topic"].as_str().map(str::to_owned)).or(known)
}

#[test]
fn a_client_holds_the_state_that_a_fork_resolves_to() {
    for (alice_is_later, state_after) in [(false, false), (true, false), (false, true), (true, true)] {
        let forked = Forked::new(&RoomVersionId::V11);
        let room = forked.room.id.as_str();
        let path = format!("/_matrix/client/v3/rooms/{room}/state");
        let mut levels = forked.server.get(&forked.alice, &format!("{path}/m.room.power_levels/")).ok();
        levels["users"]["@eve:other.example"] = json!(50);
        forked.server.put(&forked.alice, &format!("{path}/m.room.power_levels/"), levels).ok();
        let sync = |since: &str| {
            let query = format!("/_matrix/client/v3/sync?use_state_after={state_after}{since}");
            let answer = forked.server.get(&forked.alice, &query).ok();
            let next = format!("&since={}", answer["next_batch"].as_str().expect("a token"));
            (answer, next)
        };
        let (_, start) = sync("");
        let before = forked.end();
        if alice_is_later {
            forked.server.host.advance(std::time::Duration::from_secs(3600));
        }
        forked.server.put(&forked.alice, &format!("{path}/m.room.topic/"), json!({ "topic": "here" })).ok();
        let (middle, since) = sync(&start);
        let known = topic_after(&middle, room, None);
        assert_eq!(known.as_deref(), Some("here"));
        let there = object(&json!({ "topic": "there" }));
        let eves = Draft::state(forked.remote.user("eve"), StateEventType::RoomTopic, "", there);
        forked.receive(forked.remote_event(eves, &before));

        let topic = forked.server.get(&forked.alice, &format!("{path}/m.room.topic/")).ok()["topic"].as_str().map(str::to_owned);
        assert_eq!(topic.as_deref(), Some(if alice_is_later { "here" } else { "there" }));
        assert_eq!(topic_after(&sync(&since).0, room, known), topic, "who saw one branch before: {alice_is_later} {state_after}");
        assert_eq!(topic_after(&sync(&start).0, room, None), topic, "who sees both at once: {alice_is_later} {state_after}");
        forked.say("end");
        assert_eq!(topic_after(&sync(&start).0, room, None), topic, "after the merge: {alice_is_later} {state_after}");
    }
}

/// What eve does in the property test.
#[derive(Clone, Debug)]
enum Act {
    Message,
    Topic,
    Name,
    Leave,
}

fn acts() -> impl Strategy<Value = Vec<(Act, usize)>> {
    let act = prop_oneof![Just(Act::Message), Just(Act::Topic), Just(Act::Name), Just(Act::Leave)];
    proptest::collection::vec((act, 0..6usize), 1..14)
}

/// Every event of a room, in the order in which it came.
fn events_of(forked: &Forked) -> Vec<Rc<Event>> {
    let (hs, sn) = (forked.server.hs.clone(), forked.room.sn);
    forked.server.run(async move { hs.events_between(sn, Position::MIN..Position::MAX, Direction::Forward, 1000).await }).expect("events")
}

/// A room on a server that is told of its create event.
fn begun(server: &TestServer, version: &RoomVersionId, create: &Pdu) -> Rc<RoomInfo> {
    let hs = server.hs.clone();
    let rules = version.rules().expect("rules");
    let room = Rc::new(RoomInfo { sn: hs.rooms.next_sn(), id: create.room_id.clone(), version: version.clone(), rules });
    let (create, written) = (create.clone(), room.clone());
    let written = async move {
        let begin = async |write: &mut Write<'_>| -> Result<(), Stop> {
            tables::ROOMS.put(&mut write.batch, &written.sn, &Room { id: written.id.clone(), version: written.version.clone() });
            write.begin(create.clone())
        };
        hs.write_new_room(&written, 0, 1, HashMap::new(), begin).await
    };
    server.run(written).expect("a room");
    room
}

fn received(server: &TestServer, room: &Rc<RoomInfo>, pdu: Pdu) -> crate::error::Result<Rc<Event>> {
    let (hs, room) = (server.hs.clone(), room.clone());
    server.run(async move { hs.write_room(&room, 0, |write: &mut Write<'_>| write.receive(pdu.clone())).await })
}

/// What a server that knows nothing else keeps of the last of `events`, when it is told of them in this order; none if it does not take it in.
pub(super) fn kept(version: &RoomVersionId, events: &[Pdu]) -> Option<Rc<Event>> {
    let server = TestServer::new();
    let ([create, between @ ..], last) = (&events[..events.len() - 1], &events[events.len() - 1]) else { panic!("a create event and another") };
    let room = begun(&server, version, create);
    for pdu in between {
        received(&server, &room, Pdu { rejected: false, ..pdu.clone() }).expect("received");
    }
    received(&server, &room, last.clone()).ok()
}

/// The same room on a fresh server that is told of `events` in this order.
fn told(version: &RoomVersionId, events: &[Pdu]) -> Forked {
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

/// The state before and after each event, and whether it is rejected, follow from the graph, not from the order in which it came.
#[test]
fn any_order_of_delivery_gives_each_event_one_state() {
    for version in versions() {
        println!("room version {version}");
        holds(2, &(acts(), any::<u64>()), |(acts, order)| one_state_in_any_order(&version, acts, order));
    }
}

fn one_state_in_any_order(version: &RoomVersionId, acts: Vec<(Act, usize)>, order: u64) -> TestCaseResult {
    let forked = Forked::new(version);
    let mut levels = forked.server.get(&forked.alice, &format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", forked.room.id)).ok();
    levels["users"]["@eve:other.example"] = json!(50);
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", forked.room.id);
    forked.server.put(&forked.alice, &path, levels).ok();
    let eve = forked.remote.user("eve");
    for (number, (act, parent)) in acts.into_iter().enumerate() {
        let all = events_of(&forked);
        let parent = all[all.len() - 1 - parent.min(all.len() - 8)].clone();
        let draft = match act {
            Act::Message => Draft::message(eve.clone(), TimelineEventType::RoomMessage, object(&json!({ "body": number }))),
            Act::Topic => Draft::state(eve.clone(), StateEventType::RoomTopic, "", object(&json!({ "topic": number.to_string() }))),
            Act::Name => Draft::state(eve.clone(), StateEventType::RoomName, "", object(&json!({ "name": number.to_string() }))),
            Act::Leave => Draft::state(eve.clone(), StateEventType::RoomMember, eve.as_str(), object(&json!({ "membership": "leave" }))),
        };
        forked.receive(forked.remote_event(draft, std::slice::from_ref(&parent)));
        if number % 3 == 2 {
            forked.say(&number.to_string());
        }
    }
    let events = events_of(&forked);

    // A random order in which parents come before children.
    let mut dice = order;
    let mut waiting: Vec<Rc<Event>> = events.clone();
    let mut come = BTreeSet::new();
    let mut shuffled = Vec::new();
    while !waiting.is_empty() {
        let ready: Vec<usize> = (0..waiting.len())
            .filter(|at| waiting[*at].pdu.prev_events.iter().chain(&waiting[*at].pdu.auth_events).all(|id| come.contains(id)))
            .collect();
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let next = waiting.remove(ready[(dice >> 33) as usize % ready.len()]);
        come.insert(next.pdu.event_id.clone());
        shuffled.push(Pdu { rejected: false, ..Pdu::clone(&next.pdu) });
    }
    let other = told(version, &shuffled);
    prop_assert_eq!(stray_nodes(&forked), BTreeSet::new());
    prop_assert_eq!(stray_nodes(&other), BTreeSet::new());
    for event in &events {
        let there = other.event(event.pdu.event_id.as_str());
        prop_assert_eq!(&event.rejected, &there.rejected);
        prop_assert_eq!(forked.state_of(event.state_before), other.state_of(there.state_before), "before {}", event.pdu.event_id);
        prop_assert_eq!(forked.state_of(event.state_after), other.state_of(there.state_after), "after {}", event.pdu.event_id);
    }
    Ok(())
}
