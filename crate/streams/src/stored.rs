//! What is stored of streams: where a subject begins and ends, what its consumers have done,
//! and its entries.

use ephapse_store::Table;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The first bytes of what streams store: four that no table of the application has, and that stay
/// the same for as long as the data does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixes {
    /// Where subjects begin and end, and how far their consumers are.
    pub heads: u8,
    /// Entries, by subject and number.
    pub entries: u8,
    /// Entries that could not be processed.
    pub dead_letters: u8,
    /// What all subjects of a stream hold together.
    pub totals: u8,
}

/// The tables at [`Prefixes`].
pub(crate) struct Tables {
    /// By subject.
    pub(crate) heads: Table<String, StreamHead>,
    /// By subject and number.
    pub(crate) entries: Table<(String, u64), Entry>,
    /// `(stream, subject, consumer, number)`.
    pub(crate) dead_letters: Table<(String, String, String, u64), DeadLetter>,
    /// By stream.
    pub(crate) totals: Table<String, StreamTotals>,
}

impl Tables {
    pub(crate) const fn new(prefixes: Prefixes) -> Self {
        Self {
            heads: Table::new(prefixes.heads, "stream heads"),
            entries: Table::new(prefixes.entries, "stream entries"),
            dead_letters: Table::new(prefixes.dead_letters, "dead letters"),
            totals: Table::new(prefixes.totals, "stream totals"),
        }
    }
}

/// A place in a subject: how many entries and bytes lie before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Offset {
    /// Entries before it; also the number of the entry after it.
    pub entries: u64,
    /// Bytes of those entries.
    pub bytes: u64,
}

/// What was appended, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was appended, in ms.
    pub appended: u64,
    /// The place right after it.
    pub end: Offset,
    /// What was appended.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}

impl Entry {
    /// Its number in its subject, as [`Subject::append`](crate::Subject::append) answered it.
    pub fn number(&self) -> u64 {
        self.end.entries.saturating_sub(1)
    }
}

/// What a subject holds, and how far its consumers are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamHead {
    /// The place of the oldest entry kept.
    pub first: Offset,
    /// The place of the next entry.
    pub next: Offset,
    /// The consumers' cursors, by name.
    pub cursors: BTreeMap<String, StreamCursor>,
}

/// How far a consumer is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamCursor {
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
pub(crate) struct DeadLetter {
    /// The entry.
    pub entry: Entry,
    /// How often it was delivered.
    pub deliveries: u32,
    /// What went wrong last.
    pub error: String,
    /// When it was given up, in ms.
    pub given_up: u64,
}

/// What all subjects of a stream hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamTotals {
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
