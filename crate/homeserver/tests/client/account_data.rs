//! Account data, filters and capabilities (Client-Server API, Client Config, Filtering,
//! Capabilities negotiation).

use crate::{
    rooms::room,
    support::{TestServer, TestUser},
};
use serde_json::{Value, json};

fn path(user: &TestUser, kind: &str) -> String {
    format!("/_matrix/client/v3/user/{}/account_data/{kind}", user.id)
}

#[test]
fn account_data_is_kept_for_its_owner() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    server.get(&alice, &path(&alice, "org.example.x")).fails(404, "M_NOT_FOUND");
    server.put(&alice, &path(&alice, "org.example.x"), json!({ "a": [1, 2] })).ok();
    server.put(&alice, &path(&alice, "org.example.x"), json!({ "a": { "b": 1.5 } })).ok();
    server.put(&alice, &path(&alice, "m.direct"), json!({ "@bob:test.example": ["!r:test.example"] })).ok();
    let server = server.restart();
    assert_eq!(server.get(&alice, &path(&alice, "org.example.x")).ok(), json!({ "a": { "b": 1.5 } }));
    server.get(&bob, &path(&alice, "org.example.x")).fails(403, "M_FORBIDDEN");
    server.put(&bob, &path(&alice, "org.example.x"), json!({})).fails(403, "M_FORBIDDEN");
    server.get(&bob, &path(&bob, "org.example.x")).fails(404, "M_NOT_FOUND");
}

#[test]
fn what_the_server_keeps_itself_and_what_is_no_object_is_refused() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for kind in ["m.fully_read", "m.push_rules"] {
        server.put(&alice, &path(&alice, kind), json!({})).fails(405, "M_BAD_JSON");
    }
    server.get(&alice, &path(&alice, "m.push_rules")).ok()["global"]["override"].as_array().expect("rules");
    for wrong in [json!([]), json!("text"), json!(7), Value::Null] {
        server.put(&alice, &path(&alice, "m.x"), wrong).fails(400, "M_BAD_JSON");
    }
    server.run(server.start_raw("PUT", &path(&alice, "m.x"), Some(&alice.token), "{]")).fails(400, "M_NOT_JSON");
    server.put(&alice, &path(&alice, &"x".repeat(256)), json!({})).fails(400, "M_INVALID_PARAM");
    server.put(&alice, &path(&alice, "m.x"), json!({ "x": "x".repeat(1 << 20) })).fails(413, "M_TOO_LARGE");
    let room = format!("/_matrix/client/v3/user/{}/rooms/!none:test.example", alice.id);
    server.put(&alice, &format!("{room}/account_data/m.x"), json!({})).fails(404, "M_NOT_FOUND");
    server.put(&alice, &format!("{room}/tags/m.favourite"), json!({ "order": 0.5 })).fails(404, "M_NOT_FOUND");
}

#[test]
fn a_filter_is_uploaded_once_and_read_again() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let filters = format!("/_matrix/client/v3/user/{}/filter", alice.id);
    let filter = json!({ "room": { "timeline": { "limit": 10, "types": ["m.room.message"] }, "state": { "lazy_load_members": true } } });
    let id = server.post(&alice, &filters, filter.clone()).ok()["filter_id"].as_str().expect("an id").to_owned();
    assert!(!id.starts_with('{'));
    assert_eq!(server.post(&alice, &filters, filter.clone()).ok()["filter_id"], id);
    assert_ne!(server.post(&alice, &filters, json!({})).ok()["filter_id"], id);
    let server = server.restart();
    assert_eq!(server.get(&alice, &format!("{filters}/{id}")).ok(), filter);
    server.get(&alice, &format!("{filters}/none")).fails(404, "M_NOT_FOUND");
    server.get(&bob, &format!("{filters}/{id}")).fails(403, "M_FORBIDDEN");
    server.get(&bob, &format!("/_matrix/client/v3/user/{}/filter/{id}", bob.id)).fails(404, "M_NOT_FOUND");
    server.post(&alice, &filters, json!({ "room": { "timeline": { "limit": "ten" } } })).fails(400, "M_BAD_JSON");
}

#[test]
fn capabilities_name_the_room_versions() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let said = server.get(&alice, "/_matrix/client/v3/capabilities").ok()["capabilities"].clone();
    assert_eq!(said["m.room_versions"]["default"], "12");
    assert_eq!(said["m.room_versions"]["available"].as_object().map(|versions| versions.len()), Some(12));
    assert_eq!((&said["m.change_password"], &said["m.profile_fields"]), (&json!({ "enabled": true }), &json!({ "enabled": true })));
    server.request("GET", "/_matrix/client/v3/capabilities", None, None).fails(401, "M_MISSING_TOKEN");
}

#[test]
fn a_room_has_account_data_and_tags_of_each_user() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({ "preset": "public_chat" }));
    server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    let of = |user: &TestUser, rest: &str| format!("/_matrix/client/v3/user/{}/rooms/{id}/{rest}", user.id);

    server.put(&alice, &of(&alice, "account_data/org.example.x"), json!({ "a": 1 })).ok();
    server.put(&alice, &path(&alice, "org.example.x"), json!({ "a": 2 })).ok();
    server.put(&alice, &of(&alice, "account_data/m.fully_read"), json!({ "event_id": "$x" })).fails(405, "M_BAD_JSON");
    server.put(&alice, &of(&alice, "tags/m.favourite"), json!({ "order": 0.25 })).ok();
    server.put(&alice, &of(&alice, "tags/u.work%2Fhome"), json!({})).ok();
    server.put(&alice, &of(&alice, "tags/u.gone"), json!({ "order": 1 })).ok();
    server.delete(&alice, &of(&alice, "tags/u.gone")).ok();
    server.put(&alice, &of(&alice, "tags/m.favourite"), json!({ "order": "first" })).fails(400, "M_BAD_JSON");
    server.put(&alice, &of(&alice, &format!("tags/{}", "x".repeat(256))), json!({})).fails(400, "M_INVALID_PARAM");

    let server = server.restart();
    assert_eq!(server.get(&alice, &of(&alice, "account_data/org.example.x")).ok(), json!({ "a": 1 }));
    let tags = json!({ "tags": { "m.favourite": { "order": 0.25 }, "u.work/home": {} } });
    assert_eq!(server.get(&alice, &of(&alice, "tags")).ok(), tags);
    assert_eq!(server.get(&alice, &of(&alice, "account_data/m.tag")).ok(), tags);
    assert_eq!(server.get(&bob, &of(&bob, "tags")).ok(), json!({ "tags": {} }));
    server.get(&bob, &of(&bob, "account_data/org.example.x")).fails(404, "M_NOT_FOUND");
    server.get(&bob, &of(&alice, "tags")).fails(403, "M_FORBIDDEN");
}

/// Tags could be added without end, and each one wrote all of them anew.
#[test]
fn the_tags_of_a_room_are_bounded_as_other_account_data() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let of = |rest: &str| format!("/_matrix/client/v3/user/{}/rooms/{id}/{rest}", alice.id);
    let tags: serde_json::Map<String, Value> = (0..4_080).map(|n| (format!("u.{n:0>248}"), json!({}))).collect();
    server.put(&alice, &of("account_data/m.tag"), json!({ "tags": tags })).ok();
    let another = |n: u32| server.put(&alice, &of(&format!("tags/u.another{n:0>240}")), json!({}));
    another(1).ok();
    let full = (2..40).map(another).find(|answer| answer.status != 200).expect("the tags are bounded");
    full.fails(413, "M_TOO_LARGE");
    let first = of(&format!("tags/u.{:0>248}", 0));
    server.put(&alice, &first, json!({ "order": 0.5 })).ok();
    server.delete(&alice, &first).ok();
    another(1_000).ok();
}
