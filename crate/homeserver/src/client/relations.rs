//! Events that relate to an event (Client-Server API, "Relationships API").

use super::messages::visible_event;
use crate::{
    error::{Error, Result},
    position::Position,
    room::{Event, Format},
    router::UserCall,
    tables::{self, Relation},
};
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
use std::{collections::VecDeque, rc::Rc};

const DEFAULT_PAGE: usize = 20;
const LARGEST_PAGE: usize = 100;
/// How far `recurse` follows children of children, at least three levels by the specification.
const DEPTH: u32 = 3;
/// How many children are looked at for one page at most.
const LOOKED_AT: usize = 5000;

/// What the three endpoints ask in common.
struct Asked {
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
            let asked = Asked {
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
            let found = find(&call, asked).await?;
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

async fn find(call: &UserCall, asked: Asked) -> Result<Found> {
    let hs = &call.hs;
    let room = hs.room(&asked.room_id).await?.ok_or_else(|| Error::not_found("the room has no such event, or you may not see it"))?;
    let (mut viewer, parent) = visible_event(hs, &call.session, &room, &asked.event_id).await?;
    let limit = asked.limit.map_or(DEFAULT_PAGE, |limit| usize::try_from(u64::from(limit)).unwrap_or(LARGEST_PAGE).clamp(1, LARGEST_PAGE));
    let from = asked.from.as_deref().map(|token| hs.position_of(token)).transpose()?.flatten();
    let to = asked.to.as_deref().map(|token| hs.position_of(token)).transpose()?.flatten();

    let mut children: Vec<Rc<Event>> = Vec::new();
    let mut parents = VecDeque::from([(parent.pdu.event_id.clone(), 1)]);
    while let Some((id, depth)) = parents.pop_front() {
        let related = tables::RELATIONS.scan(hs.store(), &(room.sn, id), Direction::Forward, LOOKED_AT - children.len().min(LOOKED_AT)).await?;
        let positions: Vec<Position> =
            related.iter().filter(|(_, relation)| relation.rel_type != crate::room::REDACTION).map(|((_, _, position), _)| *position).collect();
        let relations: Vec<&Relation> =
            related.iter().map(|(_, relation)| relation).filter(|relation| relation.rel_type != crate::room::REDACTION).collect();
        let events = hs.events_at(room.sn, &positions).await?;
        for (event, relation) in events.into_iter().zip(relations) {
            let Some(event) = event else { continue };
            if asked.recurse && depth < DEPTH {
                parents.push_back((event.pdu.event_id.clone(), depth + 1));
            }
            let of_type = asked.rel_type.as_ref().is_none_or(|wanted| *wanted == relation.rel_type);
            // A redacted child relates to nothing any more.
            if of_type && asked.event_type.as_ref().is_none_or(|wanted| *wanted == relation.event_type) && event.redacted_by.is_none() {
                children.push(event);
            }
        }
    }
    let mut children = viewer.visible(hs, children).await?;
    children.sort_by_key(|event| event.position);
    if asked.dir == Dir::Backward {
        children.reverse();
    }
    children.retain(|event| match asked.dir {
        Dir::Backward => from.is_none_or(|from| event.position <= from) && to.is_none_or(|to| event.position > to),
        Dir::Forward => from.is_none_or(|from| event.position > from) && to.is_none_or(|to| event.position <= to),
    });
    let more = children.len() > limit;
    children.truncate(limit);
    let next = children.last().filter(|_| more).map(|last| match asked.dir {
        Dir::Backward => Position(last.position.0 - 1),
        Dir::Forward => last.position,
    });
    Ok(Found {
        chunk: hs.client_events(&room, &children, &call.session, Format::Whole).await?,
        next_batch: next.map(|position| hs.token(position)),
        prev_batch: asked.from.clone(),
        recursion_depth: asked.recurse.then(|| UInt::from(DEPTH)),
    })
}
