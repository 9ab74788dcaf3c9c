//! The server itself: what it stands on, how it opens, how a request goes in and an answer comes
//! out.

use crate::{
    body::{Body, ReadError},
    config::Config,
    damaged::LeaveOut,
    devices::Seen,
    error::{Error, Result},
    federation::{
        Federation, FederationStatus,
        missing::{self, WAITING_EVENTS},
        outbox::{OUTBOX_EDUS, OUTBOX_EVENTS},
    },
    host::Host,
    identity::{Identity, IdentityError, has_address},
    locks::{LockKey, Locks},
    media::Uploads,
    notify::Notify,
    position::{Position, Positions, Token},
    rate_limits::RateLimits,
    request_log::{self, RequestLog},
    room::Rooms,
    router::{Entrance, MAX_ANONYMOUS_BODY, Router, Routers, StreamRequest},
    sync::Syncing,
    tables::{self, FORMAT},
    time_slice::TimeSlice,
    to_device::TO_DEVICE,
    transaction::{Writer, Writes, write_at_opening},
    users::Users,
};
use async_lock::MutexGuardArc;
use bytes::Bytes;
use ephapse_store::{Reader, Store, StoreError};
use ephapse_streams::{Stream, StreamStatus, Streams};
use futures_util::{FutureExt, TryFutureExt, future::poll_fn, try_join};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use ruma::{ServerName, api::error::ErrorKind};
use std::{
    cell::Cell,
    future::Future,
    panic::AssertUnwindSafe,
    pin::pin,
    rc::{Rc, Weak},
};

/// How often what is outdated is cleared away, in ms.
const CLEANUP_INTERVAL: u64 = 60 * 60 * 1000;
/// How soon again when there is much of it.
const MIN_CLEANUP_INTERVAL: u64 = 60 * 1000;
/// How often a request that has written nothing is tried when what it had read was lost by a failed
/// write.
const ATTEMPTS: usize = 3;

/// Every durable stream.
static STREAMS: &[&Stream] = &[&TO_DEVICE, &WAITING_EVENTS, &OUTBOX_EVENTS, &OUTBOX_EDUS];

/// A Matrix homeserver.
pub struct Homeserver {
    /// For tasks that go on by themselves.
    me: Weak<Self>,
    reader: Reader,
    pub(crate) writer: Writer,
    pub(crate) host: Rc<dyn Host>,
    pub(crate) federation: Federation,
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) positions: Positions,
    pub(crate) locks: Locks,
    pub(crate) notify: Notify,
    pub(crate) users: Users,
    pub(crate) rooms: Rooms,
    pub(crate) streams: Streams,
    pub(crate) rate_limits: RateLimits,
    pub(crate) seen: Seen,
    pub(crate) sync: Syncing,
    pub(crate) uploads: Uploads,
    max_upload: Cell<u64>,
    routers: Routers,
    /// The generation that the caches belong to.
    generation: Cell<u64>,
    panics: Cell<u64>,
    /// When what is outdated was last cleared away, in ms; none: not since the start.
    last_cleanup: Cell<Option<u64>>,
}

/// Why a server does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
    /// A record that the server cannot run without cannot be read, and follows from nothing else.
    #[error("{0}")]
    Unreadable(String),
    /// The database belongs to another server.
    #[error(transparent)]
    Identity(IdentityError),
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreadable(record) => Self::Unreadable(record),
            other => Self::Store(other),
        }
    }
}

impl From<IdentityError> for OpenError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Store(error) => error.into(),
            other => Self::Identity(other),
        }
    }
}

/// What the owner of a node can see of it.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The server name.
    pub server_name: String,
    /// The newest position.
    pub position: i64,
    /// Bytes in storage.
    pub bytes_stored: u64,
    /// Bytes handed in to be stored since the start.
    pub bytes_written: u64,
    /// Bytes that caches take, of the store and of decoded events and state.
    pub bytes_cached: u64,
    /// Sorted runs of the store.
    pub runs: u32,
    /// Transactions written since the start.
    pub commits: u64,
    /// Keys read since the start.
    pub keys_read: u64,
    /// Long polls that wait.
    pub waiting: usize,
    /// Requests that panicked since the start.
    pub panics: u64,
    /// What waits in durable streams.
    pub streams: Vec<StreamStatus>,
    /// Servers that things are sent to.
    pub federation: FederationStatus,
}

fn reads_only(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

impl Homeserver {
    /// Opens the server that lives in `store`, or makes one there.
    pub async fn open(store: Rc<dyn Store>, host: Rc<dyn Host>, config: Config) -> Result<Rc<Self>, OpenError> {
        let reader = Reader::logging(store.clone(), request_log::error);
        match tables::STORED_FORMAT.get(&reader, &()).await? {
            Some(found) if found > FORMAT => return Err(StoreError::NewerFormat { found, supported: FORMAT }.into()),
            // There has been one format. What converts an older one belongs here, before anything
            // is read.
            Some(_) => {}
            None => write_at_opening(&*store, |tx| tables::STORED_FORMAT.put(tx, &(), &FORMAT)).await?,
        }
        // Side by side: after a cold start each of them waits for a page or two.
        let (identity, newest, changes_floor, max_upload, newest_user, newest_room, streams, has_peers) = try_join!(
            Identity::open(&store, &*host, config.server_name.as_deref()).err_into(),
            tables::NEWEST_POSITION.get(&reader, &()).err_into(),
            tables::CHANGES_FLOOR.get(&reader, &()).err_into(),
            async { Ok(tables::MAX_UPLOAD.get(&reader, &()).await.leave_out()?.flatten()) },
            Users::newest_stored(&reader).err_into(),
            Rooms::newest_stored(&reader).err_into(),
            Streams::open(&reader, tables::STREAMS, STREAMS, host.now()).err_into::<OpenError>(),
            async { Ok(tables::ROOM_SERVERS.last_key(&reader, &()).await?.is_some()) },
        )?;
        let (newest, changes_floor) = (newest.unwrap_or_default(), changes_floor.unwrap_or_default());
        let (users, rooms) = (Users::new(newest_user, &reader), Rooms::new(newest_room, &reader));
        let sync = Syncing::new(changes_floor, &reader);
        let hs = Rc::new_cyclic(|me| Self {
            me: me.clone(),
            generation: Cell::new(reader.generation()),
            reader,
            writer: Writer::new(store),
            federation: Federation::new(host.transport(), has_peers),
            host,
            identity,
            positions: Positions::starting_after(newest),
            locks: Locks::default(),
            notify: Notify::default(),
            users,
            rooms,
            streams,
            rate_limits: RateLimits::default(),
            seen: Seen::default(),
            sync,
            uploads: Uploads::default(),
            max_upload: Cell::new(max_upload.unwrap_or(config.max_upload)),
            routers: Routers::new(),
            config,
            panics: Cell::new(0),
            last_cleanup: Cell::new(None),
        });
        hs.end_typing_of_last_run().await?;
        hs.restore_presence().await?;
        Ok(hs)
    }

    /// Answers one request. The answer leaves only when everything it could have seen or done is
    /// durable. What can be refused without the request's body is refused before any of it is read.
    pub async fn handle(self: &Rc<Self>, entrance: Entrance, request: Request<Body>) -> Response<Body> {
        let log = Rc::new(RequestLog::new(request.method()));
        let mut response = if request.method() == Method::OPTIONS {
            Response::new(Body::from(""))
        } else {
            match self.answer(entrance, request, &log).await {
                Ok(response) => response,
                Err(error) => error.into_response(&self.config, &log).map(Body::from),
            }
        };
        self.clear_when_due();
        // "Servers MUST expect that clients will approach them with OPTIONS requests", and all
        // responses carry these (Client-Server API, Web browser clients).
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("X-Requested-With, Content-Type, Authorization"));
        response
    }

    /// Clears away what is outdated: after the first answer since the start, and then once an hour,
    /// sooner when there is much of it. Nothing runs while nobody asks.
    fn clear_when_due(self: &Rc<Self>) {
        let now = self.host.now();
        let is_due = |interval| self.last_cleanup.get().is_none_or(|last| now >= last + interval);
        let is_early = is_due(MIN_CLEANUP_INTERVAL) && self.has_many_old_changes();
        if !is_due(CLEANUP_INTERVAL) && !is_early {
            return;
        }
        self.last_cleanup.set(Some(now));
        self.watch_presence();
        self.begin_sending();
        let hs = self.clone();
        self.host.spawn(Box::pin(async move {
            if let Err(error) = hs.forget_old_answers().await {
                tracing::warn!("could not delete the answers of old requests: {error}");
            }
            if let Err(error) = hs.forget_old_transactions().await {
                tracing::warn!("could not delete the answers of old transactions: {error}");
            }
            if let Err(error) = missing::resume(&hs).await {
                tracing::warn!("events that wait for others are left for later: {error}");
            }
            if let Err(error) = hs.forget_received_messages().await {
                tracing::warn!("could not delete which messages of other servers came: {error}");
            }
            if let Err(error) = hs.forget_ended_sessions().await {
                tracing::warn!("could not delete expired user-interactive sessions: {error}");
            }
            if let Err(error) = hs.forget_openid_tokens().await {
                tracing::warn!("could not delete expired OpenID tokens: {error}");
            }
            if let Err(error) = hs.forget_abandoned_uploads().await {
                tracing::warn!("could not delete unfinished uploads: {error}");
            }
            if let Err(error) = hs.resume_purges().await {
                tracing::warn!("could not delete forgotten rooms: {error}");
            }
            if let Err(error) = hs.resume_guests_leaving().await {
                tracing::warn!("could not remove guests from rooms that forbid guests: {error}");
            }
            if let Err(error) = hs.forget_old_changes().await {
                tracing::warn!("could not delete old changes: {error}");
            }
            let slice = TimeSlice::new(&*hs.host);
            if let Err(error) = hs.streams.forget_old(&*hs, || slice.step()).await {
                tracing::warn!("could not delete old stream entries: {error}");
            }
        }));
    }

    /// The request with all of its body.
    async fn arrived(self: &Rc<Self>, router: &Router, request: Request<Body>, log: &RequestLog) -> Result<Request<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = match body {
            // "Content in a GET or HEAD request has no generally defined semantics" (RFC 9110,
            // 9.3), and no endpoint gives it any.
            _ if reads_only(&parts.method) => Bytes::new(),
            // No endpoint's bound is less.
            Body::Whole(bytes) if bytes.len() <= MAX_ANONYMOUS_BODY.min(self.config.largest_body) => bytes,
            body => {
                let generation = self.begin_reading();
                let limit = match router.admit(self, &parts, log).await {
                    Ok(limit) => limit,
                    Err(error) => {
                        self.durable_since(generation).await?;
                        return Err(error);
                    }
                };
                body.read(limit).await.map_err(|error| match error {
                    ReadError::TooLarge(_) => Error::too_large(error.to_string()),
                    ReadError::BrokeOff(_) => Error::new(StatusCode::BAD_REQUEST, ErrorKind::Unknown, error.to_string()),
                })?
            }
        };
        Ok(Request::from_parts(parts, body))
    }

    async fn answer(self: &Rc<Self>, entrance: Entrance, request: Request<Body>, log: &Rc<RequestLog>) -> Result<Response<Body>> {
        let router = self.routers.at(entrance);
        match router.streamed(request.method(), request.uri().path(), log) {
            Some(endpoint) => self.answer_streamed(endpoint?, request, log).await,
            None => self.answer_whole(router, request, log).await,
        }
    }

    /// Runs a handler that can run once only, since it takes the body as it comes.
    async fn answer_streamed(self: &Rc<Self>, endpoint: StreamRequest, request: Request<Body>, log: &Rc<RequestLog>) -> Result<Response<Body>> {
        let begun = self.begin_reading();
        let reads_only = reads_only(request.method());
        let answer = self.run(endpoint.handle(self.clone(), request, log), &Rc::new(Writes::default()), log).await;
        // What takes a body waits for its writes itself, and looks again at what it stands on when
        // the body is there, which may take long.
        self.durable_since(if reads_only { begun } else { self.reader.generation() }).await?;
        answer
    }

    /// Runs a handler that is given all of the request's body, and may run again.
    async fn answer_whole(self: &Rc<Self>, router: &Router, request: Request<Body>, log: &Rc<RequestLog>) -> Result<Response<Body>> {
        // Nothing is remembered of a request until its body is there: it may take long, and what it
        // says counts from then on.
        let request = self.arrived(router, request, log).await?;
        let reads_only = reads_only(request.method());
        for attempt in 1.. {
            let generation = self.begin_reading();
            if !self.positions.newest_is_known() {
                self.positions.found_newest(tables::NEWEST_POSITION.get(&self.reader, &()).await?.unwrap_or_default());
            }
            let writes = Rc::new(Writes::default());
            let is_repeated = attempt > 1;
            let answer = self.run(router.handle(self.clone(), request.clone(), is_repeated, log), &writes, log).await;
            let Err(error) = self.durable_since(generation).await else { return answer };
            if attempt < ATTEMPTS && (reads_only || writes.are_none()) {
                continue;
            }
            // A handler that failed by itself says it better than the barrier, and so do its own
            // writes.
            answer?;
            if !reads_only {
                writes.durable().await?;
            }
            return Err(error.into());
        }
        unreachable!("the loop ends at the last attempt")
    }

    /// Ends when everything submitted so far is durable; fails when something was lost that could
    /// be read since `generation`. What is submitted while this waits may fail: nobody has seen it.
    pub(crate) async fn durable_since(&self, generation: u64) -> Result<(), StoreError> {
        let durable = self.writer.barrier();
        // What failed before leaves nothing for the barrier to wait for.
        if self.begin_reading() != generation {
            return Err(StoreError::RolledBack);
        }
        durable.await.map_err(|error| {
            // Held syncs may have seen it as well.
            self.begin_reading();
            match error {
                StoreError::Fenced | StoreError::Closed => error,
                // Why it was lost concerns those who wrote it.
                _ => StoreError::RolledBack,
            }
        })
    }

    /// Natively a panic costs one request: it is answered 500, and everything in memory is read
    /// anew from disk. In the browser it ends the instance (`crate/wasm/src/calls.rs`).
    async fn run<T>(
        self: &Rc<Self>,
        handling: impl Future<Output = Result<Response<T>>>,
        writes: &Rc<Writes>,
        log: &Rc<RequestLog>,
    ) -> Result<Response<T>> {
        let mut handling = pin!(AssertUnwindSafe(handling).catch_unwind());
        let handled = poll_fn(|context| {
            // There is one thread: what is handed in while this is polled is the request's own.
            self.writer.count_for(Some(writes.clone()));
            let polled = log.during(|| handling.as_mut().poll(context));
            self.writer.count_for(None);
            polled
        });
        match handled.await {
            Ok(answer) => answer,
            Err(_) => {
                self.panics.set(self.panics.get() + 1);
                self.forget_memory();
                self.streams.reload(&**self).await?;
                // Its batch may have been taken before it panicked, and nobody was told.
                self.positions.found_newest(tables::NEWEST_POSITION.get(&self.reader, &()).await?.unwrap_or_default());
                self.notify.wake_all();
                Err(Error::Internal("a handler panicked; its request was answered 500".to_owned()))
            }
        }
    }

    /// The generation in which a request or a task begins, before its first read. After a failed
    /// write this first drops what memory has of it, and wakes those who wait, since they may have
    /// seen it. Caches made of [`crate::rows::Rows`] notice by themselves.
    pub(crate) fn begin_reading(&self) -> u64 {
        let generation = self.reader.generation();
        if self.generation.replace(generation) != generation {
            self.positions.forget_newest();
            self.sync.memberships.reset();
            self.notify.wake_all();
        }
        generation
    }

    /// Drops what memory holds of the store. Counters stay: a number or position that was given
    /// must not be given again with another meaning.
    fn forget_memory(&self) {
        self.users.forget_all();
        self.rooms.forget_all();
        self.sync.reset();
    }

    /// Whether long polls may wait for something to happen; `false` also answers those that wait.
    /// For a host that is about to hand over to another.
    pub fn set_holding(&self, holding: bool) {
        if holding {
            self.notify.reopen();
            self.begin_sending_again();
        } else {
            self.notify.close()
        }
    }

    /// Answers every held sync, holds none from now on, and ends when everything is durable and the
    /// database released.
    pub async fn shutdown(&self) -> Result<(), StoreError> {
        self.notify.close();
        self.writer.close().await
    }

    /// How many bytes an uploaded file may have, for a host whose owner says so while the server
    /// runs: it holds until something else is said. `None`: what the configuration says.
    ///
    /// # Errors
    /// It could not be stored, and holds until the server stops.
    pub async fn set_max_upload(&self, bytes: Option<u64>) -> Result<(), StoreError> {
        let generation = self.begin_reading();
        let stored = tables::MAX_UPLOAD.get(self.store(), &()).await.leave_out()?.flatten();
        self.max_upload.set(bytes.unwrap_or(self.config.max_upload));
        if stored == bytes {
            return Ok(());
        }
        let written = self.write(generation, |tx| match bytes {
            Some(bytes) => tables::MAX_UPLOAD.put(tx, &(), &bytes),
            None => tables::MAX_UPLOAD.delete(tx, &()),
        });
        written?.durable().await
    }

    /// How many bytes an uploaded file may have.
    pub(crate) fn max_upload(&self) -> u64 {
        self.max_upload.get()
    }

    /// What the owner of the node can see of it.
    pub fn status(&self) -> Status {
        let stats = self.reader.stats();
        Status {
            server_name: self.server_name().to_string(),
            position: self.positions.newest().0,
            bytes_stored: stats.bytes_stored,
            bytes_written: stats.bytes_committed,
            bytes_cached: stats.bytes_cached + self.cached_bytes() as u64,
            runs: stats.runs,
            commits: stats.commits,
            keys_read: stats.keys_read,
            waiting: self.notify.waiting(),
            panics: self.panics.get(),
            streams: self.streams.status(),
            federation: self.federation.status(),
        }
    }

    /// This server, for a task that goes on by itself; none where it is being dropped.
    pub(crate) fn me(&self) -> Option<Rc<Self>> {
        self.me.upgrade()
    }

    /// Bytes that caches take, but for the store's, roughly. Each is bounded.
    fn cached_bytes(&self) -> usize {
        let named = self.users.cached_bytes() + self.rooms.cached_bytes();
        named + self.sync.cached_bytes() + self.rate_limits.cached_bytes() + self.seen.cached_bytes() + self.federation.hierarchies.bytes()
    }

    /// The name of this server.
    pub fn server_name(&self) -> &ServerName {
        &self.identity.server_name
    }

    /// Whether there are other servers for this one over HTTPS: its operator wants it, and its name
    /// is one that they can find.
    pub fn federates(&self) -> bool {
        self.config.federation && has_address(self.server_name())
    }

    /// Whether a request's body is passed on as it comes: then a mebibyte or two of it are held at
    /// a time, and not all of it.
    pub fn takes_stream(&self, entrance: Entrance, method: &Method, path: &str) -> bool {
        !reads_only(method) && self.routers.at(entrance).streamed(method, path, &RequestLog::new(method)).is_some()
    }

    /// The path of the endpoint that a request is for, in ruma's spelling: says what was asked for,
    /// and nothing of whom or what it was about.
    pub fn endpoint_of(&self, entrance: Entrance, path: &str) -> Option<&'static str> {
        self.routers.at(entrance).template(path)
    }

    /// Every method and path that is implemented behind an entrance, in ruma's spelling.
    pub fn endpoints(&self, entrance: Entrance) -> &[(Method, &'static str)] {
        self.routers.at(entrance).listed()
    }

    /// What is stored, to be read. What is written is written by a [`Homeserver::transaction`].
    pub(crate) fn store(&self) -> &Reader {
        &self.reader
    }

    /// Waits for a lock.
    pub(crate) async fn lock(&self, key: LockKey) -> MutexGuardArc<()> {
        self.locks.lock(key).await
    }

    /// The token of a position.
    pub(crate) fn token(&self, position: Position) -> String {
        self.sync_token(position, None)
    }

    /// The token of a sync that had no room for the to-device messages from this number on.
    pub(crate) fn sync_token(&self, position: Position, to_device: Option<u64>) -> String {
        Token { position, instance: self.identity.instance, to_device }.to_string()
    }

    /// The position of a token that a client sent; malformed: 400 M_INVALID_PARAM. `None`: of
    /// another instance or from the future, so that the client has to begin anew.
    pub(crate) fn position_of(&self, token: &str) -> Result<Option<Position>> {
        Ok(self.read_token(token)?.map(|token| token.position))
    }

    /// As [`Self::position_of`], the whole token.
    pub(crate) fn read_token(&self, token: &str) -> Result<Option<Token>> {
        let token: Token = token.parse().map_err(|_| Error::invalid_param("Invalid token"))?;
        Ok((token.instance == self.identity.instance && token.position <= self.positions.newest()).then_some(token))
    }

    /// Random letters and digits: ids, tokens.
    pub(crate) fn random_string(&self, length: usize) -> String {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789ab";
        let mut bytes = vec![0; length];
        self.host.random(&mut bytes);
        bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte & 63)])).collect()
    }
}
