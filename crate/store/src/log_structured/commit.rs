//! Group commit: everything that waits becomes durable in one transaction, or is taken back.

use super::{
    backend::{Backend, Transaction},
    space,
    state::{Core, ImmutableMemtable, PendingCommit, State},
};
use crate::{Batch, Bytes, CrashPoint, Op, StoreError, codec::encode_batch, memtable::Memtable};
use futures_channel::oneshot;
use std::rc::Rc;

/// Chromium stores values from 64 KiB on as files of their own, which takes three times as long.
const MAX_LOG_RECORD: usize = 60_000;

/// Unmerged log in memory may grow to so many times `flush_bytes` before commits wait for the flush, or are refused when it fails.
const STALL_FACTOR: usize = 4;

/// How a group becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WritePath {
    /// Into the log.
    Log,
    /// Into the log, which is then long enough to be flushed.
    LogThenFlush,
    /// Into an sstable, together with what the log holds.
    Sstable,
}

impl<B: Backend> Core<B> {
    /// Makes `batch` visible and lets it be written.
    pub(super) fn submit(self: Rc<Self>, batch: Batch) -> Result<oneshot::Receiver<Result<(), StoreError>>, StoreError> {
        let state = &mut *self.state.borrow_mut();
        if let Some(error) = &state.dead {
            return Err(error.clone());
        }
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
        if batch.generation().is_some_and(|generation| generation < state.generation) {
            return Err(StoreError::RolledBack);
        }
        state.bytes_committed += batch.bytes() as u64;
        state.memtable.apply(&batch);
        let (completion, completed) = oneshot::channel();
        state.pending.push(PendingCommit { batch, completion });
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
            if path == WritePath::Sstable && self.state.borrow().immutable.is_some() {
                drop(writing);
                self.flush_ended().await;
                continue;
            }
            let group = self.take_group(path);
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
        if state.pending.is_empty() {
            return None;
        }
        let bytes: usize = state.pending.iter().map(|pending| pending.batch.bytes()).sum();
        let flush_stuck = state.immutable.is_some() && !state.flushing;
        let stalled = state.immutable.is_some() && state.log_bytes + bytes > self.stall_bytes();
        Some(match (bytes > self.options.log_bypass_bytes || stalled) && !flush_stuck && !state.space.full {
            true => WritePath::Sstable,
            false if state.log_bytes + bytes > self.options.flush_bytes && state.immutable.is_none() => WritePath::LogThenFlush,
            false => WritePath::Log,
        })
    }

    fn take_group(&self, path: WritePath) -> Vec<PendingCommit> {
        let state = &mut *self.state.borrow_mut();
        if path != WritePath::Log {
            // Now, because at this moment the memtable holds exactly the durable log and this group.
            let memtable = Rc::new(std::mem::take(&mut state.memtable));
            state.immutable = Some(ImmutableMemtable { memtable, batches: std::mem::take(&mut state.durable_batches), last_log: None });
        }
        state.in_flight = Some(Vec::new());
        std::mem::take(&mut state.pending)
    }

    async fn write_group(&self, path: WritePath, group: &[PendingCommit]) -> Result<(), StoreError> {
        let mut encoded = Vec::new();
        for pending in group.iter().filter(|pending| !pending.batch.is_empty()) {
            encode_batch(&mut encoded, &pending.batch);
        }
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
        let in_flight = self.state.borrow_mut().in_flight.take().unwrap_or_default();
        for completion in group.into_iter().map(|pending| pending.completion).chain(in_flight) {
            let _ = completion.send(result.clone());
        }
        for pending in lost {
            let full = result == Err(StoreError::QuotaExceeded) && !pending.batch.frees_space();
            let _ = pending.completion.send(Err(if full { StoreError::QuotaExceeded } else { StoreError::RolledBack }));
        }
    }

    fn group_is_durable(self: &Rc<Self>, path: WritePath, group: &[PendingCommit]) {
        let state = &mut *self.state.borrow_mut();
        state.commits += u64::from(group.iter().any(|pending| !pending.batch.is_empty()));
        state.last_commit = self.backend.now();
        let deletes =
            group.iter().any(|pending| pending.batch.frees_space() || pending.batch.ops().iter().any(|op| matches!(op, Op::DeleteRange(_))));
        match path {
            WritePath::Log => {
                state.durable_batches.extend(group.iter().map(|pending| pending.batch.clone()));
                self.start_flush(state);
                self.flush_when_idle(state);
            }
            WritePath::LogThenFlush => {
                if let Some(immutable) = &mut state.immutable {
                    // Nothing was numbered since the group was.
                    immutable.last_log = Some(state.next_log - 1);
                    immutable.batches = Vec::new();
                }
                state.log_bytes = 0;
                self.start_flush(state);
            }
            // `write_immutable` has put the sstables in the memtable's place.
            WritePath::Sstable => self.schedule_compaction(state),
        }
        if deletes {
            state.space.reclaim_requested = true;
            state.space.unreclaimed = true;
            self.schedule_compaction(state);
        }
    }

    /// Takes reads back to what is durable and returns those whose batches are lost.
    fn roll_back(&self, error: &StoreError) -> Vec<PendingCommit> {
        let state = &mut *self.state.borrow_mut();
        match error {
            StoreError::QuotaExceeded => state.space.set_full(self.backend.now()),
            StoreError::Fenced | StoreError::Closed => state.dead = Some(error.clone()),
            _ => {}
        }
        state.restore_durable();
        state.generation += 1;
        std::mem::take(&mut state.pending)
    }
}

impl State {
    fn restore_durable(&mut self) {
        if self.immutable.as_ref().is_some_and(|immutable| immutable.last_log.is_none())
            && let Some(immutable) = self.immutable.take()
        {
            self.durable_batches = immutable.batches;
        }
        self.memtable = Memtable::replay(&self.durable_batches);
    }
}
