//! Every stream of a server, and the heads of the subjects in use.
//!
//! A head in memory is the newest one: whoever appends or acknowledges changes it there and in the
//! transaction in one step; when that is refused, the change is taken back. Heads are dropped when
//! nobody uses them, and all at once when a write fails.

use super::{DeadLetterStatus, Stream, StreamStatus, StreamStore, Subject};
use crate::{
    damaged::MayBeDamage,
    host::Host,
    request_log,
    tables::{self, StreamHead, StreamTotals},
    time_slice::TimeSlice,
    transaction::{Submitted, Tx},
};
use ephapse_store::{Direction, Reader, StoreError};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    rc::{Rc, Weak},
};

/// DeadLetter entries of a stream that are kept: the newest.
pub(super) const DEAD_LETTER: usize = 100;

/// The dead letters of each stream, oldest first.
pub(super) type DeadLetter = BTreeMap<&'static str, Rc<Vec<DeadLetterStatus>>>;

/// Entries that one trimming step looks at.
const TRIMMED: usize = 64;

/// The streams of a server.
pub struct Streams {
    streams: &'static [&'static Stream],
    shared: RefCell<Rc<Shared>>,
}

/// What belongs to one generation of the store: when a write fails, all of it is replaced.
pub(super) struct Shared {
    pub(super) generation: u64,
    pub(super) totals: RefCell<BTreeMap<&'static str, StreamTotals>>,
    pub(super) dead_letters: RefCell<DeadLetter>,
    heads: RefCell<HashMap<String, Weak<RefCell<StreamHead>>>>,
    /// How many heads were written, so that one that was read meanwhile is known to be stale.
    pub(super) writes: Cell<u64>,
    /// How many subjects were cleared.
    pub(super) cleared: Cell<u64>,
}

impl Streams {
    /// The streams that `store` holds, at `now`, in ms.
    pub async fn open(store: &Reader, streams: &'static [&'static Stream], now: u64) -> Result<Self, StoreError> {
        Ok(Self { streams, shared: RefCell::new(Shared::load(store, streams, now).await?) })
    }

    /// Reads anew what memory holds: after a failed write, or a panic between a change and its
    /// commit.
    pub async fn reload(&self, store: &Reader, now: u64) -> Result<(), StoreError> {
        let shared = self.shared.borrow().clone();
        if shared.generation == store.generation() {
            return shared.refresh(store, self.streams, now).await;
        }
        self.current(store, now).await.map(drop)
    }

    /// What belongs to the store's generation.
    async fn current(&self, store: &Reader, now: u64) -> Result<Rc<Shared>, StoreError> {
        loop {
            let shared = self.shared.borrow().clone();
            if shared.generation == store.generation() {
                return Ok(shared);
            }
            let loaded = Shared::load(store, self.streams, now).await?;
            // Somebody else may have loaded the same meanwhile and use subjects of it: each has one
            // head.
            if loaded.generation == store.generation() && loaded.generation != self.shared.borrow().generation {
                self.shared.replace(loaded);
            }
        }
    }

    /// A subject of a stream, within its limits, to append to and consume from.
    pub async fn subject(&self, ground: &dyn StreamStore, stream: &'static Stream, name: &str, now: u64) -> Result<Subject, StoreError> {
        let store = ground.store();
        let shared = self.current(store, now).await?;
        let key = format!("{}/{name}", stream.name);
        let head = shared.head(store, stream, &key).await?;
        let subject = Subject { stream, key, shared, head };
        while trim(&subject, ground, now).await? {}
        Ok(subject)
    }

    /// Drops what is too old, also of subjects that nobody uses any more.
    pub async fn forget_old(&self, ground: &dyn StreamStore, host: &dyn Host) -> Result<(), StoreError> {
        let slice = TimeSlice::new(host);
        for stream in self.streams.iter().filter(|stream| stream.limits.age.is_some()) {
            let [mut from, end] = ["/", "0"].map(|after| tables::STREAM_HEADS.key(&format!("{}{after}", stream.name)));
            loop {
                let page = tables::STREAM_HEADS.scan_range(ground.store(), from..end.clone(), Direction::Forward, TRIMMED).await?;
                for (key, _) in &page {
                    let shared = self.current(ground.store(), host.now()).await?;
                    let head = shared.head(ground.store(), stream, key).await?;
                    let subject = Subject { stream, key: key.clone(), shared, head };
                    while trim(&subject, ground, host.now()).await? {
                        slice.step().await;
                    }
                    slice.step().await;
                }
                let Some((last, _)) = page.last() else { break };
                from = tables::STREAM_HEADS.key(last);
                // The first key behind it.
                from.push(0);
            }
        }
        Ok(())
    }

    /// How many subjects were cleared since the last failed write. Who reads whether a subject's
    /// owner is there reads again when it has grown.
    pub fn cleared(&self) -> u64 {
        self.shared.borrow().cleared.get()
    }

    /// What every stream holds.
    pub fn status(&self) -> Vec<StreamStatus> {
        let shared = self.shared.borrow();
        let (totals, dead_letters) = (shared.totals.borrow(), shared.dead_letters.borrow());
        let none = StreamTotals::default();
        let of = |stream: &&Stream| {
            let dead_letters = dead_letters.get(stream.name).map(|dead_letters| dead_letters.as_slice()).unwrap_or_default();
            StreamStatus::of(stream, totals.get(stream.name).unwrap_or(&none), dead_letters)
        };
        self.streams.iter().map(of).collect()
    }
}

impl Shared {
    async fn load(store: &Reader, streams: &[&'static Stream], now: u64) -> Result<Rc<Self>, StoreError> {
        let generation = store.generation();
        let totals = RefCell::new(stored_totals(store, streams, now).await?);
        let dead_letters = RefCell::new(stored_dead_letters(store, streams).await?);
        Ok(Rc::new(Self { generation, totals, dead_letters, heads: RefCell::default(), writes: Cell::new(0), cleared: Cell::new(0) }))
    }

    /// The totals, or the dead letters, are about to change.
    pub(super) fn change_totals(self: &Rc<Self>, tx: &mut Tx) {
        tx.undo_once(Rc::as_ptr(self) as usize, || {
            let (shared, totals, dead_letters) = (self.clone(), self.totals.borrow().clone(), self.dead_letters.borrow().clone());
            move || {
                shared.totals.replace(totals);
                shared.dead_letters.replace(dead_letters);
            }
        });
    }

    /// Makes every head in use, and the totals, what the store says they are.
    async fn refresh(&self, store: &Reader, streams: &[&'static Stream], now: u64) -> Result<(), StoreError> {
        loop {
            let writes = self.writes.get();
            let live: Vec<_> = self.heads.borrow().iter().filter_map(|(key, head)| Some((key.clone(), head.upgrade()?))).collect();
            let keys: Vec<String> = live.iter().map(|(key, _)| key.clone()).collect();
            let totals = stored_totals(store, streams, now).await?;
            let dead_letters = stored_dead_letters(store, streams).await?;
            let stored = tables::STREAM_HEADS.get_all(store, &keys).await?;
            if writes != self.writes.get() {
                continue;
            }
            for ((key, head), stored) in live.iter().zip(stored) {
                let name = key.split('/').next().unwrap_or_default();
                let floor = totals.get(name).map_or(0, |totals| totals.floor);
                *head.borrow_mut() = stored.unwrap_or_else(|| StreamHead::starting_at(floor));
            }
            self.totals.replace(totals);
            self.dead_letters.replace(dead_letters);
            return Ok(());
        }
    }

    async fn head(&self, store: &Reader, stream: &'static Stream, key: &String) -> Result<Rc<RefCell<StreamHead>>, StoreError> {
        loop {
            if let Some(head) = self.heads.borrow().get(key).and_then(Weak::upgrade) {
                return Ok(head);
            }
            let writes = self.writes.get();
            let stored = tables::STREAM_HEADS.get(store, key).await?;
            let known = self.heads.borrow().get(key).and_then(Weak::upgrade).is_some();
            if !known && writes == self.writes.get() {
                return Ok(self.keep(stream, key, stored));
            }
        }
    }

    fn keep(&self, stream: &'static Stream, key: &str, stored: Option<StreamHead>) -> Rc<RefCell<StreamHead>> {
        let floor = self.totals.borrow().get(stream.name).map_or(0, |totals| totals.floor);
        let head = Rc::new(RefCell::new(stored.unwrap_or_else(|| StreamHead::starting_at(floor))));
        let mut heads = self.heads.borrow_mut();
        if heads.len() >= 256 && heads.len().is_power_of_two() {
            heads.retain(|_, head| head.strong_count() > 0);
        }
        heads.insert(key.to_owned(), Rc::downgrade(&head));
        head
    }
}

async fn stored_totals(store: &Reader, streams: &[&'static Stream], now: u64) -> Result<BTreeMap<&'static str, StreamTotals>, StoreError> {
    let mut all = BTreeMap::new();
    for stream in streams {
        let totals = match tables::STREAM_TOTALS.get(store, &stream.name.to_owned()).await {
            Err(error) if error.is_damage() => {
                request_log::error(&format_args!("counted anew: {error}"));
                counted_totals(store, stream, now).await?
            }
            stored => stored?.unwrap_or_default(),
        };
        all.insert(stream.name, totals);
    }
    Ok(all)
}

/// The totals as they follow from what is there; what is gone is not counted any more. No number
/// is given twice, since nobody appends a thousand entries a second for as long as time is counted:
/// all of them are below the time in ms.
async fn counted_totals(store: &Reader, stream: &Stream, now: u64) -> Result<StreamTotals, StoreError> {
    let mut totals = StreamTotals { floor: now, ..StreamTotals::default() };
    let [from, end] = ["/", "0"].map(|after| tables::STREAM_HEADS.key(&format!("{}{after}", stream.name)));
    for (_, head) in tables::STREAM_HEADS.scan_range(store, from..end, Direction::Forward, usize::MAX).await? {
        totals.subjects += 1;
        totals.entries += head.entries();
        totals.bytes += head.bytes();
        for name in stream.consumers {
            *totals.lag.entry((*name).to_owned()).or_default() += head.lag(name);
        }
    }
    let dead_letters = tables::DEAD_LETTERS.scan(store, &stream.name.to_owned(), Direction::Forward, usize::MAX).await?;
    totals.dead_letters = dead_letters.len() as u64;
    Ok(totals)
}

async fn stored_dead_letters(store: &Reader, streams: &[&'static Stream]) -> Result<DeadLetter, StoreError> {
    let mut all = DeadLetter::new();
    for stream in streams.iter().filter(|stream| stream.redelivery.attempts.is_some()) {
        let found = tables::DEAD_LETTERS.scan(store, &stream.name.to_owned(), Direction::Forward, usize::MAX).await?;
        let found = found.into_iter();
        let mut dead_letters: Vec<DeadLetterStatus> =
            found.map(|((_, key, consumer, number), entry)| DeadLetterStatus::of(subject_of(stream, &key), &consumer, number, &entry)).collect();
        dead_letters.sort_by_key(|entry| entry.given_up);
        all.insert(stream.name, Rc::new(dead_letters));
    }
    Ok(all)
}

/// The name of a subject, as [`Streams::subject`] takes it, in its key.
pub(super) fn subject_of<'a>(stream: &Stream, key: &'a str) -> &'a str {
    key.strip_prefix(stream.name).and_then(|rest| rest.strip_prefix('/')).unwrap_or(key)
}

/// Drops some of the oldest entries when there are too many or they are too old; says whether there
/// may be more to drop.
async fn trim(subject: &Subject, ground: &dyn StreamStore, now: u64) -> Result<bool, StoreError> {
    let (first, exceeds) = {
        let head = subject.head.borrow();
        let exceeds = head.exceeds(subject.stream);
        if head.is_empty() || !exceeds && subject.stream.limits.age.is_none() {
            return Ok(false);
        }
        (head.first.entries, exceeds)
    };
    // Where there are not too many, most often not even one is too old.
    let mut oldest = subject.read(ground.store(), first, if exceeds { TRIMMED } else { 1 }).await?;
    if !exceeds && oldest.first().is_some_and(|oldest| subject.head.borrow().has_outlived(subject.stream, oldest, now)) {
        oldest = subject.read(ground.store(), first, TRIMMED).await?;
    }
    let mut dropped = 0;
    let written = ground.write(subject.shared.generation, &mut |tx| dropped = subject.drop_outlived(tx, &oldest, now));
    // Nobody waits for it: it is written before whatever is appended next, or fails with it.
    // Refused, it is tried again next time.
    let taken = written.map(Submitted::visible).is_ok();
    Ok(taken && dropped > 0 && dropped == oldest.len())
}
