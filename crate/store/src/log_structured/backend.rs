//! What the log-structured store asks of the place below it.

use crate::{Bytes, Chunks, LocalBoxFuture, StoreError};
use std::ops::Range;

/// The Blob that is kept only so that it can be deleted when storage is full.
pub(super) const RESERVE_BLOB: u64 = 0;

/// A Blob that is put and deleted again to see whether there is room, or whether Blobs are kept at all.
pub(crate) const PROBE_BLOB: u64 = 1;

/// Whether a Blob is never read.
pub(crate) fn is_placeholder(id: u64) -> bool {
    id <= PROBE_BLOB
}

/// Changes of small records, written all or nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transaction {
    /// Pieces of encoded batches and their numbers, each below 60 KB.
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

/// What an opened place holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loaded {
    /// Counts the openings; every later transaction of this opening checks that it is still the last one.
    pub(crate) epoch: u64,
    /// Storage is full: not even the epoch could be put, and the first write that there is room for has to do it.
    pub(crate) full: bool,
    /// The log in order.
    pub(crate) log: Vec<(u64, Bytes)>,
    /// The sstable records.
    pub(crate) sstables: Vec<(u64, Bytes)>,
    /// The note that was put last; empty when there is none.
    pub(crate) prefetch_list: Bytes,
}

/// A place with atomic durable transactions of small records, Blobs beside them, and chunks, with which the store above has nothing to do.
///
/// Nothing here may wait for the returned future to be polled before it starts, except where the caller awaits it at once, which the store always does.
pub(crate) trait Backend: Chunks + 'static {
    /// Writes durably, all or nothing, if this opening is the last one.
    fn write(&self, transaction: Transaction) -> LocalBoxFuture<'static, Result<(), StoreError>>;

    /// Writes a Blob durably. Nothing refers to it yet, so it is not fenced: its number is this opening's own.
    fn put_blob(&self, id: u64, parts: Vec<Bytes>) -> LocalBoxFuture<'static, Result<(), StoreError>>;

    /// Deletes Blobs; those that are not there are no error.
    fn delete_blobs(&self, ids: Vec<u64>) -> LocalBoxFuture<'static, Result<(), StoreError>>;

    /// Storage is full: the space of deleted Blobs is wanted soon.
    fn force_reclaim(&self) -> LocalBoxFuture<'static, ()>;

    /// Every Blob there is.
    fn blobs(&self) -> LocalBoxFuture<'static, Result<Vec<u64>, StoreError>>;

    /// Parts of these Blobs will be read soon: fetches together what can be. Those that are not there are no error.
    fn prepare_reads(&self, blobs: Vec<u64>) -> LocalBoxFuture<'static, ()>;

    /// A part of a Blob.
    fn read_blob(&self, id: u64, part: Range<u32>) -> LocalBoxFuture<'static, Result<Bytes, StoreError>>;

    /// Runs a task beside the caller.
    fn spawn(&self, task: LocalBoxFuture<'static, ()>);

    /// Lets others run, for at least so many milliseconds.
    fn pause(&self, milliseconds: u32) -> LocalBoxFuture<'static, ()>;

    /// A clock in milliseconds that never goes back.
    fn now(&self) -> f64;

    /// Releases the place.
    fn close(&self);
}
