//! One damaged page of the tables' file: whoever needs it gets an error that names the file, and
//! everybody else is served.

use super::{RedbOptions, RedbStore, panic_is_caught, tables::TABLES_FILE};
use crate::{Batch, Direction, Store, StoreError, conformance};
use futures_executor::block_on;
use std::{fs, os::unix::fs::FileExt, panic, path::Path, sync::Once};
use tempfile::{TempDir, tempdir};

const PAGE: usize = 4096;
const KEYS: u16 = 600;

/// A small log, so that everything is moved to the tables, and no cache, so that pages are read.
fn options() -> RedbOptions {
    RedbOptions { log_bytes: 3_000, cache_bytes: 0, ..RedbOptions::default() }
}

fn key(number: u16) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// Panics that become errors are not printed, as in `ephapse serve`. Their stack traces would take
/// longer than the tests.
fn keep_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !panic_is_caught() {
                tell(info)
            }
        }));
    });
}

/// A directory with most of its content in the tables.
fn filled() -> TempDir {
    keep_quiet();
    let directory = tempdir().expect("a directory");
    let store = RedbStore::open_with(directory.path(), options()).expect("opens");
    for number in 0..KEYS {
        block_on(store.commit(numbered(number))).expect("commits");
    }
    block_on(store.close()).expect("closes");
    drop(store);
    // Opened once more, so that what was left in the log is moved too.
    let store = RedbStore::open_with(directory.path(), options()).expect("opens");
    block_on(store.commit(numbered(0))).expect("commits");
    directory
}

fn numbered(number: u16) -> Batch {
    let mut batch = Batch::new();
    batch.put(key(number), vec![number as u8; 100 + usize::from(number % 7) * 100]);
    batch
}

fn copy(from: &Path) -> TempDir {
    let to = tempdir().expect("a directory");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), to.path().join(entry.file_name())).expect("copied");
    }
    to
}

/// A page, damaged in three ways.
fn damaged(page: &[u8]) -> [Vec<u8>; 3] {
    let flipped = page.iter().map(|byte| !byte).collect();
    let one_bit = page.iter().enumerate().map(|(at, byte)| if at % 97 == 3 { byte ^ 0x10 } else { *byte }).collect();
    [flipped, one_bit, vec![0; page.len()]]
}

/// Reads everything, and counts how often that failed because of the file.
fn use_all(store: &RedbStore, file: &Path) -> usize {
    let mut failures = 0;
    let mut note = |failed: Option<StoreError>| match failed {
        None => {}
        Some(StoreError::Damaged { file: named, reason }) => {
            assert!(named == file && !reason.is_empty(), "{named:?}: {reason}");
            failures += 1;
        }
        Some(other) => panic!("{other}"),
    };
    let all: Vec<_> = (0..KEYS).map(key).collect();
    for one in &all {
        note(block_on(store.get_many(std::slice::from_ref(one))).err());
    }
    for direction in [Direction::Forward, Direction::Backward] {
        note(block_on(store.scan(vec![0]..vec![0xff], direction, usize::MAX)).err());
    }
    failures
}

#[test]
fn a_damaged_page_is_reported_with_its_file_at_opening_or_reading() {
    let whole = filled();
    let file = TABLES_FILE;
    let bytes = fs::read(whole.path().join(file)).expect("readable");
    let (mut refused, mut failed) = (0, 0);
    for (number, page) in bytes.chunks(PAGE).enumerate() {
        for (way, damage) in damaged(page).into_iter().enumerate() {
            let directory = copy(whole.path());
            let path = directory.path().join(file);
            let tables = fs::OpenOptions::new().write(true).open(&path).expect("there");
            tables.write_all_at(&damage, (number * PAGE) as u64).expect("written");
            match RedbStore::open_with(directory.path(), options()) {
                Err(error) => {
                    refused += 1;
                    assert!(matches!(&error, StoreError::Damaged { file, .. } if *file == path), "page {number}, way {way}: {error}");
                    assert!(error.to_string().contains("put a backup"), "{error}");
                }
                Ok(store) => {
                    failed += usize::from(use_all(&store, &path) > 0);
                    // Whether the tables can be written is the log's concern until it is full.
                    block_on(store.commit(numbered(1))).expect("the log takes it");
                    drop(store);
                }
            }
        }
    }
    println!("{} pages: {refused} damages refused at the opening, {failed} found by reading", bytes.len() / PAGE);
    assert!(refused > 0 && failed > 0, "{refused} {failed}");
}

#[test]
fn a_page_damaged_while_the_store_is_open_is_reported_and_the_rest_is_served() {
    let whole = filled();
    let path = whole.path().join(TABLES_FILE);
    let bytes = fs::read(&path).expect("readable");
    let store = RedbStore::open_with(whole.path(), options()).expect("opens");
    let before = block_on(conformance::dump(&store)).expect("readable");
    let tables = fs::OpenOptions::new().write(true).open(&path).expect("there");
    let (mut failed, mut served) = (0, 0);
    for (number, page) in bytes.chunks(PAGE).enumerate().skip(1) {
        for damage in damaged(page) {
            tables.write_all_at(&damage, (number * PAGE) as u64).expect("written");
            let failures = use_all(&store, &path);
            failed += usize::from(failures > 0);
            served += usize::from(failures > 0 && failures < usize::from(KEYS));
            tables.write_all_at(page, (number * PAGE) as u64).expect("written");
        }
    }
    println!("{failed} damages found, with the rest served in {served}");
    assert!(failed > 0 && served > 0);
    assert_eq!(block_on(conformance::dump(&store)).expect("readable"), before, "once the page is right again");
}

/// A batch that cannot be moved to the tables stays in the log. When the log is full, whoever
/// writes is told why.
#[test]
fn damaged_tables_refuse_writes_once_the_log_is_full() {
    let whole = filled();
    let path = whole.path().join(TABLES_FILE);
    let length = fs::metadata(&path).expect("there").len() as usize;
    let store = RedbStore::open_with(whole.path(), options()).expect("opens");
    let tables = fs::OpenOptions::new().write(true).open(&path).expect("there");
    tables.write_all_at(&vec![0xff; length - PAGE], PAGE as u64).expect("written");
    let refused = (0..KEYS).find_map(|number| block_on(store.commit(numbered(number))).err()).expect("the log does not grow without end");
    assert!(matches!(&refused, StoreError::Damaged { file, .. } if *file == path), "{refused}");
    assert_eq!(block_on(store.close()), Ok(()));
}
