//! What a new room begins with (Client-Server API, Creation).

use crate::{
    rooms::room,
    support::{TestServer, TestUser},
};
use serde_json::{Value, json};

const CREATE: &str = "/_matrix/client/v3/createRoom";

#[track_caller]
fn state(server: &TestServer, user: &TestUser, room: &str, kind: &str) -> Value {
    server.get(user, &format!("/_matrix/client/v3/rooms/{room}/state/{kind}")).ok()
}

fn timeline(server: &TestServer, user: &TestUser, room: &str) -> Vec<Value> {
    let page = server.get(user, &format!("/_matrix/client/v3/rooms/{room}/messages?dir=f&limit=100")).ok();
    page["chunk"].as_array().expect("a chunk").clone()
}

#[test]
fn presets_set_who_joins_what_is_seen_and_whether_guests_come() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for (request, join_rule, guests) in [
        (json!({}), "invite", "can_join"),
        (json!({ "preset": "private_chat" }), "invite", "can_join"),
        (json!({ "preset": "trusted_private_chat" }), "invite", "can_join"),
        (json!({ "preset": "public_chat" }), "public", "forbidden"),
        (json!({ "visibility": "public" }), "public", "forbidden"),
        (json!({ "visibility": "private" }), "invite", "can_join"),
        (json!({ "visibility": "public", "preset": "private_chat" }), "invite", "can_join"),
    ] {
        let id = room(&server, &alice, request.clone());
        assert_eq!(state(&server, &alice, &id, "m.room.join_rules"), json!({ "join_rule": join_rule }), "{request}");
        assert_eq!(state(&server, &alice, &id, "m.room.history_visibility"), json!({ "history_visibility": "shared" }));
        assert_eq!(state(&server, &alice, &id, "m.room.guest_access"), json!({ "guest_access": guests }));
    }
    server.post(&alice, CREATE, json!({ "preset": 7 })).fails(400, "M_BAD_JSON");
}

#[test]
fn the_first_events_come_in_the_order_of_the_specification() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let request = json!({
        "room_alias_name": "den",
        "preset": "public_chat",
        "initial_state": [{ "type": "org.example.first", "content": { "n": 1 } }, { "type": "org.example.second", "state_key": "k", "content": {} }],
        "name": "Den",
        "topic": "Words",
        "invite": [bob.id],
    });
    let id = room(&server, &alice, request);
    let events = timeline(&server, &alice, &id);
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().expect("a type")).collect();
    assert_eq!(
        kinds,
        [
            "m.room.create",
            "m.room.member",
            "m.room.power_levels",
            "m.room.canonical_alias",
            "m.room.join_rules",
            "m.room.history_visibility",
            "m.room.guest_access",
            "org.example.first",
            "org.example.second",
            "m.room.name",
            "m.room.topic",
            "m.room.member",
        ]
    );
    assert_eq!((&events[1]["state_key"], &events[1]["content"]["membership"]), (&json!(alice.id), &json!("join")));
    assert_eq!((&events[11]["state_key"], &events[11]["content"]["membership"]), (&json!(bob.id), &json!("invite")));
    assert_eq!(events[3]["content"], json!({ "alias": "#den:test.example" }));
    assert_eq!(events[8]["state_key"], "k");
    assert_eq!(server.get(&alice, "/_matrix/client/v3/directory/room/%23den:test.example").ok()["room_id"], id.as_str());
    server.post(&bob, CREATE, json!({ "room_alias_name": "den" })).fails(400, "M_ROOM_IN_USE");
}

#[test]
fn name_and_topic_stand_over_initial_state_and_initial_state_over_the_preset() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let initial = |kind: &str, content: Value| json!({ "type": kind, "state_key": "", "content": content });
    let request = json!({
        "preset": "public_chat",
        "name": "asked",
        "topic": "asked",
        "initial_state": [
            initial("m.room.name", json!({ "name": "initial" })),
            initial("m.room.topic", json!({ "topic": "initial" })),
            initial("m.room.join_rules", json!({ "join_rule": "invite" })),
            initial("m.room.history_visibility", json!({ "history_visibility": "joined" })),
        ],
    });
    let id = room(&server, &alice, request);
    assert_eq!(state(&server, &alice, &id, "m.room.name"), json!({ "name": "asked" }));
    let topic = state(&server, &alice, &id, "m.room.topic");
    assert_eq!((&topic["topic"], &topic["m.topic"]["m.text"][0]["body"]), (&json!("asked"), &json!("asked")));
    assert_eq!(state(&server, &alice, &id, "m.room.join_rules"), json!({ "join_rule": "invite" }));
    assert_eq!(state(&server, &alice, &id, "m.room.history_visibility"), json!({ "history_visibility": "joined" }));
    assert_eq!(state(&server, &alice, &id, "m.room.guest_access"), json!({ "guest_access": "forbidden" }));
    let twice = |kind: &str| timeline(&server, &alice, &id).iter().filter(|event| event["type"] == kind).count();
    assert_eq!(twice("m.room.join_rules"), 1, "the preset's is left out");
    for wrong in [json!({ "content": {} }), json!({ "type": "x" }), json!({ "type": "x", "content": {}, "state_key": 7 }), json!(7)] {
        server.post(&alice, CREATE, json!({ "initial_state": [wrong] })).fails(400, "M_BAD_JSON");
    }
}

#[test]
fn a_trusted_private_chat_makes_those_invited_the_creators_equals() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let request = |version: &str, preset: &str| json!({ "preset": preset, "room_version": version, "invite": [bob.id, carol.id] });
    let id = room(&server, &alice, request("11", "trusted_private_chat"));
    assert_eq!(state(&server, &alice, &id, "m.room.power_levels")["users"], json!({ &alice.id: 100, &bob.id: 100, &carol.id: 100 }));
    assert!(state(&server, &alice, &id, "m.room.create")["additional_creators"].is_null());
    let id = room(&server, &alice, request("11", "private_chat"));
    assert_eq!(state(&server, &alice, &id, "m.room.power_levels")["users"], json!({ &alice.id: 100 }));

    // Since v12 creators have no level, and stand above all.
    let id = room(&server, &alice, request("12", "trusted_private_chat"));
    assert_eq!(state(&server, &alice, &id, "m.room.create")["additional_creators"], json!([bob.id, carol.id]));
    assert_eq!(state(&server, &alice, &id, "m.room.power_levels")["users"], json!({}));
    server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    server.put(&bob, &format!("/_matrix/client/v3/rooms/{id}/state/m.room.tombstone"), json!({ "replacement_room": "!x" })).ok();
    let id = room(&server, &alice, request("12", "private_chat"));
    assert!(state(&server, &alice, &id, "m.room.create")["additional_creators"].is_null());
}

#[test]
fn creation_content_is_taken_but_for_what_the_server_says() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let content = json!({ "m.federate": false, "type": "m.space", "creator": "@mallory:test.example", "room_version": "1" });
    for (version, creator) in [("10", json!(alice.id)), ("11", Value::Null), ("12", Value::Null)] {
        let id = room(&server, &alice, json!({ "room_version": version, "creation_content": content }));
        let create = state(&server, &alice, &id, "m.room.create");
        assert_eq!((&create["m.federate"], &create["type"], &create["room_version"]), (&json!(false), &json!("m.space"), &json!(version)));
        assert_eq!(create["creator"], creator, "version {version}");
    }
    let id = room(&server, &alice, json!({}));
    let versions = server.get(&alice, "/_matrix/client/v3/capabilities").ok()["capabilities"]["m.room_versions"].clone();
    assert_eq!(state(&server, &alice, &id, "m.room.create")["room_version"], versions["default"]);
    server.post(&alice, CREATE, json!({ "creation_content": 7 })).fails(400, "M_BAD_JSON");
}

#[test]
fn who_is_invited_to_a_direct_chat_is_told_so() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    for is_direct in [true, false] {
        let id = room(&server, &alice, json!({ "is_direct": is_direct, "invite": [bob.id], "preset": "trusted_private_chat" }));
        let body = server.get(&bob, "/_matrix/client/v3/sync?timeout=0").ok();
        let events = body["rooms"]["invite"][&id]["invite_state"]["events"].as_array().expect("stripped events").clone();
        let invite = events.iter().find(|event| event["state_key"] == bob.id.as_str()).expect("the invitation");
        assert_eq!(invite["content"]["is_direct"], if is_direct { json!(true) } else { Value::Null });
        let page = timeline(&server, &alice, &id);
        let own = page.iter().find(|event| event["state_key"] == alice.id.as_str()).expect("the creator's membership");
        assert_eq!(own["content"]["is_direct"], Value::Null);
    }
}

#[test]
fn levels_of_the_client_take_the_place_of_the_servers_key_by_key() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let given = json!({ "events_default": 10, "users": { &alice.id: 100, &bob.id: 10 }, "events": { "org.example": 7 } });
    let id = room(&server, &alice, json!({ "room_version": "11", "power_level_content_override": given }));
    let levels = state(&server, &alice, &id, "m.room.power_levels");
    assert_eq!((&levels["events_default"], &levels["users"], &levels["events"]), (&given["events_default"], &given["users"], &given["events"]));
    assert_eq!((&levels["ban"], &levels["kick"], &levels["redact"], &levels["state_default"]), (&json!(50), &json!(50), &json!(50), &json!(50)));
    assert_eq!((&levels["invite"], &levels["users_default"]), (&json!(0), &json!(0)));
    // What leaves the creator without the right to go on makes no room.
    let helpless = json!({ "room_version": "11", "name": "x", "power_level_content_override": { "users": {} } });
    server.post(&alice, CREATE, helpless).fails(400, "M_INVALID_ROOM_STATE");
}

/// They were answered 403, as if the user had no right to change the levels.
#[test]
fn power_levels_of_the_wrong_shape_are_a_mistake_and_no_matter_of_rights() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    for version in ["9", "10", "12"] {
        let id = room(&server, &alice, json!({ "room_version": version, "preset": "public_chat" }));
        server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
        let path = format!("/_matrix/client/v3/rooms/{id}/state/m.room.power_levels");
        let before = state(&server, &alice, &id, "m.room.power_levels");
        let mut wrong = vec![json!({ "users": { "not a user": 5 } }), json!({ "users": 7 }), json!({ "events": { "x": [] } }), json!({ "ban": {} })];
        match version {
            "9" => {}
            "12" => wrong.extend([json!({ "ban": "50" }), json!({ "users": { &alice.id: 100 } })]),
            _ => wrong.extend([json!({ "ban": "50" }), json!({ "notifications": { "room": "50" } })]),
        }
        for content in wrong {
            server.put(&alice, &path, content.clone()).fails(400, "M_BAD_JSON");
            server
                .post(&alice, CREATE, json!({ "room_version": version, "power_level_content_override": content }))
                .fails(400, "M_INVALID_ROOM_STATE");
        }
        assert_eq!(state(&server, &alice, &id, "m.room.power_levels"), before);
        server.put(&bob, &path, before.clone()).fails(403, "M_FORBIDDEN");
        server.put(&alice, &path, before).ok();
    }
}

#[test]
fn blocked_invites_are_refused() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let early = room(&server, &alice, json!({ "invite": [bob.id] }));
    let permission = format!("/_matrix/client/v3/user/{}/account_data/m.invite_permission_config", bob.id);
    let invited = |since: &str| server.get(&bob, &format!("/_matrix/client/v3/sync?timeout=0{since}")).ok()["rooms"]["invite"].clone();
    assert!(invited("")[&early].is_object());
    server.put(&bob, &permission, json!({ "default_action": "block" })).ok();
    assert_eq!(invited(""), Value::Null, "those that are there already are not shown either");

    let id = room(&server, &alice, json!({}));
    let invite = |user: &TestUser| server.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/invite"), json!({ "user_id": user.id }));
    invite(&bob).fails(403, "M_INVITE_BLOCKED");
    let member = format!("/_matrix/client/v3/rooms/{id}/state/m.room.member/{}", bob.id);
    server.put(&alice, &member, json!({ "membership": "invite" })).fails(403, "M_INVITE_BLOCKED");
    server.post(&alice, CREATE, json!({ "invite": [bob.id] })).fails(403, "M_INVITE_BLOCKED");
    invite(&carol).ok();
    // Only who might invite learns of it.
    let dave = server.register("dave");
    server.post(&dave, &format!("/_matrix/client/v3/rooms/{id}/invite"), json!({ "user_id": bob.id })).fails(403, "M_FORBIDDEN");

    server.put(&bob, &permission, json!({})).ok();
    invite(&bob).ok();
    assert!(invited("")[&id].is_object());
}
