//! The directory of published rooms (Client-Server API, "Published room directory").

use crate::{
    members::{act, join, set_state},
    rooms::room,
    support::{Answer, TestServer, TestUser},
};
use serde_json::{Value, json};

fn listing(id: &str) -> String {
    format!("/_matrix/client/v3/directory/list/room/{id}")
}

fn filtered(server: &TestServer, user: &TestUser, body: Value) -> Value {
    server.post(user, "/_matrix/client/v3/publicRooms", body).ok()
}

fn all(server: &TestServer, query: &str) -> Answer {
    server.request("GET", &format!("/_matrix/client/v3/publicRooms{query}"), None, None)
}

fn ids(page: &Value) -> Vec<&str> {
    page["chunk"].as_array().expect("a chunk").iter().map(|room| room["room_id"].as_str().expect("an id")).collect()
}

#[test]
fn a_published_room_says_what_it_is() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let hidden = room(&server, &alice, json!({ "preset": "public_chat" }));
    assert_eq!(all(&server, "").ok(), json!({ "chunk": [], "total_room_count_estimate": 0 }));
    let id = room(
        &server,
        &alice,
        json!({
            "visibility": "public", "name": "The den", "topic": "All of it", "room_alias_name": "den", "creation_content": { "type": "m.space" },
            "initial_state": [{ "type": "m.room.avatar", "content": { "url": "mxc://test.example/a" } }],
        }),
    );
    join(&server, &bob, &id);
    let server = server.restart();
    let listed = json!({
        "room_id": id, "name": "The den", "topic": "All of it", "canonical_alias": "#den:test.example", "avatar_url": "mxc://test.example/a",
        "room_type": "m.space", "join_rule": "public", "num_joined_members": 2, "world_readable": false, "guest_can_join": false,
    });
    assert_eq!(all(&server, "").ok(), json!({ "chunk": [listed], "total_room_count_estimate": 1 }));
    assert_eq!(server.request("GET", &listing(&id), None, None).ok(), json!({ "visibility": "public" }));
    assert_eq!(server.request("GET", &listing(&hidden), None, None).ok(), json!({ "visibility": "private" }));
    assert_eq!(all(&server, "?server=test.example").ok()["total_room_count_estimate"], 1);
}

#[test]
fn who_may_change_the_main_alias_publishes() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let id = room(&server, &alice, json!({ "preset": "public_chat" }));
    join(&server, &bob, &id);
    for stranger in [&bob, &carol] {
        server.put(stranger, &listing(&id), json!({ "visibility": "public" })).fails(403, "M_FORBIDDEN");
    }
    server.put(&alice, &listing(&id), json!({ "visibility": "secret" })).fails(400, "M_BAD_JSON");
    server.put(&alice, &listing("!none:test.example"), json!({})).fails(404, "M_NOT_FOUND");
    server.request("GET", &listing("!none:test.example"), None, None).fails(404, "M_NOT_FOUND");
    server.put(&alice, &listing(&id), json!({})).ok();
    assert_eq!(ids(&all(&server, "").ok()), [id.as_str()]);
    server.put(&alice, &listing(&id), json!({ "visibility": "private" })).ok();
    assert_eq!(ids(&all(&server, "").ok()), [""; 0]);
}

#[test]
fn a_room_that_nobody_can_come_to_is_not_listed() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({ "visibility": "public" }));
    let rule = |rule: &str| set_state(&server, &alice, &id, "m.room.join_rules", json!({ "join_rule": rule })).ok();
    rule("invite");
    assert_eq!(ids(&all(&server, "").ok()), [""; 0]);
    rule("knock");
    assert_eq!(all(&server, "").ok()["chunk"][0]["join_rule"], "knock");
    rule("invite");
    set_state(&server, &alice, &id, "m.room.history_visibility", json!({ "history_visibility": "world_readable" })).ok();
    assert_eq!(all(&server, "").ok()["chunk"][0]["world_readable"], true);
    act(&server, &alice, &id, "leave", json!({})).ok();
    assert_eq!(ids(&all(&server, "").ok()), [""; 0]);
}

#[test]
fn rooms_are_found_by_words_and_types() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let public = |request: Value| {
        let mut request = request;
        request["visibility"] = "public".into();
        room(&server, &alice, request)
    };
    let by_name = public(json!({ "name": "Über den Wolken" }));
    let by_topic = public(json!({ "topic": "über uns" }));
    let by_alias = public(json!({ "room_alias_name": "hilltop" }));
    let space = public(json!({ "name": "Space", "creation_content": { "type": "m.space" } }));
    let find = |filter: Value| {
        let page = filtered(&server, &alice, json!({ "filter": filter }));
        let mut found: Vec<String> = ids(&page).into_iter().map(str::to_owned).collect();
        assert_eq!(page["total_room_count_estimate"], found.len());
        found.sort();
        found
    };
    let sorted = |rooms: &[&String]| {
        let mut rooms: Vec<String> = rooms.iter().map(|id| (*id).clone()).collect();
        rooms.sort();
        rooms
    };
    assert_eq!(find(json!({ "generic_search_term": "ÜBER" })), sorted(&[&by_name, &by_topic]));
    assert_eq!(find(json!({ "generic_search_term": "hillTop" })), sorted(&[&by_alias]));
    assert_eq!(find(json!({ "generic_search_term": "nothing" })), sorted(&[]));
    assert_eq!(find(json!({ "generic_search_term": "" })), sorted(&[&by_name, &by_topic, &by_alias, &space]));
    assert_eq!(find(json!({ "room_types": ["m.space"] })), sorted(&[&space]));
    assert_eq!(find(json!({ "room_types": [null] })), sorted(&[&by_name, &by_topic, &by_alias]));
    assert_eq!(find(json!({ "room_types": [null, "m.space"], "generic_search_term": "space" })), sorted(&[&space]));
    let elsewhere = filtered(&server, &alice, json!({ "third_party_instance_id": "irc" }));
    assert_eq!(ids(&elsewhere), [""; 0]);
    server.request("POST", "/_matrix/client/v3/publicRooms", None, Some(json!({}))).fails(401, "M_MISSING_TOKEN");
}

#[test]
fn pages_go_from_large_rooms_to_small_ones_and_back() {
    let server = TestServer::new();
    let users: Vec<TestUser> = (0..4).map(|number| server.register(&format!("user{number}"))).collect();
    let mut rooms = Vec::new();
    for members in [1, 3, 2, 2, 4, 1, 2] {
        let id = room(&server, &users[0], json!({ "visibility": "public" }));
        users[1..members].iter().for_each(|user| join(&server, user, &id));
        rooms.push((members, id));
    }
    let whole = all(&server, "").ok();
    let order: Vec<String> = ids(&whole).into_iter().map(str::to_owned).collect();
    let sizes: Vec<u64> =
        whole["chunk"].as_array().expect("a chunk").iter().map(|room| room["num_joined_members"].as_u64().expect("a number")).collect();
    assert_eq!(sizes, [4, 3, 2, 2, 2, 1, 1]);
    assert_eq!((&whole["next_batch"], &whole["prev_batch"]), (&Value::Null, &Value::Null));
    let (mut forwards, mut backwards, mut since) = (Vec::new(), Vec::new(), String::new());
    let page = |since: &str| {
        let page = all(&server, &format!("?limit=3{since}")).ok();
        assert_eq!(page["total_room_count_estimate"], 7);
        page
    };
    let last = loop {
        let page = page(&since);
        forwards.extend(ids(&page).into_iter().map(str::to_owned));
        match page["next_batch"].as_str() {
            Some(next) => since = format!("&since={next}"),
            None => break page,
        }
    };
    assert_eq!(forwards, order);
    backwards.splice(0..0, ids(&last).into_iter().map(str::to_owned));
    let mut prev = last["prev_batch"].as_str().map(str::to_owned);
    while let Some(since) = prev {
        let page = page(&format!("&since={since}"));
        backwards.splice(0..0, ids(&page).into_iter().map(str::to_owned));
        prev = page["prev_batch"].as_str().map(str::to_owned);
    }
    assert_eq!(backwards, order);
    // A room that has gone meanwhile takes nothing from the pages after it.
    let first = page("");
    server.put(&users[0], &listing(ids(&first)[2]), json!({ "visibility": "private" })).ok();
    let next = all(&server, &format!("?limit=3&since={}", first["next_batch"].as_str().expect("a token"))).ok();
    assert_eq!(ids(&next), order[3..6].iter().map(String::as_str).collect::<Vec<_>>());
    for wrong in ["since=x", "since=n1", "since=n_", "since=n1_x", "since=n-1_2"] {
        all(&server, &format!("?{wrong}")).fails(400, "M_INVALID_PARAM");
    }
    assert_eq!(all(&server, "?limit=-1").status, 400);
}
