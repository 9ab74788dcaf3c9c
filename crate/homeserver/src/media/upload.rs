//! A file on its way into the store: a chunk at most is in memory.

use crate::{
    error::Result,
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, FileKey, Media},
    transaction::{Submitted, Tx},
};
use async_lock::SemaphoreGuardArc;
use bytes::{Bytes, BytesMut};
use ephapse_store::{ChunkId, LARGEST_CHUNK, StoreError};
use sha2::{Digest, Sha256};
use std::rc::Rc;

/// How often a note is written again that was lost with what others had written before it.
const ATTEMPTS: usize = 3;

/// An upload under way. Who drops it leaves what it has stored until the server clears up;
/// [`Self::abandon`] does that at once.
pub struct Upload {
    hs: Rc<Homeserver>,
    key: FileKey,
    /// What does not fill a chunk yet.
    begun: BytesMut,
    size: u64,
    /// Chunks stored, the one that is being stored included.
    chunks: u32,
    _buffer: SemaphoreGuardArc,
}

impl Upload {
    /// The upload of a new file of this server.
    pub async fn begin(hs: &Rc<Homeserver>) -> Self {
        let buffer = hs.uploads.buffers.acquire_arc().await;
        let key = hs.new_media_key();
        hs.uploads.under_way.borrow_mut().insert(key.clone());
        Self { hs: hs.clone(), key, begun: BytesMut::new(), size: 0, chunks: 0, _buffer: buffer }
    }

    /// The upload of a file whose name is known already; `None` where one is under way.
    pub async fn begin_as(hs: &Rc<Homeserver>, key: FileKey) -> Result<Option<Self>> {
        let buffer = hs.uploads.buffers.acquire_arc().await;
        let (server, media_id, variant) = &key;
        // Whoever clears away what an earlier try has left clears away this one as well.
        let _lock = hs.lock(LockKey::File(server.to_string(), media_id.clone(), variant.clone())).await;
        if !hs.uploads.under_way.borrow_mut().insert(key.clone()) {
            return Ok(None);
        }
        let upload = Self { hs: hs.clone(), key, begun: BytesMut::new(), size: 0, chunks: 0, _buffer: buffer };
        hs.forget_upload(&upload.key).await?;
        Ok(Some(upload))
    }

    /// The file that it is to become.
    pub fn key(&self) -> &FileKey {
        &self.key
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes; ends when all whole chunks of it are on disk.
    pub async fn append(&mut self, mut data: Bytes) -> Result<()> {
        self.size += data.len() as u64;
        while !data.is_empty() {
            let room = LARGEST_CHUNK - self.begun.len();
            self.begun.extend_from_slice(&data.split_to(data.len().min(room)));
            if self.begun.len() == LARGEST_CHUNK {
                self.store_begun().await?;
            }
        }
        Ok(())
    }

    async fn store_begun(&mut self) -> Result<()> {
        let bytes = self.begun.split().freeze();
        let id: ChunkId = Sha256::digest(&bytes).into();
        // Else somebody who deletes their use of it could take it away in between.
        let _lock = self.hs.lock(LockKey::Chunk(id)).await;
        let number = self.chunks;
        self.chunks += 1;
        self.note(number, id).await?;
        Ok(self.hs.store().chunks().put(id, bytes).await?)
    }

    /// Says durably that the chunk may be there, for whom.
    async fn note(&self, number: u32, id: ChunkId) -> Result<()> {
        let (server, media_id, variant) = self.key.clone();
        for attempt in 1.. {
            // It stands on nothing that was read.
            let noted = self.hs.write(self.hs.store().generation(), |tx| {
                if number == 0 {
                    tables::UPLOADS.put(tx, &self.key, &());
                }
                tables::MEDIA_CHUNKS.put(tx, &(server.clone(), media_id.clone(), variant.clone(), number), &id);
                tables::CHUNK_USES.put(tx, &(id, server.clone(), media_id.clone(), variant.clone()), &());
            });
            match noted?.durable().await {
                // A write that failed before this one took it along.
                Err(StoreError::RolledBack) if attempt < ATTEMPTS => {}
                noted => return Ok(noted?),
            }
        }
        unreachable!("the loop ends at the last attempt")
    }

    /// Stores what does not fill a chunk.
    pub async fn store_rest(&mut self) -> Result<()> {
        if self.begun.is_empty() { Ok(()) } else { self.store_begun().await }
    }

    /// Makes the file known, all of which is stored, as `media` says, and whatever goes with it, if
    /// what was read in this generation still holds.
    pub fn make_known(&mut self, media: Media, generation: u64, also: impl FnOnce(&mut Tx)) -> Result<Submitted<()>, StoreError> {
        let known = self.hs.write(generation, |tx| {
            tables::MEDIA.put(tx, &self.key, &media);
            tables::UPLOADS.delete(tx, &self.key);
            if !self.hs.config.authenticated_media {
                tables::PUBLIC_MEDIA.put(tx, &self.key, &());
            }
            also(tx);
        })?;
        self.hs.uploads.arrived.notify(usize::MAX);
        Ok(known)
    }

    /// Deletes what was stored of a file that will not be.
    pub async fn abandon(self) {
        if self.chunks > 0
            && let Err(error) = self.hs.forget_upload(&self.key).await
        {
            tracing::warn!("could not delete an unfinished upload, will try again later: {error}");
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.hs.uploads.under_way.borrow_mut().remove(&self.key);
    }
}
