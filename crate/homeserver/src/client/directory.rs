//! The directory of published rooms (Client-Server API, "Published room directory").

use super::wire::{Json, Own, SetVisibility};
use crate::{
    directory::{self, Wanted},
    error::{Error, Result},
    homeserver::Homeserver,
    router::{Call, UserCall},
};
use ruma::{
    ServerName,
    api::client::{
        directory::{
            get_public_rooms::v3 as get_public_rooms, get_public_rooms_filtered::v3 as get_public_rooms_filtered,
            get_room_visibility::v3 as get_room_visibility, set_room_visibility::v3 as set_room_visibility,
        },
        room::Visibility,
    },
};

/// `GET /publicRooms`
pub async fn rooms(call: Call, Own(request): Own<get_public_rooms::Request>) -> Result<Json> {
    let wanted = Wanted { limit: request.limit.map(u64::from), since: request.since, ..Wanted::default() };
    of_server(&call.hs, request.server.as_deref(), &wanted).await
}

/// `POST /publicRooms`
pub async fn filtered_rooms(call: UserCall, Own(request): Own<get_public_rooms_filtered::Request>) -> Result<Json> {
    let wanted = Wanted::filtered(request.limit, request.since, request.filter, &request.room_network);
    of_server(&call.hs, request.server.as_deref(), &wanted).await
}

/// The rooms that a server publishes.
async fn of_server(hs: &Homeserver, server: Option<&ServerName>, wanted: &Wanted) -> Result<Json> {
    let page = match server.filter(|server| *server != hs.server_name()) {
        // Of networks that it has bridges to, nothing is known here.
        Some(other) => directory::page_of(hs, other, wanted).await?,
        None => directory::page(hs, wanted).await?,
    };
    Ok(Json::of(&page))
}

/// `GET /directory/list/room/{roomId}`
pub async fn visibility(call: Call, request: get_room_visibility::Request) -> Result<get_room_visibility::Response> {
    let is_published = directory::is_published(&call.hs, &request.room_id).await?;
    Ok(get_room_visibility::Response::new(if is_published { Visibility::Public } else { Visibility::Private }))
}

/// `PUT /directory/list/room/{roomId}`
pub async fn set_visibility(call: UserCall, SetVisibility(request): SetVisibility) -> Result<set_room_visibility::Response> {
    let published = match request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        other => return Err(Error::invalid_param(format!("Invalid visibility: {other}"))),
    };
    directory::publish(&call.hs, call.raw.generation, &call.session, &request.room_id, published).await?;
    Ok(set_room_visibility::Response::new())
}
