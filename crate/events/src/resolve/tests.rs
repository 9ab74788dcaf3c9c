//! Forks, small and large: the reduced resolution gives what the full one gives, in whatever order
//! events arrived; bans and power levels hold; the work follows the conflict.

#![allow(clippy::unwrap_used)]

use crate::{
    model::{Draft, Model, rules, user, versions},
    resolve::Unresolved,
};
use ephapse_testing::holds;
use proptest::{prelude::*, sample::Index};
use ruma::OwnedEventId;
use serde_json::json;

const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// One step of a random history: who does what to whom, when, and after which events.
#[derive(Clone, Debug)]
struct Step {
    sender: usize,
    target: usize,
    action: u8,
    level: usize,
    ts: u32,
    parents: Vec<Index>,
    is_at_end: bool,
}

fn any_step() -> impl Strategy<Value = Step> {
    let parents = prop::collection::vec(any::<Index>(), 1..4);
    (0..4usize, 0..4usize, 0..12u8, 0..4usize, 0..50u32, parents, any::<bool>()).prop_map(
        |(sender, target, action, level, ts, parents, is_at_end)| Step {
            // Alice can do most.
            sender: if level == 3 { 0 } else { sender },
            target,
            action,
            level,
            ts,
            parents,
            is_at_end,
        },
    )
}

fn draft(step: &Step, room: &Model) -> Draft {
    let (sender, target) = (NAMES[step.sender], NAMES[step.target]);
    let draft = match step.action {
        0..=2 => Draft::member(sender, sender, "join"),
        3 => Draft::member(sender, sender, "leave"),
        4 => Draft::member(sender, target, "invite"),
        5 => Draft::member(sender, target, "leave"),
        6 => Draft::member(sender, target, "ban"),
        7 | 8 => {
            let level = [0, 50, 75, 100][step.level];
            let others = if target == "alice" { vec![] } else { vec![(target, level)] };
            Draft::state(sender, "m.room.power_levels", "", room.power_levels(&others))
        }
        9 => {
            let rule = ["public", "invite", "knock", "public"][step.level];
            Draft::state(sender, "m.room.join_rules", "", json!({ "join_rule": rule }))
        }
        10 => Draft::state(sender, "m.room.topic", "", json!({ "topic": step.level })),
        _ => Draft::state(sender, "org.example.thing", target, json!({ "n": step.level })),
    };
    draft.at(step.ts)
}

/// A room with a random history, rejected events included.
fn history(version: u8, steps: &[Step]) -> Model {
    let mut room = Model::public(version);
    for name in ["bob", "carol"] {
        room.send(Draft::member(name, name, "join")).unwrap();
    }
    room.send(Draft::state("alice", "m.room.power_levels", "", room.power_levels(&[("bob", 50)])).at(2)).unwrap();
    for step in steps {
        let mut parents = if step.is_at_end {
            room.parents()
        } else {
            let known = room.events();
            step.parents.iter().map(|parent| parent.get(known).event_id.clone()).collect()
        };
        parents.sort();
        parents.dedup();
        let pdu = room.build(&parents, draft(step, &room));
        // The same step at the same place makes the same event.
        if !room.events().iter().any(|known| known.event_id == pdu.event_id) {
            let _ = room.receive(pdu);
        }
    }
    room
}

/// The same events in another order that servers may receive them in.
fn delivered_otherwise(room: &Model, choices: &[Index]) -> Model {
    let mut other = Model::empty(room.version);
    let mut waiting: Vec<_> = room.events().to_vec();
    let mut choices = choices.iter().cycle();
    while !waiting.is_empty() {
        let is_here = |id: &OwnedEventId| other.events().iter().any(|event| event.event_id == *id);
        let ready: Vec<usize> =
            (0..waiting.len()).filter(|at| waiting[*at].prev_events.iter().chain(&waiting[*at].auth_events).all(is_here)).collect();
        let next = waiting.swap_remove(*choices.next().unwrap().get(&ready));
        let _ = other.receive(ruma_free(&next, room.version));
    }
    other
}

/// The event as it comes over the wire.
fn ruma_free(event: &crate::Pdu, version: u8) -> crate::Pdu {
    crate::Pdu::from_stored(event.event_id.clone(), event.json.clone(), false, &rules(version)).unwrap()
}

/// A history, and what is asked of it: sets of up to four events.
fn history_and_picks(steps: usize, sets: usize) -> impl Strategy<Value = (Vec<Step>, Vec<Vec<Index>>)> {
    (prop::collection::vec(any_step(), 10..steps), prop::collection::vec(prop::collection::vec(any::<Index>(), 2..5), sets))
}

fn picked(room: &Model, pick: &[Index]) -> Vec<OwnedEventId> {
    pick.iter().map(|at| at.get(room.events()).event_id.clone()).collect()
}

// Each case signs and resolves a few hundred times: few for each room version by default, as many
// as `PROPTEST_CASES` says.

#[test]
fn the_reduced_resolution_is_the_full_one() {
    for version in versions().filter(|version| *version > 1) {
        println!("room version {version}");
        holds(2, &history_and_picks(40, 12), |(steps, picks)| {
            let room = history(version, &steps);
            for pick in picks {
                let events = picked(&room, &pick);
                let reduced = room.state_after(&events);
                prop_assert!(room.has_create(&reduced) || events.len() < 2);
                prop_assert_eq!(&*reduced, &room.resolve_in_full(&events));
                prop_assert_eq!(&*reduced, &room.resolve_in_memory(&events, room.events()).unwrap());
            }
            Ok(())
        });
    }
}

#[test]
fn auth_chains_walked_in_part_give_the_sets_that_the_spec_defines() {
    // Of each version of the state resolution, and of each format of events that it goes by.
    for version in [2, 6, 11, 12] {
        println!("room version {version}");
        holds(4, &history_and_picks(50, 24), |(steps, picks)| {
            let room = history(version, &steps);
            for pick in picks {
                let [walked, defined] = room.walked_and_defined(&picked(&room, &pick));
                prop_assert_eq!(walked, defined);
            }
            Ok(())
        });
    }
}

#[test]
fn any_order_of_delivery_gives_one_state() {
    let drawn = (prop::collection::vec(any_step(), 10..30), prop::collection::vec(any::<Index>(), 1..40));
    for version in versions() {
        println!("room version {version}");
        holds(2, &drawn, |(steps, choices)| {
            let room = history(version, &steps);
            let other = delivered_otherwise(&room, &choices);
            for event in room.events() {
                prop_assert_eq!(event.rejected, other.event(&event.event_id).rejected);
                let id = [event.event_id.clone()];
                prop_assert_eq!(room.state_after(&id), other.state_after(&id));
            }
            prop_assert_eq!(room.extremities(), other.extremities());
            prop_assert_eq!(room.state_after(&room.extremities()), other.state_after(&other.extremities()));
            Ok(())
        });
    }
}

/// What `send_after` gives for an event that both forks accept.
fn sent(room: &mut Model, after: &[OwnedEventId], draft: Draft) -> OwnedEventId {
    room.send_after(after, draft).unwrap()
}

fn sent_levels(room: &mut Model, after: &[OwnedEventId], others: &[(&str, i64)], ts: u32) -> OwnedEventId {
    let content = room.power_levels(others);
    sent(room, after, Draft::state("alice", "m.room.power_levels", "", content).at(ts))
}

#[test]
fn a_ban_on_one_fork_holds_against_what_the_banned_did_on_the_other() {
    for version in versions() {
        let mut room = Model::public(version);
        let bob = room.send(Draft::member("bob", "bob", "join")).unwrap();
        let fork = [bob];
        let banned = sent(&mut room, &fork, Draft::member("alice", "bob", "ban").at(10));
        let renamed = Draft::state("bob", "m.room.member", user("bob").as_str(), json!({ "membership": "join", "displayname": "B" }));
        let renamed = sent(&mut room, &fork, renamed.at(20));
        let thing = Draft::state("bob", "org.example.thing", "", json!({}));
        // v1 and v2 events differ by depth only: bob is the deeper one here.
        let _ = room.send_after(std::slice::from_ref(&renamed), thing.at(30));
        let ends = [banned, renamed];
        let expected = if version == 1 { ["ban", "join"].map(str::to_owned).to_vec() } else { vec!["ban".to_owned()] };
        assert!(expected.contains(&room.membership(&ends, "bob")), "version {version}");
    }
}

#[test]
fn of_two_admins_who_ban_each_other_the_more_powerful_stays() {
    for version in versions().filter(|version| *version > 1) {
        let mut room = Model::public(version);
        room.send(Draft::member("bob", "bob", "join")).unwrap();
        room.send(Draft::member("carol", "carol", "join")).unwrap();
        let fork = [room.send(Draft::state("alice", "m.room.power_levels", "", room.power_levels(&[("bob", 75), ("carol", 60)]))).unwrap()];
        let by_bob = sent(&mut room, &fork, Draft::member("bob", "carol", "ban").at(900));
        // Carol's power does not reach bob: rejected wherever it is seen.
        assert!(room.send_after(&fork, Draft::member("carol", "bob", "ban").at(1)).is_err());
        let topic = sent(&mut room, &fork, Draft::state("carol", "m.room.topic", "", json!({ "topic": "mine" })).at(2));
        let ends = [by_bob, topic];
        assert_eq!(room.membership(&ends, "carol"), "ban");
        assert_eq!(room.holder(&ends, "m.room.topic", ""), None, "version {version}");
    }
}

#[test]
fn a_demotion_on_one_fork_undoes_what_needed_the_power_on_the_other() {
    for version in versions().filter(|version| *version > 1) {
        let mut room = Model::public(version);
        room.send(Draft::member("bob", "bob", "join")).unwrap();
        room.send(Draft::member("carol", "carol", "join")).unwrap();
        let fork = [room.send(Draft::state("alice", "m.room.power_levels", "", room.power_levels(&[("bob", 50)]))).unwrap()];
        let demoted = sent_levels(&mut room, &fork, &[("bob", 0)], 100);
        let kicked = sent(&mut room, &fork, Draft::member("bob", "carol", "leave").at(50));
        let closed = sent(&mut room, &[kicked], Draft::state("bob", "m.room.join_rules", "", json!({ "join_rule": "invite" })).at(60));
        let ends = [demoted.clone(), closed.clone()];
        assert_eq!(room.holder(&ends, "m.room.power_levels", ""), Some(demoted), "version {version}");
        assert_ne!(room.holder(&ends, "m.room.join_rules", ""), Some(closed), "version {version}");
        assert_eq!(room.membership(&ends, "carol"), "join", "version {version}");
    }
}

#[test]
fn two_changes_of_the_power_levels_on_two_forks_leave_one() {
    for version in versions() {
        let mut room = Model::public(version);
        let fork = [room.send(Draft::member("bob", "bob", "join")).unwrap()];
        let first = sent_levels(&mut room, &fork, &[("bob", 10)], 10);
        let second = sent_levels(&mut room, &fork, &[("bob", 20)], 20);
        let one_way = room.holder(&[first.clone(), second.clone()], "m.room.power_levels", "");
        assert_eq!(one_way, room.holder(&[second.clone(), first.clone()], "m.room.power_levels", ""));
        if version > 1 {
            // The later one is allowed by the earlier one and comes last.
            assert_eq!(one_way, Some(second), "version {version}");
        } else {
            assert!(one_way == Some(first) || one_way == Some(second));
        }
    }
}

/// The mainline ordering puts what stands on older power levels first, whatever its time says. What
/// the forks have in common of the power levels' history is cut off before ruma sees it, and must
/// not be cut too early.
#[test]
fn what_stands_on_newer_power_levels_wins() {
    for version in versions().filter(|version| *version > 1) {
        let mut room = Model::public(version);
        let mut tip = room.extremities().remove(0);
        let topic = |text: &str, ts| Draft::state("alice", "m.room.topic", "", json!({ "topic": text })).at(ts);
        // The later by mainline is the earlier by time.
        let old = sent(&mut room, &[tip.clone()], topic("old", 900));
        tip = sent_levels(&mut room, &[tip], &[("bob", 10)], 20);
        let new = sent(&mut room, &[tip.clone()], topic("new", 100));
        for level in 20..25 {
            tip = sent_levels(&mut room, &[tip], &[("bob", level)], 30);
        }
        let note = |end: &OwnedEventId, tip: &OwnedEventId, room: &mut Model| {
            sent(room, &[end.clone(), tip.clone()], Draft::message("alice", "m.room.message", json!({ "body": end.as_str() })))
        };
        let with_old = note(&old, &tip, &mut room);
        let with_new = note(&new, &tip, &mut room);
        let ends = [with_old, with_new];
        assert_eq!(*room.state_after(&ends), room.resolve_in_full(&ends));
        // v2.1 starts from an empty state: power levels that nobody disputes are no mainline there,
        // and time decides.
        let expected = if version == 12 { old } else { new };
        assert_eq!(room.holder(&ends, "m.room.topic", ""), Some(expected), "version {version}");
    }
}

#[test]
fn events_that_are_not_in_memory_are_named() {
    for version in versions() {
        let mut room = Model::public(version);
        let fork = [room.send(Draft::member("bob", "bob", "join")).unwrap()];
        let ends = [10, 20].map(|level| sent_levels(&mut room, &fork, &[("bob", level)], level as u32));
        let (absent, present) = room.events().split_last().unwrap();
        let Err(Unresolved::Missing(missing)) = room.resolve_in_memory(&ends, present) else { panic!("version {version}") };
        assert!(missing.events.iter().eq([&absent.event_id]));
        assert_eq!(room.resolve_in_memory(&ends, room.events()).unwrap(), *room.state_after(&ends));
    }
}

#[test]
fn a_long_resolution_stops_now_and_then_and_goes_on() {
    for version in [1, 2, 12] {
        let rounds = |others: usize| {
            let mut room = Model::public(version);
            let mut levels = room.power_levels(&[]);
            for n in 0..others {
                levels["users"][format!("@somebody-whose-name-is-long-{n}:other.example")] = json!(1);
            }
            let fork = room.send(Draft::state("alice", "m.room.power_levels", "", levels)).unwrap();
            let ends = [10, 20].map(|ts| {
                let mut end = fork.clone();
                for n in 0..24 {
                    end = sent(&mut room, &[end], Draft::state("alice", "org.example.thing", &n.to_string(), json!({ "ts": ts })).at(ts));
                }
                end
            });
            let state = room.state_after(&ends);
            assert!(version == 1 || *state == room.resolve_in_full(&ends), "version {version}");
            assert_eq!(state.keys().filter(|(kind, _)| *kind == "org.example.thing".into()).count(), 24);
            room.rounds.get()
        };
        let (short, long) = (rounds(0), rounds(1000));
        assert!(long >= short + 6, "version {version}: {short} and {long} rounds");
    }
}

#[test]
fn the_work_of_a_merge_follows_the_conflict_and_not_the_room() {
    let cost = |version: u8, members: usize| {
        let mut room = Model::public(version);
        let mut last = room.send(Draft::member("bob", "bob", "join")).unwrap();
        for n in 0..members {
            let name = format!("m{n}");
            last = sent(&mut room, &[last], Draft::member(&name, &name, "join"));
        }
        let fork = [last];
        let topic = sent(&mut room, &fork, Draft::state("alice", "m.room.topic", "", json!({ "topic": "a" })));
        let levels = Draft::state("alice", "m.room.power_levels", "", room.power_levels(&[("bob", 50)]));
        let levels = sent(&mut room, &fork, levels);
        let invited = sent(&mut room, &[levels], Draft::state("bob", "m.room.topic", "", json!({ "topic": "b" })));
        room.state_after(&[topic, invited]);
        (room.loaded.get(), room.rounds.get())
    };
    for version in [1, 2, 6, 11, 12] {
        let (small, large) = (cost(version, 5), cost(version, 400));
        println!("version {version}: (events, rounds) {small:?} among 5 members, {large:?} among 400");
        assert!(large.0 <= small.0 + 4 && large.1 <= small.1 + 4);
    }
}
