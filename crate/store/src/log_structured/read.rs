//! Reading: memtables first, then sstables from new to old through the block cache.
//!
//! An attempt runs without waiting, on the state of that moment, and records the blocks that it
//! misses. Those are fetched together, and the attempt is made again. So a read returns one state
//! of the store, and a read of what is cached makes no call to the platform.

use super::{
    backend::Backend,
    block::Block,
    cache::{Cached, INDEX, Pins},
    filter,
    sstable::{Index, Sstable},
    state::{Core, State},
};
use crate::{
    Bytes, Direction, StoreError,
    codec::Damaged,
    memtable::Lookup,
    merge::{Entry, Merge, Source},
};
use futures_util::future::try_join_all;
use std::{cell::RefCell, collections::BTreeMap, ops::Range, rc::Rc};

/// At most so many blocks of an sstable are fetched together.
const MAX_READAHEAD: usize = 32;

/// Why an attempt did not end.
#[derive(Debug)]
pub(super) enum Miss {
    /// Blocks have to be fetched. They are recorded in `missing`.
    Fetch,
    Damaged(Damaged),
}

impl From<Damaged> for Miss {
    fn from(damaged: Damaged) -> Self {
        Self::Damaged(damaged)
    }
}

enum Missing {
    Index(Rc<Sstable>),
    Blocks(Rc<Sstable>, Rc<Index>, Range<usize>),
}

/// What one attempt sees.
pub(super) struct View<'a, B> {
    core: &'a Core<B>,
    state: &'a State,
    pins: &'a Pins,
    missing: RefCell<BTreeMap<(u64, u32), Missing>>,
    readahead: usize,
}

impl<B: Backend> Core<B> {
    /// The values of `keys`.
    pub(super) async fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.read(|view| view.get_many(keys)).await
    }

    /// The live entries of `range`.
    pub(super) async fn scan(&self, range: Range<Vec<u8>>, direction: Direction, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if range.start >= range.end {
            return self.read(|_| Ok(Vec::new())).await;
        }
        self.read(|view| view.scan(&range, direction, limit)).await
    }

    async fn read<T>(&self, attempt: impl Fn(&View<'_, B>) -> Result<T, Miss>) -> Result<T, StoreError> {
        let (mut pins, mut readahead) = (Pins::new(), 1);
        loop {
            let missing = {
                let state = self.state.borrow();
                state.check_readable()?;
                let view = View { core: self, state: &state, pins: &pins, missing: RefCell::default(), readahead };
                match attempt(&view) {
                    Ok(found) => return Ok(found),
                    Err(Miss::Damaged(damaged)) => return Err(damaged.into()),
                    Err(Miss::Fetch) => view.missing.into_inner(),
                }
            };
            for (key, cached) in try_join_all(missing.into_values().map(|missing| self.fetch(missing))).await?.into_iter().flatten() {
                self.cache.borrow_mut().insert(key, cached.clone());
                pins.insert(key, cached);
            }
            readahead = (readahead * 2).min(MAX_READAHEAD);
        }
    }

    async fn fetch(&self, missing: Missing) -> Result<Vec<((u64, u32), Cached)>, StoreError> {
        match missing {
            Missing::Index(sstable) => {
                let index = self.fetch_index(&sstable).await?;
                Ok(vec![((sstable.id, INDEX), Cached::Index(index))])
            }
            Missing::Blocks(sstable, index, blocks) => {
                let bytes = self.read_part(sstable.id, index.byte_range(blocks.clone())).await?;
                // Several blocks share one buffer. The cache must not keep it for the sake of one
                // block.
                let alone = blocks.len() == 1;
                let cut = index.split(blocks.clone(), &bytes)?;
                let block = |block: Block| Cached::Block(if alone { block } else { block.copied() });
                Ok(blocks.zip(cut).map(|(at, cut)| ((sstable.id, at as u32), block(cut))).collect())
            }
        }
    }

    /// An sstable's index, from the cache or the Blob.
    pub(super) async fn fetch_index(&self, sstable: &Sstable) -> Result<Rc<Index>, StoreError> {
        if let Some(Cached::Index(index)) = self.cache.borrow_mut().get((sstable.id, INDEX)) {
            return Ok(index);
        }
        let bytes = self.read_part(sstable.id, sstable.index_at..sstable.length).await?;
        let index = Rc::new(Index::read(bytes)?);
        self.cache.borrow_mut().insert((sstable.id, INDEX), Cached::Index(index.clone()));
        Ok(index)
    }
}

impl<'a, B: Backend> View<'a, B> {
    fn cached(&self, key: (u64, u32)) -> Option<Cached> {
        self.pins.get(&key).cloned().or_else(|| self.core.cache.borrow_mut().get(key))
    }

    fn index(&self, sstable: &Rc<Sstable>) -> Result<Rc<Index>, Miss> {
        let key = (sstable.id, INDEX);
        if let Some(Cached::Index(index)) = self.cached(key) {
            return Ok(index);
        }
        self.missing.borrow_mut().insert(key, Missing::Index(sstable.clone()));
        Err(Miss::Fetch)
    }

    /// A block. If it has to be fetched, the blocks of `readahead` are fetched with it.
    fn block(&self, sstable: &Rc<Sstable>, index: &Rc<Index>, block: usize, readahead: Range<usize>) -> Result<Block, Miss> {
        if let Some(Cached::Block(block)) = self.cached((sstable.id, block as u32)) {
            return Ok(block);
        }
        self.missing.borrow_mut().insert((sstable.id, block as u32), Missing::Blocks(sstable.clone(), index.clone(), readahead));
        Err(Miss::Fetch)
    }

    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, Miss> {
        let found: Vec<Result<Lookup, Miss>> = keys.iter().map(|key| self.get(key)).collect();
        found.into_iter().map(|found| found.map(Lookup::into_value)).collect()
    }

    fn get(&self, key: &[u8]) -> Result<Lookup, Miss> {
        let found = self.state.queue.lookup(key);
        if found != Lookup::NotFound {
            return Ok(found);
        }
        let hash = filter::hash(key);
        let mut candidates = self.state.levels.candidates(key);
        while let Some(sstable) = candidates.next() {
            let found = self.get_in(sstable, key, hash);
            if let Err(Miss::Fetch) = found {
                // The older sstables may be asked next, so their indexes are fetched too.
                candidates.filter(|sstable| sstable.points > 0).for_each(|sstable| drop(self.index(sstable)));
                return Err(Miss::Fetch);
            }
            match found? {
                Lookup::NotFound if sstable.range_tombstones.covers(key) => return Ok(Lookup::Deleted),
                Lookup::NotFound => {}
                found => return Ok(found),
            }
        }
        Ok(Lookup::NotFound)
    }

    fn get_in(&self, sstable: &Rc<Sstable>, key: &[u8], hash: u64) -> Result<Lookup, Miss> {
        if sstable.points == 0 {
            return Ok(Lookup::NotFound);
        }
        let index = self.index(sstable)?;
        let Some(block) = index.block_for(key, hash) else { return Ok(Lookup::NotFound) };
        Ok(self.block(sstable, &index, block, block..block + 1)?.get(key)?)
    }

    fn scan(&self, range: &Range<Vec<u8>>, direction: Direction, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Miss> {
        let mut sources: Vec<Source<'_, Miss>> = self.state.queue.memtables().map(|memtable| memtable.source(range, direction)).collect();
        let whole = Bytes::copy_from_slice(&range.start)..Bytes::copy_from_slice(&range.end);
        for sstable in self.state.levels.level_zero().iter().filter(|sstable| sstable.overlaps(&whole)) {
            let entries = move |part| self.entries(std::slice::from_ref(sstable), part, direction);
            sources.push(Source::new(range, entries, |key| sstable.range_tombstones.covering(key)));
        }
        for level in 1..=self.state.levels.deepest() {
            let run = self.state.levels.overlapping(level, &whole);
            let covering = move |key: &[u8]| self.state.levels.sstable_for(level, key)?.range_tombstones.covering(key);
            sources.push(Source::new(range, move |part| self.entries(run, part, direction), covering));
        }
        let found = Merge::new(sources, range.clone(), direction).live(limit)?;
        // Copies, so that an entry does not keep its block in memory.
        Ok(found.into_iter().map(|(key, value)| (Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value))).collect())
    }

    /// The entries of `part` in sstables that are sorted and do not overlap.
    fn entries<'v>(
        &'v self,
        run: &'v [Rc<Sstable>],
        part: Range<Vec<u8>>,
        direction: Direction,
    ) -> Box<dyn Iterator<Item = Result<Entry, Miss>> + 'v> {
        let sstables: Box<dyn Iterator<Item = &Rc<Sstable>>> = match direction {
            Direction::Forward => Box::new(run.iter()),
            Direction::Backward => Box::new(run.iter().rev()),
        };
        let bounds = part.clone();
        let inside = move |sstable: &&Rc<Sstable>| {
            sstable.points > 0 && sstable.start.as_ref() < bounds.end.as_slice() && bounds.start.as_slice() < sstable.end.as_ref()
        };
        Box::new(sstables.filter(inside).flat_map(move |sstable| self.entries_of(sstable, part.clone(), direction)))
    }

    fn entries_of<'v>(
        &'v self,
        sstable: &'v Rc<Sstable>,
        part: Range<Vec<u8>>,
        direction: Direction,
    ) -> Box<dyn Iterator<Item = Result<Entry, Miss>> + 'v> {
        let index = match self.index(sstable) {
            Ok(index) => index,
            Err(miss) => return Box::new(std::iter::once(Err(miss))),
        };
        let blocks = index.blocks_of(&part);
        Box::new((0..blocks.len()).flat_map(move |nth| -> Box<dyn Iterator<Item = Result<Entry, Miss>>> {
            let (block, readahead) = match direction {
                Direction::Forward => (blocks.start + nth, blocks.start + nth..blocks.end.min(blocks.start + nth + self.readahead)),
                Direction::Backward => {
                    let block = blocks.end - 1 - nth;
                    (block, (block + 1).saturating_sub(self.readahead).max(blocks.start)..block + 1)
                }
            };
            match self.block(sstable, &index, block, readahead) {
                Ok(block) => Box::new(block.entries(part.clone(), direction).map(|entry| entry.map_err(Miss::from))),
                Err(miss) => Box::new(std::iter::once(Err(miss))),
            }
        }))
    }
}
