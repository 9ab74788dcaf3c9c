//! Answers that consist of many events, which leave while they are read.

use crate::{
    body::{Body, BodyError},
    homeserver::Homeserver,
    position::Position,
    tables::RoomNid,
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::StreamBody;
use std::{collections::VecDeque, rc::Rc};

/// How many events are read at once.
const PORTION: usize = 64;

/// A piece of an answer.
pub enum Piece {
    /// JSON as it is.
    Text(String),
    /// Events by where they stand, with commas between them, as servers exchange them. Those that
    /// cannot be read are left out.
    Events(Vec<Position>),
}

struct Writing {
    hs: Rc<Homeserver>,
    room: RoomNid,
    pieces: VecDeque<Piece>,
    /// How many events of the piece were looked at, and whether one was written.
    at: usize,
    is_begun: bool,
}

/// A 200 of these pieces.
pub fn answer(hs: Rc<Homeserver>, room: RoomNid, pieces: impl IntoIterator<Item = Piece>) -> Response<Body> {
    let writing = Writing { hs, room, pieces: pieces.into_iter().collect(), at: 0, is_begun: false };
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
            let positions = match self.pieces.front_mut() {
                None => return Ok(None),
                Some(Piece::Text(text)) => {
                    let text = std::mem::take(text);
                    self.pieces.pop_front();
                    return Ok(Some(Bytes::from(text)));
                }
                Some(Piece::Events(positions)) => &positions[self.at..],
            };
            if positions.is_empty() {
                self.pieces.pop_front();
                (self.at, self.is_begun) = (0, false);
                continue;
            }
            let portion = &positions[..positions.len().min(PORTION)];
            let mut bytes = Vec::new();
            for event in self.hs.events_at(self.room, portion).await?.into_iter().flatten() {
                if self.is_begun {
                    bytes.push(b',');
                }
                self.is_begun = true;
                bytes.extend_from_slice(&event.pdu.json);
            }
            self.at += portion.len();
            if !bytes.is_empty() {
                return Ok(Some(bytes.into()));
            }
        }
    }
}
