//! The event closest to a time (Client-Server API, `timestamp_to_event`).

use crate::{
    members::{act, join, set_state},
    rooms::{room, send},
    support::{Answer, TestServer, TestUser},
};
use serde_json::json;
use std::time::Duration;

fn closest(server: &TestServer, user: &TestUser, room: &str, ts: u64, dir: &str) -> Answer {
    server.get(user, &format!("/_matrix/client/v1/rooms/{room}/timestamp_to_event?ts={ts}&dir={dir}"))
}

fn id_of(answer: Answer) -> String {
    answer.ok()["event_id"].as_str().expect("an id").to_owned()
}

#[test]
fn a_time_leads_to_the_events_around_it() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let begun = server.now();
    let mut sent = Vec::new();
    // Others write in between: the positions of a room have gaps.
    let other = room(&server, &alice, json!({}));
    for number in 0..300 {
        server.host.advance(Duration::from_secs(10));
        sent.push((server.now(), send(&server, &alice, &id, &format!("t{number}"), "hello")));
        send(&server, &alice, &other, &format!("t{number}"), "elsewhere");
    }
    for number in [0, 1, 2, 100, 149, 150, 298, 299] {
        let (ts, event) = &sent[number];
        for (ts, dir) in [(*ts, "f"), (*ts, "b"), (ts - 9_999, "f"), (ts + 9_999, "b")] {
            let found = closest(&server, &alice, &id, ts, dir).ok();
            assert_eq!(
                (found["event_id"].as_str(), found["origin_server_ts"].as_u64()),
                (Some(event.as_str()), Some(sent[number].0)),
                "{number} {dir}"
            );
        }
    }
    closest(&server, &alice, &id, server.now() + 1, "f").fails(404, "M_NOT_FOUND");
    closest(&server, &alice, &id, begun - 10_000, "b").fails(404, "M_NOT_FOUND");
    // The oldest event of all is the room's creation.
    let create = id_of(closest(&server, &alice, &id, 0, "f"));
    let event = server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/event/{create}")).ok();
    assert_eq!(event["type"], "m.room.create");
    assert_eq!(id_of(closest(&server, &alice, &id, server.now() + 1, "b")), sent[299].1);
}

#[test]
fn only_what_a_user_may_see_is_found() {
    let server = TestServer::new();
    let (alice, bob, carol) = (server.register("alice"), server.register("bob"), server.register("carol"));
    let id = room(&server, &alice, json!({ "preset": "public_chat" }));
    set_state(&server, &alice, &id, "m.room.history_visibility", json!({ "history_visibility": "joined" })).ok();
    server.host.advance(Duration::from_secs(10));
    let hidden = send(&server, &alice, &id, "t1", "before");
    let ts = server.now();
    server.host.advance(Duration::from_secs(10));
    join(&server, &bob, &id);
    let joined = server.now();
    assert_eq!(id_of(closest(&server, &alice, &id, ts, "f")), hidden);
    let found = closest(&server, &bob, &id, ts, "f").ok();
    assert_eq!(found["origin_server_ts"], joined, "his own join is the first that he sees");
    closest(&server, &carol, &id, ts, "f").fails(403, "M_FORBIDDEN");
    server.request("GET", &format!("/_matrix/client/v1/rooms/{id}/timestamp_to_event?ts=1&dir=f"), None, None).fails(401, "M_MISSING_TOKEN");
    for wrong in ["ts=1", "dir=f", "ts=1&dir=x", "ts=-1&dir=f", "ts=x&dir=f"] {
        assert_eq!(server.get(&bob, &format!("/_matrix/client/v1/rooms/{id}/timestamp_to_event?{wrong}")).status, 400, "{wrong}");
    }
    act(&server, &bob, &id, "leave", json!({})).ok();
    assert_eq!(closest(&server, &bob, &id, ts, "f").ok()["origin_server_ts"], joined);
}

/// What arrived far from its time is found all the same while few events stand between.
#[test]
fn a_clock_that_goes_back_hides_nothing_near() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let mut sent: Vec<(u64, String)> = Vec::new();
    for number in 0..40u64 {
        // Forwards in steps, each of them beside the order.
        let step = if number % 2 == 0 { 30 } else { 1 };
        server.host.advance(Duration::from_secs(step));
        sent.push((server.now(), send(&server, &alice, &id, &format!("t{number}"), "hello")));
    }
    for (ts, event) in &sent {
        assert_eq!(&id_of(closest(&server, &alice, &id, *ts, "f")), event);
        assert_eq!(&id_of(closest(&server, &alice, &id, *ts, "b")), event);
    }
}
