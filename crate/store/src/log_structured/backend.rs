//! What the log-structured store asks of the storage below it.

use crate::{Bytes, Chunks, LocalBoxFuture, StoreError};
use std::ops::Range;

/// A Blob that is kept only so that it can be deleted when storage is full.
pub(super) const RESERVE_BLOB: u64 = 0;

/// A Blob that is put and deleted again, to see whether there is room or whether Blobs are kept.
pub(crate) const PROBE_BLOB: u64 = 1;

/// Whether a Blob only takes room and is never read.
pub(crate) fn is_placeholder(id: u64) -> bool {
    id <= PROBE_BLOB
}

/// Changes of small records, written all or nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transaction {
    /// Log records to set and their numbers. A record is at most 60 KB of encoded batches.
    pub(crate) put_log: Vec<(u64, Bytes)>,
    /// Deletes the log up to and including this number.
    pub(crate) delete_log: Option<u64>,
    /// Sstable records to set.
    pub(crate) put_sstables: Vec<(u64, Bytes)>,
    /// Sstable records to delete.
    pub(crate) delete_sstables: Vec<u64>,
    /// What the next opening gets as `Loaded::prefetch_list`.
    pub(crate) put_prefetch_list: Option<Bytes>,
}

/// What the storage held when it was opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loaded {
    /// Counts the openings. Every transaction checks that its opening is still the last one.
    pub(crate) epoch: u64,
    /// Storage is full: not even the epoch could be put. The first write that fits has to do it.
    pub(crate) full: bool,
    /// The log in order.
    pub(crate) log: Vec<(u64, Bytes)>,
    /// The sstable records.
    pub(crate) sstables: Vec<(u64, Bytes)>,
    /// The note that was put last; empty when there is none.
    pub(crate) prefetch_list: Bytes,
}

/// Storage with atomic, durable transactions of small records, and with Blobs beside them. It keeps
/// chunks too, with which the store above has nothing to do.
///
/// The store awaits every future at once, so work may start with the first poll.
pub(crate) trait Backend: Chunks + 'static {
    /// Writes durably, all or nothing, if this opening is the last one.
    fn write(&self, transaction: Transaction) -> LocalBoxFuture<'static, Result<(), StoreError>>;

    /// Writes a Blob durably. It is not fenced: its number is this opening's own, and nothing
    /// refers to it yet.
    fn put_blob(&self, id: u64, parts: Vec<Bytes>) -> LocalBoxFuture<'static, Result<(), StoreError>>;

    /// Deletes Blobs. Those that are not there are no error.
    fn delete_blobs(&self, ids: Vec<u64>) -> LocalBoxFuture<'static, Result<(), StoreError>>;

    /// Makes the platform free the space of deleted Blobs soon, because storage is full.
    fn force_reclaim(&self) -> LocalBoxFuture<'static, ()>;

    /// Every Blob there is.
    fn blobs(&self) -> LocalBoxFuture<'static, Result<Vec<u64>, StoreError>>;

    /// Fetches together what it takes to read these Blobs, because that will happen soon. Those
    /// that are not there are no error.
    fn prepare_reads(&self, blobs: Vec<u64>) -> LocalBoxFuture<'static, ()>;

    /// A part of a Blob.
    fn read_blob(&self, id: u64, part: Range<u32>) -> LocalBoxFuture<'static, Result<Bytes, StoreError>>;

    /// Runs a task beside the caller.
    fn spawn(&self, task: LocalBoxFuture<'static, ()>);

    /// Lets others run, for at least so many milliseconds.
    fn pause(&self, milliseconds: u32) -> LocalBoxFuture<'static, ()>;

    /// A clock in milliseconds that never goes back.
    fn now(&self) -> f64;

    /// Releases the storage.
    fn close(&self);
}
