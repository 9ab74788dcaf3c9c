//! Clients that are slow, or send without end: each is disconnected within its limit, and the
//! server goes on.

use super::support::{Served, assert_within, connect, connect_at, homeserver, in_fast_time, place, put, register};
use crate::serve::limits::Places;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{
    io::AsyncWriteExt,
    task::spawn_local,
    time::{Instant, sleep, timeout},
};

#[test]
fn headers_that_drip_or_never_come_end_the_connection() {
    in_fast_time(async {
        let homeserver = homeserver().await;
        assert_within(connect(&homeserver, 1 << 20).await.ends_after().await, 129..=131);

        let Served { mut client, connection, leaving: _leaving } = connect(&homeserver, 1 << 20).await;
        let began = Instant::now();
        let _dripping = spawn_local(async move {
            client.write_all(b"GET /_matrix/client/versions HTTP/1.1\r\nx-drip: ").await.ok();
            while client.write_all(b"x").await.is_ok() {
                sleep(Duration::from_secs(5)).await;
            }
        });
        connection.await.expect("no panic");
        assert_within(began.elapsed(), 129..=131);
    });
}

#[test]
fn headers_have_a_bound_in_size_and_number() {
    in_fast_time(async {
        let homeserver = homeserver().await;
        for headers in [format!("x-large: {}\r\n", "x".repeat(200 << 10)), "x-many: x\r\n".repeat(101)] {
            let mut served = connect(&homeserver, 1 << 20).await;
            served.write(&format!("GET /_matrix/client/versions HTTP/1.1\r\n{headers}\r\n")).await;
            assert_eq!(served.response().await.0, 431);
            assert_within(served.ends_after().await, 0..=1);
        }
    });
}

#[test]
fn a_body_that_pauses_for_too_long_or_drips_is_given_up_and_has_no_effect() {
    in_fast_time(async {
        let homeserver = homeserver().await;
        let (token, note) = register(&homeserver).await;

        let mut silent = connect(&homeserver, 1 << 20).await;
        silent.write(&put(&note, &token, 1_000)).await;
        silent.write("{}").await;
        let began = Instant::now();
        assert_eq!(silent.response().await.0, 400);
        assert_within(began.elapsed(), 59..=61);
        assert_within(silent.ends_after().await, 0..=1);

        let mut dripping = connect(&homeserver, 1 << 20).await;
        dripping.write(&put(&note, &token, 1_000_000)).await;
        let began = Instant::now();
        // As slow as it may be to keep every pause short.
        let status = loop {
            dripping.client.write_all(b"{").await.ok();
            if let Ok((status, _)) = timeout(Duration::from_secs(1), dripping.response()).await {
                break status;
            }
        };
        assert_eq!(status, 400);
        assert_within(began.elapsed(), 59..=62);

        let mut asking = connect(&homeserver, 1 << 20).await;
        asking.write(&put(&note, &token, 0).replace("PUT", "GET")).await;
        assert_eq!(asking.response().await.0, 404, "nothing was stored");
    });
}

/// Other servers come by the same port, and before their bodies are there nobody knows whose they
/// are.
#[test]
fn ten_thousand_connections_of_a_few_networks_leave_others_their_places() {
    in_fast_time(async {
        let (homeserver, places) = (homeserver().await, Places::of(80));
        let mut held = Vec::new();
        for n in 0..10_000 {
            let address = [[203, 0, 113, 1], [198, 51, 100, 1], [192, 0, 2, 1]][n % 3];
            let Some(place) = places.take(places.free().await, address.into()) else { continue };
            let mut served = connect_at(place, &homeserver, 1 << 16);
            served.write("PUT /_matrix/federation/v1/send/1 HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\n{").await;
            held.push(served);
        }
        assert_eq!(held.len(), 30);
        let mut client = connect_at(place(&places).await, &homeserver, 1 << 16);
        client.write("GET /_matrix/client/versions HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(client.response().await.0, 200);
        // And theirs are free again soon.
        let began = Instant::now();
        for served in held {
            served.ends_after().await;
        }
        assert_within(began.elapsed(), 0..=165);
    });
}

#[test]
fn a_slow_body_that_keeps_coming_is_taken() {
    in_fast_time(async {
        let homeserver = homeserver().await;
        let (token, note) = register(&homeserver).await;
        let body = format!("{}{}", json!({}), " ".repeat(3 << 19));
        let mut slow = connect(&homeserver, 1 << 20).await;
        slow.write(&put(&note, &token, body.len())).await;
        let began = Instant::now();
        for chunk in body.as_bytes().chunks(40 << 10) {
            slow.client.write_all(chunk).await.expect("the server reads on");
            sleep(Duration::from_secs(2)).await;
        }
        assert_eq!(slow.response().await.0, 200);
        assert!(began.elapsed() > Duration::from_secs(70));
    });
}

#[test]
fn a_client_that_is_refused_in_the_middle_of_its_body_sees_the_answer_and_may_go_on() {
    in_fast_time(async {
        let homeserver = homeserver().await;
        let mut served = connect(&homeserver, 1 << 10).await;
        served.write(&put("/_matrix/client/v3/nothing", "t", 300_000)).await;
        // Buffers are small: the rest can only be written while the server takes it off the wire.
        served.write(&"x".repeat(300_000)).await;
        assert_eq!(served.response().await.0, 404);
        served.write("GET /_matrix/client/versions HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(served.response().await.0, 200);

        let mut huge = connect(&homeserver, 1 << 10).await;
        huge.write(&put("/_matrix/client/v3/login", "t", 1 << 50).replace("PUT", "POST")).await;
        assert_eq!(huge.response().await.0, 413);
        // What never comes is not waited for.
        assert_within(huge.ends_after().await, 0..=2);
    });
}

#[test]
fn an_answer_that_nobody_reads_ends_the_connection() {
    in_fast_time(async {
        let homeserver = homeserver().await;
        let (token, note) = register(&homeserver).await;
        let body = json!({ "text": "x".repeat(1_000_000) }).to_string();
        let mut served = connect(&homeserver, 1 << 16).await;
        served.write(&put(&note, &token, body.len())).await;
        served.write(&body).await;
        assert_eq!(served.response().await.0, 200);
        served.write(&put(&note, &token, 0).replace("PUT", "GET")).await;
        assert_within(served.ends_after().await, 59..=62);
    });
}

#[test]
fn a_held_sync_is_not_taken_for_a_client_that_went_silent() {
    in_fast_time(async {
        let homeserver = homeserver().await;
        let (token, _) = register(&homeserver).await;
        let mut served = connect(&homeserver, 1 << 20).await;
        let sync =
            |since: &str| format!("GET /_matrix/client/v3/sync?timeout=600000{since} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
        served.write(&sync("")).await;
        let body: Value = serde_json::from_str(&served.response().await.1).expect("JSON");
        served.write(&sync(&format!("&since={}", body["next_batch"].as_str().expect("a token")))).await;
        assert_eq!(served.response().await.0, 200);
        // Idle for as long as other servers keep a connection.
        sleep(Duration::from_secs(120)).await;
        served.write("GET /_matrix/client/versions HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(served.response().await.0, 200);
    });
}
