//! OpenID tokens (Client-Server API, "OpenID").

use crate::{
    account::confirm,
    support::{Answer, PASSWORD, TestServer, TestUser, config},
};
use ephapse_homeserver::{Body, Config, Entrance};
use ephapse_store::MemoryStore;
use serde_json::json;
use std::{rc::Rc, time::Duration};

fn request(server: &TestServer, user: &TestUser, of: &TestUser) -> Answer {
    server.post(user, &format!("/_matrix/client/v3/user/{}/openid/request_token", of.id), json!({}))
}

fn token(server: &TestServer, user: &TestUser) -> String {
    request(server, user, user).ok()["access_token"].as_str().expect("a token").to_owned()
}

/// What whoever has a token is told at the entrance of other servers.
fn userinfo(server: &TestServer, query: &str) -> Answer {
    let request = http::Request::get(format!("/_matrix/federation/v1/openid/userinfo{query}"));
    server.run(server.start_at(Entrance::Peer, request.body(Body::from("")).expect("a request")))
}

#[test]
fn a_token_says_who_its_user_is_and_opens_nothing() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let answer = request(&server, &alice, &alice).ok();
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer["matrix_server_name"], "test.example");
    assert_eq!(answer["expires_in"], 3600);
    let given = answer["access_token"].as_str().expect("a token");
    let server = server.restart();
    assert_eq!(userinfo(&server, &format!("?access_token={given}")).ok(), json!({ "sub": alice.id }));
    server.request("GET", "/_matrix/client/v3/account/whoami", Some(given), None).fails(401, "M_UNKNOWN_TOKEN");
    request(&server, &bob, &alice).fails(403, "M_FORBIDDEN");
}

#[test]
fn a_token_that_ended_or_was_never_given_says_nothing() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let given = token(&server, &alice);
    let query = format!("?access_token={given}");
    server.host.advance(Duration::from_secs(59 * 60));
    userinfo(&server, &query).ok();
    // A later end is part of what was given.
    let (ends, rest) = given.split_once('_').expect("a time");
    let later = ends.parse::<u64>().expect("a time") + 3_600_000;
    for wrong in ["", "x", "_", "99999999999999_x", "18446744073709551616_x", alice.token.as_str(), &format!("{later}_{rest}")] {
        userinfo(&server, &format!("?access_token={wrong}")).fails(401, "M_UNKNOWN_TOKEN");
    }
    userinfo(&server, "").fails(401, "M_MISSING_TOKEN");
    server.host.advance(Duration::from_secs(61));
    userinfo(&server, &query).fails(401, "M_UNKNOWN_TOKEN");
}

#[test]
fn nobody_is_who_has_no_account_any_more() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let query = format!("?access_token={}", token(&server, &alice));
    confirm(&server, &alice, "POST", "/_matrix/client/v3/account/deactivate", json!({}), PASSWORD).ok();
    userinfo(&server, &query).fails(401, "M_UNKNOWN_TOKEN");
}

#[test]
fn tokens_are_given_at_a_rate() {
    let server = TestServer::with(Rc::new(MemoryStore::new()), Config { rate_limits: true, ..config() });
    let alice = server.register("alice");
    let refused = (0..100).find(|_| request(&server, &alice, &alice).status == 429);
    assert!(refused.is_some_and(|given| given >= 10), "{refused:?}");
}
