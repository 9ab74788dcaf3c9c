//! A JSON object that is read as it comes, so that it is never in memory as a whole.

use super::client::AskError;
use crate::{body::Body, transport::TransportError};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use std::rc::Rc;

/// Bytes of one part at most.
const LARGEST_PART: usize = 4 << 20;

/// A part of the object: the value of a field, and of a field that is an array an element.
pub struct Part {
    /// Its name; escapes in it stay as they are.
    pub field: Rc<str>,
    /// JSON, if the object is any: who uses it has to parse it.
    pub json: Bytes,
}

/// What comes next.
#[derive(Clone, Copy)]
enum Place {
    Object,
    KeyOrEnd,
    Key,
    Colon,
    Value,
    ElementOrEnd,
    Element,
    AfterElement,
    AfterValue,
    End,
}

/// How far one has looked for the end of a value, which is where the buffer begins.
#[derive(Default)]
struct Search {
    at: usize,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Search {
    /// Looks on, and answers how many bytes the value has when its end is among these.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(byte) = bytes.get(self.at) {
            let is_last = match (self.in_string, byte) {
                (true, _) if std::mem::take(&mut self.is_escaped) => false,
                (true, b'\\') => {
                    self.is_escaped = true;
                    false
                }
                (_, b'"') => {
                    self.in_string = !self.in_string;
                    !self.in_string && self.depth == 0
                }
                (true, _) => false,
                (false, b'{' | b'[') => {
                    self.depth += 1;
                    false
                }
                (false, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n') if self.depth == 0 => return Some(self.at),
                (false, b'}' | b']') => {
                    self.depth -= 1;
                    self.depth == 0
                }
                (false, _) => false,
            };
            self.at += 1;
            if is_last {
                return Some(self.at);
            }
        }
        None
    }
}

/// Reads the parts of an object one after the other.
pub struct Parts {
    body: Body,
    /// How many bytes may still come.
    rest: usize,
    limit: usize,
    buffer: BytesMut,
    place: Place,
    search: Search,
    field: Rc<str>,
}

impl Parts {
    /// Of an object that has at most `limit` bytes.
    pub fn of(body: Body, limit: usize) -> Self {
        Self { body, rest: limit, limit, buffer: BytesMut::new(), place: Place::Object, search: Search::default(), field: "".into() }
    }

    /// The next part; after the last one, none.
    ///
    /// # Errors
    /// [`AskError`], also where the object ends too early or is too large.
    pub async fn next(&mut self) -> Result<Option<Part>, AskError> {
        loop {
            if let Place::End = self.place {
                return Ok(None);
            }
            match self.part()? {
                Some(part) => return Ok(Some(part)),
                None => self.read_more().await?,
            }
        }
    }

    async fn read_more(&mut self) -> Result<(), AskError> {
        if let Place::End = self.place {
            return Ok(());
        }
        let Some(frame) = self.body.frame().await else { return Err(AskError::Malformed("it ends too early".to_owned())) };
        let frame = frame.map_err(|error| TransportError::Unreachable(error.to_string()))?;
        let Ok(data) = frame.into_data() else { return Ok(()) };
        self.rest = self.rest.checked_sub(data.len()).ok_or(AskError::TooLarge(self.limit))?;
        if self.buffer.len() > LARGEST_PART {
            return Err(AskError::TooLarge(LARGEST_PART));
        }
        self.buffer.extend_from_slice(&data);
        Ok(())
    }

    /// The next part, if all of it has come.
    fn part(&mut self) -> Result<Option<Part>, AskError> {
        loop {
            let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
            if self.search.at == 0 {
                self.buffer.advance(self.buffer.iter().take_while(is_space).count());
            }
            let Some(first) = self.buffer.first().copied() else { return Ok(None) };
            let next = match (self.place, first) {
                (Place::Object, b'{') => Place::KeyOrEnd,
                (Place::KeyOrEnd | Place::AfterValue, b'}') => Place::End,
                (Place::KeyOrEnd | Place::Key, b'"') => {
                    let Some(key) = self.value() else { return Ok(None) };
                    self.field = std::str::from_utf8(&key[1..key.len() - 1]).map_err(|_| malformed())?.into();
                    self.place = Place::Colon;
                    continue;
                }
                (Place::Colon, b':') => Place::Value,
                (Place::Value, b'[') => Place::ElementOrEnd,
                (Place::ElementOrEnd | Place::AfterElement, b']') => Place::AfterValue,
                (Place::AfterElement, b',') => Place::Element,
                (Place::AfterValue, b',') => Place::Key,
                (Place::Value | Place::ElementOrEnd | Place::Element, _) => {
                    let Some(json) = self.value() else { return Ok(None) };
                    if json.is_empty() {
                        return Err(malformed());
                    }
                    self.place = if let Place::Value = self.place { Place::AfterValue } else { Place::AfterElement };
                    return Ok(Some(Part { field: self.field.clone(), json }));
                }
                (Place::End, _) => return Ok(None),
                _ => return Err(malformed()),
            };
            self.place = next;
            self.buffer.advance(1);
            if let Place::End = self.place {
                return Ok(None);
            }
        }
    }

    /// The value that the buffer begins with, if all of it has come.
    fn value(&mut self) -> Option<Bytes> {
        let end = self.search.end(&self.buffer)?;
        self.search = Search::default();
        Some(self.buffer.split_to(end).freeze())
    }
}

fn malformed() -> AskError {
    AskError::Malformed("it is no JSON object".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_executor::block_on;
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use std::convert::Infallible;

    fn read_of(pieces: Vec<Bytes>, limit: usize) -> Result<Vec<(String, String)>, AskError> {
        let frames = stream::iter(pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece))));
        let mut parts = Parts::of(Body::stream(StreamBody::new(frames)), limit);
        let mut read = Vec::new();
        while let Some(part) = block_on(parts.next())? {
            read.push((part.field.to_string(), String::from_utf8(part.json.to_vec()).expect("text")));
        }
        Ok(read)
    }

    fn read(json: &str, at_once: usize) -> Result<Vec<(String, String)>, AskError> {
        read_of(json.as_bytes().chunks(at_once).map(Bytes::copy_from_slice).collect(), 1 << 20)
    }

    #[test]
    fn parts_are_the_same_however_they_come() {
        let json = r#" { "a" : [ {"x":"}\"]\\"} , [1,[2]], 3,"four" ] ,"b":{"c":[]},"none":[],"d":-1.5e3 , "e":null} "#;
        let expected =
            [("a", r#"{"x":"}\"]\\"}"#), ("a", "[1,[2]]"), ("a", "3"), ("a", "\"four\""), ("b", r#"{"c":[]}"#), ("d", "-1.5e3"), ("e", "null")];
        for at_once in [1, 2, 3, 7, 1000] {
            let read = read(json, at_once).expect("it is read");
            let read: Vec<_> = read.iter().map(|(field, json)| (&**field, &**json)).collect();
            assert_eq!(read, expected, "{at_once} at once");
        }
        assert_eq!(read("{}", 1).expect("it is read"), []);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in ["[]", "1", "{\"a\"}", "{\"a\":}", "{\"a\":[1,]}", "{\"a\":[1 2]}", "{,}", "{\"a\":1 \"b\":2}", "{\"a\":[,1]}", "{1:2}"] {
            assert!(matches!(read(json, 1), Err(AskError::Malformed(_))), "{json}");
        }
        for json in ["", "{", "{\"a", "{\"a\":[{}", "{\"a\":1", "{\"a\":[1]"] {
            assert!(matches!(read(json, 1), Err(AskError::Malformed(error)) if error == "it ends too early"), "{json}");
        }
    }

    #[test]
    fn what_never_ends_is_read_no_further_than_its_limits() {
        let piece = Bytes::from(vec![b'a'; 64 << 10]);
        let endless = |begin: &'static str, pieces: usize| {
            let rest = std::iter::repeat_n(piece.clone(), pieces);
            std::iter::once(Bytes::from_static(begin.as_bytes())).chain(rest).collect()
        };
        assert!(matches!(read_of(endless("{\"a\":[\"", 1000), usize::MAX), Err(AskError::TooLarge(LARGEST_PART))));
        assert!(matches!(read_of(endless("{\"a\":[\"", 1000), 1 << 20), Err(AskError::TooLarge(limit)) if limit == 1 << 20));
    }
}
