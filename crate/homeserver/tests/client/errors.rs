//! Errors that every client relies on (Client-Server API, 2.1 Standard error response, and Web
//! browser clients).

use crate::{rooms::room, support::TestServer};
use ephapse_homeserver::Body;
use serde_json::json;

#[test]
fn an_unknown_path_is_404_and_a_known_one_with_another_method_405() {
    let server = TestServer::new();
    server.request("GET", "/_matrix/client/v3/nothing", None, None).fails(404, "M_UNRECOGNIZED");
    server.request("POST", "/_matrix/client/versions", None, None).fails(405, "M_UNRECOGNIZED");
}

#[test]
fn preflights_are_answered_and_every_answer_may_be_read_by_any_page() {
    let server = TestServer::new();
    for (method, path) in [("OPTIONS", "/_matrix/client/v3/login"), ("GET", "/_matrix/client/versions"), ("GET", "/_matrix/nothing")] {
        let answer = server.request(method, path, None, None);
        assert_eq!(answer.headers["access-control-allow-origin"], "*");
        assert!(answer.headers["access-control-allow-headers"].to_str().is_ok_and(|value| value.contains("Authorization")));
    }
    assert_eq!(server.request("OPTIONS", "/_matrix/client/v3/login", None, None).status, 200);
}

/// What is not UTF-8 was M_BAD_JSON, or taken where nobody looked at it.
#[test]
fn a_body_that_is_not_utf_8_is_not_json() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    for (method, path) in [
        ("PUT", format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/1")),
        ("PUT", format!("/_matrix/client/v3/rooms/{id}/typing/{}", alice.id)),
        ("POST", "/_matrix/client/v3/keys/upload".to_owned()),
        ("POST", "/_matrix/client/v3/createRoom".to_owned()),
        ("POST", format!("/_matrix/client/v3/user/{}/filter", alice.id)),
    ] {
        for body in [&b"{\"typing\":false,\"x\":\"\xff\xfe\"}"[..], b"{\"typing\":false,\"\xe9\":1}"] {
            let request = http::Request::builder().method(method).uri(&path).header("authorization", format!("Bearer {}", alice.token));
            let request = request.body(Body::from(body.to_vec())).expect("a request");
            server.run(server.start_request(request)).fails(400, "M_NOT_JSON");
        }
    }
}
