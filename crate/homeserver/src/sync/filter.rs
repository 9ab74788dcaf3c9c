//! Filters (Client-Server API, Filtering): finding the one that a request means, and what it lets
//! through.

use crate::{
    damaged::{Damaged, LeaveOut},
    error::{Error, Result},
    homeserver::Homeserver,
    property_paths,
    room::RelatedBy,
    schema,
    tables::{self, UserNid},
};
use ruma::{
    RoomId,
    api::client::filter::{Filter, FilterDefinition, RoomEventFilter, UrlFilter},
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use std::{collections::BTreeMap, ops::Deref};

/// The events of a timeline when the filter does not say.
const DEFAULT_LIMIT: usize = 10;
/// The most events of a timeline, whatever the filter says.
const LARGEST_LIMIT: usize = 500;

/// What the names begin with that ruma's type leaves out.
const RELATED: &str = "related_by_";

/// How many types, users, rooms and fields a filter may name in all: every event is held against
/// each of them.
const MOST_NAMES: usize = 1000;

/// A filter definition, with what ruma's type leaves out.
#[derive(Debug, Default)]
pub struct Definition {
    whole: FilterDefinition,
    ours: Ours,
}

impl Definition {
    /// What it says of the events that relate to those of a timeline.
    pub fn timeline_related(&self) -> &RelatedBy {
        &self.ours.room.timeline
    }

    /// What it says of the events that relate to those of a state.
    pub fn state_related(&self) -> &RelatedBy {
        &self.ours.room.state
    }
}

impl Deref for Definition {
    type Target = FilterDefinition;

    fn deref(&self) -> &FilterDefinition {
        &self.whole
    }
}

#[derive(Debug, Default, Deserialize)]
struct Ours {
    #[serde(default)]
    room: OursInRooms,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OursInRooms {
    timeline: RelatedBy,
    state: RelatedBy,
}

/// What of an event a filter looks at.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The type.
    pub event_type: &'a str,
    /// The sender, where there is one.
    pub sender: Option<&'a str>,
    /// The event's JSON, to look for a `url` in its content.
    pub json: &'a [u8],
}

/// Whether `filter` lets events of `room` through at all.
pub fn allows_room(rooms: Option<&[ruma::OwnedRoomId]>, not_rooms: &[ruma::OwnedRoomId], room: &RoomId) -> bool {
    rooms.is_none_or(|rooms| rooms.iter().any(|allowed| allowed == room)) && !not_rooms.iter().any(|excluded| excluded == room)
}

/// Whether `filter` lets an event of `room` through.
pub fn allows_room_event(filter: &RoomEventFilter, room: &RoomId, event: Facts<'_>) -> bool {
    allows_room(filter.rooms.as_deref(), &filter.not_rooms, room)
        && allows_type(filter.types.as_deref(), &filter.not_types, event.event_type)
        && event.sender.is_none_or(|sender| allows_sender(filter.senders.as_deref(), &filter.not_senders, sender))
        && match filter.url_filter {
            None => true,
            Some(UrlFilter::EventsWithUrl) => has_url(event.json),
            Some(UrlFilter::EventsWithoutUrl) => !has_url(event.json),
        }
}

/// Whether `filter` lets something outside of rooms through.
pub fn allows(filter: &Filter, event_type: &str, sender: Option<&str>) -> bool {
    allows_type(filter.types.as_deref(), &filter.not_types, event_type)
        && sender.is_none_or(|sender| allows_sender(filter.senders.as_deref(), &filter.not_senders, sender))
}

/// How many events the timeline of a room may have.
pub fn timeline_limit(filter: &RoomEventFilter) -> usize {
    filter.limit.map_or(DEFAULT_LIMIT, |limit| usize::try_from(u64::from(limit)).unwrap_or(LARGEST_LIMIT).min(LARGEST_LIMIT))
}

fn allows_type(types: Option<&[String]>, not_types: &[String], event_type: &str) -> bool {
    types.is_none_or(|types| types.iter().any(|pattern| matches(pattern, event_type)))
        && !not_types.iter().any(|pattern| matches(pattern, event_type))
}

fn allows_sender(senders: Option<&[ruma::OwnedUserId]>, not_senders: &[ruma::OwnedUserId], sender: &str) -> bool {
    senders.is_none_or(|senders| senders.iter().any(|allowed| allowed == sender)) && !not_senders.iter().any(|excluded| excluded == sender)
}

fn has_url(json: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        content: Content<'a>,
    }
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        url: Option<&'a RawValue>,
    }
    serde_json::from_slice::<Event<'_>>(json).is_ok_and(|event| event.content.url.is_some())
}

/// Whether `text` is what `pattern` says, in which `*` stands for any sequence of characters.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// The fields that `event_fields` names.
pub struct Fields(Vec<Vec<String>>);

impl Fields {
    /// Takes the names apart; what is part of another field is not named twice.
    pub fn named(names: &[String]) -> Self {
        let mut fields: Vec<Vec<String>> = names.iter().map(|name| property_paths::split(name)).collect();
        fields.sort_unstable();
        fields.dedup_by(|field, before| field.starts_with(before));
        Self(fields)
    }

    /// An event with these fields; one that it does not have is passed over.
    pub fn of(&self, event: &RawValue) -> Option<Box<RawValue>> {
        part(event, &self.0.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }
}

/// Refuses a filter that names too much.
///
/// # Errors
/// 400 M_INVALID_PARAM.
pub fn check(filter: &Definition) -> Result<()> {
    let room = &filter.room;
    let fields = filter.event_fields.as_ref().map_or(0, Vec::len);
    let rooms = room.rooms.as_ref().map_or(0, Vec::len) + room.not_rooms.len();
    let outside: usize = [&filter.presence, &filter.account_data].map(names).iter().sum();
    let inside: usize = [&room.timeline, &room.state, &room.ephemeral, &room.account_data].map(names_in_rooms).iter().sum();
    let related = filter.timeline_related().names() + filter.state_related().names();
    check_names(fields + rooms + outside + inside + related)
}

/// The filter of a request that contains one for events of one room, `json`, with what ruma's type
/// leaves out of it.
///
/// # Errors
/// 400 M_INVALID_PARAM: it names too much; M_BAD_JSON or M_NOT_JSON: it is no filter.
pub fn inline(filter: &RoomEventFilter, json: Option<&str>) -> Result<RelatedBy> {
    json.map(schema::check_room_event_filter).transpose()?;
    let related: RelatedBy = match json.filter(|json| json.contains(RELATED)) {
        Some(json) => serde_json::from_str(json).map_err(|error| Error::unreadable(&error))?,
        None => RelatedBy::default(),
    };
    check_names(names_in_rooms(filter) + related.names())?;
    Ok(related)
}

fn check_names(names: usize) -> Result<()> {
    if names > MOST_NAMES {
        return Err(Error::invalid_param(format!("Filter too large: at most {MOST_NAMES} types, users, rooms and fields are allowed")));
    }
    Ok(())
}

fn names(filter: &Filter) -> usize {
    let allowed = filter.types.as_ref().map_or(0, Vec::len) + filter.senders.as_ref().map_or(0, Vec::len);
    allowed + filter.not_types.len() + filter.not_senders.len()
}

fn names_in_rooms(filter: &RoomEventFilter) -> usize {
    let types = filter.types.as_ref().map_or(0, Vec::len) + filter.not_types.len();
    let senders = filter.senders.as_ref().map_or(0, Vec::len) + filter.not_senders.len();
    types + senders + filter.rooms.as_ref().map_or(0, Vec::len) + filter.not_rooms.len()
}

/// The part of an object that some paths lead to, which are in order; `None` for what is no object.
/// What they lead to stays as it is written.
fn part(object: &RawValue, paths: &[&[String]]) -> Option<Box<RawValue>> {
    let object: BTreeMap<String, Box<RawValue>> = serde_json::from_str(object.get()).ok()?;
    let mut out: BTreeMap<&str, Box<RawValue>> = BTreeMap::new();
    for paths in paths.chunk_by(|one, other| one.first() == other.first()) {
        let Some(first) = paths[0].first() else { continue };
        let Some((name, value)) = object.get_key_value(first) else { continue };
        let rest: Vec<&[String]> = paths.iter().map(|path| &path[1..]).collect();
        // Where a path ends here, there is no other below it.
        let value = if rest[0].is_empty() { Some(value.clone()) } else { part(value, &rest) };
        out.extend(value.map(|value| (name.as_str(), value)));
    }
    serde_json::value::to_raw_value(&out).ok()
}

/// A filter definition.
///
/// # Errors
/// Why it is none.
pub fn parse(json: &str) -> Result<Definition, serde_json::Error> {
    let ours = if json.contains(RELATED) { serde_json::from_str(json)? } else { Ours::default() };
    Ok(Definition { whole: parse_rumas(json)?, ours })
}

fn parse_rumas(json: &str) -> Result<FilterDefinition, serde_json::Error> {
    // What clients call it that see the feature and not the version.
    const PROPOSED: &str = "org.matrix.msc3773.unread_thread_notifications";
    if !json.contains(PROPOSED) {
        return serde_json::from_str(json);
    }
    let mut filter: Value = serde_json::from_str(json)?;
    if let Some(timeline) = filter.pointer_mut("/room/timeline").and_then(Value::as_object_mut)
        && let Some(proposed) = timeline.remove(PROPOSED)
    {
        timeline.entry("unread_thread_notifications").or_insert(proposed);
    }
    serde_json::from_value(filter)
}

impl Homeserver {
    /// The filter that a request names or contains.
    pub(crate) async fn filter(&self, user: UserNid, asked: Option<String>) -> Result<Definition> {
        let Some(asked) = asked else { return Ok(Definition::default()) };
        let filter = if asked.starts_with('{') {
            schema::check_filter(&asked)?;
            parse(&asked).map_err(|error| Error::unreadable(&error))?
        } else {
            let stored = tables::FILTERS.get(self.store(), &(user, asked)).await.leave_out()?.flatten();
            let stored =
                stored.map(|stored| parse(&stored.0).map_err(|error| Damaged::new("a stored filter", error)).leave_out()).transpose()?.flatten();
            // Whose filter is gone uploads it again.
            stored.ok_or_else(|| Error::invalid_param("Filter not found"))?
        };
        check(&filter)?;
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lets_through(filter: Value, event: Value) -> bool {
        let filter: RoomEventFilter = serde_json::from_value(filter).expect("a filter");
        let json = event.to_string();
        let facts = Facts { event_type: event["type"].as_str().expect("a type"), sender: event["sender"].as_str(), json: json.as_bytes() };
        allows_room_event(&filter, ruma::room_id!("!r:x"), facts)
    }

    #[test]
    fn room_event_filters() {
        let message = json!({"type": "m.room.message", "sender": "@a:x", "content": {"body": "url"}});
        let image = json!({"type": "m.room.message", "sender": "@b:x", "content": {"url": "mxc://x/y"}});
        for (filter, of_message, of_image) in [
            (json!({}), true, true),
            (json!({"types": []}), false, false),
            (json!({"types": ["m.room.*"]}), true, true),
            (json!({"types": ["*message"], "not_types": ["m.*"]}), false, false),
            (json!({"senders": ["@a:x"]}), true, false),
            (json!({"senders": ["@a:x", "@b:x"], "not_senders": ["@a:x"]}), false, true),
            (json!({"rooms": []}), false, false),
            (json!({"rooms": ["!r:x"]}), true, true),
            (json!({"not_rooms": ["!r:x"]}), false, false),
            (json!({"contains_url": true}), false, true),
            (json!({"contains_url": false}), true, false),
        ] {
            assert_eq!(lets_through(filter.clone(), message.clone()), of_message, "{filter}");
            assert_eq!(lets_through(filter.clone(), image.clone()), of_image, "{filter}");
        }
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, expected) in [
            ("m.room.message", "m.room.message", true),
            ("m.room.message", "m.room.messages", false),
            ("*", "", true),
            ("m.*.x", "m.y.x", true),
            ("m.*.x", "m.x", false),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2b3", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn fields_are_named_with_dots() {
        let event =
            serde_json::value::to_raw_value(&json!({"type": "t", "content": {"body": "b", "a.b": 1, "c": {"d": 2, "e": 3}}, "sender": "@a:x"}))
                .expect("JSON");
        let fields = ["type", "content.body", r"content.a\.b", "content.c.d", "content.body.deeper", "none"].map(str::to_owned);
        let out = |fields: &[String]| serde_json::from_str::<Value>(Fields::named(fields).of(&event).expect("an object").get()).expect("JSON");
        assert_eq!(out(&fields), json!({"type": "t", "content": {"body": "b", "a.b": 1, "c": {"d": 2}}}));
        let nested = ["content.c.d", "content.c", "content.c", "content.c.e"].map(str::to_owned);
        let expected = json!({"content": {"c": {"d": 2, "e": 3}}});
        assert_eq!((out(&nested), Fields::named(&nested).0.len()), (expected, 1));
    }
}
