//! Flush: a full memtable, or one that nothing is written to, becomes sstables of level 0.

use super::{
    backend::{Backend, Transaction},
    space,
    sstable::{Built, Sstable, SstableBuilder},
    state::{Core, State},
};
use crate::{Bytes, CrashPoint, StoreError, memtable::RangeTombstones, merge::Entry};
use std::rc::Rc;

/// A task yields after so many milliseconds of work.
const TIME_SLICE_MS: f64 = 4.0;

impl<B: Backend> Core<B> {
    /// Flushes the immutable memtable in the background, if all of it is in the log. Not while
    /// storage is full.
    pub(super) fn start_flush(self: &Rc<Self>, state: &mut State) {
        if state.space.full {
            return;
        }
        if let Some(last_log) = self.next_flush(state) {
            self.backend.spawn(Box::pin(self.clone().run_flush(last_log)));
        }
    }

    /// Flushes the immutable memtable while storage is full. Says whether there was one.
    pub(super) async fn flush_for_room(self: &Rc<Self>) -> bool {
        let last_log = self.next_flush(&mut self.state.borrow_mut());
        if let Some(last_log) = last_log {
            self.clone().run_flush(last_log).await;
        }
        last_log.is_some()
    }

    /// The last log record that a flush would replace. The caller has to run the flush.
    fn next_flush(&self, state: &mut State) -> Option<u64> {
        let last_log = state.queue.logged_immutable()?;
        let held_back = state.flushing || state.closing || !state.space.may_allocate() || self.backend.now() < state.flush_retry_at;
        state.flushing |= !held_back;
        (!held_back).then_some(last_log)
    }

    async fn run_flush(self: Rc<Self>, last_log: u64) {
        let result = self.flush(last_log).await;
        let state = &mut *self.state.borrow_mut();
        state.flushing = false;
        state.flush_error = result.as_ref().err().filter(|error| **error != StoreError::QuotaExceeded).cloned();
        if let Err(error) = result {
            // The log still has all of it.
            state.flush_retry_at = self.backend.now() + space::RETRY_MS;
            if error == StoreError::QuotaExceeded {
                state.space.set_full(self.backend.now());
            } else if !state.closing {
                tracing::warn!(%error, "could not flush a memtable; its data stays in the log");
            }
        }
        self.schedule_compaction(state);
        self.progress.notify(usize::MAX);
    }

    /// Flushes the memtable once nothing has been written for a while, if it is large enough.
    pub(super) fn flush_when_idle(self: &Rc<Self>, state: &mut State) {
        if state.idle_flush_scheduled || state.log_bytes < self.options.idle_flush_bytes {
            return;
        }
        state.idle_flush_scheduled = true;
        let core = self.clone();
        self.backend.spawn(Box::pin(async move {
            core.idle().await;
            let _writing = core.writing.lock().await;
            let state = &mut *core.state.borrow_mut();
            state.idle_flush_scheduled = false;
            let all_durable = state.queue.is_empty() && !state.queue.has_immutable() && !state.closing && state.queue.check_writable().is_ok();
            if all_durable && !state.space.full && state.log_bytes >= core.options.idle_flush_bytes {
                state.queue.switch_memtable(state.next_log - 1);
                state.log_bytes = 0;
                core.start_flush(state);
            }
        }));
    }

    /// Ends when nothing was written for a while.
    async fn idle(&self) {
        loop {
            self.backend.pause(self.options.idle_flush_ms).await;
            if self.stopped() || self.backend.now() - self.state.borrow().last_commit >= f64::from(self.options.idle_flush_ms) {
                return;
            }
        }
    }

    async fn flush(&self, last_log: u64) -> Result<(), StoreError> {
        let sstables = self.build_immutable().await?;
        let _writing = self.writing.lock().await;
        self.install_immutable(sstables, last_log).await
    }

    /// Writes the immutable memtable as sstables. The caller holds `writing`.
    pub(super) async fn write_immutable(&self, last_log: u64) -> Result<(), StoreError> {
        let built = self.build_immutable().await?;
        self.install_immutable(built, last_log).await?;
        self.state.borrow_mut().log_bytes = 0;
        Ok(())
    }

    /// Ends when no flush runs any more.
    pub(super) async fn flush_ended(&self) {
        loop {
            let listener = self.progress.listen();
            if !self.state.borrow().flushing {
                return;
            }
            listener.await;
        }
    }

    async fn build_immutable(&self) -> Result<Vec<Rc<Sstable>>, StoreError> {
        let memtable = self.state.borrow().queue.immutable().ok_or(StoreError::Closed)?;
        let entries = memtable.all_points().map(|(key, value)| Ok((key.clone(), value.clone())));
        let built = self.build(entries, memtable.range_tombstones().clone(), 0, self.options.sstable_bytes).await?;
        self.put_blobs(built).await
    }

    /// Puts sstables in the immutable memtable's place. The same transaction deletes its log.
    async fn install_immutable(&self, sstables: Vec<Rc<Sstable>>, last_log: u64) -> Result<(), StoreError> {
        if self.crash_at(CrashPoint::Flushing) || self.state.borrow().queue.check_writable().is_err() {
            return Err(StoreError::Closed);
        }
        let records = sstables.iter().map(|sstable| (sstable.id, sstable.encode())).collect();
        let transaction = Transaction { put_sstables: records, delete_log: Some(last_log), ..Transaction::default() };
        if let Err(error) = self.backend.write(transaction).await {
            self.delete_uninstalled(&sstables).await;
            return Err(error);
        }
        let state = &mut *self.state.borrow_mut();
        sstables.into_iter().for_each(|sstable| state.levels.add(sstable));
        state.queue.immutable_is_stored();
        Ok(())
    }

    /// Makes sstables of about `target` bytes of sorted entries. Range tombstones are cut where the
    /// sstables are.
    pub(super) async fn build(
        &self,
        entries: impl Iterator<Item = Result<Entry, StoreError>>,
        range_tombstones: RangeTombstones,
        level: u8,
        target: usize,
    ) -> Result<Vec<Built>, StoreError> {
        let mut built = Vec::new();
        let mut builder = SstableBuilder::new(self.options.block_bytes);
        let mut cut: Option<Bytes> = None;
        let mut slice = self.backend.now();
        for (nth, entry) in entries.enumerate() {
            let (key, value) = entry?;
            if builder.len() >= target {
                let full = std::mem::replace(&mut builder, SstableBuilder::new(self.options.block_bytes));
                built.push(full.finish(self.state.borrow_mut().new_blob(), level, range_tombstones.clip(cut.as_ref(), Some(&key))));
                cut = Some(key.clone());
            }
            builder.push(&key, value.as_ref());
            if nth % 64 == 63 && self.backend.now() - slice > TIME_SLICE_MS {
                self.backend.pause(0).await;
                slice = self.backend.now();
            }
        }
        let range_tombstones = range_tombstones.clip(cut.as_ref(), None);
        if !builder.is_empty() || !range_tombstones.is_empty() {
            built.push(builder.finish(self.state.borrow_mut().new_blob(), level, range_tombstones));
        }
        Ok(built)
    }

    pub(super) async fn put_blobs(&self, built: Vec<Built>) -> Result<Vec<Rc<Sstable>>, StoreError> {
        let mut sstables = Vec::new();
        for Built { sstable, parts } in built {
            if sstable.points > 0
                && let Err(error) = self.put_one_blob(sstable.id, parts).await
            {
                self.delete_uninstalled(&sstables).await;
                return Err(error);
            }
            sstables.push(Rc::new(sstable));
        }
        Ok(sstables)
    }

    /// Puts one Blob at a time. Browsers let a Blob pass the quota, and several at once might pass
    /// it by more than the reserve holds.
    async fn put_one_blob(&self, id: u64, parts: Vec<Bytes>) -> Result<(), StoreError> {
        let _alone = self.putting_blob.lock().await;
        if !self.state.borrow().space.may_allocate() {
            return Err(StoreError::QuotaExceeded);
        }
        self.backend.put_blob(id, parts).await
    }

    /// Deletes the Blobs of sstables that were not installed.
    pub(super) async fn delete_uninstalled(&self, sstables: &[Rc<Sstable>]) {
        let ids: Vec<u64> = sstables.iter().filter(|sstable| sstable.points > 0).map(|sstable| sstable.id).collect();
        if !ids.is_empty() {
            // What is left is deleted when the store is opened again.
            let _ = self.backend.delete_blobs(ids).await;
        }
    }
}
