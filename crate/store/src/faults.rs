//! Named points at which a test stops a store as a crash would, or makes its writes fail.

use crate::StoreError;
use std::{fmt, sync::Arc};

/// A place in a store's work where a crash is worth trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CrashPoint {
    /// The group of waiting batches is encoded, nothing of it is written.
    BeforePut,
    /// The group is written but not yet committed (IndexedDB) or synced (native).
    BetweenPutAndCommit,
    /// The group is durable, nobody has been told.
    BetweenCommitAndAnswer,
    /// A full memtable is written to where it stays, the log still holds it.
    Flushing,
    /// A compaction has written its output, its inputs are still there.
    Compacting,
    /// An older format is converted, the new version is not yet recorded.
    Migrating,
    /// A chunk is to be written, nothing of it is.
    BeforeChunk,
    /// A chunk is durable, nobody has been told.
    AfterChunk,
}

/// What a test lets happen at a [`CrashPoint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The store stops at once and for good, as if the process had ended here.
    Crash,
    /// The platform refuses the write with this error. After the write nothing happens.
    Fail(StoreError),
}

type Hook = dyn Fn(CrashPoint) -> Option<Fault> + Send + Sync;

/// A hook that is called at every [`CrashPoint`]. The default has none and costs one comparison.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Hook>>);

impl Faults {
    /// Calls `hook` at every point.
    pub fn new(hook: impl Fn(CrashPoint) -> Option<Fault> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(crate) fn at(&self, point: CrashPoint) -> Option<Fault> {
        self.0.as_ref().and_then(|hook| hook(point))
    }

    /// Whether the store must stop here.
    pub(crate) fn crash_at(&self, point: CrashPoint) -> bool {
        self.at(point) == Some(Fault::Crash)
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Faults(hook)" } else { "Faults(none)" })
    }
}
