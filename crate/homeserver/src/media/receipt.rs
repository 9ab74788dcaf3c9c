//! The answer to an upload. It names the file's id, which nobody else knows: if it is dropped
//! before anybody took it, the file goes.
//!
//! Chromium sends the rest of a file whose page gave the upload up, and tells the worker nothing of
//! it. But it cancels the stream of an answer that nobody takes (2026-11-30).

use crate::{body::BodyError, homeserver::Homeserver, tables::FileKey};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

/// The bytes of an answer that names an uploaded file.
pub struct Receipt {
    hs: Rc<Homeserver>,
    key: FileKey,
    /// `None` once they were taken.
    bytes: Option<Bytes>,
}

impl Receipt {
    /// `bytes` name the file `key`.
    pub fn new(hs: Rc<Homeserver>, key: FileKey, bytes: Bytes) -> Self {
        Self { hs, key, bytes: Some(bytes) }
    }
}

impl Body for Receipt {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if self.bytes.is_some() {
            let (hs, key) = (self.hs.clone(), self.key.clone());
            self.hs.host.spawn(Box::pin(async move {
                if let Err(error) = hs.forget_file(&key).await {
                    tracing::warn!("could not delete a file whose upload was not acknowledged: {error}");
                }
            }));
        }
    }
}
