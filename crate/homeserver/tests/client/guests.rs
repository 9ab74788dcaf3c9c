//! Guests (Client-Server API, Guest Access): who tries the server without an account of their own.

use crate::{
    members::{act, join, look, set_state},
    rooms::{room, send},
    support::{PASSWORD, TestServer, TestUser, config, turn},
};
use ephapse_homeserver::{Config, Entrance, Host, Registration};
use ephapse_store::MemoryStore;
use futures_util::future::select;
use serde_json::{Value, json};
use std::{pin::pin, rc::Rc, time::Duration};

const REGISTER: &str = "/_matrix/client/v3/register";
const GUEST: &str = "/_matrix/client/v3/register?kind=guest";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

fn guest(server: &TestServer) -> TestUser {
    let made = server.request("POST", GUEST, None, Some(json!({}))).ok();
    let text = |name: &str| made[name].as_str().expect("it is there").to_owned();
    TestUser { id: text("user_id"), token: text("access_token"), device: text("device_id") }
}

/// A room that everybody may join, guests too.
fn open_room(server: &TestServer, owner: &TestUser) -> String {
    let guests = json!({ "type": "m.room.guest_access", "content": { "guest_access": "can_join" } });
    room(server, owner, json!({ "preset": "public_chat", "initial_state": [guests] }))
}

fn membership(server: &TestServer, user: &TestUser, room: &str, of: &TestUser) -> Value {
    look(server, user, room, &format!("state/m.room.member/{}", of.id)).ok()["membership"].take()
}

#[test]
fn a_guest_is_made_without_any_stage_and_has_no_password() {
    let server = TestServer::new();
    let body = json!({
        "username": "alice", "password": PASSWORD, "device_id": "MINE", "inhibit_login": true, "initial_device_display_name": "Library",
    });
    let made = server.request("POST", GUEST, None, Some(body)).ok();
    assert_eq!(made.as_object().map(|made| made.len()), Some(4), "{made}");
    assert_ne!((&made["user_id"], &made["device_id"]), (&json!("@alice:test.example"), &json!("MINE")));
    let token = made["access_token"].as_str();
    let devices = server.request("GET", "/_matrix/client/v3/devices", token, None).ok();
    assert_eq!((&devices["devices"][0]["display_name"], devices["devices"].as_array().map(Vec::len)), (&json!("Library"), Some(1)));
    let server = server.restart();
    let known = server.request("GET", WHOAMI, token, None).ok();
    assert_eq!(known, json!({ "user_id": made["user_id"], "device_id": made["device_id"], "is_guest": true }));
    for password in ["", PASSWORD] {
        let identifier = json!({ "type": "m.id.user", "user": made["user_id"] });
        let login = json!({ "type": "m.login.password", "identifier": identifier, "password": password });
        server.request("POST", "/_matrix/client/v3/login", None, Some(login)).fails(403, "M_FORBIDDEN");
    }
    let alice = server.register("alice");
    assert_ne!(server.get(&alice, WHOAMI).ok()["is_guest"], true);
}

#[test]
fn guests_come_where_everybody_may_register_and_not_too_many_at_once() {
    for registration in [Registration::Closed, Registration::Token("sesame".to_owned())] {
        let server = TestServer::with(Rc::new(MemoryStore::new()), Config { registration, ..config() });
        server.request("POST", GUEST, None, Some(json!({}))).fails(403, "M_GUEST_ACCESS_FORBIDDEN");
    }
    let server = TestServer::with(Rc::new(MemoryStore::new()), Config { rate_limits: true, ..config() });
    for _ in 0..200 {
        guest(&server);
    }
    server.request("POST", GUEST, None, Some(json!({}))).fails(429, "M_LIMIT_EXCEEDED");
}

#[test]
fn guests_join_where_they_may_and_take_part() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let (open, closed) = (open_room(&server, &alice), room(&server, &alice, json!({ "preset": "public_chat" })));
    let guest = guest(&server);
    act(&server, &guest, &closed, "join", json!({})).fails(403, "M_GUEST_ACCESS_FORBIDDEN");
    server.post(&guest, &format!("/_matrix/client/v3/join/{closed}"), json!({})).fails(403, "M_GUEST_ACCESS_FORBIDDEN");
    // Nor by the state, nor when they are asked in; nor where nothing is said of guests.
    let own = format!("m.room.member/{}", guest.id);
    server
        .put(&guest, &format!("/_matrix/client/v3/rooms/{closed}/state/{own}"), json!({ "membership": "join" }))
        .fails(403, "M_GUEST_ACCESS_FORBIDDEN");
    act(&server, &alice, &closed, "invite", json!({ "user_id": guest.id })).ok();
    act(&server, &guest, &closed, "join", json!({})).fails(403, "M_GUEST_ACCESS_FORBIDDEN");
    set_state(&server, &alice, &closed, "m.room.guest_access", json!({})).ok();
    act(&server, &guest, &closed, "join", json!({})).fails(403, "M_GUEST_ACCESS_FORBIDDEN");
    // What the room itself forbids is said as to anybody.
    let private = room(&server, &alice, json!({ "preset": "private_chat" }));
    act(&server, &guest, &private, "join", json!({})).fails(403, "M_FORBIDDEN");

    act(&server, &guest, &open, "join", json!({})).ok();
    let sent = send(&server, &guest, &open, "1", "hello");
    assert_eq!(look(&server, &alice, &open, &format!("event/{sent}")).ok()["sender"], guest.id.as_str());
    let name = format!("/_matrix/client/v3/profile/{}/displayname", guest.id);
    server.put(&guest, &name, json!({ "displayname": "Somebody" })).ok();
    assert_eq!(look(&server, &alice, &open, &format!("state/{own}")).ok(), json!({ "membership": "join", "displayname": "Somebody" }));
    let synced = server.get(&guest, "/_matrix/client/v3/sync").ok();
    assert!(synced["rooms"]["join"][&open].is_object() && synced["rooms"]["invite"][&closed].is_object());
    server.delete(&guest, &name).ok();
    act(&server, &guest, &open, "leave", json!({})).ok();
    assert_eq!(membership(&server, &alice, &open, &guest), "leave");
}

/// Every endpoint that is served, as a guest: what is not in the specification's list is refused
/// before anything else is said.
#[test]
fn guests_reach_what_the_specification_lists() {
    const LISTED: &str = "
        GET /rooms/{}/state | GET /rooms/{}/context/{} | GET /rooms/{}/event/{} | GET /rooms/{}/state/{} | GET /rooms/{}/state/{}/{}
        GET /rooms/{}/messages | GET /rooms/{}/members | GET /sync | GET /events | GET /rooms/{}/initialSync
        POST /rooms/{}/join | POST /join/{} | POST /rooms/{}/leave | PUT /rooms/{}/send/{}/{} | PUT /rooms/{}/state/{} | PUT /rooms/{}/state/{}/{}
        PUT /sendToDevice/{}/{}
        PUT /profile/{}/{} | DELETE /profile/{}/{} | GET /devices | GET /devices/{} | PUT /devices/{} | GET /account/whoami
        POST /keys/upload | POST /keys/query | POST /keys/claim
        GET /media/download/{}/{} | GET /media/download/{}/{}/{}";
    // Who asks is of no matter to these.
    const FOR_ALL: &str = "
        GET /versions | GET /login | POST /login | POST /register | GET /register/available | GET /register/m.login.registration_token/validity
        GET /profile/{} | GET /profile/{}/{} | GET /directory/room/{}
        GET /publicRooms | GET /directory/list/room/{} | GET /room_summary/{}";
    // What the rooms refer to that guests read.
    const MEDIA: &str = "GET /media/download/{}/{} | GET /media/download/{}/{}/{} | GET /media/thumbnail/{}/{}";
    let endpoints = |text: &str| text.split(['|', '\n']).map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect::<Vec<_>>();
    let (listed, for_all) = ([endpoints(LISTED), endpoints(MEDIA)].concat(), endpoints(FOR_ALL));
    let server = TestServer::new();
    let guest = guest(&server);
    let mut reached = Vec::new();
    for (method, path) in server.hs.endpoints(Entrance::Client) {
        let Some(rest) = path.strip_prefix("/_matrix/client/v3").or_else(|| path.strip_prefix("/_matrix/client/v1")) else { continue };
        let shape = rest.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect::<Vec<_>>().join("/");
        let endpoint = format!("{method} {shape}");
        let path = path.split('/').map(|part| if part.starts_with('{') { "m.x" } else { part }).collect::<Vec<_>>().join("/");
        let answer = server.request(method.as_str(), &path, Some(&guest.token), Some(json!({})));
        let refused = answer.body["errcode"] == "M_GUEST_ACCESS_FORBIDDEN";
        assert_eq!(!refused, listed.contains(&endpoint) || for_all.contains(&endpoint), "{endpoint}: {}", answer.body);
        reached.push(endpoint);
    }
    for endpoint in listed {
        assert!(reached.contains(&endpoint), "{endpoint} was not asked for");
    }
    // "Guest users may only modify their display name; other profile fields may not be changed."
    for field in ["avatar_url", "m.tz"] {
        let path = format!("/_matrix/client/v3/profile/{}/{field}", guest.id);
        server.put(&guest, &path, json!({ field: "mxc://test.example/a" })).fails(403, "M_GUEST_ACCESS_FORBIDDEN");
        server.delete(&guest, &path).fails(403, "M_GUEST_ACCESS_FORBIDDEN");
    }
    // A large body is refused before it is there.
    let room = format!("/_matrix/client/v3/rooms/!x:test.example/typing/{}", guest.id);
    server.put(&guest, &room, json!({ "typing": true, "x": "x".repeat(9 << 20) })).fails(403, "M_GUEST_ACCESS_FORBIDDEN");
}

#[test]
fn guests_leave_when_a_room_forbids_guest_access() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = open_room(&server, &alice);
    join(&server, &bob, &id);
    let guests: Vec<TestUser> = (0..40).map(|_| guest(&server)).collect();
    for guest in &guests {
        join(&server, guest, &id);
    }
    let access = |access: &str| set_state(&server, &alice, &id, "m.room.guest_access", json!({ "guest_access": access })).ok()["event_id"].take();
    access("can_join");
    assert!(guests.iter().all(|guest| membership(&server, &alice, &id, guest) == "join"));
    access("forbidden");
    let server = server.restart();
    for guest in &guests {
        let member = look(&server, &alice, &id, &format!("state/m.room.member/{}?format=event", guest.id)).ok();
        assert_eq!((&member["content"]["membership"], &member["sender"]), (&json!("leave"), &json!(guest.id)));
        act(&server, guest, &id, "join", json!({})).fails(403, "M_GUEST_ACCESS_FORBIDDEN");
    }
    assert_eq!(membership(&server, &alice, &id, &bob), "join");
    // They may be told so by a redaction too.
    let access = |access: &str| set_state(&server, &alice, &id, "m.room.guest_access", json!({ "guest_access": access })).ok()["event_id"].take();
    let event = access("can_join");
    act(&server, &guests[0], &id, "join", json!({})).ok();
    let event = event.as_str().expect("an id");
    server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/redact/{event}/r1"), json!({})).ok();
    assert_eq!(membership(&server, &alice, &id, &guests[0]), "leave");
}

#[test]
fn a_guest_becomes_a_user_with_their_own_token_and_under_their_own_name() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({ "preset": "public_chat" }));
    let (one, other) = (guest(&server), guest(&server));
    let name = |user: &TestUser| user.id[1..].split(':').next().expect("a localpart").to_owned();
    let register = |username: &str, token: &str| {
        let dummy = json!({ "type": "m.login.dummy" });
        json!({ "username": username, "password": PASSWORD, "guest_access_token": token, "auth": dummy })
    };
    let asked = |body: Value| server.request("POST", REGISTER, None, Some(body));
    asked(register(&name(&one), &other.token)).fails(403, "M_FORBIDDEN");
    asked(register(&name(&one), "nonsense")).fails(403, "M_FORBIDDEN");
    asked(register("bob", &one.token)).fails(403, "M_FORBIDDEN");
    asked(register("alice", &alice.token)).fails(403, "M_FORBIDDEN");
    asked(json!({ "password": PASSWORD, "guest_access_token": one.token })).fails(400, "M_MISSING_PARAM");
    asked(json!({ "username": name(&one), "password": PASSWORD })).fails(400, "M_USER_IN_USE");
    let mut body = register(&name(&one), &one.token);
    body.as_object_mut().expect("an object").remove("auth");
    assert_eq!(asked(body).status, 401, "the stages are those of everybody");

    let made = asked(register(&name(&one), &one.token)).ok();
    assert_eq!(made["user_id"], one.id.as_str());
    let server = server.restart();
    let user = server.login(&name(&one), None);
    assert_ne!(server.get(&user, WHOAMI).ok()["is_guest"], true);
    act(&server, &user, &id, "join", json!({})).ok();
    server.get(&user, "/_matrix/client/v3/joined_rooms").ok();
    // Once.
    server.request("POST", REGISTER, None, Some(register(&name(&one), &one.token))).fails(403, "M_FORBIDDEN");
    assert_eq!(server.get(&other, WHOAMI).ok()["is_guest"], true);
    act(&server, &other, &id, "join", json!({})).fails(403, "M_GUEST_ACCESS_FORBIDDEN");
}

/// The server ends while they leave, or the one who sent them away does not wait.
#[test]
fn guests_leave_also_when_that_is_interrupted() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = open_room(&server, &alice);
    let guests: Vec<TestUser> = (0..40).map(|_| guest(&server)).collect();
    for guest in &guests {
        join(&server, guest, &id);
    }
    let path = format!("/_matrix/client/v3/rooms/{id}/state/m.room.guest_access/");
    let forbidden = server.start("PUT", &path, Some(&alice.token), Some(json!({ "guest_access": "forbidden" })));
    server.run(async { drop(select(pin!(forbidden), pin!(turn())).await) });
    let server = server.restart();
    let there = |server: &TestServer| look(server, &alice, &id, "members?membership=join").ok()["chunk"].as_array().map_or(0, Vec::len);
    let left = 41 - there(&server);
    assert!((1..40).contains(&left), "{left} left, and the others are to follow");
    // What is left over from the last run is done behind the first answer.
    server.get(&alice, WHOAMI).ok();
    server.run(server.host.sleep(Duration::from_millis(1)));
    assert_eq!(there(&server), 1);
}

/// Forgetting a room is not for guests, and rooms that they had left stayed for ever.
#[test]
fn a_guest_who_left_does_not_keep_a_room_stored() {
    let server = TestServer::new();
    let is_there = || server.request("GET", "/_matrix/client/v3/directory/room/%23den:test.example", None, None).status == 200;
    for guest_is_last in [false, true] {
        let alice = server.register(&format!("alice{guest_is_last}"));
        let guests = json!({ "type": "m.room.guest_access", "content": { "guest_access": "can_join" } });
        let id = room(&server, &alice, json!({ "preset": "public_chat", "room_alias_name": "den", "initial_state": [guests] }));
        let guest = guest(&server);
        join(&server, &guest, &id);
        let last = |user: &TestUser| act(&server, user, &id, "leave", json!({})).ok();
        if !guest_is_last {
            last(&guest);
        }
        last(&alice);
        act(&server, &alice, &id, "forget", json!({})).ok();
        assert_eq!(is_there(), guest_is_last);
        if guest_is_last {
            last(&guest);
        }
        assert!(!is_there());
        assert!(server.get(&guest, "/_matrix/client/v3/sync").ok()["rooms"].is_null());
    }
}

/// Guests see what everybody may see, without joining.
#[test]
fn guests_look_into_rooms_that_everybody_may_read() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({ "preset": "public_chat" }));
    let guest = guest(&server);
    look(&server, &guest, &id, "messages?dir=b").fails(403, "M_FORBIDDEN");
    set_state(&server, &alice, &id, "m.room.history_visibility", json!({ "history_visibility": "world_readable" })).ok();
    let sent = send(&server, &alice, &id, "1", "hello");
    assert_eq!(look(&server, &guest, &id, "messages?dir=b&limit=1").ok()["chunk"][0]["event_id"], sent.as_str());
    for what in [format!("event/{sent}"), format!("context/{sent}"), "state".to_owned(), "members".to_owned()] {
        look(&server, &guest, &id, &what).ok();
    }
    let message = json!({ "msgtype": "m.text", "body": "hello" });
    server.put(&guest, &format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/1"), message).fails(403, "M_FORBIDDEN");
}
