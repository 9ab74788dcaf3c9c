//! A store in memory, for unit tests.

use crate::{Batch, Bytes, ChunkId, Chunks, Direction, LocalBoxFuture, Op, Stats, Store, StoreError, chunks::part_of};
use std::{cell::RefCell, collections::BTreeMap, future::ready, ops::Range};

#[derive(Default)]
struct Inner {
    map: BTreeMap<Bytes, Bytes>,
    chunks: BTreeMap<ChunkId, Bytes>,
    stats: Stats,
    closed: bool,
}

/// A `BTreeMap` behind the [`Store`] trait; "durable" as long as the process lives.
#[derive(Default)]
pub struct MemoryStore {
    inner: RefCell<Inner>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Inner {
    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed { Err(StoreError::Closed) } else { Ok(()) }
    }

    fn apply(&mut self, batch: &Batch) {
        for op in batch.ops() {
            match op {
                Op::Put(key, value) => {
                    self.map.insert(key.clone(), value.clone());
                }
                Op::Delete(key) => {
                    self.map.remove(key);
                }
                Op::DeleteRange(range) if range.start < range.end => {
                    let covered: Vec<Bytes> = self.map.range(range.clone()).map(|(key, _)| key.clone()).collect();
                    for key in covered {
                        self.map.remove(&key);
                    }
                }
                Op::DeleteRange(_) => {}
            }
        }
    }
}

impl Store for MemoryStore {
    fn get_many<'a>(&'a self, keys: &'a [Vec<u8>]) -> LocalBoxFuture<'a, Result<Vec<Option<Bytes>>, StoreError>> {
        let mut inner = self.inner.borrow_mut();
        inner.stats.keys_read += keys.len() as u64;
        let found = inner.check_open().map(|()| keys.iter().map(|key| inner.map.get(key.as_slice()).cloned()).collect());
        Box::pin(ready(found))
    }

    fn scan(&self, range: Range<Vec<u8>>, direction: Direction, limit: usize) -> LocalBoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        let mut inner = self.inner.borrow_mut();
        let found = inner.check_open().map(|()| {
            if range.start >= range.end {
                return Vec::new();
            }
            let entries = inner.map.range(Bytes::from(range.start)..Bytes::from(range.end)).map(|(k, v)| (k.clone(), v.clone()));
            match direction {
                Direction::Forward => entries.take(limit).collect::<Vec<_>>(),
                Direction::Backward => entries.rev().take(limit).collect(),
            }
        });
        inner.stats.keys_read += found.as_ref().map_or(0, Vec::len) as u64;
        Box::pin(ready(found))
    }

    fn commit(&self, batch: Batch) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let mut inner = self.inner.borrow_mut();
        let done = inner.check_open().map(|()| {
            inner.stats.commits += 1;
            inner.stats.bytes_committed += batch.bytes() as u64;
            inner.apply(&batch);
        });
        Box::pin(ready(done))
    }

    fn barrier(&self) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        Box::pin(ready(self.inner.borrow().check_open()))
    }

    fn generation(&self) -> u64 {
        0
    }

    fn chunks(&self) -> &dyn Chunks {
        self
    }

    fn stats(&self) -> Stats {
        let inner = self.inner.borrow();
        let bytes = self.bytes() + inner.map.iter().map(|(k, v)| (k.len() + v.len()) as u64).sum::<u64>();
        Stats { bytes_stored: bytes, bytes_cached: bytes, ..inner.stats.clone() }
    }

    fn close(&self) -> LocalBoxFuture<'_, Result<(), StoreError>> {
        self.inner.borrow_mut().closed = true;
        Box::pin(ready(Ok(())))
    }
}

impl Chunks for MemoryStore {
    fn put(&self, id: ChunkId, bytes: Bytes) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let mut inner = self.inner.borrow_mut();
        let done = inner.check_open().map(|()| {
            inner.chunks.entry(id).or_insert(bytes);
        });
        Box::pin(ready(done))
    }

    fn read(&self, id: ChunkId, part: Range<u32>) -> LocalBoxFuture<'static, Result<Option<Bytes>, StoreError>> {
        let inner = self.inner.borrow();
        let found = inner.check_open().and_then(|()| inner.chunks.get(&id).map(|chunk| part_of(chunk, &part)).transpose());
        Box::pin(ready(found))
    }

    fn delete(&self, ids: Vec<ChunkId>) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let mut inner = self.inner.borrow_mut();
        let done = inner.check_open().map(|()| {
            for id in ids {
                inner.chunks.remove(&id);
            }
        });
        Box::pin(ready(done))
    }

    fn bytes(&self) -> u64 {
        self.inner.borrow().chunks.values().map(|chunk| chunk.len() as u64).sum()
    }
}
