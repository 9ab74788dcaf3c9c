//! Nothing of those whom a user ignores is shown anywhere (Client-Server API, Ignoring Users), but
//! for state events.

use crate::{
    members::{act, join, look, set_state},
    rooms::{room, send},
    support::{TestServer, TestUser},
};
use ephapse_homeserver::Entrance;
use serde_json::{Value, json};

/// Every `GET` of a room's events, with its parameters filled in; one that is new is in it.
pub fn gets(server: &TestServer, room: &str, event: &str) -> Vec<String> {
    let filled = |path: &str| {
        let path = path.replace("{room_id}", room).replace("{event_id}", event).replace("{rel_type}", "m.reference").replace("{state_key}", "");
        let kind = if path.contains("/relations/") { "m.room.message" } else { "m.room.topic" };
        path.replace("{event_type}", kind)
    };
    let endpoints = server.hs.endpoints(Entrance::Client).iter().filter(|(method, path)| method == "GET" && path.contains("/rooms/{room_id}/"));
    let gets: Vec<String> = endpoints.filter(|(_, path)| !path.contains("{user_id}")).map(|(_, path)| filled(path)).collect();
    assert!(gets.len() >= 20 && gets.iter().all(|path| !path.contains('{')), "{gets:?}");
    gets
}

fn ignore(server: &TestServer, user: &TestUser, whom: Value) {
    let path = format!("/_matrix/client/v3/user/{}/account_data/m.ignored_user_list", user.id);
    server.put(user, &path, json!({ "ignored_users": whom })).ok();
}

/// A room in which bob, whom alice ignores, says "hush" in every way there is.
struct Scene {
    server: TestServer,
    alice: TestUser,
    bob: TestUser,
    carol: TestUser,
    id: String,
    /// Of carol.
    root: String,
    /// Of bob, and not.
    heard: [String; 2],
}

impl Scene {
    fn new() -> Self {
        let server = TestServer::new();
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
        let id = room(&server, &alice, json!({ "preset": "public_chat", "power_level_content_override": { "state_default": 0 } }));
        for user in [&bob, &carol] {
            join(&server, user, &id);
        }
        let root = send(&server, &carol, &id, "1", "root");
        let hush = send(&server, &bob, &id, "1", "hush");
        for (txn, rel_type) in ["m.reference", "m.thread", "m.annotation", "m.replace"].into_iter().enumerate() {
            let relates_to = json!({ "rel_type": rel_type, "event_id": root, "key": "hush" });
            let content = json!({ "msgtype": "m.text", "body": "hush", "m.relates_to": relates_to });
            server.put(&bob, &format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/r{txn}"), content).ok();
        }
        server.put(&bob, &format!("/_matrix/client/v3/rooms/{id}/send/org.example.other/o"), json!({ "body": "hush" })).ok();
        set_state(&server, &bob, &id, "m.room.topic", json!({ "topic": "of bob" })).ok();
        let last = send(&server, &carol, &id, "2", "last");
        Self { server, alice, bob, carol, id, root, heard: [hush, last] }
    }
}

/// `/messages`, `/context` and relations showed what they wrote, and a single event did: only a
/// sync knew who is ignored.
#[test]
fn no_endpoint_shows_events_of_ignored_users() {
    let Scene { server, alice, bob, id, root, heard: [hush, last], .. } = Scene::new();
    let filter = "%7B%22room%22%3A%7B%22include_leave%22%3Atrue%7D%7D";
    let says_hush = |path: &str| {
        let answer = server.get(&alice, path);
        assert!(answer.status < 500, "{path}: {}", answer.body);
        answer.body.to_string().contains("hush")
    };
    let syncs = [format!("/_matrix/client/v3/sync?filter={filter}"), "/_matrix/client/v3/sync?full_state=true".to_owned()];
    let mut paths: Vec<String> = [&root, &hush, &last].into_iter().flat_map(|event| gets(&server, &id, event)).chain(syncs).collect();
    paths.extend(["?dir=f", "?dir=b", "?dir=b&limit=1", "?dir=b&limit=200"].map(|query| format!("/_matrix/client/v3/rooms/{id}/messages{query}")));
    paths.extend(["?recurse=true", "?dir=f"].map(|query| format!("/_matrix/client/v1/rooms/{id}/relations/{root}{query}")));
    let loud = |paths: &[String]| paths.iter().filter(|path| says_hush(path)).count();
    assert!(loud(&paths) > 20, "as long as he is not ignored");
    ignore(&server, &alice, json!({ &bob.id: {} }));
    let still: Vec<&String> = paths.iter().filter(|path| says_hush(path)).collect();
    assert_eq!(still, [""; 0]);

    // What is asked for itself is not there, and what makes the room is.
    for path in [format!("event/{hush}"), format!("context/{hush}")] {
        look(&server, &alice, &id, &path).fails(404, "M_NOT_FOUND");
    }
    server.get(&alice, &format!("/_matrix/client/v1/rooms/{id}/relations/{hush}")).fails(404, "M_NOT_FOUND");
    for path in ["messages?dir=b&limit=50".to_owned(), format!("context/{root}?limit=50"), "state".to_owned()] {
        let body = look(&server, &alice, &id, &path).ok().to_string();
        assert!(body.contains("of bob") && body.contains(&format!(r#""state_key":"{}""#, bob.id)), "{path}: {body}");
    }
    // Also when alice has left.
    act(&server, &alice, &id, "leave", json!({})).ok();
    assert_eq!(loud(&paths), 0);
    ignore(&server, &alice, json!({}));
    assert!(loud(&paths) > 15, "heard again");
}

#[test]
fn a_page_is_full_of_what_is_shown_and_goes_on_behind_it() {
    let Scene { server, alice, bob, carol, id, .. } = Scene::new();
    for number in 0..60 {
        send(&server, &bob, &id, &format!("n{number}"), "hush");
    }
    send(&server, &carol, &id, "3", "after all that");
    ignore(&server, &alice, json!({ &bob.id: {} }));
    let page = look(&server, &alice, &id, "messages?dir=b&limit=2").ok();
    let bodies: Vec<&str> = page["chunk"].as_array().expect("a chunk").iter().filter_map(|event| event["content"]["body"].as_str()).collect();
    assert_eq!(bodies, ["after all that", "last"]);
    assert!(page["end"].is_string());
}

/// An event counted as one with a thread by what only somebody had answered who is ignored.
#[test]
fn replies_of_ignored_users_make_no_thread() {
    let Scene { server, alice, bob, carol, id, root, .. } = Scene::new();
    let threads = || {
        let filter = "%7B%22related_by_rel_types%22%3A%5B%22m.thread%22%5D%7D";
        let page = look(&server, &alice, &id, &format!("messages?dir=b&filter={filter}")).ok();
        page["chunk"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(threads(), 1);
    ignore(&server, &alice, json!({ &bob.id: {} }));
    assert_eq!(threads(), 0);
    crate::relations::relate(&server, &carol, &id, "t", "m.thread", &root);
    assert_eq!(threads(), 1);
}

/// Who keeps a room in order does so also where they do not look; and what is passed over is read.
#[test]
fn what_they_say_can_be_redacted_and_passed() {
    let Scene { server, alice, bob, carol, id, heard: [hush, _], .. } = Scene::new();
    ignore(&server, &alice, json!({ &bob.id: {} }));
    act(&server, &alice, &id, &format!("receipt/m.read/{hush}"), json!({})).ok();
    server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/redact/{hush}/1"), json!({})).ok();
    assert_eq!(look(&server, &carol, &id, &format!("event/{hush}")).ok()["content"], json!({}));
}
