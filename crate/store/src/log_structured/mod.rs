//! A log-structured merge tree above any storage that has small records and Blobs. In the browser
//! that storage is IndexedDB.
//!
//! A commit is one transaction that puts the encoded batches into a log. Then they are in a
//! memtable. A full memtable becomes an *sstable* of level 0: a Blob of sorted blocks. Sstables of
//! level 0 may overlap, and the newest wins. Each deeper level is one sorted run, ten times as
//! large as the one above, of sstables that do not overlap.
//!
//! A compaction takes some sstables of one level and replaces those of the next level that they
//! overlap. It installs one output after another. So it needs a few megabytes of room however large
//! the store is, and a crash between two steps only leaves work to be done again.
//!
//! - `block`, `filter`, `sstable`: bytes
//! - `levels`: which sstables there are
//! - `read`, `cache`, `loaded`: reading
//! - `prefetch`: the first reads after an opening
//! - `commit`: where a group is written
//! - `flush`, `compaction`, `cleanup`: sstables in the background
//! - `space`: what happens when storage is full
//! - `backend`: what the storage below has to do

mod backend;
mod block;
mod cache;
mod cleanup;
mod commit;
mod compaction;
#[cfg(test)]
mod fake;
mod filter;
mod flush;
mod levels;
mod loaded;
mod prefetch;
mod read;
mod space;
mod sstable;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use backend::{Backend, Loaded, PROBE_BLOB, Transaction, is_placeholder};
pub(crate) use state::LogStructured;
pub use state::Options;
