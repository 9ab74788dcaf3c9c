//! [`RedbStore`]: what the engine's thread sees, and the threads behind it.
//!
//! The *log thread* takes every batch that waits, writes them as one record and syncs it. The
//! *table thread* moves a full log file into redb. They share one [`State`] with the engine's
//! thread. Its mutex is held for work in memory, and by reads, which run on the engine's thread
//! alone and so delay nobody.

use super::{
    catch_panics::catch_panics,
    chunks::{ChunkFiles, Work},
    directory::Directory,
    log::{Log, Record},
    tables::{APPLIED, ENTRIES, PROGRESS, TABLES_FILE, applied, entries, open_tables, store_error, stored},
};
use crate::{
    Batch, Bytes, Chunks, CrashPoint, Direction, FIRST_CONTENT, Fault, Faults, LocalBoxFuture, Stats, Store, StoreError,
    codec::decode_batches,
    commit_queue::{CommitQueue, Completed, Completion, PendingCommit, encode_group, wait_for},
    memtable::{Lookup, Memtable},
    merge::{Merge, Source},
};
use futures_channel::oneshot;
use redb::Database;
use std::{
    cell::Cell,
    future::ready,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, atomic::AtomicU64, atomic::Ordering, mpsc},
    thread::JoinHandle,
    time::Duration,
};

/// After so many entries the table thread checks whether the store closes.
const CHECK_CLOSING_EVERY: usize = 256;

/// What can be chosen when a store is opened.
#[derive(Clone, Debug)]
pub struct RedbOptions {
    /// The newest format of the content that the store's user understands. It is recorded. A store
    /// whose content is newer is refused before anything is changed, as one of a newer format of
    /// its own is.
    pub content_format: u32,
    /// Bytes of log after which redb takes over.
    pub log_bytes: u64,
    /// Bytes of pages that redb keeps in memory.
    pub cache_bytes: usize,
    /// Where a test lets the store crash.
    pub faults: Faults,
}

impl Default for RedbOptions {
    fn default() -> Self {
        Self { content_format: FIRST_CONTENT, log_bytes: 4 << 20, cache_bytes: 64 << 20, faults: Faults::default() }
    }
}

/// A store in a directory of its own, for native hosts.
pub struct RedbStore {
    shared: Arc<Shared>,
    chunks: ChunkFiles,
    threads: Vec<JoinHandle<()>>,
    threads_ended: Cell<Option<oneshot::Receiver<()>>>,
    keys_read: Cell<u64>,
}

pub(super) struct Shared {
    state: Mutex<State>,
    /// The log thread waits here for batches and for room.
    log_work: Condvar,
    /// The table thread waits here for a full log file.
    table_work: Condvar,
    /// An error when the store is closed, or when redb failed and could not be opened again.
    tables: RwLock<Result<Database, StoreError>>,
    directory: Mutex<Option<Directory>>,
    path: PathBuf,
    options: RedbOptions,
    log_stored: AtomicU64,
}

/// Held by the threads of a store. When the last of them has ended, the directory is free.
struct RunningThreads {
    shared: Arc<Shared>,
    /// Dropping it ends [`Store::close`].
    _tell: oneshot::Sender<()>,
}

impl Drop for RunningThreads {
    fn drop(&mut self) {
        self.shared.release();
    }
}

#[derive(Default)]
struct State {
    queue: CommitQueue,
    closing: bool,
    /// A test ended the store's life.
    crashed: bool,
    /// Why redb could not take over a full log file the last time.
    table_error: Option<StoreError>,
}

impl RedbStore {
    /// Opens the store in `directory`, making it if it is not there.
    ///
    /// # Errors
    /// [`StoreError::NewerFormat`], with nothing changed. [`StoreError::InUse`] when another
    /// process holds it. [`StoreError::Platform`] when the disk fails.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(directory, RedbOptions::default())
    }

    /// [`RedbStore::open`] with options.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub fn open_with(directory: impl AsRef<Path>, options: RedbOptions) -> Result<Self, StoreError> {
        let directory = Directory::open(directory.as_ref(), options.content_format, &options.faults)?;
        let path = directory.path.clone();
        let (tables, applied) = catch_panics(&path.join(TABLES_FILE), || {
            let tables = open_tables(&path, options.cache_bytes)?;
            let applied = applied(&tables)?;
            Ok((tables, applied))
        })?;
        let (log, recovered) = Log::open(&path, applied)?;
        let full = replay(&recovered.full)?;
        let immutable = recovered.full.last().map(|last| (full, last.number));
        let queue = CommitQueue::recovered(replay(&recovered.current)?, immutable);
        let state = State { queue, ..State::default() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            log_work: Condvar::new(),
            table_work: Condvar::new(),
            tables: RwLock::new(Ok(tables)),
            directory: Mutex::new(Some(directory)),
            path,
            options,
            log_stored: AtomicU64::new(log.bytes_stored()),
        });
        let (tell, ended) = oneshot::channel();
        let running = Arc::new(RunningThreads { shared: shared.clone(), _tell: tell });
        let (work, given) = mpsc::channel::<Work>();
        let chunks = ChunkFiles::new(&shared.path, work)?;
        let chunk_thread = spawn("store-chunks", &running, move |shared| given.into_iter().for_each(|work| work(shared)))?;
        let log_thread = spawn("store-log", &running, move |shared| shared.run_log(log))?;
        let table_thread = spawn("store-tables", &running, Shared::run_tables).inspect_err(|_| shared.begin_close())?;
        Ok(Self {
            shared,
            chunks,
            threads: vec![chunk_thread, log_thread, table_thread],
            threads_ended: Cell::new(Some(ended)),
            keys_read: Cell::new(0),
        })
    }

    /// How often this directory was opened, this time included.
    pub fn epoch(&self) -> u64 {
        lock(&self.shared.directory).as_ref().map_or(0, |directory| directory.epoch)
    }

    fn get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.keys_read.set(self.keys_read.get() + keys.len() as u64);
        let state = self.shared.open_state()?;
        let found: Vec<Lookup> = keys.iter().map(|key| state.queue.lookup(key)).collect();
        if !found.contains(&Lookup::NotFound) {
            return Ok(found.into_iter().map(Lookup::into_value).collect());
        }
        self.shared.with_tables(|tables| {
            let table = entries(tables)?;
            let stored = |key: &[u8]| Ok(table.get(key).map_err(store_error)?.map(|value| Bytes::copy_from_slice(value.value())));
            found
                .into_iter()
                .zip(keys)
                .map(|(found, key)| match found {
                    Lookup::NotFound => stored(key),
                    found => Ok(found.into_value()),
                })
                .collect()
        })
    }

    fn entries_of(&self, range: &Range<Vec<u8>>, direction: Direction, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let state = self.shared.open_state()?;
        if range.start >= range.end {
            return Ok(Vec::new());
        }
        let found = self.shared.with_tables(|tables| {
            let table = entries(tables)?;
            let mut sources: Vec<Source<'_, StoreError>> = state.queue.memtables().map(|memtable| memtable.source(range, direction)).collect();
            sources.push(Source::new(range, |part| stored(&table, &part, direction), |_| None));
            Merge::new(sources, range.clone(), direction).live(limit)
        })?;
        self.keys_read.set(self.keys_read.get() + found.len() as u64);
        Ok(found)
    }

    fn submit(&self, batch: Batch) -> Result<Completed, StoreError> {
        let completed = self.shared.open_state()?.queue.submit(batch)?;
        self.shared.log_work.notify_one();
        Ok(completed)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn open_state(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.state();
        if state.closing { Err(StoreError::Closed) } else { Ok(state) }
    }

    /// What a test lets happen here. A crash ends the store's life.
    pub(super) fn fault_at(&self, point: CrashPoint) -> Option<Fault> {
        let fault = self.options.faults.at(point);
        if fault == Some(Fault::Crash) {
            self.state().crashed = true;
            self.begin_close();
        }
        fault
    }

    fn run_log(&self, mut log: Log) {
        while let Some(group) = self.next_group(&log) {
            let Some(result) = self.write_group(&mut log, &group) else { break };
            self.log_stored.store(log.bytes_stored(), Ordering::Relaxed);
            let (waiting, lost) = self.finish_group(&mut log, group, &result);
            for completion in waiting {
                let _ = completion.send(result.clone());
            }
            for pending in lost {
                let _ = pending.completion.send(Err(StoreError::RolledBack));
            }
        }
        // After a crash too: whoever still waits is told that the store is closed.
        let mut state = self.state();
        state.closing = true;
        state.queue.abandon();
        self.table_work.notify_all();
    }

    /// Everything that waits, or nothing when the store closes.
    fn next_group(&self, log: &Log) -> Option<Vec<PendingCommit>> {
        let mut state = self.state();
        loop {
            let stalled = log.len() > self.stall_bytes() && state.queue.has_immutable() && state.table_error.is_none();
            match state.queue.is_empty() {
                _ if state.crashed => return None,
                true if state.closing => return None,
                false if state.closing || !stalled => break,
                _ => state = self.log_work.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
        let full = log.len() + state.queue.pending_bytes() as u64 > self.options.log_bytes && !state.queue.has_immutable();
        Some(state.queue.take_group(full))
    }

    /// Writes and syncs one record. `None` when a test lets the store crash.
    fn write_group(&self, log: &mut Log, group: &[PendingCommit]) -> Option<Result<(), StoreError>> {
        let mut record = Log::header_space();
        let header = record.len();
        encode_group(&mut record, group);
        let faults = &self.options.faults;
        if record.len() == header {
            return Some(Ok(()));
        }
        let length = record.len();
        let result = match faults.at(CrashPoint::BeforePut) {
            Some(Fault::Crash) => return None,
            Some(Fault::Fail(error)) => Err(error),
            None => self.check_log_limit(log).and_then(|()| log.write(record)),
        };
        let result = match faults.at(CrashPoint::BetweenPutAndCommit) {
            Some(Fault::Crash) => return None,
            Some(Fault::Fail(error)) => Err(error),
            None => result,
        };
        let result = result.and_then(|()| log.sync(length).map(drop));
        if faults.crash_at(CrashPoint::BetweenCommitAndAnswer) {
            return None;
        }
        Some(result)
    }

    /// The log does not grow beyond this while redb has not taken over the other file.
    fn stall_bytes(&self) -> u64 {
        self.options.log_bytes.saturating_mul(3)
    }

    /// An error when redb cannot take the log over and the log is too long to grow further.
    fn check_log_limit(&self, log: &Log) -> Result<(), StoreError> {
        match &self.state().table_error {
            Some(error) if log.len() > self.stall_bytes() => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Ends a group: who waited for it, and what is lost with it.
    fn finish_group(&self, log: &mut Log, group: Vec<PendingCommit>, result: &Result<(), StoreError>) -> (Vec<Completion>, Vec<PendingCommit>) {
        // A record that may have been written must not come back after its batch was refused.
        // This is done without the lock, because it syncs.
        let erased = if result.is_err() { log.erase() } else { Ok(()) };
        let queue = &mut self.state().queue;
        let lost = match result {
            Ok(()) => {
                if queue.group_is_logged(&group, log.last_number()) {
                    log.switch();
                    self.table_work.notify_one();
                }
                Vec::new()
            }
            Err(error) => {
                if erased.is_err() {
                    queue.set_fatal_error(error.clone());
                }
                queue.roll_back()
            }
        };
        (queue.end_group(group, result), lost)
    }

    fn run_tables(&self) {
        while let Some((memtable, last_record)) = self.next_immutable() {
            let result = self.with_tables(|tables| self.move_to_tables(tables, &memtable, last_record));
            if result.is_err() && self.state().closing {
                return;
            }
            if self.options.faults.crash_at(CrashPoint::Flushing) {
                self.state().crashed = true;
                self.log_work.notify_all();
                return;
            }
            if result.is_err() {
                self.reopen_tables();
            }
            let mut state = self.state();
            state.table_error = result.err();
            if state.table_error.is_none() {
                state.queue.immutable_is_stored();
            } else {
                tracing::warn!(error = ?state.table_error, "redb could not take over the log; trying again");
                drop(self.table_work.wait_timeout(state, Duration::from_secs(1)));
            }
            self.log_work.notify_all();
        }
    }

    fn next_immutable(&self) -> Option<(Arc<Memtable>, u64)> {
        let mut state = self.state();
        loop {
            if state.closing {
                return None;
            }
            if let Some(logged) = state.queue.immutable().zip(state.queue.logged_immutable()) {
                return Some(logged);
            }
            state = self.table_work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The result of `work` with redb, which may find its file damaged.
    fn with_tables<T>(&self, work: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let tables = tables.as_ref().map_err(StoreError::clone)?;
        catch_panics(&self.path.join(TABLES_FILE), || work(tables))
    }

    fn move_to_tables(&self, tables: &Database, memtable: &Memtable, last_record: u64) -> Result<(), StoreError> {
        let mut transaction = tables.begin_write().map_err(store_error)?;
        // Without this, the next opening after a crash would read the whole file.
        transaction.set_quick_repair(true);
        {
            let mut table = transaction.open_table(ENTRIES).map_err(store_error)?;
            for (start, end) in memtable.range_tombstones().iter() {
                table.retain_in::<&[u8], _>(start.as_ref()..end.as_ref(), |_, _| false).map_err(store_error)?;
            }
            for (nth, (key, value)) in memtable.all_points().enumerate() {
                if nth % CHECK_CLOSING_EVERY == CHECK_CLOSING_EVERY - 1 && self.state().closing {
                    // The log has all of it, and the next opening moves it.
                    return Err(StoreError::Closed);
                }
                match value {
                    Some(value) => table.insert(key.as_ref(), value.as_ref()).map_err(store_error)?,
                    None => table.remove(key.as_ref()).map_err(store_error)?,
                };
            }
            transaction.open_table(PROGRESS).map_err(store_error)?.insert(APPLIED, last_record).map_err(store_error)?;
        }
        transaction.commit().map_err(store_error)
    }

    /// After an I/O error redb refuses everything until it is opened again.
    fn reopen_tables(&self) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        self.close_tables(&mut tables);
        *tables = catch_panics(&self.path.join(TABLES_FILE), || open_tables(&self.path, self.options.cache_bytes));
        if let Err(error) = &*tables {
            tracing::error!(%error, "could not reopen redb");
        }
    }

    /// Closes redb. That writes too, so it may fail.
    fn close_tables(&self, tables: &mut Result<Database, StoreError>) {
        let closed = catch_panics(&self.path.join(TABLES_FILE), || {
            *tables = Err(StoreError::Closed);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::error!("{error}");
        }
    }
}

impl Store for RedbStore {
    fn get_many<'a>(&'a self, keys: &'a [Vec<u8>]) -> LocalBoxFuture<'a, Result<Vec<Option<Bytes>>, StoreError>> {
        Box::pin(ready(self.get(keys)))
    }

    fn scan(&self, range: Range<Vec<u8>>, direction: Direction, limit: usize) -> LocalBoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        Box::pin(ready(self.entries_of(&range, direction, limit)))
    }

    fn commit(&self, batch: Batch) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        wait_for(self.submit(batch).map(Some))
    }

    fn barrier(&self) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        wait_for(self.shared.open_state().and_then(|mut state| state.queue.barrier()))
    }

    fn generation(&self) -> u64 {
        self.shared.state().queue.generation()
    }

    fn chunks(&self) -> &dyn Chunks {
        &self.chunks
    }

    fn stats(&self) -> Stats {
        let state = self.shared.state();
        let tables = std::fs::metadata(self.shared.path.join(TABLES_FILE)).map_or(0, |metadata| metadata.len());
        Stats {
            keys_read: self.keys_read.get(),
            commits: state.queue.commits(),
            bytes_committed: state.queue.bytes_committed(),
            bytes_stored: tables + self.shared.log_stored.load(Ordering::Relaxed) + self.chunks.bytes(),
            bytes_cached: state.queue.memtables().map(|memtable| memtable.bytes() as u64).sum(),
            runs: 0,
        }
    }

    fn close(&self) -> LocalBoxFuture<'_, Result<(), StoreError>> {
        self.chunks.close();
        self.shared.begin_close();
        let ended = self.threads_ended.take();
        Box::pin(async move {
            if let Some(ended) = ended {
                // Nothing is ever sent: it ends with an error when the threads have ended.
                let _ = ended.await;
            }
            Ok(())
        })
    }
}

impl Shared {
    fn begin_close(&self) {
        self.state().closing = true;
        self.log_work.notify_all();
        self.table_work.notify_all();
    }

    fn release(&self) {
        self.close_tables(&mut self.tables.write().unwrap_or_else(PoisonError::into_inner));
        *lock(&self.directory) = None;
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        self.chunks.close();
        self.shared.begin_close();
        // Whoever called `close` has waited for as long as they wanted to. A slow disk must not
        // keep a process from ending.
        if self.threads_ended.take().is_none() {
            return;
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn replay(records: &[Record]) -> Result<Vec<Batch>, StoreError> {
    let mut batches = Vec::new();
    for record in records {
        batches.extend(decode_batches(record.payload.clone())?);
    }
    Ok(batches)
}

fn spawn(name: &str, running: &Arc<RunningThreads>, run: impl FnOnce(&Shared) + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    let running = running.clone();
    std::thread::Builder::new().name(name.into()).spawn(move || run(&running.shared)).map_err(super::directory::io_error)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
