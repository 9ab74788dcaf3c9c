//! Transaction identifiers, and what `unsigned` says of an event (Client-Server API, Transaction
//! identifiers and Room event format).

use crate::{
    rooms::{room, send},
    support::{TestServer, TestUser},
};
use serde_json::{Value, json};
use std::time::Duration;

/// An event in every answer that shows it.
#[track_caller]
fn everywhere(server: &TestServer, user: &TestUser, room: &str, event: &str) -> Vec<Value> {
    let get = |path: &str| server.get(user, &format!("/_matrix/client/v3/rooms/{room}/{path}")).ok();
    let among = |events: &Value| {
        let found = events.as_array().expect("events").iter().find(|found| found["event_id"] == event);
        found.expect("the event").clone()
    };
    let sync = server.get(user, "/_matrix/client/v3/sync?timeout=0").ok();
    vec![
        get(&format!("event/{event}")),
        get(&format!("context/{event}"))["event"].clone(),
        among(&get("messages?dir=b&limit=100")["chunk"]),
        among(&sync["rooms"]["join"][room]["timeline"]["events"]),
    ]
}

#[test]
fn a_transaction_id_is_shown_to_the_device_that_sent_it_and_to_nobody_else() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let tablet = server.login("alice", Some("TABLET"));
    let id = room(&server, &alice, json!({ "preset": "public_chat" }));
    server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    let event = send(&server, &alice, &id, "t1", "hello");
    let check = |server: &TestServer| {
        for (user, expected) in [(&alice, json!("t1")), (&tablet, Value::Null), (&bob, Value::Null)] {
            for shown in everywhere(server, user, &id, &event) {
                assert_eq!(shown["unsigned"]["transaction_id"], expected, "{shown}");
            }
        }
    };
    check(&server);
    check(&server.restart());
}

#[test]
fn a_transaction_id_belongs_to_a_device_a_room_and_an_endpoint() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let tablet = server.login("alice", Some("TABLET"));
    let (one, other) = (room(&server, &alice, json!({})), room(&server, &alice, json!({})));
    let mut sent =
        vec![send(&server, &alice, &one, "same", "x"), send(&server, &tablet, &one, "same", "x"), send(&server, &alice, &other, "same", "x")];
    let put = |path: String, body: Value| server.put(&alice, &path, body).ok()["event_id"].as_str().expect("an id").to_owned();
    sent.push(put(format!("/_matrix/client/v3/rooms/{one}/send/org.example/same"), json!({})));
    let redact = format!("/_matrix/client/v3/rooms/{one}/redact/{}/same", sent[0]);
    sent.push(put(redact.clone(), json!({})));
    let count = sent.len();
    assert_eq!(sent.iter().collect::<std::collections::BTreeSet<_>>().len(), count, "each made an event of its own");
    // Again: the first answer, whatever the body says, also of the redaction of what is redacted by
    // now.
    assert_eq!(send(&server, &alice, &one, "same", "other words"), sent[0]);
    assert_eq!(put(redact, json!({ "reason": "again" })), sent[4]);
    // To-device messages have ids of their own.
    let messages = json!({ "messages": { &alice.id: { "TABLET": { "n": 1 } } } });
    server.put(&alice, "/_matrix/client/v3/sendToDevice/org.example/same", messages).ok();
    let arrived = server.get(&tablet, "/_matrix/client/v3/sync?timeout=0").ok();
    assert_eq!(arrived["to_device"]["events"].as_array().map(Vec::len), Some(1));
    // After a login anew the device has another access token, and still the same name.
    let again = server.login("alice", Some(&alice.device));
    assert_eq!(send(&server, &again, &one, "new", "x"), send(&server, &again, &one, "new", "x"));
}

#[test]
fn age_is_how_long_ago_an_event_was_sent() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let event = send(&server, &alice, &id, "t1", "hello");
    let sent_at = server.now();
    server.host.advance(Duration::from_millis(12_345));
    for shown in everywhere(&server, &alice, &id, &event) {
        let age = shown["unsigned"]["age"].as_u64().expect("an age");
        let ts = shown["origin_server_ts"].as_u64().expect("a time");
        assert!(ts <= sent_at && (12_345..12_345 + 60_000).contains(&age), "{age}");
        assert_eq!(ts + age, server.now());
    }
}

#[test]
fn a_state_event_says_what_it_replaced() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let put = |topic: &str| {
        let answer = server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/state/m.room.topic"), json!({ "topic": topic })).ok();
        answer["event_id"].as_str().expect("an id").to_owned()
    };
    let (first, second) = (put("first"), put("second"));
    for shown in everywhere(&server, &alice, &id, &first) {
        assert_eq!((&shown["unsigned"]["prev_content"], &shown["unsigned"]["replaces_state"]), (&Value::Null, &Value::Null));
    }
    for shown in everywhere(&server, &alice, &id, &second) {
        assert_eq!(shown["unsigned"]["prev_content"], json!({ "topic": "first" }));
        assert_eq!((&shown["unsigned"]["replaces_state"], &shown["unsigned"]["prev_sender"]), (&json!(first), &json!(alice.id)));
    }
}
