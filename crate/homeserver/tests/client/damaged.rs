//! What is stored may be damaged, by a disk or a browser: one thing that cannot be read is left out
//! of answers about many, and logged.

use crate::{
    members::{act, join, look, set_state},
    relations::relate,
    rooms::{room, send},
    support::{TestServer, TestUser, config},
};
use ephapse_homeserver::{
    Homeserver, OpenError,
    tables::{self, EventRecord},
};
use ephapse_store::{Batch, Direction, Reader};
use serde_json::{Value, json};
use std::{cell::RefCell, io, sync::Once};

thread_local! {
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What the test of this thread has logged.
struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The warnings and errors that are logged while something is done. There is one subscriber for all
/// threads: where one has none, tracing may take what it logs first for of no interest to anybody.
fn logged<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    static SUBSCRIBED: Once = Once::new();
    SUBSCRIBED.call_once(|| tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_ansi(false).with_writer(|| Log).init());
    LOG.take();
    let done = work();
    (done, String::from_utf8(LOG.take()).expect("text").lines().map(str::to_owned).collect())
}

type Stored = Vec<(Vec<u8>, Vec<u8>)>;

fn everything_stored(server: &TestServer) -> Stored {
    let store = server.store.clone();
    let all = server.run(async move { store.scan(vec![0]..vec![0xff], Direction::Forward, usize::MAX).await }).expect("a scan");
    all.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

fn put(server: &TestServer, key: &[u8], value: &[u8]) {
    let store = server.store.clone();
    let mut batch = Batch::new();
    batch.put(key.to_vec(), value.to_vec());
    server.run(async move { store.commit(batch).await }).expect("a write");
}

/// Changes what is stored of an event; `None`: into what is no event at all.
fn change_event(server: &TestServer, id: &str, change: impl FnOnce(EventRecord) -> Option<EventRecord> + 'static) {
    let (store, id) = (server.store.clone(), id.try_into().expect("an id"));
    let written = async move {
        let reader = Reader::new(store.clone());
        let place = tables::EVENT_IDS.get(&reader, &id).await.expect("a read").expect("it is there");
        let record = tables::EVENTS.get(&reader, &place).await.expect("a read").expect("it is there");
        let mut batch = Batch::new();
        match change(record) {
            Some(changed) => batch.put(tables::EVENTS.key(&place), tables::EVENTS.value(&changed)),
            None => batch.put(tables::EVENTS.key(&place), vec![0xff; 7]),
        }
        store.commit(batch).await
    };
    server.run(written).expect("a write");
}

fn with_json(mut record: EventRecord, change: impl FnOnce(String) -> String) -> Option<EventRecord> {
    record.pdu.0 = change(String::from_utf8(record.pdu.0).expect("JSON")).into_bytes();
    Some(record)
}

/// Two rooms of two users with a bit of everything in them.
struct World {
    alice: TestUser,
    rooms: [String; 2],
    since: String,
}

fn world(server: &TestServer) -> World {
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let since = server.get(&alice, "/_matrix/client/v3/sync").ok()["next_batch"].as_str().expect("a token").to_owned();
    let rooms = ["One", "Two"].map(|name| {
        let id = room(server, &alice, json!({ "preset": "public_chat", "name": name }));
        join(server, &bob, &id);
        let first = send(server, &bob, &id, "1", "first");
        let second = send(server, &bob, &id, "2", "second");
        relate(server, &alice, &id, "an-answer", "m.thread", &first);
        act(server, &alice, &id, &format!("receipt/m.read/{first}"), json!({})).ok();
        act(server, &bob, &id, &format!("receipt/m.read/{second}"), json!({})).ok();
        let path = format!("/_matrix/client/v3/user/{}/rooms/{id}/account_data/com.example.room", alice.id);
        server.put(&alice, &path, json!({ "a": { "b": 1 } })).ok();
        let redacted = send(server, &bob, &id, "3", "third");
        server.put(&bob, &format!("/_matrix/client/v3/rooms/{id}/redact/{redacted}/1"), json!({ "reason": "no" })).ok();
        id
    });
    let account_data = format!("/_matrix/client/v3/user/{}/account_data", alice.id);
    server.put(&alice, &format!("{account_data}/com.example.x"), json!({ "a": 1 })).ok();
    server.put(&alice, &format!("{account_data}/m.ignored_user_list"), json!({ "ignored_users": { "@carol:test.example": {} } })).ok();
    server.put(&alice, "/_matrix/client/v3/pushrules/global/content/x", json!({ "pattern": "x", "actions": ["notify"] })).ok();
    server.put(&alice, &format!("/_matrix/client/v3/profile/{}/displayname", alice.id), json!({ "displayname": "Alice" })).ok();
    server.put(&alice, &format!("/_matrix/client/v3/presence/{}/status", alice.id), json!({ "presence": "online", "status_msg": "here" })).ok();
    server.put(&bob, &format!("/_matrix/client/v3/presence/{}/status", bob.id), json!({ "presence": "online", "status_msg": "there" })).ok();
    let messages = json!({ "messages": { &*alice.id: { "*": { "a": {} } } } });
    server.put(&bob, "/_matrix/client/v3/sendToDevice/com.example.t/1", messages).ok();
    World { alice, rooms, since }
}

/// Everything that is told of many things at once, and what it must say of a room that is whole.
fn told_of_all(world: &World) -> Vec<String> {
    vec![
        "/_matrix/client/v3/sync".to_owned(),
        format!("/_matrix/client/v3/sync?since={}", world.since),
        "/_matrix/client/v3/sync?full_state=true&filter=%7B%22event_format%22:%22federation%22%7D".to_owned(),
        "/_matrix/client/v3/joined_rooms".to_owned(),
        "/_matrix/client/v3/pushrules/".to_owned(),
    ]
}

/// Whether all is told of one room that is asked for without naming an event.
fn told_of_room(server: &TestServer, user: &TestUser, room: &str) -> bool {
    ["messages?dir=b&limit=10", "state", "members"].iter().all(|path| look(server, user, room, path).status == 200)
}

/// All that is told of one room.
fn all_of_room(server: &TestServer, user: &TestUser, room: &str, but: &str) -> Vec<(String, Value)> {
    let rooms = format!("/_matrix/client/v3/rooms/{room}");
    let paths = ["messages?dir=b&limit=100", "messages?dir=f&limit=3", "state", "members", "joined_members", "aliases"];
    let mut told: Vec<(String, Value)> = Vec::new();
    for path in paths {
        told.push((path.to_owned(), server.get(user, &format!("{rooms}/{path}")).ok()));
    }
    let seen = told[0].1["chunk"].as_array().expect("events").clone();
    for id in seen.iter().filter_map(|event| event["event_id"].as_str()).filter(|id| *id != but) {
        told.push((format!("context of {id}"), server.get(user, &format!("{rooms}/context/{id}?limit=50")).ok()));
        told.push((format!("event {id}"), server.get(user, &format!("{rooms}/event/{id}")).ok()));
        told.push((format!("relations of {id}"), server.get(user, &format!("/_matrix/client/v1/rooms/{room}/relations/{id}")).ok()));
    }
    told
}

/// The tables of which a damaged value is more than one event, member or account datum: what the
/// server or the session stands on.
const SERVER: [u8; 5] = [0x00, 0x01, 0x02, 0x04, 0x42];

/// The ways in which a value is damaged.
fn damages(value: &[u8]) -> Vec<Vec<u8>> {
    let broken = value.iter().map(|byte| if *byte == b'{' { b'x' } else { *byte }).collect();
    vec![vec![0xff; 64], broken]
}

/// A single value that could not be read kept its user, and in the worst case everybody, from
/// syncing for ever.
#[test]
fn whatever_one_value_is_damaged_everybody_syncs_and_sees_the_rest() {
    let mut server = TestServer::new();
    let world = world(&server);
    let mut failed = Vec::new();
    for (key, value) in everything_stored(&server) {
        if SERVER.contains(&key[0]) {
            continue;
        }
        for damaged in damages(&value).into_iter().filter(|damaged| *damaged != value) {
            put(&server, &key, &damaged);
            server = server.restart();
            for path in told_of_all(&world) {
                let told = server.get(&world.alice, &path);
                let rooms = told.body["rooms"]["join"].as_object().cloned().unwrap_or_default();
                // The user's own place in one of the rooms may be what is damaged: the other is
                // there.
                let is_told = !path.contains("/sync") || rooms.values().any(|room| room.to_string().contains("an-answer"));
                if told.status != 200 || !is_told {
                    failed.push(format!("{} damaged to {}: {path}: {} {}", key.escape_ascii(), damaged.escape_ascii(), told.status, told.body));
                }
            }
            let rooms = world.rooms.iter().filter(|room| told_of_room(&server, &world.alice, room));
            if rooms.count() == 0 {
                failed.push(format!("{} damaged to {}: both rooms", key.escape_ascii(), damaged.escape_ascii()));
            }
            put(&server, &key, &value);
        }
    }
    assert!(failed.is_empty(), "{} failed: {}", failed.len(), failed.join("\n"));
}

#[test]
fn a_damaged_event_is_left_out_of_every_answer_about_its_room() {
    type Damage = fn(EventRecord) -> Option<EventRecord>;
    let damages: [Damage; 3] = [
        |_| None,
        |record| with_json(record, |json| json[..json.len() - 1].to_owned()),
        |record| with_json(record, |json| json.replace("\"sender\"", "\"gone\"")),
    ];
    for damage in damages {
        let mut server = TestServer::new();
        let (alice, bob, carol) = (server.register("alice"), server.register("bob"), server.register("carol"));
        let id = room(&server, &alice, json!({ "preset": "public_chat", "name": "Garden" }));
        join(&server, &bob, &id);
        join(&server, &carol, &id);
        let event_of = |server: &TestServer, kind: &str, key: &str| {
            let state = look(server, &alice, &id, "state").ok();
            let events = state.as_array().expect("a state");
            let event = events.iter().find(|event| event["type"] == kind && event["state_key"] == key).expect("it is there");
            event["event_id"].as_str().expect("an id").to_owned()
        };
        let root = send(&server, &alice, &id, "1", "the root");
        let answer = relate(&server, &bob, &id, "an-answer", "m.thread", &root);
        let other = relate(&server, &bob, &id, "another-answer", "m.thread", &root);
        let topic = set_state(&server, &alice, &id, "m.room.topic", json!({ "topic": "t" })).ok()["event_id"].as_str().expect("an id").to_owned();
        let last = send(&server, &bob, &id, "2", "the last");
        let victims = [answer, topic, event_of(&server, "m.room.member", &carol.id), event_of(&server, "m.room.name", "")];
        for victim in victims {
            let whole = all_of_room(&server, &alice, &id, "");
            change_event(&server, &victim, damage);
            server = server.restart();
            let told = all_of_room(&server, &alice, &id, &victim);
            // Nothing is missing but the damaged event.
            for (path, told) in &told {
                let text = told.to_string();
                assert!(!text.contains(&format!(r#""event_id":"{victim}""#)), "{path}: {text}");
                let before = &whole.iter().find(|(before, _)| before == path).unwrap_or_else(|| panic!("{path} is new")).1;
                for event in [&last, &root, &other] {
                    let named = format!(r#""event_id":"{event}""#);
                    assert_eq!(before.to_string().contains(&named), text.contains(&named), "{path}: {text}");
                }
            }
            let synced = server.get(&alice, "/_matrix/client/v3/sync?filter=%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:100%7D%7D%7D").ok();
            let synced = synced["rooms"]["join"][&id].to_string();
            assert!(synced.contains("the last") && synced.contains("another-answer") && synced.contains("m.room.create"), "{synced}");
            // Asked for alone, it is what the server has failed to keep.
            look(&server, &alice, &id, &format!("event/{victim}")).fails(500, "M_UNKNOWN");
            send(&server, &bob, &id, &victim[1..], "life goes on");
        }
    }
}

#[test]
fn the_log_says_what_is_damaged_and_who_asked_for_what() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({ "preset": "public_chat" }));
    join(&server, &bob, &id);
    let event = send(&server, &alice, &id, "1", "one");
    change_event(&server, &event, |record| with_json(record, |json| json.replace('{', "")));
    let server = server.restart();
    let (_, lines) = logged(|| server.get(&bob, "/_matrix/client/v3/sync").ok());
    let line = lines.iter().find(|line| line.contains(&event)).unwrap_or_else(|| panic!("{lines:?}"));
    for part in [&id, &bob.id, "left out", "/_matrix/client/v3/sync", "GET"] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    let (_, lines) = logged(|| look(&server, &bob, &id, &format!("event/{event}")).fails(500, "M_UNKNOWN"));
    let line = lines.last().expect("a line");
    for part in [&id, &event, &bob.id, "GET", "/_matrix/client/v3/rooms/{room_id}/event/{event_id}"] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    // What is in order, and what is the client's mistake, is nobody's concern.
    let (_, lines) = logged(|| (look(&server, &bob, &id, "event/$none").fails(404, "M_NOT_FOUND"), look(&server, &bob, &id, "joined_members").ok()));
    assert_eq!(lines, [] as [String; 0]);
}

/// Of what the server stands on itself nothing can be left out: it does not open, and says why.
#[test]
fn a_record_that_the_server_cannot_run_without_is_named() {
    let server = TestServer::new();
    server.register("alice");
    let records = [tables::IDENTITY.key(&()), tables::NEWEST_POSITION.key(&()), tables::STORED_FORMAT.key(&())];
    for (key, name) in records.into_iter().zip(["identity", "newest position", "format"]) {
        let stored = everything_stored(&server);
        let (_, whole) = stored.iter().find(|(stored, _)| *stored == key).expect("it is there");
        put(&server, &key, &[0xff; 64]);
        let opened = server.run(Homeserver::open(server.store.clone(), server.host.clone(), config()));
        let said = opened.err().expect("it does not open");
        assert!(matches!(&said, OpenError::Unreadable(record) if record.starts_with(&format!("the record `{name}` cannot be read: "))), "{said}");
        put(&server, &key, whole);
    }
    server.restart();
}

#[test]
fn damaged_account_data_names_its_user_and_type_and_leaves_the_others() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for kind in ["com.example.a", "com.example.b"] {
        server.put(&alice, &format!("/_matrix/client/v3/user/{}/account_data/{kind}", alice.id), json!({ "is": kind })).ok();
    }
    let stored = everything_stored(&server);
    let (key, value) = stored.iter().find(|(key, _)| key[0] == tables::ACCOUNT_DATA.prefix() && contains(key, b"example.a")).expect("one");
    let broken: Vec<u8> = value.iter().map(|byte| if *byte == b'{' { b'x' } else { *byte }).collect();
    put(&server, key, &broken);
    let server = server.restart();
    let (synced, lines) = logged(|| server.get(&alice, "/_matrix/client/v3/sync").ok());
    let shown = synced["account_data"].to_string();
    assert!(shown.contains("com.example.b") && shown.contains("m.push_rules") && !shown.contains("com.example.a"), "{shown}");
    assert!(lines.iter().any(|line| line.contains(&alice.id) && line.contains("com.example.a")), "{lines:?}");
    server.get(&alice, &format!("/_matrix/client/v3/user/{}/account_data/com.example.a", alice.id)).fails(500, "M_UNKNOWN");
    // It is written again.
    server.put(&alice, &format!("/_matrix/client/v3/user/{}/account_data/com.example.a", alice.id), json!({})).ok();
    assert!(server.get(&alice, "/_matrix/client/v3/sync").ok().to_string().contains("com.example.a"));
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
