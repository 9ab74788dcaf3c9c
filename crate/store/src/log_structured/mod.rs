//! A log-structured store above any place that has small records and Blobs; in the browser that place is IndexedDB.
//!
//! A commit is one transaction that puts the encoded batches into a log, and is applied to a memtable in memory. A full memtable becomes a *sstable*: a Blob of
//! sorted blocks, at level 0. Sstables of level 0 may overlap, the newest wins; each deeper level is one sorted run, ten times as large as the one above,
//! made of sstables that do not overlap. Merging takes some sstables of one level and replaces what they overlap in the next, one sstable at a time, so it
//! needs a few megabytes of room however large the store is, and a crash between two steps only leaves work to be done again.
//!
//! - `block`, `filter`, `sstable`: bytes; - `levels`: which sstables there are; - `read`, `cache`: reading; - `commit`: the group commit, roll-back;
//! - `prefetch`: the first reads after an opening; - `flush`, `compaction`: sstables in the background; - `space`: what happens when storage is full;
//! - `backend`: what the place below has to do.

mod backend;
mod block;
mod cache;
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
