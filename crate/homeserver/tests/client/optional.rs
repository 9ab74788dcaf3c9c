//! What the specification lets a server leave out, and other servers send all the same: clients
//! have come to rely on it. matrix-js-sdk reads `events_after.length`, matrix-nio wants `state` of
//! rooms that were left.

use crate::{
    rooms::{room, send},
    support::{TestServer, TestUser},
};
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";

/// Where an answer has nothing at a path.
#[track_caller]
fn has(answer: &Value, what: &str, pointers: &[&str]) {
    let missing: Vec<_> = pointers.iter().filter(|pointer| answer.pointer(pointer).is_none()).collect();
    assert!(missing.is_empty(), "{what} lacks {missing:?}: {answer}");
}

fn sync(server: &TestServer, user: &TestUser, parameters: &str) -> Value {
    server.get(user, &format!("{V3}/sync?timeout=0{parameters}")).ok()
}

const JOINED: [&str; 8] = [
    "/timeline/events",
    "/timeline/limited",
    "/timeline/prev_batch",
    "/account_data/events",
    "/ephemeral/events",
    "/summary",
    "/unread_notifications/notification_count",
    "/unread_notifications/highlight_count",
];

const LEFT: [&str; 4] = ["/timeline/events", "/timeline/limited", "/timeline/prev_batch", "/account_data/events"];

#[test]
fn every_answer_has_every_field_that_is_sent_everywhere() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({}));
    let only = send(&server, &alice, &id, "1", "hello");
    let created = server.get(&alice, &format!("{V3}/rooms/{id}/state/m.room.create/?format=event")).ok()["event_id"].clone();
    let nobody = json!({ "@bob:test.example": [] });
    for (what, answer, pointers) in [
        (
            "the context of the last event",
            server.get(&alice, &format!("{V3}/rooms/{id}/context/{only}?limit=0")).ok(),
            ["/events_before", "/events_after", "/event", "/state", "/start", "/end"].as_slice(),
        ),
        (
            "the context of the first event",
            server.get(&alice, &format!("{V3}/rooms/{id}/context/{}", created.as_str().expect("an id"))).ok(),
            &["/events_before", "/events_after", "/event", "/state", "/start", "/end"],
        ),
        ("a page", server.get(&alice, &format!("{V3}/rooms/{id}/messages?dir=b")).ok(), &["/chunk", "/start", "/end", "/state"]),
        (
            "keys/query",
            server.post(&alice, &format!("{V3}/keys/query"), json!({ "device_keys": {} })).ok(),
            &["/device_keys", "/failures", "/master_keys", "/self_signing_keys", "/user_signing_keys"],
        ),
        (
            "keys/query for who has none",
            server.post(&alice, &format!("{V3}/keys/query"), json!({ "device_keys": nobody })).ok(),
            &["/device_keys/@bob:test.example", "/failures"],
        ),
        ("keys/claim", server.post(&alice, &format!("{V3}/keys/claim"), json!({ "one_time_keys": {} })).ok(), &["/one_time_keys", "/failures"]),
        ("keys/signatures/upload", server.post(&alice, &format!("{V3}/keys/signatures/upload"), json!({})).ok(), &["/failures"]),
        (
            "devices",
            server.get(&alice, &format!("{V3}/devices")).ok(),
            &["/devices/0/display_name", "/devices/0/last_seen_ip", "/devices/0/last_seen_ts"],
        ),
        ("whoami", server.get(&alice, &format!("{V3}/account/whoami")).ok(), &["/user_id", "/device_id", "/is_guest"]),
        (
            "joined_members",
            server.get(&alice, &format!("{V3}/rooms/{id}/joined_members")).ok(),
            &["/joined/@alice:test.example/display_name", "/joined/@alice:test.example/avatar_url"],
        ),
        (
            "interactive authentication",
            server.post(&alice, &format!("{V3}/delete_devices"), json!({ "devices": [] })).body,
            &["/completed", "/params"],
        ),
        ("interactive authentication of nobody", server.request("POST", &format!("{V3}/register"), None, Some(json!({}))).body, &["/completed"]),
        (
            "push rules",
            server.get(&alice, &format!("{V3}/pushrules/")).ok(),
            &["/global/override", "/global/underride", "/global/sender", "/global/room", "/global/content"],
        ),
        (
            "push rules of the scope",
            server.get(&alice, &format!("{V3}/pushrules/global/")).ok(),
            &["/override", "/underride", "/sender", "/room", "/content"],
        ),
    ] {
        has(&answer, what, pointers);
    }
    let account = server.get(&alice, &format!("{V3}/user/{}/account_data/m.push_rules", alice.id)).ok();
    has(&account, "push rules as account data", &["/global/room", "/global/sender"]);
    let first = sync(&server, &bob, "");
    let rules = first["account_data"]["events"].as_array().and_then(|events| events.iter().find(|event| event["type"] == "m.push_rules"));
    has(rules.expect("push rules"), "push rules in a sync", &["/content/global/room", "/content/global/sender"]);
}

#[test]
fn a_room_in_a_sync_has_every_section() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({ "preset": "public_chat" }));
    let pointer = |section: &str| format!("/rooms/{section}/{id}");
    let room_of = |answer: &Value, section: &str| answer.pointer(&pointer(section)).cloned().unwrap_or_else(|| panic!("no {section} in {answer}"));

    let first = sync(&server, &alice, "");
    has(&room_of(&first, "join"), "a room of a first sync", &JOINED);
    has(&room_of(&first, "join"), "a room of a first sync", &["/state/events"]);
    let nothing = r#"{"room":{"timeline":{"limit":0},"state":{"types":[]},"account_data":{"types":[]},"ephemeral":{"types":[]}}}"#;
    let nothing = form_urlencoded::byte_serialize(nothing.as_bytes()).collect::<String>();
    has(&room_of(&sync(&server, &alice, &format!("&filter={nothing}")), "join"), "a room of which nothing is wanted", &JOINED);
    has(&room_of(&sync(&server, &alice, "&use_state_after=true"), "join"), "a room with the state after", &["/state_after/events"]);

    let since = first["next_batch"].as_str().expect("a token").to_owned();
    send(&server, &alice, &id, "1", "hello");
    let second = sync(&server, &alice, &format!("&since={since}"));
    has(&room_of(&second, "join"), "a room with a message", &JOINED);
    has(&room_of(&second, "join"), "a room with a message", &["/state/events"]);
    let since = second["next_batch"].as_str().expect("a token").to_owned();
    server.put(&alice, &format!("{V3}/rooms/{id}/typing/{}", alice.id), json!({ "typing": true })).ok();
    let third = sync(&server, &alice, &format!("&since={since}"));
    let typing = room_of(&third, "join");
    has(&typing, "a room where somebody types", &JOINED);
    has(&typing, "a room where somebody types", &["/state/events"]);
    assert_eq!(typing["timeline"]["limited"], false);
    // From there it goes on backwards, and not again.
    let from = typing["timeline"]["prev_batch"].as_str().expect("a token");
    let page = server.get(&alice, &format!("{V3}/rooms/{id}/messages?dir=b&from={from}&limit=1")).ok();
    assert_eq!(page["chunk"][0]["content"]["body"], "hello");

    // Left after having been in it, kicked, and an invitation that was turned down.
    let since = sync(&server, &bob, "")["next_batch"].as_str().expect("a token").to_owned();
    server.post(&bob, &format!("{V3}/join/{id}"), json!({})).ok();
    server.post(&bob, &format!("{V3}/rooms/{id}/leave"), json!({})).ok();
    let left = sync(&server, &bob, &format!("&since={since}"));
    has(&room_of(&left, "leave"), "a room that was joined and left", &LEFT);
    has(&room_of(&left, "leave"), "a room that was joined and left", &["/state/events"]);
    let since = left["next_batch"].as_str().expect("a token").to_owned();
    server.post(&alice, &format!("{V3}/rooms/{id}/invite"), json!({ "user_id": bob.id })).ok();
    let invited = sync(&server, &bob, &format!("&since={since}"));
    has(&room_of(&invited, "invite"), "an invitation", &["/invite_state/events"]);
    server.post(&alice, &format!("{V3}/rooms/{id}/kick"), json!({ "user_id": bob.id })).ok();
    let kicked = sync(&server, &bob, &format!("&since={}", invited["next_batch"].as_str().expect("a token")));
    has(&room_of(&kicked, "leave"), "an invitation that was taken back", &LEFT);
    has(&room_of(&kicked, "leave"), "an invitation that was taken back", &["/state/events"]);
    let all = form_urlencoded::byte_serialize(br#"{"room":{"include_leave":true}}"#).collect::<String>();
    has(&room_of(&sync(&server, &bob, &format!("&filter={all}")), "leave"), "a room that was left", &LEFT);
    has(&room_of(&sync(&server, &bob, &format!("&use_state_after=true&filter={all}")), "leave"), "the same", &["/state_after/events"]);
}

/// A client that filtered saw one page without `end` and took it for the whole history; one that
/// had all of it was never told so.
#[test]
fn a_page_has_an_end_whenever_it_read_something_and_only_then() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    send(&server, &alice, &id, "1", "hello");
    let messages = |parameters: &str| server.get(&alice, &format!("{V3}/rooms/{id}/messages?{parameters}")).ok();
    let none = form_urlencoded::byte_serialize(br#"{"types":["none"]}"#).collect::<String>();
    for parameters in ["dir=b&limit=100", "dir=f&limit=100", &format!("dir=b&limit=100&filter={none}"), &format!("dir=f&limit=100&filter={none}")] {
        let page = messages(parameters);
        let end = page["end"].as_str().unwrap_or_else(|| panic!("no end for {parameters}: {page}"));
        let last = messages(&format!("{parameters}&from={end}"));
        assert_eq!((&last["chunk"], &last["end"], &last["start"]), (&json!([]), &Value::Null, &json!(end)), "{parameters}");
    }
}
