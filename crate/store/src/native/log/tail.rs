//! What follows the last record of a log file that can be read: the end of the log, or damage.
//!
//! A round is what was written to a file under one file header. Each record is synced before the
//! next one is written. So a crash leaves one record at most that is not whole, and nothing of the
//! same round after it. A record after it that is whole was acknowledged, and what precedes it
//! was damaged later. What older rounds left there has another salt, and smaller numbers.
//!
//! One thing looks like a crash and may be damage: the last record of all, with nothing after it.

use super::{FILE_HEADER, RECORD_HEADER, RecordHeader, Salt, checksum, is_checked};
use std::ops::RangeInclusive;

/// Bytes that are checksummed in the search for a record. Clients choose what is in old records, so
/// lengths in it could make the search take hours.
const BUDGET: usize = 1 << 30;

/// Where the number is in a record's header.
const NUMBER: usize = 8;

/// Where a file is damaged, with acknowledged records after it.
#[derive(Debug)]
pub(super) struct Damage {
    pub(super) offset: u64,
    pub(super) reason: String,
}

/// A log file whose records were read as far as they can be.
pub(super) struct Tail<'a> {
    pub(super) content: &'a [u8],
    pub(super) salt: Salt,
    /// Where the last record ends.
    pub(super) end: usize,
    /// The number of the last record.
    pub(super) last: Option<u64>,
    /// The number of the last record that is in redb.
    pub(super) applied: u64,
}

impl Tail<'_> {
    /// # Errors
    /// Where acknowledged records would be lost if this were taken for the end of the log.
    pub(super) fn check(&self) -> Result<(), Damage> {
        match (self.salt, self.last) {
            // All of the file is in redb: a round is moved there as a whole.
            (_, Some(last)) if last <= self.applied => Ok(()),
            (Some(salt), last) => match self.later_record() {
                Some(later) => damage(self.end, format!("the record there cannot be read, and record {later} behind it can")),
                None if last.is_none() && !is_checked(salt) && self.has_lost_round(FILE_HEADER) => damage(0, "no record fits its header".into()),
                None => Ok(()),
            },
            (None, None) if self.has_lost_round(0) => damage(0, "its header cannot be read, and it is not empty".into()),
            // Checksums of format 1 have no salt: there a client can have written what looks like a
            // later record.
            (None, _) => Ok(()),
        }
    }

    /// Numbers that records after the end can have. None of them is in redb, and none is shorter
    /// than its header and a byte.
    fn later_numbers(&self) -> RangeInclusive<u64> {
        let first = self.last.unwrap_or(0).max(self.applied) + 1;
        first..=first + (self.content.len() / (RECORD_HEADER + 1)) as u64
    }

    /// The number of a whole record after the end.
    fn later_record(&self) -> Option<u64> {
        let numbers = self.later_numbers();
        let mut budget = BUDGET;
        // Numbers first, since each byte may begin a record: 12 MiB take 19 ms so, and 41 by
        // headers.
        let places = (self.end..written(self.content)).zip(self.content.get(self.end + NUMBER..).unwrap_or_default().windows(8));
        for (at, number) in places {
            if !number.first_chunk().is_some_and(|number| numbers.contains(&u64::from_le_bytes(*number))) {
                continue;
            }
            let Some(header) = RecordHeader::at(self.content, at) else { continue };
            let Some(body) = header.body(&self.content[at..]) else { continue };
            budget = budget.saturating_sub(body.len());
            if budget == 0 {
                tracing::warn!("the end of the log has too much that looks like records: it was only searched in part for damage");
                return None;
            }
            if checksum(self.salt, body) == header.sum {
                return Some(header.number);
            }
        }
        None
    }

    /// Whether records may be lost with a file header that cannot be read, or not be checked as
    /// those of earlier versions. A file is all zeros until its first round begins; a file header
    /// is durable before what follows it is written; and a record that is in redb is one of an
    /// older round.
    fn has_lost_round(&self, from: usize) -> bool {
        let applied = |at| RecordHeader::at(self.content, at).is_some_and(|first| (1..=self.applied).contains(&first.number));
        written(&self.content[from..]) > 0 && !applied(FILE_HEADER) && !applied(from)
    }
}

fn damage(offset: usize, reason: String) -> Result<(), Damage> {
    Err(Damage { offset: offset as u64, reason })
}

/// Up to where there is something but zeros, to the page.
fn written(content: &[u8]) -> usize {
    const PAGE: usize = 4096;
    content.chunks(PAGE).rposition(|page| page != &[0; PAGE][..page.len()]).map_or(0, |last| content.len().min((last + 1) * PAGE))
}
