//! Uploads to a media id that was given before, and how much a user may upload.

use crate::{
    media::{MIB, Pieces, UPLOAD, body_of, download, file, in_pieces, left, path_of, request, upload, with_store},
    support::{Answer, TestServer, TestUser, config},
};
use ephapse_homeserver::{Body, Config, tables};
use ephapse_store::unreliable::UnreliableStore;
use serde_json::json;
use std::{cell::Cell, rc::Rc, time::Duration};

const CREATE: &str = "/_matrix/media/v1/create";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A new media id, as `server/id`.
#[track_caller]
fn create(server: &TestServer, user: &TestUser) -> String {
    let created = server.post(user, CREATE, json!({})).ok();
    assert_eq!(created["unused_expires_at"], server.now() + DAY.as_millis() as u64);
    created["content_uri"].as_str().expect("a URI").strip_prefix("mxc://").expect("an mxc URI").to_owned()
}

fn upload_path(id: &str) -> String {
    format!("/_matrix/media/v3/upload/{id}?filename=a.png")
}

fn download_path(id: &str) -> String {
    format!("/_matrix/client/v1/media/download/{id}")
}

#[track_caller]
fn fill(server: &TestServer, user: &TestUser, id: &str, body: Body) -> Answer {
    server.run(server.start_request(request("PUT", &upload_path(id), Some(user), &[("content-type", "image/png")], body)))
}

#[test]
fn a_file_comes_to_its_media_id_later_and_once() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = create(&server, &alice);
    let bytes = file(1, 2 * MIB + 1);
    let before = server.now();
    server.get(&bob, &format!("{}?timeout_ms=0", download_path(&id))).fails(504, "M_NOT_YET_UPLOADED");
    assert_eq!(server.now(), before);
    server.get(&bob, &download_path(&id)).fails(504, "M_NOT_YET_UPLOADED");
    assert_eq!(server.now(), before + 20_000, "as long as the specification says");
    server.get(&bob, &format!("{}?timeout_ms=9999999", download_path(&id))).fails(504, "M_NOT_YET_UPLOADED");
    assert_eq!(server.now(), before + 80_000, "a minute at most");
    server.request("GET", &format!("/_matrix/media/v3/download/{id}?timeout_ms=0"), None, None).fails(504, "M_NOT_YET_UPLOADED");

    fill(&server, &bob, &id, Body::from("x")).fails(403, "M_FORBIDDEN");
    assert_eq!(fill(&server, &alice, &id, body_of(in_pieces(&bytes))).ok(), json!({}));
    let (parts, found) = download(&server, &bob, "GET", &download_path(&id));
    assert!(found == bytes);
    assert_eq!(
        (&parts.headers["content-type"], &parts.headers["content-disposition"]),
        (&"image/png".parse().expect("a header"), &"inline; filename=a.png".parse().expect("a header"))
    );

    fill(&server, &alice, &id, Body::from("x")).fails(409, "M_CANNOT_OVERWRITE_MEDIA");
    fill(&server, &bob, &id, Body::from("x")).fails(403, "M_FORBIDDEN");
    let uploaded = path_of(upload(&server, &alice, UPLOAD, &[], Body::from("x"))).replace("/_matrix/client/v1/media/download/", "");
    fill(&server, &alice, &uploaded, Body::from("y")).fails(409, "M_CANNOT_OVERWRITE_MEDIA");
    for unknown in ["test.example/nothing", "elsewhere.example/abc"] {
        fill(&server, &alice, unknown, Body::from("x")).fails(404, "M_NOT_FOUND");
    }
    server.request("POST", CREATE, None, Some(json!({}))).fails(401, "M_MISSING_TOKEN");
}

#[test]
fn who_waits_for_a_file_gets_it_when_it_comes() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = create(&server, &alice);
    let begun = server.now();
    let waiting = server.start("GET", &download_path(&id), Some(&alice.token), None);
    let sleep = ephapse_homeserver::Host::sleep(&*server.host, Duration::from_secs(5));
    let filling = server.start_request(request("PUT", &upload_path(&id), Some(&alice), &[], Body::from("{}")));
    let (answer, _) = server.run(futures_util::future::join(waiting, async move {
        sleep.await;
        filling.await
    }));
    assert_eq!((answer.ok(), server.now()), (json!({}), begun + 5_000));

    // A server that is about to stop lets nobody wait.
    let id = create(&server, &alice);
    let waiting = server.start("GET", &download_path(&id), Some(&alice.token), None);
    let (hs, sleep) = (server.hs.clone(), ephapse_homeserver::Host::sleep(&*server.host, Duration::from_secs(1)));
    let begun = server.now();
    let (answer, ()) = server.run(futures_util::future::join(waiting, async move {
        sleep.await;
        hs.set_holding(false);
    }));
    answer.fails(504, "M_NOT_YET_UPLOADED");
    assert_eq!(server.now(), begun + 1_000);
}

#[test]
fn a_media_id_ends_after_a_day_and_a_user_has_five() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let ids: Vec<String> = (0..5)
        .map(|_| {
            server.host.advance(Duration::from_secs(60));
            create(&server, &alice)
        })
        .collect();
    let refused = server.post(&alice, CREATE, json!({})).fails(429, "M_LIMIT_EXCEEDED");
    assert_eq!(refused["retry_after_ms"], (DAY - Duration::from_secs(240)).as_millis() as u64);
    create(&server, &bob);
    fill(&server, &alice, &ids[4], Body::from("x")).ok();
    create(&server, &alice);
    server.post(&alice, CREATE, json!({})).fails(429, "M_LIMIT_EXCEEDED");

    server.host.advance(DAY - Duration::from_secs(240));
    fill(&server, &alice, &ids[0], Body::from("x")).fails(404, "M_NOT_FOUND");
    server.get(&alice, &download_path(&ids[0])).fails(404, "M_NOT_FOUND");
    server.get(&alice, &format!("{}?timeout_ms=0", download_path(&ids[1]))).fails(504, "M_NOT_YET_UPLOADED");
    create(&server, &alice);
    server.post(&alice, CREATE, json!({})).fails(429, "M_LIMIT_EXCEEDED");
    assert_eq!(server.get(&alice, &download_path(&ids[4])).status, 200);
}

#[test]
fn an_upload_to_a_media_id_that_breaks_off_can_be_made_again() {
    let (server, store, alice) = with_store();
    let id = create(&server, &alice);
    let cut_off = in_pieces(&file(5, 2 * MIB)).into_iter().chain([Err("the client is gone".into())]);
    fill(&server, &alice, &id, body_of(cut_off)).fails(400, "M_UNKNOWN");
    assert_eq!(left(&server, &store), (0, 0));

    // One at a time.
    let ends = Rc::new(Cell::new(false));
    let mut first = Pieces::new(in_pieces(&file(6, MIB)));
    first.ends = ends.clone();
    let first = server.start_request(request("PUT", &upload_path(&id), Some(&alice), &[], Body::stream(first)));
    let second = server.start_request(request("PUT", &upload_path(&id), Some(&alice), &[], Body::from("x")));
    let second = async move {
        let answer = second.await;
        ends.set(true);
        answer
    };
    let (first, second) = server.run(futures_util::future::join(first, second));
    second.fails(409, "M_CANNOT_OVERWRITE_MEDIA");
    first.ok();
    assert!(download(&server, &alice, "GET", &download_path(&id)).1 == file(6, MIB));
}

/// The process ends at every write of it in turn, and the client uploads once more before anything
/// is cleared away.
#[test]
fn a_crash_leaves_a_media_id_that_can_be_uploaded_to_or_its_file() {
    let bytes = file(8, 2 * MIB + 5);
    for nth in 0.. {
        let store = UnreliableStore::new();
        let server = TestServer::with(Rc::new(store.clone()), config());
        let alice = server.register("alice");
        let id = create(&server, &alice);
        store.crash_at_write(nth);
        fill(&server, &alice, &id, body_of(in_pieces(&file(9, 2 * MIB + 9))));
        if !store.crashed() {
            assert!(nth >= 7);
            break;
        }
        let store = store.restart();
        let server = TestServer::with(Rc::new(store.clone()), config());
        let answer = fill(&server, &alice, &id, body_of(in_pieces(&bytes)));
        let expected = if answer.status == 409 { file(9, 2 * MIB + 9) } else { bytes.clone() };
        for _ in 0..3 {
            server.get(&alice, "/_matrix/client/v3/account/whoami").ok();
        }
        assert!(download(&server, &alice, "GET", &download_path(&id)).1 == expected, "crash {nth}");
        assert_eq!(left(&server, &store), (7, 3), "crash {nth}");
    }
}

fn with_quota(bytes: u64) -> Config {
    Config { media_quota: Some(bytes), media_quota_info: "https://help.example/files".to_owned(), ..config() }
}

#[test]
fn a_user_uploads_no_more_than_their_quota() {
    let store = UnreliableStore::new();
    let quota = 3 * MIB as u64;
    // What came before there was a quota counts too.
    let server = TestServer::with(Rc::new(store.clone()), config());
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    path_of(upload(&server, &alice, UPLOAD, &[], body_of(in_pieces(&file(1, MIB)))));
    // Nobody has counted in a database of an earlier version.
    let forgotten = server.hs.write(server.store.generation(), |tx| {
        tables::MEDIA_USED.delete_all(tx, &());
        tables::MEDIA_COUNTED.delete(tx, &());
    });
    server.run(async move { forgotten.expect("a write").durable().await }).expect("durable");
    drop(server);

    let server = TestServer::with(Rc::new(store.clone()), with_quota(quota));
    let refused = |answer: Answer| {
        let said = answer.fails(403, "M_USER_LIMIT_EXCEEDED");
        assert_eq!((&said["info_uri"], &said["can_upgrade"]), (&json!("https://help.example/files"), &json!(null)));
    };
    let before = left(&server, &store);
    // Declared, and not.
    refused(upload(&server, &alice, UPLOAD, &[], Body::from(vec![0; 2 * MIB + 1])));
    refused(upload(&server, &alice, UPLOAD, &[], body_of(in_pieces(&file(2, 2 * MIB + 1)))));
    let id = create(&server, &alice);
    refused(fill(&server, &alice, &id, body_of(in_pieces(&file(2, 2 * MIB + 1)))));
    assert_eq!(left(&server, &store), before);
    // Two at once are two.
    let each = || server.start_request(request("POST", UPLOAD, Some(&alice), &[], body_of(in_pieces(&file(3, 3 * MIB / 2)))));
    let (first, second) = server.run(futures_util::future::join(each(), each()));
    let (taken, other) = if first.status == 200 { (first, second) } else { (second, first) };
    path_of(taken);
    refused(other);
    path_of(upload(&server, &alice, UPLOAD, &[], body_of(in_pieces(&file(4, MIB / 2)))));
    refused(upload(&server, &alice, UPLOAD, &[], Body::from("x")));
    path_of(upload(&server, &bob, UPLOAD, &[], body_of(in_pieces(&file(4, MIB)))));

    // A file that nobody was told of is given back.
    let hs = server.hs.clone();
    let untaken = request("POST", UPLOAD, Some(&bob), &[], body_of(in_pieces(&file(4, 2 * MIB))));
    drop(server.run(async move { hs.handle(ephapse_homeserver::Entrance::Client, untaken).await }));
    server.get(&bob, "/_matrix/client/v3/account/whoami").ok();
    path_of(upload(&server, &bob, UPLOAD, &[], body_of(in_pieces(&file(5, 2 * MIB)))));
    // It holds for a longer time than the process.
    let server = server.restart();
    refused(upload(&server, &bob, UPLOAD, &[], Body::from("x")));
}
