//! Connections: whose certificates are believed, which addresses may be used, what users are told
//! when there is no connection, and how answers come.

use super::{
    super::{Https, Options, extra_authorities},
    support::{Asked, Authority, Records, leads_to, ready, ready_with, run, serve, text},
};
use crate::serve::host::NativeHost;
use bytes::Bytes;
use ephapse_homeserver::{Body, Config, Homeserver, ReadError, Transport, TransportError};
use ephapse_store::MemoryStore;
use http::{Request, Response};
use http_body_util::Full;
use rcgen::{CertificateParams, date_time_ymd};
use std::{cell::RefCell, collections::HashMap, net::Ipv4Addr, rc::Rc, time::Duration};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpListener, task::spawn_local};

fn hello(_: &Asked) -> Response<Full<Bytes>> {
    text(200, r#"{"hello":1}"#)
}

async fn whole(body: Body) -> Result<Bytes, ReadError> {
    body.read(1 << 20).await
}

#[test]
fn an_answer_comes_over_a_connection_that_is_kept() {
    run(async {
        let authority = Authority::new();
        let server = serve(authority.acceptor(&["one.example"]), hello).await;
        let ready = ready(Records::new().here(&["one.example"]), &authority, 1, server.port).await;
        let name = format!("one.example:{}", server.port);
        for _ in 0..3 {
            let answer = ready.ask_for(&name, "/_matrix/federation/v1/query/profile?user_id=%40a%3Ab").await.expect("it answers");
            assert_eq!(&whole(answer.into_body()).await.expect("all of it comes")[..], br#"{"hello":1}"#);
        }
        assert_eq!(server.asked()[0].path, "/_matrix/federation/v1/query/profile?user_id=%40a%3Ab", "as it was signed");
        assert_eq!(server.connections(), 1);
    });
}

#[test]
fn a_certificate_has_to_be_of_a_known_authority_for_the_name_and_of_now() {
    run(async {
        let (authority, unknown) = (Authority::new(), Authority::named("somebody else's"));
        let mut expired = CertificateParams::new(vec!["one.example".to_owned()]).expect("a name");
        (expired.not_before, expired.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1));
        let records = Records::new().here(&["one.example"]);
        let of_others = serve(unknown.acceptor(&["one.example"]), hello).await;
        let for_others = serve(authority.acceptor(&["two.example"]), hello).await;
        let of_the_past = serve(authority.acceptor_of(expired), hello).await;
        let ready = ready(records, &authority, 1, 1).await;
        for (server, expected) in [
            (&of_others, "it could not be reached: its certificate was issued by nobody that is trusted here"),
            (&for_others, "it could not be reached: its certificate is for another name"),
            (&of_the_past, "it could not be reached: its certificate has expired"),
        ] {
            assert_eq!(ready.refusal(&format!("one.example:{}", server.port)).await, expected);
            assert_eq!(server.asked(), [], "nothing was sent to it");
        }
    });
}

#[test]
fn authorities_are_read_from_a_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("ca.pem");
    let (one, two) = (Authority::new(), Authority::new());
    std::fs::write(&file, one.pem() + &two.pem()).expect("it is written");
    assert_eq!(extra_authorities(&file).expect("both are read"), [one.certificate(), two.certificate()]);
    for (content, expected) in
        [("", "--ca-cert takes a PEM file"), ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "--ca-cert takes certificates")]
    {
        std::fs::write(&file, content).expect("it is written");
        let said = extra_authorities(&file).expect_err("it is refused").to_string();
        assert!(said.contains(expected) && said.contains("ca.pem"), "{said}");
    }
}

#[test]
fn users_are_told_why_a_server_is_not_reached() {
    run(async {
        let authority = Authority::new();
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port").local_addr().expect("it listens").port();
        let records = Records::new().here(&["one.example"]).service("_matrix-fed._tcp.none.example", 0, ".", 0).service(
            "_matrix-fed._tcp.gone.example",
            0,
            "nowhere.example.",
            1,
        );
        let ready = ready(records, &authority, closed, closed).await;
        for (server, expected) in [
            ("nowhere.example", "its address could not be found: there is no domain nowhere.example".to_owned()),
            ("none.example", "its address could not be found: the domain none.example says that it has no Matrix server".to_owned()),
            ("gone.example", "its address could not be found: there is no domain nowhere.example".to_owned()),
            ("one.example", format!("it could not be reached: 127.0.0.1:{closed}: connection refused")),
        ] {
            assert_eq!(ready.refusal(server).await, expected);
        }

        let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = plain.local_addr().expect("it listens").port();
        spawn_local(async move {
            while let Ok((mut stream, _)) = plain.accept().await {
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.ok();
                while stream.read(&mut [0; 1_024]).await.is_ok_and(|bytes| bytes > 0) {}
            }
        });
        let said = ready.refusal(&format!("one.example:{port}")).await;
        assert!(said.starts_with("it could not be reached: TLS failed: "), "{said}");
    });
}

/// A name may lead anywhere, also by what a web server says.
#[test]
fn only_public_addresses_are_used_unless_the_operator_says_so() {
    run(async {
        let authority = Authority::new();
        let server = serve(authority.acceptor(&["one.example", "known.example", "127.0.0.1"]), |_| leads_to("127.0.0.1:1")).await;
        let records = Records::new()
            .here(&["one.example"])
            .at("six.example", "::1")
            .at("mapped.example", "::ffff:127.0.0.1")
            .at("cloud.example", "169.254.169.254")
            .service("_matrix-fed._tcp.srv.example", 0, "one.example.", server.port);
        let resolve = HashMap::from([("known.example".to_owned(), (Ipv4Addr::LOCALHOST, server.port).into())]);
        let options = Options { authorities: vec![authority.certificate()], resolve, most_connections: 10, ..Options::default() };
        let ready = ready_with(records, options, server.port, server.port).await;
        let port = server.port;
        for name in ["127.0.0.1", "[::1]", "one.example", "six.example", "mapped.example", "cloud.example"] {
            for name in [name.to_owned(), format!("{name}:{port}")] {
                assert_eq!(ready.refusal(&name).await, "it could not be reached: its address is not a public one", "{name}");
            }
        }
        assert_eq!(ready.refusal("srv.example").await, "it could not be reached: its address is not a public one");
        assert_eq!(server.connections(), 0);
        // Where the operator says where a server is, it is there, and nobody else is asked.
        assert_eq!(ready.ask("Known.example").await.expect("it answers").status(), 200);
        assert_eq!(server.asked().len(), 1);
    });
}

#[test]
fn nothing_is_sent_before_it_is_known_that_other_servers_can_answer() {
    run(async {
        let https = Https::new(Options { most_connections: 1, ..Options::default() });
        let send = |server: &str| https.send(server.try_into().expect("a name"), Request::get("/").body(Bytes::new()).expect("a request"));
        assert_eq!(send("one.example").await.err(), Some(TransportError::NoFederation));
        https.open();
        let other = Homeserver::open(Rc::new(MemoryStore::default()), Rc::new(NativeHost::alone()), Config::default()).await.expect("it opens");
        let error = send(other.server_name().as_str()).await.expect_err("it has no address");
        assert_eq!(error.to_string(), "its address could not be found: its name is that of its key, and leads to no address");
    });
}

#[test]
fn connections_are_bounded_and_then_not_kept() {
    run(async {
        let authority = Authority::new();
        let server = serve(authority.acceptor(&["*.many.example"]), hello).await;
        let names: Vec<_> = (0..10).map(|n| format!("s{n}.many.example")).collect();
        let records = Records::new().here(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let options = Options { authorities: vec![authority.certificate()], any_address: true, most_connections: 4, ..Options::default() };
        let ready = ready_with(records, options, 1, 1).await;
        for name in &names {
            let answer = ready.ask(&format!("{name}:{}", server.port)).await.expect("it answers, though only four may be connected");
            whole(answer.into_body()).await.expect("all of it comes");
        }
        assert_eq!(server.connections(), 10);
    });
}

#[test]
fn a_request_that_meets_a_connection_being_closed_is_sent_again() {
    run(async {
        let authority = Authority::new();
        let tls = authority.acceptor(&["one.example"]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("it listens").port();
        // It answers one request on each connection, and closes it when the second one comes.
        let asked = Rc::new(RefCell::new(0));
        let counted = asked.clone();
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = tls.accept(stream).await.expect("TLS");
                let (mut buffer, counted) = ([0; 1_024], counted.clone());
                spawn_local(async move {
                    assert!(stream.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0), "a request");
                    *counted.borrow_mut() += 1;
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.ok();
                    assert!(stream.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0), "another one");
                });
            }
        });
        let ready = ready(Records::new().here(&["one.example"]), &authority, 1, 1).await;
        for _ in 0..2 {
            let answer = ready.ask(&format!("one.example:{port}")).await.expect("it answers");
            whole(answer.into_body()).await.expect("all of it comes");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(*asked.borrow(), 2);
    });
}

#[test]
fn an_answer_that_stops_coming_breaks_off() {
    run(async {
        let authority = Authority::new();
        let tls = authority.acceptor(&["one.example"]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("it listens").port();
        spawn_local(async move {
            let (stream, _) = listener.accept().await.expect("a client");
            let mut stream = tls.accept(stream).await.expect("TLS");
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").await.expect("it is read");
            stream.flush().await.expect("it is read");
            std::future::pending::<()>().await;
        });
        let ready = ready(Records::new().here(&["one.example"]), &authority, 1, 1).await;
        let answer = ready.ask(&format!("one.example:{port}")).await.expect("the head comes");
        tokio::time::pause();
        let began = tokio::time::Instant::now();
        let error = whole(answer.into_body()).await.expect_err("it never ends");
        assert!(error.to_string().contains("too slowly"), "{error}");
        assert_eq!(began.elapsed().as_secs(), 60);
    });
}
