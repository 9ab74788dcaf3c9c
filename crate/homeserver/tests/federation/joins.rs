//! Joins, knocks, invitations and leaves across servers.

use crate::support::{Network, Peer, Room, TestServer, TestUser};
use bytes::Bytes;
use ephapse_homeserver::{Body, Host};
use futures_util::{
    StreamExt,
    future::{Either, select},
    stream,
};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Value, json};
use std::{cell::Cell, convert::Infallible, iter, pin::pin, rc::Rc, time::Duration};

fn room(server: &TestServer, user: &TestUser, body: Value) -> String {
    server.post(user, "/_matrix/client/v3/createRoom", body).ok()["room_id"].as_str().expect("a room id").to_owned()
}

fn sync(server: &TestServer, user: &TestUser) -> Value {
    server.get(user, "/_matrix/client/v3/sync").ok()
}

fn membership(server: &TestServer, user: &TestUser, room: &str, of: &TestUser) -> Value {
    server.get(user, &format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/{}", of.id)).ok()["membership"].clone()
}

#[test]
fn a_user_joins_a_room_of_another_server() {
    for version in ["1", "6", "10", "11", "12"] {
        let network = Network::new();
        let (one, two) = (network.server("one.example"), network.server("two.example"));
        let (alice, bob) = (one.register("alice"), two.register("bob"));
        let id = room(&one, &alice, json!({ "preset": "public_chat", "room_version": version, "name": "Far away" }));
        two.post(&bob, &format!("/_matrix/client/v3/join/{id}?via=one.example"), json!({})).ok();
        let joined = &sync(&two, &bob)["rooms"]["join"][&id];
        let state = joined["state"]["events"].as_array().expect("a state");
        assert!(state.iter().any(|event| event["type"] == "m.room.name" && event["content"]["name"] == "Far away"), "{version}: {joined}");
        let timeline = joined["timeline"]["events"].as_array().expect("a timeline");
        assert_eq!(timeline.last().expect("the join")["state_key"], json!(bob.id), "{version}: {joined}");
        for (server, user) in [(&one, &alice), (&two, &bob)] {
            assert_eq!(membership(server, user, &id, &alice), "join", "{version}");
            assert_eq!(membership(server, user, &id, &bob), "join", "{version}");
        }
    }
}

#[test]
fn a_join_is_shown_while_it_waits_for_another_server() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    let id = room(&one, &alice, json!({ "preset": "public_chat" }));
    network.set_latency(Duration::from_secs(1));
    let join = two.start("POST", &format!("/_matrix/client/v3/join/{id}?via=one.example"), Some(&bob.token), Some(json!({})));
    let (hs, asked) = (two.hs.clone(), id.clone());
    let sleep = two.host.sleep(Duration::from_millis(2500));
    two.run(async move {
        let mut join = pin!(join);
        assert!(matches!(select(join.as_mut(), sleep).await, Either::Right(_)), "each of two requests takes two seconds");
        let joins = hs.status().federation.joins;
        assert_eq!(joins.iter().map(|join| (join.server.as_str(), join.room.as_str())).collect::<Vec<_>>(), [("one.example", &*asked)]);
        join.await.ok();
        assert_eq!(hs.status().federation.joins, []);
    });
    assert_eq!(membership(&two, &bob, &id, &alice), "join");
}

#[test]
fn an_answer_to_a_join_that_never_ends_is_given_up() {
    let network = Network::new();
    let two = network.server("two.example");
    let bob = two.register("bob");
    let id = "!endless:one.example";
    let template = json!({ "type": "m.room.member", "room_id": id, "sender": bob.id, "state_key": bob.id, "content": { "membership": "join" },
        "depth": 5, "prev_events": [], "auth_events": [], "origin_server_ts": 1 });
    let read = Rc::new(Cell::new(0));
    let counted = read.clone();
    network.play("one.example", move |request| {
        if request.uri().path().contains("make_join") {
            return http::Response::new(Body::from(json!({ "room_version": "10", "event": template }).to_string()));
        }
        let counted = counted.clone();
        let frames = stream::iter(iter::once("{\"state\":[\"").chain(iter::repeat("endless endless endless endless"))).map(move |text| {
            counted.set(counted.get() + text.len());
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(text.as_bytes())))
        });
        http::Response::new(Body::stream(StreamBody::new(frames)))
    });
    let answer = two.post(&bob, &format!("/_matrix/client/v3/join/{id}?via=one.example"), json!({}));
    assert_eq!(answer.status, 502, "{}", answer.body);
    assert!(answer.body["error"].as_str().is_some_and(|error| error.contains("one.example") && error.contains("more than")), "{}", answer.body);
    assert!(read.get() < 5 << 20, "{} bytes are read", read.get());
}

#[test]
fn a_user_joins_by_an_alias_of_another_server() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    let id = room(&one, &alice, json!({ "preset": "public_chat", "room_alias_name": "hall" }));
    let joined = two.post(&bob, "/_matrix/client/v3/join/%23hall:one.example", json!({})).ok();
    assert_eq!(joined["room_id"], json!(id));
    two.post(&bob, "/_matrix/client/v3/join/%23cellar:one.example", json!({})).fails(404, "M_NOT_FOUND");
}

#[test]
fn an_invitation_reaches_a_user_of_another_server() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    let id = room(&one, &alice, json!({ "preset": "private_chat", "name": "For two", "invite": [bob.id] }));
    let invited = &sync(&two, &bob)["rooms"]["invite"][&id]["invite_state"]["events"];
    let told = |kind: &str| invited.as_array().into_iter().flatten().find(|event| event["type"] == kind).cloned().unwrap_or_default();
    assert_eq!(told("m.room.name")["content"]["name"], "For two", "{invited}");
    assert_eq!(told("m.room.create")["sender"], json!(alice.id), "{invited}");
    assert_eq!(membership(&one, &alice, &id, &bob), "invite");
    // The server of who invited is in the room.
    two.post(&bob, &format!("/_matrix/client/v3/rooms/{id}/join"), json!({})).ok();
    assert_eq!(membership(&one, &alice, &id, &bob), "join");
    assert_eq!(membership(&two, &bob, &id, &alice), "join");
}

#[test]
fn an_invitation_is_refused_across_servers() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    let id = room(&one, &alice, json!({ "preset": "private_chat" }));
    one.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/invite"), json!({ "user_id": bob.id })).ok();
    let since = sync(&two, &bob)["next_batch"].as_str().expect("a token").to_owned();
    two.post(&bob, &format!("/_matrix/client/v3/rooms/{id}/leave"), json!({})).ok();
    assert_eq!(membership(&one, &alice, &id, &bob), "leave");
    let after = two.get(&bob, &format!("/_matrix/client/v3/sync?since={since}")).ok();
    assert!(after["rooms"]["leave"][&id].is_object(), "{after}");
    assert!(sync(&two, &bob)["rooms"]["invite"][&id].is_null());
    // Also when nobody can be told.
    one.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/invite"), json!({ "user_id": bob.id })).ok();
    network.set_down(&one, true);
    two.post(&bob, &format!("/_matrix/client/v3/rooms/{id}/leave"), json!({})).ok();
    assert!(sync(&two, &bob)["rooms"]["invite"][&id].is_null());
}

#[test]
fn an_invitation_and_a_knock_are_ended_by_the_room() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    let rules = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } });
    let id = room(&one, &alice, json!({ "initial_state": [rules] }));
    for what in ["kick", "ban"] {
        if what == "kick" {
            one.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/invite"), json!({ "user_id": bob.id })).ok();
            assert!(sync(&two, &bob)["rooms"]["invite"][&id].is_object());
        } else {
            two.post(&bob, &format!("/_matrix/client/v3/knock/{id}?via=one.example"), json!({})).ok();
            assert!(sync(&two, &bob)["rooms"]["knock"][&id].is_object());
        }
        let since = sync(&two, &bob)["next_batch"].as_str().expect("a token").to_owned();
        one.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/{what}"), json!({ "user_id": bob.id })).ok();
        network.pass(Duration::from_secs(5));
        let after = two.get(&bob, &format!("/_matrix/client/v3/sync?since={since}")).ok();
        assert!(after["rooms"]["leave"][&id].is_object(), "{what}: {after}");
        let now = sync(&two, &bob);
        assert!(now["rooms"]["invite"][&id].is_null() && now["rooms"]["knock"][&id].is_null(), "{now}");
    }
}

#[test]
fn the_end_of_a_ban_that_comes_late_ends_no_invitation() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    let id = room(&one, &alice, json!({ "preset": "private_chat", "invite": [bob.id] }));
    let about_bob = |what: &str| one.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/{what}"), json!({ "user_id": bob.id })).ok();
    about_bob("ban");
    network.pass(Duration::from_secs(5));
    assert!(sync(&two, &bob)["rooms"]["invite"][&id].is_null());
    network.set_down(&two, true);
    about_bob("unban");
    network.pass(Duration::from_secs(5));
    network.set_down(&two, false);
    about_bob("invite");
    assert!(sync(&two, &bob)["rooms"]["invite"][&id].is_object());
    network.sent();
    network.pass(Duration::from_secs(2 * 60 * 60));
    assert!(network.sent().iter().any(|sent| sent.path.contains("/send/")), "the unban has come");
    assert!(sync(&two, &bob)["rooms"]["invite"][&id].is_object());
    two.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
}

#[test]
fn whom_a_server_does_not_know_is_not_invited() {
    let network = Network::new();
    let (one, _two) = (network.server("one.example"), network.server("two.example"));
    let alice = one.register("alice");
    let id = room(&one, &alice, json!({}));
    let invite = |user: &str| one.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/invite"), json!({ "user_id": user }));
    invite("@nobody:two.example").fails(404, "M_NOT_FOUND");
    let error = invite("@bob:three.example").fails(502, "M_UNKNOWN");
    assert!(error["error"].as_str().is_some_and(|text| text.contains("three.example: it could not be reached")), "{error}");
}

#[test]
fn a_user_knocks_on_a_room_of_another_server() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    let rules = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } });
    let id = room(&one, &alice, json!({ "initial_state": [rules], "name": "Knock first" }));
    two.post(&bob, &format!("/_matrix/client/v3/join/{id}?via=one.example"), json!({})).fails(403, "M_FORBIDDEN");
    two.post(&bob, &format!("/_matrix/client/v3/knock/{id}?via=one.example"), json!({ "reason": "please" })).ok();
    let knocked = &sync(&two, &bob)["rooms"]["knock"][&id]["knock_state"]["events"];
    assert!(knocked.as_array().into_iter().flatten().any(|event| event["content"]["name"] == "Knock first"), "{knocked}");
    assert_eq!(membership(&one, &alice, &id, &bob), "knock");
    one.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/invite"), json!({ "user_id": bob.id })).ok();
    two.post(&bob, &format!("/_matrix/client/v3/rooms/{id}/join"), json!({})).ok();
    assert_eq!(membership(&one, &alice, &id, &bob), "join");
}

#[test]
fn a_restricted_room_is_joined_on_the_word_of_its_server() {
    for version in ["8", "11", "12"] {
        let network = Network::new();
        let (one, two) = (network.server("one.example"), network.server("two.example"));
        let (alice, bob) = (one.register("alice"), two.register("bob"));
        let space = room(&one, &alice, json!({ "preset": "public_chat", "room_version": version }));
        let content = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": space }] });
        let rules = json!({ "type": "m.room.join_rules", "state_key": "", "content": content });
        let id = room(&one, &alice, json!({ "initial_state": [rules], "room_version": version }));
        let join = |id: &str| two.post(&bob, &format!("/_matrix/client/v3/join/{id}?via=one.example"), json!({}));
        join(&id).fails(403, "M_FORBIDDEN");
        join(&space).ok();
        join(&id).ok();
        assert_eq!(membership(&two, &bob, &id, &bob), "join", "{version}");
        assert_eq!(membership(&one, &alice, &id, &bob), "join", "{version}");
    }
}

/// Where nobody on the user's own server may invite, though it is in the room.
#[test]
fn a_restricted_room_is_joined_on_the_word_of_another_server() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let [alice, bob, carol] = [one.register("alice"), two.register("bob"), two.register("carol")];
    let space = room(&one, &alice, json!({ "preset": "public_chat" }));
    let content = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": space }] });
    let rules = json!({ "type": "m.room.join_rules", "state_key": "", "content": content });
    let id = room(&one, &alice, json!({ "initial_state": [rules], "power_level_content_override": { "invite": 50 } }));
    let join = |user: &TestUser, id: &str| two.post(user, &format!("/_matrix/client/v3/join/{id}?via=one.example"), json!({}));
    join(&bob, &space).ok();
    join(&bob, &id).ok();
    join(&carol, &id).fails(403, "M_FORBIDDEN");
    join(&carol, &space).ok();
    // The other server hears of it.
    network.pass(std::time::Duration::from_secs(1));
    join(&carol, &id).ok();
    assert_eq!(membership(&two, &bob, &id, &carol), "join");
    assert_eq!(membership(&one, &alice, &id, &carol), "join");
}

#[test]
fn a_join_says_whom_it_could_not_reach() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    let id = room(&one, &alice, json!({ "preset": "public_chat" }));
    two.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).fails(404, "M_NOT_FOUND");
    network.set_down(&one, true);
    let error = two.post(&bob, &format!("/_matrix/client/v3/join/{id}?via=one.example"), json!({})).fails(502, "M_UNKNOWN");
    assert!(error["error"].as_str().is_some_and(|text| text.contains("one.example: it could not be reached: connection refused")), "{error}");
    network.set_down(&one, false);
    two.post(&bob, &format!("/_matrix/client/v3/join/{id}?via=nowhere.example&via=one.example"), json!({})).ok();
}

#[test]
fn a_user_comes_back_to_a_room_that_everybody_here_had_left() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    let id = room(&one, &alice, json!({ "preset": "public_chat" }));
    let join = || two.post(&bob, &format!("/_matrix/client/v3/join/{id}?via=one.example"), json!({}));
    join().ok();
    two.post(&bob, &format!("/_matrix/client/v3/rooms/{id}/leave"), json!({})).ok();
    network.pass(std::time::Duration::from_secs(10));
    one.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/state/m.room.name/"), json!({ "name": "Changed" })).ok();
    join().ok();
    let name = two.get(&bob, &format!("/_matrix/client/v3/rooms/{id}/state/m.room.name")).ok();
    assert_eq!(name["name"], "Changed");
}

#[test]
fn history_from_before_an_invitation_is_there_and_from_between_it_and_the_join() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob, carol) = (one.register("alice"), two.register("bob"), two.register("carol"));
    for between in [false, true] {
        let id = room(&one, &alice, json!({ "preset": "private_chat" }));
        let mut said = Vec::new();
        let mut say = |body: &str| {
            let path = format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/{}{between}", body.replace(' ', "-"));
            one.put(&alice, &path, json!({ "msgtype": "m.text", "body": body })).ok();
            said.push(body.to_owned());
        };
        say("long before");
        say("before");
        // The state that the second invitation comes with is that of the first.
        for user in [&carol, &bob] {
            one.post(&alice, &format!("/_matrix/client/v3/rooms/{id}/invite"), json!({ "user_id": user.id })).ok();
        }
        if between {
            say("between");
        }
        two.post(&bob, &format!("/_matrix/client/v3/join/{id}"), json!({})).ok();
        let page = two.get(&bob, &format!("/_matrix/client/v3/rooms/{id}/messages?dir=b&limit=100")).ok();
        let events = page["chunk"].as_array().expect("events");
        let bodies: Vec<&str> = events.iter().rev().filter_map(|event| event["content"]["body"].as_str()).collect();
        assert_eq!(bodies, said, "{page}");
        assert_eq!(events.last().expect("the first event")["type"], "m.room.create");
        let count = |kind: &str| events.iter().filter(|event| event["state_key"] == json!(bob.id) && event["content"]["membership"] == kind).count();
        assert_eq!((count("invite"), count("join")), (1, 1), "{page}");
    }
}

/// It made the server invite anybody in the name of any of its users.
#[test]
fn an_invitation_by_address_is_exchanged_only_where_there_is_one() {
    let network = Network::new();
    let server = network.server("one.example");
    let room = Room::public(&server, "11");
    let peer = Peer::new(1);
    peer.join(&server, &room, "bob");
    let body = json!({
        "type": "m.room.member", "room_id": room.id, "sender": room.alice.id, "state_key": peer.user("mallory"),
        "content": { "membership": "invite" },
    });
    let path = format!("/_matrix/federation/v1/exchange_third_party_invite/{}", room.id);
    peer.ask(&server, "PUT", &path, Some(&body)).fails(400, "M_INVALID_PARAM");
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}", room.id, peer.user("mallory"));
    server.get(&room.alice, &path).fails(404, "M_NOT_FOUND");
}

/// What it signs is for its own users to take.
#[test]
fn a_server_signs_no_invitation_of_another_server_s_user() {
    let network = Network::new();
    let server = network.server("one.example");
    let room = Room::public(&server, "11");
    let peer = Peer::new(1);
    peer.join(&server, &room, "bob");
    let other = Peer::new(2);
    let invite = peer.state(&server, &room, "bob", "m.room.member", other.user("carol").as_str(), json!({ "membership": "invite" }));
    let event: Value = serde_json::from_slice(&invite.json).expect("JSON");
    let body = json!({ "room_version": "11", "event": event, "invite_room_state": [] });
    let path = format!("/_matrix/federation/v2/invite/{}/{}", room.id, invite.event_id);
    peer.ask(&server, "PUT", &path, Some(&body)).fails(400, "M_INVALID_PARAM");
}

/// A lying invitation made a room unusable for good.
#[test]
fn a_room_has_the_version_that_its_servers_say_and_not_the_one_of_an_invitation() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let (alice, bob) = (one.register("alice"), two.register("bob"));
    let id = room(&one, &alice, json!({ "preset": "public_chat", "room_version": "10" }));
    let peer = Peer::new(1);
    let three = network.server("three.example");
    let there = Room::public(&three, "11");
    peer.join(&three, &there, "mallory");
    let lie = peer.state(&three, &there, "mallory", "m.room.member", &bob.id, json!({ "membership": "invite" }));
    let lie = peer.changed(&there, &lie, |event| event["room_id"] = json!(id));
    let event: Value = serde_json::from_slice(&lie.json).expect("JSON");
    let body = json!({ "room_version": "11", "event": event, "invite_room_state": [] });
    peer.ask(&two, "PUT", &format!("/_matrix/federation/v2/invite/{id}/{}", lie.event_id), Some(&body)).ok();
    assert!(sync(&two, &bob)["rooms"]["invite"][&id].is_object());
    two.post(&bob, &format!("/_matrix/client/v3/join/{id}?via=one.example"), json!({})).ok();
    let create = two.get(&bob, &format!("/_matrix/client/v3/rooms/{id}/state/m.room.create")).ok();
    assert_eq!(create["room_version"], "10");
    two.put(&bob, &format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/1"), json!({ "msgtype": "m.text", "body": "hello" })).ok();
    network.pass(Duration::from_secs(1));
    let timeline = &sync(&one, &alice)["rooms"]["join"][&id]["timeline"]["events"];
    assert!(timeline.as_array().into_iter().flatten().any(|event| event["content"]["body"] == "hello"), "{timeline}");
}

#[test]
fn a_server_that_the_room_denies_is_told_nothing_of_who_is_here() {
    let network = Network::new();
    let server = network.server("one.example");
    let room = Room::public(&server, "11");
    let peer = Peer::new(1);
    peer.join(&server, &room, "bob");
    let user = "@nobody:one.example";
    let invite = peer.state(&server, &room, "bob", "m.room.member", user, json!({ "membership": "invite" }));
    room.put_state(&server, "m.room.server_acl", json!({ "allow": ["*"], "deny": [peer.name.as_str()] }));
    let event: Value = serde_json::from_slice(&invite.json).expect("JSON");
    let body = json!({ "room_version": "11", "event": event, "invite_room_state": [] });
    let path = format!("/_matrix/federation/v2/invite/{}/{}", room.id, invite.event_id);
    peer.ask(&server, "PUT", &path, Some(&body)).fails(403, "M_FORBIDDEN");
}

#[test]
fn a_room_of_a_version_that_is_not_known_says_which() {
    let network = Network::new();
    let server = network.server("one.example");
    let (alice, peer) = (server.register("alice"), Peer::new(1));
    let refusal = json!({ "errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": "too old", "room_version": "org.future" });
    peer.play(&network, move |_| (400, refusal.clone()));
    let path = format!("/_matrix/client/v3/join/!future:{0}?via={0}", peer.name);
    let refused = server.post(&alice, &path, json!({})).fails(400, "M_INCOMPATIBLE_ROOM_VERSION");
    assert_eq!(refused["room_version"], "org.future");
}

#[test]
fn a_server_of_before_2019_is_asked_as_they_were_then() {
    let network = Network::new();
    let server = network.server("one.example");
    let room = Room::public(&server, "1");
    let peer = std::rc::Rc::new(Peer::new(1));
    let (signer, rules) = (peer.clone(), room.info.rules.clone());
    peer.play(&network, move |request| {
        if !request.uri().path().starts_with("/_matrix/federation/v1/invite/") {
            return (404, json!({}));
        }
        let sent: Value = serde_json::from_slice(request.body()).expect("JSON");
        assert!(sent["unsigned"]["invite_room_state"].as_array().is_some_and(|told| !told.is_empty()), "{sent}");
        let received = ephapse_events::ReceivedPdu::parse(request.body(), &rules).expect("an event");
        let signed = received.unverified().signed_by(&signer.name, &signer.key, &rules).expect("it is signed");
        let event: Value = serde_json::from_slice(&signed.json).expect("JSON");
        (200, json!([200, { "event": event }]))
    });
    let bob = peer.user("bob");
    server.post(&room.alice, &format!("/_matrix/client/v3/rooms/{}/invite", room.id), json!({ "user_id": bob })).ok();
    assert_eq!(room.state(&server, &format!("m.room.member/{bob}")).expect("a membership")["membership"], "invite");
}

/// Whether a room lets guests in shows when its state is here.
#[test]
fn guests_join_rooms_of_other_servers_where_those_let_them() {
    let network = Network::new();
    let (one, two) = (network.server("one.example"), network.server("two.example"));
    let alice = one.register("alice");
    let made = two.request("POST", "/_matrix/client/v3/register?kind=guest", None, Some(json!({}))).ok();
    let text = |name: &str| made[name].as_str().expect("it is there").to_owned();
    let guest = TestUser { id: text("user_id"), token: text("access_token"), device: text("device_id") };
    for (access, status) in [("can_join", 200), ("forbidden", 403)] {
        let guests = json!({ "type": "m.room.guest_access", "content": { "guest_access": access } });
        let id = room(&one, &alice, json!({ "preset": "public_chat", "initial_state": [guests] }));
        let joined = two.post(&guest, &format!("/_matrix/client/v3/join/{id}?via=one.example"), json!({}));
        assert_eq!(joined.status, status, "{access}: {}", joined.body);
        network.pass(Duration::from_secs(5));
        assert_eq!(membership(&one, &alice, &id, &guest), if status == 200 { "join" } else { "leave" });
    }
}
