//! The body of a request as it arrives over a connection: within bounds of time while the
//! homeserver reads it, and taken off the wire when it does not.

use super::{limits::Share, pace::Pace};
use bytes::Bytes;
use ephapse_homeserver::BodyError;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::watch,
    task::spawn_local,
    time::{sleep, sleep_until, timeout},
};

/// How long a body may pause when the process is about to end.
const PAUSE_WHEN_LEAVING: Duration = Duration::from_millis(200);

/// How long the rest of a body that nobody reads is thrown away before the connection is closed.
/// Closed at once, the system would reset it, and a client that is still sending would never see
/// why it was refused.
const LINGER: Duration = Duration::from_secs(1);

/// A body on its way.
pub struct RequestBody {
    /// `None` when it ended.
    incoming: Option<Incoming>,
    pace: Pace,
    /// Made when it has to be waited for; ends when it need not be waited for any longer.
    pause: Option<Pin<Box<dyn Future<Output = GivenUp>>>>,
    leaving: watch::Receiver<bool>,
    request: Rc<Incomplete>,
}

/// Why a body is not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum GivenUp {
    #[error("timed out")]
    TooSlow,
    #[error("the server is shutting down")]
    Leaving,
    #[error("too many large requests at a time")]
    NoRoom,
}

/// What is known of a request while it arrives and is worked on.
pub struct Incomplete {
    share: Share,
    unanswered: Cell<bool>,
}

impl Incomplete {
    /// A request that takes its room of `share`.
    pub fn new(share: Share) -> Self {
        Self { share, unanswered: Cell::new(false) }
    }

    /// Whether it is to have no answer, because the server could not wait for all of it: its client
    /// may send it again.
    pub fn is_unanswered(&self) -> bool {
        self.unanswered.get()
    }
}

impl RequestBody {
    /// The body of a request that arrived just now; `leaving` becomes true when the process
    /// is about to end.
    pub fn new(incoming: Incoming, leaving: watch::Receiver<bool>, request: Rc<Incomplete>) -> Self {
        Self { incoming: Some(incoming), pace: Pace::new(), pause: None, leaving, request }
    }

    /// Nothing more is read. The connection is closed with it: what comes later is no part of
    /// anything.
    fn give_up(&mut self, why: GivenUp) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.incoming = None;
        self.request.unanswered.set(why != GivenUp::TooSlow);
        Poll::Ready(Some(Err(why.into())))
    }

    fn pause(&self) -> Pin<Box<dyn Future<Output = GivenUp>>> {
        let (deadline, mut leaving) = (self.pace.deadline(), self.leaving.clone());
        Box::pin(async move {
            let left = async {
                let _ = leaving.wait_for(|leaving| *leaving).await;
                sleep(PAUSE_WHEN_LEAVING).await;
            };
            tokio::select! {
                () = sleep_until(deadline) => GivenUp::TooSlow,
                () = left => GivenUp::Leaving,
            }
        })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(incoming).poll_frame(context) {
            self.pause = None;
            match &frame {
                Some(Ok(frame)) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    self.pace.received(bytes);
                    if !self.request.share.take(bytes) {
                        return self.give_up(GivenUp::NoRoom);
                    }
                }
                Some(Err(_)) | None => self.incoming = None,
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let mut pause = self.pause.take().unwrap_or_else(|| self.pause());
        let Poll::Ready(why) = pause.as_mut().poll(context) else {
            self.pause = Some(pause);
            return Poll::Pending;
        };
        self.give_up(why)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for RequestBody {
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
