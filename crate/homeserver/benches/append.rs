//! How many events a second one engine appends: built, hashed, signed, authorized, and on disk when
//! counted. Run with `cargo bench -p ephapse-homeserver`; `-- memory` or `-- disk` runs one store
//! only.

use ephapse_homeserver::{
    Body, Entrance, Homeserver,
    room::{Draft, RoomInfo, Stop},
    test_support::{TestHost, config},
};
use ephapse_store::{MemoryStore, RedbStore, Store};
use futures_executor::block_on;
use futures_util::future::join_all;
use ruma::{CanonicalJsonObject, OwnedUserId, RoomId, events::TimelineEventType};
use serde_json::{Value, json};
use std::{rc::Rc, time::Instant};

struct Bench {
    hs: Rc<Homeserver>,
    store: Rc<dyn Store>,
    token: String,
    user: OwnedUserId,
    room_id: String,
    room: Rc<RoomInfo>,
}

impl Bench {
    async fn new(store: Rc<dyn Store>) -> Self {
        let hs = Homeserver::open(store.clone(), TestHost::new(7), config()).await.expect("opens");
        let account = json!({ "username": "alice", "password": "a password", "auth": { "type": "m.login.dummy" } });
        let account = request(&hs, "POST", "/_matrix/client/v3/register", "", &account).await;
        let token = account["access_token"].as_str().expect("a token").to_owned();
        let user = OwnedUserId::try_from(account["user_id"].as_str().expect("a user")).expect("a user id");
        let created = request(&hs, "POST", "/_matrix/client/v3/createRoom", &token, &json!({})).await;
        let room_id = created["room_id"].as_str().expect("a room").to_owned();
        let room = hs.known_room(RoomId::parse(&room_id).expect("a room id").as_ref()).await.expect("the room");
        Self { hs, store, token, user, room_id, room }
    }

    /// Events in batches of `each`, by the engine's own function.
    async fn batches(&self, total: usize, each: usize) {
        let mut content = CanonicalJsonObject::new();
        content.insert("msgtype".to_owned(), "m.text".to_owned().into());
        content.insert("body".to_owned(), "The quick brown fox jumps over the lazy dog.".to_owned().into());
        let draft = Draft::message(self.user.clone(), TimelineEventType::RoomMessage, content);
        for _ in 0..total / each {
            let written = self.hs.write_room(&self.room, self.store.generation(), |write| {
                for _ in 0..each {
                    write.send(draft.clone())?;
                }
                Ok::<_, Stop>(())
            });
            written.await.expect("the events are allowed");
        }
    }

    /// Rooms that begin with `each` events of their own, as one request makes them.
    async fn rooms(&self, total: usize, each: usize) {
        let initial_state: Vec<Value> =
            (0..each).map(|n| json!({ "type": "org.example.bench", "state_key": n.to_string(), "content": { "n": n } })).collect();
        let body = json!({ "initial_state": initial_state });
        for _ in 0..total / each {
            request(&self.hs, "POST", "/_matrix/client/v3/createRoom", &self.token, &body).await;
        }
    }

    /// Whole requests, as clients send them, `at_once` under way.
    async fn requests(&self, total: usize, at_once: usize) {
        let content = json!({ "msgtype": "m.text", "body": "The quick brown fox jumps over the lazy dog." });
        let started = Instant::now().elapsed().subsec_nanos();
        for round in 0..total / at_once {
            let round = (0..at_once).map(|n| {
                let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{started}-{at_once}-{round}-{n}", self.room_id);
                let content = &content;
                async move { request(&self.hs, "PUT", &path, &self.token, content).await }
            });
            join_all(round).await;
        }
    }
}

async fn request(hs: &Rc<Homeserver>, method: &str, path: &str, token: &str, body: &Value) -> Value {
    let mut request = http::Request::builder().method(method).uri(path);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Body::from(body.to_string())).expect("a request");
    let response = hs.handle(Entrance::Client, request).await;
    let status = response.status();
    let body = response.into_body().read(usize::MAX).await.expect("an answer does not break off");
    let text = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(status, 200, "{method} {path}: {text}");
    serde_json::from_str(&text).expect("JSON")
}

fn report(what: &str, total: usize, work: impl Future<Output = ()>) {
    let start = Instant::now();
    block_on(work);
    let took = start.elapsed();
    println!("{what:<40} {:>8.0} events/s {:>8.1} us each", total as f64 / took.as_secs_f64(), took.as_secs_f64() * 1e6 / total as f64);
}

fn run(name: &str, store: Rc<dyn Store>) {
    let bench = block_on(Bench::new(store));
    block_on(bench.batches(500, 1));
    report(&format!("{name}, one a batch"), 3_000, bench.batches(3_000, 1));
    report(&format!("{name}, a hundred a batch"), 20_000, bench.batches(20_000, 100));
    report(&format!("{name}, a thousand a room"), 20_000, bench.rooms(20_000, 1_000));
    report(&format!("{name}, requests one by one"), 3_000, bench.requests(3_000, 1));
    report(&format!("{name}, requests 8 at once"), 8_000, bench.requests(8_000, 8));
    report(&format!("{name}, requests 64 at once"), 12_800, bench.requests(12_800, 64));
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
