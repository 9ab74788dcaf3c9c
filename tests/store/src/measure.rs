//! What the store costs in this browser.

use ephapse_store::{Batch, Direction, IndexedDbStore, Store};
use futures_util::future::join_all;
use wasm_bindgen::{JsCast, prelude::*};

fn now() -> f64 {
    let clock = js_sys::Reflect::get(&js_sys::global(), &"performance".into()).expect("every browser has a clock");
    let read: js_sys::Function = js_sys::Reflect::get(&clock, &"now".into()).expect("every clock can be read").unchecked_into();
    read.call0(&clock).ok().and_then(|now| now.as_f64()).expect("a number")
}

/// A batch like that of a message: one value of 1,500 bytes and seven small ones, three of their
/// keys random.
fn message(at: u64, seed: &mut u64) -> Batch {
    let mut batch = Batch::new();
    for table in 0..8u8 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let place = if table < 3 { *seed } else { at };
        batch.put([&[table][..], &place.to_be_bytes()].concat(), vec![7; if table == 3 { 1500 } else { 200 }]);
    }
    batch
}

fn percentile(times: &mut [f64], part: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * part) as usize]
}

/// A line for each measurement.
#[wasm_bindgen]
pub async fn measure(name: String) -> Vec<String> {
    let mut lines = Vec::new();
    let store = IndexedDbStore::open(&name).await.expect("opens");
    let mut seed = 1;

    let mut times = Vec::new();
    for at in 0..3_000 {
        let start = now();
        store.commit(message(at, &mut seed)).await.expect("commits");
        times.push(now() - start);
    }
    let (first, last) = (&mut times[..300].to_vec(), &mut times[2_700..].to_vec());
    lines.push(format!(
        "one commit after another: p50 {:.2} ms, after 2,700 of them {:.2} ms, p99 {:.1} ms",
        percentile(first, 0.5),
        percentile(last, 0.5),
        percentile(&mut times, 0.99)
    ));

    let mut times = Vec::new();
    for at in 0..200 {
        let start = now();
        join_all((0..50).map(|n| store.commit(message(10_000 + at * 50 + n, &mut seed)))).await.into_iter().for_each(|done| done.expect("commits"));
        times.push(now() - start);
    }
    let sum: f64 = times.iter().sum();
    lines.push(format!(
        "50 at once: p50 {:.2} ms a group, {:.0} batches/s, {:.1} MB/s",
        percentile(&mut times, 0.5),
        10_000.0 / sum * 1000.0,
        10_000.0 * 2.972 / sum
    ));

    let start = now();
    let mut bytes = 0;
    for at in 0..32 {
        let mut batch = Batch::new();
        (0..350).for_each(|n| batch.append(message(100_000 + at * 350 + n, &mut seed)));
        bytes += batch.bytes();
        store.commit(batch).await.expect("commits");
    }
    let took = now() - start;
    lines.push(format!("batches of 1 MB: {:.1} MB/s, {:.0} messages/s", bytes as f64 / took / 1000.0, 32.0 * 350.0 / took * 1000.0));

    let start = now();
    store.settled().await;
    lines.push(format!(
        "compaction after that: {:.0} ms, {} runs, {:.1} MB stored",
        now() - start,
        store.stats().runs,
        store.stats().bytes_stored as f64 / 1e6
    ));

    let key = |at: u64| vec![[&[5u8][..], &at.to_be_bytes()].concat()];
    let (mut cold, mut warm, mut absent) = (Vec::new(), Vec::new(), Vec::new());
    for at in 0..200 {
        store.drop_cache();
        let start = now();
        assert!(store.get_many(&key(at * 13)).await.expect("reads")[0].is_some());
        cold.push(now() - start);
        let start = now();
        for _ in 0..100 {
            store.get_many(&key(at * 13)).await.expect("reads");
        }
        warm.push((now() - start) * 10.0);
        let start = now();
        for _ in 0..100 {
            assert!(store.get_many(&key(1 << 40)).await.expect("reads")[0].is_none());
        }
        absent.push((now() - start) * 10.0);
    }
    lines.push(format!(
        "a get: nothing cached p50 {:.2} ms, cached {:.1} us, absent {:.1} us",
        percentile(&mut cold, 0.5),
        percentile(&mut warm, 0.5),
        percentile(&mut absent, 0.5)
    ));
    let keys: Vec<Vec<u8>> = (0..100).flat_map(|at| key(at * 97)).collect();
    store.drop_cache();
    let start = now();
    store.get_many(&keys).await.expect("reads");
    lines.push(format!("100 scattered keys together, nothing cached: {:.1} ms", now() - start));
    store.drop_cache();
    let start = now();
    let found = store.scan(vec![3]..vec![4], Direction::Backward, 1_000).await.expect("reads");
    lines.push(format!("a scan of {} entries, nothing cached: {:.1} ms", found.len(), now() - start));

    store.close().await.expect("closes");
    let start = now();
    let store = IndexedDbStore::open(&name).await.expect("opens");
    let opened = now() - start;
    store.get_many(&key(1)).await.expect("reads");
    lines.push(format!("opened again in {opened:.1} ms, first get after {:.1} ms", now() - start));
    store.close().await.expect("closes");
    lines
}
