//! Events that are asked for by what relates to them (MSC3440): the list of threads of clients that
//! find no other.

use crate::{
    members::{act, join, set_state},
    relations::relate,
    rooms::{room, send},
    support::{TestServer, TestUser},
};
use serde_json::{Value, json};

fn query(parameters: &[(&str, &str)]) -> String {
    let encoded: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    format!("?{encoded}")
}

fn messages(server: &TestServer, user: &TestUser, room: &str, filter: &Value, more: &[(&str, &str)]) -> Value {
    let filter = filter.to_string();
    let parameters = [&[("filter", &*filter)], more].concat();
    server.get(user, &format!("/_matrix/client/v3/rooms/{room}/messages{}", query(&parameters))).ok()
}

const BACK: [(&str, &str); 1] = [("dir", "b")];

fn ids(events: &Value) -> Vec<&str> {
    events.as_array().into_iter().flatten().map(|event| event["event_id"].as_str().expect("an id")).collect()
}

#[test]
fn threads_are_listed_by_their_type_and_who_takes_part() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let id = room(&server, &alice, json!({ "preset": "public_chat" }));
    join(&server, &bob, &id);
    join(&server, &carol, &id);
    let [one, two, three, _] = ["1", "2", "3", "4"].map(|name| send(&server, &alice, &id, name, name));
    relate(&server, &bob, &id, "t1", "m.thread", &one);
    relate(&server, &carol, &id, "t2", "m.annotation", &one);
    let only = relate(&server, &carol, &id, "t3", "m.thread", &two);
    relate(&server, &bob, &id, "t4", "m.reference", &three);

    let cases = [
        (json!({ "related_by_rel_types": ["m.thread"] }), vec![&two, &one]),
        (json!({ "related_by_rel_types": ["m.annotation", "m.reference"] }), vec![&three, &one]),
        (json!({ "related_by_senders": [bob.id] }), vec![&three, &one]),
        // One and the same event has to be of such a type and from such a sender.
        (json!({ "related_by_rel_types": ["m.thread"], "related_by_senders": [carol.id] }), vec![&two]),
        (json!({ "related_by_rel_types": ["m.thread"], "related_by_senders": [alice.id, "@nobody:test.example"] }), vec![]),
        (json!({ "related_by_rel_types": ["m.thread"], "types": ["m.reaction"] }), vec![]),
        (json!({ "related_by_rel_types": [] }), vec![]),
        (json!({ "related_by_rel_types": ["m.redaction"] }), vec![]),
    ];
    let server = server.restart();
    for (filter, expected) in cases {
        assert_eq!(ids(&messages(&server, &alice, &id, &filter, &BACK)["chunk"]), expected, "{filter}");
    }

    // Wherever a filter of events of rooms is.
    let filter = json!({ "related_by_rel_types": ["m.thread"] });
    let around = query(&[("limit", "20"), ("filter", &filter.to_string())]);
    let around = server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/context/{three}{around}")).ok();
    assert_eq!((ids(&around["events_before"]), ids(&around["events_after"]), ids(&around["state"])), (vec![&*two, &*one], vec![], vec![]));
    assert_eq!(around["event"]["event_id"], three.as_str());
    let definition = json!({ "room": { "timeline": filter, "state": { "related_by_senders": [carol.id] } } });
    let filters = format!("/_matrix/client/v3/user/{}/filter", alice.id);
    let uploaded = server.post(&alice, &filters, definition.clone()).ok()["filter_id"].as_str().expect("an id").to_owned();
    let topic = set_state(&server, &alice, &id, "m.room.topic", json!({ "topic": "Gardens" })).ok()["event_id"].take();
    relate(&server, &carol, &id, "t5", "m.annotation", topic.as_str().expect("an id"));
    for filter in [definition.to_string(), uploaded] {
        let synced = server.get(&alice, &format!("/_matrix/client/v3/sync{}", query(&[("filter", &filter)]))).ok();
        let joined = &synced["rooms"]["join"][&id];
        assert_eq!(ids(&joined["timeline"]["events"]), [&*one, &*two]);
        assert_eq!(ids(&joined["state"]["events"]), [topic.as_str().expect("an id")]);
    }

    // What is redacted relates to nothing any more.
    server.put(&carol, &format!("/_matrix/client/v3/rooms/{id}/redact/{only}/r1"), json!({})).ok();
    assert_eq!(ids(&messages(&server, &alice, &id, &filter, &BACK)["chunk"]), [&*one]);
}

#[test]
fn what_one_may_not_see_makes_no_event_a_thread() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({ "preset": "public_chat" }));
    set_state(&server, &alice, &id, "m.room.history_visibility", json!({ "history_visibility": "joined" })).ok();
    join(&server, &bob, &id);
    let root = send(&server, &alice, &id, "1", "root");
    act(&server, &bob, &id, "leave", json!({})).ok();
    relate(&server, &alice, &id, "t1", "m.thread", &root);
    let filter = json!({ "related_by_rel_types": ["m.thread"] });
    assert_eq!(ids(&messages(&server, &alice, &id, &filter, &BACK)["chunk"]), [&*root]);
    assert!(ids(&messages(&server, &bob, &id, &filter, &BACK)["chunk"]).is_empty());
}

#[test]
fn events_with_many_children_keep_nobody_waiting() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let thread = send(&server, &alice, &id, "thread", "thread");
    let popular = ["1", "2"].map(|name| send(&server, &alice, &id, name, name));
    relate(&server, &alice, &id, "t", "m.thread", &thread);
    for number in 0..2_100 {
        for (index, root) in popular.iter().enumerate() {
            relate(&server, &alice, &id, &format!("r{index}.{number}"), "m.annotation", root);
        }
    }
    let filter = json!({ "types": ["m.room.message"], "related_by_rel_types": ["m.thread"] });
    let (mut found, mut pages, mut from) = (Vec::new(), 0, String::new());
    let yields = server.host.yielded.get();
    loop {
        let more: &[(&str, &str)] = if from.is_empty() { &BACK } else { &[("dir", "b"), ("from", &from)] };
        let page = messages(&server, &alice, &id, &filter, more);
        found.extend(ids(&page["chunk"]).into_iter().map(str::to_owned));
        pages += 1;
        let Some(end) = page["end"].as_str() else { break };
        from = end.to_owned();
    }
    assert_eq!(found, [thread]);
    assert!(pages > 3, "one request reads only so many events, and only so many children of them: {pages}");
    assert!(server.host.yielded.get() - yields > 30, "others go on meanwhile");
    // One child that counts is enough.
    let yields = server.host.yielded.get();
    let page = messages(&server, &alice, &id, &json!({ "related_by_rel_types": ["m.annotation"] }), &[("dir", "f"), ("limit", "2")]);
    assert_eq!(ids(&page["chunk"]), popular);
    assert!(server.host.yielded.get() - yields < 5);
}

/// Filters that are uploaded were bounded, those in a query were not: every event is held against
/// each of their names.
#[test]
fn no_filter_names_too_much() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let sent = send(&server, &alice, &id, "1", "hello");
    let many: Vec<String> = (0..1_001).map(|number| format!("@{number}:x")).collect();
    for name in ["types", "senders", "not_senders", "related_by_senders", "related_by_rel_types"] {
        let filter = json!({ name: many }).to_string();
        let query = query(&[("dir", "b"), ("filter", &filter)]);
        server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/messages{query}")).fails(400, "M_INVALID_PARAM");
        server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/context/{sent}{query}")).fails(400, "M_INVALID_PARAM");
        let definition = json!({ "room": { "timeline": { name: many } } });
        let filters = format!("/_matrix/client/v3/user/{}/filter", alice.id);
        server.post(&alice, &filters, definition).fails(400, "M_INVALID_PARAM");
    }
    for filter in [json!({ "related_by_senders": ["nobody"] }), json!({ "related_by_rel_types": "m.thread" })] {
        let query = query(&[("dir", "b"), ("filter", &filter.to_string())]);
        server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/messages{query}")).fails(400, "M_BAD_JSON");
    }
}
