//! `/sync` as a client lives with it (Client-Server API, Syncing, Filtering).

use crate::{
    rooms::{room, send},
    support::{Answer, TestServer, TestUser},
};
use serde_json::{Value, json};

pub fn query(parameters: &[(&str, &str)]) -> String {
    let encoded: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    format!("/_matrix/client/v3/sync?{encoded}")
}

#[track_caller]
pub fn sync(server: &TestServer, user: &TestUser, parameters: &[(&str, &str)]) -> Value {
    server.get(user, &query(parameters)).ok()
}

/// A sync from where the last one ended.
#[track_caller]
pub fn next(server: &TestServer, user: &TestUser, last: &Value) -> Value {
    sync(server, user, &[("since", token(last))])
}

pub fn token(answer: &Value) -> &str {
    answer["next_batch"].as_str().expect("every sync has a next_batch")
}

pub fn types(events: &Value) -> Vec<&str> {
    events.as_array().map(|events| events.iter().filter_map(|event| event["type"].as_str()).collect()).unwrap_or_default()
}

pub fn bodies(room: &Value) -> Vec<&str> {
    let events = room["timeline"]["events"].as_array();
    events.map(|events| events.iter().filter_map(|event| event["content"]["body"].as_str()).collect()).unwrap_or_default()
}

pub fn join(server: &TestServer, user: &TestUser, room: &str) {
    server.post(user, &format!("/_matrix/client/v3/join/{room}"), json!({})).ok();
}

pub fn act(server: &TestServer, user: &TestUser, room: &str, what: &str, body: Value) -> Answer {
    server.post(user, &format!("/_matrix/client/v3/rooms/{room}/{what}"), body)
}

pub fn state(server: &TestServer, user: &TestUser, room: &str, kind: &str, content: Value) {
    server.put(user, &format!("/_matrix/client/v3/rooms/{room}/state/{kind}/"), content).ok();
}

pub fn public(server: &TestServer, owner: &TestUser) -> String {
    room(server, owner, json!({"preset": "public_chat"}))
}

/// `limited` was left out where it was false, and who looked for it in a timeline did not find it.
pub fn receipts(answer: &Value, room: &str) -> Value {
    let events = answer["rooms"]["join"][room]["ephemeral"]["events"].as_array().cloned().unwrap_or_default();
    Value::Array(events.into_iter().filter(|event| event["type"] == "m.receipt").map(|mut event| event["content"].take()).collect())
}

pub fn unread(answer: &Value, room: &str) -> (u64, u64) {
    let counts = &answer["rooms"]["join"][room]["unread_notifications"];
    (counts["notification_count"].as_u64().expect("a count"), counts["highlight_count"].as_u64().expect("a count"))
}

#[test]
fn an_initial_sync_has_rooms_state_and_counts_and_the_next_one_nothing() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({"name": "Garden"}));
    send(&server, &alice, &id, "1", "hello");
    let answer = sync(&server, &alice, &[]);
    let joined = &answer["rooms"]["join"][&id];
    assert_eq!(bodies(joined), ["hello"]);
    assert_eq!(types(&joined["timeline"]["events"])[0], "m.room.create", "it all fits");
    assert_eq!(joined["timeline"]["limited"], false, "also when it is not");
    assert_eq!(types(&joined["state"]["events"]), [] as [&str; 0], "the state at the start of the timeline is empty");
    assert_eq!(joined["summary"]["m.joined_member_count"], 1);
    assert_eq!(joined["unread_notifications"], json!({"notification_count": 0, "highlight_count": 0}));
    assert!(types(&answer["account_data"]["events"]).contains(&"m.push_rules"));
    assert!(joined["timeline"]["events"][0].get("room_id").is_none());
    assert_eq!(answer["device_one_time_keys_count"], json!({"signed_curve25519": 0}), "also when there are none");
    assert_eq!(answer["device_unused_fallback_key_types"], json!([]));

    let after = next(&server, &alice, &answer);
    assert_eq!(after["device_one_time_keys_count"], json!({"signed_curve25519": 0}));
    assert_eq!(after["next_batch"], answer["next_batch"]);
    assert!(after.get("rooms").is_none(), "{after}");
}

#[test]
fn a_limited_timeline_comes_with_the_state_before_it() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let filter = r#"{"room":{"timeline":{"limit":2}}}"#;
    let first = sync(&server, &alice, &[("filter", filter)]);
    let joined = &first["rooms"]["join"][&id];
    assert_eq!(joined["timeline"]["limited"], true);
    assert!(types(&joined["state"]["events"]).contains(&"m.room.create"));

    state(&server, &alice, &id, "m.room.topic", json!({"topic": "one"}));
    for n in 0..3 {
        send(&server, &alice, &id, &n.to_string(), &n.to_string());
    }
    state(&server, &alice, &id, "m.room.topic", json!({"topic": "two"}));
    let second = sync(&server, &alice, &[("filter", filter), ("since", token(&first))]);
    let joined = &second["rooms"]["join"][&id];
    assert_eq!(types(&joined["timeline"]["events"]), ["m.room.message", "m.room.topic"]);
    assert_eq!(joined["state"]["events"][0]["content"]["topic"], "one", "the state at the start of the timeline");
    assert_eq!(joined["state"]["events"].as_array().map(Vec::len), Some(1));

    let after = sync(&server, &alice, &[("filter", filter), ("since", token(&first)), ("use_state_after", "true")]);
    let joined = &after["rooms"]["join"][&id];
    assert_eq!(joined["state_after"]["events"][0]["content"]["topic"], "two");
    assert!(joined.get("state").is_none());

    let path = format!(
        "/_matrix/client/v3/rooms/{id}/messages?dir=b&from={}&to={}",
        second["rooms"]["join"][&id]["timeline"]["prev_batch"].as_str().expect("a token"),
        token(&first)
    );
    let gap = server.get(&alice, &path).ok();
    assert_eq!(types(&gap["chunk"]), ["m.room.message", "m.room.message", "m.room.topic"]);
}

#[test]
fn a_state_change_that_the_filter_keeps_from_the_timeline_is_in_the_state() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let filter = r#"{"room":{"timeline":{"not_types":["m.room.topic"]}}}"#;
    let first = sync(&server, &alice, &[("filter", filter)]);
    state(&server, &alice, &id, "m.room.topic", json!({"topic": "one"}));
    let second = sync(&server, &alice, &[("filter", filter), ("since", token(&first))]);
    assert_eq!(types(&second["rooms"]["join"][&id]["state"]["events"]), ["m.room.topic"]);
}

#[test]
fn invite_join_leave_and_forget_move_a_room_through_the_sections() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let start = sync(&server, &bob, &[]);
    let id = room(&server, &alice, json!({"name": "Garden", "invite": [bob.id]}));

    let invited = next(&server, &bob, &start);
    let stripped = &invited["rooms"]["invite"][&id]["invite_state"]["events"];
    for kind in ["m.room.create", "m.room.join_rules", "m.room.name", "m.room.member"] {
        assert!(types(stripped).contains(&kind), "{kind} is missing: {stripped}");
    }
    let own = stripped.as_array().and_then(|events| events.iter().find(|event| event["state_key"] == bob.id.as_str())).expect("the invite itself");
    assert_eq!((own["content"]["membership"].as_str(), own["sender"].as_str()), (Some("invite"), Some(alice.id.as_str())));
    assert!(own.get("event_id").is_none());
    assert!(invited["rooms"]["join"][&id].is_null());

    join(&server, &bob, &id);
    let joined = next(&server, &bob, &invited);
    assert!(joined["rooms"]["invite"].is_null());
    let room = &joined["rooms"]["join"][&id];
    assert_eq!(types(&room["timeline"]["events"])[0], "m.room.create", "a room newly joined is sent in full: {room}");

    send(&server, &alice, &id, "1", "before");
    act(&server, &bob, &id, "leave", json!({})).ok();
    send(&server, &alice, &id, "2", "after");
    let left = next(&server, &bob, &joined);
    assert!(left["rooms"]["join"].is_null());
    let room = &left["rooms"]["leave"][&id];
    assert_eq!(bodies(room), ["before"]);
    assert_eq!(room["timeline"]["events"][1]["content"]["membership"], "leave");
    assert!(next(&server, &bob, &left).get("rooms").is_none());

    assert!(sync(&server, &bob, &[])["rooms"].is_null(), "left rooms are not in an initial sync");
    let filter = r#"{"room":{"include_leave":true}}"#;
    assert!(bodies(&sync(&server, &bob, &[("filter", filter)])["rooms"]["leave"][&id]).contains(&"before"));
    act(&server, &bob, &id, "forget", json!({})).ok();
    assert!(sync(&server, &bob, &[("filter", filter)])["rooms"].is_null());
    assert!(next(&server, &bob, &left)["rooms"].is_null(), "a forgotten room vanishes");
    // For a device that has not heard of it yet.
    let departure = next(&server, &bob, &joined);
    assert_eq!(types(&departure["rooms"]["leave"][&id]["timeline"]["events"]), ["m.room.member"], "{departure}");
}

/// The leaving came in the timeline although its filter did not let member events through.
#[test]
fn a_room_one_has_left_shows_what_the_filters_let_through() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = public(&server, &alice);
    join(&server, &bob, &id);
    let since = sync(&server, &bob, &[]);
    send(&server, &alice, &id, "1", "before");
    state(&server, &alice, &id, "org.example.test", json!({"n": 1}));
    act(&server, &bob, &id, "leave", json!({})).ok();
    send(&server, &alice, &id, "2", "after");
    state(&server, &alice, &id, "org.example.test", json!({"n": 2}));
    let left = |timeline: Value, state: Value, since: Option<&Value>| {
        let filter = json!({"room": {"timeline": timeline, "state": state, "include_leave": true}}).to_string();
        let mut parameters = vec![("filter", filter.as_str())];
        parameters.extend(since.map(|since| ("since", token(since))));
        let room = sync(&server, &bob, &parameters)["rooms"]["leave"][&id].take();
        let of = |events: &Value| types(events).into_iter().map(str::to_owned).collect::<Vec<_>>();
        (of(&room["timeline"]["events"]), of(&room["state"]["events"]), room)
    };
    for since in [None, Some(&since)] {
        let types = json!({"types": ["m.room.message", "org.example.test"]});
        let (timeline, state, room) = left(types, json!({"types": ["org.example.test"]}), since);
        assert_eq!((timeline, state), (vec!["m.room.message".to_owned(), "org.example.test".to_owned()], vec![]));
        assert_eq!(room["timeline"]["events"][1]["content"], json!({"n": 1}));
        for timeline in [json!({"types": ["m.room.message"]}), json!({"limit": 0})] {
            let (timeline, _, room) = left(timeline, json!({}), since);
            assert!(!timeline.contains(&"m.room.member".to_owned()));
            let events = room["state"]["events"].as_array().expect("a state");
            let own = events.iter().find(|event| event["state_key"] == bob.id.as_str()).expect("the leaving is in the state");
            assert_eq!(own["content"]["membership"], "leave");
            let test = events.iter().find(|event| event["type"] == "org.example.test").expect("the state at the leaving");
            assert_eq!(test["content"], json!({"n": 1}));
        }
    }
}

#[test]
fn a_rejected_invite_is_taken_back() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({"invite": [bob.id]}));
    let invited = sync(&server, &bob, &[]);
    assert!(!invited["rooms"]["invite"][&id].is_null());
    act(&server, &bob, &id, "leave", json!({})).ok();
    let rejected = next(&server, &bob, &invited);
    let events = &rejected["rooms"]["leave"][&id]["timeline"]["events"];
    assert_eq!((events.as_array().map(Vec::len), events[0]["content"]["membership"].as_str()), (Some(1), Some("leave")));
}

#[test]
fn who_comes_back_gets_the_room_in_full() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = public(&server, &alice);
    join(&server, &bob, &id);
    act(&server, &bob, &id, "leave", json!({})).ok();
    let gone = sync(&server, &bob, &[]);
    state(&server, &alice, &id, "m.room.topic", json!({"topic": "new"}));
    join(&server, &bob, &id);
    let filter = r#"{"room":{"timeline":{"limit":1}}}"#;
    let back = sync(&server, &bob, &[("since", token(&gone)), ("filter", filter)]);
    let room = &back["rooms"]["join"][&id];
    assert_eq!(room["timeline"]["limited"], true);
    assert!(types(&room["state"]["events"]).contains(&"m.room.create") && types(&room["state"]["events"]).contains(&"m.room.topic"));
}

/// The events of an earlier stay came a second time, in a timeline that claimed to go on where the
/// client's had ended.
#[test]
fn who_came_back_and_left_again_meanwhile_gets_a_timeline_that_begins_anew() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = public(&server, &alice);
    let filter = r#"{"room":{"timeline":{"limit":50}}}"#;
    let stay = |since: &Value| {
        join(&server, &bob, &id);
        act(&server, &bob, &id, "leave", json!({})).ok();
        sync(&server, &bob, &[("filter", filter), ("since", token(since))])
    };
    let first = stay(&sync(&server, &bob, &[]));
    assert_eq!(first["rooms"]["leave"][&id]["timeline"]["limited"], false, "the client had nothing of it");
    let second = stay(&first);
    assert_eq!(second["rooms"]["leave"][&id]["timeline"]["limited"], true);
}

/// A room that was new to a client claimed to be whole although the filter had kept back how it
/// began, and there was no token to ask for it.
#[test]
fn the_timeline_of_a_room_just_joined_is_limited_when_there_is_something_before_it() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = public(&server, &alice);
    send(&server, &alice, &id, "1", "one");
    let since = sync(&server, &bob, &[]);
    send(&server, &alice, &id, "2", "two");
    join(&server, &bob, &id);
    let timeline = |filter: &str| {
        let answer = sync(&server, &bob, &[("since", token(&since)), ("filter", filter)]);
        let room = &answer["rooms"]["join"][&id];
        assert_eq!(bodies(room), ["one", "two"]);
        (room["timeline"]["limited"].clone(), room["timeline"]["prev_batch"].clone())
    };
    let (limited, before) = timeline(r#"{"room":{"timeline":{"limit":50}}}"#);
    assert_eq!(limited, false, "it is all there");
    let before = before.as_str().expect("a token");
    let earlier = server.get(&bob, &format!("/_matrix/client/v3/rooms/{id}/messages?dir=b&from={before}")).ok();
    assert_eq!((&earlier["chunk"], &earlier["end"]), (&json!([]), &Value::Null), "and nothing is before it");
    let (limited, before) = timeline(r#"{"room":{"timeline":{"limit":50,"types":["m.room.message"]}}}"#);
    assert_eq!(limited, true);
    let before = before.as_str().expect("a token");
    let earlier = server.get(&bob, &format!("/_matrix/client/v3/rooms/{id}/messages?dir=b&from={before}")).ok();
    assert_eq!(types(&earlier["chunk"]).last(), Some(&"m.room.create"));
    assert_eq!(bodies(&json!({ "timeline": { "events": earlier["chunk"] } })), [] as [&str; 0]);
}

#[test]
fn a_held_sync_answers_when_something_happens_and_when_its_time_is_over() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = public(&server, &alice);
    join(&server, &bob, &id);
    let since = sync(&server, &bob, &[]);
    let held = server.start("GET", &query(&[("since", token(&since)), ("timeout", "20000")]), Some(&bob.token), None);
    let path = format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/t");
    let sent = server.start("PUT", &path, Some(&alice.token), Some(json!({"msgtype": "m.text", "body": "wake up"})));
    let before = server.now();
    let (held, _) = server.run(futures_util::future::join(held, sent));
    assert_eq!(bodies(&held.ok()["rooms"]["join"][&id]), ["wake up"]);
    assert_eq!(server.now(), before, "no timer had to end");

    let since = sync(&server, &bob, &[]);
    let answer = sync(&server, &bob, &[("since", token(&since)), ("timeout", "20000")]);
    assert_eq!(server.now(), before + 20_000);
    assert!(answer["rooms"].is_null());
    sync(&server, &bob, &[("since", token(&answer)), ("timeout", "9000000")]);
    assert_eq!(server.now(), before + 45_000, "held no longer than the server holds");
    assert_eq!(server.hs.status().waiting, 0);
}

#[test]
fn a_server_about_to_stop_holds_nothing() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let since = sync(&server, &alice, &[]);
    let before = server.now();
    let held = server.start("GET", &query(&[("since", token(&since)), ("timeout", "20000")]), Some(&alice.token), None);
    let hs = server.hs.clone();
    let (held, ()) = server.run(futures_util::future::join(held, async move { hs.set_holding(false) }));
    assert_eq!(held.ok()["next_batch"], since["next_batch"]);
    assert_eq!(server.now(), before);
}

#[test]
fn tokens_mean_the_same_after_a_restart_and_wrong_ones_are_told() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let since = sync(&server, &alice, &[]);
    send(&server, &alice, &id, "1", "hello");
    let server = server.restart();
    assert_eq!(bodies(&next(&server, &alice, &since)["rooms"]["join"][&id]), ["hello"]);
    server.get(&alice, &query(&[("since", "nonsense")])).fails(400, "M_INVALID_PARAM");
    server.get(&alice, &query(&[("filter", "{}x")])).fails(400, "M_NOT_JSON");
    server.get(&alice, &query(&[("filter", "77")])).fails(400, "M_INVALID_PARAM");
    let future = token(&since).replacen('s', "s99", 1);
    let anew = sync(&server, &alice, &[("since", &future)]);
    assert!(types(&anew["rooms"]["join"][&id]["timeline"]["events"]).contains(&"m.room.create"), "one from the future begins anew");
}

/// Who had read a hundred threads of a room had a hundred receipts read in every sync of it.
#[test]
fn an_incremental_sync_of_a_thousand_rooms_reads_what_changed() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let rooms: Vec<String> = (0..1000).map(|_| public(&server, &alice)).collect();
    for room in &rooms {
        join(&server, &bob, room);
    }
    let busy = &rooms[500];
    let in_thread = |root: &str, txn: &str| {
        let content = json!({"msgtype": "m.text", "body": txn, "m.relates_to": {"rel_type": "m.thread", "event_id": root}});
        let sent = server.put(&alice, &format!("/_matrix/client/v3/rooms/{busy}/send/m.room.message/{txn}"), content).ok();
        sent["event_id"].as_str().expect("an id").to_owned()
    };
    let read = |event: &str, root: &str| act(&server, &bob, busy, &format!("receipt/m.read/{event}"), json!({"thread_id": root})).ok();
    let roots: Vec<String> = (0..100).map(|n| send(&server, &alice, busy, &format!("root{n}"), "root")).collect();
    for (n, root) in roots.iter().enumerate() {
        read(&in_thread(root, &format!("reply{n}")), root);
    }
    read(&roots[99], "main");
    let since = sync(&server, &bob, &[]);
    assert_eq!(unread(&since, busy), (0, 0));
    assert_eq!(since["rooms"]["join"].as_object().map(serde_json::Map::len), Some(1000));
    let keys_of = |since: &Value| {
        let before = server.store.stats().keys_read;
        (next(&server, &bob, since), server.store.stats().keys_read - before)
    };
    let (nothing, idle) = keys_of(&since);
    assert!(nothing["rooms"].is_null());
    assert!(idle <= 4, "nothing new: {idle} keys read");

    send(&server, &alice, busy, "1", "one");
    let (answer, keys) = keys_of(&since);
    assert_eq!(bodies(&answer["rooms"]["join"][busy]), ["one"]);
    assert_eq!(answer["rooms"]["join"].as_object().map(serde_json::Map::len), Some(1));
    assert_eq!(unread(&answer, busy), (1, 0));
    assert!(keys <= 20, "one new event: {keys} keys read");

    let reply = in_thread(&roots[7], "reply");
    read(&reply, &roots[7]);
    let (answer, keys) = keys_of(&answer);
    assert_eq!(unread(&answer, busy), (1, 0), "the thread has been read, the main timeline not");
    assert!(keys <= 24, "a receipt more: {keys} keys read");
}

#[test]
fn a_client_that_was_away_long_gets_what_changed_in_each_room() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let (quiet, busy) = (public(&server, &alice), public(&server, &alice));
    for id in [&quiet, &busy] {
        join(&server, &bob, id);
    }
    let read = send(&server, &bob, &quiet, "0", "x");
    let since = sync(&server, &bob, &[]);
    for n in 0..2100 {
        send(&server, &alice, &busy, &n.to_string(), &n.to_string());
    }
    act(&server, &alice, &quiet, &format!("receipt/m.read/{read}"), json!({})).ok();
    let answer = next(&server, &bob, &since);
    assert_eq!(bodies(&answer["rooms"]["join"][&busy]).last(), Some(&"2099"));
    assert_eq!(receipts(&answer, &quiet).as_array().map(Vec::len), Some(1));
    assert_eq!(answer["rooms"]["join"][&quiet]["timeline"]["events"], json!([]), "{}", answer["rooms"]["join"][&quiet]);
    assert_eq!(unread(&answer, &busy).0, 2000, "counted no further");
}

#[test]
fn only_the_fields_that_are_asked_for() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    send(&server, &alice, &id, "1", "hello");
    let filter = r#"{"event_fields":["content.body","type"],"room":{"timeline":{"types":["m.room.message"]}}}"#;
    let answer = sync(&server, &alice, &[("filter", filter)]);
    assert_eq!(answer["rooms"]["join"][&id]["timeline"]["events"], json!([{"type": "m.room.message", "content": {"body": "hello"}}]));
}

#[test]
fn ignored_users_are_not_heard_but_their_state_counts() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = public(&server, &alice);
    join(&server, &bob, &id);
    let path = format!("/_matrix/client/v3/user/{}/account_data/m.ignored_user_list", alice.id);
    server.put(&alice, &path, json!({"ignored_users": {&bob.id: {}}})).ok();
    let first = sync(&server, &alice, &[]);
    send(&server, &bob, &id, "1", "hello?");
    act(&server, &bob, &id, "leave", json!({})).ok();
    let second = next(&server, &alice, &first);
    assert_eq!(types(&second["rooms"]["join"][&id]["timeline"]["events"]), ["m.room.member"]);
    room(&server, &bob, json!({"invite": [alice.id]}));
    assert!(next(&server, &alice, &second)["rooms"].is_null(), "nor do their invites arrive");
}

#[test]
fn a_room_that_everybody_forgot_is_no_part_of_any_sync() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let since = sync(&server, &alice, &[]);
    act(&server, &alice, &id, "leave", json!({})).ok();
    act(&server, &alice, &id, "forget", json!({})).ok();
    let filter = r#"{"room":{"include_leave":true}}"#;
    for server in [&server, &TestServer::with(server.store.clone(), crate::support::config())] {
        assert!(next(server, &alice, &since)["rooms"].is_null());
        assert!(sync(server, &alice, &[("filter", filter)])["rooms"].is_null());
    }
}
