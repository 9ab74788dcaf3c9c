//! What appending, acknowledging and limits do to a subject's head: plain functions, so that they
//! can be checked against a model.

use super::{Limits, Retention, Stream, WhenFull};
use crate::stored::{Entry, Offset, StreamCursor, StreamHead};

impl StreamHead {
    /// The head of a subject that has nothing yet and whose first entry will have the number
    /// `first`.
    pub(super) fn starting_at(first: u64) -> Self {
        let offset = Offset { entries: first, bytes: 0 };
        Self { first: offset, next: offset, cursors: Default::default() }
    }

    /// Consumers that `stream` has lately got begin at the end; those it has no more are forgotten.
    pub(super) fn reconcile(&mut self, stream: &Stream) {
        self.cursors.retain(|name, _| stream.consumers.contains(&name.as_str()));
        for name in stream.consumers {
            let next = self.next;
            self.cursors.entry((*name).to_owned()).or_insert_with(|| StreamCursor { at: next, ..StreamCursor::default() });
        }
    }

    /// Entries kept.
    pub(super) fn entries(&self) -> u64 {
        self.next.entries - self.first.entries
    }

    /// Bytes kept.
    pub(super) fn bytes(&self) -> u64 {
        self.next.bytes - self.first.bytes
    }

    /// Entries that `consumer` has not acknowledged.
    pub(super) fn lag(&self, consumer: &str) -> u64 {
        self.cursors.get(consumer).map_or(0, |cursor| self.next.entries - cursor.at.entries)
    }

    /// Whether there is nothing to remember of the subject.
    pub(super) fn is_empty(&self) -> bool {
        self.entries() == 0
    }

    /// Whether one more entry of `bytes` is one too many.
    pub(super) fn is_full(&self, limits: &Limits, bytes: u64) -> bool {
        limits.entries.is_some_and(|limit| self.entries() + 1 > limit) || limits.bytes.is_some_and(|limit| self.bytes() + bytes > limit)
    }

    /// Takes the place of a new entry of `bytes`; the answer is the entry's end.
    pub(super) fn append(&mut self, stream: &Stream, bytes: u64) -> Offset {
        self.next = Offset { entries: self.next.entries + 1, bytes: self.next.bytes + bytes };
        // Nobody is interested.
        if stream.retention != Retention::Limits && self.cursors.is_empty() {
            self.first = self.next;
        }
        self.next
    }

    /// `consumer` has done everything before `to`.
    pub(super) fn ack(&mut self, stream: &Stream, consumer: &str, to: Offset) {
        let Some(cursor) = self.cursors.get_mut(consumer) else { return };
        if to.entries <= cursor.at.entries || to.entries > self.next.entries {
            return;
        }
        *cursor = StreamCursor { at: to, ..StreamCursor::default() };
        if stream.retention != Retention::Limits {
            let done = self.cursors.values().map(|cursor| cursor.at).min().unwrap_or(self.next);
            self.first = self.first.max(done);
        }
    }

    /// Whether the oldest entries have to go.
    pub(super) fn exceeds(&self, stream: &Stream) -> bool {
        let Limits { entries, bytes, .. } = stream.limits;
        stream.when_full == WhenFull::DropOldest
            && (entries.is_some_and(|limit| self.entries() > limit) || bytes.is_some_and(|limit| self.bytes() > limit))
    }

    /// Whether `oldest`, the oldest entry kept, has to go.
    pub(super) fn has_outlived(&self, stream: &Stream, oldest: &Entry, now: u64) -> bool {
        let too_old = stream.limits.age.is_some_and(|age| oldest.appended.saturating_add(age.as_millis() as u64) <= now);
        too_old || self.exceeds(stream)
    }

    /// Drops what lies before `to`; the answer is how many entries a consumer had not acknowledged.
    pub(super) fn drop_before(&mut self, to: Offset) -> u64 {
        if to.entries <= self.first.entries {
            return 0;
        }
        let done = self.cursors.values().map(|cursor| cursor.at).min().unwrap_or(to);
        let missed = to.entries.saturating_sub(done.entries.max(self.first.entries));
        self.first = to;
        for cursor in self.cursors.values_mut().filter(|cursor| cursor.at < to) {
            *cursor = StreamCursor { at: to, ..StreamCursor::default() };
        }
        missed
    }
}
