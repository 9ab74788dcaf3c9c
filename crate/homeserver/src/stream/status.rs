//! What the owner of a node sees of its streams.

use super::Stream;
use crate::tables::{ParkedEntry, StreamTotals};
use serde::Serialize;

/// What all subjects of a stream hold together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamStatus {
    /// The stream.
    pub name: &'static str,
    /// Subjects that hold something.
    pub subjects: u64,
    /// Entries kept.
    pub length: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries that were ever delivered too often without being acknowledged.
    pub parked: u64,
    /// The newest of them, oldest first.
    pub parked_entries: Vec<ParkedStatus>,
    /// Entries that reached a limit before they were acknowledged.
    pub dropped: u64,
    /// Who consumes it.
    pub consumers: Vec<ConsumerStatus>,
}

/// How far a consumer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerStatus {
    /// Its name.
    pub name: &'static str,
    /// Entries it has not acknowledged.
    pub lag: u64,
}

/// An entry that its consumer could not process; others go on without it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParkedStatus {
    /// The queue it was in.
    pub subject: String,
    /// Who could not process it.
    pub consumer: String,
    /// Its number in the queue.
    pub position: u64,
    /// How often it was delivered.
    pub attempts: u32,
    /// What its consumer last said went wrong.
    pub last_error: String,
    /// When it was appended, in ms.
    pub appended: u64,
    /// When it was parked, in ms.
    pub parked: u64,
}

impl ParkedStatus {
    pub(super) fn of(subject: &str, consumer: &str, position: u64, entry: &ParkedEntry) -> Self {
        Self {
            subject: subject.to_owned(),
            consumer: consumer.to_owned(),
            position,
            attempts: entry.deliveries,
            last_error: entry.error.clone(),
            appended: entry.entry.appended,
            parked: entry.parked,
        }
    }
}

impl StreamStatus {
    pub(super) fn of(stream: &Stream, totals: &StreamTotals, parked: &[ParkedStatus]) -> Self {
        let lag = |name: &str| totals.lag.get(name).copied().unwrap_or(0);
        Self {
            name: stream.name,
            subjects: totals.subjects,
            length: totals.entries,
            bytes: totals.bytes,
            parked: totals.parked,
            parked_entries: parked.to_vec(),
            dropped: totals.dropped,
            consumers: stream.consumers.iter().map(|name| ConsumerStatus { name, lag: lag(name) }).collect(),
        }
    }
}
