//! Storage that fails, fills up and crashes under a server: what was acknowledged is there once and
//! in order, nothing else is claimed.

use crate::{
    rooms::room,
    support::{TestServer, TestUser, config},
};
use ephapse_store::{Store, StoreError, unreliable::UnreliableStore};
use futures_util::FutureExt;
use proptest::prelude::*;
use serde_json::json;
use std::rc::Rc;

fn server_on(store: &UnreliableStore) -> TestServer {
    TestServer::with(Rc::new(store.clone()), config())
}

fn path(room: &str, txn: usize) -> String {
    format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/t{txn}")
}

/// The bodies of a room's messages, in order.
fn bodies(server: &TestServer, user: &TestUser, room: &str) -> Vec<String> {
    let page = server.get(user, &format!("/_matrix/client/v3/rooms/{room}/messages?dir=f&limit=1000")).ok();
    let events = page["chunk"].as_array().expect("a chunk").iter();
    events.filter(|event| event["type"] == "m.room.message").map(|event| event["content"]["body"].as_str().expect("a body").to_owned()).collect()
}

#[test]
fn no_answer_leaves_before_what_it_says_is_durable() {
    let store = UnreliableStore::new();
    let server = server_on(&store);
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    store.hold();
    let mut sending = Box::pin(server.start("PUT", &path(&id, 1), Some(&alice.token), Some(json!({ "body": "1" }))));
    assert!((&mut sending).now_or_never().is_none(), "the event is not on disk yet");
    // A reader may build its answer on the event, but not send it.
    let mut reading = Box::pin(server.start("GET", &format!("/_matrix/client/v3/rooms/{id}/messages?dir=b&limit=1"), Some(&alice.token), None));
    assert!((&mut reading).now_or_never().is_none(), "the answer shows what could still be lost");
    store.release_all();
    server.run(sending).ok();
    assert_eq!(server.run(reading).ok()["chunk"][0]["content"]["body"], "1");
}

#[test]
fn a_failed_write_fails_whatever_was_built_on_it_and_the_next_ones_work() {
    let store = UnreliableStore::new();
    let server = server_on(&store);
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    server.put(&alice, &path(&id, 0), json!({ "body": "0" })).ok();
    store.hold();
    let start = |txn: usize| Box::pin(server.start("PUT", &path(&id, txn), Some(&alice.token), Some(json!({ "body": txn.to_string() }))));
    let mut sends: Vec<_> = (1..=4).map(start).collect();
    for send in &mut sends {
        assert!(send.now_or_never().is_none());
    }
    store.fail_next(StoreError::Platform("the disk is on fire".to_owned()));
    store.release_all();
    for send in sends {
        let answer = server.run(send);
        assert!(answer.status >= 500, "{answer:?}");
    }
    assert_eq!(bodies(&server, &alice, &id), ["0"]);
    for txn in 1..=4 {
        server.put(&alice, &path(&id, txn), json!({ "body": txn.to_string() })).ok();
    }
    assert_eq!(bodies(&server, &alice, &id), ["0", "1", "2", "3", "4"]);
    let server = server.restart();
    assert_eq!(bodies(&server, &alice, &id), ["0", "1", "2", "3", "4"]);
}

#[test]
fn at_the_quota_sends_are_refused_reads_go_on_and_forgetting_a_room_makes_space() {
    let store = UnreliableStore::new();
    let server = server_on(&store);
    let alice = server.register("alice");
    let (kept, old) = (room(&server, &alice, json!({})), room(&server, &alice, json!({})));
    for txn in 0..30 {
        server.put(&alice, &path(&old, txn), json!({ "body": "x".repeat(2000) })).ok();
    }
    store.set_quota(Some(server.store.stats().bytes_stored as usize + 10_000));
    let mut acknowledged = Vec::new();
    let refused = loop {
        let txn = acknowledged.len();
        let answer = server.put(&alice, &path(&kept, txn), json!({ "body": format!("{txn}{}", "y".repeat(1000)) }));
        match answer.status {
            200 => acknowledged.push(format!("{txn}{}", "y".repeat(1000))),
            _ => break answer,
        }
    };
    // Until not even the smallest fits.
    let mut txn = 5000;
    while server.put(&alice, &path(&old, txn), json!({})).status == 200 {
        txn += 1;
    }
    let body = refused.fails(403, "M_RESOURCE_LIMIT_EXCEEDED");
    assert!(body["admin_contact"].is_string());
    assert_eq!(bodies(&server, &alice, &kept), acknowledged);
    server.post(&alice, &format!("/_matrix/client/v3/rooms/{old}/leave"), json!({})).ok();
    server.post(&alice, &format!("/_matrix/client/v3/rooms/{old}/forget"), json!({})).ok();
    server.put(&alice, &path(&kept, 1000), json!({ "body": "z".repeat(1000) })).ok();
}

#[test]
fn at_the_quota_nothing_that_needs_room_is_acknowledged() {
    let store = UnreliableStore::new();
    let server = server_on(&store);
    let alice = server.register("alice");
    server.put(&alice, &format!("/_matrix/client/v3/profile/{}/displayname", alice.id), json!({ "displayname": "Alice" })).ok();
    store.set_quota(Some(0));
    let to_device = json!({ "messages": { &alice.id: { &alice.device: { "n": 1 } } } });
    for (path, body) in [
        ("/_matrix/client/v3/sendToDevice/org.example.test/t1".to_owned(), to_device),
        (format!("/_matrix/client/v3/user/{}/account_data/org.example.test", alice.id), json!({ "full": true })),
        (format!("/_matrix/client/v3/profile/{}/displayname", alice.id), json!({ "displayname": "Full" })),
    ] {
        server.put(&alice, &path, body).fails(403, "M_RESOURCE_LIMIT_EXCEEDED");
    }
    server.post(&alice, "/_matrix/client/v3/createRoom", json!({})).fails(403, "M_RESOURCE_LIMIT_EXCEEDED");
    let profile = server.get(&alice, &format!("/_matrix/client/v3/profile/{}", alice.id)).ok();
    assert_eq!(profile["displayname"], "Alice");
}

/// A refused write was once answered by whichever requests were under way at that moment: also by
/// one whose own write was stored.
#[test]
fn each_of_two_requests_at_once_is_told_of_its_own_write() {
    let store = UnreliableStore::new();
    let server = server_on(&store);
    let alice = server.register("alice");
    let (kept, old) = (room(&server, &alice, json!({})), room(&server, &alice, json!({})));
    server.post(&alice, &format!("/_matrix/client/v3/rooms/{old}/leave"), json!({})).ok();
    store.hold();
    let forget = format!("/_matrix/client/v3/rooms/{old}/forget");
    let mut stored = Box::pin(server.start("POST", &forget, Some(&alice.token), Some(json!({}))));
    assert!((&mut stored).now_or_never().is_none(), "it waits for the disk");
    store.set_full(true);
    let mut refused = Box::pin(server.start("PUT", &path(&kept, 1), Some(&alice.token), Some(json!({ "body": "1" }))));
    assert!((&mut refused).now_or_never().is_none(), "what it saw is still being written");
    store.release_all();
    server.run(stored).ok();
    server.run(refused).fails(403, "M_RESOURCE_LIMIT_EXCEEDED");
    store.set_full(false);
    assert_eq!(bodies(&server, &alice, &kept), Vec::<String>::new());
    server.get(&alice, &format!("/_matrix/client/v3/rooms/{old}/messages?dir=b")).fails(403, "M_FORBIDDEN");
    server.put(&alice, &path(&kept, 1), json!({ "body": "1" })).ok();
    let server = server.restart();
    assert_eq!(bodies(&server, &alice, &kept), ["1"]);
}

/// Whoever's event was stored was told that storage is full when another's was refused while they
/// waited for the disk.
#[test]
fn of_sends_at_once_at_the_quota_exactly_those_are_acknowledged_that_are_stored() {
    let store = UnreliableStore::new();
    let server = server_on(&store);
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    server.put(&alice, &path(&id, 0), json!({ "body": "0" })).ok();
    store.hold();
    let start = |txn: usize| Box::pin(server.start("PUT", &path(&id, txn), Some(&alice.token), Some(json!({ "body": txn.to_string() }))));
    let mut sends: Vec<_> = (1..=8).map(start).collect();
    for send in &mut sends {
        assert!(send.now_or_never().is_none());
    }
    // The first three fit.
    let mut acknowledged = vec!["0".to_owned()];
    let written = store.stats().commits + 3;
    while store.stats().commits < written {
        store.release(1);
    }
    store.set_quota(Some(0));
    store.release_all();
    for (txn, send) in (1..).zip(sends) {
        match server.run(send).status {
            200 => acknowledged.push(txn.to_string()),
            status => assert!([403, 503].contains(&status), "{status}"),
        }
    }
    store.set_quota(None);
    assert_eq!(acknowledged, ["0", "1", "2", "3"]);
    assert_eq!(bodies(&server, &alice, &id), acknowledged);
}

/// A request that only asks was answered 403 when a write failed that it happened to have seen.
#[test]
fn what_has_written_nothing_is_done_again_when_what_it_saw_is_lost() {
    let store = UnreliableStore::new();
    let server = server_on(&store);
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let name = |name: &str| {
        let body = json!({ "display_name": name });
        Box::pin(server.start("PUT", &format!("/_matrix/client/v3/devices/{}", alice.device), Some(&alice.token), Some(body)))
    };
    let keys = json!({ "device_keys": { "user_id": alice.id, "device_id": alice.device, "algorithms": [], "keys": {}, "signatures": {} } });
    server.post(&alice, "/_matrix/client/v3/keys/upload", keys);
    server.run(name("before")).ok();
    store.hold();
    let mut naming = name("after");
    assert!((&mut naming).now_or_never().is_none());
    let query = json!({ "device_keys": { &alice.id: [] } });
    let mut asking = Box::pin(server.start("POST", "/_matrix/client/v3/keys/query", Some(&bob.token), Some(query)));
    assert!((&mut asking).now_or_never().is_none(), "it has seen what is not on disk");
    store.fail_next(StoreError::QuotaExceeded);
    store.release_all();
    server.run(naming).fails(403, "M_RESOURCE_LIMIT_EXCEEDED");
    server.run(asking).ok();
}

/// A held sync waited until its timeout though what it had read was lost, and then that long again.
#[test]
fn a_held_sync_is_answered_when_a_write_fails_and_never_after_its_timeout() {
    let store = UnreliableStore::new();
    let server = server_on(&store);
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let since = server.get(&alice, "/_matrix/client/v3/sync").ok()["next_batch"].as_str().expect("a token").to_owned();
    let path = format!("/_matrix/client/v3/sync?timeout=20000&since={since}");
    let hold = || {
        let mut held = Box::pin(server.start("GET", &path, Some(&alice.token), None));
        assert!((&mut held).now_or_never().is_none(), "there is nothing to tell");
        (held, server.now())
    };
    let (held, begun) = hold();
    store.fail_next(StoreError::Platform("the disk is on fire".to_owned()));
    let answer = server.put(&bob, &format!("/_matrix/client/v3/user/{}/account_data/org.example.test", bob.id), json!({ "n": 1 }));
    assert!(answer.status >= 500, "{answer:?}");
    server.run(held).ok();
    assert!(server.now() - begun < 1000, "it waited {} ms", server.now() - begun);
    // No request has noticed this one.
    let (held, begun) = hold();
    store.fail_next(StoreError::Platform("the disk is on fire".to_owned()));
    let hs = server.hs.clone();
    server.run(async move { hs.set_max_upload(Some(1)).await }).expect_err("it was not written");
    server.run(held).ok();
    assert!(server.now() - begun <= 20_000, "it waited {} ms", server.now() - begun);
}

/// A message that a full store refused once stayed counted in memory, and the queue had a hole.
#[test]
fn to_device_messages_that_were_refused_leave_the_queue_as_it_was() {
    let store = UnreliableStore::new();
    let server = server_on(&store);
    let alice = server.register("alice");
    let send = |txn: usize| {
        let body = json!({ "messages": { &alice.id: { &alice.device: { "n": txn } } } });
        server.put(&alice, &format!("/_matrix/client/v3/sendToDevice/org.example.test/t{txn}"), body)
    };
    let first = server.get(&alice, "/_matrix/client/v3/sync").ok();
    send(1).ok();
    // A held sync keeps the queue in memory.
    let since = first["next_batch"].as_str().expect("a token");
    store.set_full(true);
    send(2).fails(403, "M_RESOURCE_LIMIT_EXCEEDED");
    store.set_full(false);
    send(3).ok();
    let status = server.hs.status();
    assert_eq!((status.streams[0].length, status.streams[0].consumers[0].lag), (2, 2));
    let seen = server.get(&alice, &format!("/_matrix/client/v3/sync?since={since}")).ok();
    let numbers: Vec<_> = seen["to_device"]["events"].as_array().expect("events").iter().map(|event| event["content"]["n"].clone()).collect();
    assert_eq!(numbers, [1, 3]);
}

/// More than a sync shows wait for a device, and storage is full: the rest must not count as
/// delivered.
#[test]
fn at_the_quota_no_to_device_message_counts_as_delivered() {
    let store = UnreliableStore::new();
    let server = server_on(&store);
    let alice = server.register("alice");
    for n in 0..150 {
        let body = json!({ "messages": { &alice.id: { &alice.device: { "n": n } } } });
        server.put(&alice, &format!("/_matrix/client/v3/sendToDevice/org.example.test/t{n}"), body).ok();
    }
    store.set_full(true);
    let (mut since, mut numbers) = (String::new(), Vec::new());
    for _ in 0..3 {
        let answer = server.get(&alice, &format!("/_matrix/client/v3/sync{since}")).ok();
        since = format!("?since={}", answer["next_batch"].as_str().expect("a token"));
        let events = answer["to_device"]["events"].as_array().cloned().unwrap_or_default();
        numbers.extend(events.iter().map(|event| event["content"]["n"].as_u64().expect("a number")));
    }
    assert_eq!(numbers, (0..150).collect::<Vec<_>>());
}

/// That messages had arrived was written into the room kept for what makes room. Where there was
/// none left, the store tried for five seconds and took reads back, so that the device's sync was
/// answered 403, again and again.
#[test]
fn a_sync_is_answered_where_not_even_its_acknowledgements_can_be_written() {
    let store = UnreliableStore::new();
    let server = server_on(&store);
    let alice = server.register("alice");
    for n in 0..450 {
        let body = json!({ "messages": { &alice.id: { &alice.device: { "n": n } } } });
        server.put(&alice, &format!("/_matrix/client/v3/sendToDevice/org.example.test/t{n}"), body).ok();
    }
    store.set_exhausted(true);
    let (mut since, mut numbers) = (String::new(), Vec::new());
    for round in 0..6 {
        let answer = server.get(&alice, &format!("/_matrix/client/v3/sync{since}")).ok();
        assert_eq!(server.get(&alice, &format!("/_matrix/client/v3/sync{since}")).ok(), answer, "the same for the same since");
        since = format!("?since={}", answer["next_batch"].as_str().expect("a token"));
        let events = answer["to_device"]["events"].as_array().cloned().unwrap_or_default();
        assert_eq!(events.len(), [100, 100, 100, 100, 50, 0][round]);
        numbers.extend(events.iter().map(|event| event["content"]["n"].as_u64().expect("a number")));
    }
    assert_eq!(numbers, (0..450).collect::<Vec<_>>());
    assert_eq!((server.hs.status().streams[0].length, store.generation()), (450, 0), "they stay, and nothing was taken back for it");
    store.set_exhausted(false);
    server.get(&alice, &format!("/_matrix/client/v3/sync{since}")).ok();
    assert_eq!(server.hs.status().streams[0].length, 0);
}

/// What is cleared away behind the first answer was written into that room too, and took back what
/// was read meanwhile.
#[test]
fn no_cleanup_runs_when_storage_is_full() {
    let store = UnreliableStore::new();
    let server = server_on(&store);
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    server.put(&alice, &path(&id, 1), json!({ "body": "1" })).ok();
    server.host.advance(std::time::Duration::from_secs(8 * 24 * 60 * 60));
    store.set_exhausted(true);
    server.get(&alice, "/_matrix/client/v3/sync").ok();
    server.get(&alice, "/_matrix/client/v3/sync").ok();
    assert_eq!(store.generation(), 0);
    assert_eq!(bodies(&server, &alice, &id), ["1"]);
}

/// The position of a write that failed is given again after a restart; a client that held a token
/// of it would not see what stands there then.
#[test]
fn no_token_is_given_for_a_write_that_failed() {
    let store = UnreliableStore::new();
    let server = server_on(&store);
    let alice = server.register("alice");
    let set = |server: &TestServer, n: usize| {
        let path = format!("/_matrix/client/v3/user/{}/account_data/org.example.test", alice.id);
        server.put(&alice, &path, json!({ "n": n }))
    };
    set(&server, 1).ok();
    store.fail_next(StoreError::QuotaExceeded);
    set(&server, 2).fails(403, "M_RESOURCE_LIMIT_EXCEEDED");
    store.set_full(true);
    set(&server, 3).fails(403, "M_RESOURCE_LIMIT_EXCEEDED");
    let token = server.get(&alice, "/_matrix/client/v3/sync").ok()["next_batch"].as_str().expect("a token").to_owned();
    store.set_full(false);
    let server = server.restart();
    set(&server, 4).ok();
    let seen = server.get(&alice, &format!("/_matrix/client/v3/sync?since={token}")).ok();
    assert_eq!(seen["account_data"]["events"], json!([{ "type": "org.example.test", "content": { "n": 4 } }]));
}

/// What a forgotten room held stayed for ever when the server ended while it was being deleted.
#[test]
fn a_forgotten_room_goes_whole_whenever_the_server_ends() {
    for crash in 0..6 {
        let store = UnreliableStore::new();
        let server = server_on(&store);
        let alice = server.register("alice");
        let id = room(&server, &alice, json!({}));
        for txn in 0..510 {
            server.put(&alice, &path(&id, txn), json!({ "body": "x" })).ok();
        }
        server.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/leave"), json!({})).ok();
        store.crash_at_write(crash);
        server.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/forget"), json!({}));
        let server = server_on(&store.restart());
        // The first request has the server clear up, the second is answered after that.
        server.get(&alice, "/_matrix/client/v3/sync").ok();
        let left = server.get(&alice, "/_matrix/client/v3/sync?filter={%22room%22:{%22include_leave%22:true}}").ok();
        if left["rooms"]["leave"].get(&id).is_some() {
            assert_eq!(crash, 0, "it was not forgotten");
            continue;
        }
        let of_rooms = server.store.scan(vec![0x20]..vec![0x2d], ephapse_store::Direction::Forward, usize::MAX).now_or_never();
        assert_eq!(of_rooms.expect("at once").expect("the store reads"), Vec::new(), "crash at write {crash}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// A crash at any write: afterwards each acknowledged message is there once and in order, at
    /// most one more, and a repeated request makes no second one.
    #[test]
    fn after_a_crash_at_any_write_what_was_acknowledged_is_there_once(crash in 0..40u32, at_once in 1..5usize) {
        let store = UnreliableStore::new();
        let server = server_on(&store);
        let alice = server.register("alice");
        let id = room(&server, &alice, json!({}));
        store.crash_at_write(crash);
        let mut acknowledged = Vec::new();
        let mut asked = 0;
        while !store.crashed() && asked < 60 {
            let mut sends: Vec<_> = (asked..asked + at_once)
                .map(|txn| Box::pin(server.start("PUT", &path(&id, txn), Some(&alice.token), Some(json!({ "body": txn.to_string() })))))
                .collect();
            for (send, txn) in sends.iter_mut().zip(asked..) {
                if send.now_or_never().is_some_and(|answer| answer.status == 200) {
                    acknowledged.push(txn.to_string());
                }
            }
            asked += at_once;
        }
        let server = server_on(&store.restart());
        let there = bodies(&server, &alice, &id);
        for body in &acknowledged {
            prop_assert_eq!(there.iter().filter(|other| *other == body).count(), 1);
        }
        for txn in 0..asked {
            server.put(&alice, &path(&id, txn), json!({ "body": txn.to_string() })).ok();
        }
        let mut all = bodies(&server, &alice, &id);
        prop_assert_eq!(all.len(), asked);
        all.sort_by_key(|body| body.parse::<usize>().unwrap_or_default());
        all.dedup();
        prop_assert_eq!(all.len(), asked);
    }
}
