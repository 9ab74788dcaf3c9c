//! A PDU: an event as servers exchange, sign and store it (rooms/v1.md to v12.md "Event format",
//! server-server-api.md "Signing Events" and "Checks performed on receipt of a PDU", steps 1 to 3).
//!
//! A [`ReceivedPdu`] is what a remote server says; once its signatures are verified it becomes a
//! [`Pdu`]. A [`Pdu`] keeps its canonical JSON and the fields the rules read. `unsigned` is no
//! part of it. Local events are written by `sign`.

mod format;
mod numbers;
mod received;

pub use numbers::JsonObject;
pub(crate) use numbers::python_number;
pub use received::{ReceivedPdu, SignatureError};

use crate::json::{self, LimitError};
use base64::{Engine, alphabet, engine::general_purpose};
use bytes::Bytes;
use ruma::{
    CanonicalJsonValue, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, SigningKeyAlgorithm, UserId,
    canonical_json::{CanonicalJsonFieldError, RedactingSerializer},
    events::{StateEventType, TimelineEventType},
    room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomVersionRules},
    serde::{Base64, base64::Standard},
    signatures::{JsonError, KeyPair, verify_canonical_json_bytes},
    state_res::Event,
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt};

/// The largest PDU in bytes of canonical JSON, signatures included (client-server-api "Size
/// limits").
pub const MAX_PDU_BYTES: usize = 65_536;
/// The longest `sender`, `room_id`, `type`, `state_key` and `event_id`, in bytes.
pub const MAX_ID_BYTES: usize = 255;
/// The most `prev_events` a PDU may have.
pub const MAX_PREV_EVENTS: usize = 20;
/// The most `auth_events` a PDU may have.
pub const MAX_AUTH_EVENTS: usize = 10;

/// The deepest an event can say it is: since v6 the largest integer of canonical JSON.
pub fn max_depth(rules: &RoomVersionRules) -> u64 {
    if rules.authorization.strict_canonical_json { (1 << 53) - 1 } else { i64::MAX as u64 }
}

/// What a state event is the value of: its `type` and `state_key`.
pub type StateKey = (StateEventType, String);

/// Why bytes are not a PDU of a room.
#[derive(Debug, thiserror::Error)]
pub enum PduError {
    /// Not JSON, or JSON that has no canonical form (floats, integers past 2^53).
    #[error("Event is not canonical JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Over [`MAX_PDU_BYTES`], or a field over [`MAX_ID_BYTES`].
    #[error("{0} is too large")]
    TooLarge(&'static str),
    /// More than every later reader takes.
    #[error("Event not interoperable: {0}")]
    Limit(#[from] LimitError),
    /// A field is missing or is not what the room version says.
    #[error("Invalid event: {0}")]
    Format(String),
    /// A signature is missing or wrong, or its key is not among those given.
    #[error("Event signature verification failed: {0}")]
    Signature(#[from] SignatureError),
}

impl From<JsonError> for PduError {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::PduTooLarge => Self::TooLarge("event"),
            error => Self::Format(error.to_string()),
        }
    }
}

impl From<CanonicalJsonFieldError> for PduError {
    fn from(error: CanonicalJsonFieldError) -> Self {
        Self::Format(error.to_string())
    }
}

/// An entry of `prev_events` or `auth_events`. Room versions 1 and 2 write the hash beside the id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventReference {
    /// The event referred to.
    pub event_id: OwnedEventId,
    /// Its reference hash in unpadded base64, used by room versions 1 and 2 only.
    pub sha256: Option<String>,
}

/// An event of a room: its canonical JSON without `unsigned`, and its fields.
#[derive(Clone, Debug)]
pub struct Pdu {
    /// Since v3 the reference hash; before, a name its server gave it.
    pub event_id: OwnedEventId,
    /// Since v12 made of the create event's id, also for the create event itself.
    pub room_id: OwnedRoomId,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// The event's type.
    pub event_type: TimelineEventType,
    /// Present on state events only.
    pub state_key: Option<String>,
    /// The content as canonical JSON.
    pub content: Box<RawValue>,
    /// Its parents in the room's graph.
    pub prev_events: Vec<OwnedEventId>,
    /// The state events that allow it.
    pub auth_events: Vec<OwnedEventId>,
    /// One more than its deepest parent, as its server says.
    pub depth: u64,
    /// When its server says it was sent.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// The event it redacts: top level before v11, in the content since.
    pub redacts: Option<OwnedEventId>,
    /// Whether it failed an auth check on receipt. Not in the JSON: stored beside it.
    pub rejected: bool,
    /// One more than the greatest of its auth events, 0 without any: an order that every server
    /// computes alike and none can lie about. Not in the JSON: whoever stores the event computes it
    /// ([`Pdu::auth_depth_after`]) and stores it beside.
    pub auth_depth: u64,
    /// The whole as canonical JSON.
    pub json: Bytes,
    /// A create event since v12: its JSON has no `room_id`.
    pub gives_room_id: bool,
}

impl Pdu {
    /// Reads an event that this server stored before, [`Pdu::json`] beside its id and whether it
    /// was rejected. Nothing is checked again.
    ///
    /// # Errors
    /// [`PduError::Json`] if these are not the bytes of a PDU.
    pub fn from_stored(event_id: OwnedEventId, json: Bytes, rejected: bool, rules: &RoomVersionRules) -> Result<Self, PduError> {
        let fields: Fields = serde_json::from_slice(&json)?;
        fields.into_pdu(event_id, json, rejected, rules)
    }

    /// The content as an object.
    ///
    /// # Errors
    /// Only if the content is not what the room version allows.
    pub fn content_object(&self, rules: &RoomVersionRules) -> serde_json::Result<JsonObject> {
        JsonObject::read(self.content.get(), rules.authorization.strict_canonical_json)
    }

    /// Its place in the room state, when it is a state event.
    pub fn key(&self) -> Option<StateKey> {
        let state_key = self.state_key.clone()?;
        Some((self.event_type.to_string().into(), state_key))
    }

    /// The event as the redaction algorithm of its room version leaves it. The id stays the same.
    ///
    /// # Errors
    /// [`PduError`] only if [`Pdu::json`] has not come through [`ReceivedPdu::parse`].
    pub fn redacted(&self, rules: &RoomVersionRules) -> Result<Self, PduError> {
        let json = write(&read(&self.json, rules)?, &RedactingSerializer::new().rules(&rules.redaction))?;
        let redacted = Self::from_stored(self.event_id.clone(), json.into(), self.rejected, rules)?;
        Ok(Self { auth_depth: self.auth_depth, ..redacted })
    }

    /// How another event names this one in `prev_events` and `auth_events`.
    ///
    /// # Errors
    /// [`PduError`] only if [`Pdu::json`] has not come through [`ReceivedPdu::parse`].
    pub fn reference(&self, rules: &RoomVersionRules) -> Result<EventReference, PduError> {
        let sha256 = match rules.events_reference_format {
            EventsReferenceFormatVersion::V1 => {
                let read = read(&self.json, rules)?;
                Some(hash_of(write(&read, &to_be_signed(rules))?, rules))
            }
            _ => None,
        };
        Ok(EventReference { event_id: self.event_id.clone(), sha256 })
    }

    /// The same event with one more signature, as a server adds it that vouches for a join or takes
    /// an invitation.
    ///
    /// # Errors
    /// [`PduError`] only if [`Pdu::json`] has not come through [`ReceivedPdu::parse`], or if the
    /// event becomes too large.
    pub fn signed_by(&self, server: &ServerName, key: &impl KeyPair, rules: &RoomVersionRules) -> Result<Self, PduError> {
        let signature = key.sign(write(&read(&self.json, rules)?, &to_be_signed(rules))?.as_bytes());
        self.with_signature(server.as_str(), &signature.id(), &signature.base64(), rules)
    }

    /// Whether it has a good signature of `entity` by an Ed25519 key.
    pub fn is_signed_by(&self, entity: &str, key_id: &str, key: &[u8], rules: &RoomVersionRules) -> bool {
        let verified = || {
            let read = read(&self.json, rules).ok()?;
            let signatures = read.get("signatures")?.as_object()?.get(entity)?.as_object()?;
            let signature = Base64::<Standard>::parse(signatures.get(key_id)?.as_str()?).ok()?;
            let signed = write(&read, &to_be_signed(rules)).ok()?;
            verify_canonical_json_bytes(&SigningKeyAlgorithm::Ed25519, key, signature.as_bytes(), signed.as_bytes()).ok()
        };
        verified().is_some()
    }

    /// The same event with one more signature, which its id does not depend on.
    ///
    /// # Errors
    /// [`PduError::TooLarge`]
    pub fn with_signature(&self, entity: &str, key_id: &str, signature: &str, rules: &RoomVersionRules) -> Result<Self, PduError> {
        let mut read = read(&self.json, rules)?;
        let none = || CanonicalJsonValue::Object(BTreeMap::new());
        let signatures = read.entry("signatures".to_owned()).or_insert_with(none);
        let CanonicalJsonValue::Object(signatures) = signatures else { return Err(PduError::Format("`signatures` is no object".to_owned())) };
        let of_entity = signatures.entry(entity.to_owned()).or_insert_with(none);
        let CanonicalJsonValue::Object(of_entity) = of_entity else { return Err(PduError::Format("`signatures` has no objects".to_owned())) };
        of_entity.insert(key_id.to_owned(), signature.into());
        let json = write(&read, &RedactingSerializer::new())?;
        if json.len() > MAX_PDU_BYTES {
            return Err(PduError::TooLarge("event"));
        }
        Ok(Self { json: json.into(), ..self.clone() })
    }

    /// The auth depth of an event with these auth events.
    pub fn auth_depth_after<'a>(auth_events: impl IntoIterator<Item = &'a Pdu>) -> u64 {
        auth_events.into_iter().map(|event| event.auth_depth + 1).max().unwrap_or(0)
    }

    /// Whether it is a state event of this place.
    pub fn is_at(&self, event_type: &StateEventType, state_key: &str) -> bool {
        self.state_key.as_deref() == Some(state_key) && self.event_type == TimelineEventType::from(event_type.clone())
    }

    /// Whether this is the room's create event.
    pub fn is_create(&self) -> bool {
        self.event_type == TimelineEventType::RoomCreate && self.state_key.as_deref() == Some("")
    }
}

impl Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    /// Since v12 the create event has none: its id is what the room's id is made of.
    fn room_id(&self) -> Option<&RoomId> {
        (!self.gives_room_id).then_some(&*self.room_id)
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }

    fn content(&self) -> &RawValue {
        &self.content
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}

/// The fields the rules read, as they stand in the JSON.
#[derive(Deserialize)]
struct Fields {
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    #[serde(rename = "type")]
    event_type: TimelineEventType,
    state_key: Option<String>,
    content: Box<RawValue>,
    prev_events: Vec<Reference>,
    auth_events: Vec<Reference>,
    depth: u64,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    redacts: Option<serde_json::Value>,
}

/// An entry of `prev_events` in either form.
struct Reference(OwnedEventId);

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReferenceVisitor)
    }
}

struct ReferenceVisitor;

impl<'de> Visitor<'de> for ReferenceVisitor {
    type Value = Reference;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event id, or an event id and its hashes")
    }

    fn visit_str<E: de::Error>(self, id: &str) -> Result<Reference, E> {
        OwnedEventId::try_from(id).map(Reference).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Reference, A::Error> {
        let id = pair.next_element()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
        while pair.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Reference(id))
    }
}

#[derive(Deserialize)]
struct RedactionContent {
    redacts: Option<OwnedEventId>,
}

impl Fields {
    fn into_pdu(self, event_id: OwnedEventId, json: Bytes, rejected: bool, rules: &RoomVersionRules) -> Result<Pdu, PduError> {
        let gives_room_id = self.room_id.is_none();
        let room_id = match self.room_id {
            Some(room_id) => room_id,
            None => room_id_of_create(&event_id)?,
        };
        let redacts = redacts_of(&self.event_type, self.redacts, &self.content, rules);
        let content = as_read(&self.event_type, self.content);
        Ok(Pdu {
            event_id,
            room_id,
            sender: self.sender,
            event_type: self.event_type,
            state_key: self.state_key,
            content,
            prev_events: self.prev_events.into_iter().map(|r| r.0).collect(),
            auth_events: self.auth_events.into_iter().map(|r| r.0).collect(),
            depth: self.depth,
            origin_server_ts: self.origin_server_ts,
            redacts,
            rejected,
            auth_depth: 0,
            json,
            gives_room_id,
        })
    }
}

/// The content as the rules read it.
pub(super) fn as_read(event_type: &TimelineEventType, content: Box<RawValue>) -> Box<RawValue> {
    if *event_type == TimelineEventType::RoomPowerLevels { numbers::truncated(content) } else { content }
}

/// A malformed `redacts` redacts nothing: it is no reason to refuse the event.
fn redacts_of(
    event_type: &TimelineEventType,
    top_level: Option<serde_json::Value>,
    content: &RawValue,
    rules: &RoomVersionRules,
) -> Option<OwnedEventId> {
    if *event_type != TimelineEventType::RoomRedaction {
        return None;
    }
    // Since v11 it is part of the content; what stands in the other place says nothing.
    if rules.redaction.content_field_redacts {
        return serde_json::from_str::<RedactionContent>(content.get()).ok()?.redacts;
    }
    top_level.and_then(|id| serde_json::from_value(id).ok())
}

/// Since v12: the room's id is the create event's id with another sigil.
///
/// # Errors
/// [`PduError::Format`] if it is too long for a room id.
pub fn room_id_of_create(create: &EventId) -> Result<OwnedRoomId, PduError> {
    let hash = create.as_str().trim_start_matches('$');
    OwnedRoomId::try_from(format!("!{hash}")).map_err(|error| PduError::Format(format!("room id of the create event: {error}")))
}

/// Since v12: the create event's id, out of the room's.
pub fn create_of_room(room: &RoomId) -> Option<OwnedEventId> {
    OwnedEventId::try_from(format!("${}", room.strip_sigil())).ok()
}

fn event_id_of(read: &JsonObject, signed: &str, rules: &RoomVersionRules) -> Result<OwnedEventId, PduError> {
    let id = match rules.event_id_format {
        EventIdFormatVersion::V1 => format::string(read, "event_id")?.ok_or_else(|| PduError::Format("`event_id` is missing".to_owned()))?.to_owned(),
        _ => format!("${}", hash_of(signed, rules)),
    };
    OwnedEventId::try_from(id).map_err(|error| PduError::Format(format!("`event_id`: {error}")))
}

/// An event's JSON, its numbers marked where they are not canonical.
fn read(json: &[u8], rules: &RoomVersionRules) -> Result<JsonObject, PduError> {
    let json = std::str::from_utf8(json).map_err(|error| PduError::Format(error.to_string()))?;
    Ok(JsonObject::read(json, rules.authorization.strict_canonical_json)?)
}

/// The JSON that a serializer leaves of it.
fn write(read: &JsonObject, serializer: &RedactingSerializer<'_>) -> Result<String, PduError> {
    Ok(read.written(serializer.serialize(read)?))
}

/// Checks the whole event, as it is kept, against the limits of every later reader.
pub(super) fn check(json: &[u8]) -> Result<(), PduError> {
    Ok(json::check(json)?)
}

/// What a redaction leaves, without signatures: what is signed, and whose hash names the event.
fn to_be_signed(rules: &RoomVersionRules) -> RedactingSerializer<'_> {
    RedactingSerializer::new().rules(&rules.redaction).custom_redacted_root_fields(&["signatures", "unsigned"])
}

/// The reference hash in the base64 of the room version.
pub(super) fn hash_of(redacted: impl AsRef<[u8]>, rules: &RoomVersionRules) -> String {
    let alphabet = match rules.event_id_format {
        EventIdFormatVersion::V1 | EventIdFormatVersion::V2 => &alphabet::STANDARD,
        _ => &alphabet::URL_SAFE,
    };
    general_purpose::GeneralPurpose::new(alphabet, general_purpose::NO_PAD).encode(Sha256::digest(redacted))
}

/// Unpadded base64 with the standard alphabet, as hashes and signatures are written.
pub(super) fn unpadded(bytes: &[u8]) -> String {
    Base64::<Standard, _>::new(bytes).encode()
}

#[cfg(test)]
mod tests;
