//! What servers read of each other beside rooms' histories: the directory, spaces, profiles,
//! aliases, and devices with their keys; by themselves, and for their users.

use crate::{
    spec,
    support::{Answer, Network, TestServer, TestUser},
};
use ephapse_homeserver::{Body, Entrance};
use serde_json::{Value, json};
use std::time::Duration;

#[track_caller]
fn ask(from: &TestServer, to: &TestServer, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let path = format!("/_matrix/federation/v1/{path}");
    let answer = from.ask(to, method, &path, body);
    spec::check(method, &path, &answer);
    answer
}

fn two_servers() -> (Network, TestServer, TestServer) {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    (network, one, two)
}

fn room(server: &TestServer, user: &TestUser, request: Value) -> String {
    server.post(user, "/_matrix/client/v3/createRoom", request).ok()["room_id"].as_str().expect("an id").to_owned()
}

fn names(rooms: &Value) -> Vec<&str> {
    rooms.as_array().expect("rooms").iter().map(|room| room["name"].as_str().unwrap_or("")).collect()
}

#[test]
fn the_directory_of_another_server_is_read_and_searched() {
    let (network, one, two) = two_servers();
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    for name in ["Garden", "Kitchen", "Cellar"] {
        room(&one, &alice, json!({ "visibility": "public", "name": name }));
    }
    let listed = ask(&two, &one, "GET", "publicRooms?limit=2", None).ok();
    assert_eq!((names(&listed["chunk"]), &listed["total_room_count_estimate"]), (vec!["Garden", "Kitchen"], &json!(3)));
    ask(&two, &one, "GET", "publicRooms?since=nonsense", None).fails(400, "M_INVALID_PARAM");
    let filter = json!({ "filter": { "generic_search_term": "cell" } });
    assert_eq!(names(&ask(&two, &one, "POST", "publicRooms", Some(&filter)).ok()["chunk"]), ["Cellar"]);
    ask(&two, &one, "POST", "publicRooms", Some(&json!({ "since": "nonsense" }))).fails(400, "M_INVALID_PARAM");

    let page = two.request("GET", "/_matrix/client/v3/publicRooms?server=one.example&limit=2", None, None).ok();
    assert_eq!(names(&page["chunk"]), ["Garden", "Kitchen"]);
    let next = page["next_batch"].as_str().expect("a token");
    let page = two.request("GET", &format!("/_matrix/client/v3/publicRooms?server=one.example&since={next}"), None, None).ok();
    assert_eq!(names(&page["chunk"]), ["Cellar"]);
    let found = two.post(&bob, "/_matrix/client/v3/publicRooms?server=one.example", filter).ok();
    assert_eq!((names(&found["chunk"]), &found["chunk"][0]["join_rule"]), (vec!["Cellar"], &json!("public")));
    network.set_down(&one, true);
    let error = two.request("GET", "/_matrix/client/v3/publicRooms?server=one.example", None, None).fails(502, "M_UNKNOWN");
    assert_eq!(error["error"], "one.example: it could not be reached: connection refused");
}

#[test]
fn aliases_and_profiles_of_other_servers_are_looked_up() {
    let (network, one, two) = two_servers();
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    let id = room(&one, &alice, json!({ "preset": "public_chat", "room_alias_name": "hall" }));
    let alias = "/_matrix/client/v3/directory/room/%23hall:one.example";
    assert_eq!(two.request("GET", alias, None, None).ok(), json!({ "room_id": id, "servers": ["one.example"] }));
    two.post(&bob, "/_matrix/client/v3/join/%23hall:one.example", json!({})).ok();
    let servers = json!(["one.example", "two.example"]);
    assert_eq!(two.request("GET", alias, None, None).ok()["servers"], servers);
    assert_eq!(ask(&two, &one, "GET", "query/directory?room_alias=%23hall:one.example", None).ok()["servers"], servers);
    ask(&two, &one, "GET", "query/directory?room_alias=%23cellar:one.example", None).fails(404, "M_NOT_FOUND");
    two.request("GET", "/_matrix/client/v3/directory/room/%23cellar:one.example", None, None).fails(404, "M_NOT_FOUND");

    one.put(&alice, &format!("/_matrix/client/v3/profile/{}/m.tz", alice.id), json!({ "m.tz": "Europe/Berlin" })).ok();
    let profile = |path: &str| two.request("GET", &format!("/_matrix/client/v3/profile/{path}"), None, None);
    assert_eq!(profile(&alice.id).ok(), json!({ "displayname": "alice", "m.tz": "Europe/Berlin" }));
    assert_eq!(profile(&format!("{}/displayname", alice.id)).ok(), json!({ "displayname": "alice" }));
    profile(&format!("{}/avatar_url", alice.id)).fails(404, "M_NOT_FOUND");
    profile("@nobody:one.example").fails(404, "M_NOT_FOUND");
    ask(&two, &one, "GET", &format!("query/profile?user_id={}", alice.id), None).ok();
    ask(&two, &one, "GET", "query/profile?user_id=@nobody:one.example", None).fails(404, "M_NOT_FOUND");
    ask(&two, &one, "GET", "query/weather?city=x", None).fails(404, "M_NOT_FOUND");
    network.set_down(&one, true);
    for answer in [profile(&alice.id), two.request("GET", alias, None, None)] {
        let error = answer.fails(502, "M_UNKNOWN");
        assert!(error["error"].as_str().is_some_and(|text| text.starts_with("one.example: ")), "{error}");
    }
}

/// A space on one.example, with an open room, a secret one, and a space on two.example with a room
/// of its own.
struct Spaces {
    network: Network,
    one: TestServer,
    two: TestServer,
    alice: TestUser,
    bob: TestUser,
    top: String,
    secret: String,
    open: String,
}

impl Spaces {
    fn new() -> Self {
        let (network, one, two) = two_servers();
        let (alice, bob) = (one.register("alice"), two.register("bob"));
        let space = |name: &str| json!({ "preset": "public_chat", "name": name, "creation_content": { "type": "m.space" } });
        let (top, below) = (room(&one, &alice, space("top")), room(&two, &bob, space("below")));
        let open = room(&one, &alice, json!({ "preset": "public_chat", "name": "open" }));
        let secret = room(&one, &alice, json!({ "preset": "private_chat", "name": "secret" }));
        let far = room(&two, &bob, json!({ "preset": "public_chat", "name": "far" }));
        let add = |server: &TestServer, user: &TestUser, space: &str, child: &str, order: &str| {
            let content = json!({ "via": [server.hs.server_name()], "order": order });
            server.put(user, &format!("/_matrix/client/v3/rooms/{space}/state/m.space.child/{child}"), content).ok();
        };
        add(&one, &alice, &top, &open, "a");
        add(&one, &alice, &top, &secret, "b");
        add(&two, &bob, &below, &far, "a");
        let content = json!({ "via": ["gone.example", "two.example"], "order": "c" });
        one.put(&alice, &format!("/_matrix/client/v3/rooms/{top}/state/m.space.child/{below}"), content).ok();
        network.sent();
        Self { network, one, two, alice, bob, top, secret, open }
    }

    fn hierarchy(&self, server: &TestServer, user: &TestUser, query: &str) -> Value {
        server.get(user, &format!("/_matrix/client/v1/rooms/{}/hierarchy{query}", self.top)).ok()
    }
}

#[test]
fn a_space_is_told_to_other_servers_as_far_as_they_may_know() {
    let spaces = Spaces::new();
    let Spaces { one, two, top, secret, .. } = &spaces;
    let told = ask(two, one, "GET", &format!("hierarchy/{top}"), None).ok();
    assert_eq!((&told["room"]["name"], told["room"]["children_state"].as_array().map(Vec::len)), (&json!("top"), Some(3)));
    assert_eq!(names(&told["children"]), ["open"]);
    assert_eq!(told["inaccessible_children"], json!([secret]));
    ask(two, one, "GET", &format!("hierarchy/{secret}"), None).fails(404, "M_NOT_FOUND");
    ask(two, one, "GET", "hierarchy/!none:one.example", None).fails(404, "M_NOT_FOUND");
    // A server with an invited user may know.
    one.post(&spaces.alice, &format!("/_matrix/client/v3/rooms/{secret}/invite"), json!({ "user_id": spaces.bob.id })).ok();
    assert_eq!(ask(two, one, "GET", &format!("hierarchy/{secret}"), None).ok()["room"]["name"], "secret");
    assert_eq!(ask(two, one, "GET", &format!("hierarchy/{top}?suggested_only=true"), None).ok()["children"], json!([]));
}

#[test]
fn a_tree_goes_on_across_servers() {
    let spaces = Spaces::new();
    let Spaces { network, one, two, alice, bob, top, .. } = &spaces;
    let whole = spaces.hierarchy(one, alice, "");
    assert_eq!(names(&whole["rooms"]), ["top", "open", "secret", "below", "far"]);
    // What another server has said is known for a while, for the next page too.
    network.sent();
    assert_eq!(spaces.hierarchy(one, alice, ""), whole);
    assert!(network.sent().iter().all(|sent| !sent.path.contains("/hierarchy/")));
    let first = spaces.hierarchy(one, alice, "?limit=4");
    let second = spaces.hierarchy(one, alice, &format!("?from={}", first["next_batch"].as_str().expect("a token")));
    assert_eq!(names(&second["rooms"]), ["far"]);
    // Who is on a server that is in none of it asks those that are.
    two.post(bob, &format!("/_matrix/client/v3/join/{top}?server_name=one.example"), json!({})).ok();
    assert_eq!(names(&spaces.hierarchy(two, bob, "")["rooms"]), ["top", "open", "below", "far"]);
    network.set_down(two, true);
    one.host.advance(Duration::from_secs(600));
    assert_eq!(names(&spaces.hierarchy(one, alice, "")["rooms"]), ["top", "open", "secret"], "what cannot be asked for is left out");
}

/// A server that the test plays, with one space: the rooms that it leads to, and what the server
/// says of them.
fn play_space(network: &Network, server: &str, space: &str, answer: Value) {
    let mut told = json!({ "room_id": space, "name": "theirs", "room_type": "m.space", "join_rule": "public", "num_joined_members": 1,
        "world_readable": true, "guest_can_join": false });
    let children = answer["leads_to"].as_array().expect("rooms").iter().map(|room| {
        json!({ "type": "m.space.child", "state_key": room[0], "sender": format!("@them:{server}"), "origin_server_ts": 1,
            "content": { "via": [room[1]] } })
    });
    told["children_state"] = children.collect();
    let answer = json!({ "room": told, "children": answer["children"], "inaccessible_children": answer["inaccessible"] });
    network.play(server, move |request| match request.uri().path().contains("/hierarchy/") {
        true => http::Response::new(Body::from(answer.to_string())),
        false => http::Response::builder().status(404).body(Body::from("{}")).expect("an answer"),
    });
}

#[test]
fn what_a_server_says_of_another_s_room_counts_in_its_own_space_alone() {
    let spaces = Spaces::new();
    let Spaces { network, one, alice, top, .. } = &spaces;
    let far = spaces.hierarchy(one, alice, "")["rooms"][4]["room_id"].take();
    let theirs = "!theirs:three.example";
    let content = json!({ "via": ["three.example"], "order": "a" });
    one.put(alice, &format!("/_matrix/client/v3/rooms/{top}/state/m.space.child/{theirs}"), content).ok();
    play_space(network, "three.example", theirs, json!({ "leads_to": [[far, "three.example"]], "children": [], "inaccessible": [far] }));
    let mut rooms = names(&spaces.hierarchy(one, alice, "")["rooms"]).into_iter().map(str::to_owned).collect::<Vec<_>>();
    rooms.sort_unstable();
    assert_eq!(rooms, ["below", "far", "open", "secret", "theirs", "top"]);
}

#[test]
fn servers_that_do_not_answer_hold_up_a_space_for_a_minute_at_most() {
    let (network, one, _) = two_servers();
    let alice = one.register("alice");
    let top = room(&one, &alice, json!({ "preset": "public_chat", "name": "top", "creation_content": { "type": "m.space" } }));
    for number in 0..12 {
        let server = format!("slow{number}.example");
        play_space(&network, &server, "!a:slow.example", json!({ "leads_to": [], "children": [], "inaccessible": [] }));
        let path = format!("/_matrix/client/v3/rooms/{top}/state/m.space.child/!a{number}:{server}");
        one.put(&alice, &path, json!({ "via": [server] })).ok();
    }
    network.set_latency(Duration::from_secs(60));
    let before = one.now();
    let found = one.get(&alice, &format!("/_matrix/client/v1/rooms/{top}/hierarchy")).ok();
    assert_eq!(names(&found["rooms"]), ["top"]);
    assert!(one.now() - before <= 60_000, "{} ms", one.now() - before);
}

#[test]
fn a_room_of_another_server_has_a_summary() {
    let spaces = Spaces::new();
    let Spaces { network, one, two, alice, bob, secret, open, .. } = &spaces;
    let summary = |user: Option<&TestUser>, path: &str| {
        two.request("GET", &format!("/_matrix/client/v1/room_summary/{path}"), user.map(|user| user.token.as_str()), None)
    };
    one.put(alice, "/_matrix/client/v3/directory/room/%23open:one.example", json!({ "room_id": open })).ok();
    for path in [format!("{open}?via=gone.example&via=one.example"), "%23open:one.example".to_owned()] {
        let found = summary(Some(bob), &path).ok();
        assert_eq!((&found["name"], &found["membership"], &found["num_joined_members"]), (&json!("open"), &json!("leave"), &json!(1)));
    }
    summary(Some(bob), &format!("{secret}?via=one.example")).fails(404, "M_NOT_FOUND");
    summary(Some(bob), open).fails(404, "M_NOT_FOUND");
    network.sent();
    summary(None, &format!("{open}?via=one.example")).fails(404, "M_NOT_FOUND");
    assert_eq!(network.sent(), [], "for nobody in particular nobody is asked");
}

/// Uploads a device's keys, and a one-time key.
fn upload(server: &TestServer, user: &TestUser) {
    let keys = json!({
        "device_keys": {
            "user_id": user.id, "device_id": user.device, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": { format!("ed25519:{}", user.device): "a", format!("curve25519:{}", user.device): "b" },
            "signatures": { &user.id: { format!("ed25519:{}", user.device): "c" } },
        },
        "one_time_keys": { "curve25519:one": "key" },
    });
    server.post(user, "/_matrix/client/v3/keys/upload", keys).ok();
}

#[test]
fn other_servers_read_devices_and_claim_keys() {
    let (_network, one, two) = two_servers();
    let alice = one.register("alice");
    let device = alice.device.as_str();
    one.put(&alice, &format!("/_matrix/client/v3/devices/{device}"), json!({ "display_name": "At home" })).ok();
    upload(&one, &alice);
    let devices = ask(&two, &one, "GET", &format!("user/devices/{}", alice.id), None).ok();
    assert_eq!(devices["user_id"], json!(alice.id));
    assert_eq!(devices["devices"].as_array().map(Vec::len), Some(1));
    assert_eq!((&devices["devices"][0]["device_id"], &devices["devices"][0]["keys"]["device_id"]), (&json!(device), &json!(device)));
    ask(&two, &one, "GET", "user/devices/@nobody:one.example", None).fails(404, "M_NOT_FOUND");
    ask(&two, &one, "GET", "user/devices/@bob:two.example", None).fails(404, "M_NOT_FOUND");

    let queried = ask(&two, &one, "POST", "user/keys/query", Some(&json!({ "device_keys": { &alice.id: [] } }))).ok();
    assert_eq!(queried["device_keys"][&alice.id][device]["keys"], devices["devices"][0]["keys"]["keys"]);
    assert!(!queried.to_string().contains("At home") && !devices.to_string().contains("At home"), "what a device is called is nobody else's");
    ask(&two, &one, "POST", "user/keys/query", Some(&json!({}))).fails(400, "M_MISSING_PARAM");
    let claim = json!({ "one_time_keys": { &alice.id: { device: "curve25519" } } });
    let claimed = ask(&two, &one, "POST", "user/keys/claim", Some(&claim)).ok();
    assert_eq!(claimed["one_time_keys"][&alice.id][device], json!({ "curve25519:one": "key" }));
    assert_eq!(ask(&two, &one, "POST", "user/keys/claim", Some(&claim)).ok()["one_time_keys"], json!({}), "each is given once");
    ask(&two, &one, "POST", "user/keys/claim", Some(&json!({ "one_time_keys": 5 }))).fails(400, "M_BAD_JSON");
}

#[test]
fn an_openid_token_is_answered_as_the_specification_says() {
    let (_network, one, _) = two_servers();
    let alice = one.register("alice");
    let token = one.post(&alice, &format!("/_matrix/client/v3/user/{}/openid/request_token", alice.id), json!({})).ok()["access_token"].take();
    for (token, status) in [(token.as_str().expect("a token"), 200), ("nonsense", 401)] {
        let path = format!("/_matrix/federation/v1/openid/userinfo?access_token={token}");
        let answer = one.run(one.start_at(Entrance::Peer, http::Request::get(&path).body(Body::from("")).expect("a request")));
        assert_eq!(answer.status, status);
        spec::check("GET", &path, &answer);
    }
}

/// Nothing that another server answers costs more than itself.
#[test]
fn strange_answers_of_other_servers_are_sorted_out() {
    let (_network, one, two) = two_servers();
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    let id = room(&one, &alice, json!({ "visibility": "public", "name": "fine" }));
    // A main alias that is none, and a picture that is none.
    let state = |kind: &str, content: Value| one.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/state/{kind}/"), content).ok();
    state("m.room.avatar", json!({ "url": 5 }));
    state("m.room.topic", json!({ "topic": { "not": "a text" } }));
    state("m.room.name", json!({ "name": "fine" }));
    let page = two.post(&bob, "/_matrix/client/v3/publicRooms?server=one.example", json!({})).ok();
    assert_eq!((names(&page["chunk"]), &page["chunk"][0]["avatar_url"]), (vec!["fine"], &Value::Null));
}

/// Who comes into a room finds what was said long before.
#[test]
fn a_time_from_before_a_join_is_found_on_other_servers() {
    let (_network, one, two) = two_servers();
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    let id = room(&one, &alice, json!({ "preset": "public_chat" }));
    let mut sent = Vec::new();
    for number in 0..250 {
        one.host.advance(Duration::from_secs(60));
        let path = format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/{number}");
        let event = one.put(&alice, &path, json!({ "msgtype": "m.text", "body": number.to_string() })).ok()["event_id"].take();
        sent.push((one.now(), event));
    }
    two.post(&bob, &format!("/_matrix/client/v3/join/{id}?via=one.example"), json!({})).ok();
    let closest = |ts: u64, dir: &str| two.get(&bob, &format!("/_matrix/client/v1/rooms/{id}/timestamp_to_event?ts={ts}&dir={dir}"));
    for (number, dir, by) in [(200, "f", -20_000), (30, "b", 20_000), (31, "f", -20_000)] {
        let (ts, event) = &sent[number];
        let found = closest(ts.saturating_add_signed(by), dir).ok();
        assert_eq!((&found["event_id"], found["origin_server_ts"].as_u64()), (event, Some(*ts)), "{number} {dir}");
        let context = two.get(&bob, &format!("/_matrix/client/v3/rooms/{id}/context/{}?limit=4", event.as_str().expect("an id"))).ok();
        assert_eq!(context["event"]["content"]["body"], json!(number.to_string()));
        assert_eq!(context["events_after"].as_array().map(Vec::len), Some(2));
    }
    closest(1, "b").fails(404, "M_NOT_FOUND");
}
