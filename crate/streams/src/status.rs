//! What the owner of a node sees of its streams.

use super::Stream;
use crate::stored::{DeadLetter, StreamTotals};
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
    pub dead_letters: u64,
    /// The newest of them, oldest first.
    pub newest_dead_letters: Vec<DeadLetterStatus>,
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
pub struct DeadLetterStatus {
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
    /// When it was given up, in ms.
    pub given_up: u64,
}

impl DeadLetterStatus {
    pub(super) fn of(subject: &str, consumer: &str, position: u64, entry: &DeadLetter) -> Self {
        Self {
            subject: subject.to_owned(),
            consumer: consumer.to_owned(),
            position,
            attempts: entry.deliveries,
            last_error: entry.error.clone(),
            appended: entry.entry.appended,
            given_up: entry.given_up,
        }
    }
}

impl StreamStatus {
    pub(super) fn of(stream: &Stream, totals: &StreamTotals, dead_letters: &[DeadLetterStatus]) -> Self {
        let lag = |name: &str| totals.lag.get(name).copied().unwrap_or(0);
        Self {
            name: stream.name,
            subjects: totals.subjects,
            length: totals.entries,
            bytes: totals.bytes,
            dead_letters: totals.dead_letters,
            newest_dead_letters: dead_letters.to_vec(),
            dropped: totals.dropped,
            consumers: stream.consumers.iter().map(|name| ConsumerStatus { name, lag: lag(name) }).collect(),
        }
    }
}
