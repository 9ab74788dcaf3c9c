//! Blobs and sstables that nobody needs any more: replaced, covered by a range delete, or left
//! behind by an earlier opening.

use super::{
    backend::{Backend, RESERVE_BLOB, Transaction},
    space,
    sstable::Sstable,
    state::{Core, State},
};
use crate::{StoreError, memtable::RangeTombstones};
use std::rc::Rc;

impl<B: Backend> Core<B> {
    /// Deletes the Blobs of replaced sstables, once no read uses them.
    pub(super) async fn delete_obsolete(&self) -> Result<(), StoreError> {
        let ids: Vec<u64> = {
            let state = &mut *self.state.borrow_mut();
            let (gone, held): (Vec<_>, Vec<_>) = std::mem::take(&mut state.obsolete).into_iter().partition(|sstable| Rc::strong_count(sstable) == 1);
            state.obsolete = held;
            gone.iter().filter(|sstable| sstable.points > 0).map(|sstable| sstable.id).collect()
        };
        if ids.is_empty() {
            return Ok(());
        }
        self.backend.delete_blobs(ids).await?;
        self.force_reclaim().await;
        Ok(())
    }

    /// Deletes the sstables that a newer range tombstone covers as a whole, without reading them.
    pub(super) async fn delete_covered(&self) -> Result<(), StoreError> {
        let _writing = self.writing.lock().await;
        let covered = self.state.borrow().covered_sstables();
        if covered.is_empty() {
            return Ok(());
        }
        let delete_sstables = covered.iter().map(|sstable| sstable.id).collect();
        self.backend.write(Transaction { delete_sstables, ..Transaction::default() }).await?;
        let state = &mut *self.state.borrow_mut();
        covered.iter().for_each(|sstable| state.levels.remove(sstable.id));
        state.obsolete.extend(covered);
        Ok(())
    }

    /// Deletes the Blobs that an earlier opening left behind: no record refers to them.
    pub(super) async fn delete_orphans(&self, epoch: u64) -> Result<(), StoreError> {
        let blobs = self.backend.blobs().await?;
        let orphans: Vec<u64> = {
            let state = &mut *self.state.borrow_mut();
            state.space.has_reserve = blobs.contains(&RESERVE_BLOB);
            blobs.into_iter().filter(|id| *id != RESERVE_BLOB && *id < epoch << 32 && !state.levels.contains(*id)).collect()
        };
        if orphans.is_empty() {
            return Ok(());
        }
        let mut deleted = self.backend.delete_blobs(orphans.clone()).await;
        for _ in 0..space::MAX_RETRIES {
            // Where storage is full when the store is opened, this is the first write of this
            // opening.
            if deleted != Err(StoreError::QuotaExceeded) || self.stopped() {
                break;
            }
            self.make_room().await;
            deleted = self.backend.delete_blobs(orphans.clone()).await;
        }
        let space = &mut self.state.borrow_mut().space;
        space.reclaim_requested |= space.full && deleted.is_ok();
        deleted
    }
}

impl State {
    /// The sstables that a newer, durable range tombstone covers as a whole.
    fn covered_sstables(&self) -> Vec<Rc<Sstable>> {
        let by_log = self.queue.durable_range_tombstones();
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
