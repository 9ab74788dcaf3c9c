//! The store's directory: who holds it, which format it has, and how often it was opened.

use crate::{CrashPoint, FIRST_CONTENT, Faults, StoreError};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The newest format this build understands.
pub(super) const FORMAT: u32 = 2;

/// `MIGRATIONS[n]` turns format `n + 1` into format `n + 2`. Each can be repeated, because a crash
/// may end it before the new version is recorded.
const MIGRATIONS: [fn(&Path) -> io::Result<()>; FORMAT as usize - 1] = [log_without_salt];

/// A locked directory of a known format.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    /// Counts the times this directory was opened.
    pub(super) epoch: u64,
    _lock: File,
}

impl Directory {
    /// Locks the directory, and makes it if it is not there. A newer format, of the store or of its
    /// content, is refused before anything is changed.
    pub(super) fn open(path: &Path, content_format: u32, faults: &Faults) -> Result<Self, StoreError> {
        fs::create_dir_all(path).map_err(io_error)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock")).map_err(io_error)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::InUse,
            TryLockError::Error(error) => io_error(error),
        })?;
        let FormatFile { format, content, epoch } = read_format(path)?.unwrap_or(FormatFile { format: FORMAT, content: content_format, epoch: 0 });
        for (found, supported) in [(format, FORMAT), (content, content_format)] {
            if found > supported {
                return Err(StoreError::NewerFormat { found, supported });
            }
        }
        for migrate in &MIGRATIONS[format.saturating_sub(1) as usize..] {
            migrate(path).map_err(io_error)?;
        }
        if (format < FORMAT || epoch == 0) && faults.crash_at(CrashPoint::Migrating) {
            return Err(StoreError::Closed);
        }
        write_format(path, &FormatFile { format: FORMAT, content: content_format, epoch: epoch + 1 }).map_err(io_error)?;
        Ok(Self { path: path.to_owned(), epoch: epoch + 1, _lock: lock })
    }
}

/// The log is read in both formats. The new number keeps away the versions that know the first
/// only.
fn log_without_salt(_: &Path) -> io::Result<()> {
    Ok(())
}

/// What the `format` file says.
struct FormatFile {
    format: u32,
    content: u32,
    epoch: u64,
}

fn read_format(path: &Path) -> Result<Option<FormatFile>, StoreError> {
    let text = match fs::read_to_string(path.join("format")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(error)),
    };
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let small = |name| field(name).and_then(|format| u32::try_from(format).ok());
    let content = small("content ").unwrap_or(FIRST_CONTENT);
    match (small("format "), field("epoch ")) {
        (Some(format), Some(epoch)) if format > 0 => Ok(Some(FormatFile { format, content, epoch })),
        // A newer version may have added or dropped lines; it still has to say which format it is.
        (Some(format), None) if format > FORMAT => Ok(Some(FormatFile { format, content, epoch: 0 })),
        _ => Err(StoreError::Platform(format!("{} does not hold an ephapse store: its `format` file is unreadable", path.display()))),
    }
}

fn write_format(path: &Path, stored: &FormatFile) -> io::Result<()> {
    let new = path.join("format.new");
    let mut file = File::create(&new)?;
    let FormatFile { format, content, epoch } = stored;
    write!(file, "ephapse store\nformat {format}\ncontent {content}\nepoch {epoch}\n")?;
    file.sync_all()?;
    fs::rename(&new, path.join("format"))?;
    sync_directory(path)
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// An I/O error as a [`StoreError`].
pub(super) fn io_error(error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => StoreError::QuotaExceeded,
        _ => StoreError::Platform(error.to_string()),
    }
}
