//! One subject of a stream: append, take, acknowledge, give up.

use super::{
    DeadLetterStatus, Entry, Offset, Stream, StreamStore, WhenFull,
    streams::{DEAD_LETTERS_KEPT, Shared, subject_of},
};
use crate::stored::{DeadLetter, StreamHead};
use ephapse_store::{Direction, Reader, StoreError, Transaction};
use futures_util::FutureExt;
use std::{cell::RefCell, future::Future, panic::AssertUnwindSafe, rc::Rc};

/// What is kept of an error text.
const LONGEST_ERROR: usize = 500;

/// A subject in use.
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
    Entries(Vec<Entry>),
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
    /// Appends `body` at `now`, in the transaction of the write that causes it; the answer is the
    /// entry's number.
    ///
    /// # Errors
    /// The subject is full, and its stream says to refuse ([`WhenFull::Refuse`]).
    pub fn append(&self, tx: &mut dyn Transaction, now: u64, body: Vec<u8>) -> Result<u64, Full> {
        let bytes = body.len() as u64;
        if self.stream.when_full == WhenFull::Refuse && self.head.borrow().is_full(&self.stream.limits, bytes) {
            return Err(Full);
        }
        let mut number = 0;
        self.change(tx, |head, tx| {
            head.reconcile(self.stream);
            number = head.next.entries;
            let entry = Entry { appended: now, end: head.append(self.stream, bytes), body };
            self.shared.tables.entries.put(tx, &(self.key.clone(), number), &entry);
            0
        });
        Ok(number)
    }

    /// How many entries it keeps.
    pub fn entries(&self) -> u64 {
        self.head.borrow().entries()
    }

    /// At most `limit` entries from the number `from` on, in order. Reading alone acknowledges
    /// nothing.
    pub async fn read(&self, store: &Reader, from: u64, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let end = self.head.borrow().next.entries;
        if from >= end {
            return Ok(Vec::new());
        }
        let range = self.shared.tables.entries.key(&(self.key.clone(), from))..self.shared.tables.entries.key(&(self.key.clone(), end));
        let found = self.shared.tables.entries.scan_range(store, range, Direction::Forward, limit).await?;
        Ok(found.into_iter().map(|(_, entry)| entry).collect())
    }

    /// What `consumer` has not acknowledged, at most `limit` entries; for consumers that count
    /// deliveries themselves.
    pub async fn pending(&self, store: &Reader, consumer: &str, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let Some(from) = self.head.borrow().cursors.get(consumer).map(|cursor| cursor.at.entries) else { return Ok(Vec::new()) };
        self.read(store, from, limit).await
    }

    /// `consumer` has processed everything up to and including the entry whose [`Entry::end`] is
    /// `to`.
    pub fn ack(&self, tx: &mut dyn Transaction, consumer: &str, to: Offset) {
        self.change(tx, |head, _| {
            head.reconcile(self.stream);
            head.ack(self.stream, consumer, to);
            0
        });
    }

    /// Removes everything: the subject's owner is gone. Dead letters stay to be seen.
    pub fn clear(&self, tx: &mut dyn Transaction) {
        self.shared.cleared.set(self.shared.cleared.get() + 1);
        self.change(tx, |head, _| {
            let end = head.next;
            for cursor in head.cursors.values_mut() {
                cursor.at = end;
            }
            head.drop_before(end)
        });
    }

    /// What `consumer` is to process next, counted as delivered (durably, before this returns):
    /// once the whole of it, and after that, when it was not acknowledged, one entry at a time and
    /// later each time, until the entry is given up.
    pub async fn take(&self, store: &dyn StreamStore, consumer: &str, limit: usize) -> Result<Taken, StoreError> {
        let now = store.now();
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
            let entries = self.read(store.reader(), cursor.at.entries, if alone { 1 } else { limit }).await?;
            if self.head.borrow().cursors.get(consumer) != Some(&cursor) {
                continue;
            }
            let Some(first) = entries.first() else { return Ok(Taken::Nothing) };
            if is_poison {
                let error = cursor.error.unwrap_or_else(|| "the consumer did not finish".to_owned());
                let dead_letter = DeadLetter { entry: first.clone(), deliveries: cursor.deliveries, error, given_up: now };
                store.write(self.shared.generation, &mut |tx| self.give_up(tx, consumer, &dead_letter))?.durable().await?;
                continue;
            }
            let deliver = |head: &mut StreamHead, _: &mut dyn Transaction| {
                if let Some(cursor) = head.cursors.get_mut(consumer) {
                    cursor.deliveries += 1;
                    cursor.delivered = now;
                }
                0
            };
            store.write(self.shared.generation, &mut |tx| self.change(tx, deliver))?.durable().await?;
            return Ok(Taken::Entries(entries));
        }
    }

    /// `consumer` could not process what it took, and says why; it gets it again.
    pub fn failed(&self, tx: &mut dyn Transaction, consumer: &str, error: &str) {
        let error: String = error.chars().take(LONGEST_ERROR).collect();
        self.change(tx, |head, _| {
            if let Some(cursor) = head.cursors.get_mut(consumer) {
                cursor.error = Some(error);
            }
            0
        });
    }

    /// Takes at most `limit` entries, lets `process` do its work, and acknowledges or says what
    /// went wrong; a panic is one of the things that go wrong. Where panics abort, as in the
    /// browser, the entries are delivered again by the next run.
    ///
    /// # Errors
    /// The store did not take the count of the delivery, and nothing was processed; or it did not
    /// take the acknowledgement, and the entries will be delivered again.
    pub async fn deliver<F, A>(&self, store: &dyn StreamStore, consumer: &str, limit: usize, process: F) -> Result<Delivered, StoreError>
    where
        F: FnOnce(Vec<Entry>) -> A,
        A: Future<Output = Result<(), String>>,
    {
        let entries = match self.take(store, consumer, limit).await? {
            Taken::Nothing => return Ok(Delivered::Nothing),
            Taken::Later(due) => return Ok(Delivered::Later(due)),
            Taken::Entries(entries) => entries,
        };
        let (count, end) = (entries.len(), entries.last().map(|entry| entry.end).unwrap_or_default());
        let outcome = AssertUnwindSafe(async { process(entries).await }).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|_| Err("its consumer panicked".to_owned()));
        let note = &mut |tx: &mut dyn Transaction| match &outcome {
            Ok(()) => self.ack(tx, consumer, end),
            Err(error) => self.failed(tx, consumer, error),
        };
        store.write(self.shared.generation, note)?.durable().await?;
        Ok(match outcome {
            Ok(()) => Delivered::Done(count),
            Err(error) => Delivered::Failed(error),
        })
    }

    fn give_up(&self, tx: &mut dyn Transaction, consumer: &str, dead_letter: &DeadLetter) {
        let (number, end) = (dead_letter.entry.number(), dead_letter.entry.end);
        let key = |key: String, consumer: &str, number| (self.stream.name.to_owned(), key, consumer.to_owned(), number);
        self.shared.tables.dead_letters.put(tx, &key(self.key.clone(), consumer, number), dead_letter);
        self.shared.change_totals(tx);
        let mut all = self.shared.dead_letters.borrow_mut();
        let kept = Rc::make_mut(all.entry(self.stream.name).or_default());
        kept.push(DeadLetterStatus::of(subject_of(self.stream, &self.key), consumer, number, dead_letter));
        for old in kept.drain(..kept.len().saturating_sub(DEAD_LETTERS_KEPT)) {
            self.shared.tables.dead_letters.delete(tx, &key(format!("{}/{}", self.stream.name, old.subject), &old.consumer, old.position));
        }
        drop(all);
        if let Some(totals) = self.shared.totals.borrow_mut().get_mut(self.stream.name) {
            totals.dead_letters += 1;
        }
        self.ack(tx, consumer, end);
    }

    /// Drops those of `oldest` that have to go; the answer is how many.
    pub(super) fn drop_outlived(&self, tx: &mut dyn Transaction, oldest: &[Entry], now: u64) -> usize {
        let mut dropped = 0;
        self.change(tx, |head, _| {
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

    /// Changes the head in memory and in `tx`, and what follows from it; `change` answers how many
    /// entries were dropped unacknowledged.
    fn change(&self, tx: &mut dyn Transaction, change: impl FnOnce(&mut StreamHead, &mut dyn Transaction) -> u64) {
        // What stands on this head's reads must not be written once they are lost.
        tx.staged().stands_on(self.shared.generation);
        let mut head = self.head.borrow_mut();
        let before = head.clone();
        let dropped = change(&mut head, tx);
        if *head == before {
            return;
        }
        self.shared.writes.set(self.shared.writes.get() + 1);
        self.shared.change_totals(tx);
        if head.first.entries > before.first.entries {
            let key = |number| self.shared.tables.entries.key(&(self.key.clone(), number));
            self.shared.tables.entries.delete_range(tx, key(before.first.entries)..key(head.first.entries));
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
            self.shared.tables.heads.delete(tx, &self.key);
        } else {
            self.shared.tables.heads.put(tx, &self.key, &head);
        }
        self.shared.tables.totals.put(tx, &self.stream.name.to_owned(), totals);
        drop(all);
        let changed = self.head.clone();
        tx.staged().undo(move || drop(changed.replace(before)));
    }
}
