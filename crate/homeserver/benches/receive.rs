//! How many events of another server a second are taken in through `/send`: signed requests,
//! signatures, hashes and rules verified, in a room of a thousand members, on disk when they are
//! answered. Run with `cargo bench -p ephapse-homeserver --bench receive`.

use ephapse_events::{JsonObject, NewPdu, Pdu, auth, signing_key};
use ephapse_homeserver::{
    Body, Entrance, Homeserver,
    identity::name_of_key,
    room::{NodeId, RoomInfo},
    test_support::{TestHost, config},
};
use ephapse_store::{MemoryStore, RedbStore, Store};
use futures_executor::block_on;
use futures_util::{StreamExt, stream};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, OwnedUserId, RoomId, UInt,
    api::federation::authentication::{XMatrix, XMatrixSigningInput},
    events::{StateEventType, TimelineEventType},
    signatures::Ed25519KeyPair,
};
use serde_json::{Value, json};
use std::{rc::Rc, time::Instant};

const MEMBERS: usize = 1000;
const EVENTS: usize = 20_000;
const PDUS: usize = 50;
/// Transactions under way.
const AT_ONCE: usize = 8;

struct Bench {
    hs: Rc<Homeserver>,
    room: Rc<RoomInfo>,
    peer: OwnedServerName,
    key: Ed25519KeyPair,
    /// The last event that the peer has made.
    last: Pdu,
    transactions: usize,
}

impl Bench {
    async fn new(store: Rc<dyn Store>) -> Self {
        let hs = Homeserver::open(store, TestHost::new(7), config()).await.expect("opens");
        let account = json!({ "username": "alice", "password": "a password", "auth": { "type": "m.login.dummy" } });
        let account = request(&hs, "/_matrix/client/v3/register", "", &account).await;
        let token = account["access_token"].as_str().expect("a token").to_owned();
        let created = request(&hs, "/_matrix/client/v3/createRoom", &token, &json!({ "preset": "public_chat" })).await;
        let room = hs.known_room(&RoomId::parse(created["room_id"].as_str().expect("a room")).expect("a room id")).await.expect("the room");
        let seed = [9; 32];
        let peer = name_of_key(&ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key());
        let head = hs.room_head(room.nid).await.expect("a head");
        let last = hs.event_at(room.nid, head.extremities[0].position).await.expect("an event").pdu.clone();
        let mut bench = Self { hs, room, peer, key: signing_key(&seed, "0"), last: Pdu::clone(&last), transactions: 0 };
        for first in (0..MEMBERS).step_by(PDUS) {
            let mut joins = Vec::new();
            for number in first..first + PDUS {
                let user = bench.user(number);
                joins.push(bench.event("m.room.member".into(), &user, Some(user.to_string()), json!({ "membership": "join" })).await);
            }
            let join = bench.transaction(&joins);
            bench.send(join).await;
        }
        bench
    }

    fn user(&self, number: usize) -> OwnedUserId {
        format!("@member{number}:{}", self.peer).try_into().expect("a user id")
    }

    async fn event(&mut self, event_type: TimelineEventType, sender: &OwnedUserId, state_key: Option<String>, content: Value) -> Pdu {
        let rules = &self.room.rules;
        let raw = serde_json::value::to_raw_value(&content).expect("JSON");
        let keys = auth::auth_events_of(&event_type, sender, state_key.as_deref(), &raw, &rules.authorization).expect("auth types");
        let keys: Vec<_> = keys
            .into_iter()
            .filter(|(kind, _)| *kind != StateEventType::RoomCreate || !rules.authorization.room_create_event_id_as_room_id)
            .collect();
        let state = self.hs.room_head(self.room.nid).await.expect("a head").state;
        let found = self.hs.state_get(self.room.nid, NodeId(state), &keys).await.expect("a state");
        let found = self.hs.events_at(self.room.nid, &found.into_iter().flatten().collect::<Vec<_>>()).await.expect("events");
        let new = NewPdu {
            room_id: Some(self.room.id.clone()),
            sender: sender.clone(),
            event_type,
            state_key,
            content: JsonObject::read(&content.to_string(), true).expect("JSON"),
            prev_events: vec![self.last.reference(rules).expect("a reference")],
            auth_events: found.into_iter().flatten().map(|event| event.pdu.reference(rules).expect("a reference")).collect(),
            depth: self.last.depth + 1,
            origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::from(1_700_000_000_u32)),
            redacts: None,
            event_localpart: String::new(),
        };
        self.last = new.sign(&self.peer, &self.key, rules).expect("an event");
        self.last.clone()
    }

    /// A request that the peer has signed.
    fn transaction(&mut self, events: &[Pdu]) -> http::Request<Body> {
        self.transactions += 1;
        let pdus: Vec<&str> = events.iter().map(|event| str::from_utf8(&event.json).expect("UTF-8")).collect();
        let body = format!(r#"{{"edus":[],"origin":"{}","origin_server_ts":1700000000000,"pdus":[{}]}}"#, self.peer, pdus.join(","));
        let request = http::Request::put(format!("/_matrix/federation/v1/send/{}", self.transactions)).body(body).expect("a request");
        let input = XMatrixSigningInput::new(self.peer.clone(), self.hs.server_name().to_owned(), &self.key);
        let authorization = XMatrix::sign_http_request(&request, input).expect("it is signed").to_string();
        let (mut parts, body) = request.into_parts();
        parts.headers.insert("authorization", authorization.parse().expect("a header"));
        http::Request::from_parts(parts, Body::from(body))
    }

    async fn send(&self, transaction: http::Request<Body>) {
        let answer = self.hs.handle(Entrance::Peer, transaction).await;
        assert_eq!(answer.status(), 200);
        let body = answer.into_body().read(usize::MAX).await.expect("an answer");
        assert!(!String::from_utf8_lossy(&body).contains("error"), "{}", String::from_utf8_lossy(&body));
    }

    async fn messages(&mut self, count: usize) -> Vec<http::Request<Body>> {
        let mut transactions = Vec::new();
        for first in (0..count).step_by(PDUS) {
            let mut events = Vec::new();
            for number in first..first + PDUS {
                let sender = self.user(number * 7919 % MEMBERS);
                let content = json!({ "msgtype": "m.text", "body": "The quick brown fox jumps over the lazy dog." });
                events.push(self.event("m.room.message".into(), &sender, None, content).await);
            }
            transactions.push(self.transaction(&events));
        }
        transactions
    }
}

async fn request(hs: &Rc<Homeserver>, path: &str, token: &str, body: &Value) -> Value {
    let mut request = http::Request::post(path);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = hs.handle(Entrance::Client, request.body(Body::from(body.to_string())).expect("a request")).await;
    let body = response.into_body().read(usize::MAX).await.expect("an answer does not break off");
    serde_json::from_slice(&body).expect("JSON")
}

fn run(name: &str, store: Rc<dyn Store>) {
    let mut bench = block_on(Bench::new(store));
    let transactions = block_on(bench.messages(EVENTS));
    let start = Instant::now();
    block_on(stream::iter(transactions).map(|transaction| bench.send(transaction)).buffered(AT_ONCE).collect::<Vec<()>>());
    let took = start.elapsed();
    println!("{name:<10} {:>8.0} events/s {:>8.1} us each", EVENTS as f64 / took.as_secs_f64(), took.as_secs_f64() * 1e6 / EVENTS as f64);
    let head = block_on(bench.hs.room_head(bench.room.nid)).expect("a head");
    assert_eq!(head.extremities[0].event_id, bench.last.event_id);
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    if is_wanted("memory") {
        run("memory", Rc::new(MemoryStore::new()));
    }
    if is_wanted("disk") {
        let directory = tempfile::tempdir().expect("a directory");
        run("disk", Rc::new(RedbStore::open(directory.path()).expect("opens")));
    }
}
