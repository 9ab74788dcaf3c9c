//! Reading a room's history: messages, context, single events (Client-Server API, "Getting events
//! for a room").

use super::wire::{Json, Own, ReadMessages};
use crate::{
    error::{Error, Result},
    federation::{backfill, timestamps},
    homeserver::Homeserver,
    position::Position,
    requester::Requester,
    room::{Event, Format, NodeId, Page, Related, RoomInfo, Viewer, Wanted, state_tree::Part},
    router::UserCall,
    sync::filter::{self, Facts},
    time_slice::TimeSlice,
};
use ephapse_events::{Inserted, StateKey};
use ephapse_store::Direction;
use ruma::{
    EventId, RoomId, UInt,
    api::{
        Direction as Dir,
        client::{
            context::get_context,
            filter::{LazyLoadOptions, RoomEventFilter},
            room::{get_event_by_timestamp, get_room_event},
        },
    },
    events::{AnyStateEvent, AnyTimelineEvent, StateEventType},
    serde::Raw,
};
use serde::Serialize;
use std::{collections::BTreeSet, ops::Range, rc::Rc};

/// The most events of one page, whatever the client asks.
const LARGEST_PAGE: usize = 1000;

fn limit(asked: UInt) -> usize {
    usize::try_from(u64::from(asked)).unwrap_or(LARGEST_PAGE).min(LARGEST_PAGE)
}

/// What the filter of a request says of the events that relate to those it lets through.
async fn related(call: &UserCall, filter: &RoomEventFilter) -> Result<Related> {
    Ok(call.hs.related(&filter::inline(filter, call.raw.parameter("filter").as_deref())?).await?)
}

/// Whether a filter lets an event through by what it is.
fn allows(filter: &RoomEventFilter, room: &RoomInfo, event: &Event) -> bool {
    let event_type = event.pdu.event_type.to_string();
    let facts = Facts { event_type: &event_type, sender: Some(event.pdu.sender.as_str()), json: &event.pdu.json };
    filter::allows_room_event(filter, &room.id, facts)
}

/// The position of a `from` or `to`; one of another life of this server means its end or beginning.
fn boundary(hs: &Homeserver, token: Option<&str>, otherwise: Position) -> Result<Position> {
    match token {
        Some(token) => Ok(hs.position_of(token)?.unwrap_or(otherwise)),
        None => Ok(otherwise),
    }
}

/// `GET /rooms/{roomId}/messages`
pub async fn messages(call: UserCall, ReadMessages(request): ReadMessages) -> Result<Json> {
    let hs = &call.hs;
    let (room, root) = hs.readable_state(call.requester(), &request.room_id).await?;
    let related = related(&call, &request.filter).await?;
    let mut viewer = Viewer::new(hs, &room, call.requester()).await?;
    let (direction, start, range) = match request.dir {
        Dir::Forward => {
            let from = boundary(hs, request.from.as_deref(), Position::MIN)?;
            (Direction::Forward, from, from..boundary(hs, request.to.as_deref(), Position::MAX)?)
        }
        Dir::Backward => {
            let from = boundary(hs, request.from.as_deref(), hs.positions.newest())?;
            (Direction::Backward, from, boundary(hs, request.to.as_deref(), Position::MIN)?..from)
        }
    };
    let by_itself = |event: &Event| allows(&request.filter, &room, event);
    let wanted = || Wanted { by_itself: &by_itself, related: &related };
    let (wholly, limit) = (range.start == Position::MIN, limit(request.limit));
    let mut page = hs.page(&room, &mut viewer, range, direction, limit, wanted()).await?;
    if direction == Direction::Backward
        && wholly
        && !page.more
        && page.events.len() < limit
        && backfill::goes_on_elsewhere(hs, &room, &mut viewer).await?
    {
        let rest = hs.page(&room, &mut viewer, Position::MIN..page.end, direction, limit - page.events.len(), wanted()).await?;
        page.events.extend(rest.events);
        page = Page { events: page.events, read: page.read | rest.read, ..rest };
    }
    // The oldest boundary has no token of its own: before the first position is before everything.
    let start = if start == Position::MIN { Position(0) } else { start };
    let mut members: Vec<Rc<Event>> = Vec::new();
    if lazy(&request.filter) {
        let senders = senders(hs, &room, root, &page.events).await?;
        members = hs.events_at(room.nid, &senders).await?.into_iter().flatten().collect();
    }
    Ok(Json::of(&Messages {
        start: hs.token(start),
        // Also where the filter lets nothing through, or this was the last: a client that finds
        // none takes its page for the whole history.
        end: (page.read || page.more).then(|| hs.token(page.end)),
        chunk: hs.timeline_events(&room, &page.events, call.requester(), Format::Whole, &viewer).await?,
        state: hs.client_events(&room, &members, call.requester(), Format::Whole).await?,
    }))
}

/// A page of a room's history; ruma's would leave out what is empty, and some clients look for it.
#[derive(Serialize)]
struct Messages {
    start: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    chunk: Vec<Raw<AnyTimelineEvent>>,
    state: Vec<Raw<AnyStateEvent>>,
}

/// An event and those around it, with everything that ruma's would leave out.
#[derive(Serialize)]
struct Context {
    start: String,
    end: String,
    event: Option<Raw<AnyTimelineEvent>>,
    events_before: Vec<Raw<AnyTimelineEvent>>,
    events_after: Vec<Raw<AnyTimelineEvent>>,
    state: Vec<Raw<AnyStateEvent>>,
}

fn lazy(filter: &RoomEventFilter) -> bool {
    matches!(filter.lazy_load_options, LazyLoadOptions::Enabled { .. })
}

/// The member events of those who sent `events`.
async fn senders(hs: &Homeserver, room: &RoomInfo, state: NodeId, events: &[Rc<Event>]) -> Result<Vec<Position>> {
    let senders: BTreeSet<&str> = events.iter().map(|event| event.pdu.sender.as_str()).inserted();
    let keys: Vec<StateKey> = senders.into_iter().map(|sender| (StateEventType::RoomMember, sender.to_owned())).collect();
    Ok(hs.state_get(room.nid, state, &keys).await?.into_iter().flatten().collect())
}

/// The state that goes with `shown`; of the members only those who sent them, where they are loaded
/// lazily.
async fn state_for(hs: &Homeserver, room: &RoomInfo, state: NodeId, shown: &[Rc<Event>], lazy: bool) -> Result<Vec<Rc<Event>>> {
    let part = if lazy { Part::WithoutMembers } else { Part::All };
    let mut positions: Vec<Position> = hs.state_entries(room.nid, state, part).await?.into_iter().map(|(_, at)| at).collect();
    if lazy {
        positions.extend(senders(hs, room, state, shown).await?);
    }
    positions.sort_unstable();
    Ok(hs.events_at(room.nid, &positions).await?.into_iter().flatten().collect())
}

/// An event of a room, if who asks may see it.
async fn seen_event(hs: &Homeserver, requester: Requester<'_>, room: &Rc<RoomInfo>, id: &EventId) -> Result<Option<(Viewer, Rc<Event>)>> {
    let Some(event) = hs.event_by_id(room.nid, id).await? else { return Ok(None) };
    let mut viewer = Viewer::new(hs, room, requester).await?;
    Ok(if viewer.sees(hs, &event).await? { Some((viewer, event)) } else { None })
}

fn unseen() -> Error {
    Error::not_found("Event not found, or you are not allowed to see it")
}

/// An event that who asks may see.
///
/// # Errors
/// 403 M_FORBIDDEN where nothing of the room is theirs to read; else 404 M_NOT_FOUND, whether the
/// event is hidden from them or not there.
pub async fn visible_event(hs: &Homeserver, requester: Requester<'_>, room: &RoomId, id: &EventId) -> Result<(Rc<RoomInfo>, Viewer, Rc<Event>)> {
    let room = hs.known_room(room).await?;
    match seen_event(hs, requester, &room, id).await? {
        Some((viewer, event)) => Ok((room, viewer, event)),
        None => Err(hs.readable(requester, &room.id).await.err().map_or_else(unseen, Error::from)),
    }
}

/// `GET /rooms/{roomId}/event/{eventId}`
pub async fn event(call: UserCall, request: get_room_event::v3::Request) -> Result<get_room_event::v3::Response> {
    let hs = &call.hs;
    // "The event was not found or you do not have permission to read this event": here a stranger
    // to the room is told no more.
    let room = hs.room(&request.room_id).await?.ok_or_else(unseen)?;
    let (viewer, event) = seen_event(hs, call.requester(), &room, &request.event_id).await?.ok_or_else(unseen)?;
    let written = hs.timeline_events(&room, std::slice::from_ref(&event), call.requester(), Format::Whole, &viewer).await?.pop();
    Ok(get_room_event::v3::Response::new(written.ok_or_else(|| event.damaged(&room.id, "it cannot be serialized"))?))
}

/// `GET /rooms/{roomId}/context/{eventId}`
pub async fn context(call: UserCall, Own(request): Own<get_context::v3::Request>) -> Result<Json> {
    let hs = &call.hs;
    let (room, mut viewer, event) = visible_event(hs, call.requester(), &request.room_id, &request.event_id).await?;
    let related = related(&call, &request.filter).await?;
    let limit = limit(request.limit);
    let before_it = Position(event.position.0 - 1);
    let by_itself = |event: &Event| allows(&request.filter, &room, event);
    let wanted = || Wanted { by_itself: &by_itself, related: &related };
    let older: Range<Position> = Position::MIN..before_it;
    let mut before = hs.page(&room, &mut viewer, older.clone(), Direction::Backward, limit / 2, wanted()).await?;
    if !before.more && before.events.len() < limit / 2 && backfill::goes_on_elsewhere(hs, &room, &mut viewer).await? {
        before = hs.page(&room, &mut viewer, older, Direction::Backward, limit / 2, wanted()).await?;
    }
    let after = hs.page(&room, &mut viewer, event.position..Position::MAX, Direction::Forward, limit - limit / 2, wanted()).await?;

    let last = after.events.last().unwrap_or(&event);
    let mut shown: Vec<Rc<Event>> = before.events.iter().chain(&after.events).cloned().collect();
    shown.push(event.clone());
    let mut state = Vec::new();
    let slice = TimeSlice::new(&*hs.host);
    for event in state_for(hs, &room, last.room_state, &shown, lazy(&request.filter)).await? {
        if by_itself(&event) && hs.is_related(&mut viewer, &event, &related, &mut 0).await? {
            state.push(event);
        }
        slice.step().await;
    }
    Ok(Json::of(&Context {
        start: hs.token(if before.end == Position::MIN { Position(0) } else { before.end }),
        end: hs.token(if after.end == Position::MAX { hs.positions.newest() } else { after.end }),
        event: hs.timeline_events(&room, &[event], call.requester(), Format::Whole, &viewer).await?.pop(),
        events_before: hs.timeline_events(&room, &before.events, call.requester(), Format::Whole, &viewer).await?,
        events_after: hs.timeline_events(&room, &after.events, call.requester(), Format::Whole, &viewer).await?,
        state: hs.client_events(&room, &state, call.requester(), Format::Whole).await?,
    }))
}

/// `GET /rooms/{roomId}/timestamp_to_event`: of the events that who asks may see, also of those
/// that other servers have.
pub async fn at_time(call: UserCall, request: get_event_by_timestamp::v1::Request) -> Result<get_event_by_timestamp::v1::Response> {
    let hs = &call.hs;
    let (room, _) = hs.readable(call.requester(), &request.room_id).await?;
    let mut viewer = Viewer::new(hs, &room, call.requester()).await?;
    let (direction, words) = match request.dir {
        Dir::Forward => (Direction::Forward, "forward"),
        Dir::Backward => (Direction::Backward, "backward"),
    };
    let ts = request.ts.0.into();
    let told = timestamps::fetch(hs, &room, &mut viewer, ts, request.dir).await?;
    let found = hs.event_at_time(&room, ts, direction, async |events| viewer.visible(hs, events).await).await?;
    let (event_id, ts) = match (found, told) {
        (Some(event), _) => (event.pdu.event_id.clone(), event.pdu.origin_server_ts),
        // It is farther back than could be fetched now.
        (None, Some(told)) => (told.event_id, told.origin_server_ts),
        (None, None) => return Err(Error::not_found(format!("Unable to find event from {ts} in {words} direction"))),
    };
    Ok(get_event_by_timestamp::v1::Response::new(event_id, ts))
}
