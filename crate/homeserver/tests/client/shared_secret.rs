//! `/_synapse/admin/v1/register`.

use crate::support::{TestServer, config};
use ephapse_homeserver::{Config, Registration};
use ephapse_store::MemoryStore;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use std::{rc::Rc, time::Duration};

const PATH: &str = "/_synapse/admin/v1/register";

fn server() -> TestServer {
    let config = Config { registration: Registration::Closed, registration_shared_secret: Some("our secret".to_owned()), ..config() };
    TestServer::with(Rc::new(MemoryStore::new()), config)
}

fn nonce(server: &TestServer) -> String {
    server.request("GET", PATH, None, None).ok()["nonce"].as_str().expect("a nonce").to_owned()
}

fn mac(secret: &str, parts: &[&str]) -> String {
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(parts.join("\0").as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn body(nonce: &str, secret: &str) -> Value {
    let mac = mac(secret, &[nonce, "carol", "a password", "notadmin"]);
    json!({ "nonce": nonce, "username": "carol", "password": "a password", "admin": false, "mac": mac })
}

#[test]
fn who_knows_the_secret_makes_accounts_although_registration_is_closed() {
    let server = server();
    let answer = server.request("POST", PATH, None, Some(body(&nonce(&server), "our secret"))).ok();
    assert_eq!(answer["user_id"], "@carol:test.example");
    let token = answer["access_token"].as_str().expect("a token");
    assert_eq!(server.request("GET", "/_matrix/client/v3/account/whoami", Some(token), None).ok()["user_id"], "@carol:test.example");
    let login = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "carol" }, "password": "a password" });
    server.request("POST", "/_matrix/client/v3/login", None, Some(login)).ok();
}

#[test]
fn a_wrong_secret_an_old_nonce_and_a_made_up_one_are_refused() {
    let server = server();
    server.request("POST", PATH, None, Some(body(&nonce(&server), "a guess"))).fails(403, "M_FORBIDDEN");
    server.request("POST", PATH, None, Some(body("made up", "our secret"))).fails(400, "M_UNKNOWN");
    let old = nonce(&server);
    server.host.advance(Duration::from_secs(61));
    server.request("POST", PATH, None, Some(body(&old, "our secret"))).fails(400, "M_UNKNOWN");
    let used = nonce(&server);
    server.request("POST", PATH, None, Some(body(&used, "our secret"))).ok();
    server.request("POST", PATH, None, Some(body(&used, "our secret"))).fails(400, "M_USER_IN_USE");
}

#[test]
fn without_a_secret_there_is_no_such_endpoint() {
    let server = TestServer::new();
    server.request("GET", PATH, None, None).fails(404, "M_UNRECOGNIZED");
    server.request("POST", PATH, None, Some(body("made up", ""))).fails(404, "M_UNRECOGNIZED");
}
