//! The scenarios of the authorization rules, judged by a server that has received all that came
//! before: its verdict, and its reason, are the rules' own.

use super::forked::kept;
use ephapse_events::{
    Pdu,
    model::{Draft, Model},
    scenarios, with_each_scenario,
};
use ruma::RoomVersionId;
use serde_json::json;

macro_rules! by_a_server {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            scenarios::$name(&judge);
        })*
    };
}
with_each_scenario!(by_a_server);

fn judge(room: &mut Model, event: Pdu) -> Result<(), String> {
    let room_id = room.events()[0].room_id.clone();
    let mut events: Vec<Pdu> = room.events().iter().filter(|event| event.room_id == room_id).map(|event| Pdu::clone(event)).collect();
    events.push(event.clone());
    let version = room.version.to_string().try_into().expect("a version");
    let kept = kept(&version, &events);
    let is_of_the_room = event.room_id == room_id;
    let verdict = room.receive(event);
    match kept {
        Some(kept) => assert_eq!(kept.rejected, verdict.clone().err()),
        // What another room has is not taken in here at all.
        None => assert!(!is_of_the_room || verdict.is_err()),
    }
    verdict
}

#[test]
fn since_v12_a_rooms_id_is_that_of_a_create_event() {
    let mut room = Model::public(12);
    let message = Draft::message("alice", "m.room.message", json!({ "body": "hello" }));
    let event = room.build_with(&room.parents(), &[], message);
    let join_rules = room.holder(&room.parents(), "m.room.join_rules", "").expect("join rules").as_str().replacen('$', "!", 1);
    for id in ["!nothing", &join_rules] {
        let event = Pdu { room_id: id.try_into().expect("a room id"), ..event.clone() };
        let events: Vec<Pdu> = room.events().iter().map(|event| Pdu::clone(event)).chain([event]).collect();
        assert!(kept(&RoomVersionId::V12, &events).is_none());
    }
    let nothing = Pdu { room_id: "!nothing".try_into().expect("a room id"), ..event };
    assert!(judge(&mut room, nothing).expect_err("it is no room of this server").contains("m.room.create"));
}
