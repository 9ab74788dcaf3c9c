//! Redactions (Client-Server API, Redactions), by both endpoints and in every shape that room
//! versions give them.

use crate::{
    rooms::{room, send},
    support::{TestServer, TestUser},
};
use serde_json::{Value, json};

/// An id in a path: those of v3 may have slashes.
fn encoded(id: &str) -> String {
    percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// The newest event of a room as servers see it.
fn newest_pdu(server: &TestServer, user: &TestUser, room: &str) -> Value {
    let filter = encoded(r#"{"event_format":"federation","room":{"timeline":{"limit":1}}}"#);
    let body = server.get(user, &format!("/_matrix/client/v3/sync?timeout=0&filter={filter}")).ok();
    body["rooms"]["join"][room]["timeline"]["events"][0].clone()
}

#[test]
fn redacts_stands_where_the_room_version_wants_it() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for (version, in_content) in [("1", false), ("2", false), ("3", false), ("10", false), ("11", true), ("12", true)] {
        let id = room(&server, &alice, json!({ "room_version": version }));
        for (endpoint, txn) in [("send", "t1"), ("redact", "t2")] {
            let target = send(&server, &alice, &id, &format!("m-{txn}"), "a secret");
            let (path, body) = match endpoint {
                "send" => (format!("send/m.room.redaction/{txn}"), json!({ "redacts": target, "reason": "oops" })),
                _ => (format!("redact/{}/{txn}", encoded(&target)), json!({ "reason": "oops" })),
            };
            let sent = server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/{path}"), body).ok();
            let pdu = newest_pdu(&server, &alice, &id);
            let (inside, beside) = (&pdu["content"]["redacts"], &pdu["redacts"]);
            let (there, not_there) = if in_content { (inside, beside) } else { (beside, inside) };
            assert_eq!((there, not_there), (&json!(target), &Value::Null), "version {version}, {endpoint}");
            assert_eq!((&pdu["content"]["reason"], &pdu["event_id"]), (&json!("oops"), &sent["event_id"]));
            // Clients see it in both places, and the target without its content.
            let get = |event: &str| server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/event/{}", encoded(event))).ok();
            let event = get(sent["event_id"].as_str().expect("an id"));
            assert_eq!((&event["redacts"], &event["content"]["redacts"]), (&json!(target), &json!(target)));
            let event = get(&target);
            assert_eq!((&event["content"], &event["unsigned"]["redacted_because"]["event_id"]), (&json!({}), &sent["event_id"]));
            assert_eq!(event["unsigned"]["redacted_by"], sent["event_id"], "as old clients look for it");
        }
    }
}

#[test]
fn a_redaction_names_what_it_redacts() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for version in ["10", "11"] {
        let id = room(&server, &alice, json!({ "room_version": version }));
        let path = format!("/_matrix/client/v3/rooms/{id}/send/m.room.redaction/t");
        for wrong in [json!({}), json!({ "redacts": 7 }), json!({ "redacts": "no id" }), json!({ "redacts": null })] {
            server.put(&alice, &path, wrong).fails(400, "M_BAD_JSON");
        }
        let target = send(&server, &alice, &id, "m", "a secret");
        server.put(&alice, &path, json!({ "redacts": target })).ok();
    }
}

#[test]
fn moderators_redact_what_others_wrote_and_nobody_else_does() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let id = room(
        &server,
        &alice,
        json!({ "preset": "public_chat", "power_level_content_override": { "users": { &alice.id: 100, &carol.id: 50 } }, "room_version": "11" }),
    );
    for user in [&bob, &carol] {
        server.post(user, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    }
    let redact =
        |user: &TestUser, event: &str, txn: &str| server.put(user, &format!("/_matrix/client/v3/rooms/{id}/redact/{event}/{txn}"), json!({}));
    let by_send = |user: &TestUser, event: &str, txn: &str| {
        server.put(user, &format!("/_matrix/client/v3/rooms/{id}/send/m.room.redaction/{txn}"), json!({ "redacts": event }))
    };
    let content = |event: &str| server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/event/{event}")).ok()["content"].clone();
    let (of_alice, of_bob) = (send(&server, &alice, &id, "m1", "one"), send(&server, &bob, &id, "m1", "two"));
    redact(&bob, &of_alice, "t1").fails(403, "M_FORBIDDEN");
    by_send(&bob, &of_alice, "t1").fails(403, "M_FORBIDDEN");
    assert_eq!(content(&of_alice)["body"], "one");
    redact(&carol, &of_alice, "t1").ok();
    by_send(&carol, &of_bob, "t2").ok();
    assert_eq!((content(&of_alice), content(&of_bob)), (json!({}), json!({})));
    // Twice is no mistake, and leaves it at the first.
    redact(&carol, &of_bob, "t3").ok();
}

/// As on Synapse: another room's event was "not found", though it was there.
#[test]
fn what_is_not_in_the_room_is_not_redacted_in_it() {
    let server = TestServer::new();
    let [alice, bob, dave] = ["alice", "bob", "dave"].map(|name| server.register(name));
    for version in ["1", "2", "6", "11", "12"] {
        let id = room(&server, &alice, json!({ "preset": "public_chat", "room_version": version }));
        server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
        let elsewhere = room(&server, &bob, json!({ "room_version": version }));
        let foreign = encoded(&send(&server, &bob, &elsewhere, "m1", "elsewhere"));
        let own = encoded(&send(&server, &bob, &id, "m1", "here"));
        let unknown = if version == "1" || version == "2" { "$unknown%3Aother.example" } else { "$unknown" };
        let path = |what: &str| format!("/_matrix/client/v3/rooms/{id}/{what}");
        let redact = |user: &TestUser, event: &str, txn: &str| {
            let redacts = percent_encoding::percent_decode_str(event).decode_utf8_lossy().into_owned();
            let by_send = server.put(user, &path(&format!("send/m.room.redaction/{txn}")), json!({ "redacts": redacts }));
            let answer = server.put(user, &path(&format!("redact/{event}/{txn}")), json!({}));
            assert_eq!((answer.status, &answer.body["errcode"]), (by_send.status, &by_send.body["errcode"]), "version {version}");
            answer
        };
        for user in [&alice, &bob] {
            redact(user, &foreign, "t1").fails(400, "M_INVALID_PARAM");
        }
        // Who may redact everything may do it before it is here; nobody is shown it until then.
        redact(&alice, unknown, "t2").ok();
        redact(&bob, unknown, "t2").fails(404, "M_NOT_FOUND");
        // Who is not in the room is told nothing else.
        for event in [&*foreign, &own, unknown] {
            redact(&dave, event, "t3").fails(403, "M_FORBIDDEN");
        }
        for kind in ["m.room.create", "m.room.server_acl"] {
            server.put(&alice, &path("state/m.room.server_acl/"), json!({ "allow": ["*"] })).ok();
            let state = server.get(&alice, &path("state")).ok();
            let event = state.as_array().expect("events").iter().find(|event| event["type"] == kind).expect("the event")["event_id"].clone();
            redact(&alice, &encoded(event.as_str().expect("an id")), &format!("t-{kind}")).fails(403, "M_FORBIDDEN");
        }
    }
}

/// Whether an event exists could be told from the refusal.
#[test]
fn what_somebody_may_not_see_is_as_unknown_as_what_is_not_there() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let visibility = json!({ "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } });
    let id = room(&server, &alice, json!({ "preset": "public_chat", "initial_state": [visibility] }));
    let early = send(&server, &alice, &id, "m1", "early");
    server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    for event in [early.as_str(), "$unknown"] {
        server.put(&bob, &format!("/_matrix/client/v3/rooms/{id}/redact/{event}/t1"), json!({})).fails(404, "M_NOT_FOUND");
    }
}

#[test]
fn what_makes_the_room_stays_of_a_redacted_state_event() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({ "preset": "public_chat", "topic": "words", "room_version": "11" }));
    server.put(&bob, &format!("/_matrix/client/v3/profile/{}/displayname", bob.id), json!({ "displayname": "Bob" })).ok();
    server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    let state = server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/state")).ok();
    let event = |kind: &str, key: &str| {
        let found = state.as_array().expect("events").iter().find(|event| event["type"] == kind && event["state_key"] == key);
        found.expect("the event")["event_id"].as_str().expect("an id").to_owned()
    };
    for (txn, target) in [("t1", event("m.room.member", &bob.id)), ("t2", event("m.room.topic", ""))] {
        server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/redact/{target}/{txn}"), json!({})).ok();
    }
    let get = |path: &str| server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/state/{path}")).ok();
    assert_eq!(get(&format!("m.room.member/{}", bob.id)), json!({ "membership": "join" }));
    assert_eq!(get("m.room.topic/"), json!({}));
    send(&server, &bob, &id, "m1", "still here");
}
