//! Send-to-device messaging (Client-Server API, Send-to-Device messaging), as syncs show it.

use crate::{
    slow::SlowStore,
    support::{TestServer, TestUser, config, turn},
};
use ephapse_store::{Batch, Bytes, Chunks, Direction, LocalBoxFuture, Stats, Store, StoreError, unreliable::UnreliableStore};
use futures_util::future::join_all;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{cell::Cell, ops::Range, rc::Rc, time::Duration};

fn send(server: &TestServer, from: &TestUser, transaction: &str, messages: Value) {
    let path = format!("/_matrix/client/v3/sendToDevice/m.test/{transaction}");
    assert_eq!(server.put(from, &path, json!({ "messages": messages })).ok(), json!({}));
}

fn sync(server: &TestServer, user: &TestUser, since: Option<&str>) -> (Vec<Value>, String) {
    let since = since.map_or_else(String::new, |since| format!("&since={since}"));
    let mut body = server.get(user, &format!("/_matrix/client/v3/sync?timeout=0{since}")).ok();
    let events = body["to_device"]["events"].take();
    let events = if events.is_null() { Vec::new() } else { serde_json::from_value(events).expect("events") };
    (events, body["next_batch"].as_str().expect("a token").to_owned())
}

fn numbers(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["content"]["n"].as_u64().expect("a number")).collect()
}

#[test]
fn messages_reach_the_named_devices_or_all_of_them_in_order() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let tablet = server.login("bob", Some("TABLET"));
    send(&server, &alice, "1", json!({ &bob.id: { "*": { "n": 1 } }, "@nobody:test.example": { "*": {} }, "@carol:elsewhere.example": { "*": {} } }));
    send(&server, &alice, "2", json!({ &bob.id: { "TABLET": { "n": 2 }, "GONE": { "n": 0 } } }));
    send(&server, &alice, "3", json!({ &bob.id: { &bob.device: { "n": 3 }, "*": { "n": 4 } } }));
    let (events, _) = sync(&server, &bob, None);
    assert_eq!(events[0], json!({ "type": "m.test", "sender": alice.id, "content": { "n": 1 } }));
    assert_eq!(numbers(&events), [1, 3], "a device that is named gets what is meant for it");
    assert_eq!(numbers(&sync(&server, &tablet, None).0), [1, 2, 4]);
    assert_eq!(numbers(&sync(&server, &alice, None).0), [] as [u64; 0]);
}

#[test]
fn a_transaction_is_sent_once_also_when_it_comes_twice_at_once_and_after_a_restart() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let body = json!({ "messages": { &bob.id: { "*": { "n": 1 } } } });
    let path = "/_matrix/client/v3/sendToDevice/m.test/t";
    let one = server.start("PUT", path, Some(&alice.token), Some(body.clone()));
    let two = server.start("PUT", path, Some(&alice.token), Some(body.clone()));
    let (one, two) = server.run(async move { futures_util::join!(one, two) });
    assert_eq!([one.status, two.status], [200, 200]);
    let server = server.restart();
    server.put(&alice, path, body).ok();
    assert_eq!(numbers(&sync(&server, &bob, None).0), [1]);
}

#[test]
fn to_device_messages_are_repeated_for_the_same_since_and_deleted_by_the_next() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let (_, start) = sync(&server, &bob, None);
    send(&server, &alice, "1", json!({ &bob.id: { "*": { "n": 1 } } }));
    let (events, next) = sync(&server, &bob, Some(&start));
    assert_eq!(numbers(&events), [1]);
    send(&server, &alice, "2", json!({ &bob.id: { "*": { "n": 2 } } }));
    let server = server.restart();
    assert_eq!(numbers(&sync(&server, &bob, Some(&start)).0), [1, 2]);
    assert_eq!(numbers(&sync(&server, &bob, Some(&next)).0), [2]);
    assert_eq!(numbers(&sync(&server, &bob, Some(&start)).0), [2], "what has arrived is gone for good");
    assert_eq!(server.hs.status().streams[0].length, 1);
    let (_, last) = sync(&server, &bob, Some(&next));
    sync(&server, &bob, Some(&last));
    let status = &server.hs.status().streams[0];
    assert_eq!((status.name, status.length, status.subjects, status.consumers[0].lag, status.dead_letters), ("to_device", 0, 0, 0, 0));
}

#[test]
fn a_sync_has_a_hundred_to_device_messages_and_the_next_has_the_rest() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    for n in 0..250 {
        send(&server, &alice, &n.to_string(), json!({ &bob.id: { "*": { "n": n } } }));
    }
    let (first, after_first) = sync(&server, &bob, None);
    assert_eq!(numbers(&first), (0..100).collect::<Vec<_>>());
    assert_eq!(sync(&server, &bob, None).0, first, "the same for the same since");
    let server = server.restart();
    let (second, after_second) = sync(&server, &bob, Some(&after_first));
    assert_eq!(numbers(&second), (100..200).collect::<Vec<_>>());
    let (third, after_third) = sync(&server, &bob, Some(&after_second));
    assert_eq!(numbers(&third), (200..250).collect::<Vec<_>>());
    assert_eq!(numbers(&sync(&server, &bob, Some(&after_third)).0), [] as [u64; 0]);
}

#[test]
fn messages_sent_and_read_at_once_are_all_there() {
    let server = TestServer::with(Rc::new(SlowStore::default()), config());
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let (_, since) = sync(&server, &bob, None);
    let put = |n: u64| {
        let body = json!({ "messages": { &bob.id: { "*": { "n": n } } } });
        server.start("PUT", &format!("/_matrix/client/v3/sendToDevice/m.test/{n}"), Some(&alice.token), Some(body))
    };
    let read = || server.start("GET", &format!("/_matrix/client/v3/sync?timeout=0&since={since}"), Some(&bob.token), None);
    let (sends, reads) = ((0..20).map(put).collect::<Vec<_>>(), (0..5).map(|_| read()).collect::<Vec<_>>());
    let (sent, _) = server.run(async move { futures_util::join!(join_all(sends), join_all(reads)) });
    assert!(sent.iter().all(|answer| answer.status == 200));
    let (events, next) = sync(&server, &bob, Some(&since));
    let mut all = numbers(&events);
    all.sort();
    assert_eq!(all, (0..20).collect::<Vec<_>>());
    assert_eq!(server.hs.status().streams[0].length, 20);
    assert_eq!(numbers(&sync(&server, &bob, Some(&next)).0), [] as [u64; 0]);
    assert_eq!(server.hs.status().streams[0].length, 0);
}

#[test]
fn a_held_sync_is_woken_by_a_message_for_its_own_device_only() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let tablet = server.login("bob", Some("TABLET"));
    let (_, since) = sync(&server, &tablet, None);
    let path = format!("/_matrix/client/v3/sync?timeout=20000&since={since}");
    let held = server.start("GET", &path, Some(&tablet.token), None);
    let to_phone = json!({ "messages": { &bob.id: { &bob.device: { "n": 1 } } } });
    let to_tablet = json!({ "messages": { &bob.id: { "TABLET": { "n": 2 } } } });
    let phone = server.start("PUT", "/_matrix/client/v3/sendToDevice/m.test/1", Some(&alice.token), Some(to_phone));
    let sent = server.start("PUT", "/_matrix/client/v3/sendToDevice/m.test/2", Some(&alice.token), Some(to_tablet));
    let wait = ephapse_homeserver::Host::sleep(&*server.host, Duration::from_secs(1));
    let sending = async move {
        phone.await;
        wait.await;
        sent.await;
    };
    let (held, ()) = server.run(async move { futures_util::join!(held, sending) });
    let body = held.ok();
    assert_eq!(body["to_device"]["events"][0]["content"]["n"], 2, "{body}");
}

#[test]
fn a_deleted_device_takes_its_messages_with_it() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    send(&server, &alice, "1", json!({ &bob.id: { "*": { "n": 1 } } }));
    server.post(&bob, "/_matrix/client/v3/logout", json!({})).ok();
    assert_eq!(server.hs.status().streams[0].length, 0);
    let again = server.login("bob", Some(&bob.device));
    assert_eq!(numbers(&sync(&server, &again, None).0), [] as [u64; 0]);
}

/// A store where another write fails while the entries of streams are read for the first time.
struct FailsMeanwhile {
    store: UnreliableStore,
    armed: Cell<bool>,
    /// How often entries of streams were read since then.
    scans: Cell<usize>,
}

impl Store for FailsMeanwhile {
    fn get_many<'a>(&'a self, keys: &'a [Vec<u8>]) -> LocalBoxFuture<'a, Result<Vec<Option<Bytes>>, StoreError>> {
        self.store.get_many(keys)
    }

    fn scan(&self, range: Range<Vec<u8>>, direction: Direction, limit: usize) -> LocalBoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        if range.start.first() == Some(&0x61) {
            self.scans.set(self.scans.get() + 1);
            assert!(self.scans.get() < 100, "the same is read again and again");
            if self.armed.take() {
                self.store.fail_next(StoreError::QuotaExceeded);
                let mut other = Batch::new();
                other.put(vec![0xff], Vec::new());
                drop(self.store.commit(other));
            }
        }
        self.store.scan(range, direction, limit)
    }

    fn commit(&self, batch: Batch) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        self.store.commit(batch)
    }

    fn barrier(&self) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        self.store.barrier()
    }

    fn generation(&self) -> u64 {
        self.store.generation()
    }

    fn chunks(&self) -> &dyn Chunks {
        self.store.chunks()
    }

    fn stats(&self) -> Stats {
        self.store.stats()
    }

    fn close(&self) -> LocalBoxFuture<'_, Result<(), StoreError>> {
        self.store.close()
    }
}

/// A sync whose deletion of what had arrived was refused, since a write had failed meanwhile, read
/// the same page for ever, and nobody else was served.
#[test]
fn a_sync_goes_on_when_delivered_messages_cannot_be_deleted() {
    let store = Rc::new(FailsMeanwhile { store: UnreliableStore::new(), armed: Cell::new(false), scans: Cell::new(0) });
    let server = TestServer::with(store.clone(), config());
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    for n in 0..250 {
        send(&server, &alice, &n.to_string(), json!({ &bob.id: { "*": { "n": n } } }));
    }
    let (first, after_first) = sync(&server, &bob, None);
    assert_eq!(numbers(&first), (0..100).collect::<Vec<_>>());
    store.armed.set(true);
    store.scans.set(0);
    let (second, after_second) = sync(&server, &bob, Some(&after_first));
    assert!(!store.armed.get());
    assert_eq!(numbers(&second), (100..200).collect::<Vec<_>>());
    assert_eq!(numbers(&sync(&server, &bob, Some(&after_second)).0), (200..250).collect::<Vec<_>>());
}

/// Begins two requests, one of them so many turns behind the other, and ends when both are
/// answered.
fn at_once(server: &TestServer, behind: i32, first: (&str, &TestUser, Value), second: (&str, &TestUser, Value)) {
    let later = |turns: i32, (path, user, body): (&str, &TestUser, Value)| {
        let method = if path.contains("sendToDevice") { "PUT" } else { "POST" };
        let request = server.start(method, path, Some(&user.token), Some(body));
        async move {
            for _ in 0..turns {
                turn().await;
            }
            request.await.ok();
        }
    };
    let (first, second) = (later(-behind, first), later(behind, second));
    server.run(async move { futures_util::join!(first, second) });
}

/// Between the clearing of a queue and the handing in of its batch who shares rooms with the user
/// was read: what others appended meanwhile was written first, and the totals in the batch knew
/// nothing of it.
#[test]
fn what_is_sent_while_a_device_is_deleted_is_counted() {
    for behind in -12..12 {
        let server = TestServer::with(Rc::new(SlowStore::default()), config());
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
        send(&server, &bob, "1", json!({ &alice.id: { "*": { "n": 1 } } }));
        let server = server.restart();
        let message = json!({ "messages": { &carol.id: { "*": { "n": 2 } } } });
        let sending = ("/_matrix/client/v3/sendToDevice/m.test/2", &bob, message);
        at_once(&server, behind, ("/_matrix/client/v3/logout", &alice, json!({})), sending);
        assert_eq!(server.hs.status().streams[0].length, 1, "{behind} turns behind");
        let server = server.restart();
        assert_eq!(server.hs.status().streams[0].length, 1, "{behind} turns behind, after a restart");
        assert_eq!(numbers(&sync(&server, &carol, None).0), [2]);
    }
}

/// A message that was on its way while its device was deleted filled a queue that nobody would ever
/// empty, and came to whoever was next given the device's id.
#[test]
fn what_is_sent_while_its_device_is_deleted_goes_with_it() {
    for behind in -12..12 {
        let server = TestServer::with(Rc::new(SlowStore::default()), config());
        let [alice, bob] = ["alice", "bob"].map(|name| server.register(name));
        let message = json!({ "messages": { &alice.id: { "*": { "n": 1 } } } });
        let sending = ("/_matrix/client/v3/sendToDevice/m.test/1", &bob, message);
        at_once(&server, behind, ("/_matrix/client/v3/logout", &alice, json!({})), sending);
        assert_eq!(server.hs.status().streams[0].length, 0, "{behind} turns behind");
        let again = server.login("alice", Some(&alice.device));
        assert_eq!(numbers(&sync(&server, &again, None).0), [] as [u64; 0], "{behind} turns behind");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(u8),
    Sync,
    /// A sync whose answer is lost.
    Lost,
    Restart,
    /// One of the next writes fails.
    Fail,
    /// The process ends instead of one of the next writes.
    Crash(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..90u8).prop_map(Step::Send),
        4 => Just(Step::Sync),
        2 => Just(Step::Lost),
        1 => Just(Step::Restart),
        1 => Just(Step::Fail),
        2 => (0..4u32).prop_map(Step::Crash),
    ]
}

/// A server that starts again whenever its process has ended, and clients that ask until they are
/// answered.
struct Stubborn {
    store: UnreliableStore,
    server: TestServer,
}

impl Stubborn {
    fn new() -> Self {
        let store = UnreliableStore::new();
        Self { server: TestServer::with(Rc::new(store.clone()), config()), store }
    }

    fn request(&mut self, method: &str, path: &str, user: &TestUser, body: Option<Value>) -> Value {
        for _ in 0..10 {
            let answer = self.server.request(method, path, Some(&user.token), body.clone());
            if self.store.crashed() {
                self.store = self.store.restart();
                self.server = TestServer::with(Rc::new(self.store.clone()), config());
            }
            if answer.status == 200 {
                return answer.body;
            }
        }
        panic!("no answer to {method} {path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn each_message_arrives_once_and_in_order(steps in prop::collection::vec(step(), 1..20)) {
        let mut node = Stubborn::new();
        let (alice, bob) = (node.server.register("alice"), node.server.register("bob"));
        let (mut sent, mut arrived, mut since) = (0u64, 0u64, String::new());
        let mut last = vec![Step::Sync; 20];
        last.splice(0..0, steps);
        for step in last {
            match step {
                Step::Send(count) => {
                    for _ in 0..count {
                        let path = format!("/_matrix/client/v3/sendToDevice/m.test/{sent}");
                        node.request("PUT", &path, &alice, Some(json!({ "messages": { &bob.id: { "*": { "n": sent } } } })));
                        sent += 1;
                    }
                }
                Step::Sync => {
                    let body = node.request("GET", &format!("/_matrix/client/v3/sync?timeout=0{since}"), &bob, None);
                    let events: Vec<Value> = body["to_device"]["events"].as_array().cloned().unwrap_or_default();
                    let expected: Vec<u64> = (arrived..sent.min(arrived + 100)).collect();
                    prop_assert_eq!(numbers(&events), expected);
                    arrived += events.len() as u64;
                    since = format!("&since={}", body["next_batch"].as_str().expect("a token"));
                }
                Step::Lost => {
                    node.request("GET", &format!("/_matrix/client/v3/sync?timeout=0{since}"), &bob, None);
                }
                Step::Restart => node.server = node.server.restart(),
                Step::Fail => node.store.fail_next(StoreError::QuotaExceeded),
                Step::Crash(passed) => node.store.crash_at_write(passed),
            }
        }
        prop_assert_eq!(arrived, sent);
        let body = node.request("GET", &format!("/_matrix/client/v3/sync?timeout=0{since}"), &bob, None);
        prop_assert_eq!(body["to_device"]["events"].as_array().map_or(0, Vec::len), 0);
        prop_assert_eq!(node.server.hs.status().streams[0].length, 0);
    }
}
