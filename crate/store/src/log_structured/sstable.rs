//! An sstable: a part of a sorted run, of at most a few megabytes, in one Blob. And the record that
//! describes it.
//!
//! The Blob is blocks, and then an index: the first key and length of each block, and a filter for
//! absent keys. The record has the sstable's bounds, level and range tombstones. So an opening
//! reads records only. An sstable without points has no Blob.

use super::{
    block::{Block, BlockBuilder},
    filter,
};
use crate::{
    Bytes,
    codec::{Damaged, get_bytes, get_length, get_number, put_bytes, put_number},
    memtable::RangeTombstones,
};
use std::ops::Range;

/// What is known of an sstable without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sstable {
    /// The number of the Blob. Of two sstables of level 0, the larger is the newer.
    pub(super) id: u64,
    pub(super) level: u8,
    /// No point or range tombstone lies before this key.
    pub(super) start: Bytes,
    /// No point or range tombstone lies at or after this key.
    pub(super) end: Bytes,
    /// What this sstable deletes of older ones.
    pub(super) range_tombstones: RangeTombstones,
    /// Points, deletions included.
    pub(super) points: u64,
    /// Deletions among the points.
    pub(super) deletions: u64,
    /// Bytes of blocks. The index follows them.
    pub(super) index_at: u32,
    /// Bytes of the Blob.
    pub(super) length: u32,
}

impl Sstable {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = vec![self.level];
        put_bytes(&mut out, &self.start);
        put_bytes(&mut out, &self.end);
        for number in [self.points, self.deletions, self.index_at.into(), self.length.into(), self.range_tombstones.iter().count() as u64] {
            put_number(&mut out, number);
        }
        for (start, end) in self.range_tombstones.iter() {
            put_bytes(&mut out, start);
            put_bytes(&mut out, end);
        }
        out.into()
    }

    pub(super) fn decode(id: u64, mut from: Bytes) -> Result<Self, Damaged> {
        let small = |number: u64| u32::try_from(number).map_err(|_| Damaged("an sstable of more than 4 GiB"));
        let level = from.first().copied().ok_or(Damaged("an empty sstable record"))?;
        from = from.slice(1..);
        let (start, end) = (get_bytes(&mut from)?, get_bytes(&mut from)?);
        let (points, deletions) = (get_number(&mut from)?, get_number(&mut from)?);
        let (index_at, length) = (small(get_number(&mut from)?)?, small(get_number(&mut from)?)?);
        let mut range_tombstones = RangeTombstones::default();
        for _ in 0..get_number(&mut from)? {
            let start = get_bytes(&mut from)?;
            range_tombstones.insert(start..get_bytes(&mut from)?);
        }
        Ok(Self { id, level, start, end, range_tombstones, points, deletions, index_at, length })
    }

    pub(super) fn may_hold(&self, key: &[u8]) -> bool {
        self.start.as_ref() <= key && key < self.end.as_ref()
    }

    pub(super) fn overlaps(&self, range: &Range<Bytes>) -> bool {
        self.start < range.end && range.start < self.end
    }
}

/// Where an sstable's blocks are and which keys it does not hold.
#[derive(Debug)]
pub(super) struct Index {
    first_keys: Vec<Bytes>,
    /// Where each block starts, and then where the last one ends.
    offsets: Vec<u32>,
    filter: Bytes,
    bytes: usize,
}

impl Index {
    pub(super) fn read(mut from: Bytes) -> Result<Self, Damaged> {
        let bytes = from.len();
        let blocks = get_length(&mut from)?;
        let (mut first_keys, mut offsets, mut at) = (Vec::with_capacity(blocks), vec![0], 0u32);
        for _ in 0..blocks {
            first_keys.push(get_bytes(&mut from)?);
            let length = u32::try_from(get_number(&mut from)?).map_err(|_| Damaged("a block of more than 4 GiB"))?;
            at = at.checked_add(length).ok_or(Damaged("blocks of more than 4 GiB"))?;
            offsets.push(at);
        }
        let filter = get_bytes(&mut from)?;
        Ok(Self { first_keys, offsets, filter, bytes })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.first_keys.len() * 48
    }

    pub(super) fn blocks(&self) -> usize {
        self.first_keys.len()
    }

    /// The block that holds `key` if any does. None when the filter says that none does.
    pub(super) fn block_for(&self, key: &[u8], hash: u64) -> Option<usize> {
        filter::may_hold(&self.filter, hash).then(|| self.block_at(key)).flatten()
    }

    /// The last block that starts at or before `key`.
    fn block_at(&self, key: &[u8]) -> Option<usize> {
        self.first_keys.partition_point(|first| first.as_ref() <= key).checked_sub(1)
    }

    /// The blocks that may hold entries of `range`.
    pub(super) fn blocks_of(&self, range: &Range<Vec<u8>>) -> Range<usize> {
        let start = self.block_at(&range.start).unwrap_or(0);
        let end = self.first_keys.partition_point(|first| first.as_ref() < range.end.as_slice());
        start..end.max(start)
    }

    /// Where blocks lie in the Blob.
    pub(super) fn byte_range(&self, blocks: Range<usize>) -> Range<u32> {
        self.offsets[blocks.start]..self.offsets[blocks.end]
    }

    /// Cuts the bytes of several blocks apart.
    pub(super) fn split(&self, blocks: Range<usize>, bytes: &Bytes) -> Result<Vec<Block>, Damaged> {
        let base = self.offsets[blocks.start] as usize;
        blocks
            .map(|block| {
                let (start, end) = (self.offsets[block] as usize - base, self.offsets[block + 1] as usize - base);
                if end > bytes.len() || start > end {
                    return Err(Damaged("a Blob shorter than its index says"));
                }
                Block::read(bytes.slice(start..end))
            })
            .collect()
    }
}

/// An sstable that is being written.
pub(super) struct SstableBuilder {
    block_bytes: usize,
    block: BlockBuilder,
    parts: Vec<Bytes>,
    first_keys: Vec<Bytes>,
    first: Option<Bytes>,
    last: Bytes,
    hashes: Vec<u64>,
    deletions: u64,
    written: usize,
}

/// A finished sstable and the parts of its Blob.
pub(super) struct Built {
    pub(super) sstable: Sstable,
    pub(super) parts: Vec<Bytes>,
}

impl SstableBuilder {
    pub(super) fn new(block_bytes: usize) -> Self {
        Self {
            block_bytes,
            block: BlockBuilder::default(),
            parts: Vec::new(),
            first_keys: Vec::new(),
            first: None,
            last: Bytes::new(),
            hashes: Vec::new(),
            deletions: 0,
            written: 0,
        }
    }

    pub(super) fn push(&mut self, key: &Bytes, value: Option<&Bytes>) {
        if self.block.is_empty() {
            self.first_keys.push(key.clone());
            self.first.get_or_insert_with(|| Bytes::copy_from_slice(key));
        }
        self.block.push(key, value);
        self.hashes.push(filter::hash(key));
        self.deletions += u64::from(value.is_none());
        self.last = key.clone();
        if self.block.len() >= self.block_bytes {
            self.finish_block();
        }
    }

    fn finish_block(&mut self) {
        let block = self.block.finish();
        self.written += block.len();
        self.parts.push(block.into());
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.written + self.block.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The sstable of what was pushed, with these range tombstones.
    ///
    /// It stays in memory, and must not keep the buffers that its entries were read into. So its
    /// keys are copies.
    pub(super) fn finish(mut self, id: u64, level: u8, range_tombstones: RangeTombstones) -> Built {
        if !self.block.is_empty() {
            self.finish_block();
        }
        let mut index = Vec::new();
        put_number(&mut index, self.parts.len() as u64);
        for (first, block) in self.first_keys.iter().zip(&self.parts) {
            put_bytes(&mut index, first);
            put_number(&mut index, block.len() as u64);
        }
        put_bytes(&mut index, &filter::build(&self.hashes));
        let range_tombstones = range_tombstones.copied();
        let after_last = [self.last.as_ref(), &[0]].concat().into();
        let points = self.first.clone().map(|first| first..after_last);
        let ranges = range_tombstones.iter().next().zip(range_tombstones.iter().last()).map(|((start, _), (_, end))| start.clone()..end.clone());
        let bounds = match (points, ranges) {
            (Some(a), Some(b)) => a.start.min(b.start)..a.end.max(b.end),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => Bytes::new()..Bytes::new(),
        };
        let empty = self.hashes.is_empty();
        let length = if empty { 0 } else { self.written + index.len() };
        let mut parts = self.parts;
        if !empty {
            parts.push(index.into());
        }
        let sstable = Sstable {
            id,
            level,
            start: bounds.start,
            end: bounds.end,
            range_tombstones,
            points: self.hashes.len() as u64,
            deletions: self.deletions,
            index_at: if empty { 0 } else { self.written as u32 },
            length: length as u32,
        };
        Built { sstable, parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Direction, memtable::Lookup, merge::Entry};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn all() -> Range<Vec<u8>> {
        Vec::new()..vec![255; 13]
    }

    fn entries() -> impl Strategy<Value = BTreeMap<Vec<u8>, Option<Vec<u8>>>> {
        let key = prop::collection::vec(0..4u8, 0..12);
        prop::collection::btree_map(key, prop::option::of(prop::collection::vec(any::<u8>(), 0..300)), 1..400)
    }

    /// Each sstable kept the buffers that its compaction had read, so memory grew with the store.
    #[test]
    fn an_sstable_keeps_nothing_of_what_it_was_built_from() {
        let buffer = Bytes::from(vec![7; 1_000]);
        let part = |range: Range<usize>| buffer.slice(range);
        let mut builder = SstableBuilder::new(100);
        for length in 1..20 {
            builder.push(&part(0..length), Some(&part(0..50)));
        }
        let mut range_tombstones = RangeTombstones::default();
        range_tombstones.insert(part(0..30)..part(0..40));
        let sstable = builder.finish(1, 0, range_tombstones).sstable;
        assert_eq!((&sstable.start, &sstable.end), (&part(0..1), &part(0..40)));
        assert!(buffer.is_unique());
    }

    proptest! {
        #[test]
        fn what_is_built_is_read(entries in entries(), absent in prop::collection::vec(prop::collection::vec(0..5u8, 0..12), 20)) {
            let mut builder = SstableBuilder::new(1_000);
            let entries: Vec<Entry> = entries.into_iter().map(|(key, value)| (key.into(), value.map(Into::into))).collect();
            entries.iter().for_each(|(key, value)| builder.push(key, value.as_ref()));
            let mut range_tombstones = RangeTombstones::default();
            range_tombstones.insert(Bytes::from_static(b"\x02")..Bytes::from_static(b"\x07"));
            let built = builder.finish(5, 2, range_tombstones);
            let sstable = Sstable::decode(5, built.sstable.encode()).expect("what was encoded");
            prop_assert_eq!(&sstable, &built.sstable);

            let blob = Bytes::from(built.parts.concat());
            prop_assert_eq!(blob.len(), sstable.length as usize);
            let index = Index::read(blob.slice(sstable.index_at as usize..)).expect("an index");
            let blocks = index.split(0..index.blocks(), &blob).expect("blocks");
            let forward: Vec<Entry> = blocks.iter().flat_map(|block| block.entries(all(), Direction::Forward)).collect::<Result<_, _>>().expect("entries");
            prop_assert_eq!(&forward, &entries);
            let mut backward: Vec<Entry> = blocks.iter().rev().flat_map(|block| block.entries(all(), Direction::Backward)).collect::<Result<_, _>>().expect("entries");
            backward.reverse();
            prop_assert_eq!(&backward, &entries);

            let known: BTreeMap<_, _> = entries.iter().cloned().collect();
            for key in known.keys().map(|key| key.to_vec()).chain(absent) {
                let found = match index.block_for(&key, filter::hash(&key)) {
                    Some(block) => blocks[block].get(&key).expect("a block"),
                    None => Lookup::NotFound,
                };
                let wanted = match known.get(key.as_slice()) {
                    Some(Some(value)) => Lookup::Found(value.clone()),
                    Some(None) => Lookup::Deleted,
                    None => Lookup::NotFound,
                };
                prop_assert_eq!(found, wanted);
                prop_assert!(sstable.may_hold(&key) || !known.contains_key(key.as_slice()));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), key in prop::collection::vec(any::<u8>(), 0..5)) {
            let bytes = Bytes::from(bytes);
            let _ = Sstable::decode(1, bytes.clone());
            if let Ok(block) = Block::read(bytes.clone()) {
                let _ = block.get(&key);
                block.entries(all(), Direction::Backward).for_each(drop);
            }
            if let Ok(index) = Index::read(bytes.clone()) {
                let _ = index.block_for(&key, filter::hash(&key));
                let _ = index.split(0..index.blocks(), &bytes);
            }
        }
    }
}
