//! A room goes from the disk when nobody remembers it who could.

use crate::{
    account::confirm,
    members::{act, join},
    rooms::{room, send},
    slow::SlowStore,
    support::{PASSWORD, TestServer, TestUser, config, turn},
};
use serde_json::{Value, json};
use std::rc::Rc;

/// A room with an alias, by which one sees whether it is still there.
fn den(server: &TestServer, owner: &TestUser, mut request: Value) -> String {
    request["room_alias_name"] = "den".into();
    request["preset"] = "public_chat".into();
    let id = room(server, owner, request);
    send(server, owner, &id, "1", "words that take space");
    id
}

fn is_there(server: &TestServer) -> bool {
    server.request("GET", "/_matrix/client/v3/directory/room/%23den:test.example", None, None).status == 200
}

fn forget(server: &TestServer, user: &TestUser, room: &str) {
    act(server, user, room, "leave", json!({})).ok();
    act(server, user, room, "forget", json!({})).ok();
}

fn deactivate(server: &TestServer, user: &TestUser) {
    confirm(server, user, "POST", "/_matrix/client/v3/account/deactivate", json!({}), PASSWORD).ok();
}

/// Who left and forgot a room on one device saw it on the other one for ever.
#[test]
fn other_devices_learn_that_a_room_was_left_that_is_forgotten() {
    let server = TestServer::new();
    let [alice, bob] = ["alice", "bob"].map(|name| server.register(name));
    let id = den(&server, &alice, json!({}));
    join(&server, &bob, &id);
    let synced = server.get(&bob, "/_matrix/client/v3/sync").ok();
    forget(&server, &bob, &id);
    send(&server, &alice, &id, "2", "not for bob");
    let since = |synced: &Value| format!("/_matrix/client/v3/sync?since={}", synced["next_batch"].as_str().expect("a token"));
    let synced = server.get(&bob, &since(&synced)).ok();
    let left = &synced["rooms"]["leave"][&id];
    let told: Vec<_> = left["timeline"]["events"].as_array().expect("events").iter().map(|event| (&event["type"], &event["sender"])).collect();
    assert_eq!(told, [(&json!("m.room.member"), &json!(bob.id))], "the departure, and nothing else of the room");
    let again = server.get(&bob, &since(&synced)).ok();
    assert!(again["rooms"].is_null(), "once: {again}");
    let anew = server.get(&bob, "/_matrix/client/v3/sync?filter=%7B%22room%22:%7B%22include_leave%22:true%7D%7D").ok();
    assert!(anew["rooms"]["leave"].is_null(), "{anew}");
}

/// A name with a typing error in it kept the room forever: who has no account forgets nothing.
#[test]
fn a_user_without_an_account_does_not_keep_a_room_stored() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = den(&server, &alice, json!({"invite": [bob.id]}));
    act(&server, &alice, &id, "ban", json!({"user_id": "@typo:test.example"})).ok();
    forget(&server, &alice, &id);
    assert!(is_there(&server), "bob may still come");
    forget(&server, &bob, &id);
    assert!(!is_there(&server));
    // Nor does it keep the server from anything, when somebody takes the name after all.
    let typo = server.register("typo");
    assert!(server.get(&typo, "/_matrix/client/v3/sync").ok()["rooms"].is_null());
}

#[test]
fn a_deactivated_account_does_not_keep_a_room_stored() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let id = den(&server, &alice, json!({}));
    for user in [&bob, &carol] {
        join(&server, user, &id);
    }
    deactivate(&server, &bob);
    forget(&server, &alice, &id);
    assert!(is_there(&server), "carol is in it");
    forget(&server, &carol, &id);
    assert!(!is_there(&server));
}

/// Account data can be set for a room that one was never in, and stayed when the room went.
#[test]
fn account_data_of_a_room_goes_with_it_also_of_who_was_never_in_it() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let id = den(&server, &alice, json!({}));
    let kept = room(&server, &alice, json!({}));
    join(&server, &bob, &id);
    let path = |user: &TestUser, room: &str, what: &str| format!("/_matrix/client/v3/user/{}/rooms/{room}/{what}", user.id);
    let large = json!({ "notes": "x".repeat(100_000) });
    for user in [&alice, &bob, &carol] {
        server.put(user, &path(user, &id, "account_data/org.example.notes"), large.clone()).ok();
        server.put(user, &path(user, &kept, "account_data/org.example.notes"), json!({ "notes": "mine" })).ok();
    }
    server.put(&carol, &path(&carol, &id, "tags/u.later"), json!({})).ok();
    // Also of who has no account any more.
    deactivate(&server, &bob);
    let server = server.restart();
    let full = server.store.stats().bytes_stored;
    forget(&server, &alice, &id);
    assert!(!is_there(&server));
    assert!(server.store.stats().bytes_stored + 200_000 < full);
    server.get(&carol, &path(&carol, &id, "account_data/org.example.notes")).fails(404, "M_NOT_FOUND");
    server.put(&carol, &path(&carol, &id, "tags/u.later"), json!({})).fails(404, "M_NOT_FOUND");
    assert_eq!(server.get(&carol, &path(&carol, &kept, "account_data/org.example.notes")).ok(), json!({ "notes": "mine" }));
}

/// Also when that is the last thing anybody does about the room, and whether or not they had left
/// it before.
#[test]
fn a_room_goes_with_the_last_account_that_remembers_it() {
    for has_left in [true, false] {
        let server = TestServer::new();
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        let id = den(&server, &alice, json!({}));
        join(&server, &bob, &id);
        forget(&server, &alice, &id);
        if has_left {
            act(&server, &bob, &id, "leave", json!({})).ok();
        }
        assert!(is_there(&server));
        let full = server.store.stats().bytes_stored;
        deactivate(&server, &bob);
        assert!(!is_there(&server));
        assert!(server.store.stats().bytes_stored < full);
        let server = server.restart();
        server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/messages?dir=b")).fails(403, "M_FORBIDDEN");
    }
}

/// What a sync finds of a room that goes meanwhile is part of the room or nothing; it was never
/// seen to fail, and is not to.
#[test]
fn a_room_deleted_during_a_sync_does_not_fail_the_sync() {
    for turns in (0..48).step_by(4) {
        let server = TestServer::with(Rc::new(SlowStore::default()), config());
        let [alice, bob] = ["alice", "bob"].map(|name| server.register(name));
        let kept = room(&server, &alice, json!({ "name": "Kept" }));
        let id = den(&server, &alice, json!({}));
        join(&server, &bob, &id);
        let since = server.get(&alice, "/_matrix/client/v3/sync").ok()["next_batch"].as_str().expect("a token").to_owned();
        send(&server, &bob, &id, "2", "still there");
        act(&server, &alice, &id, "leave", json!({})).ok();
        act(&server, &alice, &id, "forget", json!({})).ok();
        act(&server, &bob, &id, "leave", json!({})).ok();
        let leave_too = "filter=%7B%22room%22:%7B%22include_leave%22:true%7D%7D";
        let syncs = [(&alice, format!("since={since}&{leave_too}")), (&bob, leave_too.to_owned()), (&bob, format!("since={since}&full_state=true"))]
            .map(|(user, query)| server.start("GET", &format!("/_matrix/client/v3/sync?{query}"), Some(&user.token), None));
        let forgets = server.start("POST", &format!("/_matrix/client/v3/rooms/{id}/forget"), Some(&bob.token), Some(json!({})));
        let forgets = async move {
            for _ in 0..turns {
                turn().await;
            }
            forgets.await
        };
        let (answers, forgotten) = server.run(async { futures_util::future::join(futures_util::future::join_all(syncs), forgets).await });
        forgotten.ok();
        let answers: Vec<Value> = answers.into_iter().map(|answer| answer.ok()).collect();
        assert!(answers[0]["rooms"]["join"][&id].is_null(), "{turns}: {}", answers[0]);
        assert!(!is_there(&server), "{turns}");
        assert!(!server.get(&alice, "/_matrix/client/v3/sync").ok()["rooms"]["join"][&kept].is_null());
        assert_eq!(server.hs.status().panics, 0, "{turns}");
    }
}
