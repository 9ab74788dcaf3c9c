//! Unread counts in a sync.

use crate::{
    rooms::{room, send},
    support::TestServer,
    sync::{act, join, next, public, sync, unread},
};
use serde_json::{Value, json};

#[test]
fn unread_events_are_counted_until_they_are_read() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = public(&server, &alice);
    send(&server, &alice, &id, "0", "before bob came");
    join(&server, &bob, &id);
    let mut bobs = sync(&server, &bob, &[]);
    assert_eq!(unread(&bobs, &id), (0, 0));
    let one = send(&server, &alice, &id, "1", "one");
    send(&server, &alice, &id, "2", "two");
    let path = format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/3");
    server.put(&alice, &path, json!({"msgtype": "m.text", "body": "three", "m.mentions": {"user_ids": [bob.id]}})).ok();
    bobs = next(&server, &bob, &bobs);
    assert_eq!(unread(&bobs, &id), (3, 1));
    assert_eq!(unread(&sync(&server, &alice, &[]), &id), (0, 0), "one's own notify nobody");

    act(&server, &bob, &id, &format!("receipt/m.read.private/{one}"), json!({})).ok();
    bobs = next(&server, &bob, &bobs);
    assert_eq!(unread(&bobs, &id), (2, 1));
    let server = server.restart();
    assert_eq!(unread(&sync(&server, &bob, &[]), &id), (2, 1), "the same after a restart");
    let four = send(&server, &alice, &id, "4", "four");
    act(&server, &bob, &id, &format!("receipt/m.read/{four}"), json!({})).ok();
    bobs = next(&server, &bob, &bobs);
    assert_eq!(unread(&bobs, &id), (0, 0));
    send(&server, &alice, &id, "5", "five");
    send(&server, &bob, &id, "6", "an answer");
    assert_eq!(unread(&next(&server, &bob, &bobs), &id), (0, 0), "who answers has read");
}

#[test]
fn threads_are_counted_apart_for_who_asks_so() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = public(&server, &alice);
    join(&server, &bob, &id);
    let threads = r#"{"room":{"timeline":{"unread_thread_notifications":true}}}"#;
    let root = send(&server, &alice, &id, "1", "root");
    let in_thread = |txn: &str| {
        let path = format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/{txn}");
        let content = json!({"msgtype": "m.text", "body": txn, "m.relates_to": {"rel_type": "m.thread", "event_id": root}});
        server.put(&alice, &path, content).ok()["event_id"].as_str().expect("an id").to_owned()
    };
    let reply = in_thread("2");
    in_thread("3");
    let counts = || {
        let joined = sync(&server, &bob, &[("filter", threads)])["rooms"]["join"][&id].take();
        let of = |counts: &Value| counts["notification_count"].as_u64();
        (of(&joined["unread_notifications"]), of(&joined["unread_thread_notifications"][&root]))
    };
    assert_eq!(counts(), (Some(1), Some(2)));
    assert_eq!(unread(&sync(&server, &bob, &[]), &id).0, 3, "without asking they are one");
    act(&server, &bob, &id, &format!("receipt/m.read/{reply}"), json!({"thread_id": root})).ok();
    assert_eq!(counts(), (Some(1), Some(1)));
    act(&server, &bob, &id, &format!("receipt/m.read/{root}"), json!({"thread_id": "main"})).ok();
    assert_eq!(counts(), (Some(0), Some(1)));
    let last = in_thread("4");
    act(&server, &bob, &id, &format!("receipt/m.read/{last}"), json!({})).ok();
    assert_eq!(counts(), (Some(0), None));
}

/// A message that was taken back stayed a number on the room for good, since the rules look at its
/// type, and that stays.
#[test]
fn what_is_redacted_is_not_unread() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = public(&server, &alice);
    join(&server, &bob, &id);
    let threads = r#"{"room":{"timeline":{"unread_thread_notifications":true}}}"#;
    let root = send(&server, &bob, &id, "root", "root");
    let say = |txn: &str, mentions: bool, thread: bool| {
        let mut content = json!({"msgtype": "m.text", "body": txn});
        if mentions {
            content["m.mentions"] = json!({"user_ids": [bob.id]});
        }
        if thread {
            content["m.relates_to"] = json!({"rel_type": "m.thread", "event_id": root});
        }
        let sent = server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/send/m.room.message/{txn}"), content).ok();
        sent["event_id"].as_str().expect("an id").to_owned()
    };
    let redact = |event: &str| drop(server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/redact/{event}/{event}"), json!({})).ok());
    let counts = |server: &TestServer| {
        let joined = sync(server, &bob, &[("filter", threads)])["rooms"]["join"][&id].take();
        let of = |counts: &Value| (counts["notification_count"].as_u64().unwrap_or(0), counts["highlight_count"].as_u64().unwrap_or(0));
        (of(&joined["unread_notifications"]), of(&joined["unread_thread_notifications"][&root]))
    };
    // Before it was ever counted.
    redact(&say("never-counted", true, false));
    assert_eq!(counts(&server), ((0, 0), (0, 0)));

    let told = sync(&server, &bob, &[]);
    let [plain, mention] = [("1", false), ("2", true)].map(|(txn, mentions)| say(txn, mentions, false));
    let [in_thread, mention_in_thread] = [("3", false), ("4", true)].map(|(txn, mentions)| say(txn, mentions, true));
    assert_eq!(counts(&server), ((2, 1), (2, 1)));
    let told = next(&server, &bob, &told);
    assert_eq!(unread(&told, &id), (4, 2));
    redact(&mention);
    assert_eq!(counts(&server), ((1, 0), (2, 1)));
    assert_eq!(unread(&next(&server, &bob, &told), &id), (3, 1), "and the client is told");
    redact(&mention_in_thread);
    assert_eq!(counts(&server), ((1, 0), (1, 0)));
    redact(&in_thread);
    redact(&plain);
    assert_eq!(counts(&server), ((0, 0), (0, 0)));
    // Also what was counted before a restart, and written.
    for number in 0..70 {
        say(&format!("n{number}"), false, number % 2 == 0);
    }
    let last = say("last", true, false);
    assert_eq!(counts(&server), ((36, 1), (35, 0)));
    let server = server.restart();
    server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/redact/{last}/r"), json!({})).ok();
    assert_eq!(counts(&server), ((35, 0), (35, 0)));
    assert_eq!(counts(&server.restart()), ((35, 0), (35, 0)));
}

/// The rules see of an encrypted event no more than its type.
#[test]
fn what_is_encrypted_and_redacted_is_not_unread_either() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = room(&server, &alice, json!({"preset": "trusted_private_chat", "invite": [bob.id], "is_direct": true}));
    join(&server, &bob, &id);
    sync(&server, &bob, &[]);
    let encrypted = json!({"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AwgA", "session_id": "x"});
    let sent = server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/send/m.room.encrypted/1"), encrypted).ok();
    assert_eq!(unread(&sync(&server, &bob, &[]), &id).0, 1);
    let event = sent["event_id"].as_str().expect("an id");
    server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/redact/{event}/2"), json!({})).ok();
    assert_eq!(unread(&sync(&server, &bob, &[]), &id), (0, 0));
}

/// Whose answer in a thread was redacted had thereby read the room; and whose answer in the room
/// was had not read it any more.
#[test]
fn what_is_redacted_of_ones_own_makes_nothing_read_or_unread() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let id = public(&server, &alice);
    join(&server, &bob, &id);
    let root = send(&server, &alice, &id, "root", "root");
    sync(&server, &bob, &[]);
    act(&server, &bob, &id, &format!("receipt/m.read/{root}"), json!({})).ok();
    let count = || unread(&sync(&server, &bob, &[]), &id).0;
    let redact = |event: &str| drop(server.put(&alice, &format!("/_matrix/client/v3/rooms/{id}/redact/{event}/{event}"), json!({})).ok());
    send(&server, &alice, &id, "1", "one");
    assert_eq!(count(), 1);
    let in_thread = crate::relations::relate(&server, &bob, &id, "in-thread", "m.thread", &root);
    assert_eq!(count(), 1);
    redact(&in_thread);
    assert_eq!(count(), 1);

    let answer = send(&server, &bob, &id, "answer", "an answer");
    assert_eq!(count(), 0);
    send(&server, &alice, &id, "2", "two");
    assert_eq!(count(), 1);
    redact(&answer);
    assert_eq!(count(), 1, "one was read before");
    send(&server, &alice, &id, "3", "three");
    assert_eq!(count(), 2);
}
