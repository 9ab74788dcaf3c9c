//! What users do, at random.

use crate::world::{Said, Simulation};
use ephapse_homeserver::test_support::Answer;
use serde_json::{Value, json};

/// What each of enough seeds together has some of.
pub const KINDS: [&str; 15] = [
    "rooms made",
    "joins",
    "names",
    "restraints",
    "leaves",
    "invitations",
    "redactions",
    "power levels",
    "join rules",
    "upgrades",
    "knocks",
    "aliases",
    "joins by alias",
    "to-device messages",
    "typing",
];
/// Servers that a join names.
const MOST_NAMED: usize = 12;
const VERSIONS: [&str; 4] = ["6", "10", "11", "12"];

fn room_path(room: &str, rest: &str) -> String {
    format!("/_matrix/client/v3/rooms/{room}/{rest}")
}

/// An alias in a path.
fn escaped(alias: &str) -> String {
    alias.replace('#', "%23")
}

impl Simulation {
    fn note(&mut self, kind: &'static str) {
        *self.ran.done.entry(kind).or_default() += 1;
    }

    /// Something that is done where the answer is 200.
    fn do_it(&mut self, kind: &'static str, client: usize, method: &str, path: &str, body: Value) -> Option<Value> {
        let answer = self.ok(client, method, path, Some(body))?;
        self.note(kind);
        Some(answer)
    }

    /// The same for an event.
    fn do_event(&mut self, kind: &'static str, client: usize, room: &str, rest: &str, body: Value) {
        if let Some(answer) = self.do_it(kind, client, "PUT", &room_path(room, rest), body) {
            let id = answer["event_id"].as_str().map(str::to_owned);
            self.said.extend(id.map(|id| Said { by: client, room: room.to_owned(), id, is_message: false }));
        }
    }

    /// One thing that somebody does.
    pub fn act(&mut self) {
        let client = self.dice.below(self.clients.len());
        let other = self.dice.below(self.clients.len());
        let whom = self.clients[other].user.id.clone();
        let room = self.dice.pick(&self.rooms).cloned();
        let action = self.dice.below(100);
        // Mostly somebody who is there does something in a room.
        let members: Vec<usize> = self.members.iter().filter(|(_, at)| Some(at) == room.as_ref()).map(|(client, _)| *client).collect();
        let client = match self.dice.pick(&members) {
            Some(member) if (24..83).contains(&action) && self.dice.chance(85) => *member,
            _ => client,
        };
        match (action, room) {
            (0..5, _) | (_, None) => self.create(client),
            (5..24, Some(room)) => self.join(client, &room),
            (24..54, Some(room)) => self.say(client, &room),
            (54..58, Some(room)) => {
                let name = format!("name {}", self.number());
                self.do_event("names", client, &room, "state/m.room.name/", json!({ "name": name }));
            }
            (58..61, Some(room)) => self.restrain(client, other, &room),
            (61..64, Some(room)) => {
                self.clients[client].left = true;
                self.members.remove(&(client, room.clone()));
                self.do_it("leaves", client, "POST", &room_path(&room, "leave"), json!({}));
            }
            (64..69, Some(room)) => drop(self.do_it("invitations", client, "POST", &room_path(&room, "invite"), json!({ "user_id": whom }))),
            (69..74, Some(room)) => self.redact(client, &room),
            (74..78, Some(room)) => self.set_levels(client, &room, &whom),
            (78..80, Some(room)) => self.set_join_rule(client, &room),
            (80..82, Some(room)) => self.upgrade(client, &room),
            (82..83, Some(room)) => self.name_by_alias(client, &room),
            (83..86, Some(room)) => {
                // One has to be asked in to most of these.
                let closed: Vec<String> = self.contested.iter().cloned().collect();
                let room = self.dice.pick(&closed).cloned().unwrap_or(room);
                let path = format!("/_matrix/client/v3/knock/{room}?{}", self.via(&room));
                self.do_it("knocks", client, "POST", &path, json!({}));
            }
            (86..89, _) => self.join_by_alias(client),
            (89..90, Some(room)) => self.name_by_alias(client, &room),
            (90..96, _) => self.send_to_device(client, other),
            (_, Some(room)) => {
                let path = room_path(&room, &format!("typing/{}", self.clients[client].user.id));
                self.do_it("typing", client, "PUT", &path, json!({ "typing": true, "timeout": 5000 }));
            }
        }
    }

    fn create(&mut self, client: usize) {
        let version = VERSIONS[self.dice.below(VERSIONS.len())];
        let mut body = json!({ "preset": "public_chat", "room_version": version });
        let other = self.dice.pick(&self.rooms).cloned();
        let rule = match (self.dice.below(10), other) {
            (0..2, _) if version != "6" => Some(json!({ "join_rule": "knock" })),
            (2, Some(other)) if version != "6" => {
                Some(json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": other }] }))
            }
            _ => None,
        };
        if let Some(rule) = &rule {
            body["initial_state"] = json!([{ "type": "m.room.join_rules", "state_key": "", "content": rule }]);
        }
        let Some(made) = self.do_it("rooms made", client, "POST", "/_matrix/client/v3/createRoom", body) else { return };
        let Some(room) = made["room_id"].as_str().map(str::to_owned) else { return };
        if rule.is_some() {
            self.contested.insert(room.clone());
        }
        self.members.insert((client, room.clone()));
        self.rooms.push(room);
    }

    /// Servers that may be in a room: those of who is known to be there first.
    fn via(&self, room: &str) -> String {
        let there = self.members.iter().filter(|(_, at)| at == room).map(|(client, _)| self.clients[*client].node);
        let mut nodes: Vec<usize> = there.collect();
        nodes.extend(0..self.nodes.len());
        let via: Vec<String> = nodes.iter().take(MOST_NAMED).map(|node| format!("via={}", self.nodes[*node].name)).collect();
        via.join("&")
    }

    fn join(&mut self, client: usize, room: &str) {
        let path = format!("/_matrix/client/v3/join/{room}?{}", self.via(room));
        if self.do_it("joins", client, "POST", &path, json!({})).is_some() {
            self.members.insert((client, room.to_owned()));
        }
    }

    fn join_by_alias(&mut self, client: usize) {
        if let Some((alias, _)) = self.dice.pick(&self.aliases).cloned() {
            self.do_it("joins by alias", client, "POST", &format!("/_matrix/client/v3/join/{}", escaped(&alias)), json!({}));
        }
    }

    fn name_by_alias(&mut self, client: usize, room: &str) {
        let alias = format!("#a{}:{}", self.number(), self.nodes[self.clients[client].node].name);
        let path = format!("/_matrix/client/v3/directory/room/{}", escaped(&alias));
        if self.do_it("aliases", client, "PUT", &path, json!({ "room_id": room })).is_some() {
            self.aliases.push((alias, room.to_owned()));
        }
    }

    /// A client that hears no answer asks again, with the same transaction id.
    fn insist(&mut self, client: usize, path: &str, body: &Value) -> Option<Answer> {
        for _ in 0..3 {
            let asked = self.ask(client, "PUT", path, Some(body.clone()));
            match self.server(client).run(asked) {
                Some(answer) if answer.status < 500 => return Some(answer).filter(|answer| answer.status == 200),
                _ => self.revive(),
            }
        }
        None
    }

    pub fn say(&mut self, client: usize, room: &str) {
        let n = self.number();
        let path = room_path(room, &format!("send/m.room.message/t{n}"));
        let answer = self.insist(client, &path, &json!({ "msgtype": "m.text", "body": format!("message {n}") }));
        let id = answer.and_then(|answer| answer.body["event_id"].as_str().map(str::to_owned));
        self.ran.messages += usize::from(id.is_some());
        self.said.extend(id.map(|id| Said { by: client, room: room.to_owned(), id, is_message: true }));
    }

    fn send_to_device(&mut self, client: usize, to: usize) {
        let n = self.number();
        let (whom, text) = (self.clients[to].user.id.clone(), format!("to-device {n}"));
        let body = json!({ "messages": { whom: { "*": { "body": text } } } });
        if self.insist(client, &format!("/_matrix/client/v3/sendToDevice/org.example.test/d{n}"), &body).is_some() {
            self.note("to-device messages");
            self.sent.push((to, text));
        }
    }

    fn restrain(&mut self, client: usize, other: usize, room: &str) {
        let way = ["kick", "ban", "unban"][self.dice.below(3)];
        let whom = self.clients[other].user.id.clone();
        if other == client {
            return;
        }
        // Where no answer comes it may be done all the same.
        let asked = self.ask(client, "POST", &room_path(room, way), Some(json!({ "user_id": whom })));
        let answer = self.server(client).run(asked);
        if answer.as_ref().is_none_or(|answer| answer.status == 200 || answer.status >= 500) {
            self.clients[other].restrained = true;
        }
        if answer.is_some_and(|answer| answer.status == 200) {
            self.note("restraints");
        }
    }

    fn redact(&mut self, client: usize, room: &str) {
        let mine: Vec<String> =
            self.said.iter().filter(|said| said.is_message && said.by == client && said.room == room).map(|said| said.id.clone()).collect();
        if let Some(id) = self.dice.pick(&mine).cloned() {
            let n = self.number();
            self.do_event("redactions", client, room, &format!("redact/{id}/r{n}"), json!({}));
        }
    }

    fn set_levels(&mut self, client: usize, room: &str, whom: &str) {
        let level = [0, 50, 100][self.dice.below(3)];
        let Some(mut levels) = self.ok(client, "GET", &room_path(room, "state/m.room.power_levels/"), None) else { return };
        levels["users"][whom] = json!(level);
        self.do_event("power levels", client, room, "state/m.room.power_levels/", levels);
    }

    fn set_join_rule(&mut self, client: usize, room: &str) {
        let rule = ["public", "invite", "knock"][self.dice.below(3)];
        // Where no answer comes it may be done all the same.
        self.contested.insert(room.to_owned());
        self.do_event("join rules", client, room, "state/m.room.join_rules/", json!({ "join_rule": rule }));
    }

    fn upgrade(&mut self, client: usize, room: &str) {
        let version = VERSIONS[self.dice.below(VERSIONS.len())];
        self.contested.insert(room.to_owned());
        let made = self.do_it("upgrades", client, "POST", &room_path(room, "upgrade"), json!({ "new_version": version }));
        if let Some(new) = made.and_then(|made| made["replacement_room"].as_str().map(str::to_owned)) {
            // It has the join rule of the old one.
            self.contested.insert(new.clone());
            self.rooms.push(new);
        }
    }
}
