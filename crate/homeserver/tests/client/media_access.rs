//! Who is given which bytes of a file: ranges of it, what is open to everybody, and what a page of
//! the server's own origin is shown.

use crate::{
    media::{MIB, UPLOAD, body_of, file, in_pieces, path_of, request, upload},
    support::{Answer, TestServer, TestUser, config},
};
use bytes::Bytes;
use ephapse_homeserver::{Body, Config, Entrance, OwnPage};

/// Status, headers and body of a file.
#[track_caller]
fn get(server: &TestServer, request: http::Request<Body>) -> (http::response::Parts, Bytes) {
    let hs = server.hs.clone();
    server.run(async move {
        let (parts, body) = hs.handle(Entrance::Client, request).await.into_parts();
        (parts, body.read(usize::MAX).await.expect("it does not break off"))
    })
}

#[track_caller]
fn range(server: &TestServer, user: &TestUser, path: &str, headers: &[(&str, &str)]) -> (u16, String, Bytes) {
    let (parts, body) = get(server, request("GET", path, Some(user), headers, Body::from("")));
    assert_eq!(parts.headers["accept-ranges"], "bytes");
    assert_eq!(parts.headers["x-content-type-options"], "nosniff");
    let header = parts.headers.get("content-range").map(|value| value.to_str().expect("text").to_owned());
    (parts.status.as_u16(), header.unwrap_or_default(), body)
}

#[test]
fn a_range_of_a_file_is_what_is_sent() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let (size, bytes) = (2 * MIB + 100, file(1, 2 * MIB + 100));
    let path = path_of(upload(&server, &alice, UPLOAD, &[], body_of(in_pieces(&bytes))));
    for (wanted, first, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199999", 100, 200_000),
        ("bytes=1048570-1048580", MIB - 6, MIB + 5),
        ("bytes=2097152-", 2 * MIB, size),
        ("bytes=-7", size - 7, size),
        ("bytes=5-99999999", 5, size),
    ] {
        let (status, header, body) = range(&server, &alice, &path, &[("range", wanted)]);
        assert_eq!((status, header), (206, format!("bytes {first}-{}/{size}", end - 1)), "{wanted}");
        assert!(body == bytes[first..end], "{wanted}: {} bytes", body.len());
    }
    for unsatisfiable in ["bytes=2097252-", "bytes=-0"] {
        let (status, header, body) = range(&server, &alice, &path, &[("range", unsatisfiable)]);
        assert_eq!((status, header, body.len()), (416, format!("bytes */{size}"), 0), "{unsatisfiable}");
    }
    // Two ranges, none, and a range of another version: all of it.
    for headers in [&[("range", "bytes=0-1,4-5")][..], &[("range", "bytes=9-1")], &[("range", "bytes=0-1"), ("if-range", "\"a\"")]] {
        let (status, header, body) = range(&server, &alice, &path, headers);
        assert_eq!((status, header.as_str()), (200, ""), "{headers:?}");
        assert!(body == bytes);
    }
    let (parts, _) = get(&server, request("HEAD", &path, Some(&alice), &[("range", "bytes=0-1")], Body::from("")));
    assert_eq!((parts.status.as_u16(), &parts.headers["content-length"]), (200, &size.to_string().parse().expect("a header")));
}

/// The paths of a file for clients that know of no access tokens for files.
fn old_paths(path: &str) -> Vec<String> {
    let rest = path.strip_prefix("/_matrix/client/v1/media/").expect("a path of a file");
    ["v3", "r0", "v1"]
        .iter()
        .flat_map(|version| [format!("/_matrix/media/{version}/{rest}"), format!("/_matrix/media/{version}/{rest}/name")])
        .collect()
}

#[track_caller]
fn without_token(server: &TestServer, path: &str) -> Answer {
    server.request("GET", path, None, None)
}

#[test]
fn without_a_token_a_file_is_not_there_unless_it_came_when_all_were_open() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let closed = path_of(upload(&server, &alice, UPLOAD, &[("content-type", "image/png")], Body::from("x")));
    for path in old_paths(&closed) {
        without_token(&server, &path).fails(404, "M_NOT_FOUND");
        // As on Synapse.
        server.get(&alice, &path).fails(404, "M_NOT_FOUND");
    }
    without_token(&server, "/_matrix/media/v3/download/test.example/nothing").fails(404, "M_NOT_FOUND");
    let store = server.store.clone();
    drop(server);

    let server = TestServer::with(store.clone(), Config { authenticated_media: false, ..config() });
    let open = path_of(upload(&server, &alice, "/_matrix/media/v1/upload", &[("content-type", "text/html")], Body::from("y")));
    for path in old_paths(&closed).into_iter().chain(old_paths(&open)) {
        let (parts, body) = get(&server, request("GET", &path, None, &[], Body::from("")));
        assert_eq!((parts.status.as_u16(), body.len()), (200, 1), "{path}");
        assert_eq!(parts.headers["x-content-type-options"], "nosniff");
    }
    without_token(&server, &open).fails(401, "M_MISSING_TOKEN");
    drop(server);

    // What was open stays so, and runs as little as any other.
    let server = TestServer::with(store, config());
    for path in old_paths(&open) {
        let (parts, body) = get(&server, request("GET", &path, None, &[], Body::from("")));
        assert_eq!((parts.status.as_u16(), &body[..]), (200, &b"y"[..]));
        assert!(parts.headers["content-disposition"].to_str().expect("text").starts_with("attachment"));
        assert!(parts.headers["content-security-policy"].to_str().expect("text").starts_with("sandbox;"));
    }
    for path in old_paths(&closed) {
        without_token(&server, &path).fails(404, "M_NOT_FOUND");
    }
}

#[test]
fn a_page_of_the_servers_own_origin_is_shown_files_without_a_token() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = path_of(upload(&server, &alice, UPLOAD, &[("content-type", "image/png")], Body::from("x")));
    let of_page = |path: &str, token: Option<&str>| {
        let mut asked = request("GET", path, None, &[], Body::from(""));
        asked.extensions_mut().insert(OwnPage);
        if let Some(token) = token {
            asked.headers_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        }
        get(&server, asked).0.status.as_u16()
    };
    for path in old_paths(&path).iter().chain([&path, &format!("{path}/name")]) {
        assert_eq!(of_page(path, None), 200, "{path}");
    }
    // A token that is there counts, and what is not a file needs one.
    assert_eq!(of_page(&path, Some(&alice.token)), 200);
    assert_eq!(of_page(&path, Some("of somebody who was logged out")), 401);
    assert_eq!(of_page("/_matrix/client/v1/media/config", None), 401);
    assert_eq!(of_page("/_matrix/client/v3/account/whoami", None), 401);
}
