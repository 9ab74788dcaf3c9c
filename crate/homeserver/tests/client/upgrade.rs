//! Room upgrades: what the new room has of the old one, and what becomes of that.

use crate::{
    members::join,
    rooms::room,
    support::{TestServer, TestUser},
};
use serde_json::{Value, json};

#[track_caller]
fn state(server: &TestServer, user: &TestUser, room: &str, kind: &str) -> Value {
    server.get(user, &format!("/_matrix/client/v3/rooms/{room}/state/{kind}")).ok()
}

#[track_caller]
fn upgrade(server: &TestServer, user: &TestUser, room: &str, version: &str) -> String {
    let answer = server.post(user, &format!("/_matrix/client/v3/rooms/{room}/upgrade"), json!({ "new_version": version })).ok();
    answer["replacement_room"].as_str().expect("a room").to_owned()
}

#[test]
fn the_new_room_takes_the_place_of_the_old_one() {
    let server = TestServer::new();
    let (alice, bob, mallory) = (server.register("alice"), server.register("bob"), server.register("mallory"));
    for (from, to) in [("6", "10"), ("10", "11"), ("11", "12"), ("12", "11")] {
        let local = format!("house{from}");
        let acl = json!({ "allow": ["*"], "deny": ["bad.example"], "allow_ip_literals": true });
        let old = room(
            &server,
            &alice,
            json!({
                "room_version": from, "preset": "public_chat", "visibility": "public", "name": "House", "topic": "Bricks", "room_alias_name": local,
                "initial_state": [{ "type": "m.room.server_acl", "content": acl }, { "type": "org.example.own", "content": { "n": 1 } }],
            }),
        );
        join(&server, &bob, &old);
        server.post(&alice, &format!("/_matrix/client/v3/rooms/{old}/ban"), json!({ "user_id": mallory.id })).ok();
        let new = upgrade(&server, &alice, &old, to);

        let create = state(&server, &alice, &new, "m.room.create");
        assert_eq!(create["room_version"], to);
        assert_eq!(create["predecessor"]["room_id"], old);
        let tombstone = server.get(&alice, &format!("/_matrix/client/v3/rooms/{old}/state/m.room.tombstone?format=event")).ok();
        assert_eq!(tombstone["content"]["replacement_room"], new);
        if to != "12" {
            assert_eq!(create["predecessor"]["event_id"], tombstone["event_id"]);
        }
        assert_eq!(state(&server, &alice, &new, "m.room.name")["name"], "House");
        assert_eq!(state(&server, &alice, &new, "m.room.topic")["topic"], "Bricks");
        assert_eq!(state(&server, &alice, &new, "m.room.join_rules")["join_rule"], "public");
        assert_eq!(state(&server, &alice, &new, "m.room.server_acl"), acl);
        server.get(&alice, &format!("/_matrix/client/v3/rooms/{new}/state/org.example.own")).fails(404, "M_NOT_FOUND");
        // Who was banned stays so, and the address leads here.
        server.post(&mallory, &format!("/_matrix/client/v3/join/{new}"), json!({})).fails(403, "M_FORBIDDEN");
        let alias = format!("%23{local}:test.example");
        assert_eq!(server.get(&bob, &format!("/_matrix/client/v3/directory/room/{alias}")).ok()["room_id"], new);
        assert_eq!(state(&server, &alice, &new, "m.room.canonical_alias")["alias"], format!("#{local}:test.example"));
        assert_eq!(state(&server, &alice, &old, "m.room.canonical_alias"), json!({}));
        for (id, visibility) in [(&old, "private"), (&new, "public")] {
            assert_eq!(server.get(&alice, &format!("/_matrix/client/v3/directory/list/room/{id}")).ok()["visibility"], visibility);
        }
        // In the old room nobody goes on without a special right.
        server.post(&bob, &format!("/_matrix/client/v3/rooms/{old}/send/m.room.message"), json!({ "body": "Still here" })).fails(403, "M_FORBIDDEN");
        join(&server, &bob, &new);
    }
}

#[test]
fn levels_are_as_they_were_also_where_they_are_unusual() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let users = json!({ &alice.id: 500, &bob.id: 60 });
    let levels = json!({ "users": users, "events": { "m.room.tombstone": 60, "m.room.name": 70, "m.room.power_levels": 60 }, "users_default": 55 });
    let old = room(&server, &alice, json!({ "room_version": "10", "preset": "public_chat", "name": "Hill", "power_level_content_override": levels }));
    join(&server, &bob, &old);
    // Bob may close the room, and not name one.
    let new = upgrade(&server, &bob, &old, "11");
    let copied = state(&server, &bob, &new, "m.room.power_levels");
    assert_eq!(copied["users"], users);
    assert_eq!(copied["events"], levels["events"]);
    assert_eq!(state(&server, &bob, &new, "m.room.name")["name"], "Hill");
    let closed = state(&server, &bob, &old, "m.room.power_levels");
    assert_eq!((&closed["events_default"], &closed["invite"]), (&json!(56), &json!(56)));

    // Since v12 who makes a room has no level in it.
    let newest = upgrade(&server, &bob, &new, "12");
    assert_eq!(state(&server, &bob, &newest, "m.room.power_levels")["users"], json!({ &alice.id: 500 }));
}

#[test]
fn who_may_not_close_a_room_does_not_upgrade_it() {
    let server = TestServer::new();
    let (alice, bob, carol) = (server.register("alice"), server.register("bob"), server.register("carol"));
    let old = room(&server, &alice, json!({ "preset": "public_chat" }));
    join(&server, &bob, &old);
    let path = format!("/_matrix/client/v3/rooms/{old}/upgrade");
    for user in [&bob, &carol] {
        server.post(user, &path, json!({ "new_version": "11" })).fails(403, "M_FORBIDDEN");
    }
    server.post(&alice, &path, json!({ "new_version": "99" })).fails(400, "M_UNSUPPORTED_ROOM_VERSION");
    server.post(&alice, &path, json!({})).fails(400, "M_MISSING_PARAM");
    server.post(&alice, "/_matrix/client/v3/rooms/!nowhere:example.org/upgrade", json!({ "new_version": "11" })).fails(404, "M_NOT_FOUND");
    server.get(&alice, &format!("/_matrix/client/v3/rooms/{old}/state/m.room.tombstone")).fails(404, "M_NOT_FOUND");
}
