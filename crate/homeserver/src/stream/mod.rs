//! Durable append-only streams with named consumers: what must survive a crash between "it
//! happened" and "it was passed on".
//!
//! A [`Stream`] is declared in code; its subjects (one queue each: a device, a destination) are
//! made when first appended to and pruned when empty. An entry is appended in the transaction of
//! the write that causes it. Consumers take entries in order, acknowledge what they have processed,
//! and get the rest again after a crash, later each time; an entry that is delivered too often
//! without an acknowledgement becomes a dead letter: it stays to be seen, and those behind it
//! follow. Nothing of Matrix is in here.

mod head;
mod status;
mod streams;
mod subject;
#[cfg(test)]
mod tests;

pub use status::{ConsumerStatus, DeadLetterStatus, StreamStatus};
pub use streams::Streams;
pub use subject::{Delivered, Full, Subject, Taken};

use crate::transaction::{Submitted, Tx};
use ephapse_store::{Reader, StoreError};
use std::time::Duration;

/// What streams stand on.
pub trait StreamStore {
    /// Where entries are read from.
    fn store(&self) -> &Reader;

    /// Writes what `fill` stages, which stands on what was read in a generation of the store.
    ///
    /// # Errors
    /// It was refused at once, or what was read is not true any more.
    fn write(&self, generation: u64, fill: &mut dyn FnMut(&mut Tx)) -> Result<Submitted<()>, StoreError>;
}

/// A stream: what its subjects keep, for whom, and how much.
#[derive(Debug)]
pub struct Stream {
    /// Its name; the subjects' keys begin with it.
    pub name: &'static str,
    /// Who consumes it.
    pub consumers: &'static [&'static str],
    /// When entries go.
    pub retention: Retention,
    /// What one subject may hold.
    pub limits: Limits,
    /// What happens to an entry that finds its subject full.
    pub when_full: WhenFull,
    /// How often and when an entry that was not acknowledged is delivered again.
    pub redelivery: Redelivery,
}

/// When an entry of a stream is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// When every consumer has acknowledged it.
    Interest,
    /// When the one consumer has acknowledged it.
    WorkQueue,
    /// When it is too old or there are too many, acknowledged or not.
    Limits,
}

/// What one subject may hold; `None` is without limit. In every retention, the oldest entries go
/// first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: Option<u64>,
    /// Bytes of their bodies.
    pub bytes: Option<u64>,
    /// Time since they were appended.
    pub age: Option<Duration>,
}

/// What happens when a subject holds as much as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest entries go, acknowledged or not.
    DropOldest,
    /// Nothing more can be appended.
    Refuse,
}

/// How often and when an entry is delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redelivery {
    /// An entry delivered this often without an acknowledgement becomes a dead letter; `None`:
    /// never.
    pub attempts: Option<u32>,
    /// The time between the first delivery and the second; it doubles each time.
    pub first_delay: Duration,
    /// The longest time between two deliveries.
    pub longest_delay: Duration,
}

impl Redelivery {
    /// How long after the `deliveries`th delivery the next one may happen.
    pub fn delay(&self, deliveries: u32) -> Duration {
        let doublings = deliveries.saturating_sub(1).min(31);
        self.first_delay.saturating_mul(1 << doublings).min(self.longest_delay)
    }
}
