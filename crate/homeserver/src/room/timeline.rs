//! Pages of a room's timeline, as one user sees it.
//!
//! A boundary `p` lies between the positions `p` and `p + 1`: reading back from it starts with the
//! event at `p`, reading on with the first after it.

use super::{error::Result, event::Event, read::Portions, related::Wanted, rooms::RoomInfo, visibility::Viewer};
use crate::{
    homeserver::Homeserver,
    position::Position,
    tables::{self, RoomNid},
};
use ephapse_store::Direction;
use std::{ops::Range, rc::Rc};

/// How many events are read for one page at most, seen or not: whoever sees few of many gets a
/// short page and the token to go on.
const READ_AT_MOST: usize = 2000;
/// How many children of events are read for one page, roughly, where events are asked for by what
/// relates to them.
const CHILDREN_AT_MOST: usize = 4_000;

/// A part of a timeline.
pub struct Page {
    /// What the user sees, in the direction of reading.
    pub events: Vec<Rc<Event>>,
    /// The boundary after the last event that was looked at.
    pub end: Position,
    /// Whether there may be more after it.
    pub more: bool,
    /// Whether any event was looked at, seen or not.
    pub read: bool,
}

/// A timeline on the way to be read in one direction, a few events at a time.
pub struct Reading<'a> {
    hs: &'a Homeserver,
    room: RoomNid,
    rest: Range<Position>,
    direction: Direction,
    portions: Portions<'a>,
    /// Whether there may be more.
    pub goes_on: bool,
}

impl<'a> Reading<'a> {
    /// Of a room's events between two boundaries.
    pub fn new(hs: &'a Homeserver, room: RoomNid, boundaries: Range<Position>, direction: Direction) -> Self {
        Self { hs, room, rest: boundaries, direction, portions: Portions::new(&*hs.host), goes_on: true }
    }

    /// The boundary after the last event that was read.
    pub fn end(&self) -> Position {
        if self.direction == Direction::Forward { self.rest.start } else { self.rest.end }
    }

    /// The next events, seen or not, at most `limit`; others have their turn between them.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<Rc<Event>>> {
        let limit = limit.min(self.portions.count());
        let events = self.hs.events_between(self.room, self.rest.clone(), self.direction, limit).await?;
        self.goes_on = events.len() == limit;
        if let Some(last) = events.last() {
            match self.direction {
                Direction::Forward => self.rest.start = last.position,
                Direction::Backward => self.rest.end = Position(last.position.0 - 1),
            }
        }
        if self.goes_on {
            self.portions.took(&events).await;
        }
        Ok(events)
    }
}

impl Homeserver {
    /// Events between two boundaries, seen or not, but for damaged ones: at most `limit`, in the
    /// direction of reading.
    pub async fn events_between(&self, room: RoomNid, boundaries: Range<Position>, direction: Direction, limit: usize) -> Result<Vec<Rc<Event>>> {
        let boundaries = boundaries.start.max(Position::LAST_OUTLIER)..boundaries.end;
        if boundaries.start >= boundaries.end {
            return Ok(Vec::new());
        }
        let range = tables::EVENTS.key(&(room, boundaries.start.next()))..tables::EVENTS.key(&(room, boundaries.end.next()));
        let info = self.room_by_nid(room).await?;
        let since = self.rooms.events.read_since();
        let read = |(_, position), record| self.decode_event(&info, position, record, since);
        Ok(tables::EVENTS.scan_readable(self.store(), range, direction, limit, read).await?)
    }

    /// What a user sees of a room between two boundaries, and is `wanted`: at most `limit` events.
    pub async fn page(
        &self,
        room: &RoomInfo,
        viewer: &mut Viewer,
        boundaries: Range<Position>,
        direction: Direction,
        limit: usize,
        wanted: Wanted<'_>,
    ) -> Result<Page> {
        let mut reading = Reading::new(self, room.nid, boundaries, direction);
        let mut page = Page { events: Vec::new(), end: reading.end(), more: true, read: false };
        let (mut read, mut children) = (0, 0);
        while page.more && page.events.len() < limit && read < READ_AT_MOST && children < CHILDREN_AT_MOST {
            let events = reading.next((limit - page.events.len()).max(16)).await?;
            read += events.len();
            page.read |= !events.is_empty();
            page.more = reading.goes_on;
            page.end = reading.end();
            for event in viewer.visible(self, events).await? {
                if children >= CHILDREN_AT_MOST {
                    page.more = true;
                    page.end = before(event.position, direction);
                    break;
                }
                if !(wanted.by_itself)(&event) || !self.is_related(viewer, &event, wanted.related, &mut children).await? {
                    continue;
                }
                if page.events.len() == limit {
                    // It held more than was asked for: the page ends after the last event on it.
                    page.more = true;
                    page.end = after(page.events.last().map_or(event.position, |last| last.position), direction);
                    break;
                }
                page.events.push(event);
            }
        }
        Ok(page)
    }
}

/// The boundary in front of an event, in the direction of reading.
fn before(position: Position, direction: Direction) -> Position {
    match direction {
        Direction::Forward => Position(position.0 - 1),
        Direction::Backward => position,
    }
}

/// The boundary after it.
fn after(position: Position, direction: Direction) -> Position {
    match direction {
        Direction::Forward => position,
        Direction::Backward => Position(position.0 - 1),
    }
}
