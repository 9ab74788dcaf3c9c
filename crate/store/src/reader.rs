//! The reading half of a store.

use crate::{Bytes, Chunks, Direction, LocalBoxFuture, Stats, Store, StoreError};
use std::{ops::Range, rc::Rc};

/// A store that is only read: who holds this has no way to commit.
#[derive(Clone)]
pub struct Reader(Rc<dyn Store>);

impl Reader {
    /// Reads of `store`.
    pub fn new(store: Rc<dyn Store>) -> Self {
        Self(store)
    }

    /// As [`Store::get_many`].
    pub fn get_many<'a>(&'a self, keys: &'a [Vec<u8>]) -> LocalBoxFuture<'a, Result<Vec<Option<Bytes>>, StoreError>> {
        self.0.get_many(keys)
    }

    /// As [`Store::scan`].
    pub fn scan(&self, range: Range<Vec<u8>>, direction: Direction, limit: usize) -> LocalBoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        self.0.scan(range, direction, limit)
    }

    /// As [`Store::generation`].
    pub fn generation(&self) -> u64 {
        self.0.generation()
    }

    /// As [`Store::chunks`]: they lie beside the map, and are put and deleted there.
    pub fn chunks(&self) -> &dyn Chunks {
        self.0.chunks()
    }

    /// As [`Store::stats`].
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}
