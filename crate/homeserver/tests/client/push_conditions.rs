//! Which events notify and highlight (Client-Server API, Push Rules and Conditions), as a client
//! sees it in its counts.

use crate::{
    rooms::{room, send},
    support::{TestServer, TestUser},
    sync::query,
};
use serde_json::{Value, json};

const RULES: &str = "/_matrix/client/v3/pushrules/global";

/// Alice, who has the rules, Bob and Carol in a room.
fn three(server: &TestServer) -> (TestUser, TestUser, String) {
    let (alice, bob, carol) = (server.register("alice"), server.register("bob"), server.register("carol"));
    let id = room(server, &alice, json!({ "preset": "public_chat" }));
    for user in [&bob, &carol] {
        server.post(user, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    }
    (alice, bob, id)
}

fn highlights(server: &TestServer, user: &TestUser, room: &str) -> u64 {
    let answer = server.get(user, &query(&[])).ok();
    answer["rooms"]["join"][room]["unread_notifications"]["highlight_count"].as_u64().expect("a count")
}

#[test]
fn a_rule_applies_when_all_of_its_conditions_do() {
    let server = TestServer::new();
    let (alice, bob, id) = three(&server);
    let body = |text: &str| json!({ "msgtype": "m.text", "body": text });
    let matches = |key: &str, pattern: &str| json!({ "kind": "event_match", "key": key, "pattern": pattern });
    let is = |key: &str, value: Value| json!({ "kind": "event_property_is", "key": key, "value": value });
    let contains = |key: &str, value: Value| json!({ "kind": "event_property_contains", "key": key, "value": value });
    let rich = json!({ "body": "x", "n": 5, "m.x": { "y.z": true }, "list": [1, "two", { "three": 3 }], "none": null });
    let cases = [
        (json!([]), body("anything"), true),
        (json!([matches("content.body", "c?ke")]), body("More CAKE, please"), true),
        (json!([matches("content.body", "cake")]), body("pancakes"), false),
        (json!([matches("content.msgtype", "m.t")]), body("x"), false),
        (json!([matches("content.msgtype", "M.*")]), body("x"), true),
        (json!([matches("room_id", "!*")]), body("x"), true),
        (json!([matches("type", "m.room.*"), matches("content.msgtype", "m.image")]), body("x"), false),
        (json!([matches("content.n", "*")]), rich.clone(), false),
        (json!([is("content.n", json!(5)), is(r"content.m\.x.y\.z", json!(true)), is("content.none", Value::Null)]), rich.clone(), true),
        (json!([is("content.n", json!("5"))]), rich.clone(), false),
        (json!([is("content.absent", Value::Null)]), rich.clone(), false),
        (json!([contains("content.list", json!("two")), contains("content.list", json!(1))]), rich.clone(), true),
        (json!([contains("content.list", json!(3))]), rich.clone(), false),
        (json!([{ "kind": "contains_display_name" }]), body("hello Alice!"), true),
        (json!([{ "kind": "contains_display_name" }]), body("malice"), false),
        (json!([{ "kind": "room_member_count", "is": ">2" }]), body("x"), true),
        (json!([{ "kind": "room_member_count", "is": "2" }]), body("x"), false),
        (json!([{ "kind": "sender_notification_permission", "key": "room" }]), body("x"), false),
        (json!([{ "kind": "org.example.unknown" }]), body("x"), false),
    ];
    let rule = format!("{RULES}/override/mine");
    for (number, (conditions, content, applies)) in cases.into_iter().enumerate() {
        let actions = json!(["notify", { "set_tweak": "highlight" }]);
        server.put(&alice, &rule, json!({ "actions": actions, "conditions": conditions })).ok();
        let before = highlights(&server, &alice, &id);
        server.put(&bob, &format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/{number}"), content.clone()).ok();
        assert_eq!(highlights(&server, &alice, &id) - before, u64::from(applies), "{conditions} {content}");
    }
}

#[test]
fn rules_of_rooms_senders_and_content_apply_in_their_order_while_they_are_enabled() {
    let server = TestServer::new();
    let (alice, bob, id) = three(&server);
    let set = |rule: &str, actions: Value| {
        let rule = format!("{RULES}/{rule}");
        server.put(&alice, &rule, json!({ "actions": actions, "pattern": "cake" })).ok();
        rule
    };
    let loud = json!(["notify", { "set_tweak": "highlight" }]);
    let mut sent = 0;
    let mut says = |text: &str| {
        let before = highlights(&server, &alice, &id);
        sent += 1;
        send(&server, &bob, &id, &sent.to_string(), text);
        highlights(&server, &alice, &id) > before
    };
    assert!(!says("cake"));
    set(&format!("sender/{}", bob.id), loud.clone());
    assert!(says("cake"));
    let room = set(&format!("room/{id}"), json!([]));
    assert!(!says("cake"), "a room's rule comes first");
    let content = set("content/mine", loud);
    assert!(says("cake"), "and before it one of the content");
    assert!(!says("tea"));
    server.put(&alice, &format!("{content}/enabled"), json!({ "enabled": false })).ok();
    assert!(!says("cake"));
    server.put(&alice, &format!("{room}/enabled"), json!({ "enabled": false })).ok();
    assert!(says("cake"));
}

/// A pattern of 200,000 question marks was taken, and from the next message on every sync of its
/// owner ended in a panic.
#[test]
fn patterns_are_short() {
    let server = TestServer::new();
    let (alice, bob, id) = three(&server);
    let long = format!("a{}", "?".repeat(200_000));
    server.put(&alice, &format!("{RULES}/content/long"), json!({ "actions": ["notify"], "pattern": long })).fails(413, "M_TOO_LARGE");
    let conditions = json!([{ "kind": "event_match", "key": "content.body", "pattern": "*".repeat(256) }]);
    let rule = json!({ "actions": ["notify"], "conditions": conditions });
    server.put(&alice, &format!("{RULES}/underride/long"), rule).fails(413, "M_TOO_LARGE");
    for pattern in ["?".repeat(255), "*?".repeat(127), "*a".repeat(127)] {
        let rule = json!({ "actions": ["notify", { "set_tweak": "highlight" }], "pattern": pattern });
        server.put(&alice, &format!("{RULES}/content/mine"), rule).ok();
        let before = highlights(&server, &alice, &id);
        send(&server, &bob, &id, &pattern.replace(['?', '*'], "x"), &"a".repeat(255));
        assert_eq!(highlights(&server, &alice, &id) - before, 1, "{pattern}");
    }
}

#[test]
fn while_large_events_are_held_against_many_patterns_others_are_answered() {
    let server = TestServer::new();
    let (alice, bob, id) = three(&server);
    for n in 0..8 {
        let rule = json!({ "actions": ["notify"], "pattern": format!("{n}{}", "?".repeat(150)) });
        server.put(&alice, &format!("{RULES}/content/{n}"), rule).ok();
    }
    server.get(&alice, &query(&[])).ok();
    send(&server, &bob, &id, "1", &"a".repeat(60_000));
    let before = server.host.yielded.get();
    server.get(&alice, &query(&[])).ok();
    let yields = server.host.yielded.get() - before;
    assert!(yields >= 7, "{yields} yields");
}
