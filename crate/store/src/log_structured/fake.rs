//! Storage in memory that crashes, fails, runs out of space and is slow when told to.

use super::{
    LogStructured, Options,
    backend::{Backend, Loaded, Transaction, is_placeholder},
};
use crate::{Bytes, ChunkId, Chunks, CrashPoint, Fault, Faults, LocalBoxFuture, StoreError, chunks::part_of, conformance::Storage};
use futures_executor::LocalSpawner;
use futures_util::{future::poll_fn, task::LocalSpawnExt};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ops::Range,
    rc::Rc,
    task::Poll,
    time::Instant,
};

/// What survives the store that uses it.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) epoch: u64,
    pub(super) log: BTreeMap<u64, Bytes>,
    pub(super) sstables: BTreeMap<u64, Bytes>,
    pub(super) blobs: BTreeMap<u64, Bytes>,
    chunks: BTreeMap<ChunkId, Bytes>,
    pub(super) prefetch_list: Bytes,
    /// Bytes that fit.
    pub(super) quota: Option<usize>,
    /// Whether no Blob can be put.
    pub(super) blobs_fail: bool,
    /// Transactions and Blobs written.
    pub(super) writes: u64,
    pub(super) blob_reads: u64,
}

impl Disk {
    pub(super) fn bytes(&self) -> usize {
        [&self.log, &self.sstables, &self.blobs].into_iter().flat_map(|records| records.values()).map(Bytes::len).sum()
    }

    fn check_room(&self, more: usize) -> Result<(), StoreError> {
        if self.quota.is_some_and(|quota| self.bytes() + more > quota) { Err(StoreError::QuotaExceeded) } else { Ok(()) }
    }
}

/// The epoch of an opening, and whether it is on the disk.
struct FencingEpoch {
    epoch: u64,
    claimed: Cell<bool>,
}

impl FencingEpoch {
    fn claim(&self, disk: &mut Disk) -> Result<(), StoreError> {
        if !self.claimed.get() {
            disk.check_room(1)?;
            if disk.epoch + 1 != self.epoch {
                return Err(StoreError::Fenced);
            }
            disk.epoch = self.epoch;
            self.claimed.set(true);
        }
        Ok(())
    }
}

/// One opening of a [`Disk`].
pub(super) struct FakeBackend {
    disk: Rc<RefCell<Disk>>,
    fencing: Rc<FencingEpoch>,
    closed: Rc<Cell<bool>>,
    faults: Faults,
    spawner: LocalSpawner,
    start: Instant,
}

/// Lets other tasks run this many times.
pub(super) async fn turns(count: u32) {
    let mut left = count;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl FakeBackend {
    fn later<T: 'static>(
        &self,
        turns_to_wait: u32,
        work: impl FnOnce(&mut Disk) -> Result<T, StoreError> + 'static,
    ) -> LocalBoxFuture<'static, Result<T, StoreError>> {
        let (disk, closed) = (self.disk.clone(), self.closed.clone());
        Box::pin(async move {
            turns(turns_to_wait).await;
            if closed.get() { Err(StoreError::Closed) } else { work(&mut disk.borrow_mut()) }
        })
    }
}

impl Chunks for FakeBackend {
    fn put(&self, id: ChunkId, bytes: Bytes) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        self.later(2, move |disk| {
            disk.chunks.entry(id).or_insert(bytes);
            Ok(())
        })
    }

    fn read(&self, id: ChunkId, part: Range<u32>) -> LocalBoxFuture<'static, Result<Option<Bytes>, StoreError>> {
        self.later(1, move |disk| disk.chunks.get(&id).map(|chunk| part_of(chunk, &part)).transpose())
    }

    fn delete(&self, ids: Vec<ChunkId>) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        self.later(1, move |disk| {
            disk.chunks.retain(|id, _| !ids.contains(id));
            Ok(())
        })
    }

    fn bytes(&self) -> u64 {
        self.disk.borrow().chunks.values().map(|chunk| chunk.len() as u64).sum()
    }
}

impl Backend for FakeBackend {
    fn write(&self, transaction: Transaction) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let (faults, closed, fencing) = (self.faults.clone(), self.closed.clone(), self.fencing.clone());
        let meet = move |point| match faults.at(point) {
            Some(Fault::Crash) => {
                closed.set(true);
                Err(StoreError::Closed)
            }
            Some(Fault::Fail(error)) => Err(error),
            None => Ok(()),
        };
        self.later(2, move |disk| {
            meet(CrashPoint::BeforePut)?;
            fencing.claim(disk)?;
            if disk.epoch != fencing.epoch {
                return Err(StoreError::Fenced);
            }
            let put = transaction.put_log.iter().chain(&transaction.put_sstables).map(|(_, value)| value.len()).sum::<usize>();
            disk.check_room(put)?;
            meet(CrashPoint::BetweenPutAndCommit)?;
            disk.writes += 1;
            disk.log.extend(transaction.put_log);
            if let Some(through) = transaction.delete_log {
                disk.log = disk.log.split_off(&(through + 1));
            }
            disk.sstables.extend(transaction.put_sstables);
            disk.prefetch_list = transaction.put_prefetch_list.unwrap_or(std::mem::take(&mut disk.prefetch_list));
            transaction.delete_sstables.iter().for_each(|id| drop(disk.sstables.remove(id)));
            Ok(())
        })
    }

    fn put_blob(&self, id: u64, parts: Vec<Bytes>) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let fencing = self.fencing.clone();
        self.later(5, move |disk| {
            if !is_placeholder(id) {
                fencing.claim(disk)?;
            }
            if disk.blobs_fail {
                return Err(StoreError::Platform("no Blob can be put".into()));
            }
            let blob = Bytes::from(parts.concat());
            disk.check_room(blob.len())?;
            disk.writes += 1;
            disk.blobs.insert(id, blob);
            Ok(())
        })
    }

    fn delete_blobs(&self, ids: Vec<u64>) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let fencing = self.fencing.clone();
        self.later(1, move |disk| {
            if !ids.iter().copied().all(is_placeholder) {
                fencing.claim(disk)?;
            }
            ids.iter().for_each(|id| drop(disk.blobs.remove(id)));
            Ok(())
        })
    }

    fn force_reclaim(&self) -> LocalBoxFuture<'static, ()> {
        Box::pin(turns(1))
    }

    fn blobs(&self) -> LocalBoxFuture<'static, Result<Vec<u64>, StoreError>> {
        self.later(1, |disk| Ok(disk.blobs.keys().copied().collect()))
    }

    fn prepare_reads(&self, _: Vec<u64>) -> LocalBoxFuture<'static, ()> {
        Box::pin(turns(1))
    }

    fn read_blob(&self, id: u64, part: Range<u32>) -> LocalBoxFuture<'static, Result<Bytes, StoreError>> {
        self.later(3, move |disk| {
            disk.blob_reads += 1;
            let blob = disk.blobs.get(&id).ok_or_else(|| StoreError::Platform(format!("no Blob {id}")))?;
            Ok(blob.slice(part.start as usize..part.end as usize))
        })
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        self.spawner.spawn_local(task).expect("the pool lives as long as the test");
    }

    fn pause(&self, milliseconds: u32) -> LocalBoxFuture<'static, ()> {
        Box::pin(turns(milliseconds.max(1)))
    }

    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64() * 1000.0
    }

    fn close(&self) {
        self.closed.set(true);
    }
}

/// A disk and the sizes of the stores opened on it.
#[derive(Clone)]
pub(super) struct FakeStorage {
    pub(super) disk: Rc<RefCell<Disk>>,
    pub(super) options: Options,
    pub(super) spawner: LocalSpawner,
}

impl FakeStorage {
    /// Small sizes, so that short scripts reach deep levels.
    pub(super) fn new(spawner: LocalSpawner) -> Self {
        let options = Options {
            content_format: 1,
            flush_bytes: 2_000,
            idle_flush_bytes: 1_000,
            idle_flush_ms: 0,
            log_bypass_bytes: 1_500,
            block_bytes: 400,
            sstable_bytes: 3_000,
            level_one_bytes: 6_000,
            cache_bytes: 4_000,
            reserve_bytes: 1_000,
            startup_compaction_delay_ms: 0,
            compaction_delay_ms: 20,
            blobs: true,
            faults: Faults::default(),
        };
        Self { disk: Rc::default(), options, spawner }
    }

    pub(super) fn open_now(&self, faults: Faults) -> Result<LogStructured<FakeBackend>, StoreError> {
        let mut disk = self.disk.borrow_mut();
        let fencing = FencingEpoch { epoch: disk.epoch + 1, claimed: Cell::new(false) };
        let full = fencing.claim(&mut disk).is_err();
        let records = |records: &BTreeMap<u64, Bytes>| records.iter().map(|(id, record)| (*id, record.clone())).collect();
        let loaded = Loaded {
            epoch: fencing.epoch,
            full,
            log: records(&disk.log),
            sstables: records(&disk.sstables),
            prefetch_list: disk.prefetch_list.clone(),
        };
        let backend = FakeBackend {
            disk: self.disk.clone(),
            fencing: Rc::new(fencing),
            closed: Rc::default(),
            faults: faults.clone(),
            spawner: self.spawner.clone(),
            start: Instant::now(),
        };
        LogStructured::new(backend, loaded, Options { faults, ..self.options.clone() })
    }
}

impl Storage for FakeStorage {
    type Store = LogStructured<FakeBackend>;

    fn open(&self, faults: Faults) -> LocalBoxFuture<'_, Result<Self::Store, StoreError>> {
        Box::pin(std::future::ready(self.open_now(faults)))
    }

    fn settle<'a>(&'a self, store: &'a Self::Store) -> LocalBoxFuture<'a, ()> {
        Box::pin(store.settled())
    }
}
