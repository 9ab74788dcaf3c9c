//! An sstable that is in memory as a whole, to be merged.

use super::{
    backend::Backend,
    block::Block,
    sstable::{Index, Sstable},
    state::Core,
};
use crate::{Direction, StoreError, codec::Damaged, memtable::RangeTombstones, merge::Entry};
use std::ops::Range;

pub(super) struct LoadedSstable {
    /// What it deletes of older ones.
    pub(super) range_tombstones: RangeTombstones,
    /// None where it has no points.
    blocks: Option<(Index, Vec<Block>)>,
}

impl<B: Backend> Core<B> {
    /// Reads an sstable as a whole. For the browser a part of a Blob is a Blob of its own, and
    /// making that takes longer than reading the other bytes.
    pub(super) async fn load(&self, sstable: &Sstable) -> Result<LoadedSstable, StoreError> {
        let range_tombstones = sstable.range_tombstones.clone();
        if sstable.points == 0 {
            return Ok(LoadedSstable { range_tombstones, blocks: None });
        }
        let bytes = self.backend.read_blob(sstable.id, 0..sstable.length).await?;
        if bytes.len() < sstable.index_at as usize {
            return Err(Damaged("a Blob shorter than its record says").into());
        }
        let index = Index::read(bytes.slice(sstable.index_at as usize..))?;
        let blocks = index.split(0..index.blocks(), &bytes)?;
        Ok(LoadedSstable { range_tombstones, blocks: Some((index, blocks)) })
    }
}

impl LoadedSstable {
    /// Bytes of the blocks that may hold entries of `part`.
    pub(super) fn bytes(&self, part: &Range<Vec<u8>>) -> usize {
        self.blocks.as_ref().map_or(0, |(index, _)| index.byte_range(index.blocks_of(part)).len())
    }

    /// The entries of `part`, in order.
    pub(super) fn entries(&self, part: Range<Vec<u8>>) -> impl Iterator<Item = Result<Entry, Damaged>> + '_ {
        let blocks = self.blocks.as_ref().map_or(&[][..], |(index, blocks)| &blocks[index.blocks_of(&part)]);
        blocks.iter().flat_map(move |block| block.entries(part.clone(), Direction::Forward))
    }
}
