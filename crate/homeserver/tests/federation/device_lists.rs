//! Devices and keys of users of other servers: fetched once, kept up to date, and shown though out
//! of date only while their server does not answer.

use crate::{
    outbox::{MINUTE, Shared, join, sync, token},
    support::{Network, Peer, Room, TestServer, TestUser},
};
use serde_json::{Value, json};

fn upload(server: &TestServer, user: &TestUser) {
    let keys = json!({
        "user_id": user.id, "device_id": user.device, "algorithms": ["m.megolm.v1.aes-sha2"],
        "keys": { (format!("ed25519:{}", user.device)): "key" }, "signatures": {},
    });
    let one_time = json!({ "signed_curve25519:A": { "key": user.device, "signatures": {} } });
    server.post(user, "/_matrix/client/v3/keys/upload", json!({ "device_keys": keys, "one_time_keys": one_time })).ok();
}

fn query(server: &TestServer, user: &TestUser, of: &TestUser) -> Value {
    server.post(user, "/_matrix/client/v3/keys/query", json!({ "device_keys": { (of.id.clone()): [] } })).ok()
}

fn devices(queried: &Value, of: &TestUser) -> Vec<String> {
    queried["device_keys"][&of.id].as_object().map(|devices| devices.keys().cloned().collect()).unwrap_or_default()
}

/// How often a list was fetched.
fn fetched(shared: &Shared) -> usize {
    shared.network.sent().iter().filter(|sent| sent.path.contains("/user/devices/") || sent.path.contains("/user/keys/query")).count()
}

fn with_keys() -> Shared {
    let shared = Shared::new();
    upload(&shared.two, &shared.bob);
    shared.network.pass(MINUTE);
    assert!(fetched(&shared) > 0, "what is said of a user has the list fetched");
    shared
}

#[test]
fn a_list_is_fetched_once_and_follows_its_users_devices() {
    let shared = with_keys();
    let queried = query(&shared.one, &shared.alice, &shared.bob);
    assert_eq!(devices(&queried, &shared.bob), std::slice::from_ref(&shared.bob.device));
    assert_eq!(queried["failures"], json!({}));
    assert_eq!(devices(&query(&shared.one, &shared.alice, &shared.bob), &shared.bob).len(), 1);
    assert_eq!(fetched(&shared), 0);
    let since = token(&sync(&shared.one, &shared.alice, ""));
    let second = shared.two.login("bob", Some("SECOND"));
    upload(&shared.two, &second);
    shared.network.pass(MINUTE);
    let told = sync(&shared.one, &shared.alice, &since);
    assert_eq!(told["device_lists"]["changed"], json!([shared.bob.id]));
    assert_eq!(devices(&query(&shared.one, &shared.alice, &shared.bob), &shared.bob).len(), 2);
    shared.two.post(&second, "/_matrix/client/v3/logout", json!({})).ok();
    shared.network.pass(MINUTE);
    let told = sync(&shared.one, &shared.alice, &token(&told));
    assert_eq!(told["device_lists"]["changed"], json!([shared.bob.id]));
    assert_eq!(devices(&query(&shared.one, &shared.alice, &shared.bob), &shared.bob), std::slice::from_ref(&shared.bob.device));
    assert_eq!(fetched(&shared), 0, "their server said what changed");
}

#[test]
fn a_list_is_shown_while_its_server_does_not_answer() {
    let shared = Shared::new();
    shared.network.set_down(&shared.two, true);
    let dave = shared.two.register("dave");
    join(&shared.two, &dave, &shared.room);
    let queried = query(&shared.one, &shared.alice, &dave);
    assert!(queried["failures"]["two.example"].is_object(), "{queried}");
    assert!(devices(&queried, &dave).is_empty());
    shared.network.set_down(&shared.two, false);
    upload(&shared.two, &dave);
    shared.network.pass(MINUTE);
    assert_eq!(devices(&query(&shared.one, &shared.alice, &dave), &dave).len(), 1);
    shared.network.set_down(&shared.two, true);
    // Another room, or another user: it may have missed something meanwhile.
    let carol = shared.one.register("carol");
    join(&shared.one, &carol, &shared.room);
    let queried = query(&shared.one, &carol, &dave);
    assert_eq!(devices(&queried, &dave).len(), 1, "what is known is better than nothing: {queried}");
    assert!(queried["failures"]["two.example"].is_object(), "{queried}");
}

#[test]
fn who_comes_back_into_a_room_is_looked_at_anew() {
    let shared = with_keys();
    query(&shared.one, &shared.alice, &shared.bob);
    let before = token(&sync(&shared.one, &shared.alice, ""));
    shared.two.post(&shared.bob, &format!("/_matrix/client/v3/rooms/{}/leave", shared.room), json!({})).ok();
    shared.network.pass(MINUTE);
    // Nobody tells the first server.
    let second = shared.two.login("bob", Some("SECOND"));
    upload(&shared.two, &second);
    shared.network.pass(MINUTE);
    let since = token(&sync(&shared.one, &shared.alice, ""));
    join(&shared.two, &shared.bob, &shared.room);
    shared.network.pass(MINUTE);
    let told = sync(&shared.one, &shared.alice, &since);
    assert_eq!(told["device_lists"]["changed"], json!([shared.bob.id]));
    let told = sync(&shared.one, &shared.alice, &before);
    assert_eq!(told["device_lists"]["changed"], json!([shared.bob.id]), "also who has not seen them go");
    assert_eq!(devices(&query(&shared.one, &shared.alice, &shared.bob), &shared.bob).len(), 2);
}

/// Nobody tells a server of devices while none of its users is in the room.
#[test]
fn who_comes_back_into_a_room_looks_at_those_of_other_servers_anew() {
    let shared = with_keys();
    query(&shared.one, &shared.alice, &shared.bob);
    let before = token(&sync(&shared.one, &shared.alice, ""));
    shared.one.post(&shared.alice, &format!("/_matrix/client/v3/rooms/{}/leave", shared.room), json!({})).ok();
    shared.network.pass(MINUTE);
    let second = shared.two.login("bob", Some("SECOND"));
    upload(&shared.two, &second);
    shared.network.pass(MINUTE);
    let path = format!("/_matrix/client/v3/join/{}?via=two.example", shared.room);
    shared.one.post(&shared.alice, &path, json!({})).ok();
    shared.network.pass(MINUTE);
    let told = sync(&shared.one, &shared.alice, &before);
    assert_eq!(told["device_lists"]["changed"], json!([shared.bob.id]), "{told}");
    assert_eq!(devices(&query(&shared.one, &shared.alice, &shared.bob), &shared.bob).len(), 2);
}

/// Who is invited is sent keys too.
#[test]
fn whose_devices_are_to_be_looked_at_are_those_too_who_are_invited() {
    let shared = with_keys();
    let carol = shared.two.register("carol");
    let since = token(&sync(&shared.one, &shared.alice, ""));
    let path = format!("/_matrix/client/v3/rooms/{}/invite", shared.room);
    shared.one.post(&shared.alice, &path, json!({ "user_id": carol.id })).ok();
    let told = sync(&shared.one, &shared.alice, &since);
    assert_eq!(told["device_lists"]["changed"], json!([carol.id]), "{told}");
}

#[test]
fn one_time_keys_are_claimed_from_the_users_server() {
    let shared = with_keys();
    let claim = json!({ "one_time_keys": { (shared.bob.id.clone()): { (shared.bob.device.clone()): "signed_curve25519" } } });
    let claimed = shared.one.post(&shared.alice, "/_matrix/client/v3/keys/claim", claim.clone()).ok();
    let key = &claimed["one_time_keys"][&shared.bob.id][&shared.bob.device]["signed_curve25519:A"];
    assert_eq!(key["key"], json!(shared.bob.device), "{claimed}");
    let again = shared.one.post(&shared.alice, "/_matrix/client/v3/keys/claim", claim.clone()).ok();
    assert!(again["one_time_keys"][&shared.bob.id][&shared.bob.device].is_null(), "it is given once: {again}");
    shared.network.set_down(&shared.two, true);
    let failed = shared.one.post(&shared.alice, "/_matrix/client/v3/keys/claim", claim).ok();
    assert!(failed["failures"]["two.example"].is_object(), "{failed}");
}

/// What keys hold is for clients to judge, which know more of them than a server; whose they are is
/// not.
#[test]
fn keys_are_kept_as_their_server_says_them_but_those_of_another_device() {
    let network = Network::new();
    let server = network.server("one.example");
    let (room, peer) = (Room::public(&server, "11"), Peer::new(1));
    peer.join(&server, &room, "bob");
    let bob = peer.user("bob");
    let list = json!({ "user_id": bob, "stream_id": 1, "devices": [
        { "device_id": "NEW", "keys": { "org.future": {} } },
        { "device_id": "STRANGE", "keys": { "user_id": bob, "device_id": "STRANGE", "algorithms": [], "keys": { "a": "b" }, "signatures": {} } },
        { "device_id": "WRONG", "keys": { "user_id": room.alice.id, "device_id": "WRONG" } },
        { "device_id": "OTHER", "keys": { "user_id": bob, "device_id": "WRONG" } },
    ] });
    peer.play(&network, move |_| (200, list.clone()));
    let edu = json!({ "edu_type": "m.device_list_update", "content": { "user_id": bob, "device_id": "NEW", "stream_id": 1, "keys": {} } });
    peer.put(&server, "/_matrix/federation/v1/send/1", &json!({ "pdus": [], "edus": [edu] }).to_string()).ok();
    network.pass(MINUTE);
    let queried = server.post(&room.alice, "/_matrix/client/v3/keys/query", json!({ "device_keys": { bob.as_str(): [] } })).ok();
    let devices: Vec<&String> = queried["device_keys"][bob.as_str()].as_object().expect("devices").keys().collect();
    assert_eq!(devices, ["NEW", "STRANGE"]);
}

/// A server that shares no other room with a user has never been told of their devices.
#[test]
fn who_comes_into_a_room_tells_its_servers_of_their_devices() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    upload(&two, &bob);
    let made = one.post(&alice, "/_matrix/client/v3/createRoom", json!({ "preset": "public_chat" })).ok();
    let room = made["room_id"].as_str().expect("a room id").to_owned();
    let told = || {
        network.pass(MINUTE);
        let sent = network.sent().into_iter().filter(|sent| sent.from == "two.example");
        sent.filter(|sent| String::from_utf8_lossy(&sent.body).contains("m.device_list_update")).count()
    };
    told();
    join(&two, &bob, &room);
    assert_eq!(told(), 1);
    two.put(&bob, &format!("/_matrix/client/v3/profile/{}/displayname", bob.id), json!({ "displayname": "Robert" })).ok();
    assert_eq!(told(), 0, "who changes their name was there before");
}

/// Other servers look for `prev_id` in the first update too.
#[test]
fn every_update_says_what_came_before_it() {
    let shared = Shared::new();
    upload(&shared.two, &shared.bob);
    upload(&shared.two, &shared.two.login("bob", Some("SECOND")));
    shared.network.pass(MINUTE);
    let mut updates = Vec::new();
    for sent in shared.network.sent() {
        let body: Value = serde_json::from_slice(&sent.body).unwrap_or_default();
        let edus = body["edus"].as_array().cloned().unwrap_or_default();
        updates.extend(edus.into_iter().filter(|edu| edu["edu_type"] == "m.device_list_update").map(|edu| edu["content"].clone()));
    }
    assert!(updates.len() >= 2, "{updates:?}");
    assert!(updates.iter().all(|update| update["prev_id"].is_array()), "{updates:?}");
    let [.., before, last] = &updates[..] else { panic!("{updates:?}") };
    assert_eq!(last["prev_id"], json!([before["stream_id"]]));
}
