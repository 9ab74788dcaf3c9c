//! What is answered to other servers, beside the specification's OpenAPI files: each operation that
//! is served, where it succeeds and where it is refused.

use crate::{
    spec,
    support::{Answer, Network, TestServer, TestUser},
};
use ephapse_homeserver::Entrance;
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// Operations that never succeed, or not with JSON, or only for the servers of old.
const WITHOUT_SUCCESS: [&str; 7] = [
    "GET /.well-known/matrix/server",
    "GET /_matrix/federation/v1/media/download/{}",
    "GET /_matrix/federation/v1/media/thumbnail/{}",
    "GET /_matrix/federation/v1/query/{}",
    "PUT /_matrix/federation/v1/exchange_third_party_invite/{}",
    "PUT /_matrix/federation/v1/3pid/onbind",
    "PUT /_matrix/federation/v1/invite/{}/{}",
];

/// Tested where what they answer is.
const ELSEWHERE: [&str; 11] = [
    "GET /_matrix/federation/v1/backfill/{}",
    "POST /_matrix/federation/v1/get_missing_events/{}",
    "GET /_matrix/federation/v1/event_auth/{}/{}",
    "GET /_matrix/federation/v1/state/{}",
    "GET /_matrix/federation/v1/state_ids/{}",
    "GET /_matrix/federation/v1/event/{}",
    "GET /_matrix/federation/v1/timestamp_to_event/{}",
    "GET /_matrix/federation/v1/openid/userinfo",
    "GET /_matrix/federation/v1/user/devices/{}",
    "POST /_matrix/federation/v1/user/keys/claim",
    "POST /_matrix/federation/v1/user/keys/query",
];

fn shape(path: &str) -> String {
    path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect::<Vec<_>>().join("/")
}

/// The operations of the specification that are served.
fn served(server: &TestServer) -> BTreeSet<String> {
    let served: BTreeSet<String> = server.hs.endpoints(Entrance::Peer).iter().map(|(method, path)| format!("{method} {}", shape(path))).collect();
    let specified = spec::operations().map(|(method, path)| format!("{method} {}", shape(path)));
    specified.filter(|operation| served.contains(operation)).collect()
}

fn room(server: &TestServer, user: &TestUser, request: Value) -> String {
    server.post(user, "/_matrix/client/v3/createRoom", request).ok()["room_id"].as_str().expect("an id").to_owned()
}

/// Rooms are joined, knocked on, invited to and left, and what servers tell each other is looked
/// at.
#[test]
fn what_succeeds_is_answered_as_the_specification_says() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    network.listen();
    let open = room(&one, &alice, json!({ "visibility": "public", "room_alias_name": "hall", "creation_content": { "type": "m.space" } }));
    two.post(&bob, "/_matrix/client/v3/join/%23hall:one.example", json!({})).ok();
    let knock = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } });
    let closed = room(&one, &alice, json!({ "initial_state": [knock] }));
    two.post(&bob, &format!("/_matrix/client/v3/knock/{closed}?via=one.example"), json!({})).ok();
    let private = room(&one, &alice, json!({ "invite": [bob.id] }));
    two.post(&bob, &format!("/_matrix/client/v3/rooms/{private}/leave"), json!({})).ok();
    network.pass(Duration::from_secs(5));

    let get = |path: &str| two.ask(&one, "GET", path, None);
    let post = |path: &str, body: Value| two.ask(&one, "POST", path, Some(&body));
    let mut asked: Vec<(&str, String, Answer)> = Vec::new();
    for path in [
        "/_matrix/federation/v1/version",
        "/_matrix/key/v2/server",
        "/_matrix/key/v2/query/two.example",
        "/_matrix/federation/v1/publicRooms",
        "/_matrix/federation/v1/query/profile?user_id=@alice:one.example",
        "/_matrix/federation/v1/query/directory?room_alias=%23hall:one.example",
        &format!("/_matrix/federation/v1/hierarchy/{open}"),
    ] {
        asked.push(("GET", path.to_owned(), get(path)));
    }
    for (path, body) in
        [("/_matrix/key/v2/query", json!({ "server_keys": { "two.example": {} } })), ("/_matrix/federation/v1/publicRooms", json!({}))]
    {
        asked.push(("POST", path.to_owned(), post(path, body)));
    }
    let transaction = json!({ "origin": "two.example", "origin_server_ts": two.now(), "pdus": [], "edus": [] });
    let path = "/_matrix/federation/v1/send/specified";
    asked.push(("PUT", path.to_owned(), two.ask(&one, "PUT", path, Some(&transaction))));

    let mut succeeded = BTreeSet::new();
    for (method, path, answer) in asked {
        spec::check(method, &path, &answer);
        answer.ok();
        succeeded.insert(format!("{method} {}", spec::operation(method, &path)));
    }
    for answered in network.answered().into_iter().filter(|answered| answered.status == 200) {
        let body = serde_json::from_slice(&answered.body).expect("JSON");
        let (method, path) = (&answered.request.method, &answered.request.path);
        spec::check(method, path, &Answer { status: 200, body, headers: http::HeaderMap::new() });
        succeeded.insert(format!("{method} {}", spec::operation(method, path)));
    }
    let succeeded: BTreeSet<String> = succeeded.iter().map(|operation| shape(operation)).collect();
    let known = |operation: &String| succeeded.contains(operation) || [&ELSEWHERE[..], &WITHOUT_SUCCESS].concat().contains(&operation.as_str());
    let missing: Vec<String> = served(&one).into_iter().filter(|operation| !known(operation)).collect();
    assert!(missing.is_empty(), "nothing says what these answer: {missing:?}");
}

/// What nobody has is asked for everywhere, with nothing in the body.
#[test]
fn what_is_refused_is_refused_as_the_specification_says() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let mut refused = BTreeSet::new();
    for operation in served(&one) {
        let (method, path) = operation.split_once(' ').expect("a method");
        let fill = |value: &str| path.replace("{}", value);
        let paths =
            [fill("nonsense"), format!("{}?event_id=nonsense&v=nonsense&limit=x&ts=x&user_id=nonsense&since=nonsense", fill("!none:one.example"))];
        for path in paths {
            let answer = two.ask(&one, method, &path, (method != "GET").then(|| json!({ "since": "nonsense" })).as_ref());
            if answer.status >= 400 {
                spec::check(method, &path, &answer);
                refused.insert(operation.clone());
            }
        }
    }
    // What everybody is told, whatever they ask.
    let never = ["GET /_matrix/federation/v1/version", "GET /_matrix/key/v2/server", "GET /_matrix/key/v2/query/{}"];
    let accepted: Vec<String> = served(&one).difference(&refused).filter(|operation| !never.contains(&operation.as_str())).cloned().collect();
    assert!(accepted.is_empty(), "{accepted:?}");
}
