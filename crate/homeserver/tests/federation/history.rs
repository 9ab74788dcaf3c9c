//! What the servers in a room read of its events and states.

use crate::{
    spec,
    support::{Answer, Network, TestServer, TestUser},
};
use ephapse_homeserver::Entrance;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// A room on one.example that bob of two.example has joined, and that three.example is not in.
struct Shared {
    one: TestServer,
    two: TestServer,
    three: TestServer,
    alice: TestUser,
    bob: TestUser,
    room: String,
    _network: Network,
}

impl Shared {
    /// `before`: what alice does before bob joins.
    fn new(request: Value, before: impl FnOnce(&TestServer, &TestUser, &str)) -> Self {
        let network = Network::new();
        let [one, two, three] = ["one.example", "two.example", "three.example"].map(|name| network.server(name));
        let (alice, bob) = (one.register("alice"), two.register("bob"));
        let room = one.post(&alice, "/_matrix/client/v3/createRoom", request).ok()["room_id"].as_str().expect("an id").to_owned();
        before(&one, &alice, &room);
        two.post(&bob, &format!("/_matrix/client/v3/join/{room}?server_name=one.example"), json!({})).ok();
        Self { one, two, three, alice, bob, room, _network: network }
    }

    fn public() -> Self {
        Self::new(json!({ "preset": "public_chat" }), |_, _, _| {})
    }

    /// What two.example is answered by one.example.
    #[track_caller]
    fn get(&self, path: &str) -> Answer {
        ask(&self.two, &self.one, "GET", path, None)
    }

    /// The id of bob's join.
    fn join(&self) -> String {
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}?format=event", self.room, self.bob.id);
        self.one.get(&self.alice, &path).ok()["event_id"].as_str().expect("an id").to_owned()
    }
}

#[track_caller]
fn ask(from: &TestServer, to: &TestServer, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let path = format!("/_matrix/federation/v1/{path}");
    let answer = from.ask(to, method, &path, body);
    spec::check(method, &path, &answer);
    answer
}

fn send(server: &TestServer, user: &TestUser, room: &str, body: &str) -> String {
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{body}");
    server.put(user, &path, json!({ "msgtype": "m.text", "body": body })).ok()["event_id"].as_str().expect("an id").to_owned()
}

fn set(server: &TestServer, user: &TestUser, room: &str, kind: &str, content: Value) {
    server.put(user, &format!("/_matrix/client/v3/rooms/{room}/state/{kind}/"), content).ok();
}

fn kinds(events: &Value) -> Vec<&str> {
    events.as_array().expect("events").iter().map(|event| event["type"].as_str().expect("a type")).collect()
}

fn bodies(events: &Value) -> Vec<&str> {
    let messages = events.as_array().expect("events").iter().filter(|event| event["type"] == "m.room.message");
    messages.map(|event| event["content"]["body"].as_str().unwrap_or("")).collect()
}

#[test]
fn a_server_in_the_room_reads_the_state_before_an_event_and_what_it_stands_on() {
    for version in ["1", "6", "10", "11", "12"] {
        let shared = Shared::new(json!({ "preset": "public_chat", "name": "Room", "room_version": version }), |_, _, _| {});
        let Shared { room, one, alice, .. } = &shared;
        let join = shared.join();
        set(one, alice, room, "m.room.topic", json!({ "topic": "later" }));
        let state = shared.get(&format!("state/{room}?event_id={join}")).ok();
        let of_state: BTreeSet<&str> = kinds(&state["pdus"]).into_iter().collect();
        assert!(of_state.is_superset(&BTreeSet::from(["m.room.create", "m.room.name", "m.room.power_levels"])), "{of_state:?}");
        assert!(!of_state.contains("m.room.topic"), "it is that before the event");
        let members = state["pdus"].as_array().expect("events").iter().filter(|event| event["type"] == "m.room.member").count();
        assert_eq!(members, 1, "his own join is not before it");
        let of_chain: BTreeSet<&str> = kinds(&state["auth_chain"]).into_iter().collect();
        assert!(of_chain.is_superset(&BTreeSet::from(["m.room.create", "m.room.member"])), "{version}: {of_chain:?}");
        assert!(!of_chain.contains("m.room.name"));

        let ids = shared.get(&format!("state_ids/{room}?event_id={join}")).ok();
        let count = |list: &Value| list.as_array().map(Vec::len);
        assert_eq!((count(&ids["pdu_ids"]), count(&ids["auth_chain_ids"])), (count(&state["pdus"]), count(&state["auth_chain"])));
        let chain = shared.get(&format!("event_auth/{room}/{join}")).ok();
        let kinds: BTreeSet<&str> = kinds(&chain["auth_chain"]).into_iter().collect();
        assert!(kinds.is_superset(&BTreeSet::from(["m.room.create", "m.room.join_rules", "m.room.member"])), "{version}: {kinds:?}");
        for what in ["state", "state_ids"] {
            shared.get(&format!("{what}/{room}?event_id=$none:one.example")).fails(404, "M_NOT_FOUND");
        }
        shared.get(&format!("event_auth/{room}/$none:one.example")).fails(404, "M_NOT_FOUND");
    }
}

#[test]
fn a_server_that_is_not_in_the_room_reads_nothing() {
    let shared = Shared::public();
    let Shared { one, two, three, alice, bob, room, .. } = &shared;
    let event = send(one, alice, room, "hello");
    let paths = [
        format!("state/{room}?event_id={event}"),
        format!("state_ids/{room}?event_id={event}"),
        format!("event_auth/{room}/{event}"),
        format!("event/{event}"),
        format!("backfill/{room}?v={event}&limit=5"),
        format!("timestamp_to_event/{room}?ts=1&dir=f"),
    ];
    let missing = json!({ "earliest_events": [], "latest_events": [event] });
    let refused = |from: &TestServer| {
        for path in &paths {
            ask(from, one, "GET", path, None).fails(403, "M_FORBIDDEN");
        }
        for body in [&missing, &json!({})] {
            ask(from, one, "POST", &format!("get_missing_events/{room}"), Some(body)).fails(403, "M_FORBIDDEN");
        }
    };
    refused(three);
    let answered = |from: &TestServer| paths.iter().for_each(|path| drop(ask(from, one, "GET", path, None).ok()));
    answered(two);
    ask(two, one, "POST", &format!("get_missing_events/{room}"), Some(&missing)).ok();
    let of_nothing = ask(two, one, "POST", &format!("get_missing_events/{room}"), Some(&json!({}))).ok();
    assert_eq!(of_nothing["events"], json!([]));
    for path in ["state/!none:one.example?event_id=$a", "state_ids/!none:one.example?event_id=$a", "backfill/!none:one.example?v=$a&limit=1"] {
        ask(two, one, "GET", path, None).fails(404, "M_NOT_FOUND");
    }
    // A server that the room's list denies is as good as one that is not there.
    set(one, alice, room, "m.room.server_acl", json!({ "allow": ["*"], "deny": ["two.example"] }));
    refused(two);
    set(one, alice, room, "m.room.server_acl", json!({ "allow": ["*"] }));
    answered(two);
    two.post(bob, &format!("/_matrix/client/v3/rooms/{room}/leave"), json!({})).ok();
    one.post(alice, &format!("/_matrix/client/v3/rooms/{room}/ban"), json!({ "user_id": bob.id })).ok();
    refused(two);
}

#[test]
fn an_event_is_read_by_its_id() {
    let shared = Shared::public();
    let Shared { one, alice, room, .. } = &shared;
    let event = send(one, alice, room, "hello");
    let answer = shared.get(&format!("event/{event}")).ok();
    assert_eq!((&answer["origin"], bodies(&answer["pdus"])), (&json!("one.example"), vec!["hello"]));
    let pdu = &answer["pdus"][0];
    assert!(pdu["signatures"]["one.example"].is_object() && pdu["hashes"]["sha256"].is_string() && pdu["unsigned"]["age"].is_null(), "{pdu}");
    shared.get("event/$none:one.example").fails(404, "M_NOT_FOUND");
}

#[test]
fn backfill_goes_back_from_events_and_holds_each_once() {
    let shared = Shared::public();
    let Shared { one, alice, room, .. } = &shared;
    let mut sent = Vec::new();
    for number in 0..130 {
        sent.push(send(one, alice, room, &number.to_string()));
    }
    let back = |from: &[&str], limit: usize| {
        let from: String = from.iter().map(|event| format!("v={event}&")).collect();
        shared.get(&format!("backfill/{room}?{from}limit={limit}")).ok()
    };
    assert_eq!(bodies(&back(&[&sent[5]], 3)["pdus"]), ["5", "4", "3"]);
    assert_eq!(bodies(&back(&[&sent[9], &sent[8], "$none:one.example"], 3)["pdus"]), ["9", "8", "7"]);
    assert_eq!(back(&[&sent[129]], 1_000)["pdus"].as_array().map(Vec::len), Some(100));
    let all = back(&[&sent[10]], 100);
    assert_eq!(kinds(&all["pdus"]).last(), Some(&"m.room.create"));
    assert_eq!(back(&["$none:one.example"], 5)["pdus"], json!([]));
    assert_eq!(back(&[&sent[5]], 0)["pdus"], json!([]));
    assert_eq!(ask(&shared.two, one, "GET", &format!("backfill/{room}?v={}", sent[1]), None).status, 400, "without a limit");
}

#[test]
fn missing_events_are_those_between_what_a_server_has() {
    let shared = Shared::public();
    let Shared { one, two, alice, room, .. } = &shared;
    let sent: Vec<String> = (0..40).map(|number| send(one, alice, room, &number.to_string())).collect();
    let missing = |body: Value| ask(two, one, "POST", &format!("get_missing_events/{room}"), Some(&body));
    let between = |earliest: usize, latest: usize| missing(json!({ "earliest_events": [sent[earliest]], "latest_events": [sent[latest]] })).ok();
    assert_eq!(bodies(&between(3, 7)["events"]), ["4", "5", "6"]);
    assert_eq!(bodies(&between(3, 4)["events"]), [""; 0]);
    // Those nearest to the latest, of more than may be.
    assert_eq!(bodies(&between(0, 39)["events"]), ["29", "30", "31", "32", "33", "34", "35", "36", "37", "38"]);
    let many = missing(json!({ "earliest_events": [], "latest_events": [sent[39]], "limit": 1_000 })).ok();
    assert_eq!(many["events"].as_array().map(Vec::len), Some(20));
    let depth = shared.get(&format!("event/{}", sent[20])).ok()["pdus"][0]["depth"].clone();
    let deep = missing(json!({ "earliest_events": [], "latest_events": [sent[22]], "min_depth": depth })).ok();
    assert_eq!(bodies(&deep["events"]), ["20", "21"]);
    assert_eq!(missing(json!({ "earliest_events": [], "latest_events": ["$none:one.example"] })).ok()["events"], json!([]));
    missing(json!({ "earliest_events": 7 })).fails(400, "M_BAD_JSON");
}

/// What was said before a server's users came, where only those who were there may read it.
#[test]
fn what_a_server_may_not_see_is_redacted() {
    for (visibility, is_seen) in [("shared", true), ("world_readable", true), ("invited", false), ("joined", false)] {
        let shared = Shared::new(json!({ "preset": "public_chat" }), |one, alice, room| {
            set(one, alice, room, "m.room.history_visibility", json!({ "history_visibility": visibility }));
            one.host.advance(Duration::from_secs(10));
            send(one, alice, room, "secret");
            one.host.advance(Duration::from_secs(10));
        });
        let Shared { one, two, alice, room, .. } = &shared;
        let join = shared.join();
        let last = send(one, alice, room, "seen");
        let pdus = shared.get(&format!("backfill/{room}?v={last}&limit=10")).ok()["pdus"].take();
        let secret = if is_seen { "secret" } else { "" };
        assert_eq!(bodies(&pdus), ["seen", secret], "{visibility}");
        let events = pdus.as_array().expect("events");
        let hidden = events.iter().rfind(|event| event["type"] == "m.room.message").expect("the first message");
        assert!(hidden["signatures"]["one.example"].is_object() && hidden["prev_events"].is_array(), "{hidden}");
        let of_join = events.iter().find(|event| event["state_key"] == json!(shared.bob.id)).expect("the join");
        assert_eq!(of_join["content"]["displayname"], "bob", "his own join is seen");
        let missing = json!({ "earliest_events": [], "latest_events": [join], "limit": 2 });
        let between = ask(two, one, "POST", &format!("get_missing_events/{room}"), Some(&missing)).ok();
        assert_eq!(bodies(&between["events"]), [secret], "{visibility}");
        // The same by its id, and by its time.
        let ts = &hidden["origin_server_ts"];
        let found = shared.get(&format!("timestamp_to_event/{room}?ts={ts}&dir=b")).ok();
        assert_eq!(&found["origin_server_ts"] == ts, is_seen, "{visibility}: {found}");
        let secret_id = one.get(alice, &format!("/_matrix/client/v1/rooms/{room}/timestamp_to_event?ts={ts}&dir=b")).ok()["event_id"].take();
        let by_id = shared.get(&format!("event/{}", secret_id.as_str().expect("an id"))).ok();
        assert_eq!(bodies(&by_id["pdus"]), [secret], "{visibility}");
    }
}

#[test]
fn who_is_invited_shows_their_server_what_invited_users_may_see() {
    let shared = Shared::new(json!({ "preset": "public_chat" }), |one, alice, room| {
        set(one, alice, room, "m.room.history_visibility", json!({ "history_visibility": "invited" }));
        send(one, alice, room, "before");
        one.post(alice, &format!("/_matrix/client/v3/rooms/{room}/invite"), json!({ "user_id": "@bob:two.example" })).ok();
        send(one, alice, room, "invited");
    });
    let last = send(&shared.one, &shared.alice, &shared.room, "joined");
    let pdus = shared.get(&format!("backfill/{}?v={last}&limit=20", shared.room)).ok()["pdus"].take();
    assert_eq!(bodies(&pdus), ["joined", "invited", ""]);
}

#[test]
fn events_of_erased_users_are_redacted() {
    let shared = Shared::public();
    let Shared { one, alice, room, .. } = &shared;
    let carol = one.register("carol");
    one.post(&carol, &format!("/_matrix/client/v3/join/{room}"), json!({})).ok();
    send(one, &carol, room, "regret");
    let auth = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "carol" }, "password": ephapse_homeserver::test_support::PASSWORD });
    one.post(&carol, "/_matrix/client/v3/account/deactivate", json!({ "erase": true, "auth": auth })).ok();
    let last = send(one, alice, room, "hello");
    let pdus = shared.get(&format!("backfill/{room}?v={last}&limit=5")).ok()["pdus"].take();
    assert_eq!(bodies(&pdus), ["hello", ""]);
}

#[test]
fn a_time_leads_to_an_event_for_servers_too() {
    let shared = Shared::public();
    let Shared { one, alice, room, .. } = &shared;
    one.host.advance(Duration::from_secs(10));
    let event = send(one, alice, room, "hello");
    let found = shared.get(&format!("timestamp_to_event/{room}?ts={}&dir=f", one.now() - 5_000)).ok();
    assert_eq!(found["event_id"], json!(event));
    shared.get(&format!("timestamp_to_event/{room}?ts={}&dir=f", one.now() + 100_000)).fails(404, "M_NOT_FOUND");
    assert_eq!(shared.get(&format!("timestamp_to_event/{room}?ts=x&dir=f")).status, 400);
}

/// A room of any size costs the same memory: its state leaves in pieces.
#[test]
fn a_large_state_leaves_in_pieces() {
    let large = |number: usize| json!({ "type": "org.example.large", "state_key": number.to_string(), "content": { "text": "x".repeat(4_000) } });
    let state: Vec<Value> = (0..400).map(large).collect();
    let shared = Shared::new(json!({ "preset": "public_chat", "initial_state": state }), |_, _, _| {});
    let path = format!("/_matrix/federation/v1/state/{}?event_id={}", shared.room, shared.join());
    let request = shared.two.signed(&shared.one, "GET", &path, None);
    let hs = shared.one.hs.clone();
    let sizes = shared.one.run(async move {
        let mut body = hs.handle(Entrance::Peer, request).await.into_body();
        let mut sizes = Vec::new();
        while let Some(frame) = body.frame().await {
            sizes.push(frame.expect("it does not break off").into_data().map_or(0, |data| data.len()));
        }
        sizes
    });
    let (whole, largest) = (sizes.iter().sum::<usize>(), sizes.iter().max().copied().unwrap_or_default());
    assert!(whole > 400 * 4_000 && largest < 600_000, "{whole} bytes, at most {largest} at once");
}
