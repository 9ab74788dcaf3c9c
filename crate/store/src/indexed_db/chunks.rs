//! Chunks in an object store of their own. Each is a Blob, or small values where an engine keeps no
//! Blobs.
//!
//! How many bytes they have is a record beside them, written with each change, so that an opening
//! need not count.
//!
//! Every transaction that changes them checks the epoch, as those of the log do. The object store
//! has a copy of the epoch, so that commits need not wait while a chunk is written.

use super::{
    backend::{IndexedDb, Inner, bytes_of, joined},
    database::{CHUNKS, get, put, read_transaction, request_result, store_error},
};
use crate::{
    Bytes, ChunkId, Chunks, CrashPoint, LocalBoxFuture, StoreError,
    chunks::{name, part_of, shorter},
};
use futures_channel::oneshot;
use js_sys::{Array, Uint8Array};
use std::{collections::BTreeMap, ops::Range, rc::Rc};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::spawn_local;
use web_sys::{Blob, IdbKeyRange, IdbObjectStore};

/// The key of the bytes of all chunks.
pub(super) const BYTES: &str = "bytes";
/// Bytes of the values that a chunk is cut into.
const VALUE: usize = 32 << 10;

/// The key of such a value. A Blob has that of the first one.
fn value_key(id: &ChunkId, value: f64) -> JsValue {
    Array::of2(&name(id).into(), &value.into()).into()
}

/// The key of a chunk's length. The Blob itself is not asked, since a handle on it keeps its file
/// beyond the deletion. Chunks that an earlier version put have none.
fn length_key(id: &ChunkId) -> JsValue {
    Array::of2(&name(id).into(), &"length".into()).into()
}

fn values(id: &ChunkId, first: f64, last: f64) -> Result<IdbKeyRange, StoreError> {
    IdbKeyRange::bound(&value_key(id, first), &value_key(id, last)).map_err(|error| store_error(&error))
}

impl Inner {
    async fn put_chunk(self: &Rc<Self>, id: ChunkId, bytes: Bytes) -> Result<(), StoreError> {
        self.inject_fault(CrashPoint::BeforeChunk)?;
        self.claim().await?;
        if !self.has_chunk(&id).await? {
            let length = bytes.len() as f64;
            self.change_chunks(length, |chunks| {
                put(chunks, &length_key(&id), &length.into())?;
                self.put_parts(chunks, &id, &bytes)
            })
            .await?;
        }
        self.inject_fault(CrashPoint::AfterChunk)
    }

    /// Sends `requests`, after which chunks have `more` bytes more.
    async fn change_chunks(self: &Rc<Self>, more: f64, requests: impl FnOnce(&IdbObjectStore) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let total = self.chunk_bytes.get() + more;
        let with_total = |chunks: &IdbObjectStore| {
            requests(chunks)?;
            put(chunks, &BYTES.into(), &total.into())
        };
        self.send_chunks(with_total).await?;
        self.chunk_bytes.set(total);
        Ok(())
    }

    async fn send_chunks(self: &Rc<Self>, requests: impl FnOnce(&IdbObjectStore) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let sent = self.send_fenced(&[CHUNKS], CrashPoint::BetweenPutAndCommit, |transaction| requests(&self.store(transaction, CHUNKS)?))?;
        sent.await
    }

    /// Runs a change of chunks when those before it have ended: what it writes of their bytes
    /// stands on what it has read. It has a task of its own, since nobody need poll its caller
    /// while others wait.
    fn change_in_turn(
        self: &Rc<Self>,
        change: impl AsyncFnOnce(&Rc<Self>) -> Result<(), StoreError> + 'static,
    ) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let (completion, completed) = oneshot::channel();
        let inner = self.clone();
        spawn_local(async move {
            let result = {
                let _in_turn = inner.changing_chunks.lock().await;
                change(&inner).await
            };
            let _ = completion.send(result);
        });
        Box::pin(async { completed.await.unwrap_or(Err(StoreError::Closed)) })
    }

    /// Counts the bytes of chunks in a database that an earlier version made.
    pub(super) async fn count_chunks(&self) -> Result<(), StoreError> {
        let transaction = read_transaction(&self.database, &[CHUNKS])?;
        let keys = request_result(&self.store(&transaction, CHUNKS)?.get_all_keys().map_err(|error| store_error(&error))?).await?;
        // The last value of each chunk says how long it is.
        let mut last = BTreeMap::new();
        for key in keys.unchecked_into::<Array>().into_iter().filter_map(|key| key.dyn_into::<Array>().ok()) {
            if key.get(1).as_f64().is_some() {
                last.insert(key.get(0).as_string(), key);
            }
        }
        let mut total = 0.0;
        for key in last.into_values() {
            total += self.bytes_up_to(&key).await?;
        }
        self.chunk_bytes.set(total);
        Ok(())
    }

    /// The bytes of a chunk, by the key of its last value.
    async fn bytes_up_to(&self, key: &Array) -> Result<f64, StoreError> {
        let transaction = read_transaction(&self.database, &[CHUNKS])?;
        let value = get(&self.store(&transaction, CHUNKS)?, key)?.await?;
        let before = key.get(1).as_f64().unwrap_or(0.0) * VALUE as f64;
        Ok(before + value.dyn_ref::<Blob>().map_or_else(|| f64::from(value.unchecked_ref::<Uint8Array>().length()), |blob| blob.size()))
    }

    async fn bytes_of_chunk(&self, id: &ChunkId) -> Result<f64, StoreError> {
        let transaction = read_transaction(&self.database, &[CHUNKS])?;
        if let Some(length) = get(&self.store(&transaction, CHUNKS)?, &length_key(id))?.await?.as_f64() {
            return Ok(length);
        }
        let transaction = read_transaction(&self.database, &[CHUNKS])?;
        let keys =
            self.store(&transaction, CHUNKS)?.get_all_keys_with_key(values(id, 0.0, f64::INFINITY)?.as_ref()).map_err(|error| store_error(&error))?;
        match request_result(&keys).await?.unchecked_into::<Array>().pop().dyn_into::<Array>() {
            Ok(last) => self.bytes_up_to(&last).await,
            Err(_) => Ok(0.0),
        }
    }

    fn put_parts(&self, chunks: &IdbObjectStore, id: &ChunkId, bytes: &[u8]) -> Result<(), StoreError> {
        if self.blobs {
            let blob = Blob::new_with_u8_array_sequence(&Array::of1(&Uint8Array::from(bytes))).map_err(|error| store_error(&error))?;
            return put(chunks, &value_key(id, 0.0), &blob);
        }
        bytes.chunks(VALUE).zip(0..).try_for_each(|(part, at)| put(chunks, &value_key(id, at.into()), &Uint8Array::from(part)))
    }

    async fn has_chunk(&self, id: &ChunkId) -> Result<bool, StoreError> {
        let transaction = read_transaction(&self.database, &[CHUNKS])?;
        let count = self.store(&transaction, CHUNKS)?.count_with_key(&value_key(id, 0.0)).map_err(|error| store_error(&error))?;
        Ok(request_result(&count).await?.as_f64() == Some(1.0))
    }

    async fn read_chunk(&self, id: ChunkId, part: Range<u32>) -> Result<Option<Bytes>, StoreError> {
        let transaction = read_transaction(&self.database, &[CHUNKS])?;
        let chunks = self.store(&transaction, CHUNKS)?;
        if self.blobs {
            let found = get(&chunks, &value_key(&id, 0.0))?.await?;
            let Ok(blob) = found.dyn_into::<Blob>() else { return Ok(None) };
            return if f64::from(part.end) > blob.size() { Err(shorter()) } else { bytes_of(&blob, &part).await.map(Some) };
        }
        let (first, last) = (part.start as usize / VALUE, (part.end as usize).saturating_sub(1) / VALUE);
        let request = chunks.get_all_with_key(values(&id, first as f64, last as f64)?.as_ref()).map_err(|error| store_error(&error))?;
        let found = joined(request_result(&request).await?);
        if found.is_empty() && !self.has_chunk(&id).await? {
            return Ok(None);
        }
        let before = (first * VALUE) as u32;
        part_of(&found, &(part.start - before..part.end - before)).map(Some)
    }

    async fn delete_chunks(self: &Rc<Self>, ids: Vec<ChunkId>) -> Result<(), StoreError> {
        self.inject_fault(CrashPoint::BeforeChunk)?;
        self.claim().await?;
        let mut bytes = 0.0;
        for id in &ids {
            bytes += self.bytes_of_chunk(id).await?;
        }
        let delete = |chunks: &IdbObjectStore| {
            ids.iter().try_for_each(|id| {
                let keys = [values(id, 0.0, f64::INFINITY)?.into(), length_key(id)];
                keys.iter().try_for_each(|key| chunks.delete(key).map(drop).map_err(|error| store_error(&error)))
            })
        };
        match self.change_chunks(-bytes, delete).await {
            // Storage that is full has no room for the record either: without it, the next opening
            // counts.
            Err(StoreError::QuotaExceeded) => {
                let delete_all = |chunks: &IdbObjectStore| {
                    chunks.delete(&BYTES.into()).map_err(|error| store_error(&error))?;
                    delete(chunks)
                };
                self.send_chunks(delete_all).await?;
                self.chunk_bytes.set(self.chunk_bytes.get() - bytes);
            }
            changed => changed?,
        }
        self.inject_fault(CrashPoint::AfterChunk)
    }
}

impl Chunks for IndexedDb {
    fn put(&self, id: ChunkId, bytes: Bytes) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        self.inner.change_in_turn(async move |inner| inner.put_chunk(id, bytes).await)
    }

    fn read(&self, id: ChunkId, part: Range<u32>) -> LocalBoxFuture<'static, Result<Option<Bytes>, StoreError>> {
        let inner = self.inner.clone();
        Box::pin(async move { inner.read_chunk(id, part).await })
    }

    fn delete(&self, ids: Vec<ChunkId>) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        self.inner.change_in_turn(async move |inner| inner.delete_chunks(ids).await)
    }

    fn bytes(&self) -> u64 {
        self.inner.chunk_bytes.get() as u64
    }
}
