//! Who may kick, ban, unban and invite whom (Client-Server API, Room membership).

use crate::{
    rooms::room,
    support::{Answer, TestServer, TestUser},
};
use serde_json::{Value, json};

/// A public room of alice's, with bob at 50, carol and dave in it.
struct Hall {
    server: TestServer,
    id: String,
    alice: TestUser,
    bob: TestUser,
    carol: TestUser,
    dave: TestUser,
    erin: TestUser,
}

impl Hall {
    fn new() -> Self {
        let server = TestServer::new();
        let [alice, bob, carol, dave, erin] = ["alice", "bob", "carol", "dave", "erin"].map(|name| server.register(name));
        let levels = json!({ "users": { &alice.id: 100, &bob.id: 50 }, "invite": 50 });
        let id = room(&server, &alice, json!({ "preset": "public_chat", "room_version": "11", "power_level_content_override": levels }));
        for user in [&bob, &carol, &dave] {
            server.post(user, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
        }
        Self { server, id, alice, bob, carol, dave, erin }
    }

    fn act(&self, user: &TestUser, step: &str, whom: &TestUser) -> Answer {
        self.server.post(user, &format!("/_matrix/client/v3/rooms/{}/{step}", self.id), json!({ "user_id": whom.id, "reason": "because" }))
    }

    fn join(&self, user: &TestUser) -> Answer {
        self.server.post(user, &format!("/_matrix/client/v3/join/{}", self.id), json!({}))
    }

    fn member(&self, whom: &TestUser) -> Value {
        self.server.get(&self.alice, &format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}", self.id, whom.id)).ok()
    }
}

#[test]
fn a_kick_needs_power_and_a_target_in_the_room() {
    let hall = Hall::new();
    hall.act(&hall.carol, "kick", &hall.dave).fails(403, "M_FORBIDDEN");
    hall.act(&hall.bob, "kick", &hall.alice).fails(403, "M_FORBIDDEN");
    hall.act(&hall.bob, "kick", &hall.erin).fails(403, "M_FORBIDDEN");
    hall.act(&hall.erin, "kick", &hall.carol).fails(403, "M_FORBIDDEN");
    hall.act(&hall.bob, "kick", &hall.carol).ok();
    assert_eq!(hall.member(&hall.carol), json!({ "membership": "leave", "reason": "because" }));
    hall.act(&hall.bob, "kick", &hall.carol).fails(403, "M_FORBIDDEN");
    hall.join(&hall.carol).ok();
    // Who is invited is there as well: the invitation is taken back.
    hall.act(&hall.bob, "invite", &hall.erin).ok();
    hall.act(&hall.bob, "kick", &hall.erin).ok();
    assert_eq!(hall.member(&hall.erin)["membership"], "leave");
}

#[test]
fn a_ban_keeps_out_until_it_is_lifted() {
    let hall = Hall::new();
    hall.act(&hall.carol, "ban", &hall.dave).fails(403, "M_FORBIDDEN");
    hall.act(&hall.bob, "ban", &hall.alice).fails(403, "M_FORBIDDEN");
    hall.act(&hall.bob, "ban", &hall.carol).ok();
    // Also somebody who never was there.
    hall.act(&hall.bob, "ban", &hall.erin).ok();
    for banned in [&hall.carol, &hall.erin] {
        assert_eq!(hall.member(banned), json!({ "membership": "ban", "reason": "because" }));
        hall.join(banned).fails(403, "M_FORBIDDEN");
        hall.act(&hall.alice, "invite", banned).fails(403, "M_FORBIDDEN");
        hall.act(&hall.alice, "kick", banned).fails(403, "M_FORBIDDEN");
        hall.act(&hall.dave, "unban", banned).fails(403, "M_FORBIDDEN");
        hall.act(&hall.bob, "unban", banned).ok();
        assert_eq!(hall.member(banned)["membership"], "leave");
        hall.act(&hall.bob, "unban", banned).fails(403, "M_FORBIDDEN");
        hall.join(banned).ok();
    }
    hall.act(&hall.bob, "unban", &hall.dave).fails(403, "M_FORBIDDEN");
}

#[test]
fn an_invite_needs_power_and_a_target_outside_the_room() {
    let hall = Hall::new();
    hall.act(&hall.carol, "invite", &hall.erin).fails(403, "M_FORBIDDEN");
    hall.act(&hall.bob, "invite", &hall.carol).fails(403, "M_FORBIDDEN");
    hall.act(&hall.erin, "invite", &hall.erin).fails(403, "M_FORBIDDEN");
    hall.act(&hall.bob, "invite", &hall.erin).ok();
    let path = format!("/_matrix/client/v3/rooms/{}", hall.id);
    for wrong in [json!({}), json!({ "user_id": "no id" }), json!({ "user_id": 7 })] {
        for step in ["invite", "kick", "ban", "unban"] {
            assert_eq!(hall.server.post(&hall.alice, &format!("{path}/{step}"), wrong.clone()).status, 400, "{step} {wrong}");
        }
    }
    let unknown = "/_matrix/client/v3/rooms/!unknown:test.example";
    for step in ["invite", "kick", "ban", "unban"] {
        let answer = hall.server.post(&hall.alice, &format!("{unknown}/{step}"), json!({ "user_id": hall.bob.id }));
        assert!(matches!(answer.status, 403 | 404), "{step}: {}", answer.body);
    }
}
