//! Member events that one server begins and another signs (Server-Server API, "Joining Rooms").

use ephapse_events::{EventReference, JsonObject, NewPdu, Pdu, PduError};
use ruma::{
    CanonicalJsonValue, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, ServerName,
    events::TimelineEventType,
    room_version_rules::{EventsReferenceFormatVersion, RoomVersionRules},
    signatures::Ed25519KeyPair,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

/// The field of a join's content that says on whose word the user may join.
pub const AUTHORISED_VIA: &str = "join_authorised_via_users_server";

/// What a resident server says of a member event that the user's server may sign.
#[derive(Debug, Deserialize)]
pub struct Template {
    room_id: OwnedRoomId,
    sender: OwnedUserId,
    #[serde(rename = "type")]
    event_type: TimelineEventType,
    state_key: String,
    content: Box<RawValue>,
    prev_events: Vec<Reference>,
    auth_events: Vec<Reference>,
    depth: u64,
}

/// An entry of `prev_events` in either form.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Reference {
    Id(OwnedEventId),
    WithHash(OwnedEventId, Hashes),
}

#[derive(Debug, Default, Deserialize)]
struct Hashes {
    sha256: Option<String>,
}

impl From<Reference> for EventReference {
    fn from(reference: Reference) -> Self {
        match reference {
            Reference::Id(event_id) => Self { event_id, sha256: None },
            Reference::WithHash(event_id, hashes) => Self { event_id, sha256: hashes.sha256 },
        }
    }
}

impl Template {
    /// Reads what a server has answered, if it is about this membership of a user.
    pub fn read(json: &RawValue, room: &ruma::RoomId, user: &ruma::UserId, membership: &str) -> Result<Self, String> {
        let template: Self = serde_json::from_str(json.get()).map_err(|error| error.to_string())?;
        #[derive(Deserialize)]
        struct Content {
            membership: String,
        }
        let content: Content = serde_json::from_str(template.content.get()).map_err(|error| error.to_string())?;
        let is_meant = template.room_id == room
            && template.sender == user
            && template.state_key == user.as_str()
            && template.event_type == TimelineEventType::RoomMember
            && content.membership == membership;
        if is_meant { Ok(template) } else { Err("the event is not the one that was asked for".to_owned()) }
    }

    /// The event, signed by the user's server. Of the content only on whose word the user joins is
    /// the other server's to say.
    pub fn sign(
        self,
        mut content: JsonObject,
        now: u64,
        localpart: String,
        server: &ServerName,
        key: &Ed25519KeyPair,
        rules: &RoomVersionRules,
    ) -> Result<Pdu, PduError> {
        let theirs = JsonObject::read(self.content.get(), rules.authorization.strict_canonical_json)?;
        content.remove(AUTHORISED_VIA);
        if let Some(user @ CanonicalJsonValue::String(_)) = theirs.get(AUTHORISED_VIA) {
            content.insert(AUTHORISED_VIA.to_owned(), user.clone());
        }
        let new = NewPdu {
            room_id: Some(self.room_id),
            sender: self.sender,
            event_type: self.event_type,
            state_key: Some(self.state_key),
            content,
            prev_events: self.prev_events.into_iter().map(Into::into).collect(),
            auth_events: self.auth_events.into_iter().map(Into::into).collect(),
            depth: self.depth,
            origin_server_ts: MilliSecondsSinceUnixEpoch(ruma::UInt::new_saturating(now)),
            redacts: None,
            event_localpart: localpart,
        };
        new.sign(server, key, rules)
    }
}

/// What this server says of a member event that another one may sign.
pub fn written(new: &NewPdu, origin: &ServerName, rules: &RoomVersionRules) -> Result<Box<RawValue>, PduError> {
    let with_hashes = matches!(rules.events_reference_format, EventsReferenceFormatVersion::V1);
    let references = |events: &[EventReference]| -> Vec<Value> {
        let reference = |event: &EventReference| match with_hashes {
            true => json!([event.event_id, { "sha256": event.sha256 }]),
            false => json!(event.event_id),
        };
        events.iter().map(reference).collect()
    };
    let content: Value = serde_json::from_str(&new.content.to_json()?)?;
    let template = json!({
        "type": new.event_type,
        "room_id": new.room_id,
        "sender": new.sender,
        "state_key": new.state_key,
        "content": content,
        "prev_events": references(&new.prev_events),
        "auth_events": references(&new.auth_events),
        "depth": new.depth,
        "origin": origin,
        "origin_server_ts": new.origin_server_ts,
    });
    Ok(serde_json::value::to_raw_value(&template)?)
}
