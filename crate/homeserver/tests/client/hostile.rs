//! Every endpoint, asked for what makes no sense: each answer is an error of the specification or a
//! 200, and nothing panics. In the browser a panic costs the whole engine, also one in a library
//! that reads requests for us.

use crate::{
    messages::assert_plain,
    rooms::room,
    support::{TestServer, TestUser},
};
use ephapse_homeserver::Entrance;
use serde_json::{Value, json};

/// What stands where a path has a parameter.
const ARGUMENTS: [&str; 11] = [
    "x",
    "%00",
    "%20",
    ".m.rule.master",
    "%21room:test.example",
    "%40alice:test.example",
    "%24event",
    "%23alias:test.example",
    "m.room.message",
    "%F0%9F%A6%80:%2F..%2F",
    "-9223372036854775808",
];

const EVENT_TYPES: [&str; 8] = [
    "m.room.message",
    "m.room.member",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.history_visibility",
    "m.room.redaction",
    "m.room.create",
];

const QUERIES: [&str; 4] =
    ["", "?limit=-1&dir=x&from=s9_0&ts=1e99&before=&after=", "?since=s1_00000000&filter=%7B&timeout=-1", "?user_id=%00&kind=x&at=x"];

fn bodies() -> Vec<String> {
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let fields = [
        "type",
        "identifier",
        "password",
        "auth",
        "username",
        "device_id",
        "devices",
        "new_password",
        "displayname",
        "filter",
        "room",
        "actions",
        "pattern",
        "messages",
        "one_time_keys",
        "device_keys",
        "master_key",
        "auth_data",
        "algorithm",
        "rooms",
        "sessions",
        "user_id",
        "reason",
        "msgtype",
        "body",
        "membership",
        "event_id",
        "typing",
        "timeout",
        "m.fully_read",
        "preset",
        "invite",
        "initial_state",
        "power_level_content_override",
        "creation_content",
        "room_version",
        "name",
        "enabled",
        "order",
    ];
    let all = |value: Value| Value::Object(fields.iter().map(|field| ((*field).to_owned(), value.clone())).collect()).to_string();
    vec![
        String::new(),
        "{".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        "{\"a\":1e400}".to_owned(),
        "\u{feff}{}".to_owned(),
        deep.clone(),
        format!("{{\"room\":{deep},\"auth\":{deep}}}"),
        all(Value::Null),
        all(json!(-1)),
        all(json!("\u{0}")),
        all(json!([])),
        all(json!([[], {}, "x", 1.5])),
        all(json!({})),
        all(json!({ "type": {}, "user": [], "": "" })),
        all(json!({ "@alice:test.example": { "x": { "y": "z" } }, "!room:test.example": { "sessions": {} } })),
    ]
}

/// Every parameter filled with each of [`ARGUMENTS`], and with what its name says, so that the
/// request gets as far as it can.
fn paths(pattern: &str, room: &str, event: &str) -> Vec<String> {
    if !pattern.contains('{') {
        return vec![pattern.to_owned()];
    }
    let fill = |fit: &dyn Fn(&str) -> String| {
        pattern.split('/').map(|part| if part.starts_with('{') { fit(part) } else { part.to_owned() }).collect::<Vec<_>>().join("/")
    };
    let mut paths: Vec<String> = ARGUMENTS.iter().map(|argument| fill(&|_| (*argument).to_owned())).collect();
    for event_type in EVENT_TYPES {
        paths.push(fill(&|name| match name {
            "{room_id}" | "{room_id_or_alias}" => room.to_owned(),
            "{event_id}" => event.to_owned(),
            "{event_type}" => event_type.to_owned(),
            "{user_id}" | "{state_key}" => "@alice:test.example".to_owned(),
            "{kind}" => "content".to_owned(),
            _ => "x".to_owned(),
        }));
        if !pattern.contains("{event_type}") {
            break;
        }
    }
    paths
}

#[test]
fn no_request_panics_or_is_answered_by_an_internal_error() {
    let server = TestServer::new();
    let alice: TestUser = server.register("alice");
    let bodies = bodies();
    let mut asked = 0;
    for (method, pattern) in server.hs.endpoints(Entrance::Client).to_vec() {
        // The older names of an endpoint lead to the same handler.
        if pattern.contains("/r0/") || pattern.contains("/unstable/") || pattern.contains("/logout") {
            continue;
        }
        // Its own room, since some of this changes or leaves one.
        let room = room(&server, &alice, json!({}));
        let page = server.get(&alice, &format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=1")).ok();
        let event = page["chunk"][0]["event_id"].as_str().expect("an event id");
        for path in paths(pattern, &room, event) {
            let reads = method == "GET";
            for (index, body) in bodies.iter().enumerate().filter(|(index, _)| !reads || *index < QUERIES.len()) {
                let path = if reads { format!("{path}{}", QUERIES[index]) } else { path.clone() };
                let body = if reads { "" } else { body };
                let answer = server.run(server.start_raw(method.as_str(), &path, Some(&alice.token), body));
                asked += 1;
                let is_proper = answer.status == 200 || answer.body["errcode"].is_string() || answer.body["flows"].is_array();
                assert!(answer.status < 500 && is_proper, "{method} {path} {body}: {} {}", answer.status, answer.body);
                assert_plain(&answer.body);
            }
        }
    }
    println!("{asked} requests");
    assert_eq!(server.hs.status().panics, 0);
    server.get(&alice, "/_matrix/client/v3/account/whoami").ok();
}

/// Requests that are right, to be spoiled in one place at a time.
pub fn sound(room: &str, event: &str) -> Vec<(&'static str, String, Value)> {
    let v3 = "/_matrix/client/v3";
    let password = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": "x", "session": "s" });
    let public = "nqOvzeuGWT/sRx3h7+MHoInYj3Uk2LD/unI9kDYcHwk";
    let signatures = json!({ "@alice:test.example": { "ed25519:D": "c2ln" } });
    let device_keys = json!({
        "user_id": "@alice:test.example", "device_id": "D", "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { "curve25519:D": public, "ed25519:D": public }, "signatures": signatures,
    });
    let one_time = json!({ "key": public, "signatures": signatures });
    let session = json!({ "first_message_index": 0, "forwarded_count": 0, "is_verified": true, "session_data": { "ephemeral": public, "mac": "x" } });
    let conditions = json!([
        { "kind": "event_match", "key": "content.body", "pattern": "x" }, { "kind": "room_member_count", "is": ">2" }, { "kind": "contains_display_name" },
        { "kind": "event_property_is", "key": "content.x", "value": 1 }, { "kind": "sender_notification_permission", "key": "room" },
    ]);
    let state = json!([{ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": room }] } }]);
    vec![
        (
            "POST",
            format!("{v3}/login"),
            json!({ "type": "m.login.password", "identifier": password["identifier"], "password": "x", "device_id": "D" }),
        ),
        (
            "POST",
            format!("{v3}/register"),
            json!({ "username": "bob", "password": "x", "auth": { "type": "m.login.registration_token", "token": "x" } }),
        ),
        ("POST", format!("{v3}/delete_devices"), json!({ "devices": ["D"], "auth": { "type": "m.login.dummy", "session": "x" } })),
        (
            "PUT",
            format!("{v3}/pushrules/global/override/x"),
            json!({ "actions": ["notify", { "set_tweak": "sound", "value": "x" }], "conditions": conditions }),
        ),
        (
            "POST",
            format!("{v3}/user/@alice:test.example/filter"),
            json!({
                "event_fields": ["content.body"], "event_format": "client", "account_data": { "types": ["*"], "limit": 1 },
                "room": { "rooms": [room], "timeline": { "limit": 1, "contains_url": true, "related_by_rel_types": ["x"] }, "state": { "lazy_load_members": true } },
            }),
        ),
        ("PUT", format!("{v3}/user/@alice:test.example/rooms/{room}/tags/x"), json!({ "order": 0.5 })),
        (
            "POST",
            format!("{v3}/createRoom"),
            json!({
                "preset": "private_chat", "name": "x", "room_version": "11", "invite": ["@bob:test.example"], "is_direct": true, "initial_state": state,
                "creation_content": { "m.federate": true, "predecessor": { "room_id": room, "event_id": event } }, "room_alias_name": "x",
                "power_level_content_override": { "users": { "@alice:test.example": 100 }, "events": { "m.room.name": 50 }, "ban": 50 },
            }),
        ),
        (
            "PUT",
            format!("{v3}/rooms/{room}/send/m.room.message/x"),
            json!({
                "msgtype": "m.text", "body": "x", "m.mentions": { "user_ids": ["@alice:test.example"], "room": true },
                "m.relates_to": { "rel_type": "m.replace", "event_id": event, "m.in_reply_to": { "event_id": event } }, "m.new_content": { "body": "y" },
            }),
        ),
        (
            "PUT",
            format!("{v3}/rooms/{room}/state/m.room.power_levels/"),
            json!({
                "users": { "@alice:test.example": 100 }, "users_default": 0, "events": { "m.room.name": 50 }, "notifications": { "room": 50 }, "ban": 50, "invite": 0,
            }),
        ),
        (
            "PUT",
            format!("{v3}/rooms/{room}/state/m.room.member/@alice:test.example"),
            json!({
                "membership": "join", "displayname": "x", "avatar_url": "mxc://x/y", "join_authorised_via_users_server": "@alice:test.example", "is_direct": true,
                "third_party_invite": { "display_name": "x", "signed": { "mxid": "@alice:test.example", "token": "x", "signatures": signatures } },
            }),
        ),
        ("POST", format!("{v3}/rooms/{room}/receipt/m.read/{event}"), json!({ "thread_id": "main" })),
        ("POST", format!("{v3}/rooms/{room}/read_markers"), json!({ "m.fully_read": event, "m.read": event, "m.read.private": event })),
        ("PUT", format!("{v3}/rooms/{room}/typing/@alice:test.example"), json!({ "typing": true, "timeout": 1 })),
        ("PUT", format!("{v3}/sendToDevice/m.x/x"), json!({ "messages": { "@alice:test.example": { "D": { "a": 1 }, "*": {} } } })),
        (
            "POST",
            format!("{v3}/keys/upload"),
            json!({
                "device_keys": device_keys, "one_time_keys": { "signed_curve25519:A": one_time, "curve25519:B": public }, "fallback_keys": { "signed_curve25519:C": one_time },
            }),
        ),
        ("POST", format!("{v3}/keys/query"), json!({ "device_keys": { "@alice:test.example": ["D"] }, "timeout": 1 })),
        ("POST", format!("{v3}/keys/claim"), json!({ "one_time_keys": { "@alice:test.example": { "D": "signed_curve25519" } }, "timeout": 1 })),
        (
            "POST",
            format!("{v3}/keys/device_signing/upload"),
            json!({
                "master_key": { "user_id": "@alice:test.example", "usage": ["master"], "keys": { format!("ed25519:{public}"): public }, "signatures": signatures }, "auth": password,
            }),
        ),
        ("POST", format!("{v3}/keys/signatures/upload"), json!({ "@alice:test.example": { "D": device_keys } })),
        (
            "POST",
            format!("{v3}/room_keys/version"),
            json!({
                "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": { "public_key": public, "signatures": signatures },
            }),
        ),
        ("PUT", format!("{v3}/room_keys/keys?version=1"), json!({ "rooms": { room: { "sessions": { "x": session } } } })),
    ]
}

/// Where something stands in `value`, as JSON pointers.
pub fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| places(value, &format!("{at}/{}", escaped(name)), out)),
        Value::Array(values) => values.iter().enumerate().for_each(|(index, value)| places(value, &format!("{at}/{index}"), out)),
        _ => {}
    }
}

#[test]
fn no_request_that_is_wrong_in_one_place_panics_or_is_answered_by_an_internal_error() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = room(&server, &alice, json!({}));
    let page = server.get(&alice, &format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=1")).ok();
    let event = page["chunk"][0]["event_id"].as_str().expect("an event id");
    let wrong = [
        Value::Null,
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(true),
        json!(""),
        json!("\u{0}"),
        json!(":"),
        json!("@:"),
        json!("x".repeat(70_000)),
        json!([]),
        json!([{}]),
        json!({}),
        json!({ "": { "": [] } }),
        json!({ "x": "y" }),
    ];
    let mut asked = 0;
    for (method, path, body) in sound(&room, event) {
        let mut pointers = Vec::new();
        places(&body, "", &mut pointers);
        for (pointer, wrong) in pointers.iter().flat_map(|pointer| wrong.iter().map(move |wrong| (pointer, wrong))) {
            let mut body = body.clone();
            *body.pointer_mut(pointer).expect("a place that was just found") = wrong.clone();
            let answer = server.request(method, &path, Some(&alice.token), Some(body));
            asked += 1;
            assert!(answer.status < 500, "{method} {path} with {wrong} at {pointer}: {} {}", answer.status, answer.body);
            assert_plain(&answer.body);
        }
    }
    println!("{asked} requests");
    assert_eq!(server.hs.status().panics, 0);
}
