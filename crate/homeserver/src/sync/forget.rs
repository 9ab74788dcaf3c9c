//! Old changes go: the list is kept as long as syncs read it, and an older `since` is answered from
//! the rooms themselves ([`super::changes`]).
//!
//! Four kinds of changes are told of by nothing else than the list: whose device list changed,
//! whose keys a user has signed, in which room it changed who types, and whose presence changed. Of
//! these the newest of each user, pair and room *outlives* the list, at its place; so what is kept
//! grows with users and rooms.

use super::changes::MAX_CHANGES_READ;
use crate::{
    error::Result,
    homeserver::Homeserver,
    locks::LockKey,
    position::Position,
    tables::{self, Change},
    time_slice::TimeSlice,
};
use ephapse_store::Direction;
use std::collections::BTreeMap;

/// How many changes are kept; syncs do not read more than half of that. Positions have gaps, which
/// do not count.
const MAX_CHANGES: usize = 2 * MAX_CHANGES_READ;
/// How many positions go in one batch.
const BATCH: i64 = 1000;
/// How many outdated positions are too many to wait for the next clearing.
const MAX_OUTDATED: i64 = 16 * BATCH;

/// What tells a change that outlives the list from all that it takes the place of: its kind, and
/// what of.
pub(crate) type RetainedKey = (u8, u32, u32);

/// `None`: other tables tell of it.
pub(super) fn outliving(change: &Change) -> Option<RetainedKey> {
    match change {
        Change::DeviceList { user } => Some((1, *user, 0)),
        Change::KeySignature { by, of } => Some((2, *by, *of)),
        Change::Typing { room, .. } => Some((3, *room, 0)),
        Change::Presence { user } => Some((4, *user, 0)),
        Change::Event { .. }
        | Change::Receipt { .. }
        | Change::AccountData { .. }
        | Change::ToDevice { .. }
        | Change::Forgotten { .. }
        | Change::Hidden
        | Change::StateReset { .. } => None,
    }
}

impl Homeserver {
    /// Whether so much of the list is outdated that it should not wait.
    pub(crate) fn has_many_old_changes(&self) -> bool {
        self.positions.newest().0 - self.sync.changes_floor.get().0 > MAX_CHANGES as i64 + MAX_OUTDATED
    }

    /// Drops what no sync reads from the list any more.
    pub(crate) async fn forget_old_changes(&self) -> Result<()> {
        let listed = tables::CHANGES.key(&self.sync.changes_floor.get().next())..tables::CHANGES.range(&()).end;
        let kept = tables::CHANGES.scan_range(self.store(), listed, Direction::Backward, MAX_CHANGES + 1).await?;
        let Some((to, _)) = kept.get(MAX_CHANGES) else { return Ok(()) };
        // A batch for a few changes takes more room than it makes.
        if to.0 - self.sync.changes_floor.get().0 < BATCH { Ok(()) } else { self.forget_changes(*to).await }
    }

    /// Drops the list up to and including `to`, but for what outlives it.
    pub async fn forget_changes(&self, to: Position) -> Result<()> {
        let _lock = self.lock(LockKey::Changes).await;
        let slice = TimeSlice::new(&*self.host);
        loop {
            let generation = self.begin_reading();
            let after = tables::CHANGES_FLOOR.get(self.store(), &()).await?.unwrap_or_default();
            if after >= to {
                return Ok(());
            }
            let end = Position(to.0.min(after.0 + BATCH));
            let range = tables::CHANGES.key(&after.next())..tables::CHANGES.key(&end.next());
            let mut outlive = BTreeMap::new();
            for (position, change) in tables::CHANGES.scan_range(self.store(), range.clone(), Direction::Forward, usize::MAX).await? {
                if let Some(key) = outliving(&change) {
                    outlive.insert(key, (position, change));
                }
            }
            let keys: Vec<RetainedKey> = outlive.keys().copied().collect();
            let older = tables::RETAINED_CHANGES.get_many(self.store(), &keys).await?;
            let forgotten = self.write(generation, |tx| {
                tables::CHANGES.delete_range(tx, range);
                for ((key, (position, change)), older) in outlive.into_iter().zip(older) {
                    if let Some(older) = older {
                        tables::CHANGES.delete(tx, &older);
                    }
                    tables::CHANGES.put(tx, &position, &change);
                    tables::RETAINED_CHANGES.put(tx, &key, &position);
                }
                tables::CHANGES_FLOOR.put(tx, &(), &end);
                tx.then(move |hs| hs.sync.changes_floor.set(end));
            });
            forgotten?.durable().await?;
            slice.end().await;
        }
    }
}
