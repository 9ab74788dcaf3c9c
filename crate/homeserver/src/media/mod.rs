//! Files that clients upload and download (Client-Server API, Content repository), cut into chunks
//! that the store keeps by their hash, each once.
//!
//! `(server name, media id, variant)` names a file: one of another server will be kept the same
//! way, and so will a thumbnail, which is a variant. A file is there when [`MEDIA`] says so. Before
//! a chunk is written, [`MEDIA_CHUNKS`] and [`CHUNK_USES`] say durably which upload it is for, and
//! [`UPLOADS`] that this one has not ended; so whatever ends an upload, what it has left is found,
//! and goes.
//!
//! [`MEDIA`]: crate::tables::MEDIA
//! [`MEDIA_CHUNKS`]: crate::tables::MEDIA_CHUNKS
//! [`CHUNK_USES`]: crate::tables::CHUNK_USES
//! [`UPLOADS`]: crate::tables::UPLOADS

mod abandoned;
mod download;
mod receipt;
mod upload;

pub use download::Download;
pub use receipt::Receipt;
pub use upload::Upload;

use crate::tables::FileKey;
use async_lock::Semaphore;
use std::{cell::RefCell, collections::HashSet, sync::Arc};

/// Uploads that hold a piece of their file in memory at a time, a chunk at most; more wait.
const MOST_BUFFERED: usize = 64;

/// What memory has of uploads.
pub struct Uploads {
    /// Those of this run that have not ended.
    under_way: RefCell<HashSet<FileKey>>,
    buffers: Arc<Semaphore>,
}

impl Default for Uploads {
    fn default() -> Self {
        Self { under_way: RefCell::default(), buffers: Arc::new(Semaphore::new(MOST_BUFFERED)) }
    }
}
