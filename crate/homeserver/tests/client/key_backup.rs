//! Server-side key backups (Client-Server API, Server-side key backups).

use crate::support::{TestServer, TestUser};
use serde_json::{Value, json};

const KEYS: &str = "/_matrix/client/v3/room_keys/keys";
const VERSION: &str = "/_matrix/client/v3/room_keys/version";
const ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";

fn create(server: &TestServer, user: &TestUser) -> String {
    let body = json!({ "algorithm": ALGORITHM, "auth_data": { "public_key": "abc", "anything": [1, 2] } });
    server.post(user, VERSION, body).ok()["version"].as_str().expect("a version").to_owned()
}

fn key(is_verified: bool, first_message_index: u32, forwarded_count: u32, data: &str) -> Value {
    let session_data = json!({ "ciphertext": data });
    json!({ "is_verified": is_verified, "first_message_index": first_message_index, "forwarded_count": forwarded_count, "session_data": session_data })
}

#[test]
fn versions_are_found_changed_deleted_and_never_used_again() {
    let server = TestServer::new();
    let alice = server.register("alice");
    server.get(&alice, VERSION).fails(404, "M_NOT_FOUND");
    let first = create(&server, &alice);
    let found = server.get(&alice, VERSION).ok();
    let auth_data = json!({ "public_key": "abc", "anything": [1, 2] });
    assert_eq!(found, json!({ "algorithm": ALGORITHM, "auth_data": auth_data, "count": 0, "etag": found["etag"], "version": first }));
    let path = format!("{VERSION}/{first}");
    server.put(&alice, &path, json!({ "algorithm": "other", "auth_data": {} })).fails(400, "M_INVALID_PARAM");
    server.put(&alice, &path, json!({ "algorithm": ALGORITHM, "auth_data": {}, "version": "77" })).fails(400, "M_INVALID_PARAM");
    server.put(&alice, &path, json!({ "algorithm": ALGORITHM })).fails(400, "M_BAD_JSON");
    server.put(&alice, &path, json!({ "algorithm": ALGORITHM, "auth_data": { "public_key": "new" }, "version": first })).ok();
    assert_eq!(server.get(&alice, &path).ok()["auth_data"], json!({ "public_key": "new" }));
    let second = create(&server, &alice);
    server.delete(&alice, &format!("{VERSION}/{second}")).ok();
    server.delete(&alice, &format!("{VERSION}/{second}")).ok();
    server.delete(&alice, &format!("{VERSION}/1000")).fails(404, "M_NOT_FOUND");
    for gone in [second.as_str(), "1000", "01", "x"] {
        server.get(&alice, &format!("{VERSION}/{gone}")).fails(404, "M_NOT_FOUND");
    }
    assert_eq!(server.get(&alice, VERSION).ok()["version"], first.as_str());
    let server = server.restart();
    let third = create(&server, &alice);
    assert!(third != first && third != second);
    let bob = server.register("bob");
    server.get(&bob, &format!("{VERSION}/{third}")).fails(404, "M_NOT_FOUND");
}

#[test]
fn keys_are_stored_counted_read_and_deleted_by_session_room_and_all_at_once() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let version = create(&server, &alice);
    let etag = server.get(&alice, VERSION).ok()["etag"].clone();
    let at = |path: &str| format!("{KEYS}{path}?version={version}");
    assert_eq!(server.get(&alice, &at("")).ok(), json!({ "rooms": {} }));
    assert_eq!(server.get(&alice, &at("/!a:x.example")).ok(), json!({ "sessions": {} }));
    server.get(&alice, &at("/!a:x.example/s1")).fails(404, "M_NOT_FOUND");
    let stored = server.put(&alice, &at("/!a:x.example/s1"), key(true, 0, 0, "1")).ok();
    assert_eq!(stored["count"], 1);
    assert_ne!(stored["etag"], etag);
    let stored = server.put(&alice, &at("/!a:x.example"), json!({ "sessions": { "s1": key(true, 0, 0, "1"), "s2": key(false, 0, 0, "2") } })).ok();
    assert_eq!(stored["count"], 2);
    let rooms = json!({ "!b:x.example": { "sessions": { "s/3": key(false, 0, 0, "3") } }, "!c:x.example": { "sessions": {} } });
    let stored = server.put(&alice, &at(""), json!({ "rooms": rooms })).ok();
    assert_eq!(stored["count"], 3);
    assert_eq!(server.get(&alice, VERSION).ok()["etag"], stored["etag"]);
    assert_eq!(server.put(&alice, &at("/!a:x.example/s1"), key(true, 0, 0, "1")).ok(), stored, "nothing changed");
    let server = server.restart();
    assert_eq!(server.get(&alice, &at("/!b:x.example/s%2F3")).ok(), key(false, 0, 0, "3"));
    let all = server.get(&alice, &at("")).ok();
    let first = json!({ "sessions": { "s1": key(true, 0, 0, "1"), "s2": key(false, 0, 0, "2") } });
    assert_eq!(all, json!({ "rooms": { "!a:x.example": first, "!b:x.example": { "sessions": { "s/3": key(false, 0, 0, "3") } } } }));
    assert_eq!(server.delete(&alice, &at("/!a:x.example/s1")).ok()["count"], 2);
    assert_eq!(server.delete(&alice, &at("/!a:x.example/s1")).ok()["count"], 2);
    assert_eq!(server.delete(&alice, &at("/!a:x.example")).ok()["count"], 1);
    assert_eq!(server.delete(&alice, &at("")).ok()["count"], 0);
    assert_eq!(server.get(&alice, &at("")).ok(), json!({ "rooms": {} }));
}

#[test]
fn the_more_trusted_backup_key_is_kept() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let version = create(&server, &alice);
    let path = format!("{KEYS}/!a:x.example/s?version={version}");
    // From worse to better: "is_verified", then "first_message_index", then "forwarded_count".
    let ranked =
        [key(false, 9, 9, "0"), key(false, 9, 1, "1"), key(false, 2, 5, "2"), key(true, 8, 8, "3"), key(true, 8, 2, "4"), key(true, 1, 9, "5")];
    for (better, key) in ranked.iter().enumerate() {
        server.put(&alice, &path, key.clone()).ok();
        assert_eq!(server.get(&alice, &path).ok(), *key);
        let mut equal = key.clone();
        equal["session_data"]["ciphertext"] = "equal".into();
        for worse in ranked[..better].iter().chain([&equal]) {
            server.put(&alice, &path, worse.clone()).ok();
            assert_eq!(server.get(&alice, &path).ok(), *key);
        }
    }
    for (name, wrong) in [("first_message_index", json!(-1)), ("forwarded_count", json!("1")), ("is_verified", json!(1))] {
        let mut key = key(true, 0, 0, "");
        key[name] = wrong;
        server.put(&alice, &path, key).fails(400, "M_BAD_JSON");
    }
}

#[test]
fn keys_go_to_the_newest_version_only_and_deleted_versions_leave_nothing() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let old = create(&server, &alice);
    server.put(&alice, &format!("{KEYS}/!a:x.example/s?version={old}"), key(true, 0, 0, "old")).ok();
    let new = create(&server, &alice);
    let body = json!({ "sessions": { "s": key(true, 0, 0, "late") } });
    let refused = server.put(&alice, &format!("{KEYS}/!a:x.example?version={old}"), body.clone()).fails(403, "M_WRONG_ROOM_KEYS_VERSION");
    assert_eq!(refused["current_version"], new.as_str());
    server.put(&alice, &format!("{KEYS}/!a:x.example?version=1000"), body.clone()).fails(404, "M_NOT_FOUND");
    assert_eq!(server.get(&alice, &format!("{KEYS}/!a:x.example/s?version={old}")).ok(), key(true, 0, 0, "old"), "an old version can be read");
    server.delete(&alice, &format!("{VERSION}/{old}")).ok();
    server.get(&alice, &format!("{KEYS}?version={old}")).fails(404, "M_NOT_FOUND");
    server.put(&alice, &format!("{KEYS}/!a:x.example?version={old}"), body).fails(404, "M_NOT_FOUND");
    assert_eq!(server.get(&alice, &format!("{KEYS}?version={new}")).ok(), json!({ "rooms": {} }));
}

#[test]
fn a_backup_of_many_keys_is_written_read_and_emptied_in_turns() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let version = create(&server, &alice);
    let sessions: serde_json::Map<_, _> = (0..300).map(|n| (format!("s{n}"), key(true, n, 0, "x"))).collect();
    let rooms = json!({ "!a:x.example": { "sessions": sessions }, "!b:x.example": { "sessions": sessions } });
    let at = |rest: &str| format!("{KEYS}{rest}?version={version}");
    let yields = |what: &dyn Fn() -> Value| {
        let before = server.host.yielded.get();
        (what(), server.host.yielded.get() - before)
    };
    let (stored, yielded) = yields(&|| server.put(&alice, &at(""), json!({ "rooms": rooms })).ok());
    assert_eq!(stored["count"], 600);
    assert!(yielded >= 600 / 64, "{yielded} yields");
    let (all, yielded) = yields(&|| server.get(&alice, &at("")).ok());
    assert_eq!(all["rooms"], rooms);
    assert!(yielded >= 600 / 128, "{yielded} yields");
    assert_eq!(server.get(&alice, &at("/!a:x.example")).ok()["sessions"], rooms["!a:x.example"]["sessions"]);
    let (left, yielded) = yields(&|| server.delete(&alice, &at("/!a:x.example")).ok());
    assert_eq!(left["count"], 300);
    assert!(yielded >= 300 / 128, "{yielded} yields");
    assert_eq!(server.get(&alice, &at("")).ok()["rooms"], json!({ "!b:x.example": rooms["!b:x.example"] }));
    assert_eq!(server.delete(&alice, &at("")).ok()["count"], 0);
    assert_eq!(server.get(&alice, &at("")).ok()["rooms"], json!({}));
}
