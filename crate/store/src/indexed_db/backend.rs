//! Which record goes where: the log-structured store's [`Backend`] on IndexedDB.
//!
//! Blobs have transactions and an object store of their own, so that writing a large one does not
//! keep commits waiting. While Blobs of 1.5 MiB were written without a pause, a commit took 3 to 5
//! ms in Chromium, and 18 ms with the Blobs in the same object store.
//!
//! A Blob is not fenced: its number holds the opening's epoch, and it counts only when a fenced
//! transaction has put its sstable's record.

use super::{
    Options,
    database::{
        self, BLOBS, LOG, META, PAGES, SEGMENTS, get, js_number, put, read_transaction, request_result, store_error, transaction_done,
        write_transaction,
    },
    opening::{self, EPOCH, OpenedDatabase, PREFETCH_LIST, PendingClaim},
};
use crate::{
    Bytes, CrashPoint, Fault, Faults, LocalBoxFuture, StoreError,
    log_structured::{Backend, Loaded, Transaction, is_placeholder},
};
use futures_channel::oneshot;
use futures_util::future::try_join_all;
use js_sys::{Array, ArrayBuffer, Function, Promise, Uint8Array};
use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    ops::Range,
    rc::Rc,
};
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{Blob, Event, IdbDatabase, IdbKeyRange, IdbObjectStore, IdbTransaction, MessageChannel, MessageEvent, Performance};

const PAGE_BYTES: usize = 32 << 10;
/// How many buffers of how many bytes are allocated to have garbage collected.
const GC_ALLOCATIONS: (u32, u32) = (128, 1 << 20);
/// How many Blob handles are kept. A handle takes little memory in the browser, but not nothing.
const MAX_HANDLES: usize = 4096;

type Handler = Closure<dyn FnMut(Event)>;
type OnRelease = Rc<RefCell<Option<Box<dyn Fn()>>>>;

/// One opening of a database.
pub(crate) struct IndexedDb {
    pub(super) inner: Rc<Inner>,
    turns: EventLoopTurns,
    clock: Performance,
}

pub(super) struct Inner {
    pub(super) database: IdbDatabase,
    epoch: f64,
    /// Set until this opening has taken the right to write.
    pending_claim: async_lock::Mutex<Option<PendingClaim>>,
    /// Whether this engine can keep Blobs in IndexedDB.
    pub(super) blobs: bool,
    /// Bytes of chunks.
    pub(super) chunk_bytes: Cell<f64>,
    /// Held by one change of chunks at a time.
    pub(super) changing_chunks: async_lock::Mutex<()>,
    handles: RefCell<HashMap<u64, Blob>>,
    faults: Faults,
    released: OnRelease,
    closed: Cell<bool>,
    on_release: RefCell<Option<Handler>>,
}

impl IndexedDb {
    /// Opens the database and takes it over.
    pub(super) async fn open(name: &str, options: &Options) -> Result<(Self, Loaded), StoreError> {
        let faults = options.faults.clone();
        let upgrade = move |database: &_, from| opening::upgrade(database, from, &faults);
        let database = database::open(name, upgrade).await?;
        let clock: Performance = database::global("performance")?.unchecked_into();
        let opened = opening::load(&database, options.content_format, options.blobs).await.inspect_err(|_| database.close())?;
        let OpenedDatabase { loaded, blobs, chunk_bytes, pending_claim } = opened;
        let inner = Rc::new(Inner {
            database,
            epoch: loaded.epoch as f64,
            pending_claim: async_lock::Mutex::new(pending_claim),
            blobs,
            chunk_bytes: Cell::new(chunk_bytes.unwrap_or_default()),
            changing_chunks: async_lock::Mutex::new(()),
            handles: RefCell::default(),
            faults: options.faults.clone(),
            released: OnRelease::default(),
            closed: Cell::new(false),
            on_release: RefCell::default(),
        });
        inner.watch_release();
        if chunk_bytes.is_none() {
            inner.count_chunks().await?;
        }
        Ok((Self { inner, turns: EventLoopTurns::new()?, clock }, loaded))
    }

    /// What to call when the browser asks for the database or takes it away.
    pub(super) fn on_release(&self) -> OnRelease {
        self.inner.released.clone()
    }
}

impl Inner {
    pub(super) fn store(&self, transaction: &IdbTransaction, name: &str) -> Result<IdbObjectStore, StoreError> {
        transaction.object_store(name).map_err(|error| store_error(&error))
    }

    /// Takes the right to write, if that could not be done when the database was opened.
    pub(super) async fn claim(&self) -> Result<(), StoreError> {
        let mut pending_claim = self.pending_claim.lock().await;
        if let Some(found) = &*pending_claim {
            opening::claim(&self.database, found).await?;
            *pending_claim = None;
        }
        Ok(())
    }

    /// Sends every request of a transaction. Its end says how it went.
    fn send(self: &Rc<Self>, changes: &Transaction) -> Result<LocalBoxFuture<'static, Result<(), StoreError>>, StoreError> {
        self.inject_fault(CrashPoint::BeforePut)?;
        self.send_fenced(&[META, LOG, SEGMENTS], CrashPoint::BetweenPutAndCommit, |transaction| self.send_requests(transaction, changes))
    }

    /// A transaction of what `requests` sends. It is committed only if this opening is the last
    /// one, by the epoch in the first of `stores`.
    pub(super) fn send_fenced(
        self: &Rc<Self>,
        stores: &[&str],
        before_commit: CrashPoint,
        requests: impl FnOnce(&IdbTransaction) -> Result<(), StoreError>,
    ) -> Result<LocalBoxFuture<'static, Result<(), StoreError>>, StoreError> {
        let transaction = write_transaction(&self.database, stores)?;
        let done = transaction_done(&transaction);
        let sent = requests(&transaction);
        let refusal: Rc<RefCell<Option<StoreError>>> = Rc::default();
        let told = refusal.clone();
        let on_epoch = match sent.and_then(|()| self.check_fence(&transaction, stores[0], before_commit, told)) {
            Ok(on_epoch) => on_epoch,
            Err(error) => {
                let _ = transaction.abort();
                return Err(error);
            }
        };
        Ok(Box::pin(async move {
            let result = done.await;
            drop(on_epoch);
            match refusal.borrow_mut().take() {
                Some(error) => Err(error),
                None => result,
            }
        }))
    }

    fn send_requests(&self, transaction: &IdbTransaction, changes: &Transaction) -> Result<(), StoreError> {
        let log = self.store(transaction, LOG)?;
        for (at, record) in &changes.put_log {
            put(&log, &js_number(*at), &Uint8Array::from(record.as_ref()))?;
        }
        if let Some(last_log) = changes.delete_log {
            let range = IdbKeyRange::upper_bound(&js_number(last_log)).map_err(|error| store_error(&error))?;
            log.delete(&range).map_err(|error| store_error(&error))?;
        }
        let sstables = self.store(transaction, SEGMENTS)?;
        for (id, record) in &changes.put_sstables {
            put(&sstables, &js_number(*id), &Uint8Array::from(record.as_ref()))?;
        }
        for id in &changes.delete_sstables {
            sstables.delete(&js_number(*id)).map_err(|error| store_error(&error))?;
        }
        if let Some(prefetch_list) = &changes.put_prefetch_list {
            put(&self.store(transaction, META)?, &PREFETCH_LIST.into(), &Uint8Array::from(prefetch_list.as_ref()))?;
        }
        Ok(())
    }

    /// Commits the transaction if this opening is still the last one, and aborts it if not.
    fn check_fence(
        self: &Rc<Self>,
        transaction: &IdbTransaction,
        store: &str,
        before_commit: CrashPoint,
        refusal: Rc<RefCell<Option<StoreError>>>,
    ) -> Result<Handler, StoreError> {
        let request = self.store(transaction, store)?.get(&EPOCH.into()).map_err(|error| store_error(&error))?;
        let (inner, transaction, asked) = (self.clone(), transaction.clone(), request.clone());
        let on_epoch: Handler = Closure::new(move |_| {
            let epoch = asked.result().ok().and_then(|epoch| epoch.as_f64());
            let verdict = if epoch == Some(inner.epoch) { inner.inject_fault(before_commit) } else { Err(StoreError::Fenced) };
            match verdict {
                Ok(()) => database::commit(&transaction),
                Err(error) => {
                    *refusal.borrow_mut() = Some(error);
                    let _ = transaction.abort();
                }
            }
        });
        request.set_onsuccess(Some(on_epoch.as_ref().unchecked_ref()));
        Ok(on_epoch)
    }

    pub(super) fn inject_fault(&self, point: CrashPoint) -> Result<(), StoreError> {
        match self.faults.at(point) {
            Some(Fault::Crash) => {
                self.close();
                Err(StoreError::Closed)
            }
            Some(Fault::Fail(error)) => Err(error),
            None => Ok(()),
        }
    }

    async fn put_blob(&self, id: u64, parts: Vec<Bytes>) -> Result<(), StoreError> {
        if !is_placeholder(id) {
            self.claim().await?;
        }
        if !self.blobs {
            return self.put_pages(id, parts.concat()).await;
        }
        let arrays: Array = parts.iter().map(|part| JsValue::from(Uint8Array::from(part.as_ref()))).collect();
        drop(parts);
        let blob = Blob::new_with_u8_array_sequence(&arrays).map_err(|error| store_error(&error))?;
        let transaction = write_transaction(&self.database, &[BLOBS])?;
        let done = transaction_done(&transaction);
        put(&self.store(&transaction, BLOBS)?, &js_number(id), &blob)?;
        database::commit(&transaction);
        done.await?;
        // A deleted Blob takes its space until the last handle on it was collected as garbage. So
        // the reserve must never have one.
        if is_placeholder(id) {
            return Ok(());
        }
        // The handle that was put stands for bytes in memory. One that is read back stands for the
        // file. It is read back now, since later it might wait for another Blob's write.
        self.handle(id).await.map(drop)
    }

    async fn handle(&self, id: u64) -> Result<Blob, StoreError> {
        if let Some(blob) = self.handles.borrow().get(&id) {
            return Ok(blob.clone());
        }
        let transaction = read_transaction(&self.database, &[BLOBS])?;
        let found = get(&self.store(&transaction, BLOBS)?, &js_number(id))?.await?;
        let blob: Blob = found.dyn_into().map_err(|_| StoreError::Platform(format!("Blob {id} is missing")))?;
        self.keep_handle(id, blob.clone());
        Ok(blob)
    }

    /// The handles of several Blobs, in one transaction.
    async fn prefetch_handles(&self, ids: Vec<u64>) -> Result<(), StoreError> {
        let transaction = read_transaction(&self.database, &[BLOBS])?;
        let blobs = self.store(&transaction, BLOBS)?;
        let asked = ids.iter().map(|id| get(&blobs, &js_number(*id))).collect::<Result<Vec<_>, _>>()?;
        for (id, found) in ids.into_iter().zip(try_join_all(asked).await?) {
            if let Ok(blob) = found.dyn_into() {
                self.keep_handle(id, blob);
            }
        }
        Ok(())
    }

    fn keep_handle(&self, id: u64, blob: Blob) {
        let mut handles = self.handles.borrow_mut();
        if handles.len() >= MAX_HANDLES {
            handles.clear();
        }
        handles.insert(id, blob);
    }

    async fn read_blob(&self, id: u64, part: Range<u32>) -> Result<Bytes, StoreError> {
        if !self.blobs {
            return self.read_pages(id, part).await;
        }
        bytes_of(&self.handle(id).await?, &part).await
    }

    async fn put_pages(&self, id: u64, bytes: Vec<u8>) -> Result<(), StoreError> {
        let transaction = write_transaction(&self.database, &[PAGES])?;
        let done = transaction_done(&transaction);
        let pages = self.store(&transaction, PAGES)?;
        for (at, page) in bytes.chunks(PAGE_BYTES).enumerate() {
            put(&pages, &Array::of2(&js_number(id), &js_number(at as u64)), &Uint8Array::from(page))?;
        }
        database::commit(&transaction);
        done.await
    }

    async fn read_pages(&self, id: u64, part: Range<u32>) -> Result<Bytes, StoreError> {
        let (start, end) = (part.start as usize, part.end as usize);
        let (first, last) = (start / PAGE_BYTES, end.saturating_sub(1) / PAGE_BYTES);
        let transaction = read_transaction(&self.database, &[PAGES])?;
        let range = page_range(id, first as f64, last as f64)?;
        let request = self.store(&transaction, PAGES)?.get_all_with_key(&range).map_err(|error| store_error(&error))?;
        let bytes = joined(request_result(&request).await?);
        let (from, to) = (start - first * PAGE_BYTES, end - first * PAGE_BYTES);
        if to > bytes.len() { Err(StoreError::Platform(format!("pages of {id} are missing"))) } else { Ok(bytes.slice(from..to)) }
    }

    async fn delete_blobs(&self, ids: Vec<u64>) -> Result<(), StoreError> {
        // Deleting a placeholder makes room for the claim.
        if !ids.iter().copied().all(is_placeholder) {
            self.claim().await?;
        }
        let transaction = write_transaction(&self.database, &[BLOBS, PAGES])?;
        let done = transaction_done(&transaction);
        let (blobs, pages) = (self.store(&transaction, BLOBS)?, self.store(&transaction, PAGES)?);
        for id in ids {
            self.handles.borrow_mut().remove(&id);
            if self.blobs {
                blobs.delete(&js_number(id)).map_err(|error| store_error(&error))?;
            } else {
                pages.delete(page_range(id, 0.0, f64::INFINITY)?.as_ref()).map_err(|error| store_error(&error))?;
            }
        }
        database::commit(&transaction);
        done.await
    }

    async fn blobs(&self) -> Result<Vec<u64>, StoreError> {
        let name = if self.blobs { BLOBS } else { PAGES };
        let transaction = read_transaction(&self.database, &[name])?;
        let request = self.store(&transaction, name)?.get_all_keys().map_err(|error| store_error(&error))?;
        let keys = request_result(&request).await?.unchecked_into::<Array>();
        let id = |key: JsValue| key.as_f64().or_else(|| key.unchecked_into::<Array>().get(0).as_f64()).unwrap_or(0.0) as u64;
        let mut ids: Vec<u64> = keys.into_iter().map(id).collect();
        ids.dedup();
        Ok(ids)
    }

    /// Closes the database when another version asks for it, or when the browser takes it away.
    fn watch_release(self: &Rc<Self>) {
        let weak = Rc::downgrade(self);
        let on_release: Handler = Closure::new(move |_| {
            let Some(inner) = weak.upgrade() else { return };
            inner.close();
            if let Some(released) = inner.released.borrow().as_ref() {
                released();
            }
        });
        self.database.set_onversionchange(Some(on_release.as_ref().unchecked_ref()));
        self.database.set_onclose(Some(on_release.as_ref().unchecked_ref()));
        *self.on_release.borrow_mut() = Some(on_release);
    }

    fn close(&self) {
        if !self.closed.replace(true) {
            self.handles.borrow_mut().clear();
            self.database.close();
        }
    }
}

/// A part of a Blob.
pub(super) async fn bytes_of(blob: &Blob, part: &Range<u32>) -> Result<Bytes, StoreError> {
    let whole = part.start == 0 && f64::from(part.end) == blob.size();
    let blob =
        if whole { blob.clone() } else { blob.slice_with_f64_and_f64(part.start.into(), part.end.into()).map_err(|error| store_error(&error))? };
    let buffer = JsFuture::from(blob.array_buffer()).await.map_err(|error| store_error(&error))?;
    Ok(Uint8Array::new(&buffer.unchecked_into::<ArrayBuffer>()).to_vec().into())
}

/// The bytes of an array of values, one after the other.
pub(super) fn joined(values: JsValue) -> Bytes {
    let values = values.unchecked_into::<Array>();
    let bytes: Vec<u8> = values.into_iter().flat_map(|value| value.unchecked_into::<Uint8Array>().to_vec()).collect();
    bytes.into()
}

fn page_range(id: u64, first: f64, last: f64) -> Result<IdbKeyRange, StoreError> {
    let key = |page: f64| Array::of2(&js_number(id), &page.into());
    IdbKeyRange::bound(&key(first), &key(last)).map_err(|error| store_error(&error))
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.database.set_onversionchange(None);
        self.database.set_onclose(None);
        self.close();
    }
}

impl Backend for IndexedDb {
    fn write(&self, transaction: Transaction) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            inner.claim().await?;
            inner.send(&transaction)?.await
        })
    }

    fn put_blob(&self, id: u64, parts: Vec<Bytes>) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let inner = self.inner.clone();
        Box::pin(async move { inner.put_blob(id, parts).await })
    }

    fn delete_blobs(&self, ids: Vec<u64>) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let inner = self.inner.clone();
        Box::pin(async move { inner.delete_blobs(ids).await })
    }

    fn force_reclaim(&self) -> LocalBoxFuture<'static, ()> {
        Box::pin(collect_garbage())
    }

    fn blobs(&self) -> LocalBoxFuture<'static, Result<Vec<u64>, StoreError>> {
        let inner = self.inner.clone();
        Box::pin(async move { inner.blobs().await })
    }

    fn prepare_reads(&self, blobs: Vec<u64>) -> LocalBoxFuture<'static, ()> {
        let inner = self.inner.clone();
        Box::pin(async move {
            if inner.blobs {
                // What fails here is tried again when it is read.
                let _ = inner.prefetch_handles(blobs).await;
            }
        })
    }

    fn read_blob(&self, id: u64, part: Range<u32>) -> LocalBoxFuture<'static, Result<Bytes, StoreError>> {
        let inner = self.inner.clone();
        Box::pin(async move { inner.read_blob(id, part).await })
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        spawn_local(task);
    }

    fn pause(&self, milliseconds: u32) -> LocalBoxFuture<'static, ()> {
        if milliseconds > 0 { Box::pin(sleep(milliseconds)) } else { self.turns.next() }
    }

    fn now(&self) -> f64 {
        self.clock.now()
    }

    fn close(&self) {
        self.inner.close();
    }
}

/// Makes the browser collect garbage, by allocating buffers. They are never written to, so they
/// take address space only.
///
/// Chromium deletes the file of a deleted Blob when the last handle on it was collected, and a
/// handle cannot be closed. Where little happens nothing is collected: files were seen to stay for
/// 32 s, and for 3 s after this.
async fn collect_garbage() {
    for buffer in 0..GC_ALLOCATIONS.0 {
        drop(ArrayBuffer::new(GC_ALLOCATIONS.1));
        if buffer % 16 == 15 {
            sleep(0).await;
        }
    }
}

async fn sleep(milliseconds: u32) {
    let Ok(set_timeout) = database::global("setTimeout").map(JsCast::unchecked_into::<Function>) else { return };
    let promise = Promise::new(&mut |resolve, _| {
        let _ = set_timeout.call2(&js_sys::global(), &resolve, &milliseconds.into());
    });
    let _ = JsFuture::from(promise).await;
}

/// Turns of the event loop, by a message to ourselves. Unlike a timer it is never throttled.
struct EventLoopTurns {
    channel: MessageChannel,
    waiting: Rc<RefCell<VecDeque<oneshot::Sender<()>>>>,
    _on_message: Closure<dyn FnMut(MessageEvent)>,
}

impl EventLoopTurns {
    fn new() -> Result<Self, StoreError> {
        let channel = MessageChannel::new().map_err(|error| store_error(&error))?;
        let waiting: Rc<RefCell<VecDeque<oneshot::Sender<()>>>> = Rc::default();
        let queue = waiting.clone();
        let on_message: Closure<dyn FnMut(MessageEvent)> = Closure::new(move |_| {
            if let Some(next) = queue.borrow_mut().pop_front() {
                let _ = next.send(());
            }
        });
        channel.port1().set_onmessage(Some(on_message.as_ref().unchecked_ref()));
        Ok(Self { channel, waiting, _on_message: on_message })
    }

    fn next(&self) -> LocalBoxFuture<'static, ()> {
        let (tell, told) = oneshot::channel();
        self.waiting.borrow_mut().push_back(tell);
        let _ = self.channel.port2().post_message(&JsValue::NULL);
        Box::pin(async {
            let _ = told.await;
        })
    }
}

impl Drop for EventLoopTurns {
    fn drop(&mut self) {
        self.channel.port1().set_onmessage(None);
        self.channel.port1().close();
    }
}
