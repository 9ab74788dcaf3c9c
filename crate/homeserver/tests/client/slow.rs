//! A store whose reads take a turn, as real ones do: what runs at once interleaves at every one of
//! them.

use crate::support::turn;
use ephapse_store::{Batch, Bytes, Chunks, Direction, LocalBoxFuture, MemoryStore, Stats, Store, StoreError};
use std::ops::Range;

/// A store in memory with slow reads.
#[derive(Default)]
pub struct SlowStore(MemoryStore);

impl Store for SlowStore {
    fn get_many<'a>(&'a self, keys: &'a [Vec<u8>]) -> LocalBoxFuture<'a, Result<Vec<Option<Bytes>>, StoreError>> {
        Box::pin(async move {
            let found = self.0.get_many(keys).await;
            turn().await;
            found
        })
    }

    fn scan(&self, range: Range<Vec<u8>>, direction: Direction, limit: usize) -> LocalBoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        Box::pin(async move {
            let found = self.0.scan(range, direction, limit).await;
            turn().await;
            found
        })
    }

    fn commit(&self, batch: Batch) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        self.0.commit(batch)
    }

    fn barrier(&self) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        self.0.barrier()
    }

    fn generation(&self) -> u64 {
        self.0.generation()
    }

    fn chunks(&self) -> &dyn Chunks {
        self.0.chunks()
    }

    fn stats(&self) -> Stats {
        self.0.stats()
    }

    fn close(&self) -> LocalBoxFuture<'_, Result<(), StoreError>> {
        self.0.close()
    }
}
