//! Rooms that went on on two sides at once, and servers that came to one of them meanwhile.

use crate::{
    outbox::{MINUTE, Shared, join, sync, token},
    support::{TestServer, TestUser},
};
use serde_json::json;

fn say(server: &TestServer, user: &TestUser, room: &str, text: &str) {
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{text}");
    server.put(user, &path, json!({ "msgtype": "m.text", "body": text })).ok();
}

/// What a user finds by reading back, the oldest first.
fn read(server: &TestServer, user: &TestUser, room: &str) -> Vec<String> {
    let page = server.get(user, &format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=1000")).ok();
    let events = page["chunk"].as_array().expect("events");
    events.iter().rev().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
}

/// Bob says something on the one side of a split, while carol joins on the other; what she has
/// synced then.
fn join_on_one_side(shared: &Shared, three: &TestServer, carol: &TestUser) -> String {
    shared.network.set_cut(&shared.one, &shared.two, true);
    say(&shared.two, &shared.bob, &shared.room, "meanwhile");
    join(three, carol, &shared.room);
    token(&sync(three, carol, ""))
}

/// The server of bob did not know that carol was in the room, and that of alice had not heard what
/// bob said: nobody told carol, until somebody said something more.
#[test]
fn who_joins_on_one_side_hears_what_was_said_on_the_other() {
    let shared = Shared::new();
    let three = shared.network.server("three.example");
    let carol = three.register("carol");
    let since = join_on_one_side(&shared, &three, &carol);
    shared.network.pass(MINUTE);
    shared.network.set_cut(&shared.one, &shared.two, false);
    shared.network.pass(10 * MINUTE);
    let heard = &sync(&three, &carol, &since)["rooms"]["join"][&shared.room]["timeline"]["events"];
    assert_eq!(heard[0]["content"]["body"], "meanwhile", "{heard}");
    assert_eq!(heard.as_array().map(Vec::len), Some(1), "it comes once, and alone");
}

/// Where the graph led to what was before the join, all of the room's past came as if it were new,
/// and what those had said who had left since was taken for an attempt to go on after a ban.
#[test]
fn what_was_before_the_join_is_history_wherever_the_graph_leads_there() {
    let shared = Shared::new();
    let dave = shared.one.register("dave");
    join(&shared.one, &dave, &shared.room);
    say(&shared.one, &dave, &shared.room, "old");
    shared.one.post(&dave, &format!("/_matrix/client/v3/rooms/{}/leave", shared.room), json!({})).ok();
    shared.network.pass(MINUTE);
    let three = shared.network.server("three.example");
    let carol = three.register("carol");
    let since = join_on_one_side(&shared, &three, &carol);
    shared.network.set_cut(&shared.one, &shared.two, false);
    shared.network.pass(10 * MINUTE);
    say(&shared.one, &shared.alice, &shared.room, "together");
    shared.network.pass(MINUTE);
    let news = &sync(&three, &carol, &since)["rooms"]["join"][&shared.room]["timeline"]["events"];
    let news: Vec<&str> = news.as_array().into_iter().flatten().filter_map(|event| event["content"]["body"].as_str()).collect();
    assert_eq!(news, ["meanwhile", "together"], "nothing old is new");
    assert_eq!(read(&three, &carol, &shared.room), ["old", "meanwhile", "together"]);
}

/// What was said after a join that is not here, in a state that was asked for, was judged by a
/// state without that join, and withheld.
#[test]
fn who_joined_unheard_of_is_heard() {
    let shared = Shared::new();
    let (three, dave) = (shared.network.server("three.example"), shared.two.register("dave"));
    let carol = three.register("carol");
    shared.network.set_cut(&shared.one, &shared.two, true);
    join(&shared.two, &dave, &shared.room);
    say(&shared.two, &dave, &shared.room, "here-I-am");
    ["one", "two", "three"].iter().for_each(|text| say(&shared.one, &shared.alice, &shared.room, text));
    join(&three, &carol, &shared.room);
    let since = token(&sync(&three, &carol, ""));
    shared.network.set_cut(&shared.one, &shared.two, false);
    shared.network.pass(10 * MINUTE);
    let heard = &sync(&three, &carol, &since)["rooms"]["join"][&shared.room]["timeline"]["events"];
    assert_eq!(heard[0]["content"]["body"], "here-I-am", "{heard}");
}
