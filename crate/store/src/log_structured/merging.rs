//! Maintenance: merging sstables into the next level, dropping what nobody can see, and keeping the reserve.

use super::{
    backend::{Backend, RESERVE_BLOB, Transaction},
    space,
    sstable::Sstable,
    state::{Core, State},
    whole::Whole,
};
use crate::{
    Bytes, CrashPoint, Direction, Op, StoreError,
    memtable::RangeTombstones,
    merge::{Merge, Source},
};
use futures_util::future::{Either, select, try_join_all};
use std::{ops::Range, rc::Rc};

/// Level 0 is merged from so many sstables on.
const CROWD: usize = 4;
/// So many sstables of level 0 are merged even while commits go on.
const TOO_MANY: usize = 24;
/// Bytes of level 0 merged in one job. While room is made it is one sstable: what a job merges goes only when all of it is written anew.
const JOB_BYTES: u64 = 8 << 20;
/// A busy store is looked at again so many milliseconds later.
const LOOK: u32 = 20;

/// Sstables of one level on their way into the next.
#[derive(Debug)]
struct Job {
    /// Newest first.
    uppers: Vec<Rc<Sstable>>,
    level: u8,
    range: Range<Bytes>,
}

/// One replacement: parts of the uppers and whole sstables of the level they go to.
#[derive(Clone)]
struct Step {
    lowers: Vec<Rc<Sstable>>,
    /// The part of the uppers that is merged.
    part: Range<Bytes>,
    /// Nothing older lies below: deletions have nothing left to delete.
    bottom: bool,
    last: bool,
}

impl<B: Backend> Core<B> {
    /// Starts the maintenance task if there may be work for it.
    pub(super) fn maintain(self: &Rc<Self>, state: &mut State) {
        if !state.maintaining && !state.closing && state.dead.is_none() {
            state.maintaining = true;
            self.backend.spawn(Box::pin(self.clone().run_maintenance()));
        }
    }

    async fn run_maintenance(self: Rc<Self>) {
        while !self.stopped() {
            let worked = self.maintain_once().await;
            if !self.has_more_after(worked) {
                break;
            }
            self.backend.pause(0).await;
        }
        self.state.borrow_mut().maintaining = false;
        self.progress.notify(usize::MAX);
    }

    /// Whether maintenance goes on after a piece of work.
    fn has_more_after(&self, worked: Result<bool, StoreError>) -> bool {
        let state = &mut *self.state.borrow_mut();
        let space = &mut state.space;
        match worked {
            Ok(true) => return true,
            Ok(false) => space.owed &= !space.may_grow(),
            Err(StoreError::QuotaExceeded) => space.no_merging_before = self.backend.now() + space::PATIENCE,
            Err(error) => {
                if !state.closing && state.dead.is_none() {
                    tracing::warn!(%error, "merging stopped");
                }
                return false;
            }
        }
        space.making_room = false;
        // Nobody else looks after what was deleted meanwhile.
        space.reclaim
    }

    /// Does one piece of work; `false` when there is none.
    async fn maintain_once(self: &Rc<Self>) -> Result<bool, StoreError> {
        self.sweep().await?;
        if self.state.borrow().space.reclaim {
            {
                let space = &mut self.state.borrow_mut().space;
                space.reclaim = false;
                space.making_room = space.full;
                space.no_merging_before = 0.0;
            }
            self.drop_covered().await?;
            self.sweep().await?;
            self.restore_reserve().await;
            return Ok(true);
        }
        if !self.state.borrow().space.reserve_there && !self.state.borrow().space.full {
            self.restore_reserve().await;
        }
        self.start_flush(&mut self.state.borrow_mut());
        let Some(job) = self.next_job() else {
            let full = self.state.borrow().space.full;
            return Ok(full && self.flush_for_room().await);
        };
        self.run_job(job).await?;
        if self.state.borrow().space.full {
            self.sweep().await?;
            self.restore_reserve().await;
        }
        Ok(true)
    }

    fn next_job(&self) -> Option<Job> {
        let state = &mut *self.state.borrow_mut();
        let full = state.space.full;
        let scarce = full || state.space.making_room;
        let held_back = if full { !state.space.making_room } else { self.backend.now() < state.space.no_merging_before };
        if held_back {
            return None;
        }
        state.merged_to.resize(usize::from(state.levels.deepest()) + 2, Bytes::new());
        let zero = state.levels.zero();
        if zero.len() >= if scarce { 1 } else { CROWD } {
            let (mut bytes, most) = (0, if scarce { 1 } else { JOB_BYTES });
            let enough = |sstable: &&Rc<Sstable>| {
                let fits = bytes < most;
                bytes += u64::from(sstable.length);
                fits
            };
            let mut uppers: Vec<_> = zero.iter().rev().take_while(enough).cloned().collect();
            uppers.reverse();
            return Job::new(uppers, 0);
        }
        let mut limit = self.options.level_one_bytes;
        for level in 1..=state.levels.deepest() {
            if state.levels.run_bytes(level) > limit {
                let run = state.levels.run(level);
                let next = run.iter().find(|sstable| sstable.start > state.merged_to[usize::from(level)]).or(run.first())?.clone();
                state.merged_to[usize::from(level)] = next.start.clone();
                return Job::new(vec![next], level);
            }
            limit = limit.saturating_mul(10);
        }
        if !full {
            return None;
        }
        // Room is made by taking deletions down to what they delete.
        let has_deletions = |sstable: &&Rc<Sstable>| {
            (sstable.deletions > 0 || !sstable.range_tombstones.is_empty()) && state.levels.anything_below(sstable.level, &sstable.range())
        };
        let level = |sstable: &Rc<Sstable>| Job::new(vec![sstable.clone()], sstable.level);
        state.levels.all().find(has_deletions).and_then(level)
    }

    async fn run_job(&self, job: Job) -> Result<(), StoreError> {
        let mut from = job.range.start.clone();
        let mut uppers = Vec::new();
        loop {
            self.wait_while_busy().await;
            if self.stopped() {
                return Ok(());
            }
            let Some(step) = self.next_step(&job, &from) else { return Ok(()) };
            let moved = self.moved(&job, &step).map(Rc::new);
            if moved.is_none() && uppers.is_empty() {
                uppers = try_join_all(job.uppers.iter().map(|upper| self.load(upper))).await?;
            }
            let attempt = async || match &moved {
                Some(moved) => self.install(&job, &step, vec![moved.clone()]).await,
                None => self.run_step(&job, &uppers, &step).await,
            };
            let mut result = attempt().await;
            for _ in 0..space::ATTEMPTS {
                if result != Err(StoreError::QuotaExceeded) || !self.state.borrow().space.making_room || self.stopped() {
                    break;
                }
                // It gives back more than it takes, but what it has replaced so far is free only some time later.
                self.have_room_made().await;
                result = attempt().await;
            }
            if !result? || step.last {
                return Ok(());
            }
            from = step.part.end.clone();
            drop(step);
            self.sweep().await?;
        }
    }

    /// Merging waits while commits come in, unless reads begin to suffer or room has to be made.
    async fn wait_while_busy(&self) {
        loop {
            self.backend.pause(0).await;
            let busy = {
                let state = self.state.borrow();
                let may_wait = state.levels.zero().len() < TOO_MANY && !state.closing && !state.space.full && !state.space.making_room;
                may_wait && self.backend.now() - state.last_commit < f64::from(self.options.busy_ms)
            };
            if !busy {
                return;
            }
            self.backend.pause(LOOK).await;
        }
    }

    fn next_step(&self, job: &Job, from: &Bytes) -> Option<Step> {
        let state = self.state.borrow();
        if !job.uppers.iter().all(|upper| state.levels.contains(upper.id)) {
            return None;
        }
        let target = job.level + 1;
        let rest = from.clone()..job.range.end.clone();
        let overlapping = state.levels.overlapping(target, &rest);
        let mut bytes = 0;
        let small = |sstable: &&Rc<Sstable>| {
            let take = bytes == 0 || bytes + sstable.length as usize <= self.options.sstable_bytes / 2;
            bytes += sstable.length.max(1) as usize;
            take
        };
        let lowers: Vec<_> = overlapping.iter().take_while(small).cloned().collect();
        let after = overlapping.get(lowers.len());
        let end = after.map_or(job.range.end.clone(), |after| after.start.clone());
        let whole =
            lowers.iter().fold(from.clone()..end.clone(), |whole, lower| whole.start.min(lower.start.clone())..whole.end.max(lower.end.clone()));
        let bottom = !state.levels.anything_below(target, &whole);
        Some(Step { lowers, part: from.clone()..end, bottom, last: after.is_none() })
    }

    /// The sstable that a job comes to where it has nothing to merge with and nothing to drop: its one upper, a level deeper.
    fn moved(&self, job: &Job, step: &Step) -> Option<Sstable> {
        let [upper] = job.uppers.as_slice() else { return None };
        let alone = step.lowers.is_empty() && step.last && step.part == job.range;
        let drops_deletions = step.bottom && (upper.deletions > 0 || !upper.range_tombstones.is_empty());
        let range_tombstones = || self.state.borrow().log_range_tombstones().clip(Some(&upper.start), Some(&upper.end));
        (alone && !drops_deletions && range_tombstones().is_empty()).then(|| Sstable { level: job.level + 1, ..Sstable::clone(upper) })
    }

    /// Merges and installs; `false` when an input has gone meanwhile.
    async fn run_step(&self, job: &Job, uppers: &[Whole], step: &Step) -> Result<bool, StoreError> {
        let part = step.part.start.to_vec()..step.part.end.to_vec();
        let tombstones_of = |whole: &Whole| whole.range_tombstones.clip(Some(&step.part.start), Some(&step.part.end));
        let uppers: Vec<(&Whole, RangeTombstones)> = uppers.iter().map(|upper| (upper, tombstones_of(upper))).collect();
        let has_some =
            |(upper, range_tombstones): &&(&Whole, RangeTombstones)| !range_tombstones.is_empty() || upper.entries(part.clone()).next().is_some();
        let uppers: Vec<_> = uppers.iter().filter(has_some).collect();
        if uppers.is_empty() {
            // Most sstables below are of rooms in which nothing has happened since, and stay as they are.
            return if step.last { self.install(job, &Step { lowers: Vec::new(), ..step.clone() }, Vec::new()).await } else { Ok(true) };
        }
        let lowers = try_join_all(step.lowers.iter().map(|lower| self.load(lower))).await?;
        let everything = Vec::new()..step.lowers.last().map_or(&step.part.end, |lower| (&lower.end).max(&step.part.end)).to_vec();
        let newer = self.state.borrow().log_range_tombstones();
        let mut sources = vec![Source::new(&everything, |_| Box::new(std::iter::empty()), |key| newer.covering(key))];
        for (upper, range_tombstones) in &uppers {
            let within = |of: Range<Vec<u8>>| of.start.max(part.start.clone())..of.end.min(part.end.clone());
            sources.push(Source::new(&everything, move |of| Box::new(upper.entries(within(of))), |key| range_tombstones.covering(key)));
        }
        let of_lowers = |of: Range<Vec<u8>>| lowers.iter().flat_map(move |lower| lower.entries(of.clone()));
        sources.push(Source::new(&everything, move |of| Box::new(of_lowers(of)), |_| None));
        let merged = Merge::new(sources, everything.clone(), Direction::Forward).map(|entry| entry.map_err(StoreError::from));
        let live = merged.filter(|entry| !(step.bottom && matches!(entry, Ok((_, None)))));
        let mut range_tombstones = RangeTombstones::default();
        if !step.bottom {
            let ranges = uppers.iter().map(|(_, range_tombstones)| range_tombstones).chain(lowers.iter().map(|lower| &lower.range_tombstones));
            ranges.flat_map(RangeTombstones::iter).for_each(|(start, end)| range_tombstones.insert(start.clone()..end.clone()));
        }
        let bytes = uppers.iter().map(|(upper, _)| upper.bytes(&part)).chain(lowers.iter().map(|lower| lower.bytes(&everything))).sum::<usize>();
        let target = bytes / bytes.div_ceil(self.options.sstable_bytes).max(1) + self.options.block_bytes;
        let built = self.build(live, range_tombstones, job.level + 1, target).await?;
        let sstables = self.put_blobs(built).await?;
        self.install(job, step, sstables).await
    }

    /// Puts `sstables` in the place of what the step has merged.
    async fn install(&self, job: &Job, step: &Step, sstables: Vec<Rc<Sstable>>) -> Result<bool, StoreError> {
        if self.crash_at(CrashPoint::MergingRuns) {
            return Err(StoreError::Closed);
        }
        let _writing = self.writing.lock().await;
        let mut replaced: Vec<Rc<Sstable>> = step.lowers.clone();
        if step.last {
            replaced.extend(job.uppers.iter().cloned());
        }
        let still_there = {
            let state = self.state.borrow();
            state.dead.is_none() && step.lowers.iter().chain(&job.uppers).all(|input| state.levels.contains(input.id))
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
            self.forget(&new).await;
            return installed.map(|()| false);
        }
        let state = &mut *self.state.borrow_mut();
        replaced.iter().for_each(|old| state.levels.remove(old.id));
        state.doomed.extend(replaced.into_iter().filter(|old| !moved(old)));
        sstables.into_iter().for_each(|sstable| state.levels.add(sstable));
        Ok(true)
    }

    /// Drops the sstables all of which a newer range tombstone covers, without reading them.
    async fn drop_covered(&self) -> Result<(), StoreError> {
        let _writing = self.writing.lock().await;
        let covered = self.state.borrow().covered_sstables();
        if covered.is_empty() {
            return Ok(());
        }
        let delete_sstables = covered.iter().map(|sstable| sstable.id).collect();
        self.backend.write(Transaction { delete_sstables, ..Transaction::default() }).await?;
        let state = &mut *self.state.borrow_mut();
        covered.iter().for_each(|sstable| state.levels.remove(sstable.id));
        state.doomed.extend(covered);
        Ok(())
    }

    /// Deletes the Blobs of replaced sstables that no read uses any more.
    async fn sweep(&self) -> Result<(), StoreError> {
        let ids: Vec<u64> = {
            let state = &mut *self.state.borrow_mut();
            let (gone, held): (Vec<_>, Vec<_>) = std::mem::take(&mut state.doomed).into_iter().partition(|sstable| Rc::strong_count(sstable) == 1);
            state.doomed = held;
            gone.iter().filter(|sstable| sstable.points > 0).map(|sstable| sstable.id).collect()
        };
        if ids.is_empty() {
            return Ok(());
        }
        self.backend.delete_blobs(ids).await?;
        self.hurry().await;
        Ok(())
    }

    /// When a store is opened: Blobs that an earlier opening left behind go, and the reserve is made.
    pub(super) fn tidy(self: Rc<Self>, epoch: u64) {
        self.state.borrow_mut().maintaining = true;
        let core = self.clone();
        self.backend.spawn(Box::pin(async move {
            if let Err(error) = core.delete_orphans(epoch).await
                && !core.stopped()
            {
                tracing::warn!(%error, "Blobs that nothing refers to could not be deleted");
            }
            core.stay_calm().await;
            core.note_first_reads().await;
            core.run_maintenance().await;
        }));
    }

    /// Leaves the machine to the first reads for a while.
    async fn stay_calm(&self) {
        let mut over = self.backend.pause(self.options.calm_ms);
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

    async fn delete_orphans(&self, epoch: u64) -> Result<(), StoreError> {
        let blobs = self.backend.blobs().await?;
        let orphans: Vec<u64> = {
            let state = &mut *self.state.borrow_mut();
            state.space.reserve_there = blobs.contains(&RESERVE_BLOB);
            blobs.into_iter().filter(|id| *id != RESERVE_BLOB && *id < epoch << 32 && !state.levels.contains(*id)).collect()
        };
        if orphans.is_empty() {
            return Ok(());
        }
        let mut deleted = self.backend.delete_blobs(orphans.clone()).await;
        for _ in 0..space::ATTEMPTS {
            // Where storage is full already when the store is opened, this is the first that has to take it over.
            if deleted != Err(StoreError::QuotaExceeded) || self.stopped() {
                break;
            }
            self.have_room_made().await;
            deleted = self.backend.delete_blobs(orphans.clone()).await;
        }
        let space = &mut self.state.borrow_mut().space;
        space.reclaim |= space.full && deleted.is_ok();
        deleted
    }
}

impl State {
    /// The ranges that were deleted since the newest sstable, durably.
    fn log_range_tombstones(&self) -> RangeTombstones {
        let mut range_tombstones = self
            .immutable
            .as_ref()
            .filter(|immutable| immutable.through.is_some())
            .map(|immutable| immutable.memtable.range_tombstones().clone())
            .unwrap_or_default();
        let deletes = self.durable.iter().flat_map(|batch| batch.ops()).filter_map(|op| match op {
            Op::DeleteRange(range) => Some(range.clone()),
            _ => None,
        });
        deletes.for_each(|range| range_tombstones.insert(range));
        range_tombstones
    }

    /// The sstables all of which a newer, durable range delete covers.
    fn covered_sstables(&self) -> Vec<Rc<Sstable>> {
        let by_log = self.log_range_tombstones();
        let covers = |range_tombstones: &RangeTombstones, sstable: &Sstable| {
            range_tombstones.covering(&sstable.start).is_some_and(|range| range.end >= sstable.end)
        };
        let newer = |a: &Sstable, b: &Sstable| a.level < b.level || a.level == 0 && b.level == 0 && a.id > b.id;
        let is_covered = |sstable: &Sstable| {
            let by_sstable = || {
                self.levels.all().any(|other| !other.range_tombstones.is_empty() && newer(other, sstable) && covers(&other.range_tombstones, sstable))
            };
            covers(&by_log, sstable) || by_sstable()
        };
        self.levels.all().filter(|sstable| is_covered(sstable)).cloned().collect()
    }
}

impl Job {
    fn new(uppers: Vec<Rc<Sstable>>, level: u8) -> Option<Self> {
        let start = uppers.iter().map(|upper| &upper.start).min()?.clone();
        let end = uppers.iter().map(|upper| &upper.end).max()?.clone();
        Some(Self { uppers, level, range: start..end })
    }
}

impl Sstable {
    fn range(&self) -> Range<Bytes> {
        self.start.clone()..self.end.clone()
    }
}
