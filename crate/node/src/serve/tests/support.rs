//! A connection in memory, on a clock that jumps to the next timer.

use crate::serve::{
    connection::{Serving, http, patient},
    host::NativeHost,
    limits::{Place, Places},
    metrics::Requests,
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
    time::{Instant, timeout},
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
    homeserver_of(Some("test.example")).await
}

pub(super) async fn homeserver_of(name: Option<&str>) -> Rc<Homeserver> {
    homeserver_with(named(name)).await
}

/// What the tests' servers are configured with.
pub(super) fn named(name: Option<&str>) -> Config {
    let server_name = name.map(|name| name.try_into().expect("a name"));
    Config { server_name, registration: Registration::Open, rate_limits: false, ..Config::default() }
}

pub(super) async fn homeserver_with(config: Config) -> Rc<Homeserver> {
    Homeserver::open(Rc::new(MemoryStore::default()), Rc::new(NativeHost::alone()), config).await.expect("it opens")
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
    connect_to(place, Serving::new(homeserver.clone(), None), buffer)
}

/// A connection whose requests are counted.
pub(super) async fn connect_counted(homeserver: &Rc<Homeserver>, requests: Rc<Requests>) -> Served {
    connect_to(place(&Places::of(1)).await, Serving::new(homeserver.clone(), Some(requests)), 1 << 16)
}

fn connect_to(place: Place, serving: Serving, buffer: usize) -> Served {
    let (client, server) = duplex(buffer);
    let leaving = Rc::new(watch::Sender::new(false));
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
