//! What a client asks once more because it did not hear the answer, as the page's `fetch` does when
//! the worker ends: it gets the same answer, and nothing happens twice.

use crate::{
    members::set_state,
    rooms::room,
    support::{TestServer, TestUser},
};
use serde_json::{Value, json};

/// Asks, and asks again after a restart.
#[track_caller]
fn twice(server: TestServer, user: &TestUser, method: &str, path: &str, body: Option<Value>) -> (TestServer, Value) {
    let first = server.request(method, path, Some(&user.token), body.clone()).ok();
    let server = server.restart();
    assert_eq!(server.request(method, path, Some(&user.token), body).ok(), first);
    (server, first)
}

#[test]
fn an_alias_is_made_and_deleted_once() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({}));
    let path = "/_matrix/client/v3/directory/room/%23den:test.example";
    server.delete(&alice, path).fails(404, "M_NOT_FOUND");
    let (server, _) = twice(server, &alice, "PUT", path, Some(json!({"room_id": id})));
    let (server, _) = twice(server, &alice, "DELETE", path, None);
    server.delete(&bob, path).fails(404, "M_NOT_FOUND");
    // Made anew it can be deleted anew.
    let (server, _) = twice(server, &alice, "PUT", path, Some(json!({"room_id": id})));
    let (server, _) = twice(server, &alice, "DELETE", path, None);
    server.request("GET", path, None, None).fails(404, "M_NOT_FOUND");
    // Much later it is no repetition.
    server.host.advance(std::time::Duration::from_secs(60));
    server.delete(&alice, path).fails(404, "M_NOT_FOUND");
}

#[test]
fn a_push_rule_is_deleted_once() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = "/_matrix/client/v3/pushrules/global/content/cake";
    for _ in 0..2 {
        server.put(&alice, path, json!({"actions": ["notify"], "pattern": "cake"})).ok();
        server.delete(&alice, path).ok();
        server.get(&alice, path).fails(404, "M_NOT_FOUND");
    }
    server.put(&alice, path, json!({"actions": ["notify"], "pattern": "cake"})).ok();
    let (server, _) = twice(server, &alice, "DELETE", path, None);
    server.delete(&server.login("alice", None), path).fails(404, "M_NOT_FOUND");
    server.delete(&alice, "/_matrix/client/v3/pushrules/global/content/pie").fails(404, "M_NOT_FOUND");
}

/// Whoever had left or was banned and repeated what they set last was answered as if they had set
/// it.
#[test]
fn who_is_not_in_the_room_any_more_repeats_nothing() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({"preset": "public_chat", "power_level_content_override": {"state_default": 0}}));
    for departure in ["leave", "ban"] {
        server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
        set_state(&server, &bob, &id, "org.example", json!({"then": departure})).ok();
        let (who, target) = if departure == "leave" { (&bob, json!({})) } else { (&alice, json!({"user_id": bob.id})) };
        server.post(who, &format!("/_matrix/client/v3/rooms/{id}/{departure}"), target).ok();
        set_state(&server, &bob, &id, "org.example", json!({"then": departure})).fails(403, "M_FORBIDDEN");
    }
}

/// The answer to a departure, as any, may not have been heard.
#[test]
fn a_departure_that_is_set_as_state_is_one_event() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({"preset": "public_chat"}));
    let path = format!("/_matrix/client/v3/rooms/{id}/state/m.room.member/{}", alice.id);
    twice(server, &alice, "PUT", &path, Some(json!({"membership": "leave"})));
}

#[test]
fn state_that_is_set_twice_is_one_event() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({"preset": "public_chat", "power_level_content_override": {"state_default": 0}}));
    server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    let path = format!("/_matrix/client/v3/rooms/{id}/state/org.example/");
    let (server, first) = twice(server, &alice, "PUT", &path, Some(json!({"n": 1, "of": {"a": [1], "b": null}})));
    let event = |answer: &Value| answer["event_id"].as_str().expect("an id").to_owned();
    let again = |user: &TestUser, content: Value| event(&set_state(&server, user, &id, "org.example", content).ok());
    let first = event(&first);
    assert_eq!(again(&alice, json!({"of": {"b": null, "a": [1]}, "n": 1})), first, "the order of an object's fields says nothing");
    // What somebody else says, and what was something else meanwhile, is said anew.
    let bobs = again(&bob, json!({"n": 1, "of": {"a": [1], "b": null}}));
    assert_ne!(bobs, first);
    let alices = again(&alice, json!({"n": 1, "of": {"a": [1], "b": null}}));
    assert!(alices != first && alices != bobs);
    // So is what was redacted to what is said now.
    again(&alice, json!({}));
    let empty = again(&alice, json!({}));
    server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/redact/{empty}/1"), json!({})).ok();
    assert_ne!(again(&alice, json!({})), empty);
}
