//! Making accounts (Client-Server API, Account registration), and user-interactive authentication as everybody meets it there.

use crate::support::{PASSWORD, TestServer, config};
use ephapse_homeserver::{Config, Registration};
use ephapse_store::MemoryStore;
use serde_json::{Value, json};
use std::{rc::Rc, time::Duration};

const REGISTER: &str = "/_matrix/client/v3/register";

fn with(registration: Registration) -> TestServer {
    TestServer::with(Rc::new(MemoryStore::new()), Config { registration, ..config() })
}

fn register(server: &TestServer, body: Value) -> crate::support::Answer {
    server.request("POST", REGISTER, None, Some(body))
}

#[test]
fn registering_takes_a_session_and_a_stage() {
    let server = TestServer::new();
    let mut body = json!({ "username": "alice", "password": PASSWORD, "device_id": "PHONE", "initial_device_display_name": "My phone" });
    let asked = register(&server, body.clone());
    assert_eq!(asked.status, 401);
    let session = asked.body["session"].as_str().expect("a session").to_owned();
    assert_eq!(asked.body, json!({ "flows": [{ "stages": ["m.login.dummy"] }], "params": {}, "session": session }));
    body["auth"] = json!({ "type": "m.login.dummy", "session": session });
    let made = register(&server, body).ok();
    assert_eq!((made["user_id"].as_str(), made["device_id"].as_str()), (Some("@alice:test.example"), Some("PHONE")));
    let token = made["access_token"].as_str();
    let devices = server.request("GET", "/_matrix/client/v3/devices/PHONE", token, None).ok();
    assert_eq!(devices["display_name"], "My phone");
}

#[test]
fn a_session_belongs_to_its_request_outlives_a_restart_and_ends_after_an_hour() {
    let server = TestServer::new();
    let body =
        |name: &str, session: &Value| json!({ "username": name, "password": PASSWORD, "auth": { "type": "m.login.dummy", "session": session } });
    let begin = |server: &TestServer| register(server, json!({ "password": PASSWORD, "username": "alice" })).body["session"].clone();
    let session = begin(&server);

    let other = register(&server, body("mallory", &session)).fails(401, "M_FORBIDDEN");
    assert_ne!(other["session"], session);
    register(&server, body("alice", &json!("made up"))).fails(401, "M_FORBIDDEN");

    let server = server.restart();
    register(&server, body("alice", &session)).ok();

    let session = register(&server, json!({ "password": PASSWORD, "username": "bob" })).body["session"].clone();
    server.host.advance(Duration::from_secs(60 * 60));
    let ended = register(&server, body("bob", &session)).fails(401, "M_FORBIDDEN");
    register(&server, body("bob", &ended["session"])).ok();
}

#[test]
fn a_token_is_asked_for_where_the_settings_say_so() {
    let server = with(Registration::Token("open sesame".to_owned()));
    let mut body = json!({ "username": "alice", "password": PASSWORD });
    let asked = register(&server, body.clone());
    assert_eq!((asked.status, &asked.body["flows"]), (401, &json!([{ "stages": ["m.login.registration_token", "m.login.dummy"] }])));
    let session = asked.body["session"].clone();

    body["auth"] = json!({ "type": "m.login.dummy", "session": session });
    register(&server, body.clone()).fails(401, "M_FORBIDDEN");
    body["auth"] = json!({ "type": "m.login.registration_token", "token": "open", "session": session });
    let wrong = register(&server, body.clone()).fails(401, "M_FORBIDDEN");
    assert_eq!(wrong["completed"], Value::Null);
    body["auth"]["token"] = "open sesame".into();
    let half = register(&server, body.clone());
    assert_eq!((half.status, &half.body["completed"], &half.body["errcode"]), (401, &json!(["m.login.registration_token"]), &Value::Null));
    // A stage that is done is not done again, and the session alone asks how far it is.
    body["auth"]["token"] = "open".into();
    assert_eq!(register(&server, body.clone()).body["completed"], json!(["m.login.registration_token"]));
    body["auth"] = json!({ "session": session });
    assert_eq!(register(&server, body.clone()).body["completed"], json!(["m.login.registration_token"]));
    body["auth"] = json!({ "type": "m.login.dummy", "session": session });
    register(&server, body).ok();

    let validity =
        |token: &str| server.request("GET", &format!("/_matrix/client/v1/register/m.login.registration_token/validity?token={token}"), None, None);
    assert_eq!(validity("open%20sesame").ok(), json!({ "valid": true }));
    for _ in 0..18 {
        assert_eq!(validity("guess").ok(), json!({ "valid": false }));
    }
    validity("guess");
    validity("open%20sesame").fails(429, "M_LIMIT_EXCEEDED");
}

/// Whoever did not hear the answer of the last stage and repeated it was told that somebody has the name, or was given a second account without one.
#[test]
fn a_registration_that_is_repeated_is_answered_as_before() {
    let mut server = TestServer::new();
    for mut body in [json!({ "username": "alice", "password": PASSWORD, "device_id": "PHONE" }), json!({ "password": PASSWORD })] {
        let session = register(&server, body.clone()).body["session"].clone();
        body["auth"] = json!({ "type": "m.login.dummy", "session": session });
        let at_once = [(); 2].map(|()| server.start("POST", REGISTER, None, Some(body.clone())));
        let answers = server.run(futures_util::future::join_all(at_once));
        let [first, second]: [Value; 2] = answers.into_iter().map(|answer| answer.ok()).collect::<Vec<_>>().try_into().expect("two");
        server = server.restart();
        let third = register(&server, body.clone()).ok();
        for again in [&second, &third] {
            assert_eq!((&again["user_id"], &again["device_id"]), (&first["user_id"], &first["device_id"]));
        }
        let whoami = |answer: &Value| server.request("GET", "/_matrix/client/v3/account/whoami", answer["access_token"].as_str(), None);
        assert_eq!(whoami(&third).ok()["user_id"], first["user_id"]);
        whoami(&second).fails(401, "M_UNKNOWN_TOKEN");

        // Neither another request nor the password of then does it.
        let mut other = body.clone();
        other["device_id"] = "OTHER".into();
        assert!(register(&server, other).body["user_id"].is_null());
        let mut change = json!({ "new_password": "new" });
        change["auth"] = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": first["user_id"] }, "password": PASSWORD });
        server.request("POST", "/_matrix/client/v3/account/password", third["access_token"].as_str(), Some(change)).ok();
        register(&server, body).fails(403, "M_FORBIDDEN");
    }
}

#[test]
fn nobody_registers_where_registration_is_closed() {
    let server = with(Registration::Closed);
    register(&server, json!({ "username": "alice", "password": PASSWORD, "auth": { "type": "m.login.dummy" } })).fails(403, "M_FORBIDDEN");
    server.request("GET", "/_matrix/client/v3/register/available?username=alice", None, None).fails(403, "M_FORBIDDEN");
}

#[test]
fn names_follow_the_grammar_and_are_given_once() {
    let server = TestServer::new();
    let available = |name: &str| server.request("GET", &format!("/_matrix/client/v3/register/available?username={name}"), None, None);
    assert_eq!(available("alice").ok(), json!({ "available": true }));
    assert_eq!(server.register("Alice").id, "@alice:test.example");
    available("alice").fails(400, "M_USER_IN_USE");
    available("ALICE").fails(400, "M_USER_IN_USE");
    register(&server, json!({ "username": "alice", "password": PASSWORD })).fails(400, "M_USER_IN_USE");
    for name in ["", "a b", "\u{e9}", "a:b", "@alice", "a!", "a\u{0}", &"a".repeat(242)] {
        register(&server, json!({ "username": name, "password": PASSWORD })).fails(400, "M_INVALID_USERNAME");
    }
    server.register(&"a".repeat(241));
    assert_eq!(server.register("._=-/+9").id, "@._=-/+9:test.example");
}

#[test]
fn two_who_want_one_name_at_once_do_not_both_get_it() {
    let server = TestServer::new();
    let body = json!({ "username": "alice", "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
    let (one, other) = (server.start("POST", REGISTER, None, Some(body.clone())), server.start("POST", REGISTER, None, Some(body)));
    let (one, other) = server.run(async { futures_util::future::join(one, other).await });
    let mut statuses = [one.status, other.status];
    statuses.sort();
    assert_eq!(statuses, [200, 400]);
}

#[test]
fn a_name_is_made_up_and_a_login_left_out_when_asked() {
    let server = TestServer::new();
    let dummy = json!({ "type": "m.login.dummy" });
    let made = register(&server, json!({ "password": PASSWORD, "auth": dummy })).ok();
    assert!(made["user_id"].as_str().is_some_and(|id| id.len() > "@:test.example".len() && id.ends_with(":test.example")));
    let made = register(&server, json!({ "username": "bob", "password": PASSWORD, "inhibit_login": true, "auth": dummy })).ok();
    assert_eq!(made, json!({ "user_id": "@bob:test.example" }));
    let bob = server.login("bob", None);
    assert_eq!(server.get(&bob, "/_matrix/client/v3/devices").ok()["devices"].as_array().map(Vec::len), Some(1));
}

#[test]
fn bodies_that_cannot_make_an_account_are_refused() {
    let server = TestServer::new();
    let dummy = json!({ "type": "m.login.dummy" });
    server.run(server.start_raw("POST", REGISTER, None, "nonsense")).fails(400, "M_NOT_JSON");
    register(&server, json!({ "username": 7 })).fails(400, "M_BAD_JSON");
    register(&server, json!({ "username": "alice", "auth": dummy })).fails(400, "M_MISSING_PARAM");
    register(&server, json!({ "username": "alice", "password": "", "auth": dummy })).fails(400, "M_WEAK_PASSWORD");
    register(&server, json!({ "username": "alice", "password": "x".repeat(513), "auth": dummy })).fails(400, "M_INVALID_PARAM");
    register(&server, json!({ "username": "alice", "password": PASSWORD, "device_id": "", "auth": dummy })).fails(400, "M_INVALID_PARAM");
}
