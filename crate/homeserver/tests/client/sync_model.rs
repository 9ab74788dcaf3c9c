//! `/sync` and `/messages` against a model: whatever happens in rooms, and whenever clients ask
//! with whatever limits, each client that fills its gaps holds every event it may see exactly once
//! and in order, and the room's state as the server has it.

use crate::{
    rooms::room,
    support::{TestServer, TestUser},
    sync::query,
};
use ephapse_testing::holds;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

const ROOMS: usize = 2;

#[derive(Clone, Debug)]
enum Op {
    Send { user: usize, room: usize },
    Topic { user: usize, room: usize },
    Rename { user: usize, room: usize },
    Visibility { room: usize, to: usize },
    Join { user: usize, room: usize },
    Leave { user: usize, room: usize },
    Invite { user: usize, room: usize },
    Kick { user: usize, room: usize },
    Ban { user: usize, room: usize },
    Unban { user: usize, room: usize },
    Sync { user: usize, limit: usize, page: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let (any, guest, room) = (0..3_usize, 1..3_usize, 0..ROOMS);
    prop_oneof![
        6 => (any.clone(), room.clone()).prop_map(|(user, room)| Op::Send { user, room }),
        2 => (any.clone(), room.clone()).prop_map(|(user, room)| Op::Topic { user, room }),
        1 => (any.clone(), room.clone()).prop_map(|(user, room)| Op::Rename { user, room }),
        1 => (room.clone(), 0..4_usize).prop_map(|(room, to)| Op::Visibility { room, to }),
        4 => (guest.clone(), room.clone()).prop_map(|(user, room)| Op::Join { user, room }),
        2 => (guest.clone(), room.clone()).prop_map(|(user, room)| Op::Leave { user, room }),
        1 => (guest.clone(), room.clone()).prop_map(|(user, room)| Op::Invite { user, room }),
        1 => (guest.clone(), room.clone()).prop_map(|(user, room)| Op::Kick { user, room }),
        1 => (guest.clone(), room.clone()).prop_map(|(user, room)| Op::Ban { user, room }),
        1 => (guest, room).prop_map(|(user, room)| Op::Unban { user, room }),
        6 => (any, prop_oneof![5 => 0..5_usize, 2 => Just(30)], 1..4_usize).prop_map(|(user, limit, page)| Op::Sync { user, limit, page }),
    ]
}

/// How a client asks for state.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    After,
    Lazy,
}

#[derive(Default)]
struct Room {
    seen: Vec<String>,
    state: BTreeMap<(String, String), String>,
    left: bool,
    /// The leaving, when everything up to it has been seen.
    until: Option<String>,
}

/// A client that does what the specification tells clients to do.
struct Client<'a> {
    server: &'a TestServer,
    user: &'a TestUser,
    ask: State,
    since: Option<String>,
    rooms: BTreeMap<String, Room>,
}

fn id(event: &Value) -> String {
    event["event_id"].as_str().expect("an event has an id").to_owned()
}

fn list(events: &Value) -> Vec<Value> {
    events.as_array().cloned().unwrap_or_default()
}

fn apply(state: &mut BTreeMap<(String, String), String>, events: &[Value]) {
    for event in events {
        if let Some(state_key) = event["state_key"].as_str() {
            state.insert((event["type"].as_str().unwrap_or_default().to_owned(), state_key.to_owned()), id(event));
        }
    }
}

impl Client<'_> {
    fn sync(&mut self, ids: &[String], limit: usize, page: usize) {
        let lazy = self.ask == State::Lazy;
        let filter = json!({"room": {"rooms": ids, "timeline": {"limit": limit}, "state": {"lazy_load_members": lazy}}}).to_string();
        let mut parameters = vec![("filter", filter.as_str())];
        if self.ask == State::After {
            parameters.push(("use_state_after", "true"));
        }
        let since = self.since.clone();
        if let Some(since) = &since {
            parameters.push(("since", since));
        }
        let answer = self.server.get(self.user, &query(&parameters)).ok();
        let none = serde_json::Map::new();
        for (id, answer) in answer["rooms"]["join"].as_object().unwrap_or(&none) {
            self.joined(id, answer, since.as_deref(), page);
        }
        for (id, answer) in answer["rooms"]["leave"].as_object().unwrap_or(&none) {
            self.left(id, answer, since.as_deref(), page);
        }
        for section in ["invite", "knock"] {
            for id in answer["rooms"][section].as_object().unwrap_or(&none).keys() {
                // Whatever the client had of it, it is not in the room now.
                let room = self.rooms.entry(id.clone()).or_default();
                (room.left, room.until) = (true, None);
            }
        }
        self.since = answer["next_batch"].as_str().map(str::to_owned);
    }

    fn left(&mut self, room_id: &str, answer: &Value, since: Option<&str>, page: usize) {
        let is_own = |event: &&Value| event["state_key"] == self.user.id.as_str();
        let membership = |event: &Value| event["content"]["membership"].as_str().unwrap_or_default().to_owned();
        let timeline = list(&answer["timeline"]["events"]);
        // A timeline of no events has it in the state.
        let state = list(&answer[if self.ask == State::After { "state_after" } else { "state" }]["events"]);
        let own = timeline.iter().rfind(is_own).or_else(|| state.iter().rfind(is_own)).expect("a room one has left comes with the leaving");
        assert!(["leave", "ban"].contains(&membership(own).as_str()), "{own}");
        let limited = answer["timeline"]["limited"] == true;
        let before = self.rooms.remove(room_id).unwrap_or_default();
        let goes_on = !before.left && !before.seen.is_empty();
        if !limited {
            for event in &timeline {
                assert!(!before.seen.contains(&id(event)), "twice: {event}");
            }
        }
        let mut gap = Vec::new();
        if limited && let Some(from) = answer["timeline"]["prev_batch"].as_str() {
            gap = self.messages(room_id, from, since.filter(|_| goes_on), page);
        }
        let was_in = goes_on || limited || timeline.iter().filter(is_own).any(|event| membership(event) == "join");
        let mut seen = if goes_on || !limited { before.seen } else { Vec::new() };
        seen.extend(gap.iter().rev().chain(&timeline).map(id));
        let until = was_in.then(|| id(own));
        self.rooms.insert(room_id.to_owned(), Room { seen, left: true, until, ..Room::default() });
    }

    fn joined(&mut self, room_id: &str, answer: &Value, since: Option<&str>, page: usize) {
        let new = self.rooms.get(room_id).is_none_or(|room| room.left);
        if new {
            self.rooms.insert(room_id.to_owned(), Room::default());
        }
        let timeline = list(&answer["timeline"]["events"]);
        let mut gap = Vec::new();
        if answer["timeline"]["limited"] == true
            && let Some(from) = answer["timeline"]["prev_batch"].as_str()
        {
            gap = self.messages(room_id, from, since.filter(|_| !new), page);
        }
        let room = self.rooms.get_mut(room_id).expect("just made");
        room.seen.extend(gap.iter().rev().chain(&timeline).map(id));
        match self.ask {
            State::After => {
                assert!(answer.get("state").is_none());
                apply(&mut room.state, &list(&answer["state_after"]["events"]));
            }
            _ => {
                apply(&mut room.state, &list(&answer["state"]["events"]));
                apply(&mut room.state, &timeline);
            }
        }
        for event in &timeline {
            let sender = event["sender"].as_str().unwrap_or_default().to_owned();
            assert!(room.state.contains_key(&("m.room.member".to_owned(), sender)), "whose event is that? {event}");
        }
    }

    fn messages(&self, room: &str, from: &str, to: Option<&str>, page: usize) -> Vec<Value> {
        let to = to.map(|to| format!("&to={to}")).unwrap_or_default();
        let mut from = from.to_owned();
        let mut events = Vec::new();
        loop {
            let answer = self.server.get(self.user, &format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit={page}&from={from}{to}")).ok();
            events.extend(list(&answer["chunk"]));
            match answer["end"].as_str() {
                Some(end) => from = end.to_owned(),
                None => return events,
            }
        }
    }

    /// Compares with what the server says when it is asked for everything.
    fn check(&self) {
        for (room_id, room) in &self.rooms {
            let Some(until) = &room.until else { continue };
            let listed = self.server.get(self.user, &format!("/_matrix/client/v3/rooms/{room_id}/messages?dir=f&limit=1000")).ok();
            let listed: Vec<String> = list(&listed["chunk"]).iter().map(id).collect();
            // Who was banned after leaving may not see it, and what everybody may read goes on
            // behind it.
            if let Some(end) = listed.iter().position(|event| event == until) {
                assert_eq!(room.seen, listed[..=end], "{} has seen something else of {room_id}, which was left", self.user.id);
            }
        }
        for (room_id, room) in self.rooms.iter().filter(|(_, room)| !room.left) {
            let listed = self.server.get(self.user, &format!("/_matrix/client/v3/rooms/{room_id}/messages?dir=f&limit=1000")).ok();
            let listed: Vec<String> = list(&listed["chunk"]).iter().map(id).collect();
            assert_eq!(room.seen, listed, "{} has seen something else of {room_id}", self.user.id);
            assert_eq!(room.seen.iter().collect::<BTreeSet<_>>().len(), room.seen.len(), "something came twice");
            let mut state = BTreeMap::new();
            apply(&mut state, &list(&self.server.get(self.user, &format!("/_matrix/client/v3/rooms/{room_id}/state")).ok()));
            if self.ask == State::Lazy {
                state.retain(|(kind, user), _| kind != "m.room.member" || room.state.contains_key(&(kind.clone(), user.clone())));
                assert!(room.state.contains_key(&("m.room.member".to_owned(), self.user.id.clone())), "a client knows itself");
            }
            assert_eq!(room.state, state, "{} has another state of {room_id}", self.user.id);
        }
    }
}

fn play(server: &TestServer, users: &[TestUser; 3], number: usize, ops: &[Op]) {
    let ids: Vec<String> = (0..ROOMS).map(|_| room(server, &users[0], json!({"preset": "public_chat"}))).collect();
    let asks = [State::Before, State::After, State::Lazy];
    let mut clients: Vec<Client<'_>> =
        users.iter().zip(asks).map(|(user, ask)| Client { server, user, ask, since: None, rooms: BTreeMap::new() }).collect();
    // What the rules refuse is refused: whatever does happen must be seen.
    let post = |user: usize, room: usize, what: &str, body: Value| {
        server.post(&users[user], &format!("/_matrix/client/v3/rooms/{}/{what}", ids[room]), body);
    };
    let put = |user: usize, room: usize, what: &str, body: Value| {
        server.put(&users[user], &format!("/_matrix/client/v3/rooms/{}/{what}", ids[room]), body);
    };
    for (step, op) in ops.iter().enumerate() {
        let txn = format!("{number}-{step}");
        match *op {
            Op::Send { user, room } => put(user, room, &format!("send/m.room.message/{txn}"), json!({"msgtype": "m.text", "body": txn})),
            Op::Topic { user, room } => put(user, room, "state/m.room.topic/", json!({"topic": txn})),
            Op::Rename { user, room } => {
                let path = format!("state/m.room.member/{}", users[user].id);
                put(user, room, &path, json!({"membership": "join", "displayname": txn}));
            }
            Op::Visibility { room, to } => {
                let visibility = ["joined", "shared", "invited", "world_readable"][to];
                put(0, room, "state/m.room.history_visibility/", json!({"history_visibility": visibility}));
            }
            Op::Join { user, room } => post(user, room, "join", json!({})),
            Op::Leave { user, room } => post(user, room, "leave", json!({})),
            Op::Invite { user, room } => post(0, room, "invite", json!({"user_id": users[user].id})),
            Op::Kick { user, room } => post(0, room, "kick", json!({"user_id": users[user].id})),
            Op::Ban { user, room } => post(0, room, "ban", json!({"user_id": users[user].id})),
            Op::Unban { user, room } => post(0, room, "unban", json!({"user_id": users[user].id})),
            Op::Sync { user, limit, page } => {
                clients[user].sync(&ids, limit, page);
                clients[user].check();
            }
        }
    }
    for client in &mut clients {
        client.sync(&ids, 3, 2);
        client.check();
    }
}

/// Events came twice to who had left a room, come back and left again; only long timelines showed
/// it.
#[test]
fn clients_see_every_event_once_and_hold_the_rooms_state() {
    let server = TestServer::new();
    let users = [server.register("alice"), server.register("bob"), server.register("carol")];
    let number = Cell::new(0);
    holds(64, &prop::collection::vec(op(), 10..60), |ops| {
        number.set(number.get() + 1);
        play(&server, &users, number.get(), &ops);
        Ok(())
    });
}
