//! The server stops in time, whatever its clients or its disk do meanwhile.

use super::support::{assert_within, connect, homeserver, in_fast_time, put, register};
use crate::serve::{
    connection::{Connections, handshake},
    host::NativeHost,
    leave,
};
use ephapse_homeserver::{Config, Homeserver};
use ephapse_store::{Batch, CrashPoint, Faults, RedbOptions, RedbStore, Store, StoreError};
use std::{
    rc::Rc,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, duplex},
    sync::watch,
    task::{LocalSet, spawn_local},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, server::ResolvesServerCertUsingSni},
};

/// A body that stopped in the middle is not waited for, and its client is not told that it was
/// wrong: it may send it again.
#[test]
fn a_half_sent_body_is_given_up_without_an_answer() {
    in_fast_time(async {
        let homeserver = homeserver().await;
        let (token, note) = register(&homeserver).await;
        let mut served = connect(&homeserver, 1 << 20).await;
        served.write(&put(&note, &token, 1_000)).await;
        served.write("{").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begun = tokio::time::Instant::now();
        served.leaving.send_replace(true);
        let mut answer = Vec::new();
        served.client.read_to_end(&mut answer).await.expect("the connection ends");
        assert_eq!(String::from_utf8_lossy(&answer), "");
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_body_that_still_comes_is_taken_and_answered() {
    in_fast_time(async {
        let homeserver = homeserver().await;
        let (token, note) = register(&homeserver).await;
        let mut served = connect(&homeserver, 1 << 20).await;
        let body = format!("{{}}{}", " ".repeat(998));
        served.write(&put(&note, &token, body.len())).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        served.leaving.send_replace(true);
        for piece in body.as_bytes().chunks(200) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            served.write(std::str::from_utf8(piece).expect("ASCII")).await;
        }
        assert_eq!(served.response().await.0, 200);
        assert_within(served.ends_after().await, 0..=1);
    });
}

#[test]
fn an_unfinished_tls_handshake_is_not_waited_for() {
    in_fast_time(async {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        let (_client, server) = duplex(1 << 10);
        let leaving = watch::Sender::new(false);
        let told = leaving.subscribe();
        let shaking = spawn_local(async move { handshake(&TlsAcceptor::from(Arc::new(config)), server, told).await.is_none() });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begun = tokio::time::Instant::now();
        leaving.send_replace(true);
        assert!(shaking.await.expect("no panic"));
        assert_within(begun.elapsed(), 0..=0);
    });
}

/// What was acknowledged is in the log; that redb is still busy taking it over keeps nobody.
#[test]
fn the_stop_does_not_wait_for_redb() {
    let directory = tempfile::tempdir().expect("a directory");
    let slow = Arc::new(Mutex::new(()));
    let (held, holding) = (slow.clone(), slow.lock().expect("free"));
    let faults = Faults::new(move |point| {
        if point == CrashPoint::Flushing {
            drop(held.lock());
        }
        None
    });
    // Twice as much is written: one log file is full, and the other takes what comes meanwhile.
    let options = RedbOptions { log_bytes: 4_000, faults, ..RedbOptions::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let began = LocalSet::new().block_on(&runtime, async {
        let store: Rc<dyn Store> = Rc::new(RedbStore::open_with(directory.path(), options).expect("opens"));
        let homeserver = Homeserver::open(store.clone(), Rc::new(NativeHost::alone()), Config::default()).await.expect("opens");
        for n in 0..16_u8 {
            let mut batch = Batch::new();
            batch.put(vec![0xff, n], vec![n; 500]);
            store.commit(batch).await.expect("durable");
        }
        let began = Instant::now();
        leave(&homeserver, &*store, Connections::new(homeserver.clone(), None)).await.expect("everything is durable");
        began
    });
    // The store is gone here, and was not waited for either.
    assert!(began.elapsed() < Duration::from_millis(1_900), "{:?}", began.elapsed());
    drop(holding);
    let store = loop {
        match RedbStore::open(directory.path()) {
            Err(StoreError::InUse) => std::thread::sleep(Duration::from_millis(1)),
            opened => break opened.expect("opens"),
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let found = runtime.block_on(store.get_many(&(0..16).map(|n| vec![0xff, n]).collect::<Vec<_>>())).expect("readable");
    assert!(found.iter().all(Option::is_some));
}
