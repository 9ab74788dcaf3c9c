//! Room aliases (Client-Server API, "Room aliases").

use crate::{
    members::{act, join, look, set_state},
    rooms::room,
    support::{Answer, TestServer, TestUser},
};
use serde_json::{Value, json};

fn path(name: &str) -> String {
    format!("/_matrix/client/v3/directory/room/%23{name}:test.example")
}

fn name(server: &TestServer, user: &TestUser, name: &str, room: &str) -> Answer {
    server.put(user, &path(name), json!({"room_id": room}))
}

/// The aliases of a room, in their order.
fn listed(server: &TestServer, user: &TestUser, room: &str) -> Value {
    look(server, user, room, "aliases").ok()["aliases"].take()
}

fn main_alias(server: &TestServer, user: &TestUser, room: &str) -> Value {
    look(server, user, room, "state/m.room.canonical_alias").ok()
}

#[test]
fn an_alias_leads_to_its_room_until_it_is_deleted() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({"preset": "public_chat"}));
    server.request("GET", &path("den"), None, None).fails(404, "M_NOT_FOUND");
    name(&server, &alice, "den", &id).ok();
    name(&server, &alice, "caf%C3%A9", &id).ok();
    let server = server.restart();
    let found = server.request("GET", &path("den"), None, None).ok();
    assert_eq!(found, json!({"room_id": id, "servers": ["test.example"]}));
    assert_eq!(listed(&server, &alice, &id), json!(["#café:test.example", "#den:test.example"]));
    server.post(&bob, "/_matrix/client/v3/join/%23den:test.example", json!({})).ok();

    server.delete(&bob, &path("den")).fails(403, "M_FORBIDDEN");
    server.delete(&alice, &path("den")).ok();
    server.request("GET", &path("den"), None, None).fails(404, "M_NOT_FOUND");
    server.delete(&bob, &path("den")).fails(404, "M_NOT_FOUND");
    server.delete(&bob, &path("none")).fails(404, "M_NOT_FOUND");
    assert_eq!(listed(&server, &alice, &id), json!(["#café:test.example"]));
}

#[test]
fn an_alias_is_created_once_and_for_an_existing_room() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let (one, two) = (room(&server, &alice, json!({"preset": "public_chat"})), room(&server, &alice, json!({"preset": "public_chat"})));
    name(&server, &alice, "den", &one).ok();
    name(&server, &alice, "den", &two).fails(409, "M_UNKNOWN");
    name(&server, &bob, "den", &one).fails(409, "M_UNKNOWN");
    name(&server, &alice, "other", "!none:test.example").fails(404, "M_NOT_FOUND");
    server.put(&alice, "/_matrix/client/v3/directory/room/%23den:elsewhere.example", json!({"room_id": one})).fails(400, "M_INVALID_PARAM");
    server.put(&alice, "/_matrix/client/v3/directory/room/den", json!({"room_id": one})).fails(400, "M_INVALID_PARAM");
    server.put(&alice, &path("other"), json!({})).fails(400, "M_MISSING_PARAM");
    server.post(&alice, "/_matrix/client/v3/createRoom", json!({"room_alias_name": "den"})).fails(400, "M_ROOM_IN_USE");
    server.post(&alice, "/_matrix/client/v3/createRoom", json!({"room_alias_name": "a den"})).fails(400, "M_INVALID_PARAM");
    assert_eq!(server.request("GET", &path("den"), None, None).ok()["room_id"], one);
}

#[test]
fn the_main_alias_leads_to_the_room_it_stands_in() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({"room_alias_name": "den"}));
    let other = room(&server, &alice, json!({"room_alias_name": "other"}));
    assert_eq!(main_alias(&server, &alice, &id), json!({"alias": "#den:test.example"}));
    let set = |content: Value| set_state(&server, &alice, &id, "m.room.canonical_alias", content);
    set(json!({"alias": "#other:test.example"})).fails(400, "M_BAD_ALIAS");
    set(json!({"alias": "#none:test.example"})).fails(400, "M_BAD_ALIAS");
    set(json!({"alt_aliases": ["#den:test.example", "#other:test.example"]})).fails(400, "M_BAD_ALIAS");
    set(json!({"alias": "den"})).fails(400, "M_INVALID_PARAM");
    set(json!({"alias": 5})).fails(400, "M_BAD_JSON");
    assert_eq!(main_alias(&server, &alice, &id), json!({"alias": "#den:test.example"}));
    set(json!({"alt_aliases": ["#den:test.example"]})).ok();
    set(json!({})).ok();
    assert_eq!(main_alias(&server, &alice, &other), json!({"alias": "#other:test.example"}));
}

/// Who deleted an alias that others had put into the room's event could not change that event any
/// more; and a room could begin with any alias there is.
#[test]
fn only_aliases_that_are_new_in_an_event_are_looked_up() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({"preset": "public_chat", "room_alias_name": "den"}));
    join(&server, &bob, &id);
    name(&server, &bob, "bobs", &id).ok();
    let set = |content: Value| set_state(&server, &alice, &id, "m.room.canonical_alias", content);
    set(json!({"alias": "#den:test.example", "alt_aliases": ["#bobs:test.example"]})).ok();
    // Bob may delete it, and not change the state.
    server.delete(&bob, &path("bobs")).ok();
    name(&server, &alice, "new", &id).ok();
    set(json!({"alias": "#new:test.example", "alt_aliases": ["#bobs:test.example"]})).ok();
    set(json!({"alias": "#bobs:test.example", "alt_aliases": ["#none:test.example"]})).fails(400, "M_BAD_ALIAS");
    set(json!({"alias": "#bobs:test.example"})).ok();
    set(json!({})).ok();
    set(json!({"alias": "#bobs:test.example"})).fails(400, "M_BAD_ALIAS");

    let create = |name: Option<&str>, content: Value| {
        let state = json!([{"type": "m.room.canonical_alias", "content": content}]);
        server.post(&alice, "/_matrix/client/v3/createRoom", json!({"room_alias_name": name, "initial_state": state}))
    };
    create(None, json!({"alias": "#den:test.example"})).fails(400, "M_BAD_ALIAS");
    create(Some("lair"), json!({"alias": "#lair:test.example", "alt_aliases": ["#den:test.example"]})).fails(400, "M_BAD_ALIAS");
    server.request("GET", &path("lair"), None, None).fails(404, "M_NOT_FOUND");
    create(Some("lair"), json!({"alias": "#lair:test.example", "kept": true})).ok();
    create(None, json!({})).ok();
}

#[test]
fn a_deleted_alias_is_the_main_one_no_more() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({"preset": "public_chat", "room_alias_name": "den"}));
    join(&server, &bob, &id);
    for also in ["one", "two"] {
        name(&server, &alice, also, &id).ok();
    }
    name(&server, &bob, "bobs", &id).ok();
    let all = json!({"alias": "#den:test.example", "alt_aliases": ["#one:test.example", "#two:test.example", "#bobs:test.example"], "kept": true});
    set_state(&server, &alice, &id, "m.room.canonical_alias", all).ok();
    server.delete(&alice, &path("one")).ok();
    let left = json!({"alias": "#den:test.example", "alt_aliases": ["#two:test.example", "#bobs:test.example"], "kept": true});
    assert_eq!(main_alias(&server, &alice, &id), left);
    // Who may delete an alias need not be who may change the state.
    server.delete(&bob, &path("bobs")).ok();
    server.request("GET", &path("bobs"), None, None).fails(404, "M_NOT_FOUND");
    assert_eq!(main_alias(&server, &alice, &id), left);
    server.delete(&alice, &path("den")).ok();
    assert_eq!(main_alias(&server, &alice, &id), json!({"alt_aliases": ["#two:test.example", "#bobs:test.example"], "kept": true}));
}

#[test]
fn the_aliases_of_a_room_are_for_those_in_it() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({"preset": "public_chat", "room_alias_name": "den"}));
    look(&server, &bob, &id, "aliases").fails(403, "M_FORBIDDEN");
    join(&server, &bob, &id);
    assert_eq!(listed(&server, &bob, &id), json!(["#den:test.example"]));
    act(&server, &bob, &id, "leave", json!({})).ok();
    look(&server, &bob, &id, "aliases").fails(403, "M_FORBIDDEN");
    set_state(&server, &alice, &id, "m.room.history_visibility", json!({"history_visibility": "world_readable"})).ok();
    let carol = server.register("carol");
    for user in [&carol, &alice] {
        assert_eq!(listed(&server, user, &id), json!(["#den:test.example"]));
    }
}
