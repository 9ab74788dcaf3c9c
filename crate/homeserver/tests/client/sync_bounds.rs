//! What a sync may cost whatever others do, and what it must not miss while they do it.

use crate::{
    rooms::{room, send},
    slow::SlowStore,
    support::{TestServer, TestUser, config, turn},
    sync::query,
};
use futures_util::future::join;
use serde_json::{Value, json};
use std::{rc::Rc, time::Duration};

fn token(answer: &Value) -> String {
    answer["next_batch"].as_str().expect("every sync has a next_batch").to_owned()
}

#[track_caller]
fn sync(server: &TestServer, user: &TestUser, since: &Value) -> Value {
    server.get(user, &query(&[("since", &token(since))])).ok()
}

fn public(server: &TestServer, owner: &TestUser, others: &[&TestUser]) -> String {
    let id = room(server, owner, json!({ "preset": "public_chat" }));
    for user in others {
        server.post(user, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    }
    id
}

fn bodies(room: &Value) -> Vec<&str> {
    let events = room["timeline"]["events"].as_array();
    events.map(|events| events.iter().filter_map(|event| event["content"]["body"].as_str()).collect()).unwrap_or_default()
}

/// A room of many events takes its positions some thousands behind the others, and for a while
/// every sync looked at each of its user's rooms.
#[test]
fn after_a_room_of_many_events_was_made_a_sync_reads_what_changed() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let rooms: Vec<String> = (0..100).map(|_| public(&server, &alice, &[])).collect();
    let since = server.get(&alice, &query(&[])).ok();
    let initial_state: Vec<Value> = (0..100).map(|n| json!({ "type": "org.example", "state_key": format!("{n}"), "content": {} })).collect();
    room(&server, &bob, json!({ "initial_state": initial_state }));
    send(&server, &alice, &rooms[50], "1", "one");
    let made = server.store.stats().keys_read;
    let answer = sync(&server, &alice, &since);
    let read = server.store.stats().keys_read - made;
    assert_eq!(bodies(&answer["rooms"]["join"][&rooms[50]]), ["one"]);
    // The changes themselves are a hundred.
    assert!(read <= 107 + 20, "{read} keys read");
    // The list goes on to be kept as well, also past the next clearing.
    server.host.advance(Duration::from_secs(2 * 3600));
    for _ in 0..2 {
        server.get(&alice, &query(&[])).ok();
    }
    let before = server.store.stats().keys_read;
    sync(&server, &alice, &since);
    let read = server.store.stats().keys_read - before;
    assert!(read <= 107 + 20, "{read} keys read");
}

/// Who was thrown out of a room while a sync was on its way was never told what had happened there
/// before.
#[test]
fn a_leave_that_falls_into_a_sync_hides_nothing_that_came_before() {
    for delay in 0..60 {
        let server = TestServer::with(Rc::new(SlowStore::default()), config());
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        let id = public(&server, &alice, &[&bob]);
        let since = server.get(&bob, &query(&[])).ok();
        send(&server, &alice, &id, "1", "goodbye");
        let kick = server.start("POST", &format!("/_matrix/client/v3/rooms/{id}/kick"), Some(&alice.token), Some(json!({ "user_id": bob.id })));
        let during = server.start("GET", &query(&[("since", &token(&since))]), Some(&bob.token), None);
        let kick = async move {
            for _ in 0..delay {
                turn().await;
            }
            kick.await.ok()
        };
        let (_, first) = server.run(join(kick, during));
        let first = first.ok();
        let second = sync(&server, &bob, &first);
        let told: Vec<&str> = [&first, &second]
            .into_iter()
            .flat_map(|answer| bodies(&answer["rooms"]["join"][&id]).into_iter().chain(bodies(&answer["rooms"]["leave"][&id])))
            .collect();
        assert_eq!(told, ["goodbye"], "{delay}");
        let left = [&first, &second].into_iter().filter(|answer| answer["rooms"]["leave"][&id].is_object()).count();
        assert_eq!(left, 1, "{delay}");
    }
}

/// Every login woke every sync that was held on the server.
#[test]
fn a_new_device_wakes_those_who_share_a_room_and_nobody_else() {
    let server = TestServer::with(Rc::new(ephapse_store::MemoryStore::new()), ephapse_homeserver::Config { presence: false, ..config() });
    let (alice, bob, carol) = (server.register("alice"), server.register("bob"), server.register("carol"));
    public(&server, &alice, &[&bob]);
    public(&server, &carol, &[]);
    let login = json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "bob" }, "password": crate::support::PASSWORD,
    });
    let held = |user: &TestUser| {
        let since = server.get(user, &query(&[])).ok();
        let held = server.start("GET", &query(&[("since", &token(&since)), ("timeout", "20000")]), Some(&user.token), None);
        let login = server.start("POST", "/_matrix/client/v3/login", None, Some(login.clone()));
        let host = server.host.clone();
        let begun = server.now();
        let other = async move {
            ephapse_homeserver::Host::sleep(&*host, Duration::from_secs(1)).await;
            login.await.ok();
        };
        let (answer, ()) = server.run(join(held, other));
        (server.now() - begun, answer.ok()["device_lists"]["changed"].clone())
    };
    assert_eq!(held(&alice), (1_000, json!([bob.id])));
    let (store, before) = (server.store.clone(), server.store.stats().keys_read);
    assert_eq!(held(&carol), (20_000, Value::Null));
    let read = store.stats().keys_read - before;
    assert!(read < 60, "{read} keys read: she did not look again and again");
}

#[test]
fn the_cost_of_presence_does_not_grow_with_the_rooms_of_others() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    public(&server, &alice, &[]);
    for _ in 0..300 {
        public(&server, &bob, &[]);
    }
    let offline = |user: &TestUser, since: Option<&str>| {
        let mut parameters = vec![("set_presence", "offline")];
        parameters.extend(since.map(|since| ("since", since)));
        server.get(user, &query(&parameters)).ok()
    };
    let since = token(&offline(&alice, None));
    server.put(&bob, &format!("/_matrix/client/v3/presence/{}/status", bob.id), json!({ "presence": "online", "status_msg": "here" })).ok();
    let server = server.restart();
    let before = server.store.stats().keys_read;
    let answer = server.get(&alice, &query(&[("set_presence", "offline"), ("since", &since)])).ok();
    let read = server.store.stats().keys_read - before;
    assert_eq!(answer["presence"], Value::Null);
    assert!(read < 100, "{read} keys read");
}

#[test]
fn large_events_are_read_and_counted_in_turns_with_others() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = public(&server, &alice, &[&bob]);
    let since = server.get(&alice, &query(&[])).ok();
    let large = "x".repeat(60_000);
    for n in 0..60 {
        send(&server, &bob, &id, &n.to_string(), &large);
    }
    let server = server.restart();
    let before = server.host.yielded.get();
    let answer = sync(&server, &alice, &since);
    let yields = server.host.yielded.get() - before;
    assert_eq!(answer["rooms"]["join"][&id]["unread_notifications"]["notification_count"], 60);
    assert!(yields >= 12, "{yields} yields");
}

#[test]
fn a_filter_names_so_much_and_no_more() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = public(&server, &alice, &[]);
    send(&server, &alice, &id, "1", "hello");
    let fields: Vec<String> = (0..500).map(|n| format!("f{n}")).chain(["content.body".to_owned()]).collect();
    let types: Vec<String> = (0..498).map(|n| format!("t{n}")).chain(["m.room.message".to_owned()]).collect();
    let mut filter = json!({ "event_fields": fields, "room": { "timeline": { "types": types } } });
    let answer = server.get(&alice, &query(&[("filter", &filter.to_string())])).ok();
    assert_eq!(answer["rooms"]["join"][&id]["timeline"]["events"], json!([{ "content": { "body": "hello" } }]));
    filter["room"]["rooms"] = json!([id]);
    server.get(&alice, &query(&[("filter", &filter.to_string())])).fails(400, "M_INVALID_PARAM");
    server.post(&alice, &format!("/_matrix/client/v3/user/{}/filter", alice.id), filter).fails(400, "M_INVALID_PARAM");
}

/// Each event id was taken for a thread, and with a redacted event any text at all: everybody's
/// syncs carried the receipts.
#[test]
fn receipts_are_kept_apart_by_threads_that_there_are() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = public(&server, &alice, &[&bob]);
    let root = send(&server, &alice, &id, "1", "root");
    let receipt = |event: &str, thread: &str| {
        server.post(&bob, &format!("/_matrix/client/v3/rooms/{id}/receipt/m.read/{event}"), json!({ "thread_id": thread }))
    };
    receipt(&root, &root).fails(400, "M_INVALID_PARAM");
    let content = json!({ "msgtype": "m.text", "body": "reply", "m.relates_to": { "rel_type": "m.thread", "event_id": root } });
    let reply = server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/2"), content).ok();
    let reply = reply["event_id"].as_str().expect("an id").to_owned();
    receipt(&root, &root).ok();
    receipt(&reply, &root).ok();
    let redacted = send(&server, &alice, &id, "3", "oops");
    server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/redact/{redacted}/4"), json!({})).ok();
    receipt(&redacted, "$made:up").fails(400, "M_INVALID_PARAM");
    receipt(&redacted, &root).ok();
    let answer = server.get(&alice, &query(&[])).ok();
    assert_eq!(answer["rooms"]["join"][&id]["ephemeral"]["events"].as_array().map(Vec::len), Some(1));
}
