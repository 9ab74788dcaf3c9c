//! The sizes and types that a PDU must have to be looked at (rooms/v1.md to v12.md "Event format",
//! client-server-api "Size limits"): step 1 of the checks.

use super::{MAX_AUTH_EVENTS, MAX_ID_BYTES, MAX_PDU_BYTES, MAX_PREV_EVENTS, PduError, max_depth, numbers};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue,
    room_version_rules::{EventsReferenceFormatVersion, RoomVersionRules},
};

/// The sizes and types that every PDU of the room version has.
pub(super) fn check(object: &CanonicalJsonObject, size: usize, rules: &RoomVersionRules) -> Result<(), PduError> {
    if size > MAX_PDU_BYTES {
        return Err(PduError::TooLarge("event"));
    }
    let required = |field| match string(object, field) {
        Ok(None) => Err(PduError::Format(format!("`{field}` is missing"))),
        other => other,
    };
    let event_type = required("type")?;
    required("sender")?;
    string(object, "state_key")?;
    let is_create = event_type == Some("m.room.create");
    if !is_create || rules.event_format.require_room_create_room_id {
        required("room_id")?;
    } else if object.contains_key("room_id") {
        return Err(PduError::Format("a create event must not have a `room_id` in this room version".to_owned()));
    }
    if rules.event_format.require_event_id {
        required("event_id")?;
    }
    check_references(object, "prev_events", MAX_PREV_EVENTS, rules)?;
    check_references(object, "auth_events", MAX_AUTH_EVENTS, rules)?;
    if !matches!(object.get("content"), Some(CanonicalJsonValue::Object(_))) {
        return Err(PduError::Format("`content` is not an object".to_owned()));
    }
    let depth = match object.get("depth") {
        Some(CanonicalJsonValue::Integer(depth)) => u64::try_from(i64::from(*depth)).ok(),
        Some(CanonicalJsonValue::String(value)) => numbers::carried(value).and_then(|number| number.parse().ok()),
        _ => None,
    };
    if depth.is_none_or(|depth| depth > max_depth(rules)) {
        return Err(PduError::Format("`depth` is not a positive integer".to_owned()));
    }
    if rules.event_format.allow_room_create_in_auth_events || is_create {
        return Ok(());
    }
    // Since v12: the create event is implied by the room's id.
    let create = required("room_id")?.unwrap_or_default().replacen('!', "$", 1);
    match object.get("auth_events") {
        Some(CanonicalJsonValue::Array(ids)) if ids.iter().any(|id| id.as_str() == Some(&create)) => {
            Err(PduError::Format("`auth_events` must not contain the create event in this room version".to_owned()))
        }
        _ => Ok(()),
    }
}

/// A field that is a string within bounds, if it is there.
pub(super) fn string<'a>(object: &'a CanonicalJsonObject, field: &'static str) -> Result<Option<&'a str>, PduError> {
    match object.get(field) {
        None => Ok(None),
        Some(CanonicalJsonValue::String(value)) if value.len() > MAX_ID_BYTES => Err(PduError::TooLarge(field)),
        Some(CanonicalJsonValue::String(value)) => Ok(Some(value)),
        Some(_) => Err(PduError::Format(format!("`{field}` is not a string"))),
    }
}

fn check_references(object: &CanonicalJsonObject, field: &'static str, limit: usize, rules: &RoomVersionRules) -> Result<(), PduError> {
    let Some(CanonicalJsonValue::Array(entries)) = object.get(field) else {
        return Err(PduError::Format(format!("`{field}` is not an array")));
    };
    if entries.len() > limit {
        return Err(PduError::TooLarge(field));
    }
    let with_hash = rules.events_reference_format == EventsReferenceFormatVersion::V1;
    let fits = |entry: &CanonicalJsonValue| match entry {
        CanonicalJsonValue::String(_) => !with_hash,
        CanonicalJsonValue::Array(_) => with_hash,
        _ => false,
    };
    if entries.iter().all(fits) {
        return Ok(());
    }
    Err(PduError::Format(format!("`{field}` contains an entry of another room version's format")))
}
