//! Room aliases of this server (Client-Server API, "Room aliases").

use super::transaction;
use crate::{
    error::{Error, Result},
    homeserver::Homeserver,
    locks::LockKey,
    room::{self, Draft, Stop, Write},
    router::{Call, UserCall},
    tables::{self, Alias, RoomNid, UserNid},
    time_slice::TimeSlice,
    transaction::Tx,
};
use ephapse_events::JsonObject;
use ephapse_store::Direction;
use http::StatusCode;
use ruma::{
    CanonicalJsonValue, OwnedRoomAliasId, RoomAliasId,
    api::{
        client::{
            alias::{create_alias, delete_alias, get_alias},
            room::aliases,
        },
        error::ErrorKind,
    },
    events::StateEventType,
};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// How many aliases of a room are listed at most.
const LISTED: usize = 1000;

/// An alias of this server.
pub fn local_alias(hs: &Homeserver, localpart: &str) -> Result<OwnedRoomAliasId> {
    let alias = format!("#{localpart}:{}", hs.server_name());
    if localpart.is_empty() || localpart.contains(|c: char| c == ':' || c.is_whitespace() || c == '\0') {
        return Err(Error::invalid_param(format!("{alias} is not a valid room alias")));
    }
    OwnedRoomAliasId::try_from(alias).map_err(|error| Error::invalid_param(error.to_string()))
}

/// Makes `alias` lead to a room.
pub fn put(tx: &mut Tx, alias: &RoomAliasId, room: RoomNid, creator: UserNid) {
    tables::ALIASES.put(tx, &alias.to_owned(), &Alias { room, creator });
    tables::ROOM_ALIASES.put(tx, &(room, alias.to_owned()), &());
}

fn must_be_local(hs: &Homeserver, alias: &RoomAliasId) -> Result<()> {
    if alias.server_name() == hs.server_name() { Ok(()) } else { Err(Error::invalid_param(format!("{alias} is not an alias of this server"))) }
}

/// `PUT /directory/room/{alias}`
pub async fn create(call: UserCall, request: create_alias::v3::Request) -> Result<create_alias::v3::Response> {
    let hs = &call.hs;
    must_be_local(hs, &request.room_alias)?;
    local_alias(hs, request.room_alias.alias())?;
    let room = hs.room(&request.room_id).await?.ok_or_else(|| Error::not_found("Room not found"))?;
    let _lock = hs.lock(LockKey::Alias(request.room_alias.to_string())).await;
    match tables::ALIASES.get(hs.store(), &request.room_alias).await? {
        None => {}
        // Whoever has not heard the answer asks again.
        Some(known) if known.room == room.nid && known.creator == call.session.user => return Ok(create_alias::v3::Response::new()),
        Some(_) => return Err(Error::new(StatusCode::CONFLICT, ErrorKind::Unknown, format!("Room alias {} already exists", request.room_alias))),
    }
    let made = hs.write(call.raw.generation, |tx| put(tx, &request.room_alias, room.nid, call.session.user));
    made?.visible();
    Ok(create_alias::v3::Response::new())
}

/// `GET /directory/room/{alias}`
pub async fn get(call: Call, request: get_alias::v3::Request) -> Result<get_alias::v3::Response> {
    let hs = &call.hs;
    let alias = tables::ALIASES.get(hs.store(), &request.room_alias).await?;
    let alias = alias.ok_or_else(|| Error::not_found(format!("Room alias {} not found", request.room_alias)))?;
    let room = hs.room_by_nid(alias.room).await?;
    Ok(get_alias::v3::Response::new(room.id.clone(), vec![hs.server_name().to_owned()]))
}

/// `DELETE /directory/room/{alias}`: its maker may, and whoever may change the room's main alias.
pub async fn delete(call: UserCall, request: delete_alias::v3::Request) -> Result<delete_alias::v3::Response> {
    let hs = &call.hs;
    must_be_local(hs, &request.room_alias)?;
    let _lock = hs.lock(LockKey::Alias(request.room_alias.to_string())).await;
    let Some(alias) = tables::ALIASES.get(hs.store(), &request.room_alias).await? else {
        return match transaction::is_repeated(&call).await? {
            true => Ok(delete_alias::v3::Response::new()),
            false => Err(Error::not_found(format!("Room alias {} not found", request.room_alias))),
        };
    };
    let room = hs.room_by_nid(alias.room).await?;
    if alias.creator != call.session.user && !hs.may_send_state(&room, &call.session.user_id, StateEventType::RoomCanonicalAlias).await? {
        return Err(Error::forbidden(format!("You don't have permission to delete the alias {}", request.room_alias)));
    }
    let delete = |write: &mut Write<'_>| {
        tables::ALIASES.delete(write.tx, &request.room_alias);
        tables::ROOM_ALIASES.delete(write.tx, &(room.nid, request.room_alias.clone()));
        transaction::remember(&call, write.tx, None);
        let Some(content) = without(write, &request.room_alias)? else { return Ok(()) };
        match write.send(Draft::state(call.session.user_id.clone(), StateEventType::RoomCanonicalAlias, "", content)) {
            // "Delete the alias and return a successful response even if the user does not have
            // permission to update the m.room.canonical_alias event."
            Ok(_) | Err(Stop::Refused(room::Error::Refused(_))) => Ok(()),
            Err(stop) => Err(stop),
        }
    };
    hs.write_room(&room, call.raw.generation, delete).await?;
    Ok(delete_alias::v3::Response::new())
}

/// The aliases that an `m.room.canonical_alias` event names, each once.
pub fn named(content: &str) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Content {
        alias: Option<String>,
        #[serde(default)]
        alt_aliases: Vec<String>,
    }
    let content: Content = serde_json::from_str(content).map_err(|error| Error::unreadable(&error))?;
    Ok(content.alias.into_iter().chain(content.alt_aliases).filter(|alias| !alias.is_empty()).collect())
}

/// Those of `aliases` that a room's event cannot name anew, each with the reason.
pub async fn unfit(hs: &Homeserver, room: RoomNid, aliases: BTreeSet<String>) -> Result<BTreeMap<String, Error>> {
    let slice = TimeSlice::new(&*hs.host);
    let mut unfit = BTreeMap::new();
    for alias in aliases {
        match OwnedRoomAliasId::try_from(alias.as_str()) {
            Err(error) => {
                unfit.insert(alias, Error::invalid_param(error.to_string()));
            }
            Ok(id) if tables::ALIASES.get(hs.store(), &id).await?.is_none_or(|found| found.room != room) => {
                let error = leads_elsewhere(&alias);
                unfit.insert(alias, error);
            }
            Ok(_) => {}
        }
        slice.step().await;
    }
    Ok(unfit)
}

/// 400 M_BAD_ALIAS: "one or more aliases within the `m.room.canonical_alias` event do not point to
/// the room".
pub fn leads_elsewhere(alias: &str) -> Error {
    Error::new(StatusCode::BAD_REQUEST, ErrorKind::BadAlias, format!("Room alias {alias} does not point to this room"))
}

/// Refuses what the room's event does not name already: "Servers do not validate aliases which are
/// being removed or are already present in the state event".
pub fn are_there_already(write: &Write<'_>, unfit: &mut BTreeMap<String, Error>) -> Result<(), Stop<Error>> {
    if unfit.is_empty() {
        return Ok(());
    }
    let place = (StateEventType::RoomCanonicalAlias, String::new());
    let current = match write.state_get(write.state(), &[place])?.first().copied().flatten() {
        Some(position) => named(write.event(position)?.pdu.content.get()).unwrap_or_default(),
        None => BTreeSet::new(),
    };
    let new = unfit.keys().find(|alias| !current.contains(*alias)).cloned();
    match new.and_then(|alias| unfit.remove(&alias)) {
        Some(error) => Err(Stop::Refused(error)),
        None => Ok(()),
    }
}

/// The room's `m.room.canonical_alias` without an alias, if it names it.
fn without(write: &Write<'_>, alias: &RoomAliasId) -> Result<Option<JsonObject>, Stop> {
    let place = (StateEventType::RoomCanonicalAlias, String::new());
    let Some(position) = write.state_get(write.state(), &[place])?.first().copied().flatten() else { return Ok(None) };
    let event = write.event(position)?;
    let Ok(before) = event.pdu.content_object(&write.room.rules) else { return Ok(None) };
    let is_it = |value: &CanonicalJsonValue| value.as_str() == Some(alias.as_str());
    let mut content = before.clone();
    content.retain(|key, value| key != "alias" || !is_it(value));
    if let Some(CanonicalJsonValue::Array(others)) = content.get_mut("alt_aliases") {
        others.retain(|other| !is_it(other));
    }
    Ok((content != before).then_some(content))
}

/// `GET /rooms/{roomId}/aliases`: for members, and for everybody where the history is world
/// readable.
pub async fn of_room(call: UserCall, request: aliases::v3::Request) -> Result<aliases::v3::Response> {
    let hs = &call.hs;
    let (room, until) = super::state::readable(hs, &call.session, &request.room_id).await?;
    if until.is_some() {
        return Err(Error::forbidden("You are no longer in this room"));
    }
    let found = tables::ROOM_ALIASES.scan(hs.store(), &room.nid, Direction::Forward, LISTED).await?;
    Ok(aliases::v3::Response::new(found.into_iter().map(|((_, alias), ())| alias).collect()))
}
