//! What this server signs, another verifies, in every room version; what is malformed or forged
//! does not pass; a changed content leaves the redacted event.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::{NewPdu, public_keys, signing_key};
use ephapse_testing::holds;
use proptest::{prelude::*, sample::Index};
use ruma::{
    CanonicalJsonObject, RoomVersionId,
    canonical_json::to_canonical_value,
    owned_server_name,
    signatures::{Ed25519KeyPair, PublicKeyMap, hash_and_sign_event},
};
use serde_json::{Value, json};

fn versions() -> Vec<RoomVersionRules> {
    (1..=12).map(|v| RoomVersionId::try_from(v.to_string()).unwrap().rules().unwrap()).collect()
}

fn key_of_seed(seed: u8) -> Ed25519KeyPair {
    signing_key(&[seed; 32], "1")
}

fn key() -> Ed25519KeyPair {
    key_of_seed(1)
}

fn keys(key: &Ed25519KeyPair) -> PublicKeyMap {
    public_keys(&owned_server_name!("one.example"), key)
}

fn reference(name: &str, rules: &RoomVersionRules) -> EventReference {
    let event_id = match rules.event_id_format {
        EventIdFormatVersion::V1 => format!("${name}:one.example"),
        _ => format!("${name}"),
    };
    EventReference { event_id: event_id.try_into().unwrap(), sha256: Some("aGFzaA".to_owned()) }
}

fn new_pdu(event_type: &str, content: Value, rules: &RoomVersionRules) -> NewPdu {
    let CanonicalJsonValue::Object(content) = to_canonical_value(content).unwrap() else { panic!("content is an object") };
    NewPdu {
        room_id: Some("!room:one.example".try_into().unwrap()),
        sender: "@a:one.example".try_into().unwrap(),
        event_type: event_type.into(),
        state_key: None,
        content: content.into(),
        prev_events: vec![reference("p1", rules), reference("p2", rules)],
        auth_events: vec![reference("a1", rules)],
        depth: 7,
        origin_server_ts: MilliSecondsSinceUnixEpoch(1_700_000_000_000u64.try_into().unwrap()),
        redacts: None,
        event_localpart: "e1".to_owned(),
    }
}

fn samples(rules: &RoomVersionRules) -> Vec<NewPdu> {
    let message = json!({ "body": "a \"quote\" \u{7} \u{1f600} \\ /", "n": [1, {}, null, true] });
    let mut create = new_pdu("m.room.create", json!({ "creator": "@a:one.example" }), rules);
    create.state_key = Some(String::new());
    create.prev_events.clear();
    create.auth_events.clear();
    if !rules.event_format.require_room_create_room_id {
        create.room_id = None;
    }
    let third_party = json!({ "membership": "join", "displayname": "A", "third_party_invite":
        { "display_name": "a", "signed": { "token": "t" } } });
    let mut member = new_pdu("m.room.member", third_party, rules);
    member.state_key = Some("@a:one.example".to_owned());
    let mut redaction = new_pdu("m.room.redaction", json!({ "reason": "spam" }), rules);
    redaction.redacts = Some(reference("bad", rules).event_id);
    vec![new_pdu("m.room.message", message, rules), create, member, redaction]
}

fn sign(new: NewPdu, key: &Ed25519KeyPair, rules: &RoomVersionRules) -> Pdu {
    new.sign(&owned_server_name!("one.example"), key, rules).unwrap()
}

/// The same event written by ruma, field by field.
fn written_by_ruma(pdu: &Pdu, key: &Ed25519KeyPair, rules: &RoomVersionRules) -> Vec<u8> {
    let mut object: CanonicalJsonObject = serde_json::from_slice(&pdu.json).unwrap();
    object.remove("hashes");
    object.remove("signatures");
    hash_and_sign_event("one.example", key, &mut object, &rules.redaction).unwrap();
    serde_json::to_vec(&object).unwrap()
}

#[test]
fn signed_here_is_what_ruma_signs_and_verifies_elsewhere() {
    let key = key();
    for rules in versions() {
        for new in samples(&rules) {
            let pdu = sign(new, &key, &rules);
            let ours = std::str::from_utf8(&pdu.json).unwrap();
            let rumas = written_by_ruma(&pdu, &key, &rules);
            assert_eq!(ours, std::str::from_utf8(&rumas).unwrap());

            let received = ReceivedPdu::parse(&pdu.json, &rules).unwrap();
            assert!(received.signing_servers().unwrap().iter().all(|s| s == "one.example"));
            assert_eq!(received.key_ids("one.example".try_into().unwrap()), ["ed25519:1"]);
            let verified = received.verify(&keys(&key), &rules).unwrap();
            let stored = Pdu::from_stored(pdu.event_id.clone(), pdu.json.clone(), false, &rules).unwrap();
            assert_eq!(format!("{pdu:?}"), format!("{verified:?}"));
            assert_eq!(format!("{pdu:?}"), format!("{stored:?}"));
        }
    }
}

#[test]
fn a_content_that_was_changed_on_the_way_is_redacted() {
    let key = key();
    for rules in versions() {
        let pdu = sign(samples(&rules).remove(0), &key, &rules);
        let mut changed: Value = serde_json::from_slice(&pdu.json).unwrap();
        changed["content"]["body"] = "forged".into();
        changed["unsigned"] = json!({ "age": 1 });
        let received = ReceivedPdu::parse(changed.to_string().as_bytes(), &rules).unwrap();
        let verified = received.verify(&keys(&key), &rules).unwrap();
        assert_eq!(verified.event_id, pdu.event_id);
        assert_eq!(verified.content.get(), "{}");
        assert_eq!(verified.json, pdu.redacted(&rules).unwrap().json);
    }
}

#[test]
fn a_signature_that_is_wrong_or_missing_is_an_error() {
    let (right, wrong) = (key(), key_of_seed(2));
    for rules in versions() {
        let pdu = sign(samples(&rules).remove(0), &right, &rules);
        let received = ReceivedPdu::parse(&pdu.json, &rules).unwrap();
        let refused = |keys: PublicKeyMap| matches!(received.clone().verify(&keys, &rules), Err(PduError::Signature(_)));
        assert!(refused(keys(&wrong)));
        assert!(refused(PublicKeyMap::new()));
        // The sender is part of what is signed.
        let mut changed: Value = serde_json::from_slice(&pdu.json).unwrap();
        changed["sender"] = "@b:one.example".into();
        let received = ReceivedPdu::parse(changed.to_string().as_bytes(), &rules).unwrap();
        assert!(received.verify(&keys(&right), &rules).is_err());
    }
}

#[test]
fn a_redaction_keeps_the_id_and_names_its_target_in_every_version() {
    let key = key();
    for rules in versions() {
        for new in samples(&rules) {
            let pdu = sign(new, &key, &rules);
            let redacted = pdu.redacted(&rules).unwrap();
            let parsed = ReceivedPdu::parse(&redacted.json, &rules).unwrap();
            assert_eq!(parsed.unverified().event_id, pdu.event_id);
        }
        let redaction = sign(samples(&rules).remove(3), &key, &rules);
        assert_eq!(redaction.redacts, Some(reference("bad", &rules).event_id));
    }
}

#[test]
fn what_is_redacted_stands_where_the_room_version_says_and_nowhere_else() {
    let key = key();
    for (version, rules) in (1..).zip(versions()) {
        let redaction = sign(samples(&rules).remove(3), &key, &rules);
        let mut moved: Value = serde_json::from_slice(&redaction.json).unwrap();
        let id = Value::from(redaction.redacts.unwrap().to_string());
        if version < 11 {
            moved.as_object_mut().unwrap().remove("redacts");
            moved["content"]["redacts"] = id;
        } else {
            moved["content"].as_object_mut().unwrap().remove("redacts");
            moved["redacts"] = id;
        }
        let json = moved.to_string();
        assert_eq!(ReceivedPdu::parse(json.as_bytes(), &rules).unwrap().unverified().redacts, None, "version {version}");
        assert_eq!(Pdu::from_stored(redaction.event_id, json.into(), false, &rules).unwrap().redacts, None, "version {version}");
    }
}

#[test]
fn since_v12_the_create_event_names_the_room() {
    let key = key();
    for (version, rules) in (1..).zip(versions()) {
        let create = sign(samples(&rules).remove(1), &key, &rules);
        assert_eq!(Event::room_id(&create).is_none(), version >= 12);
        assert_eq!(create.room_id.as_str()[1..] == create.event_id.as_str()[1..], version >= 12, "v{version}");
    }
}

#[test]
fn v1_and_v2_name_an_event_with_its_reference_hash() {
    let key = key();
    for (version, rules) in (1..).zip(versions()) {
        let pdu = sign(samples(&rules).remove(0), &key, &rules);
        assert_eq!(pdu.reference(&rules).unwrap().sha256.is_some(), version <= 2);
    }
}

#[test]
fn what_has_not_the_format_is_refused() {
    let key = key();
    for rules in versions() {
        let pdu = sign(samples(&rules).remove(0), &key, &rules);
        let good: Value = serde_json::from_slice(&pdu.json).unwrap();
        let other_version = if rules.event_id_format == EventIdFormatVersion::V1 {
            json!(["$x:one.example"])
        } else {
            json!([["$x:one.example", { "sha256": "aGFzaA" }]])
        };
        for (field, value) in [
            ("type", json!(null)),
            ("type", json!("x".repeat(256))),
            ("sender", json!("nobody")),
            ("sender", json!(format!("@{}:one.example", "a".repeat(250)))),
            ("room_id", json!(7)),
            ("state_key", json!(null)),
            ("state_key", json!("k".repeat(256))),
            ("content", json!("text")),
            ("content", json!({ "body": "x".repeat(65_536) })),
            ("depth", json!(-1)),
            ("depth", json!("1")),
            ("prev_events", json!({})),
            ("prev_events", json!([1])),
            ("prev_events", other_version),
            ("prev_events", Value::from(vec![good["prev_events"][0].clone(); 21])),
            ("auth_events", Value::from(vec![good["prev_events"][0].clone(); 11])),
            ("origin_server_ts", json!("now")),
        ] {
            let mut bad = good.clone();
            bad[field] = value.clone();
            let parsed = ReceivedPdu::parse(bad.to_string().as_bytes(), &rules);
            assert!(parsed.is_err(), "{field}: {value}");
        }
        for bad in ["", "[]", "{}", "null", "{\"type\":", "\u{0}"] {
            assert!(ReceivedPdu::parse(bad.as_bytes(), &rules).is_err());
        }
    }
}

/// An event of a server that writes numbers as it likes, signed over what it wrote, which is what
/// everybody hashes only where it is what Python writes.
fn with_odd_numbers(rules: &RoomVersionRules, event_type: &str, content: &str) -> String {
    let key = key();
    let mut new = new_pdu(event_type, json!({ "odd": "here" }), rules);
    new.state_key = (event_type == "m.room.power_levels").then(String::new);
    let template = sign(new, &key, rules);
    let mut object: CanonicalJsonObject = serde_json::from_slice(&template.json).unwrap();
    object.remove("hashes");
    object.remove("signatures");
    let hashed = serde_json::to_string(&object).unwrap().replace(r#"{"odd":"here"}"#, content);
    let hash = unpadded(&Sha256::digest(&hashed));
    object.insert("hashes".to_owned(), to_canonical_value(json!({ "sha256": hash })).unwrap());
    let kept = if event_type == "m.room.power_levels" { content } else { "{}" };
    let signed = serde_json::to_string(&object).unwrap().replace(r#"{"odd":"here"}"#, kept);
    let signature = ruma::signatures::KeyPair::sign(&key, signed.as_bytes()).base64();
    object.insert("signatures".to_owned(), to_canonical_value(json!({ "one.example": { "ed25519:1": signature } })).unwrap());
    serde_json::to_string(&object).unwrap().replace(r#"{"odd":"here"}"#, content)
}

#[test]
fn up_to_v5_numbers_are_kept_as_python_writes_them() {
    let content = r#"{"body":"1.5","n":[1.5,2000.0,-0.0,9007199254740993,1e+16,1e-05],"z":"\u00001.5"}"#;
    for (version, rules) in (1..).zip(versions()) {
        let json = with_odd_numbers(&rules, "m.room.message", content);
        let received = ReceivedPdu::parse(json.as_bytes(), &rules);
        if version > 5 {
            assert!(received.is_err(), "v{version}");
            continue;
        }
        let pdu = received.unwrap().verify(&keys(&key()), &rules).unwrap();
        assert_eq!(pdu.content.get(), content);
        assert_eq!(std::str::from_utf8(&pdu.json).unwrap(), json);
        let redacted = pdu.redacted(&rules).unwrap();
        assert_eq!(ReceivedPdu::parse(&redacted.json, &rules).unwrap().unverified().event_id, pdu.event_id);
        // However it is written on the way: every server reads it and encodes it again.
        for (number, other) in [("1.5,", "1.50,"), ("2000.0", "2e3"), ("1e-05", "0.00001"), ("1e+16", "1E16")] {
            let received = ReceivedPdu::parse(json.replace(number, other).as_bytes(), &rules).unwrap();
            let read = received.verify(&keys(&key()), &rules).unwrap();
            assert_eq!((read.content.get(), &read.json, &read.event_id), (content, &pdu.json, &pdu.event_id), "{other}");
        }
        // Another number is another content.
        let received = ReceivedPdu::parse(json.replace("2000.0", "2000").as_bytes(), &rules).unwrap();
        assert_eq!(received.verify(&keys(&key()), &rules).unwrap().content.get(), "{}");
        // Who signs what Python would write otherwise is not understood by Synapse, and not here.
        let json_of_others = with_odd_numbers(&rules, "m.room.message", r#"{"n":[1e3]}"#);
        let received = ReceivedPdu::parse(json_of_others.as_bytes(), &rules).unwrap();
        assert_eq!(received.verify(&keys(&key()), &rules).unwrap().content.get(), "{}");
        let received = ReceivedPdu::parse(json.replace("@a:", "@b:").as_bytes(), &rules).unwrap();
        assert!(received.verify(&keys(&key()), &rules).is_err());
        assert!(ReceivedPdu::parse(json.as_bytes(), &rules).unwrap().verify(&PublicKeyMap::new(), &rules).is_err());
    }
}

/// Up to v5 a depth goes up to 2^63 - 1, and one past 2^53 was refused: the whole room after it
/// could not be received.
#[test]
fn up_to_v5_an_event_may_be_deeper_than_canonical_json_can_say() {
    let key = key();
    for (version, rules) in (1..).zip(versions()) {
        for depth in [0, 1 << 52, (1 << 53) - 1, 1 << 53, i64::MAX as u64, 1 << 63, u64::MAX] {
            let pdu = sign(NewPdu { depth, ..new_pdu("m.room.message", json!({}), &rules) }, &key, &rules);
            let most = if version > 5 { (1 << 53) - 1 } else { i64::MAX as u64 };
            match ReceivedPdu::parse(&pdu.json, &rules) {
                Err(error) => assert!(depth > most, "v{version}, {depth}: {error}"),
                Ok(received) => {
                    assert!(depth <= most, "v{version}, {depth}");
                    let verified = received.verify(&keys(&key), &rules).unwrap();
                    assert_eq!((verified.depth, &verified.json), (depth, &pdu.json));
                }
            }
        }
        // Neither a fraction nor a string is a depth.
        let json = String::from_utf8(sign(new_pdu("m.room.message", json!({}), &rules), &key, &rules).json.to_vec()).unwrap();
        let with_depth = |depth: &str| json.replace("\"depth\":7", &format!("\"depth\":{depth}"));
        for depth in ["1.5", "1e3", "-9007199254740993", "\"\\u00007\""] {
            assert!(ReceivedPdu::parse(with_depth(depth).as_bytes(), &rules).is_err(), "v{version}, {depth}");
        }
        // For Python this is 0.
        let zero = ReceivedPdu::parse(with_depth("-0").as_bytes(), &rules);
        assert_eq!(zero.ok().map(|received| received.unverified().depth), (version <= 5).then_some(0), "v{version}");
    }
}

#[test]
fn up_to_v5_a_string_that_looks_like_a_carried_number_stays_a_string() {
    let key = key();
    for rules in versions() {
        let pdu = sign(new_pdu("m.room.message", json!({ "body": "\u{0}1.5" }), &rules), &key, &rules);
        let verified = ReceivedPdu::parse(&pdu.json, &rules).unwrap().verify(&keys(&key), &rules).unwrap();
        assert_eq!(verified.json, pdu.json);
    }
}

#[test]
fn up_to_v5_power_levels_that_are_floats_are_truncated_for_the_rules() {
    let content = r#"{"ban":50.57,"users":{"@a:one.example":51146.98}}"#;
    for rules in &versions()[..5] {
        let json = with_odd_numbers(rules, "m.room.power_levels", content);
        let pdu = ReceivedPdu::parse(json.as_bytes(), rules).unwrap().verify(&keys(&key()), rules).unwrap();
        assert_eq!(pdu.content.get(), r#"{"ban":50,"users":{"@a:one.example":51146}}"#);
        assert_eq!(std::str::from_utf8(&pdu.json).unwrap(), json);
        let levels = ruma::state_res::events::RoomPowerLevelsEvent::new(&pdu);
        let level = levels.user_power_level("@a:one.example".try_into().unwrap(), &rules.authorization).unwrap();
        assert_eq!(i64::from(level), 51_146);
    }
}

#[test]
fn an_event_may_have_65536_bytes_and_no_more() {
    let key = key();
    for rules in versions() {
        let size = |body: usize| {
            let new = new_pdu("m.room.message", json!({ "body": "x".repeat(body) }), &rules);
            new.sign(&owned_server_name!("one.example"), &key, &rules)
        };
        let around = size(0).unwrap().json.len();
        let largest = size(MAX_PDU_BYTES - around).unwrap();
        assert_eq!(largest.json.len(), MAX_PDU_BYTES);
        assert!(ReceivedPdu::parse(&largest.json, &rules).unwrap().verify(&keys(&key), &rules).is_ok());
        assert!(matches!(size(MAX_PDU_BYTES - around + 1), Err(PduError::TooLarge("event"))));
    }
}

/// Whatever comes over the wire: no panic, and what is taken in reads the same from disk.
#[test]
fn damaged_events_are_refused_or_read_alike_ever_after() {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(&br#"{}[]",:0123456789.eE-+\u$@!"#[..])];
    let drawn = (0..4usize, prop::collection::vec((any::<Index>(), byte), 0..6), any::<bool>());
    for (version, rules) in (1..).zip(versions()) {
        println!("room version {version}");
        holds(12, &drawn, |(sample, damage, at_end)| {
            let mut json = sign(samples(&rules).remove(sample), &key(), &rules).json.to_vec();
            for (at, byte) in damage {
                let at = at.index(json.len());
                json[at] = byte;
            }
            if at_end {
                json.truncate(json.len() / 2);
            }
            if let Ok(received) = ReceivedPdu::parse(&json, &rules) {
                let pdu = received.unverified().clone();
                let again = ReceivedPdu::parse(&pdu.json, &rules).unwrap();
                prop_assert_eq!(&again.unverified().event_id, &pdu.event_id);
                prop_assert_eq!(&again.unverified().json, &pdu.json);
                prop_assert!(pdu.redacted(&rules).is_ok());
                prop_assert!(pdu.reference(&rules).is_ok());
                let _ = received.verify(&keys(&key()), &rules);
            }
            Ok(())
        });
    }
}

/// Synapse reads the event and encodes it again before it hashes: what is signed here is what that
/// gives.
#[test]
fn up_to_v5_own_events_with_odd_numbers_verify_elsewhere() {
    let key = key();
    let given = r#"{"body":"\u0000","n":[1e3,-0,1.50,9007199254740993],"notifications":{"room":1e3},"users":{"@a:one.example":5.1e1}}"#;
    for rules in &versions()[..5] {
        for event_type in ["m.room.message", "m.room.power_levels"] {
            let new = NewPdu { content: JsonObject::read(given, false).unwrap(), ..new_pdu(event_type, json!({}), rules) };
            let pdu = sign(NewPdu { state_key: Some(String::new()), ..new }, &key, rules);
            let verified = ReceivedPdu::parse(&pdu.json, rules).unwrap().verify(&keys(&key), rules).unwrap();
            assert_eq!(format!("{pdu:?}"), format!("{verified:?}"));
            assert!(std::str::from_utf8(&pdu.json).unwrap().contains(r#""n":[1000.0,0,1.5,9007199254740993]"#));
        }
    }
}

/// What this server could not redact later, or nobody could read inside of an answer.
#[test]
fn what_a_later_reader_does_not_take_is_discarded() {
    let key = key();
    for rules in versions() {
        let pdu = sign(new_pdu("m.room.message", json!({ "odd": "here" }), &rules), &key, &rules);
        let json = std::str::from_utf8(&pdu.json).unwrap();
        for (levels, expected) in [(98, true), (99, false), (126, false), (60_000, false)] {
            let value = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            let received = ReceivedPdu::parse(json.replace("\"here\"", &value).as_bytes(), &rules);
            assert_eq!(received.is_ok(), expected, "{levels}");
        }
        let error = ReceivedPdu::parse(json.replace("\"here\"", &format!("{}{}", "[".repeat(99), "]".repeat(99))).as_bytes(), &rules).unwrap_err();
        assert!(error.to_string().contains("at most 100 levels"), "{error}");
        assert!(ReceivedPdu::parse(json.replace("\"here\"", r#""\ud800""#).as_bytes(), &rules).is_err());
    }
}
