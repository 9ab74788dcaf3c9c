//! Chunks as files `chunks/ab/ab12…` of the store's directory. A thread of their own writes each
//! under another name, syncs it, and renames it.

use super::{
    directory::{io_error, sync_directory},
    redb::Shared,
};
use crate::{
    Bytes, ChunkId, Chunks, CrashPoint, Fault, LocalBoxFuture, StoreError,
    chunks::{name, shorter},
};
use futures_channel::oneshot;
use std::{
    cell::RefCell,
    fs::{self, DirEntry, File},
    future::ready,
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::Sender,
    },
};

/// Work for the thread that writes chunks.
pub(super) type Work = Box<dyn FnOnce(&Shared) + Send>;

/// What the engine's thread has of the chunks.
pub(super) struct ChunkFiles {
    directory: PathBuf,
    /// Bytes of all of them.
    bytes: Arc<AtomicU64>,
    /// `None` once the store closes. Then the thread ends when it has done what it was given.
    work: RefCell<Option<Sender<Work>>>,
}

impl ChunkFiles {
    /// The chunks of the store in `directory`. What is sent to `work` has to be done in its order.
    pub(super) fn new(directory: &Path, work: Sender<Work>) -> Result<Self, StoreError> {
        let directory = directory.join("chunks");
        match fs::remove_file(unfinished(&directory)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(error)),
            _ => {}
        }
        let files = Self { directory, bytes: Arc::default(), work: RefCell::new(Some(work)) };
        // Before anything else is done, and without anybody who waits: there may be many.
        let bytes = files.bytes.clone();
        drop(files.run(move |_, directory| {
            bytes.store(counted(directory).map_err(io_error)?, Ordering::Relaxed);
            Ok(())
        }));
        Ok(files)
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        self.work.take();
    }

    fn run(&self, work: impl FnOnce(&Shared, &Path) -> Result<(), StoreError> + Send + 'static) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let (answer, answered) = oneshot::channel();
        let directory = self.directory.clone();
        let work: Work = Box::new(move |shared| {
            let _ = answer.send(work(shared, &directory));
        });
        // Without a thread the work is dropped, and its completion with it.
        let _ = self.work.borrow().as_ref().map(|thread| thread.send(work));
        Box::pin(async { answered.await.unwrap_or(Err(StoreError::Closed)) })
    }

    fn part(&self, id: &ChunkId, part: &Range<u32>) -> Result<Option<Bytes>, StoreError> {
        if self.work.borrow().is_none() {
            return Err(StoreError::Closed);
        }
        let mut file = match File::open(path(&self.directory, id)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(error)),
        };
        let mut bytes = vec![0; part.end.saturating_sub(part.start) as usize];
        let read = file.seek(SeekFrom::Start(part.start.into())).and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|error| if error.kind() == io::ErrorKind::UnexpectedEof { shorter() } else { io_error(error) })?;
        Ok(Some(bytes.into()))
    }
}

fn folder(directory: &Path, id: &ChunkId) -> PathBuf {
    directory.join(&name(id)[..2])
}

fn path(directory: &Path, id: &ChunkId) -> PathBuf {
    folder(directory, id).join(name(id))
}

/// The one chunk that is being written.
fn unfinished(directory: &Path) -> PathBuf {
    directory.join("unfinished")
}

/// Bytes of all chunks.
fn counted(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for folder in entries(directory)? {
        for chunk in entries(&folder?.path())? {
            bytes += chunk?.metadata()?.len();
        }
    }
    Ok(bytes)
}

fn entries(directory: &Path) -> io::Result<impl Iterator<Item = io::Result<DirEntry>>> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        found => Ok(Some(found?).into_iter().flatten()),
    }
}

/// Writes a chunk. Returns whether it was not there before.
fn write(directory: &Path, id: &ChunkId, bytes: &[u8]) -> io::Result<bool> {
    let (folder, path, unfinished) = (folder(directory, id), path(directory, id), unfinished(directory));
    let is_new = !path.try_exists()?;
    if is_new {
        if !folder.try_exists()? {
            fs::create_dir_all(&folder)?;
            sync_directory(directory)?;
            directory.parent().map_or(Ok(()), sync_directory)?;
        }
        let mut file = File::create(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
    }
    // Even if the file was there: the last process may have ended before this.
    sync_directory(&folder)?;
    Ok(is_new)
}

fn remove(directory: &Path, ids: &[ChunkId], total: &AtomicU64) -> io::Result<()> {
    for id in ids {
        let path = path(directory, id);
        match fs::metadata(&path).and_then(|chunk| fs::remove_file(&path).map(|()| chunk.len())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(bytes) => {
                total.fetch_sub(bytes, Ordering::Relaxed);
                sync_directory(&folder(directory, id))?;
            }
        }
    }
    Ok(())
}

impl Chunks for ChunkFiles {
    fn put(&self, id: ChunkId, bytes: Bytes) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let total = self.bytes.clone();
        self.run(move |shared, directory| {
            shared.inject_chunk_fault(CrashPoint::BeforeChunk)?;
            match write(directory, &id, &bytes) {
                Err(error) => {
                    // So that a full disk has room for what is more important.
                    let _ = fs::remove_file(unfinished(directory));
                    return Err(io_error(error));
                }
                Ok(true) => drop(total.fetch_add(bytes.len() as u64, Ordering::Relaxed)),
                Ok(false) => {}
            }
            shared.inject_chunk_fault(CrashPoint::AfterChunk)
        })
    }

    fn read(&self, id: ChunkId, part: Range<u32>) -> LocalBoxFuture<'static, Result<Option<Bytes>, StoreError>> {
        Box::pin(ready(self.part(&id, &part)))
    }

    fn delete(&self, ids: Vec<ChunkId>) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        let total = self.bytes.clone();
        self.run(move |shared, directory| {
            shared.inject_chunk_fault(CrashPoint::BeforeChunk)?;
            remove(directory, &ids, &total).map_err(io_error)?;
            shared.inject_chunk_fault(CrashPoint::AfterChunk)
        })
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Where a test lets the store crash, or a write of chunks fail.
    fn inject_chunk_fault(&self, point: CrashPoint) -> Result<(), StoreError> {
        match self.fault_at(point) {
            Some(Fault::Crash) => Err(StoreError::Closed),
            Some(Fault::Fail(error)) => Err(error),
            None => Ok(()),
        }
    }
}
