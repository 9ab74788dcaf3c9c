//! Files that clients upload and download (Client-Server API, Content repository), cut into chunks
//! that the store keeps by their hash, each once.
//!
//! `(server name, media id, variant)` names a file: one of another server is kept the same way,
//! and so is a thumbnail, which is a variant. A file is there when [`MEDIA`] says so. Before
//! a chunk is written, [`MEDIA_CHUNKS`] and [`CHUNK_USES`] say durably which upload it is for, and
//! [`UPLOADS`] that this one has not ended; so whatever ends an upload, what it has left is found,
//! and goes.
//!
//! [`MEDIA`]: crate::tables::MEDIA
//! [`MEDIA_CHUNKS`]: crate::tables::MEDIA_CHUNKS
//! [`CHUNK_USES`]: crate::tables::CHUNK_USES
//! [`UPLOADS`]: crate::tables::UPLOADS

mod abandoned;
mod cache;
mod download;
mod pending;
mod range;
mod receipt;
mod remote;
pub mod served;
mod thumbnail;
mod upload;
mod usage;

pub use download::Download;
pub use range::Wanted;
pub use receipt::Receipt;
pub use remote::{FetchError, Found};
pub use thumbnail::{NoThumbnail, Thumbnail, ThumbnailSize, ThumbnailWanted, thumbnail_of};
pub use upload::Upload;

use crate::{failure::Refusal, tables::FileKey};
use async_lock::Semaphore;
use cache::Readers;
use event_listener::Event;
use remote::Fetch;
use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

/// The longest that anybody waits for a file to begin.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Uploads that hold a piece of their file in memory at a time, a chunk at most; more wait.
const MOST_BUFFERED: usize = 64;

/// Why there is no file, or none may come.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No such file or media id.
    #[error("Media not found")]
    NotFound,
    /// The media id has no file yet.
    #[error("Media has not been uploaded yet")]
    NotYetUploaded,
    /// It is another server's to give files to its media ids.
    #[error("Media of another server cannot be uploaded here")]
    OfAnotherServer,
    /// Somebody else was given the media id.
    #[error("Only the creator of the media ID can upload to it")]
    NotCreator,
    /// The media id has its file, or is about to.
    #[error("Media ID already has content")]
    HasContent,
    /// The user has as many media ids without files as they may.
    #[error("Too many pending media uploads")]
    TooManyPending {
        /// When the first of them ends.
        retry_after: Duration,
    },
    /// Another server's file cannot be had.
    #[error(transparent)]
    Remote(FetchError),
    /// As many files of other servers are on their way as may be.
    #[error("Too many requests for remote media")]
    TooManyFetches,
    /// There is no thumbnail of it.
    #[error("{}", why_none(*.0))]
    NoThumbnail(NoThumbnail),
    /// The user's files would take more bytes than they may.
    #[error("Upload quota exceeded")]
    OverQuota(String),
}

impl Refusal for Refused {}

fn why_none(none: NoThumbnail) -> &'static str {
    match none {
        NoThumbnail::Unsupported => "Unrecognized request",
        NoThumbnail::NotAnImage => "Cannot make a thumbnail of this media",
        NoThumbnail::TooLarge => "Media is too large for a thumbnail",
    }
}

/// What memory has of uploads.
pub struct Uploads {
    /// Those of this run that have not ended.
    under_way: RefCell<HashSet<FileKey>>,
    buffers: Arc<Semaphore>,
    /// A file became known.
    arrived: Event,
    /// Files of other servers on their way.
    fetches: RefCell<HashMap<FileKey, Rc<Fetch>>>,
    /// Bytes of those that are stored.
    coming: Cell<u64>,
    readers: Readers,
    /// Thumbnails being made, and those that wait for it.
    thumbnails_wanted: Arc<Semaphore>,
    thumbnails: Arc<Semaphore>,
}

impl Default for Uploads {
    fn default() -> Self {
        Self {
            under_way: RefCell::default(),
            buffers: Arc::new(Semaphore::new(MOST_BUFFERED)),
            arrived: Event::new(),
            fetches: RefCell::default(),
            coming: Cell::new(0),
            readers: Readers::default(),
            thumbnails_wanted: Arc::new(Semaphore::new(thumbnail::MOST_THUMBNAILS)),
            thumbnails: Arc::new(Semaphore::new(thumbnail::THUMBNAILS_AT_A_TIME)),
        }
    }
}
