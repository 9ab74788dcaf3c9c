//! The state of a room as another server tells it on a join: read as it comes, and taken in piece
//! by piece, so that a large room needs little more memory than its events have bytes.

use super::{
    client::AskError,
    join_progress::JoinProgress,
    keys::{KnownKeys, WantedKeys},
    streamed::Parts,
};
use crate::{body::Body, homeserver::Homeserver, room::in_order, time_slice::TimeSlice};
use ephapse_events::{Pdu, ReceivedPdu};
use ruma::{OwnedEventId, RoomId, room_version_rules::RoomVersionRules};
use serde_json::value::RawValue;
use std::collections::HashMap;

/// Bytes of a room's state, with its auth chain, that one join takes.
const LARGEST: usize = 256 << 20;

/// Bytes of events that are kept as they were parsed, roughly a sixth of what they take so; further
/// ones are parsed once more when it is their turn.
const KEPT_PARSED: usize = 8 << 20;

/// An event that was told.
struct Told {
    /// By their numbers.
    auth_events: Box<[u32]>,
    is_state: bool,
    event: Held,
}

/// A told event, parsed or as it came.
enum Held {
    Parsed(Box<ReceivedPdu>),
    Json(Box<[u8]>),
}

impl Held {
    fn parsed(self, rules: &RoomVersionRules) -> Option<ReceivedPdu> {
        match self {
            Self::Parsed(event) => Some(*event),
            Self::Json(json) => ReceivedPdu::parse(&json, rules).ok(),
        }
    }
}

/// What a server answers to a join. Of its events nothing is known yet but that they are well
/// formed and say that they are of the room.
#[derive(Default)]
pub struct ToldState {
    /// The join as that server has signed it too.
    pub join: Option<Box<RawValue>>,
    /// Numbers of events that were told, or that one of them names.
    numbers: HashMap<OwnedEventId, u32>,
    /// By number.
    told: Vec<Option<Told>>,
    create: Option<u32>,
    wanted: WantedKeys,
    bytes: usize,
}

impl ToldState {
    /// Reads an answer. Events that are malformed or of another room are left out.
    ///
    /// # Errors
    /// [`AskError`] where the answer as a whole cannot be read.
    pub async fn read(hs: &Homeserver, room: &RoomId, rules: &RoomVersionRules, body: Body, progress: &JoinProgress<'_>) -> Result<Self, AskError> {
        let slice = TimeSlice::new(&*hs.host);
        let mut parts = Parts::of(body, LARGEST);
        let mut state = Self::default();
        while let Some(part) = parts.next().await? {
            match &*part.field {
                "auth_chain" | "state" => {
                    state.add(room, rules, &part.json, &*part.field == "state");
                    progress.has_read();
                }
                "event" => state.join = serde_json::from_slice(&part.json).map_err(|error| AskError::Malformed(error.to_string()))?,
                _ => {}
            }
            slice.step().await;
        }
        Ok(state)
    }

    fn add(&mut self, room: &RoomId, rules: &RoomVersionRules, json: &[u8], is_state: bool) {
        let event = match ReceivedPdu::parse(json, rules) {
            Ok(event) if event.unverified().room_id == room => event,
            Ok(event) => return tracing::info!("{} is no event of {room}", event.unverified().event_id),
            Err(error) => return tracing::info!("an event of the state of {room} is left out: {error}"),
        };
        let pdu = event.unverified();
        let number = self.number(&pdu.event_id);
        if let Some(told) = &mut self.told[number as usize] {
            told.is_state |= is_state;
            return;
        }
        if pdu.is_create() {
            if self.create.is_some() {
                return tracing::info!("{} is one create event too many for {room}", pdu.event_id);
            }
            self.create = Some(number);
        }
        let auth_events = pdu.auth_events.iter().map(|id| self.number(id)).collect();
        self.wanted.add(&event, rules);
        let kept = event.unverified().json.len();
        self.bytes += kept;
        let event = if self.bytes <= KEPT_PARSED { Held::Parsed(Box::new(event)) } else { Held::Json(event.unverified().json[..].into()) };
        self.told[number as usize] = Some(Told { auth_events, is_state, event });
    }

    fn number(&mut self, id: &OwnedEventId) -> u32 {
        if let Some(number) = self.numbers.get(id) {
            return *number;
        }
        let number = self.told.len() as u32;
        self.numbers.insert(id.clone(), number);
        self.told.push(None);
        number
    }

    /// The keys that its signatures need.
    pub fn wanted_keys(&mut self) -> WantedKeys {
        std::mem::take(&mut self.wanted)
    }

    /// The create event, where it is there and its signatures are good.
    pub fn create(&self, keys: &KnownKeys, rules: &RoomVersionRules) -> Option<Pdu> {
        let told = self.told.get(self.create? as usize)?.as_ref()?;
        let event = match &told.event {
            Held::Parsed(event) => Some(ReceivedPdu::clone(event)),
            Held::Json(json) => ReceivedPdu::parse(json, rules).ok(),
        };
        keys.verify(event?, rules).ok()
    }

    /// Its events, each after those that authorize it.
    pub fn into_events(self, rules: &RoomVersionRules) -> Events<'_> {
        // Since v12 the create event is no auth event, but implied by the room's id.
        let implied = self.create.filter(|_| rules.authorization.room_create_event_id_as_room_id);
        let Self { mut told, numbers, .. } = self;
        drop(numbers);
        let needs = |number: usize| {
            let auth_events = told[number].iter().flat_map(|told| told.auth_events.iter().copied());
            let implied = implied.filter(|create| *create as usize != number);
            // Those that were not told are here, or the event is left out.
            auth_events.chain(implied).map(|number| number as usize).filter(|number| told[*number].is_some()).collect()
        };
        let order = in_order(told.len(), needs);
        let events = order.into_iter().filter_map(|number| told[number].take()).map(|told| (told.event, told.is_state)).collect::<Vec<_>>();
        Events { events: events.into_iter(), rules }
    }
}

/// Events of a state, each after those that authorize it.
pub struct Events<'a> {
    events: std::vec::IntoIter<(Held, bool)>,
    rules: &'a RoomVersionRules,
}

impl Events<'_> {
    /// The next so many whose signatures and hashes are good, and whether each is part of the
    /// state; after the last ones, none. Others are left out: who made the state up of them has to
    /// do without.
    pub async fn next(&mut self, hs: &Homeserver, count: usize, keys: &KnownKeys) -> Vec<(Pdu, bool)> {
        let slice = TimeSlice::new(&*hs.host);
        let mut verified = Vec::with_capacity(count.min(self.events.len()));
        while verified.len() < count && self.events.len() > 0 {
            let (mut received, mut told) = (Vec::new(), Vec::new());
            for (event, is_state) in self.events.by_ref().take(count - verified.len()) {
                if let Some(event) = event.parsed(self.rules) {
                    told.push((event.unverified().event_id.clone(), is_state));
                    received.push(event);
                }
                slice.step().await;
            }
            for ((id, is_state), event) in told.into_iter().zip(hs.verify_events(received, keys, self.rules).await) {
                match event {
                    Ok(pdu) => verified.push((pdu, is_state)),
                    Err(error) => tracing::info!("{id} is left out: {error}"),
                }
            }
        }
        verified
    }
}
