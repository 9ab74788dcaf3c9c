//! Forks and late events: what clients and later events see of them.

use super::{
    super::{Draft, Error, Refused},
    forked::{Forked, Remote, events_of, object, public_room, stray_nodes, topic_after, versions},
};
use ephapse_events::{Pdu, max_depth};
use ruma::{
    CanonicalJsonObject, RoomVersionId,
    events::{StateEventType, TimelineEventType},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[test]
fn a_late_event_is_shown_and_the_next_one_merges_the_fork() {
    for version in versions() {
        let forked = Forked::new(&version);
        let before = forked.end();
        let one = forked.say("one");
        let late = forked.receive(forked.message("late", &before));
        assert!(late.is_shown());
        let merging = forked.say("two");
        let parents: BTreeSet<_> = merging.pdu.prev_events.iter().collect();
        assert_eq!(parents, BTreeSet::from([&one.pdu.event_id, &late.pdu.event_id]), "version {version}");
        assert_eq!(forked.seen(), ["two", "late", "one"]);
    }
}

#[test]
fn a_client_holds_the_state_that_a_fork_resolves_to() {
    for (alice_is_later, state_after) in [(false, false), (true, false), (false, true), (true, true)] {
        let forked = Forked::new(&RoomVersionId::V11);
        let room = forked.room.id.as_str();
        let path = format!("/_matrix/client/v3/rooms/{room}/state");
        let mut levels = forked.server.get(&forked.alice, &format!("{path}/m.room.power_levels/")).ok();
        levels["users"]["@eve:other.example"] = json!(50);
        forked.server.put(&forked.alice, &format!("{path}/m.room.power_levels/"), levels).ok();
        let sync = |since: &str| {
            let query = format!("/_matrix/client/v3/sync?use_state_after={state_after}{since}");
            let answer = forked.server.get(&forked.alice, &query).ok();
            let next = format!("&since={}", answer["next_batch"].as_str().expect("a token"));
            (answer, next)
        };
        let (_, start) = sync("");
        let before = forked.end();
        if alice_is_later {
            forked.server.host.advance(std::time::Duration::from_secs(3600));
        }
        forked.server.put(&forked.alice, &format!("{path}/m.room.topic/"), json!({ "topic": "here" })).ok();
        let (middle, since) = sync(&start);
        let known = topic_after(&middle, room, None);
        assert_eq!(known.as_deref(), Some("here"));
        let there = object(&json!({ "topic": "there" }));
        let eves = Draft::state(forked.remote.user("eve"), StateEventType::RoomTopic, "", there);
        forked.receive(forked.remote_event(eves, &before));

        let topic = forked.server.get(&forked.alice, &format!("{path}/m.room.topic/")).ok()["topic"].as_str().map(str::to_owned);
        assert_eq!(topic.as_deref(), Some(if alice_is_later { "here" } else { "there" }));
        assert_eq!(topic_after(&sync(&since).0, room, known), topic, "who saw one branch before: {alice_is_later} {state_after}");
        assert_eq!(topic_after(&sync(&start).0, room, None), topic, "who sees both at once: {alice_is_later} {state_after}");
        forked.say("end");
        assert_eq!(topic_after(&sync(&start).0, room, None), topic, "after the merge: {alice_is_later} {state_after}");
    }
}

/// Clients were told of redactions that this server did not apply, and clients apply what they are
/// told of.
#[test]
fn clients_are_told_of_a_redaction_when_it_is_applied() {
    for version in versions().into_iter().filter(|version| version.rules().is_some_and(|rules| !rules.authorization.special_case_room_redaction)) {
        let mut forked = Forked::new(&version);
        let sync = |forked: &Forked, since: &str| {
            let answer = forked.server.get(&forked.alice, &format!("/_matrix/client/v3/sync?timeout=0{since}")).ok();
            let timeline = answer["rooms"]["join"][forked.room.id.as_str()]["timeline"]["events"].as_array().cloned().unwrap_or_default();
            (timeline, format!("&since={}", answer["next_batch"].as_str().expect("a token")))
        };
        let hers = forked.say("hers");
        let (_, since) = sync(&forked, "");
        // Eve has no power over alice's events.
        let refused = forked.receive(forked.redaction("eve", &hers.pdu, &forked.end()));
        assert!(refused.is_accepted() && !refused.is_shown(), "version {version}");
        assert!(forked.event(hers.pdu.event_id.as_str()).redacted_by.is_none());
        // What eve redacts of her own is not here yet.
        let target = forked.message("secret", &forked.end());
        let early = forked.receive(forked.redaction("eve", &target, &forked.end()));
        assert_eq!(sync(&forked, &since).0, Vec::<Value>::new());
        forked.server = forked.server.restart();
        for hidden in [&refused, &early] {
            let id = percent_encoding::utf8_percent_encode(hidden.pdu.event_id.as_str(), percent_encoding::NON_ALPHANUMERIC);
            forked.server.get(&forked.alice, &format!("/_matrix/client/v3/rooms/{}/event/{id}", forked.room.id)).fails(404, "M_NOT_FOUND");
        }
        let (_, since) = sync(&forked, &since);
        let target = forked.receive(target);
        let (timeline, since) = sync(&forked, &since);
        let ids: Vec<_> = timeline.iter().map(|event| event["event_id"].as_str().expect("an id")).collect();
        assert_eq!(ids, [target.pdu.event_id.as_str(), early.pdu.event_id.as_str()], "version {version}");
        assert_eq!((&timeline[0]["content"], &timeline[1]["redacts"]), (&json!({}), &json!(target.pdu.event_id)));
        assert_eq!(timeline[0]["unsigned"]["redacted_because"]["event_id"], early.pdu.event_id.as_str());
        // Both are ends of the room all the same, and the early one stands in one place only.
        let next = forked.say("next");
        assert!(next.pdu.prev_events.contains(&early.pdu.event_id));
        assert_eq!(sync(&forked, &since).0.len(), 1);
        assert_eq!(events_of(&forked).iter().filter(|event| event.pdu.event_id == early.pdu.event_id).count(), 1);
        assert_eq!(stray_nodes(&forked), BTreeSet::new());
    }
}

/// A redaction that came before what it redacts was one of what relates to it, of which 256 were
/// read.
#[test]
fn a_redaction_is_not_lost_behind_what_came_before_it() {
    for version in [RoomVersionId::V1, RoomVersionId::V11] {
        let forked = Forked::new(&version);
        let end = forked.end();
        let target = forked.message("secret", &end);
        for n in 0..260 {
            let content = json!({ "body": n, "m.relates_to": { "rel_type": "m.reference", "event_id": target.event_id } });
            forked.receive(forked.remote_event(Draft::message(forked.remote.user("eve"), TimelineEventType::RoomMessage, object(&content)), &end));
        }
        forked.receive(forked.redaction("eve", &target, &end));
        let redacted = forked.receive(target);
        assert!(forked.event(redacted.pdu.event_id.as_str()).redacted_by.is_some(), "version {version}");
        assert!(!forked.seen().contains(&"secret".to_owned()));
    }
}

/// Of redactions that waited, those of 256 senders were looked at: it was chance whether the one
/// who may redact was among them.
#[test]
fn the_redaction_of_who_may_is_found_among_those_of_many_who_may_not() {
    let forked = Forked::new(&RoomVersionId::V11);
    let other = Remote::new("third.example", 11);
    let author = other.user("mallory");
    let join = Draft::state(author.clone(), StateEventType::RoomMember, author.as_str(), object(&json!({ "membership": "join" })));
    forked.receive(forked.remote_event_of(&other, join, &forked.end()));
    let content = object(&json!({ "msgtype": "m.text", "body": "secret" }));
    for n in 0..260 {
        forked.join(&format!("eve{n}"));
    }
    let end = forked.end();
    let target = forked.remote_event_of(&other, Draft::message(author, TimelineEventType::RoomMessage, content), &end);
    for n in 0..260 {
        let redaction = forked.receive(forked.redaction(&format!("eve{n}"), &target, &end));
        assert!(redaction.is_accepted() && !redaction.is_shown());
    }
    // Heard of last, and so the last in the table.
    let moderator = other.user("zoe");
    let join = Draft::state(moderator.clone(), StateEventType::RoomMember, moderator.as_str(), object(&json!({ "membership": "join" })));
    let joined = forked.receive(forked.remote_event_of(&other, join, &end));
    let draft = Draft::message(moderator, TimelineEventType::RoomRedaction, CanonicalJsonObject::new());
    let draft = Draft { redacts: Some(target.event_id.clone()), ..draft };
    forked.receive(forked.remote_event_of(&other, draft, &[joined]));
    let redacted = forked.receive(target);
    assert!(forked.event(redacted.pdu.event_id.as_str()).redacted_by.is_some());
}

/// What relates to an event through one that this server did not have yet, however much it is.
#[test]
fn all_that_relates_through_a_late_event_is_found() {
    let forked = Forked::new(&RoomVersionId::V11);
    let end = forked.end();
    let relating = |body: &str, rel_type: &str, parent: &Pdu| {
        let content = json!({ "msgtype": "m.text", "body": body, "m.relates_to": { "rel_type": rel_type, "event_id": parent.event_id } });
        forked.remote_event(Draft::message(forked.remote.user("eve"), TimelineEventType::RoomMessage, object(&content)), &end)
    };
    let root = forked.receive(forked.message("root", &end));
    let late = relating("late", "m.thread", &root.pdu);
    for n in 0..520 {
        forked.receive(relating(&n.to_string(), "m.annotation", &late));
    }
    forked.receive(late);
    let path = format!("/_matrix/client/v1/rooms/{}/relations/{}?recurse=true&limit=100", forked.room.id, root.pdu.event_id);
    let (mut found, mut from) = (0, String::new());
    loop {
        let page = forked.server.get(&forked.alice, &format!("{path}{from}")).ok();
        found += page["chunk"].as_array().expect("a chunk").len();
        let Some(next) = page["next_batch"].as_str() else { break };
        from = format!("&from={next}");
    }
    assert_eq!(found, 521);
}

/// What relates to an event through one that this server did not have yet.
#[test]
fn what_relates_through_a_late_event_is_found_when_that_has_come() {
    let forked = Forked::new(&RoomVersionId::V11);
    let end = forked.end();
    let relating = |body: &str, rel_type: &str, parent: &Pdu| {
        let content = json!({ "msgtype": "m.text", "body": body, "m.relates_to": { "rel_type": rel_type, "event_id": parent.event_id } });
        forked.remote_event(Draft::message(forked.remote.user("eve"), TimelineEventType::RoomMessage, object(&content)), &end)
    };
    let root = forked.message("root", &end);
    let late = relating("late", "m.thread", &root);
    let child = relating("child", "m.annotation", &late);
    let grandchild = relating("grandchild", "m.reference", &child);
    for pdu in [&root, &child, &grandchild, &late] {
        forked.receive(pdu.clone());
    }
    let path = format!("/_matrix/client/v1/rooms/{}/relations/{}?dir=f&recurse=", forked.room.id, root.event_id);
    let found = |recurse: bool| {
        let page = forked.server.get(&forked.alice, &format!("{path}{recurse}")).ok();
        page["chunk"].as_array().expect("a chunk").iter().map(|event| event["content"]["body"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(found(true), ["child", "grandchild", "late"]);
    assert_eq!(found(false), ["late"]);
}

#[test]
fn an_event_after_the_deepest_one_has_the_same_depth() {
    for version in versions() {
        let forked = Forked::new(&version);
        let deepest = max_depth(&forked.room.rules);
        forked.depth.set(deepest);
        let deep = forked.receive(forked.message("deep", &forked.end()));
        assert_eq!(deep.pdu.depth, deepest);
        let next = forked.say("next");
        assert_eq!((next.pdu.depth, &next.pdu.prev_events[0]), (deepest, &deep.pdu.event_id), "version {version}");
    }
}

/// Where servers give ids themselves, the same id in a second room took the event away from the
/// first, which could not be read or written any more.
#[test]
fn an_event_id_exists_in_one_room_only() {
    for version in [RoomVersionId::V1, RoomVersionId::V2] {
        for restarted in [false, true] {
            let mut forked = Forked::new(&version);
            let end = forked.end();
            let first = forked.receive(forked.message("here", &end));
            let clock = forked.clock.get();
            let second = public_room(&forked.server, &forked.alice, &version);
            let first_room = std::mem::replace(&mut forked.room, second);
            forked.join("eve");
            let end = forked.end();
            forked.clock.set(clock - 1000);
            let again = forked.message("there", &end);
            assert_eq!(again.event_id, first.pdu.event_id);
            if restarted {
                forked.server = forked.server.restart();
            }
            let refused = forked.try_receive(again).expect_err("the id is another event's");
            assert!(matches!(refused, Error::Refused(Refused::OfAnotherRoom(_))), "{refused}");
            assert_eq!(forked.say("still").pdu.prev_events.len(), 1);
            forked.room = first_room;
            assert_eq!(forked.event(first.pdu.event_id.as_str()).pdu.json, first.pdu.json);
            forked.say("also");
            assert_eq!(forked.seen(), ["also", "here"], "version {version}");
        }
    }
}

/// Whoever receives an event has to fetch what it stands on: each answer named one event, and a
/// room with many ends took as many rounds.
#[test]
fn all_missing_parents_of_an_event_are_named_at_once() {
    for version in versions() {
        let forked = Forked::new(&version);
        let end = forked.end();
        let unseen = [forked.message("one", &end), forked.message("two", &end)];
        let parents = unseen.iter().map(|event| event.event_id.clone()).collect();
        let event = Pdu { prev_events: parents, ..forked.message("three", &end) };
        let refused = forked.try_receive(event.clone()).expect_err("its parents are not here");
        let Error::Refused(Refused::MissingEvents { event: refused, missing }) = refused else { panic!("version {version}: {refused}") };
        assert_eq!((refused, &missing), (event.event_id.clone(), &event.prev_events));
        for parent in unseen {
            forked.receive(parent);
        }
        assert!(forked.receive(event).is_accepted());
    }
}
