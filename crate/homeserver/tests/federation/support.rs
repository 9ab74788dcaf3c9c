//! What tests of several servers share.

pub use ephapse_homeserver::test_support::{Answer, TestServer, TestUser, config, network::Network};

use ephapse_events::{JsonObject, NewPdu, Pdu, auth, max_depth, signing_key, write_canonical};
use ephapse_homeserver::{
    Body, Entrance,
    room::{Draft, NodeId, RoomInfo},
};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomId, OwnedServerName, OwnedUserId, UInt,
    api::federation::authentication::XMatrix,
    serde::Base64,
    signatures::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use std::{cell::Cell, rc::Rc};

/// A server that a test plays itself: its key follows from its name.
pub struct Peer {
    /// Its name.
    pub name: OwnedServerName,
    /// Its key.
    pub key: Ed25519KeyPair,
    /// What the next event says of its time.
    clock: Cell<u64>,
}

impl Peer {
    /// The server of a seed.
    pub fn new(seed: u8) -> Self {
        let seed = [seed; 32];
        let name = ephapse_homeserver::identity::name_of_key(&ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key());
        Self { name, key: signing_key(&seed, "0"), clock: Cell::new(1_700_000_100_000) }
    }

    /// What it is answered to a request that it signs.
    #[track_caller]
    pub fn ask(&self, server: &TestServer, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.ask_raw(server, method, path, &body.map(Value::to_string).unwrap_or_default())
    }

    /// As [`Self::ask`], with a body that need not be canonical JSON.
    #[track_caller]
    pub fn ask_raw(&self, server: &TestServer, method: &str, path: &str, body: &str) -> Answer {
        server.run(server.start_at(Entrance::Peer, self.request(server, method, path, body)))
    }

    /// A server with a name that does not say its key.
    pub fn named(name: &str, seed: u8) -> Self {
        let name = OwnedServerName::try_from(name).expect("a name");
        Self { name, key: signing_key(&[seed; 32], &format!("k{seed}")), clock: Cell::new(1_700_000_100_000) }
    }

    /// Has it answer what its key is, and nothing else.
    pub fn play_keys(&self, network: &Network) {
        let key = Base64::<ruma::serde::base64::Standard, _>::new(self.key.public_key().to_vec()).encode();
        let mut keys: ruma::CanonicalJsonObject = serde_json::from_value(json!({
            "server_name": self.name.as_str(),
            "verify_keys": { format!("ed25519:{}", self.key.version()): { "key": key } },
            "old_verify_keys": {},
            "valid_until_ts": 1_700_000_000_000_u64 + 24 * 60 * 60 * 1000,
        }))
        .expect("canonical JSON");
        ruma::signatures::sign_json(self.name.as_str(), &self.key, &mut keys).expect("it is signed");
        let keys = serde_json::to_value(&keys).expect("JSON");
        self.play(network, move |request| match request.uri().path() {
            "/_matrix/key/v2/server" => (200, keys.clone()),
            _ => (404, json!({ "errcode": "M_NOT_FOUND", "error": "no" })),
        });
    }

    /// Has it answer what other servers ask it: `answer` gives status and body.
    pub fn play(&self, network: &Network, answer: impl Fn(&http::Request<bytes::Bytes>) -> (u16, Value) + 'static) {
        network.play(self.name.as_str(), move |request| {
            let (status, body) = answer(&request);
            let response = http::Response::builder().status(status).header("content-type", "application/json");
            response.body(Body::from(body.to_string())).expect("an answer")
        });
    }

    /// A request that it signs.
    pub fn request(&self, server: &TestServer, method: &str, path: &str, body: &str) -> http::Request<Body> {
        let destination = server.hs.server_name();
        let mut signed = "{".to_owned();
        if !body.is_empty() {
            signed.push_str("\"content\":");
            write_canonical(body, &mut signed).expect("JSON");
            signed.push(',');
        }
        signed.push_str(&format!(r#""destination":"{destination}","method":"{method}","origin":"{}","uri":"{path}"}}"#, self.name));
        let (key_id, signature) = self.key.sign(signed.as_bytes()).into_parts();
        let authorization =
            XMatrix::new(self.name.clone(), destination.to_owned(), key_id.as_str().try_into().expect("an id"), Base64::new(signature));
        let request = http::Request::builder().method(method).uri(path).header("authorization", authorization.to_string());
        request.body(Body::from(body.to_owned())).expect("a request")
    }

    /// `PUT` of a body as it is.
    #[track_caller]
    pub fn put(&self, server: &TestServer, path: &str, body: &str) -> Answer {
        self.ask_raw(server, "PUT", path, body)
    }

    /// Sends events in one transaction.
    #[track_caller]
    pub fn send(&self, server: &TestServer, txn_id: &str, events: &[Pdu]) -> Answer {
        self.put(server, &format!("/_matrix/federation/v1/send/{txn_id}"), &self.transaction(events))
    }

    /// The body of a transaction.
    pub fn transaction(&self, events: &[Pdu]) -> String {
        let pdus: Vec<&str> = events.iter().map(|event| str::from_utf8(&event.json).expect("UTF-8")).collect();
        format!(r#"{{"origin":"{}","origin_server_ts":1700000000000,"pdus":[{}]}}"#, self.name, pdus.join(","))
    }

    /// One of its users.
    pub fn user(&self, localpart: &str) -> OwnedUserId {
        format!("@{localpart}:{}", self.name).try_into().expect("a user id")
    }

    /// One of its users joins a public room.
    #[track_caller]
    pub fn join(&self, server: &TestServer, room: &Room, localpart: &str) -> Pdu {
        let join = self.state(server, room, localpart, "m.room.member", self.user(localpart).as_str(), json!({ "membership": "join" }));
        let answer = self.send(server, &format!("join-{localpart}"), std::slice::from_ref(&join)).ok();
        assert_eq!(answer["pdus"][join.event_id.as_str()], json!({}), "{answer}");
        join
    }

    /// A message at the end of the room.
    pub fn message(&self, server: &TestServer, room: &Room, localpart: &str, body: &str) -> Pdu {
        self.event(server, room, self.message_draft(localpart, body), &[])
    }

    /// A message after events that a test has made.
    pub fn message_after(&self, server: &TestServer, room: &Room, localpart: &str, body: &str, after: &[&Pdu]) -> Pdu {
        self.event(server, room, self.message_draft(localpart, body), after)
    }

    fn message_draft(&self, localpart: &str, body: &str) -> Draft {
        let content = JsonObject::read(&json!({ "msgtype": "m.text", "body": body }).to_string(), true).expect("JSON");
        Draft::message(self.user(localpart), "m.room.message".into(), content)
    }

    /// A state event at the end of the room.
    pub fn state(&self, server: &TestServer, room: &Room, localpart: &str, kind: &str, state_key: &str, content: Value) -> Pdu {
        self.state_after(server, room, localpart, (kind, state_key), content, &[])
    }

    /// A state event after events that a test has made.
    pub fn state_after(&self, server: &TestServer, room: &Room, localpart: &str, key: (&str, &str), content: Value, after: &[&Pdu]) -> Pdu {
        let content = JsonObject::read(&content.to_string(), true).expect("JSON");
        self.event(server, room, Draft::state(self.user(localpart), key.0.into(), key.1, content), after)
    }

    /// An event after others, or at the end of the room as the server has it; allowed by the
    /// server's current state.
    pub fn event(&self, server: &TestServer, room: &Room, draft: Draft, after: &[&Pdu]) -> Pdu {
        let (hs, info) = (server.hs.clone(), room.info.clone());
        let content = serde_json::value::to_raw_value(&*draft.content).expect("JSON");
        let keys = auth::auth_events_of(&draft.event_type, &draft.sender, draft.state_key.as_deref(), &content, &info.rules.authorization);
        let keys = keys.expect("auth types");
        let (end, auth_events) = server.run(async move {
            let head = hs.room_head(info.nid).await.expect("a head");
            let ends: Vec<_> = head.extremities.iter().map(|extremity| extremity.position).collect();
            let found = hs.state_get(info.nid, NodeId(head.state), &keys).await.expect("a state");
            let found: Vec<_> = found.into_iter().flatten().collect();
            (hs.events_at(info.nid, &ends).await.expect("events"), hs.events_at(info.nid, &found).await.expect("events"))
        });
        let rules = &room.info.rules;
        let reference = |pdu: &Pdu| pdu.reference(rules).expect("a reference");
        let end: Vec<_> = end.into_iter().flatten().collect();
        let parents: Vec<&Pdu> = if after.is_empty() { end.iter().map(|event| &*event.pdu).collect() } else { after.to_vec() };
        self.clock.set(self.clock.get() + 1000);
        let new = NewPdu {
            room_id: Some(room.id.clone()),
            sender: draft.sender,
            event_type: draft.event_type,
            state_key: draft.state_key,
            content: draft.content,
            prev_events: parents.iter().map(|parent| reference(parent)).collect(),
            auth_events: auth_events.into_iter().flatten().map(|event| reference(&event.pdu)).collect(),
            depth: (1 + parents.iter().map(|parent| parent.depth).max().unwrap_or(0)).min(max_depth(rules)),
            origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.clock.get())),
            redacts: draft.redacts,
            event_localpart: self.clock.get().to_string(),
        };
        new.sign(&self.name, &self.key, rules).expect("an event")
    }

    /// An event that it has changed before it signed it.
    pub fn changed(&self, room: &Room, event: &Pdu, change: impl FnOnce(&mut Value)) -> Pdu {
        let mut changed: Value = serde_json::from_slice(&event.json).expect("JSON");
        change(&mut changed);
        let fields = changed.as_object_mut().expect("an object");
        fields.remove("signatures");
        fields.remove("hashes");
        let mut object: ruma::CanonicalJsonObject = serde_json::from_value(changed).expect("canonical JSON");
        ruma::signatures::hash_and_sign_event(self.name.as_str(), &self.key, &mut object, &room.info.rules.redaction).expect("it is signed");
        let json = serde_json::to_string(&object).expect("JSON");
        ephapse_events::ReceivedPdu::parse(json.as_bytes(), &room.info.rules).expect("an event").unverified().clone()
    }

    /// An event of its like that somebody else has signed.
    pub fn signed_by(&self, other: &Self, event: &Pdu) -> Pdu {
        let json = str::from_utf8(&event.json).expect("UTF-8");
        let mut forged: Value = serde_json::from_str(json).expect("JSON");
        let mut of_other: Value = forged.clone();
        of_other["origin_server_ts"] = json!(1_600_000_000_000_u64);
        of_other.as_object_mut().expect("an object").remove("signatures");
        let mut signed = String::new();
        write_canonical(&of_other.to_string(), &mut signed).expect("JSON");
        let (key_id, signature) = other.key.sign(signed.as_bytes()).into_parts();
        forged["origin_server_ts"] = of_other["origin_server_ts"].clone();
        forged["signatures"] = json!({ self.name.as_str(): { key_id: Base64::<ruma::serde::base64::Standard, _>::new(signature).encode() } });
        let rules = ruma::room_version_rules::RoomVersionRules::V11;
        ephapse_events::ReceivedPdu::parse(forged.to_string().as_bytes(), &rules).expect("an event").unverified().clone()
    }
}

/// A room of alice, a user of the server under test.
pub struct Room {
    /// Its id.
    pub id: OwnedRoomId,
    /// What never changes of it.
    pub info: Rc<RoomInfo>,
    /// Who made it.
    pub alice: TestUser,
}

impl Room {
    /// A room that everybody may join.
    #[track_caller]
    pub fn public(server: &TestServer, version: &str) -> Self {
        let alice = server.register("alice");
        let request = json!({ "preset": "public_chat", "room_version": version });
        let id = server.post(&alice, "/_matrix/client/v3/createRoom", request).ok()["room_id"].as_str().expect("an id").to_owned();
        let id: OwnedRoomId = id.try_into().expect("a room id");
        let (hs, of) = (server.hs.clone(), id.clone());
        let info = server.run(async move { hs.known_room(&of).await }).expect("the room");
        Self { id, info, alice }
    }

    /// What alice is told since a token.
    #[track_caller]
    pub fn sync(&self, server: &TestServer, since: Option<&str>) -> Value {
        let since = since.map(|since| format!("?since={since}")).unwrap_or_default();
        server.get(&self.alice, &format!("/_matrix/client/v3/sync{since}")).ok()
    }

    /// What alice sees of its history, the oldest first.
    #[track_caller]
    pub fn events(&self, server: &TestServer) -> Vec<Value> {
        let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=1000", self.id);
        let mut events = server.get(&self.alice, &path).ok()["chunk"].as_array().expect("events").clone();
        events.reverse();
        events
    }

    /// The texts of its messages that alice sees, the oldest first.
    #[track_caller]
    pub fn bodies(&self, server: &TestServer) -> Vec<String> {
        self.events(server).iter().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
    }

    /// The content of a state event with an empty state key, as alice sees it.
    pub fn state(&self, server: &TestServer, kind: &str) -> Option<Value> {
        let answer = server.get(&self.alice, &format!("/_matrix/client/v3/rooms/{}/state/{kind}", self.id));
        (answer.status == 200).then_some(answer.body)
    }

    /// Alice sets a piece of its state.
    #[track_caller]
    pub fn put_state(&self, server: &TestServer, kind: &str, content: Value) {
        server.put(&self.alice, &format!("/_matrix/client/v3/rooms/{}/state/{kind}", self.id), content).ok();
    }

    /// Alice says something.
    #[track_caller]
    pub fn say(&self, server: &TestServer, body: &str) {
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{body}", self.id);
        server.put(&self.alice, &path, json!({ "msgtype": "m.text", "body": body })).ok();
    }

    /// Alice leaves.
    #[track_caller]
    pub fn leave(&self, server: &TestServer) {
        server.post(&self.alice, &format!("/_matrix/client/v3/rooms/{}/leave", self.id), json!({})).ok();
    }
}

/// What other servers are asked for, as a server that a test plays answers it.
#[derive(Clone, Default)]
pub struct History {
    /// What there is, the oldest first.
    pub events: Vec<Value>,
    /// The ids of the state before all of them, and of what authorizes it.
    pub state: Vec<String>,
    /// Whether `get_missing_events` is answered.
    pub fills_gaps: bool,
    /// By their ids.
    pub ids: Vec<String>,
}

impl History {
    /// Of events, which come after the state of a room as it is.
    pub fn of(server: &TestServer, room: &Room, events: &[Pdu]) -> Self {
        let state = server.get(&room.alice, &format!("/_matrix/client/v3/rooms/{}/state", room.id)).ok();
        let id = |event: &Value| event["event_id"].as_str().expect("an id").to_owned();
        Self {
            events: events.iter().map(|event| serde_json::from_slice(&event.json).expect("JSON")).collect(),
            state: state.as_array().expect("a state").iter().map(id).collect(),
            fills_gaps: true,
            ids: events.iter().map(|event| event.event_id.to_string()).collect(),
        }
    }

    /// The answer to a request for some of it.
    pub fn answer(&self, request: &http::Request<bytes::Bytes>) -> (u16, Value) {
        let path = request.uri().path().trim_start_matches("/_matrix/federation/v1/");
        let query = request.uri().query().unwrap_or_default().replace("%24", "$");
        let forbidden = || (403, json!({ "errcode": "M_FORBIDDEN", "error": "no" }));
        match path.split('/').next().expect("a path") {
            "get_missing_events" if self.fills_gaps => {
                let asked: Value = serde_json::from_slice(request.body()).expect("JSON");
                let limit = asked["limit"].as_u64().unwrap_or(10) as usize;
                let latest: Vec<usize> = self.places(|id| asked["latest_events"].as_array().expect("ids").contains(&json!(id)));
                let end = latest.into_iter().max().unwrap_or(self.events.len());
                (200, json!({ "events": self.events[end.saturating_sub(limit)..end] }))
            }
            "backfill" => {
                let limit: usize = query.split("limit=").nth(1).and_then(|rest| rest.split('&').next()?.parse().ok()).expect("a limit");
                let Some(end) = self.places(|id| query.contains(id)).into_iter().max() else { return forbidden() };
                let pdus = &self.events[(end + 1).saturating_sub(limit)..=end];
                (200, json!({ "origin": "peer", "origin_server_ts": 1, "pdus": pdus }))
            }
            "state_ids" => (200, json!({ "pdu_ids": self.state, "auth_chain_ids": [] })),
            "event_auth" => (200, json!({ "auth_chain": self.events })),
            "event" => {
                let id = path.trim_start_matches("event/").replace("%24", "$");
                let Some(at) = self.places(|found| *found == id).pop() else { return forbidden() };
                (200, json!({ "origin": "peer", "origin_server_ts": 1, "pdus": [self.events[at]] }))
            }
            _ => forbidden(),
        }
    }

    fn places(&self, is_wanted: impl Fn(&String) -> bool) -> Vec<usize> {
        (0..self.ids.len()).filter(|at| is_wanted(&self.ids[*at])).collect()
    }
}
