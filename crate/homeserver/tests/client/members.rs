//! Who is in a room, and who may ask: `/members`, `/joined_members`, the state, and rooms that were
//! left or forgotten.

use crate::{
    rooms::{room, send},
    support::{Answer, TestServer, TestUser},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub fn join(server: &TestServer, user: &TestUser, room: &str) {
    server.post(user, &format!("/_matrix/client/v3/join/{room}"), json!({})).ok();
}

pub fn act(server: &TestServer, user: &TestUser, room: &str, what: &str, body: Value) -> Answer {
    server.post(user, &format!("/_matrix/client/v3/rooms/{room}/{what}"), body)
}

pub fn look(server: &TestServer, user: &TestUser, room: &str, what: &str) -> Answer {
    server.get(user, &format!("/_matrix/client/v3/rooms/{room}/{what}"))
}

pub fn set_state(server: &TestServer, user: &TestUser, room: &str, kind: &str, content: Value) -> Answer {
    server.put(user, &format!("/_matrix/client/v3/rooms/{room}/state/{kind}/"), content)
}

/// The localparts of the members that `/members` lists, each with its membership.
fn members(server: &TestServer, user: &TestUser, room: &str, query: &str) -> BTreeMap<String, String> {
    let chunk = look(server, user, room, &format!("members{query}")).ok()["chunk"].take();
    let member = |event: &Value| {
        assert_eq!((event["type"].as_str(), event["room_id"].as_str()), (Some("m.room.member"), Some(room)));
        let localpart = event["state_key"].as_str().and_then(|id| id.strip_prefix('@')?.split(':').next()).expect("a user id").to_owned();
        (localpart, event["content"]["membership"].as_str().expect("a membership").to_owned())
    };
    chunk.as_array().expect("a chunk").iter().map(member).collect()
}

fn are<const N: usize>(members: [(&str, &str); N]) -> BTreeMap<String, String> {
    members.into_iter().map(|(name, membership)| (name.to_owned(), membership.to_owned())).collect()
}

/// A token of now.
fn now(server: &TestServer, user: &TestUser) -> String {
    server.get(user, "/_matrix/client/v3/sync").ok()["next_batch"].as_str().expect("a token").to_owned()
}

#[test]
fn members_are_listed_by_what_they_are_or_are_not() {
    let server = TestServer::new();
    let [alice, bob, carol, dave] = ["alice", "bob", "carol", "dave"].map(|name| server.register(name));
    let id = room(&server, &alice, json!({"preset": "public_chat", "invite": [dave.id]}));
    for user in [&bob, &carol] {
        join(&server, user, &id);
    }
    act(&server, &carol, &id, "leave", json!({})).ok();
    let (joined, left, invited) = ("join", "leave", "invite");
    let all = are([("alice", joined), ("bob", joined), ("carol", left), ("dave", invited)]);
    assert_eq!(members(&server, &alice, &id, ""), all);
    assert_eq!(members(&server, &alice, &id, "?membership=join"), are([("alice", joined), ("bob", joined)]));
    assert_eq!(members(&server, &alice, &id, "?membership=ban"), are([]));
    assert_eq!(members(&server, &alice, &id, "?not_membership=leave"), are([("alice", joined), ("bob", joined), ("dave", invited)]));
    // "Either the membership is the same as `membership` or is not the same as `not_membership`."
    assert_eq!(members(&server, &alice, &id, "?membership=leave&not_membership=join"), are([("carol", left), ("dave", invited)]));
    assert_eq!(members(&server, &alice, &id, "?membership=join&not_membership=join"), all);

    for stranger in [&dave, &server.register("eve")] {
        look(&server, stranger, &id, "members").fails(403, "M_FORBIDDEN");
    }
    look(&server, &alice, "!none:test.example", "members").fails(403, "M_FORBIDDEN");
    look(&server, &alice, &id, "members?at=nonsense").fails(400, "M_INVALID_PARAM");
}

#[test]
fn members_at_a_token_are_those_of_then() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let before = now(&server, &alice);
    let id = room(&server, &alice, json!({"preset": "public_chat"}));
    let alone = now(&server, &alice);
    join(&server, &bob, &id);
    send(&server, &alice, &id, "1", "hello");
    let with_bob = now(&server, &alice);
    act(&server, &bob, &id, "leave", json!({})).ok();
    join(&server, &carol, &id);
    let with_carol = now(&server, &alice);
    let at = |user: &TestUser, token: &str| members(&server, user, &id, &format!("?at={token}"));
    assert_eq!(at(&alice, &before), are([]), "nobody is in a room that is not there yet");
    assert_eq!(at(&alice, &alone), are([("alice", "join")]));
    assert_eq!(at(&alice, &with_bob), are([("alice", "join"), ("bob", "join")]));
    assert_eq!(at(&alice, &with_carol), are([("alice", "join"), ("bob", "leave"), ("carol", "join")]));
    // Who came after bob left is none of bob's business, whatever token he gives.
    let last_seen = are([("alice", "join"), ("bob", "leave")]);
    assert_eq!(members(&server, &bob, &id, ""), last_seen);
    assert_eq!(at(&bob, &with_carol), last_seen);
    assert_eq!(at(&bob, &with_bob), are([("alice", "join"), ("bob", "join")]));
}

/// Whoever joined a room whose history is for those who are in it saw the members of any earlier
/// time by giving its token.
#[test]
fn members_of_a_time_are_for_those_who_may_see_its_history() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let visibility = |of: &str| json!({ "history_visibility": of });
    let initial = json!([{ "type": "m.room.history_visibility", "content": visibility("joined") }]);
    let id = room(&server, &alice, json!({"preset": "public_chat", "initial_state": initial}));
    join(&server, &carol, &id);
    let early = now(&server, &alice);
    act(&server, &carol, &id, "leave", json!({})).ok();
    join(&server, &bob, &id);
    let late = now(&server, &alice);
    let at = |user: &TestUser, token: &str| look(&server, user, &id, &format!("members?at={token}"));
    at(&bob, &early).fails(403, "M_FORBIDDEN");
    for (user, token) in [(&alice, &early), (&alice, &late), (&bob, &late), (&carol, &early), (&carol, &late)] {
        at(user, token).ok();
    }
    // Strangers see what is of a time at which everybody could read along.
    set_state(&server, &alice, &id, "m.room.history_visibility", visibility("world_readable")).ok();
    let open = now(&server, &alice);
    let dave = server.register("dave");
    at(&dave, &late).fails(403, "M_FORBIDDEN");
    at(&dave, &open).ok();
}

#[test]
fn joined_members_are_named_to_members() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    server.put(&alice, &format!("/_matrix/client/v3/profile/{}/displayname", alice.id), json!({"displayname": "Alice"})).ok();
    server.put(&alice, &format!("/_matrix/client/v3/profile/{}/avatar_url", alice.id), json!({"avatar_url": "mxc://test.example/a"})).ok();
    let id = room(&server, &alice, json!({"preset": "public_chat", "invite": [carol.id]}));
    join(&server, &bob, &id);
    let joined = look(&server, &bob, &id, "joined_members").ok()["joined"].take();
    assert_eq!(joined[&alice.id], json!({"display_name": "Alice", "avatar_url": "mxc://test.example/a"}));
    // Some clients and test suites look for both fields, also where nothing is set.
    assert_eq!(joined[&bob.id], json!({"display_name": "bob", "avatar_url": null}));
    assert_eq!(joined.as_object().map(|joined| joined.keys().collect::<Vec<_>>()), Some(vec![&alice.id, &bob.id]));
    look(&server, &carol, &id, "joined_members").fails(403, "M_FORBIDDEN");
    act(&server, &bob, &id, "leave", json!({})).ok();
    look(&server, &bob, &id, "joined_members").fails(403, "M_FORBIDDEN");
    let joined = look(&server, &alice, &id, "joined_members").ok()["joined"].take();
    assert_eq!(joined.as_object().map(serde_json::Map::len), Some(1));
}

/// What an event replaced was shown with it, also when it was from before the reader's time.
#[test]
fn what_a_state_event_replaced_is_shown_to_those_who_may_see_it() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let initial = json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } }]);
    let id = room(&server, &alice, json!({"preset": "public_chat", "initial_state": initial}));
    let first = set_state(&server, &alice, &id, "m.room.topic", json!({"topic": "not for bob"})).ok()["event_id"].clone();
    join(&server, &bob, &id);
    let second = set_state(&server, &alice, &id, "m.room.topic", json!({"topic": "for bob"})).ok()["event_id"].clone();
    let seen = |user: &TestUser, path: &str, event: &Value| {
        let answer = look(&server, user, &id, path).ok();
        let events = answer["chunk"].as_array().or(answer.as_array()).cloned().unwrap_or_else(|| vec![answer.clone()]);
        let found = events.iter().find(|shown| shown["event_id"] == *event).unwrap_or_else(|| panic!("{path}: {answer}"));
        let unsigned = &found["unsigned"];
        (unsigned["replaces_state"].clone(), unsigned["prev_content"].clone(), unsigned["prev_sender"].clone())
    };
    for path in ["messages?dir=b", "state", "state/m.room.topic/?format=event", &format!("event/{}", second.as_str().expect("an id"))] {
        assert_eq!(seen(&alice, path, &second), (first.clone(), json!({"topic": "not for bob"}), json!(alice.id)), "{path}");
        assert_eq!(seen(&bob, path, &second), (first.clone(), Value::Null, Value::Null), "{path}");
    }
    let third = set_state(&server, &alice, &id, "m.room.topic", json!({"topic": "third"})).ok()["event_id"].clone();
    assert_eq!(seen(&bob, "messages?dir=b", &third), (second, json!({"topic": "for bob"}), json!(alice.id)));
}

#[test]
fn state_is_read_whole_and_by_its_key() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({"preset": "public_chat", "name": "Garden"}));
    join(&server, &bob, &id);
    let content = json!({"name": "Garden"});
    for path in ["state/m.room.name", "state/m.room.name/", "state/m.room.name/?format=content"] {
        assert_eq!(look(&server, &bob, &id, path).ok(), content, "{path}");
    }
    let event = look(&server, &bob, &id, "state/m.room.name/?format=event").ok();
    assert_eq!((&event["content"], &event["type"], &event["state_key"]), (&content, &json!("m.room.name"), &json!("")));
    assert_eq!((&event["sender"], &event["room_id"]), (&json!(alice.id), &json!(id)));
    assert!(event["event_id"].is_string() && event["origin_server_ts"].is_u64(), "{event}");
    look(&server, &bob, &id, "state/m.room.topic").fails(404, "M_NOT_FOUND");
    look(&server, &bob, &id, "state/m.room.name/other").fails(404, "M_NOT_FOUND");

    // Without a slash behind the type the key is empty when setting too.
    let path = format!("/_matrix/client/v3/rooms/{id}/state/m.room.topic");
    server.put(&alice, &path, json!({"topic": "roses"})).ok();
    assert_eq!(look(&server, &bob, &id, "state/m.room.topic").ok()["topic"], "roses");
    let keyed = format!("/_matrix/client/v3/rooms/{id}/state/org.example/key%2Fwith%20signs");
    server.put(&alice, &keyed, json!({"n": 1})).ok();
    assert_eq!(server.get(&bob, &keyed).ok(), json!({"n": 1}));
    server.put(&bob, &path, json!({"topic": "tulips"})).fails(403, "M_FORBIDDEN");
    server.put(&alice, &path, json!({"n": 1.5})).fails(400, "M_BAD_JSON");

    act(&server, &bob, &id, "leave", json!({})).ok();
    server.put(&alice, &path, json!({"topic": "after bob"})).ok();
    assert_eq!(look(&server, &bob, &id, "state/m.room.topic").ok()["topic"], "roses", "as it was when he left");
    let all = look(&server, &bob, &id, "state").ok();
    let find = |kind: &str, key: &str| {
        let found = all.as_array().expect("events").iter().find(|event| event["type"] == kind && event["state_key"] == key);
        found.map(|event| event["content"].clone()).unwrap_or_default()
    };
    assert_eq!(find("m.room.topic", "")["topic"], "roses");
    assert_eq!(find("m.room.member", &bob.id)["membership"], "leave");
    look(&server, &server.register("carol"), &id, "state").fails(403, "M_FORBIDDEN");
}

/// "After this API is called, a user will no longer be able to retrieve history for this room."
#[test]
fn a_forgotten_room_is_read_no_more() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({"preset": "public_chat"}));
    join(&server, &bob, &id);
    let seen = send(&server, &alice, &id, "1", "hello");
    act(&server, &bob, &id, "leave", json!({})).ok();
    let ways = ["messages?dir=b", "state", "state/m.room.create", "members"];
    let of_event = [format!("event/{seen}"), format!("context/{seen}")];
    for way in ways {
        look(&server, &bob, &id, way).ok();
    }
    for way in &of_event {
        look(&server, &bob, &id, way).ok();
    }
    act(&server, &bob, &id, "forget", json!({})).ok();
    for way in ways.into_iter().chain([of_event[1].as_str()]) {
        look(&server, &bob, &id, way).fails(403, "M_FORBIDDEN");
    }
    look(&server, &bob, &id, &of_event[0]).fails(404, "M_NOT_FOUND");
    server.get(&bob, &format!("/_matrix/client/v1/rooms/{id}/relations/{seen}")).fails(403, "M_FORBIDDEN");
    let server = server.restart();
    look(&server, &bob, &id, "messages?dir=b").fails(403, "M_FORBIDDEN");

    // Where everybody may read, so may who has forgotten; and who comes back has the room again.
    set_state(&server, &alice, &id, "m.room.history_visibility", json!({"history_visibility": "world_readable"})).ok();
    let shown = send(&server, &alice, &id, "2", "for all");
    let page = look(&server, &bob, &id, "messages?dir=b").ok();
    let ids: Vec<&Value> = page["chunk"].as_array().expect("a chunk").iter().map(|event| &event["event_id"]).collect();
    assert!(ids.contains(&&json!(shown)) && !ids.contains(&&json!(seen)), "{page}");
    join(&server, &bob, &id);
    look(&server, &bob, &id, &format!("event/{seen}")).ok();
}

/// Whoever had left a room and was invited again, or knocked, could not read what they had read the
/// day before.
#[test]
fn who_is_invited_again_reads_what_was_before_they_left() {
    let server = TestServer::new();
    let [alice, bob, carol, dave] = ["alice", "bob", "carol", "dave"].map(|name| server.register(name));
    let id = room(&server, &alice, json!({"preset": "public_chat"}));
    for user in [&bob, &carol] {
        join(&server, user, &id);
    }
    let seen = send(&server, &alice, &id, "1", "hello");
    for user in [&bob, &carol] {
        act(&server, user, &id, "leave", json!({})).ok();
    }
    let unseen = send(&server, &alice, &id, "2", "only us");
    set_state(&server, &alice, &id, "m.room.topic", json!({"topic": "later"})).ok();
    set_state(&server, &alice, &id, "m.room.join_rules", json!({"join_rule": "knock"})).ok();
    for user in [&bob, &dave] {
        act(&server, &alice, &id, "invite", json!({"user_id": user.id})).ok();
    }
    server.post(&carol, &format!("/_matrix/client/v3/knock/{id}"), json!({})).ok();
    for user in [&bob, &carol] {
        let page = look(&server, user, &id, "messages?dir=b").ok();
        let ids: Vec<&Value> = page["chunk"].as_array().expect("a chunk").iter().map(|event| &event["event_id"]).collect();
        assert!(ids.contains(&&json!(seen)) && !ids.contains(&&json!(unseen)), "{page}");
        look(&server, user, &id, "state/m.room.create").ok();
        look(&server, user, &id, "state/m.room.topic").fails(404, "M_NOT_FOUND");
        assert_eq!(members(&server, user, &id, "").get("dave"), None);
    }
    look(&server, &dave, &id, "messages?dir=b").fails(403, "M_FORBIDDEN");
    // Where everybody may read, so may they.
    set_state(&server, &alice, &id, "m.room.history_visibility", json!({"history_visibility": "world_readable"})).ok();
    for user in [&bob, &carol, &dave] {
        assert_eq!(look(&server, user, &id, "state/m.room.topic").ok()["topic"], "later");
    }
}

#[test]
fn who_is_kicked_or_banned_is_kept_out_by_those_who_may() {
    let server = TestServer::new();
    let [alice, bob, carol, dave] = ["alice", "bob", "carol", "dave"].map(|name| server.register(name));
    let id = room(
        &server,
        &alice,
        json!({"preset": "public_chat", "power_level_content_override": {"users": {&alice.id: 100, &bob.id: 50}}, "room_version": "10"}),
    );
    for user in [&bob, &carol] {
        join(&server, user, &id);
    }
    let target = |user: &TestUser| json!({"user_id": user.id, "reason": "because"});
    let member = |user: &TestUser| look(&server, &alice, &id, &format!("state/m.room.member/{}", user.id)).ok();
    for what in ["kick", "ban"] {
        act(&server, &carol, &id, what, target(&bob)).fails(403, "M_FORBIDDEN");
        act(&server, &bob, &id, what, target(&alice)).fails(403, "M_FORBIDDEN");
        act(&server, &dave, &id, what, target(&carol)).fails(403, "M_FORBIDDEN");
        act(&server, &bob, "!none:test.example", what, target(&carol)).fails(403, "M_FORBIDDEN");
    }
    act(&server, &bob, &id, "kick", target(&dave)).fails(403, "M_FORBIDDEN");
    act(&server, &bob, &id, "kick", json!({})).fails(400, "M_MISSING_PARAM");
    act(&server, &bob, &id, "unban", target(&carol)).fails(403, "M_FORBIDDEN");

    act(&server, &bob, &id, "kick", target(&carol)).ok();
    assert_eq!(member(&carol), json!({"membership": "leave", "reason": "because"}));
    act(&server, &bob, &id, "kick", target(&carol)).fails(403, "M_FORBIDDEN");
    join(&server, &carol, &id);
    // Also who was never there.
    for user in [&carol, &dave] {
        act(&server, &bob, &id, "ban", target(user)).ok();
        assert_eq!(member(user), json!({"membership": "ban", "reason": "because"}));
        server.post(user, &format!("/_matrix/client/v3/join/{id}"), json!({})).fails(403, "M_FORBIDDEN");
        act(&server, &bob, &id, "invite", json!({"user_id": user.id})).fails(403, "M_FORBIDDEN");
        act(&server, &bob, &id, "kick", target(user)).fails(403, "M_FORBIDDEN");
    }
    act(&server, &carol, &id, "unban", target(&dave)).fails(403, "M_FORBIDDEN");
    act(&server, &carol, &id, "leave", json!({})).fails(403, "M_FORBIDDEN");
    act(&server, &bob, &id, "unban", target(&carol)).ok();
    assert_eq!(member(&carol)["membership"], "leave");
    join(&server, &carol, &id);
}

fn reaction(to: &str) -> Value {
    json!({"m.relates_to": {"rel_type": "m.annotation", "event_id": to, "key": "+"}})
}

fn edit(of: &str) -> Value {
    json!({"body": "* edited", "m.new_content": {"body": "edited"}, "m.relates_to": {"rel_type": "m.replace", "event_id": of}})
}

/// "The room membership of the user making the request, at the time of the event", for clients to
/// know which events they could not have the keys of.
#[test]
fn events_say_what_the_reader_was_at_them() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({"preset": "public_chat"}));
    send(&server, &alice, &id, "1", "one");
    act(&server, &alice, &id, "invite", json!({"user_id": bob.id})).ok();
    let invited = send(&server, &alice, &id, "2", "two");
    join(&server, &bob, &id);
    send(&server, &bob, &id, "3", "three");
    act(&server, &bob, &id, "leave", json!({})).ok();
    let read = |user: &TestUser, path: &str| look(&server, user, &id, path).ok();
    let of = |events: &Value| -> Vec<(String, String)> {
        let event = |event: &Value| {
            let content = &event["content"];
            let says = content["body"].as_str().or(content["membership"].as_str()).unwrap_or_default().to_owned();
            (says, event["unsigned"]["membership"].as_str().expect("a membership").to_owned())
        };
        events.as_array().expect("events").iter().map(event).collect()
    };
    let expected = [("one", "leave"), ("invite", "invite"), ("two", "invite"), ("join", "join"), ("three", "join"), ("leave", "leave")];
    let expected = expected.map(|(says, was)| (says.to_owned(), was.to_owned()));
    let mut page = of(&read(&bob, "messages?dir=b&limit=6")["chunk"]);
    page.reverse();
    assert_eq!(page, expected);
    assert_eq!(read(&bob, &format!("event/{invited}"))["unsigned"]["membership"], "invite");
    let around = read(&bob, &format!("context/{invited}?limit=4"));
    assert_eq!(of(&json!([around["event"]])), [expected[2].clone()]);
    assert_eq!(of(&around["events_after"]), expected[3..5]);
    assert!(of(&read(&alice, "messages?dir=b&limit=6")["chunk"]).iter().all(|(_, was)| was == "join"));
    let synced = server.get(&bob, "/_matrix/client/v3/sync?filter=%7B%22room%22%3A%7B%22include_leave%22%3Atrue%7D%7D").ok();
    assert_eq!(of(&synced["rooms"]["leave"][&id]["timeline"]["events"])[4..], expected);
    server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/send/m.reaction/4"), reaction(&invited)).ok();
    join(&server, &bob, &id);
    server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/5"), edit(&invited)).ok();
    let related = server.get(&bob, &format!("/_matrix/client/v1/rooms/{id}/relations/{invited}?dir=f")).ok();
    assert_eq!(of(&related["chunk"]).into_iter().map(|(_, was)| was).collect::<Vec<_>>(), ["leave", "join"]);
}
