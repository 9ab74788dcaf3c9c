//! Media ids that are given before there is a file (Client-Server API, "Content repository":
//! asynchronous uploads), and the wait for that file.

use super::{LONGEST_WAIT, Refused};
use crate::{
    failure::Failure,
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, FileKey, Media, PendingMedia, UserNid},
};
use ephapse_store::Direction;
use futures_util::{FutureExt, future::select};
use std::time::Duration;

/// Ids without a file that a user may have, as many as on Synapse.
const MOST_PENDING: usize = 5;
/// How long an id waits for its file, in ms: a day, as on Synapse.
const UNUSED_FOR: u64 = 24 * 60 * 60 * 1000;

/// A media id without a file.
pub(crate) struct Created {
    /// The file that it is to become.
    pub key: FileKey,
    /// Until when that has to be uploaded, in ms.
    pub expires: u64,
}

impl Homeserver {
    /// Gives a user a media id whose file comes later.
    pub(crate) async fn create_media(&self, generation: u64, user: UserNid) -> Result<Created, Failure<Refused>> {
        let _lock = self.lock(LockKey::PendingMedia(user)).await;
        let now = self.host.now();
        let all = tables::PENDING_MEDIA_OF.scan(self.store(), &user, Direction::Forward, usize::MAX).await?;
        let (expired, open): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, created)| has_expired(*created, now));
        if open.len() >= MOST_PENDING {
            let oldest = open.iter().map(|(_, created)| *created).min().unwrap_or(now);
            return Err(Refused::TooManyPending { retry_after: Duration::from_millis((oldest + UNUSED_FOR).saturating_sub(now)) }.into());
        }
        let key = self.new_media_key();
        let written = self.write(generation, |tx| {
            for ((_, media_id), _) in &expired {
                tables::PENDING_MEDIA.delete(tx, media_id);
                tables::PENDING_MEDIA_OF.delete(tx, &(user, media_id.clone()));
            }
            tables::PENDING_MEDIA.put(tx, &key.1, &PendingMedia { creator: user, created: now });
            tables::PENDING_MEDIA_OF.put(tx, &(user, key.1.clone()), &now);
        });
        written?.visible();
        Ok(Created { key, expires: now + UNUSED_FOR })
    }

    /// Whether a user may upload the file of a media id now.
    pub(crate) async fn may_fill(&self, user: UserNid, key: &FileKey) -> Result<(), Failure<Refused>> {
        if key.0 != self.server_name() {
            return Err(Refused::OfAnotherServer.into());
        }
        if let Some(media) = tables::MEDIA.get(self.store(), key).await? {
            return Err(if media.uploader == Some(user) { Refused::HasContent } else { Refused::NotCreator }.into());
        }
        match self.pending_media(key).await? {
            None => Err(Refused::NotFound.into()),
            Some(pending) if pending.creator != user => Err(Refused::NotCreator.into()),
            Some(_) => Ok(()),
        }
    }

    /// The file, for which this waits for so long if it is to be uploaded yet.
    pub(crate) async fn media(&self, key: &FileKey, wait: Duration) -> Result<Media, Failure<Refused>> {
        let deadline = self.host.now() + wait.min(LONGEST_WAIT).as_millis() as u64;
        loop {
            // Before it is looked for, so that nothing falls in between.
            let (arrived, stopping) = (self.uploads.arrived.listen(), self.notify.wait(|_| false));
            if let Some(media) = tables::MEDIA.get(self.store(), key).await? {
                return Ok(media);
            }
            if self.pending_media(key).await?.is_none() {
                return Err(Refused::NotFound.into());
            }
            let left = deadline.saturating_sub(self.host.now());
            if left == 0 || self.notify.is_closed() {
                return Err(Refused::NotYetUploaded.into());
            }
            let timeout = self.host.sleep(Duration::from_millis(left));
            select(select(arrived, stopping.woken().boxed_local()), timeout).await;
        }
    }

    /// What is known of a media id of this server that waits for its file.
    async fn pending_media(&self, key: &FileKey) -> Result<Option<PendingMedia>, Failure<Refused>> {
        if key.0 != self.server_name() || !key.2.is_empty() {
            return Ok(None);
        }
        let pending = tables::PENDING_MEDIA.get(self.store(), &key.1).await?;
        Ok(pending.filter(|pending| !has_expired(pending.created, self.host.now())))
    }

    /// A file of this server that there is not yet.
    pub(super) fn new_media_key(&self) -> FileKey {
        (self.server_name().to_owned(), self.random_string(MEDIA_ID), String::new())
    }
}

fn has_expired(created: u64, now: u64) -> bool {
    created + UNUSED_FOR <= now
}

/// Letters of a media id.
const MEDIA_ID: usize = 24;
