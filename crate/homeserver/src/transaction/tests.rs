//! What a transaction writes, gives and tells memory, and what not.

use super::{Submitted, Tx};
use crate::{
    homeserver::Homeserver,
    locks::LockKey,
    position::Position,
    tables::{self, Change},
    test_support::{TestServer, config},
};
use ephapse_store::{StoreError, Transaction, unreliable::UnreliableStore};
use futures_util::FutureExt;
use serde_json::json;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

fn server() -> (TestServer, UnreliableStore) {
    let store = UnreliableStore::new();
    (TestServer::with(Rc::new(store.clone()), config()), store)
}

fn is_erased(server: &TestServer, user: u32) -> bool {
    let hs = server.hs.clone();
    server.run(async move { tables::ERASED.get(hs.store(), &user).await }).expect("a read").is_some()
}

/// Writes something that clients see; the position it was given.
fn write(hs: &Homeserver) -> Position {
    hs.write(hs.store().generation(), |tx| tx.change(Change::Hidden)).expect("there is room").visible()
}

#[test]
fn who_refuses_writes_nothing_and_takes_no_position() {
    let (server, _) = server();
    let hs = &server.hs;
    let before = write(hs);
    let undone = Rc::new(Cell::new(false));
    let refused = hs.transaction(hs.store().generation(), |tx| {
        tables::ERASED.put(tx, &1, &());
        tx.change(Change::Hidden);
        tx.then(|_| unreachable!("it was refused"));
        let undone = undone.clone();
        tx.undo(move || undone.set(true));
        Err::<(), _>(StoreError::QuotaExceeded)
    });
    assert_eq!(refused.map(Submitted::visible), Err(StoreError::QuotaExceeded));
    assert!(undone.get());
    assert!(!is_erased(&server, 1));
    assert_eq!(write(hs), before.next());
}

#[test]
fn what_was_read_before_a_failed_write_is_read_again() {
    let (server, store) = server();
    let hs = &server.hs;
    let generation = hs.store().generation();
    store.fail_next(StoreError::QuotaExceeded);
    assert!(hs.write(generation, |tx| tables::ERASED.put(tx, &1, &())).map(Submitted::visible).is_err());
    let late = hs.write(generation, |_| unreachable!("it would decide on what is not true any more"));
    assert_eq!(late.map(Submitted::visible), Err(StoreError::RolledBack));
}

#[test]
fn memory_follows_a_batch_that_was_taken_and_no_other() {
    let (server, store) = server();
    let hs = &server.hs;
    let told = Rc::new(RefCell::new(Vec::new()));
    let tell = |tx: &mut Tx, what: &'static str| {
        tables::ERASED.put(tx, &1, &());
        let undone = told.clone();
        tx.undo(move || undone.borrow_mut().push(format!("{what} undone")));
        let (done, position) = (told.clone(), tx.change(Change::Hidden));
        tx.then(move |hs| done.borrow_mut().push(format!("{what} seen: {}", hs.positions.newest() == position)));
    };
    store.set_full(true);
    let refused = hs.write(hs.store().generation(), |tx| tell(tx, "refused"));
    assert_eq!(refused.map(Submitted::visible), Err(StoreError::QuotaExceeded));
    assert!(!is_erased(&server, 1));
    store.set_full(false);
    hs.write(hs.store().generation(), |tx| tell(tx, "taken")).expect("there is room").visible();
    assert_eq!(*told.borrow(), ["refused undone", "taken seen: true"]);
    assert!(is_erased(&server, 1));
}

#[test]
fn what_was_changed_last_is_undone_first_and_what_is_undone_once_is_as_at_first() {
    let (server, _) = server();
    let hs = &server.hs;
    let value = Rc::new(Cell::new(0));
    let refused = hs.transaction(hs.store().generation(), |tx| {
        for change in 1..4 {
            let (before, undo) = (value.replace(change), value.clone());
            tx.undo(move || undo.set(before));
            let (order, was) = (value.clone(), value.get());
            tx.staged().undo_once(7, || move || assert_eq!(order.replace(0), was));
        }
        Err::<(), _>(StoreError::Closed)
    });
    assert!(refused.map(Submitted::visible).is_err());
    assert_eq!(value.get(), 0);
}

/// That its sender was active was written first, in a batch of its own. Where that was lost, the
/// message was not tried again, as if something of it had been written.
#[test]
fn a_message_is_sent_though_a_write_fails_before_its_own() {
    let (server, store) = server();
    let alice = server.register("alice");
    let room = server.post(&alice, "/_matrix/client/v3/createRoom", json!({})).ok()["room_id"].as_str().expect("a room").to_owned();
    server.host.advance(Duration::from_secs(60 * 60));
    let hs = server.hs.clone();
    let id = ruma::OwnedRoomId::try_from(room.as_str()).expect("a room id");
    let guard = server.run(async move {
        let room = hs.room(&id).await.expect("a read").expect("the room");
        hs.lock(LockKey::Room(room.nid)).await
    });
    store.hold();
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/t1");
    let mut sending = Box::pin(server.start("PUT", &path, Some(&alice.token), Some(json!({ "body": "hello" }))));
    assert!((&mut sending).now_or_never().is_none(), "it waits for the room");
    assert_eq!(store.waiting(), 1, "when alice was active");
    store.fail_next(StoreError::Platform("the disk is on fire".to_owned()));
    store.release_all();
    drop(guard);
    server.run(sending).ok();
}
