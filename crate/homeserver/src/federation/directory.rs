//! The directory of published rooms, for other servers (Server-Server API, "Published room
//! directory"): whoever publishes a room means everybody.

use crate::{
    directory::{self, Wanted},
    error::Result,
    json_answer::{Json, Own},
    router::PeerCall,
};
use ruma::{
    api::federation::directory::{get_public_rooms::v1 as get_public_rooms, get_public_rooms_filtered::v1 as get_public_rooms_filtered},
    directory::RoomNetwork,
};

/// `GET /_matrix/federation/v1/publicRooms`
pub async fn rooms(call: PeerCall, Own(request): Own<get_public_rooms::Request>) -> Result<Json> {
    let wanted = Wanted {
        limit: request.limit.map(u64::from),
        since: request.since,
        is_elsewhere: matches!(request.room_network, RoomNetwork::ThirdParty(_)),
        ..Wanted::default()
    };
    Ok(Json::of(&directory::page(&call.hs, &wanted).await?))
}

/// `POST /_matrix/federation/v1/publicRooms`
pub async fn filtered_rooms(call: PeerCall, Own(request): Own<get_public_rooms_filtered::Request>) -> Result<Json> {
    let wanted = Wanted::filtered(request.limit, request.since, request.filter, &request.room_network);
    Ok(Json::of(&directory::page(&call.hs, &wanted).await?))
}
