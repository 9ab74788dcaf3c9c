//! The body of a request as it arrives over a connection: within bounds of time while the homeserver reads it, and taken off the wire when it does not.

use bytes::Bytes;
use ephapse_homeserver::BodyError;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    sync::watch,
    task::spawn_local,
    time::{Instant, Sleep, sleep_until, timeout},
};

/// How long a body may pause.
const PAUSE: Duration = Duration::from_secs(60);

/// Bytes a second that a body must have on average once it is older than [`PAUSE`], so that one that drips does not hold its place for long.
const SLOWEST: u64 = 16 << 10;

/// How long the rest of a body that nobody reads is thrown away before the connection is closed. Closed at once, the system would reset it, and a client
/// that is still sending would never see why it was refused.
const LINGER: Duration = Duration::from_secs(1);

/// A body on its way.
pub struct Arriving {
    /// `None` when it ended.
    incoming: Option<Incoming>,
    began: Instant,
    received: u64,
    /// Made when it has to be waited for.
    deadline: Option<Pin<Box<Sleep>>>,
    leaving: watch::Receiver<bool>,
}

impl Arriving {
    /// The body of a request that arrived just now; `leaving` becomes true when the process is about to end.
    pub fn new(incoming: Incoming, leaving: watch::Receiver<bool>) -> Self {
        Self { incoming: Some(incoming), began: Instant::now(), received: 0, deadline: None, leaving }
    }

    fn next_deadline(&self) -> Instant {
        let slowest = self.began + PAUSE + Duration::from_secs(self.received / SLOWEST);
        slowest.min(Instant::now() + PAUSE)
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(incoming).poll_frame(context) {
            self.deadline = None;
            match &frame {
                Some(Ok(frame)) => self.received += frame.data_ref().map_or(0, |data| data.len() as u64),
                Some(Err(_)) | None => self.incoming = None,
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let next = self.next_deadline();
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep_until(next)));
        ready!(deadline.as_mut().poll(context));
        // The connection is closed with it: what comes later is no part of anything.
        self.incoming = None;
        Poll::Ready(Some(Err("it did not arrive in time".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let Some(mut incoming) = self.incoming.take().filter(|incoming| !incoming.is_end_stream()) else { return };
        let mut leaving = self.leaving.clone();
        spawn_local(async move {
            let thrown_away = timeout(LINGER, async {
                while let Some(Ok(_)) = std::future::poll_fn(|context| Pin::new(&mut incoming).poll_frame(context)).await {}
            });
            tokio::select! {
                _ = thrown_away => {}
                _ = leaving.wait_for(|leaving| *leaving) => {}
            }
        });
    }
}
