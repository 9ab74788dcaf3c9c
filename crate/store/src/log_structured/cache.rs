//! Blocks and indexes in memory. The least recently used go first.

use super::{block::Block, sstable::Index};
use hashlink::LruCache;
use std::{collections::HashMap, rc::Rc};

/// An sstable and the number of a block, or [`INDEX`].
pub(super) type CacheKey = (u64, u32);

/// The number for an sstable's index.
pub(super) const INDEX: u32 = u32::MAX;

#[derive(Clone, Debug)]
pub(super) enum Cached {
    Block(Block),
    Index(Rc<Index>),
}

impl Cached {
    fn bytes(&self) -> usize {
        match self {
            Self::Block(block) => block.bytes(),
            Self::Index(index) => index.bytes(),
        }
    }
}

/// What one read has fetched, kept until the read ends whatever the cache drops.
pub(super) type Pins = HashMap<CacheKey, Cached>;

#[derive(Debug)]
pub(super) struct Cache {
    entries: LruCache<CacheKey, Cached>,
    bytes: usize,
    limit: usize,
}

impl Cache {
    pub(super) fn new(limit: usize) -> Self {
        Self { entries: LruCache::new_unbounded(), bytes: 0, limit }
    }

    pub(super) fn get(&mut self, key: CacheKey) -> Option<Cached> {
        self.entries.get(&key).cloned()
    }

    pub(super) fn insert(&mut self, key: CacheKey, cached: Cached) {
        if cached.bytes() > self.limit / 4 {
            // One large value must not push everything else out.
            return;
        }
        self.bytes += cached.bytes();
        if let Some(old) = self.entries.insert(key, cached) {
            self.bytes -= old.bytes();
        }
        while self.bytes > self.limit
            && let Some((_, old)) = self.entries.remove_lru()
        {
            self.bytes -= old.bytes();
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
