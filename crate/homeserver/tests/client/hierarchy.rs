//! Spaces and what is in them (Client-Server API, "Spaces"), and summaries of single rooms.

use crate::{
    members::{join, set_state},
    rooms::room,
    support::{Answer, TestServer, TestUser},
};
use serde_json::{Value, json};

fn space(server: &TestServer, owner: &TestUser, name: &str, preset: &str) -> String {
    room(server, owner, json!({ "preset": preset, "name": name, "creation_content": { "type": "m.space" } }))
}

fn add(server: &TestServer, user: &TestUser, space: &str, child: &str, content: Value) {
    server.put(user, &format!("/_matrix/client/v3/rooms/{space}/state/m.space.child/{child}"), content).ok();
}

fn hierarchy(server: &TestServer, user: &TestUser, space: &str, query: &str) -> Answer {
    server.get(user, &format!("/_matrix/client/v1/rooms/{space}/hierarchy{query}"))
}

/// The names of the rooms on a page.
fn names(page: &Value) -> Vec<&str> {
    page["rooms"].as_array().expect("rooms").iter().map(|room| room["name"].as_str().expect("a name")).collect()
}

/// A space with two rooms and a space that has two more, one of them in both.
fn tree(server: &TestServer, alice: &TestUser) -> String {
    let top = space(server, alice, "top", "public_chat");
    let sub = space(server, alice, "sub", "public_chat");
    let named = |name: &str| room(server, alice, json!({ "preset": "public_chat", "name": name }));
    let via = json!(["test.example"]);
    let [one, two, three] = ["one", "two", "three"].map(named);
    add(server, alice, &top, &two, json!({ "via": via, "order": "b", "suggested": true }));
    add(server, alice, &top, &sub, json!({ "via": via, "order": "a" }));
    add(server, alice, &top, &one, json!({ "via": via, "order": "not valid \u{1}" }));
    add(server, alice, &sub, &three, json!({ "via": via, "suggested": true }));
    add(server, alice, &sub, &two, json!({ "via": via }));
    // Without servers it is no child, nor is what is no room.
    add(server, alice, &top, "!gone:test.example", json!({}));
    add(server, alice, &top, "!removed:test.example", json!({ "via": [] }));
    add(server, alice, &top, "nothing", json!({ "via": via }));
    add(server, alice, &top, "!unknown:test.example", json!({ "via": via, "order": "c" }));
    top
}

#[test]
fn a_tree_is_read_depth_first_in_the_order_of_its_spaces() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let top = tree(&server, &alice);
    let whole = hierarchy(&server, &bob, &top, "").ok();
    assert_eq!(names(&whole), ["top", "sub", "three", "two", "one"]);
    assert_eq!(whole["next_batch"], Value::Null);
    let root = &whole["rooms"][0];
    assert_eq!((&root["room_type"], &root["join_rule"], &root["num_joined_members"]), (&json!("m.space"), &json!("public"), &json!(1)));
    let children = root["children_state"].as_array().expect("children");
    assert_eq!(children.len(), 4, "{children:?}");
    let orders: Vec<_> = children.iter().map(|child| child["content"]["order"].as_str().expect("an order")).collect();
    assert_eq!(orders, ["a", "b", "c", "not valid \u{1}"]);
    let first = &children[0];
    assert_eq!((&first["type"], &first["sender"]), (&json!("m.space.child"), &json!(alice.id)));
    assert!(first["origin_server_ts"].is_u64() && first["state_key"].is_string() && first["event_id"].is_null());
    assert_eq!(whole["rooms"][4]["children_state"], json!([]));
    assert_eq!(names(&hierarchy(&server, &bob, &top, "?suggested_only=true").ok()), ["top", "two"]);
    assert_eq!(names(&hierarchy(&server, &bob, &top, "?max_depth=0").ok()), ["top"]);
    assert_eq!(names(&hierarchy(&server, &bob, &top, "?max_depth=1").ok()), ["top", "sub", "two", "one"]);
}

#[test]
fn pages_of_a_tree_hold_every_room_once_and_go_on_after_a_restart() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let top = tree(&server, &alice);
    let first = hierarchy(&server, &alice, &top, "?limit=2&max_depth=5").ok();
    assert_eq!(names(&first), ["top", "sub"]);
    let token = first["next_batch"].as_str().expect("a token");
    let server = server.restart();
    let second = hierarchy(&server, &alice, &top, &format!("?limit=2&max_depth=5&from={token}")).ok();
    assert_eq!(names(&second), ["three", "two"]);
    let third = hierarchy(&server, &alice, &top, &format!("?max_depth=5&from={}", second["next_batch"].as_str().expect("a token"))).ok();
    assert_eq!((names(&third), &third["next_batch"]), (vec!["one"], &Value::Null));
    hierarchy(&server, &alice, &top, &format!("?from={token}")).fails(400, "M_INVALID_PARAM");
    hierarchy(&server, &alice, &top, &format!("?max_depth=5&suggested_only=true&from={token}")).fails(400, "M_INVALID_PARAM");
    for wrong in ["x", "h1", "hx_", "h-1_"] {
        hierarchy(&server, &alice, &top, &format!("?from={wrong}")).fails(400, "M_INVALID_PARAM");
    }
    hierarchy(&server, &alice, &top, "?limit=0").fails(400, "M_INVALID_PARAM");
    assert_eq!(hierarchy(&server, &alice, &top, "?limit=-1").status, 400);
}

#[test]
fn spaces_in_a_circle_come_to_an_end() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let [one, two] = ["one", "two"].map(|name| space(&server, &alice, name, "public_chat"));
    for (parent, child) in [(&one, &two), (&two, &one), (&one, &one)] {
        add(&server, &alice, parent, child, json!({ "via": ["test.example"] }));
    }
    assert_eq!(names(&hierarchy(&server, &alice, &one, "").ok()), ["one", "two"]);
}

#[test]
fn a_room_that_one_may_not_know_of_is_left_out_with_what_is_below() {
    let server = TestServer::new();
    let [alice, bob] = ["alice", "bob"].map(|name| server.register(name));
    let top = space(&server, &alice, "top", "public_chat");
    let secret = space(&server, &alice, "secret", "private_chat");
    let below = room(&server, &alice, json!({ "preset": "public_chat", "name": "below" }));
    for (parent, child) in [(&top, &secret), (&secret, &below)] {
        add(&server, &alice, parent, child, json!({ "via": ["test.example"] }));
    }
    assert_eq!(names(&hierarchy(&server, &alice, &top, "").ok()), ["top", "secret", "below"]);
    let of_bob = || hierarchy(&server, &bob, &top, "").ok();
    assert_eq!(names(&of_bob()), ["top"]);
    let rule = |content: Value| set_state(&server, &alice, &secret, "m.room.join_rules", content).ok();
    rule(json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": top }, { "type": 5 }, 5] }));
    assert_eq!(names(&of_bob()), ["top"]);
    join(&server, &bob, &top);
    let seen = of_bob();
    assert_eq!(names(&seen), ["top", "secret", "below"]);
    assert_eq!((&seen["rooms"][1]["join_rule"], &seen["rooms"][1]["allowed_room_ids"]), (&json!("restricted"), &json!([top])));
    rule(json!({ "join_rule": "knock" }));
    assert_eq!(of_bob()["rooms"][1]["join_rule"], "knock");
    rule(json!({ "join_rule": "invite" }));
    assert_eq!(names(&of_bob()), ["top"]);
    set_state(&server, &alice, &secret, "m.room.history_visibility", json!({ "history_visibility": "world_readable" })).ok();
    assert_eq!(of_bob()["rooms"][1]["world_readable"], true);
    set_state(&server, &alice, &secret, "m.room.history_visibility", json!({ "history_visibility": "shared" })).ok();
    hierarchy(&server, &bob, &secret, "").fails(403, "M_FORBIDDEN");
    hierarchy(&server, &bob, "!none:test.example", "").fails(403, "M_FORBIDDEN");
    server.post(&alice, &format!("/_matrix/client/v3/rooms/{secret}/invite"), json!({ "user_id": bob.id })).ok();
    assert_eq!(names(&of_bob()), ["top", "secret", "below"]);
}

#[test]
fn a_summary_says_what_a_room_is_and_what_one_is_in_it() {
    let server = TestServer::new();
    let [alice, bob] = ["alice", "bob"].map(|name| server.register(name));
    let encryption = json!({ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } });
    let topic = json!({ "type": "m.room.topic", "content": { "topic": "old", "m.topic": { "m.text": [{ "mimetype": "text/html", "body": "<b>" }, { "body": "plain" }] } } });
    let id = room(
        &server,
        &alice,
        json!({ "preset": "public_chat", "name": "Room", "room_alias_name": "den", "room_version": "11", "initial_state": [encryption, topic] }),
    );
    let summary = |user: Option<&TestUser>, id: &str| {
        server.request("GET", &format!("/_matrix/client/v1/room_summary/{id}"), user.map(|user| user.token.as_str()), None)
    };
    let mut expected = json!({
        "room_id": id, "name": "Room", "topic": "plain", "canonical_alias": "#den:test.example", "join_rule": "public", "num_joined_members": 1,
        "world_readable": false, "guest_can_join": false, "encryption": "m.megolm.v1.aes-sha2", "room_version": "11",
    });
    assert_eq!(summary(None, &id).ok(), expected);
    expected["membership"] = "leave".into();
    assert_eq!(summary(Some(&bob), &id).ok(), expected);
    expected["membership"] = "join".into();
    assert_eq!(summary(Some(&alice), "%23den:test.example").ok(), expected);
    let secret = room(&server, &alice, json!({ "name": "Secret" }));
    assert_eq!(summary(Some(&alice), &secret).ok()["membership"], "join");
    for user in [None, Some(&bob)] {
        summary(user, &secret).fails(404, "M_NOT_FOUND");
    }
    summary(Some(&bob), "!none:test.example").fails(404, "M_NOT_FOUND");
    summary(Some(&bob), "%23none:test.example").fails(404, "M_NOT_FOUND");
    assert_eq!(summary(Some(&bob), "none").status, 400);
    assert_eq!(summary(None, &format!("{id}?via=one.example&via=two.example")).status, 200);
    assert_eq!(summary(None, &format!("{id}?via=no%20server")).status, 400);
    server.request("GET", &format!("/_matrix/client/v1/room_summary/{id}"), Some("no token"), None).fails(401, "M_UNKNOWN_TOKEN");
}
