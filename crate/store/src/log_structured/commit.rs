//! Group commit: everything that waits becomes durable in one transaction, or is taken back.

use super::{
    backend::{Backend, Transaction},
    space,
    state::{Core, ImmutableMemtable, State, Waiting},
};
use crate::{Batch, Bytes, CrashPoint, Op, StoreError, codec::encode_batch, memtable::Memtable};
use futures_channel::oneshot;
use std::rc::Rc;

/// Chromium stores values from 64 KiB on as files of their own, which takes three times as long.
const PIECE: usize = 60_000;

/// Unmerged log in memory may grow to so many times `flush_bytes` before commits wait for the flush, or are refused when it fails.
const CROWDED: usize = 4;

/// How a group becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Into the log.
    Log,
    /// Into the log, which is then long enough to be flushed.
    LogAndFlush,
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
        if let Some(error) = state.flush_error.clone().filter(|_| state.log_bytes > self.crowded_at() && !batch.frees_space() && !batch.is_empty()) {
            self.start_flush(state);
            return Err(error);
        }
        if batch.generation().is_some_and(|generation| generation < state.generation) {
            return Err(StoreError::RolledBack);
        }
        state.bytes_committed += batch.bytes() as u64;
        state.active.apply(&batch);
        let (answer, answered) = oneshot::channel();
        state.waiting.push(Waiting { batch, answer });
        if !state.committing {
            state.committing = true;
            self.backend.spawn(Box::pin(self.clone().run_commits()));
        }
        Ok(answered)
    }

    fn crowded_at(&self) -> usize {
        CROWDED * self.options.flush_bytes
    }

    async fn run_commits(self: Rc<Self>) {
        loop {
            let writing = self.writing.lock().await;
            let Some(way) = self.next_way() else { break };
            if way == Way::Sstable && self.state.borrow().immutable.is_some() {
                drop(writing);
                self.flush_ended().await;
                continue;
            }
            let group = self.take(way);
            let result = self.write_group(way, &group).await;
            if self.state.borrow().closed {
                break;
            }
            self.finish(way, group, result);
            drop(writing);
        }
        self.state.borrow_mut().committing = false;
        self.progress.notify(usize::MAX);
    }

    fn next_way(&self) -> Option<Way> {
        let state = self.state.borrow();
        if state.waiting.is_empty() {
            return None;
        }
        let bytes: usize = state.waiting.iter().map(|waiting| waiting.batch.bytes()).sum();
        let flush_stuck = state.immutable.is_some() && !state.flushing;
        let crowded = state.immutable.is_some() && state.log_bytes + bytes > self.crowded_at();
        Some(match (bytes > self.options.log_bypass_bytes || crowded) && !flush_stuck && !state.space.full {
            true => Way::Sstable,
            false if state.log_bytes + bytes > self.options.flush_bytes && state.immutable.is_none() => Way::LogAndFlush,
            false => Way::Log,
        })
    }

    fn take(&self, way: Way) -> Vec<Waiting> {
        let state = &mut *self.state.borrow_mut();
        if way != Way::Log {
            // Now, because at this moment the memtable holds exactly the durable log and this group.
            let memtable = Rc::new(std::mem::take(&mut state.active));
            state.immutable = Some(ImmutableMemtable { memtable, batches: std::mem::take(&mut state.durable), through: None });
        }
        state.in_flight = Some(Vec::new());
        std::mem::take(&mut state.waiting)
    }

    async fn write_group(&self, way: Way, group: &[Waiting]) -> Result<(), StoreError> {
        let mut encoded = Vec::new();
        for waiting in group.iter().filter(|waiting| !waiting.batch.is_empty()) {
            encode_batch(&mut encoded, &waiting.batch);
        }
        if encoded.is_empty() && way != Way::Sstable {
            return Ok(());
        }
        if self.state.borrow().space.full {
            self.release_reserve().await;
        }
        if way == Way::Sstable {
            let through = self.state.borrow().next_log - 1;
            return self.write_immutable(through).await;
        }
        let length = encoded.len();
        let log = self.number_pieces(encoded.into());
        let mut result = self.backend.write(Transaction { put_log: log.clone(), ..Transaction::default() }).await;
        let makes_room = group.iter().any(|waiting| waiting.batch.frees_space());
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

    fn number_pieces(&self, mut encoded: Bytes) -> Vec<(u64, Bytes)> {
        let state = &mut *self.state.borrow_mut();
        let mut pieces = Vec::new();
        while !encoded.is_empty() {
            pieces.push((state.next_log, encoded.split_to(encoded.len().min(PIECE))));
            state.next_log += 1;
        }
        pieces
    }

    fn finish(self: &Rc<Self>, way: Way, group: Vec<Waiting>, result: Result<(), StoreError>) {
        let lost = match &result {
            Ok(()) => {
                self.group_is_durable(way, &group);
                Vec::new()
            }
            Err(error) => self.roll_back(error),
        };
        let in_flight = self.state.borrow_mut().in_flight.take().unwrap_or_default();
        for answer in group.into_iter().map(|waiting| waiting.answer).chain(in_flight) {
            let _ = answer.send(result.clone());
        }
        for waiting in lost {
            let full = result == Err(StoreError::QuotaExceeded) && !waiting.batch.frees_space();
            let _ = waiting.answer.send(Err(if full { StoreError::QuotaExceeded } else { StoreError::RolledBack }));
        }
    }

    fn group_is_durable(self: &Rc<Self>, way: Way, group: &[Waiting]) {
        let state = &mut *self.state.borrow_mut();
        state.commits += u64::from(group.iter().any(|waiting| !waiting.batch.is_empty()));
        state.last_commit = self.backend.now();
        let deletes =
            group.iter().any(|waiting| waiting.batch.frees_space() || waiting.batch.ops().iter().any(|op| matches!(op, Op::DeleteRange(_))));
        match way {
            Way::Log => {
                state.durable.extend(group.iter().map(|waiting| waiting.batch.clone()));
                self.start_flush(state);
                self.flush_when_idle(state);
            }
            Way::LogAndFlush => {
                if let Some(immutable) = &mut state.immutable {
                    // Nothing was numbered since the group was.
                    immutable.through = Some(state.next_log - 1);
                    immutable.batches = Vec::new();
                }
                state.log_bytes = 0;
                self.start_flush(state);
            }
            // `write_immutable` has put the sstables in the memtable's place.
            Way::Sstable => self.schedule_compaction(state),
        }
        if deletes {
            state.space.reclaim_requested = true;
            state.space.unreclaimed = true;
            self.schedule_compaction(state);
        }
    }

    /// Takes reads back to what is durable and returns those whose batches are lost.
    fn roll_back(&self, error: &StoreError) -> Vec<Waiting> {
        let state = &mut *self.state.borrow_mut();
        match error {
            StoreError::QuotaExceeded => state.space.set_full(self.backend.now()),
            StoreError::Fenced | StoreError::Closed => state.dead = Some(error.clone()),
            _ => {}
        }
        state.restore_durable();
        state.generation += 1;
        std::mem::take(&mut state.waiting)
    }
}

impl State {
    fn restore_durable(&mut self) {
        if self.immutable.as_ref().is_some_and(|immutable| immutable.through.is_none())
            && let Some(immutable) = self.immutable.take()
        {
            self.durable = immutable.batches;
        }
        self.active = Memtable::replay(&self.durable);
    }
}
