//! What the owner of a node sees of its streams.

use super::Stream;
use crate::tables::StreamTotals;
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
    /// Entries that were delivered too often without being acknowledged.
    pub parked: u64,
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

impl StreamStatus {
    pub(super) fn of(stream: &Stream, totals: &StreamTotals) -> Self {
        let lag = |name: &str| totals.lag.get(name).copied().unwrap_or(0);
        Self {
            name: stream.name,
            subjects: totals.subjects,
            length: totals.entries,
            bytes: totals.bytes,
            parked: totals.parked,
            dropped: totals.dropped,
            consumers: stream.consumers.iter().map(|name| ConsumerStatus { name, lag: lag(name) }).collect(),
        }
    }
}
