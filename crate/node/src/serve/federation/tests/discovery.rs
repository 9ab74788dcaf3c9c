//! Server-Server API, "Resolving server names": each case leads to the right address and port, with
//! the right `Host` header and the right name of the certificate.

use super::support::{Asked, Authority, Records, leads_to, ready, run, serve, text};

struct Case {
    server: String,
    /// The `Host` header.
    host: String,
    tls_name: Option<&'static str>,
    /// Whether it is the server at the port that stands for none.
    is_default: bool,
    asks_the_web: bool,
}

#[test]
fn every_kind_of_name_leads_to_its_server() {
    run(async {
        let authority = Authority::new();
        // The target of an SRV record has no certificate of its own.
        let certified =
            ["127.0.0.1", "port.example", "m.example", "with.srv.example", "old.srv.example", "srv.example", "alone.example", "web-nonsense.example"];
        let other = serve(authority.acceptor(&certified), |_| text(200, "{}")).await;
        let default = serve(authority.acceptor(&certified), |_| text(200, "{}")).await;
        let port = other.port;
        let delegated = [
            ("web-ip.example", format!("127.0.0.1:{}", other.port)),
            ("web-ip-alone.example", "127.0.0.1".to_owned()),
            ("web-port.example", format!("m.example:{}", other.port)),
            ("web-srv.example", "with.srv.example".to_owned()),
            ("web-old-srv.example", "old.srv.example".to_owned()),
            ("web-alone.example", "m.example".to_owned()),
            ("web-nonsense.example", "not a name".to_owned()),
        ];
        let (said, domains) = (delegated.clone(), delegated.each_ref().map(|(domain, _)| *domain));
        let web = serve(authority.acceptor(&[&domains[..], &["srv.example", "alone.example"]].concat()), move |asked| {
            let found = said.iter().find(|(domain, _)| *domain == asked.host).map(|(_, server)| server);
            found.map_or_else(|| text(404, ""), |server| leads_to(server))
        })
        .await;
        let hosts = ["port.example", "srv.example", "alone.example", "m.example", "target.example"];
        let records = Records::new()
            .here(&hosts)
            .here(&domains)
            .service("_matrix-fed._tcp.with.srv.example", 1, "target.example.", port)
            .service("_matrix._tcp.with.srv.example", 1, "nowhere.example.", 1)
            .service("_matrix._tcp.old.srv.example", 1, "target.example.", port)
            .service("_matrix-fed._tcp.srv.example", 2, "nowhere.example.", 1)
            .service("_matrix-fed._tcp.srv.example", 1, "target.example.", port);
        let ready = ready(records, &authority, web.port, default.port).await;
        let delegating = |server: &str, host: &str, tls_name, is_default| Case {
            server: server.to_owned(),
            host: host.to_owned(),
            tls_name,
            is_default,
            asks_the_web: true,
        };
        let itself = |server: &str, tls_name, is_default| delegating(server, server, tls_name, is_default);
        let with_port = |host: &str| format!("{host}:{port}");
        for Case { server, host, tls_name, is_default, asks_the_web } in [
            // 1. IP literals.
            Case { asks_the_web: false, ..itself(&with_port("127.0.0.1"), None, false) },
            Case { asks_the_web: false, ..itself("127.0.0.1", None, true) },
            // 2. A port.
            Case { asks_the_web: false, ..itself(&with_port("port.example"), Some("port.example"), false) },
            // 3. The web server says it.
            delegating("web-ip.example", &with_port("127.0.0.1"), None, false),
            delegating("web-ip-alone.example", "127.0.0.1", None, true),
            delegating("web-port.example", &with_port("m.example"), Some("m.example"), false),
            delegating("web-srv.example", "with.srv.example", Some("with.srv.example"), false),
            delegating("web-old-srv.example", "old.srv.example", Some("old.srv.example"), false),
            delegating("web-alone.example", "m.example", Some("m.example"), true),
            // 4. It does not, and DNS does.
            itself("srv.example", Some("srv.example"), false),
            // 6. Nobody says anything.
            itself("alone.example", Some("alone.example"), true),
            itself("web-nonsense.example", Some("web-nonsense.example"), true),
        ] {
            assert_eq!(ready.ask(&server).await.expect(&server).status(), 200, "{server}");
            let (at, elsewhere) = if is_default { (&default, &other) } else { (&other, &default) };
            let expected = Asked { host, tls_name: tls_name.map(str::to_owned), path: "/_matrix/federation/v1/version".to_owned() };
            assert_eq!(at.asked(), [expected], "{server}");
            assert_eq!(elsewhere.asked(), [], "{server}");
            let on_the_web: Vec<_> = web.asked().into_iter().map(|asked| (asked.host, asked.path)).collect();
            let well_known = (server.clone(), "/.well-known/matrix/server".to_owned());
            assert_eq!(on_the_web, if asks_the_web { vec![well_known] } else { Vec::new() }, "{server}");
        }
    });
}
