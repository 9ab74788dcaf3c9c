//! User-interactive authentication outlives the end of the worker, whatever it is asked for
//! (Client-Server API, User-Interactive Authentication API).

use crate::{
    signing::{Key, cross_signing_key},
    support::{PASSWORD, TestServer},
};
use ephapse_store::Direction;
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};

#[test]
fn what_was_begun_before_a_restart_is_confirmed_behind_it() {
    let mut server = TestServer::new();
    let alice = server.register("alice");
    server.login("alice", Some("B"));
    server.login("alice", Some("C"));
    let keys = |seed: u8| json!({ "master_key": cross_signing_key(&alice, "master", &Key::new(seed)) });
    // The first cross-signing keys need no confirmation.
    server.post(&alice, "/_matrix/client/v3/keys/device_signing/upload", keys(1)).ok();
    for (method, path, mut body) in [
        ("DELETE", "/_matrix/client/v3/devices/B", json!({})),
        ("POST", "/_matrix/client/v3/delete_devices", json!({ "devices": ["C"] })),
        ("POST", "/_matrix/client/v3/keys/device_signing/upload", keys(2)),
        ("POST", "/_matrix/client/v3/account/password", json!({ "new_password": "new", "logout_devices": false })),
        ("POST", "/_matrix/client/v3/account/deactivate", json!({})),
    ] {
        let password = if path.ends_with("deactivate") { "new" } else { PASSWORD };
        let asked = server.request(method, path, Some(&alice.token), Some(body.clone()));
        assert_eq!((asked.status, &asked.body["flows"]), (401, &json!([{ "stages": ["m.login.password"] }])), "{path}: {}", asked.body);
        server = server.restart();
        let identifier = json!({ "type": "m.id.user", "user": alice.id });
        // A wrong password is asked for again in the same session, also behind one more restart.
        body["auth"] = json!({ "type": "m.login.password", "identifier": identifier, "password": "wrong", "session": asked.body["session"] });
        let again = server.request(method, path, Some(&alice.token), Some(body.clone()));
        assert_eq!((again.status, &again.body["session"]), (401, &asked.body["session"]), "{path}: {}", again.body);
        server = server.restart();
        body["auth"]["password"] = password.into();
        server.request(method, path, Some(&alice.token), Some(body)).ok();
    }
    server.get(&alice, "/_matrix/client/v3/account/whoami").fails(401, "M_UNKNOWN_TOKEN");
}

/// A fast hash of the request lay on disk, new password and all, and stayed there until somebody
/// began another session.
#[test]
fn a_stored_session_says_nothing_of_passwords_and_goes_when_it_has_ended() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let stored = || {
        let store = server.store.clone();
        server.run(async move { store.scan(vec![0x48]..vec![0x49], Direction::Forward, usize::MAX).await }).expect("the store reads")
    };
    let mut sessions = BTreeSet::new();
    for (path, name) in [("/_matrix/client/v3/account/password", "new_password"), ("/_matrix/client/v3/register", "password")] {
        for password in ["one", "two"] {
            assert_eq!(server.post(&alice, path, json!({ "username": "bob", name: password })).status, 401);
        }
        sessions.extend(stored().into_iter().map(|(_, session)| session));
    }
    // The ids are in the keys.
    assert_eq!((stored().len(), sessions.len()), (4, 2), "the password makes no difference");
    server.host.advance(Duration::from_secs(2 * 3600));
    // The first request has the server clear up, the second is answered after that.
    for _ in 0..2 {
        server.get(&alice, "/_matrix/client/v3/account/whoami").ok();
    }
    assert_eq!(stored().len(), 0);
}

/// Whoever confirmed a request with the right password of another account was asked again and
/// again.
#[test]
fn another_users_password_confirms_nothing() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    server.login("alice", Some("B"));
    let path = "/_matrix/client/v3/devices/B";
    let confirmed = |user: &str, password: &str| {
        let identifier = json!({ "type": "m.id.user", "user": user });
        let body = json!({ "auth": { "type": "m.login.password", "identifier": identifier, "password": password } });
        server.request("DELETE", path, Some(&alice.token), Some(body))
    };
    confirmed(&bob.id, PASSWORD).fails(403, "M_FORBIDDEN");
    for (user, password) in
        [(bob.id.as_str(), "wrong"), ("@nobody:test.example", PASSWORD), ("@bob:other.example", PASSWORD), ("not\0a name", PASSWORD)]
    {
        assert_eq!(confirmed(user, password).status, 401, "{user}");
    }
    server.get(&alice, path).ok();
    confirmed(&alice.id, PASSWORD).ok();
}
