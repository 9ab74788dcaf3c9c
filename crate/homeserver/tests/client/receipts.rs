//! Which events receipts and typing notices are taken for.

use crate::{
    members::{act, join, set_state},
    rooms::{room, send},
    slow::SlowStore,
    support::{TestServer, TestUser, config},
};
use serde_json::{Value, json};

fn receipt(server: &TestServer, user: &TestUser, room: &str, event: &str, thread: Option<&str>) -> crate::support::Answer {
    let body = thread.map_or_else(|| json!({}), |thread| json!({"thread_id": thread}));
    act(server, user, room, &format!("receipt/m.read/{event}"), body)
}

/// An answer that told a hidden event from one that is not there would say that somebody wrote
/// something.
#[test]
fn a_hidden_event_is_answered_like_an_unknown_one() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({"preset": "public_chat"}));
    set_state(&server, &alice, &id, "m.room.history_visibility", json!({"history_visibility": "joined"})).ok();
    let hidden = send(&server, &alice, &id, "1", "before bob");
    join(&server, &bob, &id);
    let seen = send(&server, &alice, &id, "2", "hello");
    for event in [hidden.as_str(), "$none"] {
        receipt(&server, &bob, &id, event, None).fails(404, "M_NOT_FOUND");
        act(&server, &bob, &id, "read_markers", json!({"m.fully_read": event})).fails(404, "M_NOT_FOUND");
        act(&server, &bob, &id, "read_markers", json!({"m.read.private": event})).fails(404, "M_NOT_FOUND");
    }
    receipt(&server, &bob, &id, &seen, None).ok();
    receipt(&server, &alice, &id, &hidden, None).ok();
}

#[test]
fn a_receipt_is_for_the_thread_that_its_event_is_in() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let relating = |txn: &str, kind: &str, content: Value| {
        let path = format!("/_matrix/client/v3/rooms/{id}/send/{kind}/{txn}");
        server.put(&alice, &path, content).ok()["event_id"].as_str().expect("an id").to_owned()
    };
    let root = send(&server, &alice, &id, "1", "root");
    let reply = relating("2", "m.room.message", json!({"body": "reply", "m.relates_to": {"rel_type": "m.thread", "event_id": root}}));
    let react = |txn: &str, to: &str| relating(txn, "m.reaction", json!({"m.relates_to": {"rel_type": "m.annotation", "event_id": to, "key": "+"}}));
    let (of_root, of_reply) = (react("3", &root), react("4", &reply));
    for (event, main, thread) in [(&root, true, true), (&reply, false, true), (&of_root, true, false), (&of_reply, false, true)] {
        for (name, fits) in [("main", main), (root.as_str(), thread)] {
            let answer = receipt(&server, &alice, &id, event, Some(name));
            if fits { drop(answer.ok()) } else { drop(answer.fails(400, "M_INVALID_PARAM")) }
        }
        receipt(&server, &alice, &id, event, None).ok();
    }
    for wrong in [json!(""), json!(5), json!("nothing")] {
        act(&server, &alice, &id, &format!("receipt/m.read/{root}"), json!({"thread_id": wrong}))
            .fails(400, if wrong == json!(5) { "M_BAD_JSON" } else { "M_INVALID_PARAM" });
    }
    act(&server, &alice, &id, &format!("receipt/m.other/{root}"), json!({})).fails(400, "M_INVALID_PARAM");
}

#[test]
fn who_types_stops_when_they_say_so_and_after_two_minutes_at_the_latest() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({"preset": "public_chat"}));
    join(&server, &bob, &id);
    let path = format!("/_matrix/client/v3/rooms/{id}/typing/{}", bob.id);
    let types = |body: Value| server.put(&bob, &path, body);
    let mut since = server.get(&alice, "/_matrix/client/v3/sync").ok()["next_batch"].take();
    // Who types as alice hears next, and how many seconds passed until then.
    let mut heard = || {
        let began = server.now();
        loop {
            let since_then = since.as_str().expect("a token");
            let mut answer = server.get(&alice, &format!("/_matrix/client/v3/sync?since={since_then}&timeout=20000")).ok();
            since = answer["next_batch"].take();
            let event = &answer["rooms"]["join"][&id]["ephemeral"]["events"][0];
            if event["type"] == "m.typing" {
                return (event["content"]["user_ids"].clone(), (server.now() - began) / 1000);
            }
        }
    };
    let (nobody, bobs) = (json!([]), json!([bob.id]));
    types(json!({"typing": true, "timeout": 20_000})).ok();
    assert_eq!(heard(), (bobs.clone(), 0));
    types(json!({"typing": false})).ok();
    assert_eq!(heard(), (nobody.clone(), 0));
    // Only `typing` is required.
    types(json!({"typing": true})).ok();
    assert_eq!((heard(), heard()), ((bobs.clone(), 0), (nobody.clone(), 30)));
    types(json!({"typing": true, "timeout": 3_600_000})).ok();
    assert_eq!((heard(), heard()), ((bobs, 0), (nobody, 120)));

    types(json!({})).fails(400, "M_MISSING_PARAM");
    types(json!({"typing": "yes"})).fails(400, "M_BAD_JSON");
    types(json!({"typing": true, "timeout": -1})).fails(400, "M_BAD_JSON");
    act(&server, &bob, &id, "leave", json!({})).ok();
    types(json!({"typing": true})).fails(403, "M_FORBIDDEN");
}

/// What ends the stay of the second user in a room of the first one.
type End = fn(&TestServer, &TestUser, &TestUser, &str);

/// Who had left was shown typing for up to two minutes.
#[test]
fn typing_ends_with_the_stay_in_the_room() {
    let ends: [(&str, End); 4] = [
        ("leave", |server, _, bob, id| drop(act(server, bob, id, "leave", json!({})).ok())),
        ("kick", |server, alice, bob, id| drop(act(server, alice, id, "kick", json!({"user_id": bob.id})).ok())),
        ("ban", |server, alice, bob, id| drop(act(server, alice, id, "ban", json!({"user_id": bob.id})).ok())),
        ("deactivation", |server, _, bob, _| {
            drop(crate::account::confirm(server, bob, "POST", "/_matrix/client/v3/account/deactivate", json!({}), crate::support::PASSWORD).ok());
        }),
    ];
    for (how, end) in ends {
        let server = TestServer::new();
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
        let id = room(&server, &alice, json!({"preset": "public_chat"}));
        for user in [&bob, &carol] {
            join(&server, user, &id);
        }
        let types = |user: &TestUser| {
            let path = format!("/_matrix/client/v3/rooms/{id}/typing/{}", user.id);
            server.put(user, &path, json!({"typing": true, "timeout": 120_000})).ok();
        };
        let typing = |answer: &Value| answer["rooms"]["join"][&id]["ephemeral"]["events"][0]["content"]["user_ids"].clone();
        let next = |since: &Value| {
            let since = since["next_batch"].as_str().expect("a token");
            server.get(&alice, &format!("/_matrix/client/v3/sync?since={since}&timeout=1000")).ok()
        };
        types(&bob);
        let first = server.get(&alice, "/_matrix/client/v3/sync").ok();
        assert_eq!(typing(&first), json!([bob.id]), "{how}");
        types(&carol);
        let second = next(&first);
        end(&server, &alice, &bob, &id);
        let third = next(&second);
        assert_eq!(typing(&third), json!([carol.id]), "{how}: others go on");
        assert_eq!(typing(&server.get(&alice, "/_matrix/client/v3/sync").ok()), json!([carol.id]), "{how}");
        act(&server, &alice, &id, "kick", json!({"user_id": carol.id})).ok();
        assert_eq!(typing(&next(&third)), json!([]), "{how}");
        if how == "leave" {
            join(&server, &bob, &id);
            assert_eq!(typing(&next(&third)), json!([]), "who comes back has not typed yet");
        }
    }
}

/// The notice had seen its user in the room, and came in behind the leaving.
#[test]
fn a_typing_notification_under_way_does_not_outlive_the_membership() {
    let server = TestServer::with(std::rc::Rc::new(SlowStore::default()), config());
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({"preset": "public_chat"}));
    let (mut refused, mut ended) = (0, 0);
    for turns in 0..60 {
        join(&server, &bob, &id);
        let path = format!("/_matrix/client/v3/rooms/{id}/typing/{}", bob.id);
        let types = server.start("PUT", &path, Some(&bob.token), Some(json!({"typing": true, "timeout": 120_000})));
        let leaves = server.start("POST", &format!("/_matrix/client/v3/rooms/{id}/leave"), Some(&bob.token), Some(json!({})));
        let types = async move {
            for _ in 0..turns {
                crate::support::turn().await;
            }
            types.await
        };
        let (types, leaves) = server.run(futures_util::future::join(types, leaves));
        leaves.ok();
        if types.status == 200 {
            ended += 1
        } else {
            refused += 1
        }
        let seen = server.get(&alice, "/_matrix/client/v3/sync").ok();
        let ephemeral = &seen["rooms"]["join"][&id]["ephemeral"]["events"];
        let typing = ephemeral.as_array().into_iter().flatten().filter(|event| event["type"] == "m.typing").count();
        assert_eq!(typing, 0, "{turns} turns: {seen}");
    }
    assert!(refused > 0 && ended > 0, "{refused} refused, {ended} ended");
}
