//! Every stream of an application, and the heads of the subjects in use.
//!
//! A head in memory is the newest one: whoever appends or acknowledges changes it there and in the
//! transaction in one step; when that is refused, the change is taken back. Heads are dropped when
//! nobody uses them, and all at once when a write fails.

use super::{DeadLetterStatus, Prefixes, Stream, StreamStatus, StreamStore, Subject};
use crate::stored::{StreamHead, StreamTotals, Tables};
use ephapse_store::{Direction, Reader, StoreError, Submitted, Transaction};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    ops::Range,
    rc::{Rc, Weak},
};

/// Dead letters of a stream that are kept: the newest.
pub(super) const DEAD_LETTERS_KEPT: usize = 100;

/// The dead letters of each stream, oldest first.
pub(super) type DeadLetters = BTreeMap<&'static str, Rc<Vec<DeadLetterStatus>>>;

/// Entries that one trimming step looks at.
const TRIMMED: usize = 64;

/// The streams of an application.
pub struct Streams {
    tables: Rc<Tables>,
    streams: &'static [&'static Stream],
    shared: RefCell<Rc<Shared>>,
}

/// What belongs to one generation of the store: when a write fails, all of it is replaced.
pub(super) struct Shared {
    pub(super) tables: Rc<Tables>,
    pub(super) generation: u64,
    pub(super) totals: RefCell<BTreeMap<&'static str, StreamTotals>>,
    pub(super) dead_letters: RefCell<DeadLetters>,
    heads: RefCell<HashMap<String, Weak<RefCell<StreamHead>>>>,
    /// How many heads were written, so that one that was read meanwhile is known to be stale.
    pub(super) writes: Cell<u64>,
    /// How many subjects were cleared.
    pub(super) cleared: Cell<u64>,
}

impl Streams {
    /// The streams that a store holds at some prefixes; `now` is what [`StreamStore::now`] will
    /// say.
    ///
    /// # Errors
    /// What the store says.
    pub async fn open(store: &Reader, prefixes: Prefixes, streams: &'static [&'static Stream], now: u64) -> Result<Self, StoreError> {
        let tables = Rc::new(Tables::new(prefixes));
        let shared = Shared::load(&tables, store, streams, now).await?;
        Ok(Self { tables, streams, shared: RefCell::new(shared) })
    }

    /// Reads anew what memory holds: for after a panic between a change and its commit. After a
    /// failed write that is done unasked.
    ///
    /// # Errors
    /// What the store says.
    pub async fn reload(&self, store: &dyn StreamStore) -> Result<(), StoreError> {
        let shared = self.shared.borrow().clone();
        if shared.generation == store.reader().generation() {
            return shared.refresh(store.reader(), self.streams, store.now()).await;
        }
        self.current(store).await.map(drop)
    }

    /// What belongs to the store's generation.
    async fn current(&self, store: &dyn StreamStore) -> Result<Rc<Shared>, StoreError> {
        loop {
            let shared = self.shared.borrow().clone();
            if shared.generation == store.reader().generation() {
                return Ok(shared);
            }
            let loaded = Shared::load(&self.tables, store.reader(), self.streams, store.now()).await?;
            // Somebody else may have loaded the same meanwhile and use subjects of it: each has one
            // head.
            if loaded.generation == store.reader().generation() && loaded.generation != self.shared.borrow().generation {
                self.shared.replace(loaded);
            }
        }
    }

    /// A subject of a stream, within its limits, to append to and consume from. It need not have
    /// anything yet.
    ///
    /// It is good for as long as no write fails. What is staged with one that is older is refused
    /// with [`StoreError::RolledBack`]: begin anew, with another.
    ///
    /// # Errors
    /// What the store says.
    ///
    /// # Panics
    /// If the stream is none of those that were opened: its numbers would be given twice.
    pub async fn subject(&self, store: &dyn StreamStore, stream: &'static Stream, name: &str) -> Result<Subject, StoreError> {
        assert!(self.streams.iter().any(|opened| opened.name == stream.name), "the stream `{}` was not opened", stream.name);
        let shared = self.current(store).await?;
        let key = format!("{}/{name}", stream.name);
        let head = shared.head(store.reader(), stream, &key).await?;
        let subject = Subject { stream, key, shared, head };
        while trim(&subject, store).await? {}
        Ok(subject)
    }

    /// The names of the subjects that hold something, in their order: at most `limit` of them, and
    /// only those after `after`. So a consumer finds after a restart what waits for it.
    ///
    /// # Errors
    /// What the store says.
    pub async fn subjects(&self, store: &dyn StreamStore, stream: &Stream, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        let mut range = heads_of(&self.tables, stream);
        if let Some(after) = after {
            range.start = self.tables.heads.key(&format!("{}/{after}", stream.name));
            // The first key after it.
            range.start.push(0);
        }
        let found = self.tables.heads.scan_range(store.reader(), range, Direction::Forward, limit).await?;
        Ok(found.iter().map(|(key, _)| subject_of(stream, key).to_owned()).collect())
    }

    /// Drops what is too old, also of subjects that nobody uses any more. `pause` is awaited after
    /// each piece of the work, so that others can go on in between.
    ///
    /// # Errors
    /// What the store says.
    pub async fn forget_old(&self, store: &dyn StreamStore, pause: impl AsyncFn()) -> Result<(), StoreError> {
        for stream in self.streams.iter().filter(|stream| stream.limits.age.is_some()) {
            let Range { start: mut from, end } = heads_of(&self.tables, stream);
            loop {
                let page = self.tables.heads.scan_range(store.reader(), from..end.clone(), Direction::Forward, TRIMMED).await?;
                for (key, _) in &page {
                    let shared = self.current(store).await?;
                    let head = shared.head(store.reader(), stream, key).await?;
                    let subject = Subject { stream, key: key.clone(), shared, head };
                    while trim(&subject, store).await? {
                        pause().await;
                    }
                    pause().await;
                }
                let Some((last, _)) = page.last() else { break };
                from = self.tables.heads.key(last);
                // The first key after it.
                from.push(0);
            }
        }
        Ok(())
    }

    /// How many subjects were cleared ([`Subject::clear`]) since the last failed write. Who reads
    /// whether a subject's owner is there reads again when it has grown.
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
    async fn load(tables: &Rc<Tables>, store: &Reader, streams: &[&'static Stream], now: u64) -> Result<Rc<Self>, StoreError> {
        let generation = store.generation();
        let totals = RefCell::new(stored_totals(tables, store, streams, now).await?);
        let dead_letters = RefCell::new(stored_dead_letters(tables, store, streams).await?);
        Ok(Rc::new(Self {
            tables: tables.clone(),
            generation,
            totals,
            dead_letters,
            heads: RefCell::default(),
            writes: Cell::new(0),
            cleared: Cell::new(0),
        }))
    }

    /// The totals, or the dead letters, are about to change.
    pub(super) fn change_totals(self: &Rc<Self>, tx: &mut dyn Transaction) {
        tx.staged().undo_once(Rc::as_ptr(self) as usize, || {
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
            let totals = stored_totals(&self.tables, store, streams, now).await?;
            let dead_letters = stored_dead_letters(&self.tables, store, streams).await?;
            let stored = self.tables.heads.get_all(store, &keys).await?;
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
            let stored = self.tables.heads.get(store, key).await?;
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

async fn stored_totals(
    tables: &Tables,
    store: &Reader,
    streams: &[&'static Stream],
    now: u64,
) -> Result<BTreeMap<&'static str, StreamTotals>, StoreError> {
    let mut all = BTreeMap::new();
    for stream in streams {
        let totals = match tables.totals.get(store, &stream.name.to_owned()).await {
            Err(error @ StoreError::Unreadable(_)) => {
                store.log_damage(&format_args!("recounting the streams: {error}"));
                counted_totals(tables, store, stream, now).await?
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
async fn counted_totals(tables: &Tables, store: &Reader, stream: &Stream, now: u64) -> Result<StreamTotals, StoreError> {
    let mut totals = StreamTotals { floor: now, ..StreamTotals::default() };
    for (_, head) in tables.heads.scan_range(store, heads_of(tables, stream), Direction::Forward, usize::MAX).await? {
        totals.subjects += 1;
        totals.entries += head.entries();
        totals.bytes += head.bytes();
        for name in stream.consumers {
            *totals.lag.entry((*name).to_owned()).or_default() += head.lag(name);
        }
    }
    let dead_letters = tables.dead_letters.scan(store, &stream.name.to_owned(), Direction::Forward, usize::MAX).await?;
    totals.dead_letters = dead_letters.len() as u64;
    Ok(totals)
}

async fn stored_dead_letters(tables: &Tables, store: &Reader, streams: &[&'static Stream]) -> Result<DeadLetters, StoreError> {
    let mut all = DeadLetters::new();
    for stream in streams.iter().filter(|stream| stream.redelivery.attempts.is_some()) {
        let found = tables.dead_letters.scan(store, &stream.name.to_owned(), Direction::Forward, usize::MAX).await?;
        let found = found.into_iter();
        let mut dead_letters: Vec<DeadLetterStatus> =
            found.map(|((_, key, consumer, number), entry)| DeadLetterStatus::of(subject_of(stream, &key), &consumer, number, &entry)).collect();
        dead_letters.sort_by_key(|entry| entry.given_up);
        all.insert(stream.name, Rc::new(dead_letters));
    }
    Ok(all)
}

/// The keys of a stream's heads.
fn heads_of(tables: &Tables, stream: &Stream) -> Range<Vec<u8>> {
    let [from, end] = ["/", "0"].map(|after| tables.heads.key(&format!("{}{after}", stream.name)));
    from..end
}

/// The name of a subject, as [`Streams::subject`] takes it, in its key.
pub(super) fn subject_of<'a>(stream: &Stream, key: &'a str) -> &'a str {
    key.strip_prefix(stream.name).and_then(|rest| rest.strip_prefix('/')).unwrap_or(key)
}

/// Drops some of the oldest entries when there are too many or they are too old; says whether there
/// may be more to drop.
async fn trim(subject: &Subject, store: &dyn StreamStore) -> Result<bool, StoreError> {
    let (first, exceeds) = {
        let head = subject.head.borrow();
        let exceeds = head.exceeds(subject.stream);
        if head.is_empty() || !exceeds && subject.stream.limits.age.is_none() {
            return Ok(false);
        }
        (head.first.entries, exceeds)
    };
    let now = store.now();
    // Where there are not too many, most often not even one is too old.
    let mut oldest = subject.read(store.reader(), first, if exceeds { TRIMMED } else { 1 }).await?;
    if !exceeds && oldest.first().is_some_and(|oldest| subject.head.borrow().has_outlived(subject.stream, oldest, now)) {
        oldest = subject.read(store.reader(), first, TRIMMED).await?;
    }
    let mut dropped = 0;
    let written = store.write(subject.shared.generation, &mut |tx| dropped = subject.drop_outlived(tx, &oldest, now));
    // Nobody waits for it: it is written before whatever is appended next, or fails with it.
    // Refused, it is tried again next time.
    let taken = written.map(Submitted::visible).is_ok();
    Ok(taken && dropped > 0 && dropped == oldest.len())
}
