//! Files: up and down as they were, piece by piece; refused where they must be; and nothing is left
//! of an upload that came to nothing.

use crate::support::{Answer, TestServer, TestUser, config};
use bytes::Bytes;
use ephapse_homeserver::{Body, BodyError, Config, Entrance, Store, tables};
use ephapse_store::{Batch, Direction, StoreError, unreliable::UnreliableStore};
use http_body::{Frame, SizeHint};
use serde_json::Value;
use std::{
    cell::Cell,
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

pub const UPLOAD: &str = "/_matrix/media/v3/upload";
pub const MIB: usize = 1 << 20;

/// A body that gives what a test has prepared, a piece whenever somebody asks for one.
pub struct Pieces {
    pieces: VecDeque<Result<Bytes, BodyError>>,
    declared: Option<u64>,
    asked: Rc<dyn Fn()>,
    /// It pauses before its end until this is true.
    pub ends: Rc<Cell<bool>>,
}

impl Pieces {
    pub fn new(pieces: impl IntoIterator<Item = Result<Bytes, BodyError>>) -> Self {
        Self { pieces: pieces.into_iter().collect(), declared: None, asked: Rc::new(|| {}), ends: Rc::new(Cell::new(true)) }
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.pieces.is_empty() && !self.ends.get() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        (self.asked)();
        Poll::Ready(self.pieces.pop_front().map(|piece| piece.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        self.declared.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

pub fn body_of(pieces: impl IntoIterator<Item = Result<Bytes, BodyError>>) -> Body {
    Body::stream(Pieces::new(pieces))
}

pub fn in_pieces(bytes: &[u8]) -> Vec<Result<Bytes, BodyError>> {
    bytes.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect()
}

/// Bytes that differ from chunk to chunk, and from seed to seed.
pub fn file(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u32).wrapping_mul(2_654_435_761).rotate_left(at as u32 >> 12) as u8 ^ seed).collect()
}

pub fn request(method: &str, path: &str, user: Option<&TestUser>, headers: &[(&str, &str)], body: Body) -> http::Request<Body> {
    let mut request = http::Request::builder().method(method).uri(path);
    if let Some(user) = user {
        request = request.header("authorization", format!("Bearer {}", user.token));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).expect("a request")
}

#[track_caller]
pub fn upload(server: &TestServer, user: &TestUser, path: &str, headers: &[(&str, &str)], body: Body) -> Answer {
    server.run(server.start_request(request("POST", path, Some(user), headers, body)))
}

/// The path of an uploaded file.
#[track_caller]
pub fn path_of(answer: Answer) -> String {
    let uri = answer.ok()["content_uri"].as_str().expect("a URI").to_owned();
    format!("/_matrix/client/v1/media/download/{}", uri.strip_prefix("mxc://").expect("an mxc URI"))
}

/// Status, headers and body of a file.
#[track_caller]
pub fn download(server: &TestServer, user: &TestUser, method: &str, path: &str) -> (http::response::Parts, Bytes) {
    let request = request(method, path, Some(user), &[], Body::from(""));
    let hs = server.hs.clone();
    server.run(async move {
        let (parts, body) = hs.handle(Entrance::Client, request).await.into_parts();
        (parts, body.read(usize::MAX).await.expect("it does not break off"))
    })
}

pub fn with_store() -> (TestServer, UnreliableStore, TestUser) {
    let store = UnreliableStore::new();
    let server = TestServer::with(Rc::new(store.clone()), config());
    let alice = server.register("alice");
    (server, store, alice)
}

/// Everything that is stored of files: entries of tables, and chunks.
#[track_caller]
pub fn left(server: &TestServer, store: &UnreliableStore) -> (usize, usize) {
    let (entries, chunks) = (store.clone(), store.chunk_ids().len());
    let entries = server.run(async move { entries.scan(vec![0x80]..vec![0x84], Direction::Forward, usize::MAX).await });
    (entries.expect("readable").len(), chunks)
}

#[test]
fn a_file_comes_back_as_it_was_with_its_name_and_type() {
    let (server, _, alice) = with_store();
    let (_, guest) = (server.register("bob"), alice.clone());
    for length in [0, 1, 65_536, MIB - 1, MIB, MIB + 1, 5 * MIB / 2] {
        let bytes = file(1, length);
        let answer = upload(&server, &alice, &format!("{UPLOAD}?filename=a%20cat.png"), &[("content-type", "image/png")], body_of(in_pieces(&bytes)));
        let path = path_of(answer);
        let (parts, found) = download(&server, &guest, "GET", &path);
        assert_eq!(parts.status, 200);
        assert!(found == bytes, "{length} bytes are others");
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        assert_eq!(header("content-type"), "image/png");
        assert_eq!(header("content-disposition"), "inline; filename=\"a cat.png\"");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("cross-origin-resource-policy"), "cross-origin");
        assert_eq!(header("access-control-allow-origin"), "*");
        assert!(
            header("content-security-policy").starts_with("sandbox; default-src 'none'; script-src 'none';"),
            "{}",
            header("content-security-policy")
        );
        let (parts, found) = download(&server, &alice, "HEAD", &path);
        assert_eq!((parts.status.as_u16(), found.len()), (200, 0));
        assert_eq!(parts.headers["content-length"], length.to_string());
    }
    // A small body that came with its request is a file like any other.
    let path = path_of(upload(&server, &alice, UPLOAD, &[], Body::from("small")));
    let (parts, found) = download(&server, &alice, "GET", &path);
    assert_eq!((&found[..], &parts.headers["content-type"]), (&b"small"[..], &"application/octet-stream".parse().expect("a header")));
    assert_eq!(parts.headers["content-disposition"], "attachment");
    let (parts, _) = download(&server, &alice, "GET", &format!("{path}/caf%C3%A9%22%0A.txt"));
    assert_eq!(parts.headers["content-disposition"], "attachment; filename*=utf-8''caf%C3%A9%22.txt");
}

#[test]
fn only_what_runs_nothing_is_shown_inline() {
    let (server, _, alice) = with_store();
    for (kind, served, disposition) in [
        ("image/jpeg", "image/jpeg", "inline"),
        ("VIDEO/MP4; codecs=avc1", "VIDEO/MP4; codecs=avc1", "inline"),
        ("text/plain", "text/plain; charset=UTF-8", "inline"),
        ("text/plain;charset=utf-16", "text/plain;charset=utf-16", "inline"),
        ("text/html", "text/html; charset=UTF-8", "attachment"),
        ("image/svg+xml", "image/svg+xml; charset=UTF-8", "attachment"),
        ("application/javascript", "application/javascript", "attachment"),
        ("application/pdf", "application/pdf", "attachment"),
        ("image/png,text/html", "image/png,text/html", "attachment"),
    ] {
        let path = path_of(upload(&server, &alice, UPLOAD, &[("content-type", kind)], Body::from("x")));
        let (parts, _) = download(&server, &alice, "GET", &path);
        assert_eq!(parts.headers["content-disposition"], disposition, "{kind}");
        assert_eq!(parts.headers["content-type"], served, "{kind}");
    }
    // A name is bounded, and holds nothing that is not seen.
    let long = format!("{UPLOAD}?filename={}%E2%80%AEgnp.exe", "n".repeat(300));
    let (parts, _) = download(&server, &alice, "GET", &path_of(upload(&server, &alice, &long, &[], Body::from("x"))));
    assert_eq!(parts.headers["content-disposition"], format!("attachment; filename={}", "n".repeat(255)));
    let turned = path_of(upload(&server, &alice, &format!("{UPLOAD}?filename=a%E2%80%AEgnp.exe"), &[], Body::from("x")));
    assert_eq!(download(&server, &alice, "GET", &turned).0.headers["content-disposition"], "attachment; filename=agnp.exe");
}

#[test]
fn no_more_of_an_upload_is_read_than_a_chunk_before_it_is_stored() {
    let (server, store, alice) = with_store();
    let pieces = in_pieces(&file(2, 5 * MIB));
    let (read, most) = (Rc::new(Cell::new(0usize)), Rc::new(Cell::new(0usize)));
    let asked = {
        let (read, most, store) = (read.clone(), most.clone(), store.clone());
        Rc::new(move || {
            most.set(most.get().max(read.get() - store.chunk_ids().len() * MIB));
            read.set(read.get() + 100_000);
        })
    };
    let body = Body::stream(Pieces { asked, ..Pieces::new(pieces) });
    let path = path_of(upload(&server, &alice, UPLOAD, &[], body));
    assert!(most.get() < MIB + 100_000, "{} bytes were read and not stored", most.get());
    // And no more of a download than its client takes.
    store.take_reads();
    let request = request("GET", &path, Some(&alice), &[], Body::from(""));
    let hs = server.hs.clone();
    let response = server.run(async move { hs.handle(Entrance::Client, request).await });
    let before = store.take_reads().len();
    assert!(before < 10, "{before} reads before anybody asked for the body");
    drop(response);
}

/// The browser sends the rest of a file whose page has given up the upload: all of it stayed, under
/// an id that nobody knew.
#[test]
fn a_file_of_whose_id_nobody_was_told_goes() {
    let (server, store, alice) = with_store();
    let bytes = file(11, 2 * MIB + 1);
    let kept = path_of(upload(&server, &alice, UPLOAD, &[], body_of(in_pieces(&bytes[..MIB]))));
    let before = left(&server, &store);
    let untaken = |server: &TestServer| {
        let hs = server.hs.clone();
        let request = request("POST", UPLOAD, Some(&alice), &[], body_of(in_pieces(&bytes)));
        server.run(async move { hs.handle(Entrance::Client, request).await })
    };
    let answer = untaken(&server);
    assert_eq!(answer.status(), 200);
    assert_eq!(left(&server, &store).1, 3);
    drop(answer);
    for _ in 0..3 {
        server.get(&alice, "/_matrix/client/v3/account/whoami").ok();
    }
    assert_eq!(left(&server, &store), before);
    assert!(download(&server, &alice, "GET", &kept).1 == bytes[..MIB], "what others hold of the same stays");

    // A crash on the way leaves the file as it was, or the rest to the next run.
    let (mut server, mut store, mut files) = (server, store, Vec::new());
    for nth in 0..4 {
        drop(untaken(&server));
        store.crash_at_write(nth);
        server.get(&alice, "/_matrix/client/v3/account/whoami");
        store = store.restart();
        server = TestServer::with(Rc::new(store.clone()), config());
        for _ in 0..3 {
            server.get(&alice, "/_matrix/client/v3/account/whoami").ok();
        }
        files.push((left(&server, &store).0 - before.0) as f64 / 7.0);
    }
    assert!(files[0] == 1.0 && files[3] < 4.0 && files.iter().all(|files| files.fract() == 0.0), "{files:?}");
}

#[test]
fn equal_chunks_are_stored_once_and_stay_as_long_as_a_file_needs_them() {
    let (server, store, alice) = with_store();
    let bytes = file(3, 3 * MIB);
    let first = path_of(upload(&server, &alice, UPLOAD, &[], body_of(in_pieces(&bytes))));
    let second = path_of(upload(&server, &alice, UPLOAD, &[], body_of(in_pieces(&bytes))));
    assert_ne!(first, second);
    assert_eq!(left(&server, &store).1, 3);
    // One that holds the same and is cut off takes nothing along.
    let cut_off = in_pieces(&bytes).into_iter().chain([Err("the client is gone".into())]);
    upload(&server, &alice, UPLOAD, &[], body_of(cut_off)).fails(400, "M_UNKNOWN");
    assert!(download(&server, &alice, "GET", &first).1 == bytes);
    // Zeros are one chunk.
    let zeros = path_of(upload(&server, &alice, UPLOAD, &[], body_of(in_pieces(&vec![0; 4 * MIB]))));
    assert_eq!(left(&server, &store).1, 4);
    assert!(download(&server, &alice, "GET", &zeros).1 == vec![0; 4 * MIB]);
}

#[test]
fn nothing_is_left_of_an_upload_that_came_to_nothing() {
    let limit = 3 * MIB as u64;
    let store = UnreliableStore::new();
    let server = TestServer::with(Rc::new(store.clone()), Config { max_upload: limit, ..config() });
    let alice = server.register("alice");
    let unread = Pieces { declared: Some(limit + 1), asked: Rc::new(|| panic!("nobody has a reason to read this")), ..Pieces::new([]) };
    upload(&server, &alice, UPLOAD, &[], Body::stream(unread)).fails(413, "M_TOO_LARGE");
    upload(&server, &alice, UPLOAD, &[], body_of(in_pieces(&file(4, limit as usize + 1)))).fails(413, "M_TOO_LARGE");
    assert_eq!(left(&server, &store), (0, 0));
    let cut_off = in_pieces(&file(5, 2 * MIB)).into_iter().chain([Err("the client is gone".into())]);
    upload(&server, &alice, UPLOAD, &[], body_of(cut_off)).fails(400, "M_UNKNOWN");
    let short = Pieces { declared: Some(2 * MIB as u64), ..Pieces::new(in_pieces(&file(5, MIB))) };
    upload(&server, &alice, UPLOAD, &[], Body::stream(short)).fails(400, "M_UNKNOWN");
    assert_eq!(left(&server, &store), (0, 0));
    // Who is logged out while it comes has uploaded nothing.
    let second = server.login("alice", None);
    let ends = Rc::new(Cell::new(false));
    let logout = server.start("POST", "/_matrix/client/v3/logout", Some(&second.token), None);
    let body = Pieces { ends: ends.clone(), ..Pieces::new(in_pieces(&file(6, 2 * MIB))) };
    let uploading = server.start_request(request("POST", UPLOAD, Some(&second), &[], Body::stream(body)));
    let logged_out = async move {
        logout.await.ok();
        ends.set(true);
    };
    server.run(futures_util::future::join(uploading, logged_out)).0.fails(401, "M_UNKNOWN_TOKEN");
    assert_eq!(left(&server, &store), (0, 0));
    // As much as is allowed is.
    path_of(upload(&server, &alice, UPLOAD, &[], body_of(in_pieces(&file(4, limit as usize)))));
    for path in ["/_matrix/client/v1/media/config", "/_matrix/media/v3/config"] {
        assert_eq!(server.get(&alice, path).ok(), serde_json::json!({ "m.upload.size": limit }));
    }
}

/// A site says it when a page starts the server; the worker may be ended and started again at any
/// time, without a page that says it again.
#[test]
fn the_upload_limit_of_a_site_holds_until_it_sets_another() {
    let mut server = TestServer::new();
    let alice = server.register("alice");
    let told = |server: &TestServer| server.get(&alice, "/_matrix/client/v1/media/config").ok()["m.upload.size"].as_u64();
    let set = |server: &TestServer, bytes| {
        let hs = server.hs.clone();
        server.run(async move { hs.set_max_upload(bytes).await }).expect("the store writes");
    };
    for (bytes, expected) in [(Some(1000), 1000), (None, 100 << 20), (Some(5), 5)] {
        set(&server, bytes);
        assert_eq!(told(&server), Some(expected));
        server = server.restart();
        assert_eq!(told(&server), Some(expected), "after a restart");
    }
    upload(&server, &alice, UPLOAD, &[], Body::from("123456")).fails(413, "M_TOO_LARGE");
    path_of(upload(&server, &alice, UPLOAD, &[], Body::from("12345")));
    let before = server.store.stats().commits;
    set(&server, Some(5));
    assert_eq!(server.store.stats().commits, before, "what is known is not written again");

    // Where what is stored is damaged there is the default, until it is set again.
    let mut damage = Batch::new();
    damage.put(tables::MAX_UPLOAD.key(&()), vec![0xff; 20]);
    let store = server.store.clone();
    server.run(async move { store.commit(damage).await }).expect("the store writes");
    server = server.restart();
    assert_eq!(told(&server), Some(100 << 20));
    set(&server, Some(7));
    assert_eq!(told(&server.restart()), Some(7));
}

#[test]
fn a_full_disk_is_said_and_keeps_nothing_of_the_upload() {
    let (server, store, alice) = with_store();
    let (entries, _) = left(&server, &store);
    store.set_quota(Some(2 * MIB + MIB / 2));
    upload(&server, &alice, UPLOAD, &[], body_of(in_pieces(&file(7, 4 * MIB)))).fails(403, "M_RESOURCE_LIMIT_EXCEEDED");
    assert_eq!(left(&server, &store), (entries, 0));
    store.set_full(true);
    upload(&server, &alice, UPLOAD, &[], Body::from("x")).fails(403, "M_RESOURCE_LIMIT_EXCEEDED");
    store.set_full(false);
    path_of(upload(&server, &alice, UPLOAD, &[], body_of(in_pieces(&file(7, MIB)))));
}

/// The process ends at every write of an upload in turn: of what was not acknowledged nothing is
/// left when the server has opened again and cleared up, and the same file uploaded meanwhile is
/// whole.
#[test]
fn a_crash_leaves_a_file_or_nothing() {
    let bytes = file(8, 2 * MIB + 5);
    let mut ended = 0;
    for nth in 0.. {
        let store = UnreliableStore::new();
        let server = TestServer::with(Rc::new(store.clone()), config());
        let alice = server.register("alice");
        store.crash_at_write(nth);
        let answer = upload(&server, &alice, UPLOAD, &[], body_of(in_pieces(&bytes)));
        if !store.crashed() {
            store.crash_at_write(u32::MAX);
            assert!(download(&server, &alice, "GET", &path_of(answer)).1 == bytes);
            break;
        }
        assert_ne!(answer.status, 200);
        ended += 1;
        let store = store.restart();
        let server = TestServer::with(Rc::new(store.clone()), config());
        // The same comes again before anything is cleared up.
        let again = path_of(upload(&server, &alice, UPLOAD, &[], body_of(in_pieces(&bytes))));
        for _ in 0..3 {
            server.get(&alice, "/_matrix/client/v3/account/whoami").ok();
        }
        assert!(download(&server, &alice, "GET", &again).1 == bytes, "crash {nth}");
        // Of each file that there is an entry, its three chunks, and their uses. The last two
        // writes are that of what was uploaded before, and that of the file. After it only the
        // answer is lost.
        let files = if nth <= 7 { 1 } else { 2 };
        assert_eq!(left(&server, &store), (7 * files, 3), "crash {nth}");
    }
    assert!(ended >= 7, "{ended} crashes");
}

#[test]
fn a_crash_while_an_upload_is_cleared_away_leaves_the_rest_to_the_next_run() {
    for nth in 0.. {
        let store = UnreliableStore::new();
        let server = TestServer::with(Rc::new(store.clone()), config());
        let alice = server.register("alice");
        let cut_off = in_pieces(&file(9, 2 * MIB)).into_iter().chain([Err("the client is gone".into())]);
        // Two notes and two chunks are written before it is cut off.
        store.crash_at_write(4 + nth);
        upload(&server, &alice, UPLOAD, &[], body_of(cut_off));
        let crashed = store.crashed();
        let store = store.restart();
        let server = TestServer::with(Rc::new(store.clone()), config());
        for _ in 0..3 {
            server.get(&alice, "/_matrix/client/v3/account/whoami").ok();
        }
        assert_eq!(left(&server, &store), (0, 0), "crash {nth}");
        if !crashed {
            assert!(nth >= 2);
            break;
        }
    }
}

#[test]
fn an_upload_record_lost_in_a_failed_write_is_written_again() {
    let (server, store, alice) = with_store();
    store.hold();
    let uploading = server.start_request(request("POST", UPLOAD, Some(&alice), &[], body_of(in_pieces(&file(10, MIB)))));
    let other = server.start(
        "PUT",
        &format!("/_matrix/client/v3/profile/{}/displayname", alice.id),
        Some(&alice.token),
        Some(serde_json::json!({ "displayname": "A" })),
    );
    store.fail_next(StoreError::Platform("made up".to_owned()));
    let waiting = store.clone();
    let (_, answer, ()) = server.run(async move {
        let release = async {
            while waiting.waiting() < 2 {
                crate::support::turn().await;
            }
            waiting.release_all();
        };
        futures_util::future::join3(other, uploading, release).await
    });
    path_of(answer);
}

#[test]
fn who_may_upload_and_download() {
    let (server, _, alice) = with_store();
    let guest = server.request("POST", "/_matrix/client/v3/register?kind=guest", None, Some(serde_json::json!({}))).ok();
    let guest = TestUser { id: String::new(), token: guest["access_token"].as_str().expect("a token").to_owned(), device: String::new() };
    let path = path_of(upload(&server, &alice, UPLOAD, &[], Body::from("x")));
    upload(&server, &guest, UPLOAD, &[], Body::from("x")).fails(403, "M_GUEST_ACCESS_FORBIDDEN");
    assert_eq!(download(&server, &guest, "GET", &path).0.status, 200);
    let without_token = |method: &str, path: &str| server.run(server.start_request(request(method, path, None, &[], Body::from(""))));
    without_token("POST", UPLOAD).fails(401, "M_MISSING_TOKEN");
    without_token("GET", &path).fails(401, "M_MISSING_TOKEN");
    without_token("GET", &format!("{path}/name")).fails(401, "M_MISSING_TOKEN");
    server.get(&alice, "/_matrix/client/v1/media/download/test.example/nothing").fails(404, "M_NOT_FOUND");
    server.get(&alice, "/_matrix/client/v1/media/download/elsewhere.example/abc").fails(404, "M_NOT_FOUND");
    server.get(&alice, "/_matrix/client/v1/media/download/%20/abc").fails(400, "M_INVALID_PARAM");
    server.put(&alice, UPLOAD, Value::Null).fails(405, "M_UNRECOGNIZED");
    assert_eq!(server.request("GET", "/_matrix/client/versions", None, None).ok()["unstable_features"]["org.matrix.msc3916.stable"], true);
}
