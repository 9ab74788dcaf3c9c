//! What this server says it is, and the names under which clients of other versions ask
//! (Client-Server API, API Standards, Server Discovery).

use crate::{
    rooms::room,
    support::{TestServer, config},
};
use ephapse_homeserver::Config;
use ephapse_store::MemoryStore;
use serde_json::json;
use std::rc::Rc;

#[test]
fn versions_and_features_are_what_clients_may_rely_on() {
    let server = TestServer::new();
    let body = server.request("GET", "/_matrix/client/versions", None, None).ok();
    assert_eq!(body["versions"], json!(["r0.6.1", "v1.1"]));
    let features = body["unstable_features"].as_object().expect("features");
    let expected = [
        "org.matrix.msc2285.stable",
        "org.matrix.msc3030",
        "org.matrix.msc3771",
        "org.matrix.msc3773",
        "org.matrix.msc3916.stable",
        "org.matrix.msc3952_intentional_mentions",
        "org.matrix.msc3981",
    ];
    assert_eq!(features.keys().collect::<Vec<_>>(), expected);
    assert!(features.values().all(|feature| feature == true));
    // Also for those who say who they are.
    let alice = server.register("alice");
    assert_eq!(server.get(&alice, "/_matrix/client/versions").ok(), body);
}

#[test]
fn the_well_known_file_leads_to_the_server() {
    let server = TestServer::new();
    let well_known = |server: &TestServer| server.request("GET", "/.well-known/matrix/client", None, None);
    let answer = well_known(&server);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.ok(), json!({ "m.homeserver": { "base_url": "https://test.example" } }));
    let public_url = Some("https://chat.example:8443/matrix".to_owned());
    let server = TestServer::with(Rc::new(MemoryStore::new()), Config { public_url, ..config() });
    assert_eq!(well_known(&server).ok(), json!({ "m.homeserver": { "base_url": "https://chat.example:8443/matrix" } }));
}

/// A client of r0.6.1, from its login to a message.
#[test]
fn paths_of_r0_are_those_of_v3() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let bob = server.register("bob");
    let path = |rest: &str| format!("/_matrix/client/r0/{rest}");
    assert!(server.request("GET", &path("login"), None, None).ok()["flows"].is_array());
    assert_eq!(server.get(&alice, &path("account/whoami")).ok()["user_id"], alice.id.as_str());
    let id = server.post(&alice, &path("createRoom"), json!({ "preset": "public_chat" })).ok()["room_id"].as_str().expect("a room").to_owned();
    server.post(&bob, &path(&format!("join/{id}")), json!({})).ok();
    let message = json!({ "msgtype": "m.text", "body": "hello" });
    let sent = server.put(&alice, &path(&format!("rooms/{id}/send/m.room.message/t1")), message.clone()).ok();
    let page = server.get(&bob, &path(&format!("rooms/{id}/messages?dir=b&limit=1"))).ok();
    assert_eq!(page["chunk"][0]["event_id"], sent["event_id"]);
    server.put(&alice, &path(&format!("rooms/{id}/state/m.room.topic/")), json!({ "topic": "x" })).ok();
    assert_eq!(server.get(&alice, &path(&format!("rooms/{id}/state/m.room.topic"))).ok(), json!({ "topic": "x" }));
    let event = sent["event_id"].as_str().expect("an id");
    server.post(&bob, &path(&format!("rooms/{id}/receipt/m.read/{event}")), json!({})).ok();
    server.put(&bob, &path(&format!("rooms/{id}/typing/{}", bob.id)), json!({ "typing": true, "timeout": 1000 })).ok();
    server.get(&bob, &path("sync?timeout=0")).ok();
    server.get(&bob, &path("pushrules/")).ok();
    server.get(&bob, &path("devices")).ok();
    server.post(&bob, &path("keys/query"), json!({ "device_keys": { &alice.id: [] } })).ok();
    assert_eq!(server.request("GET", &path(&format!("profile/{}", alice.id)), None, None).status, 200);
    // One transaction by either name? The path is part of it, so they are two.
    let again = server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/t1"), message).ok();
    assert_ne!(again["event_id"], sent["event_id"]);
    server.post(&bob, &path("logout"), json!({})).ok();
    server.get(&bob, &path("account/whoami")).fails(401, "M_UNKNOWN_TOKEN");
}

/// Clients compare the filter they get back with the one they would send, and sent it anew at every
/// start.
#[test]
fn a_filter_comes_back_as_it_was_sent() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let path = format!("/_matrix/client/v3/user/{}/filter", alice.id);
    for filter in [
        json!({}),
        json!({ "room": { "include_leave": false, "timeline": { "limit": 20, "lazy_load_members": false } } }),
        json!({ "room": { "timeline": { "org.matrix.msc3773.unread_thread_notifications": true, "not_types": [] } } }),
        json!({ "org.example": { "anything": [1, 2, null] }, "event_fields": ["content.body"] }),
    ] {
        let id = server.post(&alice, &path, filter.clone()).ok()["filter_id"].as_str().expect("an id").to_owned();
        assert_eq!(server.get(&alice, &format!("{path}/{id}")).ok(), filter);
        assert_eq!(server.post(&alice, &path, filter.clone()).ok()["filter_id"], id.as_str(), "the same filter is kept once");
        server.get(&alice, &format!("/_matrix/client/v3/sync?timeout=0&filter={id}")).ok();
        server.get(&bob, &format!("{path}/{id}")).fails(403, "M_FORBIDDEN");
    }
    server.get(&alice, &format!("{path}/none")).fails(404, "M_NOT_FOUND");
    for wrong in [json!({ "room": 7 }), json!([]), json!({ "room": { "timeline": { "org.matrix.msc3773.unread_thread_notifications": 7 } } })] {
        server.post(&alice, &path, wrong).fails(400, "M_BAD_JSON");
    }
    server.run(server.start_raw("POST", &path, Some(&alice.token), "nonsense")).fails(400, "M_NOT_JSON");
    server.post(&alice, &path, json!({ "x": "y".repeat(65 << 10) })).fails(413, "M_TOO_LARGE");
}

/// A client that sees the feature and not the version asks for it by the name it had before.
#[test]
fn threads_are_counted_apart_for_who_asks_by_either_name() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({ "preset": "trusted_private_chat", "invite": [bob.id] }));
    server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    let put =
        |txn: &str, content| server.put(&bob, &format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/{txn}"), content).ok()["event_id"].clone();
    let root = put("t1", json!({ "msgtype": "m.text", "body": "root" }));
    put("t2", json!({ "msgtype": "m.text", "body": "in it", "m.relates_to": { "rel_type": "m.thread", "event_id": root } }));
    for name in ["unread_thread_notifications", "org.matrix.msc3773.unread_thread_notifications"] {
        let filter = json!({ "room": { "timeline": { name: true } } });
        let uploaded = server.post(&alice, &format!("/_matrix/client/v3/user/{}/filter", alice.id), filter.clone()).ok();
        let inline = percent_encoding::utf8_percent_encode(&filter.to_string(), percent_encoding::NON_ALPHANUMERIC).to_string();
        for filter in [inline.as_str(), uploaded["filter_id"].as_str().expect("an id")] {
            let body = server.get(&alice, &format!("/_matrix/client/v3/sync?timeout=0&filter={filter}")).ok();
            let counts = &body["rooms"]["join"][&id]["unread_thread_notifications"];
            assert_eq!(counts[root.as_str().expect("an id")]["notification_count"], 1, "{name}: {counts}");
        }
    }
    let body = server.get(&alice, "/_matrix/client/v3/sync?timeout=0").ok();
    assert!(body["rooms"]["join"][&id]["unread_thread_notifications"].is_null());
}
