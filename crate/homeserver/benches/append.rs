//! How many events a second one engine appends: built, hashed, signed, authorized, and on disk when
//! counted. Run with `cargo bench --workspace --bench append`; `-- memory` or `-- disk` runs one
//! store only.

mod common;

use common::{Server, is_wanted, run, timed};
use ephapse_homeserver::room::{Draft, RoomInfo, Stop};
use ephapse_store::{MemoryStore, RedbStore, Store};
use futures_util::future::join_all;
use ruma::{CanonicalJsonObject, RoomId, events::TimelineEventType};
use serde_json::{Value, json};
use std::{rc::Rc, time::SystemTime};

struct Bench {
    server: Server,
    store: Rc<dyn Store>,
    room_id: String,
    room: Rc<RoomInfo>,
}

impl Bench {
    async fn new(store: Rc<dyn Store>) -> Self {
        let server = Server::open(store.clone(), None).await;
        let created = server.request("POST", "/_matrix/client/v3/createRoom", Some(&json!({}))).await;
        let room_id = created["room_id"].as_str().expect("a room").to_owned();
        let room = server.hs.known_room(RoomId::parse(&room_id).expect("a room id").as_ref()).await.expect("the room");
        Self { server, store, room_id, room }
    }

    /// Events in batches of `each`, by the engine's own function.
    async fn batches(&self, total: usize, each: usize) {
        let mut content = CanonicalJsonObject::new();
        content.insert("msgtype".to_owned(), "m.text".to_owned().into());
        content.insert("body".to_owned(), "The quick brown fox jumps over the lazy dog.".to_owned().into());
        let draft = Draft::message(self.server.user.clone(), TimelineEventType::RoomMessage, content);
        for _ in 0..total / each {
            let written = self.server.hs.write_room(&self.room, self.store.generation(), |write| {
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
            self.server.request("POST", "/_matrix/client/v3/createRoom", Some(&body)).await;
        }
    }

    /// Whole requests, as clients send them, `at_once` under way.
    async fn requests(&self, total: usize, at_once: usize) {
        let content = json!({ "msgtype": "m.text", "body": "The quick brown fox jumps over the lazy dog." });
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        for round in 0..total / at_once {
            let round = (0..at_once).map(|n| {
                let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{started}-{at_once}-{round}-{n}", self.room_id);
                let content = &content;
                async move { self.server.request("PUT", &path, Some(content)).await }
            });
            join_all(round).await;
        }
    }
}

async fn report(what: &str, total: usize, work: impl Future<Output = ()>) {
    let took = timed(work).await;
    println!("{what:<40} {:>8.0} events/s {:>8.1} us each", total as f64 / took, took * 1e6 / total as f64);
}

async fn measure(name: &str, store: Rc<dyn Store>) {
    let bench = Bench::new(store).await;
    bench.batches(500, 1).await;
    report(&format!("{name}, one a batch"), 3_000, bench.batches(3_000, 1)).await;
    report(&format!("{name}, a hundred a batch"), 20_000, bench.batches(20_000, 100)).await;
    report(&format!("{name}, a thousand a room"), 20_000, bench.rooms(20_000, 1_000)).await;
    report(&format!("{name}, requests one by one"), 3_000, bench.requests(3_000, 1)).await;
    report(&format!("{name}, requests 8 at once"), 8_000, bench.requests(8_000, 8)).await;
    report(&format!("{name}, requests 64 at once"), 12_800, bench.requests(12_800, 64)).await;
}

fn main() {
    if is_wanted("memory") {
        run(measure("memory", Rc::new(MemoryStore::new())));
    }
    if is_wanted("disk") {
        let directory = tempfile::tempdir().expect("a directory");
        run(measure("disk", Rc::new(RedbStore::open(directory.path()).expect("opens"))));
    }
}
