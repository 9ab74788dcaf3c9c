//! What `tests/browser/store.test.mjs` calls in a real browser: the store's conformance suite on
//! IndexedDB, room, fences, and measurements.
//!
//! A failed check panics; the panic hook writes it to the console, and the page tells the test.
#![cfg(target_arch = "wasm32")]

mod measure;

use ephapse_store::{
    Batch, CrashPoint, Direction, Faults, IndexedDbOptions, IndexedDbStore, LocalBoxFuture, Op, Store, StoreError,
    conformance::{self, Script, Storage},
};
use std::cell::Cell;
use wasm_bindgen::prelude::*;

struct InBrowser {
    name: String,
    options: IndexedDbOptions,
}

impl InBrowser {
    /// Small sizes, so that short scripts reach deep levels.
    fn small(name: String, blobs: bool) -> Self {
        let options = IndexedDbOptions {
            content_format: 1,
            flush_bytes: 20_000,
            idle_flush_bytes: 10_000,
            idle_flush_ms: 0,
            log_bypass_bytes: 12_000,
            block_bytes: 4_000,
            sstable_bytes: 30_000,
            level_one_bytes: 60_000,
            cache_bytes: 40_000,
            reserve_bytes: 10_000,
            startup_compaction_delay_ms: 0,
            compaction_delay_ms: 20,
            blobs,
            faults: Faults::default(),
        };
        Self { name, options }
    }
}

impl Storage for InBrowser {
    type Store = IndexedDbStore;

    fn open(&self, faults: Faults) -> LocalBoxFuture<'_, Result<IndexedDbStore, StoreError>> {
        Box::pin(async { IndexedDbStore::open_with(&self.name, IndexedDbOptions { faults, ..self.options.clone() }).await })
    }

    fn settle<'a>(&'a self, store: &'a IndexedDbStore) -> LocalBoxFuture<'a, ()> {
        Box::pin(store.settled())
    }
}

fn text(error: StoreError) -> JsValue {
    JsValue::from_str(&error.to_string())
}

fn one(key: &str, bytes: usize) -> Batch {
    let mut batch = Batch::new();
    // Nothing that the browser could compress: a test of room must know how much it takes.
    let mut state = key.bytes().fold(0x9e37_79b9u32, |state, byte| state.rotate_left(5) ^ u32::from(byte)) | 1;
    let noise = std::iter::from_fn(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        Some(state as u8)
    });
    batch.put(key.as_bytes().to_vec(), noise.take(bytes).collect::<Vec<u8>>());
    batch
}

/// Prints panics on the console.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
}

/// Runs a script of `steps` steps drawn from `seed` against the model.
#[wasm_bindgen]
pub async fn behaves_like_a_map(name: String, seed: u32, steps: usize, blobs: bool) {
    let storage = InBrowser::small(name, blobs);
    conformance::behaves_like_a_map(&storage, &Script::from_seed(seed.into(), steps)).await;
}

/// Crashes at every point of a script in turn and returns the names of the points.
#[wasm_bindgen]
pub async fn survives_crashes(name: String, seed: u32, steps: usize, together: usize) -> Vec<String> {
    let runs = Cell::new(0);
    let fresh = async || {
        runs.set(runs.get() + 1);
        // One name, deleted each time: hundreds of databases slow a browser down.
        IndexedDbStore::delete(&name).await.expect("deletes");
        InBrowser::small(name.clone(), true)
    };
    let hit = conformance::survives_crashes(fresh, &Script::from_seed(seed.into(), steps), together).await;
    hit.into_iter().map(|point: CrashPoint| format!("{point:?}")).collect()
}

/// Lets every write of a script fail in turn.
#[wasm_bindgen]
pub async fn rolls_back_failed_writes(name: String, seed: u32, steps: usize) {
    let fresh = async || {
        IndexedDbStore::delete(&name).await.expect("deletes");
        InBrowser::small(name.clone(), true)
    };
    conformance::rolls_back_failed_writes(fresh, &Script::from_seed(seed.into(), steps)).await;
}

/// Puts, reads and deletes chunks.
#[wasm_bindgen]
pub async fn keeps_chunks(name: String, blobs: bool) {
    conformance::keeps_chunks(&InBrowser::small(name, blobs)).await;
}

/// Crashes at every point at which chunks are written or deleted, and returns the names of the
/// points.
#[wasm_bindgen]
pub async fn chunks_survive_crashes(name: String, blobs: bool) -> Vec<String> {
    let fresh = async || {
        IndexedDbStore::delete(&name).await.expect("deletes");
        InBrowser::small(name.clone(), blobs)
    };
    let hit = conformance::chunks_survive_crashes(fresh).await;
    hit.into_iter().map(|point: CrashPoint| format!("{point:?}")).collect()
}

/// Opens a database twice. Says whether the older one could put a chunk before the newer one was
/// opened, whether it could put and delete chunks afterwards, and what is there then.
#[wasm_bindgen]
pub async fn two_openings_with_chunks(name: String) -> Result<Vec<String>, JsValue> {
    let bytes = || vec![7; 70_000].into();
    let old = IndexedDbStore::open(&name).await.map_err(text)?;
    let before = old.chunks().put([1; 32], bytes()).await;
    let new = IndexedDbStore::open(&name).await.map_err(text)?;
    let after = [old.chunks().put([2; 32], bytes()).await, old.chunks().delete(vec![[1; 32]]).await];
    let there = [new.chunks().read([1; 32], 0..9).await, new.chunks().read([2; 32], 0..9).await];
    let said = [before].into_iter().chain(after).map(|answer| format!("{answer:?}"));
    Ok(said.chain(there.into_iter().map(|found| format!("{:?}", found.map(|found| found.map(|bytes| bytes.len()))))).collect())
}

/// Opens a database twice. Says what each then answers to a commit, and which keys are there.
#[wasm_bindgen]
pub async fn two_openings(name: String) -> Result<Vec<String>, JsValue> {
    let old = IndexedDbStore::open(&name).await.map_err(text)?;
    old.commit(one("old", 10)).await.map_err(text)?;
    let new = IndexedDbStore::open(&name).await.map_err(text)?;
    let answers = [old.commit(one("older", 10)).await, new.commit(one("new", 10)).await];
    let keys = conformance::dump(&new).await.map_err(text)?.into_keys().map(|key| String::from_utf8_lossy(&key).into_owned());
    Ok(answers.into_iter().map(|answer| format!("{answer:?}")).chain(keys).collect())
}

/// A store that a test drives from the page.
#[wasm_bindgen]
pub struct Driven {
    store: IndexedDbStore,
}

#[wasm_bindgen]
impl Driven {
    /// Opens the database with the sizes of the product, for content of this format.
    pub async fn open(name: String, content_format: Option<u32>) -> Result<Driven, JsValue> {
        let options = IndexedDbOptions { content_format: content_format.unwrap_or(1), ..IndexedDbOptions::default() };
        Ok(Self { store: IndexedDbStore::open_with(&name, options).await.map_err(|error| JsValue::from_str(&format!("{error:?}")))? })
    }

    /// Commits one key and says how it went.
    pub async fn put(&self, key: String, bytes: usize) -> String {
        format!("{:?}", self.store.commit(one(&key, bytes)).await)
    }

    /// Deletes keys from `start` up to `end` in a batch that makes room.
    pub async fn delete_range(&self, start: String, end: String) -> String {
        let mut batch = Batch::new();
        batch.delete_range(start.into_bytes()..end.into_bytes());
        batch.set_frees_space();
        format!("{:?}", self.store.commit(batch).await)
    }

    /// How many keys there are from `start` up to `end`.
    pub async fn count(&self, start: String, end: String) -> Result<usize, JsValue> {
        let found = self.store.scan(start.into_bytes()..end.into_bytes(), Direction::Forward, usize::MAX).await;
        found.map(|found| found.len()).map_err(text)
    }

    /// Puts a chunk and says how it went.
    pub async fn put_chunk(&self, number: u8, bytes: usize) -> String {
        let batch = one(&number.to_string(), bytes);
        let [Op::Put(_, noise)] = batch.ops() else { return String::new() };
        format!("{:?}", self.store.chunks().put([number; 32], noise.clone()).await)
    }

    /// Deletes a chunk and says how it went.
    pub async fn delete_chunk(&self, number: u8) -> String {
        format!("{:?}", self.store.chunks().delete(vec![[number; 32]]).await)
    }

    /// Waits for background work.
    pub async fn settled(&self) {
        self.store.settled().await;
    }

    /// Whether ordinary batches are refused.
    pub fn is_full(&self) -> bool {
        self.store.is_full()
    }

    /// Closes the store.
    pub async fn close(&self) -> Result<(), JsValue> {
        self.store.close().await.map_err(text)
    }
}
