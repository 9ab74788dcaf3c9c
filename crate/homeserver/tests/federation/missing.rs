//! Events whose parents are not here: what is missing is fetched.

use crate::support::{History, Network, Peer, Room, TestServer};
use ephapse_events::Pdu;
use serde_json::json;
use std::time::Duration;

/// A public room of alice, which bob of a server that the test plays has joined.
fn joined(network: &Network) -> (TestServer, Peer, Room) {
    let server = network.server("one.example");
    let peer = Peer::new(1);
    let room = Room::public(&server, "11");
    peer.join(&server, &room, "bob");
    (server, peer, room)
}

/// Messages of bob, one after the other.
fn chain(server: &TestServer, peer: &Peer, room: &Room, length: usize) -> Vec<Pdu> {
    let mut chain: Vec<Pdu> = Vec::new();
    for number in 0..length {
        let after: Vec<&Pdu> = chain.last().into_iter().collect();
        chain.push(peer.message_after(server, room, "bob", &number.to_string(), &after));
    }
    chain
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn a_gap_is_filled_and_seen_in_order() {
    let network = Network::new();
    let (server, peer, room) = joined(&network);
    let chain = chain(&server, &peer, &room, 200);
    let history = History::of(&server, &room, &chain);
    peer.play(&network, move |request| history.answer(request));
    let answer = peer.send(&server, "1", &chain[199..]).ok();
    assert_eq!(answer["pdus"][chain[199].event_id.as_str()], json!({}), "it is taken in, sooner or later");
    network.pass(Duration::from_secs(5));
    assert_eq!(room.bodies(&server), numbers(0..200));
    let asked = network.sent().into_iter().filter(|sent| sent.path.contains("get_missing_events")).count();
    assert_eq!(asked, 4, "each answer has fifty");
}

#[test]
fn a_gap_that_is_not_filled_is_bridged_by_the_state_and_read_when_somebody_reads_back() {
    let network = Network::new();
    let (server, peer, room) = joined(&network);
    room.say(&server, "before");
    let chain = chain(&server, &peer, &room, 5);
    let history = History { fills_gaps: false, ..History::of(&server, &room, &chain) };
    peer.play(&network, move |request| history.answer(request));
    peer.send(&server, "1", &chain[4..]).ok();
    network.pass(Duration::from_secs(5));
    let since = room.sync(&server, None);
    let timeline = &since["rooms"]["join"][room.id.as_str()]["timeline"]["events"];
    assert_eq!(timeline.as_array().and_then(|events| events.last()).expect("an event")["event_id"], chain[4].event_id.as_str());
    // What lies between comes with the history.
    let mut bodies = room.bodies(&server);
    bodies.sort();
    assert_eq!(bodies, ["0", "1", "2", "3", "4", "before"]);
    // It is asked for once.
    network.sent();
    room.bodies(&server);
    assert!(network.sent().is_empty());
}

#[test]
fn what_waits_is_not_lost_when_the_server_ends_or_the_other_is_away() {
    let network = Network::new();
    let (server, peer, room) = joined(&network);
    let chain = chain(&server, &peer, &room, 3);
    peer.send(&server, "1", &chain[2..]).ok();
    let server = network.restart(server);
    let history = History::of(&server, &room, &chain);
    peer.play(&network, move |request| history.answer(request));
    room.bodies(&server);
    network.pass(Duration::from_secs(120));
    assert_eq!(room.bodies(&server), numbers(0..3));
}

#[test]
fn what_cannot_be_had_is_dropped_with_what_is_built_on_it() {
    let network = Network::new();
    let (server, peer, room) = joined(&network);
    let chain = chain(&server, &peer, &room, 4);
    peer.play(&network, |_| (404, json!({ "errcode": "M_NOT_FOUND", "error": "no" })));
    peer.send(&server, "1", &chain[2..]).ok();
    network.pass(Duration::from_secs(5));
    assert!(room.bodies(&server).is_empty());
    // The room goes on.
    let hello = peer.message(&server, &room, "bob", "hello");
    peer.send(&server, "2", &[hello]).ok();
    assert_eq!(room.bodies(&server), ["hello"]);
    let waiting = server.hs.status().streams.into_iter().find(|stream| stream.name == "waiting_events").expect("the stream");
    assert_eq!(waiting.length, 0);
}

/// Who sends an event and answers, but not with what is right before it, could make up any state.
#[test]
fn what_its_server_does_not_show_the_parents_of_is_dropped() {
    let network = Network::new();
    let (server, peer, room) = joined(&network);
    let chain = chain(&server, &peer, &room, 3);
    let history = History::of(&server, &room, &chain);
    peer.play(&network, move |request| match request.uri().path().contains("get_missing_events") {
        true => (200, json!({ "events": [] })),
        false => history.answer(request),
    });
    peer.send(&server, "1", &chain[2..]).ok();
    network.pass(Duration::from_secs(5));
    assert!(room.bodies(&server).is_empty());
    assert!(!network.sent().iter().any(|sent| sent.path.contains("state_ids")));
}

/// A parent on another branch may be from before this server came in, and so not be shown.
#[test]
fn what_has_a_parent_that_is_here_comes_in_without_the_others() {
    let network = Network::new();
    let (server, peer, room) = joined(&network);
    let chain = chain(&server, &peer, &room, 1);
    peer.send(&server, "1", &chain).ok();
    let side = peer.message_after(&server, &room, "bob", "side", &[]);
    let last = peer.message_after(&server, &room, "bob", "last", &[&chain[0], &side]);
    let history = History::of(&server, &room, &[side, last.clone()]);
    peer.play(&network, move |request| match request.uri().path().contains("get_missing_events") {
        true => (200, json!({ "events": [] })),
        false => history.answer(request),
    });
    peer.send(&server, "2", &[last]).ok();
    network.pass(Duration::from_secs(10));
    assert_eq!(room.bodies(&server).last().map(String::as_str), Some("last"));
}

/// The state after a gap is what those after both of its sides resolve to: who tells of a gap does
/// not decide what the room is.
#[test]
fn the_state_after_a_gap_is_resolved_with_what_is_known() {
    let network = Network::new();
    let (server, peer, room) = joined(&network);
    let levels = json!({ "users": { room.alice.id.clone(): 100 }, "state_default": 0 });
    room.put_state(&server, "m.room.power_levels", levels);
    let told = History::of(&server, &room, &[]).state;
    let known = peer.state(&server, &room, "bob", "org.known", "", json!({ "is": "known" }));
    peer.send(&server, "1", std::slice::from_ref(&known)).ok();
    let missing = peer.state_after(&server, &room, "bob", ("org.missing", ""), json!({ "is": "missing" }), &[&known]);
    let last = peer.message_after(&server, &room, "bob", "last", &[&known, &missing]);
    let history = History { fills_gaps: false, state: told, ..History::of(&server, &room, &[missing, last.clone()]) };
    peer.play(&network, move |request| history.answer(request));
    peer.send(&server, "2", &[last]).ok();
    network.pass(Duration::from_secs(10));
    assert_eq!(room.bodies(&server).last().map(String::as_str), Some("last"));
    for (kind, is) in [("org.known", "known"), ("org.missing", "missing")] {
        assert_eq!(room.state(&server, kind), Some(json!({ "is": is })), "{kind}");
    }
}

/// What authorizes an event may be the very event that is missing before it.
#[test]
fn a_missing_parent_that_authorizes_is_fetched_by_itself() {
    let network = Network::new();
    let (server, peer, room) = joined(&network);
    let bob = peer.user("bob");
    let renamed = json!({ "membership": "join", "displayname": "Robert" });
    let missing = peer.state(&server, &room, "bob", "m.room.member", bob.as_str(), renamed);
    let old = missing.prev_events[0].clone();
    let last = peer.message_after(&server, &room, "bob", "last", &[&missing]);
    let last = peer.changed(&room, &last, |event| {
        let auth_events = event["auth_events"].as_array_mut().expect("auth events");
        auth_events.retain(|id| *id != old.as_str());
        auth_events.push(json!(missing.event_id));
    });
    let history = History { fills_gaps: false, ..History::of(&server, &room, &[missing, last.clone()]) };
    peer.play(&network, move |request| match request.uri().path().contains("event_auth") {
        true => (404, json!({ "errcode": "M_NOT_FOUND", "error": "no" })),
        false => history.answer(request),
    });
    peer.send(&server, "1", &[last]).ok();
    network.pass(Duration::from_secs(10));
    assert_eq!(room.bodies(&server), ["last"]);
    assert_eq!(room.state(&server, &format!("m.room.member/{bob}")).expect("a member")["displayname"], "Robert");
}
