//! Devices and keys of users of other servers: fetched once, kept up to date, and shown though out
//! of date only while their server does not answer.

use crate::{
    outbox::{MINUTE, Shared, join, sync, token},
    support::{TestServer, TestUser},
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
    shared.network.sent();
    shared
}

#[test]
fn a_list_is_fetched_once_and_follows_its_users_devices() {
    let shared = with_keys();
    let queried = query(&shared.one, &shared.alice, &shared.bob);
    assert_eq!(devices(&queried, &shared.bob), std::slice::from_ref(&shared.bob.device));
    assert_eq!(queried["failures"], json!({}));
    assert_eq!(devices(&query(&shared.one, &shared.alice, &shared.bob), &shared.bob).len(), 1);
    assert_eq!(fetched(&shared), 1);
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
    let shared = with_keys();
    shared.network.set_down(&shared.two, true);
    let queried = query(&shared.one, &shared.alice, &shared.bob);
    assert!(queried["failures"]["two.example"].is_object(), "{queried}");
    assert!(devices(&queried, &shared.bob).is_empty());
    shared.network.set_down(&shared.two, false);
    assert_eq!(devices(&query(&shared.one, &shared.alice, &shared.bob), &shared.bob).len(), 1);
    shared.network.set_down(&shared.two, true);
    // Another room, or another user: it may have missed something meanwhile.
    let carol = shared.one.register("carol");
    join(&shared.one, &carol, &shared.room);
    let queried = query(&shared.one, &carol, &shared.bob);
    assert_eq!(devices(&queried, &shared.bob).len(), 1, "what is known is better than nothing: {queried}");
    assert!(queried["failures"]["two.example"].is_object(), "{queried}");
}

#[test]
fn who_comes_back_into_a_room_is_looked_at_anew() {
    let shared = with_keys();
    query(&shared.one, &shared.alice, &shared.bob);
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
    assert_eq!(devices(&query(&shared.one, &shared.alice, &shared.bob), &shared.bob).len(), 2);
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
