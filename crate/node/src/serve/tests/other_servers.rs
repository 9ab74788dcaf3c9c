//! What comes from other servers by the same port.

use super::support::{connect, homeserver_of, homeserver_with, in_fast_time, named};
use ephapse_homeserver::Config;

/// The status that a server of that name answers with.
async fn status(name: Option<&str>, path: &str) -> (u16, String) {
    let mut served = connect(&homeserver_of(name).await, 1 << 16).await;
    served.write(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    served.response().await
}

#[test]
fn a_server_with_a_domain_answers_other_servers() {
    in_fast_time(async {
        for path in ["/_matrix/federation/v1/version", "/_matrix/key/v2/server"] {
            let (status, body) = status(Some("test.example"), path).await;
            assert_eq!(status, 200, "{path}: {body}");
        }
        let (status, body) = status(Some("test.example"), "/_matrix/federation/v1/query/profile?user_id=@a:test.example").await;
        assert_eq!(status, 401, "{body}");
        assert!(body.contains("M_UNAUTHORIZED"), "{body}");
    });
}

#[test]
fn where_federation_is_off_clients_alone_are_answered() {
    in_fast_time(async {
        let homeserver =
            homeserver_with(Config { federation: false, public_url: Some("https://test.example".to_owned()), ..named(Some("test.example")) }).await;
        for path in ["/_matrix/federation/v1/version", "/_matrix/key/v2/server", "/.well-known/matrix/server"] {
            let mut served = connect(&homeserver, 1 << 16).await;
            served.write(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
            assert_eq!(served.response().await.0, 404, "{path}");
        }
    });
}

#[test]
fn a_server_whose_name_is_only_its_key_answers_clients_alone() {
    in_fast_time(async {
        for path in ["/_matrix/federation/v1/version", "/_matrix/key/v2/server", "/_matrix/federation/v1/query/profile?user_id=@a:b"] {
            let (status, body) = status(None, path).await;
            assert_eq!(status, 404, "{path}: {body}");
            assert!(body.contains("M_UNRECOGNIZED"), "{path}: {body}");
        }
        assert_eq!(status(None, "/_matrix/client/versions").await.0, 200);
    });
}
