//! The authorization rules as scenarios, one line each, in every room version (rooms/v1.md to
//! v12.md "Authorization rules"): `case` says in which versions the event is allowed, and it must
//! be rejected in all others. Who judges is given: the rules themselves in this crate's tests, and
//! whoever takes events in by them in its own.

#![allow(clippy::unwrap_used)]

use crate::{
    Pdu,
    model::{Draft, Model, user, versions},
    signing_key,
};
use ruma::{CanonicalJsonObject, OwnedEventId, serde::Base64, signatures::sign_json};
use serde_json::{Value, json};
use std::ops::RangeInclusive;

/// Takes an event in at the end of a room, and says why it is rejected if it is.
pub type Judge<'a> = &'a dyn Fn(&mut Model, Pdu) -> Result<(), String>;

/// Gives a macro the names of all scenarios, each a function of this module over a [`Judge`].
#[macro_export]
macro_rules! with_each_scenario {
    ($macro:ident) => {
        $macro! {
            create auth_events what_an_event_names_and_what_is_so aliases joins invites third_party_invites leaving_kicks_and_bans knocks malformed_memberships messages_and_state power_levels additional_creators redactions
        }
    };
}

const ALL: RangeInclusive<u8> = 1..=12;
#[allow(clippy::reversed_empty_ranges)]
const NONE: RangeInclusive<u8> = 1..=0;

/// In `room`, made anew for each version, `event` is allowed in these versions only.
fn case(judge: Judge<'_>, allowed_in: RangeInclusive<u8>, says: &str, room: impl Fn(&mut Model), event: impl Fn(&Model) -> Pdu) {
    for version in versions() {
        let mut model = Model::public(version);
        room(&mut model);
        let event = event(&model);
        let verdict = judge(&mut model, event);
        assert_eq!(verdict.is_ok(), allowed_in.contains(&version), "{says}, in version {version}: {verdict:?}");
    }
}

impl Model {
    /// The next event at the end of the room.
    fn next(&self, draft: Draft) -> Pdu {
        self.build(&self.parents(), draft)
    }

    fn join(&mut self, names: &[&str]) {
        for name in names {
            self.send(Draft::member(name, name, "join")).unwrap();
        }
    }

    /// What someone who may does.
    fn set(&mut self, sender: &str, event_type: &str, content: Value) {
        self.send(Draft::state(sender, event_type, "", content)).unwrap();
    }

    fn join_rule(&mut self, rule: &str) {
        self.set("alice", "m.room.join_rules", json!({ "join_rule": rule }));
    }

    /// Power levels with more than users in them.
    fn levels(&mut self, users: &[(&str, i64)], rest: Value) {
        let levels = merged(self.power_levels(users), rest);
        self.set("alice", "m.room.power_levels", levels);
    }

    fn holder_now(&self, event_type: &str, state_key: &str) -> OwnedEventId {
        self.holder(&self.extremities(), event_type, state_key).unwrap()
    }
}

fn merged(mut content: Value, more: Value) -> Value {
    let more = more.as_object().unwrap().clone();
    content.as_object_mut().unwrap().extend(more);
    content
}

fn message(sender: &str) -> Draft {
    Draft::message(sender, "m.room.message", json!({ "body": "hello" }))
}

fn topic(sender: &str) -> Draft {
    Draft::state(sender, "m.room.topic", "", json!({ "topic": "t" }))
}

fn join_through(name: &str, authorising: &str) -> Draft {
    let content = json!({ "membership": "join", "join_authorised_via_users_server": user(authorising) });
    Draft::state(name, "m.room.member", user(name).as_str(), content)
}

/// Create events.
pub fn create(judge: Judge<'_>) {
    let attempt = |version, sender: &str, content: Value| {
        let mut room = Model::empty(version);
        let pdu = room.build(&[], Draft::state(sender, "m.room.create", "", content));
        room.receive(pdu).is_ok()
    };
    for version in versions() {
        // A room made by its creator.
        assert!(attempt(version, "alice", json!({ "creator": user("alice") })));
        // Without a creator: the sender is the creator since v11.
        assert_eq!(attempt(version, "alice", json!({})), version >= 11);
        // Additional creators that are no user ids: looked at since v12.
        assert_eq!(attempt(version, "alice", json!({ "creator": user("alice"), "additional_creators": ["bob"] })), version < 12);
        assert_eq!(attempt(version, "alice", json!({ "creator": user("alice"), "additional_creators": "x" })), version < 12);
        assert!(attempt(version, "alice", json!({ "creator": user("alice"), "additional_creators": [user("bob")] })));
    }
    // A create event with parents.
    case(
        judge,
        NONE,
        "a second create event",
        |_| {},
        |room| room.next(Draft::state("alice", "m.room.create", "", json!({ "creator": user("alice") }))),
    );
    // Of another server than the room's id names; since v12 it names none, and this is the create
    // event of another room.
    case(
        judge,
        12..=12,
        "a create event of another server",
        |_| {},
        |room| room.build(&[], Draft::state("eve", "m.room.create", "", json!({ "creator": user("eve") }))),
    );
}

/// What an event names as its auth events.
pub fn auth_events(judge: Judge<'_>) {
    let with = |room: &Model, change: &dyn Fn(&mut Vec<OwnedEventId>)| {
        let mut auth_events = room.next(message("bob")).auth_events;
        change(&mut auth_events);
        room.build_with(&room.parents(), &auth_events, message("bob"))
    };
    let joined = |room: &mut Model| room.join(&["bob"]);
    case(judge, ALL, "the selected auth events", joined, |room| with(room, &|_| {}));
    case(judge, NONE, "an event named twice", joined, |room| with(room, &|ids| ids.push(ids[0].clone())));
    case(judge, NONE, "an event that is not selected", joined, |room| with(room, &|ids| ids.push(room.holder_now("m.room.join_rules", ""))));
    case(judge, NONE, "another user's membership", joined, |room| {
        with(room, &|ids| ids.push(room.holder_now("m.room.member", "@alice:alice.example")))
    });
    case(judge, NONE, "without the sender's membership", joined, |room| {
        let own = room.holder_now("m.room.member", "@bob:bob.example");
        with(room, &|ids| ids.retain(|id| *id != own))
    });
    // Since v12 it is implied, and must not be there.
    case(judge, 12..=12, "without the create event", joined, |room| {
        let create = room.holder_now("m.room.create", "");
        with(room, &|ids| ids.retain(|id| *id != create))
    });
    case(judge, 1..=11, "with the create event", joined, |room| {
        let create = room.holder_now("m.room.create", "");
        with(room, &|ids| {
            ids.retain(|id| *id != create);
            ids.push(create.clone());
        })
    });
    case(
        judge,
        NONE,
        "an event of another room",
        |room| {
            room.join(&["bob"]);
            let levels = room.event(&room.holder_now("m.room.power_levels", "")).clone();
            let [event_id, room_id] = ["$other:alice.example", "!other:alice.example"];
            room.know(Pdu { event_id: event_id.try_into().unwrap(), room_id: room_id.try_into().unwrap(), ..Pdu::clone(&levels) });
        },
        |room| {
            let levels = room.holder_now("m.room.power_levels", "");
            let other = room.events().last().unwrap().event_id.clone();
            with(room, &|ids| ids.iter_mut().filter(|id| **id == levels).for_each(|id| *id = other.clone()))
        },
    );
    case(
        judge,
        NONE,
        "on a rejected event",
        |room| {
            room.join(&["bob"]);
            let levels = room.power_levels(&[("bob", 100)]);
            assert!(room.send(Draft::state("bob", "m.room.power_levels", "", levels)).is_err());
        },
        |room| {
            let levels = room.holder_now("m.room.power_levels", "");
            let rejected = room.events().iter().find(|event| event.rejected).unwrap().event_id.clone();
            with(room, &|ids| ids.iter_mut().filter(|id| **id == levels).for_each(|id| *id = rejected.clone()))
        },
    );
}

/// Checks 4 and 5 on receipt of a PDU: by the auth events that it names, and by the state before
/// it.
pub fn what_an_event_names_and_what_is_so(judge: Judge<'_>) {
    let by_levels = |nth: usize| {
        move |room: &Model| {
            let is_levels = |id: &OwnedEventId| room.event(id).event_type == "m.room.power_levels".into();
            let named = room.events().iter().filter(|event| is_levels(&event.event_id)).nth(nth).unwrap().event_id.clone();
            let mut auth_events = room.next(topic("bob")).auth_events;
            auth_events.iter_mut().filter(|id| is_levels(id)).for_each(|id| *id = named.clone());
            room.build_with(&room.parents(), &auth_events, topic("bob"))
        }
    };
    let raised = |room: &mut Model| {
        room.join(&["bob"]);
        room.levels(&[("bob", 50)], json!({}));
    };
    case(judge, ALL, "allowed by both", raised, by_levels(1));
    case(judge, NONE, "allowed by the state, and not by what it names", raised, by_levels(0));
    let lowered = |room: &mut Model| {
        raised(room);
        room.levels(&[], json!({}));
    };
    case(judge, NONE, "allowed by what it names, and not by the state", lowered, by_levels(1));
}

/// `m.room.aliases`.
pub fn aliases(judge: Judge<'_>) {
    let aliases = |sender: &str, key: &str| Draft::state(sender, "m.room.aliases", key, json!({ "aliases": [] }));
    // Up to v5 any server may say its own aliases; since v6 the event is like any other.
    case(judge, 1..=5, "the aliases of one's own server", |room| room.join(&["bob"]), |room| room.next(aliases("bob", "bob.example")));
    case(judge, 1..=5, "one's own server's, not being joined", |_| {}, |room| room.next(aliases("bob", "bob.example")));
    case(judge, 6..=12, "another server's, by one who may set state", |_| {}, |room| room.next(aliases("alice", "bob.example")));
}

/// Joins.
pub fn joins(judge: Judge<'_>) {
    let join = |name: &'static str| move |room: &Model| room.next(Draft::member(name, name, "join"));
    case(judge, ALL, "into a public room", |_| {}, join("bob"));
    case(judge, ALL, "again, with another name", |room| room.join(&["bob"]), join("bob"));
    case(judge, NONE, "of someone else", |_| {}, |room| room.next(Draft::member("alice", "bob", "join")));
    case(judge, NONE, "of one who is banned", |room| drop(room.send(Draft::member("alice", "bob", "ban")).unwrap()), join("bob"));
    case(judge, NONE, "into a room for the invited", |room| room.join_rule("invite"), join("bob"));
    let invited = |room: &mut Model| drop(room.send(Draft::member("alice", "bob", "invite")).unwrap());
    case(
        judge,
        ALL,
        "into a room for the invited, by one of them",
        |room| {
            room.join_rule("invite");
            invited(room);
        },
        join("bob"),
    );
    case(judge, NONE, "into a room whose rule is unknown", |room| room.join_rule("org.example.rule"), join("bob"));
    case(
        judge,
        7..=12,
        "into a room for knocking, invited",
        |room| {
            room.join_rule("knock");
            invited(room);
        },
        join("bob"),
    );
    for (since, rule) in [(8, "restricted"), (10, "knock_restricted")] {
        let restricted = |room: &mut Model| {
            room.join(&["carol"]);
            room.join_rule(rule);
        };
        case(judge, since..=12, "into a restricted room, let in by a member", restricted, |room| room.next(join_through("bob", "carol")));
        case(judge, NONE, "into a restricted room, let in by nobody", restricted, join("bob"));
        case(judge, NONE, "into a restricted room, let in by one outside", restricted, |room| room.next(join_through("bob", "dave")));
        case(
            judge,
            NONE,
            "into a restricted room, let in by one who may not invite",
            |room| {
                room.levels(&[], json!({ "invite": 10 }));
                restricted(room);
            },
            |room| room.next(join_through("bob", "carol")),
        );
        case(
            judge,
            since..=12,
            "into a restricted room, invited",
            |room| {
                restricted(room);
                invited(room);
            },
            join("bob"),
        );
    }
}

/// Invitations.
pub fn invites(judge: Judge<'_>) {
    let invite = |sender: &'static str, target: &'static str| move |room: &Model| room.next(Draft::member(sender, target, "invite"));
    case(judge, ALL, "by a member", |room| room.join(&["bob"]), invite("bob", "carol"));
    case(judge, NONE, "by one outside", |_| {}, invite("bob", "carol"));
    case(judge, NONE, "of a member", |room| room.join(&["bob"]), invite("alice", "bob"));
    case(judge, NONE, "of one who is banned", |room| drop(room.send(Draft::member("alice", "bob", "ban")).unwrap()), invite("alice", "bob"));
    let needs_ten = |room: &mut Model| {
        room.join(&["bob"]);
        room.levels(&[("bob", 9)], json!({ "invite": 10 }));
    };
    case(judge, NONE, "by a member without the power", needs_ten, invite("bob", "carol"));
    case(judge, ALL, "by a member with the power", needs_ten, invite("alice", "carol"));
}

/// The identity server's key, and an invitation of `mxid` that it signed.
fn third_party(seed: u8, mxid: &str, token: &str) -> (String, Value) {
    let key = signing_key(&[seed; 32], "0");
    let mut signed: CanonicalJsonObject = serde_json::from_value(json!({ "mxid": mxid, "token": token })).unwrap();
    sign_json("id.example", &key, &mut signed).unwrap();
    (Base64::<ruma::serde::base64::Standard, _>::new(key.public_key()).encode(), json!(signed))
}

/// Invitations by third-party identifiers.
pub fn third_party_invites(judge: Judge<'_>) {
    let (public_key, signed) = third_party(7, "@bob:bob.example", "t1");
    let promised = |room: &mut Model| {
        room.join(&["carol"]);
        let content = json!({ "display_name": "b", "public_key": public_key, "key_validity_url": "https://id.example" });
        room.send(Draft::state("alice", "m.room.third_party_invite", "t1", content)).unwrap();
    };
    let invite = |sender: &str, target: &str, signed: Value| {
        let content = json!({ "membership": "invite", "third_party_invite": { "display_name": "b", "signed": signed } });
        Draft::state(sender, "m.room.member", user(target).as_str(), content)
    };
    case(judge, ALL, "that the identity server signed", promised, |room| room.next(invite("alice", "bob", signed.clone())));
    let (other_key, _) = third_party(8, "@bob:bob.example", "t1");
    let of_several = |room: &mut Model| {
        let keys = json!([{ "public_key": other_key }, { "public_key": public_key, "key_validity_url": "https://id.example" }]);
        let content = json!({ "display_name": "b", "public_key": other_key, "key_validity_url": "https://id.example", "public_keys": keys });
        room.send(Draft::state("alice", "m.room.third_party_invite", "t1", content)).unwrap();
    };
    case(judge, ALL, "signed by the second of several keys", of_several, |room| room.next(invite("alice", "bob", signed.clone())));
    case(judge, NONE, "signed by none of several keys", of_several, |room| {
        room.next(invite("alice", "bob", third_party(9, "@bob:bob.example", "t1").1))
    });
    case(judge, NONE, "by another than who promised it", promised, |room| room.next(invite("carol", "bob", signed.clone())));
    case(judge, NONE, "for another user", promised, |room| room.next(invite("alice", "dave", signed.clone())));
    case(judge, NONE, "signed by another key", promised, |room| room.next(invite("alice", "bob", third_party(8, "@bob:bob.example", "t1").1)));
    case(judge, NONE, "with a token nobody promised", promised, |room| room.next(invite("alice", "bob", third_party(7, "@bob:bob.example", "t2").1)));
    case(judge, NONE, "without a signature", promised, |room| room.next(invite("alice", "bob", json!({ "mxid": user("bob"), "token": "t1" }))));
    case(
        judge,
        NONE,
        "of one who is banned",
        |room| {
            promised(room);
            room.send(Draft::member("alice", "bob", "ban")).unwrap();
        },
        |room| room.next(invite("alice", "bob", signed.clone())),
    );
    let promise = |sender: &'static str| move |room: &Model| room.next(Draft::state(sender, "m.room.third_party_invite", "t", json!({})));
    let needs_ten = |room: &mut Model| {
        room.join(&["bob"]);
        room.levels(&[("bob", 9)], json!({ "invite": 10, "state_default": 0 }));
    };
    case(judge, NONE, "promised without the power to invite", needs_ten, promise("bob"));
    case(judge, ALL, "promised with it", needs_ten, promise("alice"));
}

/// Leaving, kicks and bans.
pub fn leaving_kicks_and_bans(judge: Judge<'_>) {
    let leave = |name: &'static str| move |room: &Model| room.next(Draft::member(name, name, "leave"));
    let kick = |sender: &'static str, target: &'static str| move |room: &Model| room.next(Draft::member(sender, target, "leave"));
    let ban = |sender: &'static str, target: &'static str| move |room: &Model| room.next(Draft::member(sender, target, "ban"));
    case(judge, ALL, "one leaves", |room| room.join(&["bob"]), leave("bob"));
    case(judge, ALL, "one rejects an invitation", |room| drop(room.send(Draft::member("alice", "bob", "invite")).unwrap()), leave("bob"));
    case(judge, NONE, "one leaves who was never here", |_| {}, leave("bob"));
    case(judge, NONE, "one leaves who is banned", |room| drop(room.send(Draft::member("alice", "bob", "ban")).unwrap()), leave("bob"));

    let staff = |room: &mut Model| {
        room.join(&["bob", "carol", "dave"]);
        room.levels(&[("bob", 50), ("carol", 50)], json!({ "kick": 40, "ban": 50 }));
    };
    case(judge, ALL, "the mightier kicks", staff, kick("bob", "dave"));
    case(judge, NONE, "one kicks an equal", staff, kick("bob", "carol"));
    case(judge, NONE, "one kicks without the power", staff, kick("dave", "carol"));
    case(judge, NONE, "one kicks from outside", |room| room.join(&["bob"]), kick("carol", "bob"));
    case(judge, ALL, "the mightier bans", staff, ban("bob", "dave"));
    case(judge, ALL, "one who is not here is banned", staff, ban("bob", "eve"));
    case(judge, NONE, "one bans an equal", staff, ban("bob", "carol"));
    case(judge, NONE, "one bans without the power", staff, ban("dave", "eve"));
    case(judge, NONE, "one bans from outside", |_| {}, ban("carol", "bob"));
    case(judge, NONE, "nobody bans the creator", staff, ban("bob", "alice"));

    let banned = |room: &mut Model| {
        staff(room);
        room.levels(&[("bob", 50), ("carol", 45)], json!({ "kick": 40, "ban": 50 }));
        room.send(Draft::member("alice", "dave", "ban")).unwrap();
    };
    case(judge, ALL, "a ban is lifted by one who may ban", banned, kick("bob", "dave"));
    case(judge, NONE, "a ban is lifted by one who may kick only", banned, kick("carol", "dave"));
    // Without a power levels event the creator has 100, all others 0.
    for version in versions() {
        let mut room = Model::created(version);
        room.join_rule("public");
        room.join(&["bob", "carol"]);
        assert!(room.send(Draft::member("bob", "carol", "leave")).is_err());
        assert!(room.send(Draft::member("alice", "carol", "ban")).is_ok());
    }
}

/// Knocks.
pub fn knocks(judge: Judge<'_>) {
    let knock = |sender: &'static str, target: &'static str| move |room: &Model| room.next(Draft::member(sender, target, "knock"));
    let rule = |rule: &'static str| move |room: &mut Model| room.join_rule(rule);
    case(judge, 7..=12, "in a room for knocking", rule("knock"), knock("bob", "bob"));
    case(judge, 10..=12, "in a restricted room for knocking", rule("knock_restricted"), knock("bob", "bob"));
    case(judge, NONE, "in a public room", |_| {}, knock("bob", "bob"));
    case(judge, NONE, "for another", rule("knock"), knock("alice", "bob"));
    case(
        judge,
        NONE,
        "of a member",
        |room| {
            room.join(&["bob"]);
            room.join_rule("knock");
        },
        knock("bob", "bob"),
    );
    case(
        judge,
        NONE,
        "of one who is banned",
        |room| {
            room.join_rule("knock");
            room.send(Draft::member("alice", "bob", "ban")).unwrap();
        },
        knock("bob", "bob"),
    );
    for version in 7..=12 {
        // Taken back.
        let mut room = Model::public(version);
        room.join_rule("knock");
        room.send(Draft::member("bob", "bob", "knock")).unwrap();
        room.send(Draft::member("bob", "bob", "leave")).unwrap();
        // Turned down.
        room.send(Draft::member("bob", "bob", "knock")).unwrap();
        room.send(Draft::member("alice", "bob", "leave")).unwrap();
    }
}

/// Malformed member events.
pub fn malformed_memberships(judge: Judge<'_>) {
    let member = |key: &'static str, content: Value| move |room: &Model| room.next(Draft::state("bob", "m.room.member", key, content.clone()));
    case(judge, NONE, "a membership nobody knows", |_| {}, member("@bob:bob.example", json!({ "membership": "org.example.ghost" })));
    case(judge, NONE, "no membership", |_| {}, member("@bob:bob.example", json!({})));
    case(judge, NONE, "a membership that is no string", |_| {}, member("@bob:bob.example", json!({ "membership": 1 })));
    case(judge, NONE, "for what is no user", |_| {}, member("bob", json!({ "membership": "join" })));
    case(judge, NONE, "without a state key", |_| {}, |room| room.next(Draft::message("bob", "m.room.member", json!({ "membership": "join" }))));
}

/// Messages and state, and the levels that they take.
pub fn messages_and_state(judge: Judge<'_>) {
    case(judge, ALL, "a member writes", |room| room.join(&["bob"]), |room| room.next(message("bob")));
    case(judge, NONE, "one outside writes", |_| {}, |room| room.next(message("bob")));
    case(
        judge,
        NONE,
        "one who is invited writes",
        |room| drop(room.send(Draft::member("alice", "bob", "invite")).unwrap()),
        |room| room.next(message("bob")),
    );
    case(judge, NONE, "a member sets state without power", |room| room.join(&["bob"]), |room| room.next(topic("bob")));
    let levels = |levels: Value| {
        move |room: &mut Model| {
            room.join(&["bob"]);
            room.levels(&[("bob", 10)], levels.clone());
        }
    };
    case(judge, ALL, "state, with the default for state", levels(json!({ "state_default": 10 })), |room| room.next(topic("bob")));
    case(judge, ALL, "state, with the level of its type", levels(json!({ "events": { "m.room.topic": 10 } })), |room| room.next(topic("bob")));
    case(judge, NONE, "state, below the level of its type", levels(json!({ "state_default": 0, "events": { "m.room.topic": 11 } })), |room| {
        room.next(topic("bob"))
    });
    case(judge, NONE, "a message, below the default for messages", levels(json!({ "events_default": 11 })), |room| room.next(message("bob")));
    case(judge, NONE, "a message, below the level of its type", levels(json!({ "events": { "m.room.message": 11 } })), |room| {
        room.next(message("bob"))
    });
    case(judge, ALL, "a message, with the default for users", levels(json!({ "events_default": 5, "users_default": 5 })), |room| {
        room.next(message("bob"))
    });
    let open = || levels(json!({ "state_default": 0 }));
    let thing = |key: &'static str| move |room: &Model| room.next(Draft::state("bob", "org.example.thing", key, json!({})));
    case(judge, ALL, "state under one's own user id", open(), thing("@bob:bob.example"));
    case(judge, NONE, "state under another's user id", open(), thing("@carol:carol.example"));
    case(judge, NONE, "state under what begins like a user id", open(), thing("@x"));
    // Without power levels the creator has 100, others 0, and state needs 50.
    for version in versions() {
        let mut room = Model::created(version);
        room.join_rule("public");
        room.join(&["bob"]);
        assert!(room.send(topic("bob")).is_err());
        assert!(room.send(topic("alice")).is_ok());
        assert!(room.send(message("bob")).is_ok());
    }
}

/// Changes of power levels.
pub fn power_levels(judge: Judge<'_>) {
    let staff = |room: &mut Model| {
        room.join(&["bob", "carol"]);
        room.levels(&[("bob", 50), ("carol", 50)], json!({ "state_default": 50, "events": { "m.room.name": 60 } }));
    };
    // What bob makes of the levels as they are.
    let change = |users: Value, rest: Value| {
        move |room: &Model| {
            let now = room.event(&room.holder_now("m.room.power_levels", "")).content.clone();
            let mut levels: Value = serde_json::from_str(now.get()).unwrap();
            levels["users"].as_object_mut().unwrap().extend(users.as_object().unwrap().clone());
            levels["users"].as_object_mut().unwrap().retain(|_, level| !level.is_null());
            room.next(Draft::state("bob", "m.room.power_levels", "", merged(levels, rest.clone())))
        }
    };
    let bob = "@bob:bob.example";
    let carol = "@carol:carol.example";
    let dave = "@dave:dave.example";
    case(judge, ALL, "someone is given as much as one has", staff, change(json!({ dave: 50 }), json!({})));
    case(judge, NONE, "someone is given more", staff, change(json!({ dave: 51 }), json!({})));
    case(judge, NONE, "one raises oneself", staff, change(json!({ bob: 51 }), json!({})));
    case(judge, ALL, "one lowers oneself", staff, change(json!({ bob: 1 }), json!({})));
    case(judge, NONE, "one lowers an equal", staff, change(json!({ carol: 1 }), json!({})));
    case(judge, NONE, "one removes an equal", staff, change(json!({ carol: null }), json!({})));
    case(judge, NONE, "a default above one's own", staff, change(json!({}), json!({ "users_default": 51 })));
    case(judge, ALL, "a default up to one's own", staff, change(json!({}), json!({ "users_default": 50, "ban": 50, "invite": 50 })));
    case(judge, NONE, "a level above one's own", staff, change(json!({}), json!({ "ban": 51 })));
    case(
        judge,
        NONE,
        "a type's level above one's own is added",
        staff,
        change(json!({}), json!({ "events": { "m.room.name": 60, "m.room.topic": 60 } })),
    );
    case(judge, NONE, "a type's level above one's own is removed", staff, change(json!({}), json!({ "events": {} })));
    // Notifications: since v6.
    case(judge, 1..=5, "a notification level above one's own", staff, change(json!({}), json!({ "notifications": { "room": 51 } })));
    // What is no user id.
    case(judge, NONE, "levels of what is no user", staff, change(json!({ "dave": 1 }), json!({})));
    case(judge, NONE, "users that are no object", staff, change(json!({}), json!({ "users": [] })));
    // Strings that are integers, up to v9.
    case(judge, 1..=9, "a user's level as a string", staff, change(json!({ dave: "10" }), json!({})));
    case(judge, 1..=9, "a level as a string", staff, change(json!({}), json!({ "redact": " 10 " })));
    case(judge, NONE, "a level as a string that is no number", staff, change(json!({}), json!({ "redact": "ten" })));
    case(judge, 1..=9, "a type's level as a string", staff, change(json!({}), json!({ "events": { "m.room.name": 60, "m.room.topic": "10" } })));
    // Since v12 creators stand above all levels, and must not be given one.
    let creator = |room: &Model| {
        let levels = json!({ "users": { "@alice:alice.example": 100 } });
        room.next(Draft::state("alice", "m.room.power_levels", "", levels))
    };
    case(judge, 1..=11, "the creator is given a level", |_| {}, creator);
    let mut room = Model::public(12);
    room.levels(&[], json!({ "events": { "m.room.topic": 1_000 } }));
    assert!(room.send(topic("alice")).is_ok());
}

/// Additional creators.
pub fn additional_creators(judge: Judge<'_>) {
    for version in versions() {
        let mut room = Model::empty(version);
        let content = json!({ "creator": user("alice"), "additional_creators": [user("bob")] });
        room.send(Draft::state("alice", "m.room.create", "", content)).unwrap();
        room.send(Draft::member("alice", "alice", "join")).unwrap();
        room.join_rule("public");
        room.join(&["bob", "carol"]);
        // Since v12 nor must they be given a level.
        let given = room.next(Draft::state("alice", "m.room.power_levels", "", room.power_levels(&[("bob", 50)])));
        assert_eq!(judge(&mut room, given).is_ok(), version < 12);
        let levels = room.power_levels(&[("carol", 100)]);
        room.set("alice", "m.room.power_levels", levels);
        // Since v12 a creator like alice, whom nobody can kick.
        assert_eq!(room.send(topic("bob")).is_ok(), version >= 12);
        assert_eq!(room.send(Draft::member("carol", "bob", "leave")).is_ok(), version < 12);
        assert!(room.send(Draft::member("carol", "alice", "leave")).is_err());
    }
}

/// Redactions.
pub fn redactions(judge: Judge<'_>) {
    let redact = |sender: &'static str, of: &'static str| {
        move |room: &Model| {
            let target = room.events().iter().rev().find(|event| event.sender == user(of)).unwrap();
            room.next(Draft { redacts: Some(target.event_id.clone()), ..Draft::message(sender, "m.room.redaction", json!({})) })
        }
    };
    let written = |room: &mut Model| {
        room.join(&["bob", "carol"]);
        room.send(message("bob")).unwrap();
    };
    // v1 and v2 judge the redaction; later versions let it in and judge its effect.
    case(judge, ALL, "of one's own server's event", written, redact("bob", "bob"));
    case(judge, 3..=12, "of another server's event without the power", written, redact("carol", "bob"));
    case(judge, ALL, "of another server's event with the power", written, redact("alice", "bob"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::PowerLevels;

    macro_rules! by_the_rules {
        ($($name:ident)*) => {
            $(#[test]
            fn $name() {
                super::$name(&|room, event| room.receive(event));
            })*
        };
    }
    with_each_scenario!(by_the_rules);

    #[test]
    fn a_room_that_is_not_federated() {
        for version in versions() {
            let mut room = Model::empty(version);
            room.send(Draft::state("alice", "m.room.create", "", json!({ "creator": user("alice"), "m.federate": false }))).unwrap();
            room.send(Draft::member("alice", "alice", "join")).unwrap();
            room.join_rule("public");
            // Someone of another server.
            assert!(room.send(Draft::member("bob", "bob", "join")).is_err());
            assert!(room.send(message("alice")).is_ok());
        }
    }

    /// Where a room has no power levels, setting state was said to take 0: any member could delete
    /// an alias that somebody else had made.
    #[test]
    fn levels_without_power_levels() {
        for version in versions() {
            let room = Model::created(version);
            let create = room.event(&room.holder_now("m.room.create", "")).clone();
            let levels = PowerLevels::new(create, None, &room.rules.authorization).unwrap();
            assert_eq!(levels.event(&"m.room.canonical_alias".into(), Some("")), Ok(50));
            assert_eq!(levels.event(&"m.room.message".into(), None), Ok(0));
            assert_eq!((levels.redact(), levels.invite()), (Ok(50), Ok(0)));
            assert_eq!(levels.user(&user("bob")), Ok(0));
            assert!(levels.user(&user("alice")).unwrap() >= 100);
        }
    }
}
