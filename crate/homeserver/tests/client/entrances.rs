//! Clients and other servers come in by different entrances, and neither reaches what is behind the
//! other's.

use crate::support::TestServer;
use ephapse_homeserver::{Body, Entrance};
use serde_json::json;

/// What the specification has for other servers.
const PEERS: [(&str, &str); 5] = [
    ("GET", "/_matrix/federation/v1/version"),
    ("GET", "/_matrix/key/v2/server"),
    ("GET", "/_matrix/key/v2/query/test.example"),
    ("PUT", "/_matrix/federation/v1/send/1"),
    ("GET", "/_matrix/federation/v1/state/!room:test.example?event_id=$event"),
];

#[test]
fn a_client_does_not_reach_what_is_for_other_servers() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for (method, path) in PEERS {
        server.request(method, path, Some(&alice.token), Some(json!({}))).fails(404, "M_UNRECOGNIZED");
    }
}

#[test]
fn another_server_does_not_reach_what_is_for_clients() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let mut asked = 0;
    for (method, path) in server.hs.endpoints(Entrance::Client) {
        let path = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect::<Vec<_>>().join("/");
        let request = http::Request::builder().method(method).uri(path).header("authorization", format!("Bearer {}", alice.token));
        let request = request.body(Body::from("{}")).expect("a request");
        server.run(server.start_at(Entrance::Peer, request)).fails(404, "M_UNRECOGNIZED");
        asked += 1;
    }
    assert!(asked > 200, "{asked} requests");
}

#[test]
fn a_path_tells_its_entrance() {
    for (path, entrance) in [
        ("/_matrix/federation/v1/version", Entrance::Peer),
        ("/_matrix/key/v2/server", Entrance::Peer),
        ("/_matrix/client/v3/sync", Entrance::Client),
        ("/_matrix/keys", Entrance::Client),
        ("/.well-known/matrix/client", Entrance::Client),
        ("/.well-known/matrix/server", Entrance::Peer),
        ("/", Entrance::Client),
    ] {
        assert_eq!(Entrance::of_path(path), entrance, "{path}");
    }
}
