//! Whatever order events come in, each has one state.

use super::{
    super::{Draft, Event},
    forked::{Forked, events_of, object, stray_nodes, told, versions},
};
use ephapse_events::Pdu;
use ephapse_testing::holds;
use proptest::{prelude::*, test_runner::TestCaseResult};
use ruma::{
    RoomVersionId,
    events::{StateEventType, TimelineEventType},
};
use serde_json::json;
use std::{collections::BTreeSet, rc::Rc};

/// What eve does in the property test.
#[derive(Clone, Debug)]
enum Act {
    Message,
    Topic,
    Name,
    Leave,
}

fn acts() -> impl Strategy<Value = Vec<(Act, usize)>> {
    let act = prop_oneof![Just(Act::Message), Just(Act::Topic), Just(Act::Name), Just(Act::Leave)];
    proptest::collection::vec((act, 0..6usize), 1..14)
}

/// The state before and after each event, and whether it is rejected, follow from the graph, not
/// from the order in which it came.
#[test]
fn any_order_of_delivery_gives_each_event_one_state() {
    for version in versions() {
        println!("room version {version}");
        holds(2, &(acts(), any::<u64>()), |(acts, order)| one_state_in_any_order(&version, acts, order));
    }
}

fn one_state_in_any_order(version: &RoomVersionId, acts: Vec<(Act, usize)>, order: u64) -> TestCaseResult {
    let forked = Forked::new(version);
    let mut levels = forked.server.get(&forked.alice, &format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", forked.room.id)).ok();
    levels["users"]["@eve:other.example"] = json!(50);
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", forked.room.id);
    forked.server.put(&forked.alice, &path, levels).ok();
    let eve = forked.remote.user("eve");
    for (number, (act, parent)) in acts.into_iter().enumerate() {
        let all = events_of(&forked);
        let parent = all[all.len() - 1 - parent.min(all.len() - 8)].clone();
        let draft = match act {
            Act::Message => Draft::message(eve.clone(), TimelineEventType::RoomMessage, object(&json!({ "body": number }))),
            Act::Topic => Draft::state(eve.clone(), StateEventType::RoomTopic, "", object(&json!({ "topic": number.to_string() }))),
            Act::Name => Draft::state(eve.clone(), StateEventType::RoomName, "", object(&json!({ "name": number.to_string() }))),
            Act::Leave => Draft::state(eve.clone(), StateEventType::RoomMember, eve.as_str(), object(&json!({ "membership": "leave" }))),
        };
        forked.receive(forked.remote_event(draft, std::slice::from_ref(&parent)));
        if number % 3 == 2 {
            forked.say(&number.to_string());
        }
    }
    let events = events_of(&forked);

    // A random order in which parents come before children.
    let mut dice = order;
    let mut waiting: Vec<Rc<Event>> = events.clone();
    let mut come = BTreeSet::new();
    let mut shuffled = Vec::new();
    while !waiting.is_empty() {
        let ready: Vec<usize> = (0..waiting.len())
            .filter(|at| waiting[*at].pdu.prev_events.iter().chain(&waiting[*at].pdu.auth_events).all(|id| come.contains(id)))
            .collect();
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let next = waiting.remove(ready[(dice >> 33) as usize % ready.len()]);
        come.insert(next.pdu.event_id.clone());
        shuffled.push(Pdu { rejected: false, ..Pdu::clone(&next.pdu) });
    }
    let other = told(version, &shuffled);
    prop_assert_eq!(stray_nodes(&forked), BTreeSet::new());
    prop_assert_eq!(stray_nodes(&other), BTreeSet::new());
    for event in &events {
        let there = other.event(event.pdu.event_id.as_str());
        prop_assert_eq!(&event.rejected, &there.rejected);
        prop_assert_eq!(forked.state_of(event.state_before), other.state_of(there.state_before), "before {}", event.pdu.event_id);
        prop_assert_eq!(forked.state_of(event.state_after), other.state_of(there.state_after), "after {}", event.pdu.event_id);
    }
    Ok(())
}
