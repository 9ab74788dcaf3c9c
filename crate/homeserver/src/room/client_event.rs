//! Events as clients see them (Client-Server API, "Room event format"): without what only servers
//! need, with `unsigned`.

use super::{error::Result, event::Event, read::Portions, rooms::RoomInfo, state_tree::NodeId, visibility::Viewer};
use crate::{
    damaged::{Damaged, LeaveOut},
    homeserver::Homeserver,
    position::Position,
    requester::Requester,
    tables::MembershipKind,
};
use ephapse_events::{
    StateKey,
    json::{MAX_DEPTH, READERS_MAX_DEPTH},
};
use ruma::{
    EventId, RoomId, UserId,
    events::{AnyStrippedStateEvent, StateEventType, TimelineEventType},
    serde::Raw,
};
use serde::Serialize;
use serde_json::value::RawValue;
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    rc::Rc,
};

/// How many levels an answer puts around what was taken in. The most is in a sync, where the
/// redaction of an event stands: rooms, section, room, timeline, events, event, unsigned and
/// redacted_because, with the answer itself. The same below a bundled thread, its latest event and
/// that one's edit are nine more.
const RESPONSE_DEPTH: usize = 9 + 9;

const _: () = assert!(MAX_DEPTH + RESPONSE_DEPTH <= READERS_MAX_DEPTH);

#[derive(Serialize)]
struct ClientEvent<'a> {
    content: Cow<'a, RawValue>,
    event_id: &'a EventId,
    origin_server_ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacts: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a RoomId>,
    sender: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    #[serde(rename = "type")]
    event_type: String,
    unsigned: Unsigned<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a UserId>,
}

#[derive(Serialize)]
struct Unsigned<'a> {
    age: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_content: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_sender: Option<&'a UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces_state: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacted_because: Option<Box<RawValue>>,
    /// The id of that event: from before r0, and Synapse says it still.
    #[serde(skip_serializing_if = "Option::is_none")]
    redacted_by: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<&'static str>,
}

/// For whom and how events are written.
#[derive(Clone, Copy)]
struct Reader<'a> {
    requester: Requester<'a>,
    format: Format,
    /// Whose eyes judged the events, where somebody's did.
    viewer: Option<&'a Viewer>,
    /// Those of the replaced events that the reader sees.
    replaced: &'a HashSet<Position>,
}

/// How events are written for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// With `room_id`.
    Whole,
    /// Without `room_id`: inside a room of a sync.
    InRoom,
    /// As `Whole`, and with `user_id`, as the sender was called before r0.
    Old,
}

/// What somebody who is not in a room is told of it, beside their invitation or knock
/// (Client-Server API, Stripped state).
const STRIPPED: [StateEventType; 7] = [
    StateEventType::RoomCreate,
    StateEventType::RoomJoinRules,
    StateEventType::RoomCanonicalAlias,
    StateEventType::RoomName,
    StateEventType::RoomAvatar,
    StateEventType::RoomTopic,
    StateEventType::RoomEncryption,
];

impl Homeserver {
    /// The events of a state that tell of a room beside an invitation or a knock, the membership of
    /// its sender among them.
    pub async fn stripped_state(&self, room: &RoomInfo, state: NodeId, sender: Option<&UserId>) -> Result<Vec<Rc<Event>>> {
        let mut keys: Vec<StateKey> = STRIPPED.into_iter().map(|kind| (kind, String::new())).collect();
        keys.extend(sender.map(|sender| (StateEventType::RoomMember, sender.to_string())));
        let positions: Vec<Position> = self.state_get(room.nid, state, &keys).await?.into_iter().flatten().collect();
        Ok(self.events_at(room.nid, &positions).await?.into_iter().flatten().collect())
    }
}

impl Homeserver {
    /// Events as who asks sees them, but for damaged ones.
    pub async fn client_events<T>(&self, room: &RoomInfo, events: &[Rc<Event>], requester: Requester<'_>, format: Format) -> Result<Vec<Raw<T>>> {
        self.write_events(room, events, requester, format, None).await
    }

    /// Events of a timeline as who asks sees them, with the membership of a user at
    /// those that `viewer` has judged; elsewhere it would have to be read first, and "they MAY omit
    /// it".
    pub async fn timeline_events<T>(
        &self,
        room: &RoomInfo,
        events: &[Rc<Event>],
        requester: Requester<'_>,
        format: Format,
        viewer: &Viewer,
    ) -> Result<Vec<Raw<T>>> {
        self.write_events(room, events, requester, format, Some(viewer)).await
    }

    async fn write_events<T>(
        &self,
        room: &RoomInfo,
        events: &[Rc<Event>],
        requester: Requester<'_>,
        format: Format,
        viewer: Option<&Viewer>,
    ) -> Result<Vec<Raw<T>>> {
        let events = self.served(events, requester).await?;
        let mut positions: Vec<Position> = events.iter().flat_map(|event| event.replaces.into_iter().chain(event.redacted_by)).collect();
        positions.sort_unstable();
        positions.dedup();
        let others: Vec<Rc<Event>> = self.events_at(room.nid, &positions).await?.into_iter().flatten().collect();
        let others = self.served(&others, requester).await?;
        let others: HashMap<Position, Rc<Event>> = others.iter().map(|event| (event.position, event.clone())).collect();
        let replaced: Vec<Rc<Event>> = events.iter().filter_map(|event| others.get(&event.replaces?).cloned()).collect();
        let reader = Reader { requester, format, viewer, replaced: &self.shown(room, replaced, requester).await? };
        let mut written = Vec::with_capacity(events.len());
        let mut portions = Portions::new(&*self.host);
        for event in events.iter() {
            written.extend(self.write_event(room, event, &others, reader).leave_out()?.map(Raw::from_json));
            portions.took(std::slice::from_ref(event)).await;
        }
        Ok(written)
    }

    /// Those of `events` that who asks sees.
    async fn shown(&self, room: &RoomInfo, events: Vec<Rc<Event>>, requester: Requester<'_>) -> Result<HashSet<Position>> {
        if events.is_empty() {
            return Ok(HashSet::new());
        }
        let mut viewer = Viewer::new(self, &self.room_by_nid(room.nid).await?, requester).await?;
        Ok(viewer.visible(self, events).await?.iter().map(|event| event.position).collect())
    }

    /// One event as who asks sees it.
    pub async fn client_event<T>(&self, room: &RoomInfo, event: &Rc<Event>, requester: Requester<'_>) -> Result<Raw<T>> {
        let mut written = self.client_events(room, std::slice::from_ref(event), requester, Format::Whole).await?;
        written.pop().ok_or_else(|| event.damaged(&room.id, "it cannot be serialized").into())
    }

    fn write_event(
        &self,
        room: &RoomInfo,
        event: &Event,
        others: &HashMap<Position, Rc<Event>>,
        reader: Reader<'_>,
    ) -> Result<Box<RawValue>, Damaged> {
        let Reader { requester, format, viewer, replaced: seen } = reader;
        let pdu = &event.pdu;
        let replaced = event.replaces.and_then(|position| others.get(&position));
        // "Only returned if [...] the client has permission to see the previous event."
        let previous = replaced.filter(|event| seen.contains(&event.position));
        let redaction = event.redacted_by.and_then(|position| others.get(&position));
        let redacted_because = match redaction {
            Some(redaction) => Some(self.write_event(room, redaction, &HashMap::new(), Reader { format: Format::Whole, viewer: None, ..reader })?),
            None => None,
        };
        let own = requester.session().filter(|session| session.user_id == pdu.sender);
        let txn_id = event.txn_id.as_ref().filter(|(device, _)| own.is_some_and(|session| session.device == *device));
        let written = ClientEvent {
            content: content(event).map_err(|error| event.damaged(&room.id, error))?,
            event_id: &pdu.event_id,
            origin_server_ts: pdu.origin_server_ts.0.into(),
            // Both places, whatever the version: old clients look in one, new ones in the other.
            redacts: pdu.redacts.as_deref(),
            room_id: (format != Format::InRoom).then_some(&*room.id),
            sender: &pdu.sender,
            state_key: pdu.state_key.as_deref(),
            event_type: pdu.event_type.to_string(),
            unsigned: Unsigned {
                age: self.host.now() as i64 - u64::from(pdu.origin_server_ts.0) as i64,
                prev_content: previous.map(|event| &*event.pdu.content),
                prev_sender: previous.map(|event| &*event.pdu.sender),
                replaces_state: replaced.map(|event| &*event.pdu.event_id),
                redacted_because,
                redacted_by: redaction.map(|redaction| &*redaction.pdu.event_id),
                transaction_id: txn_id.map(|(_, id)| id.as_str()),
                membership: viewer.and_then(|viewer| viewer.membership_at(event)).map(MembershipKind::as_str),
            },
            user_id: (format == Format::Old).then_some(&*pdu.sender),
        };
        serde_json::value::to_raw_value(&written).map_err(|error| event.damaged(&room.id, error))
    }

    /// A state event as it is shown to somebody who is not in the room.
    pub fn stripped_event(event: &Event) -> Result<Raw<AnyStrippedStateEvent>, Damaged> {
        #[derive(Serialize)]
        struct Stripped<'a> {
            content: &'a RawValue,
            sender: &'a UserId,
            state_key: &'a str,
            #[serde(rename = "type")]
            event_type: String,
        }
        let pdu = &event.pdu;
        let stripped = Stripped {
            content: &pdu.content,
            sender: &pdu.sender,
            state_key: pdu.state_key.as_deref().unwrap_or_default(),
            event_type: pdu.event_type.to_string(),
        };
        serde_json::value::to_raw_value(&stripped).map(Raw::from_json).map_err(|error| event.damaged(&pdu.room_id, error))
    }
}

/// The content; a redaction's names its target, also in versions where that stands beside it.
fn content(event: &Event) -> serde_json::Result<Cow<'_, RawValue>> {
    let pdu = &event.pdu;
    let Some(redacts) = pdu.redacts.as_ref().filter(|_| pdu.event_type == TimelineEventType::RoomRedaction && event.redacted_by.is_none()) else {
        return Ok(Cow::Borrowed(&pdu.content));
    };
    // Values stay as they are written: the numbers of some versions would not.
    let mut content: BTreeMap<Cow<'_, str>, Cow<'_, RawValue>> = serde_json::from_str(pdu.content.get())?;
    content.insert("redacts".into(), Cow::Owned(serde_json::value::to_raw_value(redacts)?));
    serde_json::value::to_raw_value(&content).map(Cow::Owned)
}
