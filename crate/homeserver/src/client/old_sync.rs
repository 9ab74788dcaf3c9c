//! What clients of r0 follow rooms with (Client-Server API, `getEvents`, `peekEvents`,
//! `initialSync`, `roomInitialSync`): deprecated, but for peeking into rooms that everybody may
//! read.

use super::{messages::visible_event, sync::poll, wire::Json};
use crate::{
    error::{Error, Result},
    position::Position,
    room::Format,
    router::{UserCall, parameter},
    sync::Stream,
    tables::PresenceKind,
};
use ruma::{
    OwnedEventId, OwnedRoomId,
    api::{
        IncomingRequest,
        auth_scheme::AccessToken,
        error::{DeserializationError, Error as MatrixError},
        metadata,
    },
};
use serde::{Deserialize, Serialize, de};
use serde_json::value::RawValue;
use std::{str::FromStr, time::Duration};

/// How many events of each room, and of the stream, where a client does not say.
const DEFAULT_LIMIT: usize = 10;
/// The most, whatever it says.
const LARGEST_LIMIT: usize = 500;

/// `GET /_matrix/client/v3/events`
pub struct Listen {
    from: Option<String>,
    room: Option<OwnedRoomId>,
    timeout: Duration,
    limit: usize,
}

/// `GET /_matrix/client/v3/events/{eventId}`
pub struct GetEvent {
    event_id: OwnedEventId,
}

/// `GET /_matrix/client/v3/initialSync`
pub struct InitialSync {
    limit: usize,
    archived: bool,
}

/// `GET /_matrix/client/v3/rooms/{roomId}/initialSync`
pub struct RoomInitialSync {
    room: OwnedRoomId,
    limit: usize,
}

metadata! {
    @for Listen,
    method: GET,
    rate_limited: false,
    authentication: AccessToken,
    history: {
        1.0 => "/_matrix/client/r0/events",
        1.1 => "/_matrix/client/v3/events",
    }
}

metadata! {
    @for GetEvent,
    method: GET,
    rate_limited: false,
    authentication: AccessToken,
    history: {
        1.0 => "/_matrix/client/r0/events/{event_id}",
        1.1 => "/_matrix/client/v3/events/{event_id}",
    }
}

metadata! {
    @for InitialSync,
    method: GET,
    rate_limited: false,
    authentication: AccessToken,
    history: {
        1.0 => "/_matrix/client/r0/initialSync",
        1.1 => "/_matrix/client/v3/initialSync",
    }
}

metadata! {
    @for RoomInitialSync,
    method: GET,
    rate_limited: false,
    authentication: AccessToken,
    history: {
        1.0 => "/_matrix/client/r0/rooms/{room_id}/initialSync",
        1.1 => "/_matrix/client/v3/rooms/{room_id}/initialSync",
    }
}

/// A parameter of the query, where it is there.
fn read<T: FromStr>(request: &http::Request<&[u8]>, name: &str) -> Result<Option<T>, de::value::Error> {
    let value = request.uri().query().and_then(|query| parameter(query, name));
    value.map(|value| value.parse().map_err(|_| de::Error::custom(format!("invalid {name}")))).transpose()
}

fn limit(request: &http::Request<&[u8]>) -> Result<usize, de::value::Error> {
    Ok(read(request, "limit")?.unwrap_or(DEFAULT_LIMIT).min(LARGEST_LIMIT))
}

/// The only parameter of a path.
fn argument<T: for<'de> Deserialize<'de>>(path_args: &[&str]) -> Result<T, de::value::Error> {
    let (argument,) = Deserialize::deserialize(de::value::SeqDeserializer::<_, de::value::Error>::new(path_args.iter().copied()))?;
    Ok(argument)
}

impl IncomingRequest for Listen {
    type EndpointError = MatrixError;
    type OutgoingResponse = Json;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, _: &[&str]) -> Result<Self, DeserializationError> {
        let timeout = Duration::from_millis(read(&request, "timeout")?.unwrap_or_default());
        Ok(Self { from: read(&request, "from")?, room: read(&request, "room_id")?, timeout, limit: limit(&request)?.max(1) })
    }
}

impl IncomingRequest for GetEvent {
    type EndpointError = MatrixError;
    type OutgoingResponse = Json;

    fn try_from_http_request_inner(_: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        Ok(Self { event_id: argument(path_args)? })
    }
}

impl IncomingRequest for InitialSync {
    type EndpointError = MatrixError;
    type OutgoingResponse = Json;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, _: &[&str]) -> Result<Self, DeserializationError> {
        Ok(Self { limit: limit(&request)?, archived: read(&request, "archived")?.unwrap_or_default() })
    }
}

impl IncomingRequest for RoomInitialSync {
    type EndpointError = MatrixError;
    type OutgoingResponse = Json;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        Ok(Self { room: argument(path_args)?, limit: limit(&request)? })
    }
}

#[derive(Serialize)]
struct Events {
    start: String,
    end: String,
    chunk: Vec<Box<RawValue>>,
}

/// `GET /events`
pub async fn events(call: UserCall, request: Listen) -> Result<Json> {
    let hs = &call.hs;
    let room = match &request.room {
        Some(id) => Some(hs.readable(call.requester(), id).await?).filter(|(_, until)| until.is_none()).map(|(room, _)| room),
        None => None,
    };
    if request.room.is_some() && room.is_none() {
        return Err(Error::forbidden("You are not in this room, and its history is not for everybody to read"));
    }
    let _attendance = hs.attend(&call.session, PresenceKind::Online).await?;
    // Without a token, what happens from now on: not that who asks is there.
    let newest = hs.positions.newest();
    let from = match &request.from {
        Some(token) => hs.position_of(token)?.map_or(newest, |from| from.max(Position(0))),
        None => newest,
    };
    let peeked = room.as_ref().map(|room| room.nid);
    let stream = Stream { session: call.session.clone(), is_guest: call.is_guest(), room, limit: request.limit };
    let look = async |seen: Option<Position>, to| {
        let (chunk, end) = hs.stream(&stream, seen.unwrap_or(from), to).await?;
        let is_told = !chunk.is_empty();
        Ok((Events { start: hs.token(from), end: hs.token(end), chunk }, is_told))
    };
    Ok(Json::of(&poll(&call, Some(from), request.timeout, (hs.config.presence, peeked), look).await?))
}

/// `GET /events/{eventId}`
pub async fn event(call: UserCall, request: GetEvent) -> Result<Json> {
    let hs = &call.hs;
    let unseen = || Error::not_found("Event not found, or you are not allowed to see it");
    let (room, _) = hs.find_event(&request.event_id).await?.ok_or_else(unseen)?;
    let room = hs.room_by_nid(room).await?;
    let (room, viewer, event) = visible_event(hs, call.requester(), &room.id, &request.event_id).await.map_err(|_| unseen())?;
    let written: Vec<ruma::serde::Raw<ruma::events::AnyTimelineEvent>> =
        hs.timeline_events(&room, &[event], call.requester(), Format::Old, &viewer).await?;
    Ok(Json::of(&written.into_iter().next().ok_or_else(unseen)?))
}

/// `GET /initialSync`
pub async fn initial_sync(call: UserCall, request: InitialSync) -> Result<Json> {
    let _attendance = call.hs.attend(&call.session, PresenceKind::Online).await?;
    Ok(Json::of(&call.hs.global_snapshot(&call.session, call.is_guest(), request.limit, request.archived).await?))
}

/// `GET /rooms/{roomId}/initialSync`
pub async fn room_initial_sync(call: UserCall, request: RoomInitialSync) -> Result<Json> {
    Ok(Json::of(&call.hs.room_snapshot(&call.session, call.is_guest(), &request.room, request.limit).await?))
}
