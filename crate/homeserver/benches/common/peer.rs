//! A server that a bench plays itself, and its room.

use bytes::Bytes;
use ephapse_events::{JsonObject, NewPdu, Pdu, ReceivedPdu, StateKey, auth, rules_of, signing_key};
use ephapse_homeserver::{Body, identity::name_of_key};
use http::{Request, Response};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId, ServerName, UInt,
    api::federation::authentication::{XMatrix, XMatrixSigningInput},
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    signatures::Ed25519KeyPair,
};
use serde_json::{Value, json};
use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

/// What another server answers.
pub type Answers = Rc<dyn Fn(Request<Bytes>) -> Response<Body>>;

const VERSION: RoomVersionId = RoomVersionId::V12;

/// A server's name and key.
pub struct Peer {
    pub name: OwnedServerName,
    pub key: Ed25519KeyPair,
}

impl Peer {
    /// One whose name says its key, as below a gateway.
    pub fn new() -> Self {
        let seed = [9; 32];
        let label = name_of_key(&ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key());
        Self { name: OwnedServerName::try_from(format!("{label}.gateway.example")).expect("a name"), key: signing_key(&seed, "0") }
    }

    pub fn user(&self, number: usize) -> OwnedUserId {
        format!("@member{number}:{}", self.name).try_into().expect("a user id")
    }

    /// A request that it has signed.
    pub fn signed(&self, to: &ServerName, method: &str, path: &str, body: String) -> Request<Body> {
        let mut request = Request::builder().method(method).uri(path).body(body.into_bytes()).expect("a request");
        let input = XMatrixSigningInput::new(self.name.clone(), to.to_owned(), &self.key);
        let authorization = XMatrix::sign_http_request(&request, input).expect("it is signed").to_string();
        request.headers_mut().insert("authorization", authorization.parse().expect("a header"));
        request.map(Body::from)
    }
}

/// A room as it is on that server.
pub struct PeerRoom {
    pub peer: Peer,
    pub id: OwnedRoomId,
    pub rules: RoomVersionRules,
    pub state: BTreeMap<StateKey, Pdu>,
    /// All events, in their order.
    pub timeline: Vec<Pdu>,
    /// How many of them there were when this server joined.
    pub at_join: usize,
    transactions: usize,
}

impl PeerRoom {
    /// A public room of so many members, with so many messages.
    pub fn new(members: usize, messages: usize) -> Self {
        let rules = rules_of(&VERSION).expect("a known version");
        let peer = Peer::new();
        let creator = peer.user(0);
        let mut room =
            Self { peer, id: "!none".try_into().expect("an id"), rules, state: BTreeMap::new(), timeline: Vec::new(), at_join: 0, transactions: 0 };
        let state = |kind: &str, content: Value| (kind.into(), Some(String::new()), content);
        room.add(&creator, state("m.room.create", json!({ "room_version": VERSION.as_str() })));
        room.id = room.timeline[0].room_id.clone();
        room.join(0);
        room.add(&creator, state("m.room.power_levels", json!({ "users_default": 0, "state_default": 0 })));
        room.add(&creator, state("m.room.join_rules", json!({ "join_rule": "public" })));
        room.add(&creator, state("m.room.history_visibility", json!({ "history_visibility": "shared" })));
        (1..members).for_each(|number| room.join(number));
        (0..messages).for_each(|number| drop(room.message(number % members)));
        room
    }

    fn join(&mut self, number: usize) {
        let user = self.peer.user(number);
        let content = json!({ "membership": "join", "displayname": format!("Member {number}") });
        self.add(&user, ("m.room.member".into(), Some(user.to_string()), content));
    }

    /// One more message.
    pub fn message(&mut self, sender: usize) -> Pdu {
        let sender = self.peer.user(sender);
        self.add(&sender, ("m.room.message".into(), None, json!({ "msgtype": "m.text", "body": "The quick brown fox jumps over the lazy dog." })))
    }

    /// Messages of its members in turn.
    pub fn messages(&mut self, members: usize, count: usize) -> Vec<Pdu> {
        (0..count).map(|number| self.message(number * 7919 % members)).collect()
    }

    fn add(&mut self, sender: &OwnedUserId, event: (TimelineEventType, Option<String>, Value)) -> Pdu {
        let last = self.timeline.last().cloned();
        let pdu = self.event(sender, event, last.as_slice());
        self.state.extend(pdu.key().map(|key| (key, pdu.clone())));
        self.timeline.push(pdu.clone());
        pdu
    }

    /// An event after others, which is not added.
    pub fn event(&self, sender: &OwnedUserId, (event_type, state_key, content): (TimelineEventType, Option<String>, Value), after: &[Pdu]) -> Pdu {
        let new = NewPdu {
            room_id: (!after.is_empty()).then(|| self.id.clone()),
            sender: sender.clone(),
            auth_events: self.auth_events(&event_type, sender, state_key.as_deref(), &content),
            event_type,
            state_key,
            content: JsonObject::read(&content.to_string(), true).expect("JSON"),
            prev_events: after.iter().map(|event| event.reference(&self.rules).expect("a reference")).collect(),
            depth: after.iter().map(|event| event.depth).max().unwrap_or(0) + 1,
            origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::new_saturating(1_700_000_000_000)),
            redacts: None,
            event_localpart: String::new(),
        };
        new.sign(&self.peer.name, &self.peer.key, &self.rules).expect("an event")
    }

    fn auth_events(
        &self,
        kind: &TimelineEventType,
        sender: &OwnedUserId,
        state_key: Option<&str>,
        content: &Value,
    ) -> Vec<ephapse_events::EventReference> {
        let raw = serde_json::value::to_raw_value(content).expect("JSON");
        let keys = auth::auth_events_of(kind, sender, state_key, &raw, &self.rules.authorization).expect("auth types");
        // Since v12 the create event is implied by the room's id.
        let keys = keys.into_iter().filter(|(kind, _)| *kind != StateEventType::RoomCreate);
        keys.filter_map(|key| Some(self.state.get(&key)?.reference(&self.rules).expect("a reference"))).collect()
    }

    /// A transaction of events.
    pub fn transaction(&mut self, to: &ServerName, events: &[Pdu]) -> Request<Body> {
        self.transactions += 1;
        let body = format!(r#"{{"edus":[],"origin":"{}","origin_server_ts":1700000000000,"pdus":[{}]}}"#, self.peer.name, written(events));
        self.peer.signed(to, "PUT", &format!("/_matrix/federation/v1/send/{}", self.transactions), body)
    }

    /// What the server answers to whoever joins the room, and fetches its history.
    pub fn answers(room: &Rc<RefCell<Self>>) -> Answers {
        let room = room.clone();
        Rc::new(move |request| {
            let answer = room.borrow_mut().answer(&request);
            Response::builder().header("content-type", "application/json").body(answer).expect("an answer")
        })
    }

    fn answer(&mut self, request: &Request<Bytes>) -> Body {
        let path = request.uri().path();
        let query: BTreeMap<String, String> = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect();
        let endpoint = path.split('/').nth(4).unwrap_or_default();
        match endpoint {
            "make_join" => {
                let user = percent_encoding::percent_decode_str(path.split('/').nth(6).unwrap_or_default()).decode_utf8_lossy().into_owned();
                self.template(&user.try_into().expect("a user id")).to_string().into()
            }
            "send_join" => {
                let join = ReceivedPdu::parse(request.body(), &self.rules).expect("a join").unverified().clone();
                let answer = self.joined();
                self.at_join = self.timeline.len();
                self.state.extend(join.key().map(|key| (key, join.clone())));
                self.timeline.push(join);
                answer.into()
            }
            "backfill" => {
                let place = self.place(&query["v"]);
                let limit: usize = query["limit"].parse().expect("a number");
                let events: Vec<Pdu> = self.timeline[(place + 1).saturating_sub(limit)..=place].iter().rev().cloned().collect();
                format!(r#"{{"origin":"{}","origin_server_ts":1700000000000,"pdus":[{}]}}"#, self.peer.name, written(&events)).into()
            }
            "state_ids" => {
                let place = self.place(&query["event_id"]);
                let before: Vec<&str> = self.state_before(place).into_iter().map(|event| event.event_id.as_str()).collect();
                json!({ "pdu_ids": before, "auth_chain_ids": before }).to_string().into()
            }
            "event_auth" => r#"{"auth_chain":[]}"#.into(),
            "send" => r#"{"pdus":{}}"#.into(),
            _ => "{}".into(),
        }
    }

    fn place(&self, id: &str) -> usize {
        self.timeline.iter().rposition(|event| event.event_id == id).expect("an event of the room")
    }

    /// The state, most of which are members, before an event: here nobody changes it twice.
    fn state_before(&self, place: usize) -> Vec<&Pdu> {
        self.timeline[..place].iter().take(self.at_join).filter(|event| event.state_key.is_some()).collect()
    }

    /// What a join of a user should be.
    pub fn template(&self, user: &OwnedUserId) -> Value {
        let content = json!({ "membership": "join" });
        let auth_events = self.auth_events(&"m.room.member".into(), user, Some(user.as_str()), &content);
        let auth_events: Vec<_> = auth_events.into_iter().map(|event| event.event_id).collect();
        let last = self.timeline.last().expect("a room has events");
        json!({
            "room_version": VERSION.as_str(),
            "event": {
                "auth_events": auth_events, "content": content, "depth": last.depth + 1, "origin_server_ts": 1_700_000_000_000_u64,
                "prev_events": [last.event_id], "room_id": self.id, "sender": user, "state_key": user, "type": "m.room.member",
            },
        })
    }

    /// What a join is answered: the state, and what it stands on.
    pub fn joined(&self) -> String {
        let state: Vec<Pdu> = self.state.values().cloned().collect();
        let chain: Vec<Pdu> = self.timeline[..5.min(self.timeline.len())].to_vec();
        format!(
            r#"{{"auth_chain":[{}],"members_omitted":false,"origin":"{}","servers_in_room":["{}"],"state":[{}]}}"#,
            written(&chain),
            self.peer.name,
            self.peer.name,
            written(&state)
        )
    }
}

fn written(events: &[Pdu]) -> String {
    let events: Vec<&str> = events.iter().map(|event| str::from_utf8(&event.json).expect("UTF-8")).collect();
    events.join(",")
}
