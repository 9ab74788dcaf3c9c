//! A room's events and states, for the servers that are in it (Server-Server API, "Retrieving
//! events", "Backfilling and retrieving missing events" and "Events before and after").

use super::events::{self, Piece};
use crate::{
    body::Body,
    error::{Error, Result},
    homeserver::Homeserver,
    json_answer::{Json, Own},
    position::Position,
    room::{Event, RoomInfo, ServerViewer},
    router::PeerCall,
};
use ephapse_store::Direction;
use http::Response;
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, RoomId, ServerName, UInt,
    api::{
        Direction as Dir, IncomingRequest, Metadata,
        error::DeserializationError,
        federation::{
            authorization::get_event_authorization::v1 as get_event_authorization,
            backfill::get_backfill::v1 as get_backfill,
            event::{
                get_event::v1 as get_event, get_event_by_timestamp::v1 as get_event_by_timestamp, get_missing_events::v1 as get_missing_events,
                get_room_state::v1 as get_room_state, get_room_state_ids::v1 as get_room_state_ids,
            },
        },
    },
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::rc::Rc;

/// Events that one request goes back over, at most.
const BACKFILLED: usize = 100;
/// Events between others that are looked for, at most.
const MISSING: usize = 20;
/// Events that a request may begin at: what is more is not looked at.
const BEGINNINGS: usize = 100;

fn unknown(event: &EventId) -> Error {
    Error::not_found(format!("Event {event} was not found"))
}

/// An event of a room of which the state before it is known, and counts: it was not rejected.
async fn placed(hs: &Homeserver, room: &RoomInfo, id: &EventId) -> Result<Rc<Event>> {
    let event = hs.event_by_id(room.nid, id).await?;
    event.filter(|event| event.has_state() && event.rejected.is_none()).ok_or_else(|| unknown(id))
}

/// `GET /_matrix/federation/v1/state/{roomId}`: the state before an event, and what it stands on.
pub async fn state(call: PeerCall, request: get_room_state::Request) -> Result<Response<Body>> {
    state_before(call, &request.room_id, &request.event_id, ["auth_chain", "pdus"], Piece::Events).await
}

/// `GET /_matrix/federation/v1/state_ids/{roomId}`
pub async fn state_ids(call: PeerCall, request: get_room_state_ids::Request) -> Result<Response<Body>> {
    state_before(call, &request.room_id, &request.event_id, ["auth_chain_ids", "pdu_ids"], Piece::Ids).await
}

/// The auth chain of the state before an event and that state, under these names, each written as a
/// piece of an answer.
async fn state_before(
    call: PeerCall,
    room: &RoomId,
    event: &EventId,
    [chain_name, state_name]: [&str; 2],
    written: fn(Vec<Position>) -> Piece,
) -> Result<Response<Body>> {
    let hs = &call.hs;
    let room = hs.room_of(&call.origin, room).await?;
    let event = placed(hs, &room, event).await?;
    let state = hs.state_positions(&room, event.state_before).await?;
    let chain = hs.auth_chain(&room, &state).await?.into_iter().collect();
    let (beginning, middle) = (format!(r#"{{"{chain_name}":["#), format!(r#"],"{state_name}":["#));
    let pieces = [Piece::Text(beginning), written(chain), Piece::Text(middle), written(state), Piece::Text("]}".to_owned())];
    Ok(events::answer(call.hs.clone(), room.nid, pieces))
}

/// `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`
pub async fn event_auth(call: PeerCall, request: get_event_authorization::Request) -> Result<Response<Body>> {
    let hs = &call.hs;
    let room = hs.room_of(&call.origin, &request.room_id).await?;
    let event = hs.event_by_id(room.nid, &request.event_id).await?.ok_or_else(|| unknown(&request.event_id))?;
    let chain = hs.auth_chain(&room, &[event.position]).await?.into_iter().collect();
    let pieces = [Piece::Text(r#"{"auth_chain":["#.to_owned()), Piece::Events(chain), Piece::Text("]}".to_owned())];
    Ok(events::answer(call.hs.clone(), room.nid, pieces))
}

/// What a transaction without end would hold.
#[derive(Serialize)]
struct Pdus<'a> {
    origin: &'a ServerName,
    origin_server_ts: u64,
    pdus: Vec<Box<RawValue>>,
}

/// Events as they are exchanged.
fn written(events: &[Rc<Event>]) -> Vec<Box<RawValue>> {
    // What is stored was parsed before it was stored.
    events.iter().filter_map(|event| serde_json::from_slice(&event.pdu.json).ok()).collect()
}

/// `GET /_matrix/federation/v1/event/{eventId}`
pub async fn event(call: PeerCall, Own(request): Own<get_event::Request>) -> Result<Json> {
    let hs = &call.hs;
    let (nid, position) = hs.find_event(&request.event_id).await?.ok_or_else(|| unknown(&request.event_id))?;
    let room = hs.room_of(&call.origin, &hs.room_by_nid(nid).await?.id.clone()).await?;
    let event = hs.event_at(nid, position).await?;
    if event.rejected.is_some() {
        return Err(unknown(&request.event_id));
    }
    let shown = ServerViewer::new(&room, &call.origin).shown(hs, vec![event]).await?;
    let pdus = written(&shown);
    if pdus.is_empty() {
        return Err(unknown(&request.event_id));
    }
    Ok(Json::of(&Pdus { origin: hs.server_name(), origin_server_ts: hs.host.now(), pdus }))
}

/// `GET /_matrix/federation/v1/backfill/{roomId}`
pub async fn backfill(call: PeerCall, request: get_backfill::Request) -> Result<Response<Body>> {
    let hs = &call.hs;
    let room = hs.room_of(&call.origin, &request.room_id).await?;
    let limit = at_most(request.limit, BACKFILLED);
    let from = &request.v[..request.v.len().min(BEGINNINGS)];
    let events = hs.before(&room, from, limit).await?;
    let shown = ServerViewer::new(&room, &call.origin).shown(hs, events).await?;
    let head = format!(r#"{{"origin":"{}","origin_server_ts":{},"pdus":["#, hs.server_name(), hs.host.now());
    Ok(events::answer(call.hs.clone(), room.nid, [Piece::Text(head), Piece::Held(shown), Piece::Text("]}".to_owned())]))
}

/// `POST /_matrix/federation/v1/get_missing_events/{roomId}`, where nothing has to be said, as for
/// Synapse.
pub struct GetMissingEvents {
    room: OwnedRoomId,
    gap: Gap,
}

#[derive(Deserialize)]
struct Gap {
    #[serde(default)]
    earliest_events: Vec<OwnedEventId>,
    #[serde(default)]
    latest_events: Vec<OwnedEventId>,
    #[serde(default = "default_limit")]
    limit: UInt,
    #[serde(default)]
    min_depth: UInt,
}

fn default_limit() -> UInt {
    UInt::from(10_u32)
}

impl Metadata for GetMissingEvents {
    const METHOD: http::Method = get_missing_events::Request::METHOD;
    const RATE_LIMITED: bool = get_missing_events::Request::RATE_LIMITED;
    type Authentication = <get_missing_events::Request as Metadata>::Authentication;
    type PathBuilder = <get_missing_events::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = get_missing_events::Request::PATH_BUILDER;
}

impl IncomingRequest for GetMissingEvents {
    type EndpointError = ruma::api::error::Error;
    type OutgoingResponse = get_missing_events::Response;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        let room = OwnedRoomId::try_from(path_args.first().copied().unwrap_or_default())?;
        Ok(Self { room, gap: serde_json::from_slice(request.body())? })
    }
}

/// `POST /_matrix/federation/v1/get_missing_events/{roomId}`
pub async fn missing_events(call: PeerCall, GetMissingEvents { room, gap }: GetMissingEvents) -> Result<get_missing_events::Response> {
    let hs = &call.hs;
    let room = hs.room_of(&call.origin, &room).await?;
    let limit = at_most(gap.limit, MISSING);
    let some = |ids: &[OwnedEventId]| ids[..ids.len().min(BEGINNINGS)].to_vec();
    let (earliest, latest) = (some(&gap.earliest_events), some(&gap.latest_events));
    let events = hs.between(&room, &earliest, &latest, gap.min_depth.into(), limit).await?;
    let shown = ServerViewer::new(&room, &call.origin).shown(hs, events).await?;
    Ok(get_missing_events::Response::new(written(&shown)))
}

fn at_most(asked: UInt, most: usize) -> usize {
    usize::try_from(u64::from(asked)).unwrap_or(most).min(most)
}

/// `GET /_matrix/federation/v1/timestamp_to_event/{roomId}`
pub async fn at_time(call: PeerCall, request: get_event_by_timestamp::Request) -> Result<get_event_by_timestamp::Response> {
    let hs = &call.hs;
    let room = hs.room_of(&call.origin, &request.room_id).await?;
    let mut viewer = ServerViewer::new(&room, &call.origin);
    let (direction, words) = match request.dir {
        Dir::Forward => (Direction::Forward, "forward"),
        Dir::Backward => (Direction::Backward, "backward"),
    };
    let found = hs.event_at_time(&room, request.ts.0.into(), direction, async |events| viewer.visible(hs, events).await).await?;
    let event = found.ok_or_else(|| Error::not_found(format!("Unable to find event from {} in {words} direction", request.ts.0)))?;
    Ok(get_event_by_timestamp::Response::new(event.pdu.event_id.clone(), event.pdu.origin_server_ts))
}
