//! What other servers accept and clients therefore send.

use crate::{
    rooms::{room, send},
    support::{TestServer, TestUser},
};
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";

/// hydrogen and older SDKs write a token that they do not have as an empty one.
#[test]
fn an_empty_access_token_counts_as_missing() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let sent = send(&server, &alice, &id, "1", "hello");
    let same = |with: &str, without: &str| {
        let [with, without] = [with, without].map(|path| server.get(&alice, &format!("/_matrix/client{path}")).ok());
        assert_eq!(with, without);
    };
    same(&format!("/v3/rooms/{id}/messages?from=&to=&dir=b"), &format!("/v3/rooms/{id}/messages?dir=b"));
    same(&format!("/v3/rooms/{id}/messages?from&dir=f"), &format!("/v3/rooms/{id}/messages?dir=f"));
    same(&format!("/v3/rooms/{id}/members?at="), &format!("/v3/rooms/{id}/members"));
    same(&format!("/v1/rooms/{id}/relations/{sent}?from=&to="), &format!("/v1/rooms/{id}/relations/{sent}"));
    let rooms = |query: &str| server.get(&alice, &format!("{V3}/sync?timeout=0{query}")).ok()["rooms"].clone();
    assert_eq!(rooms("&since="), rooms(""));
    // Where a token is needed, an empty one is missing.
    server.get(&alice, &format!("{V3}/keys/changes?from=&to=")).fails(400, "M_MISSING_PARAM");
}

#[test]
fn messages_are_read_forwards_where_nothing_is_said() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    for query in ["", "?", "?limit=2", "?limit=2&from="] {
        let page = server.get(&alice, &format!("{V3}/rooms/{id}/messages{query}")).ok();
        assert_eq!(page["chunk"][0]["type"], "m.room.create", "{query}");
    }
    server.get(&alice, &format!("{V3}/rooms/{id}/messages?dir=sideways")).fails(400, "M_INVALID_PARAM");
}

fn member(server: &TestServer, user: &TestUser, room: &str) -> Value {
    server.get(user, &format!("{V3}/rooms/{room}/state/m.room.member/{}", user.id)).ok()
}

#[test]
fn what_a_join_says_is_in_the_member_event() {
    let server = TestServer::new();
    let (alice, bob, carol) = (server.register("alice"), server.register("bob"), server.register("carol"));
    let id = room(&server, &alice, json!({ "preset": "public_chat" }));
    let body = json!({
        "foo": "bar", "reason": "curious", "displayname": "Robert", "membership": "ban", "third_party_signed": null,
        "join_authorised_via_users_server": alice.id,
    });
    server.post(&bob, &format!("{V3}/join/{id}"), body.clone()).ok();
    let robert = json!({ "membership": "join", "foo": "bar", "reason": "curious", "displayname": "Robert" });
    assert_eq!(member(&server, &bob, &id), robert);
    server.post(&carol, &format!("{V3}/rooms/{id}/join"), json!({ "foo": { "deep": [1] } })).ok();
    assert_eq!(member(&server, &carol, &id), json!({ "membership": "join", "foo": { "deep": [1] }, "displayname": "carol" }));

    // Said again it is the same event, and whoever joins again without a word changes nothing;
    // something else is said.
    let event = |user: &TestUser| server.get(user, &format!("{V3}/rooms/{id}/state/m.room.member/{}?format=event", user.id)).ok()["event_id"].clone();
    let before = event(&bob);
    server.post(&bob, &format!("{V3}/join/{id}"), body).ok();
    server.post(&bob, &format!("{V3}/join/{id}"), json!({})).ok();
    assert_eq!(event(&bob), before);
    server.post(&bob, &format!("{V3}/join/{id}"), json!({ "foo": "baz" })).ok();
    assert_eq!(member(&server, &bob, &id)["foo"], "baz");
    server.post(&bob, &format!("{V3}/join/{id}"), json!({ "foo": "x".repeat(70_000) })).fails(413, "M_TOO_LARGE");
}

#[test]
fn messages_and_redactions_are_sent_without_a_transaction_too() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    for version in ["r0", "v3"] {
        let path = |rest: &str| format!("/_matrix/client/{version}/rooms/{id}/{rest}");
        let message = || server.post(&alice, &path("send/m.room.message"), json!({ "msgtype": "m.text", "body": "hello" })).ok();
        let (one, two) = (message()["event_id"].clone(), message()["event_id"].clone());
        assert_ne!(one, two);
        let one = one.as_str().expect("an id");
        let redaction = server.post(&alice, &path(&format!("redact/{one}")), json!({ "reason": "a typo" })).ok();
        let event = server.get(&alice, &format!("{V3}/rooms/{id}/event/{one}")).ok();
        assert_eq!((&event["content"], &event["unsigned"]["redacted_because"]["event_id"]), (&json!({}), &redaction["event_id"]));
        assert_eq!(event["unsigned"].get("transaction_id"), None);
    }
    let bob = server.register("bob");
    server.post(&bob, &format!("{V3}/rooms/{id}/send/m.room.message"), json!({ "body": "hello" })).fails(403, "M_FORBIDDEN");
}

#[test]
fn an_avatar_is_any_string() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = format!("{V3}/profile/{}/avatar_url", alice.id);
    for avatar in ["https://example.org/a.png", "mxc://test.example/a", "a b"] {
        server.put(&alice, &path, json!({ "avatar_url": avatar })).ok();
        assert_eq!(server.get(&alice, &path).ok(), json!({ "avatar_url": avatar }));
    }
    server.put(&alice, &path, json!({ "avatar_url": 7 })).fails(400, "M_BAD_JSON");
}

/// A client that did not hear the answer signs its keys again, and was told that there are others
/// of the same names.
#[test]
fn a_one_time_key_is_the_same_under_another_signature() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let key = |key: &str, signature: &str| {
        let signatures = json!({ &alice.id: { format!("ed25519:{}", alice.device): signature } });
        json!({ "one_time_keys": { "signed_curve25519:AAAA": { "key": key, "signatures": signatures } } })
    };
    let upload = |body: Value| server.post(&alice, &format!("{V3}/keys/upload"), body);
    for signature in ["one", "one", "two"] {
        let counts = upload(key("public", signature)).ok();
        assert_eq!(counts, json!({ "one_time_key_counts": { "signed_curve25519": 1 } }));
    }
    upload(key("another", "one")).fails(400, "M_INVALID_PARAM");
    // The first one stays.
    let claim = json!({ "one_time_keys": { &alice.id: { &alice.device: "signed_curve25519" } } });
    let claimed = server.post(&alice, &format!("{V3}/keys/claim"), claim).ok();
    let claimed = &claimed["one_time_keys"][&alice.id][&alice.device]["signed_curve25519:AAAA"];
    assert_eq!(claimed["signatures"][&alice.id][format!("ed25519:{}", alice.device)], "one");
}

#[test]
fn a_backup_is_of_any_algorithm() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for auth_data in [json!("opaque"), json!({ "public_key": "x", "new": [1, 2.5] }), json!({})] {
        let made = server.post(&alice, &format!("{V3}/room_keys/version"), json!({ "algorithm": "org.example.new", "auth_data": auth_data })).ok();
        let version = made["version"].as_str().expect("a version");
        let backup = server.get(&alice, &format!("{V3}/room_keys/version")).ok();
        assert_eq!((&backup["algorithm"], &backup["auth_data"], &backup["version"]), (&json!("org.example.new"), &auth_data, &made["version"]));
        let changed = json!({ "algorithm": "org.example.new", "auth_data": "changed", "version": version });
        server.put(&alice, &format!("{V3}/room_keys/version/{version}"), changed).ok();
        assert_eq!(server.get(&alice, &format!("{V3}/room_keys/version/{version}")).ok()["auth_data"], "changed");
        let key = json!({ "first_message_index": 0, "forwarded_count": 0, "is_verified": false, "session_data": "opaque" });
        let path = format!("{V3}/room_keys/keys/!r:test.example/session?version={version}");
        server.put(&alice, &path, key.clone()).ok();
        assert_eq!(server.get(&alice, &path).ok(), key);
    }
    assert_eq!(server.post(&alice, &format!("{V3}/room_keys/version"), json!({ "algorithm": "org.example.new" })).status, 400);
}
