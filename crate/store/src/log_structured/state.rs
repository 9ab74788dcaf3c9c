//! The store's state in memory, and the [`Store`] it makes.

use super::{
    backend::{Backend, Loaded},
    cache::Cache,
    levels::Levels,
    prefetch::Prefetch,
    space::Space,
    sstable::Sstable,
};
use crate::{
    Batch, Bytes, Chunks, CrashPoint, Direction, FIRST_CONTENT, Faults, LocalBoxFuture, Stats, Store, StoreError,
    codec::decode_batches,
    commit_queue::{CommitQueue, wait_for},
    memtable::Memtable,
};
use event_listener::Event;
use std::{
    cell::{Cell, RefCell},
    ops::Range,
    rc::Rc,
};

/// Sizes that can be chosen when a store is opened, and where a test lets it crash.
#[derive(Clone, Debug)]
pub struct Options {
    /// The newest format of the content that the store's user understands. It is recorded. A store
    /// whose content is newer is refused before anything is changed, as one of a newer format of
    /// its own is.
    pub content_format: u32,
    /// Bytes of log after which the memtable is flushed to an sstable.
    pub flush_bytes: usize,
    /// Bytes of log after which the memtable is flushed once nothing was written for
    /// `idle_flush_ms`: an opening has to replay the log.
    pub idle_flush_bytes: usize,
    /// In milliseconds.
    pub idle_flush_ms: u32,
    /// A group of more bytes becomes an sstable without passing through the log.
    pub log_bypass_bytes: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Bytes of an sstable, about.
    pub sstable_bytes: usize,
    /// Bytes of level 1; each deeper level is ten times as large.
    pub level_one_bytes: u64,
    /// Bytes of blocks and indexes kept in memory.
    pub cache_bytes: usize,
    /// Bytes kept back for work that makes room when storage is full.
    pub reserve_bytes: usize,
    /// Milliseconds after the opening before the first compaction, so that the first reads have the
    /// machine to themselves. What they fetch, the next opening fetches at once.
    pub startup_compaction_delay_ms: u32,
    /// Milliseconds after a commit before the next compaction, unless level 0 has too many
    /// sstables. Compaction shares its thread with the work that leads to the next commit of a
    /// burst, and took a sixth of it.
    pub compaction_delay_ms: u32,
    /// Whether Blobs are used where the platform keeps them. Else their bytes are cut into records.
    pub blobs: bool,
    /// Where a test lets the store crash.
    pub faults: Faults,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            content_format: FIRST_CONTENT,
            flush_bytes: 1 << 20,
            idle_flush_bytes: 128 << 10,
            idle_flush_ms: 2_000,
            log_bypass_bytes: 256 << 10,
            block_bytes: 32 << 10,
            // Browsers let one Blob pass the quota, and deleting the reserve must still make room:
            // so this is less than the reserve.
            sstable_bytes: 3 << 19,
            level_one_bytes: 8 << 20,
            cache_bytes: 8 << 20,
            // Chromium checks the quota before it adds a Blob, and its own files grow and shrink.
            // It was seen to pass the quota by 3.3 MB.
            reserve_bytes: 4 << 20,
            startup_compaction_delay_ms: 2_000,
            compaction_delay_ms: 1_000,
            blobs: true,
            faults: Faults::default(),
        }
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) queue: CommitQueue,
    pub(super) levels: Levels,
    /// The commit task runs.
    pub(super) committing: bool,
    /// The compaction task runs.
    pub(super) compacting: bool,
    /// The flush task runs.
    pub(super) flushing: bool,
    /// A flush waits for the store to be idle.
    pub(super) idle_flush_scheduled: bool,
    /// Sstables that were replaced, until no read holds them.
    pub(super) obsolete: Vec<Rc<Sstable>>,
    pub(super) closing: bool,
    pub(super) closed: bool,
    pub(super) next_log: u64,
    pub(super) next_blob: u64,
    /// Bytes of log that the memtable stands for.
    pub(super) log_bytes: usize,
    /// No flush before this time, since the last one failed.
    pub(super) flush_retry_at: f64,
    /// Why the last flush failed, unless storage was full.
    pub(super) flush_error: Option<StoreError>,
    /// Where in each level the next compaction begins.
    pub(super) compact_pointers: Vec<Bytes>,
    pub(super) space: Space,
    pub(super) last_commit: f64,
}

/// What the tasks of one store share.
pub(super) struct Core<B> {
    pub(super) backend: B,
    pub(super) options: Options,
    pub(super) state: RefCell<State>,
    pub(super) cache: RefCell<Cache>,
    pub(super) prefetch: RefCell<Prefetch>,
    /// Held for the length of a transaction and of the change in memory that follows it.
    pub(super) writing: async_lock::Mutex<()>,
    /// Held while a Blob is written.
    pub(super) putting_blob: async_lock::Mutex<()>,
    /// Notified when a task has ended or a memtable was flushed.
    pub(super) progress: Event,
    keys_read: Cell<u64>,
}

/// A log-structured store above a [`Backend`].
pub(crate) struct LogStructured<B> {
    core: Rc<Core<B>>,
}

impl State {
    pub(super) fn check_readable(&self) -> Result<(), StoreError> {
        if self.closing || self.closed { Err(StoreError::Closed) } else { Ok(()) }
    }

    pub(super) fn new_blob(&mut self) -> u64 {
        self.next_blob += 1;
        self.next_blob
    }
}

impl<B: Backend> Core<B> {
    /// Whether a test lets the store crash here.
    pub(super) fn crash_at(&self, point: CrashPoint) -> bool {
        let crash = self.options.faults.crash_at(point);
        if crash {
            self.abort();
        }
        crash
    }

    /// Stops everything, as the end of the process would.
    pub(super) fn abort(&self) {
        let mut state = self.state.borrow_mut();
        state.queue.set_fatal_error(StoreError::Closed);
        state.queue.abandon();
        state.closing = true;
        state.closed = true;
        drop(state);
        self.backend.close();
        self.progress.notify(usize::MAX);
    }

    pub(super) fn stopped(&self) -> bool {
        let state = self.state.borrow();
        state.closing || state.queue.check_writable().is_err()
    }
}

impl<B: Backend> LogStructured<B> {
    /// A store on what `backend` held when it was opened.
    pub(crate) fn new(backend: B, loaded: Loaded, options: Options) -> Result<Self, StoreError> {
        let sstables: Vec<Sstable> = loaded.sstables.into_iter().map(|(id, record)| Sstable::decode(id, record)).collect::<Result<_, _>>()?;
        let next_log = loaded.log.last().map_or(1, |(number, _)| number + 1);
        let records: Vec<Bytes> = loaded.log.into_iter().map(|(_, record)| record).collect();
        let log = if records.len() == 1 { records[0].clone() } else { Bytes::from(records.concat()) };
        let log_bytes = log.len();
        let state = State {
            queue: CommitQueue::recovered(decode_batches(log)?, None),
            levels: Levels::new(sstables),
            next_log,
            // Each opening has numbers of its own for Blobs. So one that may not write any more
            // cannot overwrite another's.
            next_blob: (loaded.epoch << 32) + 16,
            log_bytes,
            space: Space::new(loaded.full),
            ..State::default()
        };
        let core = Core {
            cache: RefCell::new(Cache::new(options.cache_bytes)),
            prefetch: RefCell::default(),
            backend,
            options,
            state: RefCell::new(state),
            writing: async_lock::Mutex::new(()),
            putting_blob: async_lock::Mutex::new(()),
            progress: Event::new(),
            keys_read: Cell::new(0),
        };
        let store = Self { core: Rc::new(core) };
        store.core.prefetch(loaded.prefetch_list);
        store.core.clone().start_background_work(loaded.epoch);
        Ok(store)
    }

    /// Drops every cached block and index. No answer changes.
    pub(crate) fn drop_cache(&self) {
        *self.core.cache.borrow_mut() = Cache::new(self.core.options.cache_bytes);
    }

    /// Waits until background work has nothing left to do.
    pub(crate) async fn settled(&self) {
        loop {
            let listener = self.core.progress.listen();
            {
                let state = self.core.state.borrow();
                let busy = state.committing || state.compacting || state.flushing || state.space.checking;
                if !busy || state.closed {
                    return;
                }
            }
            listener.await;
        }
    }

    /// Whether ordinary batches are refused because storage is full.
    pub(crate) fn is_full(&self) -> bool {
        self.core.state.borrow().space.full
    }

    /// Releases everything, because the platform asks for it. What waits is refused.
    pub(crate) fn release(&self) {
        self.core.abort();
    }
}

impl<B: Backend> Store for LogStructured<B> {
    fn get_many<'a>(&'a self, keys: &'a [Vec<u8>]) -> LocalBoxFuture<'a, Result<Vec<Option<Bytes>>, StoreError>> {
        self.core.keys_read.set(self.core.keys_read.get() + keys.len() as u64);
        Box::pin(self.core.get_many(keys))
    }

    fn scan(&self, range: Range<Vec<u8>>, direction: Direction, limit: usize) -> LocalBoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        Box::pin(async move {
            let found = self.core.scan(range, direction, limit).await?;
            self.core.keys_read.set(self.core.keys_read.get() + found.len() as u64);
            Ok(found)
        })
    }

    fn commit(&self, batch: Batch) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        wait_for(self.core.clone().submit(batch).map(Some))
    }

    fn barrier(&self) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let state = &mut *self.core.state.borrow_mut();
        let barrier = if state.closing { state.queue.check_writable().and(Err(StoreError::Closed)) } else { state.queue.barrier() };
        wait_for(barrier)
    }

    fn generation(&self) -> u64 {
        self.core.state.borrow().queue.generation()
    }

    fn chunks(&self) -> &dyn Chunks {
        &self.core.backend
    }

    fn stats(&self) -> Stats {
        let state = self.core.state.borrow();
        let memtables: usize = state.queue.memtables().map(Memtable::bytes).sum();
        Stats {
            keys_read: self.core.keys_read.get(),
            commits: state.queue.commits(),
            bytes_committed: state.queue.bytes_committed(),
            bytes_stored: state.levels.bytes() + state.log_bytes as u64 + self.core.backend.bytes(),
            bytes_cached: (memtables + self.core.cache.borrow().bytes()) as u64,
            runs: state.levels.sorted_runs(),
        }
    }

    fn close(&self) -> LocalBoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.core.state.borrow_mut().closing = true;
            self.core.progress.notify(usize::MAX);
            self.settled().await;
            let _alone = self.core.writing.lock().await;
            self.core.state.borrow_mut().closed = true;
            self.core.backend.close();
            Ok(())
        })
    }
}

impl<B> Drop for LogStructured<B> {
    fn drop(&mut self) {
        // Tasks that still run hold the core. They see this and end.
        self.core.state.borrow_mut().closing = true;
    }
}
