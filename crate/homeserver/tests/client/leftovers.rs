//! What is left in the store of a room that everybody has forgotten, and of an account that ended.

use crate::{
    account::confirm,
    cross_signing::Signer,
    members::{act, join, look, set_state},
    relations::relate,
    rooms::{room, send},
    support::{PASSWORD, TestServer, TestUser},
};
use ephapse_homeserver::{
    Position,
    tables::{self, RoomNid, UserNid},
};
use ephapse_store::{Direction, Reader};
use ruma::{RoomId, UserId};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Longer than anything is kept that goes with time, such as the answers of requests.
const LONG: Duration = Duration::from_secs(60 * 60 * 24 * 30);

/// The keys of everything that is stored.
fn stored(server: &TestServer) -> BTreeSet<Vec<u8>> {
    let store = server.store.clone();
    let all = server.run(async move { store.scan(vec![0]..vec![0xff], Direction::Forward, usize::MAX).await }).expect("a scan");
    all.into_iter().map(|(key, _)| key.to_vec()).collect()
}

/// The same once that is gone which goes with time.
fn stored_later(server: &TestServer) -> BTreeSet<Vec<u8>> {
    server.host.advance(LONG);
    server.request("GET", "/_matrix/client/versions", None, None).ok();
    // Whatever the request began goes on in the background.
    let host = server.host.clone();
    server.run(async move { ephapse_homeserver::Host::sleep(&*host, LONG).await });
    stored(server)
}

/// The names of tables whose keys hold a `part`, by their prefixes.
fn tables_with(part: &str) -> BTreeMap<u8, &'static str> {
    let declared = include_str!("../../src/tables.rs").split("pub const ").filter_map(|declared| {
        let (name, declared) = declared.split_once(": Table<")?;
        let (types, declared) = declared.split_once("Table::new(0x")?;
        let key = if types.starts_with('(') { types.split_once(')')?.0 } else { types.split_once(',')?.0 };
        let is_part = key.split(|letter: char| !letter.is_alphanumeric()).any(|word| word == part);
        is_part.then(|| (u8::from_str_radix(&declared[..2], 16).expect("a prefix"), name))
    });
    declared.collect()
}

/// The names of the tables of rows.
fn tables_of<'a>(keys: impl IntoIterator<Item = &'a Vec<u8>>) -> BTreeSet<String> {
    let mut names = tables_with("RoomNid");
    names.extend(tables_with("UserNid"));
    keys.into_iter().map(|key| names.get(&key[0]).map_or_else(|| format!("{:#04x}", key[0]), |name| (*name).to_owned())).collect()
}

/// Asserts that every table whose keys hold a `part` has a row that is new, but for some.
#[track_caller]
fn assert_filled(before: &BTreeSet<Vec<u8>>, full: &BTreeSet<Vec<u8>>, part: &str, but: &[&str]) {
    let new: BTreeSet<u8> = full.difference(before).map(|key| key[0]).collect();
    let empty: Vec<_> = tables_with(part).into_iter().filter(|(prefix, name)| !new.contains(prefix) && !but.contains(name)).collect();
    assert!(empty.is_empty(), "nothing was put into {empty:?}, so this test says nothing of them");
}

fn set_account_data(server: &TestServer, user: &TestUser, room: Option<&str>) {
    let room = room.map_or_else(String::new, |room| format!("/rooms/{room}"));
    server.put(user, &format!("/_matrix/client/v3/user/{}{room}/account_data/org.example.notes", user.id), json!({ "a": 1 })).ok();
}

/// Writes and reads in a room, so that every table of rooms holds something of it.
fn fill(server: &TestServer, alice: &TestUser, bob: &TestUser, id: &str) {
    join(server, bob, id);
    set_state(server, alice, id, "m.room.topic", json!({ "topic": "leftovers" })).ok();
    let root = send(server, alice, id, "1", "root");
    let reply = relate(server, bob, id, "reply", "m.thread", &root);
    relate(server, alice, id, "+1", "m.annotation", &root);
    relate(server, alice, id, "+2", "m.annotation", &reply);
    let redact = format!("/_matrix/client/v3/rooms/{id}/redact/{reply}/r1");
    server.put(bob, &redact, json!({})).ok();
    for user in [alice, bob] {
        act(server, user, id, &format!("receipt/m.read/{root}"), json!({})).ok();
        set_account_data(server, user, Some(id));
        server.put(user, &format!("/_matrix/client/v3/user/{}/rooms/{id}/tags/u.x", user.id), json!({})).ok();
        server.put(user, &format!("/_matrix/client/v3/rooms/{id}/typing/{}", user.id), json!({ "typing": true, "timeout": 1000 })).ok();
        server.get(user, "/_matrix/client/v3/sync").ok();
    }
}

fn nid_of_room(server: &TestServer, id: &str) -> RoomNid {
    let (reader, id) = (Reader::new(server.store.clone()), RoomId::parse(id).expect("an id"));
    server.run(async move { tables::ROOM_NIDS.get(&reader, &id).await }).expect("a read").expect("a room")
}

fn nid_of_user(server: &TestServer, user: &TestUser) -> UserNid {
    let (reader, id) = (Reader::new(server.store.clone()), UserId::parse(&user.id).expect("an id"));
    server.run(async move { tables::USER_NIDS.get(&reader, &id).await }).expect("a read").expect("a user")
}

/// Drops the list of changes, but for what outlives it.
fn forget_changes(server: &TestServer) {
    let (hs, reader) = (server.hs.clone(), Reader::new(server.store.clone()));
    let forgotten = server.run(async move {
        let newest = tables::NEWEST_POSITION.get(&reader, &()).await.expect("a read").expect("a position");
        hs.forget_changes(newest).await
    });
    forgotten.expect("a write");
}

#[test]
fn nothing_but_its_number_is_left_of_a_room_that_everybody_has_forgotten() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    // What a first room leaves, such as which positions were given, is there already.
    let kept = room(&server, &alice, json!({ "preset": "public_chat" }));
    fill(&server, &alice, &bob, &kept);
    let before = stored_later(&server);

    let id = room(&server, &alice, json!({ "preset": "public_chat", "room_alias_name": "den", "visibility": "public" }));
    fill(&server, &alice, &bob, &id);
    set_account_data(&server, &carol, Some(&id));
    let (nid, alices) = (nid_of_room(&server, &id), nid_of_user(&server, &alice));
    let written = server.hs.write(server.store.generation(), |tx| {
        // What is written where much is unread, or a server does not go on, or others send.
        tables::UNREAD.put(tx, &(alices, nid), &tables::Unread::default());
        tables::GUESTS_TO_LEAVE.put(tx, &nid, &Position(1));
        tables::ROOMS_TO_DELETE.put(tx, &nid, &false);
        tables::WAITING_REDACTIONS.put(tx, &(nid, "$elsewhere".try_into().expect("an id"), 1), &Position(1));
        tables::ROOM_SERVERS.put(tx, &(nid, "other.example".try_into().expect("a name")), &1);
        tables::STRIPPED_STATES.put(tx, &(nid, alices), &tables::Json("[]".to_owned()));
    });
    written.expect("a write").visible();
    let full = stored(&server);
    assert_filled(&before, &full, "RoomNid", &["MISSING_PARENTS"]);

    for user in [&alice, &bob] {
        act(&server, user, &id, "leave", json!({})).ok();
        act(&server, user, &id, "forget", json!({})).ok();
    }
    look(&server, &alice, &id, "state").fails(403, "M_FORBIDDEN");
    let after = stored_later(&server);
    let left: BTreeSet<_> = after.difference(&before).cloned().collect();
    // Its number is not given again. The list of changes goes with its length.
    assert_eq!(tables_of(&left), BTreeSet::from(["ROOMS".to_owned(), format!("{:#04x}", tables::CHANGES.prefix())]));
}

/// Keys, backups and whatever else is one's own.
fn own(server: &TestServer, owner: &Signer) {
    let (alice, key) = (&owner.user, &owner.device);
    owner.upload(server);
    let mut one_time = json!({ "key": key.public() });
    key.sign(&mut one_time, &alice.id, &alice.device);
    let keys = json!({
        "one_time_keys": { "signed_curve25519:1": one_time },
        "fallback_keys": { "signed_curve25519:f": one_time },
    });
    server.post(alice, "/_matrix/client/v3/keys/upload", keys).ok();
    let backup = json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {} });
    let version = server.post(alice, "/_matrix/client/v3/room_keys/version", backup).ok()["version"].as_str().expect("a version").to_owned();
    let backed_up = json!({ "is_verified": true, "first_message_index": 0, "forwarded_count": 0, "session_data": {} });
    server.put(alice, &format!("/_matrix/client/v3/room_keys/keys/!a:x.example/s?version={version}"), backed_up).ok();
    server.post(alice, &format!("/_matrix/client/v3/user/{}/filter", alice.id), json!({})).ok();
    server.put(alice, &format!("/_matrix/client/v3/profile/{}/displayname", alice.id), json!({ "displayname": "Alice" })).ok();
    server.put(alice, &format!("/_matrix/client/v3/presence/{}/status", alice.id), json!({ "presence": "online", "status_msg": "here" })).ok();
    let messages = json!({ "messages": { &alice.id: { "*": { "hello": "you" } } } });
    server.put(alice, "/_matrix/client/v3/sendToDevice/org.example.hello/1", messages).ok();
    set_account_data(server, alice, None);
    server.post(alice, "/_matrix/media/v1/create", json!({})).ok();
}

#[test]
fn nothing_but_its_name_is_left_of_an_account_that_ended() {
    let server = TestServer::new();
    let (bobs, carol) = (Signer::new(&server, "bob", 20), server.register("carol"));
    let bob = bobs.user.clone();
    // What a first room and first keys leave is there already.
    let shared = room(&server, &carol, json!({ "preset": "public_chat" }));
    fill(&server, &carol, &bob, &shared);
    own(&server, &bobs);
    let foreign = room(&server, &carol, json!({ "preset": "public_chat" }));
    forget_changes(&server);
    let before = stored_later(&server);

    let alices = Signer::new(&server, "alice", 10);
    let alice = alices.user.clone();
    own(&server, &alices);
    alices.trust(&server, &bobs);
    bobs.trust(&server, &alices);
    let id = room(&server, &alice, json!({ "preset": "public_chat" }));
    fill(&server, &alice, &bob, &id);
    // Nor of what she kept of a room that she was never in.
    set_account_data(&server, &alice, Some(&foreign));
    let (nid, room) = (nid_of_user(&server, &alice), nid_of_room(&server, &id));
    let device = alice.device.as_str().into();
    let written = server.hs.write(server.store.generation(), |tx| {
        tables::UNREAD.put(tx, &(nid, room), &tables::Unread::default());
        tables::CLAIMED_KEYS.put(tx, &(nid, device, 1), &tables::RawBytes(vec![1]));
        tables::MEDIA_USED.put(tx, &nid, &1);
        tables::STRIPPED_STATES.put(tx, &(room, nid), &tables::Json("[]".to_owned()));
    });
    written.expect("a write").visible();
    forget_changes(&server);
    // Waiting redactions go with the room, guests are no accounts of this kind, and device lists
    // are kept of users of other servers.
    assert_filled(&before, &stored(&server), "UserNid", &["WAITING_REDACTIONS", "GUESTS", "ERASED", "CACHED_DEVICE_LISTS"]);

    confirm(&server, &alice, "POST", "/_matrix/client/v3/account/deactivate", json!({ "erase": true }), PASSWORD).ok();
    act(&server, &bob, &id, "leave", json!({})).ok();
    act(&server, &bob, &id, "forget", json!({})).ok();
    let after = stored_later(&server);
    let left: BTreeSet<_> = after.difference(&before).cloned().collect();
    // The name is not given again, and what was sent stays erased.
    let stays = ["ACCOUNTS", "ERASED", "ROOMS", "USERS"].map(str::to_owned);
    let others = [tables::CHANGES.prefix(), tables::RETAINED_CHANGES.prefix(), tables::USER_NIDS.prefix()].map(|prefix| format!("{prefix:#04x}"));
    assert_eq!(tables_of(&left), stays.into_iter().chain(others).collect());
}
