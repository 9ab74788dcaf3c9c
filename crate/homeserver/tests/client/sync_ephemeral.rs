//! What a sync says of typing, receipts and read markers.

use crate::{
    rooms::{room, send},
    support::{TestServer, TestUser},
    sync::{act, join, next, public, receipts, sync, token},
};
use serde_json::{Value, json};

#[test]
fn typing_is_seen_until_it_ends() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = public(&server, &alice);
    join(&server, &bob, &id);
    let first = sync(&server, &alice, &[]);
    let path = format!("/_matrix/client/v3/rooms/{id}/typing/{}", bob.id);
    server.put(&alice, &path, json!({"typing": true, "timeout": 1000})).fails(403, "M_FORBIDDEN");
    server.put(&bob, &path, json!({"typing": true, "timeout": 10_000})).ok();
    let second = next(&server, &alice, &first);
    let events = &second["rooms"]["join"][&id]["ephemeral"]["events"];
    assert_eq!(*events, json!([{"type": "m.typing", "content": {"user_ids": [bob.id]}}]));
    assert!(next(&server, &alice, &second)["rooms"].is_null());
    let ended = sync(&server, &alice, &[("since", token(&second)), ("timeout", "25000")]);
    assert_eq!(ended["rooms"]["join"][&id]["ephemeral"]["events"][0]["content"]["user_ids"], json!([]));

    server.put(&bob, &path, json!({"typing": true, "timeout": 10_000})).ok();
    let third = next(&server, &alice, &ended);
    let server = server.restart();
    let after = next(&server, &alice, &third);
    assert_eq!(after["rooms"]["join"][&id]["ephemeral"]["events"][0]["content"]["user_ids"], json!([]), "nobody types after a restart");
}

#[test]
fn receipts_go_to_those_they_are_for_and_never_back() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = public(&server, &alice);
    join(&server, &bob, &id);
    let one = send(&server, &alice, &id, "1", "one");
    let two = send(&server, &alice, &id, "2", "two");
    let (mut of_alice, mut of_bob) = (sync(&server, &alice, &[]), sync(&server, &bob, &[]));
    let mut look = |server: &TestServer| {
        of_alice = next(server, &alice, &of_alice);
        of_bob = next(server, &bob, &of_bob);
        (receipts(&of_alice, &id), receipts(&of_bob, &id))
    };
    let ts = server.now();
    act(&server, &bob, &id, &format!("receipt/m.read/{two}"), json!({})).ok();
    let public = json!([{ &two: {"m.read": {&bob.id: {"ts": ts}}}}]);
    assert_eq!(look(&server), (public.clone(), public));
    act(&server, &bob, &id, &format!("receipt/m.read/{one}"), json!({})).ok();
    assert_eq!(look(&server), (json!([]), json!([])), "never backwards");
    act(&server, &bob, &id, &format!("receipt/m.read.private/{two}"), json!({})).ok();
    assert_eq!(look(&server), (json!([]), json!([{ &two: {"m.read.private": {&bob.id: {"ts": ts}}}}])));
    act(&server, &bob, &id, &format!("receipt/m.read/{two}"), json!({"thread_id": "main"})).ok();
    let threaded = json!([{ &two: {"m.read": {&bob.id: {"ts": ts, "thread_id": "main"}}}}]);
    assert_eq!(look(&server), (threaded.clone(), threaded));

    act(&server, &bob, &id, &format!("receipt/m.read/{two}"), json!({"thread_id": one})).fails(400, "M_INVALID_PARAM");
    act(&server, &bob, &id, &format!("receipt/m.read/{two}"), json!({"thread_id": "x"})).fails(400, "M_INVALID_PARAM");
    act(&server, &bob, &id, &format!("receipt/m.fully_read/{two}"), json!({"thread_id": "main"})).fails(400, "M_INVALID_PARAM");
    act(&server, &bob, &id, "receipt/m.read/$nothing", json!({})).fails(404, "M_NOT_FOUND");
    act(&server, &server.register("carol"), &id, &format!("receipt/m.read/{two}"), json!({})).fails(403, "M_FORBIDDEN");

    let fresh = sync(&server, &alice, &[]);
    assert_eq!(receipts(&fresh, &id).as_array().map(Vec::len), Some(2), "an initial sync has them all, an event for each thread");
}

#[test]
fn the_read_marker_is_account_data_and_moves_forward_only() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let one = send(&server, &alice, &id, "1", "one");
    let two = send(&server, &alice, &id, "2", "two");
    let first = sync(&server, &alice, &[]);
    act(&server, &alice, &id, "read_markers", json!({"m.fully_read": two, "m.read": one, "m.read.private": two})).ok();
    let second = next(&server, &alice, &first);
    let marker = json!([{"type": "m.fully_read", "content": {"event_id": two}}]);
    assert_eq!(second["rooms"]["join"][&id]["account_data"]["events"], marker);
    assert_eq!(receipts(&second, &id)[0].as_object().map(serde_json::Map::len), Some(2));
    act(&server, &alice, &id, &format!("receipt/m.fully_read/{one}"), json!({})).ok();
    assert!(next(&server, &alice, &second)["rooms"].is_null());
    assert_eq!(sync(&server, &alice, &[])["rooms"]["join"][&id]["account_data"]["events"], marker);
}

#[test]
fn ignored_users_neither_type_nor_read_where_one_can_see_it() {
    let server = TestServer::new();
    let (alice, bob, carol) = (server.register("alice"), server.register("bob"), server.register("carol"));
    let id = public(&server, &alice);
    for user in [&bob, &carol] {
        join(&server, user, &id);
    }
    let one = send(&server, &alice, &id, "1", "one");
    let path = format!("/_matrix/client/v3/user/{}/account_data/m.ignored_user_list", alice.id);
    server.put(&alice, &path, json!({"ignored_users": {&bob.id: {}, &alice.id: {}}})).ok();
    let first = sync(&server, &alice, &[]);
    let typing = |user: &TestUser| {
        let path = format!("/_matrix/client/v3/rooms/{id}/typing/{}", user.id);
        server.put(user, &path, json!({"typing": true, "timeout": 10_000})).ok();
    };
    act(&server, &bob, &id, &format!("receipt/m.read/{one}"), json!({})).ok();
    let second = next(&server, &alice, &first);
    assert!(second["rooms"].is_null(), "{second}");
    for user in [&bob, &carol] {
        typing(user);
    }
    act(&server, &carol, &id, &format!("receipt/m.read/{one}"), json!({})).ok();
    act(&server, &alice, &id, &format!("receipt/m.read/{one}"), json!({})).ok();
    let readers = |answer: &Value| {
        let read = receipts(answer, &id)[0][&one]["m.read"].as_object().cloned().unwrap_or_default();
        read.keys().cloned().collect::<Vec<_>>()
    };
    for answer in [next(&server, &alice, &second), sync(&server, &alice, &[])] {
        assert_eq!(readers(&answer), [alice.id.as_str(), carol.id.as_str()], "one's own always");
        let events = answer["rooms"]["join"][&id]["ephemeral"]["events"].as_array().cloned().unwrap_or_default();
        let typing: Vec<_> = events.iter().filter(|event| event["type"] == "m.typing").map(|event| &event["content"]["user_ids"]).collect();
        assert_eq!(typing, [&json!([carol.id])]);
    }
    server.put(&alice, &path, json!({"ignored_users": {}})).ok();
    assert_eq!(readers(&sync(&server, &alice, &[])).len(), 3, "heard again");
}
