//! Profiles (Client-Server API, Profiles).

use crate::{
    rooms::room,
    support::{TestServer, TestUser},
};
use serde_json::json;

fn path(user: &TestUser, field: &str) -> String {
    format!("/_matrix/client/v3/profile/{}/{field}", user.id)
}

#[test]
fn fields_are_set_read_by_anybody_and_deleted() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let whole = format!("/_matrix/client/v3/profile/{}", alice.id);
    assert_eq!(server.request("GET", &whole, None, None).ok(), json!({ "displayname": "alice" }));
    server.request("GET", &path(&alice, "avatar_url"), None, None).fails(404, "M_NOT_FOUND");

    server.put(&alice, &path(&alice, "displayname"), json!({ "displayname": "Alice \u{1f980}" })).ok();
    server.put(&alice, &path(&alice, "avatar_url"), json!({ "avatar_url": "mxc://test.example/abc" })).ok();
    server.put(&alice, &path(&alice, "m.tz"), json!({ "m.tz": "Europe/London" })).ok();
    server.put(&alice, &path(&alice, "org.example.any"), json!({ "org.example.any": [1, null, { "x": 1.5 }] })).ok();
    let server = server.restart();
    let all = json!({
        "displayname": "Alice \u{1f980}", "avatar_url": "mxc://test.example/abc", "m.tz": "Europe/London", "org.example.any": [1, null, { "x": 1.5 }],
    });
    assert_eq!(server.request("GET", &whole, None, None).ok(), all);
    let field = server.request("GET", &path(&alice, "displayname"), None, None).ok();
    assert_eq!(field, json!({ "displayname": "Alice \u{1f980}" }));

    server.delete(&alice, &path(&alice, "m.tz")).ok();
    server.delete(&alice, &path(&alice, "m.tz")).ok();
    server.request("GET", &path(&alice, "m.tz"), None, None).fails(404, "M_NOT_FOUND");
    // Older clients take a name away by setting none.
    server.put(&alice, &path(&alice, "displayname"), json!({ "displayname": "" })).ok();
    server.put(&alice, &path(&alice, "avatar_url"), json!({ "avatar_url": null })).ok();
    assert_eq!(server.request("GET", &whole, None, None).ok(), json!({ "org.example.any": [1, null, { "x": 1.5 }] }));
}

#[test]
fn what_is_no_field_or_no_value_is_refused() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    server.put(&alice, &path(&bob, "displayname"), json!({ "displayname": "Mallory" })).fails(403, "M_FORBIDDEN");
    server.delete(&alice, &path(&bob, "displayname")).fails(403, "M_FORBIDDEN");
    server.put(&alice, &path(&alice, "displayname"), json!({})).fails(400, "M_MISSING_PARAM");
    server.put(&alice, &path(&alice, "displayname"), json!({ "displayname": 7 })).fails(400, "M_BAD_JSON");
    server.put(&alice, &path(&alice, "displayname"), json!(["displayname"])).fails(400, "M_BAD_JSON");
    server.put(&alice, &path(&alice, "displayname"), json!({ "displayname": "x".repeat(1025) })).fails(400, "M_INVALID_PARAM");
    for field in ["nonsense", "Upper.case", "a..b", ".a", "a.", "m.%20space"] {
        server.put(&alice, &path(&alice, field), json!({ field: 1, "m. space": 1 })).fails(400, "M_INVALID_PARAM");
    }
    let long = format!("m.{}", "x".repeat(254));
    server.put(&alice, &path(&alice, &long), json!({ &long: 1 })).fails(400, "M_KEY_TOO_LARGE");
    server.run(server.start_raw("PUT", &path(&alice, "displayname"), Some(&alice.token), "{")).fails(400, "M_NOT_JSON");
    server.request("PUT", &path(&alice, "displayname"), None, Some(json!({ "displayname": "x" }))).fails(401, "M_MISSING_TOKEN");
    for nobody in ["@nobody:test.example", "@alice:elsewhere.example"] {
        server.request("GET", &format!("/_matrix/client/v3/profile/{nobody}"), None, None).fails(404, "M_NOT_FOUND");
    }
}

#[test]
fn all_fields_together_are_under_64_kib() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let set = |field: &str, length: usize| server.put(&alice, &path(&alice, field), json!({ field: "x".repeat(length) }));
    set("m.one", 40_000).ok();
    set("m.two", 30_000).fails(400, "M_PROFILE_TOO_LARGE");
    set("m.two", 20_000).ok();
    set("m.one", 46_000).fails(400, "M_PROFILE_TOO_LARGE");
    let kept = server.get(&alice, &path(&alice, "m.one")).ok();
    assert_eq!(kept["m.one"].as_str().map(str::len), Some(40_000));
}

#[test]
fn a_new_name_is_shown_in_every_room_the_user_is_in() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    server.put(&alice, &path(&alice, "displayname"), json!({ "displayname": "Alice" })).ok();
    let rooms = [room(&server, &alice, json!({})), room(&server, &bob, json!({ "preset": "public_chat" })), room(&server, &alice, json!({}))];
    server.post(&alice, &format!("/_matrix/client/v3/join/{}", rooms[1]), json!({})).ok();
    server.post(&alice, &format!("/_matrix/client/v3/rooms/{}/leave", rooms[2]), json!({})).ok();
    let member =
        |server: &TestServer, room: &str| server.get(&bob, &format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/{}", alice.id)).ok();
    assert_eq!(member(&server, &rooms[1]), json!({ "membership": "join", "displayname": "Alice" }));

    server.put(&alice, &path(&alice, "avatar_url"), json!({ "avatar_url": "mxc://test.example/a" })).ok();
    server.put(&alice, &path(&alice, "displayname"), json!({ "displayname": "Al" })).ok();
    let server = server.restart();
    let shown = json!({ "membership": "join", "displayname": "Al", "avatar_url": "mxc://test.example/a" });
    assert_eq!(member(&server, &rooms[1]), shown);
    let own = server.get(&alice, &format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}", rooms[0], alice.id)).ok();
    assert_eq!(own, shown);

    // The same name again makes no event, nor does a field that rooms do not show.
    let newest =
        |server: &TestServer| server.get(&bob, &format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=1", rooms[1])).ok()["chunk"][0].clone();
    let before = newest(&server)["event_id"].clone();
    server.put(&alice, &path(&alice, "displayname"), json!({ "displayname": "Al" })).ok();
    server.put(&alice, &path(&alice, "m.tz"), json!({ "m.tz": "Europe/London" })).ok();
    assert_eq!(newest(&server)["event_id"], before);
    server.delete(&alice, &path(&alice, "displayname")).ok();
    assert_eq!(member(&server, &rooms[1]), json!({ "membership": "join", "avatar_url": "mxc://test.example/a" }));
    assert_eq!(newest(&server)["unsigned"]["prev_content"]["displayname"], "Al");
}

#[test]
fn of_two_names_set_at_once_every_room_ends_with_the_one_of_the_profile() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let rooms: Vec<String> = (0..5).map(|_| room(&server, &alice, json!({}))).collect();
    let set = |name: &str| server.start("PUT", &path(&alice, "displayname"), Some(&alice.token), Some(json!({ "displayname": name })));
    let requests: Vec<_> = ["a", "b", "c"].map(set).into();
    for answer in server.run(futures_util::future::join_all(requests)) {
        answer.ok();
    }
    let name = server.get(&alice, &path(&alice, "displayname")).ok()["displayname"].clone();
    for room in rooms {
        let member = server.get(&alice, &format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/{}", alice.id)).ok();
        assert_eq!(member["displayname"], name);
    }
}
