//! Room aliases of this server (Client-Server API, "Room aliases").

use super::answered;
use crate::{
    aliases::{self, Refused},
    error::{Error, Result},
    failure::Failure,
    router::{Call, UserCall},
    transaction::Tx,
};
use ruma::api::client::{
    alias::{create_alias, delete_alias, get_alias},
    room::aliases as room_aliases,
};

/// `PUT /directory/room/{alias}`
pub async fn create(call: UserCall, request: create_alias::v3::Request) -> Result<create_alias::v3::Response> {
    aliases::create(&call.hs, call.raw.generation, call.session.user, &request.room_alias, &request.room_id).await?;
    Ok(create_alias::v3::Response::new())
}

/// `GET /directory/room/{alias}`
pub async fn get(call: Call, request: get_alias::v3::Request) -> Result<get_alias::v3::Response> {
    let (room, servers) = aliases::resolved(&call.hs, &request.room_alias).await?;
    Ok(get_alias::v3::Response::new(room, servers))
}

/// `DELETE /directory/room/{alias}`
pub async fn delete(call: UserCall, request: delete_alias::v3::Request) -> Result<delete_alias::v3::Response> {
    let remember = |tx: &mut Tx| answered::remember(&call, tx, None);
    match aliases::delete(&call.hs, call.raw.generation, &call.session, &request.room_alias, &remember).await {
        Err(Failure::Refused(Refused::NotFound(_))) if answered::is_repeated(&call).await? => {}
        deleted => deleted?,
    }
    Ok(delete_alias::v3::Response::new())
}

/// `GET /rooms/{roomId}/aliases`: for members, and for everybody where the history is world
/// readable.
pub async fn of_room(call: UserCall, request: room_aliases::v3::Request) -> Result<room_aliases::v3::Response> {
    let hs = &call.hs;
    let (room, until) = hs.readable(call.requester(), &request.room_id).await?;
    if until.is_some() {
        return Err(Error::forbidden("You are no longer in this room"));
    }
    Ok(room_aliases::v3::Response::new(aliases::of_room(hs, room.nid).await?))
}
