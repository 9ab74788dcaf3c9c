//! Answers that consist of many events, which leave while they are read.

use crate::{
    body::{Body, BodyError},
    homeserver::Homeserver,
    position::Position,
    room::Event,
    tables::RoomNid,
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::StreamBody;
use std::{collections::VecDeque, rc::Rc};

/// Bytes of events that are read at once, roughly, and that leave together.
const PORTION: usize = 256 << 10;
/// How many events are read at once, at most and while nothing is known of their size.
const MOST: usize = 256;
const FIRST: usize = 16;

/// A piece of an answer.
pub enum Piece {
    /// JSON as it is.
    Text(String),
    /// Events by where they stand, with commas between them, as servers exchange them. Those that
    /// cannot be read are left out.
    Events(Vec<Position>),
    /// The ids of such events.
    Ids(Vec<Position>),
    /// Events that are at hand, in the form in which the server is shown them.
    Held(Vec<Rc<Event>>),
}

struct Writing {
    hs: Rc<Homeserver>,
    room: RoomNid,
    pieces: VecDeque<Piece>,
    /// How many events of the piece were looked at, and whether one was written.
    at: usize,
    is_begun: bool,
    /// How many events are read next, by the size of those before.
    count: usize,
}

/// A 200 of these pieces.
pub fn answer(hs: Rc<Homeserver>, room: RoomNid, pieces: impl IntoIterator<Item = Piece>) -> Response<Body> {
    let writing = Writing { hs, room, pieces: pieces.into_iter().collect(), at: 0, is_begun: false, count: FIRST };
    let frames = stream::try_unfold(writing, async |mut writing| {
        let next = writing.next().await.map_err(|error| BodyError::from(error.to_string()))?;
        Ok::<_, BodyError>(next.map(|bytes| (Frame::data(bytes), writing)))
    });
    let mut response = Response::new(Body::stream(StreamBody::new(Box::pin(frames))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl Writing {
    async fn next(&mut self) -> Result<Option<Bytes>, crate::room::Error> {
        loop {
            let (count, written) = match self.pieces.front_mut() {
                None => return Ok(None),
                Some(Piece::Text(text)) => {
                    let text = std::mem::take(text);
                    self.pieces.pop_front();
                    return Ok(Some(Bytes::from(text)));
                }
                Some(Piece::Events(positions)) => {
                    let portion = portion(positions, self.at, self.count);
                    let events = self.hs.events_at(self.room, portion).await?;
                    self.count = next_count(events.iter().flatten().map(|event| event.pdu.json.len()).sum(), portion.len());
                    (portion.len(), events.into_iter().flatten().map(|event| event.pdu.json.clone()).collect::<Vec<_>>())
                }
                Some(Piece::Ids(positions)) => {
                    let portion = portion(positions, self.at, self.count);
                    let events = self.hs.events_at(self.room, portion).await?;
                    self.count = next_count(events.iter().flatten().map(|event| event.pdu.json.len()).sum(), portion.len());
                    let id = |event: &Event| Bytes::from(serde_json::to_vec(&event.pdu.event_id).expect("an id can be written"));
                    (portion.len(), events.iter().flatten().map(|event| id(event)).collect())
                }
                Some(Piece::Held(events)) => {
                    let portion = portion(events, self.at, self.count);
                    (portion.len(), portion.iter().map(|event| event.pdu.json.clone()).collect())
                }
            };
            if count == 0 {
                self.pieces.pop_front();
                (self.at, self.is_begun) = (0, false);
                continue;
            }
            self.at += count;
            let mut bytes = Vec::with_capacity(written.iter().map(|item| item.len() + 1).sum());
            for item in written {
                if self.is_begun {
                    bytes.push(b',');
                }
                self.is_begun = true;
                bytes.extend_from_slice(&item);
            }
            if !bytes.is_empty() {
                return Ok(Some(bytes.into()));
            }
        }
    }
}

/// The next of many.
fn portion<T>(all: &[T], from: usize, count: usize) -> &[T] {
    &all[from..all.len().min(from + count)]
}

/// As many as take a portion if they are like those before; not many more, since they may be
/// larger.
fn next_count(bytes: usize, events: usize) -> usize {
    let most = MOST.min(2 * events.max(1));
    (PORTION * events).checked_div(bytes).map_or(most, |count| count.clamp(1, most))
}
