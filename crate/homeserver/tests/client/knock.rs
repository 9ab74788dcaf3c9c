//! Knocking: asking to be let in (Client-Server API, Knocking on rooms).

use crate::{
    rooms::room,
    support::{TestServer, TestUser},
    sync::query,
};
use serde_json::{Value, json};

fn knock(server: &TestServer, user: &TestUser, room: &str, body: Value) -> crate::support::Answer {
    server.post(user, &format!("/_matrix/client/v3/knock/{room}"), body)
}

fn with_rule(server: &TestServer, owner: &TestUser, version: &str, rule: &str) -> String {
    let rule = json!({"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": rule}});
    room(server, owner, json!({"name": "Club", "room_version": version, "room_alias_name": format!("club{version}"), "initial_state": [rule]}))
}

fn rooms(server: &TestServer, user: &TestUser, since: Option<&Value>) -> (Value, Value) {
    let since: Vec<_> = since.iter().map(|answer| ("since", answer["next_batch"].as_str().expect("a token"))).collect();
    let mut answer = server.get(user, &query(&since)).ok();
    (answer["rooms"].take(), answer)
}

#[test]
fn who_knocks_is_told_what_the_room_is_and_is_let_in_by_an_invite() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    for (version, rule) in [("7", "knock"), ("10", "knock_restricted"), ("12", "knock")] {
        let id = with_rule(&server, &alice, version, rule);
        let ((_, members), (_, before)) = (rooms(&server, &alice, None), rooms(&server, &bob, None));
        let knocked = knock(&server, &bob, &format!("%23club{version}:test.example"), json!({"reason": "please"})).ok();
        assert_eq!(knocked["room_id"], id.as_str());

        let (seen, asked) = rooms(&server, &bob, Some(&before));
        let state = seen["knock"][&id]["knock_state"]["events"].as_array().expect("a knock").clone();
        let find = |kind: &str| state.iter().find(|event| event["type"] == kind).unwrap_or_else(|| panic!("no {kind} in {state:?}"));
        assert_eq!(find("m.room.name")["content"]["name"], "Club");
        assert_eq!(find("m.room.join_rules")["content"]["join_rule"], rule);
        assert_eq!(find("m.room.member")["content"]["membership"], "knock");
        assert!(seen["join"].is_null() && seen["invite"].is_null());
        assert!(!rooms(&server, &bob, None).0["knock"][&id].is_null(), "an initial sync has it too");

        let (seen, _) = rooms(&server, &alice, Some(&members));
        let event = &seen["join"][&id]["timeline"]["events"][0];
        assert_eq!((event["sender"].as_str(), event["content"]["reason"].as_str()), (Some(bob.id.as_str()), Some("please")));

        knock(&server, &bob, &id, json!({"reason": "please"})).ok();
        assert!(rooms(&server, &bob, Some(&asked)).0.is_null(), "the same knock is heard once");

        server.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/invite"), json!({"user_id": bob.id})).ok();
        let (seen, invited) = rooms(&server, &bob, Some(&asked));
        assert!(!seen["invite"][&id].is_null() && seen["knock"].is_null());
        knock(&server, &bob, &id, json!({})).fails(403, "M_FORBIDDEN");
        server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
        assert!(!rooms(&server, &bob, Some(&invited)).0["join"][&id].is_null());
        knock(&server, &bob, &id, json!({})).fails(403, "M_FORBIDDEN");
    }
}

#[test]
fn a_knock_is_taken_back_by_leaving_and_turned_down_by_a_kick() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = with_rule(&server, &alice, "12", "knock");
    for who in [&bob, &alice] {
        knock(&server, &bob, &id, json!({})).ok();
        let (_, asked) = rooms(&server, &bob, None);
        let leave = json!({"user_id": bob.id});
        let (what, body) = if who.id == bob.id { ("leave", json!({})) } else { ("kick", leave) };
        server.post(who, &format!("/_matrix/client/v3/rooms/{id}/{what}"), body).ok();
        let (seen, _) = rooms(&server, &bob, Some(&asked));
        let events = &seen["leave"][&id]["timeline"]["events"];
        assert_eq!((events.as_array().map(Vec::len), events[0]["content"]["membership"].as_str()), (Some(1), Some("leave")), "{seen}");
        assert!(rooms(&server, &bob, None).0.is_null());
    }
    server.post(&bob, &format!("/_matrix/client/v3/rooms/{id}/forget"), json!({})).ok();
}

#[test]
fn nobody_knocks_where_the_rules_do_not_say_so() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    for (version, rule) in [("6", "knock"), ("9", "knock_restricted"), ("12", "invite"), ("11", "public")] {
        let id = with_rule(&server, &alice, version, rule);
        knock(&server, &bob, &id, json!({})).fails(403, "M_FORBIDDEN");
    }
    let id = with_rule(&server, &alice, "10", "knock");
    server.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/ban"), json!({"user_id": bob.id})).ok();
    knock(&server, &bob, &id, json!({})).fails(403, "M_FORBIDDEN");
    knock(&server, &bob, "%23nothing:test.example", json!({})).fails(404, "M_NOT_FOUND");
    knock(&server, &bob, "!nothing:test.example", json!({})).fails(404, "M_NOT_FOUND");
    server.post(&bob, "/_matrix/client/v3/knock/nonsense", json!({})).fails(400, "M_INVALID_PARAM");
}
