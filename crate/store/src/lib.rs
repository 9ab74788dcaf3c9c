//! Ordered bytes to bytes, committed in atomic batches; knows nothing of Matrix.
//!
//! Three stores implement [`Store`]: [`MemoryStore`], `RedbStore` (native) and `IndexedDbStore`
//! (wasm32). One conformance suite (`conformance`, with the feature `test-stores`) runs on all of
//! them.
//!
//! Reads see every batch that was submitted before them. A batch is visible from the moment
//! `commit` is called, and durable when the future that `commit` returned ends. Before anything
//! is acknowledged to the outside, [`Store::barrier`] is awaited: nothing that could still be
//! lost is ever shown.
//!
//! When a commit fails, every batch that was submitted after it fails too. Reads go back to what
//! is durable, and [`Store::generation`] grows by one. A batch of an older generation is refused,
//! and what was derived from lost batches must be dropped.
//!
//! A store belongs to one thread: neither it nor its futures are `Send`. Natively, what blocks is
//! done on threads of its own.
//!
//! # Tables
//!
//! A [`Table`] is a typed view of the keys with one prefix: a key is made of [`KeyPart`]s and sorts
//! as they do, a value is whatever serde can write. Tables are read through a [`Reader`]. They are
//! written in a [`Transaction`], which the application has one type for, so that it decides what
//! belongs to every write:
//!
//! ```
//! use ephapse_store::{Batch, Direction, MemoryStore, Reader, Staged, Store, StoreError, Submitted, Table, Transaction};
//! use std::rc::Rc;
//!
//! /// How often each page of a site was read: `(site, page)`.
//! const VISITS: Table<(u32, String), u64> = Table::new(1, "visits");
//!
//! struct Tx(Staged);
//!
//! impl Transaction for Tx {
//!     fn staged(&mut self) -> &mut Staged {
//!         &mut self.0
//!     }
//! }
//!
//! struct Database {
//!     store: Rc<dyn Store>,
//!     reader: Reader,
//! }
//!
//! impl Database {
//!     /// Writes what `fill` stages, which stands on what was read in `generation`.
//!     fn write(&self, generation: u64, fill: impl FnOnce(&mut Tx)) -> Result<Submitted<()>, StoreError> {
//!         let mut tx = Tx(Staged::new(Batch::since(generation)));
//!         fill(&mut tx);
//!         tx.0.commit(&*self.store)
//!     }
//! }
//!
//! # fn main() -> Result<(), StoreError> {
//! # futures_executor::block_on(async {
//! let store: Rc<dyn Store> = Rc::new(MemoryStore::new());
//! let database = Database { reader: Reader::new(store.clone()), store };
//!
//! let generation = database.reader.generation();
//! let page = (7, "about".to_owned());
//! let before = VISITS.get(&database.reader, &page).await?.unwrap_or_default();
//! database.write(generation, |tx| VISITS.put(tx, &page, &(before + 1)))?.durable().await?;
//!
//! let of_site = VISITS.scan(&database.reader, &7_u32, Direction::Forward, 100).await?;
//! assert_eq!(of_site, [((7, "about".to_owned()), 1)]);
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! # Features
//!
//! - `ruma`: Matrix ids are [`KeyPart`]s, as their strings.
//! - `test-stores`: stores that fail, crash, are full or slow (`unreliable`), and the conformance
//!   suite, for tests.

mod batch;
mod chunks;
mod damaged;
mod faults;
mod memory;

#[cfg(any(test, feature = "test-stores"))]
pub mod conformance;
#[cfg(any(test, feature = "test-stores"))]
pub mod unreliable;

mod codec;
// What only the log-structured store uses of it is for wasm32.
#[cfg_attr(not(any(target_arch = "wasm32", test)), allow(dead_code))]
mod commit_queue;
#[cfg(target_arch = "wasm32")]
mod indexed_db;
// What only the log-structured store uses of it is for wasm32.
#[cfg_attr(not(any(target_arch = "wasm32", test)), allow(dead_code))]
mod memtable;
// Natively it is compiled for its tests alone, which do not use all that IndexedDB needs.
#[cfg(any(target_arch = "wasm32", test))]
#[cfg_attr(not(target_arch = "wasm32"), allow(dead_code, unused_imports))]
mod log_structured;
mod merge;
#[cfg(not(target_arch = "wasm32"))]
mod native;
mod reader;
mod table;
mod transaction;

pub use batch::{Batch, Op};
pub use bytes::Bytes;
pub use chunks::{ChunkId, Chunks, LARGEST_CHUNK};
pub use damaged::Damaged;
pub use faults::{CrashPoint, Fault, Faults};
#[cfg(target_arch = "wasm32")]
pub use indexed_db::{IndexedDbStore, Options as IndexedDbOptions};
pub use memory::MemoryStore;
#[cfg(not(target_arch = "wasm32"))]
pub use native::{RedbOptions, RedbStore, panic_is_caught};
pub use reader::Reader;
pub use table::{KeyPart, Table};
pub use transaction::{Staged, Submitted, Transaction, Written};

use std::{future::Future, ops::Range, path::PathBuf, pin::Pin};

/// A future that stays on its thread.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// The format of the content where a store has recorded none: the first there was.
const FIRST_CONTENT: u32 = 1;

/// Which way a [`Store::scan`] walks its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the smallest key up.
    Forward,
    /// From the largest key down.
    Backward,
}

/// Why the store could not do what was asked.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// The origin's storage quota or the disk is full; nothing of the batch was written.
    #[error("storage is full")]
    QuotaExceeded,
    /// Another engine has taken over the database; this one must not write any more.
    #[error("another engine has taken over this database")]
    Fenced,
    /// A batch before this one could not be written. What was read for this one may have been
    /// taken back with it.
    #[error("an earlier write failed, and this one was built on it")]
    RolledBack,
    /// The database was written by a newer version and is left untouched.
    #[error("the database has format {found}; this version understands up to {supported}")]
    NewerFormat {
        /// The format on disk.
        found: u32,
        /// The newest format this build understands.
        supported: u32,
    },
    /// Another process holds the database.
    #[error("the database is in use by another process")]
    InUse,
    /// The store was closed, or the browser asked for the database to be released.
    #[error("the store is closed")]
    Closed,
    /// A file does not hold what was written to it.
    #[error("{} is damaged ({reason}): stop the server, and put a backup of the directory in its place", .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// How that was found.
        reason: String,
    },
    /// A log has damage with acknowledged records after it.
    #[error(
        "{} is damaged at byte {offset} ({reason}): stop the server, and put a backup of the directory in its place; \
         or, to go on without the part of the log that begins there: truncate -s {keep} '{}'",
        .file.display(), .cut.display()
    )]
    DamagedLog {
        /// The file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// How that was found.
        reason: String,
        /// The file that has to be cut for the log to end in front of the damage; of what comes
        /// after it nothing can be kept.
        cut: PathBuf,
        /// How many of its bytes can be kept.
        keep: u64,
    },
    /// One thing that is stored cannot be read; others can.
    #[error("{0}")]
    Unreadable(String),
    /// Anything else the platform said.
    #[error("storage failed: {0}")]
    Platform(String),
}

/// What a store holds and has done, for whoever runs it and for tests that count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys asked for by `get_many`, plus entries returned by `scan`.
    pub keys_read: u64,
    /// Durable transactions written.
    pub commits: u64,
    /// Bytes of keys and values handed to `commit`.
    pub bytes_committed: u64,
    /// Bytes this store takes on disk, as far as it knows.
    pub bytes_stored: u64,
    /// Bytes of caches and memtables in memory.
    pub bytes_cached: u64,
    /// Sorted runs (0 where the store has none).
    pub runs: u32,
}

/// An ordered map from bytes to bytes with atomic, durable batches.
pub trait Store {
    /// The values of `keys`, in their order.
    fn get_many<'a>(&'a self, keys: &'a [Vec<u8>]) -> LocalBoxFuture<'a, Result<Vec<Option<Bytes>>, StoreError>>;

    /// At most `limit` entries of `range`, in the order of `direction`.
    fn scan(&self, range: Range<Vec<u8>>, direction: Direction, limit: usize) -> LocalBoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>>;

    /// Makes `batch` visible to reads at once, and durable when the future ends.
    ///
    /// Batches become durable in the order of the calls. Those that wait together share one
    /// transaction. The write happens whether the future is polled or not.
    ///
    /// # Errors
    /// [`StoreError::RolledBack`] when the batch's generation is older than the store's, or when
    /// an earlier batch failed; else why the write failed.
    fn commit(&self, batch: Batch) -> LocalBoxFuture<'static, Result<(), StoreError>>;

    /// Ends when everything submitted before the call is durable, or says why it will never be.
    ///
    /// What is submitted later cannot fail it, unless it is written together with something that
    /// was submitted before.
    fn barrier(&self) -> LocalBoxFuture<'static, Result<(), StoreError>>;

    /// How often reads went back to what is durable because a write failed.
    fn generation(&self) -> u64;

    /// What is too large for the map.
    fn chunks(&self) -> &dyn Chunks;

    /// What this store holds and has done.
    fn stats(&self) -> Stats;

    /// Finishes what was submitted, then releases the database. Later calls answer
    /// [`StoreError::Closed`].
    fn close(&self) -> LocalBoxFuture<'_, Result<(), StoreError>>;
}
