//! What can be had again: files of other servers, and thumbnails. It takes no more bytes than the
//! settings say; what has been here for longest goes first. What was uploaded here stays.

use super::Upload;
use crate::{
    error::Result,
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, FileKey, Media},
    transaction::Tx,
};
use ephapse_store::Direction;
use std::{cell::RefCell, collections::HashMap, rc::Rc};

/// Files that are looked at at a time where some have to go.
const BATCH: usize = 16;

/// How many read each file right now: such a file stays.
#[derive(Clone, Default)]
pub struct Readers(Rc<RefCell<HashMap<FileKey, usize>>>);

/// Somebody who reads a file, for as long as this is there.
pub struct Reading {
    readers: Readers,
    key: FileKey,
}

impl Readers {
    /// One more reads a file.
    pub fn read(&self, key: &FileKey) -> Reading {
        *self.0.borrow_mut().entry(key.clone()).or_default() += 1;
        Reading { readers: self.clone(), key: key.clone() }
    }

    fn reads(&self, key: &FileKey) -> bool {
        self.0.borrow().contains_key(key)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut readers = self.readers.0.borrow_mut();
        if let Some(count) = readers.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&self.key);
            }
        }
    }
}

impl Homeserver {
    /// Somebody is about to look a file up and to read it.
    pub(crate) fn reads_media(&self, key: &FileKey) -> Reading {
        self.uploads.readers.read(key)
    }

    /// Makes a file known that can be had again, all of which is stored, and whatever goes with it.
    /// Says `false` where there is no room for it.
    pub(super) async fn keep_cached(&self, upload: &mut Upload, media: Media, also: impl FnOnce(&mut Tx)) -> Result<bool> {
        let known = {
            let _lock = self.lock(LockKey::MediaCache).await;
            if !self.make_room(media.size).await? {
                return Ok(false);
            }
            let generation = self.begin_reading();
            let bytes = self.cached_media_bytes().await? + media.size;
            let ((server, media_id, variant), size, created) = (upload.key().clone(), media.size, media.created);
            upload.make_known(media, generation, |tx| {
                tables::CACHED_MEDIA.put(tx, &(created, server, media_id, variant), &size);
                tables::CACHED_MEDIA_BYTES.put(tx, &(), &bytes);
                also(tx);
            })?
        };
        known.durable().await?;
        Ok(true)
    }

    /// Lets what is cached go until there is room for so many bytes more. Says `false` where there
    /// is none then either, since all of it is being read.
    pub(super) async fn make_room_in_cache(&self, bytes: u64) -> Result<bool> {
        let _lock = self.lock(LockKey::MediaCache).await;
        self.make_room(bytes).await
    }

    /// As [`Self::make_room_in_cache`], for who holds the lock.
    async fn make_room(&self, bytes: u64) -> Result<bool> {
        let limit = self.config.media_cache;
        if bytes > limit {
            // What never fits must not push out everything else.
            return Ok(false);
        }
        if self.cached_media_bytes().await?.saturating_add(bytes) <= limit {
            return Ok(true);
        }
        let mut rest = tables::CACHED_MEDIA.range(&());
        loop {
            let oldest = tables::CACHED_MEDIA.scan_range(self.store(), rest.clone(), Direction::Forward, BATCH).await?;
            let Some((last, _)) = oldest.last() else { return Ok(false) };
            rest.start = tables::CACHED_MEDIA.key(last);
            rest.start.push(0);
            for ((created, server, media_id, variant), size) in oldest {
                self.evict(&(server, media_id, variant), created, size).await?;
                if self.cached_media_bytes().await?.saturating_add(bytes) <= limit {
                    return Ok(true);
                }
            }
        }
    }

    /// Lets a file go, unless somebody reads it.
    async fn evict(&self, key: &FileKey, created: u64, size: u64) -> Result<()> {
        let generation = self.begin_reading();
        let bytes = self.cached_media_bytes().await?.saturating_sub(size);
        let (server, media_id, variant) = key.clone();
        // Nothing waits from here to the write: who begins to read before that looks the file up
        // after having said so, and who begins later does not find it.
        if self.uploads.readers.reads(key) {
            return Ok(());
        }
        let gone = self.write(generation, |tx| {
            tx.frees_space();
            tables::MEDIA.delete(tx, key);
            tables::PUBLIC_MEDIA.delete(tx, key);
            if variant.is_empty() {
                tables::IMAGE_SIZES.delete(tx, &(server.clone(), media_id.clone()));
            }
            tables::CACHED_MEDIA.delete(tx, &(created, server, media_id, variant));
            tables::CACHED_MEDIA_BYTES.put(tx, &(), &bytes);
            tables::UPLOADS.put(tx, key, &());
        });
        gone?.durable().await?;
        self.forget_upload_of(key).await
    }

    async fn cached_media_bytes(&self) -> Result<u64> {
        Ok(tables::CACHED_MEDIA_BYTES.get(self.store(), &()).await?.unwrap_or_default())
    }
}
