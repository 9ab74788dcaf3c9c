//! Push rules (Client-Server API, Push Rules: API).

use crate::support::{TestServer, TestUser};
use ephapse_homeserver::{Position, tables};
use ephapse_store::Reader;
use ruma::UserId;
use serde_json::{Value, json};

const RULES: &str = "/_matrix/client/v3/pushrules/global";

#[track_caller]
fn order(server: &TestServer, user: &TestUser, kind: &str) -> Vec<String> {
    let rules = server.get(user, &format!("{RULES}/")).ok();
    rules[kind].as_array().into_iter().flatten().map(|rule| rule["rule_id"].as_str().expect("an id").to_owned()).collect()
}

#[track_caller]
fn put(server: &TestServer, user: &TestUser, rule: &str) {
    server.put(user, &format!("{RULES}/{rule}"), json!({ "actions": ["notify"], "pattern": "cake" })).ok();
}

#[test]
fn everybody_begins_with_the_default_rules() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let all = server.get(&alice, "/_matrix/client/v3/pushrules/").ok();
    assert_eq!(all["global"], server.get(&alice, &format!("{RULES}/")).ok());
    let overrides = order(&server, &alice, "override");
    assert_eq!(overrides[0], ".m.rule.master");
    assert!(overrides.contains(&".m.rule.is_user_mention".to_owned()));
    let master = server.get(&alice, &format!("{RULES}/override/.m.rule.master")).ok();
    assert_eq!((&master["default"], &master["enabled"]), (&json!(true), &json!(false)));
    server.get(&alice, &format!("{RULES}/override/none")).fails(404, "M_NOT_FOUND");
    server.get(&alice, &format!("{RULES}/nonsense/none")).fails(404, "M_NOT_FOUND");
}

/// What is stored with an account is brought up to the default rules that a new account gets.
#[test]
fn who_has_an_account_for_long_gets_new_default_rules_too() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let store = server.store.clone();
    let reader = Reader::new(store.clone());
    let id = UserId::parse(&alice.id).expect("an id");
    let user = server.run(async move { tables::USER_NIDS.get(&reader, &id).await }).expect("a read").expect("a user");
    let none = tables::AccountData { content: tables::Json(r#"{"global":{}}"#.to_owned()), position: Position(1) };
    let written = server.hs.write(store.generation(), |tx| tables::ACCOUNT_DATA.put(tx, &(user, 0, "m.push_rules".to_owned()), &none));
    written.expect("a write").visible();
    let server = server.restart();
    let rules = |user: &TestUser| server.get(user, &format!("{RULES}/")).ok().to_string().replace("alice", "bob");
    assert_eq!(rules(&alice), rules(&bob));
    assert!(rules(&bob).contains(".m.rule.master"));
}

#[test]
fn rules_are_made_changed_and_deleted_and_outlive_a_restart() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let cake = format!("{RULES}/content/cake");
    put(&server, &alice, "content/cake");
    let rule = json!({ "rule_id": "cake", "default": false, "enabled": true, "actions": ["notify"], "pattern": "cake" });
    assert_eq!(server.get(&alice, &cake).ok(), rule);

    server.put(&alice, &format!("{cake}/enabled"), json!({ "enabled": false })).ok();
    let loud = json!(["notify", { "set_tweak": "sound", "value": "default" }]);
    server.put(&alice, &format!("{cake}/actions"), json!({ "actions": loud })).ok();
    server.put(&alice, &format!("{RULES}/override/.m.rule.master/enabled"), json!({ "enabled": true })).ok();
    let server = server.restart();
    assert_eq!(server.get(&alice, &format!("{cake}/enabled")).ok(), json!({ "enabled": false }));
    assert_eq!(server.get(&alice, &format!("{cake}/actions")).ok(), json!({ "actions": loud }));
    assert_eq!(server.get(&alice, &format!("{RULES}/override/.m.rule.master/enabled")).ok(), json!({ "enabled": true }));
    // A rule that is set anew stays as it was switched.
    put(&server, &alice, "content/cake");
    assert_eq!(server.get(&alice, &format!("{cake}/enabled")).ok(), json!({ "enabled": false }));

    server.delete(&alice, &cake).ok();
    server.get(&alice, &cake).fails(404, "M_NOT_FOUND");
    server.host.advance(std::time::Duration::from_secs(60));
    server.delete(&alice, &cake).fails(404, "M_NOT_FOUND");
    server.put(&alice, &format!("{cake}/enabled"), json!({ "enabled": true })).fails(404, "M_NOT_FOUND");
    server.put(&alice, &format!("{cake}/actions"), json!({ "actions": [] })).fails(404, "M_NOT_FOUND");
    server.delete(&alice, &format!("{RULES}/override/.m.rule.master")).fails(400, "M_INVALID_PARAM");
}

#[test]
fn a_rule_is_placed_where_it_is_asked_to_be() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for kind in ["content", "room", "sender"] {
        for rule in ["a", "b", "c"] {
            put(&server, &alice, &format!("{kind}/{rule}"));
        }
        assert_eq!(order(&server, &alice, kind), ["c", "b", "a"]);
        for (rule, becomes) in [
            ("d?before=b", ["c", "d", "b", "a"].as_slice()),
            ("e?after=a", &["c", "d", "b", "a", "e"]),
            // Known rules too, from either side, to either end.
            ("c?after=e", &["d", "b", "a", "e", "c"]),
            ("c?before=d", &["c", "d", "b", "a", "e"]),
            ("d?after=b", &["c", "b", "d", "a", "e"]),
            ("c?before=a", &["b", "d", "c", "a", "e"]),
            // "Next most important with respect to the rule identified by before."
            ("e?after=b&before=a", &["b", "d", "c", "e", "a"]),
            ("d", &["b", "d", "c", "e", "a"]),
            ("d?before=&after=", &["b", "d", "c", "e", "a"]),
        ] {
            put(&server, &alice, &format!("{kind}/{rule}"));
            assert_eq!(order(&server, &alice, kind), becomes, "{kind}/{rule}");
        }
    }
    put(&server, &alice, "override/mine");
    assert_eq!(order(&server, &alice, "override")[..2], [".m.rule.master", "mine"]);
    put(&server, &alice, "underride/mine");
    assert_eq!(order(&server, &alice, "underride")[0], "mine");
    for (rule, errcode) in [
        ("content/x?before=none", "M_UNKNOWN"),
        ("content/x?after=none", "M_UNKNOWN"),
        ("content/a?after=a", "M_UNKNOWN"),
        ("content/x?before=b&after=a", "M_UNKNOWN"),
        ("room/x?before=b&after=a", "M_UNKNOWN"),
        ("override/x?before=.m.rule.master", "M_INVALID_PARAM"),
        ("content/.mine", "M_INVALID_PARAM"),
        ("content/a%2Fb", "M_INVALID_PARAM"),
        ("content/a%5Cb", "M_INVALID_PARAM"),
        ("room/.mine", "M_INVALID_PARAM"),
        ("room/a%5Cb", "M_INVALID_PARAM"),
        ("sender/x?before=none", "M_UNKNOWN"),
        ("sender/x?before=.m.rule.master", "M_INVALID_PARAM"),
        ("nonsense/a", "M_INVALID_PARAM"),
    ] {
        server.put(&alice, &format!("{RULES}/{rule}"), json!({ "actions": [], "pattern": "x" })).fails(400, errcode);
    }
    assert_eq!(order(&server, &alice, "content"), ["b", "d", "c", "e", "a"]);
}

#[test]
fn bodies_that_are_no_rules_are_refused() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let cake = format!("{RULES}/content/cake");
    server.put(&alice, &cake, json!({ "pattern": "x" })).fails(400, "M_MISSING_PARAM");
    server.put(&alice, &cake, json!({ "actions": ["notify"] })).fails(400, "M_MISSING_PARAM");
    server.put(&alice, &cake, json!({ "actions": "notify", "pattern": "x" })).fails(400, "M_BAD_JSON");
    server.put(&alice, &format!("{RULES}/override/.m.rule.master/enabled"), json!({})).fails(400, "M_MISSING_PARAM");
    server.put(&alice, &cake, json!({ "actions": [], "pattern": "x".repeat(256 << 10) })).fails(413, "M_TOO_LARGE");
    for unknown in [json!("not_an_action"), json!({ "set": "sound" })] {
        server.put(&alice, &format!("{RULES}/room/!r:test.example"), json!({ "actions": [unknown] })).fails(400, "M_INVALID_PARAM");
        server.put(&alice, &cake, json!({ "actions": [unknown], "pattern": "x" })).fails(400, "M_INVALID_PARAM");
        server.put(&alice, &format!("{RULES}/override/.m.rule.master/actions"), json!({ "actions": [unknown] })).fails(400, "M_INVALID_PARAM");
    }
    server.put(&alice, &format!("{RULES}/room/!r:test.example"), json!({ "actions": [] })).ok();
    server.put(&alice, &format!("{RULES}/sender/@bob:test.example"), json!({ "actions": ["notify"] })).ok();
    let rules: Value = server.get(&alice, &format!("{RULES}/")).ok();
    assert_eq!((rules["room"].as_array().map(Vec::len), rules["sender"].as_array().map(Vec::len)), (Some(1), Some(1)));
}

/// Clients make rules of rooms for aliases, and of senders for patterns: only ids were accepted.
#[test]
fn rules_of_rooms_and_senders_have_any_id() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for (kind, id) in [("room", "%23spam:example.com"), ("room", "anything"), ("sender", "*"), ("sender", "@bob:test.example")] {
        put(&server, &alice, &format!("{kind}/{id}"));
        let path = format!("{RULES}/{kind}/{id}");
        let name = id.replace("%23", "#");
        assert_eq!(server.get(&alice, &path).ok(), json!({ "rule_id": name, "default": false, "enabled": true, "actions": ["notify"] }));
        server.put(&alice, &format!("{path}/enabled"), json!({ "enabled": false })).ok();
        server.put(&alice, &format!("{path}/actions"), json!({ "actions": [] })).ok();
        assert_eq!(server.get(&alice, &format!("{path}/enabled")).ok(), json!({ "enabled": false }));
        assert_eq!(server.get(&alice, &format!("{path}/actions")).ok(), json!({ "actions": [] }));
    }
    let server = server.restart();
    assert_eq!(order(&server, &alice, "room"), ["anything", "#spam:example.com"]);
    server.delete(&alice, &format!("{RULES}/room/anything")).ok();
    server.put(&alice, &format!("{RULES}/room/anything/enabled"), json!({ "enabled": true })).fails(404, "M_NOT_FOUND");
    assert_eq!(order(&server, &alice, "room"), ["#spam:example.com"]);
}

#[test]
fn rules_are_listed_by_kind_and_what_is_no_part_of_them_is_refused() {
    let server = TestServer::new();
    let alice = server.register("alice");
    put(&server, &alice, "room/!r:test.example");
    let all = server.get(&alice, &format!("{RULES}/")).ok();
    for kind in ["override", "underride", "sender", "room", "content"] {
        assert_eq!(server.get(&alice, &format!("{RULES}/{kind}/")).ok(), all[kind]);
        // As other servers have it, what is asked for without the slash is a rule, or nothing.
        server.get(&alice, &format!("{RULES}/{kind}")).fails(400, "M_UNRECOGNIZED");
    }
    server.get(&alice, RULES).fails(400, "M_UNRECOGNIZED");
    server.get(&alice, "/_matrix/client/v3/pushrules").fails(404, "M_UNRECOGNIZED");
    for path in ["not_a_scope/", "not_a_scope/room/x", "global/override/.m.rule.master/not_an_attribute"] {
        server.get(&alice, &format!("/_matrix/client/v3/pushrules/{path}")).fails(400, "M_UNRECOGNIZED");
    }
    server.get(&alice, &format!("{RULES}/not_a_kind/")).fails(400, "M_INVALID_PARAM");
    for path in ["", "not_a_scope/room/x", "global", "global/room", "global/room/", "global/override/.m.rule.master/not_an_attribute"] {
        server.put(&alice, &format!("/_matrix/client/v3/pushrules/{path}"), json!({ "enabled": true })).fails(400, "M_UNRECOGNIZED");
    }
}
