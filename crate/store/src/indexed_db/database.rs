//! IndexedDB as futures: opening a database of our version, strict transactions, requests, errors.
//!
//! Requests are sent without waiting for one another, and only the end of the transaction is
//! awaited. A wait inside a transaction costs a turn of the event loop, and a wait for anything
//! else commits it.

use crate::StoreError;
use futures_channel::oneshot;
use js_sys::{Array, Function, Object, Reflect};
use std::{cell::RefCell, rc::Rc};
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use web_sys::{DomException, Event, IdbDatabase, IdbFactory, IdbObjectStore, IdbOpenDbRequest, IdbRequest, IdbTransaction, IdbVersionChangeEvent};

/// The newest format this build understands, and the database's version.
pub(super) const FORMAT: u32 = 2;

pub(super) const META: &str = "meta";
pub(super) const LOG: &str = "log";
pub(super) const SEGMENTS: &str = "segments";
pub(super) const BLOBS: &str = "blobs";
pub(super) const PAGES: &str = "pages";
pub(super) const CHUNKS: &str = "chunks";

type Handler = Closure<dyn FnMut(Event)>;
type Slot<T> = Rc<RefCell<Option<oneshot::Sender<T>>>>;

fn resolve<T>(slot: &Slot<T>, with: T) {
    if let Some(slot) = slot.borrow_mut().take() {
        let _ = slot.send(with);
    }
}

/// The browser's exception as a [`StoreError`].
pub(super) fn store_error(error: &JsValue) -> StoreError {
    let text = |name: &str| Reflect::get(error, &name.into()).ok().and_then(|text| text.as_string());
    match (text("name").as_deref(), text("message")) {
        (Some("QuotaExceededError"), _) => StoreError::QuotaExceeded,
        // A connection that is closing, or closed under us.
        (Some("InvalidStateError"), _) => StoreError::Closed,
        (Some(name), message) => StoreError::Platform(format!("{name}: {}", message.unwrap_or_default())),
        (None, _) => StoreError::Platform(error.as_string().unwrap_or_else(|| "IndexedDB failed".into())),
    }
}

fn dom_exception(error: Option<DomException>) -> StoreError {
    error.map_or(StoreError::Closed, |error| store_error(&error))
}

/// A global of the page or worker we run in.
pub(super) fn global(name: &str) -> Result<JsValue, StoreError> {
    Reflect::get(&js_sys::global(), &name.into())
        .ok()
        .filter(|value| !value.is_undefined() && !value.is_null())
        .ok_or_else(|| StoreError::Platform(format!("this browser gives no {name} here")))
}

fn factory() -> Result<IdbFactory, StoreError> {
    Ok(global("indexedDB")?.unchecked_into())
}

pub(super) fn js_number(id: u64) -> JsValue {
    JsValue::from_f64(id as f64)
}

/// The value of a key.
pub(super) fn get(store: &IdbObjectStore, key: &JsValue) -> Result<impl Future<Output = Result<JsValue, StoreError>> + use<>, StoreError> {
    Ok(request_result(&store.get(key).map_err(|error| store_error(&error))?))
}

/// Sends a put. The end of the transaction says how it went.
pub(super) fn put(store: &IdbObjectStore, key: &JsValue, value: &JsValue) -> Result<(), StoreError> {
    store.put_with_key(value, key).map(drop).map_err(|error| store_error(&error))
}

/// The answer of a request.
pub(super) fn request_result(request: &IdbRequest) -> impl Future<Output = Result<JsValue, StoreError>> + use<> {
    let (sender, receiver) = oneshot::channel();
    let sender: Slot<Result<JsValue, StoreError>> = Rc::new(RefCell::new(Some(sender)));
    let (success, succeeded) = (sender.clone(), request.clone());
    let on_success: Handler = Closure::new(move |_| resolve(&success, succeeded.result().map_err(|error| store_error(&error))));
    let failed = request.clone();
    let on_error: Handler = Closure::new(move |_| resolve(&sender, Err(dom_exception(failed.error().ok().flatten()))));
    request.set_onsuccess(Some(on_success.as_ref().unchecked_ref()));
    request.set_onerror(Some(on_error.as_ref().unchecked_ref()));
    let request = request.clone();
    async move {
        let result = receiver.await.unwrap_or(Err(StoreError::Closed));
        request.set_onsuccess(None);
        request.set_onerror(None);
        drop((on_success, on_error));
        result
    }
}

/// The end of a transaction: all of it is durable, or nothing of it was done.
pub(super) fn transaction_done(transaction: &IdbTransaction) -> impl Future<Output = Result<(), StoreError>> + use<> {
    let (sender, receiver) = oneshot::channel();
    let sender: Slot<Result<(), StoreError>> = Rc::new(RefCell::new(Some(sender)));
    let complete = sender.clone();
    let on_complete: Handler = Closure::new(move |_| resolve(&complete, Ok(())));
    let aborted = transaction.clone();
    let on_abort: Handler = Closure::new(move |_| resolve(&sender, Err(dom_exception(aborted.error()))));
    transaction.set_oncomplete(Some(on_complete.as_ref().unchecked_ref()));
    transaction.set_onabort(Some(on_abort.as_ref().unchecked_ref()));
    let transaction = transaction.clone();
    async move {
        let result = receiver.await.unwrap_or(Err(StoreError::Closed));
        transaction.set_oncomplete(None);
        transaction.set_onabort(None);
        drop((on_complete, on_abort));
        result
    }
}

/// A writing transaction of strict durability.
pub(super) fn write_transaction(database: &IdbDatabase, stores: &[&str]) -> Result<IdbTransaction, StoreError> {
    // web-sys has no stable type for the options.
    let options = Object::new();
    let set = Reflect::set(&options, &"durability".into(), &"strict".into());
    let transaction = set.and_then(|_| Reflect::get(database, &"transaction".into())).and_then(|open| {
        let open: Function = open.unchecked_into();
        open.call3(database, &names(stores), &"readwrite".into(), &options)
    });
    transaction.map(JsCast::unchecked_into).map_err(|error| store_error(&error))
}

/// Ends a transaction to which nothing will be added, without waiting for its requests.
#[expect(deprecated, reason = "web-sys marks it so, the platform does not")]
pub(super) fn commit(transaction: &IdbTransaction) {
    // An error means that the transaction has ended by itself. Whoever waits for its end is told
    // why.
    let _ = transaction.commit();
}

/// A reading transaction.
pub(super) fn read_transaction(database: &IdbDatabase, stores: &[&str]) -> Result<IdbTransaction, StoreError> {
    database.transaction_with_str_sequence(&names(stores)).map_err(|error| store_error(&error))
}

fn names(stores: &[&str]) -> Array {
    stores.iter().map(|store| JsValue::from_str(store)).collect()
}

/// Opens the database in our format. An older one is upgraded. A newer one is refused and left as
/// it is.
pub(super) async fn open(name: &str, upgrade: impl Fn(&IdbDatabase, u32) -> Result<(), StoreError> + 'static) -> Result<IdbDatabase, StoreError> {
    let request = factory()?.open_with_u32(name, FORMAT).map_err(|error| store_error(&error))?;
    let upgrade_error: Rc<RefCell<Option<StoreError>>> = Rc::default();
    let (upgrading, refused) = (request.clone(), upgrade_error.clone());
    let on_upgrade: Closure<dyn FnMut(IdbVersionChangeEvent)> = Closure::new(move |event: IdbVersionChangeEvent| {
        let database = upgrading.result().map(JsCast::unchecked_into::<IdbDatabase>);
        let (Ok(database), Some(transaction)) = (database, upgrading.transaction()) else { return };
        if let Err(error) = upgrade(&database, event.old_version() as u32) {
            *refused.borrow_mut() = Some(error);
            let _ = transaction.abort();
        }
    });
    request.set_onupgradeneeded(Some(on_upgrade.as_ref().unchecked_ref()));
    let opened = opened(&request).await;
    request.set_onupgradeneeded(None);
    if let Some(error) = upgrade_error.borrow_mut().take() {
        return Err(error);
    }
    match opened {
        Err(error) if error.as_ref().is_some_and(|error| error.name() == "VersionError") => Err(newer_format(name).await),
        opened => opened.map_err(dom_exception),
    }
}

async fn opened(request: &IdbOpenDbRequest) -> Result<IdbDatabase, Option<DomException>> {
    match request_result(request).await {
        Ok(database) => Ok(database.unchecked_into()),
        Err(_) => Err(request.error().ok().flatten()),
    }
}

/// Opens without a version, which changes nothing, to see which version it is.
async fn newer_format(name: &str) -> StoreError {
    let Ok(Ok(request)) = factory().map(|factory| factory.open(name)) else { return StoreError::Closed };
    match opened(&request).await {
        Ok(database) => {
            database.close();
            StoreError::NewerFormat { found: database.version() as u32, supported: FORMAT }
        }
        Err(error) => dom_exception(error),
    }
}

/// Deletes a database.
pub(super) async fn delete(name: &str) -> Result<(), StoreError> {
    let request = factory()?.delete_database(name).map_err(|error| store_error(&error))?;
    request_result(&request).await.map(drop)
}
