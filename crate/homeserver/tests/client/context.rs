//! What stands around an event (`GET /rooms/{roomId}/context/{eventId}`).

use crate::{
    members::{act, join, look, set_state},
    rooms::{room, send},
    support::{TestServer, TestUser},
};
use serde_json::{Value, json};

fn bodies(events: &Value) -> Vec<&str> {
    let says = |event: &'_ Value| event["content"]["body"].as_str().is_some();
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().map(|event| if says(event) { &event["content"]["body"] } else { &event["type"] }).filter_map(Value::as_str).collect()
}

/// The types of state events, those of members with their localpart.
fn state(context: &Value) -> Vec<String> {
    let name = |event: &Value| match (event["type"].as_str(), event["state_key"].as_str().and_then(|key| key.split(':').next())) {
        (Some("m.room.member"), Some(user)) => user.to_owned(),
        (kind, _) => kind.expect("a type").to_owned(),
    };
    context["state"].as_array().expect("a state").iter().map(name).collect()
}

fn context(server: &TestServer, user: &TestUser, room: &str, event: &str, query: &str) -> Value {
    look(server, user, room, &format!("context/{event}{query}")).ok()
}

#[test]
fn events_before_and_after_and_the_tokens_to_go_on() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let sent: Vec<String> = (0..9).map(|n| send(&server, &alice, &id, &n.to_string(), &n.to_string())).collect();
    let around = context(&server, &alice, &id, &sent[4], "?limit=4");
    assert_eq!(around["event"]["event_id"], sent[4].as_str());
    assert_eq!(bodies(&around["events_before"]), ["3", "2"]);
    assert_eq!(bodies(&around["events_after"]), ["5", "6"]);
    let page = |from: &Value, dir: &str| {
        let from = from.as_str().expect("a token");
        look(&server, &alice, &id, &format!("messages?from={from}&dir={dir}&limit=2")).ok()["chunk"].take()
    };
    assert_eq!(bodies(&page(&around["start"], "b")), ["1", "0"]);
    assert_eq!(bodies(&page(&around["end"], "f")), ["7", "8"]);

    // The state is that at the last event that is shown.
    set_state(&server, &alice, &id, "m.room.topic", json!({"topic": "later"})).ok();
    assert!(!state(&context(&server, &alice, &id, &sent[4], "?limit=4")).contains(&"m.room.topic".to_owned()));
    assert!(state(&context(&server, &alice, &id, &sent[8], "?limit=4")).contains(&"m.room.topic".to_owned()));
    let alone = context(&server, &alice, &id, &sent[4], "?limit=0");
    assert_eq!((bodies(&alone["events_before"]), bodies(&alone["events_after"])), (vec![], vec![]));
    look(&server, &alice, &id, "context/$none").fails(404, "M_NOT_FOUND");
}

/// A lazy `/context` held no state but members, and the timeline that a client built from it
/// belonged to a room of no name and no creator.
#[test]
fn lazy_loading_leaves_out_members_and_nothing_else() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let id = room(&server, &alice, json!({"preset": "public_chat", "name": "Garden"}));
    for user in [&bob, &carol] {
        join(&server, user, &id);
    }
    let sent = send(&server, &bob, &id, "1", "hello");
    let lazy = state(&context(&server, &alice, &id, &sent, "?limit=0&filter=%7B%22lazy_load_members%22%3Atrue%7D"));
    let whole = state(&context(&server, &alice, &id, &sent, "?limit=0"));
    assert!(["m.room.create", "m.room.name", "m.room.power_levels", "@bob"].iter().all(|kind| lazy.contains(&(*kind).to_owned())), "{lazy:?}");
    let left_out: Vec<&String> = whole.iter().filter(|kind| !lazy.contains(kind)).collect();
    assert_eq!(left_out, ["@alice", "@carol"]);
}

/// "The filter is only applied to events_before, events_after, and state. It is not applied to the
/// event itself."
#[test]
fn a_filter_of_context_applies_to_the_events_around_only() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({"name": "Garden"}));
    send(&server, &alice, &id, "1", "before");
    let sent = send(&server, &alice, &id, "2", "hello");
    send(&server, &alice, &id, "3", "after");
    let named = context(&server, &alice, &id, &sent, "?filter=%7B%22types%22%3A%5B%22m.room.name%22%5D%7D");
    assert_eq!(named["event"]["content"]["body"], "hello");
    assert_eq!((bodies(&named["events_before"]), bodies(&named["events_after"])), (vec!["m.room.name"], vec![]));
    assert_eq!(state(&named), ["m.room.name"]);
}

#[test]
fn what_one_may_not_see_is_in_no_context() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({"preset": "public_chat"}));
    set_state(&server, &alice, &id, "m.room.history_visibility", json!({"history_visibility": "joined"})).ok();
    let hidden = send(&server, &alice, &id, "1", "before bob");
    join(&server, &bob, &id);
    let shown = send(&server, &alice, &id, "2", "hello");
    act(&server, &bob, &id, "leave", json!({})).ok();
    set_state(&server, &alice, &id, "m.room.topic", json!({"topic": "after bob"})).ok();
    let later = send(&server, &alice, &id, "3", "after bob");
    for event in [&hidden, &later] {
        look(&server, &bob, &id, &format!("context/{event}")).fails(404, "M_NOT_FOUND");
    }
    let around = context(&server, &bob, &id, &shown, "");
    assert!(!bodies(&around["events_before"]).contains(&"before bob"), "{around}");
    assert_eq!(bodies(&around["events_after"]), ["m.room.member"]);
    assert!(!state(&around).contains(&"m.room.topic".to_owned()));
    let carol = server.register("carol");
    look(&server, &carol, &id, &format!("context/{shown}")).fails(403, "M_FORBIDDEN");
    look(&server, &carol, "!none:test.example", &format!("context/{shown}")).fails(403, "M_FORBIDDEN");
}
