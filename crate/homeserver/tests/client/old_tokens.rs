//! What is listed as changed is dropped after a while. A client that comes back later must be
//! answered as if it were all there still.

use crate::{
    rooms::room,
    support::{TestServer, TestUser, config},
    sync::query,
};
use ephapse_homeserver::Position;
use ephapse_store::{Bytes, Direction, unreliable::UnreliableStore};
use ephapse_testing::holds;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{ops::Range, rc::Rc};

const ROOMS: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    Send { user: usize, room: usize },
    Topic { room: usize },
    Encrypt { room: usize },
    Join { user: usize, room: usize },
    Leave { user: usize, room: usize },
    Forget { user: usize, room: usize },
    Invite { user: usize, room: usize },
    Receipt { user: usize, room: usize, kind: usize },
    Typing { user: usize, room: usize, types: bool },
    AccountData { user: usize, room: Option<usize>, kind: usize },
    ToDevice { from: usize, to: usize },
    Device { user: usize },
    Presence { user: usize, says: usize },
    Drop { room: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let (user, guest, room) = (0..3_usize, 1..3_usize, 0..ROOMS);
    prop_oneof![
        3 => (user.clone(), room.clone()).prop_map(|(user, room)| Op::Send { user, room }),
        1 => room.clone().prop_map(|room| Op::Topic { room }),
        1 => room.clone().prop_map(|room| Op::Encrypt { room }),
        4 => (guest.clone(), room.clone()).prop_map(|(user, room)| Op::Join { user, room }),
        2 => (guest.clone(), room.clone()).prop_map(|(user, room)| Op::Leave { user, room }),
        1 => (guest.clone(), room.clone()).prop_map(|(user, room)| Op::Forget { user, room }),
        1 => (guest, room.clone()).prop_map(|(user, room)| Op::Invite { user, room }),
        3 => (user.clone(), room.clone(), 0..3_usize).prop_map(|(user, room, kind)| Op::Receipt { user, room, kind }),
        2 => (user.clone(), room.clone(), any::<bool>()).prop_map(|(user, room, types)| Op::Typing { user, room, types }),
        3 => (user.clone(), prop::option::of(room.clone()), 0..2_usize).prop_map(|(user, room, kind)| Op::AccountData { user, room, kind }),
        2 => (user.clone(), user.clone()).prop_map(|(from, to)| Op::ToDevice { from, to }),
        3 => user.clone().prop_map(|user| Op::Device { user }),
        2 => (user, 0..3_usize).prop_map(|(user, says)| Op::Presence { user, says }),
        1 => room.prop_map(|room| Op::Drop { room }),
    ]
}

struct Play {
    store: UnreliableStore,
    server: TestServer,
    users: [TestUser; 3],
    rooms: Vec<String>,
    newest: Vec<String>,
}

impl Play {
    fn new() -> Self {
        let store = UnreliableStore::new();
        let server = TestServer::with(Rc::new(store.clone()), config());
        let users = [server.register("alice"), server.register("bob"), server.register("carol")];
        let rooms = (0..ROOMS).map(|_| room(&server, &users[0], json!({"preset": "public_chat"}))).collect();
        Self { store, server, users, rooms, newest: vec![String::new(); ROOMS] }
    }

    /// What the rules refuse is refused: whatever does happen must be told.
    fn step(&mut self, step: usize, op: &Op) {
        let Self { server, users, rooms, .. } = &*self;
        let in_room = |room: usize, what: &str| format!("/_matrix/client/v3/rooms/{}/{what}", rooms[room]);
        match *op {
            Op::Send { user, room } => {
                let sent = server.put(&users[user], &in_room(room, &format!("send/m.room.message/{step}")), json!({"body": step.to_string()}));
                if let Some(id) = sent.body["event_id"].as_str() {
                    self.newest[room] = id.to_owned();
                }
            }
            Op::Topic { room } => drop(server.put(&users[0], &in_room(room, "state/m.room.topic/"), json!({"topic": step.to_string()}))),
            Op::Encrypt { room } => {
                let content = json!({"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": step + 1});
                server.put(&users[0], &in_room(room, "state/m.room.encryption/"), content);
            }
            Op::Join { user, room } => drop(server.post(&users[user], &in_room(room, "join"), json!({}))),
            Op::Leave { user, room } => drop(server.post(&users[user], &in_room(room, "leave"), json!({}))),
            Op::Forget { user, room } => drop(server.post(&users[user], &in_room(room, "forget"), json!({}))),
            Op::Invite { user, room } => drop(server.post(&users[0], &in_room(room, "invite"), json!({"user_id": users[user].id}))),
            Op::Receipt { user, room, kind } => {
                let kind = ["m.read", "m.read.private", "m.fully_read"][kind];
                let body = if kind == "m.read" && step.is_multiple_of(2) { json!({"thread_id": "main"}) } else { json!({}) };
                server.post(&users[user], &in_room(room, &format!("receipt/{kind}/{}", self.newest[room])), body);
            }
            Op::Typing { user, room, types } => {
                let body = if types { json!({"typing": true, "timeout": 30_000}) } else { json!({"typing": false}) };
                server.put(&users[user], &in_room(room, &format!("typing/{}", users[user].id)), body);
            }
            Op::AccountData { user, room, kind } => {
                let room = room.map(|room| format!("/rooms/{}", rooms[room])).unwrap_or_default();
                let path = format!("/_matrix/client/v3/user/{}{room}/account_data/org.example.{kind}", users[user].id);
                server.put(&users[user], &path, json!({"step": step})).ok();
            }
            Op::ToDevice { from, to } => {
                let body = json!({"messages": {&users[to].id: {"*": {"step": step}}}});
                server.put(&users[from], &format!("/_matrix/client/v3/sendToDevice/org.example/{step}"), body).ok();
            }
            Op::Device { user } => {
                let path = format!("/_matrix/client/v3/devices/{}", users[user].device);
                server.put(&users[user], &path, json!({"display_name": step.to_string()})).ok();
            }
            Op::Presence { user, says } => {
                let says = ["online", "unavailable", "offline"][says];
                let body = json!({"presence": says, "status_msg": step.to_string()});
                server.put(&users[user], &format!("/_matrix/client/v3/presence/{}/status", users[user].id), body);
            }
            Op::Drop { room } => {
                // Some of the list goes while things go on.
                let to = server.hs.status().position - 7 * room as i64;
                self.forget(server, to);
            }
        }
    }

    fn forget(&self, server: &TestServer, to: i64) {
        let hs = server.hs.clone();
        server.run(async move { hs.forget_changes(Position(to)).await }).expect("the store works");
    }

    /// A server on a copy of what is stored, so that an answer changes nothing for the next one.
    fn copy(&self) -> TestServer {
        TestServer::with(Rc::new(self.store.restart()), config())
    }
}

/// What the tables of a range hold.
fn stored(server: &TestServer, prefixes: Range<u8>) -> Vec<(Bytes, Bytes)> {
    let store = server.store.clone();
    let all = async move { store.scan(vec![prefixes.start]..vec![prefixes.end], Direction::Forward, usize::MAX).await };
    server.run(all).expect("the store reads")
}

/// What may differ is the order of lists that have none.
fn comparable(mut answer: Value) -> Value {
    for list in ["changed", "left"] {
        if let Some(list) = answer["device_lists"][list].as_array_mut() {
            list.sort_unstable_by_key(ToString::to_string);
        }
    }
    answer
}

#[test]
fn an_old_since_is_answered_alike_before_and_after_its_changes_are_dropped() {
    holds(12, &(prop::collection::vec(op(), 10..50), 1..6_i64), |(ops, stride)| {
        let mut play = Play::new();
        let begin = play.server.hs.status().position;
        let instance = play.server.get(&play.users[0], "/_matrix/client/v3/sync").ok()["next_batch"].as_str().expect("a token").to_owned();
        let instance = instance.split_once('_').expect("a position and an instance").1.to_owned();
        let all = ops.iter().filter(|op| !matches!(op, Op::Drop { .. })).collect::<Vec<_>>();
        for (step, op) in all.iter().enumerate() {
            play.step(step, op);
        }
        let newest = play.server.hs.status().position;
        for position in (begin..=newest).step_by(stride as usize) {
            for user in &play.users {
                let since = format!("s{position}_{instance}");
                for filter in [r#"{"room":{"timeline":{"limit":3}}}"#, r#"{"room":{"timeline":{"limit":1},"state":{"lazy_load_members":true}}}"#] {
                    let path = query(&[("since", &since), ("filter", filter)]);
                    let listed = play.copy().get(user, &path).ok();
                    let walked = play.copy();
                    play.forget(&walked, walked.hs.status().position);
                    let walked = walked.get(user, &path).ok();
                    prop_assert_eq!(comparable(walked), comparable(listed), "{} since {}", user.id, position);
                }
                let path = format!("/_matrix/client/v3/keys/changes?from={since}&to=s{newest}_{instance}");
                let sorted = |server: &TestServer| comparable(json!({"device_lists": server.get(user, &path).ok()}));
                let walked = play.copy();
                play.forget(&walked, newest);
                prop_assert_eq!(sorted(&walked), sorted(&play.copy()), "{} since {}", user.id, position);
            }
        }
        Ok(())
    });
}

/// The list is dropped bit by bit while things go on, and each bit outlives the others as if it had
/// been dropped at once.
#[test]
fn dropping_the_list_in_bits_leaves_what_dropping_it_at_once_leaves() {
    holds(8, &prop::collection::vec(op(), 10..60), |ops| {
        let (mut bits, mut once) = (Play::new(), Play::new());
        for (step, op) in ops.iter().enumerate() {
            bits.step(step, op);
            if !matches!(op, Op::Drop { .. }) {
                once.step(step, op);
            }
        }
        let newest = once.server.hs.status().position;
        prop_assert_eq!(bits.server.hs.status().position, newest);
        bits.forget(&bits.server, newest);
        once.forget(&once.server, newest);
        let entries = |play: &Play| stored(&play.server, 0x03..0x06);
        prop_assert_eq!(entries(&bits), entries(&once));
        Ok(())
    });
}

/// However much passes, what is kept of it in the list is bounded.
#[test]
fn repeated_changes_do_not_grow_the_list_of_changes() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = format!("/_matrix/client/v3/user/{}/account_data/org.example.test", alice.id);
    let listed = |server: &TestServer| stored(server, 0x03..0x04).len();
    for n in 0..6_500 {
        server.put(&alice, &path, json!({"n": n})).ok();
    }
    assert!(listed(&server) > 6_000);
    server.host.advance(std::time::Duration::from_secs(3600));
    server.get(&alice, "/_matrix/client/v3/sync").ok();
    // What was begun beside the request ends.
    server.put(&alice, &path, json!({"n": 1})).ok();
    assert!(listed(&server) < 4_100, "{}", listed(&server));
}
