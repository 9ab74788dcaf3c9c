//! What happens when storage is full: ordinary batches are refused, merging stops, reads go on, and batches that make room are written into the space
//! that a reserve Blob has kept for them.

use super::{
    backend::{Backend, PROBE_BLOB, RESERVE_BLOB},
    state::{Core, State},
};
use crate::Bytes;
use std::rc::Rc;

/// Milliseconds before merging, or the search for room, is tried again.
pub(super) const PATIENCE: f64 = 2_000.0;

/// How often a batch that makes room is tried again, and the pause in milliseconds before that.
pub(super) const ATTEMPTS: u32 = 20;
const PAUSE: u32 = 250;

/// Milliseconds before the platform is hurried again.
const HURRY: f64 = 1_000.0;

/// What is known of the room that is left.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// A write was refused; nothing since says that there is room again.
    pub(super) full: bool,
    /// The reserve Blob is there.
    pub(super) reserve_there: bool,
    /// Something was deleted: sstables may be droppable.
    pub(super) reclaim: bool,
    /// Something was deleted while storage was full: merging makes room of it, and has not made all yet.
    pub(super) making_room: bool,
    /// Something was deleted of which merging has not yet made all the room that it can.
    pub(super) owed: bool,
    /// Merging was refused for want of room.
    pub(super) compaction_retry_at: f64,
    pub(super) looking: bool,
    no_look_before: f64,
    no_hurry_before: f64,
}

impl Space {
    /// What is known when a store is opened.
    pub(super) fn new(full: bool) -> Self {
        Self { full, ..Self::default() }
    }

    /// Whether background work may take room: not while storage is full, unless it makes more.
    pub(super) fn may_grow(&self) -> bool {
        !self.full || self.making_room
    }

    /// A write was refused.
    pub(super) fn fill_up(&mut self, now: f64) {
        self.full = true;
        self.no_look_before = now + PATIENCE;
    }
}

impl<B: Backend> Core<B> {
    /// Deletes the reserve, so that a batch that makes room can be written.
    pub(super) async fn give_up_reserve(&self) {
        if std::mem::take(&mut self.state.borrow_mut().space.reserve_there) && self.backend.delete_blobs(vec![RESERVE_BLOB]).await.is_err() {
            self.state.borrow_mut().space.reserve_there = true;
        }
    }

    /// After work that makes room was refused: storage is full, perhaps unknown until now, and what was deleted is free only some time later.
    pub(super) async fn have_room_made(&self) {
        self.state.borrow_mut().space.fill_up(self.backend.now());
        self.give_up_reserve().await;
        self.hurry().await;
        self.backend.pause(PAUSE).await;
    }

    /// While storage is full, has the platform give back what was deleted.
    pub(super) async fn hurry(&self) {
        let now = self.backend.now();
        let due = {
            let space = &mut self.state.borrow_mut().space;
            let due = space.full && now >= space.no_hurry_before;
            if due {
                space.no_hurry_before = now + HURRY;
            }
            due
        };
        if due {
            self.backend.hurry().await;
        }
    }

    /// Makes the reserve if it is not there; when that succeeds, storage is no longer full.
    pub(super) async fn restore_reserve(&self) {
        if self.state.borrow().space.reserve_there {
            return;
        }
        let restored = self.backend.put_blob(RESERVE_BLOB, self.filler()).await.is_ok();
        self.state.borrow_mut().space.reserve_there = restored;
        // Room for the reserve alone is the room that giving it up has made.
        if restored && self.state.borrow().space.full && self.probe().await {
            self.state.borrow_mut().space.full = false;
        }
    }

    /// After a refused batch, at most once in a while: looks whether there is room again, with a Blob, because a refused Blob costs nothing and a refused
    /// record does.
    pub(super) fn look_for_room(self: Rc<Self>, state: &mut State) {
        if state.space.looking || self.backend.now() < state.space.no_look_before {
            return;
        }
        state.space.looking = true;
        let core = self.clone();
        self.backend.spawn(Box::pin(async move {
            core.restore_reserve().await;
            let still_full = core.state.borrow().space.full;
            let room = still_full && core.state.borrow().space.reserve_there && core.probe().await;
            if still_full && !room {
                core.hurry().await;
            }
            let state = &mut *core.state.borrow_mut();
            state.space.looking = false;
            state.space.no_look_before = core.backend.now() + PATIENCE;
            state.space.full = still_full && !room;
            // While there is none, merging tries again to make some of what was deleted: a refused Blob costs nothing.
            state.space.reclaim |= state.space.full && state.space.owed;
            if !state.space.full || state.space.reclaim {
                core.schedule_compaction(state);
            }
            core.progress.notify(usize::MAX);
        }));
    }

    async fn probe(&self) -> bool {
        let room = self.backend.put_blob(PROBE_BLOB, self.filler()).await.is_ok();
        let _ = self.backend.delete_blobs(vec![PROBE_BLOB]).await;
        room
    }

    fn filler(&self) -> Vec<Bytes> {
        const PART: usize = 64 << 10;
        // One buffer many times over, so that it takes no memory here.
        let part = Bytes::from(vec![0; PART.min(self.options.reserve_bytes)]);
        vec![part; self.options.reserve_bytes.div_ceil(PART)]
    }
}
