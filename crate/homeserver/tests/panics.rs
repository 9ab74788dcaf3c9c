//! A panic costs one request: a thousand of them, at random places where the server reads or
//! writes, before or after, while requests are under way side by side. Afterwards everything that
//! was acknowledged is there once and in order, and the server goes on. `SEED` repeats a run,
//! `PANICS` says how many (a thousand).

use ephapse_homeserver::test_support::{Answer, TestServer, TestUser, config, turn};
use ephapse_store::{Batch, Bytes, Chunks, Direction, LocalBoxFuture, MemoryStore, Stats, Store, StoreError};
use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    ops::Range,
    panic,
    rc::Rc,
};

/// What the panics of this test say, so that they can be told from real ones.
const FAULT: &str = "a fault of the test";

/// A store whose calls panic once, when the countdown ends: before they do anything, or after.
struct PanickingStore {
    inner: MemoryStore,
    countdown: Rc<Countdown>,
}

#[derive(Default)]
struct Countdown {
    left: Cell<Option<u32>>,
    panics: Cell<u32>,
}

impl Countdown {
    fn step(&self) {
        match self.left.get() {
            Some(0) => {
                self.left.set(None);
                self.panics.set(self.panics.get() + 1);
                panic!("{FAULT}");
            }
            Some(left) => self.left.set(Some(left - 1)),
            None => {}
        }
    }
}

impl Store for PanickingStore {
    fn get_many<'a>(&'a self, keys: &'a [Vec<u8>]) -> LocalBoxFuture<'a, Result<Vec<Option<Bytes>>, StoreError>> {
        Box::pin(async move {
            self.countdown.step();
            turn().await;
            let found = self.inner.get_many(keys).await;
            self.countdown.step();
            found
        })
    }

    fn scan(&self, range: Range<Vec<u8>>, direction: Direction, limit: usize) -> LocalBoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        Box::pin(async move {
            self.countdown.step();
            turn().await;
            self.inner.scan(range, direction, limit).await
        })
    }

    fn commit(&self, batch: Batch) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        self.countdown.step();
        let written = self.inner.commit(batch);
        self.countdown.step();
        Box::pin(async move {
            turn().await;
            written.await
        })
    }

    fn barrier(&self) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        self.inner.barrier()
    }

    fn generation(&self) -> u64 {
        self.inner.generation()
    }

    fn chunks(&self) -> &dyn Chunks {
        self.inner.chunks()
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }

    fn close(&self) -> LocalBoxFuture<'_, Result<(), StoreError>> {
        self.inner.close()
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// One client, with what it was told.
struct Sender {
    user: TestUser,
    room: String,
    sent: u32,
    acknowledged: Vec<(String, String)>,
    messages: u32,
}

impl Sender {
    fn send(&self) -> (String, Value) {
        let text = format!("{}-{}", self.user.id, self.sent);
        (format!("/_matrix/client/v3/rooms/{}/send/m.room.message/t{}", self.room, self.sent), json!({ "msgtype": "m.text", "body": text }))
    }
}

/// Repeats a request until it is answered: a panic answers 500, and says nothing about whether the
/// request happened.
fn insist(server: &TestServer, method: &str, path: &str, user: &TestUser, body: &Value) -> Value {
    for _ in 0..20 {
        let answer = server.request(method, path, Some(&user.token), Some(body.clone()));
        if answer.status != 500 {
            return answer.ok();
        }
    }
    panic!("{method} {path} never ends well");
}

/// A server whose store panics when the countdown ends.
fn panicking(countdown: &Rc<Countdown>) -> TestServer {
    TestServer::with(Rc::new(PanickingStore { inner: MemoryStore::new(), countdown: countdown.clone() }), config())
}

/// The panics that are wanted are not printed.
fn be_quiet_about_faults() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<String>().is_none_or(|text| text != FAULT) {
            print(info);
        }
    }));
}

/// A request may panic when its write is stored already. The next sync shows what it wrote, also
/// when nothing else happens, and so does one that waits.
#[test]
fn what_was_stored_before_a_panic_is_seen_at_once() {
    be_quiet_about_faults();
    let countdown = Rc::new(Countdown::default());
    let server = panicking(&countdown);
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let mut since = server.get(&bob, "/_matrix/client/v3/sync?timeout=0").ok()["next_batch"].as_str().expect("a token").to_owned();
    let numbers = |synced: &Value| -> Vec<u64> {
        let events = synced["to_device"]["events"].as_array().into_iter().flatten();
        events.map(|event| event["content"]["n"].as_u64().expect("a number")).collect()
    };
    let mut stored_yet_panicked = 0;
    for n in 0..40 {
        let path = format!("/_matrix/client/v3/sendToDevice/org.example.test/{n}");
        let body = json!({ "messages": { &bob.id: { &bob.device: { "n": n } } } });
        let held = server.start("GET", &format!("/_matrix/client/v3/sync?timeout=30000&since={since}"), Some(&bob.token), None);
        let send = server.start("PUT", &path, Some(&alice.token), Some(body.clone()));
        let (started, counter) = (server.now(), countdown.clone());
        let send = async move {
            for _ in 0..100 {
                turn().await;
            }
            counter.left.set(Some(n));
            let sent = send.await;
            counter.left.set(None);
            sent
        };
        let (held, sent) = server.run(join(held, send));
        let sync = |since: &mut String| {
            let synced = server.get(&bob, &format!("/_matrix/client/v3/sync?timeout=0&since={since}")).ok();
            *since = synced["next_batch"].as_str().expect("a token").to_owned();
            numbers(&synced)
        };
        let mut seen = Vec::new();
        if held.status == 200 {
            seen = numbers(&held.body);
            since = held.body["next_batch"].as_str().expect("a token").to_owned();
            assert!(seen.is_empty() || server.now() == started, "the sync was woken");
        }
        if sent.status == 500 && !seen.is_empty() {
            stored_yet_panicked += 1;
        }
        if seen.is_empty() && sent.status == 500 {
            seen = sync(&mut since);
            assert!(held.status == 500 || seen.is_empty(), "{n} was stored, and the sync slept");
        }
        if seen.is_empty() {
            insist(&server, "PUT", &path, &alice, &body);
            seen = sync(&mut since);
        }
        assert_eq!(seen, [u64::from(n)], "once, with nothing else happening");
    }
    assert!(stored_yet_panicked > 0, "no request panicked after its write was stored");
}

fn expect_ok_or_panicked(answer: Answer) -> Option<Value> {
    (answer.status != 500).then(|| answer.ok())
}

#[test]
fn a_panic_costs_one_request() {
    let seed = from_environment("SEED", std::process::id().into());
    let wanted = from_environment("PANICS", 1_000) as u32;
    println!("SEED={seed}");
    let mut dice = Dice(seed);
    be_quiet_about_faults();
    let countdown = Rc::new(Countdown::default());
    let server = panicking(&countdown);
    let bob = server.register("bob");
    let names = ["alice", "carol", "dave"];
    let first = server.register(names[0]);
    let shared = insist(&server, "POST", "/_matrix/client/v3/createRoom", &first, &json!({ "preset": "public_chat" }));
    let shared = shared["room_id"].as_str().expect("a room").to_owned();
    let mut senders: Vec<Sender> = Vec::new();
    for name in names {
        let user = if name == names[0] { first.clone() } else { server.register(name) };
        insist(&server, "POST", &format!("/_matrix/client/v3/join/{shared}"), &user, &json!({}));
        senders.push(Sender { user, room: shared.clone(), sent: 0, acknowledged: Vec::new(), messages: 0 });
    }
    let mut keys_uploaded = 0;
    let mut claimed: Vec<String> = Vec::new();
    let mut since: Option<String> = None;
    let mut received: HashMap<String, Vec<u64>> = HashMap::new();
    let mut state_changes = 0u32;

    while countdown.panics.get() < wanted {
        if keys_uploaded < claimed.len() + 40 {
            let keys: serde_json::Map<String, Value> =
                (0..20).map(|n| (format!("curve25519:K{:07}", keys_uploaded + n), json!(format!("{:A<43}", keys_uploaded + n)))).collect();
            insist(&server, "POST", "/_matrix/client/v3/keys/upload", &bob, &json!({ "one_time_keys": keys }));
            keys_uploaded += 20;
        }
        countdown.left.set(Some(dice.below(90) as u32));
        let mut requests = Vec::new();
        for sender in &senders {
            let (path, body) = sender.send();
            requests.push(server.start("PUT", &path, Some(&sender.user.token), Some(body)));
        }
        let claim = json!({ "one_time_keys": { &bob.id: { &bob.device: "curve25519" } } });
        requests.push(server.start("POST", "/_matrix/client/v3/keys/claim", Some(&senders[0].user.token), Some(claim)));
        let to_device = |sender: &Sender| {
            let content = json!({ "messages": { &bob.id: { &bob.device: { "from": &sender.user.id, "n": sender.messages } } } });
            (format!("/_matrix/client/v3/sendToDevice/org.example.test/d{}", sender.messages), content)
        };
        for sender in &senders {
            let (path, body) = to_device(sender);
            requests.push(server.start("PUT", &path, Some(&sender.user.token), Some(body)));
        }
        let topic = json!({ "topic": format!("topic {state_changes}") });
        let topic_path = format!("/_matrix/client/v3/rooms/{shared}/state/m.room.topic");
        requests.push(server.start("PUT", &topic_path, Some(&senders[0].user.token), Some(topic)));
        requests.push(server.start("POST", "/_matrix/client/v3/createRoom", Some(&senders[1].user.token), Some(json!({}))));
        let sync_path = match &since {
            Some(since) => format!("/_matrix/client/v3/sync?timeout=0&since={since}"),
            None => "/_matrix/client/v3/sync?timeout=0".to_owned(),
        };
        requests.push(server.start("GET", &sync_path, Some(&bob.token), None));
        let before = countdown.panics.get();
        let mut answers: Vec<Option<Value>> = server.run(join_all(requests)).into_iter().map(expect_ok_or_panicked).collect();
        let failed = answers.iter().filter(|answer| answer.is_none()).count() as u32;
        assert!(failed <= countdown.panics.get() - before, "one panic cost {failed} requests");
        countdown.left.set(None);

        if let Some(synced) = answers.pop().flatten() {
            since = Some(synced["next_batch"].as_str().expect("a token").to_owned());
            for event in synced["to_device"]["events"].as_array().into_iter().flatten() {
                let from = event["content"]["from"].as_str().expect("a sender").to_owned();
                received.entry(from).or_default().push(event["content"]["n"].as_u64().expect("a number"));
            }
        }
        for (at, sender) in senders.iter_mut().enumerate() {
            let (path, body) = sender.send();
            let answer = answers[at].take().unwrap_or_else(|| insist(&server, "PUT", &path, &sender.user, &body));
            sender.acknowledged.push((body["body"].as_str().expect("text").to_owned(), answer["event_id"].as_str().expect("an id").to_owned()));
            sender.sent += 1;
            let (path, body) = to_device(sender);
            if answers[names.len() + 1 + at].is_none() {
                insist(&server, "PUT", &path, &sender.user, &body);
            }
            sender.messages += 1;
        }
        if let Some(answer) = &answers[names.len()] {
            let keys = answer["one_time_keys"][&bob.id][&bob.device].as_object();
            claimed.extend(keys.into_iter().flat_map(serde_json::Map::keys).cloned());
        }
        state_changes += 1;
    }

    for _ in 0..3 {
        let path = format!("/_matrix/client/v3/sync?timeout=0&since={}", since.as_deref().unwrap_or_default());
        let synced = server.get(&bob, &path).ok();
        since = Some(synced["next_batch"].as_str().expect("a token").to_owned());
        for event in synced["to_device"]["events"].as_array().into_iter().flatten() {
            let from = event["content"]["from"].as_str().expect("a sender").to_owned();
            received.entry(from).or_default().push(event["content"]["n"].as_u64().expect("a number"));
        }
    }
    let server = server.restart();
    let timeline = timeline(&server, &senders[0].user, &shared);
    let ids: HashSet<&str> = timeline.iter().map(|(_, id)| id.as_str()).collect();
    assert_eq!(ids.len(), timeline.len(), "each event once");
    for sender in &senders {
        let own: Vec<_> = timeline.iter().filter(|(text, _)| text.starts_with(&sender.user.id)).cloned().collect();
        assert_eq!(own, sender.acknowledged, "{}: every event once, in order, one a transaction id", sender.user.id);
        let messages: Vec<u64> = (0..u64::from(sender.messages)).collect();
        assert_eq!(received.get(&sender.user.id), Some(&messages), "{}: each to-device message once, in order", sender.user.id);
    }
    assert_eq!(claimed.iter().collect::<HashSet<_>>().len(), claimed.len(), "no one-time key given twice");
    println!("{} panics, {} events, {} keys claimed", countdown.panics.get(), timeline.len(), claimed.len());
}

/// The messages of a room from its start, as `(body, event id)`.
fn timeline(server: &TestServer, user: &TestUser, room: &str) -> Vec<(String, String)> {
    let mut events = Vec::new();
    let mut from = String::new();
    loop {
        let page = server.get(user, &format!("/_matrix/client/v3/rooms/{room}/messages?dir=f&limit=100{from}")).ok();
        let chunk = page["chunk"].as_array().expect("a chunk");
        let messages = chunk.iter().filter(|event| event["type"] == "m.room.message");
        events.extend(messages.map(|event| {
            let text = |value: &Value| value.as_str().expect("text").to_owned();
            (text(&event["content"]["body"]), text(&event["event_id"]))
        }));
        match page["end"].as_str() {
            Some(end) if !chunk.is_empty() => from = format!("&from={end}"),
            _ => return events,
        }
    }
}
