//! Errors that every client relies on (Client-Server API, 2.1 Standard error response, and Web browser clients).

use crate::support::TestServer;

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
