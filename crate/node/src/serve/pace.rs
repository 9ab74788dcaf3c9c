//! How slowly a body may come, from a client or from another server.

use std::time::Duration;
use tokio::time::Instant;

/// How long a body may pause.
const PAUSE: Duration = Duration::from_secs(60);

/// Bytes a second that a body must have on average once it is older than [`PAUSE`], so that one
/// that drips does not hold its place for long.
const SLOWEST: u64 = 16 << 10;

/// A body's progress.
pub struct Pace {
    began: Instant,
    received: u64,
}

impl Pace {
    /// A body that begins now.
    pub fn new() -> Self {
        Self { began: Instant::now(), received: 0 }
    }

    /// So many bytes more have come.
    pub fn received(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// Until when the next bytes have to come.
    pub fn deadline(&self) -> Instant {
        let slowest = self.began + PAUSE + Duration::from_secs(self.received / SLOWEST);
        slowest.min(Instant::now() + PAUSE)
    }
}
