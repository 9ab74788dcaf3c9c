//! Account data, of the account and of rooms (Client-Server API, Client Config), and tags, which
//! are account data of type `m.tag` (Room Tagging).

use crate::{
    account_data::{GLOBAL, put},
    client::receipts::FULLY_READ,
    damaged::Damaged,
    error::{Error, Result},
    homeserver::Homeserver,
    locks::LockKey,
    push::{PUSH_RULES, user_rules},
    router::UserCall,
    tables::{self, Json, RoomNid},
};
use async_lock::MutexGuardArc;
use http::StatusCode;
use ruma::{
    RoomId, UserId,
    api::{
        client::{
            config::{
                get_global_account_data::v3 as get_global, get_room_account_data::v3 as get_room, set_global_account_data::v3 as set_global,
                set_room_account_data::v3 as set_room,
            },
            tag::{create_tag::v3 as create_tag, delete_tag::v3 as delete_tag, get_tags::v3 as get_tags},
        },
        error::ErrorKind,
    },
    events::tag::{TagEventContent, TagName, Tags},
    serde::Raw,
};
use serde_json::value::RawValue;

/// Bytes of one piece of account data.
const LARGEST: usize = 1 << 20;

/// Bytes of a type or a tag: account data is handled as events are.
const LONGEST_TYPE: usize = 255;

/// The type that tags are kept as.
const TAGS: &str = "m.tag";

/// `GET /_matrix/client/v3/user/{userId}/account_data/{type}`
pub async fn get_global(call: UserCall, request: get_global::Request) -> Result<get_global::Response> {
    own(&call, &request.user_id)?;
    Ok(get_global::Response::new(Raw::from_json(read(&call, GLOBAL, request.event_type.to_string()).await?)))
}

/// `GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
pub async fn get_room(call: UserCall, request: get_room::Request) -> Result<get_room::Response> {
    own(&call, &request.user_id)?;
    let room = room(&call.hs, &request.room_id).await?;
    Ok(get_room::Response::new(Raw::from_json(read(&call, room, request.event_type.to_string()).await?)))
}

/// `PUT /_matrix/client/v3/user/{userId}/account_data/{type}`
pub async fn set_global(call: UserCall, request: set_global::Request) -> Result<set_global::Response> {
    own(&call, &request.user_id)?;
    write(&call, GLOBAL, request.event_type.to_string(), request.data.json())?;
    Ok(set_global::Response::new())
}

/// `PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
pub async fn set_room(call: UserCall, request: set_room::Request) -> Result<set_room::Response> {
    own(&call, &request.user_id)?;
    // Tags are read and written as one; nobody else's change of them may fall between.
    let _lock = call.hs.lock(LockKey::Account(call.session.user_id.to_string())).await;
    let (room, _room_lock) = kept_room(&call.hs, &request.room_id).await?;
    write(&call, room, request.event_type.to_string(), request.data.json())?;
    Ok(set_room::Response::new())
}

/// `GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags`
pub async fn tags(call: UserCall, request: get_tags::Request) -> Result<get_tags::Response> {
    own(&call, &request.user_id)?;
    let room = room(&call.hs, &request.room_id).await?;
    Ok(get_tags::Response::new(tags_of(&call, room).await?))
}

/// `PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}`
pub async fn set_tag(call: UserCall, request: create_tag::Request) -> Result<create_tag::Response> {
    own(&call, &request.user_id)?;
    if request.tag.is_empty() || request.tag.len() > LONGEST_TYPE {
        return Err(Error::invalid_param(format!("A tag must have 1 to {LONGEST_TYPE} bytes")));
    }
    change_tags(&call, &request.room_id, |tags| {
        tags.insert(TagName::from(request.tag), request.tag_info);
    })
    .await?;
    Ok(create_tag::Response::new())
}

/// `DELETE /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}`
pub async fn delete_tag(call: UserCall, request: delete_tag::Request) -> Result<delete_tag::Response> {
    own(&call, &request.user_id)?;
    change_tags(&call, &request.room_id, |tags| {
        tags.remove(&TagName::from(request.tag));
    })
    .await?;
    Ok(delete_tag::Response::new())
}

async fn change_tags(call: &UserCall, room_id: &RoomId, change: impl FnOnce(&mut Tags)) -> Result<()> {
    let hs = &call.hs;
    let _lock = hs.lock(LockKey::Account(call.session.user_id.to_string())).await;
    let (room, _room_lock) = kept_room(hs, room_id).await?;
    let mut tags = tags_of(call, room).await?;
    let before = tags.len();
    change(&mut tags);
    let grows = tags.len() > before;
    let content = serde_json::to_string(&TagEventContent::new(tags)).map_err(|error| Error::bad_json(error.to_string()))?;
    if grows && content.len() > LARGEST {
        return Err(Error::too_large(format!("Too many tags for this room: at most {LARGEST} bytes are allowed")));
    }
    put_own(call, room, TAGS.to_owned(), Json(content))
}

/// A client may have written tags of its own making as account data: what are none is dropped.
async fn tags_of(call: &UserCall, room: RoomNid) -> Result<Tags> {
    let stored = tables::ACCOUNT_DATA.get(call.hs.store(), &(call.session.user, room, TAGS.to_owned())).await?;
    let content = stored.and_then(|stored| serde_json::from_str::<TagEventContent>(&stored.content.0).ok());
    Ok(content.map(|content| content.tags).unwrap_or_default())
}

fn own(call: &UserCall, user: &UserId) -> Result<()> {
    if user == call.session.user_id { Ok(()) } else { Err(Error::forbidden("You can only access your own account data")) }
}

async fn room(hs: &Homeserver, id: &RoomId) -> Result<RoomNid> {
    Ok(hs.room(id).await?.ok_or_else(|| Error::not_found("Room not found"))?.nid)
}

/// A room, and the lock that keeps it: what is written before that is free goes with the room when
/// everybody has forgotten it.
async fn kept_room(hs: &Homeserver, id: &RoomId) -> Result<(RoomNid, MutexGuardArc<()>)> {
    let lock = hs.lock(LockKey::Room(room(hs, id).await?)).await;
    // It may have gone while the lock was waited for.
    Ok((room(hs, id).await?, lock))
}

async fn read(call: &UserCall, room: RoomNid, kind: String) -> Result<Box<RawValue>> {
    let is_push_rules = room == GLOBAL && kind == PUSH_RULES;
    let stored = tables::ACCOUNT_DATA.get(call.hs.store(), &(call.session.user, room, kind)).await?;
    let mut content = stored.ok_or_else(|| Error::not_found("Account data not found"))?.content;
    if is_push_rules {
        content = user_rules::up_to_date(&content, &call.session.user_id);
    }
    Ok(RawValue::from_string(content.0).map_err(|error| Damaged::new(format!("account data of {}", call.session.user_id), error))?)
}

fn write(call: &UserCall, room: RoomNid, kind: String, content: &RawValue) -> Result<()> {
    // "Servers MUST reject setting account data for event types that the server manages."
    if kind == FULLY_READ || kind == PUSH_RULES {
        return Err(Error::new(StatusCode::METHOD_NOT_ALLOWED, ErrorKind::BadJson, format!("Cannot set {kind} through this API")));
    }
    if kind.len() > LONGEST_TYPE {
        return Err(Error::invalid_param(format!("Type too long: at most {LONGEST_TYPE} bytes are allowed")));
    }
    if content.get().len() > LARGEST {
        return Err(Error::too_large(format!("Account data too large: at most {LARGEST} bytes are allowed")));
    }
    if !content.get().trim_start().starts_with('{') {
        return Err(Error::bad_json("Account data must be a JSON object"));
    }
    put_own(call, room, kind, Json(content.get().to_owned()))
}

fn put_own(call: &UserCall, room: RoomNid, kind: String, content: Json) -> Result<()> {
    call.hs.write(call.raw.generation, |tx| put(tx, call.session.user, room, kind, content))?.visible();
    Ok(())
}
