//! [`IndexedDbStore`]: the log-structured store above one IndexedDB database, in a service worker,
//! a dedicated worker or a window.
//!
//! - `database`: versions, requests and transactions as futures
//! - `opening`: what is read first, and who may write
//! - `backend`: which record goes where
//! - `chunks`: what is too large for the log
//!
//! The database has these object stores: `meta` (`epoch`, `content`, `blobs`, and `note`, which is
//! the prefetch list), `log`, `segments` (the records of sstables), `blobs`, `pages` for engines
//! that keep no Blobs, and `chunks`. Its version is the store's format. Every transaction that
//! writes asks for strict durability.

mod backend;
mod chunks;
mod database;
mod opening;

pub use crate::log_structured::Options;

use crate::{Batch, Bytes, Chunks, Direction, LocalBoxFuture, Stats, Store, StoreError, log_structured::LogStructured};
use backend::IndexedDb;
use std::{ops::Range, rc::Rc};

/// A store in an IndexedDB database of its own.
pub struct IndexedDbStore {
    store: Rc<LogStructured<IndexedDb>>,
}

impl IndexedDbStore {
    /// Opens the database `name`, and makes it if it is not there. Whoever had it open can no
    /// longer write.
    ///
    /// # Errors
    /// [`StoreError::NewerFormat`], with nothing changed. [`StoreError::Platform`] when the browser
    /// gives no storage.
    pub async fn open(name: &str) -> Result<Self, StoreError> {
        Self::open_with(name, Options::default()).await
    }

    /// [`IndexedDbStore::open`] with options.
    ///
    /// # Errors
    /// As [`IndexedDbStore::open`].
    pub async fn open_with(name: &str, options: Options) -> Result<Self, StoreError> {
        let (backend, loaded) = IndexedDb::open(name, &options).await?;
        let released = backend.on_release();
        let store = Rc::new(LogStructured::new(backend, loaded, options)?);
        let weak = Rc::downgrade(&store);
        released.replace(Some(Box::new(move || {
            if let Some(store) = weak.upgrade() {
                store.release();
            }
        })));
        Ok(Self { store })
    }

    /// Deletes the database `name` and everything in it.
    ///
    /// # Errors
    /// What the browser says.
    pub async fn delete(name: &str) -> Result<(), StoreError> {
        database::delete(name).await
    }

    /// Whether ordinary batches are refused because storage is full. Those marked with
    /// [`Batch::set_frees_space`] are still taken.
    pub fn is_full(&self) -> bool {
        self.store.is_full()
    }

    /// Drops every cached block. No answer changes.
    pub fn drop_cache(&self) {
        self.store.drop_cache();
    }

    /// Ends when background work (flush, compaction, cleanup) has nothing left to do.
    pub async fn settled(&self) {
        self.store.settled().await;
    }
}

impl Store for IndexedDbStore {
    fn get_many<'a>(&'a self, keys: &'a [Vec<u8>]) -> LocalBoxFuture<'a, Result<Vec<Option<Bytes>>, StoreError>> {
        self.store.get_many(keys)
    }

    fn scan(&self, range: Range<Vec<u8>>, direction: Direction, limit: usize) -> LocalBoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        self.store.scan(range, direction, limit)
    }

    fn commit(&self, batch: Batch) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        self.store.commit(batch)
    }

    fn barrier(&self) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        self.store.barrier()
    }

    fn generation(&self) -> u64 {
        self.store.generation()
    }

    fn chunks(&self) -> &dyn Chunks {
        self.store.chunks()
    }

    fn stats(&self) -> Stats {
        self.store.stats()
    }

    fn close(&self) -> LocalBoxFuture<'_, Result<(), StoreError>> {
        self.store.close()
    }
}
