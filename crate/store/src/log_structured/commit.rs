//! Where a group of batches is written: into the log, or, when it is large, into an sstable.

use super::{
    backend::{Backend, Transaction},
    space,
    state::Core,
};
use crate::{
    Batch, Bytes, CrashPoint, StoreError,
    commit_queue::{Completed, PendingCommit, encode_group},
};
use std::rc::Rc;

/// Bytes of a log record. Chromium stores values from 64 KiB on as files of their own, which takes
/// three times as long.
const MAX_LOG_RECORD: usize = 60_000;

/// When the log is so many times `flush_bytes`, commits wait for the flush. When the flush fails,
/// they are refused.
const STALL_FACTOR: usize = 4;

/// How a group becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WritePath {
    /// Into the log.
    Log,
    /// Into the log, after which the memtable is flushed.
    LogThenFlush,
    /// Into an sstable, together with what the log holds.
    Sstable,
}

impl<B: Backend> Core<B> {
    /// Makes `batch` visible and lets it be written.
    pub(super) fn submit(self: Rc<Self>, batch: Batch) -> Result<Completed, StoreError> {
        let state = &mut *self.state.borrow_mut();
        state.queue.check_writable()?;
        if state.closing {
            return Err(StoreError::Closed);
        }
        if state.space.full && !batch.frees_space() && !batch.is_empty() {
            self.clone().check_for_space(state);
            return Err(StoreError::QuotaExceeded);
        }
        if let Some(error) = state.flush_error.clone().filter(|_| state.log_bytes > self.stall_bytes() && !batch.frees_space() && !batch.is_empty()) {
            self.start_flush(state);
            return Err(error);
        }
        let completed = state.queue.submit(batch)?;
        if !state.committing {
            state.committing = true;
            self.backend.spawn(Box::pin(self.clone().run_commits()));
        }
        Ok(completed)
    }

    fn stall_bytes(&self) -> usize {
        STALL_FACTOR * self.options.flush_bytes
    }

    async fn run_commits(self: Rc<Self>) {
        loop {
            let writing = self.writing.lock().await;
            let Some(path) = self.choose_path() else { break };
            if path == WritePath::Sstable && self.state.borrow().queue.has_immutable() {
                drop(writing);
                self.flush_ended().await;
                continue;
            }
            let group = self.state.borrow_mut().queue.take_group(path != WritePath::Log);
            let result = self.write_group(path, &group).await;
            if self.state.borrow().closed {
                break;
            }
            self.finish_group(path, group, result);
            drop(writing);
        }
        self.state.borrow_mut().committing = false;
        self.progress.notify(usize::MAX);
    }

    fn choose_path(&self) -> Option<WritePath> {
        let state = self.state.borrow();
        if state.queue.is_empty() {
            return None;
        }
        let (bytes, has_immutable) = (state.queue.pending_bytes(), state.queue.has_immutable());
        let flush_stuck = has_immutable && !state.flushing;
        let stalled = has_immutable && state.log_bytes + bytes > self.stall_bytes();
        Some(match (bytes > self.options.log_bypass_bytes || stalled) && !flush_stuck && !state.space.full {
            true => WritePath::Sstable,
            false if state.log_bytes + bytes > self.options.flush_bytes && !has_immutable => WritePath::LogThenFlush,
            false => WritePath::Log,
        })
    }

    async fn write_group(&self, path: WritePath, group: &[PendingCommit]) -> Result<(), StoreError> {
        let mut encoded = Vec::new();
        encode_group(&mut encoded, group);
        if encoded.is_empty() && path != WritePath::Sstable {
            return Ok(());
        }
        if self.state.borrow().space.full {
            self.release_reserve().await;
        }
        if path == WritePath::Sstable {
            let last_log = self.state.borrow().next_log - 1;
            return self.write_immutable(last_log).await;
        }
        let length = encoded.len();
        let log = self.split_into_records(encoded.into());
        let mut result = self.backend.write(Transaction { put_log: log.clone(), ..Transaction::default() }).await;
        let makes_room = group.iter().any(|pending| pending.batch.frees_space());
        for _ in 0..space::MAX_RETRIES {
            if !makes_room || result != Err(StoreError::QuotaExceeded) {
                break;
            }
            self.make_room().await;
            result = self.backend.write(Transaction { put_log: log.clone(), ..Transaction::default() }).await;
        }
        if result.is_ok() {
            self.state.borrow_mut().log_bytes += length;
        }
        if self.crash_at(CrashPoint::BetweenCommitAndAnswer) {
            return Err(StoreError::Closed);
        }
        result
    }

    fn split_into_records(&self, mut encoded: Bytes) -> Vec<(u64, Bytes)> {
        let state = &mut *self.state.borrow_mut();
        let mut records = Vec::new();
        while !encoded.is_empty() {
            records.push((state.next_log, encoded.split_to(encoded.len().min(MAX_LOG_RECORD))));
            state.next_log += 1;
        }
        records
    }

    fn finish_group(self: &Rc<Self>, path: WritePath, group: Vec<PendingCommit>, result: Result<(), StoreError>) {
        let lost = match &result {
            Ok(()) => {
                self.group_is_durable(path, &group);
                Vec::new()
            }
            Err(error) => self.roll_back(error),
        };
        let waiting = self.state.borrow_mut().queue.end_group(group, &result);
        for completion in waiting {
            let _ = completion.send(result.clone());
        }
        for pending in lost {
            let full = result == Err(StoreError::QuotaExceeded) && !pending.batch.frees_space();
            let _ = pending.completion.send(Err(if full { StoreError::QuotaExceeded } else { StoreError::RolledBack }));
        }
    }

    fn group_is_durable(self: &Rc<Self>, path: WritePath, group: &[PendingCommit]) {
        let state = &mut *self.state.borrow_mut();
        state.last_commit = self.backend.now();
        if path == WritePath::Sstable {
            // The group is in an sstable already, and not in the log.
            self.schedule_compaction(state);
        } else {
            // No record was numbered since those of the group.
            if state.queue.group_is_logged(group, state.next_log - 1) {
                state.log_bytes = 0;
            } else {
                self.flush_when_idle(state);
            }
            self.start_flush(state);
        }
        if group.iter().any(|pending| pending.batch.frees_space() || pending.batch.range_deletes().next().is_some()) {
            state.space.reclaim_requested = true;
            state.space.unreclaimed = true;
            self.schedule_compaction(state);
        }
    }

    /// Takes reads back to what is durable, and returns those whose batches are lost with it.
    fn roll_back(&self, error: &StoreError) -> Vec<PendingCommit> {
        let state = &mut *self.state.borrow_mut();
        match error {
            StoreError::QuotaExceeded => state.space.set_full(self.backend.now()),
            StoreError::Fenced | StoreError::Closed => state.queue.set_fatal_error(error.clone()),
            _ => {}
        }
        state.queue.roll_back()
    }
}
