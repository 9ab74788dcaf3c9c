//! Time goes on while a request is worked on.

use super::support::{connect, in_fast_time, named, register};
use crate::serve::host::NativeHost;
use ephapse_homeserver::{EndOfSlice, Homeserver, Host};
use ephapse_store::{LocalBoxFuture, MemoryStore};
use serde_json::Value;
use std::{cell::Cell, rc::Rc, time::Duration};

/// A host on which it is later each time that somebody looks.
struct Later(Cell<u64>);

impl Host for Later {
    fn now(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
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
}

/// What has to be read for an event was read for the event of that moment, and looked for anew for
/// the one of the next: no room could be made.
#[test]
fn rooms_are_made_and_written_to_on_a_clock_that_does_not_stand_still() {
    in_fast_time(async {
        let host = Rc::new(Later(Cell::new(1_700_000_000_000)));
        let homeserver = Homeserver::open(Rc::new(MemoryStore::default()), host, named(Some("test.example"))).await.expect("it opens");
        let (token, _) = register(&homeserver).await;
        let post = async |path: String, body: &str| {
            let mut served = connect(&homeserver, 1 << 20).await;
            let length = body.len();
            served
                .write(&format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n{body}"))
                .await;
            let (status, body) = served.response().await;
            assert_eq!(status, 200, "{path}: {body}");
            serde_json::from_str::<Value>(&body).expect("JSON")
        };
        let room = post("/_matrix/client/v3/createRoom".to_owned(), r#"{"preset":"public_chat"}"#).await;
        let room = room["room_id"].as_str().expect("a room").to_owned();
        post(format!("/_matrix/client/v3/rooms/{room}/send/m.room.message"), r#"{"msgtype":"m.text","body":"hello"}"#).await;
        post(format!("/_matrix/client/v3/rooms/{room}/leave"), "{}").await;
    });
}
