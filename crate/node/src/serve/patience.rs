//! What becomes of clients that dawdle, or send without end: each is let go within its bound, and
//! the server goes on. Time is tokio's and jumps.

use super::{
    connection::{Serving, http, patient},
    host::NativeHost,
    limits::{Place, Places},
};
use ephapse_homeserver::{Config, Homeserver, Registration};
use ephapse_store::MemoryStore;
use http::uri::Scheme;
use serde_json::{Value, json};
use std::{future::Future, net::Ipv4Addr, rc::Rc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::watch,
    task::{JoinHandle, LocalSet, spawn_local},
    time::{Instant, sleep, timeout},
};

pub(super) struct Served {
    pub(super) client: DuplexStream,
    pub(super) connection: JoinHandle<()>,
    /// Tells the connection that the server leaves.
    pub(super) leaving: Rc<watch::Sender<bool>>,
}

/// Runs `test` on a clock that jumps to the next timer whenever nothing else can run.
pub(super) fn in_fast_time(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

pub(super) async fn homeserver() -> Rc<Homeserver> {
    let name = "test.example".try_into().expect("a name");
    let config = Config { server_name: Some(name), registration: Registration::Open, rate_limits: false, ..Config::default() };
    Homeserver::open(Rc::new(MemoryStore::default()), Rc::new(NativeHost), config).await.expect("it opens")
}

/// One of `places`, that has to be free.
pub(super) async fn place(places: &Places) -> Place {
    let free = timeout(Duration::from_secs(1), places.free()).await.expect("a place is free");
    places.take(free, Ipv4Addr::LOCALHOST.into()).expect("this machine may have all of them")
}

/// A connection whose buffers hold `buffer` bytes each way.
pub(super) async fn connect(homeserver: &Rc<Homeserver>, buffer: usize) -> Served {
    connect_at(place(&Places::of(1)).await, homeserver, buffer)
}

/// As [`connect`], with a place to be taken.
pub(super) fn connect_at(place: Place, homeserver: &Rc<Homeserver>, buffer: usize) -> Served {
    let (client, server) = duplex(buffer);
    let (leaving, serving) = (Rc::new(watch::Sender::new(false)), Serving::new(homeserver.clone()));
    let told = leaving.subscribe();
    let connection = spawn_local(async move {
        http(patient(server), Scheme::HTTP, serving, Rc::new(place), told).await;
    });
    Served { client, connection, leaving }
}

impl Served {
    pub(super) async fn write(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).await.expect("the server listens");
    }

    /// One response with a `content-length`.
    pub(super) async fn response(&mut self) -> (u16, String) {
        let mut bytes = Vec::new();
        loop {
            let read = self.client.read_buf(&mut bytes).await.expect("the server answers");
            assert!(read > 0, "the server closed the connection instead of answering: {}", String::from_utf8_lossy(&bytes));
            let text = String::from_utf8_lossy(&bytes);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().expect("a length"));
            if body.len() >= length {
                return (head[9..12].parse().expect("a status"), body.to_owned());
            }
        }
    }

    /// How long it takes until the server has closed the connection.
    pub(super) async fn ends_after(self) -> Duration {
        let began = Instant::now();
        timeout(Duration::from_secs(24 * 60 * 60), self.connection).await.expect("the connection ends").expect("without a panic");
        began.elapsed()
    }
}

pub(super) fn put(path: &str, token: &str, length: usize) -> String {
    format!("PUT {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n")
}

/// A new account: its token, and a path that takes any object.
pub(super) async fn register(homeserver: &Rc<Homeserver>) -> (String, String) {
    let mut served = connect(homeserver, 1 << 20).await;
    let body = json!({ "username": "alice", "password": "a long password", "auth": { "type": "m.login.dummy" } }).to_string();
    served.write(&format!("POST /_matrix/client/v3/register HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
    let (status, body) = served.response().await;
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let text = |name: &str| body[name].as_str().expect("a string").to_owned();
    (text("access_token"), format!("/_matrix/client/v3/user/{}/account_data/org.example.note", text("user_id")))
}

pub(super) fn assert_within(took: Duration, seconds: std::ops::RangeInclusive<u64>) {
    assert!(seconds.contains(&took.as_secs()), "{took:?}");
}

#[test]
fn headers_that_drip_or_never_come_end_the_connection() {
    in_fast_time(async {
        let homeserver = homeserver().await;
        assert_within(connect(&homeserver, 1 << 20).await.ends_after().await, 99..=101);

        let Served { mut client, connection, leaving: _leaving } = connect(&homeserver, 1 << 20).await;
        let began = Instant::now();
        let _dripping = spawn_local(async move {
            client.write_all(b"GET /_matrix/client/versions HTTP/1.1\r\nx-drip: ").await.ok();
            while client.write_all(b"x").await.is_ok() {
                sleep(Duration::from_secs(5)).await;
            }
        });
        connection.await.expect("no panic");
        assert_within(began.elapsed(), 99..=101);
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
        // Idle for as long as common clients keep a connection.
        sleep(Duration::from_secs(90)).await;
        served.write("GET /_matrix/client/versions HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(served.response().await.0, 200);
    });
}
