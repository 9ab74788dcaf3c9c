//! What other servers ask of this one's users and aliases (Server-Server API, "Querying for
//! information").

use crate::{
    aliases,
    error::{Error, Result},
    failure::Failure,
    json_answer::{Json, Own},
    profiles,
    router::PeerCall,
};
use ruma::api::federation::query::{
    get_custom_information::v1 as get_custom_information, get_profile_information::v1 as get_profile_information,
    get_room_information::v1 as get_room_information,
};
use std::collections::BTreeMap;

/// `GET /_matrix/federation/v1/query/profile`: all fields, or one. "If a `field` is specified in
/// the request, only the matching field should be included": none where it is not set.
pub async fn profile(call: PeerCall, Own(request): Own<get_profile_information::Request>) -> Result<Json> {
    let Some(field) = request.field.map(|field| field.to_string()) else {
        return Ok(Json::of(&profiles::fields(&call.hs, &request.user_id).await?));
    };
    let found = match profiles::field(&call.hs, &request.user_id, &field).await {
        Ok(value) => BTreeMap::from([(field, value)]),
        Err(Failure::Refused(profiles::Refused::NoSuchField)) => BTreeMap::new(),
        Err(error) => return Err(error.into()),
    };
    Ok(Json::of(&found))
}

/// `GET /_matrix/federation/v1/query/directory`
pub async fn directory(call: PeerCall, request: get_room_information::Request) -> Result<get_room_information::Response> {
    let hs = &call.hs;
    let room = aliases::room_of(hs, &request.room_alias).await?.ok_or(aliases::Refused::NotFound(request.room_alias))?;
    Ok(get_room_information::Response::new(room.id.clone(), aliases::servers(hs, room.nid).await?))
}

/// `GET /_matrix/federation/v1/query/{queryType}`: the specification has no other kind.
pub async fn other(_: PeerCall, request: get_custom_information::Request) -> Result<get_custom_information::Response> {
    Err(Error::not_found(format!("No handler for query type {}", request.query_type)))
}
