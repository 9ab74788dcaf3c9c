//! Rooms in which a server recommends what is said.

use crate::support::{Network, Peer, Room, TestServer};
use ephapse_events::signing_key;
use ruma::{
    CanonicalJsonObject,
    serde::{Base64, base64::Standard},
    signatures::hash_and_sign_event,
};
use serde_json::{Value, json};

/// A room whose policy server recommends all but spam.
fn guarded(network: &Network) -> (TestServer, Peer, Room) {
    let server = network.server("one.example");
    let peer = Peer::new(1);
    let room = Room::public(&server, "11");
    peer.join(&server, &room, "bob");
    let key = signing_key(&[3; 32], "policy_server");
    let public_key = Base64::<Standard, _>::new(key.public_key().to_vec()).encode();
    room.put_state(&server, "m.room.policy", json!({ "via": peer.name.as_str(), "public_keys": { "ed25519": public_key } }));
    let (name, rules) = (peer.name.clone(), room.info.rules.clone());
    peer.play(network, move |request| {
        if request.uri().path().starts_with("/_matrix/federation/v1/send/") {
            return (200, json!({ "pdus": {} }));
        }
        assert_eq!(request.uri().path(), "/_matrix/policy/v1/sign");
        let mut event: CanonicalJsonObject = serde_json::from_slice(request.body()).expect("JSON");
        if serde_json::to_string(&event).expect("JSON").contains("spam") {
            return (400, json!({ "errcode": "M_FORBIDDEN", "error": "This is spam" }));
        }
        hash_and_sign_event(name.as_str(), &key, &mut event, &rules.redaction).expect("it is signed");
        let signed: Value = serde_json::to_value(&event).expect("JSON");
        let signature = &signed["signatures"][name.as_str()]["ed25519:policy_server"];
        (200, json!({ name.as_str(): { "ed25519:policy_server": signature } }))
    });
    (server, peer, room)
}

#[test]
fn own_events_are_signed_before_they_are_sent_or_are_not_sent() {
    let network = Network::new();
    let (server, peer, room) = guarded(&network);
    room.say(&server, "hello");
    let spam = json!({ "msgtype": "m.text", "body": "spam" });
    let refused = server.put(&room.alice, &format!("/_matrix/client/v3/rooms/{}/send/m.room.message/1", room.id), spam);
    let refused = refused.fails(403, "M_FORBIDDEN");
    assert!(refused["error"].as_str().is_some_and(|error| error.contains("This is spam")), "{refused}");
    room.say(&server, "hello");
    assert_eq!(room.bodies(&server), ["hello"], "it was sent once: the second has the transaction id of the first");
    let (hs, nid) = (server.hs.clone(), room.info.nid);
    let head = server.run(async move {
        let head = hs.room_head(nid).await.expect("a head");
        hs.event_at(nid, head.extremities[0].position).await.expect("an event")
    });
    let sent: Value = serde_json::from_slice(&head.pdu.json).expect("JSON");
    assert!(sent["signatures"][peer.name.as_str()]["ed25519:policy_server"].is_string(), "{sent}");
    assert!(sent["signatures"]["one.example"].is_object());
}

#[test]
fn received_events_that_are_not_recommended_are_not_seen() {
    let network = Network::new();
    let (server, peer, room) = guarded(&network);
    let spam = peer.message(&server, &room, "bob", "spam");
    let hello = peer.message(&server, &room, "bob", "hello");
    peer.send(&server, "1", &[spam, hello]).ok();
    assert_eq!(room.bodies(&server), ["hello"]);
    // Who takes no part any more is not asked.
    let leave = peer.state(&server, &room, "bob", "m.room.member", peer.user("bob").as_str(), json!({ "membership": "leave" }));
    peer.send(&server, "2", &[leave]).ok();
    network.sent();
    room.say(&server, "spam");
    assert_eq!(room.bodies(&server), ["hello", "spam"]);
    assert!(network.sent().iter().all(|sent| sent.path != "/_matrix/policy/v1/sign"));
}

/// What comes by a request of its own went past the server that recommends.
#[test]
fn invitations_of_other_servers_users_are_signed_too() {
    let network = Network::new();
    let (server, peer, room) = guarded(&network);
    let two = network.server("two.example");
    let carol = two.register("carol");
    let invite = |body: Value| server.post(&room.alice, &format!("/_matrix/client/v3/rooms/{}/invite", room.id), body);
    invite(json!({ "user_id": carol.id, "reason": "spam" })).fails(403, "M_FORBIDDEN");
    invite(json!({ "user_id": carol.id })).ok();
    let (hs, nid) = (server.hs.clone(), room.info.nid);
    let newest = server.run(async move {
        let head = hs.room_head(nid).await.expect("a head");
        hs.event_at(nid, head.extremities[0].position).await.expect("an event")
    });
    let sent: Value = serde_json::from_slice(&newest.pdu.json).expect("JSON");
    assert_eq!(sent["state_key"], json!(carol.id));
    assert!(sent["signatures"][peer.name.as_str()]["ed25519:policy_server"].is_string(), "{sent}");
}
