//! Who is there, as others see it (Client-Server API, Presence).

use crate::{
    rooms::{room, send},
    support::{Answer, PASSWORD, TestServer, TestUser, config},
    sync::query,
};
use ephapse_homeserver::Config;
use ephapse_store::{MemoryStore, unreliable::UnreliableStore};
use serde_json::{Value, json};
use std::{rc::Rc, time::Duration};

fn sync(server: &TestServer, user: &TestUser, parameters: &[(&str, &str)]) -> Value {
    server.get(user, &query(parameters)).ok()
}

fn token(answer: &Value) -> &str {
    answer["next_batch"].as_str().expect("every sync has a next_batch")
}

/// A sync that does not say that its user is there.
fn peek(server: &TestServer, user: &TestUser, last: Option<&Value>) -> Value {
    let mut parameters = vec![("set_presence", "offline")];
    parameters.extend(last.map(|last| ("since", token(last))));
    sync(server, user, &parameters)
}

fn status(server: &TestServer, by: &TestUser, of: &TestUser) -> Answer {
    server.get(by, &format!("/_matrix/client/v3/presence/{}/status", of.id))
}

fn set(server: &TestServer, user: &TestUser, body: Value) -> Answer {
    server.put(user, &format!("/_matrix/client/v3/presence/{}/status", user.id), body)
}

/// Whose presence an answer has, and which.
fn seen(answer: &Value) -> Vec<(&str, &str)> {
    let events = answer["presence"]["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut seen: Vec<_> = events
        .iter()
        .map(|event| {
            assert_eq!(event["type"], "m.presence");
            (event["sender"].as_str().expect("a sender"), event["content"]["presence"].as_str().expect("a state"))
        })
        .collect();
    seen.sort_unstable();
    seen
}

/// A server with users, the first two of whom share a room.
fn three(server: &TestServer) -> (TestUser, TestUser, TestUser, String) {
    let (alice, bob, carol) = (server.register("alice"), server.register("bob"), server.register("carol"));
    let id = room(server, &alice, json!({"preset": "public_chat"}));
    join(server, &bob, &id);
    (alice, bob, carol, id)
}

fn join(server: &TestServer, user: &TestUser, room: &str) {
    server.post(user, &format!("/_matrix/client/v3/join/{room}"), json!({})).ok();
}

/// Lets time pass in which nobody asks for anything.
fn pass(server: &TestServer, seconds: u64) {
    let sleep = ephapse_homeserver::Host::sleep(&*server.host, Duration::from_secs(seconds));
    server.run(sleep);
}

/// A sync held by `user` while `other` happens; how long it was held, and its answer.
fn held_while(server: &TestServer, user: &TestUser, since: &Value, other: impl Future<Output = Answer> + 'static) -> (u64, Value) {
    let before = server.now();
    let path = query(&[("since", token(since)), ("timeout", "20000"), ("set_presence", "offline")]);
    let held = server.start("GET", &path, Some(&user.token), None);
    let (held, other) = server.run(futures_util::future::join(held, other));
    other.ok();
    (server.now() - before, held.ok())
}

#[test]
fn presence_is_set_by_its_owner_and_seen_by_those_who_share_a_room() {
    let server = TestServer::new();
    let (alice, bob, carol, _) = three(&server);
    assert_eq!(status(&server, &bob, &alice).ok(), json!({"presence": "offline"}), "never seen");
    set(&server, &alice, json!({"presence": "online", "status_msg": "in the garden"})).ok();
    let expected = json!({"presence": "online", "status_msg": "in the garden", "currently_active": true, "last_active_ago": 2000});
    server.host.advance(Duration::from_secs(2));
    for user in [&alice, &bob] {
        assert_eq!(status(&server, user, &alice).ok(), expected);
    }
    status(&server, &carol, &alice).fails(403, "M_FORBIDDEN");
    for nobody in ["@nobody:test.example", "@someone:else.example"] {
        server.get(&alice, &format!("/_matrix/client/v3/presence/{nobody}/status")).fails(404, "M_NOT_FOUND");
    }
    server.get(&alice, "/_matrix/client/r0/presence/nonsense/status").fails(400, "M_INVALID_PARAM");

    let of_alice = format!("/_matrix/client/v3/presence/{}/status", alice.id);
    server.put(&bob, &of_alice, json!({"presence": "online"})).fails(403, "M_FORBIDDEN");
    set(&server, &alice, json!({"presence": "dancing"})).fails(400, "M_BAD_JSON");
    set(&server, &alice, json!({"status_msg": "x"})).fails(400, "M_MISSING_PARAM");
    set(&server, &alice, json!({"presence": "online", "status_msg": "x".repeat(1025)})).fails(400, "M_INVALID_PARAM");
    server.get(&alice, &query(&[("set_presence", "dancing")])).fails(400, "M_INVALID_PARAM");

    set(&server, &alice, json!({"presence": "unavailable"})).ok();
    assert_eq!(status(&server, &bob, &alice).ok(), json!({"presence": "unavailable", "currently_active": false, "last_active_ago": 0}));
    set(&server, &alice, json!({"presence": "offline", "status_msg": "away"})).ok();
    assert_eq!(status(&server, &bob, &alice).ok(), json!({"presence": "offline", "status_msg": "away", "last_active_ago": 0}));
}

#[test]
fn who_syncs_is_there_and_who_stops_is_gone_half_a_minute_later() {
    let server = TestServer::new();
    let (alice, bob, carol, _) = three(&server);
    let own = sync(&server, &carol, &[]);
    assert_eq!(seen(&own), [(carol.id.as_str(), "online")], "one's own, and of nobody else");
    let first = peek(&server, &alice, None);
    assert_eq!(seen(&first), [], "the offline and silent are left out");

    let bobs = sync(&server, &bob, &[]);
    let second = peek(&server, &alice, Some(&first));
    assert_eq!(seen(&second), [(bob.id.as_str(), "online")]);
    let content = &second["presence"]["events"][0]["content"];
    assert_eq!(*content, json!({"presence": "online", "currently_active": true, "last_active_ago": 0}));
    assert_eq!(seen(&peek(&server, &alice, None)), [(bob.id.as_str(), "online")], "an initial sync has it too");

    sync(&server, &bob, &[("since", token(&bobs)), ("timeout", "20000")]);
    assert_eq!(seen(&peek(&server, &alice, Some(&second))), []);
    pass(&server, 29);
    assert_eq!(status(&server, &alice, &bob).ok()["presence"], "online");
    pass(&server, 1);
    assert_eq!(seen(&peek(&server, &alice, Some(&second))), [(bob.id.as_str(), "offline")]);
    assert_eq!(status(&server, &alice, &bob).ok(), json!({"presence": "offline", "last_active_ago": 50_000}));
    assert_eq!(seen(&peek(&server, &alice, None)), []);
    assert_eq!(server.hs.status().waiting, 0);
}

#[test]
fn a_sync_says_whether_its_user_is_available() {
    let server = TestServer::new();
    let (alice, bob, _, _) = three(&server);
    let mut last = peek(&server, &alice, None);
    let mut look = || {
        last = peek(&server, &alice, Some(&last));
        seen(&last).first().map(|(_, state)| (*state).to_owned())
    };
    let says = |device: &TestUser, what| sync(&server, device, &[("set_presence", what)]);
    says(&bob, "offline");
    assert_eq!(look(), None, "offline says nothing");
    says(&bob, "unavailable");
    assert_eq!(look().as_deref(), Some("unavailable"));
    says(&bob, "unavailable");
    assert_eq!(look(), None, "again");
    let phone = server.login("bob", Some("PHONE"));
    says(&phone, "online");
    assert_eq!(look().as_deref(), Some("online"), "one of two devices is enough");
    says(&bob, "unavailable");
    assert_eq!(look(), None);
    says(&phone, "unavailable");
    assert_eq!(look().as_deref(), Some("unavailable"));
    set(&server, &bob, json!({"presence": "online"})).ok();
    assert_eq!(look().as_deref(), Some("online"));
}

#[test]
fn who_only_listens_is_idle_after_five_minutes_until_they_do_something() {
    let server = TestServer::new();
    let (alice, bob, _, id) = three(&server);
    let mut bobs = sync(&server, &bob, &[]);
    let mut alices = peek(&server, &alice, None);
    let mut listen = |server: &TestServer| {
        let until = server.now() + 320_000;
        while server.now() < until {
            bobs = sync(server, &bob, &[("since", token(&bobs)), ("timeout", "20000")]);
        }
    };
    listen(&server);
    alices = peek(&server, &alice, Some(&alices));
    assert_eq!(seen(&alices), [(bob.id.as_str(), "unavailable")]);
    assert_eq!(alices["presence"]["events"][0]["content"]["currently_active"], false);
    for act in ["message", "typing", "receipt", "state"] {
        match act {
            "message" => drop(send(&server, &bob, &id, "1", "here again")),
            "typing" => {
                server.put(&bob, &format!("/_matrix/client/v3/rooms/{id}/typing/{}", bob.id), json!({"typing": true, "timeout": 1000})).ok();
            }
            "receipt" => {
                let sent = send(&server, &alice, &id, "2", "welcome");
                server.post(&bob, &format!("/_matrix/client/v3/rooms/{id}/receipt/m.read/{sent}"), json!({})).ok();
            }
            _ => {
                // Who may not is active all the same.
                server.put(&bob, &format!("/_matrix/client/v3/rooms/{id}/state/m.room.topic/"), json!({"topic": "x"})).fails(403, "M_FORBIDDEN");
            }
        }
        alices = peek(&server, &alice, Some(&alices));
        assert_eq!(seen(&alices), [(bob.id.as_str(), "online")], "{act}");
        assert_eq!(status(&server, &alice, &bob).ok()["last_active_ago"], 0, "{act}");
        listen(&server);
        alices = peek(&server, &alice, Some(&alices));
        assert_eq!(seen(&alices), [(bob.id.as_str(), "unavailable")], "after {act}");
    }
    let server = server.restart();
    sync(&server, &bob, &[]);
    assert_eq!(seen(&peek(&server, &alice, Some(&alices))), [], "a restart wakes nobody up");
    assert_eq!(status(&server, &alice, &bob).ok()["presence"], "unavailable");
}

#[test]
fn a_change_wakes_those_who_share_a_room_and_nobody_else() {
    let server = TestServer::new();
    let (alice, bob, carol, _) = three(&server);
    let (alices, carols) = (peek(&server, &alice, None), peek(&server, &carol, None));
    let bob_syncs = || server.start("GET", &query(&[]), Some(&bob.token), None);
    let (held, answer) = held_while(&server, &carol, &carols, bob_syncs());
    assert_eq!((held, seen(&answer)), (20_000, vec![]));
    assert!(answer["presence"].is_null());
    // Nor does she look: what is read is the access token of who changes.
    let path = format!("/_matrix/client/v3/presence/{}/status", bob.id);
    let reads = |user: &TestUser, says: &str| {
        let since = peek(&server, user, None);
        let held = query(&[("since", token(&since)), ("timeout", "20000"), ("set_presence", "offline")]);
        let held = server.start("GET", &held, Some(&user.token), None);
        let change = server.start("PUT", &path, Some(&bob.token), Some(json!({ "presence": says })));
        let (store, host) = (server.store.clone(), server.host.clone());
        let second = move || ephapse_homeserver::Host::sleep(&*host, Duration::from_secs(1));
        let other = async move {
            second().await;
            let before = store.stats().keys_read;
            change.await.ok();
            second().await;
            store.stats().keys_read - before
        };
        server.run(futures_util::future::join(held, other)).1
    };
    assert_eq!(reads(&carol, "unavailable"), 1);
    assert!(reads(&alice, "online") > 1, "as those do whom it concerns");

    pass(&server, 40);
    let alices = peek(&server, &alice, Some(&alices));
    let (held, answer) = held_while(&server, &alice, &alices, bob_syncs());
    assert_eq!((held, seen(&answer)), (0, vec![(bob.id.as_str(), "online")]));
    let (held, answer) = held_while(&server, &alice, &answer, bob_syncs());
    assert_eq!((held, seen(&answer)), (20_000, vec![]), "it was known already");
}

#[test]
fn a_sync_with_nothing_new_writes_nothing() {
    let server = TestServer::new();
    let (alice, bob, _, id) = three(&server);
    let (mut alices, mut bobs) = (sync(&server, &alice, &[]), sync(&server, &bob, &[]));
    alices = sync(&server, &alice, &[("since", token(&alices))]);
    let (commits, position) = (server.store.stats().commits, server.hs.status().position);
    for _ in 0..8 {
        alices = sync(&server, &alice, &[("since", token(&alices)), ("timeout", "15000")]);
        bobs = sync(&server, &bob, &[("since", token(&bobs)), ("timeout", "15000")]);
    }
    assert_eq!((server.store.stats().commits, server.hs.status().position), (commits, position));
    send(&server, &bob, &id, "1", "hello");
    assert_eq!(server.hs.status().position, position + 1, "nor does a message of somebody who is active");
}

#[test]
fn what_a_user_says_and_when_they_were_last_active_survive_a_restart() {
    let server = TestServer::new();
    let (alice, bob, carol, id) = three(&server);
    join(&server, &carol, &id);
    set(&server, &bob, json!({"presence": "unavailable", "status_msg": "on a walk"})).ok();
    for user in [&alice, &carol] {
        sync(&server, user, &[]);
    }
    let last = peek(&server, &alice, None);
    let server = server.restart();
    server.host.advance(Duration::from_secs(20));
    assert_eq!(status(&server, &alice, &carol).ok()["presence"], "online", "carol may only be about to ask again");
    let carols = sync(&server, &carol, &[]);
    assert_eq!(seen(&peek(&server, &alice, Some(&last))), [], "nobody saw the restart");
    pass(&server, 10);
    let after = peek(&server, &alice, Some(&last));
    assert_eq!(seen(&after), [(alice.id.as_str(), "offline"), (bob.id.as_str(), "offline")], "who did not come back is gone");
    let expected = json!({"presence": "offline", "status_msg": "on a walk", "last_active_ago": 30_000});
    assert_eq!(status(&server, &alice, &bob).ok(), expected);
    sync(&server, &carol, &[("since", token(&carols))]);
    let fresh = peek(&server, &alice, None);
    assert_eq!(seen(&fresh), [(bob.id.as_str(), "offline"), (carol.id.as_str(), "online")], "a message is shown also of who is offline");

    let server = server.restart();
    assert_eq!(status(&server, &alice, &bob).ok()["status_msg"], "on a walk");
    set(&server, &bob, json!({"presence": "online"})).ok();
    assert!(server.restart().get(&bob, &format!("/_matrix/client/v3/presence/{}/status", bob.id)).ok().get("status_msg").is_none());
}

#[test]
fn the_filter_decides_what_arrives() {
    let server = TestServer::new();
    let (alice, bob, carol, id) = three(&server);
    join(&server, &carol, &id);
    for user in [&bob, &carol] {
        server.host.advance(Duration::from_secs(1));
        sync(&server, user, &[]);
    }
    let look = |filter: Value| {
        let filter = json!({ "presence": filter }).to_string();
        let answer = sync(&server, &alice, &[("filter", &filter), ("set_presence", "offline")]);
        seen(&answer).into_iter().map(|(user, _)| user.to_owned()).collect::<Vec<_>>()
    };
    let (of_bob, of_carol) = (bob.id.as_str(), carol.id.as_str());
    assert_eq!(look(json!({})), [of_bob, of_carol]);
    assert_eq!(look(json!({"limit": 1})), [of_carol], "who was active last");
    assert_eq!(look(json!({"senders": [of_bob]})), [of_bob]);
    assert_eq!(look(json!({"not_senders": [of_bob]})), [of_carol]);
    for nothing in [json!({"types": []}), json!({"not_types": ["m.*"]}), json!({"limit": 0})] {
        assert_eq!(look(nothing.clone()), [] as [&str; 0], "{nothing}");
    }
    assert_eq!(look(json!({"types": ["m.presence"]})).len(), 2);

    let since = peek(&server, &alice, None);
    let before = server.now();
    let filter = json!({"presence": {"types": []}}).to_string();
    let path = query(&[("since", token(&since)), ("timeout", "10000"), ("filter", &filter)]);
    let held = server.start("GET", &path, Some(&alice.token), None);
    let away = server.start("GET", &query(&[("set_presence", "unavailable")]), Some(&bob.token), None);
    let (held, _) = server.run(futures_util::future::join(held, away));
    assert_eq!((server.now() - before, seen(&held.ok())), (10_000, vec![]));
}

#[test]
fn presence_is_sent_when_two_users_begin_to_share_a_room() {
    let server = TestServer::new();
    let (alice, bob, carol, id) = three(&server);
    for user in [&bob, &carol] {
        sync(&server, user, &[]);
    }
    let (alices, carols) = (peek(&server, &alice, None), peek(&server, &carol, None));
    assert_eq!(seen(&alices), [(bob.id.as_str(), "online")]);
    join(&server, &carol, &id);
    assert_eq!(seen(&peek(&server, &alice, Some(&alices))), [(carol.id.as_str(), "online")], "who comes");
    assert_eq!(seen(&peek(&server, &carol, Some(&carols))), [(bob.id.as_str(), "online")], "and who was here");
    server.post(&carol, &format!("/_matrix/client/v3/rooms/{id}/leave"), json!({})).ok();
    let alices = peek(&server, &alice, Some(&alices));
    set(&server, &carol, json!({"presence": "unavailable"})).ok();
    assert_eq!(seen(&peek(&server, &alice, Some(&alices))), [], "not any more");
    status(&server, &alice, &carol).fails(403, "M_FORBIDDEN");

    let alices = peek(&server, &alice, Some(&alices));
    server.post(&bob, &format!("/_matrix/client/v3/rooms/{id}/leave"), json!({})).ok();
    set(&server, &bob, json!({"presence": "offline", "status_msg": "a secret"})).ok();
    let last = peek(&server, &alice, Some(&alices));
    assert_eq!(seen(&last), [(bob.id.as_str(), "offline")], "nobody seems to be there for ever");
    assert!(last["presence"]["events"][0]["content"].get("status_msg").is_none(), "but no more is told: {last}");
}

#[test]
fn presence_of_ignored_users_is_not_sent() {
    let server = TestServer::new();
    let (alice, bob, _, _) = three(&server);
    let path = format!("/_matrix/client/v3/user/{}/account_data/m.ignored_user_list", alice.id);
    server.put(&alice, &path, json!({"ignored_users": {&bob.id: {}}})).ok();
    let alices = peek(&server, &alice, None);
    sync(&server, &bob, &[]);
    assert_eq!(seen(&peek(&server, &alice, Some(&alices))), []);
    assert_eq!(seen(&peek(&server, &alice, None)), []);
    server.put(&alice, &path, json!({"ignored_users": {}})).ok();
    assert_eq!(seen(&peek(&server, &alice, None)), [(bob.id.as_str(), "online")]);
}

#[test]
fn deactivated_users_go_offline_and_lose_their_status() {
    let server = TestServer::new();
    let (alice, bob, _, _) = three(&server);
    set(&server, &bob, json!({"presence": "online", "status_msg": "farewell"})).ok();
    let alices = peek(&server, &alice, None);
    assert_eq!(alices["presence"]["events"][0]["content"]["status_msg"], "farewell");
    let identifier = json!({"type": "m.id.user", "user": bob.id});
    let auth = json!({"auth": {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}});
    let leaves = server.start("POST", "/_matrix/client/v3/account/deactivate", Some(&bob.token), Some(auth));
    let (held, answer) = held_while(&server, &alice, &alices, leaves);
    assert_eq!((held, seen(&answer)), (0, vec![(bob.id.as_str(), "offline")]));
    assert!(answer["presence"]["events"][0]["content"].get("status_msg").is_none());
    for server in [&server, &TestServer::with(server.store.clone(), config())] {
        status(server, &alice, &bob).fails(404, "M_NOT_FOUND");
        assert_eq!(seen(&peek(server, &alice, None)), []);
    }
}

#[test]
fn a_client_that_was_away_long_sees_who_is_there_and_who_no_longer_is() {
    let server = TestServer::new();
    let (alice, bob, carol, id) = three(&server);
    let dave = server.register("dave");
    join(&server, &dave, &id);
    sync(&server, &dave, &[]);
    let alices = peek(&server, &alice, None);
    assert_eq!(seen(&alices), [(dave.id.as_str(), "online")]);
    pass(&server, 40);
    sync(&server, &bob, &[]);
    sync(&server, &carol, &[]);
    for number in 0..2100 {
        send(&server, &alice, &id, &number.to_string(), "x");
    }
    let expected = [(bob.id.as_str(), "online"), (dave.id.as_str(), "offline")];
    assert_eq!(seen(&peek(&server, &alice, Some(&alices))), expected);
}

#[test]
fn where_storage_is_full_clients_go_on_without_it() {
    let store = Rc::new(UnreliableStore::new());
    let server = TestServer::with(store.clone(), config());
    let (alice, bob, _, id) = three(&server);
    let (alices, bobs) = (peek(&server, &alice, None), sync(&server, &bob, &[]));
    pass(&server, 40);
    let alices = peek(&server, &alice, Some(&alices));
    store.set_quota(Some(0));
    let answer = sync(&server, &bob, &[("since", token(&bobs))]);
    assert_eq!(server.hs.status().position.to_string(), token(&alices)[1..].split('_').next().expect("a position"));
    set(&server, &bob, json!({"presence": "online", "status_msg": "full"})).fails(403, "M_RESOURCE_LIMIT_EXCEEDED");
    assert!(status(&server, &alice, &bob).ok().get("status_msg").is_none());
    server.post(&bob, &format!("/_matrix/client/v3/rooms/{id}/leave"), json!({})).ok();
    let server = server.restart();
    let after = sync(&server, &bob, &[("since", token(&answer))]);
    assert!(!after["rooms"]["leave"][&id].is_null(), "the token still means something: {after}");
}

#[test]
fn without_presence_nobody_is_seen_and_no_client_notices() {
    let server = TestServer::with(Rc::new(MemoryStore::new()), Config { presence: false, ..config() });
    let (alice, bob, _, _) = three(&server);
    let alices = sync(&server, &alice, &[]);
    sync(&server, &bob, &[("set_presence", "unavailable")]);
    set(&server, &bob, json!({"presence": "online", "status_msg": "hello?"})).ok();
    server.put(&bob, &format!("/_matrix/client/v3/presence/{}/status", alice.id), json!({"presence": "online"})).fails(403, "M_FORBIDDEN");
    assert_eq!(status(&server, &alice, &bob).ok(), json!({"presence": "offline"}));
    for answer in [sync(&server, &alice, &[("since", token(&alices))]), sync(&server, &alice, &[])] {
        assert!(answer["presence"].is_null(), "{answer}");
    }
}

/// A client that asks nothing about those who come into its rooms knew nothing of them until they
/// came or went.
#[test]
fn who_joins_is_told_of_to_those_who_are_there() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let id = room(&server, &alice, json!({"preset": "public_chat"}));
    // Bob is online all along, carol never was.
    sync(&server, &bob, &[]);
    let alices = sync(&server, &alice, &[]);
    assert_eq!(seen(&alices), [(alice.id.as_str(), "online")]);
    join(&server, &bob, &id);
    let alices = sync(&server, &alice, &[("since", token(&alices))]);
    assert_eq!(seen(&alices), [(bob.id.as_str(), "online")]);
    join(&server, &carol, &id);
    let alices = sync(&server, &alice, &[("since", token(&alices))]);
    assert_eq!(seen(&alices), [(carol.id.as_str(), "offline")]);
    assert_eq!(alices["presence"]["events"][0]["content"], json!({"presence": "offline"}));
    assert_eq!(seen(&sync(&server, &alice, &[("since", token(&alices))])), [], "once");
}

/// Of a user whose client does not sync nothing was known, and nobody who came was told when they
/// had last been there.
#[test]
fn when_the_offline_were_last_active_is_told_to_who_joins() {
    let server = TestServer::new();
    let [alice, bob, carol, dave] = ["alice", "bob", "carol", "dave"].map(|name| server.register(name));
    let id = room(&server, &alice, json!({"preset": "public_chat"}));
    join(&server, &carol, &id);
    let position = server.hs.status().position;
    send(&server, &alice, &id, "1", "without a sync");
    assert_eq!(server.hs.status().position, position + 1, "nobody is told of it then");
    let (mut bobs, mut carols) = (peek(&server, &bob, None), peek(&server, &carol, None));
    assert_eq!(seen(&carols), []);
    server.host.advance(Duration::from_secs(90));
    assert_eq!(status(&server, &carol, &alice).ok(), json!({"presence": "offline", "last_active_ago": 90_000}));

    join(&server, &bob, &id);
    bobs = peek(&server, &bob, Some(&bobs));
    assert_eq!(seen(&bobs), [(alice.id.as_str(), "offline")], "of carol there is nothing to tell");
    assert_eq!(bobs["presence"]["events"][0]["content"], json!({"presence": "offline", "last_active_ago": 90_000}));
    assert_eq!(seen(&peek(&server, &bob, Some(&bobs))), [], "once");
    // And those who are there of who comes; not of who takes another name.
    send(&server, &dave, &room(&server, &dave, json!({})), "1", "elsewhere");
    join(&server, &dave, &id);
    carols = peek(&server, &carol, Some(&carols));
    assert_eq!(seen(&carols), [(bob.id.as_str(), "offline"), (dave.id.as_str(), "offline")]);
    server.put(&dave, &format!("/_matrix/client/v3/profile/{}/displayname", dave.id), json!({"displayname": "David"})).ok();
    assert_eq!(seen(&peek(&server, &carol, Some(&carols))), []);

    // To the minute it is known after a restart too.
    let server = server.restart();
    server.host.advance(Duration::from_secs(10));
    let ago = |server: &TestServer| status(server, &carol, &alice).ok()["last_active_ago"].as_u64();
    assert_eq!(ago(&server), Some(100_000));
    send(&server, &alice, &id, "2", "again");
    server.host.advance(Duration::from_secs(30));
    send(&server, &alice, &id, "3", "and again");
    assert_eq!(ago(&server), Some(0));
    assert_eq!(ago(&server.restart()), Some(30_000), "and it is not written each time");
}
