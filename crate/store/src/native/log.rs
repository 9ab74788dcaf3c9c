//! The log: two files written in turn, each record synced before anyone is told.
//!
//! A file begins with `MAGIC | salt u64`. A record is `length u32 | crc32 u32 | number u64 |
//! payload`, little endian. The checksum is of salt, number and payload. Numbers grow by one.
//!
//! Once everything in a file is in redb, it is overwritten from its start, under a new salt. So
//! what follows the last record may be left from before, even the middle of a record, in which a
//! client may have put bytes that look like one. The salt is random and never shown, so nothing
//! that was written before it has the right checksum.
//!
//! The files are filled with zeros ahead of the records, because a sync of overwritten bytes has no
//! file size or extents to write.
//!
//! What cannot be read is the end of the log, or damage. `tail` tells them apart.
//!
//! In format 1 of the store the files began with the first record. Such a file is read, and written
//! on until everything in it is in redb.

#[cfg(test)]
mod damaged;
mod tail;

use self::tail::{Damage, Tail};
use super::directory::{io_error, sync_directory};
use crate::{Bytes, StoreError};
use std::{
    collections::hash_map::RandomState,
    fs::{File, OpenOptions},
    hash::BuildHasher,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

/// How a file begins. A file of format 1 cannot begin so: as the length of a record it is too much.
const MAGIC: &[u8; 8] = b"ephaplog";
/// Bytes of magic and salt.
const FILE_HEADER: usize = 16;
const RECORD_HEADER: usize = 16;
/// How far ahead of the records a file is filled with zeros.
const PREALLOCATED: usize = 1 << 20;
/// A longer file is cut back to this when it is written from its start again.
const MAX_REUSED: u64 = 8 << 20;

/// A record as it was read back.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) payload: Bytes,
}

/// What the checksums of a file begin with. None in format 1. Four random bytes and their checksum,
/// for which earlier versions had four more random ones.
type Salt = Option<[u8; 8]>;

fn new_salt() -> [u8; 8] {
    let random = RandomState::new().hash_one(());
    let [a, b, c, d, ..] = random.to_le_bytes();
    let [e, f, g, h] = checksum(None, &[a, b, c, d]).to_le_bytes();
    [a, b, c, d, e, f, g, h]
}

/// Whether a salt is as it was written.
fn is_checked(salt: [u8; 8]) -> bool {
    checksum(None, &salt[..4]).to_le_bytes() == salt[4..]
}

#[derive(Debug)]
struct LogFile {
    file: File,
    salt: Salt,
    /// Where the next record goes. 0 where a new file header comes first.
    end: u64,
    /// How much of the file has been written once.
    filled: u64,
}

/// The two log files and where the next record goes.
#[derive(Debug)]
pub(super) struct Log {
    files: [LogFile; 2],
    current: usize,
    next_number: u64,
}

/// What the log files held when they were opened.
#[derive(Debug)]
pub(super) struct Recovered {
    /// Records of the file that is full, to be moved to redb.
    pub(super) full: Vec<Record>,
    /// Records of the file that is written on.
    pub(super) current: Vec<Record>,
}

impl Log {
    /// Opens or makes the files and reads every record after `applied`.
    pub(super) fn open(directory: &Path, applied: u64) -> Result<(Self, Recovered), StoreError> {
        let paths = ["log.0", "log.1"].map(|name| directory.join(name));
        let new = !paths.iter().all(|path| path.exists());
        let (first, first_records) = LogFile::open(&paths[0], applied)?;
        let (second, second_records) = LogFile::open(&paths[1], applied)?;
        if new {
            sync_directory(directory).map_err(io_error)?;
        }
        let files = [first, second];
        let start = |records: &[Record]| records.first().map_or(u64::MAX, |record| record.number);
        let swapped = start(&second_records) < start(&first_records);
        let (older, newer) = if swapped { (second_records, first_records) } else { (first_records, second_records) };
        let at = usize::from(swapped);
        let mut expected = applied + 1;
        for (records, file, before) in [(&older, at, None), (&newer, 1 - at, Some(files[at].end))] {
            if let Some(first) = records.first().filter(|first| first.number != expected) {
                // What is missing was written to the other file, at the end of what that has.
                let reason = format!("record {expected} is missing there, and record {} is in {}", first.number, paths[file].display());
                let (file, cut) = (paths[1 - file].clone(), paths[file].clone());
                return Err(StoreError::DamagedLog { file, offset: before.unwrap_or(0), reason, cut, keep: 0 });
            }
            expected += records.len() as u64;
        }
        let (current, recovered) = match (older.is_empty(), newer.is_empty()) {
            (false, false) => (1 - at, Recovered { full: older, current: newer }),
            _ => (at, Recovered { full: newer, current: older }),
        };
        let mut log = Self { files, current, next_number: expected };
        if recovered.current.is_empty() {
            log.files[current].end = 0;
        }
        Ok((log, recovered))
    }

    /// Bytes of records in the file that is written on.
    pub(super) fn len(&self) -> u64 {
        self.files[self.current].end
    }

    /// Bytes of both files on disk.
    pub(super) fn bytes_stored(&self) -> u64 {
        self.files.iter().map(|file| file.filled.max(file.end)).sum()
    }

    /// Writes a record, without a sync. `record` starts with [`Log::header_space`].
    pub(super) fn write(&mut self, mut record: Vec<u8>) -> Result<(), StoreError> {
        let number = self.next_number;
        let length = u32::try_from(record.len() - RECORD_HEADER).map_err(|_| StoreError::Platform("a batch of more than 4 GiB".into()))?;
        let file = &mut self.files[self.current];
        file.write_file_header().map_err(io_error)?;
        record[8..RECORD_HEADER].copy_from_slice(&number.to_le_bytes());
        let sum = checksum(file.salt, &record[8..]);
        record[..4].copy_from_slice(&length.to_le_bytes());
        record[4..8].copy_from_slice(&sum.to_le_bytes());
        file.write(&record).map_err(io_error)
    }

    /// Makes what was written durable and returns its number.
    pub(super) fn sync(&mut self, length: usize) -> Result<u64, StoreError> {
        let file = &mut self.files[self.current];
        file.file.sync_data().map_err(io_error)?;
        file.end += length as u64;
        self.next_number += 1;
        Ok(self.next_number - 1)
    }

    /// The number of the last durable record.
    pub(super) fn last_number(&self) -> u64 {
        self.next_number - 1
    }

    /// After a failed write, makes sure that what may have reached the disk is never read back.
    pub(super) fn erase(&mut self) -> io::Result<()> {
        let file = &self.files[self.current];
        if file.end == 0 {
            // Nothing was written but a file header, and a file without one looks damaged.
            return Ok(());
        }
        file.file.write_all_at(&[0; RECORD_HEADER], file.end)?;
        file.file.sync_data()
    }

    /// Goes on in the other file, whose records are all in redb.
    pub(super) fn switch(&mut self) {
        self.current = 1 - self.current;
        let file = &mut self.files[self.current];
        file.end = 0;
        if file.filled > MAX_REUSED && file.file.set_len(MAX_REUSED).is_ok() {
            file.filled = MAX_REUSED;
        }
    }

    /// The bytes that [`Log::write`] fills in.
    pub(super) fn header_space() -> Vec<u8> {
        vec![0; RECORD_HEADER]
    }
}

impl LogFile {
    fn open(path: &Path, applied: u64) -> Result<(Self, Vec<Record>), StoreError> {
        let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(io_error)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(io_error)?;
        let content = Bytes::from(content);
        let salt = content.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk::<8>()).copied();
        let mut end = if salt.is_some() { FILE_HEADER } else { 0 };
        let mut records: Vec<Record> = Vec::new();
        while let Some(record) = read_record(&content.slice(end..), salt, records.last().map(|record| record.number + 1)) {
            end += RECORD_HEADER + record.payload.len();
            records.push(record);
        }
        let tail = Tail { content: &content, salt, end, last: records.last().map(|record| record.number), applied };
        tail.check().map_err(|Damage { offset, reason }| {
            let (file, cut) = (path.to_owned(), path.to_owned());
            StoreError::DamagedLog { file, offset, reason, cut, keep: offset }
        })?;
        records.retain(|record| record.number > applied);
        Ok((Self { file, salt, end: end as u64, filled: content.len() as u64 }, records))
    }

    /// Writes a file header with a new salt, if the file is written from its start. It is durable
    /// before what follows it, so that a file without one has lost it.
    fn write_file_header(&mut self) -> io::Result<()> {
        if self.end == 0 {
            let salt = new_salt();
            self.write(&[&MAGIC[..], &salt].concat())?;
            self.file.sync_data()?;
            (self.salt, self.end) = (Some(salt), FILE_HEADER as u64);
        }
        Ok(())
    }

    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        let needed = self.end + record.len() as u64;
        if needed > self.filled && record.len() < PREALLOCATED {
            self.file.write_all_at(&vec![0; PREALLOCATED], self.filled)?;
            self.file.sync_all()?;
            self.filled += PREALLOCATED as u64;
        }
        self.file.write_all_at(record, self.end)?;
        self.filled = self.filled.max(needed);
        Ok(())
    }
}

fn checksum(salt: Salt, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(salt.as_ref().map_or(&[][..], |salt| &salt[..]));
    hasher.update(bytes);
    hasher.finalize()
}

/// What a record begins with.
struct RecordHeader {
    length: usize,
    sum: u32,
    number: u64,
}

impl RecordHeader {
    fn at(content: &[u8], at: usize) -> Option<Self> {
        let (length, rest) = content.get(at..)?.split_first_chunk()?;
        let (sum, rest) = rest.split_first_chunk()?;
        let number = u64::from_le_bytes(*rest.first_chunk()?);
        Some(Self { length: u32::from_le_bytes(*length) as usize, sum: u32::from_le_bytes(*sum), number })
    }

    /// What the checksum is over, but for the salt, of a record that begins with this header.
    fn body<'a>(&self, record: &'a [u8]) -> Option<&'a [u8]> {
        if self.length == 0 { None } else { record.get(8..RECORD_HEADER.checked_add(self.length)?) }
    }
}

fn read_record(from: &Bytes, salt: Salt, expected: Option<u64>) -> Option<Record> {
    let header = RecordHeader::at(from, 0)?;
    let number = header.number;
    let body = header.body(from).filter(|_| expected.is_none_or(|expected| expected == number))?;
    (checksum(salt, body) == header.sum).then(|| Record { number, payload: from.slice(RECORD_HEADER..RECORD_HEADER + header.length) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    pub(super) fn append(log: &mut Log, payload: &[u8]) -> u64 {
        let mut record = Log::header_space();
        record.extend_from_slice(payload);
        let length = record.len();
        log.write(record).expect("room on disk");
        log.sync(length).expect("a working disk")
    }

    fn payloads(records: &[Record]) -> Vec<&[u8]> {
        records.iter().map(|record| record.payload.as_ref()).collect()
    }

    #[test]
    fn a_torn_record_is_not_read_back_and_its_number_is_used_again() {
        let directory = tempdir().expect("a directory");
        let (mut log, _) = Log::open(directory.path(), 0).expect("opens");
        append(&mut log, b"one");
        append(&mut log, b"two");
        let end = log.len();
        log.files[0].file.write_all_at(b"x", end - 1).expect("writes");
        drop(log);
        let (mut log, recovered) = Log::open(directory.path(), 0).expect("opens");
        assert_eq!(payloads(&recovered.current), [b"one"]);
        assert_eq!(append(&mut log, b"new"), 2);
        drop(log);
        let (_, recovered) = Log::open(directory.path(), 0).expect("opens");
        assert_eq!(payloads(&recovered.current), [b"one", b"new"]);
    }

    /// Files are overwritten without being cleared, and clients choose bytes of records. What
    /// looked like a record within an old one was read back as one after a crash, when it lay where
    /// the new records ended and had the next number.
    #[test]
    fn bytes_of_an_old_record_that_look_like_a_record_are_not_read_back() {
        let directory = tempdir().expect("a directory");
        let (mut log, _) = Log::open(directory.path(), 0).expect("opens");
        let forged = |number: u64| {
            let mut record = [&[0; 8][..], &number.to_le_bytes(), b"forged"].concat();
            let sum = checksum(None, &record[8..]);
            record[..4].copy_from_slice(&6u32.to_le_bytes());
            record[4..8].copy_from_slice(&sum.to_le_bytes());
            record
        };
        append(&mut log, &[&[b'1'; 20][..], &forged(4)].concat());
        log.switch();
        append(&mut log, b"two");
        log.switch();
        // It ends where the forged one begins.
        append(&mut log, &[b'3'; 20]);
        drop(log);
        let (_, recovered) = Log::open(directory.path(), 2).expect("opens");
        assert_eq!(payloads(&recovered.current), [[b'3'; 20]]);
    }

    /// A crash before the first record is whole leaves a file header, or none.
    #[test]
    fn a_file_with_a_header_and_no_record_is_begun_again() {
        let directory = tempdir().expect("a directory");
        for applied in 0..3 {
            let (mut log, recovered) = Log::open(directory.path(), applied).expect("opens");
            assert_eq!((recovered.full.len(), recovered.current.len()), (0, 0));
            log.files[log.current].write_file_header().expect("writes");
            drop(log);
            let (mut log, _) = Log::open(directory.path(), applied).expect("opens");
            assert_eq!(append(&mut log, b"one"), applied + 1);
            log.erase().expect("writes");
            drop(log);
            let (_, recovered) = Log::open(directory.path(), applied).expect("opens");
            assert_eq!(payloads(&recovered.current), [b"one"]);
        }
    }

    #[test]
    fn a_log_of_format_1_is_read_and_written_on() {
        let directory = tempdir().expect("a directory");
        let record = |number: u64, payload: &[u8]| {
            let mut record = [&(payload.len() as u32).to_le_bytes()[..], &[0; 4], &number.to_le_bytes(), payload].concat();
            let sum = checksum(None, &record[8..]);
            record[4..8].copy_from_slice(&sum.to_le_bytes());
            record
        };
        std::fs::write(directory.path().join("log.0"), [record(1, b"one"), record(2, b"two")].concat()).expect("writes");
        std::fs::write(directory.path().join("log.1"), record(3, b"three")).expect("writes");
        let (mut log, recovered) = Log::open(directory.path(), 0).expect("opens");
        assert_eq!((payloads(&recovered.full), payloads(&recovered.current)), (vec![&b"one"[..], b"two"], vec![&b"three"[..]]));
        append(&mut log, b"four");
        log.switch();
        append(&mut log, b"five");
        drop(log);
        let (_, recovered) = Log::open(directory.path(), 2).expect("opens");
        assert_eq!((payloads(&recovered.full), payloads(&recovered.current)), (vec![&b"three"[..], b"four"], vec![&b"five"[..]]));
    }

    #[test]
    fn files_are_written_in_turn_and_read_back_in_order() {
        let directory = tempdir().expect("a directory");
        let (mut log, _) = Log::open(directory.path(), 0).expect("opens");
        for round in 0..5u64 {
            append(&mut log, b"a");
            append(&mut log, b"b");
            log.switch();
            append(&mut log, b"c");
            drop(log);
            let (reopened, recovered) = Log::open(directory.path(), round * 3).expect("opens");
            assert_eq!((payloads(&recovered.full), payloads(&recovered.current)), (vec![&b"a"[..], b"b"], vec![&b"c"[..]]), "round {round}");
            let (again, recovered) = Log::open(directory.path(), round * 3 + 2).expect("opens");
            assert_eq!((payloads(&recovered.full), payloads(&recovered.current)), (vec![], vec![&b"c"[..]]), "round {round}");
            drop(again);
            log = reopened;
            log.switch();
        }
    }

    #[test]
    fn a_missing_record_is_an_error() {
        let directory = tempdir().expect("a directory");
        let (mut log, _) = Log::open(directory.path(), 0).expect("opens");
        append(&mut log, b"one");
        log.switch();
        append(&mut log, b"two");
        drop(log);
        std::fs::write(directory.path().join("log.0"), b"").expect("writes");
        let damaged = Log::open(directory.path(), 0).expect_err("refused");
        assert!(
            matches!(&damaged, StoreError::DamagedLog { file, offset: 0, cut, keep: 0, .. } if file.ends_with("log.0") && cut.ends_with("log.1")),
            "{damaged}"
        );
    }
}
