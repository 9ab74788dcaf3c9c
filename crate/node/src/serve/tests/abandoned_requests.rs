//! Requests whose clients have gone: they are finished, and count until they are.

use super::support::{Served, connect_at, in_fast_time, place};
use crate::serve::{host::NativeHost, limits::Places};
use ephapse_homeserver::{Config, EndOfSlice, Homeserver, Host, Registration};
use ephapse_store::{LocalBoxFuture, MemoryStore};
use serde_json::json;
use std::{rc::Rc, time::Duration};
use tokio::{sync::watch, time::timeout};

/// The native one, with threads that are busy until they are told to go on.
struct Busy(watch::Sender<bool>);

impl Host for Busy {
    fn now(&self) -> u64 {
        NativeHost::alone().now()
    }

    fn random(&self, bytes: &mut [u8]) {
        NativeHost::alone().random(bytes);
    }

    fn nfkc(&self, text: &str) -> String {
        NativeHost::alone().nfkc(text)
    }

    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()> {
        NativeHost::alone().sleep(duration)
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        NativeHost::alone().spawn(task);
    }

    fn yield_now(&self, end: EndOfSlice) -> LocalBoxFuture<'static, ()> {
        NativeHost::alone().yield_now(end)
    }

    fn compute(&self, work: Box<dyn FnOnce() -> Vec<u8> + Send>) -> LocalBoxFuture<'static, Vec<u8>> {
        let mut free = self.0.subscribe();
        Box::pin(async move {
            free.wait_for(|free| *free).await.expect("the host outlives its requests");
            work()
        })
    }
}

/// Requests were detached from their connections and from whatever bounds these: a client that sent
/// and went away, again and again, could have any number of them under way.
#[test]
fn a_request_keeps_its_place_until_it_has_ended_though_its_client_is_gone() {
    in_fast_time(async {
        let host = Rc::new(Busy(watch::Sender::new(false)));
        let config = Config { registration: Registration::Open, rate_limits: false, ..Config::default() };
        let homeserver = Homeserver::open(Rc::new(MemoryStore::default()), host.clone(), config).await.expect("it opens");
        let places = Places::of(1);

        let mut served = connect_at(place(&places).await, &homeserver, 1 << 20);
        let body = json!({ "username": "alice", "password": "a long password", "auth": { "type": "m.login.dummy" } }).to_string();
        served.write(&format!("POST /_matrix/client/v3/register HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Served { client, connection, leaving: _leaving } = served;
        drop(client);
        connection.await.expect("no panic");
        assert!(timeout(Duration::from_secs(60), places.free()).await.is_err(), "the request is still under way");

        host.0.send_replace(true);
        let mut asking = connect_at(place(&places).await, &homeserver, 1 << 20);
        asking.write("GET /_matrix/client/v3/register/available?username=alice HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(asking.response().await.0, 400, "what was begun was finished");
    });
}
