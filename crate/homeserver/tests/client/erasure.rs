//! What a user sent who wanted it erased with their account (Client-Server API, `erase` of `POST
//! /account/deactivate`).

use crate::{
    account::confirm,
    members::{act, join, look, set_state},
    relations::relate,
    rooms::{room, send},
    support::{PASSWORD, TestServer, TestUser},
};
use serde_json::{Value, json};

fn deactivate(server: &TestServer, user: &TestUser, erase: bool) {
    confirm(server, user, "POST", "/_matrix/client/v3/account/deactivate", json!({ "erase": erase }), PASSWORD).ok();
}

fn sync(server: &TestServer, user: &TestUser, filter: &str) -> Value {
    server.get(user, &format!("/_matrix/client/v3/sync?filter={}", filter.replace('"', "%22").replace('{', "%7B").replace('}', "%7D"))).ok()
}

/// What everything that shows a room's events says an event's content is.
#[track_caller]
fn contents(server: &TestServer, user: &TestUser, room: &str, event: &str, parent: &str) -> Vec<Value> {
    let find = |events: &Value| {
        let found = events.as_array().expect("events").iter().find(|found| found["event_id"] == event).cloned();
        found.unwrap_or_else(|| panic!("no {event} in {events}"))
    };
    let messages = look(server, user, room, "messages?dir=b&limit=100").ok();
    let relations = server.get(user, &format!("/_matrix/client/v1/rooms/{room}/relations/{parent}")).ok();
    let synced = sync(server, user, r#"{"room":{"timeline":{"limit":100}}}"#);
    let shown = [
        find(&messages["chunk"]),
        find(&relations["chunk"]),
        find(&synced["rooms"]["join"][room]["timeline"]["events"]),
        look(server, user, room, &format!("event/{event}")).ok(),
        look(server, user, room, &format!("context/{event}")).ok()["event"].take(),
        find(&look(server, user, room, &format!("context/{parent}?limit=100")).ok()["events_after"]),
    ];
    shown.into_iter().map(|mut event| event["content"].take()).collect()
}

#[test]
fn erased_messages_are_shown_only_to_those_who_were_in_the_room() {
    let server = TestServer::new();
    let [alice, bob, carol, dave] = ["alice", "bob", "carol", "dave"].map(|name| server.register(name));
    let id = room(&server, &bob, json!({ "preset": "public_chat" }));
    join(&server, &alice, &id);
    let parent = send(&server, &bob, &id, "1", "bob's own words");
    let event = relate(&server, &alice, &id, "hello", "m.reference", &parent);
    join(&server, &carol, &id);
    let later = send(&server, &alice, &id, "2", "carol is here");
    let whole = contents(&server, &carol, &id, &event, &parent);
    assert!(whole.iter().all(|content| content["body"] == "hello"), "{whole:?}");

    deactivate(&server, &alice, true);
    let server = server.restart();
    join(&server, &dave, &id);
    for user in [&carol, &dave] {
        assert_eq!(contents(&server, user, &id, &event, &parent), vec![json!({}); 6]);
    }
    assert_eq!(contents(&server, &bob, &id, &event, &parent), whole);
    let body = |user: &TestUser, event: &str| look(&server, user, &id, &format!("event/{event}")).ok()["content"]["body"].take();
    assert_eq!([&bob, &carol, &dave].map(|user| body(user, &later)), [json!("carol is here"), json!("carol is here"), Value::Null]);
    assert_eq!(body(&dave, &parent), "bob's own words");
    // Nobody redacted anything.
    let shown = look(&server, &dave, &id, &format!("event/{event}")).ok();
    assert_eq!((&shown["sender"], &shown["unsigned"]["redacted_because"]), (&json!(alice.id), &Value::Null));
    // Nor in the format of servers.
    let synced = sync(&server, &dave, r#"{"event_format":"federation","room":{"timeline":{"limit":100}}}"#).to_string();
    assert!(synced.contains("bob's own words") && !synced.contains("carol is here") && !synced.contains("hello"));
    // Who left was there, and who has forgotten the room was not.
    act(&server, &bob, &id, "leave", json!({})).ok();
    assert_eq!(body(&bob, &event), "hello");
    act(&server, &bob, &id, "forget", json!({})).ok();
    set_state(&server, &dave, &id, "m.room.topic", json!({})).fails(403, "M_FORBIDDEN");
}

/// What the room's state says now is how the room works: whoever comes later has to know that it is
/// encrypted.
#[test]
fn erasing_a_user_keeps_the_state_of_rooms() {
    let server = TestServer::new();
    let [alice, bob, carol, erin] = ["alice", "bob", "carol", "erin"].map(|name| server.register(name));
    let id = room(&server, &alice, json!({ "preset": "public_chat", "name": "Garden" }));
    join(&server, &erin, &id);
    server.put(&alice, &format!("/_matrix/client/v3/profile/{}/displayname", alice.id), json!({ "displayname": "Alice A." })).ok();
    set_state(&server, &alice, &id, "m.room.topic", json!({ "topic": "private matters" })).ok();
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    set_state(&server, &alice, &id, "m.room.encryption", encryption.clone()).ok();
    set_state(&server, &alice, &id, "m.room.topic", json!({ "topic": "vegetables" })).ok();
    join(&server, &bob, &id);
    deactivate(&server, &alice, true);
    join(&server, &carol, &id);
    let state = look(&server, &carol, &id, "state").ok();
    let of_type = |kind: &str| state.as_array().expect("a state").iter().find(|event| event["type"] == kind).expect("it is there").clone();
    assert_eq!(of_type("m.room.encryption")["content"], encryption);
    assert_eq!(of_type("m.room.topic")["content"], json!({ "topic": "vegetables" }));
    assert_eq!(look(&server, &carol, &id, "state/m.room.name/").ok(), json!({ "name": "Garden" }));
    for (user, sees) in [(&erin, true), (&bob, false), (&carol, false)] {
        let messages = look(&server, user, &id, "messages?dir=f&limit=100").ok().to_string();
        let synced = sync(&server, user, r#"{"room":{"timeline":{"limit":100}}}"#).to_string();
        for shown in [messages, synced] {
            assert_eq!(shown.contains("private matters"), sees, "also not beside what came after it: {shown}");
            assert_eq!(shown.contains("Alice A."), sees, "{shown}");
            assert!(shown.contains("vegetables") && shown.contains("m.megolm.v1.aes-sha2"));
        }
    }
}

#[test]
fn erasure_deletes_what_is_no_event_and_happens_only_on_request() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let id = room(&server, &bob, json!({ "preset": "public_chat" }));
    for user in [&alice, &carol] {
        join(&server, user, &id);
        let sent = send(&server, user, &id, "1", "words");
        act(&server, user, &id, &format!("receipt/m.read/{sent}"), json!({})).ok();
    }
    let full = sync(&server, &bob, "{}").to_string();
    assert!([&alice, &carol].iter().all(|user| full.contains(&format!(r#""m.read":{{"{}""#, user.id))), "{full}");
    deactivate(&server, &alice, true);
    deactivate(&server, &carol, false);
    let dave = server.register("dave");
    join(&server, &dave, &id);
    let synced = sync(&server, &dave, r#"{"room":{"timeline":{"limit":100}}}"#);
    let events = synced["rooms"]["join"][&id]["timeline"]["events"].as_array().expect("events");
    let said = |user: &TestUser| {
        events.iter().find(|event| event["type"] == "m.room.message" && event["sender"] == user.id).expect("one")["content"].clone()
    };
    assert_eq!((said(&alice), &said(&carol)["body"]), (json!({}), &json!("words")));
    let receipts = synced["rooms"]["join"][&id]["ephemeral"]["events"].to_string();
    assert!(!receipts.contains(&alice.id) && receipts.contains(&carol.id), "{receipts}");
}
