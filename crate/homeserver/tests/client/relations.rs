//! Events that relate to events (Client-Server API, Relationships API, Event annotations and
//! reactions, Threading).

use crate::{
    rooms::{room, send},
    support::{TestServer, TestUser},
};
use serde_json::{Value, json};

/// Sends what relates to `parent`, and answers its id.
#[track_caller]
pub fn relate(server: &TestServer, user: &TestUser, room: &str, txn: &str, rel_type: &str, parent: &str) -> String {
    let mut relates_to = json!({ "rel_type": rel_type, "event_id": parent });
    let mut kind = "m.room.message";
    if rel_type == "m.annotation" {
        relates_to["key"] = txn.into();
        kind = "m.reaction";
    }
    let content = json!({ "msgtype": "m.text", "body": txn, "m.relates_to": relates_to });
    let answer = server.put(user, &format!("/_matrix/client/v3/rooms/{room}/send/{kind}/{txn}"), content).ok();
    answer["event_id"].as_str().expect("an event id").to_owned()
}

fn ids(page: &Value) -> Vec<String> {
    page["chunk"].as_array().expect("a chunk").iter().map(|event| event["event_id"].as_str().expect("an id").to_owned()).collect()
}

/// Every page from the first to the last.
#[track_caller]
fn all(server: &TestServer, user: &TestUser, path: &str) -> (Vec<String>, usize) {
    let (mut found, mut pages, mut from) = (Vec::new(), 0, String::new());
    loop {
        let page = server.get(user, &format!("{path}{from}")).ok();
        found.extend(ids(&page));
        pages += 1;
        match page["next_batch"].as_str() {
            Some(next) => from = format!("&from={next}"),
            None => return (found, pages),
        }
    }
}

#[test]
fn children_come_newest_first_in_pages_and_by_their_types() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let root = send(&server, &alice, &id, "root", "root");
    let mut children = Vec::new();
    for number in 0..30 {
        let rel_type = ["m.thread", "m.annotation", "m.replace"][number % 3];
        children.push(relate(&server, &alice, &id, &format!("t{number}"), rel_type, &root));
        send(&server, &alice, &id, &format!("other{number}"), "relates to nothing");
    }
    let path = format!("/_matrix/client/v1/rooms/{id}/relations/{root}");
    let newest_first: Vec<String> = children.iter().rev().cloned().collect();
    let first = server.get(&alice, &path).ok();
    assert_eq!(ids(&first), newest_first[..20]);
    assert_eq!((&first["recursion_depth"], &first["prev_batch"]), (&Value::Null, &Value::Null));
    assert_eq!(first["chunk"][0]["room_id"], id.as_str());
    for limit in [1, 7, 15, 30, 100] {
        let (backward, pages) = all(&server, &alice, &format!("{path}?limit={limit}"));
        assert_eq!((backward, pages), (newest_first.clone(), 30usize.div_ceil(limit)), "limit {limit}");
        assert_eq!(all(&server, &alice, &format!("{path}?dir=f&limit={limit}")).0, children);
    }
    let by_type: Vec<String> = newest_first.iter().skip(1).step_by(3).cloned().collect();
    assert_eq!(all(&server, &alice, &format!("{path}/m.annotation?limit=4")).0, by_type);
    assert_eq!(all(&server, &alice, &format!("{path}/m.annotation/m.reaction?limit=4")).0, by_type);
    assert_eq!(all(&server, &alice, &format!("{path}/m.annotation/m.room.message?limit=4")).0, Vec::<String>::new());

    // Between two tokens: `from` is the later one when reading back.
    let later = server.get(&alice, &format!("{path}?limit=5")).ok()["next_batch"].as_str().expect("a token").to_owned();
    let earlier = server.get(&alice, &format!("{path}?limit=12")).ok()["next_batch"].as_str().expect("a token").to_owned();
    assert_eq!(ids(&server.get(&alice, &format!("{path}?from={later}&to={earlier}")).ok()), newest_first[5..12]);
    assert_eq!(ids(&server.get(&alice, &format!("{path}?from={earlier}&to={later}")).ok()), Vec::<String>::new());
    server.get(&alice, &format!("{path}?from=nonsense")).fails(400, "M_INVALID_PARAM");
}

/// Only the first 5,000 children were ever looked at, whatever was asked for.
#[test]
fn rare_and_newest_related_events_are_found_among_many() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let root = send(&server, &alice, &id, "root", "root");
    let first = relate(&server, &alice, &id, "first", "m.thread", &root);
    for number in 0..2_100 {
        relate(&server, &alice, &id, &format!("t{number}"), "m.annotation", &root);
    }
    let last = relate(&server, &alice, &id, "last", "m.thread", &root);
    let path = format!("/_matrix/client/v1/rooms/{id}/relations/{root}");
    assert_eq!(ids(&server.get(&alice, &format!("{path}?limit=1")).ok()), std::slice::from_ref(&last));
    let yields = server.host.yielded.get();
    let (threaded, pages) = all(&server, &alice, &format!("{path}/m.thread?limit=50"));
    assert_eq!(threaded, [last, first]);
    assert_eq!(pages, 2, "one request reads only so much");
    assert!(server.host.yielded.get() - yields > 10, "others go on meanwhile");
}

#[test]
fn what_relates_through_others_is_found_to_the_third_level() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let root = send(&server, &alice, &id, "root", "root");
    let message = relate(&server, &alice, &id, "message", "m.thread", &root);
    let reaction = relate(&server, &alice, &id, "reaction", "m.annotation", &message);
    let second = relate(&server, &alice, &id, "second", "m.thread", &root);
    let edit = relate(&server, &alice, &id, "edit", "m.replace", &reaction);
    relate(&server, &alice, &id, "too-far", "m.reference", &edit);
    let path = format!("/_matrix/client/v1/rooms/{id}/relations/{root}");
    let every = [&edit, &second, &reaction, &message].map(Clone::clone);
    for name in ["recurse", "org.matrix.msc3981.recurse"] {
        let page = server.get(&alice, &format!("{path}?{name}=true")).ok();
        assert_eq!((ids(&page), &page["recursion_depth"]), (every.to_vec(), &json!(3)), "{name}");
        assert_eq!(all(&server, &alice, &format!("{path}?limit=1&{name}=true")).0, every);
        let mut forward = every.clone();
        forward.reverse();
        assert_eq!(all(&server, &alice, &format!("{path}?dir=f&{name}=true&limit=1")).0, forward);
        assert_eq!(ids(&server.get(&alice, &format!("{path}/m.thread?{name}=true")).ok()), [second.clone(), message.clone()]);
        assert_eq!(ids(&server.get(&alice, &format!("{path}?{name}=false")).ok()), [second.clone(), message.clone()]);
    }
    // Also after a restart. What is redacted relates to nothing any more, and nothing relates
    // through it.
    let server = server.restart();
    assert_eq!(ids(&server.get(&alice, &format!("{path}?recurse=true")).ok()), every);
    server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/redact/{message}/r1"), json!({})).ok();
    assert_eq!(ids(&server.get(&alice, &format!("{path}?recurse=true")).ok()), [second]);
}

/// A reaction to an event of a thread was listed among the reactions to the thread's root: "events
/// that would match the filter, but whose only relation to the original given event is through a
/// non-matching intermediate event, will not be included".
#[test]
fn what_relates_only_through_what_is_not_asked_for_is_not_found() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let root = send(&server, &alice, &id, "root", "root");
    let message = relate(&server, &alice, &id, "message", "m.reference", &root);
    relate(&server, &alice, &id, "reaction", "m.annotation", &message);
    let further = relate(&server, &alice, &id, "further", "m.reference", &message);
    let last = relate(&server, &alice, &id, "last", "m.reference", &further);
    let path = format!("/_matrix/client/v1/rooms/{id}/relations/{root}");
    let asked = |types: &str| ids(&server.get(&alice, &format!("{path}/{types}?recurse=true")).ok());
    assert_eq!(asked("m.annotation"), [""; 0]);
    assert_eq!(asked("m.annotation/m.reaction"), [""; 0]);
    assert_eq!(asked("m.reference"), [&last, &further, &message].map(Clone::clone));
    assert_eq!(asked("m.reference/m.room.message"), [&last, &further, &message].map(Clone::clone));
    // Also where only the type of the event between is another one.
    let relates_to = json!({ "rel_type": "m.reference", "event_id": root });
    let other = server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/send/org.example.other/o1"), json!({ "m.relates_to": relates_to })).ok();
    relate(&server, &alice, &id, "through-other", "m.reference", other["event_id"].as_str().expect("an id"));
    assert_eq!(asked("m.reference").len(), 5);
    assert_eq!(asked("m.reference/m.room.message").len(), 3);
}

#[test]
fn who_may_not_see_an_event_does_not_learn_what_relates_to_it() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let visibility = json!({ "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } });
    let id = room(&server, &alice, json!({ "preset": "public_chat", "initial_state": [visibility] }));
    let early = send(&server, &alice, &id, "early", "early");
    relate(&server, &alice, &id, "t1", "m.annotation", &early);
    let path = |event: &str| format!("/_matrix/client/v1/rooms/{id}/relations/{event}");
    server.get(&bob, &path(&early)).fails(403, "M_FORBIDDEN");
    server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    server.get(&bob, &path(&early)).fails(404, "M_NOT_FOUND");
    server.get(&alice, &path("$unknown")).fails(404, "M_NOT_FOUND");
    assert_eq!(ids(&server.get(&alice, &path(&early)).ok()).len(), 1);
    let late = send(&server, &alice, &id, "late", "late");
    let seen = relate(&server, &bob, &id, "t2", "m.annotation", &late);
    server.post(&bob, &format!("/_matrix/client/v3/rooms/{id}/leave"), json!({})).ok();
    relate(&server, &alice, &id, "t3", "m.annotation", &late);
    assert_eq!(ids(&server.get(&bob, &path(&late)).ok()), [seen]);
}

#[test]
fn nobody_annotates_an_event_twice_with_the_same() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({ "preset": "public_chat" }));
    server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    let (one, other) = (send(&server, &alice, &id, "m1", "one"), send(&server, &alice, &id, "m2", "other"));
    let react = |user: &TestUser, txn: &str, kind: &str, event: &str, key: &str| {
        let content = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": event, "key": key } });
        server.put(user, &format!("/_matrix/client/v3/rooms/{id}/send/{kind}/{txn}"), content)
    };
    let first = react(&alice, "t1", "m.reaction", &one, "👍").ok()["event_id"].clone();
    assert_eq!(react(&alice, "t1", "m.reaction", &one, "👍").ok()["event_id"], first, "the same request again is answered as before");
    react(&alice, "t2", "m.reaction", &one, "👍").fails(400, "M_DUPLICATE_ANNOTATION");
    react(&alice, "t3", "m.reaction", &one, "👎").ok();
    react(&alice, "t4", "org.example.other", &one, "👍").ok();
    react(&alice, "t5", "m.reaction", &other, "👍").ok();
    react(&bob, "t6", "m.reaction", &one, "👍").ok();

    let at_once = ["t7", "t8"].map(|txn| {
        let content = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": other, "key": "once" } });
        server.start("PUT", &format!("/_matrix/client/v3/rooms/{id}/send/m.reaction/{txn}"), Some(&bob.token), Some(content))
    });
    let mut statuses: Vec<u16> = server.run(futures_util::future::join_all(at_once)).into_iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400]);

    // Once it is taken back it may be said again.
    server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/redact/{}/r1", first.as_str().expect("an id")), json!({})).ok();
    react(&alice, "t9", "m.reaction", &one, "👍").ok();
    react(&alice, "t10", "m.reaction", &one, "👍").fails(400, "M_DUPLICATE_ANNOTATION");
    // Who is not in the room learns nothing.
    let carol = server.register("carol");
    react(&carol, "t1", "m.reaction", &one, "👍").fails(403, "M_FORBIDDEN");
}

#[test]
fn threads_start_on_events_that_relate_to_nothing() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let root = send(&server, &alice, &id, "root", "root");
    let threaded = relate(&server, &alice, &id, "t1", "m.thread", &root);
    let edit = relate(&server, &alice, &id, "t2", "m.replace", &root);
    let reply = json!({ "msgtype": "m.text", "body": "reply", "m.relates_to": { "m.in_reply_to": { "event_id": root } } });
    let reply = server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/t3"), reply).ok();
    let start = |txn: &str, event: &str| {
        let content = json!({ "msgtype": "m.text", "body": "x", "m.relates_to": { "rel_type": "m.thread", "event_id": event } });
        server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/{txn}"), content)
    };
    start("t4", &threaded).fails(400, "M_UNKNOWN");
    start("t5", &edit).fails(400, "M_UNKNOWN");
    start("t6", &root).ok();
    start("t7", reply["event_id"].as_str().expect("an id")).ok();
    // What relates otherwise to an event of a thread is as good as ever.
    relate(&server, &alice, &id, "t8", "m.annotation", &threaded);
}
