//! History that other servers have.

use crate::support::{History, Network, Peer, Room};
use serde_json::{Value, json};
use std::time::Duration;

/// The server was told of the newest event alone; a client reads back from there.
#[test]
fn a_client_reads_back_through_what_other_servers_have() {
    let network = Network::new();
    let server = network.server("one.example");
    let peer = Peer::new(1);
    let room = Room::public(&server, "12");
    peer.join(&server, &room, "bob");
    let mut chain = vec![peer.message(&server, &room, "bob", "0")];
    for number in 1..250 {
        let before = chain[number - 1].clone();
        chain.push(peer.message_after(&server, &room, "bob", &number.to_string(), &[&before]));
    }
    let history = History { fills_gaps: false, ..History::of(&server, &room, &chain) };
    peer.play(&network, move |request| history.answer(request));
    peer.send(&server, "1", &chain[249..]).ok();
    network.pass(Duration::from_secs(5));
    let mut seen: Vec<String> = Vec::new();
    let mut from = String::new();
    for _ in 0..100 {
        let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=20{from}", room.id);
        let page = server.get(&room.alice, &path).ok();
        let events = page["chunk"].as_array().expect("events");
        seen.extend(events.iter().filter_map(|event: &Value| event["content"]["body"].as_str().map(str::to_owned)));
        let Some(end) = page["end"].as_str() else { break };
        from = format!("&from={end}");
    }
    let expected: Vec<String> = (0..250).rev().map(|number| number.to_string()).collect();
    assert_eq!(seen, expected, "each once, and the newest first");
    // After a restart it is all here.
    network.sent();
    let server = network.restart(server);
    assert_eq!(room.bodies(&server).len(), 250);
    assert!(network.sent().is_empty());
}

#[test]
fn what_is_around_an_event_is_fetched_too() {
    let network = Network::new();
    let server = network.server("one.example");
    let peer = Peer::new(1);
    let room = Room::public(&server, "11");
    peer.join(&server, &room, "bob");
    let mut chain = vec![peer.message(&server, &room, "bob", "0")];
    for number in 1..5 {
        let before = chain[number - 1].clone();
        chain.push(peer.message_after(&server, &room, "bob", &number.to_string(), &[&before]));
    }
    let history = History { fills_gaps: false, ..History::of(&server, &room, &chain) };
    peer.play(&network, move |request| history.answer(request));
    peer.send(&server, "1", &chain[4..]).ok();
    network.pass(Duration::from_secs(5));
    let path = format!("/_matrix/client/v3/rooms/{}/context/{}?limit=100", room.id, chain[4].event_id);
    let context = server.get(&room.alice, &path).ok();
    let before = context["events_before"].as_array().expect("events");
    let bodies: Vec<&str> = before.iter().filter_map(|event| event["content"]["body"].as_str()).collect();
    assert_eq!(bodies, ["3", "2", "1", "0"], "{context}");
}

/// Who was asked first knew an invitation from before it was in the room, and said that the room
/// had no state there. So nobody read any further.
#[test]
fn history_goes_on_before_an_invitation_of_who_is_asked() {
    let network = Network::new();
    let (one, two, three) = (network.server("one.example"), network.server("two.example"), network.server("three.example"));
    let (bob, carol) = (one.register("bob"), three.register("carol"));
    let room = Room::public(&two, "11");
    room.say(&two, "old");
    two.post(&room.alice, &format!("/_matrix/client/v3/rooms/{}/invite", room.id), json!({ "user_id": bob.id })).ok();
    one.post(&bob, &format!("/_matrix/client/v3/rooms/{}/join", room.id), json!({})).ok();
    three.post(&carol, &format!("/_matrix/client/v3/join/{}?via=two.example", room.id), json!({})).ok();
    network.pass(Duration::from_secs(60));
    let read = Room { alice: carol, ..room };
    let mut bodies = Vec::new();
    for _ in 0..3 {
        bodies = read.bodies(&three);
    }
    assert_eq!(bodies, ["old"]);
}
