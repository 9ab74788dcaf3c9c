//! Bans against those who claim not to have seen them: soft failure (Server-Server API, Soft
//! failure), and forks from before a ban.

use super::{
    super::{Draft, Event},
    forked::{Forked, object, topic_after, versions},
};
use ruma::{
    RoomVersionId,
    events::{StateEventType, TimelineEventType},
};
use serde_json::json;
use std::{collections::BTreeSet, rc::Rc};

/// The specification's example of soft failure: a banned user's server sends an event that claims
/// to be from before the ban.
#[test]
fn what_a_banned_user_sends_from_before_the_ban_is_kept_but_shown_to_nobody() {
    for version in versions() {
        let forked = Forked::new(&version);
        let before = forked.end();
        let ban = format!("/_matrix/client/v3/rooms/{}/ban", forked.room.id);
        forked.server.post(&forked.alice, &ban, json!({ "user_id": "@eve:other.example" })).ok();
        let evading = forked.receive(forked.message("evading", &before));
        assert!(evading.soft_failed && evading.rejected.is_none(), "version {version}");
        assert!(forked.seen().is_empty());
        let next = forked.say("next");
        assert!(!next.pdu.prev_events.contains(&evading.pdu.event_id), "it must not become part of the room's end");
        forked
            .server
            .get(&forked.alice, &format!("/_matrix/client/v3/rooms/{}/event/{}", forked.room.id, evading.pdu.event_id))
            .fails(404, "M_NOT_FOUND");
        // After the ban, in the open: rejected.
        let open = forked.receive(forked.message("open", &forked.end()));
        assert!(open.rejected.is_some());
    }
}

/// The specification's example of soft failure goes on: another server, which has not seen the ban
/// when the event came, builds on both.
#[test]
fn what_another_server_builds_on_a_soft_failed_event_is_taken_as_it_is() {
    for version in versions() {
        let forked = Forked::new(&version);
        let room = forked.room.id.as_str();
        let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.power_levels/");
        let mut levels = forked.server.get(&forked.alice, &path).ok();
        levels["users"]["@eve:other.example"] = json!(50);
        forked.server.put(&forked.alice, &path, levels).ok();
        forked.join("frank");
        let a = forked.end();
        forked.server.post(&forked.alice, &format!("/_matrix/client/v3/rooms/{room}/ban"), json!({ "user_id": "@eve:other.example" })).ok();
        let b = forked.end().remove(0);
        let topic = Draft::state(forked.remote.user("eve"), StateEventType::RoomTopic, "", object(&json!({ "topic": "evading" })));
        let c = forked.receive(forked.remote_event(topic, &a));
        assert!(c.soft_failed, "version {version}");
        let sync = forked.server.get(&forked.alice, "/_matrix/client/v3/sync?timeout=0").ok();
        assert_eq!(topic_after(&sync, room, None), None);
        let content = object(&json!({ "body": "d" }));
        let d = Draft::message(forked.remote.user("frank"), TimelineEventType::RoomMessage, content);
        let d = forked.receive(forked.remote_event(d, &[b, c.clone()]));
        assert!(d.is_shown(), "version {version}");
        assert_eq!(forked.seen(), ["d"]);
        assert_eq!(forked.end().iter().map(|event| &event.pdu.event_id).collect::<Vec<_>>(), [&d.pdu.event_id]);
        // "The state at D may resolve to a state which includes C, in which case clients should
        // also be told that the state has changed": in v1, where what one branch alone has is no
        // conflict.
        let expected = (version == RoomVersionId::V1).then_some("evading");
        let state = forked.server.get(&forked.alice, &format!("/_matrix/client/v3/rooms/{room}/state/m.room.topic/"));
        assert_eq!(state.body["topic"].as_str(), expected, "version {version}");
        let since = sync["next_batch"].as_str().expect("a token");
        let sync = forked.server.get(&forked.alice, &format!("/_matrix/client/v3/sync?timeout=0&since={since}")).ok();
        assert_eq!(topic_after(&sync, room, None).as_deref(), expected, "version {version}");
        let member = forked.server.get(&forked.alice, &format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/@eve:other.example")).ok();
        assert_eq!(member["membership"], "ban", "version {version}");
    }
}

/// A rejected or soft-failed event takes the place of no extremity, and what came after it took the
/// place of itself alone: what stood before it stayed an end of the room forever.
#[test]
fn what_others_stand_on_through_rejected_and_soft_failed_events_is_no_end_of_the_room() {
    for version in versions() {
        let forked = Forked::new(&version);
        let frank = forked.remote.user("frank");
        let joined = forked.join("frank");
        let says = |body: &str, parent: &Rc<Event>| {
            let content = object(&json!({ "body": body }));
            forked.receive(forked.remote_event(Draft::message(frank.clone(), TimelineEventType::RoomMessage, content), std::slice::from_ref(parent)))
        };
        let path = format!("/_matrix/client/v3/rooms/{}/ban", forked.room.id);
        forked.server.post(&forked.alice, &path, json!({ "user_id": "@eve:other.example" })).ok();
        let banned = forked.end();
        let other = says("from before the ban", &joined);
        let soft_failed = forked.receive(forked.message("soft-failed", std::slice::from_ref(&other)));
        assert!(soft_failed.soft_failed);
        let behind = says("behind it", &soft_failed);
        let ends = || forked.end().iter().map(|event| event.pdu.event_id.clone()).collect::<BTreeSet<_>>();
        assert_eq!(ends(), BTreeSet::from([banned[0].pdu.event_id.clone(), behind.pdu.event_id.clone()]), "version {version}");

        let rejected = forked.receive(forked.message("rejected", &banned));
        let again = forked.receive(forked.message("rejected too", std::slice::from_ref(&rejected)));
        assert!(rejected.rejected.is_some() && again.rejected.is_some());
        let last = says("behind both", &again);
        assert_eq!(ends(), BTreeSet::from([behind.pdu.event_id.clone(), last.pdu.event_id.clone()]), "version {version}");
    }
}

/// The oldest extremity was dropped for the newest: 64 forks from before a ban, each with a state
/// of its own, undid the ban.
#[test]
fn a_ban_holds_against_forks_without_end() {
    for version in [RoomVersionId::V1, RoomVersionId::V6, RoomVersionId::V12] {
        let forked = Forked::new(&version);
        let room = forked.room.id.as_str();
        let bob = forked.server.register("bob");
        forked.server.post(&bob, &format!("/_matrix/client/v3/join/{room}"), json!({})).ok();
        let before = forked.end();
        let eve = forked.remote.user("eve");
        let renamed = |n: usize| {
            let content = object(&json!({ "membership": "join", "displayname": n.to_string() }));
            forked.remote_event(Draft::state(eve.clone(), StateEventType::RoomMember, eve.as_str(), content), &before)
        };
        forked.server.post(&forked.alice, &format!("/_matrix/client/v3/rooms/{room}/ban"), json!({ "user_id": bob.id })).ok();
        let membership = || {
            let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/{}", bob.id);
            forked.server.get(&forked.alice, &path).ok()["membership"].clone()
        };
        for n in 0..70 {
            let fork = forked.receive(renamed(n));
            assert!(fork.is_shown(), "version {version}");
        }
        assert!(forked.end().len() <= 64);
        assert_eq!(membership(), "ban", "version {version}");
        // Who speaks makes fewer of them.
        for body in ["one", "two", "three", "four"] {
            forked.say(body);
        }
        assert_eq!(forked.end().len(), 1);
        assert_eq!(membership(), "ban", "version {version}");
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/t");
        forked.server.put(&bob, &path, json!({ "body": "here" })).fails(403, "M_FORBIDDEN");
    }
}

/// A local event was judged by the state of its parents alone, which are the newest 20 ends of the
/// room: 20 messages from before a ban let the banned speak.
#[test]
fn who_is_banned_may_not_speak_whatever_the_newest_ends_say() {
    for version in versions() {
        let forked = Forked::new(&version);
        let room = forked.room.id.as_str();
        let bob = forked.server.register("bob");
        forked.server.post(&bob, &format!("/_matrix/client/v3/join/{room}"), json!({})).ok();
        let before = forked.end();
        forked.server.post(&forked.alice, &format!("/_matrix/client/v3/rooms/{room}/ban"), json!({ "user_id": bob.id })).ok();
        for n in 0..20 {
            forked.receive(forked.message(&n.to_string(), &before));
        }
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/t");
        forked.server.put(&bob, &path, json!({ "body": "here" })).fails(403, "M_FORBIDDEN");
        forked.server.post(&bob, &format!("/_matrix/client/v3/join/{room}"), json!({})).fails(403, "M_FORBIDDEN");
        forked.say("end");
        forked.server.put(&bob, &path, json!({ "body": "here" })).fails(403, "M_FORBIDDEN");
    }
}

#[test]
fn of_two_conflicting_bans_the_one_of_the_higher_level_holds() {
    for version in versions() {
        let forked = Forked::new(&version);
        let mut levels = forked.server.get(&forked.alice, &format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", forked.room.id)).ok();
        levels["users"]["@eve:other.example"] = json!(50);
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", forked.room.id);
        forked.server.put(&forked.alice, &path, levels).ok();
        let bob = forked.server.register("bob");
        forked.server.post(&bob, &format!("/_matrix/client/v3/join/{}", forked.room.id), json!({})).ok();
        let before = forked.end();
        // Eve bans bob while alice bans eve.
        let ban = Draft::state(forked.remote.user("eve"), StateEventType::RoomMember, bob.id.as_str(), object(&json!({ "membership": "ban" })));
        let eves = forked.remote_event(ban, &before);
        let path = format!("/_matrix/client/v3/rooms/{}/ban", forked.room.id);
        forked.server.post(&forked.alice, &path, json!({ "user_id": "@eve:other.example" })).ok();
        let eves = forked.receive(eves);
        assert!(eves.soft_failed, "version {version}");
        // Another branch of eve's server refers to the ban: both bans are in the conflict now.
        let follow = forked.remote_event(
            Draft::message(forked.remote.user("eve"), TimelineEventType::RoomMessage, object(&json!({ "body": "follow" }))),
            std::slice::from_ref(&eves),
        );
        let follow = forked.receive(follow);
        assert!(follow.soft_failed && follow.rejected.is_none());
        forked.say("end");
        let members = forked.server.get(&forked.alice, &format!("/_matrix/client/v3/rooms/{}/joined_members", forked.room.id)).ok();
        let joined: Vec<_> = members["joined"].as_object().expect("members").keys().cloned().collect();
        assert_eq!(joined, ["@alice:test.example", "@bob:test.example"], "version {version}");
    }
}
