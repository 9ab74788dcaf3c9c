//! What another server asks for is answered by the functions that answer clients.

use super::{claim, query};
use crate::{
    tables::{self, CrossSigningUse, Json},
    test_support::{TestServer, TestUser},
    to_device::{self, Messages},
    transaction::Tx,
};
use ruma::{OwnedUserId, user_id};
use serde_json::{Value, json};
use std::{cell::Cell, collections::BTreeMap};

/// A user with a device and a one-time key.
fn with_keys(server: &TestServer) -> (TestUser, OwnedUserId) {
    let alice = server.register("alice");
    let key = json!({ "key": "one", "signatures": {} });
    let uploaded = json!({
        "device_keys": { "user_id": alice.id, "device_id": alice.device, "algorithms": [], "keys": {}, "signatures": {} },
        "one_time_keys": { "signed_curve25519:A": key },
    });
    server.post(&alice, "/_matrix/client/v3/keys/upload", uploaded).ok();
    let id = OwnedUserId::try_from(alice.id.as_str()).expect("a user id");
    (alice, id)
}

#[test]
fn another_server_sees_a_users_keys_but_for_the_user_signing_one_and_what_others_signed() {
    let server = TestServer::new();
    let (alice, id) = with_keys(&server);
    let bob = OwnedUserId::try_from(server.register("bob").id.as_str()).expect("a user id");
    let (hs, device) = (server.hs.clone(), alice.device.clone());
    let (devices, master) = server.run(async move {
        let (nid, bob) = (hs.intern_user(&id).await.expect("read"), hs.intern_user(&bob).await.expect("read"));
        let written = hs.write(hs.begin_reading(), |tx| {
            for used_for in [CrossSigningUse::Master, CrossSigningUse::SelfSigning, CrossSigningUse::UserSigning] {
                tables::CROSS_SIGNING_KEYS.put(tx, &(nid, used_for as u8), &Json(json!({ "keys": { "ed25519:M": "M" } }).to_string()));
            }
            tables::KEY_SIGNATURES.put(tx, &(nid, bob, "M".to_owned(), "ed25519:B".to_owned()), &"by bob".to_owned());
            tables::KEY_SIGNATURES.put(tx, &(nid, nid, device, "ed25519:S".to_owned()), &"by alice".to_owned());
        });
        written.expect("taken").visible();
        let asked = BTreeMap::from([(id.clone(), Vec::new()), (user_id!("@eve:other.example").to_owned(), Vec::new())]);
        let queried = query(&hs, None, &asked).await.expect("answered");
        assert_eq!(queried.devices.keys().collect::<Vec<_>>(), [&id], "others' users are for others to tell of");
        assert_eq!((queried.self_signing.len(), queried.user_signing.len()), (1, 0));
        let read = |json: &str| serde_json::from_str::<Value>(json).expect("JSON");
        let devices = queried.devices[&id].values().map(|keys| read(keys.json().get())).collect::<Vec<_>>();
        (devices, read(queried.master[&id].json().get()))
    });
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0]["signatures"][&alice.id]["ed25519:S"], "by alice");
    assert_eq!(master, json!({ "keys": { "ed25519:M": "M" } }), "what bob signed is for bob");
}

#[test]
fn another_server_claims_each_key_once_and_sends_messages_to_devices() {
    let server = TestServer::new();
    let (alice, id) = with_keys(&server);
    let (hs, device) = (server.hs.clone(), alice.device.clone());
    let claimed = server.run(async move {
        let claims = BTreeMap::from([(id.clone(), BTreeMap::from([(device.into(), "signed_curve25519".into())]))]);
        let first = claim(&hs, &claims).await.expect("answered");
        let second = claim(&hs, &claims).await.expect("answered");
        let messages: Messages = serde_json::from_value(json!({ id.as_str(): { "*": { "body": "hello" } } })).expect("messages");
        let done = Cell::new(0);
        let count = |_: &mut Tx| done.set(done.get() + 1);
        to_device::send(&hs, hs.begin_reading(), user_id!("@eve:other.example"), "m.dummy", &messages, &count).await.expect("sent");
        (first.len(), second.len(), done.get())
    });
    assert_eq!(claimed, (1, 0, 1));
    let synced = server.get(&alice, "/_matrix/client/v3/sync").ok();
    let sent = json!([{ "content": { "body": "hello" }, "sender": "@eve:other.example", "type": "m.dummy" }]);
    assert_eq!(synced["to_device"]["events"], sent);
}
