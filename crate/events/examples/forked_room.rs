//! A room that two servers changed at the same time, and what its state becomes: `cargo run -p
//! ephapse-events --example forked_room`.
//!
//! Alice's server bans Bob and changes the topic. Bob's server has not heard of that yet: he sets a
//! topic, and calls the room by a name. Each server signs its events, and each reads the other's as
//! they come over the wire. Then both resolve the two states, and print for each place that was in
//! conflict which event holds it from then on, and why the others do not.

use ephapse_events::{
    EventReference, JsonObject, NewPdu, Pdu, ReceivedPdu, StateKey, auth, public_keys,
    resolve::{conflicts, resolve_in_memory},
    signing_key,
};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedUserId, RoomVersionId, events::StateEventType, room_version_rules::RoomVersionRules,
    signatures::Ed25519KeyPair, state_res::StateMap,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    error::Error,
    sync::Arc,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What one who has all of a room's events knows of it.
struct Room {
    rules: RoomVersionRules,
    events: HashMap<OwnedEventId, Arc<Pdu>>,
    /// The state after each event.
    states: HashMap<OwnedEventId, StateMap<OwnedEventId>>,
    clock: u32,
}

impl Room {
    /// Sends a state event after one that is here: selects what authorizes it, signs it, and takes
    /// it in as another server does.
    fn send(&mut self, after: Option<&OwnedEventId>, sender: &str, event_type: &str, state_key: &str, content: Value) -> Result<OwnedEventId> {
        let sender: OwnedUserId = sender.try_into()?;
        let content = serde_json::value::to_raw_value(&content)?;
        let before = after.map_or_else(StateMap::new, |id| self.states[id].clone());
        let event_type = StateEventType::from(event_type);
        let selected = auth::auth_events_of(&event_type.to_string().into(), &sender, Some(state_key), &content, &self.rules.authorization)?;
        let auth_events: Vec<&OwnedEventId> = selected.iter().filter_map(|key| before.get(key)).collect();
        self.clock += 1;
        let new = NewPdu {
            room_id: after.map(|id| self.events[id].room_id.clone()),
            event_type: event_type.to_string().into(),
            state_key: Some(state_key.to_owned()),
            content: JsonObject::read(content.get(), true)?,
            prev_events: self.references(after)?,
            auth_events: self.references(auth_events)?,
            depth: after.map_or(1, |id| self.events[id].depth + 1),
            origin_server_ts: MilliSecondsSinceUnixEpoch(self.clock.into()),
            redacts: None,
            event_localpart: String::new(),
            sender,
        };
        let server = new.sender.server_name().to_owned();
        let key = key_of(server.as_str());
        let signed = new.sign(&server, &key, &self.rules)?;
        self.receive(&signed.json, before)
    }

    /// The checks on receipt of a PDU (server-server-api.md), as far as they need no more than the
    /// state before it.
    fn receive(&mut self, json: &[u8], before: StateMap<OwnedEventId>) -> Result<OwnedEventId> {
        let received = ReceivedPdu::parse(json, &self.rules)?;
        let mut keys = BTreeMap::new();
        for server in received.signing_servers()? {
            keys.extend(public_keys(server, &key_of(server.as_str())));
        }
        let pdu = received.verify(&keys, &self.rules)?;
        auth::check_auth_events(&self.rules.authorization, &pdu, |id| self.event(id).map(Some))?;
        self.check_in(&pdu, &before)?;
        let auth_events: Vec<&Pdu> = pdu.auth_events.iter().map(|id| &*self.events[id]).collect();
        let pdu = Arc::new(Pdu { auth_depth: Pdu::auth_depth_after(auth_events), ..pdu });
        let mut after = before;
        after.extend(pdu.key().map(|key| (key, pdu.event_id.clone())));
        let id = pdu.event_id.clone();
        self.states.insert(id.clone(), after);
        self.events.insert(id.clone(), pdu);
        Ok(id)
    }

    /// Whether the rules allow an event in a state.
    fn check_in(&self, pdu: &Pdu, state: &StateMap<OwnedEventId>) -> std::result::Result<(), auth::AuthError<OwnedEventId>> {
        auth::check_in_state(&self.rules.authorization, pdu, |event_type, state_key| {
            state.get(&(event_type.clone(), state_key.to_owned())).map(|id| self.event(id)).transpose()
        })
    }

    /// An event, or its id where it would have to be fetched.
    fn event(&self, id: &ruma::EventId) -> std::result::Result<Arc<Pdu>, OwnedEventId> {
        self.events.get(id).cloned().ok_or_else(|| id.to_owned())
    }

    fn references<'a>(&self, ids: impl IntoIterator<Item = &'a OwnedEventId>) -> Result<Vec<EventReference>> {
        ids.into_iter().map(|id| Ok(self.events[id].reference(&self.rules)?)).collect()
    }
}

/// Each server has one key; a real one makes it of random bytes and keeps it.
fn key_of(server: &str) -> Ed25519KeyPair {
    signing_key(&[server.as_bytes()[0]; 32], "1")
}

/// Prints what holds each place in which the states differ, and why no other event does.
fn explain(room: &Room, states: &[StateMap<OwnedEventId>], resolved: &StateMap<OwnedEventId>) {
    let in_conflict = conflicts(states);
    let keys: BTreeSet<&StateKey> = in_conflict.iter().flat_map(HashMap::keys).collect();
    for key in keys {
        println!("{} {:?}", key.0, key.1);
        let candidates: BTreeSet<&OwnedEventId> = in_conflict.iter().filter_map(|state| state.get(key)).collect();
        for id in candidates {
            let event = &room.events[id];
            let says = format!("{} by {}", event.content.get(), event.sender);
            if resolved.get(key) == Some(id) {
                println!("  holds it: {says}");
            } else if let Err(reason) = room.check_in(event, resolved) {
                println!("  is not allowed: {says}: {reason}");
            } else {
                println!("  is allowed, and comes before the one that holds it: {says}");
            }
        }
    }
}

fn main() -> Result<()> {
    let rules = RoomVersionId::V12.rules().ok_or("room version 12 is not known")?;
    let mut room = Room { rules, events: HashMap::new(), states: HashMap::new(), clock: 0 };
    let (alice, bob) = ("@alice:one.example", "@bob:two.example");

    let create = room.send(None, alice, "m.room.create", "", json!({ "room_version": "12" }))?;
    let joined = room.send(Some(&create), alice, "m.room.member", alice, json!({ "membership": "join" }))?;
    let levels = room.send(Some(&joined), alice, "m.room.power_levels", "", json!({ "users": { bob: 50 } }))?;
    let open = room.send(Some(&levels), alice, "m.room.join_rules", "", json!({ "join_rule": "public" }))?;
    let fork = room.send(Some(&open), bob, "m.room.member", bob, json!({ "membership": "join" }))?;

    // One branch, on Alice's server.
    let topic = room.send(Some(&fork), alice, "m.room.topic", "", json!({ "topic": "Alice's" }))?;
    let banned = room.send(Some(&topic), alice, "m.room.member", bob, json!({ "membership": "ban" }))?;
    // The other branch, on Bob's server.
    let topic = room.send(Some(&fork), bob, "m.room.topic", "", json!({ "topic": "Bob's" }))?;
    let named = room.send(Some(&topic), bob, "m.room.name", "", json!({ "name": "Bob's room" }))?;

    let states = [banned, named].map(|end| room.states[&end].clone());
    let resolved = resolve_in_memory(&room.rules, &states, &room.events)?;
    explain(&room, &states, &resolved);

    // What any server must come to, in whatever order it asks.
    let [first, second] = states;
    assert_eq!(resolved, resolve_in_memory(&room.rules, &[second, first], &room.events)?, "the order of the states changes nothing");
    let holder = |event_type: StateEventType, state_key: &str| resolved.get(&(event_type, state_key.to_owned())).map(|id| &room.events[id]);
    let membership = holder(StateEventType::RoomMember, bob).ok_or("Bob has no membership")?;
    assert_eq!(membership.content.get(), r#"{"membership":"ban"}"#, "the ban stands");
    let topic = holder(StateEventType::RoomTopic, "").ok_or("the room has no topic")?;
    assert_eq!(topic.sender, alice, "what the banned user did meanwhile does not");
    assert!(holder(StateEventType::RoomName, "").is_none(), "nor where nobody else has done anything");
    Ok(())
}

#[test]
fn the_ban_holds_and_what_the_banned_did_meanwhile_does_not() -> Result<()> {
    main()
}
