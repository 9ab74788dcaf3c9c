//! What the benches share: a host with the system's clock and threads, a server on a store, and a
//! server that the bench plays itself, with a room of its own.

#![allow(dead_code, unused_imports, reason = "each bench uses a part of it")]

mod peer;

pub use peer::{Answers, PeerRoom};

use bytes::Bytes;
use ephapse_homeserver::{
    Body, EndOfSlice, Entrance, Homeserver, Host, Transport, TransportError,
    test_support::{PASSWORD, config},
};
use ephapse_store::{LocalBoxFuture, Store};
use http::{Request, Response};
use ruma::{OwnedServerName, OwnedUserId};
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    future::Future,
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Runs what a bench does, and what its servers do beside it.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// The system's clock and threads, seeded dice, and one other server.
#[derive(Default)]
pub struct BenchHost {
    dice: RefCell<u64>,
    peer: Option<Answers>,
}

impl Host for BenchHost {
    fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    fn random(&self, bytes: &mut [u8]) {
        let mut dice = self.dice.borrow_mut();
        for byte in bytes {
            *dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            *byte = (*dice >> 56) as u8;
        }
    }

    fn nfkc(&self, text: &str) -> String {
        text.to_owned()
    }

    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        tokio::task::spawn_local(task);
    }

    fn yield_now(&self, _: EndOfSlice) -> LocalBoxFuture<'static, ()> {
        Box::pin(tokio::task::yield_now())
    }

    fn compute(&self, work: Box<dyn FnOnce() -> Vec<u8> + Send>) -> LocalBoxFuture<'static, Vec<u8>> {
        Box::pin(async { tokio::task::spawn_blocking(work).await.expect("it does not panic") })
    }

    fn transport(&self) -> Rc<dyn Transport> {
        Rc::new(Wire(self.peer.clone()))
    }
}

struct Wire(Option<Answers>);

impl Transport for Wire {
    fn send(&self, _: OwnedServerName, request: Request<Bytes>) -> LocalBoxFuture<'static, Result<Response<Body>, TransportError>> {
        let answered = self.0.as_ref().map(|answers| answers(request)).ok_or(TransportError::NoFederation);
        Box::pin(async { answered })
    }
}

/// A server with one user.
pub struct Server {
    pub hs: Rc<Homeserver>,
    pub token: String,
    pub user: OwnedUserId,
}

impl Server {
    /// One that reaches `peer`.
    pub async fn open(store: Rc<dyn Store>, peer: Option<Answers>) -> Self {
        let host = Rc::new(BenchHost { peer, ..BenchHost::default() });
        let hs = Homeserver::open(store, host, config()).await.expect("opens");
        let mut server = Self { hs, token: String::new(), user: OwnedUserId::try_from("@alice:test.example").expect("a user id") };
        let account = json!({ "username": "alice", "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
        let account = server.request("POST", "/_matrix/client/v3/register", Some(&account)).await;
        server.token = account["access_token"].as_str().expect("a token").to_owned();
        server
    }

    /// A request of the user, which is answered 200.
    pub async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        serde_json::from_slice(&self.answer(method, path, body).await).expect("JSON")
    }

    /// The bytes of an answer.
    pub async fn answer(&self, method: &str, path: &str, body: Option<&Value>) -> Bytes {
        let mut request = Request::builder().method(method).uri(path);
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let response = self.hs.handle(Entrance::Client, request.body(Body::from(body)).expect("a request")).await;
        let status = response.status();
        let body = response.into_body().read(usize::MAX).await.expect("an answer does not break off");
        assert_eq!(status, 200, "{method} {path}: {}", String::from_utf8_lossy(&body));
        body
    }

    /// A transaction of another server, all of which is taken in.
    pub async fn receive(&self, transaction: Request<Body>) {
        let answer = self.hs.handle(Entrance::Peer, transaction).await;
        let status = answer.status();
        let body = answer.into_body().read(usize::MAX).await.expect("an answer");
        let body = String::from_utf8_lossy(&body);
        assert!(status == 200 && !body.contains("error"), "{status}: {body}");
    }
}

/// How long something takes, in seconds.
pub async fn timed(work: impl Future) -> f64 {
    let start = Instant::now();
    work.await;
    start.elapsed().as_secs_f64()
}

/// What a share of the samples does not exceed.
pub fn quantile(mut samples: Vec<f64>, share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[((samples.len() as f64 * share) as usize).min(samples.len() - 1)]
}

/// Says what was measured, on a line of its own, as `bench/targets/federation.mjs` reads it.
pub fn figure(name: &str, value: f64) {
    println!("{name} {value:.3}");
}

/// What the command line asks for; everything where it names nothing.
pub fn is_wanted(name: &str) -> bool {
    let mut wanted = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).peekable();
    wanted.peek().is_none() || wanted.any(|wanted| wanted == name)
}
