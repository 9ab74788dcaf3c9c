//! Events that relate to an event (Client-Server API, "Relationships API").

use super::messages::visible_event;
use crate::{
    error::Result,
    homeserver::Homeserver,
    position::Position,
    room::{DEPTH, Event, Format, REDACTION},
    router::UserCall,
    tables::{self, IndirectRelation, RoomNid},
    time_slice::TimeSlice,
};
use ephapse_events::RelatesTo;
use ephapse_store::Direction;
use ruma::{
    OwnedEventId, OwnedRoomId, UInt,
    api::{
        Direction as Dir,
        client::relations::{get_relating_events, get_relating_events_with_rel_type, get_relating_events_with_rel_type_and_event_type},
    },
    events::AnyMessageLikeEvent,
    serde::Raw,
};
use std::{collections::BTreeSet, ops::Range, rc::Rc};

const DEFAULT_PAGE: usize = 20;
const LARGEST_PAGE: usize = 100;
/// How many children are read before others have their turn.
const READ_AT_ONCE: usize = 128;
/// How many children are read for one page at most, seen or not: whoever sees few of many gets a
/// short page and the token to go on.
const READ_AT_MOST: usize = 2000;

/// What the three endpoints ask in common.
struct Criteria {
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    rel_type: Option<String>,
    event_type: Option<String>,
    from: Option<String>,
    to: Option<String>,
    dir: Dir,
    limit: Option<UInt>,
    recurse: bool,
}

impl Criteria {
    fn wants(&self, rel_type: &str, event_type: &str) -> bool {
        self.rel_type.as_ref().is_none_or(|wanted| wanted == rel_type) && self.event_type.as_ref().is_none_or(|wanted| wanted == event_type)
    }

    /// Whether an event between two others is looked through: one that is redacted relates to
    /// nothing any more; and "events that would match the filter, but whose only relation to the
    /// original given event is through a non-matching intermediate event, will not be included".
    fn looks_through(&self, event: &Event) -> bool {
        let relates = || RelatesTo::in_json(event.pdu.content.get());
        event.redacted_by.is_none() && relates().is_some_and(|relates| self.wants(&relates.rel_type, &event.pdu.event_type.to_string()))
    }
}

struct Found {
    chunk: Vec<Raw<AnyMessageLikeEvent>>,
    next_batch: Option<String>,
    prev_batch: Option<String>,
    recursion_depth: Option<UInt>,
}

macro_rules! endpoint {
    ($(#[$doc:meta])* $name:ident, $module:ident, $rel_type:expr, $event_type:expr) => {
        $(#[$doc])*
        pub async fn $name(call: UserCall, request: $module::v1::Request) -> Result<$module::v1::Response> {
            let (rel_type, event_type) = ($rel_type(&request), $event_type(&request));
            let criteria = Criteria {
                room_id: request.room_id,
                event_id: request.event_id,
                rel_type,
                event_type,
                from: request.from,
                to: request.to,
                dir: request.dir,
                limit: request.limit,
                recurse: request.recurse,
            };
            let found = find(&call, criteria).await?;
            let mut response = $module::v1::Response::new(found.chunk);
            response.next_batch = found.next_batch;
            response.prev_batch = found.prev_batch;
            response.recursion_depth = found.recursion_depth;
            Ok(response)
        }
    };
}

endpoint!(
    /// `GET /rooms/{roomId}/relations/{eventId}`
    all,
    get_relating_events,
    |_: &get_relating_events::v1::Request| None,
    |_: &get_relating_events::v1::Request| None
);
endpoint!(
    /// `GET /rooms/{roomId}/relations/{eventId}/{relType}`
    by_type,
    get_relating_events_with_rel_type,
    |request: &get_relating_events_with_rel_type::v1::Request| Some(request.rel_type.to_string()),
    |_: &get_relating_events_with_rel_type::v1::Request| None
);
endpoint!(
    /// `GET /rooms/{roomId}/relations/{eventId}/{relType}/{eventType}`
    by_types,
    get_relating_events_with_rel_type_and_event_type,
    |request: &get_relating_events_with_rel_type_and_event_type::v1::Request| Some(request.rel_type.to_string()),
    |request: &get_relating_events_with_rel_type_and_event_type::v1::Request| Some(request.event_type.to_string())
);

async fn find(call: &UserCall, criteria: Criteria) -> Result<Found> {
    let hs = &call.hs;
    let (room, mut viewer, parent) = visible_event(hs, call.requester(), &criteria.room_id, &criteria.event_id).await?;
    let limit = criteria.limit.map_or(DEFAULT_PAGE, |limit| usize::try_from(u64::from(limit)).unwrap_or(LARGEST_PAGE).clamp(1, LARGEST_PAGE));
    let from = criteria.from.as_deref().map(|token| hs.position_of(token)).transpose()?.flatten();
    let to = criteria.to.as_deref().map(|token| hs.position_of(token)).transpose()?.flatten();
    let mut unread = Unread {
        room: room.nid,
        parent: parent.pdu.event_id.clone(),
        dir: criteria.dir,
        rest: match criteria.dir {
            Dir::Backward => to.unwrap_or(Position::MIN)..from.unwrap_or(Position::MAX),
            Dir::Forward => from.unwrap_or(Position::MIN)..to.unwrap_or(Position::MAX),
        },
        recurse: criteria.recurse,
        is_over: false,
    };
    let mut found: Vec<Rc<Event>> = Vec::new();
    let mut read = 0;
    let slice = TimeSlice::new(&*hs.host);
    while found.len() <= limit && !unread.is_over && read < READ_AT_MOST {
        if read > 0 {
            slice.end().await;
        }
        let mut children = unread.read(hs).await?;
        read += children.len();
        children.retain(|(_, IndirectRelation { relation, .. })| {
            relation.rel_type != REDACTION && criteria.wants(&relation.rel_type, &relation.event_type)
        });
        let children = related_still(hs, room.nid, &criteria, children).await?;
        found.extend(viewer.visible(hs, children).await?);
    }
    let next = if found.len() > limit {
        found.truncate(limit);
        found.last().map(|last| after(last.position, criteria.dir))
    } else {
        (!unread.is_over).then(|| unread.boundary())
    };
    Ok(Found {
        chunk: hs.timeline_events(&room, &found, call.requester(), Format::Whole, &viewer).await?,
        next_batch: next.map(|position| hs.token(position)),
        prev_batch: criteria.from.clone(),
        recursion_depth: criteria.recurse.then(|| UInt::try_from(DEPTH).expect("a small number")),
    })
}

/// What relates to an event and has not been read yet.
struct Unread {
    room: RoomNid,
    parent: OwnedEventId,
    dir: Dir,
    /// The boundaries that it lies between.
    rest: Range<Position>,
    /// Whether what relates to it through other events is meant too.
    recurse: bool,
    is_over: bool,
}

impl Unread {
    /// The next ones, [`READ_AT_ONCE`] at most.
    async fn read(&mut self, hs: &Homeserver) -> Result<Vec<(Position, IndirectRelation)>> {
        if self.rest.start >= self.rest.end {
            self.is_over = true;
            return Ok(Vec::new());
        }
        let place = |position: Position| (self.room, self.parent.clone(), position.next());
        let direction = if self.dir == Dir::Backward { Direction::Backward } else { Direction::Forward };
        let range = tables::RELATIONS.key(&place(self.rest.start))..tables::RELATIONS.key(&place(self.rest.end));
        let direct = tables::RELATIONS.scan_range(hs.store(), range, direction, READ_AT_ONCE).await?;
        let mut indirect = Vec::new();
        if self.recurse {
            let range = tables::INDIRECT_RELATIONS.key(&place(self.rest.start))..tables::INDIRECT_RELATIONS.key(&place(self.rest.end));
            indirect = tables::INDIRECT_RELATIONS.scan_range(hs.store(), range, direction, READ_AT_ONCE).await?;
        }
        self.is_over = direct.len() < READ_AT_ONCE && indirect.len() < READ_AT_ONCE;
        let direct = direct.into_iter().map(|((_, _, position), relation)| (position, IndirectRelation { relation, through: Vec::new() }));
        let indirect = indirect.into_iter().map(|((_, _, position), indirect)| (position, indirect));
        let mut children: Vec<_> = direct.chain(indirect).collect();
        children.sort_by_key(|(position, _)| *position);
        if self.dir == Dir::Backward {
            children.reverse();
        }
        children.dedup_by_key(|(position, _)| *position);
        // What lies further, one of the two may not have been read as far as.
        self.is_over &= children.len() <= READ_AT_ONCE;
        children.truncate(READ_AT_ONCE);
        if let Some((last, _)) = children.last() {
            match self.dir {
                Dir::Backward => self.rest.end = after(*last, self.dir),
                Dir::Forward => self.rest.start = after(*last, self.dir),
            }
        }
        Ok(children)
    }

    /// The boundary after the last one that was read.
    fn boundary(&self) -> Position {
        if self.dir == Dir::Backward { self.rest.end } else { self.rest.start }
    }
}

/// The boundary after an event, in the direction of reading.
fn after(position: Position, dir: Dir) -> Position {
    if dir == Dir::Backward { Position(position.0 - 1) } else { position }
}

/// The children that are left: a redacted event relates to nothing any more, and what related
/// through one that is not looked through neither.
async fn related_still(hs: &Homeserver, room: RoomNid, criteria: &Criteria, children: Vec<(Position, IndirectRelation)>) -> Result<Vec<Rc<Event>>> {
    let mut between: Vec<Position> = children.iter().flat_map(|(_, child)| child.through.iter().copied()).collect();
    between.sort_unstable();
    between.dedup();
    let events = hs.events_at(room, &between).await?;
    let looked_through: BTreeSet<Position> =
        events.iter().flatten().filter(|event| criteria.looks_through(event)).map(|event| event.position).collect();
    let children = children.into_iter().filter(|(_, child)| child.through.iter().all(|between| looked_through.contains(between)));
    let positions: Vec<Position> = children.map(|(position, _)| position).collect();
    let mut left = hs.events_at(room, &positions).await?;
    left.retain(|event| event.as_ref().is_some_and(|event| event.redacted_by.is_none()));
    Ok(left.into_iter().flatten().collect())
}
