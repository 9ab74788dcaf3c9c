//! One's own account: a new password, the end (Client-Server API, Account management).

use crate::{
    rooms::room,
    support::{PASSWORD, TestServer, TestUser},
};
use serde_json::{Value, json};

const PASSWORD_PATH: &str = "/_matrix/client/v3/account/password";
const DEACTIVATE: &str = "/_matrix/client/v3/account/deactivate";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

/// Asks for the stages, then answers with `password`.
#[track_caller]
pub fn confirm(server: &TestServer, user: &TestUser, method: &str, path: &str, mut body: Value, password: &str) -> crate::support::Answer {
    let asked = server.request(method, path, Some(&user.token), Some(body.clone()));
    assert_eq!((asked.status, &asked.body["flows"]), (401, &json!([{ "stages": ["m.login.password"] }])), "{}", asked.body);
    let identifier = json!({ "type": "m.id.user", "user": user.id });
    body["auth"] = json!({ "type": "m.login.password", "identifier": identifier, "password": password, "session": asked.body["session"] });
    server.request(method, path, Some(&user.token), Some(body))
}

#[track_caller]
fn login(server: &TestServer, name: &str, password: &str) -> crate::support::Answer {
    let identifier = json!({ "type": "m.id.user", "user": name });
    server.request(
        "POST",
        "/_matrix/client/v3/login",
        None,
        Some(json!({ "type": "m.login.password", "identifier": identifier, "password": password })),
    )
}

#[test]
fn a_new_password_replaces_the_old_one_and_logs_other_devices_out() {
    let server = TestServer::new();
    let phone = server.register("alice");
    let tablet = server.login("alice", None);
    confirm(&server, &phone, "POST", PASSWORD_PATH, json!({ "new_password": "new" }), "wrong").fails(401, "M_FORBIDDEN");
    server.get(&tablet, WHOAMI).ok();
    confirm(&server, &phone, "POST", PASSWORD_PATH, json!({ "new_password": "new" }), PASSWORD).ok();
    let server = server.restart();
    server.get(&phone, WHOAMI).ok();
    server.get(&tablet, WHOAMI).fails(401, "M_UNKNOWN_TOKEN");
    login(&server, "alice", PASSWORD).fails(403, "M_FORBIDDEN");
    let tablet = login(&server, "alice", "new").ok();

    confirm(&server, &phone, "POST", PASSWORD_PATH, json!({ "new_password": "newer", "logout_devices": false }), "new").ok();
    server.request("GET", WHOAMI, tablet["access_token"].as_str(), None).ok();
    login(&server, "alice", "newer").ok();
    server.post(&phone, PASSWORD_PATH, json!({ "new_password": "" })).fails(400, "M_WEAK_PASSWORD");
    server.post(&phone, PASSWORD_PATH, json!({})).fails(400, "M_MISSING_PARAM");
}

#[test]
fn a_session_is_of_no_use_to_another_user_or_for_another_body() {
    let server = TestServer::new();
    let (alice, mallory) = (server.register("alice"), server.register("mallory"));
    let session = server.post(&alice, PASSWORD_PATH, json!({ "new_password": "new" })).body["session"].clone();
    let auth = |user: &str| json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": user }, "password": PASSWORD, "session": session });
    server.post(&mallory, PASSWORD_PATH, json!({ "new_password": "new", "auth": auth("mallory") })).fails(403, "M_FORBIDDEN");
    server.post(&alice, PASSWORD_PATH, json!({ "new_password": "new", "logout_devices": false, "auth": auth("alice") })).fails(403, "M_FORBIDDEN");
    server.post(&alice, DEACTIVATE, json!({ "new_password": "new", "auth": auth("alice") })).fails(403, "M_FORBIDDEN");
    // Somebody else's password is no proof of being oneself.
    server.post(&alice, PASSWORD_PATH, json!({ "new_password": "new", "auth": auth("mallory") })).fails(403, "M_FORBIDDEN");
    server.post(&alice, PASSWORD_PATH, json!({ "auth": auth("alice"), "new_password": "new" })).ok();
    login(&server, "mallory", PASSWORD).ok();
}

#[test]
fn a_deactivated_account_is_gone_for_good() {
    let server = TestServer::new();
    let phone = server.register("alice");
    let tablet = server.login("alice", None);
    let bob = server.register("bob");
    server.put(&phone, &format!("/_matrix/client/v3/profile/{}/displayname", phone.id), json!({ "displayname": "Alice" })).ok();
    let public = room(&server, &bob, json!({ "preset": "public_chat" }));
    server.post(&phone, &format!("/_matrix/client/v3/join/{public}"), json!({})).ok();
    let invited = room(&server, &bob, json!({ "invite": [phone.id] }));
    let answer = confirm(&server, &phone, "POST", DEACTIVATE, json!({ "erase": true }), PASSWORD).ok();
    assert_eq!(answer, json!({ "id_server_unbind_result": "success" }));
    let server = server.restart();
    for user in [&phone, &tablet] {
        server.get(user, WHOAMI).fails(401, "M_UNKNOWN_TOKEN");
    }
    for room in [public, invited] {
        let member = server.get(&bob, &format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/{}", phone.id)).ok();
        assert_eq!(member, json!({ "membership": "leave" }));
    }
    login(&server, "alice", PASSWORD).fails(403, "M_FORBIDDEN");
    server.request("GET", "/_matrix/client/v3/register/available?username=alice", None, None).fails(400, "M_USER_IN_USE");
    server.get(&bob, &format!("/_matrix/client/v3/profile/{}", phone.id)).fails(404, "M_NOT_FOUND");
}

#[test]
fn wrong_passwords_are_limited_here_as_they_are_at_the_login() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for _ in 0..10 {
        confirm(&server, &alice, "POST", PASSWORD_PATH, json!({ "new_password": "new" }), "wrong").fails(401, "M_FORBIDDEN");
    }
    confirm(&server, &alice, "POST", PASSWORD_PATH, json!({ "new_password": "new" }), PASSWORD).fails(429, "M_LIMIT_EXCEEDED");
    login(&server, "alice", PASSWORD).fails(429, "M_LIMIT_EXCEEDED");
}

/// Before r0.4 the user stood beside the password, and some clients still write it so.
#[test]
fn a_user_beside_the_password_is_understood() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let auth = |user: &str| json!({ "type": "m.login.password", "user": user, "password": PASSWORD });
    server.post(&alice, PASSWORD_PATH, json!({ "new_password": "new", "auth": auth(&bob.id) })).fails(403, "M_FORBIDDEN");
    server.post(&alice, PASSWORD_PATH, json!({ "new_password": "new", "auth": auth(&alice.id) })).ok();
    login(&server, "alice", "new").ok();
    server
        .post(&bob, PASSWORD_PATH, json!({ "new_password": "new", "auth": { "type": "m.login.password", "password": PASSWORD } }))
        .fails(400, "M_MISSING_PARAM");
    server.post(&bob, DEACTIVATE, json!({ "auth": auth("bob") })).ok();
    server.get(&bob, WHOAMI).fails(401, "M_UNKNOWN_TOKEN");
}
