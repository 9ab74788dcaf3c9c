//! What a server sends to others by itself: each event arrives, once, whatever happens on the way.

use crate::support::{Network, TestServer, TestUser};
use ephapse_homeserver::test_support::network::Sent;
use serde_json::{Value, json};
use std::time::Duration;

pub const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Two servers, a user of each, and a room of the first one that both are in.
pub struct Shared {
    pub network: Network,
    pub one: TestServer,
    pub two: TestServer,
    pub alice: TestUser,
    pub bob: TestUser,
    pub room: String,
}

impl Shared {
    pub fn new() -> Self {
        let network = Network::new();
        let (one, two) = (network.server("one.example"), network.server("two.example"));
        let (alice, bob) = (one.register("alice"), two.register("bob"));
        let room = public_room(&one, &alice);
        join(&two, &bob, &room);
        network.pass(MINUTE);
        network.sent();
        Self { network, one, two, alice, bob, room }
    }

    /// Alice says something.
    pub fn say(&self, text: &str) {
        say(&self.one, &self.alice, &self.room, text);
    }

    /// What bob was told since, in order.
    pub fn heard(&self, since: &str) -> Vec<String> {
        heard(&self.two, &self.bob, &self.room, since)
    }
}

pub fn public_room(server: &TestServer, user: &TestUser) -> String {
    let created = server.post(user, "/_matrix/client/v3/createRoom", json!({ "preset": "public_chat" })).ok();
    created["room_id"].as_str().expect("a room id").to_owned()
}

pub fn join(server: &TestServer, user: &TestUser, room: &str) {
    server.post(user, &format!("/_matrix/client/v3/join/{room}?via=one.example"), json!({})).ok();
}

fn say(server: &TestServer, user: &TestUser, room: &str, text: &str) {
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{text}");
    server.put(user, &path, json!({ "msgtype": "m.text", "body": text })).ok();
}

/// A sync after a token, or from the start where that is empty, with all there is.
pub fn sync(server: &TestServer, user: &TestUser, since: &str) -> Value {
    let filter = r#"{"room":{"timeline":{"limit":1000}}}"#;
    let filter: String = percent_encoded(filter);
    let since = if since.is_empty() { String::new() } else { format!("&since={since}") };
    server.get(user, &format!("/_matrix/client/v3/sync?filter={filter}{since}")).ok()
}

fn percent_encoded(filter: &str) -> String {
    filter.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

pub fn token(sync: &Value) -> String {
    sync["next_batch"].as_str().expect("a token").to_owned()
}

fn heard(server: &TestServer, user: &TestUser, room: &str, since: &str) -> Vec<String> {
    let sync = sync(server, user, since);
    let events = sync["rooms"]["join"][room]["timeline"]["events"].as_array().cloned().unwrap_or_default();
    events.iter().filter_map(|event| Some(event["content"]["body"].as_str()?.to_owned())).collect()
}

/// The first server's transactions among what was sent.
pub fn transactions(sent: Vec<Sent>) -> Vec<Sent> {
    sent.into_iter().filter(|sent| sent.from == "one.example" && sent.path.starts_with("/_matrix/federation/v1/send/")).collect()
}

#[test]
fn what_is_said_in_a_room_is_heard_on_every_server() {
    let shared = Shared::new();
    let three = shared.network.server("three.example");
    let carol = three.register("carol");
    join(&three, &carol, &shared.room);
    shared.network.pass(MINUTE);
    let since = [token(&sync(&shared.two, &shared.bob, "")), token(&sync(&three, &carol, ""))];
    shared.say("hello");
    shared.network.pass(MINUTE);
    say(&shared.two, &shared.bob, &shared.room, "good-day");
    shared.network.pass(MINUTE);
    assert_eq!(shared.heard(&since[0]), ["hello", "good-day"]);
    assert_eq!(heard(&three, &carol, &shared.room, &since[1]), ["hello", "good-day"]);
    assert_eq!(shared.one.hs.status().federation.destinations.iter().map(|one| one.queued).sum::<u64>(), 0);
}

#[test]
fn who_is_kicked_is_told() {
    let shared = Shared::new();
    let since = token(&sync(&shared.two, &shared.bob, ""));
    let kick = format!("/_matrix/client/v3/rooms/{}/kick", shared.room);
    shared.one.post(&shared.alice, &kick, json!({ "user_id": shared.bob.id })).ok();
    shared.network.pass(MINUTE);
    let left = &sync(&shared.two, &shared.bob, &since)["rooms"]["leave"][&shared.room];
    assert_eq!(left["timeline"]["events"][0]["content"]["membership"], "leave", "{left}");
    shared.network.sent();
    shared.say("alone");
    shared.network.pass(MINUTE);
    assert_eq!(transactions(shared.network.sent()), [], "nobody of that server is in the room any more");
}

#[test]
fn a_server_that_was_down_gets_everything_once_and_in_order() {
    let shared = Shared::new();
    let since = token(&sync(&shared.two, &shared.bob, ""));
    shared.network.set_down(&shared.two, true);
    let said: Vec<String> = (0..120).map(|number| format!("message-{number}")).collect();
    said.iter().for_each(|text| shared.say(text));
    shared.network.pass(DAY);
    let status = shared.one.hs.status().federation.destinations.pop().expect("a destination");
    assert_eq!((status.server.as_str(), status.reachable, status.queued), ("two.example", Some(false), 120));
    assert!(status.last_error.is_some_and(|error| error.contains("connection refused")));
    assert!(status.next_try.is_some_and(|at| at > shared.one.now() && at <= shared.one.now() + 72 * 60_000), "at most an hour, and a fifth of it");
    let tried = transactions(shared.network.sent()).len();
    assert!((24..60).contains(&tried), "less and less often: {tried}");
    shared.network.set_down(&shared.two, false);
    shared.network.pass(2 * 60 * MINUTE);
    assert_eq!(shared.heard(&since), said);
    let status = shared.one.hs.status().federation.destinations.pop().expect("a destination");
    assert_eq!((status.reachable, status.queued, status.last_error, status.next_try), (Some(true), 0, None, None));
    assert_eq!(transactions(shared.network.sent()).len(), 4, "the one that was tried, and 50 events each");
}

#[test]
fn a_server_that_says_something_gets_what_waits_for_it() {
    let shared = Shared::new();
    let since = token(&sync(&shared.two, &shared.bob, ""));
    shared.network.set_down(&shared.two, true);
    shared.say("hello");
    shared.network.pass(DAY);
    shared.network.set_down(&shared.two, false);
    say(&shared.two, &shared.bob, &shared.room, "back");
    shared.network.pass(Duration::from_secs(5));
    let heard = shared.heard(&since);
    assert!(heard.contains(&"hello".to_owned()), "{heard:?}");
}

#[test]
fn what_waits_is_sent_after_a_restart() {
    let mut shared = Shared::new();
    let since = token(&sync(&shared.two, &shared.bob, ""));
    shared.network.set_down(&shared.two, true);
    shared.say("hello");
    shared.network.pass(MINUTE);
    let before = transactions(shared.network.sent());
    shared.one = shared.network.restart(shared.one);
    shared.network.set_down(&shared.two, false);
    shared.one.hs.begin_sending();
    shared.network.pass(MINUTE);
    let after = transactions(shared.network.sent());
    assert_eq!(shared.heard(&since), ["hello"]);
    assert_eq!((&after[0].path, &after[0].body), (&before[0].path, &before[0].body), "the same, byte for byte");
}

/// The answer is lost, and the server is asked again.
#[test]
fn a_transaction_that_arrived_unnoticed_takes_effect_once() {
    let shared = Shared::new();
    let since = token(&sync(&shared.two, &shared.bob, ""));
    shared.network.set_latency(Duration::from_millis(50));
    shared.say("hello");
    shared.network.pass(Duration::from_millis(75));
    shared.network.set_cut(&shared.one, &shared.two, true);
    shared.network.pass(Duration::from_millis(500));
    shared.network.set_cut(&shared.one, &shared.two, false);
    shared.network.pass(MINUTE);
    let sent = transactions(shared.network.sent());
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert_eq!((&sent[0].path, &sent[0].body), (&sent[1].path, &sent[1].body));
    assert_eq!(shared.heard(&since), ["hello"]);
}

#[test]
fn a_server_that_missed_too_much_catches_up_with_each_room() {
    let shared = Shared::new();
    let quiet = public_room(&shared.one, &shared.alice);
    join(&shared.two, &shared.bob, &quiet);
    shared.network.pass(MINUTE);
    let since = token(&sync(&shared.two, &shared.bob, ""));
    shared.network.set_down(&shared.two, true);
    say(&shared.one, &shared.alice, &quiet, "in-the-quiet-room");
    (0..1001).for_each(|number| shared.say(&format!("message-{number}")));
    let status = shared.one.hs.status().federation.destinations.pop().expect("a destination");
    assert!(status.catching_up && status.queued <= 50, "{status:?}");
    shared.network.pass(MINUTE);
    shared.network.set_down(&shared.two, false);
    shared.network.pass(2 * 60 * MINUTE);
    assert_eq!(heard(&shared.two, &shared.bob, &quiet, &since), ["in-the-quiet-room"]);
    let heard = shared.heard(&since);
    assert_eq!(heard.iter().filter(|text| *text == "message-1000").count(), 1, "{heard:?}");
    let since = token(&sync(&shared.two, &shared.bob, &since));
    shared.say("and-on");
    shared.network.pass(MINUTE);
    assert_eq!(shared.heard(&since), ["and-on"]);
    let status = shared.one.hs.status().federation.destinations.pop().expect("a destination");
    assert_eq!((status.catching_up, status.queued), (false, 0));
}
