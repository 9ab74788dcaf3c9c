//! Files between servers come as `multipart/mixed` (Server-Server API, "Content Repository"): a
//! part of JSON, and one that is the file or says where it lies. ruma has these answers as a whole
//! in memory; here they stream, in both directions.

use super::client::AskError;
use crate::{
    body::{Body, BodyError},
    transport::TransportError,
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use memchr::memmem::Finder;
use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// Bytes that what comes before a file may have, and each set of headers.
const LONGEST_HEAD: usize = 64 << 10;
/// Bytes of what stands between parts (RFC 2046, 5.1.1).
const LONGEST_BOUNDARY: usize = 70;

/// What the second part of an answer is.
pub enum Part {
    /// The file, which follows: [`Parts::next`].
    Content(HeaderMap),
    /// Where it lies: a URL.
    Location(String),
}

/// An answer of another server, part by part.
pub struct Parts {
    body: Body,
    read: BytesMut,
    delimiter: Finder<'static>,
    is_over: bool,
}

impl Parts {
    /// The parts of `answer`.
    pub fn new(answer: Response<Body>) -> Result<Self, AskError> {
        let boundary = answer.headers().get(header::CONTENT_TYPE).and_then(|kind| boundary(kind.to_str().ok()?));
        let boundary = boundary.ok_or_else(|| AskError::Malformed("it has no parts".to_owned()))?;
        let delimiter = Finder::new(&format!("\r\n--{boundary}")).into_owned();
        // The first one may stand at the very beginning.
        Ok(Self { body: answer.into_body(), read: BytesMut::from("\r\n"), delimiter, is_over: false })
    }

    /// What the second part is: the first one is JSON in which nothing is said yet.
    pub async fn content(&mut self) -> Result<Part, AskError> {
        let delimiter = self.delimiter.clone();
        self.up_to(&delimiter).await?;
        self.up_to(&Finder::new("\r\n\r\n")).await?;
        self.up_to(&delimiter).await?;
        let head = self.up_to(&Finder::new("\r\n\r\n")).await?;
        if head.starts_with(b"--") {
            return Err(AskError::Malformed("it has no file".to_owned()));
        }
        let headers = headers(&head);
        match headers.get(header::LOCATION).map(HeaderValue::to_str) {
            None => Ok(Part::Content(headers)),
            Some(Ok(location)) => Ok(Part::Location(location.to_owned())),
            Some(Err(_)) => Err(AskError::Malformed("it names no place".to_owned())),
        }
    }

    /// The next bytes of the file; `None` at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, AskError> {
        // What looks like the beginning of a delimiter is kept until it is known whether it is one.
        let kept = self.delimiter.needle().len() - 1;
        while !self.is_over {
            if let Some(end) = self.delimiter.find(&self.read) {
                self.is_over = true;
                return Ok(Some(self.read.split_to(end).freeze()).filter(|last| !last.is_empty()));
            }
            if self.read.len() > kept {
                let sure = self.read.len() - kept;
                return Ok(Some(self.read.split_to(sure).freeze()));
            }
            self.read_more().await?;
        }
        Ok(None)
    }

    /// What comes before `end`, which is taken away as well.
    async fn up_to(&mut self, end: &Finder<'_>) -> Result<Bytes, AskError> {
        loop {
            if let Some(at) = end.find(&self.read) {
                // However it came: it may have come in one piece.
                if at > LONGEST_HEAD {
                    return Err(AskError::TooLarge(LONGEST_HEAD));
                }
                let before = self.read.split_to(at).freeze();
                drop(self.read.split_to(end.needle().len()));
                return Ok(before);
            }
            if self.read.len() > LONGEST_HEAD {
                return Err(AskError::TooLarge(LONGEST_HEAD));
            }
            self.read_more().await?;
        }
    }

    async fn read_more(&mut self) -> Result<(), AskError> {
        loop {
            let frame = self.body.frame().await.ok_or_else(|| AskError::Malformed("it broke off".to_owned()))?;
            let frame = frame.map_err(|error| TransportError::Unreachable(error.to_string()))?;
            if let Ok(data) = frame.into_data() {
                self.read.extend_from_slice(&data);
                return Ok(());
            }
        }
    }
}

/// What stands between the parts, as the type of an answer says.
fn boundary(kind: &str) -> Option<&str> {
    let mut parameters = kind.split(';');
    parameters.next().filter(|essence| essence.trim().eq_ignore_ascii_case("multipart/mixed"))?;
    let mut named = parameters.filter_map(|parameter| parameter.split_once('='));
    let (_, value) = named.find(|(name, _)| name.trim().eq_ignore_ascii_case("boundary"))?;
    let value = value.trim().trim_matches('"');
    (1..=LONGEST_BOUNDARY).contains(&value.len()).then_some(value)
}

/// The headers of a part, without those that are none.
fn headers(head: &[u8]) -> HeaderMap {
    let lines = head.split(|byte| *byte == b'\n');
    let header = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(line[..colon].trim_ascii()).ok()?;
        Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
    };
    lines.filter_map(header).collect()
}

/// An answer that has a file in it, under `boundary`, which must not be in the file.
pub fn answer(boundary: &str, description: &HeaderMap, file: impl http_body::Body<Data = Bytes, Error: Into<BodyError>> + 'static) -> Response<Body> {
    let mut before = format!("\r\n--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n").into_bytes();
    for (name, value) in description {
        before.extend_from_slice(name.as_str().as_bytes());
        before.extend_from_slice(b": ");
        before.extend_from_slice(value.as_bytes());
        before.extend_from_slice(b"\r\n");
    }
    before.extend_from_slice(b"\r\n");
    let after = format!("\r\n--{boundary}--\r\n").into();
    let mut response = Response::new(Body::stream(Framed { before: before.into(), file: Body::stream(file), after }));
    let kind = format!("multipart/mixed; boundary={boundary}");
    response.headers_mut().extend(HeaderValue::try_from(kind).ok().map(|kind| (header::CONTENT_TYPE, kind)));
    response
}

/// A body with something before and after it.
struct Framed {
    before: Bytes,
    file: Body,
    after: Bytes,
}

impl http_body::Body for Framed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.before.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.before)))));
        }
        match Pin::new(&mut self.file).poll_frame(context) {
            Poll::Ready(None) if !self.after.is_empty() => Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.after))))),
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.after.is_empty() && self.before.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let around = (self.before.len() + self.after.len()) as u64;
        self.file.size_hint().exact().map_or_else(SizeHint::default, |size| SizeHint::with_exact(size + around))
    }
}
