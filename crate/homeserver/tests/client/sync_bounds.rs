//! What a sync may cost whatever others do, and what it must not miss while they do it.

use crate::{
    rooms::{room, send},
    slow::SlowStore,
    support::{TestServer, TestUser, config, turn},
    sync::query,
};
use futures_util::future::join;
use serde_json::{Value, json};
use std::{rc::Rc, time::Duration};

fn token(answer: &Value) -> String {
    answer["next_batch"].as_str().expect("every sync has a next_batch").to_owned()
}

#[track_caller]
fn sync(server: &TestServer, user: &TestUser, since: &Value) -> Value {
    server.get(user, &query(&[("since", &token(since))])).ok()
}

fn public(server: &TestServer, owner: &TestUser, others: &[&TestUser]) -> String {
    let id = room(server, owner, json!({ "preset": "public_chat" }));
    for user in others {
        server.post(user, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    }
    id
}

fn bodies(room: &Value) -> Vec<&str> {
    let events = room["timeline"]["events"].as_array();
    events.map(|events| events.iter().filter_map(|event| event["content"]["body"].as_str()).collect()).unwrap_or_default()
}

#[test]
fn large_events_are_read_and_counted_in_turns_with_others() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = public(&server, &alice, &[&bob]);
    let since = server.get(&alice, &query(&[])).ok();
    let large = "x".repeat(60_000);
    for n in 0..60 {
        send(&server, &bob, &id, &n.to_string(), &large);
    }
    let server = server.restart();
    let before = server.host.yielded.get();
    let answer = sync(&server, &alice, &since);
    let yields = server.host.yielded.get() - before;
    assert_eq!(answer["rooms"]["join"][&id]["unread_notifications"]["notification_count"], 60);
    assert!(yields >= 12, "{yields} yields");
}

