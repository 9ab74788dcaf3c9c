//! The body of another server's answer, within bounds of time. How long it may be says who reads
//! it.

use crate::serve::pace::Pace;
use bytes::Bytes;
use ephapse_homeserver::BodyError;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::time::{Sleep, sleep_until};

/// A body on its way.
pub struct ResponseBody {
    incoming: Incoming,
    pace: Pace,
    /// Made when it has to be waited for.
    pause: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the other server sends too slowly")]
struct TooSlow;

impl ResponseBody {
    /// The body of an answer whose head has come just now.
    pub fn new(incoming: Incoming) -> Self {
        Self { incoming, pace: Pace::new(), pause: None }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(context) {
            self.pause = None;
            if let Some(Ok(frame)) = &frame {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.pace.received(bytes);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let deadline = self.pace.deadline();
        let pause = self.pause.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        pause.as_mut().poll(context).map(|()| Some(Err(TooSlow.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
