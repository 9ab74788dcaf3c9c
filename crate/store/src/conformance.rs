//! What every store must do, checked against a `BTreeMap`. The same suite runs in memory, on redb,
//! and on IndexedDB in a browser.
//!
//! A [`Script`] is a list of steps made from small numbers. Natively a property test gives them. In
//! a browser, where there is no library for that, a seed does. Each check panics with the script's
//! step and the seed.

use crate::{Batch, Bytes, ChunkId, CrashPoint, Direction, Fault, Faults, LARGEST_CHUNK, LocalBoxFuture, Op, Store, StoreError};
use futures_util::{FutureExt, future::join};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

/// Where a store under test keeps its data. It is opened again and again.
pub trait Storage {
    /// The store under test.
    type Store: Store;

    /// Opens the store on what the last one left.
    fn open(&self, faults: Faults) -> LocalBoxFuture<'_, Result<Self::Store, StoreError>>;

    /// Waits for what the store does in the background.
    fn settle<'a>(&'a self, store: &'a Self::Store) -> LocalBoxFuture<'a, ()> {
        let _ = store;
        Box::pin(std::future::ready(()))
    }
}

/// One step of a script: what to do and three numbers that choose how.
pub type Raw = [u16; 4];

/// A list of steps and where it came from.
#[derive(Clone, Debug)]
pub struct Script {
    steps: Vec<Step>,
    origin: String,
}

#[derive(Clone, Debug)]
enum Step {
    /// Commits a batch and waits for it.
    Commit(Batch),
    /// Submits a batch and goes on.
    Submit(Batch),
    /// Waits until all is durable.
    Barrier,
    Get(Vec<Vec<u8>>),
    Scan(Range<Vec<u8>>, Direction, usize),
    Reopen,
}

type Model = BTreeMap<Bytes, Bytes>;

/// Keys that share prefixes or are prefixes of each other, and some that are empty, long or
/// extreme.
fn key(number: u16) -> Vec<u8> {
    match number % 61 {
        0 => Vec::new(),
        1 => vec![0],
        2 => vec![0xff; 3],
        3 => vec![b'k'; 300],
        n if n < 20 => format!("room/{}/{}", n % 3, number / 61 % 23).into_bytes(),
        n if n < 40 => vec![b'r', (number % 256) as u8],
        n => format!("event/{:04}", n * 7 + number / 61 % 5).into_bytes(),
    }
}

fn value(number: u16) -> Vec<u8> {
    let length = match number % 29 {
        0 => 0,
        1 => 5_000 + usize::from(number % 7_000),
        2 => 40_000,
        3 if number.is_multiple_of(5) => 90_000,
        n => usize::from(n) * 4,
    };
    (0..length).map(|at| (at as u16).wrapping_mul(31).wrapping_add(number) as u8).collect()
}

fn range(a: u16, b: u16) -> Range<Vec<u8>> {
    let (a, b) = (key(a), key(b));
    if a <= b { a..b } else { b..a }
}

fn batch([_, a, b, c]: Raw) -> Batch {
    let mut batch = Batch::new();
    let mut number = u32::from(a) << 16 | u32::from(b);
    for _ in 0..=c % 5 {
        // A linear congruential step, so that neighbouring numbers of a shrunk case still give
        // different operations.
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (x, y) = ((number >> 16) as u16, number as u16);
        match number >> 8 & 15 {
            0..10 => batch.put(key(x), value(y)),
            10..14 => batch.delete(key(x)),
            14 => batch.delete_range(range(x, x.wrapping_add(y % 40))),
            _ => batch.delete_range(range(x, y)),
        }
    }
    batch
}

impl Script {
    /// The script that these numbers stand for.
    pub fn new(raw: &[Raw]) -> Self {
        Self { steps: raw.iter().map(|raw| Step::new(*raw)).collect(), origin: format!("{} given steps", raw.len()) }
    }

    /// A script of `length` steps drawn from `seed`.
    pub fn from_seed(seed: u64, length: usize) -> Self {
        let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            [state as u16, (state >> 16) as u16, (state >> 32) as u16, (state >> 48) as u16]
        };
        let raw: Vec<Raw> = (0..length).map(|_| draw()).collect();
        Self { origin: format!("seed {seed}, {length} steps"), ..Self::new(&raw) }
    }

    /// The same script for a store that keeps nothing when it is closed.
    pub fn without_reopening(mut self) -> Self {
        self.steps.retain(|step| !matches!(step, Step::Reopen));
        self
    }

    fn batches(&self) -> Vec<Batch> {
        self.steps
            .iter()
            .filter_map(|step| match step {
                Step::Commit(batch) | Step::Submit(batch) => Some(batch.clone()),
                _ => None,
            })
            .collect()
    }
}

impl Step {
    fn new(raw @ [kind, a, b, c]: Raw) -> Self {
        let direction = if c % 2 == 0 { Direction::Forward } else { Direction::Backward };
        match kind % 20 {
            0..6 => Self::Commit(batch(raw)),
            6..11 => Self::Submit(batch(raw)),
            11 => Self::Barrier,
            12..15 => Self::Get((0..=c % 9).map(|n| key(a.wrapping_add(n.wrapping_mul(b)))).collect()),
            15..18 => Self::Scan(range(a, b), direction, usize::from(c % 50)),
            18 => Self::Scan(Vec::new()..vec![0xff; 4], direction, 10_000),
            _ => Self::Reopen,
        }
    }
}

/// What `batch` does to a map.
pub fn apply(model: &mut BTreeMap<Bytes, Bytes>, batch: &Batch) {
    for op in batch.ops() {
        match op {
            Op::Put(key, value) => drop(model.insert(key.clone(), value.clone())),
            Op::Delete(key) => drop(model.remove(key)),
            Op::DeleteRange(range) => model.retain(|key, _| !range.contains(key)),
        }
    }
}

/// Everything in `store`.
pub async fn dump(store: &impl Store) -> Result<BTreeMap<Bytes, Bytes>, StoreError> {
    // A few entries at a time, so that going on from a key is tried too.
    let (mut all, mut start) = (Model::new(), Vec::new());
    loop {
        let piece = store.scan(start..vec![0xff; 5], Direction::Forward, 7).await?;
        let Some((last, _)) = piece.last() else { return Ok(all) };
        start = [last.as_ref(), &[0]].concat();
        all.extend(piece);
    }
}

/// Runs `script` and compares every answer with the model.
pub async fn behaves_like_a_map(storage: &impl Storage, script: &Script) {
    let origin = &script.origin;
    let mut store = storage.open(Faults::default()).await.expect("the store opens");
    let mut model = dump(&store).await.expect("a readable store");
    let mut waiting = Vec::new();
    for (at, step) in script.steps.iter().enumerate() {
        let place = || format!("{origin}, step {at}");
        match step {
            Step::Commit(batch) => {
                apply(&mut model, batch);
                store.commit(batch.clone()).await.unwrap_or_else(|error| panic!("{}: {error}", place()));
            }
            Step::Submit(batch) => {
                apply(&mut model, batch);
                waiting.push(store.commit(batch.clone()));
            }
            Step::Barrier => store.barrier().await.unwrap_or_else(|error| panic!("{}: {error}", place())),
            Step::Get(keys) => {
                let wanted: Vec<_> = keys.iter().map(|key| model.get(key.as_slice()).cloned()).collect();
                assert_eq!(store.get_many(keys).await, Ok(wanted), "{}: get_many({keys:?})", place());
            }
            Step::Scan(range, direction, limit) => {
                let wanted = scan_model(&model, range, *direction, *limit);
                let found = store.scan(range.clone(), *direction, *limit).await;
                assert_eq!(found, Ok(wanted), "{}: scan({range:?}, {direction:?}, {limit})", place());
            }
            Step::Reopen => {
                store.close().await.unwrap_or_else(|error| panic!("{}: {error}", place()));
                assert_eq!(store.get_many(&[vec![1]]).await, Err(StoreError::Closed), "{}: a closed store answers", place());
                drop(store);
                for commit in waiting.drain(..) {
                    assert_eq!(commit.await, Ok(()), "{}: what was submitted before close", place());
                }
                store = storage.open(Faults::default()).await.unwrap_or_else(|error| panic!("{}: {error}", place()));
            }
        }
    }
    store.barrier().await.expect("all written");
    assert_eq!(dump(&store).await, Ok(model), "{origin}: at the end");
    store.close().await.expect("closes");
}

fn scan_model(model: &Model, range: &Range<Vec<u8>>, direction: Direction, limit: usize) -> Vec<(Bytes, Bytes)> {
    let inside = model.iter().filter(|(key, _)| range.start.as_slice() <= key.as_ref() && key.as_ref() < range.end.as_slice());
    let inside = inside.map(|(key, value)| (key.clone(), value.clone()));
    match direction {
        Direction::Forward => inside.take(limit).collect(),
        Direction::Backward => inside.rev().take(limit).collect(),
    }
}

/// Runs the batches of `script` once for each crash point that they come to. Each run crashes there
/// and opens again. What is there then must be the result of a prefix of the batches, and every
/// acknowledged batch must be in that prefix.
///
/// `fresh` makes empty storage for each run. Returns the points that were hit.
pub async fn survives_crashes<G: Storage>(fresh: impl AsyncFn() -> G, script: &Script, together: usize) -> BTreeSet<CrashPoint> {
    let (batches, mut hit) = (script.batches(), BTreeSet::new());
    for nth in 0.. {
        let storage = fresh().await;
        let (faults, crashed) = crash_at_nth(nth);
        let acknowledged = Cell::new(0);
        let mut submitted = 0;
        if let Ok(store) = storage.open(faults).await {
            for group in batches.chunks(together.max(1)) {
                let waiting: Vec<_> = group.iter().map(|batch| store.commit(batch.clone())).collect();
                submitted += group.len();
                for commit in waiting {
                    if commit.await.is_ok() {
                        acknowledged.set(acknowledged.get() + 1);
                    }
                }
                if crashed.lock().is_ok_and(|point| point.is_some()) {
                    break;
                }
            }
            storage.settle(&store).await;
            if crashed.lock().is_ok_and(|point| point.is_none()) {
                store.close().await.expect("closes");
            }
        }
        let point = crashed.lock().ok().and_then(|point| *point);
        let store = storage.open(Faults::default()).await.expect("opens after a crash");
        let found = dump(&store).await.expect("readable after a crash");
        let fits = prefixes(&batches[..submitted]).skip(acknowledged.get()).any(|model| model == found);
        assert!(
            fits,
            "{}: crash {nth} at {point:?}, {} of {submitted} acknowledged: no prefix of the batches gives this",
            script.origin,
            acknowledged.get()
        );
        store.close().await.expect("closes");
        match point {
            Some(point) => hit.insert(point),
            None => return hit,
        };
    }
    hit
}

fn crash_at_nth(nth: u32) -> (Faults, Arc<Mutex<Option<CrashPoint>>>) {
    let (crashed, seen) = (Arc::new(Mutex::new(None)), AtomicU32::new(0));
    let told = crashed.clone();
    let faults = Faults::new(move |point| {
        let mut told = told.lock().ok()?;
        if told.is_some() {
            return Some(Fault::Crash);
        }
        (seen.fetch_add(1, Ordering::SeqCst) == nth).then(|| {
            *told = Some(point);
            Fault::Crash
        })
    });
    (faults, crashed)
}

/// The map after no batch, after the first, after the first two, and so on.
fn prefixes(batches: &[Batch]) -> impl Iterator<Item = Model> {
    let mut model = Model::new();
    std::iter::once(Model::new()).chain(batches.iter().map(move |batch| {
        apply(&mut model, batch);
        model.clone()
    }))
}

/// Lets every write fail in turn. The batch, and all that were submitted after it, must be refused
/// as a whole, and reads must go back to what is durable.
pub async fn rolls_back_failed_writes<G: Storage>(fresh: impl AsyncFn() -> G, script: &Script) {
    let batches = script.batches();
    for (nth, point) in (0..batches.len() as u32).flat_map(|nth| [(nth, CrashPoint::BeforePut), (nth, CrashPoint::BetweenPutAndCommit)]) {
        let storage = fresh().await;
        let seen = AtomicU32::new(0);
        let store = storage.open(fail_at(point, nth, seen)).await.expect("opens");
        let place = format!("{}: write {nth} fails at {point:?}", script.origin);
        let mut model = Model::new();
        for batch in &batches {
            let generation = store.generation();
            let mut with_it = batch.clone();
            with_it.append(Batch::since(generation));
            let mut mine = store.commit(with_it);
            let at_once = (&mut mine).now_or_never();
            // Another thread may also have been quick to fail.
            if let Some(Err(refused)) = at_once.clone().filter(|_| store.generation() == generation) {
                // A full memtable could not be written, so what would make the log grow is refused
                // at once. Nothing of it was visible.
                assert_eq!(refused, made_up(), "{place}");
                assert_eq!(dump(&store).await.as_ref(), Ok(&model), "{place}");
                continue;
            }
            let later = store.commit(Batch::since(generation));
            let result = if let Some(done) = at_once { done } else { mine.await };
            match result {
                Ok(()) => apply(&mut model, batch),
                Err(error) => {
                    assert_eq!(error, made_up(), "{place}");
                    assert_eq!(store.generation(), generation + 1, "{place}");
                    assert!(later.await.is_err() || batch.is_empty(), "{place}: a batch after it was not refused");
                    let mut late = Batch::since(generation);
                    late.put("late", "late");
                    assert_eq!(store.commit(late).await, Err(StoreError::RolledBack), "{place}");
                }
            }
            assert_eq!(dump(&store).await.as_ref(), Ok(&model), "{place}");
        }
        store.close().await.expect("closes");
        let store = storage.open(Faults::default()).await.expect("opens again");
        assert_eq!(dump(&store).await, Ok(model), "{place}, opened again");
        store.close().await.expect("closes");
    }
}

fn fail_at(point: CrashPoint, nth: u32, seen: AtomicU32) -> Faults {
    Faults::new(move |met| (met == point && seen.fetch_add(1, Ordering::SeqCst) == nth).then_some(Fault::Fail(made_up())))
}

fn made_up() -> StoreError {
    StoreError::Platform("made up".into())
}

/// A chunk of this length that differs from others.
fn chunk(number: u8, length: usize) -> (ChunkId, Bytes) {
    let bytes: Vec<u8> = (0..length).map(|at| (at as u32).wrapping_mul(2_654_435_761).rotate_left(at as u32 >> 10) as u8 ^ number).collect();
    ([number; 32], bytes.into())
}

async fn stored(store: &impl Store, (id, bytes): &(ChunkId, Bytes)) -> Option<Bytes> {
    store.chunks().read(*id, 0..bytes.len() as u32).await.expect("a chunk is readable or not there")
}

/// Puts chunks, reads them in parts, deletes some, and opens again. What was put and not deleted
/// must be there as it was.
pub async fn keeps_chunks(storage: &impl Storage) {
    let store = storage.open(Faults::default()).await.expect("the store opens");
    // Shorter than, as long as, and longer than what stores cut them into.
    let lengths = [1, 32 << 10, 59_999, 60_000, 65_536, 65_537, LARGEST_CHUNK];
    let chunks: Vec<_> = lengths.into_iter().zip(1..).map(|(length, number)| chunk(number, length)).collect();
    let absent = chunk(99, 10);
    assert_eq!(store.chunks().bytes(), 0);
    for (id, bytes) in &chunks {
        store.chunks().put(*id, bytes.clone()).await.expect("puts");
    }
    store.commit(batch([0, 1, 2, 3])).await.expect("the map is beside them");
    let map = dump(&store).await.expect("readable");
    // What is there stays, whatever is put under its name.
    store.chunks().put(chunks[0].0, chunks[1].1.clone()).await.expect("puts");
    let all: usize = lengths.iter().sum();
    assert_eq!(store.chunks().bytes(), all as u64);
    assert!(store.stats().bytes_stored > all as u64, "{} of {all} and the map", store.stats().bytes_stored);
    for (id, bytes) in &chunks {
        for part in [0..bytes.len(), 0..1, bytes.len() - 1..bytes.len(), bytes.len() / 3..bytes.len() / 2 + 1, 5..5] {
            if part.end <= bytes.len() {
                let found = store.chunks().read(*id, part.start as u32..part.end as u32).await;
                assert_eq!(found, Ok(Some(bytes.slice(part.clone()))), "{part:?} of {}", bytes.len());
            }
        }
        assert!(store.chunks().read(*id, 0..bytes.len() as u32 + 1).await.is_err(), "past the end");
    }
    assert_eq!(stored(&store, &absent).await, None);
    store.chunks().delete(vec![absent.0, chunks[2].0, chunks[6].0]).await.expect("deletes");
    let rest = (all - lengths[2] - lengths[6]) as u64;
    assert_eq!(store.chunks().bytes(), rest);
    // Two uploads of one file are counted once, and so are two deletions.
    for _ in 0..2 {
        let put = || store.chunks().put(absent.0, absent.1.clone());
        assert_eq!(join(put(), put()).await, (Ok(()), Ok(())));
        assert_eq!(store.chunks().bytes(), rest + 10, "put twice at once");
        let delete = || store.chunks().delete(vec![absent.0]);
        assert_eq!(join(delete(), delete()).await, (Ok(()), Ok(())));
        assert_eq!(store.chunks().bytes(), rest, "deleted twice at once");
    }
    store.close().await.expect("closes");
    assert_eq!(store.chunks().put(absent.0, absent.1.clone()).await, Err(StoreError::Closed));
    assert_eq!(store.chunks().read(absent.0, 0..1).await, Err(StoreError::Closed));
    drop(store);
    let store = storage.open(Faults::default()).await.expect("opens again");
    // They are counted before this is done.
    store.chunks().delete(vec![absent.0]).await.expect("there is nothing to delete");
    assert_eq!(store.chunks().bytes(), rest);
    for (at, chunk) in chunks.iter().enumerate() {
        let is_there = stored(&store, chunk).await.inspect(|found| assert!(*found == chunk.1, "chunk {at} is another"));
        assert_eq!(is_there.is_some(), at != 2 && at != 6, "chunk {at}");
    }
    assert_eq!(dump(&store).await, Ok(map), "the map is what it was");
    store.close().await.expect("closes");
}

/// Crashes at each point of two puts, two deletions and a put. A chunk must be there as a whole or
/// not at all, and what was acknowledged must be true.
pub async fn chunks_survive_crashes<G: Storage>(fresh: impl AsyncFn() -> G) -> BTreeSet<CrashPoint> {
    let [first, second] = [chunk(1, 100_000), chunk(2, 70_000)];
    let mut hit = BTreeSet::new();
    for nth in 0.. {
        let storage = fresh().await;
        let (faults, crashed) = crash_at_nth(nth);
        // Whether each chunk was said to be there, and what a change that was not answered may have
        // made of it.
        let (mut sure, mut possible) = ([false, false], [false, false]);
        if let Ok(store) = storage.open(faults).await {
            for (at, wanted) in [(0, true), (1, true), (0, false), (1, false), (1, true)] {
                let (id, bytes) = [&first, &second][at];
                possible[at] = wanted;
                let done = if wanted { store.chunks().put(*id, bytes.clone()).await } else { store.chunks().delete(vec![*id]).await };
                if done.is_err() {
                    break;
                }
                sure[at] = wanted;
            }
            if crashed.lock().is_ok_and(|point| point.is_none()) {
                store.close().await.expect("closes");
            }
        }
        let point = crashed.lock().ok().and_then(|point| *point);
        let store = storage.open(Faults::default()).await.expect("opens after a crash");
        for (at, chunk) in [&first, &second].into_iter().enumerate() {
            let found = stored(&store, chunk).await;
            assert!(found.as_ref().is_none_or(|found| *found == chunk.1), "crash {nth} at {point:?}: half a chunk");
            let is_there = found.is_some();
            assert!(is_there == sure[at] || is_there == possible[at], "crash {nth} at {point:?}: chunk {at} is there: {is_there}");
        }
        store.close().await.expect("closes");
        match point {
            Some(point) => hit.insert(point),
            None => return hit,
        };
    }
    hit
}
