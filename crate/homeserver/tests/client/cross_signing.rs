//! Cross-signing (Client-Server API, Cross-signing).

use crate::{
    signing::{Key, cross_signing_key, device_keys},
    slow::SlowStore,
    support::{Answer, PASSWORD, TestServer, TestUser, config},
};
use serde_json::{Value, json};
use std::rc::Rc;

const UPLOAD: &str = "/_matrix/client/v3/keys/device_signing/upload";
const SIGN: &str = "/_matrix/client/v3/keys/signatures/upload";

/// A user with cross-signing keys.
pub struct Signer {
    pub user: TestUser,
    pub device: Key,
    master: Key,
    self_signing: Key,
    user_signing: Key,
}

impl Signer {
    pub fn new(server: &TestServer, name: &str, seed: u8) -> Self {
        let user = server.register(name);
        let key = |offset| Key::new(seed + offset);
        let signer = Self { user, device: key(0), master: key(1), self_signing: key(2), user_signing: key(3) };
        server.post(&signer.user, "/_matrix/client/v3/keys/upload", json!({ "device_keys": device_keys(&signer.user, &signer.device) })).ok();
        signer
    }

    fn keys(&self) -> Value {
        let mut keys = json!({ "master_key": cross_signing_key(&self.user, "master", &self.master) });
        for (usage, key) in [("self_signing", &self.self_signing), ("user_signing", &self.user_signing)] {
            let mut signed = cross_signing_key(&self.user, usage, key);
            self.master.sign(&mut signed, &self.user.id, &self.master.public());
            keys[format!("{usage}_key")] = signed;
        }
        keys
    }

    /// Uploads the cross-signing keys.
    pub fn upload(&self, server: &TestServer) {
        server.post(&self.user, UPLOAD, self.keys()).ok();
    }

    /// Signs another user's master key.
    pub fn trust(&self, server: &TestServer, whom: &Self) {
        let mut master = whom.keys()["master_key"].clone();
        self.user_signing.sign(&mut master, &self.user.id, &self.user_signing.public());
        let signed = json!({ &whom.user.id: { whom.master.public(): master } });
        assert_eq!(server.post(&self.user, SIGN, signed).ok(), json!({ "failures": {} }));
    }

    fn query(&self, server: &TestServer, whom: &Self) -> Value {
        server.post(&self.user, "/_matrix/client/v3/keys/query", json!({ "device_keys": { &whom.user.id: [] } })).ok()
    }
}

fn with_password(user: &TestUser, refused: &Value, mut body: Value) -> Value {
    let identifier = json!({ "type": "m.id.user", "user": user.id });
    body["auth"] = json!({ "type": "m.login.password", "identifier": identifier, "password": PASSWORD, "session": refused["session"] });
    body
}

#[track_caller]
fn fails_for(answer: Answer, user: &TestUser, key: &str, errcode: &str) {
    let body = answer.ok();
    assert_eq!(body["failures"][&user.id][key]["errcode"], errcode, "{body}");
}

#[test]
fn the_first_keys_need_no_password_the_same_ones_neither_and_other_ones_do() {
    let server = TestServer::new();
    let alice = Signer::new(&server, "alice", 10);
    server.post(&alice.user, UPLOAD, alice.keys()).ok();
    server.post(&alice.user, UPLOAD, alice.keys()).ok();
    let other =
        Signer { master: Key::new(99), user: alice.user.clone(), device: Key::new(10), self_signing: Key::new(98), user_signing: Key::new(97) };
    let refused = server.post(&alice.user, UPLOAD, other.keys());
    assert_eq!(refused.status, 401);
    assert_eq!(alice.query(&server, &alice)["master_keys"][&alice.user.id], alice.keys()["master_key"]);
    let server = server.restart();
    server.post(&alice.user, UPLOAD, with_password(&alice.user, &refused.body, other.keys())).ok();
    let found = alice.query(&server, &alice);
    assert_eq!(found["master_keys"][&alice.user.id], other.keys()["master_key"]);
    assert_eq!(found["self_signing_keys"][&alice.user.id], other.keys()["self_signing_key"]);
    assert_eq!(found["user_signing_keys"][&alice.user.id], other.keys()["user_signing_key"]);
}

#[test]
fn two_first_uploads_at_once_leave_one_set_of_keys() {
    let server = TestServer::with(Rc::new(SlowStore::default()), config());
    let alice = Signer::new(&server, "alice", 10);
    let other =
        Signer { master: Key::new(99), user: alice.user.clone(), device: Key::new(10), self_signing: Key::new(98), user_signing: Key::new(97) };
    let one = server.start("POST", UPLOAD, Some(&alice.user.token), Some(alice.keys()));
    let two = server.start("POST", UPLOAD, Some(&alice.user.token), Some(other.keys()));
    let (one, two) = server.run(async move { futures_util::join!(one, two) });
    let mut statuses = [one.status, two.status];
    statuses.sort();
    assert_eq!(statuses, [200, 401], "the second would replace keys");
}

#[test]
fn keys_are_signed_by_the_master_key_and_named_by_themselves() {
    let server = TestServer::new();
    let alice = Signer::new(&server, "alice", 10);
    let keys = alice.keys();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut keys = keys.clone();
        change(&mut keys);
        server.post(&alice.user, UPLOAD, keys)
    };
    changed(&|keys| keys["self_signing_key"]["signatures"] = json!({})).fails(400, "M_INVALID_SIGNATURE");
    changed(&|keys| keys["user_signing_key"]["more"] = "unsigned".into()).fails(400, "M_INVALID_SIGNATURE");
    changed(&|keys| keys["master_key"]["user_id"] = "@bob:test.example".into()).fails(400, "M_INVALID_PARAM");
    changed(&|keys| keys["master_key"]["usage"] = json!(["self_signing"])).fails(400, "M_INVALID_PARAM");
    changed(&|keys| keys["master_key"]["keys"] = json!({ "ed25519:name": alice.master.public() })).fails(400, "M_INVALID_PARAM");
    changed(&|keys| keys["master_key"]["keys"]["ed25519:AAAA"] = "AAAA".into()).fails(400, "M_INVALID_PARAM");
    server.post(&alice.user, UPLOAD, json!({ "self_signing_key": keys["self_signing_key"] })).fails(400, "M_MISSING_PARAM");
    let device = server.login("alice", Some(&alice.master.public()));
    server.post(&alice.user, UPLOAD, keys.clone()).fails(403, "M_FORBIDDEN");
    server.post(&device, "/_matrix/client/v3/logout", json!({})).ok();
    server.post(&alice.user, UPLOAD, keys).ok();
}

#[test]
fn everybody_sees_whom_a_user_trusts_among_their_own_devices_and_nobody_else_whom_among_others() {
    let server = TestServer::new();
    let (alice, bob, carol) = (Signer::new(&server, "alice", 10), Signer::new(&server, "bob", 20), Signer::new(&server, "carol", 30));
    for signer in [&alice, &bob] {
        server.post(&signer.user, UPLOAD, signer.keys()).ok();
    }
    let mut device = device_keys(&alice.user, &alice.device);
    device["signatures"] = json!({});
    alice.self_signing.sign(&mut device, &alice.user.id, &alice.self_signing.public());
    let mut master = alice.keys()["master_key"].clone();
    alice.device.sign(&mut master, &alice.user.id, &alice.user.device);
    let mut bobs = bob.keys()["master_key"].clone();
    alice.user_signing.sign(&mut bobs, &alice.user.id, &alice.user_signing.public());
    let signed = json!({
        &alice.user.id: { &alice.user.device: device, alice.master.public(): master },
        &bob.user.id: { bob.master.public(): bobs },
    });
    assert_eq!(server.post(&alice.user, SIGN, signed.clone()).ok(), json!({ "failures": {} }));
    assert_eq!(server.post(&alice.user, SIGN, signed).ok(), json!({ "failures": {} }), "also when it is repeated");
    let server = server.restart();
    for viewer in [&alice, &bob, &carol] {
        let found = viewer.query(&server, &alice);
        let device = &found["device_keys"][&alice.user.id][&alice.user.device];
        assert!(alice.device.has_signed(device, &alice.user.id, &alice.user.device));
        assert!(alice.self_signing.has_signed(device, &alice.user.id, &alice.self_signing.public()));
        assert!(alice.device.has_signed(&found["master_keys"][&alice.user.id], &alice.user.id, &alice.user.device));
        assert!(alice.master.has_signed(&found["self_signing_keys"][&alice.user.id], &alice.user.id, &alice.master.public()));
        assert_eq!(found["user_signing_keys"].get(&alice.user.id).is_some(), viewer.user.id == alice.user.id);
        let found = viewer.query(&server, &bob);
        let sees = alice.user_signing.has_signed(&found["master_keys"][&bob.user.id], &alice.user.id, &alice.user_signing.public());
        assert_eq!(sees, viewer.user.id == alice.user.id);
    }
}

#[test]
fn a_signature_that_is_wrong_or_of_something_else_is_refused_and_the_others_are_taken() {
    let server = TestServer::new();
    let (alice, bob) = (Signer::new(&server, "alice", 10), Signer::new(&server, "bob", 20));
    for signer in [&alice, &bob] {
        server.post(&signer.user, UPLOAD, signer.keys()).ok();
    }
    let device = device_keys(&alice.user, &alice.device);
    let name = alice.self_signing.public();
    let mut by_another_key = device.clone();
    alice.user_signing.sign(&mut by_another_key, &alice.user.id, &name);
    let body = json!({ &alice.user.id: { &alice.user.device: by_another_key } });
    fails_for(server.post(&alice.user, SIGN, body), &alice.user, &alice.user.device, "M_INVALID_SIGNATURE");
    let mut of_other_keys = device.clone();
    of_other_keys["algorithms"] = json!([]);
    alice.self_signing.sign(&mut of_other_keys, &alice.user.id, &name);
    let body = json!({ &alice.user.id: { &alice.user.device: of_other_keys } });
    fails_for(server.post(&alice.user, SIGN, body), &alice.user, &alice.user.device, "M_INVALID_SIGNATURE");
    let mut by_master = device.clone();
    alice.master.sign(&mut by_master, &alice.user.id, &alice.master.public());
    let body = json!({ &alice.user.id: { &alice.user.device: by_master } });
    fails_for(server.post(&alice.user, SIGN, body), &alice.user, &alice.user.device, "M_INVALID_SIGNATURE");
    let mut right = device;
    alice.self_signing.sign(&mut right, &alice.user.id, &name);
    let mut bobs_device = device_keys(&bob.user, &bob.device);
    alice.user_signing.sign(&mut bobs_device, &alice.user.id, &alice.user_signing.public());
    let body = json!({ &alice.user.id: { &alice.user.device: right, "GONE": {} }, &bob.user.id: { &bob.user.device: bobs_device } });
    let answer = server.post(&alice.user, SIGN, body).ok();
    assert_eq!(answer["failures"][&alice.user.id]["GONE"]["errcode"], "M_NOT_FOUND");
    assert_eq!(answer["failures"][&alice.user.id].as_object().expect("failures").len(), 1);
    assert_eq!(answer["failures"][&bob.user.id][&bob.user.device]["errcode"], "M_NOT_FOUND", "devices of others are signed by nobody");
    let found = bob.query(&server, &alice);
    assert!(alice.self_signing.has_signed(&found["device_keys"][&alice.user.id][&alice.user.device], &alice.user.id, &name));
}

/// Whoever signed one key of each of very many users kept everybody waiting until all were
/// verified.
#[test]
fn signatures_of_very_many_users_are_verified_in_turns_with_others() {
    let server = TestServer::new();
    let alice = Signer::new(&server, "alice", 10);
    let signed = |users: usize| -> Value { (0..users).map(|n| (format!("@u{n}:test.example"), json!({ "key": {} }))).collect() };
    let before = server.host.yielded.get();
    let answer = server.post(&alice.user, SIGN, signed(5_000)).ok();
    assert_eq!(answer["failures"].as_object().map(|failures| failures.len()), Some(5_000));
    let yields = server.host.yielded.get() - before;
    assert!(yields >= 5_000 / 64, "{yields} yields");
    server.post(&alice.user, SIGN, signed(10_001)).fails(413, "M_TOO_LARGE");
}

#[test]
fn signatures_go_with_the_device_keys_that_they_sign() {
    let server = TestServer::new();
    let alice = Signer::new(&server, "alice", 10);
    server.post(&alice.user, UPLOAD, alice.keys()).ok();
    let mut device = device_keys(&alice.user, &alice.device);
    alice.self_signing.sign(&mut device, &alice.user.id, &alice.self_signing.public());
    server.post(&alice.user, SIGN, json!({ &alice.user.id: { &alice.user.device: device } })).ok();
    let by = format!("ed25519:{}", alice.self_signing.public());
    let is_signed =
        || alice.query(&server, &alice)["device_keys"][&alice.user.id][&alice.user.device]["signatures"][&alice.user.id].get(&by).is_some();
    for (keys, expected) in [(device_keys(&alice.user, &alice.device), true), (device_keys(&alice.user, &Key::new(50)), false)] {
        server.post(&alice.user, "/_matrix/client/v3/keys/upload", json!({ "device_keys": keys })).ok();
        assert_eq!(is_signed(), expected);
    }
}

#[test]
fn signatures_go_with_the_key_that_made_them() {
    let server = TestServer::new();
    let alice = Signer::new(&server, "alice", 10);
    server.post(&alice.user, UPLOAD, alice.keys()).ok();
    let mut device = device_keys(&alice.user, &alice.device);
    alice.self_signing.sign(&mut device, &alice.user.id, &alice.self_signing.public());
    server.post(&alice.user, SIGN, json!({ &alice.user.id: { &alice.user.device: device } })).ok();
    let other =
        Signer { master: Key::new(99), user: alice.user.clone(), device: Key::new(10), self_signing: Key::new(98), user_signing: Key::new(97) };
    let master = json!({ "master_key": other.keys()["master_key"] });
    let refused = server.post(&alice.user, UPLOAD, master.clone());
    server.post(&alice.user, UPLOAD, with_password(&alice.user, &refused.body, master)).ok();
    let found = alice.query(&server, &alice);
    assert_eq!(found["device_keys"][&alice.user.id][&alice.user.device]["signatures"], device_keys(&alice.user, &alice.device)["signatures"]);
    assert!(found["self_signing_keys"].get(&alice.user.id).is_none(), "the new master key has not signed it");
}
