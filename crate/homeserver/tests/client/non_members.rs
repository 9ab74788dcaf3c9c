//! Who is not in a room is told that, whatever else is wrong with what they ask.

use crate::{
    ignored::gets,
    members::{act, join, look},
    rooms::{room, send},
    support::{TestServer, TestUser},
};
use ephapse_homeserver::Entrance;
use serde_json::{Value, json};

/// Queries that are wrong in every way there is.
const QUERIES: [&str; 6] =
    ["", "?dir=b&limit=1", "?dir=x&limit=many", "?dir=b&from=nonsense&to=nonsense", "?at=nonsense&membership=nothing", "?dir=b&filter=%7B%22types"];

/// A room that only alice is in, one of her events, and a stranger.
fn scene() -> (TestServer, TestUser, TestUser, String, String) {
    let server = TestServer::new();
    let (alice, stranger) = (server.register("alice"), server.register("stranger"));
    let id = room(&server, &alice, json!({}));
    let event = send(&server, &alice, &id, "1", "hello");
    (server, alice, stranger, id, event)
}

/// `/context` and relations answered 404, and wrong parameters were spoken of first.
#[test]
fn a_user_outside_a_room_cannot_read_it() {
    let (server, alice, stranger, id, event) = scene();
    for (room, event) in [(id.as_str(), event.as_str()), (&id, "$unknown"), ("!unknown:test.example", "$unknown")] {
        for path in gets(&server, room, event) {
            // "The event was not found or you do not have permission to read this event."
            let (status, errcode) = if path.contains("/event/") { (404, "M_NOT_FOUND") } else { (403, "M_FORBIDDEN") };
            for query in QUERIES {
                let answer = server.get(&stranger, &format!("{path}{query}"));
                assert_eq!((answer.status, answer.body["errcode"].as_str()), (status, Some(errcode)), "{path}{query}: {}", answer.body);
            }
        }
    }
    // To who is in it the same questions are answered, or what is wrong with them is said.
    for path in gets(&server, &id, &event) {
        for query in QUERIES {
            let answer = server.get(&alice, &format!("{path}{query}"));
            assert!(matches!(answer.status, 200 | 400 | 404), "{path}{query}: {}", answer.body);
        }
    }
}

#[test]
fn a_user_outside_a_room_cannot_change_it() {
    let (server, alice, stranger, id, event) = scene();
    let elsewhere = room(&server, &stranger, json!({}));
    let foreign = send(&server, &stranger, &elsewhere, "1", "elsewhere");
    let endpoints = server.hs.endpoints(Entrance::Client).iter().filter(|(method, path)| method != "GET" && path.contains("/rooms/{room_id}/"));
    let endpoints: Vec<(String, String)> = endpoints.map(|(method, path)| (method.to_string(), (*path).to_owned())).collect();
    let mut asked = 0;
    for (method, path) in endpoints.iter().filter(|(_, path)| !path.contains("/user/")) {
        for event in [event.as_str(), &foreign, "$unknown"] {
            let kind = if path.contains("/send/") { "m.room.redaction" } else { "m.room.topic" };
            let filled = path.replace("{room_id}", &id).replace("{event_id}", event).replace("{event_type}", kind).replace("{state_key}", "");
            let filled = filled.replace("{user_id}", &stranger.id).replace("{txn_id}", "t").replace("{receipt_type}", "m.read");
            let body = json!({
                "user_id": alice.id, "typing": true, "redacts": event, "topic": "x", "thread_id": "$nothing", "m.fully_read": event, "m.read": event,
                "new_version": "12",
            });
            server.request(method, &filled, Some(&stranger.token), Some(body)).fails(403, "M_FORBIDDEN");
            asked += 1;
        }
    }
    assert!(asked >= 3 * 14, "{asked} requests");
}

/// Who has left reads what was theirs to read, and is told of the rest that it is not there.
#[test]
fn a_former_member_reads_what_they_could_see_before_leaving() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({ "preset": "public_chat" }));
    join(&server, &bob, &id);
    let seen = send(&server, &alice, &id, "1", "hello");
    act(&server, &bob, &id, "leave", json!({})).ok();
    let later = send(&server, &alice, &id, "2", "bob has gone");
    for what in ["context", "event"] {
        look(&server, &bob, &id, &format!("{what}/{seen}")).ok();
        look(&server, &bob, &id, &format!("{what}/{later}")).fails(404, "M_NOT_FOUND");
    }
    look(&server, &bob, &id, "messages?dir=b&from=nonsense").fails(400, "M_INVALID_PARAM");
    act(&server, &bob, &id, "forget", json!({})).ok();
    look(&server, &bob, &id, &format!("context/{seen}")).fails(403, "M_FORBIDDEN");
    let world_readable = json!({ "history_visibility": "world_readable" });
    server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/state/m.room.history_visibility/"), world_readable).ok();
    let open = send(&server, &alice, &id, "3", "everybody may read this");
    look(&server, &bob, &id, &format!("context/{open}")).ok();
    look(&server, &bob, &id, &format!("context/{later}")).fails(404, "M_NOT_FOUND");
    assert_eq!(look(&server, &bob, &id, "messages?dir=b&limit=1").ok()["chunk"][0]["event_id"], Value::from(open));
}
