//! The conformance suite on redb, and what only a directory can show.

use super::{RedbOptions, RedbStore};
use crate::{
    Batch, CrashPoint, Fault, Faults, LocalBoxFuture, Store, StoreError,
    conformance::{self, Script, Storage},
};
use futures_executor::block_on;
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    future::ready,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::{TempDir, tempdir};

struct OnDisk {
    directory: TempDir,
    log_bytes: u64,
}

impl OnDisk {
    /// Small log files, so that short scripts reach the tables.
    fn new() -> Self {
        Self { directory: tempdir().expect("a directory"), log_bytes: 3_000 }
    }
}

impl Storage for OnDisk {
    type Store = RedbStore;

    fn open(&self, faults: Faults) -> LocalBoxFuture<'_, Result<RedbStore, StoreError>> {
        let options = || RedbOptions { log_bytes: self.log_bytes, cache_bytes: 1 << 20, faults: faults.clone(), ..RedbOptions::default() };
        Box::pin(ready(when_free(|| RedbStore::open_with(self.directory.path(), options()))))
    }
}

/// Opens a directory once it is free. It may be locked a moment longer by its store's threads, or
/// by a process that another test starts, which has our files until it runs its program.
fn when_free(open: impl Fn() -> Result<RedbStore, StoreError>) -> Result<RedbStore, StoreError> {
    let begun = Instant::now();
    loop {
        match open() {
            Err(StoreError::InUse) if begun.elapsed() < Duration::from_secs(10) => sleep(Duration::from_millis(1)),
            opened => return opened,
        }
    }
}

fn put(key: impl Into<Vec<u8>>) -> Batch {
    let mut batch = Batch::new();
    batch.put(key.into(), vec![1; 200]);
    batch
}

fn raw(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<conformance::Raw>> {
    prop::collection::vec(any::<conformance::Raw>(), length)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_map(raw in raw(1..60)) {
        block_on(conformance::behaves_like_a_map(&OnDisk::new(), &Script::new(&raw)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_anywhere_leaves_a_prefix_with_everything_acknowledged(raw in raw(8..24), together in 1..4usize) {
        block_on(conformance::survives_crashes(async || OnDisk::new(), &Script::new(&raw), together));
    }

    #[test]
    fn a_failed_write_fails_every_batch_submitted_after_it(raw in raw(4..12)) {
        block_on(conformance::rolls_back_failed_writes(async || OnDisk::new(), &Script::new(&raw)));
    }
}

#[test]
fn it_keeps_chunks() {
    block_on(conformance::keeps_chunks(&OnDisk::new()));
}

#[test]
fn a_crash_leaves_no_half_chunk() {
    let hit = block_on(conformance::chunks_survive_crashes(async || OnDisk::new()));
    assert_eq!(hit, BTreeSet::from([CrashPoint::BeforeChunk, CrashPoint::AfterChunk, CrashPoint::Migrating]));
}

#[test]
fn a_chunk_that_was_being_written_is_gone_at_the_next_opening() {
    let storage = OnDisk::new();
    let unfinished = storage.directory.path().join("chunks/unfinished");
    fs::create_dir_all(storage.directory.path().join("chunks")).expect("makes it");
    fs::write(&unfinished, "half a chunk").expect("writes");
    drop(block_on(storage.open(Faults::default())).expect("opens"));
    assert!(!unfinished.exists());
}

#[test]
fn every_crash_point_is_hit() {
    use CrashPoint::*;
    let wanted = BTreeSet::from([BeforePut, BetweenPutAndCommit, BetweenCommitAndAnswer, Flushing, Migrating]);
    let mut hit = BTreeSet::new();
    // Where the thread behind the log is slow, a script may end before it comes to all of its
    // points.
    for seed in 7..12 {
        hit.extend(block_on(conformance::survives_crashes(async || OnDisk::new(), &Script::from_seed(seed, 40), 2)));
        if hit == wanted {
            break;
        }
    }
    println!("crashed at {hit:?}");
    assert_eq!(hit, wanted);
}

#[test]
fn a_newer_format_is_refused_and_nothing_is_changed() {
    let storage = OnDisk::new();
    let path = storage.directory.path().join("format");
    fs::write(&path, "ephapse store\nformat 9\nshards 3\n").expect("writes");
    let listing = || fs::read_dir(storage.directory.path()).expect("reads").map(|entry| entry.expect("reads").file_name()).collect::<BTreeSet<_>>();
    let opened = RedbStore::open(storage.directory.path()).err();
    assert_eq!(opened, Some(StoreError::NewerFormat { found: 9, supported: 2 }));
    assert_eq!(fs::read_to_string(&path).expect("reads"), "ephapse store\nformat 9\nshards 3\n");
    assert_eq!(listing(), BTreeSet::from(["format".into(), "lock".into()]));
}

#[test]
fn content_of_a_newer_format_is_refused_and_nothing_is_changed() {
    let storage = OnDisk::new();
    let open = |content_format| RedbStore::open_with(storage.directory.path(), RedbOptions { content_format, ..RedbOptions::default() });
    let files = || {
        let entries = fs::read_dir(storage.directory.path()).expect("reads").map(|entry| entry.expect("reads").path());
        entries.map(|path| (path.clone(), fs::read(path).expect("reads"))).collect::<BTreeMap<_, _>>()
    };
    for (format, epoch) in [(1, 1), (2, 2)] {
        let store = open(format).expect("opens");
        assert_eq!(store.epoch(), epoch);
        block_on(store.commit(put("key"))).expect("commits");
    }
    let before = files();
    assert_eq!(open(1).err(), Some(StoreError::NewerFormat { found: 2, supported: 1 }));
    assert_eq!(files(), before);
    assert_eq!(open(2).expect("opens").epoch(), 3);
}

#[test]
fn a_directory_has_one_owner_and_counts_its_openings() {
    let storage = OnDisk::new();
    let first = RedbStore::open(storage.directory.path()).expect("opens");
    assert_eq!(first.epoch(), 1);
    assert_eq!(RedbStore::open(storage.directory.path()).err(), Some(StoreError::InUse));
    block_on(first.close()).expect("closes");
    assert_eq!(RedbStore::open(storage.directory.path()).expect("opens").epoch(), 2);
}

/// The directory was unlocked when the table thread had ended, while the log thread might still
/// write its last group.
#[test]
fn a_store_is_closed_when_both_its_threads_have_ended() {
    let storage = OnDisk::new();
    let (written, slow) = (Arc::new(AtomicBool::new(false)), Duration::from_millis(300));
    let told = written.clone();
    let faults = Faults::new(move |point| {
        if point == CrashPoint::BetweenCommitAndAnswer {
            sleep(slow);
            told.store(true, Ordering::SeqCst);
        }
        None
    });
    let store = block_on(storage.open(faults)).expect("opens");
    let committed = store.commit(put("key"));
    block_on(store.close()).expect("closes");
    assert!(written.load(Ordering::SeqCst), "closed while a batch was being written");
    assert_eq!(block_on(committed), Ok(()));
    RedbStore::open(storage.directory.path()).expect("the directory is free");
}

/// A process that ends waits for its log. It does not wait for redb, which may be slow: what is in
/// the log is there after the next start.
#[test]
fn dropping_a_closing_store_does_not_wait_for_the_table_thread() {
    let storage = OnDisk { log_bytes: 100, ..OnDisk::new() };
    let slow = Arc::new(Mutex::new(()));
    let (held, begun) = (slow.clone(), Arc::new(AtomicBool::new(false)));
    let told = begun.clone();
    let faults = Faults::new(move |point| {
        if point == CrashPoint::Flushing {
            told.store(true, Ordering::SeqCst);
            drop(held.lock());
        }
        None
    });
    let store = block_on(storage.open(faults)).expect("opens");
    let holding = slow.lock().expect("free");
    for key in ["one", "two", "three"] {
        block_on(store.commit(put(key))).expect("commits");
    }
    while !begun.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(1));
    }
    block_on(store.barrier()).expect("all of it is in the log");
    drop(store.close());
    drop(store);
    assert_eq!(RedbStore::open(storage.directory.path()).err(), Some(StoreError::InUse), "the table thread still has it");
    drop(holding);
    let opened = when_free(|| RedbStore::open(storage.directory.path())).expect("opens");
    assert_eq!(block_on(conformance::dump(&opened)).expect("readable").len(), 3);
}

#[test]
fn batches_that_wait_together_share_a_sync() {
    let storage = OnDisk { log_bytes: 8 << 20, ..OnDisk::new() };
    let slow = Arc::new(Mutex::new(()));
    let (held, holding) = (slow.clone(), slow.lock().expect("free"));
    let faults = Faults::new(move |point| {
        if point == CrashPoint::BeforePut {
            drop(held.lock());
        }
        None
    });
    let store = block_on(storage.open(faults)).expect("opens");
    let waiting: Vec<_> = (0..500u32).map(|n| store.commit(put(n.to_be_bytes()))).collect();
    drop(holding);
    waiting.into_iter().for_each(|commit| block_on(commit).expect("commits"));
    let commits = store.stats().commits;
    assert!(commits <= 2, "{commits} commits: those that came before the first was held, and all the others");
}

/// Whoever waited for a group that was being written was told when the next group failed.
#[test]
fn a_barrier_does_not_wait_for_later_batches() {
    let storage = OnDisk { log_bytes: 8 << 20, ..OnDisk::new() };
    let (slow, begun) = (Arc::new(Mutex::new(())), Arc::new(AtomicBool::new(false)));
    let (held, told, failure) = (slow.clone(), begun.clone(), StoreError::Platform("bad sector".into()));
    let fault = Fault::Fail(failure.clone());
    let faults = Faults::new(move |point| {
        let is_second = point == CrashPoint::BeforePut && told.swap(true, Ordering::SeqCst);
        drop(held.lock());
        is_second.then(|| fault.clone())
    });
    let store = block_on(storage.open(Faults::default())).and_then(|store| block_on(store.close())).and_then(|()| block_on(storage.open(faults)));
    let store = store.expect("opens");
    let holding = slow.lock().expect("free");
    let first = store.commit(put("first"));
    while !begun.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(1));
    }
    let barrier = store.barrier();
    let second = store.commit(put("second"));
    drop(holding);
    assert_eq!([block_on(first), block_on(barrier), block_on(second)], [Ok(()), Ok(()), Err(failure)]);
}

/// A batch whose sync failed is refused, although its bytes were written. It must not be there
/// after the next start.
#[test]
fn a_refused_batch_is_not_there_after_a_restart() {
    let storage = OnDisk::new();
    let faults = Faults::new(|point| (point == CrashPoint::BetweenPutAndCommit).then(|| Fault::Fail(StoreError::Platform("bad sector".into()))));
    let store = block_on(storage.open(faults)).expect("opens");
    let mut batch = Batch::new();
    batch.put("key", "value");
    assert!(block_on(store.commit(batch)).is_err());
    drop(store);
    let store = block_on(storage.open(Faults::default())).expect("opens");
    assert_eq!(block_on(store.get_many(&[b"key".to_vec()])), Ok(vec![None]));
}

/// Started and killed by [`killed_processes_lose_nothing_they_acknowledged`]. It writes numbers,
/// and prints each when it is durable.
#[test]
#[ignore = "runs until it is killed"]
fn writes_until_killed() {
    let directory = std::env::var("EPHAPSE_STORE_TEST").expect("set by the test that starts this one");
    let store = RedbStore::open_with(directory, RedbOptions { log_bytes: 40_000, ..RedbOptions::default() }).expect("opens");
    let written = block_on(conformance::dump(&store)).expect("readable").len() as u64;
    for number in written.. {
        let mut batch = Batch::new();
        batch.put(number.to_be_bytes().to_vec(), vec![number as u8; 1_000]);
        block_on(store.commit(batch)).expect("commits");
        println!("acknowledged {number}");
    }
}

#[test]
fn killed_processes_lose_nothing_they_acknowledged() {
    let directory = tempdir().expect("a directory");
    let mut acknowledged = None;
    for round in 0..8u64 {
        let mut child = Command::new(std::env::current_exe().expect("a test has a program"))
            .args(["--exact", "native::tests::writes_until_killed", "--ignored", "--nocapture"])
            .env("EPHAPSE_STORE_TEST", directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let mut note = |line: String| {
            if let Some(number) = line.strip_prefix("acknowledged ").and_then(|number| number.parse::<u64>().ok()) {
                acknowledged = acknowledged.max(Some(number));
            }
        };
        lines.by_ref().take(20 + 37 * round as usize).for_each(&mut note);
        child.kill().expect("can be killed");
        child.wait().expect("ends");
        // What it had still written into the pipe counts too.
        lines.for_each(&mut note);
        let store = RedbStore::open(directory.path()).expect("opens after a kill");
        let keys: Vec<u64> =
            block_on(conformance::dump(&store)).expect("readable").keys().map(|key| key.as_ref().try_into().map_or(0, u64::from_be_bytes)).collect();
        let last = acknowledged.expect("some were acknowledged");
        assert!(keys.len() as u64 > last, "round {round}: {last} was acknowledged, {} are there", keys.len());
        assert!(keys.iter().copied().eq(0..keys.len() as u64), "round {round}: not all in order");
    }
}

/// Prints how long a durable commit takes. Run with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn sequential_commits() {
    let directory = tempdir().expect("a directory");
    let store = RedbStore::open(directory.path()).expect("opens");
    let mut seed = 1u64;
    let mut times = Vec::new();
    for at in 0..12_000u64 {
        let mut batch = Batch::new();
        for table in 0..8u8 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let place = if table < 3 { seed } else { at };
            let key = [&[table][..], &place.to_be_bytes()].concat();
            batch.put(key, vec![7; if table == 3 { 1500 } else { 200 }]);
        }
        let start = Instant::now();
        block_on(store.commit(batch)).expect("commits");
        times.push(start.elapsed().as_micros());
    }
    for part in [0..300, 5_000..5_300, 11_700..12_000] {
        let mut some = times[part.clone()].to_vec();
        some.sort_unstable();
        println!("{part:?}: p50 {} us, p99 {} us, max {} us", some[150], some[297], some[299]);
    }
    println!("mean of all {} us, max {} us", times.iter().sum::<u128>() / times.len() as u128, times.iter().max().expect("some"));
    drop(store);
    let start = Instant::now();
    let store = RedbStore::open(directory.path()).expect("opens");
    println!("opened again in {:?}", start.elapsed());
    drop(store);
}
