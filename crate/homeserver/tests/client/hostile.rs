//! Every endpoint, asked for what makes no sense: each answer is an error of the specification or a 200, and nothing panics. In the browser a panic
//! costs the whole engine, also one in a library that reads requests for us.

use crate::{
    rooms::room,
    support::{TestServer, TestUser},
};
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

/// Every parameter filled with each of [`ARGUMENTS`], and with what its name says, so that the request gets as far as it can.
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
    for (method, pattern) in server.hs.endpoints().to_vec() {
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
            }
        }
    }
    println!("{asked} requests");
    assert_eq!(server.hs.status().panics, 0);
    server.get(&alice, "/_matrix/client/v3/account/whoami").ok();
}
