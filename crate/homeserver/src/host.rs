//! What the host lends the homeserver: time, randomness, timers, tasks, Unicode's tables, and a way
//! to other servers.

use crate::{
    media::{NoThumbnail, Thumbnail, ThumbnailWanted},
    time_slice::EndOfSlice,
    transport::{NoTransport, Transport},
};
use ephapse_store::LocalBoxFuture;
use std::{rc::Rc, time::Duration};

/// The world outside: the browser's service worker, a native process, or a simulation with a clock
/// and dice of its own.
pub trait Host {
    /// Milliseconds since the Unix epoch.
    fn now(&self) -> u64;

    /// Fills `bytes` with unpredictable ones.
    fn random(&self, bytes: &mut [u8]);

    /// `text` in Unicode's Normalization Form KC. The host's, since every browser has the tables
    /// for it, which are larger than what needs them here.
    fn nfkc(&self, text: &str) -> String;

    /// Ends after `duration`.
    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()>;

    /// Runs `task` beside everything else on the engine's one thread.
    fn spawn(&self, task: LocalBoxFuture<'static, ()>);

    /// Lets the host answer what else is waiting, then goes on at once. What works long asks for
    /// it by its time slice.
    fn yield_now(&self, end: EndOfSlice) -> LocalBoxFuture<'static, ()>;

    /// Runs work that computes for tens of milliseconds, such as hashing a password: on another
    /// thread where there are threads.
    fn compute(&self, work: Box<dyn FnOnce() -> Vec<u8> + Send>) -> LocalBoxFuture<'static, Vec<u8>> {
        Box::pin(async move { work() })
    }

    /// Makes a small picture of a file, away from the engine's thread where there are threads.
    /// Files are anybody's: it is bounded in time and memory. By itself, none.
    fn thumbnail(&self, file: Vec<u8>, wanted: ThumbnailWanted) -> LocalBoxFuture<'static, Result<Thumbnail, NoThumbnail>> {
        drop((file, wanted));
        Box::pin(async { Err(NoThumbnail::Unsupported) })
    }

    /// The way to other servers, asked for once, when the homeserver opens: by itself, none.
    fn transport(&self) -> Rc<dyn Transport> {
        Rc::new(NoTransport)
    }
}
