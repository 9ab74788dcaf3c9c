//! Room aliases of this server: where they lead, who made them, and what a room's
//! `m.room.canonical_alias` may say of them.

use crate::{
    failure::{Failure, Refusal},
    federation::refused as remote,
    homeserver::Homeserver,
    locks::LockKey,
    room::{self, Draft, RoomInfo, Stop, Write},
    tables::{self, Alias, RoomNid, Session, UserNid},
    time_slice::TimeSlice,
    transaction::Tx,
};
use ephapse_events::{Inserted, JsonObject};
use ephapse_store::{Direction, StoreError};
use ruma::{CanonicalJsonValue, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, events::StateEventType};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

/// How many aliases of a room are listed at most.
const LISTED: usize = 1000;
/// How many servers are named by which a room can be joined.
const SERVERS: usize = 100;

/// What is refused of an alias, and why.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It has not the form of an alias, or of one of this server.
    #[error("{0} is not a valid room alias")]
    Invalid(String),
    /// The same, with what is wrong.
    #[error("{0}")]
    Malformed(#[from] ruma::IdParseError),
    /// It is another server's to make and delete.
    #[error("{0} is not an alias of this server")]
    OfAnotherServer(OwnedRoomAliasId),
    /// The room that it should lead to.
    #[error("Room not found")]
    NoSuchRoom,
    /// It leads to a room already.
    #[error("Room alias {0} already exists")]
    Exists(OwnedRoomAliasId),
    /// It leads to no room.
    #[error("Room alias {0} not found")]
    NotFound(OwnedRoomAliasId),
    /// Somebody else made it, and has a say in it.
    #[error("You don't have permission to delete the alias {0}")]
    NotYours(OwnedRoomAliasId),
    /// What a room's event names does not lead to that room.
    #[error("Room alias {0} does not point to this room")]
    LeadsElsewhere(String),
    /// By the room.
    #[error(transparent)]
    Room(room::Refused),
    /// By the server whose alias it is.
    #[error(transparent)]
    Remote(remote::Refused),
}

/// Why something is not done with an alias.
pub type Error = Failure<Refused>;
type Result<T, E = Error> = std::result::Result<T, E>;

impl Refusal for Refused {}

impl From<room::Error> for Error {
    fn from(error: room::Error) -> Self {
        error.map(Refused::Room)
    }
}

/// An alias of this server.
pub fn local_alias(hs: &Homeserver, localpart: &str) -> Result<OwnedRoomAliasId, Refused> {
    let alias = format!("#{localpart}:{}", hs.server_name());
    if localpart.is_empty() || localpart.contains(|c: char| c == ':' || c.is_whitespace() || c == '\0') {
        return Err(Refused::Invalid(alias));
    }
    Ok(OwnedRoomAliasId::try_from(alias)?)
}

/// Makes `alias` lead to a room.
pub fn put(tx: &mut Tx, alias: &RoomAliasId, room: RoomNid, creator: UserNid) {
    tables::ALIASES.put(tx, &alias.to_owned(), &Alias { room, creator });
    tables::ROOM_ALIASES.put(tx, &(room, alias.to_owned()), &());
}

fn must_be_local(hs: &Homeserver, alias: &RoomAliasId) -> Result<(), Refused> {
    if alias.server_name() == hs.server_name() { Ok(()) } else { Err(Refused::OfAnotherServer(alias.to_owned())) }
}

/// The room that an alias leads to.
pub async fn room_of(hs: &Homeserver, alias: &RoomAliasId) -> room::Result<Option<Rc<RoomInfo>>> {
    match tables::ALIASES.get(hs.store(), &alias.to_owned()).await? {
        Some(alias) => hs.room_by_nid(alias.room).await.map(Some),
        None => Ok(None),
    }
}

/// Where an alias leads, this server's or another's, and servers that are in the room.
pub async fn resolved(hs: &Homeserver, alias: &RoomAliasId) -> Result<(OwnedRoomId, Vec<OwnedServerName>)> {
    if alias.server_name() == hs.server_name() {
        let room = room_of(hs, alias).await?.ok_or_else(|| Refused::NotFound(alias.to_owned()))?;
        return Ok((room.id.clone(), servers(hs, room.nid).await?));
    }
    match hs.alias_of_others(alias).await {
        Ok(found) => Ok((found.room_id, found.servers.into_iter().take(SERVERS).collect())),
        Err(Failure::Refused(refused)) if refused.is_alone() => Err(Refused::NotFound(alias.to_owned()).into()),
        Err(error) => Err(error.map(Refused::Remote)),
    }
}

/// Servers that are in a room, this one first: by one of them it can be joined.
pub async fn servers(hs: &Homeserver, room: RoomNid) -> room::Result<Vec<OwnedServerName>> {
    let others = hs.servers_in(room).await?;
    Ok([hs.server_name().to_owned()].into_iter().chain(others.keys().take(SERVERS).cloned()).collect())
}

/// Makes an alias, unless `creator` has made it before: who has not heard the answer asks again.
pub async fn create(hs: &Homeserver, generation: u64, creator: UserNid, alias: &RoomAliasId, room: &RoomId) -> Result<()> {
    must_be_local(hs, alias)?;
    local_alias(hs, alias.alias())?;
    let room = hs.room(room).await?.ok_or(Refused::NoSuchRoom)?;
    let _lock = hs.lock(LockKey::Alias(alias.to_string())).await;
    match tables::ALIASES.get(hs.store(), &alias.to_owned()).await? {
        None => {}
        Some(known) if known.room == room.nid && known.creator == creator => return Ok(()),
        Some(_) => return Err(Refused::Exists(alias.to_owned()).into()),
    }
    hs.write(generation, |tx| put(tx, alias, room.nid, creator))?.visible();
    Ok(())
}

/// Deletes an alias: its maker may, and whoever may change the room's main alias. What `beside`
/// stages is written with it.
pub async fn delete(hs: &Homeserver, generation: u64, session: &Session, alias: &RoomAliasId, beside: &dyn Fn(&mut Tx)) -> Result<()> {
    must_be_local(hs, alias)?;
    let alias = alias.to_owned();
    let _lock = hs.lock(LockKey::Alias(alias.to_string())).await;
    let known = tables::ALIASES.get(hs.store(), &alias).await?.ok_or_else(|| Refused::NotFound(alias.clone()))?;
    let room = hs.room_by_nid(known.room).await?;
    if known.creator != session.user && !hs.may_send_state(&room, &session.user_id, StateEventType::RoomCanonicalAlias).await? {
        return Err(Refused::NotYours(alias).into());
    }
    let delete = |write: &mut Write<'_>| {
        tables::ALIASES.delete(write.tx, &alias);
        tables::ROOM_ALIASES.delete(write.tx, &(room.nid, alias.clone()));
        beside(write.tx);
        let Some(content) = without(write, &alias)? else { return Ok(()) };
        match write.send(Draft::state(session.user_id.clone(), StateEventType::RoomCanonicalAlias, "", content)) {
            // "Delete the alias and return a successful response even if the user does not have
            // permission to update the m.room.canonical_alias event."
            Ok(_) | Err(Stop::Refused(room::Error::Refused(_))) => Ok(()),
            Err(stop) => Err(stop),
        }
    };
    Ok(hs.write_room(&room, generation, delete).await?)
}

/// The aliases that an `m.room.canonical_alias` event names, each once.
pub fn named(content: &str) -> serde_json::Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Content {
        alias: Option<String>,
        #[serde(default)]
        alt_aliases: Vec<String>,
    }
    let content: Content = serde_json::from_str(content)?;
    Ok(content.alias.into_iter().chain(content.alt_aliases).filter(|alias| !alias.is_empty()).inserted())
}

/// Those of `aliases` that a room's event cannot name anew, each with the reason.
pub async fn unfit(hs: &Homeserver, room: RoomNid, aliases: BTreeSet<String>) -> Result<BTreeMap<String, Refused>, StoreError> {
    let slice = TimeSlice::new(&*hs.host);
    let mut unfit = BTreeMap::new();
    for alias in aliases {
        let refused = match OwnedRoomAliasId::try_from(alias.as_str()) {
            Err(error) => Some(Refused::from(error)),
            Ok(id) if tables::ALIASES.get(hs.store(), &id).await?.is_none_or(|found| found.room != room) => {
                Some(Refused::LeadsElsewhere(alias.clone()))
            }
            Ok(_) => None,
        };
        unfit.extend(refused.map(|refused| (alias, refused)));
        slice.step().await;
    }
    Ok(unfit)
}

/// Takes out of `unfit` why an event is refused that names these aliases: the first that the room's
/// event does not name already. "Servers do not validate aliases which are being removed or are
/// already present in the state event".
pub fn take_refused(write: &Write<'_>, unfit: &mut BTreeMap<String, Refused>) -> Result<Option<Refused>, Stop> {
    if unfit.is_empty() {
        return Ok(None);
    }
    let place = (StateEventType::RoomCanonicalAlias, String::new());
    let current = match write.state_get(write.state(), &[place])?.first().copied().flatten() {
        Some(position) => named(write.event(position)?.pdu.content.get()).unwrap_or_default(),
        None => BTreeSet::new(),
    };
    let new = unfit.keys().find(|alias| !current.contains(*alias)).cloned();
    Ok(new.and_then(|alias| unfit.remove(&alias)))
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

/// The aliases that lead to a room.
pub async fn of_room(hs: &Homeserver, room: RoomNid) -> Result<Vec<OwnedRoomAliasId>, StoreError> {
    let found = tables::ROOM_ALIASES.scan(hs.store(), &room, Direction::Forward, LISTED).await?;
    Ok(found.into_iter().map(|((_, alias), ())| alias).collect())
}
