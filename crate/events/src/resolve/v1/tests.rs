//! Forks of a version 1 room: what the depth of events and the hashes of their ids decide.

#![allow(clippy::unwrap_used)]

use crate::model::{Draft, Model};
use ruma::OwnedEventId;
use serde_json::json;
use sha1::{Digest, Sha1};

/// A room with bob and carol in it, bob with power 50, and its end.
fn room() -> (Model, OwnedEventId) {
    let mut room = Model::public(1);
    room.send(Draft::member("bob", "bob", "join")).unwrap();
    room.send(Draft::member("carol", "carol", "join")).unwrap();
    let levels = room.power_levels(&[("bob", 50)]);
    let end = room.send(Draft::state("alice", "m.room.power_levels", "", levels)).unwrap();
    (room, end)
}

/// Sends after `end` and `deeper` messages on top of it.
fn send(room: &mut Model, end: &OwnedEventId, deeper: usize, draft: Draft) -> OwnedEventId {
    let mut end = end.clone();
    for n in 0..deeper {
        end = room.send_after(&[end], Draft::message("alice", "m.room.message", json!({ "n": n }))).unwrap();
    }
    room.send_after(&[end], draft).unwrap()
}

fn topic(sender: &str, text: &str) -> Draft {
    Draft::state(sender, "m.room.topic", "", json!({ "topic": text }))
}

fn levels(room: &Model, sender: &str, bob: i64) -> Draft {
    Draft::state(sender, "m.room.power_levels", "", room.power_levels(&[("bob", bob)]))
}

fn sha1(id: &OwnedEventId) -> [u8; 20] {
    Sha1::digest(id.as_bytes()).into()
}

#[test]
fn what_one_fork_has_and_the_other_has_not_is_no_conflict() {
    let (mut room, end) = room();
    let topic = send(&mut room, &end, 0, topic("alice", "t"));
    let name = send(&mut room, &end, 3, Draft::state("bob", "m.room.name", "", json!({ "name": "n" })));
    let ends = [topic.clone(), name.clone()];
    assert_eq!(room.holder(&ends, "m.room.topic", ""), Some(topic));
    assert_eq!(room.holder(&ends, "m.room.name", ""), Some(name));
}

#[test]
fn the_deepest_that_is_allowed_holds_an_ordinary_place() {
    let (mut room, end) = room();
    let high = send(&mut room, &end, 0, topic("alice", "high"));
    let deep = send(&mut room, &end, 2, topic("bob", "deep"));
    assert_eq!(room.holder(&[high.clone(), deep.clone()], "m.room.topic", ""), Some(deep.clone()));
    // With the power taken from the deeper one's sender the other holds it.
    let demoted = levels(&room, "alice", 0);
    let demoted = send(&mut room, &high, 0, demoted);
    let ends = [demoted.clone(), deep];
    assert_eq!(room.holder(&ends, "m.room.power_levels", ""), Some(demoted));
    assert_eq!(room.holder(&ends, "m.room.topic", ""), Some(high));
}

#[test]
fn of_equal_depth_the_id_with_the_lower_hash_holds() {
    let (mut room, end) = room();
    let mut ends: Vec<_> = (0..5).map(|n| send(&mut room, &end, 0, topic("alice", &n.to_string()))).collect();
    let winner = room.holder(&ends, "m.room.topic", "");
    ends.sort_by_key(sha1);
    assert_eq!(winner.as_ref(), ends.first());
}

#[test]
fn power_levels_follow_each_other_as_long_as_each_allows_the_next() {
    let (mut room, end) = room();
    let change = |room: &mut Model, deeper, sender: &str, bob| {
        let draft = levels(room, sender, bob);
        send(room, &end, deeper, draft)
    };
    let first = change(&mut room, 0, "alice", 40);
    let second = change(&mut room, 1, "alice", 30);
    let third = change(&mut room, 2, "alice", 20);
    assert_eq!(room.holder(&[third.clone(), first.clone(), second.clone()], "m.room.power_levels", ""), Some(third));
    // Bob, to whom the first leaves less than it takes to change levels, stops the row before the
    // third.
    let (mut room, end) = self::room();
    let lowered = levels(&room, "alice", 1);
    let lowered = send(&mut room, &end, 0, lowered);
    let by_bob = levels(&room, "bob", 45);
    let by_bob = send(&mut room, &end, 1, by_bob);
    let later = levels(&room, "alice", 20);
    let later = send(&mut room, &end, 2, later);
    let ends = [later, by_bob, lowered.clone()];
    assert_eq!(room.holder(&ends, "m.room.power_levels", ""), Some(lowered));
}

#[test]
fn a_ban_stands_against_a_deeper_rejoin_and_a_higher_one() {
    for deeper in [0, 3] {
        let (mut room, end) = room();
        let banned = send(&mut room, &end, 1, Draft::member("alice", "carol", "ban"));
        let rejoined = send(&mut room, &end, deeper, Draft::member("carol", "carol", "join"));
        assert_eq!(room.membership(&[banned, rejoined], "carol"), "ban");
    }
}

#[test]
fn members_are_judged_by_the_join_rules_that_won() {
    let (mut room, end) = room();
    let closed = send(&mut room, &end, 4, Draft::state("alice", "m.room.join_rules", "", json!({ "join_rule": "invite" })));
    let opened = send(&mut room, &end, 0, Draft::state("alice", "m.room.join_rules", "", json!({ "join_rule": "public" })));
    // Dave comes in where the room is open, twice: the second is not allowed where it is closed.
    let dave = send(&mut room, &opened, 0, Draft::member("dave", "dave", "join"));
    let left = send(&mut room, &dave, 0, Draft::member("dave", "dave", "leave"));
    let back = send(&mut room, &left, 0, Draft::member("dave", "dave", "join"));
    let with_left = send(&mut room, &closed, 0, Draft::message("alice", "m.room.message", json!({})));
    let merged = room.send_after(&[with_left, left.clone()], Draft::message("alice", "m.room.message", json!({}))).unwrap();
    let ends = [merged, back];
    assert_eq!(room.holder(&ends, "m.room.join_rules", ""), Some(closed));
    assert_eq!(room.membership(&ends, "dave"), "leave");
}
