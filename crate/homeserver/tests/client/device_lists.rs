//! Whose devices a client has to look at again (Client-Server API, Tracking the device list for a
//! user), in syncs and in `/keys/changes`.

use crate::{
    rooms::room,
    signing::{Key, cross_signing_key, device_keys},
    support::{TestServer, TestUser},
};
use serde_json::{Value, json};

const ENCRYPTED: &str =
    r#"{"preset":"public_chat","initial_state":[{"type":"m.room.encryption","state_key":"","content":{"algorithm":"m.megolm.v1.aes-sha2"}}]}"#;

/// A client that remembers how far it has read.
struct Client {
    user: TestUser,
    since: String,
}

impl Client {
    fn new(server: &TestServer, name: &str) -> Self {
        let user = server.register(name);
        let since = server.get(&user, "/_matrix/client/v3/sync?timeout=0").ok()["next_batch"].as_str().expect("a token").to_owned();
        Self { user, since }
    }

    /// Who changed and who left since the last time; `/keys/changes` says the same.
    #[track_caller]
    fn lists(&mut self, server: &TestServer) -> (Vec<String>, Vec<String>) {
        let body = server.get(&self.user, &format!("/_matrix/client/v3/sync?timeout=0&since={}", self.since)).ok();
        let next = body["next_batch"].as_str().expect("a token").to_owned();
        let changes = server.get(&self.user, &format!("/_matrix/client/v3/keys/changes?from={}&to={next}", self.since)).ok();
        let named = |lists: &Value, which: &str| {
            let mut names: Vec<String> = lists[which].as_array().into_iter().flatten().map(|id| id.as_str().expect("a user").to_owned()).collect();
            names.sort();
            names
        };
        let lists = (named(&body["device_lists"], "changed"), named(&body["device_lists"], "left"));
        assert_eq!(lists, (named(&changes, "changed"), named(&changes, "left")));
        self.since = next;
        lists
    }
}

fn upload(server: &TestServer, user: &TestUser, seed: u8) {
    server.post(user, "/_matrix/client/v3/keys/upload", json!({ "device_keys": device_keys(user, &Key::new(seed)) })).ok();
}

fn nobody() -> (Vec<String>, Vec<String>) {
    Default::default()
}

fn changed(users: &[&Client]) -> (Vec<String>, Vec<String>) {
    (users.iter().map(|client| client.user.id.clone()).collect(), Vec::new())
}

fn left(users: &[&Client]) -> (Vec<String>, Vec<String>) {
    (Vec::new(), users.iter().map(|client| client.user.id.clone()).collect())
}

#[test]
fn who_shares_a_room_hears_of_new_keys_and_so_does_the_user() {
    let server = TestServer::new();
    let (mut alice, mut bob, mut carol) = (Client::new(&server, "alice"), Client::new(&server, "bob"), Client::new(&server, "carol"));
    let id = room(&server, &alice.user, serde_json::from_str(ENCRYPTED).expect("JSON"));
    server.post(&bob.user, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    assert_eq!(alice.lists(&server), changed(&[&alice, &bob]), "they share a room now");
    assert_eq!(bob.lists(&server), changed(&[&alice, &bob]), "who comes is one of the members");
    assert_eq!(carol.lists(&server), nobody());
    upload(&server, &bob.user, 1);
    assert_eq!(alice.lists(&server), changed(&[&bob]));
    assert_eq!(bob.lists(&server), changed(&[&bob]));
    assert_eq!(carol.lists(&server), nobody());
    upload(&server, &bob.user, 1);
    server.post(&bob.user, "/_matrix/client/v3/keys/upload", json!({ "one_time_keys": { "plain:a": "text" } })).ok();
    assert_eq!(alice.lists(&server), nobody(), "nothing changed");
    let tablet = server.login("bob", Some("TABLET"));
    alice.lists(&server);
    upload(&server, &tablet, 2);
    assert_eq!(alice.lists(&server), changed(&[&bob]));
    server.post(&tablet, "/_matrix/client/v3/logout", json!({})).ok();
    assert_eq!(alice.lists(&server), changed(&[&bob]));
    let keys = json!({ "master_key": cross_signing_key(&bob.user, "master", &Key::new(3)) });
    server.post(&bob.user, "/_matrix/client/v3/keys/device_signing/upload", keys).ok();
    assert_eq!(alice.lists(&server), changed(&[&bob]));
    server.put(&bob.user, &format!("/_matrix/client/v3/profile/{}/displayname", bob.user.id), json!({ "displayname": "Bob" })).ok();
    assert_eq!(alice.lists(&server), nobody(), "a new name is a member event, and no new device");
}

#[test]
fn who_leaves_the_last_shared_room_has_left() {
    let server = TestServer::new();
    let (mut alice, mut bob) = (Client::new(&server, "alice"), Client::new(&server, "bob"));
    let first = room(&server, &alice.user, serde_json::from_str(ENCRYPTED).expect("JSON"));
    let second = room(&server, &alice.user, serde_json::from_str(ENCRYPTED).expect("JSON"));
    let bob_user = bob.user.clone();
    let join = |room: &str| server.post(&bob_user, &format!("/_matrix/client/v3/join/{room}"), json!({})).ok();
    let leave = |user: &TestUser, room: &str| server.post(user, &format!("/_matrix/client/v3/rooms/{room}/leave"), json!({})).ok();
    join(&first);
    join(&second);
    alice.lists(&server);
    bob.lists(&server);
    leave(&bob.user, &first);
    assert_eq!(alice.lists(&server), nobody(), "they share the other room");
    leave(&alice.user, &second);
    assert_eq!(alice.lists(&server), left(&[&bob]));
    assert_eq!(bob.lists(&server), left(&[&alice]));
    upload(&server, &bob.user, 1);
    assert_eq!(alice.lists(&server), nobody(), "they share nothing");
    join(&first);
    assert_eq!(alice.lists(&server), changed(&[&bob]), "what he did meanwhile may be new");
}

#[test]
fn who_leaves_the_last_encrypted_room_has_left_although_another_room_is_shared() {
    let server = TestServer::new();
    let (mut alice, mut bob) = (Client::new(&server, "alice"), Client::new(&server, "bob"));
    let encrypted = room(&server, &alice.user, serde_json::from_str(ENCRYPTED).expect("JSON"));
    let open = room(&server, &alice.user, json!({ "preset": "public_chat" }));
    for id in [&encrypted, &open] {
        server.post(&bob.user, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    }
    alice.lists(&server);
    bob.lists(&server);
    server.post(&bob.user, &format!("/_matrix/client/v3/rooms/{encrypted}/leave"), json!({})).ok();
    assert_eq!(alice.lists(&server), left(&[&bob]));
    assert_eq!(bob.lists(&server), left(&[&alice]));
}

#[test]
fn who_is_banned_or_kicked_has_left() {
    let server = TestServer::new();
    let (mut alice, mut bob, mut carol) = (Client::new(&server, "alice"), Client::new(&server, "bob"), Client::new(&server, "carol"));
    let id = room(&server, &alice.user, serde_json::from_str(ENCRYPTED).expect("JSON"));
    for user in [&bob.user, &carol.user] {
        server.post(user, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    }
    for client in [&mut alice, &mut bob, &mut carol] {
        client.lists(&server);
    }
    let owner = alice.user.clone();
    let remove = |step: &str, whom: &Client| {
        server.post(&owner, &format!("/_matrix/client/v3/rooms/{id}/{step}"), json!({ "user_id": whom.user.id })).ok();
    };
    remove("ban", &bob);
    assert_eq!((alice.lists(&server), carol.lists(&server)), (left(&[&bob]), left(&[&bob])));
    assert_eq!(bob.lists(&server), left(&[&alice, &carol]));
    remove("kick", &carol);
    assert_eq!((alice.lists(&server), carol.lists(&server)), (left(&[&carol]), left(&[&alice])));
    upload(&server, &bob.user, 1);
    assert_eq!(alice.lists(&server), nobody(), "they share nothing");
    // Lifting the ban brings nobody back; the join does.
    server.post(&alice.user, &format!("/_matrix/client/v3/rooms/{id}/unban"), json!({ "user_id": bob.user.id })).ok();
    assert_eq!(alice.lists(&server), nobody());
    server.post(&bob.user, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    assert_eq!(alice.lists(&server), changed(&[&bob]));
}

/// "Or who now share an encrypted room with the client since the previous sync response": the room
/// may have been there before.
#[test]
fn who_is_in_a_room_when_it_is_encrypted_is_news_to_all_of_it() {
    let server = TestServer::new();
    let (mut alice, mut bob, mut carol) = (Client::new(&server, "alice"), Client::new(&server, "bob"), Client::new(&server, "carol"));
    let id = room(&server, &alice.user, json!({ "preset": "public_chat" }));
    server.post(&bob.user, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    for client in [&mut alice, &mut bob, &mut carol] {
        client.lists(&server);
    }
    server.put(&alice.user, &format!("/_matrix/client/v3/rooms/{id}/state/m.room.topic"), json!({ "topic": "x" })).ok();
    assert_eq!(alice.lists(&server), nobody());
    let encryption = format!("/_matrix/client/v3/rooms/{id}/state/m.room.encryption");
    let algorithm = |period: u32| json!({ "algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": period });
    server.put(&alice.user, &encryption, algorithm(100)).ok();
    assert_eq!((alice.lists(&server), bob.lists(&server), carol.lists(&server)), (changed(&[&bob]), changed(&[&alice]), nobody()));
    // It was encrypted before.
    server.put(&alice.user, &encryption, algorithm(200)).ok();
    server.put(&alice.user, &format!("/_matrix/client/v3/rooms/{id}/state/m.room.topic"), json!({ "topic": "y" })).ok();
    assert_eq!((alice.lists(&server), bob.lists(&server)), (nobody(), nobody()));
}

/// The members of a large room matter to who joins it when it is encrypted: at once, or later.
#[test]
fn the_members_of_a_large_room_are_told_when_it_is_encrypted() {
    let server = TestServer::new();
    let mut alice = Client::new(&server, "alice");
    let id = room(&server, &alice.user, json!({ "preset": "public_chat" }));
    for number in 0..201 {
        let member = server.register(&format!("member{number}"));
        server.post(&member, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    }
    alice.lists(&server);
    let mut bob = Client::new(&server, "bob");
    server.post(&bob.user, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    assert_eq!(bob.lists(&server), nobody(), "their devices do not matter yet");
    server.put(&alice.user, &format!("/_matrix/client/v3/rooms/{id}/state/m.room.encryption"), json!({ "algorithm": "m.megolm.v1.aes-sha2" })).ok();
    assert_eq!(bob.lists(&server).0.len(), 202);
    assert_eq!(alice.lists(&server).0.len(), 202);
    let mut carol = Client::new(&server, "carol");
    server.post(&carol.user, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    assert_eq!(carol.lists(&server).0.len(), 204);
}

/// A room that was encrypted, and configured anew before the next sync, was not told of.
#[test]
fn a_room_that_is_encrypted_twice_meanwhile_is_told_once() {
    let server = TestServer::new();
    let mut alice = Client::new(&server, "alice");
    let id = room(&server, &alice.user, json!({ "preset": "public_chat" }));
    let mut others = Vec::new();
    // So many that joining alone tells nothing of each other.
    for n in 0..201 {
        let other = server.register(&format!("u{n}"));
        server.post(&other, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
        others.push(other.id);
    }
    alice.lists(&server);
    let user = alice.user.clone();
    let encrypt = |messages: u32| {
        let content = json!({ "algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": messages });
        server.put(&user, &format!("/_matrix/client/v3/rooms/{id}/state/m.room.encryption/"), content).ok();
    };
    encrypt(100);
    encrypt(200);
    others.sort();
    assert_eq!(alice.lists(&server), (others, Vec::new()));
    encrypt(300);
    assert_eq!(alice.lists(&server), nobody());
}

#[test]
fn a_deleted_room_does_not_break_device_lists() {
    let server = TestServer::new();
    let (mut alice, bob) = (Client::new(&server, "alice"), Client::new(&server, "bob"));
    let gone = room(&server, &alice.user, serde_json::from_str(ENCRYPTED).expect("JSON"));
    let open = room(&server, &alice.user, json!({ "preset": "public_chat" }));
    for id in [&gone, &open] {
        server.post(&bob.user, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    }
    alice.lists(&server);
    for step in ["leave", "forget"] {
        for user in [&bob.user, &alice.user] {
            server.post(user, &format!("/_matrix/client/v3/rooms/{gone}/{step}"), json!({})).ok();
        }
    }
    assert_eq!(alice.lists(&server), nobody(), "they share the other room");
    upload(&server, &bob.user, 1);
    assert_eq!(alice.lists(&server), changed(&[&bob]));
}

#[test]
fn a_signature_of_another_users_key_is_news_to_the_signer_alone() {
    let server = TestServer::new();
    let (mut alice, mut bob) = (Client::new(&server, "alice"), Client::new(&server, "bob"));
    let id = room(&server, &alice.user, serde_json::from_str(ENCRYPTED).expect("JSON"));
    server.post(&bob.user, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    let [master, user_signing, bobs] = [1, 2, 3].map(Key::new);
    let mut signed = cross_signing_key(&alice.user, "user_signing", &user_signing);
    master.sign(&mut signed, &alice.user.id, &master.public());
    let keys = json!({ "master_key": cross_signing_key(&alice.user, "master", &master), "user_signing_key": signed });
    server.post(&alice.user, "/_matrix/client/v3/keys/device_signing/upload", keys).ok();
    let mut key = cross_signing_key(&bob.user, "master", &bobs);
    server.post(&bob.user, "/_matrix/client/v3/keys/device_signing/upload", json!({ "master_key": key })).ok();
    alice.lists(&server);
    bob.lists(&server);
    user_signing.sign(&mut key, &alice.user.id, &user_signing.public());
    let body = json!({ &bob.user.id: { bobs.public(): key } });
    assert_eq!(server.post(&alice.user, "/_matrix/client/v3/keys/signatures/upload", body).ok(), json!({ "failures": {} }));
    assert_eq!(alice.lists(&server), changed(&[&bob]));
    assert_eq!(bob.lists(&server), nobody());
}

/// Everybody was sent to look for new keys of a user who had changed the one key that nobody else
/// sees.
#[test]
fn a_new_user_signing_key_is_news_to_its_user_alone() {
    let server = TestServer::new();
    let (mut alice, mut bob) = (Client::new(&server, "alice"), Client::new(&server, "bob"));
    let id = room(&server, &alice.user, serde_json::from_str(ENCRYPTED).expect("JSON"));
    server.post(&bob.user, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    let [master, user_signing] = [1, 2].map(Key::new);
    let user = alice.user.clone();
    let upload = |keys: Value| {
        let path = "/_matrix/client/v3/keys/device_signing/upload";
        let asked = server.post(&user, path, keys.clone());
        if asked.status == 401 {
            crate::account::confirm(&server, &user, "POST", path, keys, crate::support::PASSWORD).ok();
        }
    };
    upload(json!({ "master_key": cross_signing_key(&alice.user, "master", &master) }));
    alice.lists(&server);
    assert_eq!(bob.lists(&server), changed(&[&alice, &bob]));
    let mut signed = cross_signing_key(&alice.user, "user_signing", &user_signing);
    master.sign(&mut signed, &alice.user.id, &master.public());
    upload(json!({ "user_signing_key": signed }));
    assert_eq!(alice.lists(&server), changed(&[&alice]));
    assert_eq!(bob.lists(&server), nobody());
    let shown = server.post(&alice.user, "/_matrix/client/v3/keys/query", json!({ "device_keys": { &alice.user.id: [] } })).ok();
    assert_eq!(shown["user_signing_keys"][&alice.user.id], signed);
}

#[test]
fn a_sync_says_how_many_keys_are_left_and_which_fallback_keys_are_unused() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let keys = || {
        let body = server.get(&bob, "/_matrix/client/v3/sync?timeout=0").ok();
        (body["device_one_time_keys_count"].clone(), body["device_unused_fallback_key_types"].clone())
    };
    assert_eq!(keys(), (json!({ "signed_curve25519": 0 }), json!([])));
    let uploaded = json!({ "one_time_keys": { "plain:a": "text" }, "fallback_keys": { "plain:f": "fallback" } });
    server.post(&bob, "/_matrix/client/v3/keys/upload", uploaded.clone()).ok();
    assert_eq!(keys(), (json!({ "plain": 1, "signed_curve25519": 0 }), json!(["plain"])));
    let claim = json!({ "one_time_keys": { &bob.id: { &bob.device: "plain" } } });
    for unused in [json!(["plain"]), json!([])] {
        server.post(&alice, "/_matrix/client/v3/keys/claim", claim.clone()).ok();
        assert_eq!(keys(), (json!({ "signed_curve25519": 0 }), unused), "what is not listed is none");
    }
    server.post(&bob, "/_matrix/client/v3/keys/upload", json!({ "fallback_keys": { "plain:f": "fallback" } })).ok();
    assert_eq!(keys().1, json!([]), "the same key stays used");
    server.post(&bob, "/_matrix/client/v3/keys/upload", json!({ "fallback_keys": { "plain:g": "another" } })).ok();
    assert_eq!(keys().1, json!(["plain"]));
}

#[test]
fn tokens_that_are_none_are_refused() {
    let server = TestServer::new();
    let alice = server.register("alice");
    server.get(&alice, "/_matrix/client/v3/keys/changes?from=x&to=y").fails(400, "M_INVALID_PARAM");
    server.get(&alice, "/_matrix/client/v3/keys/changes").fails(400, "M_MISSING_PARAM");
}

/// The distance between the two overflowed.
#[test]
fn a_token_before_the_first_position_is_accepted() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({"preset": "public_chat"}));
    server.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
    let now = server.get(&alice, "/_matrix/client/v3/sync").ok()["next_batch"].as_str().expect("a token").to_owned();
    let instance = now.split_once('_').expect("a token").1;
    for first in [i64::MIN, -1, 0] {
        let changed = server.get(&alice, &format!("/_matrix/client/v3/keys/changes?from=s{first}_{instance}&to={now}")).ok()["changed"].take();
        assert_eq!(changed, json!([alice.id, bob.id]), "{first}");
        server.get(&alice, &format!("/_matrix/client/v3/sync?since=s{first}_{instance}")).ok();
    }
}
