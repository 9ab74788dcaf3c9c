//! Group commit without I/O: which batches wait, what reads see of them, and what a failure
//! takes back.
//!
//! A store with a log owns one [`CommitQueue`] and does the writing: it takes a group, writes it,
//! and says how that went. One group is written at a time. Everything that is submitted meanwhile
//! is the next group.

use crate::{
    Batch, LocalBoxFuture, StoreError,
    codec::encode_batch,
    memtable::{Lookup, Memtable, RangeTombstones},
};
use futures_channel::oneshot;
use std::{future::ready, sync::Arc};

pub(crate) type Completion = oneshot::Sender<Result<(), StoreError>>;
pub(crate) type Completed = oneshot::Receiver<Result<(), StoreError>>;

/// A batch that is not durable yet, and who is told when it is.
pub(crate) struct PendingCommit {
    pub(crate) batch: Batch,
    pub(crate) completion: Completion,
}

/// A full memtable on its way to where it is stored for good.
struct ImmutableMemtable {
    memtable: Arc<Memtable>,
    /// The number of its last log record, once that is durable.
    last_record: Option<u64>,
}

/// The batches of a store that are visible, and how many of them are durable.
#[derive(Default)]
pub(crate) struct CommitQueue {
    /// Everything since the last full memtable, durable or not.
    memtable: Memtable,
    /// What can be read again when the group that is being written fails: the durable batches
    /// of `memtable`. While a switch is being written, those of the immutable one.
    durable: Vec<Batch>,
    immutable: Option<ImmutableMemtable>,
    pending: Vec<PendingCommit>,
    /// While a group is written: who waits for it and for nothing after it.
    in_flight: Option<Vec<Completion>>,
    generation: u64,
    /// Why nothing can be written any more.
    fatal_error: Option<StoreError>,
    commits: u64,
    bytes_committed: u64,
}

impl CommitQueue {
    /// What a log held when it was opened; `immutable` and its last record where there was a full
    /// memtable that was not stored yet.
    pub(crate) fn recovered(durable: Vec<Batch>, immutable: Option<(Vec<Batch>, u64)>) -> Self {
        let immutable =
            immutable.map(|(batches, last)| ImmutableMemtable { memtable: Arc::new(Memtable::replay(&batches)), last_record: Some(last) });
        Self { memtable: Memtable::replay(&durable), durable, immutable, ..Self::default() }
    }

    /// The memtables, newest first.
    pub(crate) fn memtables(&self) -> impl Iterator<Item = &Memtable> {
        std::iter::once(&self.memtable).chain(self.immutable.as_ref().map(|immutable| &*immutable.memtable))
    }

    /// What the memtables say of a key.
    pub(crate) fn lookup(&self, key: &[u8]) -> Lookup {
        self.memtables().map(|memtable| memtable.get(key)).find(|found| *found != Lookup::NotFound).unwrap_or(Lookup::NotFound)
    }

    /// The durable range deletes of what is not stored for good yet.
    pub(crate) fn durable_range_tombstones(&self) -> RangeTombstones {
        let logged = self.immutable.as_ref().filter(|immutable| immutable.last_record.is_some());
        let mut tombstones = logged.map(|immutable| immutable.memtable.range_tombstones().clone()).unwrap_or_default();
        self.durable.iter().flat_map(Batch::range_deletes).for_each(|range| tombstones.insert(range.clone()));
        tombstones
    }

    /// Whether there is a memtable that is not stored for good yet.
    pub(crate) fn has_immutable(&self) -> bool {
        self.immutable.is_some()
    }

    /// The immutable memtable.
    pub(crate) fn immutable(&self) -> Option<Arc<Memtable>> {
        self.immutable.as_ref().map(|immutable| immutable.memtable.clone())
    }

    /// The last log record of the immutable memtable, once all of it is durable in the log.
    pub(crate) fn logged_immutable(&self) -> Option<u64> {
        self.immutable.as_ref().and_then(|immutable| immutable.last_record)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Bytes of the batches that wait.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.iter().map(|pending| pending.batch.bytes()).sum()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Groups that were written.
    pub(crate) fn commits(&self) -> u64 {
        self.commits
    }

    pub(crate) fn bytes_committed(&self) -> u64 {
        self.bytes_committed
    }

    /// Why nothing can be written any more.
    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        self.fatal_error.clone().map_or(Ok(()), Err)
    }

    /// Refuses everything from now on.
    pub(crate) fn set_fatal_error(&mut self, error: StoreError) {
        self.fatal_error = Some(error);
    }

    /// Makes a batch visible and lets it wait to be written.
    pub(crate) fn submit(&mut self, batch: Batch) -> Result<Completed, StoreError> {
        self.check_writable()?;
        if batch.generation().is_some_and(|generation| generation < self.generation) {
            return Err(StoreError::RolledBack);
        }
        self.bytes_committed += batch.bytes() as u64;
        self.memtable.apply(&batch);
        let (completion, completed) = oneshot::channel();
        self.pending.push(PendingCommit { batch, completion });
        Ok(completed)
    }

    /// What ends when everything submitted before is durable; nothing where it is already.
    pub(crate) fn barrier(&mut self) -> Result<Option<Completed>, StoreError> {
        self.check_writable()?;
        let (completion, completed) = oneshot::channel();
        match &mut self.in_flight {
            // Whoever writes was told of those that wait, so an empty batch goes with them.
            _ if !self.pending.is_empty() => self.pending.push(PendingCommit { batch: Batch::new(), completion }),
            Some(in_flight) => in_flight.push(completion),
            None => return Ok(None),
        }
        Ok(Some(completed))
    }

    /// Takes everything that waits, to be written. With `switch` the memtable becomes immutable
    /// with this group: at this moment it holds exactly the durable log and the group.
    pub(crate) fn take_group(&mut self, switch: bool) -> Vec<PendingCommit> {
        if switch {
            self.immutable = Some(ImmutableMemtable { memtable: Arc::new(std::mem::take(&mut self.memtable)), last_record: None });
        }
        self.in_flight = Some(Vec::new());
        std::mem::take(&mut self.pending)
    }

    /// The group is durable in the log, which `last_record` ends; whether it ends the immutable
    /// memtable too.
    pub(crate) fn group_is_logged(&mut self, group: &[PendingCommit], last_record: u64) -> bool {
        match &mut self.immutable {
            Some(immutable) if immutable.last_record.is_none() => {
                immutable.last_record = Some(last_record);
                self.durable.clear();
                true
            }
            _ => {
                self.durable.extend(group.iter().map(|pending| pending.batch.clone()));
                false
            }
        }
    }

    /// Makes the memtable immutable while nothing waits and no group is being written.
    pub(crate) fn switch_memtable(&mut self, last_record: u64) {
        let memtable = Arc::new(std::mem::take(&mut self.memtable));
        self.immutable = Some(ImmutableMemtable { memtable, last_record: Some(last_record) });
        self.durable.clear();
    }

    /// The immutable memtable is stored for good: reads find it there.
    pub(crate) fn immutable_is_stored(&mut self) {
        // Where its last group never was in the log, it is durable with all before it now.
        if self.immutable.take().is_some_and(|immutable| immutable.last_record.is_none()) {
            self.durable.clear();
        }
    }

    /// Ends the group: says who waited for it.
    pub(crate) fn end_group(&mut self, group: Vec<PendingCommit>, result: &Result<(), StoreError>) -> Vec<Completion> {
        self.commits += u64::from(result.is_ok() && group.iter().any(|pending| !pending.batch.is_empty()));
        group.into_iter().map(|pending| pending.completion).chain(self.in_flight.take().unwrap_or_default()).collect()
    }

    /// Takes reads back to what is durable, and returns what had been submitted after the group
    /// that failed.
    pub(crate) fn roll_back(&mut self) -> Vec<PendingCommit> {
        self.immutable = self.immutable.take().filter(|immutable| immutable.last_record.is_some());
        self.memtable = Memtable::replay(&self.durable);
        self.generation += 1;
        std::mem::take(&mut self.pending)
    }

    /// Drops everybody who waits, as the end of the process would.
    pub(crate) fn abandon(&mut self) {
        self.pending.clear();
        self.in_flight = None;
    }
}

/// Appends the batches of a group to `out`, one after the other.
pub(crate) fn encode_group(out: &mut Vec<u8>, group: &[PendingCommit]) {
    group.iter().filter(|pending| !pending.batch.is_empty()).for_each(|pending| encode_batch(out, &pending.batch));
}

/// A future of what [`CommitQueue::submit`] or [`CommitQueue::barrier`] returned.
pub(crate) fn wait_for(submitted: Result<Option<Completed>, StoreError>) -> LocalBoxFuture<'static, Result<(), StoreError>> {
    match submitted {
        Ok(Some(completed)) => Box::pin(async { completed.await.unwrap_or(Err(StoreError::Closed)) }),
        Ok(None) => Box::pin(ready(Ok(()))),
        Err(error) => Box::pin(ready(Err(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bytes;
    use futures_util::FutureExt;

    fn put(key: &'static str) -> Batch {
        let mut batch = Batch::new();
        batch.put(key, key);
        batch
    }

    fn submit(queue: &mut CommitQueue, key: &'static str) -> Completed {
        queue.submit(put(key)).expect("nothing has failed")
    }

    fn finds(queue: &CommitQueue, key: &'static str) -> bool {
        queue.lookup(key.as_bytes()) == Lookup::Found(Bytes::from_static(key.as_bytes()))
    }

    fn log(queue: &mut CommitQueue, switch: bool, record: u64) -> bool {
        let group = queue.take_group(switch);
        let switched = queue.group_is_logged(&group, record);
        queue.end_group(group, &Ok(())).into_iter().for_each(|completion| drop(completion.send(Ok(()))));
        switched
    }

    #[test]
    fn a_failed_group_that_switches_the_memtable_leaves_the_durable_batches() {
        let mut queue = CommitQueue::default();
        drop(submit(&mut queue, "durable"));
        assert!(!log(&mut queue, false, 1));
        drop(submit(&mut queue, "failed"));
        let group = queue.take_group(true);
        drop(submit(&mut queue, "after"));
        assert!(["durable", "failed", "after"].iter().all(|key| finds(&queue, key)));

        assert_eq!(queue.roll_back().len(), 1, "what was submitted after the group");
        assert_eq!(queue.end_group(group, &Err(StoreError::QuotaExceeded)).len(), 1);
        assert_eq!(["durable", "failed", "after"].map(|key| finds(&queue, key)), [true, false, false]);
        assert!(!queue.has_immutable());
        assert_eq!((queue.generation(), queue.commits()), (1, 1));
        assert_eq!(queue.submit(Batch::since(0)).err(), Some(StoreError::RolledBack));
    }

    #[test]
    fn a_failed_group_leaves_a_logged_immutable_memtable() {
        let mut queue = CommitQueue::default();
        drop(submit(&mut queue, "immutable"));
        assert!(log(&mut queue, true, 7));
        drop(submit(&mut queue, "failed"));
        let group = queue.take_group(false);
        queue.roll_back();
        queue.end_group(group, &Err(StoreError::QuotaExceeded));
        assert_eq!(["immutable", "failed"].map(|key| finds(&queue, key)), [true, false]);
        assert_eq!(queue.logged_immutable(), Some(7));
    }

    #[test]
    fn a_memtable_that_is_stored_with_its_last_group_is_not_durable_in_the_log_any_more() {
        let mut queue = CommitQueue::default();
        let mut delete = put("old");
        delete.delete_range(b"a".to_vec()..b"b".to_vec());
        drop(queue.submit(delete).expect("nothing has failed"));
        log(&mut queue, false, 1);
        assert!(queue.durable_range_tombstones().covers(b"a"));
        drop(submit(&mut queue, "new"));
        let group = queue.take_group(true);
        queue.immutable_is_stored();
        queue.end_group(group, &Ok(()));
        assert!(queue.durable_range_tombstones().is_empty(), "it would delete what is stored now");
        queue.roll_back();
        assert!(!finds(&queue, "old"));
    }

    #[test]
    fn a_barrier_waits_for_what_was_submitted_before() {
        let mut queue = CommitQueue::default();
        assert!(queue.barrier().expect("nothing has failed").is_none(), "nothing to wait for");
        drop(submit(&mut queue, "first"));
        let group = queue.take_group(false);
        let mut barrier = queue.barrier().expect("nothing has failed").expect("a group is being written");
        drop(submit(&mut queue, "second"));
        let later = queue.barrier().expect("nothing has failed").expect("a batch waits");
        assert_eq!((&mut barrier).now_or_never(), None);
        queue.group_is_logged(&group, 1);
        queue.end_group(group, &Ok(())).into_iter().for_each(|completion| drop(completion.send(Ok(()))));
        assert_eq!((barrier.now_or_never(), later.now_or_never()), (Some(Ok(Ok(()))), None));
    }

    #[test]
    fn nothing_is_taken_after_a_fatal_error() {
        let mut queue = CommitQueue::default();
        queue.set_fatal_error(StoreError::Fenced);
        assert_eq!(queue.submit(put("key")).err(), Some(StoreError::Fenced));
        assert_eq!(queue.barrier().err(), Some(StoreError::Fenced));
        assert!(!finds(&queue, "key"));
    }
}
