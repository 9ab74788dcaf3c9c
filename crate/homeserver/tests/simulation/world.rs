//! Servers, their users, and what happens to them.

use ephapse_homeserver::{
    Config, Host,
    test_support::{
        Answer, TestServer, TestUser, config,
        network::{Faults, Network},
    },
};
use ephapse_store::unreliable::UnreliableStore;
use futures_util::future::{Either, select};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::AddAssign,
    rc::Rc,
    time::Duration,
};

/// How long a client waits for an answer before it asks again.
const PATIENCE: Duration = Duration::from_secs(90);
/// How far clocks are ahead of others at most, in ms.
const CLOCKS_APART: u64 = 10 * 60 * 1000;
/// How many other servers each one trusts as notaries.
const NOTARIES: usize = 4;

/// SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> Option<&'a T> {
        (!among.is_empty()).then(|| &among[self.below(among.len())])
    }
}

/// A server that can crash.
pub struct Node {
    pub name: String,
    pub store: UnreliableStore,
    pub server: TestServer,
}

/// What a user's client has, as it would be on their disk.
pub struct Client {
    pub user: TestUser,
    pub node: usize,
    pub since: Option<String>,
    /// Events of timelines with their rooms, in the order in which they came.
    pub seen: Vec<(String, String)>,
    /// What was read where a sync has left events out.
    pub filled: BTreeSet<(String, String)>,
    pub to_device: Vec<String>,
    /// Whether they have left a room: who comes back is shown its timeline anew.
    pub left: bool,
    /// Whether somebody took something from them in a room: then what they say may count on one
    /// side of a partition only.
    pub restrained: bool,
}

/// An event that was acknowledged.
pub struct Said {
    pub by: usize,
    pub room: String,
    pub id: String,
    pub is_message: bool,
}

/// What came of some seeds.
#[derive(Default)]
pub struct Ran {
    /// Rooms that users of several servers were in at the end.
    pub shared: usize,
    /// Rooms that differ since a server had to do without an event.
    pub excused: usize,
    /// Joins that others did not let count.
    pub undone: usize,
    /// Messages that were acknowledged.
    pub messages: usize,
    /// Actions that were acknowledged, by their kinds.
    pub done: BTreeMap<&'static str, usize>,
}

impl Ran {
    /// Whether there was enough to go wrong: something of each kind.
    pub fn is_lively(&self) -> bool {
        self.shared > 0 && self.messages > 0 && crate::actions::KINDS.iter().all(|kind| self.done.contains_key(kind))
    }
}

impl AddAssign for Ran {
    fn add_assign(&mut self, other: Self) {
        self.shared += other.shared;
        self.excused += other.excused;
        self.undone += other.undone;
        self.messages += other.messages;
        for (kind, count) in other.done {
            *self.done.entry(kind).or_default() += count;
        }
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} rooms on several servers, {} of them without an event of unknown key, {} joins undone",
            self.shared, self.excused, self.undone
        )?;
        write!(formatter, ", {} messages", self.messages)?;
        self.done.iter().try_for_each(|(kind, count)| write!(formatter, ", {count} {kind}"))
    }
}

pub struct Simulation {
    pub dice: Dice,
    pub network: Network,
    pub nodes: Vec<Node>,
    pub clients: Vec<Client>,
    pub rooms: Vec<String>,
    /// Who has joined which room, as far as they know.
    pub members: BTreeSet<(usize, String)>,
    /// Rooms in which what is said on one side may not count on another: their rules changed.
    pub contested: BTreeSet<String>,
    pub said: Vec<Said>,
    /// To-device messages that were acknowledged: to whom, and which.
    pub sent: Vec<(usize, String)>,
    /// Aliases that were acknowledged, and their rooms.
    pub aliases: Vec<(String, String)>,
    /// How many events had been acknowledged when all was well again.
    pub before_healing: usize,
    pub ran: Ran,
    numbers: u64,
}

fn open(network: &Network, name: &str, servers: usize, store: &UnreliableStore) -> TestServer {
    let number: usize = name.trim_start_matches('s').trim_end_matches(".example").parse().expect("the name of a server");
    let others = (1..servers.min(NOTARIES + 1)).map(|step| server_name((number + step) % servers).try_into().expect("a name"));
    network.server_with(name, Rc::new(store.clone()), Config { trusted_key_servers: others.collect(), ..config() })
}

fn server_name(number: usize) -> String {
    format!("s{number}.example")
}

impl Simulation {
    pub fn new(seed: u64, servers: usize) -> Self {
        let (network, mut dice) = (Network::new(), Dice(seed));
        let (mut nodes, mut clients) = (Vec::new(), Vec::new());
        for number in 0..servers {
            let (name, store) = (server_name(number), UnreliableStore::new());
            network.set_clock_ahead(&name, Duration::from_millis(dice.next() % CLOCKS_APART));
            let server = open(&network, &name, servers, &store);
            for user in 0..2 {
                let user = server.register(&format!("u{user}"));
                clients.push(Client {
                    user,
                    node: number,
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
        Self {
            dice,
            network,
            nodes,
            clients,
            rooms: Vec::new(),
            members: BTreeSet::new(),
            contested: BTreeSet::new(),
            said: Vec::new(),
            sent: Vec::new(),
            aliases: Vec::new(),
            before_healing: 0,
            ran: Ran::default(),
            numbers: 0,
        }
    }

    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub fn server(&self, client: usize) -> &TestServer {
        &self.nodes[self.clients[client].node].server
    }

    /// A request that may never be answered, since the server crashed.
    pub fn ask(&self, client: usize, method: &str, path: &str, body: Option<Value>) -> impl Future<Output = Option<Answer>> + use<> {
        let server = self.server(client);
        let asked = server.start(method, path, Some(&self.clients[client].user.token), body);
        let host = server.host.clone();
        async move {
            match select(Box::pin(asked), host.sleep(PATIENCE)).await {
                Either::Left((answer, _)) => Some(answer),
                Either::Right(_) => None,
            }
        }
    }

    pub fn ok(&self, client: usize, method: &str, path: &str, body: Option<Value>) -> Option<Value> {
        let asked = self.ask(client, method, path, body);
        self.server(client).run(asked).filter(|answer| answer.status == 200).map(|answer| answer.body)
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
    pub fn revive(&mut self) {
        let servers = self.nodes.len();
        for node in &mut self.nodes {
            if node.store.crashed() {
                node.server.end();
                node.store = node.store.restart();
                node.server = open(&self.network, &node.name, servers, &node.store);
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
                self.clients[client].seen.extend(events.filter_map(|event| Some((id.clone(), event["event_id"].as_str()?.to_owned()))));
            }
            let messages = answer["to_device"]["events"].as_array().into_iter().flatten();
            self.clients[client].to_device.extend(messages.filter_map(|message| message["content"]["body"].as_str().map(str::to_owned)));
        }
    }

    /// Reads what a sync has left out, as clients do: backwards, until there is what was seen
    /// before.
    fn fill_gap(&mut self, client: usize, room: &str, prev_batch: &str) {
        let mut from = prev_batch.to_owned();
        loop {
            let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=100&from={from}");
            let Some(page) = self.ok(client, "GET", &path, None) else { return };
            let events =
                page["chunk"].as_array().into_iter().flatten().filter_map(|event| Some((room.to_owned(), event["event_id"].as_str()?.to_owned())));
            let (seen, unseen): (Vec<_>, Vec<_>) = events.partition(|event| self.clients[client].seen.contains(event));
            self.clients[client].filled.extend(unseen);
            match page["end"].as_str() {
                Some(end) if seen.is_empty() => from = end.to_owned(),
                _ => return,
            }
        }
    }

    pub fn run(&mut self, actions: usize) {
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

    pub fn heal(&mut self) {
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
}
