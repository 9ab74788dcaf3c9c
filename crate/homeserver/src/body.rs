//! The body of a request or of an answer: bytes that are there, or a stream of them, in both
//! directions and in every host.
//!
//! A request's body is read only after its endpoint is found and its access token known, and never
//! further than the endpoint's bound: see `Homeserver::handle`. An answer leaves in pieces of
//! [`PIECE`] bytes, so that a large one need not be copied as a whole.

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

/// The bytes of an answer that leave at once.
pub const PIECE: usize = 64 << 10;

/// Why a body broke off, in the host's words.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What a request or an answer carries.
pub enum Body {
    /// All of it is there.
    Whole(Bytes),
    /// It comes piece by piece, and may break off; its size hint is what is known of its length.
    Stream(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError>>>),
}

/// Why a body is not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is longer than it may be.
    #[error("Request body too large: at most {0} bytes are allowed")]
    TooLarge(usize),
    /// It broke off.
    #[error("Failed to read the request body: {0}")]
    BrokeOff(#[source] BodyError),
}

impl Body {
    /// A body that comes piece by piece.
    pub fn stream(body: impl http_body::Body<Data = Bytes, Error: Into<BodyError>> + 'static) -> Self {
        Self::Stream(Box::pin(body.map_err(Into::into)))
    }

    /// All of it, at most `limit` bytes; a longer one is refused before it is read where its length
    /// is declared, and otherwise as soon as it passes the limit.
    pub async fn read(mut self, limit: usize) -> Result<Bytes, ReadError> {
        if self.size_hint().lower() > limit as u64 {
            return Err(ReadError::TooLarge(limit));
        }
        if let Self::Whole(bytes) = self {
            return Ok(bytes);
        }
        // Pieces are put together as they come: many small ones, kept apart, would take far more
        // memory than they have bytes.
        let mut whole = BytesMut::new();
        while let Some(frame) = self.frame().await {
            let Ok(data) = frame.map_err(ReadError::BrokeOff)?.into_data() else { continue };
            if data.len() > limit - whole.len() {
                return Err(ReadError::TooLarge(limit));
            }
            if whole.is_empty() && self.is_end_stream() {
                return Ok(data);
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Whole(rest) if rest.is_empty() => Poll::Ready(None),
            Self::Whole(rest) => Poll::Ready(Some(Ok(Frame::data(rest.split_to(rest.len().min(PIECE)))))),
            Self::Stream(stream) => stream.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(rest) => rest.is_empty(),
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(rest) => SizeHint::with_exact(rest.len() as u64),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self::Whole(bytes.into())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(bytes) => write!(f, "Body of {} bytes", bytes.len()),
            Self::Stream(stream) => write!(f, "Body of {:?}", stream.size_hint()),
        }
    }
}
