//! What other servers are answered.

use crate::{
    rooms::room,
    support::{Answer, TestServer, config},
};
use ephapse_events::signing_key;
use ephapse_homeserver::{
    Body, Config, Entrance,
    identity::{key_of_name, name_of_key},
};
use ephapse_store::MemoryStore;
use ruma::{
    CanonicalJsonObject, OwnedServerName,
    api::federation::authentication::{XMatrix, XMatrixSigningInput},
    serde::Base64,
    server_name,
    signatures::{Ed25519KeyPair, verify_json},
};
use serde_json::{Value, json};
use std::rc::Rc;

/// Another server, whose key follows from its name.
struct Peer {
    name: OwnedServerName,
    key: Ed25519KeyPair,
}

impl Peer {
    fn new() -> Self {
        let seed = [7; 32];
        Self { name: name_of_key(&ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key()), key: signing_key(&seed, "0") }
    }

    /// What it is answered to a request that it signs.
    fn get(&self, server: &TestServer, path: &str) -> Answer {
        let request = http::Request::get(path).body(Vec::new()).expect("a request");
        let input = XMatrixSigningInput::new(self.name.clone(), server_name!("test.example").to_owned(), &self.key);
        let authorization = XMatrix::sign_http_request(&request, input).expect("it is signed");
        ask(server, path, Some(&authorization.to_string()))
    }
}

fn ask(server: &TestServer, path: &str, authorization: Option<&str>) -> Answer {
    let mut request = http::Request::get(path);
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    server.run(server.start_at(Entrance::Peer, request.body(Body::from("")).expect("a request")))
}

#[test]
fn a_server_says_what_it_is() {
    let server = TestServer::new();
    let answer = ask(&server, "/_matrix/federation/v1/version", None).ok();
    assert_eq!(answer, json!({ "server": { "name": "ephapse", "version": env!("CARGO_PKG_VERSION") } }));
}

#[test]
fn a_server_with_a_public_url_says_where_it_is() {
    let asked = |public_url: Option<&str>| {
        let server = TestServer::with(Rc::new(MemoryStore::new()), Config { public_url: public_url.map(str::to_owned), ..config() });
        ask(&server, "/.well-known/matrix/server", None)
    };
    assert_eq!(asked(Some("https://chat.example")).ok(), json!({ "m.server": "chat.example:443" }));
    assert_eq!(asked(Some("https://chat.example:8443")).ok(), json!({ "m.server": "chat.example:8443" }));
    asked(Some("http://chat.example")).fails(404, "M_NOT_FOUND");
    asked(None).fails(404, "M_NOT_FOUND");
}

/// The form is that of `definitions/keys.yaml`.
#[test]
fn a_server_publishes_the_key_that_its_events_are_signed_with() {
    let server = TestServer::new();
    let now = server.now();
    let answer = ask(&server, "/_matrix/key/v2/server", None).ok();
    assert_eq!(answer["server_name"], "test.example");
    assert_eq!(answer["old_verify_keys"], json!({}));
    let verify_keys = answer["verify_keys"].as_object().expect("an object");
    assert_eq!(verify_keys.keys().collect::<Vec<_>>(), ["ed25519:0"]);
    let key = verify_keys["ed25519:0"]["key"].as_str().expect("a key");
    assert_eq!((key.len(), key.contains('=')), (43, false), "unpadded Base64 of 32 bytes");
    // "Originating servers should avoid returning responses that expire in less than an hour".
    let valid_until = answer["valid_until_ts"].as_u64().expect("an integer");
    assert!((now + 60 * 60 * 1000..=now + 7 * 24 * 60 * 60 * 1000).contains(&valid_until), "{valid_until}");

    let keys = [("test.example".to_owned(), [("ed25519:0".to_owned(), Base64::parse(key).expect("Base64"))].into())].into();
    let signed: CanonicalJsonObject = serde_json::from_value(answer.clone()).expect("canonical JSON");
    verify_json(&keys, &signed).expect("it is signed with the key that it publishes");
    let mut changed = signed;
    changed.insert("valid_until_ts".to_owned(), false.into());
    verify_json(&keys, &changed).expect_err("what is changed is not signed");
}

#[test]
fn a_server_without_a_name_of_its_own_publishes_the_key_of_its_name() {
    let server = TestServer::with(Rc::new(MemoryStore::new()), Config { server_name: None, ..config() });
    let answer = ask(&server, "/_matrix/key/v2/server", None).ok();
    let name: OwnedServerName = serde_json::from_value(answer["server_name"].clone()).expect("a name");
    let key: Base64 = Base64::new(key_of_name(&name).expect("a name says its key").to_bytes().to_vec());
    assert_eq!(answer["verify_keys"]["ed25519:0"]["key"], json!(key));
}

#[test]
fn other_servers_learn_a_user_s_profile() {
    let server = TestServer::new();
    let alice = server.register("alice");
    server.put(&alice, &format!("/_matrix/client/v3/profile/{}/m.tz", alice.id), json!({ "m.tz": "Europe/Berlin" })).ok();
    let peer = Peer::new();
    let profile = |query: &str| peer.get(&server, &format!("/_matrix/federation/v1/query/profile?{query}"));
    let of_alice = format!("user_id={}", alice.id);
    assert_eq!(profile(&of_alice).ok(), json!({ "displayname": "alice", "m.tz": "Europe/Berlin" }));
    assert_eq!(profile(&format!("{of_alice}&field=displayname")).ok(), json!({ "displayname": "alice" }));
    assert_eq!(profile(&format!("{of_alice}&field=avatar_url")).ok(), json!({}));
    for unknown in ["user_id=@nobody:test.example", "user_id=@alice:other.example"] {
        profile(unknown).fails(404, "M_NOT_FOUND");
    }
    for wrong in ["", "user_id=alice"] {
        assert_eq!(profile(wrong).status, 400, "{wrong}");
    }
}

#[test]
fn other_servers_learn_where_an_alias_leads() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({ "room_alias_name": "here" }));
    let peer = Peer::new();
    let room_of = |alias: &str| peer.get(&server, &format!("/_matrix/federation/v1/query/directory?room_alias=%23{alias}"));
    assert_eq!(room_of("here:test.example").ok(), json!({ "room_id": id, "servers": ["test.example"] }));
    room_of("there:test.example").fails(404, "M_NOT_FOUND");
    room_of("here:other.example").fails(404, "M_NOT_FOUND");
}

#[test]
fn who_does_not_sign_is_not_answered() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = format!("/_matrix/federation/v1/query/profile?user_id={}", alice.id);
    ask(&server, &path, None).fails(401, "M_UNAUTHORIZED");
    ask(&server, &path, Some(&format!("Bearer {}", alice.token))).fails(401, "M_UNAUTHORIZED");
    for malformed in ["X-Matrix origin=\"localhost:http\",key=\"ed25519:1\",sig=\"AAAA\"", "X-Matrix nonsense"] {
        ask(&server, &path, Some(malformed)).fails(400, "M_UNAUTHORIZED");
    }
    let peer = Peer::new();
    let for_another_path = XMatrix::sign_http_request(
        &http::Request::get("/_matrix/federation/v1/query/profile?user_id=@bob:test.example").body(Vec::new()).expect("a request"),
        XMatrixSigningInput::new(peer.name.clone(), server_name!("test.example").to_owned(), &peer.key),
    );
    ask(&server, &path, Some(&for_another_path.expect("it is signed").to_string())).fails(401, "M_UNAUTHORIZED");
    assert_eq!(peer.get(&server, &path).ok()["displayname"], Value::from("alice"));
}

#[test]
fn senseless_questions_of_other_servers_are_answered_with_an_error_of_theirs() {
    let server = TestServer::new();
    let peer = Peer::new();
    let long = format!("?user_id=@{0}:test.example&room_alias=%23{0}:test.example", "a".repeat(2000));
    let queries: [&str; 6] =
        ["?user_id=%00&field=%00", "?user_id=@a:test.example&field=%ff", "?room_alias=%23", "?room_alias=%23:&room_alias", "?&&=%", &long];
    for (_, path) in server.hs.endpoints(Entrance::Peer).iter().filter(|(_, path)| path.contains("/query/")) {
        for query in queries {
            let status = peer.get(&server, &format!("{path}{query}")).status;
            assert!((400..500).contains(&status), "{path}{query}: {status}");
        }
    }
}
