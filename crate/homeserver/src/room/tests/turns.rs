//! Work that grows with what others send is bounded, and done in turns.

use super::{
    super::{Draft, Write},
    forked::{Forked, object},
};
use ruma::{RoomVersionId, events::StateEventType};
use serde_json::json;

/// Bob of the other server invites many of its users.
fn invite_many(forked: &Forked, many: usize) {
    for n in 0..many {
        let invite = object(&json!({ "membership": "invite" }));
        let invite = Draft::state(forked.remote.user("bob"), StateEventType::RoomMember, forked.remote.user(&format!("u{n}")).as_str(), invite);
        forked.receive(forked.remote_event(invite, &forked.end()));
    }
}

/// Each membership cost a round of the whole decision, and past some thousand of them the event
/// could never be received.
#[test]
fn a_merge_that_changes_many_memberships_is_decided_in_few_rounds() {
    const MANY: usize = 300;
    let forked = Forked::new(&RoomVersionId::V11);
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", forked.room.id);
    let mut levels = forked.server.get(&forked.alice, &path).ok();
    levels["users"]["@eve:other.example"] = json!(100);
    levels["invite"] = json!(0);
    forked.server.put(&forked.alice, &path, levels.clone()).ok();
    forked.join("bob");
    let before = forked.end();
    invite_many(&forked, MANY);
    let invited = || {
        let members = forked.server.get(&forked.alice, &format!("/_matrix/client/v3/rooms/{}/members?membership=invite", forked.room.id)).ok();
        members["chunk"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(invited(), MANY);
    // Before them, as eve says, inviting took more than bob has.
    levels["invite"] = json!(100);
    let levels = forked.remote_event(Draft::state(forked.remote.user("eve"), StateEventType::RoomPowerLevels, "", object(&levels)), &before);
    let (hs, room) = (forked.server.hs.clone(), forked.room.clone());
    let rounds = forked.server.run(async move {
        let mut rounds = 0;
        let receive = |write: &mut Write<'_>| {
            rounds += 1;
            write.receive(levels.clone())
        };
        hs.write_room(&room, 0, receive).await.expect("received");
        rounds
    });
    assert_eq!(invited(), 0);
    // Some of them because others have their turn.
    assert!(rounds <= 20, "{rounds} rounds");
}

/// The rules were asked for all events of a conflict in one turn, each time parsing the power
/// levels: some hundred invitations under levels of 50 KB kept everybody waiting.
#[test]
fn a_merge_under_large_power_levels_lets_others_go_on() {
    const MANY: usize = 40;
    for version in [RoomVersionId::V6, RoomVersionId::V12] {
        let forked = Forked::new(&version);
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.power_levels/", forked.room.id);
        let mut levels = forked.server.get(&forked.alice, &path).ok();
        for n in 0..1000 {
            levels["users"][format!("@somebody-whose-name-is-long-{n}:other.example")] = json!(1);
        }
        levels["users"]["@eve:other.example"] = json!(100);
        levels["users"]["@bob:other.example"] = json!(50);
        forked.server.put(&forked.alice, &path, levels.clone()).ok();
        forked.join("bob");
        let before = forked.end();
        invite_many(&forked, MANY);
        levels["invite"] = json!(100);
        let levels = forked.remote_event(Draft::state(forked.remote.user("eve"), StateEventType::RoomPowerLevels, "", object(&levels)), &before);
        let yielded = forked.server.host.yielded.get();
        let started = std::time::Instant::now();
        forked.receive(levels);
        let yielded = forked.server.host.yielded.get() - yielded;
        println!("version {version}: {yielded} turns in {:?}", started.elapsed());
        assert!(yielded as usize >= MANY / 4, "version {version}: {yielded} turns");
    }
}

/// Each of those who were in the room had all of their rooms read into memory, one after another in
/// one turn.
#[test]
fn who_leaves_a_room_of_many_is_told_of_all_of_them_in_turns() {
    let forked = Forked::new(&RoomVersionId::V11);
    for n in 0..150 {
        let user = forked.remote.user(&format!("u{n}"));
        let join = Draft::state(user.clone(), StateEventType::RoomMember, user.as_str(), object(&json!({ "membership": "join" })));
        let end = forked.end();
        forked.receive(forked.remote_event(join, &end));
    }
    let alice = &forked.alice;
    let since = forked.server.get(alice, "/_matrix/client/v3/sync?timeout=0").ok()["next_batch"].as_str().expect("a token").to_owned();
    // One of them is in another room with alice.
    let body = json!({ "preset": "public_chat" });
    let other = forked.server.post(alice, "/_matrix/client/v3/createRoom", body).ok()["room_id"].as_str().expect("a room").to_owned();
    let bob = forked.server.register("bob");
    for room in [forked.room.id.as_str(), &other] {
        forked.server.post(&bob, &format!("/_matrix/client/v3/join/{room}"), json!({})).ok();
    }
    forked.server.post(alice, &format!("/_matrix/client/v3/rooms/{}/leave", forked.room.id), json!({})).ok();
    let before = forked.server.host.yielded.get();
    let answer = forked.server.get(alice, &format!("/_matrix/client/v3/sync?timeout=0&since={since}")).ok();
    let yields = forked.server.host.yielded.get() - before;
    assert_eq!(answer["device_lists"]["left"].as_array().map(Vec::len), Some(151));
    assert_eq!(answer["device_lists"]["changed"], json!([alice.id, bob.id]));
    assert!(yields >= 151 / 64, "{yields} yields");
}
