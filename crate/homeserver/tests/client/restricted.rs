//! Rooms that the members of other rooms may join (Client-Server API, "Restricted rooms").

use crate::{
    rooms::room,
    support::{Answer, TestServer, TestUser},
};
use serde_json::{Value, json};

/// A house whose members may join the hall; alice made both, bob is in the house, carol is not.
struct House {
    server: TestServer,
    hall: String,
    alice: TestUser,
    bob: TestUser,
    carol: TestUser,
}

impl House {
    fn new(version: &str, rule: &str) -> Self {
        let server = TestServer::new();
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
        let house = room(&server, &alice, json!({ "preset": "public_chat" }));
        server.post(&bob, &format!("/_matrix/client/v3/join/{house}"), json!({})).ok();
        let hall = room(&server, &alice, hall(version, rule, json!([{ "type": "m.room_membership", "room_id": house }])));
        Self { server, hall, alice, bob, carol }
    }

    fn join(&self, user: &TestUser) -> Answer {
        self.server.post(user, &format!("/_matrix/client/v3/join/{}", self.hall), json!({}))
    }

    fn put(&self, user: &TestUser, content: Value) -> Answer {
        self.server.put(user, &self.member_path(user), content)
    }

    fn member(&self, user: &TestUser) -> Value {
        self.server.get(&self.alice, &self.member_path(user)).ok()
    }

    fn member_path(&self, user: &TestUser) -> String {
        format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}", self.hall, user.id)
    }
}

fn hall(version: &str, rule: &str, allow: Value) -> Value {
    let rules = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": rule, "allow": allow } });
    json!({ "room_version": version, "initial_state": [rules] })
}

/// Who set their own membership named a member on whose word they came, and this server signed
/// that, whoever they were: anybody joined any restricted room.
#[test]
fn a_client_cannot_choose_join_authorised_via_users_server() {
    for (version, rule) in [("8", "restricted"), ("10", "knock_restricted"), ("12", "restricted")] {
        let house = House::new(version, rule);
        let named = json!({ "membership": "join", "join_authorised_via_users_server": house.alice.id });
        house.put(&house.carol, named.clone()).fails(403, "M_FORBIDDEN");
        house.put(&house.carol, json!({ "membership": "join" })).fails(403, "M_FORBIDDEN");
        house.join(&house.carol).fails(403, "M_FORBIDDEN");
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.member/t1", house.hall);
        house.server.put(&house.carol, &path, named.clone()).fails(403, "M_FORBIDDEN");
        house.server.get(&house.alice, &house.member_path(&house.carol)).fails(404, "M_NOT_FOUND");
        // Nor for others.
        house.server.put(&house.bob, &house.member_path(&house.carol), named).fails(403, "M_FORBIDDEN");
    }
}

#[test]
fn a_restricted_join_works_by_join_and_by_state_event() {
    for (version, rule) in [("8", "restricted"), ("10", "knock_restricted"), ("12", "restricted")] {
        let house = House::new(version, rule);
        let wish = json!({ "membership": "join", "displayname": "B", "join_authorised_via_users_server": "@bob:test.example" });
        let event = house.put(&house.bob, wish.clone()).ok();
        let expected = json!({ "membership": "join", "displayname": "B", "join_authorised_via_users_server": house.alice.id });
        assert_eq!(house.member(&house.bob), expected, "version {version}");
        assert_eq!(house.put(&house.bob, wish).ok(), event, "what is set already is not set again");
        // Who is in the room needs nobody's word, and what is no user id is nobody's.
        house.put(&house.bob, json!({ "membership": "join", "displayname": "C", "join_authorised_via_users_server": "unused" })).ok();
        assert_eq!(house.member(&house.bob), json!({ "membership": "join", "displayname": "C" }));
        house.put(&house.bob, json!({ "membership": "leave" })).ok();
        house.join(&house.bob).ok();
        assert_eq!(house.member(&house.bob)["join_authorised_via_users_server"], house.alice.id.as_str());
        // Invited, one needs it neither.
        house.server.post(&house.alice, &format!("/_matrix/client/v3/rooms/{}/invite", house.hall), json!({ "user_id": house.carol.id })).ok();
        house.put(&house.carol, json!({ "membership": "join", "join_authorised_via_users_server": house.bob.id })).ok();
        assert_eq!(house.member(&house.carol), json!({ "membership": "join" }));
    }
}

/// Of the members only the 64 who were longest on this server were asked whether they may invite.
#[test]
fn any_local_member_who_may_invite_authorises_a_restricted_join() {
    let house = House::new("11", "restricted");
    let (server, path) = (&house.server, format!("/_matrix/client/v3/rooms/{}", house.hall));
    for number in 0..65 {
        let user = server.register(&format!("user{number}"));
        server.post(&house.alice, &format!("{path}/invite"), json!({ "user_id": user.id })).ok();
        house.join(&user).ok();
    }
    let zoe = server.register("zoe");
    server.post(&house.alice, &format!("{path}/invite"), json!({ "user_id": zoe.id })).ok();
    house.join(&zoe).ok();
    let levels = json!({ "invite": 50, "users": { &house.alice.id: 100, &zoe.id: 100 } });
    server.put(&house.alice, &format!("{path}/state/m.room.power_levels/"), levels).ok();
    server.post(&house.alice, &format!("{path}/leave"), json!({})).ok();
    house.join(&house.bob).ok();
    assert_eq!(server.get(&zoe, &house.member_path(&house.bob)).ok()["join_authorised_via_users_server"], zoe.id.as_str());
    // Without her, nobody does.
    server.post(&house.bob, &format!("{path}/leave"), json!({})).ok();
    server.post(&zoe, &format!("{path}/leave"), json!({})).ok();
    house.join(&house.bob).fails(400, "M_UNABLE_TO_GRANT_JOIN");
}

/// One entry that could not be read made the whole list unreadable.
#[test]
fn what_is_malformed_among_the_rooms_takes_nothing_from_the_others() {
    let server = TestServer::new();
    let [alice, bob] = ["alice", "bob"].map(|name| server.register(name));
    let house = room(&server, &alice, json!({ "preset": "public_chat" }));
    server.post(&bob, &format!("/_matrix/client/v3/join/{house}"), json!({})).ok();
    let good = json!({ "type": "m.room_membership", "room_id": house });
    let join = |allow: Value| {
        let id = room(&server, &alice, hall("11", "restricted", allow));
        server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({}))
    };
    join(json!([7, { "type": 7 }, { "type": "m.room_membership", "room_id": "nonsense" }, { "type": "m.room_membership" }, good])).ok();
    for nothing in [json!([]), json!({}), json!(null), json!([house]), json!([{ "type": "org.example", "room_id": house }])] {
        join(nothing).fails(403, "M_FORBIDDEN");
    }
}

#[test]
fn what_a_room_begins_with_names_nobody_either() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let own = json!({ "membership": "join", "displayname": "A", "join_authorised_via_users_server": "unused" });
    let body = json!({ "initial_state": [{ "type": "m.room.member", "state_key": alice.id, "content": own }] });
    let id = room(&server, &alice, body);
    let member = server.get(&alice, &format!("/_matrix/client/v3/rooms/{id}/state/m.room.member/{}", alice.id)).ok();
    assert_eq!(member, json!({ "membership": "join", "displayname": "A" }));
}
