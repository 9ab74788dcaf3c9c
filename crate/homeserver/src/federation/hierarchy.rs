//! Spaces, for other servers (Server-Server API, "Spaces").

use crate::{
    error::{Error, Result},
    hierarchy,
    json_answer::{Json, Own},
    router::PeerCall,
};
use ruma::api::federation::space::get_hierarchy::v1::Request;

/// `GET /_matrix/federation/v1/hierarchy/{roomId}`
pub async fn hierarchy(call: PeerCall, Own(request): Own<Request>) -> Result<Json> {
    let found = hierarchy::for_server(&call.hs, call.requester(), &request.room_id, request.suggested_only).await?;
    Ok(Json::of(&found.ok_or_else(|| Error::not_found(format!("Unknown room: {}", request.room_id)))?))
}
