//! What a server takes for the events of others: through `/send`, from a join, and backfilled; all
//! of them signed, verified and judged, and on disk when they are answered. `npm run bench` runs
//! it, and compares it with what must hold; by itself: `cargo bench --workspace --bench receive`,
//! with names of the parts that are wanted.

mod common;

use bytes::Bytes;
use common::{Answers, PeerRoom, Server, figure, is_wanted, quantile, run, timed};
use ephapse_events::Pdu;
use ephapse_homeserver::Body;
use ephapse_store::{RedbStore, Store};
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    fs::File,
    io::Read,
    process::Command,
    rc::Rc,
    time::{Duration, Instant},
};

const MEMBERS: usize = 1_000;
/// Events that are behind a join, and are backfilled.
const BEHIND: usize = 10_000;
/// Events through `/send`.
const SENT: usize = 20_000;
/// Events of a transaction.
const PDUS: usize = 50;
/// A large room: members and messages.
const LARGE: (usize, usize) = (10_000, 90_000);
/// Members of a huge one.
const HUGE: usize = 100_000;
/// How a process is told that it is to measure its memory, and where it finds what it joins.
const MEMORY_OF_JOIN: &str = "memory-of-join";
const DIRECTORY: &str = "JOINED_DIRECTORY";

/// A server, and the room of another one that its user joins.
struct Bench {
    server: Server,
    room: Rc<RefCell<PeerRoom>>,
    members: usize,
    /// What the join took, in seconds.
    join: f64,
    _directory: tempfile::TempDir,
}

impl Bench {
    async fn joined(members: usize, messages: usize) -> Self {
        let (server, room, directory) = Self::before(members, messages).await;
        let path = join_path(&room.borrow());
        let join = timed(server.request("POST", &path, Some(&json!({})))).await;
        Self { server, room, members, join, _directory: directory }
    }

    async fn before(members: usize, messages: usize) -> (Server, Rc<RefCell<PeerRoom>>, tempfile::TempDir) {
        let room = Rc::new(RefCell::new(PeerRoom::new(members, messages)));
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let store: Rc<dyn Store> = Rc::new(RedbStore::open(directory.path()).expect("opens"));
        (Server::open(store, Some(PeerRoom::answers(&room))).await, room, directory)
    }

    /// Transactions of that many messages.
    fn transactions(&self, count: usize) -> Vec<Request<Body>> {
        let mut room = self.room.borrow_mut();
        let messages = room.messages(self.members, count);
        messages.chunks(PDUS).map(|events| room.transaction(self.server.hs.server_name(), events)).collect()
    }

    fn transaction(&self, events: &[Pdu]) -> Request<Body> {
        self.room.borrow_mut().transaction(self.server.hs.server_name(), events)
    }

    /// Receives transactions one after the other, as one server sends them.
    async fn receive(&self, transactions: Vec<Request<Body>>) {
        for transaction in transactions {
            self.server.receive(transaction).await;
        }
    }
}

/// What requests of a local user take while `work` is done: of 100 the 95th longest, in ms.
async fn meanwhile(server: &Server, work: impl Future) -> f64 {
    let created = server.request("POST", "/_matrix/client/v3/createRoom", Some(&json!({}))).await;
    let room = created["room_id"].as_str().expect("a room").to_owned();
    let samples = RefCell::new(Vec::new());
    let others = async {
        for number in 0_u64.. {
            let start = Instant::now();
            if number % 2 == 0 {
                server.request("GET", "/_matrix/client/v3/account/whoami", None).await;
            } else {
                let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{number}");
                server.request("PUT", &path, Some(&json!({ "msgtype": "m.text", "body": "Hello" }))).await;
            }
            samples.borrow_mut().push(start.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        _ = work => {}
        () = others => {}
    }
    quantile(samples.into_inner(), 0.95)
}

fn join_path(room: &PeerRoom) -> String {
    format!("/_matrix/client/v3/join/{}?server_name={}", room.id, room.peer.name)
}

/// Events a second through `/send`, and what other requests take meanwhile.
async fn sent() {
    let bench = Bench::joined(MEMBERS, 0).await;
    bench.receive(bench.transactions(10 * PDUS)).await;
    let transactions = bench.transactions(SENT);
    figure("received", SENT as f64 / timed(bench.receive(transactions)).await);
    let transactions = bench.transactions(BEHIND);
    figure("besideReceiving", meanwhile(&bench.server, bench.receive(transactions)).await);
}

/// A join, and the history before it.
async fn joined() {
    let bench = Bench::joined(MEMBERS, BEHIND).await;
    figure("join", bench.join);
    let id = bench.room.borrow().id.clone();
    let mut from = String::new();
    let mut seen = 0;
    let backfilled = timed(async {
        loop {
            let path = format!("/_matrix/client/v3/rooms/{id}/messages?dir=b&limit=100{from}");
            let page: Value = bench.server.request("GET", &path, None).await;
            seen += page["chunk"].as_array().map_or(0, Vec::len);
            let Some(end) = page["end"].as_str() else { break };
            from = format!("&from={end}");
        }
    });
    let took = backfilled.await;
    assert!(seen > BEHIND, "{seen} of {BEHIND} events");
    figure("backfilled", seen as f64 / took);
}

/// One event on its way to a sync that waits for it, in ms.
async fn arrival() {
    let bench = Bench::joined(MEMBERS, 0).await;
    let since: Value = bench.server.request("GET", "/_matrix/client/v3/sync", None).await;
    let mut since = since["next_batch"].as_str().expect("a token").to_owned();
    let mut samples = Vec::new();
    for _ in 0..120 {
        let transaction = bench.transactions(1).remove(0);
        let path = format!("/_matrix/client/v3/sync?timeout=30000&since={since}");
        let mut start = Instant::now();
        let sent = async {
            tokio::time::sleep(Duration::from_millis(4)).await;
            start = Instant::now();
            bench.server.receive(transaction).await;
        };
        let held = async { (bench.server.answer("GET", &path, None).await, Instant::now()) };
        let ((answer, arrived), ()) = tokio::join!(held, sent);
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        since = answer["next_batch"].as_str().expect("a token").to_owned();
        if answer["rooms"]["join"].is_object() {
            samples.push(arrived.duration_since(start).as_secs_f64() * 1e3);
        }
    }
    assert!(samples.len() > 60, "only {} events came with the sync that was held for them", samples.len());
    figure("federatedArrival", quantile(samples, 0.5));
}

/// A large room: its join, and a fork of two events in it, in ms.
async fn large() {
    let (members, messages) = LARGE;
    let bench = Bench::joined(members, 0).await;
    figure("joinedEvents", (members + 5) as f64 / bench.join);
    bench.receive(bench.transactions(messages)).await;
    let mut samples = Vec::new();
    for round in 0..20 {
        let fork = {
            let room = bench.room.borrow();
            let last = room.timeline.last().cloned();
            let topic = |member: usize| {
                let content = json!({ "topic": format!("{member} in {round}") });
                room.event(&room.peer.user(member), ("m.room.topic".into(), Some(String::new()), content), last.as_slice())
            };
            [topic(1), topic(2)]
        };
        let transaction = bench.transaction(&fork);
        samples.push(timed(bench.server.receive(transaction)).await * 1e3);
        let merge = {
            let mut room = bench.room.borrow_mut();
            let merge = room.event(&room.peer.user(3), ("m.room.message".into(), None, json!({ "body": "merged" })), &fork);
            room.timeline.push(merge.clone());
            merge
        };
        bench.server.receive(bench.transaction(&[merge])).await;
    }
    figure("fork", quantile(samples, 0.5));
}

/// What other requests take while a room of ten thousand members is joined, in ms.
async fn beside_joining() {
    let (server, room, _directory) = Bench::before(LARGE.0, 0).await;
    let path = join_path(&room.borrow());
    let nothing = json!({});
    let join = server.request("POST", &path, Some(&nothing));
    figure("besideJoining", meanwhile(&server, join).await);
}

/// The largest that the process becomes while it joins a room of a hundred thousand members, in
/// MiB; in a process of its own, to which the other server's answers come as a stream.
async fn memory() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let room = PeerRoom::new(HUGE, 0);
    let user = "@alice:test.example".try_into().expect("a user id");
    for (file, text) in [("path", join_path(&room)), ("template", room.template(&user).to_string()), ("joined", room.joined())] {
        std::fs::write(directory.path().join(file), text).expect("it is written");
    }
    drop(room);
    let program = std::env::current_exe().expect("a program");
    let ended = Command::new(program).arg(MEMORY_OF_JOIN).env(DIRECTORY, directory.path()).status().expect("it runs");
    assert!(ended.success());
}

/// What [`memory`] runs in a process of its own.
async fn memory_of_join() {
    let directory = std::path::PathBuf::from(std::env::var_os(DIRECTORY).expect("who runs this says where"));
    let store: Rc<dyn Store> = Rc::new(RedbStore::open(directory.join("data")).expect("opens"));
    let files = directory.clone();
    let answers: Answers = Rc::new(move |request| {
        let file = match request.uri().path().split('/').nth(4) {
            Some("make_join") => "template",
            Some("send_join") => "joined",
            _ => return Response::new(Body::from("{}")),
        };
        let mut file = File::open(files.join(file)).expect("it is there");
        let pieces = std::iter::from_fn(move || {
            let mut piece = vec![0; 64 << 10];
            let length = file.read(&mut piece).expect("it is read");
            piece.truncate(length);
            (length > 0).then(|| Ok::<_, std::io::Error>(Frame::data(Bytes::from(piece))))
        });
        Response::new(Body::stream(StreamBody::new(stream::iter(pieces))))
    });
    let server = Server::open(store, Some(answers)).await;
    let path = std::fs::read_to_string(directory.join("path")).expect("a path");
    let took = timed(server.request("POST", &path, Some(&json!({})))).await;
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    figure("joinMemory", most.expect("a number") / 1024.0);
    figure("hugeJoin", took);
}

fn main() {
    if std::env::args().any(|argument| argument == MEMORY_OF_JOIN) {
        return run(memory_of_join());
    }
    if is_wanted("sent") {
        run(sent());
    }
    if is_wanted("joined") {
        run(joined());
    }
    if is_wanted("arrival") {
        run(arrival());
    }
    if is_wanted("large") {
        run(large());
    }
    if is_wanted("beside") {
        run(beside_joining());
    }
    if is_wanted("memory") {
        run(memory());
    }
}
