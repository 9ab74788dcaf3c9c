//! No answer precedes its sync: while the disk has not yet synced what a request wrote, neither
//! that request is answered nor one that could have seen it. On the native store, with its sync
//! held up.

use ephapse_homeserver::{
    Body, Entrance, Homeserver,
    test_support::{TestHost, config},
};
use ephapse_store::{CrashPoint, Faults, RedbOptions, RedbStore};
use futures_executor::LocalPool;
use futures_util::task::LocalSpawnExt;
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Stands before every sync.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    closed: bool,
    waiting: bool,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.closed {
            state.waiting = true;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting = false;
    }

    fn set_closed(&self, closed: bool) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = closed;
        self.changed.notify_all();
    }

    fn is_reached(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).waiting
    }
}

type Slot = Rc<RefCell<Option<(u16, Value)>>>;

struct Server {
    hs: Rc<Homeserver>,
    pool: LocalPool,
    gate: Arc<Gate>,
    token: String,
    _directory: tempfile::TempDir,
}

impl Server {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let gate = Arc::new(Gate::default());
        let hook = gate.clone();
        let faults = Faults::new(move |point| {
            if point == CrashPoint::BetweenPutAndCommit {
                hook.pass();
            }
            None
        });
        let store = RedbStore::open_with(directory.path(), RedbOptions { faults, ..RedbOptions::default() }).expect("opens");
        let mut pool = LocalPool::new();
        let hs = pool.run_until(Homeserver::open(Rc::new(store), TestHost::new(7), config())).expect("opens");
        Self { hs, pool, gate, token: String::new(), _directory: directory }
    }

    fn start(&mut self, method: &str, path: &str, body: &Value) -> Slot {
        let request = http::Request::builder().method(method).uri(path).header("authorization", format!("Bearer {}", self.token));
        let request = request.body(Body::from(if method == "GET" { String::new() } else { body.to_string() })).expect("a request");
        let slot = Slot::default();
        let (hs, answer) = (self.hs.clone(), slot.clone());
        let task = async move {
            let response = hs.handle(Entrance::Client, request).await;
            let status = response.status().as_u16();
            let body = response.into_body().read(usize::MAX).await.expect("an answer does not break off");
            *answer.borrow_mut() = Some((status, serde_json::from_slice(&body).unwrap_or_default()));
        };
        self.pool.spawner().spawn_local(task).expect("the pool runs");
        slot
    }

    /// Runs everything until `done`; what waits for the disk is woken from its thread.
    fn pump(&mut self, within: Duration, done: impl Fn() -> bool) -> bool {
        let end = Instant::now() + within;
        loop {
            self.pool.run_until_stalled();
            if done() {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn finish(&mut self, what: &str, slot: &Slot) -> Value {
        assert!(self.pump(Duration::from_secs(20), || slot.borrow().is_some()), "{what} is not answered");
        let (status, body) = slot.take().expect("it was answered");
        assert_eq!(status, 200, "{what}: {body}");
        body
    }

    fn ask(&mut self, method: &str, path: &str, body: &Value) -> Value {
        let slot = self.start(method, path, body);
        self.finish(&format!("{method} {path}"), &slot)
    }

    /// The request writes, and is answered only after its sync.
    fn waits(&mut self, method: &str, path: &str, body: &Value) -> Value {
        let what = format!("{method} {path}");
        self.gate.set_closed(true);
        let slot = self.start(method, path, body);
        let gate = self.gate.clone();
        self.pump(Duration::from_secs(20), || gate.is_reached() || slot.borrow().is_some());
        self.pump(Duration::from_millis(30), || slot.borrow().is_some());
        assert!(slot.borrow().is_none(), "{what} is answered before its sync: {:?}", slot.borrow());
        self.gate.set_closed(false);
        self.finish(&what, &slot)
    }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}")).to_owned()
}

#[test]
fn no_answer_precedes_its_sync() {
    let mut server = Server::new();
    let account = json!({ "username": "alice", "password": "a password", "auth": { "type": "m.login.dummy" } });
    let alice = server.waits("POST", "/_matrix/client/v3/register", &account);
    server.token = text(&alice, "access_token");
    let (user, device) = (text(&alice, "user_id"), text(&alice, "device_id"));
    let login = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": "a password" });
    let other = server.waits("POST", "/_matrix/client/v3/login", &login);

    let room = text(&server.waits("POST", "/_matrix/client/v3/createRoom", &json!({ "preset": "public_chat" })), "room_id");
    let event =
        server.waits("PUT", &format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/t1"), &json!({ "msgtype": "m.text", "body": "hello" }));
    let event = text(&event, "event_id");
    let key = json!({ "key": "A".repeat(43) });
    for (method, path, body) in [
        ("PUT", format!("rooms/{room}/state/m.room.topic"), json!({ "topic": "a topic" })),
        ("POST", format!("rooms/{room}/receipt/m.read/{event}"), json!({})),
        ("POST", format!("rooms/{room}/read_markers"), json!({ "m.fully_read": event })),
        ("PUT", format!("rooms/{room}/redact/{event}/t2"), json!({})),
        ("PUT", format!("user/{user}/account_data/org.example.test"), json!({ "n": 1 })),
        ("PUT", format!("user/{user}/rooms/{room}/account_data/org.example.test"), json!({ "n": 1 })),
        ("POST", format!("user/{user}/filter"), json!({ "room": { "timeline": { "limit": 7 } } })),
        ("PUT", format!("profile/{user}/displayname"), json!({ "displayname": "Alice" })),
        ("PUT", format!("devices/{device}"), json!({ "display_name": "a telephone" })),
        ("PUT", "directory/room/%23a_room:test.example".to_owned(), json!({ "room_id": room })),
        ("PUT", "sendToDevice/org.example.test/t3".to_owned(), json!({ "messages": { &user: { text(&other, "device_id"): { "n": 1 } } } })),
        ("POST", "keys/upload".to_owned(), json!({ "one_time_keys": { "curve25519:AAAA": &key["key"] } })),
        ("POST", "keys/claim".to_owned(), json!({ "one_time_keys": { &user: { &device: "curve25519" } } })),
        ("POST", format!("rooms/{room}/leave"), json!({})),
        ("POST", format!("join/{room}"), json!({})),
    ] {
        server.waits(method, &format!("/_matrix/client/v3/{path}"), &body);
    }
    server.token = text(&other, "access_token");
    server.waits("POST", "/_matrix/client/v3/logout", &json!({}));
}

#[test]
fn nobody_sees_what_is_not_yet_on_disk() {
    let mut server = Server::new();
    let account = json!({ "username": "alice", "password": "a password", "auth": { "type": "m.login.dummy" } });
    server.token = text(&server.ask("POST", "/_matrix/client/v3/register", &account), "access_token");
    let room = text(&server.ask("POST", "/_matrix/client/v3/createRoom", &json!({})), "room_id");
    let since = text(&server.ask("GET", "/_matrix/client/v3/sync?timeout=0", &Value::Null), "next_batch");
    for (at, reader) in [
        format!("/_matrix/client/v3/sync?timeout=0&since={since}"),
        format!("/_matrix/client/v3/sync?timeout=30000&since={since}"),
        "/_matrix/client/v3/sync?timeout=0".to_owned(),
        format!("/_matrix/client/v3/rooms/{room}/messages?dir=b"),
    ]
    .iter()
    .enumerate()
    {
        server.gate.set_closed(true);
        let body = json!({ "msgtype": "m.text", "body": "not yet" });
        let sent = server.start("PUT", &format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/t{at}"), &body);
        let gate = server.gate.clone();
        assert!(server.pump(Duration::from_secs(20), || gate.is_reached()), "the send writes");
        let read = server.start("GET", reader, &Value::Null);
        server.pump(Duration::from_millis(50), || read.borrow().is_some());
        let early = read.borrow().as_ref().map(|(_, body)| body.to_string());
        assert!(early.is_none_or(|body| !body.contains("not yet")), "{reader} shows what could still be lost");
        server.gate.set_closed(false);
        let event = text(&server.finish("the send", &sent), "event_id");
        let shown = server.finish(reader, &read).to_string();
        assert!(shown.contains(&event), "{reader} was asked after the send: {shown}");
    }
}
