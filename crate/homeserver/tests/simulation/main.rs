//! Several servers under everything that networks and processes do: latency, loss, duplication,
//! partitions, crashes at any write. Users act at random. Once all is well again, all servers have
//! to agree, and nobody may have lost anything or got it twice.
//!
//! Everything random comes from a seed, so that a run that fails is the same each time: `cargo test
//! -p ephapse-homeserver --test simulation -- --seed 7`. `--seeds N` (`SIMULATION_SEEDS`) runs so
//! many, `--seconds S` as many as fit, `--servers N` on so many servers, and `--log` says what they
//! do.

use ephapse_homeserver::{
    Body, Entrance,
    test_support::{
        Answer, TestServer, TestUser, config,
        network::{Faults, Network},
    },
};
use ephapse_store::unreliable::UnreliableStore;
use futures_util::future::{Either, select};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

/// How long a client waits for an answer before it asks again.
const PATIENCE: Duration = Duration::from_secs(90);

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    fn pick<'a, T>(&mut self, among: &'a [T]) -> Option<&'a T> {
        (!among.is_empty()).then(|| &among[self.below(among.len())])
    }
}

/// A server that can crash.
struct Node {
    name: String,
    store: UnreliableStore,
    server: TestServer,
}

/// What a user's client has, as it would be on their disk.
struct Client {
    user: TestUser,
    node: usize,
    since: Option<String>,
    /// Events of timelines, in the order in which they came.
    seen: Vec<String>,
    /// What was read where a sync has left events out.
    filled: BTreeSet<String>,
    to_device: Vec<String>,
    /// Whether they have left a room: who comes back is shown its timeline anew.
    left: bool,
    /// Whether somebody took something from them in a room: then what they say may count on one
    /// side of a partition only.
    restrained: bool,
}

struct Simulation {
    dice: Dice,
    network: Network,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    rooms: Vec<String>,
    /// Messages that a server has acknowledged: who, in which room, which event.
    said: Vec<(usize, String, String)>,
    /// To-device messages that were acknowledged: to whom, and which.
    sent: Vec<(usize, String)>,
    numbers: u64,
    /// How many messages had been acknowledged when all was well again.
    before_healing: usize,
    /// Rooms that users of several servers were in at the end.
    shared: usize,
}

fn open(network: &Network, name: &str, store: &UnreliableStore) -> TestServer {
    network.server_with(name, Rc::new(store.clone()), config())
}

impl Simulation {
    fn new(seed: u64, servers: usize) -> Self {
        let network = Network::new();
        let mut nodes = Vec::new();
        let mut clients = Vec::new();
        for n in 0..servers {
            let (name, store) = (format!("s{n}.example"), UnreliableStore::new());
            let server = open(&network, &name, &store);
            for user in 0..2 {
                let user = server.register(&format!("u{user}"));
                clients.push(Client {
                    user,
                    node: n,
                    since: None,
                    seen: Vec::new(),
                    filled: BTreeSet::new(),
                    to_device: Vec::new(),
                    left: false,
                    restrained: false,
                });
            }
            nodes.push(Node { name, store, server });
        }
        // They have met before: who cannot ask for a server's key when its event comes has to do
        // without the event, and what a room is without it is another question.
        for node in &nodes {
            for other in nodes.iter().filter(|other| other.name != node.name) {
                let request = http::Request::get(format!("/_matrix/key/v2/query/{}", other.name)).body(Body::from(""));
                node.server.run(node.server.start_at(Entrance::Peer, request.expect("a request"))).ok();
            }
        }
        Self {
            dice: Dice(seed),
            network,
            nodes,
            clients,
            rooms: Vec::new(),
            said: Vec::new(),
            sent: Vec::new(),
            numbers: 0,
            before_healing: 0,
            shared: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn server(&self, client: usize) -> &TestServer {
        &self.nodes[self.clients[client].node].server
    }

    /// A request that may never be answered, since the server crashed.
    fn ask(&self, client: usize, method: &str, path: &str, body: Option<Value>) -> impl Future<Output = Option<Answer>> + use<> {
        let server = self.server(client);
        let asked = server.start(method, path, Some(&self.clients[client].user.token), body);
        let host = server.host.clone();
        async move {
            match select(Box::pin(asked), ephapse_homeserver::Host::sleep(&*host, PATIENCE)).await {
                Either::Left((answer, _)) => Some(answer),
                Either::Right(_) => None,
            }
        }
    }

    fn ok(&self, client: usize, method: &str, path: &str, body: Option<Value>) -> Option<Value> {
        let asked = self.ask(client, method, path, body);
        self.server(client).run(asked).filter(|answer| answer.status == 200).map(|answer| answer.body)
    }

    /// One thing that somebody does.
    fn act(&mut self) {
        let client = self.dice.below(self.clients.len());
        let room = self.dice.pick(&self.rooms.clone()).cloned();
        let user = self.clients[client].user.clone();
        match (self.dice.below(100), room) {
            (0..4, _) | (_, None) => self.create(client),
            (4..25, Some(room)) => self.join(client, &room),
            (25..65, Some(room)) => self.say(client, &room),
            (65..72, Some(room)) => {
                let name = format!("name {}", self.number());
                self.ok(client, "PUT", &format!("/_matrix/client/v3/rooms/{room}/state/m.room.name/"), Some(json!({ "name": name })));
            }
            (72..76, Some(room)) => self.restrain(client, &room),
            (76..79, Some(room)) => {
                self.clients[client].left = true;
                self.ok(client, "POST", &format!("/_matrix/client/v3/rooms/{room}/leave"), Some(json!({})));
            }
            (79..84, Some(room)) => {
                let others: Vec<String> = self.clients.iter().map(|client| client.user.id.clone()).collect();
                if let Some(other) = self.dice.pick(&others) {
                    self.ok(client, "POST", &format!("/_matrix/client/v3/rooms/{room}/invite"), Some(json!({ "user_id": other })));
                }
            }
            (84..87, Some(room)) => {
                let mine: Vec<String> = self.said.iter().filter(|(who, at, _)| *who == client && *at == room).map(|(.., id)| id.clone()).collect();
                if let Some(id) = self.dice.pick(&mine).cloned() {
                    let n = self.number();
                    self.ok(client, "PUT", &format!("/_matrix/client/v3/rooms/{room}/redact/{id}/r{n}"), Some(json!({})));
                }
            }
            (87..94, Some(_)) => self.send_to_device(client),
            (_, Some(room)) => {
                self.ok(
                    client,
                    "PUT",
                    &format!("/_matrix/client/v3/rooms/{room}/typing/{}", user.id),
                    Some(json!({ "typing": true, "timeout": 5000 })),
                );
            }
        }
    }

    fn create(&mut self, client: usize) {
        let versions = ["6", "10", "11", "12"];
        let version = versions[self.dice.below(versions.len())];
        let body = json!({ "preset": "public_chat", "room_version": version });
        if let Some(made) = self.ok(client, "POST", "/_matrix/client/v3/createRoom", Some(body)) {
            self.rooms.extend(made["room_id"].as_str().map(str::to_owned));
        }
    }

    fn join(&mut self, client: usize, room: &str) {
        let via: Vec<String> = self.nodes.iter().map(|node| format!("via={}", node.name)).collect();
        self.ok(client, "POST", &format!("/_matrix/client/v3/join/{room}?{}", via.join("&")), Some(json!({})));
    }

    /// A client that hears no answer asks again with the same transaction id.
    fn say(&mut self, client: usize, room: &str) {
        let n = self.number();
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/t{n}");
        for _ in 0..3 {
            let body = json!({ "msgtype": "m.text", "body": format!("message {n}") });
            let asked = self.ask(client, "PUT", &path, Some(body));
            match self.server(client).run(asked) {
                Some(answer) if answer.status == 200 => {
                    self.said.extend(answer.body["event_id"].as_str().map(|id| (client, room.to_owned(), id.to_owned())));
                    return;
                }
                Some(answer) if answer.status < 500 => return,
                _ => self.revive(),
            }
        }
    }

    fn restrain(&mut self, client: usize, room: &str) {
        let other = self.dice.below(self.clients.len());
        let way = ["kick", "ban", "unban"][self.dice.below(3)];
        let whom = self.clients[other].user.id.clone();
        if other != client && self.ok(client, "POST", &format!("/_matrix/client/v3/rooms/{room}/{way}"), Some(json!({ "user_id": whom }))).is_some() {
            self.clients[other].restrained = true;
        }
    }

    fn send_to_device(&mut self, client: usize) {
        let to = self.dice.below(self.clients.len());
        let n = self.number();
        let (whom, text) = (self.clients[to].user.id.clone(), format!("to-device {n}"));
        let body = json!({ "messages": { whom: { "*": { "body": text } } } });
        for _ in 0..3 {
            let asked = self.ask(client, "PUT", &format!("/_matrix/client/v3/sendToDevice/org.example.test/d{n}"), Some(body.clone()));
            match self.server(client).run(asked) {
                Some(answer) if answer.status == 200 => {
                    self.sent.push((to, text));
                    return;
                }
                _ => self.revive(),
            }
        }
    }

    /// Something goes wrong, or is well again.
    fn disturb(&mut self) {
        let (one, other) = (self.dice.below(self.nodes.len()), self.dice.below(self.nodes.len()));
        match self.dice.below(6) {
            0 if one != other => self.network.set_cut(&self.nodes[one].server, &self.nodes[other].server, true),
            1 if one != other => self.network.set_cut(&self.nodes[one].server, &self.nodes[other].server, false),
            2 => self.network.set_down(&self.nodes[one].server, true),
            3 => self.network.set_down(&self.nodes[one].server, false),
            _ => {
                let nth = self.dice.below(12) as u32;
                self.nodes[one].store.crash_at_write(nth);
            }
        }
    }

    /// Starts again what has crashed.
    fn revive(&mut self) {
        for node in &mut self.nodes {
            if node.store.crashed() {
                node.store = node.store.restart();
                node.server = open(&self.network, &node.name, &node.store);
            }
        }
    }

    /// Every client syncs once.
    fn sync(&mut self) {
        for client in 0..self.clients.len() {
            let since = self.clients[client].since.as_ref().map_or_else(String::new, |since| format!("&since={since}"));
            let filter = "filter=%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:200%7D%7D%7D";
            let Some(answer) = self.ok(client, "GET", &format!("/_matrix/client/v3/sync?{filter}{since}"), None) else { continue };
            let Some(next) = answer["next_batch"].as_str() else { continue };
            self.clients[client].since = Some(next.to_owned());
            for (id, room) in answer["rooms"]["join"].as_object().into_iter().flatten() {
                if room["timeline"]["limited"] == true {
                    self.fill_gap(client, id, room["timeline"]["prev_batch"].as_str().expect("a place before the events"));
                }
                let events = room["timeline"]["events"].as_array().into_iter().flatten();
                self.clients[client].seen.extend(events.filter_map(|event| event["event_id"].as_str().map(str::to_owned)));
            }
            let client = &mut self.clients[client];
            for message in answer["to_device"]["events"].as_array().into_iter().flatten() {
                client.to_device.extend(message["content"]["body"].as_str().map(str::to_owned));
            }
        }
    }

    /// Reads what a sync has left out, as clients do: backwards, until there is what was seen before.
    fn fill_gap(&mut self, client: usize, room: &str, prev_batch: &str) {
        let mut from = prev_batch.to_owned();
        loop {
            let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=100&from={from}");
            let Some(page) = self.ok(client, "GET", &path, None) else { return };
            let events = page["chunk"].as_array().into_iter().flatten().filter_map(|event| event["event_id"].as_str());
            let (seen, unseen): (Vec<&str>, Vec<&str>) = events.partition(|id| self.clients[client].seen.iter().any(|seen| seen == id));
            self.clients[client].filled.extend(unseen.into_iter().map(str::to_owned));
            match page["end"].as_str() {
                Some(end) if seen.is_empty() => from = end.to_owned(),
                _ => return,
            }
        }
    }

    fn run(&mut self, actions: usize) {
        self.network.set_faults(Faults { seed: self.dice.next(), loss: 5, duplication: 5, latency: Duration::from_millis(200) });
        for _ in 0..actions {
            if self.dice.chance(15) {
                self.disturb();
            }
            self.act();
            self.revive();
            if self.dice.chance(30) {
                self.sync();
            }
            if self.dice.chance(20) {
                self.network.pass(Duration::from_secs(self.dice.next() % 30));
            }
        }
    }

    fn heal(&mut self) {
        self.network.set_faults(Faults::default());
        self.network.set_latency(Duration::from_millis(5));
        for one in 0..self.nodes.len() {
            self.nodes[one].store.crash_at_write(u32::MAX);
            self.network.set_down(&self.nodes[one].server, false);
            for other in 0..one {
                self.network.set_cut(&self.nodes[one].server, &self.nodes[other].server, false);
            }
        }
        self.revive();
        // Longer than the longest back-off. Then somebody says something in each room, from each
        // server: an event that was dropped for good shows by that.
        self.network.pass(Duration::from_secs(3 * 60 * 60));
        self.before_healing = self.said.len();
        for room in self.rooms.clone() {
            for client in 0..self.clients.len() {
                self.say(client, &room);
            }
            self.network.pass(Duration::from_secs(60));
        }
        self.network.pass(Duration::from_secs(3 * 60 * 60));
        self.sync();
        self.sync();
    }

    fn joined(&self, room: &str) -> Vec<usize> {
        let joined = |client: &usize| {
            let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/{}", self.clients[*client].user.id);
            self.ok(*client, "GET", &path, None).is_some_and(|content| content["membership"] == "join")
        };
        (0..self.clients.len()).filter(joined).collect()
    }

    fn state(&self, client: usize, room: &str) -> BTreeMap<(String, String), String> {
        let events = self.ok(client, "GET", &format!("/_matrix/client/v3/rooms/{room}/state"), None).unwrap_or_default();
        let text = |event: &Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let entries = events.as_array().into_iter().flatten();
        entries.map(|event| ((text(event, "type"), text(event, "state_key")), text(event, "event_id"))).collect()
    }

    /// Everything that a user finds by reading back to the start.
    fn history(&self, client: usize, room: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut from = None::<String>;
        for _ in 0..500 {
            let query = from.as_ref().map_or_else(String::new, |from| format!("&from={from}"));
            let page = self.ok(client, "GET", &format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=100{query}"), None);
            let page = page.unwrap_or_else(|| panic!("{} cannot read {room}", self.clients[client].user.id));
            found.extend(page["chunk"].as_array().into_iter().flatten().filter_map(|event| event["event_id"].as_str().map(str::to_owned)));
            match page["end"].as_str() {
                Some(end) => from = Some(end.to_owned()),
                None => break,
            }
        }
        found
    }

    /// Says what everybody has of a room in which something is missing.
    fn tell_of(&self, joined: &[usize], room: &str, id: &str) {
        for client in joined {
            let history = self.history(*client, room);
            let at = history.iter().position(|found| found == id);
            let short: Vec<&str> = history.iter().map(|id| &id[1..6]).collect();
            println!("{}: {} events, at {at:?}: {}", self.clients[*client].user.id, history.len(), short.join(" "));
        }
    }

    /// What is said when all is well reaches everybody by their syncs.
    fn check_what_was_synced(&self) {
        for room in &self.rooms {
            let joined = self.joined(room);
            let said = &self.said[self.before_healing..];
            for (by, _, id) in said.iter().filter(|(by, at, _)| at == room && !self.clients[*by].restrained) {
                for client in joined.iter().map(|client| &self.clients[*client]).filter(|client| !client.left && !client.restrained) {
                    let whom = &client.user.id;
                    assert!(
                        client.seen.contains(id) || client.filled.contains(id),
                        "{whom} was not synced {id} of {room}, which {} has said",
                        self.clients[*by].user.id
                    );
                }
            }
        }
    }

    fn check(&mut self) {
        for room in self.rooms.clone() {
            let joined = self.joined(&room);
            let Some(first) = joined.first() else { continue };
            self.shared += usize::from(joined.iter().any(|client| self.clients[*client].node != self.clients[*first].node));
            let state = self.state(*first, &room);
            for client in &joined[1..] {
                let theirs = self.state(*client, &room);
                let of = |client: usize| &self.clients[client].user.id;
                let differs: Vec<_> = state.keys().chain(theirs.keys()).filter(|key| state.get(*key) != theirs.get(*key)).collect();
                let differs: BTreeMap<_, _> = differs.into_iter().map(|key| (key, (state.get(key), theirs.get(key)))).collect();
                if let Some(id) = differs.values().find_map(|(mine, theirs)| mine.or(*theirs)) {
                    self.tell_of(&joined, &room, id);
                }
                assert!(differs.is_empty(), "{} and {} see another state of {room}: {differs:?}", of(*first), of(*client));
            }
            for client in &joined {
                let history = self.history(*client, &room);
                let unique: BTreeSet<&String> = history.iter().collect();
                let whom = &self.clients[*client].user.id;
                assert_eq!(unique.len(), history.len(), "{whom} reads an event of {room} twice");
                // What was said on a server that has left the room may have gone with it.
                let is_there = |by: usize| joined.iter().any(|client| self.clients[*client].node == self.clients[by].node);
                let counts = |by: usize| !self.clients[by].restrained && is_there(by);
                for (by, at, id) in self.said.iter().filter(|(by, at, _)| *at == room && counts(*by)) {
                    if !unique.contains(id) {
                        self.tell_of(&joined, &room, id);
                    }
                    assert!(unique.contains(id), "{whom} does not find {id} in {at}, which {} has said", self.clients[*by].user.id);
                }
            }
        }
        self.check_what_was_synced();
        for client in self.clients.iter().filter(|client| !client.left && !client.restrained) {
            let unique: BTreeSet<&String> = client.seen.iter().collect();
            assert_eq!(unique.len(), client.seen.len(), "{} was synced an event twice", client.user.id);
        }
        for (to, text) in &self.sent {
            let client = &self.clients[*to];
            let times = client.to_device.iter().filter(|got| *got == text).count();
            assert_eq!(times, 1, "{} got `{text}` so many times", client.user.id);
        }
    }
}

/// How many rooms were shared by servers, and how many messages acknowledged.
fn simulate(seed: u64, servers: usize, actions: usize) -> (usize, usize) {
    let mut simulation = Simulation::new(seed, servers);
    simulation.run(actions);
    simulation.heal();
    simulation.check();
    (simulation.shared, simulation.said.len())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--log") {
        tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG).without_time().init();
    }
    let given = |name: &str| arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1)?.parse::<u64>().ok());
    if arguments.iter().any(|argument| argument == "--list") {
        println!("simulation: test");
        return ExitCode::SUCCESS;
    }
    let servers = given("--servers").unwrap_or(5) as usize;
    let actions = given("--actions").unwrap_or(60) as usize;
    let seconds = given("--seconds");
    let (first, seeds) = match given("--seed") {
        Some(seed) => (seed, 1),
        // So many seconds alone say that many.
        None => {
            (1, given("--seeds").or_else(|| std::env::var("SIMULATION_SEEDS").ok()?.parse().ok()).unwrap_or(if seconds.is_some() { 1 } else { 60 }))
        }
    };
    let started = Instant::now();
    let mut failed = Vec::new();
    let (mut ran, mut shared, mut said) = (0, 0, 0);
    for seed in first.. {
        let is_over = seconds.is_some_and(|seconds| started.elapsed() >= Duration::from_secs(seconds));
        if ran >= seeds && (seconds.is_none() || is_over) {
            break;
        }
        match catch_unwind(AssertUnwindSafe(|| simulate(seed, servers, actions))) {
            Ok((rooms, messages)) => (shared, said) = (shared + rooms, said + messages),
            Err(_) => failed.push(seed),
        }
        ran += 1;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("simulation: {ran} seeds of {servers} servers in {seconds:.1} s; {shared} rooms on several servers, {said} messages");
    // Else it shows nothing.
    let is_lively = servers < 2 || ran < 10 || shared > 0 && said > 0;
    if failed.is_empty() && is_lively {
        println!("test result: ok. 1 passed; 0 failed; 0 ignored");
        return ExitCode::SUCCESS;
    }
    for seed in &failed {
        println!("seed {seed} failed; again with: cargo test -p ephapse-homeserver --test simulation -- --seed {seed}");
    }
    println!("test result: FAILED. 0 passed; 1 failed; 0 ignored");
    ExitCode::FAILURE
}
