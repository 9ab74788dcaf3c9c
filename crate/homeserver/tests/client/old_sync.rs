//! What clients of r0 follow rooms with: `/events`, `/initialSync` and
//! `/rooms/{roomId}/initialSync`.

use crate::{
    members::{act, join, set_state},
    rooms::{room, send},
    support::{TestServer, TestUser, turn},
};
use serde_json::{Value, json};

const EVENTS: &str = "/_matrix/client/r0/events";

/// The token of now.
fn now(server: &TestServer, user: &TestUser) -> String {
    server.get(user, EVENTS).ok()["end"].as_str().expect("a token").to_owned()
}

/// What came since `token`, which is the new one then.
fn since(server: &TestServer, user: &TestUser, token: &mut String, query: &str) -> Vec<Value> {
    let answer = server.get(user, &format!("{EVENTS}?from={token}{query}")).ok();
    assert_eq!(answer["start"], token.as_str());
    *token = answer["end"].as_str().expect("a token").to_owned();
    answer["chunk"].as_array().expect("a chunk").clone()
}

fn of_type<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["type"] == kind).collect()
}

#[test]
fn the_stream_tells_all_that_happens_once_and_in_order() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let (one, two) = (room(&server, &alice, json!({ "preset": "public_chat" })), room(&server, &alice, json!({ "preset": "public_chat" })));
    join(&server, &bob, &one);
    join(&server, &bob, &two);
    let mut token = now(&server, &bob);
    let sent: Vec<String> = (0..25).map(|n| send(&server, &alice, if n % 2 == 0 { &one } else { &two }, &n.to_string(), "hello")).collect();
    act(&server, &alice, &one, &format!("receipt/m.read/{}", sent[0]), json!({})).ok();
    server.put(&alice, &format!("/_matrix/client/v3/rooms/{one}/typing/{}", alice.id), json!({ "typing": true, "timeout": 30000 })).ok();
    server.put(&bob, &format!("/_matrix/client/v3/user/{}/account_data/org.test", bob.id), json!({ "a": 1 })).ok();
    server.put(&bob, &format!("/_matrix/client/v3/user/{}/rooms/{two}/account_data/org.test", bob.id), json!({ "a": 2 })).ok();
    let mut told = Vec::new();
    loop {
        let some = since(&server, &bob, &mut token, "");
        if some.is_empty() {
            break;
        }
        told.extend(some);
    }
    let messages: Vec<&str> = of_type(&told, "m.room.message").iter().map(|event| event["event_id"].as_str().expect("an id")).collect();
    assert_eq!(messages, sent);
    let first = of_type(&told, "m.room.message")[0];
    assert_eq!((&first["room_id"], &first["user_id"], &first["sender"]), (&json!(one), &json!(alice.id), &json!(alice.id)));
    let receipts = of_type(&told, "m.receipt");
    assert_eq!((receipts.len(), &receipts[0]["room_id"]), (1, &json!(one)));
    let typing = of_type(&told, "m.typing");
    assert_eq!((&typing[0]["room_id"], &typing[0]["content"]), (&json!(one), &json!({ "user_ids": [alice.id] })));
    let data: Vec<_> = of_type(&told, "org.test").into_iter().map(|event| (event["content"]["a"].clone(), event["room_id"].clone())).collect();
    assert!(data.contains(&(json!(1), Value::Null)) && data.contains(&(json!(2), json!(two))) && data.len() == 2, "{data:?}");
}

#[test]
fn who_listens_waits_until_something_happens() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({ "preset": "public_chat" }));
    let token = now(&server, &bob);
    let listening = server.start("GET", &format!("{EVENTS}?from={token}&timeout=30000"), Some(&bob.token), None);
    let invite = server.start("POST", &format!("/_matrix/client/v3/rooms/{id}/invite"), Some(&alice.token), Some(json!({ "user_id": bob.id })));
    let (heard, invited) = server.run(async move {
        let invite = async {
            turn().await;
            invite.await
        };
        futures_util::future::join(listening, invite).await
    });
    invited.ok();
    let heard = heard.ok();
    let member = of_type(heard["chunk"].as_array().expect("a chunk"), "m.room.member")[0].clone();
    assert_eq!((&member["state_key"], &member["content"]["membership"]), (&json!(bob.id), &json!("invite")));
}

#[test]
fn a_room_that_everybody_may_read_can_be_listened_to_from_outside() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let open = room(&server, &alice, json!({ "preset": "public_chat" }));
    set_state(&server, &alice, &open, "m.room.history_visibility", json!({ "history_visibility": "world_readable" })).ok();
    let closed = room(&server, &alice, json!({ "preset": "public_chat" }));
    for path in [format!("{EVENTS}?room_id={closed}"), format!("/_matrix/client/v3/rooms/{closed}/initialSync")] {
        server.get(&bob, &path).fails(403, "M_FORBIDDEN");
    }
    let seen = server.get(&bob, &format!("/_matrix/client/v3/rooms/{open}/initialSync")).ok();
    assert_eq!((seen.get("membership"), &seen["room_id"], &seen["visibility"]), (None, &json!(open), &json!("private")));
    let mut token = seen["messages"]["end"].as_str().expect("a token").to_owned();
    let sent = send(&server, &alice, &open, "1", "hello");
    send(&server, &alice, &closed, "1", "hidden");
    act(&server, &alice, &open, &format!("receipt/m.read/{sent}"), json!({})).ok();
    assert!(of_type(&since(&server, &bob, &mut token.clone(), ""), "m.room.message").is_empty(), "who does not name it is not told");
    let told = since(&server, &bob, &mut token, &format!("&room_id={open}"));
    assert_eq!(of_type(&told, "m.room.message").iter().map(|event| &event["event_id"]).collect::<Vec<_>>(), [&json!(sent)]);
    assert_eq!(of_type(&told, "m.receipt").len(), 1);
    assert!(since(&server, &bob, &mut token, &format!("&room_id={open}")).is_empty());
}

#[test]
fn the_first_look_has_every_room_as_the_user_sees_it() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let mine = room(&server, &alice, json!({ "preset": "public_chat", "visibility": "public", "topic": "ours" }));
    let left = room(&server, &alice, json!({ "preset": "public_chat", "topic": "before" }));
    let other = room(&server, &alice, json!({}));
    join(&server, &bob, &mine);
    join(&server, &bob, &left);
    let message = send(&server, &alice, &left, "1", "the last one");
    act(&server, &bob, &left, "leave", json!({})).ok();
    set_state(&server, &alice, &left, "m.room.topic", json!({ "topic": "after" })).ok();
    act(&server, &alice, &other, "invite", json!({ "user_id": bob.id })).ok();
    let last = send(&server, &alice, &mine, "1", "hello");
    act(&server, &alice, &mine, &format!("receipt/m.read/{last}"), json!({})).ok();
    server.put(&bob, &format!("/_matrix/client/v3/user/{}/rooms/{mine}/account_data/org.test", bob.id), json!({ "a": 2 })).ok();

    let all = server.get(&bob, "/_matrix/client/v3/initialSync?limit=2&archived=true").ok();
    let of = |id: &str| all["rooms"].as_array().expect("rooms").iter().find(|room| room["room_id"] == id).expect("the room").clone();
    let (joined, former, invited) = (of(&mine), of(&left), of(&other));
    assert_eq!((&joined["membership"], &joined["visibility"]), (&json!("join"), &json!("public")));
    assert_eq!(joined["messages"]["chunk"].as_array().map(Vec::len), Some(2));
    assert_eq!(joined["messages"]["chunk"][1]["event_id"], last);
    let topic = |room: &Value| room["state"].as_array().and_then(|state| state.iter().find(|event| event["type"] == "m.room.topic").cloned());
    assert_eq!(topic(&joined).expect("a topic")["content"]["topic"], "ours");
    assert_eq!(joined["account_data"], json!([{ "type": "org.test", "content": { "a": 2 } }]));
    assert_eq!((&all["receipts"][0]["room_id"], &all["receipts"][0]["type"]), (&json!(mine), &json!("m.receipt")));
    assert!(all["presence"].as_array().is_some_and(|presence| presence.iter().any(|event| event["content"]["user_id"] == bob.id)));
    assert_eq!((&former["membership"], &former["messages"]["chunk"][0]["event_id"]), (&json!("leave"), &json!(message)));
    assert_eq!(topic(&former).expect("a topic")["content"]["topic"], "before");
    assert_eq!((&invited["membership"], &invited["inviter"]), (&json!("invite"), &json!(alice.id)));
    assert_eq!(invited["invite"]["content"]["membership"], "invite");
    assert!(invited.get("state").is_none() && invited.get("messages").is_none());
    // Without `archived` the former is not there.
    let fewer = server.get(&bob, "/_matrix/client/v3/initialSync?limit=0").ok();
    assert_eq!(fewer["rooms"].as_array().map(Vec::len), Some(2));
    assert_eq!(fewer["rooms"][0]["messages"]["chunk"], json!([]));

    let one = server.get(&bob, &format!("/_matrix/client/v3/rooms/{mine}/initialSync?limit=1")).ok();
    assert_eq!((&one["membership"], one["receipts"].as_array().map(Vec::len)), (&json!("join"), Some(1)));
    assert!(one["presence"].as_array().is_some_and(|presence| presence.iter().any(|event| event["content"]["user_id"] == alice.id)));
    let event = server.get(&bob, &format!("/_matrix/client/v3/events/{last}")).ok();
    assert_eq!((&event["event_id"], &event["room_id"]), (&json!(last), &json!(mine)));
    server.get(&bob, "/_matrix/client/v3/events/$none").fails(404, "M_NOT_FOUND");
    for wrong in ["/_matrix/client/v3/initialSync?limit=x", &format!("{EVENTS}?limit=-1"), &format!("{EVENTS}?from=nonsense")] {
        assert_eq!(server.get(&bob, wrong).status, 400, "{wrong}");
    }
}
