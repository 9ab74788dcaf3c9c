//! Signing keys, of this server and of others.

use crate::support::{Answer, Network, TestServer, config};
use ephapse_homeserver::{Body, Config, Entrance};
use ephapse_store::MemoryStore;
use serde_json::json;
use std::{rc::Rc, time::Duration};

fn ask(server: &TestServer, method: &str, path: &str, body: &str) -> Answer {
    let request = http::Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).expect("a request");
    server.run(server.start_at(Entrance::Peer, request))
}

#[test]
fn a_notary_signs_what_another_server_says_of_its_keys() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let by_path = ask(&one, "GET", "/_matrix/key/v2/query/two.example", "").ok();
    let query = json!({ "server_keys": { "two.example": {}, "three.example": {}, "one.example": {} } }).to_string();
    let by_body = ask(&one, "POST", "/_matrix/key/v2/query", &query).ok();
    let own = ask(&two, "GET", "/_matrix/key/v2/server", "").ok();
    for keys in [&by_path["server_keys"][0], &by_body["server_keys"][1]] {
        assert_eq!(keys["server_name"], "two.example");
        assert_eq!(keys["verify_keys"], own["verify_keys"]);
        assert!(keys["signatures"]["two.example"]["ed25519:0"].is_string(), "{keys}");
        assert!(keys["signatures"]["one.example"]["ed25519:0"].is_string(), "{keys}");
    }
    assert_eq!(by_body["server_keys"].as_array().map(Vec::len), Some(2), "of who cannot be reached there is nothing: {by_body}");
    // Servers of before v1.6 name a key.
    assert_eq!(ask(&two, "GET", "/_matrix/key/v2/server/ed25519:0", "").ok()["verify_keys"], own["verify_keys"]);
    assert_eq!(ask(&one, "GET", "/_matrix/key/v2/query/two.example/ed25519:0", "").ok()["server_keys"][0]["verify_keys"], own["verify_keys"]);
    // It is asked for once.
    let fetched = network.sent().into_iter().filter(|sent| sent.to == "two.example").count();
    assert_eq!(fetched, 1);
    network.set_down(&two, true);
    assert_eq!(ask(&one, "GET", "/_matrix/key/v2/query/two.example", "").ok()["server_keys"][0]["server_name"], "two.example");
}

/// What a notary passes on is signed by two, which was taken for a forgery: no notary ever helped.
#[test]
fn a_notary_says_the_keys_of_a_server_that_is_away() {
    let network = Network::new();
    let trusting =
        Config { trusted_key_servers: vec!["nowhere.example".try_into().expect("a name"), "two.example".try_into().expect("a name")], ..config() };
    let one = network.server_with("one.example", Rc::new(MemoryStore::new()), trusting);
    let (two, three) = (network.server("two.example"), network.server("three.example"));
    one.register("alice");
    ask(&two, "GET", "/_matrix/key/v2/query/three.example", "").ok();
    network.set_down(&three, true);
    let profile = "/_matrix/federation/v1/query/profile?user_id=@alice:one.example";
    three.ask(&one, "GET", profile, None).ok();
    // Whoever trusts nobody cannot know who that is.
    let four = network.server("four.example");
    four.register("alice");
    three.ask(&four, "GET", "/_matrix/federation/v1/query/profile?user_id=@alice:four.example", None).fails(401, "M_UNAUTHORIZED");
}

/// What was lost on its way kept a server from being believed for a minute.
#[test]
fn keys_that_could_not_be_had_are_asked_for_again_soon() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    one.register("alice");
    let profile = "/_matrix/federation/v1/query/profile?user_id=@alice:one.example";
    network.set_down(&two, true);
    two.ask(&one, "GET", profile, None).fails(401, "M_UNAUTHORIZED");
    network.set_down(&two, false);
    network.pass(Duration::from_secs(2));
    two.ask(&one, "GET", profile, None).ok();
    // Whoever does not answer for long is asked less and less often.
    let three = network.server("three.example");
    network.set_down(&three, true);
    network.sent();
    for _ in 0..600 {
        three.ask(&one, "GET", profile, None).fails(401, "M_UNAUTHORIZED");
        network.pass(Duration::from_secs(1));
    }
    let asked = network.sent().into_iter().filter(|sent| sent.to == "three.example").count();
    assert!((10..=20).contains(&asked), "{asked} times in ten minutes");
}
