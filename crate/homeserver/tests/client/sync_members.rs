//! Members and heroes in a sync: loaded lazily, sent once.

use crate::{
    rooms::{room, send},
    support::TestServer,
    sync::{act, join, next, public, state, sync, token},
};
use serde_json::{Value, json};

#[test]
fn members_are_loaded_lazily_and_sent_once() {
    let server = TestServer::new();
    let (alice, bob, carol) = (server.register("alice"), server.register("bob"), server.register("carol"));
    let id = public(&server, &alice);
    state(&server, &alice, &id, "m.room.name", json!({"name": "Garden"}));
    for user in [&bob, &carol] {
        join(&server, user, &id);
    }
    for n in 0..3 {
        send(&server, &bob, &id, &n.to_string(), "x");
    }
    let filter = |redundant| {
        json!({"room": {"state": {"lazy_load_members": true, "include_redundant_members": redundant}, "timeline": {"limit": 1}}}).to_string()
    };
    let members = |answer: &Value| -> Vec<String> {
        let events = answer["rooms"]["join"][&id]["state"]["events"].as_array().cloned().unwrap_or_default();
        events
            .iter()
            .filter(|event| event["type"] == "m.room.member")
            .map(|event| event["state_key"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let first = sync(&server, &alice, &[("filter", &filter(false))]);
    assert_eq!(members(&first), [alice.id.as_str(), bob.id.as_str()], "the sender's and one's own");
    send(&server, &bob, &id, "3", "x");
    let second = sync(&server, &alice, &[("filter", &filter(false)), ("since", token(&first))]);
    assert_eq!(members(&second), [] as [&str; 0], "redundant");
    let redundant = sync(&server, &alice, &[("filter", &filter(true)), ("since", token(&first))]);
    assert_eq!(members(&redundant), [bob.id.as_str()]);
    send(&server, &carol, &id, "4", "x");
    let third = sync(&server, &alice, &[("filter", &filter(false)), ("since", token(&second))]);
    assert_eq!(members(&third), [carol.id.as_str()]);
    let lost = sync(&server, &alice, &[("filter", &filter(false)), ("since", token(&second))]);
    assert_eq!(members(&lost), [carol.id.as_str()], "the answer may have been lost");
}

#[test]
fn heroes_name_a_room_that_has_no_name() {
    let server = TestServer::new();
    let (alice, bob, carol) = (server.register("alice"), server.register("bob"), server.register("carol"));
    let id = room(&server, &alice, json!({"preset": "public_chat", "invite": [carol.id]}));
    join(&server, &bob, &id);
    let first = sync(&server, &alice, &[]);
    let summary = &first["rooms"]["join"][&id]["summary"];
    assert_eq!(summary["m.heroes"], json!([carol.id, bob.id]), "in the order in which they came");
    assert_eq!((summary["m.joined_member_count"].as_u64(), summary["m.invited_member_count"].as_u64()), (Some(2), Some(1)));
    send(&server, &bob, &id, "1", "x");
    let second = next(&server, &alice, &first);
    assert_eq!(second["rooms"]["join"][&id]["summary"], json!({}), "nothing of it changed");
    act(&server, &bob, &id, "leave", json!({})).ok();
    assert_eq!(next(&server, &alice, &second)["rooms"]["join"][&id]["summary"]["m.joined_member_count"], 1);
}

/// Whoever changed their name woke the clients of all members, also of those who had asked for no
/// member events, to tell them the same summary once more.
#[test]
fn a_new_name_of_a_member_is_no_news_to_who_wants_no_members() {
    let server = TestServer::new();
    let (alice, bob, carol) = (server.register("alice"), server.register("bob"), server.register("carol"));
    let id = public(&server, &alice);
    join(&server, &bob, &id);
    let filter = json!({"room": {"timeline": {"not_types": ["m.room.member"]}, "state": {"not_types": ["m.room.member"]}}}).to_string();
    let first = sync(&server, &alice, &[("filter", &filter)]);
    let look = |since: &Value| sync(&server, &alice, &[("filter", &filter), ("since", token(since)), ("timeout", "1000")]);
    let name = |name: &str| {
        let content = json!({"membership": "join", "displayname": name});
        server.put(&bob, &format!("/_matrix/client/v3/rooms/{id}/state/m.room.member/{}", bob.id), content).ok();
    };
    name("Robert");
    let before = server.now();
    let second = look(&first);
    assert_eq!((&second["rooms"], server.now() - before), (&Value::Null, 1000));
    name("Bobby");
    join(&server, &carol, &id);
    let third = look(&second);
    assert_eq!(third["rooms"]["join"][&id]["summary"]["m.joined_member_count"], 3);
}
