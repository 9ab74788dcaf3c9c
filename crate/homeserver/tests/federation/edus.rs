//! What passes between servers beside events: who types, has read, and is there, and messages to
//! devices.

use crate::{
    outbox::{MINUTE, Shared, sync, token, transactions},
    support::{Peer, TestServer},
};
use serde_json::{Value, json};
use std::time::Duration;

fn ephemeral(sync: &Value, room: &str, kind: &str) -> Vec<Value> {
    let events = sync["rooms"]["join"][room]["ephemeral"]["events"].as_array().cloned().unwrap_or_default();
    events.into_iter().filter(|event| event["type"] == kind).map(|event| event["content"].clone()).collect()
}

fn newest_event(shared: &Shared) -> String {
    let sync = sync(&shared.one, &shared.alice, "");
    let events = sync["rooms"]["join"][&shared.room]["timeline"]["events"].as_array().cloned().unwrap_or_default();
    events.last().expect("an event")["event_id"].as_str().expect("an id").to_owned()
}

#[test]
fn who_types_is_shown_on_other_servers_until_they_stop() {
    let shared = Shared::new();
    let since = token(&sync(&shared.two, &shared.bob, ""));
    let path = format!("/_matrix/client/v3/rooms/{}/typing/{}", shared.room, shared.alice.id);
    shared.one.put(&shared.alice, &path, json!({ "typing": true, "timeout": 30_000 })).ok();
    shared.network.pass(Duration::from_secs(1));
    let typing = sync(&shared.two, &shared.bob, &since);
    assert_eq!(ephemeral(&typing, &shared.room, "m.typing"), [json!({ "user_ids": [shared.alice.id] })]);
    shared.network.pass(Duration::from_secs(40));
    let typing = sync(&shared.two, &shared.bob, &token(&typing));
    assert_eq!(ephemeral(&typing, &shared.room, "m.typing"), [json!({ "user_ids": [] })]);
}

#[test]
fn public_receipts_are_shown_on_other_servers() {
    let shared = Shared::new();
    let since = token(&sync(&shared.two, &shared.bob, ""));
    shared.say("hello");
    shared.network.pass(MINUTE);
    let event = newest_event(&shared);
    shared.network.sent();
    let receipt = |kind: &str, body: Value| {
        let path = format!("/_matrix/client/v3/rooms/{}/receipt/{kind}/{event}", shared.room);
        shared.one.post(&shared.alice, &path, body).ok();
    };
    receipt("m.read.private", json!({}));
    shared.network.pass(MINUTE);
    let receipts_sent = transactions(shared.network.sent()).into_iter().any(|sent| String::from_utf8_lossy(&sent.body).contains("m.receipt"));
    assert!(!receipts_sent, "it is nobody else's");
    receipt("m.read", json!({}));
    receipt("m.read", json!({ "thread_id": "main" }));
    shared.network.pass(MINUTE);
    let told = ephemeral(&sync(&shared.two, &shared.bob, &since), &shared.room, "m.receipt");
    let read: Vec<&Value> = told.iter().map(|content| &content[&event]["m.read"][&shared.alice.id]).collect();
    assert_eq!(read.len(), 2, "{told:?}");
    assert!(read.iter().all(|read| read["ts"].is_u64()));
    assert!(read.iter().any(|read| read["thread_id"] == "main") && read.iter().any(|read| read["thread_id"].is_null()));
}

#[test]
fn who_is_there_is_shown_on_other_servers() {
    let shared = Shared::new();
    let since = token(&sync(&shared.two, &shared.bob, ""));
    let path = format!("/_matrix/client/v3/presence/{}/status", shared.alice.id);
    shared.one.put(&shared.alice, &path, json!({ "presence": "unavailable", "status_msg": "out for lunch" })).ok();
    shared.network.pass(Duration::from_secs(1));
    let told = sync(&shared.two, &shared.bob, &since);
    let events = told["presence"]["events"].as_array().cloned().unwrap_or_default();
    let of_alice = events.iter().find(|event| event["sender"] == json!(shared.alice.id)).expect("alice");
    assert_eq!((&of_alice["content"]["presence"], &of_alice["content"]["status_msg"]), (&json!("unavailable"), &json!("out for lunch")));
}

#[test]
fn a_message_reaches_a_device_of_another_server_also_when_that_was_down() {
    let shared = Shared::new();
    shared.network.set_down(&shared.two, true);
    let message = json!({ "messages": { (shared.bob.id.clone()): { (shared.bob.device.clone()): { "body": "psst" } } } });
    shared.one.put(&shared.alice, "/_matrix/client/v3/sendToDevice/m.dummy/1", message).ok();
    let fraction = json!({ "messages": { (shared.bob.id.clone()): { "*": { "body": 1.5 } } } });
    shared.one.put(&shared.alice, "/_matrix/client/v3/sendToDevice/m.dummy/2", fraction).fails(400, "M_BAD_JSON");
    shared.network.pass(10 * MINUTE);
    shared.network.set_down(&shared.two, false);
    shared.network.pass(60 * MINUTE);
    let told = sync(&shared.two, &shared.bob, "");
    let expected = json!([{ "content": { "body": "psst" }, "sender": shared.alice.id, "type": "m.dummy" }]);
    assert_eq!(told["to_device"]["events"], expected);
}

fn send(peer: &Peer, server: &TestServer, txn: &str, edus: Value) {
    let body = json!({ "origin": peer.name, "origin_server_ts": server.now(), "pdus": [], "edus": edus });
    peer.ask(server, "PUT", &format!("/_matrix/federation/v1/send/{txn}"), Some(&body)).ok();
}

fn to_device(peer: &Peer, sender: &str, id: &str, to: &str) -> Value {
    let sender = format!("@{sender}:{}", peer.name);
    let content = json!({ "sender": sender, "type": "m.dummy", "message_id": id, "messages": { to: { "*": { "id": id } } } });
    json!({ "edu_type": "m.direct_to_device", "content": content })
}

#[test]
fn a_message_takes_effect_once_however_often_it_comes() {
    let mut server = TestServer::new();
    let alice = server.register("alice");
    let peer = Peer::new(1);
    let first = to_device(&peer, "eve", "a", &alice.id);
    send(&peer, &server, "1", json!([first]));
    send(&peer, &server, "2", json!([first, first]));
    server = server.restart();
    send(&peer, &server, "3", json!([first, to_device(&peer, "eve", "b", &alice.id)]));
    // Another server's message may have the same id.
    let other = Peer::new(2);
    send(&other, &server, "1", json!([to_device(&other, "eve", "a", &alice.id)]));
    let told = sync(&server, &alice, "");
    let ids: Vec<&Value> = told["to_device"]["events"].as_array().expect("messages").iter().map(|event| &event["content"]["id"]).collect();
    assert_eq!(ids, ["a", "b", "a"]);
}

#[test]
fn a_bad_edu_costs_only_itself() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = crate::outbox::public_room(&server, &alice);
    let since = token(&sync(&server, &alice, ""));
    let (peer, other) = (Peer::new(1), Peer::new(2));
    let forged = to_device(&other, "eve", "forged", &alice.id);
    let long = to_device(&peer, "eve", &"x".repeat(300), &alice.id);
    let eve = format!("@eve:{}", peer.name);
    let edus = json!([
        7, null, {}, [], { "edu_type": "m.typing" }, { "edu_type": 7, "content": {} }, { "edu_type": "org.example", "content": {} },
        { "edu_type": "m.typing", "content": { "room_id": room, "user_id": eve, "typing": true } },
        { "edu_type": "m.typing", "content": { "room_id": room, "user_id": alice.id, "typing": true } },
        { "edu_type": "m.receipt", "content": { (room.clone()): { "m.read": { (alice.id.clone()): { "data": { "ts": 1 }, "event_ids": ["$a"] } } } } },
        { "edu_type": "m.presence", "content": { "push": [7, { "user_id": alice.id, "presence": "unavailable", "last_active_ago": 1 }] } },
        { "edu_type": "m.device_list_update", "content": { "user_id": alice.id, "device_id": "X", "stream_id": 1 } },
        { "edu_type": "m.signing_key_update", "content": { "user_id": alice.id } },
        forged, long, to_device(&peer, "eve", "good", &alice.id),
    ]);
    send(&peer, &server, "1", edus);
    let told = sync(&server, &alice, &since);
    let messages = told["to_device"]["events"].as_array().expect("messages");
    assert_eq!(messages.iter().map(|event| &event["content"]["id"]).collect::<Vec<_>>(), ["good"], "{told}");
    assert!(ephemeral(&told, &room, "m.typing").is_empty() && ephemeral(&told, &room, "m.receipt").is_empty(), "{told}");
    assert!(told["device_lists"]["changed"].as_array().is_none_or(Vec::is_empty), "{told}");
}

/// Nothing about them has changed when two meet.
#[test]
fn who_comes_into_a_room_is_told_who_is_there_and_they_of_them() {
    let network = crate::support::Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    for (server, user) in [(&one, &alice), (&two, &bob)] {
        let path = format!("/_matrix/client/v3/presence/{}/status", user.id);
        server.put(user, &path, json!({ "presence": "online", "status_msg": "here" })).ok();
    }
    let made = one.post(&alice, "/_matrix/client/v3/createRoom", json!({ "preset": "public_chat" })).ok();
    let room = made["room_id"].as_str().expect("a room id").to_owned();
    sync(&one, &alice, "");
    sync(&two, &bob, "");
    crate::outbox::join(&two, &bob, &room);
    network.pass(Duration::from_secs(5));
    for (server, user, other) in [(&one, &alice, &bob), (&two, &bob, &alice)] {
        let presence = sync(server, user, "")["presence"]["events"].as_array().cloned().unwrap_or_default();
        let of_other = presence.iter().find(|event| event["sender"] == other.id);
        assert_eq!(of_other.expect("their presence")["content"]["status_msg"], "here", "{presence:?}");
    }
}
