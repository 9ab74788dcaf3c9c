//! Making accounts (Client-Server API, Account registration), and user-interactive authentication
//! as everybody meets it there.

use crate::support::{PASSWORD, TestServer, config};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use ephapse_homeserver::{
    Config, Registration,
    tables::{self, Account},
};
use ephapse_store::{Batch, Direction, MemoryStore, Reader};
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
    assert_eq!(asked.body, json!({ "completed": [], "flows": [{ "stages": ["m.login.dummy"] }], "params": {}, "session": session }));
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

    register(&server, body("mallory", &session)).fails(403, "M_FORBIDDEN");
    let other = register(&server, body("alice", &json!("made up"))).fails(401, "M_FORBIDDEN");
    assert_ne!(other["session"], session);

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
    assert_eq!(wrong["completed"], json!([]));
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

/// Whoever did not hear the answer of the last stage and repeated it was told that somebody has the
/// name, or was given a second account without one.
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

/// matrix-js-sdk asks with nothing for a session and says everything with it; others say everything
/// first and then send the stage alone.
#[test]
fn what_is_wanted_is_said_in_the_first_step_or_in_the_second() {
    let mut server = TestServer::new();
    let whole = |name: &str| json!({ "username": name, "password": PASSWORD, "device_id": "PHONE", "initial_device_display_name": "My phone" });
    let with_auth = |mut body: Value, session: &Value| {
        body["auth"] = json!({ "type": "m.login.dummy", "session": session });
        body
    };
    for (first, then, name) in [
        (json!({}), whole("alice"), "alice"),
        (whole("bob"), json!({}), "bob"),
        (whole("carol"), whole("carol"), "carol"),
        (json!({ "username": "Dora" }), json!({ "password": PASSWORD, "username": "dora", "device_id": "PHONE" }), "dora"),
        (json!({ "password": PASSWORD, "device_id": "PHONE", "auth": {} }), json!({ "username": "erik" }), "erik"),
    ] {
        let session = register(&server, first.clone()).body["session"].clone();
        server = server.restart();
        let made = register(&server, with_auth(then.clone(), &session)).ok();
        assert_eq!((made["user_id"].as_str(), &made["device_id"]), (Some(&*format!("@{name}:test.example")), &json!("PHONE")), "{first} {then}");
        let logged_in = server.login(name, Some("OTHER"));
        if [&first, &then].iter().any(|body| body.get("initial_device_display_name").is_some()) {
            assert_eq!(server.get(&logged_in, "/_matrix/client/v3/devices/PHONE").ok()["display_name"], "My phone");
        }
        // Whoever did not hear the answer of the last step hears it again.
        let again = register(&server, with_auth(then, &session)).ok();
        assert_eq!((&again["user_id"], &again["device_id"]), (&made["user_id"], &made["device_id"]));
    }
    // A step that leaves something out does not lose what was said in it.
    let session = register(&server, json!({})).body["session"].clone();
    register(&server, with_auth(json!({ "username": "fred", "inhibit_login": true }), &session)).fails(400, "M_MISSING_PARAM");
    let made = register(&server, json!({ "password": PASSWORD, "auth": { "session": session } })).ok();
    assert_eq!(made, json!({ "user_id": "@fred:test.example", "home_server": "test.example" }));
}

#[test]
fn a_step_that_wants_something_else_is_refused() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let begin = |body: Value| register(&server, body).body["session"].clone();
    let session = begin(json!({ "username": "bob", "password": PASSWORD, "device_id": "PHONE" }));
    let step = |mut body: Value, session: &Value| {
        body["auth"] = json!({ "type": "m.login.dummy", "session": session });
        register(&server, body)
    };
    step(json!({ "username": "mallory" }), &session).fails(403, "M_FORBIDDEN");
    step(json!({ "username": "mallory", "password": PASSWORD }), &session).fails(403, "M_FORBIDDEN");
    step(json!({ "device_id": "TABLET" }), &session).fails(403, "M_FORBIDDEN");
    step(json!({ "username": "bob", "password": "another password" }), &session).fails(403, "M_FORBIDDEN");
    // Passwords are not to be guessed by that either.
    let refused: Vec<u16> = (0..12).map(|n| step(json!({ "password": format!("guess {n}") }), &session).status).collect();
    assert_eq!((refused[0], refused[11]), (403, 429), "{refused:?}");

    // Neither another operation's session registers, nor the other way round; and it is nobody
    // else's.
    let delete = |body: Value| server.post(&alice, "/_matrix/client/v3/delete_devices", body);
    let of_devices = delete(json!({ "devices": ["X"] })).body["session"].clone();
    step(json!({ "username": "carol", "password": PASSWORD }), &of_devices).fails(403, "M_FORBIDDEN");
    let identifier = json!({ "type": "m.id.user", "user": alice.id });
    let confirmed = |session: &Value| json!({ "type": "m.login.password", "identifier": identifier, "password": PASSWORD, "session": session });
    delete(json!({ "devices": ["X"], "auth": confirmed(&session) })).fails(403, "M_FORBIDDEN");
    delete(json!({ "devices": ["Y"], "auth": confirmed(&of_devices) })).fails(403, "M_FORBIDDEN");
    let bob = server.register("bobby");
    let auth = confirmed(&of_devices);
    server.post(&bob, "/_matrix/client/v3/delete_devices", json!({ "devices": ["X"], "auth": auth })).fails(403, "M_FORBIDDEN");
    delete(json!({ "devices": ["X"], "auth": confirmed(&of_devices) })).ok();

    // The account's password has changed since: the session alone is no key to it.
    let session = begin(json!({ "username": "dora", "password": PASSWORD }));
    let made = step(json!({}), &session).ok();
    let auth = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": made["user_id"] }, "password": PASSWORD });
    let change = json!({ "new_password": "new", "auth": auth });
    server.request("POST", "/_matrix/client/v3/account/password", made["access_token"].as_str(), Some(change)).ok();
    step(json!({}), &session).fails(403, "M_FORBIDDEN");
}

#[test]
fn between_two_steps_a_password_is_kept_as_a_slow_hash_alone_and_not_for_long() {
    let server = TestServer::new();
    register(&server, json!({ "username": "alice", "password": PASSWORD }));
    let stored = || {
        let store = server.store.clone();
        server.run(async move { store.scan(vec![0]..vec![0xff], Direction::Forward, usize::MAX).await }).expect("the store reads")
    };
    let holds = |what: &str| stored().iter().any(|(_, value)| value.windows(what.len()).any(|part| part == what.as_bytes()));
    assert!(!holds(PASSWORD) && holds("$argon2id$"));
    server.host.advance(Duration::from_secs(2 * 3600));
    // The first request has the server clear up, the second is answered after that.
    for _ in 0..2 {
        server.request("GET", "/_matrix/client/versions", None, None).ok();
    }
    assert!(!holds("$argon2id$"));
}

#[test]
fn a_guest_becomes_a_user_in_two_steps() {
    let server = TestServer::new();
    let guest = server.request("POST", "/_matrix/client/v3/register?kind=guest", None, Some(json!({}))).ok();
    let name = guest["user_id"].as_str().and_then(|id| id.strip_prefix('@')).and_then(|id| id.split_once(':')).expect("an id").0;
    let body = json!({ "username": name, "password": PASSWORD, "guest_access_token": guest["access_token"] });
    let session = register(&server, body).body["session"].clone();
    let stage = json!({ "type": "m.login.dummy", "session": session });
    register(&server, json!({ "guest_access_token": "another", "auth": stage })).fails(403, "M_FORBIDDEN");
    assert_eq!(register(&server, json!({ "auth": stage })).ok()["user_id"], guest["user_id"]);
    server.login(name, None);
}

#[test]
fn the_display_name_is_the_localpart_at_first() {
    let server = TestServer::new();
    let alice = server.register("Alice");
    let profile = |id: &str| server.request("GET", &format!("/_matrix/client/v3/profile/{id}"), None, None).ok();
    assert_eq!(profile(&alice.id), json!({ "displayname": "alice" }));
    let id = server.post(&alice, "/_matrix/client/v3/createRoom", json!({})).ok()["room_id"].as_str().expect("an id").to_owned();
    let member = server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/state/m.room.member/{}", alice.id)).ok();
    assert_eq!(member, json!({ "membership": "join", "displayname": "alice" }));
    // What its user has taken away does not come back.
    server.put(&alice, &format!("/_matrix/client/v3/profile/{}/displayname", alice.id), json!({ "displayname": "" })).ok();
    assert_eq!(profile(&alice.id), json!({}));
}

/// macOS writes an accented letter as two characters, other systems as one: the right password was
/// wrong on the other machine.
#[test]
fn a_password_is_the_same_however_its_characters_are_written() {
    let server = TestServer::new();
    let (composed, decomposed, wide) = ("caf\u{e9} 1", "cafe\u{301} 1", "caf\u{e9} \u{ff11}");
    let login = |name: &str, password: &str| {
        let body = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": name }, "password": password });
        server.request("POST", "/_matrix/client/v3/login", None, Some(body))
    };
    for (name, registered) in [("alice", composed), ("bob", decomposed), ("carol", wide)] {
        register(&server, json!({ "username": name, "password": registered, "auth": { "type": "m.login.dummy" } })).ok();
        for typed in [composed, decomposed, wide] {
            login(name, typed).ok();
        }
        login(name, "cafe 1").fails(403, "M_FORBIDDEN");
    }
    let path = "/_matrix/client/v3/account/password";
    let alice = login("alice", composed).ok();
    let auth = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": wide });
    server.request("POST", path, alice["access_token"].as_str(), Some(json!({ "new_password": "e\u{301}", "auth": auth }))).ok();
    login("alice", "\u{e9}").ok();
}

#[test]
fn a_password_that_was_stored_as_it_was_typed_is_right_as_it_is_typed() {
    let server = TestServer::new();
    server.register("alice");
    let typed = "cafe\u{301} 1";
    let salt = [7; 16];
    let mut hash = [0; 32];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).expect("small parameters"));
    argon2.hash_password_into(typed.as_bytes(), &salt, &mut hash).expect("a hash");
    let [salt, hash] = [&salt[..], &hash[..]].map(|bytes| STANDARD_NO_PAD.encode(bytes));
    let stored = format!("$argon2id$v=19$m=8,t=1,p=1${salt}${hash}");
    let store = server.store.clone();
    server.run(async move {
        let accounts = tables::ACCOUNTS.scan(&Reader::new(store.clone()), &(), Direction::Forward, 1).await.expect("the store reads");
        let (user, account) = accounts.into_iter().next().expect("an account");
        let mut batch = Batch::new();
        batch.put(tables::ACCOUNTS.key(&user), tables::ACCOUNTS.value(&Account { password: Some(stored), ..account }));
        store.commit(batch).await.expect("the store writes");
    });
    let server = server.restart();
    let login = |password: &str| {
        let body = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": password });
        server.request("POST", "/_matrix/client/v3/login", None, Some(body))
    };
    login(typed).ok();
    login("cafe 1").fails(403, "M_FORBIDDEN");
}

#[test]
fn nobody_registers_where_registration_is_closed() {
    let server = with(Registration::Closed);
    register(&server, json!({ "username": "alice", "password": PASSWORD, "auth": { "type": "m.login.dummy" } })).fails(403, "M_FORBIDDEN");
    server.request("GET", "/_matrix/client/v3/register/available?username=alice", None, None).fails(403, "M_FORBIDDEN");
}

#[test]
fn usernames_follow_the_grammar_and_are_unique() {
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
    assert_eq!(made, json!({ "user_id": "@bob:test.example", "home_server": "test.example" }));
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
