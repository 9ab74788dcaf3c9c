//! What uploads have left that came to nothing: cut off by their client, by a limit, by a full disk
//! or by the end of the last run.

use crate::{
    error::Result,
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, FileKey},
};
use async_lock::MutexGuardArc;
use ephapse_events::Inserted;
use ephapse_store::{ChunkId, Direction};
use std::collections::BTreeSet;

/// Chunks that go at a time.
const BATCH: usize = 64;

impl Homeserver {
    /// Deletes what is left of uploads of earlier runs.
    pub(crate) async fn forget_abandoned_uploads(&self) -> Result<()> {
        for (key, ()) in tables::UPLOADS.scan(self.store(), &(), Direction::Forward, usize::MAX).await? {
            if !self.uploads.under_way.borrow().contains(&key) {
                self.forget_upload_of(&key).await?;
            }
        }
        Ok(())
    }

    /// As [`Self::forget_upload`], of an upload that nobody here holds. One that begins meanwhile
    /// waits for that.
    pub(super) async fn forget_upload_of(&self, key: &FileKey) -> Result<()> {
        let (server, media_id, variant) = key;
        let _lock = self.lock(LockKey::File(server.to_string(), media_id.clone(), variant.clone())).await;
        let is_under_way = self.uploads.under_way.borrow().contains(key);
        if is_under_way { Ok(()) } else { self.forget_upload(key).await }
    }

    /// Deletes a file of which nobody was told.
    pub(super) async fn forget_file(&self, key: &FileKey) -> Result<()> {
        self.unkeep_upload(key, |tx| tables::UPLOADS.put(tx, key, &())).await?;
        self.forget_upload(key).await
    }

    /// Deletes what is left of an upload that has not become a file; a crash leaves the rest for
    /// the next time.
    pub(super) async fn forget_upload(&self, key: &FileKey) -> Result<()> {
        if tables::UPLOADS.get(self.store(), key).await?.is_none() {
            return Ok(());
        }
        loop {
            let generation = self.begin_reading();
            let chunks = tables::MEDIA_CHUNKS.scan(self.store(), key, Direction::Forward, BATCH).await?;
            let ids: BTreeSet<ChunkId> = chunks.iter().map(|(_, id)| *id).inserted();
            let _locks = self.lock_chunks(&ids).await;
            // First, since it makes the room that the batch needs.
            self.delete_unused(key, &ids).await?;
            let is_last = chunks.len() < BATCH;
            let forgotten = self.write(generation, |tx| {
                tx.frees_space();
                for id in &ids {
                    tables::CHUNK_USES.delete(tx, &(*id, key.0.clone(), key.1.clone(), key.2.clone()));
                }
                for (chunk, _) in &chunks {
                    tables::MEDIA_CHUNKS.delete(tx, chunk);
                }
                if is_last {
                    tables::UPLOADS.delete(tx, key);
                }
            });
            forgotten?.durable().await?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// In their order, so that two who want the same ones do not wait for each other.
    async fn lock_chunks(&self, ids: &BTreeSet<ChunkId>) -> Vec<MutexGuardArc<()>> {
        let mut locks = Vec::new();
        for id in ids {
            locks.push(self.lock(LockKey::Chunk(*id)).await);
        }
        locks
    }

    /// Deletes those chunks that only the file `key` uses.
    async fn delete_unused(&self, key: &FileKey, ids: &BTreeSet<ChunkId>) -> Result<()> {
        let mut unused = Vec::new();
        for id in ids {
            let uses = tables::CHUNK_USES.scan(self.store(), id, Direction::Forward, 2).await?;
            if uses.iter().all(|((_, server, media_id, variant), ())| (server, media_id, variant) == (&key.0, &key.1, &key.2)) {
                unused.push(*id);
            }
        }
        if unused.is_empty() { Ok(()) } else { Ok(self.store().chunks().delete(unused).await?) }
    }
}
