//! What rooms are to those who are not in them: spaces and the rooms below them (Client-Server API,
//! "Spaces"), and single rooms.

use super::wire::{Json, Own};
use crate::{
    aliases,
    error::{Error, Result},
    hierarchy::{self, Question},
    requester::Requester,
    router::{OptionalCall, UserCall},
    summaries::RoomSummary,
    tables,
};
use ruma::{
    RoomId,
    api::client::{room::get_summary::v1 as get_summary, space::get_hierarchy::v1 as get_hierarchy},
};
use serde::Serialize;

/// `GET /rooms/{roomId}/hierarchy`
pub async fn hierarchy(call: UserCall, Own(request): Own<get_hierarchy::Request>) -> Result<Json> {
    let question = Question {
        requester: call.requester(),
        room: &request.room_id,
        suggested_only: request.suggested_only,
        max_depth: request.max_depth.map(u64::from),
        limit: request.limit.map(u64::from),
        from: request.from.as_deref(),
    };
    Ok(Json::of(&hierarchy::page(&call.hs, &question).await?))
}

/// A room, and the part that who asks has in it.
#[derive(Serialize)]
struct Summarized {
    #[serde(flatten)]
    summary: RoomSummary,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<&'static str>,
}

/// `GET /room_summary/{roomIdOrAlias}`
pub async fn summary(call: OptionalCall, Own(request): Own<get_summary::Request>) -> Result<Json> {
    let hs = &call.hs;
    let (room, servers) = match <&RoomId>::try_from(&*request.room_id_or_alias) {
        Ok(id) => (id.to_owned(), Vec::new()),
        Err(alias) => aliases::resolved(hs, alias).await?,
    };
    let via = hs.candidates(&room, request.via.into_iter().chain(servers));
    let summary = hierarchy::summary(hs, &room, &via, call.requester()).await?;
    let summary = summary.ok_or_else(|| Error::not_found("Room not found, or you are not allowed to see it"))?;
    let membership = match call.requester().and_then(Requester::session) {
        None => None,
        Some(session) => {
            let own = match hs.room(&room).await? {
                Some(room) => tables::MEMBERSHIPS.get(hs.store(), &(session.user, room.nid)).await?,
                None => None,
            };
            Some(own.map_or("leave", |own| own.kind.as_str()))
        }
    };
    Ok(Json::of(&Summarized { summary, membership }))
}
