//! Room aliases of this server (Client-Server API, "Room aliases").

use crate::{
    error::{Error, Result},
    homeserver::Homeserver,
    locks::LockKey,
    router::{Call, UserCall},
    tables::{self, Alias, RoomSn, UserSn},
};
use ephapse_store::{Batch, Direction};
use http::StatusCode;
use ruma::{
    OwnedRoomAliasId, RoomAliasId,
    api::{
        client::{
            alias::{create_alias, delete_alias, get_alias},
            room::aliases,
        },
        error::ErrorKind,
    },
    events::StateEventType,
};

/// How many aliases of a room are listed at most.
const LISTED: usize = 1000;

/// An alias of this server.
pub fn local_alias(hs: &Homeserver, localpart: &str) -> Result<OwnedRoomAliasId> {
    let alias = format!("#{localpart}:{}", hs.server_name());
    if localpart.is_empty() || localpart.contains(|c: char| c == ':' || c.is_whitespace() || c == '\0') {
        return Err(Error::invalid_param(format!("{alias} is not a room alias")));
    }
    OwnedRoomAliasId::try_from(alias).map_err(|error| Error::invalid_param(error.to_string()))
}

/// Makes `alias` lead to a room.
pub fn put(batch: &mut Batch, alias: &RoomAliasId, room: RoomSn, creator: UserSn) {
    tables::ALIASES.put(batch, &alias.to_owned(), &Alias { room, creator });
    tables::ROOM_ALIASES.put(batch, &(room, alias.to_owned()), &());
}

fn must_be_local(hs: &Homeserver, alias: &RoomAliasId) -> Result<()> {
    if alias.server_name() == hs.server_name() { Ok(()) } else { Err(Error::invalid_param(format!("{alias} is not an alias of this server"))) }
}

/// `PUT /directory/room/{alias}`
pub async fn create(call: UserCall, request: create_alias::v3::Request) -> Result<create_alias::v3::Response> {
    let hs = &call.hs;
    must_be_local(hs, &request.room_alias)?;
    let room = hs.room(&request.room_id).await?.ok_or_else(|| Error::not_found("no such room"))?;
    let _lock = hs.lock(LockKey::Alias(request.room_alias.to_string())).await;
    if tables::ALIASES.get(hs.store(), &request.room_alias).await?.is_some() {
        return Err(Error::new(StatusCode::CONFLICT, ErrorKind::Unknown, format!("{} leads to another room", request.room_alias)));
    }
    let mut batch = Batch::since(call.raw.generation);
    put(&mut batch, &request.room_alias, room.sn, call.session.user);
    hs.submit(batch, Vec::new())?.durable().await?;
    Ok(create_alias::v3::Response::new())
}

/// `GET /directory/room/{alias}`
pub async fn get(call: Call, request: get_alias::v3::Request) -> Result<get_alias::v3::Response> {
    let hs = &call.hs;
    let alias = tables::ALIASES.get(hs.store(), &request.room_alias).await?;
    let alias = alias.ok_or_else(|| Error::not_found(format!("{} leads nowhere", request.room_alias)))?;
    let room = hs.room_by_sn(alias.room).await?;
    Ok(get_alias::v3::Response::new(room.id.clone(), vec![hs.server_name().to_owned()]))
}

/// `DELETE /directory/room/{alias}`: its maker may, and whoever may change the room's main alias.
pub async fn delete(call: UserCall, request: delete_alias::v3::Request) -> Result<delete_alias::v3::Response> {
    let hs = &call.hs;
    must_be_local(hs, &request.room_alias)?;
    let _lock = hs.lock(LockKey::Alias(request.room_alias.to_string())).await;
    let alias = tables::ALIASES.get(hs.store(), &request.room_alias).await?;
    let alias = alias.ok_or_else(|| Error::not_found(format!("{} leads nowhere", request.room_alias)))?;
    if alias.creator != call.session.user {
        let room = hs.room_by_sn(alias.room).await?;
        if !hs.may_send_state(&room, &call.session.user_id, StateEventType::RoomCanonicalAlias).await? {
            return Err(Error::forbidden(format!("{} was made by somebody else", request.room_alias)));
        }
    }
    let mut batch = Batch::since(call.raw.generation);
    tables::ALIASES.delete(&mut batch, &request.room_alias);
    tables::ROOM_ALIASES.delete(&mut batch, &(alias.room, request.room_alias.clone()));
    hs.submit(batch, Vec::new())?.durable().await?;
    Ok(delete_alias::v3::Response::new())
}

/// `GET /rooms/{roomId}/aliases`: for members, and for everybody where the history is world readable.
pub async fn of_room(call: UserCall, request: aliases::v3::Request) -> Result<aliases::v3::Response> {
    let hs = &call.hs;
    let (room, _) = super::state::readable_state(hs, &call.session, &request.room_id).await?;
    let found = tables::ROOM_ALIASES.scan(hs.store(), &room.sn, Direction::Forward, LISTED).await?;
    Ok(aliases::v3::Response::new(found.into_iter().map(|((_, alias), ())| alias).collect()))
}
