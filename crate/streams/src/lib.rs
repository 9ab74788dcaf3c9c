//! Durable append-only streams with named consumers, over an [`ephapse_store`]: what must survive a
//! crash between "it happened" and "it was passed on".
//!
//! A [`Stream`] is declared in code: its name, who consumes it, what it keeps, and how often
//! something is tried. It has [`Subject`]s, one queue each, such as one for every device or
//! destination. They are made when something is first appended, and are gone when they are empty.
//!
//! - An entry is appended in the transaction of the write that causes it. Either both are on disk
//!   after a crash, or neither.
//! - Each consumer takes the entries of a subject in order, and acknowledges what it has done
//!   ([`Subject::deliver`]). What it has not acknowledged it gets again, after a crash too, and
//!   later each time. So it gets every entry at least once.
//! - An entry that is delivered too often without an acknowledgement becomes a dead letter. It
//!   stays to be seen ([`Streams::status`]), and those after it follow.
//! - An entry goes when all consumers have acknowledged it, or when a limit is reached
//!   ([`Retention`], [`Limits`], [`WhenFull`]).
//! - Entries of a subject are numbered one by one. No number is given twice, even when a subject
//!   was gone in between.
//!
//! Nothing here runs by itself: there are no tasks, threads or timers. The application says when
//! it takes what waits. It lends the store, a clock and its transactions through [`StreamStore`].
//!
//! # A letter that is sent at the second attempt
//!
//! ```
//! use ephapse_store::{Batch, MemoryStore, Reader, Staged, Store, StoreError, Submitted, Transaction};
//! use ephapse_streams::{Delivered, Limits, Prefixes, Redelivery, Retention, Stream, StreamStore, Streams, WhenFull};
//! use std::{cell::Cell, error::Error, rc::Rc, time::Duration};
//!
//! /// Letters that wait to be sent: a subject for each destination.
//! static OUTBOX: Stream = Stream {
//!     name: "outbox",
//!     consumers: &["sender"],
//!     retention: Retention::WorkQueue,
//!     limits: Limits { entries: Some(1000), ..Limits::NONE },
//!     when_full: WhenFull::Refuse,
//!     redelivery: Redelivery { attempts: Some(10), first_delay: Duration::from_secs(1), longest_delay: Duration::from_secs(3600) },
//! };
//! static STREAMS: &[&Stream] = &[&OUTBOX];
//!
//! /// Where streams are in the application's store: prefixes that none of its tables has.
//! const PREFIXES: Prefixes = Prefixes { heads: 1, entries: 2, dead_letters: 3, totals: 4 };
//!
//! struct Tx(Staged);
//!
//! impl Transaction for Tx {
//!     fn staged(&mut self) -> &mut Staged {
//!         &mut self.0
//!     }
//! }
//!
//! struct App {
//!     store: Rc<dyn Store>,
//!     reader: Reader,
//!     now: Cell<u64>,
//! }
//!
//! impl App {
//!     fn write(&self, generation: u64, fill: impl FnOnce(&mut Tx)) -> Result<Submitted<()>, StoreError> {
//!         let mut tx = Tx(Staged::new(Batch::since(generation)));
//!         fill(&mut tx);
//!         tx.0.commit(&*self.store)
//!     }
//! }
//!
//! impl StreamStore for App {
//!     fn reader(&self) -> &Reader {
//!         &self.reader
//!     }
//!     fn now(&self) -> u64 {
//!         self.now.get()
//!     }
//!     fn write(&self, generation: u64, fill: &mut dyn FnMut(&mut dyn Transaction)) -> Result<Submitted<()>, StoreError> {
//!         self.write(generation, |tx| fill(tx))
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn Error>> {
//! # futures_executor::block_on(async {
//! let store: Rc<dyn Store> = Rc::new(MemoryStore::new());
//! let app = App { reader: Reader::new(store.clone()), store, now: Cell::new(1_700_000_000_000) };
//! let streams = Streams::open(&app.reader, PREFIXES, STREAMS, app.now()).await?;
//!
//! // What causes the letter is written by the same transaction.
//! let letters = streams.subject(&app, &OUTBOX, "one.example").await?;
//! let generation = app.reader.generation();
//! let mut appended = Ok(0);
//! let written = app.write(generation, |tx| appended = letters.append(tx, app.now(), b"hello".to_vec()))?;
//! written.durable().await?;
//! assert_eq!(appended?, 0);
//!
//! // Whoever sends letters finds what waits, after a restart too.
//! let waiting = streams.subjects(&app, &OUTBOX, None, 100).await?;
//! assert_eq!(waiting, ["one.example"]);
//!
//! // The destination does not answer.
//! let failed = letters.deliver(&app, "sender", 50, async |_| Err("timed out".to_owned())).await?;
//! assert_eq!(failed, Delivered::Failed("timed out".to_owned()));
//!
//! // It is too soon to try again.
//! let early = letters.deliver(&app, "sender", 50, async |_| unreachable!()).await?;
//! assert_eq!(early, Delivered::Later(app.now() + 1000));
//!
//! app.now.set(app.now() + 1000);
//! let mut sent = Vec::new();
//! let done = letters.deliver(&app, "sender", 50, async |entries| {
//!     sent.extend(entries.into_iter().map(|entry| entry.body));
//!     Ok(())
//! });
//! assert_eq!(done.await?, Delivered::Done(1));
//! assert_eq!(sent, [b"hello"]);
//! assert_eq!(streams.status()[0].length, 0);
//! # Ok(())
//! # })
//! # }
//! ```

mod head;
mod status;
mod store;
mod stored;
mod streams;
mod subject;
#[cfg(test)]
mod tests;

pub use status::{ConsumerStatus, DeadLetterStatus, StreamStatus};
pub use store::StreamStore;
pub use stored::{Entry, Offset, Prefixes};
pub use streams::Streams;
pub use subject::{Delivered, Full, Subject, Taken};

use std::time::Duration;

/// A stream: what its subjects keep, for whom, and how much.
#[derive(Debug)]
pub struct Stream {
    /// Its name; the subjects' keys begin with it. It has no `/`, and stays as it is once something
    /// was appended.
    pub name: &'static str,
    /// Who consumes it. One that is new to a subject which holds something begins after its last
    /// entry.
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

impl Limits {
    /// No limits. What somebody else can fill has some.
    pub const NONE: Self = Self { entries: None, bytes: None, age: None };
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
