//! What has to be true once all is well again.

use crate::{
    left_out,
    world::{Client, Node, Simulation},
};
use ephapse_homeserver::{Position, room::Event};
use ephapse_store::Direction;
use ruma::{OwnedEventId, OwnedRoomId};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

/// How servers know an event.
#[derive(Default)]
struct Known {
    servers: usize,
    /// Whether one has rejected it, or withholds it.
    is_refused: bool,
    /// Whether one knows the state there.
    has_state: bool,
}

impl Simulation {
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

    /// Says what everybody has of a room in which something is wrong.
    fn tell_of(&self, joined: &[usize], room: &str) {
        let nodes: BTreeSet<usize> = joined.iter().map(|client| self.clients[*client].node).collect();
        for node in nodes {
            println!("{}:", self.nodes[node].name);
            let short = |id: &OwnedEventId| id.as_str()[1..6].to_owned();
            for event in events(&self.nodes[node], room) {
                let after: Vec<String> = event.pdu.prev_events.iter().map(short).collect();
                let flags = [
                    event.rejected.as_deref(),
                    event.soft_failed.then_some("soft-failed"),
                    event.waiting.then_some("waiting"),
                    event.outlier.map(|_| "was an outlier"),
                ];
                let flags: Vec<&str> = flags.into_iter().flatten().collect();
                println!(
                    "  {} {} depth {} {} {} after {} {}",
                    event.position.0,
                    short(&event.pdu.event_id),
                    event.pdu.depth,
                    event.pdu.sender,
                    event.pdu.event_type,
                    after.join(" "),
                    flags.join(", ")
                );
            }
        }
    }

    fn is_on(&self, joined: &[usize], node: usize) -> bool {
        joined.iter().any(|client| self.clients[*client].node == node)
    }

    /// Whether somebody joined on one side of a split while the rules of joining changed on another:
    /// where both are known the join does not count, and nobody tells its server, which is not in
    /// the room then.
    fn was_undone(&self, client: usize, joined: &[usize], room: &str) -> bool {
        let user = &self.clients[client].user.id;
        let key = ("m.room.member".to_owned(), user.clone());
        let own = self.state(client, room).remove(&key);
        let is_of_others = |other: &&usize| self.clients[**other].node != self.clients[client].node;
        self.contested.contains(room)
            && joined.iter().filter(is_of_others).any(|other| {
                let has_join =
                    events(&self.nodes[self.clients[*other].node], room).iter().any(|event| own.as_deref() == Some(event.pdu.event_id.as_str()));
                has_join && self.state(*other, room).get(&key) != own.as_ref()
            })
    }

    /// Says whether it differs by nothing but events that could not be verified.
    fn check_state(&self, joined: &[usize], room: &str, left_out: &BTreeSet<String>) -> bool {
        let mut is_excused = false;
        let state = self.state(joined[0], room);
        for client in &joined[1..] {
            let theirs = self.state(*client, room);
            let of = |client: usize| &self.clients[client].user.id;
            let differs: Vec<_> = state.keys().chain(theirs.keys()).filter(|key| state.get(*key) != theirs.get(*key)).collect();
            let differs: BTreeMap<_, _> = differs.into_iter().map(|key| (key, (state.get(key), theirs.get(key)))).collect();
            let was_left_out = |id: &Option<&String>| id.is_some_and(|id| left_out.contains(id));
            if differs.values().all(|(mine, theirs)| was_left_out(mine) || was_left_out(theirs)) {
                is_excused |= !differs.is_empty();
            } else {
                self.tell_of(joined, room);
                panic!("{} and {} see another state of {room}: {differs:?}", of(joined[0]), of(*client));
            }
        }
        is_excused
    }

    fn check_history(&self, joined: &[usize], room: &str) {
        for client in joined {
            let history = self.history(*client, room);
            let unique: BTreeSet<&String> = history.iter().collect();
            let whom = &self.clients[*client].user.id;
            assert_eq!(unique.len(), history.len(), "{whom} reads an event of {room} twice");
            // What was said on a server that has left the room may have gone with it.
            let counts = |by: usize| !self.clients[by].restrained && self.is_on(joined, self.clients[by].node);
            for said in self.said.iter().filter(|said| said.is_message && said.room == room && counts(said.by)) {
                if !self.contested.contains(room) && !unique.contains(&said.id) {
                    self.tell_of(joined, room);
                    panic!("{whom} does not find {} in {room}, which {} has said", said.id, self.clients[said.by].user.id);
                }
            }
        }
    }

    /// Once everybody has read all of a room, all servers that are in it have the same events:
    /// those that nobody takes for an attempt to go on after a ban or the like. An invitation, or a
    /// knock, that a server knew before it was in the room it may know alone: the answer was lost,
    /// or who could tell what was before it has left.
    fn check_events(&self, joined: &[usize], room: &str) {
        let nodes: BTreeSet<usize> = joined.iter().map(|client| self.clients[*client].node).collect();
        let mut known_by: BTreeMap<OwnedEventId, Known> = BTreeMap::new();
        for node in &nodes {
            for event in events(&self.nodes[*node], room) {
                let known = known_by.entry(event.pdu.event_id.clone()).or_default();
                known.servers += 1;
                known.is_refused |= !event.is_accepted();
                known.has_state |= event.has_state();
            }
        }
        let is_missing = |known: &Known| known.has_state && !known.is_refused && known.servers < nodes.len();
        if let Some((id, _)) = known_by.iter().find(|(_, known)| is_missing(known)) {
            self.tell_of(joined, room);
            panic!("not all servers in {room} have {id}");
        }
    }

    /// Whoever has stayed in a room was synced each event that has come since, once.
    fn check_what_was_synced(&self, client: &Client, room: &str) {
        let node = &self.nodes[client.node];
        let events = events(node, room);
        let is_join = |event: &&Rc<Event>| event.pdu.state_key.as_deref() == Some(&client.user.id) && event.is_accepted();
        let Some(joined) = events.iter().find(is_join).map(|event| event.position) else { return };
        let seen: BTreeSet<&str> = client.seen.iter().chain(&client.filled).filter(|(at, _)| at == room).map(|(_, id)| id.as_str()).collect();
        for event in events.iter().filter(|event| event.is_shown() && event.position > joined && event.position > Position(0)) {
            let id = event.pdu.event_id.as_str();
            assert!(seen.contains(id), "{} was not synced {id} of {room}, at {}", client.user.id, event.position.0);
        }
    }

    /// What a server has acknowledged it has, whatever others say of it.
    fn check_nothing_is_lost(&self) {
        for said in &self.said {
            let node = &self.nodes[self.clients[said.by].node];
            let (hs, id) = (node.server.hs.clone(), OwnedEventId::try_from(said.id.as_str()).expect("an event's id"));
            let found = node.server.run(async move { hs.find_event(&id).await }).expect("the store can be read");
            assert!(found.is_some(), "{} has lost {} of {}", node.name, said.id, said.room);
        }
    }

    fn check_aliases(&self) {
        for (alias, room) in &self.aliases {
            for client in (0..self.clients.len()).step_by(2) {
                let found = self.ok(client, "GET", &format!("/_matrix/client/v3/directory/room/{}", alias.replace('#', "%23")), None);
                let found = found.unwrap_or_else(|| panic!("{} does not find {alias}", self.clients[client].user.id));
                // Where a room was upgraded they lead to the new one.
                assert!(found["room_id"] == room.as_str() || self.contested.contains(room), "{alias} leads to {found}");
            }
        }
    }

    pub fn check(&mut self) {
        let left_out = left_out::take();
        for room in self.rooms.clone() {
            let everybody = self.joined(&room);
            let joined: Vec<usize> = everybody.iter().copied().filter(|client| !self.was_undone(*client, &everybody, &room)).collect();
            self.ran.undone += everybody.len() - joined.len();
            let Some(first) = joined.first() else { continue };
            self.ran.shared += usize::from(joined.iter().any(|client| self.clients[*client].node != self.clients[*first].node));
            if self.check_state(&joined, &room, &left_out) {
                self.ran.excused += 1;
                continue;
            }
            // Before history is fetched, which nobody is synced.
            for client in joined.iter().map(|client| &self.clients[*client]).filter(|client| !client.left && !client.restrained) {
                self.check_what_was_synced(client, &room);
            }
            self.check_history(&joined, &room);
            self.check_events(&joined, &room);
            if self.contested.contains(&room) {
                continue;
            }
            for said in self.said[self.before_healing..].iter().filter(|said| said.room == room && !self.clients[said.by].restrained) {
                for client in joined.iter().map(|client| &self.clients[*client]).filter(|client| !client.left && !client.restrained) {
                    let was_synced = client.seen.iter().chain(&client.filled).any(|(_, id)| *id == said.id);
                    assert!(was_synced, "{} was not synced {} of {room}, which was said when all was well", client.user.id, said.id);
                }
            }
        }
        for client in self.clients.iter().filter(|client| !client.left && !client.restrained) {
            let unique: BTreeSet<&(String, String)> = client.seen.iter().collect();
            assert_eq!(unique.len(), client.seen.len(), "{} was synced an event twice", client.user.id);
        }
        for (to, text) in &self.sent {
            let client = &self.clients[*to];
            let times = client.to_device.iter().filter(|got| *got == text).count();
            assert_eq!(times, 1, "{} got `{text}` so many times", client.user.id);
        }
        self.check_nothing_is_lost();
        self.check_aliases();
    }
}

/// What a server has of a room, in the order of its timeline.
fn events(node: &Node, room: &str) -> Vec<Rc<Event>> {
    let (hs, id) = (node.server.hs.clone(), OwnedRoomId::try_from(room).expect("a room's id"));
    node.server.run(async move {
        let Ok(room) = hs.known_room(&id).await else { return Vec::new() };
        hs.events_between(room.nid, Position::MIN..Position::MAX, Direction::Forward, 100_000).await.expect("the store can be read")
    })
}
