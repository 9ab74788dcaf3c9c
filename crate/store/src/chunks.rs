//! Chunks: large pieces that never change, beside the ordered map. The map says which of them are
//! wanted.
//!
//! A chunk is written before the map refers to it, and a crash in between must not leave it behind
//! unknown. So before one is put, the map records durably that it may be there.

use crate::{Bytes, LocalBoxFuture, StoreError};
use std::ops::Range;

/// The SHA-256 of a chunk's bytes.
pub type ChunkId = [u8; 32];

/// Bytes that a chunk has at most.
pub const LARGEST_CHUNK: usize = 1 << 20;

/// Chunks of a store. Only its last opening may change them.
pub trait Chunks {
    /// Writes a chunk, all or nothing; durable when the future ends. One that is there already is
    /// left as it is.
    ///
    /// # Errors
    /// [`StoreError::QuotaExceeded`] when there is no room for it.
    fn put(&self, id: ChunkId, bytes: Bytes) -> LocalBoxFuture<'static, Result<(), StoreError>>;

    /// A part of a chunk; `None` when the chunk is not there.
    ///
    /// # Errors
    /// [`StoreError::Platform`] when the chunk is shorter than that.
    fn read(&self, id: ChunkId, part: Range<u32>) -> LocalBoxFuture<'static, Result<Option<Bytes>, StoreError>>;

    /// Deletes chunks, durably when the future ends. Those that are not there are no error.
    fn delete(&self, ids: Vec<ChunkId>) -> LocalBoxFuture<'static, Result<(), StoreError>>;

    /// Bytes of all chunks: those of [`crate::Stats::bytes_stored`] that are not the map's.
    /// Natively they are counted after the opening, before the first write of a chunk.
    fn bytes(&self) -> u64;
}

/// A part of a chunk that is in memory as a whole.
pub(crate) fn part_of(chunk: &Bytes, part: &Range<u32>) -> Result<Bytes, StoreError> {
    let (start, end) = (part.start as usize, part.end as usize);
    if start > end || end > chunk.len() {
        return Err(shorter());
    }
    Ok(chunk.slice(start..end))
}

/// What is said of a chunk that ends before the part that is wanted of it.
pub(crate) fn shorter() -> StoreError {
    StoreError::Platform("a chunk is shorter than it should be".to_owned())
}

/// A chunk's name where names are text.
pub(crate) fn name(id: &ChunkId) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    id.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}
