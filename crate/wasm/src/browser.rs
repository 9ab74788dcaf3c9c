//! What the service worker calls: `open` a database, `Engine::handle` a request; and the host that
//! the browser is.
//!
//! A panic ends the whole instance, since it may leave anything half done (`calls`): the worker is
//! told at once, and makes a new instance from disk.

use crate::{
    body::{self, Pieces, Rest},
    calls::{self, RecordingStore, Turns},
    convert::{self, Headers},
    log::Console,
};
use ephapse_homeserver::{
    Body, Config, EndOfSlice, Entrance, Homeserver, Host, NoThumbnail, OpenError, OwnPage, PIECE, Registration, Thumbnail, ThumbnailWanted,
    tables::FORMAT,
};
use ephapse_store::{IndexedDbOptions, IndexedDbStore, LocalBoxFuture, Store, StoreError};
use http::Response;
use js_sys::{JsString, Object, Promise, Reflect, Uint8Array};
use serde::Serialize;
use std::{cell::RefCell, future::ready, panic, rc::Rc, time::Duration};
use tracing::Level;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};

#[wasm_bindgen]
extern "C" {
    /// What the worker lends.
    #[derive(Clone)]
    pub type Worker;
    #[wasm_bindgen(method)]
    fn sleep(this: &Worker, milliseconds: f64) -> Promise;
    #[wasm_bindgen(method, js_name = yieldNow)]
    fn yield_now(this: &Worker) -> Promise;
    #[wasm_bindgen(method)]
    fn panicked(this: &Worker, call: u32, message: &str);
    #[wasm_bindgen(method)]
    fn log(this: &Worker, level: &str, line: &str);
    #[wasm_bindgen(method)]
    fn thumbnail(this: &Worker, file: Uint8Array, width: u32, height: u32, is_cropped: bool, is_animated: bool) -> Promise;

    /// A thumbnail as the worker gives it: the file, its type, and the size of its picture.
    type Made;
    #[wasm_bindgen(method, getter)]
    fn bytes(this: &Made) -> Vec<u8>;
    #[wasm_bindgen(method, getter, js_name = contentType)]
    fn content_type(this: &Made) -> String;
    #[wasm_bindgen(method, getter)]
    fn width(this: &Made) -> u32;
    #[wasm_bindgen(method, getter)]
    fn height(this: &Made) -> u32;
}

thread_local! {
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
}

/// The number of the call whose turn it is or, after a trap, was; 0: a background task.
#[wasm_bindgen]
pub fn current_call() -> u32 {
    calls::current()
}

/// Whether a call has handed in a write; after the end of the instance, whether it still goes on to
/// its answer.
#[wasm_bindgen]
pub fn has_written(call: u32) -> bool {
    calls::has_written(call)
}

/// Ends the instance as a panic does, for what no panic hook sees.
#[wasm_bindgen]
pub fn end_turns() {
    calls::end();
    // A trap leaves the rest of the executor's queue where it is until something new comes.
    spawn_local(ready(()));
}

/// Why the database does not open, for `instance.ts`.
#[derive(Serialize)]
struct OpenFailure {
    kind: &'static str,
    message: String,
}

impl From<OpenError> for OpenFailure {
    fn from(error: OpenError) -> Self {
        let kind = match &error {
            OpenError::Store(StoreError::NewerFormat { .. }) => "newer-format",
            OpenError::Store(StoreError::QuotaExceeded) => "quota",
            OpenError::Store(StoreError::Platform(_)) => "storage",
            OpenError::Unreadable(_) => "unreadable",
            _ => "failed",
        };
        Self { kind, message: error.to_string() }
    }
}

/// A running homeserver.
#[wasm_bindgen]
pub struct Engine {
    homeserver: Rc<Homeserver>,
    store: Rc<dyn Store>,
}

/// Opens the server in the database of that name, or makes one.
#[wasm_bindgen]
pub async fn open(database: String, public_url: String, worker: Worker) -> Result<Engine, JsValue> {
    WORKER.set(Some(worker.clone()));
    panic::set_hook(Box::new(|info| {
        end_turns();
        WORKER.with_borrow(|worker| worker.iter().for_each(|worker| worker.panicked(calls::current(), &info.to_string())));
    }));
    // The second instance of a worker has its own statics, so this is always the first.
    let _ = tracing::subscriber::set_global_default(Console(log_line));
    let opened = Turns { call: 0, task: Box::pin(open_engine(database, public_url, worker)) }.await;
    opened.map_err(|error| to_js(&OpenFailure::from(error)))
}

/// Bytes of files that can be had again: less than elsewhere, since a browser grants a site little.
const MEDIA_CACHE: u64 = 128 << 20;

async fn open_engine(database: String, public_url: String, worker: Worker) -> Result<Engine, OpenError> {
    let options = IndexedDbOptions { content_format: FORMAT, ..IndexedDbOptions::default() };
    let store: Rc<dyn Store> = Rc::new(RecordingStore(Rc::new(IndexedDbStore::open_with(&database, options).await?)));
    let config = Config {
        registration: Registration::Open,
        public_url: Some(public_url),
        rate_limits: false,
        media_cache: MEDIA_CACHE,
        storage_full: "Storage is full: leave and forget rooms that you no longer need, or allow this site to store more".to_owned(),
        ..Config::default()
    };
    let homeserver = Homeserver::open(store.clone(), Rc::new(Browser { worker }), config).await?;
    Ok(Engine { homeserver, store })
}

#[wasm_bindgen]
impl Engine {
    /// Answers one request with `{ status, headers, body }`; `body` is a `Uint8Array`, or `Pieces`
    /// of a large one. `call` is a number that [`current_call`] and the panic hook speak of;
    /// `own_page`: a page of our own origin sent it; `rest` is what has not come yet of the
    /// request's body.
    #[allow(clippy::too_many_arguments, reason = "one object would be made and taken apart for each request")]
    pub async fn handle(
        &self,
        call: u32,
        method: String,
        path_and_query: String,
        headers: Headers,
        own_page: bool,
        body: Vec<u8>,
        rest: Option<Rest>,
    ) -> JsValue {
        let homeserver = self.homeserver.clone();
        let task = Box::pin(async move {
            match convert::request(&method, &path_and_query, headers, body::incoming(body, rest)) {
                Ok(mut request) => {
                    if own_page {
                        request.extensions_mut().insert(OwnPage);
                    }
                    homeserver.handle(Entrance::Client, request).await
                }
                Err(status) => {
                    let mut response = Response::new(Body::from(""));
                    *response.status_mut() = status;
                    response
                }
            }
        });
        response_to_js(call, Turns { call, task }.await)
    }

    /// The server's name.
    #[wasm_bindgen(js_name = serverName)]
    pub fn server_name(&self) -> String {
        self.homeserver.server_name().to_string()
    }

    /// What the server tells of itself.
    pub fn status(&self) -> JsValue {
        to_js(&self.homeserver.status())
    }

    /// Whether the database is gone for good: closed by the browser, or taken over by another
    /// engine.
    #[wasm_bindgen(js_name = hasLostDatabase)]
    pub async fn has_lost_database(&self) -> bool {
        let task = self.store.barrier();
        matches!(Turns { call: 0, task }.await, Err(StoreError::Closed | StoreError::Fenced))
    }

    /// Whether long polls may wait; `false` also answers those that do.
    #[wasm_bindgen(js_name = setHolding)]
    pub fn set_holding(&self, holding: bool) {
        self.homeserver.set_holding(holding);
    }

    /// How many bytes an uploaded file may have, until something else is said; the default where
    /// none are given.
    #[wasm_bindgen(js_name = setMaxUpload)]
    pub async fn set_max_upload(&self, bytes: Option<f64>) -> Result<(), JsValue> {
        let homeserver = self.homeserver.clone();
        let task = Box::pin(async move { homeserver.set_max_upload(bytes.map(|bytes| bytes as u64)).await });
        Turns { call: 0, task }.await.map_err(|error| JsError::new(&error.to_string()).into())
    }

    /// Answers what is held, finishes what is being written, and closes the database.
    pub async fn shutdown(&self) -> Result<(), JsValue> {
        let homeserver = self.homeserver.clone();
        let task = Box::pin(async move { homeserver.shutdown().await });
        Turns { call: 0, task }.await.map_err(|error| JsError::new(&error.to_string()).into())
    }
}

struct Browser {
    worker: Worker,
}

impl Host for Browser {
    fn now(&self) -> u64 {
        js_sys::Date::now() as u64
    }

    fn random(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("every browser with service workers has crypto.getRandomValues");
    }

    fn nfkc(&self, text: &str) -> String {
        JsString::from(text).normalize("NFKC").into()
    }

    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()> {
        finished(self.worker.sleep(duration.as_secs_f64() * 1000.0))
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        spawn_local(Turns { call: 0, task });
    }

    fn yield_now(&self, _: EndOfSlice) -> LocalBoxFuture<'static, ()> {
        finished(self.worker.yield_now())
    }

    /// By a worker that a page lends (`thumbnails.ts`).
    fn thumbnail(&self, file: Vec<u8>, wanted: ThumbnailWanted) -> LocalBoxFuture<'static, Result<Thumbnail, NoThumbnail>> {
        let ThumbnailWanted { size, is_animated } = wanted;
        let made = self.worker.thumbnail(Uint8Array::from(&file[..]), size.width, size.height, size.is_cropped, is_animated);
        drop(file);
        Box::pin(async move {
            let made = JsFuture::from(made).await.expect("the worker catches what goes wrong");
            match made.as_string().as_deref() {
                None => Ok(Thumbnail::from(made.unchecked_into::<Made>())),
                Some("not-an-image") => Err(NoThumbnail::NotAnImage),
                Some("too-large") => Err(NoThumbnail::TooLarge),
                Some(_) => Err(NoThumbnail::Unsupported),
            }
        })
    }

    /// In a turn of its own, since there is one thread.
    fn compute(&self, work: Box<dyn FnOnce() -> Vec<u8> + Send>) -> LocalBoxFuture<'static, Vec<u8>> {
        let worker = self.worker.clone();
        Box::pin(async move {
            finished(worker.yield_now()).await;
            let result = work();
            finished(worker.yield_now()).await;
            result
        })
    }
}

impl From<Made> for Thumbnail {
    fn from(made: Made) -> Self {
        Self { bytes: made.bytes(), content_type: made.content_type(), source: (made.width(), made.height()) }
    }
}

fn finished(promise: Promise) -> LocalBoxFuture<'static, ()> {
    Box::pin(async move {
        JsFuture::from(promise).await.expect("the worker's timers do not reject");
    })
}

fn log_line(level: Level, line: &str) {
    let level = match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        _ => "info",
    };
    WORKER.with_borrow(|worker| worker.iter().for_each(|worker| worker.log(level, line)));
}

fn to_js<T: Serialize>(value: &T) -> JsValue {
    // Maps as objects, numbers as numbers: what JSON would make of it.
    value.serialize(&serde_wasm_bindgen::Serializer::json_compatible()).expect("plain data has a JavaScript form")
}

fn response_to_js(call: u32, response: Response<Body>) -> JsValue {
    let (parts, body) = response.into_parts();
    let object = Object::new();
    let set = |name: &str, value: &JsValue| {
        Reflect::set(&object, &name.into(), value).expect("a plain object takes properties");
    };
    set("status", &parts.status.as_u16().into());
    set("headers", &to_js(&convert::header_pairs(&parts.headers, &body)));
    match body {
        Body::Whole(bytes) if bytes.len() <= PIECE => set("body", &Uint8Array::from(&bytes[..])),
        body => set("body", &Pieces::new(call, body).into()),
    }
    object.into()
}
