//! Compaction: sstables of one level are merged into the next, without what nobody can see. The
//! task that does it also deletes what is not needed any more, and keeps the reserve.

use super::{
    backend::{Backend, Transaction},
    loaded::LoadedSstable,
    space,
    sstable::Sstable,
    state::{Core, State},
};
use crate::{
    Bytes, CrashPoint, Direction, StoreError,
    memtable::RangeTombstones,
    merge::{Merge, Source},
};
use futures_util::future::{Either, select, try_join_all};
use std::{ops::Range, rc::Rc};

/// Level 0 is compacted when it has so many sstables.
const L0_COMPACTION_TRIGGER: usize = 4;
/// Level 0 is compacted even while commits go on when it has so many sstables. Commits do not stop.
const L0_FORCED_COMPACTION_TRIGGER: usize = 24;
/// Bytes of level 0 in one compaction. While space is reclaimed it is one sstable, since inputs are
/// deleted only when all of them are written anew.
const MAX_COMPACTION_BYTES: u64 = 8 << 20;
/// Milliseconds before it is checked again whether commits still come in.
const BUSY_POLL_MS: u32 = 20;

/// Sstables of one level that are merged into the next.
#[derive(Debug)]
struct Compaction {
    /// Newest first.
    inputs: Vec<Rc<Sstable>>,
    level: u8,
    range: Range<Bytes>,
}

/// One replacement: a part of the inputs, and the sstables of the next level that it overlaps.
#[derive(Clone)]
struct Subcompaction {
    next_level: Vec<Rc<Sstable>>,
    /// The part of the inputs that is merged.
    part: Range<Bytes>,
    /// Nothing older lies below, so deletions are dropped.
    bottommost: bool,
    last: bool,
}

impl<B: Backend> Core<B> {
    /// Starts the compaction task if there may be work for it.
    pub(super) fn schedule_compaction(self: &Rc<Self>, state: &mut State) {
        if !state.compacting && !state.closing && state.queue.check_writable().is_ok() {
            state.compacting = true;
            self.backend.spawn(Box::pin(self.clone().run_compactions()));
        }
    }

    async fn run_compactions(self: Rc<Self>) {
        while !self.stopped() {
            let worked = self.compact_once().await;
            if !self.has_more_after(worked) {
                break;
            }
            self.backend.pause(0).await;
        }
        self.state.borrow_mut().compacting = false;
        self.progress.notify(usize::MAX);
    }

    /// Whether the task goes on after a piece of work.
    fn has_more_after(&self, worked: Result<bool, StoreError>) -> bool {
        let state = &mut *self.state.borrow_mut();
        let space = &mut state.space;
        match worked {
            Ok(true) => return true,
            Ok(false) => space.unreclaimed &= !space.may_allocate(),
            Err(StoreError::QuotaExceeded) => space.compaction_retry_at = self.backend.now() + space::RETRY_MS,
            Err(error) => {
                if !state.closing && state.queue.check_writable().is_ok() {
                    tracing::warn!(%error, "compaction failed");
                }
                return false;
            }
        }
        space.reclaiming = false;
        // This task alone reclaims what was deleted meanwhile.
        space.reclaim_requested
    }

    /// Does one piece of work; `false` when there is none.
    async fn compact_once(self: &Rc<Self>) -> Result<bool, StoreError> {
        self.delete_obsolete().await?;
        if self.state.borrow().space.reclaim_requested {
            {
                let space = &mut self.state.borrow_mut().space;
                space.reclaim_requested = false;
                space.reclaiming = space.full;
                space.compaction_retry_at = 0.0;
            }
            self.delete_covered().await?;
            self.delete_obsolete().await?;
            self.restore_reserve().await;
            return Ok(true);
        }
        if !self.state.borrow().space.has_reserve && !self.state.borrow().space.full {
            self.restore_reserve().await;
        }
        self.start_flush(&mut self.state.borrow_mut());
        let Some(compaction) = self.pick_compaction() else {
            let full = self.state.borrow().space.full;
            return Ok(full && self.flush_for_room().await);
        };
        self.run_compaction(compaction).await?;
        if self.state.borrow().space.full {
            self.delete_obsolete().await?;
            self.restore_reserve().await;
        }
        Ok(true)
    }

    fn pick_compaction(&self) -> Option<Compaction> {
        let state = &mut *self.state.borrow_mut();
        let full = state.space.full;
        let scarce = full || state.space.reclaiming;
        let held_back = if full { !state.space.reclaiming } else { self.backend.now() < state.space.compaction_retry_at };
        if held_back {
            return None;
        }
        state.compact_pointers.resize(usize::from(state.levels.deepest()) + 2, Bytes::new());
        let level_zero = state.levels.level_zero();
        if level_zero.len() >= if scarce { 1 } else { L0_COMPACTION_TRIGGER } {
            let (mut bytes, most) = (0, if scarce { 1 } else { MAX_COMPACTION_BYTES });
            let enough = |sstable: &&Rc<Sstable>| {
                let fits = bytes < most;
                bytes += u64::from(sstable.length);
                fits
            };
            let mut inputs: Vec<_> = level_zero.iter().rev().take_while(enough).cloned().collect();
            inputs.reverse();
            return Compaction::new(inputs, 0);
        }
        let mut limit = self.options.level_one_bytes;
        for level in 1..=state.levels.deepest() {
            if state.levels.run_bytes(level) > limit {
                let run = state.levels.run(level);
                let next = run.iter().find(|sstable| sstable.start > state.compact_pointers[usize::from(level)]).or(run.first())?.clone();
                state.compact_pointers[usize::from(level)] = next.start.clone();
                return Compaction::new(vec![next], level);
            }
            limit = limit.saturating_mul(10);
        }
        if !full {
            return None;
        }
        // Space is freed when a deletion meets what it deletes.
        let has_deletions = |sstable: &&Rc<Sstable>| {
            (sstable.deletions > 0 || !sstable.range_tombstones.is_empty()) && state.levels.anything_below(sstable.level, &sstable.range())
        };
        let level = |sstable: &Rc<Sstable>| Compaction::new(vec![sstable.clone()], sstable.level);
        state.levels.all().find(has_deletions).and_then(level)
    }

    async fn run_compaction(&self, compaction: Compaction) -> Result<(), StoreError> {
        let mut from = compaction.range.start.clone();
        let mut inputs = Vec::new();
        loop {
            self.wait_while_busy().await;
            if self.stopped() {
                return Ok(());
            }
            let Some(sub) = self.next_subcompaction(&compaction, &from) else { return Ok(()) };
            let moved = self.trivial_move(&compaction, &sub).map(Rc::new);
            if moved.is_none() && inputs.is_empty() {
                inputs = try_join_all(compaction.inputs.iter().map(|input| self.load(input))).await?;
            }
            let attempt = async || match &moved {
                Some(moved) => self.install(&compaction, &sub, vec![moved.clone()]).await,
                None => self.run_subcompaction(&compaction, &inputs, &sub).await,
            };
            let mut result = attempt().await;
            for _ in 0..space::MAX_RETRIES {
                if result != Err(StoreError::QuotaExceeded) || !self.state.borrow().space.reclaiming || self.stopped() {
                    break;
                }
                // A compaction frees more than it takes, but what it has replaced so far is free
                // only some time later.
                self.make_room().await;
                result = attempt().await;
            }
            if !result? || sub.last {
                return Ok(());
            }
            from = sub.part.end.clone();
            drop(sub);
            self.delete_obsolete().await?;
        }
    }

    /// Waits while commits come in, unless level 0 slows reads down or space has to be freed.
    async fn wait_while_busy(&self) {
        loop {
            self.backend.pause(0).await;
            let busy = {
                let state = self.state.borrow();
                let may_wait =
                    state.levels.level_zero().len() < L0_FORCED_COMPACTION_TRIGGER && !state.closing && !state.space.full && !state.space.reclaiming;
                may_wait && self.backend.now() - state.last_commit < f64::from(self.options.compaction_delay_ms)
            };
            if !busy {
                return;
            }
            self.backend.pause(BUSY_POLL_MS).await;
        }
    }

    fn next_subcompaction(&self, compaction: &Compaction, from: &Bytes) -> Option<Subcompaction> {
        let state = self.state.borrow();
        if !compaction.inputs.iter().all(|input| state.levels.contains(input.id)) {
            return None;
        }
        let target = compaction.level + 1;
        let rest = from.clone()..compaction.range.end.clone();
        let overlapping = state.levels.overlapping(target, &rest);
        let mut bytes = 0;
        let small = |sstable: &&Rc<Sstable>| {
            let take = bytes == 0 || bytes + sstable.length as usize <= self.options.sstable_bytes / 2;
            bytes += sstable.length.max(1) as usize;
            take
        };
        let next_level: Vec<_> = overlapping.iter().take_while(small).cloned().collect();
        let after = overlapping.get(next_level.len());
        let end = after.map_or(compaction.range.end.clone(), |after| after.start.clone());
        let whole =
            next_level.iter().fold(from.clone()..end.clone(), |whole, below| whole.start.min(below.start.clone())..whole.end.max(below.end.clone()));
        let bottommost = !state.levels.anything_below(target, &whole);
        Some(Subcompaction { next_level, part: from.clone()..end, bottommost, last: after.is_none() })
    }

    /// The one input, a level deeper, where there is nothing to merge it with and nothing to drop.
    fn trivial_move(&self, compaction: &Compaction, sub: &Subcompaction) -> Option<Sstable> {
        let [input] = compaction.inputs.as_slice() else { return None };
        let alone = sub.next_level.is_empty() && sub.last && sub.part == compaction.range;
        let drops_deletions = sub.bottommost && (input.deletions > 0 || !input.range_tombstones.is_empty());
        let range_tombstones = || self.state.borrow().queue.durable_range_tombstones().clip(Some(&input.start), Some(&input.end));
        (alone && !drops_deletions && range_tombstones().is_empty()).then(|| Sstable { level: compaction.level + 1, ..Sstable::clone(input) })
    }

    /// Merges and installs. `false` when an input has gone meanwhile.
    async fn run_subcompaction(&self, compaction: &Compaction, inputs: &[LoadedSstable], sub: &Subcompaction) -> Result<bool, StoreError> {
        let part = sub.part.start.to_vec()..sub.part.end.to_vec();
        let tombstones_of = |whole: &LoadedSstable| whole.range_tombstones.clip(Some(&sub.part.start), Some(&sub.part.end));
        let inputs: Vec<(&LoadedSstable, RangeTombstones)> = inputs.iter().map(|input| (input, tombstones_of(input))).collect();
        let has_some = |(input, range_tombstones): &&(&LoadedSstable, RangeTombstones)| {
            !range_tombstones.is_empty() || input.entries(part.clone()).next().is_some()
        };
        let inputs: Vec<_> = inputs.iter().filter(has_some).collect();
        if inputs.is_empty() {
            // Most sstables of the next level are of rooms in which nothing has happened since.
            // They stay as they are.
            return if sub.last {
                self.install(compaction, &Subcompaction { next_level: Vec::new(), ..sub.clone() }, Vec::new()).await
            } else {
                Ok(true)
            };
        }
        let next_level = try_join_all(sub.next_level.iter().map(|below| self.load(below))).await?;
        let everything = Vec::new()..sub.next_level.last().map_or(&sub.part.end, |below| (&below.end).max(&sub.part.end)).to_vec();
        let newer = self.state.borrow().queue.durable_range_tombstones();
        let mut sources = vec![Source::new(&everything, |_| Box::new(std::iter::empty()), |key| newer.covering(key))];
        for (input, range_tombstones) in &inputs {
            let within = |of: Range<Vec<u8>>| of.start.max(part.start.clone())..of.end.min(part.end.clone());
            sources.push(Source::new(&everything, move |of| Box::new(input.entries(within(of))), |key| range_tombstones.covering(key)));
        }
        let below_entries = |of: Range<Vec<u8>>| next_level.iter().flat_map(move |below| below.entries(of.clone()));
        sources.push(Source::new(&everything, move |of| Box::new(below_entries(of)), |_| None));
        let merged = Merge::new(sources, everything.clone(), Direction::Forward).map(|entry| entry.map_err(StoreError::from));
        let live = merged.filter(|entry| !(sub.bottommost && matches!(entry, Ok((_, None)))));
        let mut range_tombstones = RangeTombstones::default();
        if !sub.bottommost {
            let ranges = inputs.iter().map(|(_, range_tombstones)| range_tombstones).chain(next_level.iter().map(|below| &below.range_tombstones));
            ranges.flat_map(RangeTombstones::iter).for_each(|(start, end)| range_tombstones.insert(start.clone()..end.clone()));
        }
        let bytes = inputs.iter().map(|(input, _)| input.bytes(&part)).chain(next_level.iter().map(|below| below.bytes(&everything))).sum::<usize>();
        let target = bytes / bytes.div_ceil(self.options.sstable_bytes).max(1) + self.options.block_bytes;
        let built = self.build(live, range_tombstones, compaction.level + 1, target).await?;
        let sstables = self.put_blobs(built).await?;
        self.install(compaction, sub, sstables).await
    }

    /// Puts `sstables` in the place of what was merged.
    async fn install(&self, compaction: &Compaction, sub: &Subcompaction, sstables: Vec<Rc<Sstable>>) -> Result<bool, StoreError> {
        if self.crash_at(CrashPoint::Compacting) {
            return Err(StoreError::Closed);
        }
        let _writing = self.writing.lock().await;
        let mut replaced: Vec<Rc<Sstable>> = sub.next_level.clone();
        if sub.last {
            replaced.extend(compaction.inputs.iter().cloned());
        }
        let still_there = {
            let state = self.state.borrow();
            state.queue.check_writable().is_ok() && sub.next_level.iter().chain(&compaction.inputs).all(|input| state.levels.contains(input.id))
        };
        let moved = |sstable: &Sstable| sstables.iter().any(|new| new.id == sstable.id);
        let installed = match still_there {
            false => Ok(()),
            true => {
                let put_sstables = sstables.iter().map(|sstable| (sstable.id, sstable.encode())).collect();
                let delete_sstables = replaced.iter().filter(|old| !moved(old)).map(|old| old.id).collect();
                self.backend.write(Transaction { put_sstables, delete_sstables, ..Transaction::default() }).await
            }
        };
        if !still_there || installed.is_err() {
            let new: Vec<_> = sstables.iter().filter(|sstable| !replaced.iter().any(|old| old.id == sstable.id)).cloned().collect();
            self.delete_uninstalled(&new).await;
            return installed.map(|()| false);
        }
        let state = &mut *self.state.borrow_mut();
        replaced.iter().for_each(|old| state.levels.remove(old.id));
        state.obsolete.extend(replaced.into_iter().filter(|old| !moved(old)));
        sstables.into_iter().for_each(|sstable| state.levels.add(sstable));
        Ok(true)
    }

    /// Starts the compaction task of an opening. First it deletes what an earlier one left behind.
    pub(super) fn start_background_work(self: Rc<Self>, epoch: u64) {
        self.state.borrow_mut().compacting = true;
        let core = self.clone();
        self.backend.spawn(Box::pin(async move {
            if let Err(error) = core.delete_orphans(epoch).await
                && !core.stopped()
            {
                tracing::warn!(%error, "could not delete unused Blobs");
            }
            core.startup_delay().await;
            core.save_prefetch_list().await;
            core.run_compactions().await;
        }));
    }

    /// Leaves the machine to the first reads for a while, or until the store stops.
    async fn startup_delay(&self) {
        let mut over = self.backend.pause(self.options.startup_compaction_delay_ms);
        loop {
            let progress = self.progress.listen();
            if self.stopped() {
                return;
            }
            match select(over, progress).await {
                Either::Left(_) => return,
                Either::Right((_, rest)) => over = rest,
            }
        }
    }
}

impl Compaction {
    fn new(inputs: Vec<Rc<Sstable>>, level: u8) -> Option<Self> {
        let start = inputs.iter().map(|input| &input.start).min()?.clone();
        let end = inputs.iter().map(|input| &input.end).max()?.clone();
        Some(Self { inputs, level, range: start..end })
    }
}

impl Sstable {
    fn range(&self) -> Range<Bytes> {
        self.start.clone()..self.end.clone()
    }
}
