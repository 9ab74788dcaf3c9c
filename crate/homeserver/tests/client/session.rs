//! Logging in and out (Client-Server API, Login).

use crate::support::{Answer, PASSWORD, TestServer, TestUser};
use futures_util::{FutureExt, future::join_all};
use serde_json::{Value, json};
use std::time::Duration;

const LOGIN: &str = "/_matrix/client/v3/login";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";
/// In how many turns a password is hashed or compared.
const ROUNDS: u32 = 3;

fn password_login(user: &str, password: &str) -> Option<Value> {
    Some(json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": user }, "password": password }))
}

#[test]
fn a_user_logs_in_by_localpart_or_whole_id_in_any_case() {
    let server = TestServer::new();
    server.register("alice");
    assert_eq!(server.request("GET", LOGIN, None, None).ok(), json!({ "flows": [{ "type": "m.login.password" }] }));
    for name in ["alice", "@alice:test.example", "ALICE", "@Alice:test.example"] {
        let answer = server.request("POST", LOGIN, None, password_login(name, PASSWORD)).ok();
        assert_eq!(answer["user_id"], "@alice:test.example");
        let who = server.request("GET", WHOAMI, answer["access_token"].as_str(), None).ok();
        assert_eq!(who, json!({ "user_id": "@alice:test.example", "device_id": answer["device_id"], "is_guest": false }));
    }
    // As clients did before r0.4.
    server.request("POST", LOGIN, None, Some(json!({ "type": "m.login.password", "user": "alice", "password": PASSWORD }))).ok();
}

#[test]
fn what_is_wrong_is_refused_and_does_not_say_whether_the_user_exists() {
    let server = TestServer::new();
    server.register("alice");
    let mut said = Vec::new();
    for (name, password) in
        [("alice", "wrong"), ("nobody", PASSWORD), ("@alice:elsewhere.example", PASSWORD), ("not a name", PASSWORD), ("alice", "")]
    {
        let before = server.host.computed.get();
        said.push(server.request("POST", LOGIN, None, password_login(name, password)).fails(403, "M_FORBIDDEN"));
        // A password is compared in any case, so that the time taken does not say it either.
        assert_eq!(server.host.computed.get() - before, ROUNDS, "{name}");
    }
    said.dedup();
    assert_eq!(said.len(), 1);
    server.request("POST", LOGIN, None, Some(json!({ "type": "m.login.sso" }))).fails(400, "M_UNKNOWN");
    server.request("POST", LOGIN, None, Some(json!({ "identifier": {} }))).fails(400, "M_MISSING_PARAM");
    server.request("POST", LOGIN, None, Some(json!({ "type": "m.login.password", "password": PASSWORD }))).fails(400, "M_MISSING_PARAM");
    let mut long = password_login("alice", PASSWORD).expect("a body");
    long["device_id"] = "x".repeat(256).into();
    server.request("POST", LOGIN, None, Some(long)).fails(400, "M_INVALID_PARAM");
    server.run(server.start_raw("POST", LOGIN, None, "{")).fails(400, "M_NOT_JSON");
}

#[test]
fn wrong_passwords_are_limited_for_each_user_and_right_ones_are_not() {
    let server = TestServer::new();
    server.register("alice");
    server.register("bob");
    for _ in 0..20 {
        server.login("alice", None);
    }
    for _ in 0..10 {
        server.request("POST", LOGIN, None, password_login("alice", "wrong")).fails(403, "M_FORBIDDEN");
    }
    let refused = server.request("POST", LOGIN, None, password_login("alice", PASSWORD));
    assert!(refused.headers.contains_key("retry-after"));
    let wait = refused.fails(429, "M_LIMIT_EXCEEDED")["retry_after_ms"].as_u64().expect("a time to wait");
    server.login("bob", None);
    server.host.advance(Duration::from_millis(wait));
    server.login("alice", None);
}

/// Anybody can make up names, and each costs a comparison: all of them together have a bound, which
/// those who have an account do not meet.
#[test]
fn names_that_nobody_has_are_limited_together_and_keep_nobody_else_out() {
    let server = TestServer::new();
    server.register("alice");
    for n in 0..100 {
        server.request("POST", LOGIN, None, password_login(&format!("nobody{n}"), "wrong")).fails(403, "M_FORBIDDEN");
    }
    let before = server.host.computed.get();
    for n in 100..200 {
        let name = if n % 2 == 0 { format!("nobody{n}") } else { format!("@alice:{n}.example") };
        let refused = server.request("POST", LOGIN, None, password_login(&name, "wrong"));
        assert!(refused.headers.contains_key("retry-after"));
        refused.fails(429, "M_LIMIT_EXCEEDED");
    }
    assert_eq!(server.host.computed.get(), before, "what is refused costs nothing");
    server.login("alice", None);
    server.request("POST", LOGIN, None, password_login("alice", "wrong")).fails(403, "M_FORBIDDEN");
    server.host.advance(Duration::from_secs(1));
    server.request("POST", LOGIN, None, password_login("nobody", "wrong")).fails(403, "M_FORBIDDEN");
}

/// Those that wait keep their requests in memory, so they are few, and none of them waits for long.
#[test]
fn passwords_under_way_are_bounded_and_one_too_many_is_told_to_come_again() {
    let server = TestServer::new();
    server.register("alice");
    let mut at_once: Vec<_> =
        (0..80).map(|n| server.start("POST", LOGIN, None, password_login(&format!("nobody{n}"), "wrong")).boxed_local()).collect();
    at_once.push(server.start("POST", LOGIN, None, password_login("alice", PASSWORD)).boxed_local());
    let register = json!({ "username": "bob", "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
    at_once.push(server.start("POST", "/_matrix/client/v3/register", None, Some(register)).boxed_local());
    let before = server.host.computed.get();
    let mut answers = server.run(join_all(at_once));
    assert_eq!(server.host.computed.get() - before, 64 * ROUNDS);
    let refused = answers.split_off(64);
    assert!(answers.iter().all(|answer| answer.status == 403));
    for refused in refused {
        assert!(refused.headers.contains_key("retry-after"));
        refused.fails(429, "M_LIMIT_EXCEEDED");
    }
    // That was none of the tries that a user has.
    for _ in 0..10 {
        server.request("POST", LOGIN, None, password_login("alice", "wrong")).fails(403, "M_FORBIDDEN");
    }
    server.register("bob");
}

#[test]
fn a_device_that_logs_in_again_keeps_its_name_and_loses_its_old_token() {
    let server = TestServer::new();
    let first = server.register("alice");
    let mut body = password_login("alice", PASSWORD).expect("a body");
    body["device_id"] = first.device.clone().into();
    body["initial_device_display_name"] = "Another name".into();
    let second = server.request("POST", LOGIN, None, Some(body)).ok();
    assert_eq!(second["device_id"], first.device);
    server.get(&first, WHOAMI).fails(401, "M_UNKNOWN_TOKEN");
    let second = second["access_token"].as_str();
    server.request("GET", WHOAMI, second, None).ok();
    let devices = server.request("GET", "/_matrix/client/v3/devices", second, None).ok();
    assert_eq!(devices["devices"].as_array().map(Vec::len), Some(1));
    assert_eq!(devices["devices"][0]["display_name"], Value::Null);
}

#[test]
fn tokens_outlive_a_restart_until_they_are_logged_out() {
    let server = TestServer::new();
    let phone = server.register("alice");
    let tablet = server.login("alice", Some("TABLET"));
    let laptop = server.login("@alice:test.example", None);
    let server = server.restart();
    for user in [&phone, &tablet, &laptop] {
        server.get(user, WHOAMI).ok();
    }
    server.request("GET", WHOAMI, None, None).fails(401, "M_MISSING_TOKEN");
    server.request("GET", &format!("{WHOAMI}?access_token={}", phone.token), None, None).ok();

    server.post(&tablet, "/_matrix/client/v3/logout", json!({})).ok();
    let server = server.restart();
    server.get(&tablet, WHOAMI).fails(401, "M_UNKNOWN_TOKEN");
    server.get(&phone, WHOAMI).ok();

    server.post(&phone, "/_matrix/client/v3/logout/all", json!({})).ok();
    let server = server.restart();
    server.get(&phone, WHOAMI).fails(401, "M_UNKNOWN_TOKEN");
    server.get(&laptop, WHOAMI).fails(401, "M_UNKNOWN_TOKEN");
    let again = server.login("alice", None);
    assert_eq!(server.get(&again, "/_matrix/client/v3/devices").ok()["devices"].as_array().map(Vec::len), Some(1));
}

#[test]
fn no_device_is_named_like_a_cross_signing_key() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let public = "nqOvzeuGWT/sRx3h7+MHoInYj3Uk2LD/unI9kDYcHwk";
    let key = json!({ "user_id": alice.id, "usage": ["master"], "keys": { format!("ed25519:{public}"): public } });
    let auth = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": PASSWORD });
    server.post(&alice, "/_matrix/client/v3/keys/device_signing/upload", json!({ "master_key": key, "auth": auth })).ok();
    let mut body = password_login("alice", PASSWORD).expect("a body");
    body["device_id"] = public.into();
    server.request("POST", LOGIN, None, Some(body)).fails(403, "M_FORBIDDEN");
}

#[test]
fn a_held_sync_ends_with_its_session() {
    let server = TestServer::new();
    let held = |user: &TestUser| {
        let since = server.get(user, "/_matrix/client/v3/sync").ok()["next_batch"].as_str().expect("a token").to_owned();
        server.start("GET", &format!("/_matrix/client/v3/sync?since={since}&timeout=20000"), Some(&user.token), None)
    };
    let before = server.now();
    let together = |held, path: &str, user: &TestUser, body: Value| {
        let ends = server.start("POST", path, Some(&user.token), Some(body));
        let (held, ends): (Answer, _) = server.run(futures_util::future::join(held, ends));
        ends.ok();
        let body = held.fails(401, "M_UNKNOWN_TOKEN");
        assert!(body.get("soft_logout").is_none(), "{body}");
        assert_eq!(server.now(), before, "at once");
    };
    let auth = |user: &TestUser| {
        let identifier = json!({"type": "m.id.user", "user": user.id});
        json!({"auth": {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}})
    };

    let alice = server.register("alice");
    let (phone, desk) = (server.login("alice", Some("PHONE")), server.login("alice", Some("DESK")));
    together(held(&phone), "/_matrix/client/v3/logout", &phone, json!({}));
    together(held(&desk), "/_matrix/client/v3/logout/all", &alice, json!({}));

    let (one, two) = (server.login("alice", Some("ONE")), server.login("alice", Some("TWO")));
    let login = json!({"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD, "device_id": "ONE"});
    together(held(&one), "/_matrix/client/v3/login", &two, login);
    together(held(&two), "/_matrix/client/v3/account/deactivate", &two, auth(&two));
}
