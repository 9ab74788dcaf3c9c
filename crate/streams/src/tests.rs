//! Streams against a model: whatever happens, each consumer gets every entry in order, none twice
//! once acknowledged, and the figures are right.

use super::{Entry, Limits, Prefixes, Redelivery, Retention, Stream, StreamStore, Streams, Subject, Taken, WhenFull};
use crate::stored::Tables;
use ephapse_store::{Batch, Direction, Reader, Staged, Store, StoreError, Submitted, Transaction, unreliable::UnreliableStore};
use futures_executor::block_on;
use futures_util::join;
use proptest::prelude::*;
use std::{cell::Cell, collections::BTreeMap, rc::Rc, time::Duration};

const REDELIVERY: Redelivery = Redelivery { attempts: Some(5), first_delay: Duration::from_millis(100), longest_delay: Duration::from_secs(1) };
const PREFIXES: Prefixes = Prefixes { heads: 0x60, entries: 0x61, dead_letters: 0x62, totals: 0x63 };
const TABLES: Tables = Tables::new(PREFIXES);

static WORK: Stream = Stream {
    name: "work",
    consumers: &["worker"],
    retention: Retention::WorkQueue,
    limits: Limits::NONE,
    when_full: WhenFull::Refuse,
    redelivery: REDELIVERY,
};
static NEWS: Stream = Stream {
    name: "news",
    consumers: &["reader", "archive"],
    retention: Retention::Interest,
    limits: Limits::NONE,
    when_full: WhenFull::Refuse,
    redelivery: REDELIVERY,
};
static LOG: Stream = Stream {
    name: "log",
    consumers: &["tail"],
    retention: Retention::Limits,
    limits: Limits { entries: Some(5), bytes: Some(40), age: Some(Duration::from_secs(60)) },
    when_full: WhenFull::DropOldest,
    redelivery: REDELIVERY,
};
static NARROW: Stream = Stream {
    name: "narrow",
    consumers: &["worker"],
    retention: Retention::WorkQueue,
    limits: Limits { entries: Some(2), bytes: Some(10), age: None },
    when_full: WhenFull::Refuse,
    redelivery: REDELIVERY,
};
static ALL: &[&Stream] = &[&WORK, &NEWS, &LOG, &NARROW];

struct Tx(Staged);

impl Transaction for Tx {
    fn staged(&mut self) -> &mut Staged {
        &mut self.0
    }
}

struct Node {
    store: UnreliableStore,
    reader: Reader,
    streams: Streams,
    now: u64,
    full: Cell<bool>,
}

impl Node {
    fn new() -> Self {
        let store = UnreliableStore::new();
        let reader = Reader::new(Rc::new(store.clone()));
        let now = 1_000_000;
        let streams = block_on(Streams::open(&reader, PREFIXES, ALL, now)).expect("streams open");
        Self { store, reader, streams, now, full: Cell::new(false) }
    }

    fn subject(&self, stream: &'static Stream, name: &str) -> Subject {
        block_on(self.streams.subject(self, stream, name)).expect("a subject")
    }

    fn append(&self, stream: &'static Stream, name: &str, body: &[u8]) -> u64 {
        let subject = self.subject(stream, name);
        let mut number = 0;
        self.written(|tx| number = subject.append(tx, self.now, body.to_vec()).expect("there is room"));
        number
    }

    fn take(&self, stream: &'static Stream, name: &str, consumer: &str, limit: usize) -> Taken {
        block_on(self.subject(stream, name).take(self, consumer, limit)).expect("the store reads")
    }

    fn ack(&self, stream: &'static Stream, name: &str, consumer: &str, entry: &Entry) {
        let subject = self.subject(stream, name);
        self.written(|tx| subject.ack(tx, consumer, entry.end));
    }

    fn written(&self, fill: impl FnOnce(&mut Tx)) {
        self.submit(fill).expect("the store writes").visible();
    }

    fn submit(&self, fill: impl FnOnce(&mut Tx)) -> Result<Submitted<()>, StoreError> {
        let mut tx = Tx(Staged::new(Batch::new()));
        fill(&mut tx);
        match self.full.get() {
            true => Err(StoreError::QuotaExceeded),
            false => tx.0.commit(&self.store),
        }
    }

    /// Everything in memory is gone.
    fn restart(&mut self) {
        self.streams = block_on(Streams::open(&self.reader, PREFIXES, ALL, self.now)).expect("streams open");
    }
}

impl StreamStore for Node {
    fn reader(&self) -> &Reader {
        &self.reader
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn write(&self, _: u64, fill: &mut dyn FnMut(&mut dyn Transaction)) -> Result<Submitted<()>, StoreError> {
        self.submit(|tx| fill(tx))
    }
}

fn bodies(taken: Taken) -> Vec<Vec<u8>> {
    match taken {
        Taken::Entries(entries) => entries.into_iter().map(|Entry { body, .. }| body).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn an_entry_is_delivered_again_later_each_time_then_given_up_and_the_next_one_follows() {
    let mut node = Node::new();
    node.append(&WORK, "a", b"poison");
    node.append(&WORK, "a", b"good");
    let mut waits = Vec::new();
    for _ in 0..5 {
        node.restart();
        let taken = node.take(&WORK, "a", "worker", 10);
        assert!(bodies(taken).starts_with(&[b"poison".to_vec()]));
        match node.take(&WORK, "a", "worker", 10) {
            Taken::Later(due) => {
                waits.push(due - node.now);
                node.now = due;
            }
            next => assert_eq!(bodies(next), [b"good"]),
        }
    }
    assert_eq!(waits, [100, 200, 400, 800], "the fifth delivery is the last: nothing is waited for after it");
    let status = &node.streams.status()[0];
    assert_eq!((status.dead_letters, status.length, status.consumers[0].lag), (1, 1, 1));
    let dead_letters = &status.newest_dead_letters[0];
    assert_eq!((&*dead_letters.subject, &*dead_letters.consumer, dead_letters.position, dead_letters.attempts), ("a", "worker", 0, 5));
    let status = node.streams.status();
    node.restart();
    assert_eq!(node.streams.status(), status, "also after a restart");
}

/// One value that could not be read, which says nothing that is not stored elsewhere, kept the
/// server from opening. But for one thing: above which numbers subjects begin that are made anew.
#[test]
fn totals_that_are_damaged_are_counted_anew_and_no_number_is_given_twice() {
    let mut node = Node::new();
    let last = (0..3).map(|_| node.append(&WORK, "done", b"a")).last().expect("some");
    let Taken::Entries(taken) = node.take(&WORK, "done", "worker", 10) else { panic!("there are three") };
    node.ack(&WORK, "done", "worker", taken.last().expect("three"));
    for body in [&b"first"[..], b"second"] {
        node.append(&NEWS, "a", body);
    }
    node.append(&NEWS, "b", b"third");
    let Taken::Entries(taken) = node.take(&NEWS, "a", "reader", 1) else { panic!("there are two") };
    node.ack(&NEWS, "a", "reader", &taken[0]);
    let status = node.streams.status();
    for stream in ALL {
        let mut batch = Batch::new();
        batch.put(TABLES.totals.key(&stream.name.to_owned()), vec![0xff; 30]);
        block_on(node.store.commit(batch)).expect("the store writes");
    }
    node.restart();
    assert_eq!(node.streams.status(), status);
    assert!(node.append(&WORK, "done", b"b") > last);
    node.restart();
    assert_eq!(bodies(node.take(&WORK, "done", "worker", 10)), [b"b"]);
    assert_eq!(bodies(node.take(&NEWS, "a", "reader", 10)), [b"second"]);
}

#[test]
fn a_consumer_that_fails_or_panics_is_asked_again_and_its_reason_is_kept() {
    let mut node = Node::new();
    node.append(&WORK, "a", b"entry");
    let subject = node.subject(&WORK, "a");
    for turn in 0..5 {
        let result = block_on(subject.deliver(&node, "worker", 10, async |_| {
            assert!(turn % 2 == 0, "turn {turn}");
            Err("no".to_owned())
        }));
        assert!(matches!(result, Ok(super::Delivered::Failed(_))), "{result:?}");
        node.now += 10_000;
    }
    let result = block_on(subject.deliver(&node, "worker", 10, async |_| Ok(()))).expect("the store works");
    assert_eq!(result, super::Delivered::Nothing);
    assert_eq!(node.streams.status()[0].newest_dead_letters[0].last_error, "no");
}

#[test]
fn the_newest_dead_letters_are_kept() {
    let mut node = Node::new();
    for n in 0..super::streams::DEAD_LETTERS_KEPT + 20 {
        let subject = format!("s{n}");
        node.append(&WORK, &subject, b"poison");
        for _ in 0..6 {
            node.take(&WORK, &subject, "worker", 1);
            node.now += 10_000;
        }
    }
    let status = &node.streams.status()[0];
    assert_eq!((status.dead_letters, status.length), (120, 0));
    let kept: Vec<_> = status.newest_dead_letters.iter().map(|entry| entry.subject.clone()).collect();
    assert_eq!(kept, (20..120).map(|n| format!("s{n}")).collect::<Vec<_>>());
    let stored = block_on(TABLES.dead_letters.scan(&node.reader, &(), Direction::Forward, usize::MAX)).expect("the store reads");
    assert_eq!(stored.len(), kept.len());
    let before = node.streams.status();
    node.restart();
    assert_eq!(node.streams.status(), before);
}

#[test]
fn a_subject_is_pruned_once_all_consumers_acknowledged_and_reuses_no_number() {
    let mut node = Node::new();
    node.append(&NEWS, "a", b"one");
    for consumer in ["reader", "archive"] {
        assert_eq!(node.streams.status()[1].subjects, 1);
        let Taken::Entries(entries) = node.take(&NEWS, "a", consumer, 10) else { panic!("nothing for {consumer}") };
        node.ack(&NEWS, "a", consumer, &entries[0]);
    }
    let status = &node.streams.status()[1];
    assert_eq!((status.subjects, status.length, status.bytes), (0, 0, 0));
    let left = block_on(TABLES.heads.scan(&node.reader, &(), Direction::Forward, 10)).expect("the store reads");
    assert!(left.is_empty(), "{left:?}");
    node.restart();
    assert_eq!(node.append(&NEWS, "a", b"two"), 1);
}

#[test]
fn limits_keep_the_newest_and_count_what_a_consumer_missed() {
    let mut node = Node::new();
    for body in [b"aaaaa", b"bbbbb", b"ccccc", b"ddddd", b"eeeee", b"fffff", b"ggggg"] {
        node.append(&LOG, "a", body);
    }
    let first = node.take(&LOG, "a", "tail", 1);
    assert_eq!(bodies(first), [b"ccccc"], "five are kept");
    assert_eq!(node.streams.status()[2].dropped, 2);
    node.now += 60_000;
    assert_eq!(node.take(&LOG, "a", "tail", 10), Taken::Nothing, "all are too old");
    assert_eq!(node.streams.status()[2].length, 0);
}

/// What was too old went only from a subject that somebody used: that of a destination which is
/// gone stayed for ever.
#[test]
fn what_is_too_old_goes_also_where_nobody_looks() {
    let mut node = Node::new();
    for n in 0..200 {
        node.append(&LOG, &format!("s{n:03}"), b"entry");
        node.append(&WORK, &format!("s{n:03}"), b"entry");
    }
    node.now += 30_000;
    node.append(&LOG, "young", b"entry");
    node.restart();
    node.now += 30_000;
    block_on(node.streams.forget_old(&node, async || {})).expect("the store works");
    let status = node.streams.status();
    assert_eq!((status[0].length, status[2].length, status[2].dropped), (200, 1, 200));
    assert_eq!(bodies(node.take(&LOG, "young", "tail", 1)), [b"entry"]);
}

/// A database that an older version wrote has to open: these bytes are what version 0.1 stores.
#[test]
fn what_is_stored_keeps_its_format() {
    let node = Node::new();
    node.append(&WORK, "a", b"xy");
    let stored = block_on(node.reader.scan(vec![0x60]..vec![0x64], Direction::Forward, 10)).expect("the store reads");
    let stored: Vec<_> = stored.iter().map(|(key, value)| (&key[..], &value[..])).collect();
    let entries: [(&[u8], &[u8]); 3] = [
        (b"\x60work/a\0\x01", b"\0\0\x01\x02\x01\x06worker\0\0\0\0\0"),
        (b"\x61work/a\0\x01\0\0\0\0\0\0\0\0", b"\xc0\x84\x3d\x01\x02\x02xy"),
        (b"\x63work\0\x01", b"\0\x01\x01\x02\x01\x06worker\x01\0\0"),
    ];
    assert_eq!(stored, entries);
}

#[test]
fn what_waits_is_found_after_a_restart() {
    let mut node = Node::new();
    for name in ["b", "", "a/1", "c", "done"] {
        node.append(&WORK, name, b"entry");
    }
    node.append(&NEWS, "of another stream", b"entry");
    let Taken::Entries(entries) = node.take(&WORK, "done", "worker", 1) else { panic!("nothing taken") };
    node.ack(&WORK, "done", "worker", &entries[0]);
    node.restart();
    let subjects = |after, limit| block_on(node.streams.subjects(&node, &WORK, after, limit)).expect("the store reads");
    assert_eq!(subjects(None, 10), ["", "a/1", "b", "c"]);
    assert_eq!(subjects(None, 2), ["", "a/1"]);
    assert_eq!(subjects(Some("a/1"), 2), ["b", "c"]);
    assert!(subjects(Some("c"), 2).is_empty());
}

#[test]
fn a_full_work_queue_takes_nothing_more_until_something_is_done() {
    let node = Node::new();
    node.append(&NARROW, "a", b"123");
    node.append(&NARROW, "a", b"45");
    let subject = node.subject(&NARROW, "a");
    node.written(|tx| assert_eq!(subject.append(tx, 0, Vec::new()), Err(super::Full)));
    let Taken::Entries(entries) = node.take(&NARROW, "a", "worker", 1) else { panic!("nothing taken") };
    node.ack(&NARROW, "a", "worker", &entries[0]);
    node.written(|tx| assert_eq!(subject.append(tx, 0, vec![0; 9]), Err(super::Full), "11 bytes"));
    node.written(|tx| assert!(subject.append(tx, 0, vec![0; 8]).is_ok()));
}

#[test]
fn a_change_that_was_never_committed_is_forgotten_when_memory_is_read_anew() {
    let node = Node::new();
    node.append(&WORK, "a", b"kept");
    let subject = node.subject(&WORK, "a");
    let lost = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        node.written(|tx| {
            subject.append(tx, node.now, b"lost in a panic".to_vec()).expect("there is room");
            panic!("before the commit");
        });
    }));
    assert!(lost.is_err());
    block_on(node.streams.reload(&node)).expect("the store reads");
    node.append(&WORK, "a", b"next");
    assert_eq!(bodies(node.take(&WORK, "a", "worker", 10)), [b"kept".to_vec(), b"next".to_vec()]);
    assert_eq!(node.streams.status()[0].length, 2);
}

#[test]
fn what_a_full_store_refuses_has_not_happened() {
    let node = Node::new();
    node.append(&WORK, "a", b"kept");
    let held = node.subject(&WORK, "a");
    node.full.set(true);
    let before = node.streams.status();
    let other = node.subject(&WORK, "b");
    let refused = node.submit(|tx| {
        held.append(tx, node.now, b"refused".to_vec()).expect("there is room");
        other.append(tx, node.now, b"refused too".to_vec()).expect("there is room");
        held.append(tx, node.now, b"refused as well".to_vec()).expect("there is room");
    });
    assert_eq!(refused.map(Submitted::visible).err(), Some(StoreError::QuotaExceeded));
    assert!(block_on(held.take(&node, "worker", 10)).is_err(), "what cannot be counted is not delivered");
    assert_eq!(node.streams.status(), before);
    node.full.set(false);
    let Taken::Entries(entries) = block_on(held.take(&node, "worker", 10)).expect("there is room") else { panic!("nothing taken") };
    assert_eq!(node.append(&WORK, "a", b"next"), 1, "no number is left out");
    node.ack(&WORK, "a", "worker", &entries[0]);
    assert_eq!(bodies(node.take(&WORK, "a", "worker", 10)), [b"next".to_vec()]);
}

/// Two that found the heads outdated at once each read them anew, and each appended to a head of
/// its own: one message took the other's place.
#[test]
fn two_that_begin_at_once_after_a_failed_write_append_to_the_same_head() {
    let node = Node::new();
    node.append(&WORK, "a", b"kept");
    node.store.fail_next(StoreError::QuotaExceeded);
    let lost = node.subject(&WORK, "a");
    let failed = node.submit(|tx| {
        lost.append(tx, node.now, b"lost".to_vec()).expect("there is room");
    });
    assert!(failed.map(Submitted::visible).is_err());
    drop(lost);
    node.store.set_slow(true);
    let append = async |body: &[u8]| {
        let subject = node.streams.subject(&node, &WORK, "a").await.expect("a subject");
        node.written(|tx| {
            subject.append(tx, node.now, body.to_vec()).expect("there is room");
        });
    };
    block_on(async { join!(append(b"one"), append(b"two")) });
    assert_eq!(bodies(node.take(&WORK, "a", "worker", 10)), [&b"kept"[..], b"one", b"two"]);
    assert_eq!(node.streams.status()[0].length, 3);
}

#[derive(Clone, Debug)]
enum Step {
    Append { subject: u8, size: u8 },
    Take { subject: u8, consumer: bool, limit: u8 },
    Ack { subject: u8, consumer: bool, count: u8 },
    Clear { subject: u8 },
    Restart,
    Crash { subject: u8 },
    Wait { ms: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3u8, 0..20u8).prop_map(|(subject, size)| Step::Append { subject, size }),
        3 => (0..3u8, any::<bool>(), 1..5u8).prop_map(|(subject, consumer, limit)| Step::Take { subject, consumer, limit }),
        3 => (0..3u8, any::<bool>(), 1..5u8).prop_map(|(subject, consumer, count)| Step::Ack { subject, consumer, count }),
        1 => (0..3u8).prop_map(|subject| Step::Clear { subject }),
        1 => Just(Step::Restart),
        1 => (0..3u8).prop_map(|subject| Step::Crash { subject }),
        2 => (0..3_000u16).prop_map(|ms| Step::Wait { ms }),
    ]
}

#[derive(Clone, Default)]
struct Queue {
    /// Bodies not yet acknowledged by each consumer.
    waiting: [Vec<Vec<u8>>; 2],
    deliveries: [u32; 2],
    dead_letters: u64,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_consumer_gets_every_entry_in_order(steps in prop::collection::vec(step(), 1..60)) {
        let mut node = Node::new();
        let mut model: BTreeMap<u8, Queue> = BTreeMap::new();
        let mut taken: BTreeMap<(u8, bool), Vec<Entry>> = BTreeMap::new();
        let mut made = 0u32;
        for step in steps {
            match step {
                Step::Append { subject, size } => {
                    made += 1;
                    let body = [&made.to_be_bytes()[..], &vec![7; usize::from(size)]].concat();
                    node.append(&NEWS, &subject.to_string(), &body);
                    for waiting in &mut model.entry(subject).or_default().waiting {
                        waiting.push(body.clone());
                    }
                }
                Step::Take { subject, consumer, limit } => {
                    let queue = model.entry(subject).or_default();
                    let side = usize::from(consumer);
                    let result = node.take(&NEWS, &subject.to_string(), NEWS.consumers[side], limit.into());
                    let poison = queue.deliveries[side] == 5 && !queue.waiting[side].is_empty();
                    if poison {
                        queue.waiting[side].remove(0);
                        queue.deliveries[side] = 0;
                        queue.dead_letters += 1;
                    }
                    match result {
                        Taken::Nothing => prop_assert!(queue.waiting[side].is_empty()),
                        Taken::Later(due) => prop_assert!(queue.deliveries[side] > 0 && due > node.now),
                        Taken::Entries(entries) => {
                            let most = if queue.deliveries[side] > 0 { 1 } else { usize::from(limit) };
                            let expected: Vec<_> = queue.waiting[side].iter().take(most).cloned().collect();
                            prop_assert_eq!(bodies(Taken::Entries(entries.clone())), expected);
                            queue.deliveries[side] += 1;
                            taken.insert((subject, consumer), entries);
                        }
                    }
                }
                Step::Ack { subject, consumer, count } => {
                    let side = usize::from(consumer);
                    let Some(entries) = taken.remove(&(subject, consumer)) else { continue };
                    let done = entries.len().min(count.into());
                    node.ack(&NEWS, &subject.to_string(), NEWS.consumers[side], &entries[done - 1]);
                    let queue = model.entry(subject).or_default();
                    let is_new = queue.waiting[side].first() == Some(&entries[0].body);
                    if is_new {
                        queue.waiting[side].drain(..done);
                        queue.deliveries[side] = 0;
                    }
                }
                Step::Clear { subject } => {
                    let cleared = node.subject(&NEWS, &subject.to_string());
                    node.written(|tx| cleared.clear(tx));
                    let queue = model.entry(subject).or_default();
                    queue.waiting = Default::default();
                    queue.deliveries = [0; 2];
                }
                Step::Restart => node.restart(),
                Step::Crash { subject } => {
                    let lost = node.subject(&NEWS, &subject.to_string());
                    node.full.set(true);
                    let refused = node.submit(|tx| {
                        lost.append(tx, node.now, b"never written".to_vec()).expect("there is room");
                    });
                    prop_assert!(refused.map(Submitted::visible).is_err());
                    node.full.set(false);
                    drop(lost);
                    node.restart();
                }
                Step::Wait { ms } => node.now += u64::from(ms),
            }
            let status = &node.streams.status()[1];
            let lag = |side: usize| model.values().map(|queue| queue.waiting[side].len() as u64).sum::<u64>();
            prop_assert_eq!([status.consumers[0].lag, status.consumers[1].lag], [lag(0), lag(1)]);
            prop_assert_eq!(status.length, model.values().map(|queue| queue.waiting.iter().map(Vec::len).max().unwrap_or(0) as u64).sum::<u64>());
            prop_assert_eq!(status.dead_letters, model.values().map(|queue| queue.dead_letters).sum::<u64>());
        }
    }
}

/// Whoever forgot to list a stream had its totals left out, and its numbers given twice.
#[test]
#[should_panic(expected = "the stream `unlisted` was not opened")]
fn a_stream_that_was_not_opened_has_no_subjects() {
    static UNLISTED: Stream = Stream {
        name: "unlisted",
        consumers: &["worker"],
        retention: Retention::WorkQueue,
        limits: Limits { entries: Some(2), bytes: Some(10), age: None },
        when_full: WhenFull::Refuse,
        redelivery: REDELIVERY,
    };
    Node::new().subject(&UNLISTED, "a");
}
