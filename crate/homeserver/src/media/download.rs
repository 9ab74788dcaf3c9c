//! A file on its way to a client: read piece by piece, each when it is wanted.

use super::cache::Reading;
use crate::{
    body::BodyError,
    homeserver::Homeserver,
    tables::{self, FileKey},
};
use bytes::Bytes;
use ephapse_store::{LARGEST_CHUNK, LocalBoxFuture, StoreError};
use http_body::{Body, Frame, SizeHint};
use std::{
    ops::Range,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

/// Bytes read at a time.
const READ_BYTES: u64 = 128 << 10;

/// The bytes of a file, as a body.
pub struct Download {
    hs: Rc<Homeserver>,
    key: FileKey,
    /// What is not read yet.
    rest: Range<u64>,
    next: Option<LocalBoxFuture<'static, Result<Bytes, StoreError>>>,
    _reading: Reading,
}

impl Download {
    /// These bytes of a file.
    pub fn new(hs: Rc<Homeserver>, key: FileKey, bytes: Range<u64>) -> Self {
        let _reading = hs.uploads.readers.read(&key);
        Self { hs, key, rest: bytes, next: None, _reading }
    }
}

/// The first of the bytes `rest`, all of one chunk.
pub async fn piece(hs: Rc<Homeserver>, (server, media_id, variant): FileKey, rest: Range<u64>) -> Result<Bytes, StoreError> {
    let chunk = LARGEST_CHUNK as u64;
    let (number, within) = (rest.start / chunk, rest.start % chunk);
    let length = READ_BYTES.min(chunk - within).min(rest.end - rest.start);
    let missing = || StoreError::Platform(format!("chunk {number} of mxc://{server}/{media_id} is missing"));
    let key = (server.clone(), media_id.clone(), variant, u32::try_from(number).map_err(|_| missing())?);
    let id = tables::MEDIA_CHUNKS.get(hs.store(), &key).await?.ok_or_else(missing)?;
    hs.store().chunks().read(id, within as u32..(within + length) as u32).await?.ok_or_else(missing)
}

impl Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let Self { hs, key, rest, next, .. } = &mut *self;
        let reading = next.get_or_insert_with(|| Box::pin(piece(hs.clone(), key.clone(), rest.clone())));
        let read = ready!(reading.as_mut().poll(context));
        *next = None;
        Poll::Ready(Some(match read {
            Ok(bytes) => {
                rest.start += bytes.len() as u64;
                Ok(Frame::data(bytes))
            }
            Err(error) => {
                // The status is sent: all that is left is to break off.
                tracing::error!("download of mxc://{}/{} aborted: {error}", key.0, key.1);
                Err(error.into())
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.end - self.rest.start)
    }
}
