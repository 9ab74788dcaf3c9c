//! Chunks in an object store of their own. Each is a Blob, or small values where an engine keeps no
//! Blobs.
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
use js_sys::{Array, Uint8Array};
use std::{ops::Range, rc::Rc};
use wasm_bindgen::{JsCast, JsValue};
use web_sys::{Blob, IdbKeyRange, IdbObjectStore};

/// Bytes of the values that a chunk is cut into.
const VALUE: usize = 32 << 10;

/// The key of such a value. A Blob has that of the first one.
fn value_key(id: &ChunkId, value: f64) -> JsValue {
    Array::of2(&name(id).into(), &value.into()).into()
}

fn values(id: &ChunkId, first: f64, last: f64) -> Result<IdbKeyRange, StoreError> {
    IdbKeyRange::bound(&value_key(id, first), &value_key(id, last)).map_err(|error| store_error(&error))
}

impl Inner {
    async fn put_chunk(self: &Rc<Self>, id: ChunkId, bytes: Bytes) -> Result<(), StoreError> {
        self.inject_fault(CrashPoint::BeforeChunk)?;
        self.claim().await?;
        if !self.has_chunk(&id).await? {
            self.send_fenced(&[CHUNKS], CrashPoint::BetweenPutAndCommit, |transaction| {
                self.put_parts(&self.store(transaction, CHUNKS)?, &id, &bytes)
            })?
            .await?;
        }
        self.inject_fault(CrashPoint::AfterChunk)
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
        self.send_fenced(&[CHUNKS], CrashPoint::BetweenPutAndCommit, |transaction| {
            let chunks = self.store(transaction, CHUNKS)?;
            ids.iter().try_for_each(|id| chunks.delete(values(id, 0.0, f64::INFINITY)?.as_ref()).map(drop).map_err(|error| store_error(&error)))
        })?
        .await?;
        self.inject_fault(CrashPoint::AfterChunk)
    }
}

impl Chunks for IndexedDb {
    fn put(&self, id: ChunkId, bytes: Bytes) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let inner = self.inner.clone();
        Box::pin(async move { inner.put_chunk(id, bytes).await })
    }

    fn read(&self, id: ChunkId, part: Range<u32>) -> LocalBoxFuture<'static, Result<Option<Bytes>, StoreError>> {
        let inner = self.inner.clone();
        Box::pin(async move { inner.read_chunk(id, part).await })
    }

    fn delete(&self, ids: Vec<ChunkId>) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let inner = self.inner.clone();
        Box::pin(async move { inner.delete_chunks(ids).await })
    }
}
