//! Servers that mean harm cost bounded time and memory.

use crate::support::{History, Network, Peer, Room, TestServer};
use ephapse_events::Pdu;
use serde_json::{Value, json};
use std::{cell::Cell, rc::Rc, time::Duration};

fn joined(network: &Network, version: &str) -> (TestServer, Peer, Room) {
    let server = network.server("one.example");
    let peer = Peer::new(1);
    let room = Room::public(&server, version);
    peer.join(&server, &room, "bob");
    (server, peer, room)
}

/// In version 1 a server names its events, so that each of two can be built on the other.
#[test]
fn events_that_stand_in_a_circle_are_dropped() {
    let network = Network::new();
    let (server, peer, room) = joined(&network, "1");
    // Each names the other, by the ids that their server gives them next.
    let (first, second) = (peer.message(&server, &room, "bob", "first"), peer.message(&server, &room, "bob", "second"));
    let built_on = |event: &Pdu, parent: &Pdu| {
        let id = parent.event_id.to_string();
        peer.changed(&room, event, |event| event["prev_events"][0][0] = json!(id))
    };
    let one = built_on(&first, &second);
    let other = built_on(&second, &first);
    let history = History::of(&server, &room, &[one.clone(), other.clone()]);
    peer.play(&network, move |request| match request.uri().path().contains("get_missing_events") {
        true => history.answer(request),
        false => (404, json!({ "errcode": "M_NOT_FOUND", "error": "no" })),
    });
    peer.send(&server, "1", &[one]).ok();
    network.pass(Duration::from_secs(60));
    assert!(room.bodies(&server).is_empty());
    assert!(network.sent().len() < 50);
    room.say(&server, "hello");
    assert_eq!(room.bodies(&server), ["hello"]);
}

/// Whoever asks for what is missing is told of an event of which something is missing.
#[test]
fn a_history_without_an_end_is_given_up() {
    let network = Network::new();
    let (server, peer, room) = joined(&network, "11");
    let endless: Vec<Pdu> = (0..400).fold(Vec::new(), |mut chain: Vec<Pdu>, number| {
        let after: Vec<&Pdu> = chain.last().into_iter().collect();
        chain.push(peer.message_after(&server, &room, "bob", &number.to_string(), &after));
        chain
    });
    let events: Vec<Value> = endless.iter().map(|event| serde_json::from_slice(&event.json).expect("JSON")).collect();
    let asked = Rc::new(Cell::new(0));
    let counted = asked.clone();
    peer.play(&network, move |request| {
        counted.set(counted.get() + 1);
        match request.uri().path().contains("get_missing_events") {
            true => (200, json!({ "events": [events[399 - counted.get().min(399)]] })),
            false => (500, json!({ "errcode": "M_UNKNOWN", "error": "no" })),
        }
    });
    peer.send(&server, "1", &endless[399..]).ok();
    network.pass(Duration::from_secs(600));
    assert!(room.bodies(&server).is_empty());
    assert!(asked.get() <= 100, "{} requests", asked.get());
}

#[test]
fn very_many_ends_of_a_room_are_not_kept() {
    let network = Network::new();
    let (server, peer, room) = joined(&network, "11");
    let start = peer.message(&server, &room, "bob", "start");
    peer.send(&server, "start", std::slice::from_ref(&start)).ok();
    for transaction in 0..10 {
        let forks: Vec<Pdu> =
            (0..50).map(|number| peer.message_after(&server, &room, "bob", &format!("{transaction} {number}"), &[&start])).collect();
        peer.send(&server, &transaction.to_string(), &forks).ok();
    }
    let (hs, nid) = (server.hs.clone(), room.info.nid);
    let head = server.run(async move { hs.room_head(nid).await }).expect("a head");
    assert!(head.extremities.len() <= 64, "{}", head.extremities.len());
    assert_eq!(room.bodies(&server).len(), 501);
    room.say(&server, "hello");
    assert_eq!(room.bodies(&server).last().map(String::as_str), Some("hello"));
}

#[test]
fn an_event_of_another_room_authorizes_nothing() {
    let network = Network::new();
    let (server, peer, room) = joined(&network, "11");
    let request = json!({ "preset": "public_chat", "room_version": "11" });
    let other = server.post(&room.alice, "/_matrix/client/v3/createRoom", request).ok()["room_id"].as_str().expect("an id").to_owned();
    let state = server.get(&room.alice, &format!("/_matrix/client/v3/rooms/{other}/state")).ok();
    let foreign = state[0]["event_id"].as_str().expect("an id").to_owned();
    peer.play(&network, |_| (404, json!({ "errcode": "M_NOT_FOUND", "error": "no" })));
    let hello = peer.message(&server, &room, "bob", "hello");
    for field in ["auth_events", "prev_events"] {
        let bad = peer.changed(&room, &hello, |event| event[field].as_array_mut().expect("ids").push(json!(foreign)));
        peer.send(&server, field, &[bad]).ok();
        network.pass(Duration::from_secs(60));
        assert!(room.bodies(&server).is_empty(), "{field}");
    }
}

#[test]
fn a_server_that_sends_too_often_is_told_to_wait() {
    use crate::support::config;
    let network = Network::new();
    let server =
        network.server_with("one.example", Rc::new(ephapse_store::MemoryStore::new()), ephapse_homeserver::Config { rate_limits: true, ..config() });
    let peer = Peer::new(1);
    let refused = (0..600).map(|number| peer.send(&server, &number.to_string(), &[])).find(|answer| answer.status != 200);
    let refused = refused.expect("it is refused").fails(429, "M_LIMIT_EXCEEDED");
    assert!(refused["retry_after_ms"].as_u64().is_some_and(|wait| wait > 0 && wait < 1000), "{refused}");
    Peer::new(2).send(&server, "1", &[]).ok();
    network.pass(Duration::from_secs(1));
    peer.send(&server, "last", &[]).ok();
}

/// Each change of the power levels is allowed by the one before it.
#[test]
fn a_deep_chain_of_auth_events_is_fetched_at_once() {
    let network = Network::new();
    let (server, peer, room) = joined(&network, "11");
    let levels = |number: usize| json!({ "users": { room.alice.id.as_str(): 100, peer.user("bob").as_str(): 100 }, "events_default": number % 50 });
    room.put_state(&server, "m.room.power_levels", levels(0));
    let mut chain: Vec<Pdu> = Vec::new();
    for number in 1..100 {
        let after: Vec<&Pdu> = chain.last().into_iter().collect();
        let next = peer.state_after(&server, &room, "bob", ("m.room.power_levels", ""), levels(number), &after);
        chain.push(match chain.last() {
            Some(last) => peer.changed(&room, &next, |event| replace_levels(&server, &room, event, last)),
            None => next,
        });
    }
    let last = chain.last().expect("a chain").clone();
    let hello = peer.message_after(&server, &room, "bob", "hello", &[&last]);
    let hello = peer.changed(&room, &hello, |event| replace_levels(&server, &room, event, &last));
    let mut history = History { fills_gaps: false, ..History::of(&server, &room, &chain) };
    let current = levels_id(&server, &room);
    history.state.retain(|id| *id != current);
    history.state.push(last.event_id.to_string());
    peer.play(&network, move |request| history.answer(request));
    peer.send(&server, "1", &[hello]).ok();
    network.pass(Duration::from_secs(60));
    assert_eq!(room.state(&server, "m.room.power_levels"), Some(levels(99)));
    assert!(room.bodies(&server).contains(&"hello".to_owned()));
    assert!(network.sent().len() < 20);
}

/// The id of the power levels as they are.
fn levels_id(server: &TestServer, room: &Room) -> String {
    let state = server.get(&room.alice, &format!("/_matrix/client/v3/rooms/{}/state", room.id)).ok();
    let levels = state.as_array().expect("a state").iter().find(|event| event["type"] == "m.room.power_levels");
    levels.expect("levels")["event_id"].as_str().expect("an id").to_owned()
}

/// Has an event be allowed by other power levels than the server knows.
fn replace_levels(server: &TestServer, room: &Room, event: &mut Value, levels: &Pdu) {
    let current = levels_id(server, room);
    for id in event["auth_events"].as_array_mut().expect("ids") {
        if *id == json!(current) {
            *id = json!(levels.event_id);
        }
    }
}

#[test]
fn a_server_that_changes_its_keys_is_asked_for_them_and_not_too_often() {
    let network = Network::new();
    let server = network.server("one.example");
    let room = Room::public(&server, "11");
    let [old, new, never] = [1, 2, 3].map(|seed| Peer::named("two.example", seed));
    old.play_keys(&network);
    old.join(&server, &room, "bob");
    let asked = |network: &Network| network.sent().iter().filter(|sent| sent.path.contains("/key/")).count();
    assert_eq!(asked(&network), 1);
    new.play_keys(&network);
    let hello = new.message(&server, &room, "bob", "hello");
    new.send(&server, "2", &[hello]).ok();
    assert_eq!(room.bodies(&server), ["hello"]);
    assert_eq!(asked(&network), 1);
    // The old one was good when it was used.
    let before = old.message(&server, &room, "bob", "before");
    new.send(&server, "3", &[before]).ok();
    assert_eq!(room.bodies(&server), ["hello", "before"]);
    // One that it never had makes nobody ask again and again.
    for number in 0..20 {
        let forged = never.message(&server, &room, "bob", &number.to_string());
        let answer = new.send(&server, &format!("forged-{number}"), std::slice::from_ref(&forged)).ok();
        assert!(answer["pdus"][forged.event_id.as_str()]["error"].is_string(), "{answer}");
    }
    assert!(asked(&network) <= 1);
    assert_eq!(room.bodies(&server), ["hello", "before"]);
}
