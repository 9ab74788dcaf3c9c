//! What happens when storage is full: ordinary batches are refused, compaction stops, and reads go
//! on. Batches that make room are written into the space that a reserve Blob has kept for them.

use super::{
    backend::{Backend, PROBE_BLOB, RESERVE_BLOB},
    state::{Core, State},
};
use crate::Bytes;
use std::rc::Rc;

/// Milliseconds before a flush, a compaction or the check for space is tried again.
pub(super) const RETRY_MS: f64 = 2_000.0;

/// How often work that makes room is tried again, and the pause before that in milliseconds.
pub(super) const MAX_RETRIES: u32 = 20;
const RETRY_PAUSE_MS: u32 = 250;

/// Milliseconds between two calls of [`Backend::force_reclaim`].
const FORCE_RECLAIM_INTERVAL_MS: f64 = 1_000.0;

/// Whether there is space, and what is done to get some.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// A write was refused, and nothing since says that there is room again.
    pub(super) full: bool,
    /// The reserve Blob is there.
    pub(super) has_reserve: bool,
    /// Something was deleted: the compaction task shall look for sstables that are covered as a
    /// whole.
    pub(super) reclaim_requested: bool,
    /// Something was deleted while storage was full, and compaction is freeing its space.
    pub(super) reclaiming: bool,
    /// Something was deleted whose space compaction has not freed yet.
    pub(super) unreclaimed: bool,
    /// No compaction before this time, since one was refused for want of space.
    pub(super) compaction_retry_at: f64,
    pub(super) checking: bool,
    next_check: f64,
    next_force_reclaim: f64,
}

impl Space {
    /// The state when a store is opened.
    pub(super) fn new(full: bool) -> Self {
        Self { full, ..Self::default() }
    }

    /// Whether background work may write Blobs: not while storage is full, unless it frees more.
    pub(super) fn may_allocate(&self) -> bool {
        !self.full || self.reclaiming
    }

    /// A write was refused.
    pub(super) fn set_full(&mut self, now: f64) {
        self.full = true;
        self.next_check = now + RETRY_MS;
    }
}

impl<B: Backend> Core<B> {
    /// Deletes the reserve, so that a batch that makes room can be written.
    pub(super) async fn release_reserve(&self) {
        if std::mem::take(&mut self.state.borrow_mut().space.has_reserve) && self.backend.delete_blobs(vec![RESERVE_BLOB]).await.is_err() {
            self.state.borrow_mut().space.has_reserve = true;
        }
    }

    /// Called when work that makes room was refused. Storage is full, which perhaps was not known
    /// until now. What was deleted is free only some time later, so this waits a while.
    pub(super) async fn make_room(&self) {
        self.state.borrow_mut().space.set_full(self.backend.now());
        self.release_reserve().await;
        self.force_reclaim().await;
        self.backend.pause(RETRY_PAUSE_MS).await;
    }

    /// While storage is full, makes the platform free what was deleted.
    pub(super) async fn force_reclaim(&self) {
        let now = self.backend.now();
        let due = {
            let space = &mut self.state.borrow_mut().space;
            let due = space.full && now >= space.next_force_reclaim;
            if due {
                space.next_force_reclaim = now + FORCE_RECLAIM_INTERVAL_MS;
            }
            due
        };
        if due {
            self.backend.force_reclaim().await;
        }
    }

    /// Writes the reserve if it is not there.
    pub(super) async fn restore_reserve(&self) {
        if self.state.borrow().space.has_reserve {
            return;
        }
        let restored = self.backend.put_blob(RESERVE_BLOB, self.reserve_parts()).await.is_ok();
        self.state.borrow_mut().space.has_reserve = restored;
        // Room for the reserve alone is only the room that deleting it has made.
        if restored && self.state.borrow().space.full && self.probe().await {
            self.state.borrow_mut().space.full = false;
        }
    }

    /// After a batch was refused, checks whether there is space again, at most once in a while. It
    /// puts a Blob, because a refused record would take space and a refused Blob takes none.
    pub(super) fn check_for_space(self: Rc<Self>, state: &mut State) {
        if state.space.checking || self.backend.now() < state.space.next_check {
            return;
        }
        state.space.checking = true;
        let core = self.clone();
        self.backend.spawn(Box::pin(async move {
            core.restore_reserve().await;
            let still_full = core.state.borrow().space.full;
            let room = still_full && core.state.borrow().space.has_reserve && core.probe().await;
            if still_full && !room {
                core.force_reclaim().await;
            }
            let state = &mut *core.state.borrow_mut();
            state.space.checking = false;
            state.space.next_check = core.backend.now() + RETRY_MS;
            state.space.full = still_full && !room;
            // While there is none, compaction tries again to free what was deleted.
            state.space.reclaim_requested |= state.space.full && state.space.unreclaimed;
            if !state.space.full || state.space.reclaim_requested {
                core.schedule_compaction(state);
            }
            core.progress.notify(usize::MAX);
        }));
    }

    async fn probe(&self) -> bool {
        let room = self.backend.put_blob(PROBE_BLOB, self.reserve_parts()).await.is_ok();
        let _ = self.backend.delete_blobs(vec![PROBE_BLOB]).await;
        room
    }

    fn reserve_parts(&self) -> Vec<Bytes> {
        const PART: usize = 64 << 10;
        // The same buffer many times, so that it takes no memory here.
        let part = Bytes::from(vec![0; PART.min(self.options.reserve_bytes)]);
        vec![part; self.options.reserve_bytes.div_ceil(PART)]
    }
}
