//! A store for tests of its users. It is slow, fails, runs out of space or crashes when told to,
//! and it says what was read.

use crate::{Batch, Bytes, ChunkId, Chunks, Direction, LocalBoxFuture, Stats, Store, StoreError, chunks::part_of, conformance::apply};
use futures_channel::oneshot;
use futures_util::future::poll_fn;
use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    future::ready,
    ops::Range,
    rc::Rc,
    task::Poll,
};

type Model = BTreeMap<Bytes, Bytes>;

struct PendingCommit {
    batch: Batch,
    completion: oneshot::Sender<Result<(), StoreError>>,
}

#[derive(Default)]
struct Inner {
    durable: Model,
    /// What reads see: `durable` and everything that waits.
    visible: Model,
    waiting: VecDeque<PendingCommit>,
    /// Written at once.
    chunks: BTreeMap<ChunkId, Bytes>,
    held: bool,
    slow: bool,
    fail_next: VecDeque<StoreError>,
    quota: Option<usize>,
    full: bool,
    exhausted: bool,
    crash_in: Option<u32>,
    crashed: bool,
    generation: u64,
    stats: Stats,
    reads: Vec<Vec<u8>>,
}

/// A `BTreeMap` that misbehaves on request. Clones are handles on the same store.
#[derive(Clone, Default)]
pub struct UnreliableStore {
    inner: Rc<RefCell<Inner>>,
}

impl UnreliableStore {
    /// An empty store that behaves until told otherwise.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets each read yield once to other tasks.
    pub fn set_slow(&self, slow: bool) {
        self.inner.borrow_mut().slow = slow;
    }

    /// From now on batches wait, visible but not durable, until [`Self::release`].
    pub fn hold(&self) {
        self.inner.borrow_mut().held = true;
    }

    /// Writes the oldest `count` batches that wait; the rest goes on waiting.
    pub fn release(&self, count: usize) {
        for _ in 0..count {
            self.write_next();
        }
    }

    /// Writes everything that waits, and from now on at once.
    pub fn release_all(&self) {
        self.inner.borrow_mut().held = false;
        self.settle();
    }

    /// How many batches wait.
    pub fn waiting(&self) -> usize {
        self.inner.borrow().waiting.len()
    }

    /// Lets the next write fail with `error`. Called several times, it is for as many writes.
    pub fn fail_next(&self, error: StoreError) {
        self.inner.borrow_mut().fail_next.push_back(error);
    }

    /// Refuses writes after which the entries would take more than `bytes`, unless the batch frees
    /// space. `None` lifts the limit.
    pub fn set_quota(&self, bytes: Option<usize>) {
        self.inner.borrow_mut().quota = bytes;
    }

    /// Refuses at once what does not free space, as a store does that knows it is full.
    pub fn set_full(&self, full: bool) {
        self.inner.borrow_mut().full = full;
    }

    /// Refuses everything, because storage is full and no reserve is left: at once what does not
    /// free space, and when it is written what does.
    pub fn set_exhausted(&self, exhausted: bool) {
        self.set_full(exhausted);
        self.inner.borrow_mut().exhausted = exhausted;
    }

    /// Crashes instead of the `nth` write from now (0 is the next). Nobody is answered, and nothing
    /// works until [`Self::restart`].
    pub fn crash_at_write(&self, nth: u32) {
        self.inner.borrow_mut().crash_in = Some(nth);
    }

    /// Whether the crash has happened.
    pub fn crashed(&self) -> bool {
        self.inner.borrow().crashed
    }

    /// A store with what was durable, as after the process ended and started again.
    pub fn restart(&self) -> Self {
        let (durable, chunks) = (self.inner.borrow().durable.clone(), self.inner.borrow().chunks.clone());
        Self { inner: Rc::new(RefCell::new(Inner { visible: durable.clone(), durable, chunks, ..Inner::default() })) }
    }

    /// The chunks that are there.
    pub fn chunk_ids(&self) -> Vec<ChunkId> {
        self.inner.borrow().chunks.keys().copied().collect()
    }

    /// Every key asked for and every key returned by a scan since the last call.
    pub fn take_reads(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.inner.borrow_mut().reads)
    }

    fn settle(&self) {
        while !self.inner.borrow().held && !self.inner.borrow().waiting.is_empty() {
            self.write_next();
        }
    }

    fn write_next(&self) {
        let completions = {
            let inner = &mut *self.inner.borrow_mut();
            let Some(next) = inner.waiting.pop_front() else { return };
            inner.write(next)
        };
        for (completion, result) in completions {
            let _ = completion.send(result);
        }
    }
}

type Completions = Vec<(oneshot::Sender<Result<(), StoreError>>, Result<(), StoreError>)>;

impl Inner {
    fn write(&mut self, next: PendingCommit) -> Completions {
        match &mut self.crash_in {
            Some(0) => {
                self.crashed = true;
                self.waiting.clear();
                return Vec::new();
            }
            Some(left) => *left -= 1,
            None => {}
        }
        match self.try_write(&next.batch) {
            Ok(()) => vec![(next.completion, Ok(()))],
            Err(error) => {
                self.visible = self.durable.clone();
                self.generation += 1;
                let later = self.waiting.drain(..).map(|waiting| (waiting.completion, Err(StoreError::RolledBack)));
                std::iter::once((next.completion, Err(error))).chain(later).collect()
            }
        }
    }

    fn try_write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        if let Some(error) = self.fail_next.pop_front() {
            return Err(error);
        }
        if self.exhausted {
            return Err(StoreError::QuotaExceeded);
        }
        let mut after = self.durable.clone();
        apply(&mut after, batch);
        let bytes: usize = self.chunk_bytes() + after.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        if self.quota.is_some_and(|quota| bytes > quota) && !batch.frees_space() {
            return Err(StoreError::QuotaExceeded);
        }
        self.durable = after;
        self.stats.commits += 1;
        Ok(())
    }

    fn chunk_bytes(&self) -> usize {
        self.chunks.values().map(Bytes::len).sum()
    }

    /// One write of chunks, which is durable at once or never.
    fn change_chunks(&mut self, more: usize, change: impl FnOnce(&mut BTreeMap<ChunkId, Bytes>)) -> Result<(), StoreError> {
        self.check()?;
        match &mut self.crash_in {
            Some(0) => {
                self.crashed = true;
                self.waiting.clear();
                return Err(StoreError::Closed);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        if let Some(error) = self.fail_next.pop_front() {
            return Err(error);
        }
        let taken: usize = self.chunk_bytes() + self.durable.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        if more > 0 && (self.exhausted || self.quota.is_some_and(|quota| taken + more > quota)) {
            return Err(StoreError::QuotaExceeded);
        }
        change(&mut self.chunks);
        Ok(())
    }

    fn later<T: 'static>(&self, found: Result<T, StoreError>) -> LocalBoxFuture<'static, Result<T, StoreError>> {
        let mut left = u32::from(self.slow);
        let mut found = Some(found);
        Box::pin(poll_fn(move |context| {
            if left == 0 {
                return Poll::Ready(found.take().unwrap_or(Err(StoreError::Closed)));
            }
            left -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        }))
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.crashed { Err(StoreError::Closed) } else { Ok(()) }
    }
}

impl Store for UnreliableStore {
    fn get_many<'a>(&'a self, keys: &'a [Vec<u8>]) -> LocalBoxFuture<'a, Result<Vec<Option<Bytes>>, StoreError>> {
        let inner = &mut *self.inner.borrow_mut();
        inner.stats.keys_read += keys.len() as u64;
        inner.reads.extend(keys.iter().cloned());
        inner.later(inner.check().map(|()| keys.iter().map(|key| inner.visible.get(key.as_slice()).cloned()).collect()))
    }

    fn scan(&self, range: Range<Vec<u8>>, direction: Direction, limit: usize) -> LocalBoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        let inner = &mut *self.inner.borrow_mut();
        let found = inner.check().map(|()| {
            if range.start >= range.end {
                return Vec::new();
            }
            let entries = inner.visible.range(Bytes::from(range.start)..Bytes::from(range.end)).map(|(key, value)| (key.clone(), value.clone()));
            match direction {
                Direction::Forward => entries.take(limit).collect::<Vec<_>>(),
                Direction::Backward => entries.rev().take(limit).collect(),
            }
        });
        for (key, _) in found.iter().flatten() {
            inner.reads.push(key.to_vec());
            inner.stats.keys_read += 1;
        }
        inner.later(found)
    }

    fn commit(&self, batch: Batch) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let (completion, completed) = oneshot::channel();
        {
            let inner = &mut *self.inner.borrow_mut();
            if let Err(error) = inner.check() {
                return Box::pin(ready(Err(error)));
            }
            if inner.full && !batch.frees_space() && !batch.is_empty() {
                return Box::pin(ready(Err(StoreError::QuotaExceeded)));
            }
            if batch.generation().is_some_and(|generation| generation < inner.generation) {
                return Box::pin(ready(Err(StoreError::RolledBack)));
            }
            inner.stats.bytes_committed += batch.bytes() as u64;
            apply(&mut inner.visible, &batch);
            inner.waiting.push_back(PendingCommit { batch, completion });
        }
        self.settle();
        Box::pin(async { completed.await.unwrap_or(Err(StoreError::Closed)) })
    }

    fn barrier(&self) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        self.commit(Batch::new())
    }

    fn generation(&self) -> u64 {
        self.inner.borrow().generation
    }

    fn chunks(&self) -> &dyn Chunks {
        self
    }

    fn stats(&self) -> Stats {
        let inner = self.inner.borrow();
        let bytes = self.bytes() + inner.durable.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>();
        Stats { bytes_stored: bytes, bytes_cached: bytes, ..inner.stats.clone() }
    }

    fn close(&self) -> LocalBoxFuture<'_, Result<(), StoreError>> {
        self.release_all();
        self.inner.borrow_mut().crashed = true;
        Box::pin(ready(Ok(())))
    }
}

impl Chunks for UnreliableStore {
    fn put(&self, id: ChunkId, bytes: Bytes) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let inner = &mut *self.inner.borrow_mut();
        let done = match inner.chunks.contains_key(&id) {
            true => inner.check(),
            false => inner.change_chunks(bytes.len(), |chunks| drop(chunks.insert(id, bytes))),
        };
        inner.later(done)
    }

    fn read(&self, id: ChunkId, part: Range<u32>) -> LocalBoxFuture<'static, Result<Option<Bytes>, StoreError>> {
        let inner = self.inner.borrow();
        inner.later(inner.check().and_then(|()| inner.chunks.get(&id).map(|chunk| part_of(chunk, &part)).transpose()))
    }

    fn delete(&self, ids: Vec<ChunkId>) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let inner = &mut *self.inner.borrow_mut();
        let done = inner.change_chunks(0, |chunks| chunks.retain(|id, _| !ids.contains(id)));
        inner.later(done)
    }

    fn bytes(&self) -> u64 {
        self.inner.borrow().chunk_bytes() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Faults, MemoryStore,
        conformance::{Raw, Script, Storage, behaves_like_a_map, dump, keeps_chunks},
    };
    use futures_executor::block_on;
    use proptest::prelude::*;

    /// Each opening restarts the store that the last one left.
    #[derive(Default)]
    struct Restarts(RefCell<UnreliableStore>);

    impl Storage for Restarts {
        type Store = UnreliableStore;

        fn open(&self, _: Faults) -> LocalBoxFuture<'_, Result<UnreliableStore, StoreError>> {
            let next = self.0.borrow().restart();
            self.0.replace(next.clone());
            Box::pin(ready(Ok(next)))
        }
    }

    struct InMemory;

    impl Storage for InMemory {
        type Store = MemoryStore;

        fn open(&self, _: Faults) -> LocalBoxFuture<'_, Result<MemoryStore, StoreError>> {
            Box::pin(ready(Ok(MemoryStore::new())))
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn both_stores_in_memory_behave_like_a_map(raw in prop::collection::vec(any::<Raw>(), 1..80)) {
            block_on(behaves_like_a_map(&Restarts::default(), &Script::new(&raw)));
            block_on(behaves_like_a_map(&InMemory, &Script::new(&raw).without_reopening()));
        }
    }

    #[test]
    fn it_keeps_chunks() {
        block_on(keeps_chunks(&Restarts::default()));
    }

    fn put(key: &'static str) -> Batch {
        let mut batch = Batch::new();
        batch.put(key, "value");
        batch
    }

    fn keys(store: &UnreliableStore) -> Vec<Bytes> {
        block_on(dump(store)).expect("readable").into_keys().collect()
    }

    #[test]
    fn pending_batches_are_visible_until_a_write_fails() {
        let store = UnreliableStore::new();
        store.hold();
        store.fail_next(StoreError::QuotaExceeded);
        let (first, second) = (store.commit(put("a")), store.commit(put("b")));
        assert_eq!((keys(&store), store.waiting()), (vec!["a".into(), "b".into()], 2));
        store.release(1);
        assert_eq!((block_on(first), block_on(second)), (Err(StoreError::QuotaExceeded), Err(StoreError::RolledBack)));
        assert_eq!((keys(&store), store.generation()), (vec![], 1));
    }

    #[test]
    fn a_crash_keeps_what_was_written_before_it() {
        let store = UnreliableStore::new();
        store.crash_at_write(1);
        assert_eq!(block_on(store.commit(put("a"))), Ok(()));
        assert_eq!(block_on(store.commit(put("b"))), Err(StoreError::Closed));
        assert!(store.crashed());
        assert_eq!(keys(&store.restart()), ["a"]);
    }

    #[test]
    fn a_full_store_takes_batches_that_make_room() {
        let store = UnreliableStore::new();
        block_on(store.commit(put("a"))).expect("commits");
        store.set_quota(Some(8));
        assert_eq!(block_on(store.commit(put("b"))), Err(StoreError::QuotaExceeded));
        let mut room = Batch::new();
        room.delete("a");
        room.set_frees_space();
        block_on(store.commit(room)).expect("makes room");
        block_on(store.commit(put("b"))).expect("there is room");
    }

    #[test]
    fn an_exhausted_store_takes_nothing() {
        let store = UnreliableStore::new();
        block_on(store.commit(put("a"))).expect("commits");
        store.set_exhausted(true);
        assert_eq!((block_on(store.commit(put("b"))), store.generation()), (Err(StoreError::QuotaExceeded), 0));
        let mut room = Batch::new();
        room.delete("a");
        room.set_frees_space();
        assert_eq!((block_on(store.commit(room)), store.generation()), (Err(StoreError::QuotaExceeded), 1));
        assert_eq!(keys(&store), ["a"]);
        store.set_exhausted(false);
        block_on(store.commit(put("b"))).expect("there is room");
    }
}
