//! Files of other servers (Server-Server API, "Content Repository"): fetched when somebody asks,
//! once for all who ask meanwhile, sent on as they come, and kept for the next ones (`cache.rs`).

use super::{Refused, Upload, cache::Reading, download::piece, served};
use crate::{
    body::{Body, BodyError},
    error::{Error, Result},
    failure::Failure,
    federation::{
        client::AskError,
        multipart::{Part, Parts},
    },
    homeserver::Homeserver,
    tables::{FileKey, Media},
    transport::TransportError,
};
use bytes::Bytes;
use ephapse_store::{LARGEST_CHUNK, LocalBoxFuture};
use event_listener::Event;
use futures_util::future::{Either, select};
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body::{Frame, SizeHint};
use ruma::{OwnedServerName, api::federation::authenticated_media::get_content, http_headers::ContentDisposition};
use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

/// Files that are fetched at a time.
const MOST_FETCHES: usize = 32;
/// Of those, from one server.
const MOST_FETCHES_OF_ONE: usize = 8;
/// How long another server may pause.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a file may take as a whole.
const LONGEST_FETCH: Duration = Duration::from_secs(30 * 60);
/// Bytes of a media id.
const LONGEST_ID: usize = 255;

/// Why a file of another server cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// It has no such file.
    #[error("Media not found")]
    NotFound,
    /// Its user has not uploaded it yet.
    #[error("Media has not been uploaded yet")]
    NotYetUploaded,
    /// It has more bytes than this server takes.
    #[error("Media is too large: at most {0} bytes are allowed")]
    TooLarge(u64),
    /// It is not known whether there is one; the text says why, for users.
    #[error("Failed to fetch remote media: {0}")]
    Failed(String),
    /// This server has no room for it.
    #[error("Storage is full")]
    Full,
}

impl From<AskError> for FetchError {
    fn from(error: AskError) -> Self {
        match &error {
            AskError::Transport(TransportError::NoFederation | TransportError::Blocked) => Self::NotFound,
            AskError::Refused { errcode, .. } if errcode == "M_NOT_YET_UPLOADED" => Self::NotYetUploaded,
            AskError::Refused { status: StatusCode::NOT_FOUND, .. } => Self::NotFound,
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<Error> for FetchError {
    fn from(error: Error) -> Self {
        match error {
            Error::Store(ephapse_store::StoreError::QuotaExceeded) => Self::Full,
            error => {
                tracing::error!("could not store a file of another server: {error}");
                Self::Failed("it could not be stored".to_owned())
            }
        }
    }
}

/// A file that was found.
pub enum Found {
    /// All of it is here.
    Whole(Media),
    /// It is on its way; its size is not known.
    Coming(Rc<Fetch>, Media),
}

impl Found {
    /// The same once all of it is here.
    pub async fn whole(self) -> Result<Self, Failure<Refused>> {
        match self {
            Self::Coming(fetch, _) => Ok(Self::Whole(fetch.whole().await.map_err(Refused::Remote)?)),
            whole @ Self::Whole(_) => Ok(whole),
        }
    }
}

/// A file on its way here.
pub struct Fetch {
    key: FileKey,
    state: RefCell<State>,
    /// Bytes that can be read.
    stored: Cell<u64>,
    changed: Event,
    /// What is read by those who wait for it does not go.
    _reading: Reading,
}

#[derive(Clone)]
enum State {
    /// Nothing is known.
    Asked,
    /// What it is; the size is missing.
    Begun(Media),
    /// All is here.
    Done(Media),
    /// Nothing more comes.
    Failed(FetchError),
}

impl Fetch {
    fn set(&self, state: State) {
        self.state.replace(state);
        self.changed.notify(usize::MAX);
    }

    /// What `look` finds, once it finds something.
    async fn until<T>(&self, look: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.listen();
            if let Some(found) = look(&self.state.borrow()) {
                return found;
            }
            changed.await;
        }
    }

    /// What it is.
    async fn begun(self: Rc<Self>) -> Result<Found, FetchError> {
        let fetch = self.clone();
        self.until(move |state| match state {
            State::Asked => None,
            State::Begun(media) => Some(Ok(Found::Coming(fetch.clone(), media.clone()))),
            State::Done(media) => Some(Ok(Found::Whole(media.clone()))),
            State::Failed(error) => Some(Err(error.clone())),
        })
        .await
    }

    /// All that is known of it, when all of it is here.
    async fn whole(&self) -> Result<Media, FetchError> {
        let look = |state: &State| match state {
            State::Asked | State::Begun(_) => None,
            State::Done(media) => Some(Ok(media.clone())),
            State::Failed(error) => Some(Err(error.clone())),
        };
        self.until(look).await
    }

    /// Up to where it can be read, when that is behind `at`, or all of it is here.
    async fn behind(&self, at: u64) -> Result<u64, FetchError> {
        let look = |state: &State| match state {
            State::Done(media) => Some(Ok(media.size)),
            State::Failed(error) => Some(Err(error.clone())),
            State::Asked | State::Begun(_) => Some(Ok(self.stored.get())).filter(|_| self.stored.get() > at),
        };
        self.until(look).await
    }

    /// Its bytes, as they come.
    pub fn body(self: Rc<Self>, hs: &Rc<Homeserver>) -> Following {
        Following { hs: hs.clone(), fetch: self, at: 0, next: None, is_over: false }
    }
}

/// The bytes of a file that is on its way here.
pub struct Following {
    hs: Rc<Homeserver>,
    fetch: Rc<Fetch>,
    at: u64,
    next: Option<LocalBoxFuture<'static, Result<Bytes, BodyError>>>,
    is_over: bool,
}

impl http_body::Body for Following {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let Self { hs, fetch, at, next, .. } = &mut *self;
        let reading = next.get_or_insert_with(|| {
            let (hs, fetch, at) = (hs.clone(), fetch.clone(), *at);
            Box::pin(async move {
                let end = fetch.behind(at).await?;
                if at < end { Ok(piece(hs, fetch.key.clone(), at..end).await?) } else { Ok(Bytes::new()) }
            })
        });
        let read = ready!(reading.as_mut().poll(context));
        self.next = None;
        self.is_over = read.as_ref().map_or(true, Bytes::is_empty);
        Poll::Ready(match read {
            Ok(bytes) if bytes.is_empty() => None,
            Ok(bytes) => {
                self.at += bytes.len() as u64;
                Some(Ok(Frame::data(bytes)))
            }
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Homeserver {
    /// A file of this server, for which this waits so long if it is to be uploaded yet, or, where
    /// that may be asked for it, of another one.
    pub(crate) async fn find_media(self: &Rc<Self>, key: &FileKey, wait: Duration, may_fetch: bool) -> Result<Found, Failure<Refused>> {
        let here = self.media(key, wait).await;
        if !may_fetch || key.0 == self.server_name() || !matches!(here, Err(Failure::Refused(Refused::NotFound))) {
            return here.map(Found::Whole);
        }
        let fetch = self.fetch(key)?;
        match select(pin!(fetch.begun()), self.host.sleep(super::LONGEST_WAIT)).await {
            Either::Left((found, _)) => Ok(found.map_err(Refused::Remote)?),
            Either::Right(_) => Err(Refused::NotYetUploaded.into()),
        }
    }

    /// The one that is under way, or a new one.
    fn fetch(self: &Rc<Self>, key: &FileKey) -> Result<Rc<Fetch>, Refused> {
        if !is_media_id(&key.1) {
            return Err(Refused::NotFound);
        }
        let mut fetches = self.uploads.fetches.borrow_mut();
        if let Some(fetch) = fetches.get(key) {
            return Ok(fetch.clone());
        }
        if fetches.len() >= MOST_FETCHES || fetches.keys().filter(|(server, ..)| *server == key.0).count() >= MOST_FETCHES_OF_ONE {
            return Err(Refused::TooManyFetches);
        }
        let reading = self.uploads.readers.read(key);
        let fetch =
            Rc::new(Fetch { key: key.clone(), state: RefCell::new(State::Asked), stored: Cell::new(0), changed: Event::new(), _reading: reading });
        fetches.insert(key.clone(), fetch.clone());
        let (hs, running) = (self.clone(), fetch.clone());
        self.host.spawn(Box::pin(async move {
            let outcome = match select(pin!(hs.run_fetch(&running)), hs.host.sleep(LONGEST_FETCH)).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right(_) => Err(FetchError::Failed("it takes too long".to_owned())),
            };
            if outcome.is_err()
                && let Err(error) = hs.forget_upload_of(&running.key).await
            {
                tracing::warn!("could not delete what is left of a file of another server, will try again later: {error}");
            }
            hs.uploads.coming.set(hs.uploads.coming.get() - running.stored.get());
            hs.uploads.fetches.borrow_mut().remove(&running.key);
            running.set(outcome.map_or_else(State::Failed, State::Done));
        }));
        Ok(fetch)
    }

    async fn run_fetch(self: &Rc<Self>, fetch: &Fetch) -> Result<Media, FetchError> {
        let busy = || FetchError::Failed("what is left of it is being cleared away".to_owned());
        let mut upload = Upload::begin_as(self, fetch.key.clone()).await?.ok_or_else(busy)?;
        self.receive_remote(fetch, &mut upload).await
    }

    async fn receive_remote(self: &Rc<Self>, fetch: &Fetch, upload: &mut Upload) -> Result<Media, FetchError> {
        let limit = self.max_upload().min(self.config.media_cache);
        let (headers, mut content) = self.open_remote(&fetch.key).await?;
        let mut media = described(&headers, self.host.now());
        fetch.set(State::Begun(media.clone()));
        while let Some(data) = self.in_patience(content.next()).await? {
            if data.len() as u64 > limit - upload.size() {
                return Err(FetchError::TooLarge(limit));
            }
            upload.append(data).await?;
            let stored = upload.size() / LARGEST_CHUNK as u64 * LARGEST_CHUNK as u64;
            if stored > fetch.stored.get() {
                self.uploads.coming.set(self.uploads.coming.get() + stored - fetch.stored.get());
                fetch.stored.set(stored);
                fetch.changed.notify(usize::MAX);
                if !self.make_room_in_cache(self.uploads.coming.get()).await? {
                    return Err(FetchError::Failed("too much is being fetched".to_owned()));
                }
            }
        }
        upload.store_rest().await?;
        media.size = upload.size();
        if !self.keep_cached(upload, media.clone(), |_| {}).await? {
            return Err(FetchError::Failed("too much is being fetched".to_owned()));
        }
        Ok(media)
    }

    /// What a server says of a file of its own, and the bytes that follow.
    async fn open_remote(&self, (server, media_id, _): &FileKey) -> Result<(HeaderMap, Content), FetchError> {
        let answer = match self.ask_for_stream(server, get_content::v1::Request::new(media_id.clone())).await {
            Ok(answer) => answer,
            // "If the remote server does not support this endpoint": then it has the one of before.
            Err(error) if error.is_unrecognized() => {
                let path = format!("/_matrix/media/v3/download/{server}/{media_id}?allow_remote=false&allow_redirect=true");
                let answer = self.ask_unsigned(server, get(&path)?).await?;
                return self.content_of(answer).await;
            }
            Err(error) => return Err(error.into()),
        };
        let mut parts = Parts::new(answer)?;
        match self.in_patience(parts.content()).await? {
            Part::Content(headers) => Ok((headers, Content::Part(Box::new(parts)))),
            Part::Location(location) => self.fetch_from(&location).await,
        }
    }

    /// A file that lies elsewhere, as its server says.
    async fn fetch_from(&self, location: &str) -> Result<(HeaderMap, Content), FetchError> {
        let malformed = || FetchError::Failed("it names no place that a file could be at".to_owned());
        let uri: Uri = location.parse().map_err(|_| malformed())?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or_else(malformed)?;
        // A name with a port is asked there, without any discovery.
        let name = format!("{host}:{}", uri.port_u16().unwrap_or(443));
        let place = OwnedServerName::try_from(name).map_err(|_| malformed())?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let answer = self.ask_unsigned(&place, get(path)?).await?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Failed(format!("where it should be the answer is {}", answer.status())));
        }
        let (parts, body) = answer.into_parts();
        Ok((parts.headers, Content::Whole(body)))
    }

    /// The file that an answer is, or leads to.
    async fn content_of(&self, answer: Response<Body>) -> Result<(HeaderMap, Content), FetchError> {
        let (parts, body) = answer.into_parts();
        match parts.headers.get(header::LOCATION).filter(|_| parts.status.is_redirection()) {
            Some(location) => self.fetch_from(location.to_str().unwrap_or_default()).await,
            None if parts.status == StatusCode::OK => Ok((parts.headers, Content::Whole(body))),
            None => Err(FetchError::Failed(format!("its answer is {}", parts.status))),
        }
    }

    async fn in_patience<T>(&self, step: impl Future<Output = Result<T, AskError>>) -> Result<T, AskError> {
        match select(pin!(step), self.host.sleep(PATIENCE)).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => Err(AskError::TimedOut),
        }
    }
}

/// The bytes of a file on their way.
enum Content {
    /// All of an answer.
    Whole(Body),
    /// A part of one.
    Part(Box<Parts>),
}

impl Content {
    async fn next(&mut self) -> Result<Option<Bytes>, AskError> {
        use http_body_util::BodyExt;
        let body = match self {
            Self::Whole(body) => body,
            Self::Part(parts) => return parts.next().await,
        };
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| TransportError::Unreachable(error.to_string()))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

fn get(path: &str) -> Result<Request<Bytes>, FetchError> {
    let request = Request::get(path).body(Bytes::new());
    request.map_err(|_| FetchError::Failed("it names no place that a file could be at".to_owned()))
}

/// "Media IDs ... may only contain" these (Client-Server API, "Matrix Content (mxc://) URIs"). One
/// that could mean something else in a path would be sent to another server.
fn is_media_id(id: &str) -> bool {
    (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// What headers say of a file; its size is not known yet.
fn described(headers: &HeaderMap, now: u64) -> Media {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let disposition = headers.get(header::CONTENT_DISPOSITION).and_then(|value| ContentDisposition::try_from(value.as_bytes()).ok());
    Media {
        size: 0,
        content_type: text(header::CONTENT_TYPE).and_then(served::content_type),
        file_name: disposition.and_then(|disposition| disposition.filename).as_deref().and_then(served::file_name),
        uploader: None,
        created: now,
    }
}
