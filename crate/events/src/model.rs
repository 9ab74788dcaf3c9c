//! A room in memory, for tests: several servers' users, events wherever one likes in the graph, and
//! the spec's algorithms a second time in their plain and expensive form.

#![allow(clippy::unwrap_used, missing_docs)]

use crate::{
    EventReference, MAX_PREV_EVENTS, NewPdu, Pdu, StateKey, create_of_room,
    resolve::{self, Resolution, Unresolved},
    signing_key,
};
use ruma::{
    CanonicalJsonValue, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, UserId,
    canonical_json::to_canonical_value,
    events::{StateEventType, TimelineEventType},
    room_version_rules::{RoomVersionRules, StateResolutionVersion},
    signatures::Ed25519KeyPair,
    state_res::{
        self, StateMap, auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules, utils::event_id_set::EventIdSet,
    },
};
use serde_json::{Value, json};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    rc::Rc,
    sync::Arc,
};

/// The state as a plain map.
pub type State = BTreeMap<StateKey, OwnedEventId>;

/// What someone sends.
#[derive(Clone, Debug)]
pub struct Draft {
    pub sender: OwnedUserId,
    pub event_type: TimelineEventType,
    pub state_key: Option<String>,
    pub content: Value,
    pub redacts: Option<OwnedEventId>,
    pub ts: u32,
}

/// `@name:name.example`: everyone has a server.
pub fn user(name: &str) -> OwnedUserId {
    format!("@{name}:{name}.example").try_into().unwrap()
}

impl Draft {
    pub fn state(sender: &str, event_type: &str, state_key: &str, content: Value) -> Self {
        Self { state_key: Some(state_key.to_owned()), ..Self::message(sender, event_type, content) }
    }

    pub fn message(sender: &str, event_type: &str, content: Value) -> Self {
        Self { sender: user(sender), event_type: event_type.into(), state_key: None, content, redacts: None, ts: 1_000 }
    }

    pub fn member(sender: &str, target: &str, membership: &str) -> Self {
        Self::state(sender, "m.room.member", user(target).as_str(), json!({ "membership": membership }))
    }

    pub fn at(self, ts: u32) -> Self {
        Self { ts, ..self }
    }
}

/// The events of one room in the order of their arrival at one server.
pub struct Model {
    pub version: u8,
    pub rules: RoomVersionRules,
    room_id: Option<OwnedRoomId>,
    events: Vec<Arc<Pdu>>,
    places: HashMap<OwnedEventId, usize>,
    after: HashMap<OwnedEventId, Rc<State>>,
    authorized_by: HashMap<OwnedEventId, Vec<OwnedEventId>>,
    /// Events that the last resolution loaded.
    pub loaded: Cell<usize>,
    /// How often it asked.
    pub rounds: Cell<usize>,
}

pub fn versions() -> impl Iterator<Item = u8> {
    1..=12
}

pub fn rules(version: u8) -> RoomVersionRules {
    RoomVersionId::try_from(version.to_string()).unwrap().rules().unwrap()
}

fn key_of(sender: &UserId) -> Ed25519KeyPair {
    signing_key(&[sender.as_bytes()[1]; 32], "1")
}

impl Model {
    /// A server that knows nothing of the room yet.
    pub fn empty(version: u8) -> Self {
        Self {
            version,
            rules: rules(version),
            room_id: None,
            events: Vec::new(),
            places: HashMap::new(),
            after: HashMap::new(),
            authorized_by: HashMap::new(),
            loaded: Cell::default(),
            rounds: Cell::default(),
        }
    }

    /// A room that alice made: she is joined, has power 100, and anyone may join.
    pub fn public(version: u8) -> Self {
        let mut room = Self::created(version);
        room.send(Draft::state("alice", "m.room.power_levels", "", room.power_levels(&[]))).unwrap();
        room.send(Draft::state("alice", "m.room.join_rules", "", json!({ "join_rule": "public" }))).unwrap();
        room
    }

    /// A room of which alice has made and joined no more.
    pub fn created(version: u8) -> Self {
        let mut room = Self::empty(version);
        let content = match version {
            ..=10 => json!({ "creator": user("alice"), "room_version": version.to_string() }),
            _ => json!({ "room_version": version.to_string() }),
        };
        room.send(Draft::state("alice", "m.room.create", "", content)).unwrap();
        room.send(Draft::member("alice", "alice", "join")).unwrap();
        room
    }

    /// Power levels that give alice 100 (since v12 she has more than any as the creator) and others
    /// what is said.
    pub fn power_levels(&self, others: &[(&str, i64)]) -> Value {
        let mut users: BTreeMap<OwnedUserId, i64> = others.iter().map(|(name, level)| (user(name), *level)).collect();
        if !self.rules.authorization.explicitly_privilege_room_creators {
            users.insert(user("alice"), 100);
        }
        json!({ "users": users })
    }

    /// Sends at the end of what this server has.
    pub fn send(&mut self, draft: Draft) -> Result<OwnedEventId, String> {
        self.send_after(&self.parents(), draft)
    }

    /// Sends after chosen events. A rejected event is kept as such, like one that was received.
    pub fn send_after(&mut self, prev_events: &[OwnedEventId], draft: Draft) -> Result<OwnedEventId, String> {
        let pdu = self.build(prev_events, draft);
        let id = pdu.event_id.clone();
        self.receive(pdu).map(|()| id)
    }

    /// Signs an event whose auth events are selected from the state after `prev_events`.
    pub fn build(&self, prev_events: &[OwnedEventId], draft: Draft) -> Pdu {
        let state = self.state_after(prev_events);
        let content = serde_json::value::to_raw_value(&draft.content).unwrap();
        let keys = auth_types_for_event(&draft.event_type, &draft.sender, draft.state_key.as_deref(), &content, &self.rules.authorization)
            .unwrap_or_default();
        let auth_events: Vec<_> = keys.iter().filter_map(|key| state.get(key)).cloned().collect();
        self.build_with(prev_events, &auth_events, draft)
    }

    /// Signs an event with chosen auth events.
    pub fn build_with(&self, prev_events: &[OwnedEventId], auth_events: &[OwnedEventId], draft: Draft) -> Pdu {
        let Ok(CanonicalJsonValue::Object(content)) = to_canonical_value(draft.content) else { panic!("content is an object") };
        let is_first = draft.event_type == TimelineEventType::RoomCreate;
        let names_room = is_first && self.rules.authorization.room_create_event_id_as_room_id;
        let made_here = OwnedRoomId::try_from(format!("!room:{}", draft.sender.server_name())).unwrap();
        let references =
            |ids: &[OwnedEventId]| -> Vec<EventReference> { ids.iter().map(|id| self.event(id).reference(&self.rules).unwrap()).collect() };
        let new = NewPdu {
            room_id: (!names_room).then(|| self.room_id.clone().unwrap_or(made_here)),
            event_type: draft.event_type,
            state_key: draft.state_key,
            content: content.into(),
            prev_events: references(prev_events),
            auth_events: references(auth_events),
            depth: prev_events.iter().map(|id| self.event(id).depth).max().unwrap_or(0) + 1,
            origin_server_ts: MilliSecondsSinceUnixEpoch(draft.ts.into()),
            redacts: draft.redacts,
            event_localpart: format!("e{}", self.events.len()),
            sender: draft.sender,
        };
        let key = key_of(&new.sender);
        let server = new.sender.server_name().to_owned();
        new.sign(&server, &key, &self.rules).unwrap()
    }

    /// Takes in an event whose parents and auth events are here; the reason if the rules reject it.
    pub fn receive(&mut self, pdu: Pdu) -> Result<(), String> {
        let before = self.state_after(&pdu.prev_events);
        let verdict = self.check(&pdu, &before);
        let auth_events: Vec<_> = pdu.auth_events.iter().map(|id| self.event(id).clone()).collect();
        let auth_depth = Pdu::auth_depth_after(auth_events.iter().map(|event| &**event));
        let pdu = Arc::new(Pdu { rejected: verdict.is_err(), auth_depth, ..pdu });
        self.room_id.get_or_insert(pdu.room_id.clone());
        let mut after = before;
        if let (Some(key), Ok(())) = (pdu.key(), &verdict) {
            Rc::make_mut(&mut after).insert(key, pdu.event_id.clone());
            for auth_event in &pdu.auth_events {
                self.authorized_by.entry(auth_event.clone()).or_default().push(pdu.event_id.clone());
            }
        }
        self.after.insert(pdu.event_id.clone(), after);
        self.places.insert(pdu.event_id.clone(), self.events.len());
        self.events.push(pdu);
        verdict
    }

    /// Adds an event of another room.
    pub fn know(&mut self, pdu: Pdu) {
        self.places.insert(pdu.event_id.clone(), self.events.len());
        self.after.insert(pdu.event_id.clone(), Rc::default());
        self.events.push(Arc::new(pdu));
    }

    /// The checks of a received event in the spec's order (4 and 5).
    fn check(&self, pdu: &Pdu, before: &State) -> Result<(), String> {
        let rules = &self.rules.authorization;
        check_state_independent_auth_rules(rules, pdu, |id| self.find(id))?;
        let mut named: HashMap<StateKey, &Pdu> = pdu.auth_events.iter().filter_map(|id| self.find(id)).filter_map(|e| Some((e.key()?, e))).collect();
        let create = create_of_room(&pdu.room_id).and_then(|id| self.find(&id));
        named.extend(create.and_then(|create| Some((create.key()?, create))));
        check_state_dependent_auth_rules(rules, pdu, |event_type, key| named.get(&(event_type.clone(), key.to_owned())).copied())?;
        check_state_dependent_auth_rules(rules, pdu, |event_type, key| self.find(before.get(&(event_type.clone(), key.to_owned()))?))
    }

    pub fn event(&self, id: &EventId) -> &Arc<Pdu> {
        &self.events[self.places[id]]
    }

    fn find(&self, id: &EventId) -> Option<&Pdu> {
        self.places.get(id).map(|at| &*self.events[*at])
    }

    pub fn events(&self) -> &[Arc<Pdu>] {
        &self.events
    }

    /// The accepted events that no accepted event refers to, nor through rejected ones.
    pub fn extremities(&self) -> Vec<OwnedEventId> {
        let mut before = BTreeSet::new();
        let mut ends = Vec::new();
        for event in self.events.iter().rev() {
            let is_before = before.contains(&event.event_id);
            let is_accepted = !event.rejected && Some(&event.room_id) == self.room_id.as_ref();
            if is_before || is_accepted {
                before.extend(&event.prev_events);
            }
            if !is_before && is_accepted {
                ends.push(event.event_id.clone());
            }
        }
        ends.sort();
        ends
    }

    /// What a next event is built on.
    pub fn parents(&self) -> Vec<OwnedEventId> {
        self.extremities().into_iter().take(MAX_PREV_EVENTS).collect()
    }

    /// The state that a next event after these would see.
    pub fn state_after(&self, events: &[OwnedEventId]) -> Rc<State> {
        let states = self.states_after(events);
        match &states[..] {
            [] => Rc::default(),
            [only] => only.clone(),
            _ => Rc::new(self.resolve(&states)),
        }
    }

    /// The states after each of these, without those that are equal.
    fn states_after(&self, events: &[OwnedEventId]) -> Vec<Rc<State>> {
        let mut states: Vec<_> = events.iter().map(|id| self.after[id].clone()).collect();
        states.sort();
        states.dedup();
        states
    }

    pub fn holder(&self, events: &[OwnedEventId], event_type: &str, state_key: &str) -> Option<OwnedEventId> {
        self.state_after(events).get(&(event_type.into(), state_key.to_owned())).cloned()
    }

    /// What a member event or the absence of one makes of a user.
    pub fn membership(&self, events: &[OwnedEventId], name: &str) -> String {
        let Some(id) = self.holder(events, "m.room.member", user(name).as_str()) else { return "leave".to_owned() };
        let content: Value = serde_json::from_str(self.event(&id).content.get()).unwrap();
        content["membership"].as_str().unwrap().to_owned()
    }

    /// Resolves as a server does: what differs, what else is asked for bit by bit, then the
    /// changes.
    fn resolve(&self, states: &[Rc<State>]) -> State {
        let changes = self.until_answered(states, |resolution| resolution.resolve(&self.rules));
        let mut resolved = State::clone(&states[0]);
        for (key, id) in changes {
            match id {
                Some(id) => resolved.insert(key, id),
                None => resolved.remove(&key),
            };
        }
        resolved
    }

    /// Asks again with what was missing, as long as something is.
    fn until_answered<T>(&self, states: &[Rc<State>], ask: impl Fn(&mut Resolution) -> Result<T, Unresolved>) -> T {
        let mut resolution = Resolution::new(conflicting(states));
        let mut loaded = HashSet::new();
        self.rounds.set(0);
        let answer = loop {
            self.rounds.set(self.rounds.get() + 1);
            assert!(self.rounds.get() < 10_000, "no end of rounds");
            match ask(&mut resolution) {
                Ok(answer) => break answer,
                Err(Unresolved::Missing(missing)) => {
                    for id in &missing.events {
                        assert!(loaded.insert(id.clone()), "asked twice");
                    }
                    self.load(missing, &states[0], &mut resolution);
                }
                Err(Unresolved::Unfinished) => {}
                Err(Unresolved::Failed(reason)) => panic!("{reason}"),
            }
        };
        self.loaded.set(loaded.len());
        answer
    }

    /// The auth difference without conflicted events, and the conflicted state subgraph, as a
    /// server walks them and as the spec defines them.
    #[cfg(test)]
    pub fn walked_and_defined(&self, events: &[OwnedEventId]) -> [(BTreeSet<OwnedEventId>, BTreeSet<OwnedEventId>); 2] {
        let states = self.states_after(events);
        let conflicted: BTreeSet<OwnedEventId> = conflicting(&states).iter().flat_map(|state| state.values()).cloned().collect();
        let walked = self.until_answered(&states, Resolution::walk);
        let chains: Vec<BTreeSet<_>> = states.iter().map(|state| state.values().flat_map(|id| self.auth_chain(id)).collect()).collect();
        let union = chains.iter().flatten().filter(|id| !conflicted.contains(*id));
        let difference = union.filter(|id| !chains.iter().all(|chain| chain.contains(*id))).cloned().collect();
        let subgraph = self.subgraph(conflicted);
        [walked, (difference, subgraph)]
    }

    fn load(&self, missing: resolve::Missing, state: &State, resolution: &mut Resolution) {
        assert!(!missing.is_empty());
        missing.events.iter().for_each(|id| resolution.add_event(self.event(id).clone()));
        for key in missing.unconflicted {
            let event = state.get(&key).cloned();
            resolution.add_unconflicted(key, event);
        }
        for (id, known) in missing.authorized_by {
            let all: Vec<_> = self.authorized_by.get(&id).into_iter().flatten().rev().cloned().collect();
            // Small pages, so that tests turn them.
            let page: Vec<_> = all[known..].iter().take(known.max(2)).cloned().collect();
            let is_all = known + page.len() == all.len();
            resolution.add_authorized_by(id, page, is_all);
        }
    }

    /// The same resolution over whole states and whole auth chains, as the spec words it. For v2
    /// and later.
    pub fn resolve_in_full(&self, events: &[OwnedEventId]) -> State {
        let StateResolutionVersion::V2(v2) = &self.rules.state_res else { panic!("v1 has one form only") };
        let states: Vec<StateMap<OwnedEventId>> = events.iter().map(|id| State::clone(&self.after[id]).into_iter().collect()).collect();
        let chains = states.iter().map(|state| state.values().flat_map(|id| self.auth_chain(id)).collect::<EventIdSet<_>>()).collect();
        let resolved = state_res::resolve(
            &self.rules.authorization,
            v2,
            &states,
            chains,
            |id| self.find(id),
            |conflicted| Some(self.subgraph(conflicted.values().flatten().cloned().collect()).into_iter().collect()),
        );
        resolved.unwrap().into_iter().collect()
    }

    /// The same by [`resolve::resolve_in_memory`], of a room of which it is told `events`.
    pub fn resolve_in_memory(&self, after: &[OwnedEventId], events: &[Arc<Pdu>]) -> Result<State, Unresolved> {
        let states: Vec<StateMap<OwnedEventId>> = after.iter().map(|id| State::clone(&self.after[id]).into_iter().collect()).collect();
        let events = events.iter().map(|event| (event.event_id.clone(), event.clone())).collect();
        Ok(resolve::resolve_in_memory(&self.rules, &states, &events)?.into_iter().collect())
    }

    fn auth_chain(&self, id: &EventId) -> BTreeSet<OwnedEventId> {
        let (mut chain, mut left) = (BTreeSet::new(), vec![id.to_owned()]);
        while let Some(id) = left.pop() {
            for auth in &self.event(&id).auth_events {
                if chain.insert(auth.clone()) {
                    left.push(auth.clone());
                }
            }
        }
        chain
    }

    /// Every event below one of these and above another, and these.
    fn subgraph(&self, conflicted: BTreeSet<OwnedEventId>) -> BTreeSet<OwnedEventId> {
        let below: BTreeSet<_> = conflicted.iter().flat_map(|id| self.auth_chain(id)).collect();
        let between = below.into_iter().filter(|id| self.auth_chain(id).iter().any(|below| conflicted.contains(below)));
        let between: Vec<_> = between.collect();
        conflicted.into_iter().chain(between).collect()
    }

    /// Whether `state` is consistent with the rules' idea of who is who: the create event is there,
    /// and once only.
    pub fn has_create(&self, state: &State) -> bool {
        state.contains_key(&(StateEventType::RoomCreate, String::new()))
    }
}

/// What each state holds of the places in which any two differ.
fn conflicting(states: &[Rc<State>]) -> Vec<StateMap<OwnedEventId>> {
    let states: Vec<StateMap<OwnedEventId>> = states.iter().map(|state| State::clone(state).into_iter().collect()).collect();
    resolve::conflicts(&states)
}
