//! What is for the operator: the metrics' port, and the socket of `ephapse status`.

use super::support::{connect_counted, homeserver};
use crate::{
    serve::{
        metrics::{self, Requests},
        status_socket,
    },
    status::{StatusError, ask},
};
use ephapse_homeserver::Homeserver;
use serde_json::Value;
use std::{future::Future, net::Ipv4Addr, rc::Rc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn the_server_on_a_directory_says_how_it_is() {
    run(async {
        let (directory, homeserver) = (tempfile::tempdir().expect("a directory"), homeserver().await);
        let Err(StatusError::NotRunning { .. }) = ask(directory.path()).await else { panic!("nobody runs there") };
        // What a server leaves that was killed is in nobody's way.
        drop(std::os::unix::net::UnixListener::bind(directory.path().join(status_socket::SOCKET)).expect("a socket"));
        let socket = status_socket::open(directory.path(), homeserver.clone()).expect("a socket");
        for _ in 0..3 {
            let said: Value = serde_json::from_str(&ask(directory.path()).await.expect("it answers")).expect("JSON");
            assert_eq!(said, serde_json::to_value(homeserver.status()).expect("JSON"));
        }
        drop(socket);
        let Err(StatusError::NotRunning { .. }) = ask(directory.path()).await else { panic!("nobody runs there") };
        assert_eq!(std::fs::read_dir(directory.path()).expect("it is there").count(), 0);
    });
}

async fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("it listens");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    answer
}

/// Asks for a path, on a connection whose requests are counted.
async fn ask_counted(homeserver: &Rc<Homeserver>, requests: &Rc<Requests>, path: &str) -> u16 {
    let mut served = connect_counted(homeserver, requests.clone()).await;
    served.write(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    served.response().await.0
}

#[test]
fn metrics_tell_of_requests_and_of_what_is_stored() {
    run(async {
        let (homeserver, requests) = (homeserver().await, Rc::<Requests>::default());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("it listens").port();
        metrics::serve(listener, homeserver.clone(), requests.clone());
        for (path, status) in [
            ("/_matrix/client/versions", 200),
            ("/_matrix/client/versions", 200),
            ("/_matrix/client/v3/rooms/!secret:test.example/state", 401),
            ("/_matrix/federation/v1/version", 200),
            ("/_matrix/client/v3/nothing/secret", 404),
        ] {
            assert_eq!(ask_counted(&homeserver, &requests, path).await, status, "{path}");
        }
        let said = get(port, "/metrics").await;
        assert!(said.starts_with("HTTP/1.1 200 ") && said.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{said}");
        let count = |endpoint: &str, status: u16| format!("_count{{method=\"GET\",endpoint=\"{endpoint}\",status=\"{status}\"}}");
        for expected in [
            count("/_matrix/client/versions", 200) + " 2\n",
            count("/_matrix/client/v3/rooms/{room_id}/state", 401) + " 1\n",
            count("/_matrix/federation/v1/version", 200) + " 1\n",
            count("(no such endpoint)", 404) + " 1\n",
            format!("\nephapse_commits {}\n", homeserver.status().commits),
        ] {
            assert!(said.contains(&expected), "{expected} in {said}");
        }
        assert!(!said.contains("secret"), "{said}");
        assert!(get(port, "/").await.starts_with("HTTP/1.1 404 "));
    });
}
