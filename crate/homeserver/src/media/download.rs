//! A file on its way to a client: read piece by piece, each when it is wanted.

use crate::{
    body::BodyError,
    homeserver::Homeserver,
    tables::{self, FileKey},
};
use bytes::Bytes;
use ephapse_store::{LARGEST_CHUNK, LocalBoxFuture, StoreError};
use http_body::{Body, Frame, SizeHint};
use std::{
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
    size: u64,
    /// Bytes read.
    at: u64,
    next: Option<LocalBoxFuture<'static, Result<Bytes, StoreError>>>,
}

impl Download {
    /// Of a file of so many bytes.
    pub fn new(hs: Rc<Homeserver>, key: FileKey, size: u64) -> Self {
        Self { hs, key, size, at: 0, next: None }
    }
}

/// The next bytes from `at` on, all of one chunk.
async fn piece(hs: Rc<Homeserver>, (server, media_id, variant): FileKey, at: u64, size: u64) -> Result<Bytes, StoreError> {
    let chunk = LARGEST_CHUNK as u64;
    let (number, within) = (at / chunk, at % chunk);
    let length = READ_BYTES.min(chunk - within).min(size - at);
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
        let Self { hs, key, size, at, next } = &mut *self;
        let reading = next.get_or_insert_with(|| Box::pin(piece(hs.clone(), key.clone(), *at, *size)));
        let read = ready!(reading.as_mut().poll(context));
        *next = None;
        Poll::Ready(Some(match read {
            Ok(bytes) => {
                *at += bytes.len() as u64;
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
        self.at >= self.size
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size - self.at)
    }
}
