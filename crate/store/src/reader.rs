//! The reading half of a store.

use crate::{Bytes, Chunks, Direction, LocalBoxFuture, Stats, Store, StoreError};
use std::{fmt::Display, ops::Range, rc::Rc};

/// A store that is only read: who holds this has no way to commit.
#[derive(Clone)]
pub struct Reader {
    store: Rc<dyn Store>,
    log: fn(&dyn Display),
}

impl Reader {
    /// Reads of `store`. What is damaged and left out is an error in the log (`tracing`).
    pub fn new(store: Rc<dyn Store>) -> Self {
        Self::logging(store, |what| tracing::error!("{what}"))
    }

    /// As [`Self::new`], with a log of its own.
    pub fn logging(store: Rc<dyn Store>, log: fn(&dyn Display)) -> Self {
        Self { store, log }
    }

    /// Says in the log what is damaged, and what became of it.
    pub fn log_damage(&self, what: &dyn Display) {
        (self.log)(what);
    }

    /// As [`Store::get_many`].
    pub fn get_many<'a>(&'a self, keys: &'a [Vec<u8>]) -> LocalBoxFuture<'a, Result<Vec<Option<Bytes>>, StoreError>> {
        self.store.get_many(keys)
    }

    /// As [`Store::scan`].
    pub fn scan(&self, range: Range<Vec<u8>>, direction: Direction, limit: usize) -> LocalBoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        self.store.scan(range, direction, limit)
    }

    /// As [`Store::generation`].
    pub fn generation(&self) -> u64 {
        self.store.generation()
    }

    /// As [`Store::chunks`]: they lie beside the map, and are put and deleted there.
    pub fn chunks(&self) -> &dyn Chunks {
        self.store.chunks()
    }

    /// As [`Store::stats`].
    pub fn stats(&self) -> Stats {
        self.store.stats()
    }
}
