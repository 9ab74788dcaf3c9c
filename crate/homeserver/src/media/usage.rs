//! How many bytes users have uploaded, and how many they may.

use super::{Refused, Upload};
use crate::{
    error::Result,
    failure::Failure,
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, Media, UserNid},
    time_slice::TimeSlice,
    transaction::Tx,
};
use async_lock::MutexGuardArc;
use ephapse_store::{Direction, StoreError};
use std::collections::BTreeMap;

/// Files that are looked at at a time where they are counted.
const BATCH: usize = 1000;

/// What users have uploaded: nobody else changes that meanwhile.
struct Used<'a> {
    hs: &'a Homeserver,
    _lock: MutexGuardArc<()>,
}

impl Homeserver {
    /// How many bytes a user may upload still; `None`: as many as they like.
    pub(crate) async fn media_left(&self, user: UserNid) -> Result<Option<u64>, StoreError> {
        let Some(quota) = self.config.media_quota else { return Ok(None) };
        Ok(Some(quota.saturating_sub(self.media_used().await?.by(user).await?)))
    }

    /// Makes an uploaded file known as a user's, if what was read in this generation still holds;
    /// ends when it is on disk.
    pub(crate) async fn keep_upload(&self, upload: &mut Upload, media: Media, user: UserNid, generation: u64) -> Result<()> {
        upload.store_rest().await?;
        let known = {
            let used = self.media_used().await?;
            let bytes = used.by(user).await?.saturating_add(media.size);
            if self.config.media_quota.is_some_and(|quota| bytes > quota) {
                return Err(Failure::from(Refused::OverQuota(self.config.media_quota_info.clone())).into());
            }
            let media_id = upload.key().1.clone();
            upload.make_known(media, generation, |tx| {
                tables::PENDING_MEDIA.delete(tx, &media_id);
                tables::PENDING_MEDIA_OF.delete(tx, &(user, media_id.clone()));
                count(tx, user, bytes);
            })?
        };
        Ok(known.durable().await?)
    }

    /// Says, with `also`, that an uploaded file is none any more.
    pub(super) async fn unkeep_upload(&self, key: &tables::FileKey, also: impl FnOnce(&mut Tx)) -> Result<()> {
        let gone = {
            let generation = self.begin_reading();
            let used = self.media_used().await?;
            let Some(media) = tables::MEDIA.get(self.store(), key).await? else { return Ok(()) };
            let user = match media.uploader {
                Some(user) => Some((user, used.by(user).await?)),
                None => None,
            };
            self.write(generation, |tx| {
                tx.frees_space();
                tables::MEDIA.delete(tx, key);
                tables::PUBLIC_MEDIA.delete(tx, key);
                if let Some((user, bytes)) = user {
                    count(tx, user, bytes.saturating_sub(media.size));
                }
                also(tx);
            })?
        };
        Ok(gone.durable().await?)
    }

    async fn media_used(&self) -> Result<Used<'_>, StoreError> {
        let used = Used { hs: self, _lock: self.lock(LockKey::MediaUsed).await };
        used.count_old().await?;
        Ok(used)
    }
}

impl Used<'_> {
    async fn by(&self, user: UserNid) -> Result<u64, StoreError> {
        Ok(tables::MEDIA_USED.get(self.hs.store(), &user).await?.unwrap_or_default())
    }

    /// Counts what was uploaded before there was a count, once.
    async fn count_old(&self) -> Result<(), StoreError> {
        let generation = self.hs.begin_reading();
        if tables::MEDIA_COUNTED.get(self.hs.store(), &()).await?.is_some() {
            return Ok(());
        }
        let slice = TimeSlice::new(&*self.hs.host);
        let mut bytes: BTreeMap<UserNid, u64> = BTreeMap::new();
        let mut rest = tables::MEDIA.range(&self.hs.server_name().to_owned());
        loop {
            let files = tables::MEDIA.scan_range(self.hs.store(), rest.clone(), Direction::Forward, BATCH).await?;
            let Some((last, _)) = files.last() else { break };
            rest.start = tables::MEDIA.key(last);
            rest.start.push(0);
            for (uploader, size) in files.iter().filter_map(|(_, media)| Some((media.uploader?, media.size))) {
                *bytes.entry(uploader).or_default() += size;
            }
            slice.end().await;
        }
        let counted = self.hs.write(generation, |tx| {
            // Deleting a file stands on it, also where storage is full.
            tx.frees_space();
            for (user, bytes) in bytes {
                tables::MEDIA_USED.put(tx, &user, &bytes);
            }
            tables::MEDIA_COUNTED.put(tx, &(), &());
        });
        counted?.visible();
        Ok(())
    }
}

fn count(tx: &mut Tx, user: UserNid, bytes: u64) {
    match bytes {
        0 => tables::MEDIA_USED.delete(tx, &user),
        bytes => tables::MEDIA_USED.put(tx, &user, &bytes),
    }
}
