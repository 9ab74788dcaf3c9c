//! A room from its creation to a message read by somebody else.

use crate::{
    slow::SlowStore,
    support::{TestServer, TestUser, config},
};
use serde_json::{Value, json};

/// A room that `owner` made, with its id encoded for paths.
pub fn room(server: &TestServer, owner: &TestUser, request: Value) -> String {
    let body = server.post(owner, "/_matrix/client/v3/createRoom", request).ok();
    body["room_id"].as_str().expect("a room id").to_owned()
}

pub fn send(server: &TestServer, user: &TestUser, room: &str, txn: &str, body: &str) -> String {
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{txn}");
    server.put(user, &path, json!({ "msgtype": "m.text", "body": body })).ok()["event_id"].as_str().expect("an event id").to_owned()
}

#[test]
fn a_room_of_every_version_is_made_joined_written_in_and_read() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    for version in 1..=12 {
        let id = room(&server, &alice, json!({ "room_version": version.to_string(), "preset": "private_chat", "name": "Room", "invite": [bob.id] }));
        server.get(&bob, &format!("/_matrix/client/v3/rooms/{id}/messages?dir=b")).fails(403, "M_FORBIDDEN");
        server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
        let sent = send(&server, &alice, &id, "t1", "hello");
        let page = server.get(&bob, &format!("/_matrix/client/v3/rooms/{id}/messages?dir=b&limit=1")).ok();
        assert_eq!(page["chunk"][0]["event_id"], sent.as_str(), "version {version}");
        assert_eq!(page["chunk"][0]["content"]["body"], "hello");
        let create = server.get(&bob, &format!("/_matrix/client/v3/rooms/{id}/state/m.room.create/")).ok();
        assert_eq!(create["room_version"], version.to_string());
    }
}

#[test]
fn the_same_transaction_makes_one_event_also_at_once_and_after_a_restart() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let path = format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/once");
    let one = server.start("PUT", &path, Some(&alice.token), Some(json!({ "body": "x" })));
    let two = server.start("PUT", &path, Some(&alice.token), Some(json!({ "body": "x" })));
    let (one, two) = server.run(async move { futures_util::join!(one, two) });
    let event = one.ok()["event_id"].clone();
    assert_eq!(two.ok()["event_id"], event);
    let server = server.restart();
    assert_eq!(server.put(&alice, &path, json!({ "body": "x" })).ok()["event_id"], event);
    let page = server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/messages?dir=b&limit=100")).ok();
    let messages: Vec<_> = page["chunk"].as_array().expect("a chunk").iter().filter(|event| event["type"] == "m.room.message").collect();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0]["unsigned"]["transaction_id"], "once");
}

#[test]
fn a_transaction_is_remembered_for_seven_days() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let first = send(&server, &alice, &id, "t1", "hello");
    server.host.advance(std::time::Duration::from_secs(6 * 24 * 3600));
    assert_eq!(send(&server, &alice, &id, "t1", "hello"), first);
    server.host.advance(std::time::Duration::from_secs(2 * 24 * 3600));
    // The first request begins to clear up, beside its own work.
    send(&server, &alice, &id, "t2", "other");
    assert_ne!(send(&server, &alice, &id, "t1", "hello"), first);
}

#[test]
fn a_redaction_takes_the_content_away_and_says_why() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    for version in ["1", "10", "11", "12"] {
        let id = room(&server, &alice, json!({ "preset": "public_chat", "room_version": version }));
        server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
        let sent = send(&server, &alice, &id, "t1", "a secret");
        let redact = format!("/_matrix/client/v3/rooms/{id}/redact/{sent}/r1");
        server.put(&bob, &redact, json!({})).fails(403, "M_FORBIDDEN");
        let redaction = server.put(&alice, &redact, json!({ "reason": "oops" })).ok()["event_id"].clone();
        let event = server.get(&bob, &format!("/_matrix/client/v3/rooms/{id}/event/{sent}")).ok();
        assert_eq!(event["content"], json!({}), "version {version}");
        let because = &event["unsigned"]["redacted_because"];
        assert_eq!((&because["event_id"], &because["content"]["reason"]), (&redaction, &json!("oops")));
        assert_eq!((&because["redacts"], &because["content"]["redacts"]), (&json!(sent), &json!(sent)));
    }
}

#[test]
fn pages_in_both_directions_meet_and_hold_every_event_once() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    for number in 0..25 {
        send(&server, &alice, &id, &format!("t{number}"), &number.to_string());
    }
    let read = |dir: &str, limit: usize| {
        let (mut ids, mut from) = (Vec::new(), String::new());
        loop {
            let page = server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/messages?dir={dir}&limit={limit}{from}")).ok();
            ids.extend(page["chunk"].as_array().expect("a chunk").iter().map(|event| event["event_id"].as_str().expect("an id").to_owned()));
            match page["end"].as_str() {
                Some(end) => from = format!("&from={end}"),
                None => return ids,
            }
        }
    };
    let mut back = read("b", 7);
    back.reverse();
    assert_eq!(back, read("f", 3));
    assert!(back.len() > 30);
}

#[test]
fn a_send_reads_few_keys_in_a_room_of_any_size() {
    // Keys read by the first send after a start, which finds nothing in memory, and by a later one.
    let reads = |members: usize| {
        let server = TestServer::new();
        let alice = server.register("alice");
        let id = room(&server, &alice, json!({ "preset": "public_chat" }));
        for number in 0..members {
            let user = server.register(&format!("user{number}"));
            server.post(&user, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
        }
        let server = server.restart();
        let read_by = |txn: &str| {
            let before = server.store.stats().keys_read;
            send(&server, &alice, &id, txn, "hello");
            server.store.stats().keys_read - before
        };
        let cold = read_by("t1");
        // What is done behind the first answer reads as well.
        read_by("t2");
        (cold, read_by("t3"))
    };
    let (small, large) = (reads(5), reads(120));
    assert!(large.0 <= small.0 + 4 && large.0 <= 24 && large.1 <= 12, "(cold, warm): {small:?} among 5 members, {large:?} among 120");
}

#[test]
fn an_initial_state_that_breaks_the_rules_is_refused_whole() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let wrong = json!({ "initial_state": [{ "type": "m.room.power_levels", "content": { "users": { "not a user": 5 } } }] });
    server.post(&alice, "/_matrix/client/v3/createRoom", wrong).fails(400, "M_INVALID_ROOM_STATE");
    assert_eq!(server.get(&alice, "/_matrix/client/v3/joined_rooms").ok()["joined_rooms"], json!([]));
    server.post(&alice, "/_matrix/client/v3/createRoom", json!({ "room_version": "99" })).fails(400, "M_UNSUPPORTED_ROOM_VERSION");
}

#[test]
fn forgetting_a_room_frees_its_storage() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let empty = server.store.stats().bytes_stored;
    let id = room(&server, &alice, json!({ "room_alias_name": "den" }));
    for number in 0..20 {
        send(&server, &alice, &id, &format!("t{number}"), "words that take space");
    }
    let account_data = format!("/_matrix/client/v3/user/{}/rooms/{id}/account_data/org.example.notes", alice.id);
    server.put(&alice, &account_data, json!({ "notes": "words that take space".repeat(5_000) })).ok();
    let full = server.store.stats().bytes_stored;
    server.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/forget"), json!({})).fails(400, "M_UNKNOWN");
    server.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/leave"), json!({})).ok();
    server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/messages?dir=b")).ok();
    server.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/forget"), json!({})).ok();
    server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/messages?dir=b")).fails(403, "M_FORBIDDEN");
    server.get(&alice, "/_matrix/client/v3/directory/room/%23den:test.example").fails(404, "M_NOT_FOUND");
    let freed = full - server.store.stats().bytes_stored;
    assert!(freed * 2 > full - empty, "{freed} bytes freed of {}", full - empty);
}

/// `initial_state` that bans users.
fn banned(users: impl Iterator<Item = String>) -> Vec<Value> {
    users.map(|user| json!({ "type": "m.room.member", "state_key": user, "content": { "membership": "ban" } })).collect()
}

#[test]
fn a_room_of_many_members_is_deleted_in_turns() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({ "initial_state": banned((0..1_100).map(|n| format!("@u{n}:other.example"))) }));
    let full = server.store.stats().bytes_stored;
    server.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/leave"), json!({})).ok();
    let before = server.host.yielded.get();
    server.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/forget"), json!({})).ok();
    let yields = server.host.yielded.get() - before;
    // Three times 500 and less: members looked at, members and events deleted.
    assert!(yields >= 2 + 3 + 3, "{yields} yields");
    let rest = server.store.stats().bytes_stored;
    assert!(rest < full / 3, "{rest} bytes left of {full}");
}

/// The sync had found the room among the user's before it was gone.
#[test]
fn a_sync_passes_over_a_room_that_is_forgotten_meanwhile() {
    let server = TestServer::with(std::rc::Rc::new(SlowStore::default()), config());
    let alice = server.register("alice");
    let filter = "%7B%22room%22%3A%7B%22include_leave%22%3Atrue%7D%7D";
    let mut lost = 0;
    for turns in 0..40 {
        let id = room(&server, &alice, json!({ "name": "den" }));
        server.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/leave"), json!({})).ok();
        // Nothing of it in memory.
        let sync = server.start("GET", &format!("/_matrix/client/v3/sync?filter={filter}"), Some(&alice.token), None);
        let forget = server.start("POST", &format!("/_matrix/client/v3/rooms/{id}/forget"), Some(&alice.token), Some(json!({})));
        let sync = async move {
            for _ in 0..turns {
                crate::support::turn().await;
            }
            sync.await
        };
        let (sync, forgotten) = server.run(futures_util::future::join(sync, forget));
        forgotten.ok();
        lost += u32::from(sync.ok()["rooms"]["leave"].get(&id).is_none());
    }
    assert!(lost > 0, "no sync was late");
}

#[test]
fn what_is_too_much_for_a_new_room_is_refused_as_too_large() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let create = |request: Value| server.post(&alice, "/_matrix/client/v3/createRoom", request).fails(413, "M_TOO_LARGE");
    create(json!({ "creation_content": { "org.example": "x".repeat(66_000) } }));
    create(json!({ "topic": "x".repeat(66_000) }));
    let before = server.store.stats().bytes_stored;
    create(json!({ "invite": (0..12_000).map(|n| format!("@u{n}:other.example")).collect::<Vec<_>>() }));
    assert_eq!(server.store.stats().bytes_stored, before, "none of them was looked up");
}

/// Numbers of users were asked for one by one, and everything signed again each time, when they did
/// not all fit into memory.
#[test]
fn a_new_room_of_many_long_names_is_made_once() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let names = banned((0..4_500).map(|n| format!("@{n}-{}:other.example", "x".repeat(230))));
    let before = server.host.yielded.get();
    let id = room(&server, &alice, json!({ "initial_state": names }));
    let yields = server.host.yielded.get() - before;
    // One for each 64 who are looked up, whose events are made, and whose events are stored.
    assert!(yields <= 3 * (4_500 / 64 + 1), "{yields} yields");
    let summary = server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/members?membership=ban")).ok();
    assert_eq!(summary["chunk"].as_array().map(Vec::len), Some(4_500));
}

#[test]
fn rooms_made_alike_in_the_same_millisecond_are_different_rooms() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let create = || server.start("POST", "/_matrix/client/v3/createRoom", Some(&alice.token), Some(json!({})));
    let (one, two) = (create(), create());
    let (one, two) = server.run(async move { futures_util::join!(one, two) });
    let mut ids = vec![one.ok()["room_id"].to_string(), two.ok()["room_id"].to_string()];
    // The clock stands still here, also across a restart.
    let server = server.restart();
    ids.push(json!(room(&server, &alice, json!({}))).to_string());
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

/// What `/sync` tells a user since a token, and the next token.
fn news(server: &TestServer, user: &TestUser, since: &str) -> (Value, String) {
    let answer = server.get(user, &format!("/_matrix/client/v3/sync?since={since}&timeout=0")).ok();
    let next = answer["next_batch"].as_str().expect("a token").to_owned();
    (answer["rooms"]["join"].clone(), next)
}

/// Making a thousand events took 200 ms in a browser, in which nobody else was answered.
#[test]
fn while_a_room_of_many_events_is_made_others_are_answered() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let hall = server.post(&bob, "/_matrix/client/v3/createRoom", json!({})).ok()["room_id"].as_str().expect("a room").to_owned();
    let since = |user: &TestUser| server.get(user, "/_matrix/client/v3/sync?timeout=0").ok()["next_batch"].as_str().expect("a token").to_owned();
    let (alice_since, bob_since) = (since(&alice), since(&bob));

    let before = server.host.yielded.get();
    let initial_state: Vec<Value> =
        (0..1_000).map(|n| json!({ "type": "org.example", "state_key": format!("{n}"), "content": { "n": n } })).collect();
    let body = json!({ "initial_state": initial_state, "invite": [bob.id] });
    // Two at once, since they must know of each other.
    let large = |_| server.start("POST", "/_matrix/client/v3/createRoom", Some(&alice.token), Some(body.clone()));
    let both = futures_util::future::join_all([0, 1].map(large));
    let sends: Vec<_> = (0..10)
        .map(|n| format!("/_matrix/client/v3/rooms/{hall}/send/m.room.message/{n}"))
        .map(|path| server.start("PUT", &path, Some(&bob.token), Some(json!({ "msgtype": "m.text", "body": "hello" }))))
        .collect();
    let small = server.start("POST", "/_matrix/client/v3/createRoom", Some(&bob.token), Some(json!({})));
    let sync = server.start("GET", &format!("/_matrix/client/v3/sync?since={alice_since}&timeout=0"), Some(&alice.token), None);
    let order = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let (of_large, of_others) = (order.clone(), order.clone());
    let large = async move {
        let rooms = both.await;
        of_large.borrow_mut().push("large");
        rooms
    };
    let others = async move {
        crate::support::turn().await;
        for send in sends {
            send.await.ok();
        }
        let small = small.await.ok()["room_id"].as_str().expect("a room").to_owned();
        let early = sync.await.ok()["next_batch"].as_str().expect("a token").to_owned();
        of_others.borrow_mut().push("others");
        (small, early)
    };
    let (rooms, (small, early)) = server.run(futures_util::future::join(large, others));
    assert_eq!(*order.borrow(), ["others", "large"]);
    let yields = server.host.yielded.get() - before;
    assert!(yields >= 2 * 2 * 1_000 / 64, "{yields} yields");

    // Who asked before, and who asked while they were made, is told of everything once.
    let rooms: Vec<String> = rooms.into_iter().map(|room| room.ok()["room_id"].as_str().expect("a room").to_owned()).collect();
    let (told, late) = news(&server, &alice, &early);
    for room in &rooms {
        let timeline = told[room]["timeline"]["events"].as_array().map_or(0, Vec::len);
        assert!(timeline > 0, "{told}");
        let state = server.get(&alice, &format!("/_matrix/client/v3/rooms/{room}/state")).ok();
        assert_eq!(state.as_array().map(Vec::len), Some(1_000 + 7));
    }
    assert_eq!(news(&server, &alice, &late).0, Value::Null);
    let (told, late) = news(&server, &bob, &bob_since);
    assert_eq!(told[&hall]["timeline"]["events"].as_array().map(Vec::len), Some(10));
    assert!(told[&small].is_object(), "{told}");
    assert_eq!(news(&server, &bob, &late).0, Value::Null);

    // What comes afterwards is newer than all of it, also after a restart.
    let server = server.restart();
    let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/later", rooms[0]);
    let sent = server.put(&alice, &path, json!({ "msgtype": "m.text", "body": "hello" })).ok();
    let (told, _) = news(&server, &alice, &alice_since);
    let timeline = told[&rooms[0]]["timeline"]["events"].as_array().expect("events").clone();
    assert_eq!(timeline.last().map(|event| &event["event_id"]), Some(&sent["event_id"]));
}
