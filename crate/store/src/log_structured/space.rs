//! What happens when storage is full: ordinary batches are refused, merging stops, reads go on, and batches that make room are written into the space
//! that a reserve Blob has kept for them.

use super::{
    backend::{Backend, PROBE_BLOB, RESERVE_BLOB},
    state::{Core, State},
};
use crate::Bytes;
use std::rc::Rc;

/// Milliseconds before merging, or the search for room, is tried again.
pub(super) const RETRY_MS: f64 = 2_000.0;

/// How often a batch that makes room is tried again, and the pause in milliseconds before that.
pub(super) const MAX_RETRIES: u32 = 20;
const RETRY_PAUSE_MS: u32 = 250;

/// Milliseconds before the platform is hurried again.
const FORCE_RECLAIM_INTERVAL_MS: f64 = 1_000.0;

/// What is known of the room that is left.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// A write was refused; nothing since says that there is room again.
    pub(super) full: bool,
    /// The reserve Blob is there.
    pub(super) has_reserve: bool,
    /// Something was deleted: sstables may be droppable.
    pub(super) reclaim_requested: bool,
    /// Something was deleted while storage was full: merging makes room of it, and has not made all yet.
    pub(super) reclaiming: bool,
    /// Something was deleted of which merging has not yet made all the room that it can.
    pub(super) unreclaimed: bool,
    /// Merging was refused for want of room.
    pub(super) compaction_retry_at: f64,
    pub(super) checking: bool,
    next_check: f64,
    next_force_reclaim: f64,
}

impl Space {
    /// What is known when a store is opened.
    pub(super) fn new(full: bool) -> Self {
        Self { full, ..Self::default() }
    }

    /// Whether background work may take room: not while storage is full, unless it makes more.
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

    /// After work that makes room was refused: storage is full, perhaps unknown until now, and what was deleted is free only some time later.
    pub(super) async fn make_room(&self) {
        self.state.borrow_mut().space.set_full(self.backend.now());
        self.release_reserve().await;
        self.force_reclaim().await;
        self.backend.pause(RETRY_PAUSE_MS).await;
    }

    /// While storage is full, has the platform give back what was deleted.
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

    /// Makes the reserve if it is not there; when that succeeds, storage is no longer full.
    pub(super) async fn restore_reserve(&self) {
        if self.state.borrow().space.has_reserve {
            return;
        }
        let restored = self.backend.put_blob(RESERVE_BLOB, self.reserve_parts()).await.is_ok();
        self.state.borrow_mut().space.has_reserve = restored;
        // Room for the reserve alone is the room that giving it up has made.
        if restored && self.state.borrow().space.full && self.probe().await {
            self.state.borrow_mut().space.full = false;
        }
    }

    /// After a refused batch, at most once in a while: looks whether there is room again, with a Blob, because a refused Blob costs nothing and a refused
    /// record does.
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
            // While there is none, merging tries again to make some of what was deleted: a refused Blob costs nothing.
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
        // One buffer many times over, so that it takes no memory here.
        let part = Bytes::from(vec![0; PART.min(self.options.reserve_bytes)]);
        vec![part; self.options.reserve_bytes.div_ceil(PART)]
    }
}
