//! The event of a room that is closest to a time (Client-Server API, `GET
//! /rooms/{roomId}/timestamp_to_event`).
//!
//! Events stand in the order of their arrival, which is nearly that of their times. So the place of
//! a time is found by halving, and those around it are compared: an event that arrived long after
//! its time is found at the place where it arrived.

use super::{error::Result, event::Event, rooms::RoomInfo};
use crate::{homeserver::Homeserver, position::Position, tables::RoomHead, time_slice::TimeSlice};
use ephapse_store::Direction;
use std::{cmp::Reverse, rc::Rc};

/// Events on each side of the place of a time that are compared.
const AROUND: usize = 128;
/// Events that are looked at where nothing near that place is shown to who asks.
const READ_AT_MOST: usize = 2_000;

impl Homeserver {
    /// Of the events that `visible` lets through, the one closest to `ts`, in ms: at it or after it
    /// going forward, at it or before it going backward.
    pub async fn event_at_time(
        &self,
        room: &RoomInfo,
        ts: u64,
        direction: Direction,
        mut visible: impl AsyncFnMut(Vec<Rc<Event>>) -> Result<Vec<Rc<Event>>>,
    ) -> Result<Option<Rc<Event>>> {
        let head = self.room_head(room.nid).await?;
        let place = self.place_of_time(room, &head, ts).await?;
        let before_oldest = Position(head.oldest.0.saturating_sub(1));
        let mut around = self.events_between(room.nid, before_oldest..place, Direction::Backward, AROUND).await?;
        around.reverse();
        around.extend(self.events_between(room.nid, place..Position::MAX, Direction::Forward, AROUND).await?);
        let mut read = around.len();
        // From where on nothing was looked at yet.
        let mut edge = match direction {
            Direction::Forward => around.last().map(|event| event.position),
            Direction::Backward => around.first().map(|event| Position(event.position.0 - 1)),
        };
        let slice = TimeSlice::new(&*self.host);
        let mut candidates = around;
        loop {
            candidates.retain(|event| match direction {
                Direction::Forward => time_of(event) >= ts,
                Direction::Backward => time_of(event) <= ts,
            });
            if let Some(event) = closest(visible(candidates).await?, direction) {
                return Ok(Some(event));
            }
            let Some(from) = edge.filter(|_| read < READ_AT_MOST) else { return Ok(None) };
            let range = match direction {
                Direction::Forward => from..Position::MAX,
                Direction::Backward => before_oldest..from,
            };
            candidates = self.events_between(room.nid, range, direction, AROUND).await?;
            read += candidates.len();
            edge = candidates.last().map(|event| match direction {
                Direction::Forward => event.position,
                Direction::Backward => Position(event.position.0 - 1),
            });
            slice.step().await;
        }
    }

    /// The boundary before which events are older than `ts`, and after which they are not, as far
    /// as they stand in the order of their times.
    async fn place_of_time(&self, room: &RoomInfo, head: &RoomHead, ts: u64) -> Result<Position> {
        let (mut low, mut high) = (Position(head.oldest.0.saturating_sub(1)), head.newest);
        while low < high {
            let middle = Position(low.0 + (high.0 - low.0) / 2);
            let next = self.events_between(room.nid, middle..high, Direction::Forward, 1).await?;
            match next.first() {
                Some(event) if time_of(event) < ts => low = event.position,
                _ if middle == low => return Ok(low),
                _ => high = middle,
            }
        }
        Ok(low)
    }
}

fn time_of(event: &Event) -> u64 {
    event.pdu.origin_server_ts.0.into()
}

/// Of several at the same time, the one that comes first in the direction of the search.
fn closest(events: Vec<Rc<Event>>, direction: Direction) -> Option<Rc<Event>> {
    match direction {
        Direction::Forward => events.into_iter().min_by_key(|event| (time_of(event), event.position)),
        Direction::Backward => events.into_iter().min_by_key(|event| (Reverse(time_of(event)), Reverse(event.position))),
    }
}
