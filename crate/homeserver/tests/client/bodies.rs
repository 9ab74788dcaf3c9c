//! Bodies as they come in and go out: refused before they are read where that is possible, never
//! read further than they may be, and never half a body's effect.

use crate::{
    rooms::room,
    support::{Answer, TestServer, TestUser},
};
use bytes::Bytes;
use ephapse_homeserver::{Body, BodyError, Entrance, PIECE};
use futures_channel::mpsc;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

type Chunk = Result<Bytes, BodyError>;

/// A body that does what its test says whenever somebody wants to read it.
struct Told<F> {
    next: F,
    declared: Option<u64>,
}

impl<F: FnMut(&mut Context<'_>) -> Poll<Option<Chunk>> + Unpin> http_body::Body for Told<F> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        (self.next)(context).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        self.declared.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn told(declared: Option<u64>, next: impl FnMut(&mut Context<'_>) -> Poll<Option<Chunk>> + Unpin + 'static) -> Body {
    Body::stream(Told { next, declared })
}

fn unread(declared: Option<u64>) -> Body {
    told(declared, |_| panic!("nobody has a reason to read this body"))
}

fn chunks(chunks: Vec<Chunk>) -> Body {
    let mut chunks = chunks.into_iter();
    told(None, move |_| Poll::Ready(chunks.next()))
}

fn request(method: &str, path: &str, token: Option<&str>, body: Body) -> http::Request<Body> {
    let mut request = http::Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(body).expect("a request")
}

fn note(user: &TestUser) -> String {
    format!("/_matrix/client/v3/user/{}/account_data/org.example.note", user.id)
}

fn put_note(server: &TestServer, user: &TestUser, body: Body) -> Answer {
    server.run(server.start_request(request("PUT", &note(user), Some(&user.token), body)))
}

#[test]
fn what_is_refused_without_its_body_is_refused_before_it_is_read() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let largest = ephapse_homeserver::Config::default().largest_body as u64;
    let ask = |method: &str, path: &str, token: Option<&str>, declared: Option<u64>| {
        server.run(server.start_request(request(method, path, token, unread(declared))))
    };
    let token = Some(alice.token.as_str());
    ask("PUT", "/_matrix/client/v3/nothing", token, None).fails(404, "M_UNRECOGNIZED");
    ask("PUT", "/_matrix/client/v3/login", token, None).fails(405, "M_UNRECOGNIZED");
    ask("PUT", &note(&alice), None, None).fails(401, "M_MISSING_TOKEN");
    ask("PUT", &note(&alice), Some("nobody's"), None).fails(401, "M_UNKNOWN_TOKEN");
    ask("PUT", &note(&alice), token, Some(largest + 1)).fails(413, "M_TOO_LARGE");
    ask("POST", "/_matrix/client/v3/login", None, Some(u64::MAX)).fails(413, "M_TOO_LARGE");
    // What anybody may send is small.
    ask("POST", "/_matrix/client/v3/login", None, Some((64 << 10) + 1)).fails(413, "M_TOO_LARGE");
    ask("POST", "/_matrix/client/v3/register", None, Some((64 << 10) + 1)).fails(413, "M_TOO_LARGE");
    // Who may not do it at all is told so first.
    ask("PUT", &note(&alice), None, Some(largest + 1)).fails(401, "M_MISSING_TOKEN");
    ask("GET", "/_matrix/client/v3/account/whoami", token, Some(largest + 1)).ok();
    assert_eq!(ask("OPTIONS", &note(&alice), None, Some(2)).status, 200);
    assert_eq!(server.hs.status().panics, 0);
}

/// Whoever was logged in could send 8 MiB of small numbers or objects to any endpoint, which took
/// long to read and a hundred times as much memory, before the event made of them was found too
/// large.
#[test]
fn only_endpoints_that_need_it_take_large_bodies() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = room(&server, &alice, json!({}));
    let v3 = "/_matrix/client/v3";
    let large = json!({ "typing": false, "presence": "online", "messages": {}, "x": vec![10_000_000; 40_000] }).to_string();
    let small = [
        ("PUT", format!("{v3}/rooms/{room}/send/m.room.message/1")),
        ("PUT", format!("{v3}/rooms/{room}/state/org.example.state")),
        ("PUT", format!("{v3}/rooms/{room}/typing/{}", alice.id)),
        ("PUT", format!("{v3}/presence/{}/status", alice.id)),
        ("PUT", format!("{v3}/profile/{}/displayname", alice.id)),
        ("PUT", format!("{v3}/pushrules/global/override/x")),
        ("POST", format!("{v3}/delete_devices")),
        ("POST", format!("{v3}/keys/device_signing/upload")),
        ("POST", format!("{v3}/account/password")),
        ("POST", format!("{v3}/join/{room}")),
    ];
    for (method, path) in small {
        let whole = server.run(server.start_raw(method, &path, Some(&alice.token), &large));
        whole.fails(413, "M_TOO_LARGE");
        let declared = unread(Some((256 << 10) + 1));
        server.run(server.start_request(request(method, &path, Some(&alice.token), declared))).fails(413, "M_TOO_LARGE");
    }
    let needed = [
        ("PUT", note(&alice)),
        ("PUT", format!("{v3}/sendToDevice/m.x/1")),
        ("POST", format!("{v3}/keys/upload")),
        ("POST", format!("{v3}/createRoom")),
    ];
    for (method, path) in needed {
        server.run(server.start_raw(method, &path, Some(&alice.token), &large)).ok();
    }
}

#[test]
fn an_event_of_64_kib_may_be_written_with_escapes() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let escaped = format!(r#"{{"msgtype":"m.text","body":"{}"}}"#, r"\u0451".repeat(32_000));
    let path = |txn: &str| format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/{txn}");
    server.run(server.start_raw("PUT", &path("1"), Some(&alice.token), &escaped)).ok();
    let more = format!(r#"{{"msgtype":"m.text","body":"{}"}}"#, r"\u0451".repeat(33_000));
    server.run(server.start_raw("PUT", &path("2"), Some(&alice.token), &more)).fails(413, "M_TOO_LARGE");
}

#[test]
fn a_body_that_has_no_end_is_read_up_to_the_bound_only() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let read = Rc::new(Cell::new(0));
    let chunk = Bytes::from(vec![b' '; 1 << 20]);
    let counted = read.clone();
    let endless = told(None, move |_| {
        counted.set(counted.get() + chunk.len());
        Poll::Ready(Some(Ok(chunk.clone())))
    });
    put_note(&server, &alice, endless).fails(413, "M_TOO_LARGE");
    assert_eq!(read.get(), ephapse_homeserver::Config::default().largest_body + (1 << 20), "the first chunk past the bound is the last one");
}

#[test]
fn a_body_may_have_as_many_bytes_as_the_bound_says_and_no_more() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let largest = ephapse_homeserver::Config::default().largest_body;
    let padded = |length: usize| {
        let mut body = vec![b' '; length];
        body[..2].copy_from_slice(b"{}");
        body
    };
    put_note(&server, &alice, padded(largest).into()).ok();
    put_note(&server, &alice, padded(largest + 1).into()).fails(413, "M_TOO_LARGE");
    let halves = |length: usize| {
        let whole = Bytes::from(padded(length));
        chunks(vec![Ok(whole.slice(..length / 2)), Ok(whole.slice(length / 2..))])
    };
    put_note(&server, &alice, halves(largest)).ok();
    put_note(&server, &alice, halves(largest + 1)).fails(413, "M_TOO_LARGE");
}

/// Each of them would be made into something before anybody else had a turn.
#[test]
fn a_large_body_may_be_of_large_parts_and_not_of_very_many() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let send = |transaction: &str, messages: Value| {
        let path = format!("/_matrix/client/v3/sendToDevice/org.example.test/{transaction}");
        server.request("PUT", &path, Some(&alice.token), Some(json!({ "messages": { &alice.id: messages } })))
    };
    let many: serde_json::Map<String, Value> = (0..40_000).map(|n| (format!("device{n}"), json!({}))).collect();
    send("many", many.into()).fails(413, "M_TOO_LARGE");
    // What stands in strings is no part.
    let text = r#"{"a":"b\\\\","c":["d\\""]},"#.repeat(1_500);
    let large: serde_json::Map<String, Value> = (0..20).map(|n| (format!("device{n}"), json!({ "text": text }))).collect();
    send("large", large.into()).ok();
}

#[test]
fn a_body_that_breaks_off_has_no_effect() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let before = server.hs.status();
    // What has come could be taken for a whole.
    let answer = put_note(&server, &alice, chunks(vec![Ok(Bytes::from_static(b"{\"a\":1}")), Err("the client went away".into())]));
    answer.fails(400, "M_UNKNOWN");
    server.get(&alice, &note(&alice)).fails(404, "M_NOT_FOUND");
    let after = server.hs.status();
    assert_eq!((after.position, after.commits), (before.position, before.commits));
}

#[test]
fn a_body_that_comes_byte_by_byte_is_the_same_body() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let content = json!({ "text": "é".repeat(10_000) });
    let bytes = Bytes::from(content.to_string());
    let mut at = 0;
    let mut waited = false;
    let drip = told(Some(bytes.len() as u64), move |context| {
        waited = !waited;
        if waited {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        at += 1;
        Poll::Ready(bytes.get(at - 1..at).map(|byte| Ok(Bytes::copy_from_slice(byte))))
    });
    put_note(&server, &alice, drip).ok();
    assert_eq!(server.get(&alice, &note(&alice)).ok(), content);
}

#[test]
fn who_logs_out_while_a_body_is_on_its_way_has_not_sent_it() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let again = server.login("alice", None);
    let (sender, mut receiver) = mpsc::unbounded::<Chunk>();
    sender.unbounded_send(Ok(Bytes::from_static(b"{\"a\":"))).expect("it is read");
    let body = told(None, move |context| futures_util::StreamExt::poll_next_unpin(&mut receiver, context));
    let writing = server.start_request(request("PUT", &note(&alice), Some(&again.token), body));
    let log_out = server.start("POST", "/_matrix/client/v3/logout", Some(&again.token), None);
    let (written, _) = server.run(futures_util::future::join(writing, async move {
        log_out.await.ok();
        sender.unbounded_send(Ok(Bytes::from_static(b"1}"))).expect("it is read");
    }));
    written.fails(401, "M_UNKNOWN_TOKEN");
    server.get(&alice, &note(&alice)).fails(404, "M_NOT_FOUND");
}

#[test]
fn a_large_answer_leaves_in_pieces_and_says_its_length() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let content = json!({ "text": "x".repeat(5 * PIECE + 7) });
    server.put(&alice, &note(&alice), content.clone()).ok();
    let hs = server.hs.clone();
    let get = request("GET", &note(&alice), Some(&alice.token), Body::from(Bytes::new()));
    let (declared, pieces) = server.run(async move {
        let mut body = hs.handle(Entrance::Client, get).await.into_body();
        let declared = body.size_hint().exact();
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.push(frame.expect("it does not break off").into_data().expect("bytes"));
        }
        assert!(body.is_end_stream());
        (declared, pieces)
    });
    assert!(pieces.len() > 5 && pieces.iter().all(|piece| piece.len() <= PIECE));
    let whole = pieces.concat();
    assert_eq!(declared, Some(whole.len() as u64));
    assert_eq!(serde_json::from_slice::<Value>(&whole).expect("JSON"), content);
}
