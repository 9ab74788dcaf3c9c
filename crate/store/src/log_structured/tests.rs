//! The conformance suite on storage in memory, and what only the inside shows: levels, fences,
//! space.

use super::{
    LogStructured, Options,
    fake::{FakeStorage, turns},
    sstable::Sstable,
};
use crate::{
    Batch, CrashPoint, Direction, Fault, Faults, Store, StoreError,
    conformance::{self, Raw, Script},
};
use futures_executor::LocalPool;
use proptest::prelude::*;
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Runs a test on a fresh disk.
fn on_a_disk(test: impl AsyncFnOnce(FakeStorage)) {
    let mut pool = LocalPool::new();
    let storage = FakeStorage::new(pool.spawner());
    pool.run_until(test(storage));
}

fn raw(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Raw>> {
    prop::collection::vec(any::<Raw>(), length)
}

fn put(key: impl Into<Vec<u8>>, length: usize) -> Batch {
    let mut batch = Batch::new();
    batch.put(key.into(), vec![b'v'; length]);
    batch
}

fn everything() -> std::ops::Range<Vec<u8>> {
    Vec::new()..vec![0xff; 8]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_map(raw in raw(1..150)) {
        on_a_disk(async |storage| conformance::behaves_like_a_map(&storage, &Script::new(&raw)).await);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_anywhere_leaves_a_prefix_with_everything_acknowledged(raw in raw(8..40), together in 1..4usize) {
        on_a_disk(async |storage| {
            conformance::survives_crashes(async || FakeStorage::new(storage.spawner.clone()), &Script::new(&raw), together).await;
        });
    }

    #[test]
    fn a_failed_write_fails_every_batch_submitted_after_it(raw in raw(4..20)) {
        on_a_disk(async |storage| {
            conformance::rolls_back_failed_writes(async || FakeStorage::new(storage.spawner.clone()), &Script::new(&raw)).await;
        });
    }
}

#[test]
fn every_crash_point_is_hit() {
    on_a_disk(async |storage| {
        let hit = conformance::survives_crashes(async || FakeStorage::new(storage.spawner.clone()), &Script::from_seed(3, 120), 2).await;
        println!("crashed at {hit:?}");
        use crate::CrashPoint::*;
        assert_eq!(hit, BTreeSet::from([BeforePut, BetweenPutAndCommit, BetweenCommitAndAnswer, Flushing, Compacting]));
    });
}

#[test]
fn compaction_keeps_few_sorted_runs_and_one_copy_of_each_key() {
    on_a_disk(async |storage| {
        let store = storage.open_now(Faults::default()).expect("opens");
        for round in 0..4 {
            for n in 0..400u32 {
                store.commit(put(format!("key/{:05}", n * 7919 % 400), 100 + round)).await.expect("commits");
            }
        }
        store.settled().await;
        let live = conformance::dump(&store).await.expect("readable");
        assert_eq!(live.len(), 400);
        assert!(store.stats().runs <= 8, "{} runs", store.stats().runs);
        let (bytes, live_bytes) = (storage.disk.borrow().bytes(), live.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>());
        assert!(bytes < 3 * live_bytes, "{bytes} bytes for {live_bytes} live ones");
    });
}

#[test]
fn reads_from_the_memtable_read_no_blob() {
    on_a_disk(async |storage| {
        let store = storage.open_now(Faults::default()).expect("opens");
        store.commit(put("key", 10)).await.expect("commits");
        store.settled().await;
        assert!(store.get_many(&[b"key".to_vec()]).await.expect("reads")[0].is_some());
        assert_eq!(store.scan(everything(), Direction::Forward, 5).await.expect("reads").len(), 1);
        assert_eq!(storage.disk.borrow().blob_reads, 0);
    });
}

#[test]
fn an_older_opening_cannot_write_any_more() {
    on_a_disk(async |storage| {
        let old = storage.open_now(Faults::default()).expect("opens");
        old.commit(put("before", 10)).await.expect("commits");
        let new = storage.open_now(Faults::default()).expect("opens");
        assert_eq!(old.commit(put("after", 10)).await, Err(StoreError::Fenced));
        assert_eq!(old.commit(put("later", 10)).await, Err(StoreError::Fenced));
        assert_eq!(old.barrier().await, Err(StoreError::Fenced));
        new.commit(put("new", 10)).await.expect("commits");
        let keys: Vec<_> = conformance::dump(&new).await.expect("readable").into_keys().collect();
        assert_eq!(keys, ["before", "new"]);
    });
}

#[test]
fn batches_that_wait_together_share_a_transaction() {
    on_a_disk(async |mut storage| {
        storage.options = Options::default();
        let store = storage.open_now(Faults::default()).expect("opens");
        let waiting: Vec<_> = (0..100u8).map(|n| store.commit(put([n], 50))).collect();
        for commit in waiting {
            commit.await.expect("commits");
        }
        assert_eq!(store.stats().commits, 1);
    });
}

/// Whoever waited for a group that was being written was told when the next group failed.
#[test]
fn a_barrier_does_not_wait_for_later_batches() {
    on_a_disk(async |storage| {
        let (is_second, failure) = (AtomicBool::new(false), StoreError::Platform("made up".into()));
        let fault = Fault::Fail(failure.clone());
        let faults = Faults::new(move |point| (point == CrashPoint::BeforePut && is_second.swap(true, Ordering::SeqCst)).then(|| fault.clone()));
        let store = storage.open_now(faults).expect("opens");
        store.settled().await;
        let first = store.commit(put("first", 10));
        turns(1).await;
        let barrier = store.barrier();
        let second = store.commit(put("second", 10));
        assert_eq!((first.await, barrier.await, second.await), (Ok(()), Ok(()), Err(failure)));
        assert_eq!(store.barrier().await, Ok(()));
    });
}

/// At the quota an ordinary batch is refused, and nothing of it is there. Reads go on. Deleting a
/// room frees space, and then writes go on.
#[test]
fn a_full_store_can_be_read_and_takes_batches_that_make_room() {
    on_a_disk(async |storage| {
        let store = storage.open_now(Faults::default()).expect("opens");
        store.settled().await;
        storage.disk.borrow_mut().quota = Some(60_000);
        let mut written = 0;
        let refused = loop {
            match store.commit(put(format!("room/{written:04}"), 300)).await {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(refused, StoreError::QuotaExceeded);
        assert!(written > 100, "{written}");
        assert_eq!(conformance::dump(&store).await.expect("readable").len(), written);
        assert_eq!(store.commit(put("more", 10)).await, Err(StoreError::QuotaExceeded));

        let mut forget = Batch::new();
        forget.delete_range(b"room/".to_vec()..b"room/0100".to_vec());
        forget.set_frees_space();
        store.commit(forget).await.expect("fits into what the reserve has kept");
        store.settled().await;
        assert!(!store.is_full());
        store.commit(put("more", 10)).await.expect("there is room again");
        assert_eq!(conformance::dump(&store).await.expect("readable").len(), written - 100 + 1);
        assert!(storage.disk.borrow().bytes() < 55_000, "{} bytes", storage.disk.borrow().bytes());
    });
}

/// Compaction slows writes down, and too many runs slow reads down.
#[test]
fn compaction_waits_for_the_end_of_a_burst_unless_level_0_is_too_long() {
    on_a_disk(async |mut storage| {
        storage.options.compaction_delay_ms = 600_000;
        let store = storage.open_now(Faults::default()).expect("opens");
        let mut written = 0u32;
        let mut write_until = async |runs: u32| {
            while store.stats().runs < runs {
                written += 1;
                assert!(written < 1_000, "there are only {} runs", store.stats().runs);
                store.commit(put((written % 7).to_be_bytes(), 300)).await.expect("commits");
            }
        };
        write_until(20).await;
        turns(5_000).await;
        assert_eq!(store.stats().runs, 20);
        write_until(24).await;
        turns(5_000).await;
        assert!(store.stats().runs < 24, "{} runs", store.stats().runs);
    });
}

/// A burst that fills storage lies in many sstables of level 0. Each has entries of every room, so
/// none of them is covered as a whole when a room is deleted.
#[test]
fn deleting_a_range_frees_space_before_any_compaction() {
    on_a_disk(async |mut storage| {
        (storage.options.compaction_delay_ms, storage.options.idle_flush_bytes) = (600_000, usize::MAX);
        let store = storage.open_now(Faults::default()).expect("opens");
        store.settled().await;
        storage.disk.borrow_mut().quota = Some(30_000);
        let mut written = 0;
        let mut send = async || {
            let mut batch = put(format!("a/{written:04}"), 10);
            batch.put(format!("room/{written:04}"), vec![b'v'; 280]);
            batch.put(format!("z/{written:04}"), vec![b'v'; 10]);
            written += 1;
            store.commit(batch).await
        };
        while send().await.is_ok() {}
        assert!(store.stats().runs > 8, "{} runs", store.stats().runs);

        let mut forget = Batch::new();
        forget.delete_range(b"room/".to_vec()..b"room0".to_vec());
        forget.set_frees_space();
        store.commit(forget).await.expect("fits into what the reserve has kept");
        for _ in 0..10_000 {
            turns(1).await;
        }
        assert!(!store.is_full());
        for _ in 0..50 {
            send().await.expect("there is room again");
        }
    });
}

#[test]
fn a_full_store_takes_batches_again_when_the_quota_is_raised() {
    on_a_disk(async |storage| {
        let store = storage.open_now(Faults::default()).expect("opens");
        store.settled().await;
        storage.disk.borrow_mut().quota = Some(20_000);
        let mut written = 0u32;
        while store.commit(put(written.to_be_bytes(), 300)).await.is_ok() {
            written += 1;
        }
        storage.disk.borrow_mut().quota = None;
        std::thread::sleep(Duration::from_millis(2_100));
        // This one is still refused, and makes the store look again.
        let _ = store.commit(put("again", 10)).await;
        store.settled().await;
        assert_eq!(store.commit(put("again", 10)).await, Ok(()));
    });
}

/// While a full memtable could not be written although there was space, the log and the memtable
/// grew without end.
#[test]
fn a_flush_that_keeps_failing_stops_writes() {
    on_a_disk(async |storage| {
        let store = storage.open_now(Faults::default()).expect("opens");
        store.settled().await;
        storage.disk.borrow_mut().blobs_fail = true;
        let mut written = 0u32;
        while store.commit(put(written.to_be_bytes(), 300)).await.is_ok() {
            written += 1;
            assert!(written < 100);
        }
        assert!(matches!(store.commit(put("more", 10)).await, Err(StoreError::Platform(_))));
        assert_eq!(conformance::dump(&store).await.expect("readable").len(), written as usize);
        assert!(!store.is_full());

        storage.disk.borrow_mut().blobs_fail = false;
        std::thread::sleep(std::time::Duration::from_millis(2_100));
        // This one is still refused, and makes the store try again.
        let _ = store.commit(put("again", 10)).await;
        store.settled().await;
        assert_eq!(store.commit(put("again", 10)).await, Ok(()));
    });
}

/// A browser that is opened again may have a smaller quota than it has filled, and no reserve. Then
/// not even the epoch can be put.
#[test]
fn a_store_opened_over_its_quota_is_read_only_until_there_is_space() {
    on_a_disk(async |storage| {
        let old = storage.open_now(Faults::default()).expect("opens");
        for n in 0..50u32 {
            old.commit(put(n.to_be_bytes(), 300)).await.expect("commits");
        }
        old.settled().await;
        storage.disk.borrow_mut().blobs.remove(&0);
        storage.disk.borrow_mut().quota = Some(5_000);

        let store = storage.open_now(Faults::default()).expect("opens all the same");
        assert!(store.is_full());
        assert_eq!(conformance::dump(&store).await.expect("readable").len(), 50);
        assert_eq!(store.commit(put("more", 10)).await, Err(StoreError::QuotaExceeded));
        let mut forget = Batch::new();
        forget.delete_range(vec![0]..vec![0, 0, 0, 10]);
        forget.set_frees_space();
        assert_eq!(store.commit(forget.clone()).await, Err(StoreError::QuotaExceeded));
        assert_eq!(conformance::dump(&store).await.expect("readable").len(), 50);

        storage.disk.borrow_mut().quota = None;
        store.commit(forget).await.expect("there is room");
        store.settled().await;
        assert_eq!(store.commit(put("more", 10)).await, Ok(()));
        assert_eq!(old.commit(put("late", 10)).await, Err(StoreError::Fenced));
        assert_eq!(conformance::dump(&store).await.expect("readable").len(), 41);
    });
}

/// Of two openings that could only read, one takes the right to write. The other cannot write then.
#[test]
fn of_two_openings_over_the_quota_only_one_may_write() {
    on_a_disk(async |storage| {
        drop(storage.open_now(Faults::default()).expect("opens"));
        storage.disk.borrow_mut().quota = Some(0);
        let [first, second] = [(); 2].map(|()| storage.open_now(Faults::default()).expect("opens"));
        storage.disk.borrow_mut().quota = None;
        let mut batch = put("key", 10);
        batch.set_frees_space();
        first.commit(batch.clone()).await.expect("takes it over");
        assert_eq!(second.commit(batch).await, Err(StoreError::Fenced));
    });
}

#[test]
fn orphaned_blobs_are_deleted_at_the_next_opening_when_storage_is_full() {
    on_a_disk(async |storage| {
        let store = storage.open_now(Faults::default()).expect("opens");
        for n in 0..50u32 {
            store.commit(put(n.to_be_bytes(), 300)).await.expect("commits");
        }
        store.settled().await;
        drop(store);
        storage.disk.borrow_mut().blobs.insert(77, vec![1; 4_000].into());
        let used = storage.disk.borrow().bytes();
        storage.disk.borrow_mut().quota = Some(used);
        let store = storage.open_now(Faults::default()).expect("opens");
        assert!(store.is_full());
        store.settled().await;
        assert!(!store.is_full());
        assert!(!storage.disk.borrow().blobs.contains_key(&77));
        assert!(storage.disk.borrow().blobs.contains_key(&0), "the reserve is there again");
        assert_eq!(store.commit(put("more", 10)).await, Ok(()));
    });
}

/// Deleting a room reads nothing and rewrites little: sstables that lie within it are dropped.
#[test]
fn sstables_covered_by_a_range_delete_are_dropped_unread() {
    on_a_disk(async |storage| {
        let store = storage.open_now(Faults::default()).expect("opens");
        for n in 0..500u32 {
            store.commit(put(format!("room/{n:04}"), 200)).await.expect("commits");
        }
        store.settled().await;
        let before = storage.disk.borrow().bytes();
        let mut forget = Batch::new();
        forget.delete_range(b"room/".to_vec()..b"room0".to_vec());
        store.commit(forget).await.expect("commits");
        store.settled().await;
        let after = storage.disk.borrow().bytes();
        assert!(before > 100_000 && after < 5_000, "{before} bytes became {after}");
        assert_eq!(store.scan(everything(), Direction::Backward, 5).await, Ok(vec![]));
    });
}

#[test]
fn orphaned_blobs_are_deleted_at_the_next_opening() {
    on_a_disk(async |storage| {
        let store = storage.open_now(Faults::default()).expect("opens");
        for n in 0..100u32 {
            store.commit(put(n.to_be_bytes(), 200)).await.expect("commits");
        }
        store.settled().await;
        storage.disk.borrow_mut().blobs.insert(77, vec![1; 1000].into());
        drop(store);
        let store = storage.open_now(Faults::default()).expect("opens");
        store.settled().await;
        assert!(!storage.disk.borrow().blobs.contains_key(&77));
        assert_eq!(conformance::dump(&store).await.expect("readable").len(), 100);
    });
}

/// Prints the processor time of bulk work without the platform's. Run with
/// `--release --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn bulk_work() {
    fn processor_ms() -> f64 {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
        text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).expect("a number") / 1e6
    }
    on_a_disk(async |mut storage| {
        storage.options = Options::default();
        let store = storage.open_now(Faults::default()).expect("opens");
        let (mut seed, mut bytes) = (1u64, 0);
        let start = processor_ms();
        for at in 0..32u64 * 350 {
            let mut batch = Batch::new();
            for table in 0..8u8 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let place = if table < 3 { seed } else { at };
                batch.put([&[table][..], &place.to_be_bytes()].concat(), vec![7; if table == 3 { 1500 } else { 200 }]);
            }
            bytes += batch.bytes();
            if at % 350 == 349 {
                store.commit(batch).await.expect("commits");
            } else {
                drop(store.commit(batch));
            }
        }
        let written = processor_ms();
        store.settled().await;
        let merged = processor_ms();
        println!("{:.1} MB: {:.0} ms to write, {:.0} ms to merge", bytes as f64 / 1e6, written - start, merged - written);
    });
}

#[test]
fn a_compaction_leaves_sstables_between_its_keys_as_they_are() {
    on_a_disk(async |mut storage| {
        storage.options.level_one_bytes = 1 << 20;
        let store = storage.open_now(Faults::default()).expect("opens");
        let commit_all = async |keys: &[String]| {
            for key in keys {
                store.commit(put(key.as_str(), 100)).await.expect("commits");
            }
            store.settled().await;
        };
        let keys = |rooms: &[&str]| -> Vec<String> { (0..120).flat_map(|n| rooms.iter().map(move |room| format!("{room}/{n:05}"))).collect() };
        commit_all(&keys(&["b", "m", "y"])).await;
        let quiet = || -> Vec<u64> {
            let disk = storage.disk.borrow();
            let sstables = disk.sstables.iter().map(|(id, record)| Sstable::decode(*id, record.clone()).expect("whole"));
            sstables
                .filter(|sstable| sstable.level > 0 && sstable.start.as_ref() >= b"m/".as_slice() && sstable.end.as_ref() < b"n".as_slice())
                .map(|sstable| sstable.id)
                .collect()
        };
        let before = quiet();
        assert!(before.len() > 2, "{before:?}");
        commit_all(&keys(&["a", "z"])).await;
        assert_eq!(quiet(), before);
        assert_eq!(store.scan(everything(), Direction::Forward, usize::MAX).await.expect("reads").len(), 5 * 120);
    });
}

#[test]
fn the_first_reads_of_an_opening_are_prefetched_by_the_next() {
    on_a_disk(async |mut storage| {
        storage.options.startup_compaction_delay_ms = 100;
        let store = storage.open_now(Faults::default()).expect("opens");
        for n in 0..100u32 {
            store.commit(put(format!("key/{n:05}"), 100)).await.expect("commits");
        }
        store.settled().await;
        store.close().await.expect("closes");
        let reads = || storage.disk.borrow().blob_reads;
        let look = async |store: &LogStructured<_>| {
            let before = reads();
            let keys: Vec<Vec<u8>> = [3, 40, 77].map(|n| format!("key/{n:05}").into_bytes()).to_vec();
            let found = store.get_many(&keys).await.expect("readable");
            assert!(found.iter().all(Option::is_some));
            reads() - before
        };

        let store = storage.open_now(Faults::default()).expect("opens");
        assert!(look(&store).await > 0, "nothing is known before the first time");
        store.settled().await;
        store.close().await.expect("closes");

        let before = reads();
        let store = storage.open_now(Faults::default()).expect("opens");
        turns(20).await;
        assert!(reads() > before, "fetched before anybody asked");
        assert_eq!(look(&store).await, 0);
    });
}

#[test]
fn an_idle_memtable_is_flushed() {
    on_a_disk(async |mut storage| {
        (storage.options.flush_bytes, storage.options.idle_flush_ms) = (10_000, 30);
        let store = storage.open_now(Faults::default()).expect("opens");
        for n in 0..20u32 {
            store.commit(put(n.to_be_bytes(), 100)).await.expect("commits");
        }
        assert!(!storage.disk.borrow().log.is_empty(), "not while there is work");
        while !storage.disk.borrow().log.is_empty() {
            turns(1).await;
        }
        assert_eq!(conformance::dump(&store).await.expect("readable").len(), 20);
        store.commit(put("later", 100)).await.expect("commits");
        let store = storage.open_now(Faults::default()).expect("opens");
        assert_eq!(conformance::dump(&store).await.expect("readable").len(), 21);
    });
}
