//! Transactions of other servers, and what becomes of the events in them.

use crate::support::{Peer, Room, TestServer};
use ephapse_homeserver::Host;
use serde_json::{Value, json};
use std::time::Duration;

/// A public room of alice, which bob of another server has joined.
fn joined(version: &str) -> (TestServer, Peer, Room) {
    let server = TestServer::new();
    let peer = Peer::new(1);
    let room = Room::public(&server, version);
    peer.join(&server, &room, "bob");
    (server, peer, room)
}

#[test]
fn an_event_of_another_server_is_seen_by_clients() {
    for version in ["1", "3", "6", "10", "11", "12"] {
        let (server, peer, room) = joined(version);
        let since = room.sync(&server, None)["next_batch"].as_str().expect("a token").to_owned();
        let hello = peer.message(&server, &room, "bob", "hello");
        let answer = peer.send(&server, "1", std::slice::from_ref(&hello)).ok();
        assert_eq!(answer, json!({ "pdus": { hello.event_id.as_str(): {} } }), "{version}");
        let sync = room.sync(&server, Some(&since));
        let timeline = &sync["rooms"]["join"][room.id.as_str()]["timeline"]["events"];
        assert_eq!(timeline[0]["event_id"], hello.event_id.as_str(), "{version}: {sync}");
        assert_eq!(timeline[0]["content"]["body"], "hello");
    }
}

#[test]
fn a_transaction_that_comes_again_gets_the_same_answer_and_does_nothing() {
    let (server, peer, room) = joined("11");
    let hello = peer.message(&server, &room, "bob", "hello");
    let forged = peer.signed_by(&Peer::new(2), &hello);
    let first = peer.send(&server, "1", &[hello.clone(), forged.clone()]).ok();
    assert_eq!(first["pdus"][hello.event_id.as_str()], json!({}));
    assert!(first["pdus"][forged.event_id.as_str()]["error"].as_str().is_some_and(|error| error.contains("signature")), "{first}");
    // Another server's may have the same id, and another body is not looked at.
    assert_eq!(peer.send(&server, "1", &[]).ok(), first);
    let server = server.restart();
    assert_eq!(peer.send(&server, "1", &[]).ok(), first);
    assert_eq!(peer.send(&server, "2", std::slice::from_ref(&hello)).ok()["pdus"], json!({ hello.event_id.as_str(): {} }));
    assert_eq!(room.bodies(&server), ["hello"]);
    server.host.advance(Duration::from_secs(16 * 24 * 60 * 60));
    room.bodies(&server);
    server.run(server.host.sleep(Duration::from_secs(1)));
    assert_eq!(peer.send(&server, "1", &[]).ok(), json!({ "pdus": {} }), "it is forgotten after 15 days");
}

/// Synapse, for one, loses all of a transaction that holds a number no canonical JSON has.
#[test]
fn one_bad_event_costs_only_itself() {
    let (server, peer, room) = joined("11");
    let hello = peer.message(&server, &room, "bob", "hello");
    let good: Value = serde_json::from_slice(&hello.json).expect("JSON");
    let with = |content: &str| {
        let mut bad = good.clone();
        bad["content"] = json!("CONTENT");
        bad.to_string().replace("\"CONTENT\"", content)
    };
    let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    let bad = [
        "1".to_owned(),
        "null".to_owned(),
        "{}".to_owned(),
        r#"{"room_id":7}"#.to_owned(),
        with("7"),
        with(r#"{"body":1.5}"#),
        with(r#"{"body":1e300}"#),
        with(r#"{"body":123456789012345678901234567890}"#),
        with(r#"{"body":"\ud800"}"#),
        with(&format!("{{\"body\":{deep}}}")),
        with(&format!("{{\"body\":\"{}\"}}", "x".repeat(100_000))),
        with(&format!("{{\"body\":\"{}\"}}", "x".repeat(1_000_000))),
    ];
    let pdus: Vec<String> = bad.into_iter().chain([good.to_string()]).collect();
    let body = format!(r#"{{"origin":"{}","origin_server_ts":1.5,"pdus":[{}]}}"#, peer.name, pdus.join(","));
    let answer = peer.put(&server, "/_matrix/federation/v1/send/1", &body).ok();
    assert_eq!(answer["pdus"][hello.event_id.as_str()], json!({}), "{answer}");
    assert_eq!(room.bodies(&server), ["hello"]);
}

#[test]
fn a_transaction_is_of_the_server_that_signed_it_and_of_its_size() {
    let (server, peer, room) = joined("11");
    let hello = peer.message(&server, &room, "bob", "hello");
    let send = |txn_id: &str, body: &str| peer.put(&server, &format!("/_matrix/federation/v1/send/{txn_id}"), body);
    send("1", r#"{"origin":"other.example","pdus":[]}"#).fails(403, "M_FORBIDDEN");
    send("1", "[]").fails(400, "M_BAD_JSON");
    send("1", "{}").fails(400, "M_BAD_JSON");
    send("1", r#"{"pdus":7}"#).fails(400, "M_BAD_JSON");
    let of = |pdus: usize, edus: usize| {
        let pdus = vec![String::from_utf8_lossy(&hello.json).into_owned(); pdus].join(",");
        format!(r#"{{"pdus":[{pdus}],"edus":[{}]}}"#, vec!["{}"; edus].join(","))
    };
    send("1", &of(51, 0)).fails(400, "M_BAD_JSON");
    send("1", &of(0, 101)).fails(400, "M_BAD_JSON");
    send(&"x".repeat(256), &of(1, 0)).fails(400, "M_INVALID_PARAM");
    assert!(room.bodies(&server).is_empty());
    send("1", &of(50, 100)).ok();
    assert_eq!(room.bodies(&server), ["hello"]);
}

#[test]
fn rooms_say_whose_events_come_in() {
    let (server, peer, room) = joined("11");
    let hello = peer.message(&server, &room, "bob", "hello");
    room.put_state(&server, "m.room.server_acl", json!({ "allow": ["*"], "deny": [peer.name.as_str()] }));
    let refused = peer.send(&server, "1", std::slice::from_ref(&hello)).ok();
    assert!(refused["pdus"][hello.event_id.as_str()]["error"].is_string(), "{refused}");
    room.put_state(&server, "m.room.server_acl", json!({ "allow": ["*"] }));
    assert_eq!(peer.send(&server, "2", std::slice::from_ref(&hello)).ok()["pdus"][hello.event_id.as_str()], json!({}));
    room.leave(&server);
    let late = peer.message(&server, &room, "bob", "late");
    let refused = peer.send(&server, "3", std::slice::from_ref(&late)).ok();
    assert!(refused["pdus"][late.event_id.as_str()]["error"].is_string(), "{refused}");
}

#[test]
fn events_of_one_transaction_may_come_before_their_parents() {
    let (server, peer, room) = joined("11");
    let first = peer.message(&server, &room, "bob", "first");
    let second = peer.message_after(&server, &room, "bob", "second", &[&first]);
    let third = peer.message_after(&server, &room, "bob", "third", &[&second]);
    let answer = peer.send(&server, "1", &[third, first, second]).ok();
    assert!(answer["pdus"].as_object().expect("an object").values().all(|outcome| *outcome == json!({})), "{answer}");
    assert_eq!(room.bodies(&server), ["first", "second", "third"]);
}

/// What the rules say of an event is for each server to know: its sender is not told.
#[test]
fn what_the_rules_reject_is_not_seen() {
    let (server, peer, room) = joined("11");
    let topic = peer.state(&server, &room, "bob", "m.room.topic", "", json!({ "topic": "mine" }));
    let answer = peer.send(&server, "1", std::slice::from_ref(&topic)).ok();
    assert_eq!(answer["pdus"][topic.event_id.as_str()], json!({}));
    assert_eq!(room.state(&server, "m.room.topic"), None);
    // What is built on it is not worse for it.
    let hello = peer.message_after(&server, &room, "bob", "hello", &[&topic]);
    peer.send(&server, "2", &[hello]).ok();
    assert_eq!(room.bodies(&server), ["hello"]);
}

#[test]
fn a_changed_event_is_what_its_signature_covers() {
    let (server, peer, room) = joined("11");
    let hello = peer.message(&server, &room, "bob", "hello");
    let mut changed: Value = serde_json::from_slice(&hello.json).expect("JSON");
    changed["content"]["body"] = json!("changed");
    let body = json!({ "pdus": [changed] }).to_string();
    let answer = peer.put(&server, "/_matrix/federation/v1/send/1", &body).ok();
    assert_eq!(answer["pdus"][hello.event_id.as_str()], json!({}));
    // Its content is gone, as if it had been redacted.
    assert!(room.bodies(&server).is_empty());
    assert_eq!(room.events(&server).last().expect("an event")["event_id"], hello.event_id.as_str());
}
