//! Keys of devices (Client-Server API, Key management API).

use crate::{
    account::confirm,
    members::act,
    rooms::room,
    signing::{Key, device_keys, one_time_key},
    slow::SlowStore,
    support::{Answer, PASSWORD, TestServer, TestUser, config},
};
use ephapse_store::{StoreError, unreliable::UnreliableStore};
use futures_util::future::join_all;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{collections::BTreeSet, rc::Rc, time::Duration};

const UPLOAD: &str = "/_matrix/client/v3/keys/upload";
const QUERY: &str = "/_matrix/client/v3/keys/query";
const CLAIM: &str = "/_matrix/client/v3/keys/claim";

fn one_time_keys(user: &TestUser, key: &Key, names: impl IntoIterator<Item = u32>) -> Value {
    let keys = names.into_iter().map(|name| (format!("signed_curve25519:{name:04}"), one_time_key(user, key, &name.to_string(), false)));
    Value::Object(keys.collect())
}

fn claim_of(user: &TestUser) -> Value {
    json!({ "one_time_keys": { &user.id: { &user.device: "signed_curve25519" } } })
}

/// The id and the key that a claim of one key was answered with.
fn claimed(answer: Answer, user: &TestUser) -> Option<(String, Value)> {
    let body = answer.ok();
    let keys = body["one_time_keys"].get(&user.id)?[&user.device].as_object().expect("keys of the device").clone();
    assert_eq!(keys.len(), 1);
    keys.into_iter().next()
}

#[test]
fn counts_are_of_every_algorithm_also_when_there_is_none() {
    let server = TestServer::new();
    let alice = server.register("alice");
    assert_eq!(server.post(&alice, UPLOAD, json!({})).ok(), json!({ "one_time_key_counts": { "signed_curve25519": 0 } }));
    let key = Key::new(1);
    let mut keys = one_time_keys(&alice, &key, 0..3);
    keys["unknown_algorithm:a"] = "text".into();
    let counts = server.post(&alice, UPLOAD, json!({ "one_time_keys": keys })).ok();
    assert_eq!(counts, json!({ "one_time_key_counts": { "signed_curve25519": 3, "unknown_algorithm": 1 } }));
}

#[test]
fn who_asks_for_very_many_keys_lets_others_go_on_and_gets_each_once() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    server.post(&alice, UPLOAD, json!({ "device_keys": device_keys(&alice, &Key::new(1)) })).ok();
    let yields = |body: Value, path: &str| {
        let before = server.host.yielded.get();
        (server.post(&bob, path, body), server.host.yielded.get() - before)
    };
    let devices =
        |count: usize| -> Value { (0..count).map(|n| (format!("D{n}"), json!("signed_curve25519"))).collect::<serde_json::Map<_, _>>().into() };
    let (answer, yielded) = yields(json!({ "one_time_keys": { &alice.id: devices(5_000) } }), CLAIM);
    assert_eq!(answer.ok()["one_time_keys"], json!({}));
    assert!(yielded >= 5_000 / 64, "{yielded} yields");
    yields(json!({ "one_time_keys": { &alice.id: devices(10_001) } }), CLAIM).0.fails(413, "M_TOO_LARGE");

    let (answer, _) = yields(json!({ "device_keys": { &alice.id: vec![&alice.device; 50_000] } }), QUERY);
    assert_eq!(answer.ok()["device_keys"][&alice.id].as_object().map(|keys| keys.len()), Some(1));
    let names: Vec<String> = (0..10_001).map(|n| format!("D{n}")).collect();
    yields(json!({ "device_keys": { &alice.id: names } }), QUERY).0.fails(413, "M_TOO_LARGE");
    let users: serde_json::Map<_, _> = (0..1_000).map(|n| (format!("@u{n}:test.example"), json!([]))).collect();
    let (answer, yielded) = yields(json!({ "device_keys": users }), QUERY);
    answer.ok();
    assert!(yielded >= 1_000 / 64, "{yielded} yields");
}

/// A request that named very many servers, or very many users of whom it wanted nothing, was
/// answered in one go.
#[test]
fn who_asks_for_keys_of_very_many_users_lets_others_go_on() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let users = |count: usize, devices: Value| -> Value { (0..count).map(|n| (format!("@u:s{n}.example"), devices.clone())).collect() };
    for (path, name, devices) in [(QUERY, "device_keys", json!([])), (CLAIM, "one_time_keys", json!({}))] {
        let before = server.host.yielded.get();
        let answer = server.post(&alice, path, json!({ name: users(5_000, devices.clone()) })).ok();
        assert_eq!(answer["failures"].as_object().map(|failures| failures.len()), Some(5_000));
        let yields = server.host.yielded.get() - before;
        assert!(yields >= 5_000 / 64, "{yields} yields");
        server.post(&alice, path, json!({ name: users(10_001, devices) })).fails(413, "M_TOO_LARGE");
    }
}

/// Keys that the device had not signed, or whose signature was wrong, were refused. The
/// specification knows no such answer: what is signed is verified by other clients, who trust no
/// device that has not signed its keys.
#[test]
fn identity_keys_are_those_of_the_device_and_their_signatures_for_others_to_verify() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let key = Key::new(1);
    let upload = |keys: &Value| server.post(&alice, UPLOAD, json!({ "device_keys": keys }));
    upload(&device_keys(&bob, &key)).fails(400, "M_INVALID_PARAM");
    upload(&device_keys(&TestUser { device: "OTHER".to_owned(), ..alice.clone() }, &key)).fails(400, "M_INVALID_PARAM");
    let right = device_keys(&alice, &key);
    let mut incomplete = right.clone();
    incomplete.as_object_mut().expect("an object").remove("keys");
    upload(&incomplete).fails(400, "M_BAD_JSON");
    let mut wrongly_signed = right.clone();
    wrongly_signed["algorithms"] = json!([]);
    let mut unsigned = right.clone();
    unsigned["signatures"] = json!({});
    for mut keys in [unsigned, wrongly_signed, right.clone(), right] {
        upload(&keys).ok();
        let shown = server.post(&bob, QUERY, json!({ "device_keys": { &alice.id: [] } })).ok();
        keys["unsigned"] = json!({});
        assert_eq!(shown["device_keys"][&alice.id][&alice.device], keys);
    }
}

#[test]
fn devices_are_shown_as_they_were_uploaded_with_their_names() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let tablet = server.login("bob", Some("TABLET"));
    let query = |wanted: Value| server.post(&alice, QUERY, json!({ "device_keys": wanted })).ok();
    assert_eq!(query(json!({ &bob.id: [] }))["device_keys"], json!({ &bob.id: {} }), "no device of his has keys");
    for (user, seed) in [(&bob, 1), (&tablet, 2)] {
        server.post(user, UPLOAD, json!({ "device_keys": device_keys(user, &Key::new(seed)) })).ok();
    }
    server.put(&bob, &format!("/_matrix/client/v3/devices/{}", bob.device), json!({ "display_name": "Bob's phone" })).ok();
    let found = query(json!({ &bob.id: [] }))["device_keys"][&bob.id].clone();
    let mut expected = device_keys(&bob, &Key::new(1));
    expected["unsigned"] = json!({ "device_display_name": "Bob's phone" });
    assert_eq!(found[&bob.device], expected);
    assert_eq!(found["TABLET"]["unsigned"], json!({}));
    let found = query(json!({ &bob.id: ["TABLET", "GONE"], "@nobody:test.example": [], "@carol:elsewhere.example": [] }));
    assert_eq!(found["device_keys"].as_object().expect("users").keys().collect::<Vec<_>>(), [&bob.id, "@nobody:test.example"]);
    assert_eq!(found["device_keys"][&bob.id].as_object().expect("devices").keys().collect::<Vec<_>>(), ["TABLET"]);
    assert_eq!(found["failures"].as_object().expect("servers").keys().collect::<Vec<_>>(), ["elsewhere.example"]);
}

#[test]
fn one_time_keys_are_given_in_the_order_of_upload_then_the_fallback_key_again_and_again() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let key = Key::new(1);
    let fallback = json!({ "signed_curve25519:fallback": one_time_key(&bob, &key, "fallback", true) });
    server.post(&bob, UPLOAD, json!({ "one_time_keys": one_time_keys(&bob, &key, [9]), "fallback_keys": fallback })).ok();
    let counts = server.post(&bob, UPLOAD, json!({ "one_time_keys": one_time_keys(&bob, &key, [1, 2]) })).ok();
    assert_eq!(counts["one_time_key_counts"]["signed_curve25519"], 3, "a fallback key is not counted");
    let claim = || claimed(server.post(&alice, CLAIM, claim_of(&bob)), &bob).expect("a key");
    let (first, content) = claim();
    assert_eq!(first, "signed_curve25519:0009");
    assert_eq!(content, one_time_key(&bob, &key, "9", false));
    let names: BTreeSet<String> = [claim().0, claim().0].into();
    assert_eq!(names, ["signed_curve25519:0001".to_owned(), "signed_curve25519:0002".to_owned()].into());
    for _ in 0..2 {
        assert_eq!(claim(), ("signed_curve25519:fallback".to_owned(), one_time_key(&bob, &key, "fallback", true)));
    }
    let nothing = server.post(&alice, CLAIM, json!({ "one_time_keys": { &bob.id: { &bob.device: "other", "GONE": "signed_curve25519" } } })).ok();
    assert_eq!(nothing["one_time_keys"], json!({}));
}

/// matrix-sdk-crypto asked 666 times in ten seconds for the keys of somebody whose name was
/// mistyped in an invitation, since no answer spoke of them.
#[test]
fn every_user_whose_keys_are_asked_for_is_in_the_answer() {
    let server = TestServer::new();
    let [alice, bob, gone] = ["alice", "bob", "gone"].map(|name| server.register(name));
    confirm(&server, &gone, "POST", "/_matrix/client/v3/account/deactivate", json!({}), PASSWORD).ok();
    // Somebody without an account of whom the server has heard all the same.
    let id = room(&server, &alice, json!({}));
    act(&server, &alice, &id, "ban", json!({ "user_id": "@banned:test.example" })).ok();
    let locals = [bob.id.as_str(), gone.id.as_str(), "@banned:test.example", "@nobody:test.example"];
    let remotes = ["@carol:elsewhere.example", "@dave:elsewhere.example:8448", "@erin:elsewhere.example"];
    let asked: serde_json::Map<String, Value> = locals.iter().chain(&remotes).map(|user| ((*user).to_owned(), json!([]))).collect();
    let found = server.post(&alice, QUERY, json!({ "device_keys": asked })).ok();
    for user in locals {
        assert_eq!(found["device_keys"][user], json!({}), "{user}");
    }
    let failed: Vec<&String> = found["failures"].as_object().expect("servers").keys().collect();
    assert_eq!(failed, ["elsewhere.example", "elsewhere.example:8448"]);

    // Of a claim who has no key is left out, as the specification has it; servers that cannot be
    // asked are named all the same.
    let asked: serde_json::Map<String, Value> =
        locals.iter().chain(&remotes).map(|user| ((*user).to_owned(), json!({ "D": "signed_curve25519" }))).collect();
    let claimed = server.post(&alice, CLAIM, json!({ "one_time_keys": asked })).ok();
    assert_eq!((&claimed["one_time_keys"], &claimed["failures"]), (&json!({}), &found["failures"]));
}

#[test]
fn a_key_is_replaced_by_no_other_one_and_a_repeated_upload_brings_no_claimed_key_back() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let key = Key::new(1);
    let keys = json!({ "one_time_keys": one_time_keys(&bob, &key, 0..2) });
    server.post(&bob, UPLOAD, keys.clone()).ok();
    assert_eq!(server.post(&bob, UPLOAD, keys.clone()).ok()["one_time_key_counts"]["signed_curve25519"], 2);
    let other = json!({ "one_time_keys": { "signed_curve25519:0001": one_time_key(&bob, &key, "another", false) } });
    server.post(&bob, UPLOAD, other).fails(400, "M_INVALID_PARAM");
    // The answer to the upload was lost; before the client repeats it, somebody claims one of the
    // keys.
    let (first, _) = claimed(server.post(&alice, CLAIM, claim_of(&bob)), &bob).expect("a key");
    assert_eq!(server.post(&bob, UPLOAD, keys).ok()["one_time_key_counts"]["signed_curve25519"], 1);
    let (second, _) = claimed(server.post(&alice, CLAIM, claim_of(&bob)), &bob).expect("a key");
    assert_ne!(first, second);
    assert_eq!(claimed(server.post(&alice, CLAIM, claim_of(&bob)), &bob), None);
    for wrong in [json!({ "signed_curve25519:a": "no object" }), json!({ "signed_curve25519:a": { "key": "unsigned" } }), json!({ "plain:a": 5 })] {
        server.post(&bob, UPLOAD, json!({ "one_time_keys": wrong })).fails(400, "M_BAD_JSON");
    }
}

/// It was forgotten after a week that a key had been claimed.
#[test]
fn a_claimed_key_stays_claimed_as_long_as_its_device_is_there() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let key = Key::new(1);
    let keys = json!({ "one_time_keys": one_time_keys(&bob, &key, 0..1) });
    server.post(&bob, UPLOAD, keys.clone()).ok();
    claimed(server.post(&alice, CLAIM, claim_of(&bob)), &bob).expect("a key");
    server.host.advance(Duration::from_secs(365 * 24 * 3600));
    let server = server.restart();
    let count = |keys: &Value| server.post(&bob, UPLOAD, keys.clone()).ok()["one_time_key_counts"]["signed_curve25519"].clone();
    for _ in 0..2 {
        assert_eq!(count(&keys), 0);
    }
    // It is the same key under any name.
    assert_eq!(count(&json!({ "one_time_keys": { "signed_curve25519:other": one_time_key(&bob, &key, "0", false) } })), 0);
    assert_eq!(claimed(server.post(&alice, CLAIM, claim_of(&bob)), &bob), None);
    // A name may be used again for another key.
    assert_eq!(count(&json!({ "one_time_keys": { "signed_curve25519:0000": one_time_key(&bob, &key, "new", false) } })), 1);
    let (_, given) = claimed(server.post(&alice, CLAIM, claim_of(&bob)), &bob).expect("a key");
    assert_eq!(given, one_time_key(&bob, &key, "new", false));
}

/// One key under two names was given to two people.
#[test]
fn one_key_under_two_names_is_given_once() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let counts = |answer: Answer| answer.ok()["one_time_key_counts"]["plain"].clone();
    let keys = json!({ "plain:A": "one", "plain:B": "one", "plain:C": "two", "plain:D": "one", "plain:E": "two" });
    assert_eq!(counts(server.post(&bob, UPLOAD, json!({ "one_time_keys": keys }))), 5);
    let claim = || {
        let claim = json!({ "one_time_keys": { &bob.id: { &bob.device: "plain" } } });
        claimed(server.post(&alice, CLAIM, claim), &bob).map(|(_, key)| key)
    };
    assert_eq!([claim(), claim(), claim()], [Some(json!("one")), Some(json!("two")), None]);
    assert_eq!(counts(server.post(&bob, UPLOAD, json!({}))), Value::Null, "none is left");
}

/// Claimed keys counted too, so that a device of which many were claimed could upload nothing any
/// more.
#[test]
fn a_device_has_ten_thousand_unclaimed_keys_at_most_and_any_number_of_claimed_ones() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let plain = |names: std::ops::Range<u32>| {
        let keys = names.map(|name| (format!("plain:{name}"), json!(format!("key {name}")))).collect();
        json!({ "one_time_keys": Value::Object(keys) })
    };
    let counts = |answer: Answer| answer.ok()["one_time_key_counts"]["plain"].clone();
    server.post(&bob, UPLOAD, plain(0..10_001)).fails(413, "M_TOO_LARGE");
    assert_eq!(counts(server.post(&bob, UPLOAD, plain(0..10_000))), 10_000);
    assert_eq!(counts(server.post(&bob, UPLOAD, plain(5_000..10_000))), 10_000, "the same ones again");
    server.post(&bob, UPLOAD, plain(10_000..10_001)).fails(413, "M_TOO_LARGE");
    let claim = json!({ "one_time_keys": { &bob.id: { &bob.device: "plain" } } });
    for number in 0..20 {
        server.post(&alice, CLAIM, claim.clone()).ok();
        assert_eq!(counts(server.post(&bob, UPLOAD, plain(10_000 + number..10_001 + number))), 10_000);
    }
    server.post(&bob, UPLOAD, json!({ "device_keys": device_keys(&bob, &Key::new(1)) })).ok();
}

/// One request with a fallback key for each of a hundred thousand algorithms held everybody up for
/// minutes, and each of their names was kept for ever and told in every sync.
#[test]
fn a_device_has_keys_of_a_few_algorithms() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let plain = |algorithms: std::ops::Range<u32>| -> Value { algorithms.map(|n| (format!("a{n}:key"), json!(format!("key {n}")))).collect() };
    for kind in ["one_time_keys", "fallback_keys"] {
        server.post(&bob, UPLOAD, json!({ kind: plain(0..100_000) })).fails(413, "M_TOO_LARGE");
        server.post(&bob, UPLOAD, json!({ kind: plain(0..10) })).ok();
        server.post(&bob, UPLOAD, json!({ kind: plain(5..17) })).fails(413, "M_TOO_LARGE");
        server.post(&bob, UPLOAD, json!({ kind: plain(5..16) })).ok();
        server.post(&bob, UPLOAD, json!({ kind: { format!("a0:{}", "x".repeat(253)): "key" } })).fails(400, "M_INVALID_PARAM");
        let twice = json!({ "a0:one": "one", "a0:two": "two" });
        if kind == "fallback_keys" {
            server.post(&bob, UPLOAD, json!({ kind: twice })).fails(400, "M_INVALID_PARAM");
        }
    }
    let synced = server.get(&bob, "/_matrix/client/v3/sync").ok();
    assert_eq!(synced["device_unused_fallback_key_types"].as_array().map(Vec::len), Some(16));
    // An algorithm of which no key is left makes room for another.
    let claim = json!({ "one_time_keys": { &bob.id: { &bob.device: "a0" } } });
    assert!(claimed(server.post(&alice, CLAIM, claim), &bob).is_some());
    let counts = server.post(&bob, UPLOAD, json!({})).ok()["one_time_key_counts"].clone();
    assert_eq!((&counts["a0"], &counts["a1"], &counts["signed_curve25519"]), (&Value::Null, &json!(1), &json!(0)));
    server.post(&bob, UPLOAD, json!({ "one_time_keys": plain(16..17) })).ok();
}

/// Ten thousand keys were compared with ten thousand others while nobody else was served.
#[test]
fn who_uploads_very_many_keys_lets_others_go_on() {
    let server = TestServer::new();
    let bob = server.register("bob");
    let keys: Value = (0..6_400).map(|n| (format!("plain:{n}"), json!(format!("key {n}")))).collect();
    let before = server.host.yielded.get();
    server.post(&bob, UPLOAD, json!({ "one_time_keys": keys })).ok();
    let yields = server.host.yielded.get() - before;
    assert!(yields >= 2 * 6_400 / 64, "{yields} yields");
}

#[test]
fn claims_at_once_get_different_keys() {
    let server = TestServer::with(Rc::new(SlowStore::default()), config());
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    server.post(&bob, UPLOAD, json!({ "one_time_keys": one_time_keys(&bob, &Key::new(1), 0..5) })).ok();
    let claims = (0..8).map(|_| server.start("POST", CLAIM, Some(&alice.token), Some(claim_of(&bob)))).collect::<Vec<_>>();
    let answers = server.run(join_all(claims));
    let given: Vec<_> = answers.into_iter().filter_map(|answer| claimed(answer, &bob)).map(|(name, _)| name).collect();
    assert_eq!(given.len(), 5);
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 5);
}

#[test]
fn a_deleted_device_leaves_no_keys() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let key = Key::new(1);
    let keys = json!({
        "device_keys": device_keys(&bob, &key),
        "one_time_keys": one_time_keys(&bob, &key, 0..2),
        "fallback_keys": { "signed_curve25519:f": one_time_key(&bob, &key, "f", true) },
    });
    server.post(&bob, UPLOAD, keys).ok();
    server.post(&bob, "/_matrix/client/v3/logout", json!({})).ok();
    let found = server.post(&alice, QUERY, json!({ "device_keys": { &bob.id: [] } })).ok();
    assert_eq!(found["device_keys"][&bob.id], json!({}));
    assert_eq!(claimed(server.post(&alice, CLAIM, claim_of(&bob)), &bob), None);
    let again = server.login("bob", Some(&bob.device));
    assert_eq!(server.post(&again, UPLOAD, json!({})).ok()["one_time_key_counts"]["signed_curve25519"], 0);
}

#[derive(Clone, Debug)]
enum Step {
    Upload(Vec<u32>),
    Claim(u8),
    Restart,
    /// One of the next writes fails, and what was built on it fails with it.
    Fail(u8),
    /// The process ends instead of one of the next writes.
    Crash(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => prop::collection::vec(0..40u32, 0..8).prop_map(Step::Upload),
        4 => (1..6u8).prop_map(Step::Claim),
        1 => Just(Step::Restart),
        1 => (0..3u8).prop_map(Step::Fail),
        1 => (0..3u32).prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_one_time_key_is_given_twice(steps in prop::collection::vec(step(), 1..25)) {
        let mut store = UnreliableStore::new();
        let mut server = TestServer::with(Rc::new(store.clone()), config());
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        let key = Key::new(1);
        let mut given = BTreeSet::new();
        for step in steps {
            match step {
                Step::Upload(names) => {
                    server.post(&bob, UPLOAD, json!({ "one_time_keys": one_time_keys(&bob, &key, names) }));
                }
                Step::Claim(times) => {
                    let claims = (0..times).map(|_| server.start("POST", CLAIM, Some(&alice.token), Some(claim_of(&bob)))).collect::<Vec<_>>();
                    for answer in server.run(join_all(claims)).into_iter().filter(|answer| answer.status == 200) {
                        if let Some((name, _)) = claimed(answer, &bob) {
                            prop_assert!(given.insert(name.clone()), "{} was given twice", name);
                        }
                    }
                }
                Step::Restart => server = server.restart(),
                Step::Fail(passed) => {
                    if passed == 0 {
                        store.fail_next(StoreError::Platform("no".to_owned()));
                    } else {
                        store.hold();
                        let claims = (0..passed).map(|_| server.start("POST", CLAIM, Some(&alice.token), Some(claim_of(&bob)))).collect::<Vec<_>>();
                        let released = store.clone();
                        let release = async move {
                            released.fail_next(StoreError::QuotaExceeded);
                            released.release_all();
                        };
                        let (answers, ()) = server.run(async move { futures_util::join!(join_all(claims), release) });
                        for answer in answers.into_iter().filter(|answer| answer.status == 200) {
                            if let Some((name, _)) = claimed(answer, &bob) {
                                prop_assert!(given.insert(name.clone()), "{} was given twice", name);
                            }
                        }
                    }
                }
                Step::Crash(passed) => store.crash_at_write(passed),
            }
            if store.crashed() {
                store = store.restart();
                server = TestServer::with(Rc::new(store.clone()), config());
            }
        }
        let left = server.post(&bob, UPLOAD, json!({}));
        let left = if left.status == 200 { left.ok()["one_time_key_counts"]["signed_curve25519"].as_u64() } else { None };
        if let Some(left) = left {
            let claims = (0..left + 1).map(|_| server.start("POST", CLAIM, Some(&alice.token), Some(claim_of(&bob)))).collect::<Vec<_>>();
            for answer in server.run(join_all(claims)).into_iter().filter(|answer| answer.status == 200) {
                if let Some((name, _)) = claimed(answer, &bob) {
                    prop_assert!(given.insert(name.clone()), "{} was given twice", name);
                }
            }
        }
    }
}
