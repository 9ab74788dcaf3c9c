//! Devices (Client-Server API, Device management).

use crate::{
    account::confirm,
    support::{PASSWORD, TestServer, TestUser},
};
use serde_json::json;
use std::time::Duration;

const DEVICES: &str = "/_matrix/client/v3/devices";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

#[track_caller]
fn ids(server: &TestServer, user: &TestUser) -> Vec<String> {
    let listed = server.get(user, DEVICES).ok();
    listed["devices"].as_array().expect("a list").iter().map(|device| device["device_id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn devices_are_listed_named_and_one_users_own() {
    let server = TestServer::new();
    let phone = server.register("alice");
    server.login("alice", Some("A tablet/with \u{e9}"));
    let bob = server.register("bob");
    assert_eq!(ids(&server, &phone).len(), 2);
    let path = format!("{DEVICES}/A%20tablet%2Fwith%20%C3%A9");
    server.put(&phone, &path, json!({ "display_name": "My tablet" })).ok();
    server.put(&phone, &path, json!({})).ok();
    let server = server.restart();
    let shown = server.get(&phone, &path).ok();
    assert_eq!((shown["display_name"].as_str(), shown["device_id"].as_str()), (Some("My tablet"), Some("A tablet/with \u{e9}")));
    server.get(&bob, &path).fails(404, "M_NOT_FOUND");
    server.put(&bob, &path, json!({ "display_name": "Mine" })).fails(404, "M_NOT_FOUND");
    server.put(&phone, &path, json!({ "display_name": "x".repeat(101) })).fails(400, "M_INVALID_PARAM");
    server.put(&phone, &path, json!({ "display_name": 7 })).fails(400, "M_BAD_JSON");
}

#[test]
fn deleting_devices_takes_a_password_and_their_tokens_with_them() {
    let server = TestServer::new();
    let phone = server.register("alice");
    let others: Vec<TestUser> = ["B", "C", "D"].map(|id| server.login("alice", Some(id))).into();
    confirm(&server, &phone, "DELETE", &format!("{DEVICES}/B"), json!({}), "wrong").fails(401, "M_FORBIDDEN");
    assert_eq!(ids(&server, &phone).len(), 4);
    confirm(&server, &phone, "DELETE", &format!("{DEVICES}/B"), json!({}), PASSWORD).ok();
    server.get(&others[0], WHOAMI).fails(401, "M_UNKNOWN_TOKEN");
    server.get(&others[1], WHOAMI).ok();
    confirm(&server, &phone, "POST", "/_matrix/client/v3/delete_devices", json!({ "devices": ["C", "D", "NONE"] }), PASSWORD).ok();
    let server = server.restart();
    assert_eq!(ids(&server, &phone), std::slice::from_ref(&phone.device));
    for other in &others {
        server.get(other, WHOAMI).fails(401, "M_UNKNOWN_TOKEN");
    }
    // Without a body, as some clients do.
    assert_eq!(server.delete(&phone, &format!("{DEVICES}/B")).status, 401);
    server.post(&phone, "/_matrix/client/v3/delete_devices", json!({})).fails(400, "M_MISSING_PARAM");
}

/// A request that named each of a user's thousands of devices compared all of them with all.
#[test]
fn very_many_devices_are_deleted_in_turns_with_others() {
    let server = TestServer::new();
    let phone = server.register("alice");
    let names: Vec<String> = (0..70).map(|n| server.login("alice", Some(&format!("D{n}"))).device).collect();
    let delete = |devices: &[String]| confirm(&server, &phone, "POST", "/_matrix/client/v3/delete_devices", json!({ "devices": devices }), PASSWORD);
    let before = server.host.yielded.get();
    delete(&names).ok();
    assert!(server.host.yielded.get() > before);
    assert_eq!(ids(&server, &phone), std::slice::from_ref(&phone.device));
    let body = json!({ "devices": vec!["NONE"; 10_001] });
    server.post(&phone, "/_matrix/client/v3/delete_devices", body).fails(413, "M_TOO_LARGE");
}

#[test]
fn a_lost_answer_to_a_confirmed_deletion_can_be_asked_for_again() {
    let server = TestServer::new();
    let phone = server.register("alice");
    server.login("alice", Some("B"));
    let path = format!("{DEVICES}/B");
    let session = server.delete(&phone, &path).body["session"].clone();
    let auth =
        json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": PASSWORD, "session": session });
    for _ in 0..2 {
        server.request("DELETE", &path, Some(&phone.token), Some(json!({ "auth": auth }))).ok();
    }
}

#[test]
fn when_a_device_was_last_seen_is_kept_to_the_hour() {
    let server = TestServer::new();
    let phone = server.register("alice");
    let seen = |server: &TestServer| {
        // It is written behind the first answer, at the latest before the second.
        server.get(&phone, WHOAMI).ok();
        server.get(&phone, WHOAMI).ok();
        server.get(&phone, &format!("{DEVICES}/{}", phone.device)).ok()["last_seen_ts"].as_u64().expect("a time")
    };
    let first = seen(&server);
    server.host.advance(Duration::from_secs(59 * 60));
    assert_eq!(seen(&server), first);
    server.host.advance(Duration::from_secs(60));
    assert_eq!(seen(&server), first + 3_600_000);
    let server = server.restart();
    assert_eq!(seen(&server), first + 3_600_000);
}
