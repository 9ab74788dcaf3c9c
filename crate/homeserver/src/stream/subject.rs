//! One subject of a stream: append, take, acknowledge, park.

use super::{
    Ground, ParkedStatus, Stream, WhenFull,
    streams::{PARKED, Shared, subject_of},
};
use crate::{
    host::Host,
    tables::{self, Mark, ParkedEntry, RawBytes, StreamEntry, StreamHead},
};
use ephapse_store::{Batch, Direction, Store, StoreError};
use futures_util::FutureExt;
use std::{cell::RefCell, future::Future, panic::AssertUnwindSafe, rc::Rc};

/// What is kept of an error text.
const LONGEST_ERROR: usize = 500;

/// A subject in use. Between `append` or `ack` and the handing in of their batch there must be no await.
pub struct Subject {
    pub(super) stream: &'static Stream,
    pub(super) key: String,
    pub(super) shared: Rc<Shared>,
    pub(super) head: Rc<RefCell<StreamHead>>,
}

/// The subject holds as much as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full")]
pub struct Full;

/// What there is for a consumer.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing that it has not acknowledged.
    Nothing,
    /// Something that was delivered before and is delivered again not before this time, in ms.
    Later(u64),
    /// Entries, in order.
    Entries(Vec<StreamEntry>),
}

/// How a delivery went.
#[derive(Debug, PartialEq, Eq)]
pub enum Delivered {
    /// There was nothing to deliver.
    Nothing,
    /// There will be at this time, in ms.
    Later(u64),
    /// So many entries were processed and acknowledged.
    Done(usize),
    /// The consumer failed or panicked; the entries will be delivered again.
    Failed(String),
}

impl Subject {
    /// Appends `body` in the batch of the write that causes it; the answer is the entry's number.
    pub fn append(&self, batch: &mut Batch, now: u64, body: Vec<u8>) -> Result<u64, Full> {
        let bytes = body.len() as u64;
        if self.stream.when_full == WhenFull::Refuse && self.head.borrow().is_full(&self.stream.limits, bytes) {
            return Err(Full);
        }
        let mut number = 0;
        self.change(batch, |head, batch| {
            head.reconcile(self.stream);
            number = head.next.entries;
            let entry = StreamEntry { appended: now, end: head.append(self.stream, bytes), body: RawBytes(body) };
            tables::STREAM_ENTRIES.put(batch, &(self.key.clone(), number), &entry);
            0
        });
        Ok(number)
    }

    /// At most `limit` entries from the number `from` on, in order. Reading alone acknowledges nothing.
    pub async fn read(&self, store: &dyn Store, from: u64, limit: usize) -> Result<Vec<StreamEntry>, StoreError> {
        let end = self.head.borrow().next.entries;
        if from >= end {
            return Ok(Vec::new());
        }
        let range = tables::STREAM_ENTRIES.key(&(self.key.clone(), from))..tables::STREAM_ENTRIES.key(&(self.key.clone(), end));
        let found = tables::STREAM_ENTRIES.scan_range(store, range, Direction::Forward, limit).await?;
        Ok(found.into_iter().map(|(_, entry)| entry).collect())
    }

    /// What `consumer` has not acknowledged, at most `limit` entries; for consumers that count deliveries themselves.
    pub async fn pending(&self, store: &dyn Store, consumer: &str, limit: usize) -> Result<Vec<StreamEntry>, StoreError> {
        let Some(from) = self.head.borrow().cursors.get(consumer).map(|cursor| cursor.at.entries) else { return Ok(Vec::new()) };
        self.read(store, from, limit).await
    }

    /// `consumer` has processed everything up to the entry that ends at `to`.
    pub fn ack(&self, batch: &mut Batch, consumer: &str, to: Mark) {
        self.change(batch, |head, _| {
            head.reconcile(self.stream);
            head.ack(self.stream, consumer, to);
            0
        });
    }

    /// Removes everything: the subject's owner is gone. Parked entries stay to be seen.
    pub fn clear(&self, batch: &mut Batch) {
        self.shared.cleared.set(self.shared.cleared.get() + 1);
        self.change(batch, |head, _| {
            let end = head.next;
            for cursor in head.cursors.values_mut() {
                cursor.at = end;
            }
            head.drop_before(end)
        });
    }

    /// What `consumer` is to process next, counted as delivered (durably, before this returns): once the whole of it, and after that, when it was not
    /// acknowledged, one entry at a time and later each time, until the entry is parked.
    pub async fn take(&self, ground: &dyn Ground, consumer: &str, now: u64, limit: usize) -> Result<Taken, StoreError> {
        loop {
            let (cursor, lag) = {
                let head = self.head.borrow();
                (head.cursors.get(consumer).cloned().unwrap_or_default(), head.lag(consumer))
            };
            if lag == 0 {
                return Ok(Taken::Nothing);
            }
            let redelivery = self.stream.redelivery;
            let due = match cursor.deliveries {
                0 => 0,
                deliveries => cursor.delivered.saturating_add(redelivery.delay(deliveries).as_millis() as u64),
            };
            let is_poison = redelivery.attempts.is_some_and(|attempts| cursor.deliveries >= attempts);
            if now < due && !is_poison {
                return Ok(Taken::Later(due));
            }
            let alone = cursor.deliveries > 0;
            let entries = self.read(ground.store(), cursor.at.entries, if alone { 1 } else { limit }).await?;
            if self.head.borrow().cursors.get(consumer) != Some(&cursor) {
                continue;
            }
            let Some(first) = entries.first() else { return Ok(Taken::Nothing) };
            let mut batch = Batch::new();
            if is_poison {
                let error = cursor.error.unwrap_or_else(|| "its consumer never came back".to_owned());
                self.park(&mut batch, consumer, ParkedEntry { entry: first.clone(), deliveries: cursor.deliveries, error, parked: now });
                ground.submit(batch)?.await?;
                continue;
            }
            self.change(&mut batch, |head, _| {
                if let Some(cursor) = head.cursors.get_mut(consumer) {
                    cursor.deliveries += 1;
                    cursor.delivered = now;
                }
                0
            });
            ground.submit(batch)?.await?;
            return Ok(Taken::Entries(entries));
        }
    }

    /// `consumer` could not process what it took, and says why; it gets it again.
    pub fn failed(&self, batch: &mut Batch, consumer: &str, error: &str) {
        let error: String = error.chars().take(LONGEST_ERROR).collect();
        self.change(batch, |head, _| {
            if let Some(cursor) = head.cursors.get_mut(consumer) {
                cursor.error = Some(error);
            }
            0
        });
    }

    /// Takes, lets `process` do its work, and acknowledges or says what went wrong; a panic is one of the things that go wrong.
    pub async fn deliver<F, A>(&self, ground: &dyn Ground, host: &dyn Host, consumer: &str, limit: usize, process: F) -> Result<Delivered, StoreError>
    where
        F: FnOnce(Vec<StreamEntry>) -> A,
        A: Future<Output = Result<(), String>>,
    {
        let entries = match self.take(ground, consumer, host.now(), limit).await? {
            Taken::Nothing => return Ok(Delivered::Nothing),
            Taken::Later(due) => return Ok(Delivered::Later(due)),
            Taken::Entries(entries) => entries,
        };
        let (count, end) = (entries.len(), entries.last().map(|entry| entry.end).unwrap_or_default());
        let outcome = AssertUnwindSafe(async { process(entries).await }).catch_unwind().await;
        let mut batch = Batch::new();
        let delivered = match outcome.unwrap_or_else(|_| Err("its consumer panicked".to_owned())) {
            Ok(()) => {
                self.ack(&mut batch, consumer, end);
                Delivered::Done(count)
            }
            Err(error) => {
                self.failed(&mut batch, consumer, &error);
                Delivered::Failed(error)
            }
        };
        ground.submit(batch)?.await?;
        Ok(delivered)
    }

    fn park(&self, batch: &mut Batch, consumer: &str, parked: ParkedEntry) {
        let (number, end) = (parked.entry.end.entries - 1, parked.entry.end);
        let key = |key: String, consumer: &str, number| (self.stream.name.to_owned(), key, consumer.to_owned(), number);
        tables::STREAM_PARKED.put(batch, &key(self.key.clone(), consumer, number), &parked);
        self.shared.remember_totals();
        let mut all = self.shared.parked.borrow_mut();
        let kept = Rc::make_mut(all.entry(self.stream.name).or_default());
        kept.push(ParkedStatus::of(subject_of(self.stream, &self.key), consumer, number, &parked));
        for old in kept.drain(..kept.len().saturating_sub(PARKED)) {
            tables::STREAM_PARKED.delete(batch, &key(format!("{}/{}", self.stream.name, old.subject), &old.consumer, old.position));
        }
        drop(all);
        if let Some(totals) = self.shared.totals.borrow_mut().get_mut(self.stream.name) {
            totals.parked += 1;
        }
        self.ack(batch, consumer, end);
    }

    /// Drops those of `oldest` that have to go; the answer is how many.
    pub(super) fn drop_outlived(&self, batch: &mut Batch, oldest: &[StreamEntry], now: u64) -> usize {
        let mut dropped = 0;
        self.change(batch, |head, _| {
            let mut missed = 0;
            for entry in oldest {
                // An entry that was acknowledged meanwhile is gone already.
                if entry.end.entries > head.first.entries {
                    if !head.has_outlived(self.stream, entry, now) {
                        break;
                    }
                    missed += head.drop_before(entry.end);
                }
                dropped += 1;
            }
            missed
        });
        dropped
    }

    /// Changes the head in memory and in `batch`, and what follows from it; `change` answers how many entries were dropped unacknowledged.
    fn change(&self, batch: &mut Batch, change: impl FnOnce(&mut StreamHead, &mut Batch) -> u64) {
        // What stands on this head's reads must not be written once they are lost.
        batch.append(Batch::since(self.shared.generation));
        let mut head = self.head.borrow_mut();
        let before = head.clone();
        let dropped = change(&mut head, batch);
        if *head == before {
            return;
        }
        self.shared.writes.set(self.shared.writes.get() + 1);
        self.shared.remember_totals();
        self.shared.remember_head(&self.head, before.clone());
        if head.first.entries > before.first.entries {
            let key = |number| tables::STREAM_ENTRIES.key(&(self.key.clone(), number));
            batch.delete_range(key(before.first.entries)..key(head.first.entries));
        }
        let mut all = self.shared.totals.borrow_mut();
        let totals = all.entry(self.stream.name).or_default();
        totals.dropped += dropped;
        let moved = |total: &mut u64, before: u64, after: u64| *total = (*total + after).saturating_sub(before);
        moved(&mut totals.entries, before.entries(), head.entries());
        moved(&mut totals.bytes, before.bytes(), head.bytes());
        moved(&mut totals.subjects, u64::from(!before.is_empty()), u64::from(!head.is_empty()));
        for name in self.stream.consumers {
            moved(totals.lag.entry((*name).to_owned()).or_default(), before.lag(name), head.lag(name));
        }
        if head.is_empty() {
            totals.floor = totals.floor.max(head.next.entries);
            tables::STREAM_HEADS.delete(batch, &self.key);
        } else {
            tables::STREAM_HEADS.put(batch, &self.key, &head);
        }
        tables::STREAM_TOTALS.put(batch, &self.stream.name.to_owned(), totals);
    }
}
