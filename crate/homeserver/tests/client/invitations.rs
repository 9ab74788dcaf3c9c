//! Whom one can invite: who would get it. The specification asks for none of this
//! (docs/conformance.md).

use crate::{
    account::confirm,
    members::{act, join},
    rooms::room,
    support::{Answer, PASSWORD, TestServer, TestUser},
};
use serde_json::{Value, json};

const CREATE: &str = "/_matrix/client/v3/createRoom";
const NOBODY: &str = "@typo:test.example";
const ELSEWHERE: &str = "@carol:other.example";

type Invite = fn(&TestServer, &TestUser, &str, &str) -> Answer;

/// Every way to invite somebody into a room that is there.
fn ways() -> [(&'static str, Invite); 2] {
    [
        ("/invite", |server, by, room, whom| act(server, by, room, "invite", json!({ "user_id": whom }))),
        ("PUT /state", |server, by, room, whom| {
            server.put(by, &format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/{whom}"), json!({ "membership": "invite" }))
        }),
    ]
}

/// Who is in a room in any way.
fn members(server: &TestServer, user: &TestUser, room: &str) -> Vec<String> {
    let chunk = server.get(user, &format!("/_matrix/client/v3/rooms/{room}/members")).ok()["chunk"].take();
    chunk.as_array().expect("a chunk").iter().filter_map(|event| event["state_key"].as_str().map(str::to_owned)).collect()
}

/// A mistyped name was invited as if it were somebody: in an encrypted room clients then asked for
/// its keys without end.
#[test]
fn who_is_not_there_is_not_invited_and_the_error_says_who() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({}));
    for (way, invite) in ways() {
        let refused = invite(&server, &alice, &id, NOBODY).fails(404, "M_NOT_FOUND");
        assert!(refused["error"].as_str().is_some_and(|error| error.contains(NOBODY)), "{way}: {refused}");
        let refused = invite(&server, &alice, &id, ELSEWHERE).fails(403, "M_FORBIDDEN");
        assert!(refused["error"].as_str().is_some_and(|error| error.contains(ELSEWHERE)), "{way}: {refused}");
        assert_eq!(members(&server, &alice, &id), [alice.id.as_str()], "{way}");
    }
    // Whom somebody has spoken of before is not there for it.
    act(&server, &alice, &id, "ban", json!({ "user_id": NOBODY })).ok();
    act(&server, &alice, &id, "unban", json!({ "user_id": NOBODY })).ok();
    for (way, invite) in ways() {
        invite(&server, &alice, &id, NOBODY).fails(404, "M_NOT_FOUND");
        let id = room(&server, &alice, json!({}));
        invite(&server, &alice, &id, &bob.id).ok();
        assert_eq!(members(&server, &alice, &id), [alice.id.as_str(), &bob.id], "{way}");
    }
    // And who takes the name then can be invited.
    server.register("typo");
    act(&server, &alice, &id, "invite", json!({ "user_id": NOBODY })).ok();
}

#[test]
fn a_room_that_would_invite_nobody_is_not_made() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let member = |whom: &str| json!([{ "type": "m.room.member", "state_key": whom, "content": { "membership": "invite" } }]);
    let before = server.store.stats().bytes_stored;
    for (whom, status, errcode) in [(NOBODY, 404, "M_NOT_FOUND"), (ELSEWHERE, 403, "M_FORBIDDEN")] {
        for request in [json!({ "invite": [bob.id, whom] }), json!({ "invite": [whom], "preset": "trusted_private_chat" })] {
            let mut request = request;
            request["room_alias_name"] = "den".into();
            let refused = server.post(&alice, CREATE, request).fails(status, errcode);
            assert!(refused["error"].as_str().is_some_and(|error| error.contains(whom)), "{refused}");
        }
        assert!(server.post(&alice, CREATE, json!({ "initial_state": member(whom) })).status >= 400);
    }
    assert_eq!(server.store.stats().bytes_stored, before, "nothing of it is kept");
    assert_eq!(server.get(&alice, "/_matrix/client/v3/joined_rooms").ok()["joined_rooms"], json!([]));
    assert_eq!(server.get(&bob, "/_matrix/client/v3/sync").ok()["rooms"], Value::Null);
    server.get(&alice, "/_matrix/client/v3/directory/room/%23den:test.example").fails(404, "M_NOT_FOUND");
    room(&server, &alice, json!({ "invite": [bob.id], "room_alias_name": "den", "initial_state": member(&bob.id) }));
}

/// Whether a name is taken is not for everybody to find out this way.
#[test]
fn who_may_not_invite_learns_nothing_and_banning_is_not_inviting() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let id = room(&server, &alice, json!({ "preset": "public_chat", "power_level_content_override": { "invite": 50 } }));
    join(&server, &bob, &id);
    for (way, invite) in ways() {
        for by in [&bob, &carol] {
            for whom in [NOBODY, ELSEWHERE] {
                let refused = invite(&server, by, &id, whom).fails(403, "M_FORBIDDEN");
                assert!(refused["error"].as_str().is_some_and(|error| !error.contains(whom)), "{way}: {refused}");
            }
        }
    }
    server
        .post(&alice, CREATE, json!({ "invite": [NOBODY], "room_version": "11", "power_level_content_override": { "invite": 101 } }))
        .fails(403, "M_FORBIDDEN");
    for whom in [NOBODY, ELSEWHERE] {
        act(&server, &alice, &id, "ban", json!({ "user_id": whom })).ok();
        act(&server, &alice, &id, "unban", json!({ "user_id": whom })).ok();
    }
}

/// As on Synapse: the name stays taken, and nobody answers.
#[test]
fn who_has_deactivated_their_account_can_still_be_invited() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    confirm(&server, &bob, "POST", "/_matrix/client/v3/account/deactivate", json!({}), PASSWORD).ok();
    let id = room(&server, &alice, json!({ "invite": [bob.id] }));
    assert_eq!(members(&server, &alice, &id), [alice.id.as_str(), &bob.id]);
}

/// Each of many invitations had the room begun anew, and past some four thousand it was never made.
#[test]
fn many_who_are_here_are_invited_at_once() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let invite: Vec<String> = (0..150).map(|n| server.register(&format!("u{n}")).id).collect();
    let before = server.host.yielded.get();
    let id = room(&server, &alice, json!({ "invite": invite }));
    let yields = server.host.yielded.get() - before;
    assert_eq!(members(&server, &alice, &id).len(), 151);
    // One for each 64 who are looked up, whose events are made, and whose events are stored.
    assert!(yields <= 3 * (150 / 64 + 1), "{yields} yields");
}
