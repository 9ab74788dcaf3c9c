//! What is accepted can be read: by everything that reads an event later, and wherever else it is
//! answered inside of other JSON.

use crate::{
    account::confirm,
    members::{act, join, look},
    rooms::{room, send},
    support::{Answer, PASSWORD, TestServer, TestUser},
};
use ephapse_testing::holds;
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

fn raw(server: &TestServer, user: &TestUser, method: &str, path: &str, body: &str) -> Answer {
    server.run(server.start_raw(method, path, Some(&user.token), body))
}

fn send_raw(server: &TestServer, user: &TestUser, room: &str, txn: &str, content: &str) -> Answer {
    raw(server, user, "PUT", &format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{txn}"), content)
}

/// An object of so many levels.
fn nested(levels: usize) -> String {
    format!("{}{{}}{}", r#"{"a":"#.repeat(levels - 1), "}".repeat(levels - 1))
}

fn id_of(answer: Answer) -> String {
    answer.ok()["event_id"].as_str().expect("an id").to_owned()
}

/// An answer that every client can read; this test reads as this server and clients in Rust do.
#[track_caller]
fn readable(answer: Answer, what: &str) -> Value {
    assert!(answer.status == 200 && answer.body != Value::Null, "{what}: {} {}", answer.status, answer.body);
    answer.body
}

/// 127 objects in each other were accepted, could not be redacted, and kept every newcomer from
/// syncing once their sender's account was erased.
#[test]
fn an_event_has_a_hundred_levels_at_most() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for version in ["1", "5", "6", "11", "12"] {
        let id = room(&server, &alice, json!({ "room_version": version }));
        for levels in [1, 98, 99, 100, 101, 126, 127, 128, 5000] {
            let content = nested(levels);
            let sent = send_raw(&server, &alice, &id, &format!("m{levels}"), &content);
            let state = raw(&server, &alice, "PUT", &format!("/_matrix/client/v3/rooms/{id}/state/com.example.x/{levels}"), &content);
            let initial_state =
                format!(r#"{{"room_version":"{version}","initial_state":[{{"type":"com.example.x","state_key":"","content":{content}}}]}}"#);
            let created = raw(&server, &alice, "POST", "/_matrix/client/v3/createRoom", &initial_state);
            if levels < 100 {
                sent.ok();
                state.ok();
            } else {
                for refused in [sent, state] {
                    let said = refused.fails(400, "M_BAD_JSON")["error"].as_str().expect("words").to_owned();
                    assert!(said.contains("at most 100 levels"), "{said}");
                }
            }
            // Three levels are around it.
            if levels <= 97 { drop(created.ok()) } else { drop(created.fails(400, "M_BAD_JSON")) }
        }
    }
}

const NUMBERS: [&str; 12] =
    ["0", "1.5", "1e3", "-0", "-0.0", "9007199254740993", "1e16", "1E400", "-17", "1e-7", "123456789012345678901234567890", "0.1"];

/// Contents at the edges of what readers take.
fn contents() -> impl Strategy<Value = String> {
    // As long as this test reads them; Python reads 4300 digits.
    let long_digits = "7".repeat(300);
    let too_long = "7".repeat(4301);
    let number = prop_oneof![
        5 => select(NUMBERS.to_vec()).prop_map(str::to_owned),
        1 => Just(long_digits),
        1 => Just(too_long),
    ];
    let string = select(vec![r"\u0000", r"\ud800", r"\udc00\ud800", r"\ud83d\ude00", r#"\u001f\\\""#, "\u{7f}\u{2028}", "plain"]);
    prop_oneof![
        (90_usize..130).prop_map(nested),
        (90_usize..130).prop_map(|levels| format!(r#"{{"a":{}{}}}"#, "[".repeat(levels), "]".repeat(levels))),
        (60_000_usize..66_000).prop_map(|length| format!(r#"{{"body":"{}"}}"#, "x".repeat(length))),
        (60_000_usize..66_000).prop_map(|length| format!(r#"{{"{}":1}}"#, "k".repeat(length))),
        (1_usize..12_000).prop_map(|count| format!(r#"{{"body":"{}"}}"#, r"\u0001".repeat(count))),
        (1_usize..22_000).prop_map(|count| format!(r#"{{"a":[{}]}}"#, vec!["{}"; count].join(","))),
        number.clone().prop_map(|number| format!(r#"{{"n":{number}}}"#)),
        (string.clone(), number.clone()).prop_map(|(string, number)| format!(r#"{{"{string}":["{string}",{number}],"body":"{string}"}}"#)),
        (string, number).prop_map(|(key, number)| {
            format!(r#"{{"m.relates_to":{{"rel_type":"m.annotation","event_id":"$PARENT","key":"{key}","x":{number}}}}}"#)
        }),
    ]
}

/// Everything that reads an event that was accepted.
#[test]
fn whatever_is_accepted_is_read_by_every_later_reader() {
    holds(12, &(select(vec!["1", "4", "5", "6", "11", "12"]), vec((contents(), any::<bool>()), 1..6)), |(version, contents)| {
        let server = TestServer::new();
        let [alice, bob, carol, dave] = ["alice", "bob", "carol", "dave"].map(|name| server.register(name));
        let id = room(&server, &alice, json!({ "room_version": version, "preset": "public_chat" }));
        join(&server, &bob, &id);
        let since = server.get(&bob, "/_matrix/client/v3/sync").ok()["next_batch"].as_str().expect("a token").to_owned();
        let parent = send(&server, &alice, &id, "parent", "the parent");
        let mut accepted: Vec<String> = Vec::new();
        for (number, (content, is_state)) in contents.iter().enumerate() {
            let content = content.replace("$PARENT", &parent);
            // The same twice, so that one replaces the other.
            for again in ["", "again"] {
                let sent = if *is_state {
                    let path = format!("/_matrix/client/v3/rooms/{id}/state/com.example.x/{number}");
                    let content = if again.is_empty() { content.clone() } else { content.replacen('{', r#"{"again":true,"#, 1) };
                    raw(&server, &alice, "PUT", &path, &content.replace(",}", "}"))
                } else {
                    send_raw(&server, &alice, &id, &format!("{number}{again}"), &content)
                };
                match sent.status {
                    200 => accepted.push(id_of(sent)),
                    400 | 413 => {}
                    other => return Err(TestCaseError::fail(format!("{other}: {}", sent.body))),
                }
            }
        }
        accepted.dedup();
        let read = |server: &TestServer, user: &TestUser| {
            for event in accepted.iter().chain([&parent]) {
                for path in [format!("event/{event}"), format!("context/{event}?limit=100")] {
                    readable(look(server, user, &id, &path), &path);
                }
                readable(server.get(user, &format!("/_matrix/client/v1/rooms/{id}/relations/{event}")), "relations");
            }
            for path in ["messages?dir=b&limit=100", "messages?dir=f&limit=100", "state", "members", "joined_members"] {
                readable(look(server, user, &id, path), path);
            }
            for query in [
                "",
                &format!("?since={since}"),
                "?full_state=true&filter=%7B%22event_format%22:%22federation%22%7D",
                "?filter=%7B%22event_fields%22:%5B%22content.n%22,%22type%22,%22unsigned%22%5D%7D",
                "?filter=%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:100,%22contains_url%22:false%7D%7D%7D",
            ] {
                let synced = readable(server.get(user, &format!("/_matrix/client/v3/sync{query}")), query);
                assert!(synced["rooms"]["join"][&id].is_object(), "{query}: {synced}");
            }
            let all = look(server, user, &id, "messages?dir=b&limit=100").ok()["chunk"].to_string();
            assert!(accepted.iter().all(|event| all.contains(event.as_str())), "{all}");
        };
        let server = server.restart();
        read(&server, &bob);
        // Redacted, each second one.
        for event in accepted.iter().step_by(2) {
            let path = format!("/_matrix/client/v3/rooms/{id}/redact/{event}/{}", &event[1..5]);
            server.put(&alice, &path, json!({ "reason": "\u{0}" })).ok();
        }
        read(&server, &bob);
        // Their sender is erased, and somebody comes who has seen none of it.
        confirm(&server, &alice, "POST", "/_matrix/client/v3/account/deactivate", json!({ "erase": true }), PASSWORD).ok();
        let server = server.restart();
        join(&server, &carol, &id);
        join(&server, &dave, &id);
        read(&server, &carol);
        read(&server, &bob);
        for user in [&bob, &carol, &dave] {
            act(&server, user, &id, "leave", json!({})).ok();
            readable(server.get(user, &format!("/_matrix/client/v3/sync?since={since}")), "after leaving");
            act(&server, user, &id, "forget", json!({})).ok();
        }
        Ok(())
    });
}

/// In v1 to v5 they were refused in own events, though received ones may have them; and those of
/// received ones stayed as their server wrote them, of which Synapse has another hash.
#[test]
fn up_to_v5_own_events_have_numbers_of_every_kind_as_python_writes_them() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let given = r#"{"n":[1.50,1e3,-0,-0.0,9007199254740993,-9007199254740992,1E16,0.00001],"body":"\u00001.5"}"#;
    let written = json!({ "n": [1.5, 1000.0, 0, -0.0, 9_007_199_254_740_993_i64, -9_007_199_254_740_992_i64, 1e16, 1e-5], "body": "\u{0}1.5" });
    for version in 1..=12 {
        let id = room(&server, &alice, json!({ "room_version": version.to_string() }));
        let sent = send_raw(&server, &alice, &id, "1", given);
        let state = raw(&server, &alice, "PUT", &format!("/_matrix/client/v3/rooms/{id}/state/com.example.x/"), given);
        let own = format!("/_matrix/client/v3/rooms/{id}/state/m.room.member/{}", alice.id);
        let member = raw(&server, &alice, "PUT", &own, r#"{"membership":"join","displayname":"Alice","com.example.height":1.75}"#);
        let body = format!(
            r#"{{"room_version":"{version}","creation_content":{{"n":1.0}},"initial_state":[{{"type":"com.example.x","content":{given}}}]}}"#
        );
        let created = raw(&server, &alice, "POST", "/_matrix/client/v3/createRoom", &body);
        if version > 5 {
            for refused in [sent, state, member, created] {
                let said = refused.fails(400, "M_BAD_JSON")["error"].as_str().expect("words").to_owned();
                assert!(said.contains("integers"), "{said}");
            }
            continue;
        }
        for event in [id_of(sent), id_of(state)] {
            let shown = look(&server, &alice, &id, &format!("event/{event}")).ok();
            assert_eq!(shown["content"].to_string(), written.to_string(), "v{version}");
        }
        // What was set is set already, also when it is written otherwise.
        let path = format!("/_matrix/client/v3/rooms/{id}/state/com.example.x/");
        let again = [given.to_owned(), given.replace("1e3", "1000.0")].map(|given| id_of(raw(&server, &alice, "PUT", &path, &given)));
        assert_eq!(again[0], again[1]);
        // A new name leaves alone what else stands in the member event.
        member.ok();
        let name = format!("/_matrix/client/v3/profile/{}/displayname", alice.id);
        server.put(&alice, &name, json!({ "displayname": format!("A{version}") })).ok();
        let member = look(&server, &alice, &id, &format!("state/m.room.member/{}", alice.id)).ok();
        assert_eq!(member, json!({ "membership": "join", "displayname": format!("A{version}"), "com.example.height": 1.75 }));
        let new = created.ok()["room_id"].as_str().expect("an id").to_owned();
        assert_eq!(look(&server, &alice, &new, "state/com.example.x/").ok().to_string(), written.to_string());
        assert_eq!(look(&server, &alice, &new, "state/m.room.create/").ok()["n"].to_string(), "1.0");
        for number in ["1E400", "-1e999", &"1".repeat(4301)] {
            send_raw(&server, &alice, &id, "no", &format!(r#"{{"n":{number}}}"#)).fails(400, "M_BAD_JSON");
        }
        // Many digits are all kept.
        let digits = "123456789".repeat(400);
        let long = id_of(send_raw(&server, &alice, &id, "long", &format!(r#"{{"n":{digits}}}"#)));
        let store = server.store.clone();
        let stored =
            server.run(async move { store.scan(vec![0x21]..vec![0x22], ephapse_store::Direction::Backward, usize::MAX).await }).expect("a scan");
        let has_all = |value: &[u8]| value.windows(digits.len()).any(|part| part == digits.as_bytes());
        assert!(stored.iter().any(|(_, value)| has_all(value)), "{long}");
    }
}

/// What is no event may have any number, and is answered as it was given; but nothing that would
/// spoil the answer that it is a part of.
#[test]
fn what_is_kept_beside_events_is_readable_where_it_is_answered() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let id = room(&server, &alice, json!({}));
    let user = format!("/_matrix/client/v3/user/{}", alice.id);
    let to_device = |value: &str| format!(r#"{{"messages":{{"{}":{{"*":{{"x":{value}}}}}}}}}"#, alice.id);
    type Body<'a> = Box<dyn Fn(&str) -> String + 'a>;
    let places: Vec<(&str, String, Body<'_>)> = vec![
        ("PUT", format!("{user}/account_data/com.example.x"), Box::new(|value| format!(r#"{{"x":{value}}}"#))),
        ("PUT", format!("{user}/rooms/{id}/account_data/com.example.x"), Box::new(|value| format!(r#"{{"x":{value}}}"#))),
        ("PUT", format!("/_matrix/client/v3/profile/{}/com.example.x", alice.id), Box::new(|value| format!(r#"{{"com.example.x":{value}}}"#))),
        ("POST", format!("{user}/filter"), Box::new(|value| format!(r#"{{"com.example.x":{value}}}"#))),
        ("PUT", "/_matrix/client/v3/sendToDevice/com.example.t/TXN".to_owned(), Box::new(to_device)),
    ];
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let levels_around = [1, 1, 1, 1, 4];
    let mut txn = 0;
    for ((method, path, body), around) in places.iter().zip(levels_around) {
        let mut put = |value: &str| {
            txn += 1;
            raw(&server, &alice, method, &path.replace("TXN", &txn.to_string()), &body(value))
        };
        for good in ["1.5", "1e3", "-0.0", "9007199254740993", "123456789012345678901234567890", r#""\u0000""#, &deep(100 - around)] {
            let put = put(good);
            assert_eq!(put.status, 200, "{path}: {good}: {}", put.body);
            readable(server.get(&alice, "/_matrix/client/v3/sync"), path);
        }
        for bad in ["1e400", &"1".repeat(4301), r#""\ud800""#, r#"{"\udc00":1}"#, &deep(101 - around), &deep(2000)] {
            put(bad).fails(400, "M_BAD_JSON");
        }
        let value = put("1.5");
        assert_eq!(value.status, 200);
    }
    let synced = server.get(&alice, "/_matrix/client/v3/sync").ok();
    assert_eq!(
        synced["account_data"]["events"].as_array().expect("data").iter().find(|data| data["type"] == "com.example.x").expect("one")["content"]["x"],
        1.5
    );
    let waiting = synced["to_device"]["events"].as_array().expect("messages").clone();
    assert_eq!(
        (waiting.first().expect("one")["content"]["x"].clone(), waiting.last().expect("one")["content"]["x"].clone()),
        (json!(1.5), json!(1.5))
    );
    assert_eq!(server.get(&alice, &format!("/_matrix/client/v3/profile/{}/com.example.x", alice.id)).ok(), json!({ "com.example.x": 1.5 }));
}
