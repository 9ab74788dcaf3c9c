//! [`IndexedDbStore`]: the log-structured store above one IndexedDB database, in a service worker, a dedicated worker or a window.
//!
//! - `database`: versions, requests and transactions as futures; - `opening`: what is read first, and who may write; - `backend`: which record goes where;
//! - `chunks`: what is too large for the log.
//!
//! The database has the object stores `meta` (`epoch`, `content`, `blobs`, `note`), `log`, `segments`, `blobs`, and `pages` for engines that cannot keep Blobs, and
//! `chunks`. Its version is the store's format. Every writing transaction asks for strict durability.

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
    /// Opens the database `name`, making it if it is not there, and takes it over from whoever had it open for writing.
    ///
    /// # Errors
    /// [`StoreError::NewerFormat`], with nothing changed; [`StoreError::Platform`] when the browser gives no storage.
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

    /// Whether ordinary batches are refused because storage is full; those marked with [`Batch::set_frees_space`] are still taken.
    pub fn is_full(&self) -> bool {
        self.store.is_full()
    }

    /// Drops every block kept in memory; no answer changes.
    pub fn drop_cache(&self) {
        self.store.drop_cache();
    }

    /// Ends when background work (flushing, merging, tidying) has nothing left to do.
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
