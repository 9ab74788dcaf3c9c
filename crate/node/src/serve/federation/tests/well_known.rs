//! What web servers answer for `/.well-known/matrix/server`, and how often they are asked.

use super::super::Ready;
use super::support::{Authority, Records, Server, leads_to, ready, run, serve, text};
use bytes::Bytes;
use http::{Response, header::LOCATION};
use http_body_util::Full;
use std::{cell::Cell, rc::Rc, time::Duration};
use tokio::time::{advance, pause, resume};

fn redirect(to: &str) -> Response<Full<Bytes>> {
    let mut response = text(302, "");
    response.headers_mut().insert(LOCATION, to.parse().expect("a header"));
    response
}

/// A web server, a Matrix server where the domain leads by itself, and one where it is led.
struct Internet {
    ready: Ready,
    web: Server,
    own: Server,
    led: Server,
}

impl Internet {
    /// `answer` is given the port of the server where the domain is to lead.
    async fn new(answer: impl Fn(&str, &str, u16) -> Response<Full<Bytes>> + 'static) -> Self {
        let authority = Authority::new();
        let tls = authority.acceptor(&["one.example", "two.example", "m.example", "www.example"]);
        let (own, led) = (serve(tls.clone(), |_| text(200, "{}")).await, serve(tls.clone(), |_| text(200, "{}")).await);
        let port = led.port;
        let web = serve(tls, move |asked| answer(&asked.host, &asked.path, port)).await;
        let records = Records::new().here(&["one.example", "two.example", "m.example", "www.example"]);
        let ready = ready(records, &authority, web.port, own.port).await;
        Self { ready, web, own, led }
    }

    /// Whether a request to the domain goes where the web server leads.
    async fn is_led(&self, domain: &str) -> bool {
        let answer = self.ready.ask(domain).await.expect("one of the two answers");
        assert_eq!(answer.status(), 200);
        let (led, own) = (self.led.asked().len(), self.own.asked().len());
        assert_eq!(led + own, 1);
        led == 1
    }
}

#[test]
fn redirects_are_followed_but_not_round_in_circles_nor_away_from_https() {
    run(async {
        let internet = Internet::new(|host, path, port| match (host, path) {
            ("one.example", "/.well-known/matrix/server") => redirect("/elsewhere?a=b"),
            ("one.example", "/elsewhere?a=b") => redirect("https://www.example/there"),
            ("www.example", "/there") => leads_to(&format!("m.example:{port}")),
            ("two.example", "/.well-known/matrix/server") => redirect("/.well-known/matrix/server"),
            ("www.example", _) => redirect("http://www.example/there"),
            _ => redirect(""),
        })
        .await;
        assert!(internet.is_led("one.example").await);
        assert_eq!(internet.web.asked().len(), 3);
        assert!(!internet.is_led("two.example").await);
        assert_eq!(internet.web.asked().len(), 11);
        assert!(!internet.is_led("www.example").await);
        assert_eq!(internet.web.asked().len(), 1);
    });
}

#[test]
fn a_long_answer_says_nothing() {
    run(async {
        let padded = |port: u16, bytes: usize| text(200, &format!(r#"{{"m.server":"m.example:{port}","padding":"{}"}}"#, "x".repeat(bytes)));
        let internet = Internet::new(move |host, _, port| padded(port, if host == "one.example" { 50 << 10 } else { 40 << 10 })).await;
        assert!(!internet.is_led("one.example").await);
        assert!(internet.is_led("two.example").await);
    });
}

#[test]
fn an_answer_is_remembered_for_its_time() {
    run(async {
        let internet = Internet::new(|_, _, port| {
            let mut answer = leads_to(&format!("m.example:{port}"));
            answer.headers_mut().insert("cache-control", "max-age=600".parse().expect("a header"));
            answer
        })
        .await;
        for _ in 0..3 {
            assert!(internet.is_led("one.example").await);
        }
        assert_eq!(internet.web.asked().len(), 1);
        pause();
        advance(Duration::from_secs(601)).await;
        resume();
        assert!(internet.is_led("one.example").await);
        assert_eq!(internet.web.asked().len(), 1);
    });
}

#[test]
fn who_asks_at_the_same_time_waits_for_the_same_answer() {
    run(async {
        let internet = Internet::new(|_, _, port| leads_to(&format!("m.example:{port}"))).await;
        let ask = || internet.ready.ask("one.example");
        let answers = tokio::join!(ask(), ask(), ask());
        assert!(answers.0.is_ok() && answers.1.is_ok() && answers.2.is_ok());
        assert_eq!((internet.web.asked().len(), internet.led.asked().len()), (1, 3));
    });
}

/// A domain that moved its Matrix server by a file does not lose it when its web server fails, and
/// one that has no such file is not asked again and again.
#[test]
fn a_web_server_that_fails_is_asked_again_later() {
    run(async {
        let status = Rc::new(Cell::new(200));
        let said = status.clone();
        let internet = Internet::new(move |_, _, port| match said.get() {
            200 => leads_to(&format!("m.example:{port}")),
            other => text(other, ""),
        })
        .await;
        let later = async |hours: u64| {
            pause();
            advance(Duration::from_secs(hours * 60 * 60)).await;
            resume();
        };
        assert!(internet.is_led("one.example").await);
        status.set(503);
        later(25).await;
        assert!(internet.is_led("one.example").await);
        assert!(internet.is_led("one.example").await);
        assert_eq!(internet.web.asked().len(), 2, "not asked again at once");
        status.set(404);
        later(1).await;
        assert!(!internet.is_led("one.example").await);
        status.set(200);
        assert!(!internet.is_led("one.example").await, "for an hour");
        later(1).await;
        assert!(internet.is_led("one.example").await);
    });
}
