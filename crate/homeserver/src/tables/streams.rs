//! The values of durable streams: where a subject begins and ends, what its consumers have done,
//! and its entries.

use super::RawBytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A place in a subject: how many entries and bytes lie before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Offset {
    /// Entries before it; also the number of the entry behind it.
    pub entries: u64,
    /// Bytes of those entries.
    pub bytes: u64,
}

/// An entry, by its subject and number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEntry {
    /// When it was appended, in ms.
    pub appended: u64,
    /// The place right behind it.
    pub end: Offset,
    /// What was appended.
    pub body: RawBytes,
}

/// What a subject holds, and how far its consumers are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamHead {
    /// The place of the oldest entry kept.
    pub first: Offset,
    /// The place of the next entry.
    pub next: Offset,
    /// The consumers' cursors, by name.
    pub cursors: BTreeMap<String, StreamCursor>,
}

/// How far a consumer is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamCursor {
    /// Everything before this place is acknowledged.
    pub at: Offset,
    /// How often the entry at `at` has been delivered.
    pub deliveries: u32,
    /// When it was last delivered, in ms.
    pub delivered: u64,
    /// What its consumer last said went wrong.
    pub error: Option<String>,
}

/// An entry that its consumer could not process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The entry.
    pub entry: StreamEntry,
    /// How often it was delivered.
    pub deliveries: u32,
    /// What went wrong last.
    pub error: String,
    /// When it was given up, in ms.
    pub given_up: u64,
}

/// What all subjects of a stream hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamTotals {
    /// Above every entry number of subjects that were pruned: a subject made anew begins here, so
    /// that no number is given twice.
    pub floor: u64,
    /// Subjects that hold something.
    pub subjects: u64,
    /// Entries kept.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries not yet acknowledged, by consumer.
    pub lag: BTreeMap<String, u64>,
    /// Entries that were given up.
    pub dead_letters: u64,
    /// Entries that reached a limit before every consumer had acknowledged them.
    pub dropped: u64,
}
