//! Files between servers: fetched once, sent on as they come, kept within a limit, and refused
//! where they must be.

use crate::support::{Network, Peer, TestServer};
use bytes::Bytes;
use ephapse_homeserver::{
    Body, BodyError, Config, Entrance, Store, Thumbnail,
    test_support::{TestUser, config},
};
use ephapse_store::{Direction, unreliable::UnreliableStore};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use ruma::api::federation::authentication::{XMatrix, XMatrixSigningInput};
use serde_json::Value;
use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

const MIB: usize = 1 << 20;

/// Bytes that differ from chunk to chunk, and from seed to seed.
fn file(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u32).wrapping_mul(2_654_435_761).rotate_left(at as u32 >> 12) as u8 ^ seed).collect()
}

/// The name of a new file: `server/id`.
#[track_caller]
fn upload(server: &TestServer, user: &TestUser, name: &str, kind: &str, bytes: Vec<u8>) -> String {
    let request = Request::post(format!("/_matrix/media/v3/upload?filename={name}"))
        .header("authorization", format!("Bearer {}", user.token))
        .header("content-type", kind)
        .body(Body::from(bytes));
    let uri = server.run(server.start_request(request.expect("a request"))).ok()["content_uri"].as_str().expect("a URI").to_owned();
    uri.strip_prefix("mxc://").expect("an mxc URI").to_owned()
}

struct Got {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    broke_off: bool,
}

impl Got {
    #[track_caller]
    fn fails(&self, status: u16, errcode: &str) {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        assert_eq!((self.status, body["errcode"].as_str()), (status, Some(errcode)), "{body}");
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

fn asked(method: &str, file: &str, user: &TestUser, range: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(format!("/_matrix/client/v1/media/download/{file}"));
    if let Some(range) = range {
        request = request.header("range", range);
    }
    request.header("authorization", format!("Bearer {}", user.token)).body(Body::from("")).expect("a request")
}

fn got(server: &TestServer, request: Request<Body>) -> impl Future<Output = Got> + use<> {
    let hs = server.hs.clone();
    async move {
        let (parts, mut body) = hs.handle(Entrance::Client, request).await.into_parts();
        let mut got = Got { status: parts.status.as_u16(), headers: parts.headers, body: Vec::new(), broke_off: false };
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => got.body.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Err(_) => {
                    got.broke_off = true;
                    break;
                }
            }
        }
        got
    }
}

#[track_caller]
fn get(server: &TestServer, user: &TestUser, file: &str) -> Got {
    server.run(got(server, asked("GET", file, user, None)))
}

/// What another server asks.
fn signed(server: &TestServer, path: &str) -> Request<Body> {
    let peer = Peer::new(1);
    let unsigned = Request::get(path).body(Vec::new()).expect("a request");
    let input = XMatrixSigningInput::new(peer.name.clone(), server.hs.server_name().to_owned(), &peer.key);
    let signature = XMatrix::sign_http_request(&unsigned, input).expect("it is signed");
    Request::get(path).header("authorization", signature.to_string()).body(Body::from("")).expect("a request")
}

/// How many files were asked for since this was last asked.
fn fetches(network: &Network) -> usize {
    network.sent().iter().filter(|sent| sent.path.contains("/media/")).count()
}

/// Everything that is stored of files: entries of tables, and chunks.
#[track_caller]
fn left(server: &TestServer, store: &UnreliableStore) -> (usize, usize) {
    let (entries, chunks) = (store.clone(), store.chunk_ids().len());
    let entries = server.run(async move { entries.scan(vec![0x80]..vec![0x84], Direction::Forward, usize::MAX).await });
    (entries.expect("readable").len(), chunks)
}

#[test]
fn a_file_of_another_server_is_fetched_once_for_all_and_kept() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    let bytes = file(1, 2 * MIB + 100);
    let id = upload(&one, &alice, "a%20caf%C3%A9.png", "image/png", bytes.clone());
    let both = || got(&two, asked("GET", &id, &bob, None));
    let (first, second) = two.run(futures_util::future::join(both(), both()));
    assert_eq!(fetches(&network), 1);
    // Who does not wait for an upload waits for what is there.
    let other = upload(&one, &alice, "a", "text/plain", b"x".to_vec());
    assert_eq!(get(&two, &bob, &format!("{other}?timeout_ms=0")).body, b"x");
    fetches(&network);
    network.set_down(&one, true);
    let third = get(&two, &bob, &id);
    for got in [first, second, third] {
        assert_eq!((got.status, got.broke_off), (200, false));
        assert!(got.body == bytes, "{} bytes", got.body.len());
        assert_eq!((got.header("content-type"), got.header("content-disposition")), ("image/png", "inline; filename*=utf-8''a%20caf%C3%A9.png"));
        assert_eq!(got.header("x-content-type-options"), "nosniff");
    }
    let part = two.run(got(&two, asked("GET", &id, &bob, Some("bytes=1048570-1048580"))));
    assert_eq!((part.status, part.header("content-range")), (206, "bytes 1048570-1048580/2097252"));
    assert!(part.body == bytes[MIB - 6..MIB + 5]);
    let two = network.restart(two);
    assert!(get(&two, &bob, &id).body == bytes);
    assert_eq!(fetches(&network), 0);
    // Nobody but users of this server has anything fetched.
    network.set_down(&one, false);
    let other = upload(&one, &alice, "b", "text/plain", b"x".to_vec());
    for path in [format!("/_matrix/media/v3/download/{other}"), format!("/_matrix/media/v3/download/{id}")] {
        two.request("GET", &path, None, None).fails(404, "M_NOT_FOUND");
    }
    assert_eq!(fetches(&network), 0);
}

#[test]
fn a_part_of_a_file_and_its_head_are_known_when_all_of_it_is_here() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    let bytes = file(1, MIB + 100);
    let id = upload(&one, &alice, "a", "video/mp4", bytes.clone());
    let head = two.run(got(&two, asked("HEAD", &id, &bob, None)));
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "1048676", 0));
    let id = upload(&one, &alice, "a", "video/mp4", bytes.clone());
    let part = two.run(got(&two, asked("GET", &id, &bob, Some("bytes=-100"))));
    assert_eq!((part.status, part.header("content-range")), (206, "bytes 1048576-1048675/1048676"));
    assert!(part.body == bytes[MIB..]);
    let empty = upload(&one, &alice, "a", "text/plain", Vec::new());
    assert_eq!((get(&two, &bob, &empty).status, get(&two, &bob, &empty).body.len()), (200, 0));
}

#[test]
fn what_cannot_be_had_is_said() {
    let network = Network::new();
    let one = network.server("one.example");
    let two = network.server_with("two.example", Rc::new(UnreliableStore::new()), Config { max_upload: MIB as u64, ..config() });
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    get(&two, &bob, "one.example/nothing").fails(404, "M_NOT_FOUND");
    get(&two, &bob, "three.example/nothing").fails(502, "M_UNKNOWN");
    let large = upload(&one, &alice, "a", "text/plain", file(1, MIB + 1));
    let too_large = two.run(got(&two, asked("HEAD", &large, &bob, None)));
    assert_eq!(too_large.status, 502);
    let pending = one.post(&alice, "/_matrix/media/v1/create", serde_json::json!({})).ok();
    let pending = pending["content_uri"].as_str().expect("a URI").replace("mxc://", "");
    get(&two, &bob, &format!("{pending}?timeout_ms=1000")).fails(504, "M_NOT_YET_UPLOADED");
    network.set_down(&one, true);
    get(&two, &bob, "one.example/nothing").fails(502, "M_UNKNOWN");
    // What is no media id is asked of nobody.
    fetches(&network);
    for id in ["one.example/..%2F..%2Fkey", "one.example/a%3Fb", &format!("one.example/{}", "a".repeat(300))] {
        get(&two, &bob, id).fails(404, "M_NOT_FOUND");
    }
    assert_eq!(fetches(&network), 0);
    let alone = TestServer::new();
    let carol = alone.register("carol");
    get(&alone, &carol, "one.example/nothing").fails(404, "M_NOT_FOUND");
}

/// Pieces that come one after the other, the last of which may be an error; after some turns of
/// others.
struct Pieces(VecDeque<Result<Vec<u8>, BodyError>>, usize);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.1 > 0 && matches!(self.0.front(), Some(Err(_))) {
            self.1 -= 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.0.pop_front().map(|piece| piece.map(|bytes| Frame::data(bytes.into()))))
    }
}

fn answer(status: u16, headers: &[(&str, &str)], body: Body) -> Response<Body> {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    answer.body(body).expect("an answer")
}

fn unrecognized() -> Response<Body> {
    answer(404, &[("content-type", "application/json")], Body::from(r#"{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}"#))
}

const MULTIPART: (&str, &str) = ("content-type", "multipart/mixed; boundary=\"b\"");

#[test]
fn a_server_without_the_new_endpoint_is_asked_by_the_old_one_and_a_file_may_lie_elsewhere() {
    let network = Network::new();
    let two = network.server("two.example");
    let bob = two.register("bob");
    network.play("old.example", |request| match request.uri().to_string().as_str() {
        path if path.starts_with("/_matrix/federation/") => unrecognized(),
        "/_matrix/media/v3/download/old.example/here?allow_remote=false&allow_redirect=true" => {
            assert!(!request.headers().contains_key("authorization"));
            answer(200, &[("content-type", "text/plain"), ("content-disposition", "inline; filename=old.txt")], Body::from("old"))
        }
        path if path.contains("/elsewhere?") => answer(307, &[("location", "https://cdn.example/a/b?c=d")], Body::from("")),
        path if path.contains("/nowhere?") => answer(307, &[("location", "http://cdn.example/a")], Body::from("")),
        _ => answer(404, &[], Body::from(r#"{"errcode":"M_NOT_FOUND","error":"Not found"}"#)),
    });
    network.play("new.example", |request| {
        let to = if request.uri().path().ends_with("/loop") { "https://cdn.example:8443/loop" } else { "https://cdn.example/a/b?c=d" };
        let body = format!("--b\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--b\r\nLocation: {to}\r\n\r\n\r\n--b--");
        answer(200, &[MULTIPART], Body::from(body))
    });
    network.play("cdn.example:443", |request| {
        assert_eq!(request.uri(), "/a/b?c=d");
        assert!(!request.headers().contains_key("authorization"));
        answer(200, &[("content-type", "image/png")], Body::from("far"))
    });
    network.play("cdn.example:8443", |_| answer(302, &[("location", "https://cdn.example:8443/loop")], Body::from("")));
    let old = get(&two, &bob, "old.example/here");
    assert_eq!((old.status, &old.body[..], old.header("content-disposition")), (200, &b"old"[..], "inline; filename=old.txt"));
    for id in ["old.example/elsewhere", "new.example/elsewhere"] {
        let found = get(&two, &bob, id);
        assert_eq!((found.status, &found.body[..], found.header("content-type")), (200, &b"far"[..], "image/png"), "{id}");
    }
    get(&two, &bob, "old.example/nothing").fails(404, "M_NOT_FOUND");
    for id in ["old.example/nowhere", "new.example/loop"] {
        get(&two, &bob, id).fails(502, "M_UNKNOWN");
    }
}

#[test]
fn of_an_answer_that_is_malformed_or_breaks_off_nothing_stays() {
    let network = Network::new();
    let store = UnreliableStore::new();
    let two = network.server_with("two.example", Rc::new(store.clone()), config());
    let bob = two.register("bob");
    network.play("bad.example", |request| {
        let head = "--b\r\ncontent-type: application/json\r\n\r\n{}\r\n--b\r\ncontent-type: text/plain\r\n\r\n";
        let body = |text: String| Body::from(text);
        match request.uri().path().rsplit('/').next().expect("an id") {
            "no-type" => answer(200, &[], body(head.to_owned())),
            "no-boundary" => answer(200, &[("content-type", "multipart/mixed")], body(head.to_owned())),
            "other-type" => answer(200, &[("content-type", "multipart/form-data; boundary=b")], body(head.to_owned())),
            "long-boundary" => answer(200, &[("content-type", &format!("multipart/mixed; boundary={}", "b".repeat(71)))], body(head.to_owned())),
            "empty" => answer(200, &[MULTIPART], body(String::new())),
            "one-part" => answer(200, &[MULTIPART], body("--b\r\n\r\n{}\r\n--b--\r\n\r\n".to_owned())),
            "long-head" => answer(200, &[MULTIPART], body(format!("--b\r\na: {}", "x".repeat(200_000)))),
            "error" => answer(500, &[], body("<html>".to_owned())),
            "cut" => answer(200, &[MULTIPART], body(format!("{head}it goes on"))),
            "late" => {
                let pieces = [Ok(head.as_bytes().to_vec()), Ok(file(1, 3 * MIB)), Err("gone".into())];
                answer(200, &[MULTIPART], Body::stream(Pieces(pieces.into(), 50)))
            }
            id => panic!("{id} was asked for"),
        }
    });
    for id in ["no-type", "no-boundary", "other-type", "long-boundary", "empty", "one-part", "long-head", "error"] {
        get(&two, &bob, &format!("bad.example/{id}")).fails(502, "M_UNKNOWN");
    }
    // Its status was sent when it broke off.
    let late = get(&two, &bob, "bad.example/late");
    assert!(late.broke_off && late.status == 200, "{} bytes", late.body.len());
    for id in ["cut", "late"] {
        let found = two.run(got(&two, asked("GET", &format!("bad.example/{id}"), &bob, Some("bytes=0-0"))));
        assert_eq!(found.status, 502, "{id}");
    }
    two.get(&bob, "/_matrix/client/v3/account/whoami").ok();
    assert_eq!(left(&two, &store), (0, 0));
}

/// A delimiter may be cut anywhere, and what looks like one is a part of the file.
#[test]
fn a_file_comes_whole_whatever_pieces_it_comes_in() {
    let network = Network::new();
    let two = network.server("two.example");
    let bob = two.register("bob");
    const FILE: &str = "\r\n--\r\n--a\r\n-\r\n\r\n--";
    network.play("slow.example", |request| {
        let size = request.uri().path().rsplit('/').next().and_then(|id| id.parse().ok()).expect("a number");
        let text = format!("preamble\r\n--b \r\nContent-Type: application/json\r\nx: y\r\n\r\n{{\"a\":1}}\r\n--b\r\n\r\n{FILE}\r\n--b--\r\nepilogue");
        answer(200, &[MULTIPART], Body::stream(Pieces(text.as_bytes().chunks(size).map(|piece| Ok(piece.to_vec())).collect(), 0)))
    });
    for size in 1..100 {
        let found = get(&two, &bob, &format!("slow.example/{size}"));
        assert_eq!((found.status, str::from_utf8(&found.body)), (200, Ok(FILE)), "pieces of {size} bytes");
    }
}

#[test]
fn a_file_is_sent_on_as_it_comes_and_the_other_server_may_not_pause_for_ever() {
    let network = Network::new();
    let two = network.server("two.example");
    let bob = two.register("bob");
    struct Stalls(VecDeque<Vec<u8>>);
    impl http_body::Body for Stalls {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.pop_front().map_or(Poll::Pending, |piece| Poll::Ready(Some(Ok(Frame::data(piece.into())))))
        }
    }
    network.play("slow.example", |_| {
        let head = b"--b\r\n\r\n{}\r\n--b\r\ncontent-type: text/plain\r\n\r\n".to_vec();
        answer(200, &[MULTIPART], Body::stream(Stalls([head, file(1, 3 * MIB / 2)].into())))
    });
    let begun = two.now();
    let hs = two.hs.clone();
    let request = asked("GET", "slow.example/a", &bob, None);
    let mut body = two.run(async move { hs.handle(Entrance::Client, request).await }).into_body();
    let (first, body) = two.run(async move {
        let mut read = Vec::new();
        while read.len() < MIB {
            read.extend_from_slice(&body.frame().await.expect("more").expect("it goes on").into_data().expect("data"));
        }
        (read, body)
    });
    assert!(first == file(1, 3 * MIB / 2)[..MIB]);
    assert!(two.now() < begun + 100, "nobody has waited");
    let mut body = body;
    assert!(two.run(async move { body.frame().await.expect("an end").is_err() }));
    assert!((begun + 30_000..begun + 30_100).contains(&two.now()));
}

#[test]
fn what_can_be_had_again_takes_no_more_than_it_may_and_the_oldest_goes_first() {
    let network = Network::new();
    let one = network.server("one.example");
    let store = UnreliableStore::new();
    let two = network.server_with("two.example", Rc::new(store.clone()), Config { media_cache: 3 * MIB as u64, ..config() });
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    let own = upload(&two, &bob, "own", "text/plain", file(100, 2 * MIB));
    let ids: Vec<String> = (0..5).map(|n| upload(&one, &alice, "a", "text/plain", file(n, MIB))).collect();
    let mut asked_for = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        two.host.advance(std::time::Duration::from_secs(1));
        assert!(get(&two, &bob, id).body == file(n as u8, MIB));
        asked_for.push(fetches(&network));
        assert!(store.chunk_ids().len() <= 2 + 3, "after {n}");
    }
    assert_eq!(asked_for, [1; 5]);
    let two = network.restart(two);
    for (n, id) in ids.iter().enumerate().skip(2) {
        assert!(get(&two, &bob, id).body == file(n as u8, MIB));
    }
    assert_eq!(fetches(&network), 0, "the three newest are here");
    two.host.advance(std::time::Duration::from_secs(1));
    get(&two, &bob, &ids[0]);
    assert_eq!(fetches(&network), 1);
    get(&two, &bob, &ids[3]);
    assert_eq!(fetches(&network), 0);
    get(&two, &bob, &ids[2]);
    assert_eq!(fetches(&network), 1, "it had been here for longest");
    assert!(get(&two, &bob, &own).body == file(100, 2 * MIB), "what was uploaded here stays");
    assert_eq!(store.chunk_ids().len(), 2 + 3);
    // One that has no room at all is refused.
    let large = upload(&one, &alice, "a", "text/plain", file(50, 3 * MIB + 1));
    let refused = two.run(got(&two, asked("HEAD", &large, &bob, None)));
    assert_eq!(refused.status, 502);
    assert!(get(&two, &bob, &own).body == file(100, 2 * MIB));
}

/// The process ends at every write in turn: nothing half stays, and what is counted is what is
/// there.
#[test]
fn a_crash_while_a_file_is_fetched_leaves_it_or_nothing() {
    for nth in 0.. {
        let network = Network::new();
        let one = network.server("one.example");
        let store = UnreliableStore::new();
        let limit = Config { media_cache: 3 * MIB as u64, ..config() };
        let two = network.server_with("two.example", Rc::new(store.clone()), limit.clone());
        let (alice, bob) = (one.register("alice"), two.register("bob"));
        let ids: Vec<String> = (0..2).map(|n| upload(&one, &alice, "a", "text/plain", file(n, 2 * MIB))).collect();
        get(&two, &bob, &ids[0]);
        store.crash_at_write(nth);
        get(&two, &bob, &ids[1]);
        let crashed = store.crashed();
        let store = store.restart();
        let two = network.server_with("two.example", Rc::new(store.clone()), limit);
        for _ in 0..3 {
            two.get(&bob, "/_matrix/client/v3/account/whoami").ok();
        }
        assert!(store.chunk_ids().len() <= 2, "crash {nth}: {} chunks", store.chunk_ids().len());
        for (n, id) in ids.iter().enumerate() {
            assert!(get(&two, &bob, id).body == file(n as u8, 2 * MIB), "crash {nth}");
        }
        assert_eq!(left(&two, &store), (5, 2), "crash {nth}");
        if !crashed {
            assert!(nth > 5);
            break;
        }
    }
}

#[test]
fn a_server_is_given_this_servers_files_and_no_others() {
    let network = Network::new();
    let (one, two, three) = (network.server("one.example"), network.server("two.example"), network.server("three.example"));
    let (alice, bob, carol) = (one.register("alice"), two.register("bob"), three.register("carol"));
    let id = upload(&one, &alice, "a.html", "text/html", b"<b>".to_vec());
    assert_eq!(get(&two, &bob, &id).body, b"<b>");
    // What two.example has of one.example's files is asked of one.example.
    get(&three, &carol, &id.replace("one.example", "two.example")).fails(404, "M_NOT_FOUND");
    let path = format!("/_matrix/federation/v1/media/download/{}", id.rsplit('/').next().expect("an id"));
    one.request("GET", &path, Some(&alice.token), None).fails(404, "M_UNRECOGNIZED");
    let unsigned = Request::get(&path).body(Body::from("")).expect("a request");
    one.run(one.start_at(Entrance::Peer, unsigned)).fails(401, "M_UNAUTHORIZED");

    let (hs, request) = (one.hs.clone(), signed(&one, &path));
    let (parts, body) = one.run(async move {
        let (parts, body) = hs.handle(Entrance::Peer, request).await.into_parts();
        (parts, body.read(usize::MAX).await.expect("whole"))
    });
    let kind = parts.headers["content-type"].to_str().expect("text");
    let boundary = kind.strip_prefix("multipart/mixed; boundary=").expect("parts");
    let expected = format!(
        "\r\n--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\ncontent-type: text/html; charset=UTF-8\r\ncontent-disposition: attachment; filename=a.html\r\n\r\n<b>\r\n--{boundary}--\r\n"
    );
    assert_eq!(str::from_utf8(&body), Ok(expected.as_str()));
}

#[test]
fn a_thumbnail_of_another_servers_file_is_made_here_and_of_this_ones_for_other_servers() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    for server in [&one, &two] {
        let name = server.hs.server_name().to_string();
        server.host.thumbnailer.replace(Some(Box::new(move |_, wanted| {
            let bytes = format!("{} by {name}", wanted.size.width).into_bytes();
            Ok(Thumbnail { bytes, content_type: "image/jpeg".to_owned(), source: (1000, 1000) })
        })));
    }
    let id = upload(&one, &alice, "a", "image/jpeg", b"\xff\xd8\xff of a picture".to_vec());
    let thumbnail = |server: &TestServer, user: &TestUser| {
        let path = format!("/_matrix/client/v1/media/thumbnail/{id}?width=32&height=32&method=crop");
        server.run(got(server, Request::get(path).header("authorization", format!("Bearer {}", user.token)).body(Body::from("")).expect("a request")))
    };
    fetches(&network);
    for _ in 0..2 {
        let made = thumbnail(&two, &bob);
        assert_eq!((made.status, &made.body[..], made.header("content-type")), (200, &b"32 by two.example"[..], "image/jpeg"));
    }
    assert_eq!(fetches(&network), 1);
    let path = format!("/_matrix/federation/v1/media/thumbnail/{}?width=32&height=32&method=crop", id.rsplit('/').next().expect("an id"));
    let hs = one.hs.clone();
    let request = signed(&one, &path);
    let (status, body) = one.run(async move {
        let (parts, body) = hs.handle(Entrance::Peer, request).await.into_parts();
        (parts.status, body.read(usize::MAX).await.expect("whole"))
    });
    let body = str::from_utf8(&body).expect("text");
    assert!(status == 200 && body.contains("content-type: image/jpeg\r\n") && body.contains("\r\n\r\n32 by one.example\r\n--"), "{body}");
}
