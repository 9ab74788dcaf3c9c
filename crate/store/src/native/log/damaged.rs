//! A damaged log: what was acknowledged is read back, or the log does not open and says where it is
//! damaged and what to do. Only the last record of all may go without a word, as a crash leaves it.

use super::{FILE_HEADER, Log, RECORD_HEADER, Recovered, tests::append};
use crate::{Batch, RedbStore, Store, StoreError};
use futures_executor::block_on;
use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::{TempDir, tempdir};

/// The records that are in redb; log.1 has the next three, and log.0 three more in front of old
/// ones.
const APPLIED: u64 = 6;
const LAST: u64 = 12;
/// What there is in each file is less.
const LENGTH: usize = 600;

fn payload(number: u64) -> Vec<u8> {
    vec![number as u8; 5 + number as usize * 7 % 40]
}

fn written() -> [Vec<u8>; 2] {
    let directory = tempdir().expect("a directory");
    let (mut log, _) = Log::open(directory.path(), 0).expect("opens");
    for number in 1..=LAST {
        append(&mut log, &payload(number));
        if number == APPLIED || number == APPLIED + 3 {
            log.switch();
        }
    }
    paths(directory.path()).map(|path| fs::read(path).expect("readable")[..LENGTH].to_vec())
}

fn paths(directory: &Path) -> [PathBuf; 2] {
    ["log.0", "log.1"].map(|name| directory.join(name))
}

fn directory_of(files: &[Vec<u8>; 2]) -> TempDir {
    let directory = tempdir().expect("a directory");
    for (path, content) in paths(directory.path()).iter().zip(files) {
        fs::write(path, content).expect("written");
    }
    directory
}

/// The numbers of what was read back, which is as it was written.
fn numbers(recovered: &Recovered) -> Vec<u64> {
    let records = recovered.full.iter().chain(&recovered.current);
    records.inspect(|record| assert_eq!(record.payload, payload(record.number))).map(|record| record.number).collect()
}

/// Does what the error says, until the log opens, and goes on.
fn cut_until_it_opens(directory: &Path, and_append: bool) -> Vec<u64> {
    for _ in 0..3 {
        match Log::open(directory, APPLIED) {
            Ok((mut log, recovered)) => {
                let found = numbers(&recovered);
                if !and_append {
                    return found;
                }
                let next = APPLIED + 1 + found.len() as u64;
                assert_eq!(append(&mut log, &payload(next)), next);
                drop(log);
                let (_, recovered) = Log::open(directory, APPLIED).expect("opens again");
                assert_eq!(numbers(&recovered), (APPLIED + 1..=next).collect::<Vec<_>>());
                return found;
            }
            Err(StoreError::DamagedLog { cut, keep, .. }) => {
                OpenOptions::new().write(true).open(cut).and_then(|file| file.set_len(keep)).expect("cut")
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it does not open")
}

/// The records that are lost without a word when one of the files is damaged; `None` if the log
/// says that it is, and then opens without them once that is done which it says.
fn lost_by(files: &[Vec<u8>; 2], file: usize, damage: impl Fn(&mut [u8])) -> Option<Vec<u64>> {
    let mut damaged = files.clone();
    damage(&mut damaged[file]);
    let directory = directory_of(&damaged);
    match Log::open(directory.path(), APPLIED) {
        Ok((_, recovered)) => {
            let found = numbers(&recovered);
            Some((APPLIED + 1..=LAST).filter(|number| !found.contains(number)).collect())
        }
        Err(StoreError::DamagedLog { file: named, offset, reason, .. }) => {
            assert!(paths(directory.path()).contains(&named) && offset < LENGTH as u64 && !reason.is_empty(), "{named:?} {offset} {reason}");
            let kept = cut_until_it_opens(directory.path(), offset % 32 == 0);
            assert!(kept.iter().copied().eq(APPLIED + 1..APPLIED + 1 + kept.len() as u64), "{kept:?}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_flipped_byte_loses_nothing_without_a_word_but_the_last_record() {
    let files = written();
    let (mut harmless, mut last, mut said) = (0, 0, 0);
    for (file, content) in files.iter().enumerate() {
        for place in 0..content.len() {
            match lost_by(&files, file, |content| content[place] ^= 1 << (place % 8)).as_deref() {
                Some([]) => harmless += 1,
                Some([LAST]) => last += 1,
                Some(lost) => panic!("a bit of byte {place} of log.{file}: {lost:?} are lost"),
                None => said += 1,
            }
        }
    }
    println!("{harmless} flips harmless, {last} in the last record, {said} said");
    assert!(harmless > 0 && last > 0 && said > 0);
}

/// Also where more is gone than one record: the file header, say, and all but the last one.
#[test]
fn zeroed_bytes_lose_nothing_without_a_word_but_the_last_record() {
    let files = written();
    let last = (LAST - 2..LAST).map(|number| RECORD_HEADER + payload(number).len()).sum::<usize>() + FILE_HEADER;
    for (file, end) in [(0, last), (1, LENGTH)] {
        for length in [40, 100] {
            for place in (0..end - length).step_by(3) {
                let lost = lost_by(&files, file, |content| content[place..].iter_mut().take(length).for_each(|byte| *byte = 0));
                assert!(lost.iter().flatten().all(|number| *number == LAST), "{length} bytes from {place} of log.{file}: {lost:?} are lost");
            }
        }
    }
}

/// What a crash leaves: some bytes of the record that was being written, over what was there
/// before.
#[test]
fn a_torn_record_is_the_end_of_the_log() {
    let directory = tempdir().expect("a directory");
    let (mut log, _) = Log::open(directory.path(), 0).expect("opens");
    let read =
        || paths(directory.path()).map(|path| fs::read(path).expect("readable").into_iter().chain([0; LENGTH]).take(LENGTH).collect::<Vec<_>>());
    for number in 1..=4 * APPLIED {
        let (before, current, start) = (read(), log.current, (log.len() as usize).max(FILE_HEADER));
        append(&mut log, &payload(number));
        let (after, end) = (read(), log.len() as usize);
        // The file header is synced before it.
        let mut files = before.clone();
        files[current][..start].copy_from_slice(&after[current][..start]);
        for torn in (start..end).step_by(2) {
            for part in [start..torn, torn..end, torn..(torn + 9).min(end)] {
                let mut files = files.clone();
                files[current][part.clone()].copy_from_slice(&after[current][part]);
                let applied = (number - 1) / APPLIED * APPLIED;
                let (_, recovered) =
                    Log::open(directory_of(&files).path(), applied).unwrap_or_else(|error| panic!("record {number} torn at {torn}: {error}"));
                let found = numbers(&recovered);
                assert!(found.len() as u64 >= number - 1 - applied, "record {number} torn at {torn}: {found:?}");
            }
        }
        if number % (APPLIED / 2) == 0 {
            log.switch();
        }
    }
}

#[test]
fn a_damaged_log_is_named_with_the_place_and_with_what_to_do() {
    let directory = tempdir().expect("a directory");
    let store = RedbStore::open(directory.path()).expect("opens");
    for key in ["one", "two", "three"] {
        let mut batch = Batch::new();
        batch.put(key, key);
        block_on(store.commit(batch)).expect("commits");
    }
    drop(store);
    let log = directory.path().join("log.0");
    let mut content = fs::read(&log).expect("readable");
    let place = content.windows(3).position(|bytes| bytes == b"two").expect("the second record");
    content[place] ^= 1;
    fs::write(&log, content).expect("written");

    let refused = RedbStore::open(directory.path()).err().expect("damaged").to_string();
    let (file, offset) = (log.display(), place - 19);
    let reason = "the record there cannot be read, and record 3 behind it can";
    let cut = format!("truncate -s {offset} '{file}'");
    assert_eq!(
        refused,
        format!(
            "{file} is damaged at byte {offset} ({reason}): stop the server, and put a backup of the directory in its place; \
             or, to go on without the part of the log that begins there: {cut}"
        )
    );
    assert!(Command::new("sh").args(["-c", &cut]).status().expect("a shell").success());
    let store = RedbStore::open(directory.path()).expect("opens");
    let read = block_on(store.get_many(&[b"one".to_vec(), b"two".to_vec()]));
    assert_eq!(read, Ok(vec![Some("one".into()), None]));
}
