//! The tables that redb keeps: the entries, and which log records are in them. The functions here
//! run within [`catch_panics`](super::catch_panics).

use super::directory::io_error;
use crate::{Bytes, Direction, StoreError, merge::Entry};
use redb::{Database, ReadableDatabase, TableDefinition};
use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
};

pub(super) const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");
pub(super) const PROGRESS: TableDefinition<'_, &str, u64> = TableDefinition::new("progress");
/// The number of the last log record that is in the tables.
pub(super) const APPLIED: &str = "applied";
/// The file in the store's directory.
pub(super) const TABLES_FILE: &str = "tables.redb";

pub(super) fn open_tables(directory: &Path, cache_bytes: usize) -> Result<Database, StoreError> {
    let tables = Database::builder().set_cache_size(cache_bytes).create(directory.join(TABLES_FILE)).map_err(store_error)?;
    let reading = tables.begin_read().map_err(store_error)?;
    if reading.open_table(ENTRIES).is_ok() && reading.open_table(PROGRESS).is_ok() {
        return Ok(tables);
    }
    let mut transaction = tables.begin_write().map_err(store_error)?;
    transaction.set_quick_repair(true);
    transaction.open_table(ENTRIES).map_err(store_error)?;
    transaction.open_table(PROGRESS).map_err(store_error)?;
    transaction.commit().map_err(store_error)?;
    Ok(tables)
}

pub(super) fn applied(tables: &Database) -> Result<u64, StoreError> {
    let progress = tables.begin_read().map_err(store_error)?.open_table(PROGRESS).map_err(store_error)?;
    Ok(progress.get(APPLIED).map_err(store_error)?.map_or(0, |number| number.value()))
}

type Stored<'a> = redb::AccessGuard<'a, &'static [u8]>;
pub(super) type Table = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

pub(super) fn entries(tables: &Database) -> Result<Table, StoreError> {
    tables.begin_read().map_err(store_error)?.open_table(ENTRIES).map_err(store_error)
}

/// The entries of `part` that redb holds.
pub(super) fn stored<'a>(table: &'a Table, part: &Range<Vec<u8>>, direction: Direction) -> Box<dyn Iterator<Item = Result<Entry, StoreError>> + 'a> {
    if part.start >= part.end {
        return Box::new(std::iter::empty());
    }
    let found = match table.range::<&[u8]>(part.start.as_slice()..part.end.as_slice()) {
        Ok(found) => found,
        Err(error) => return Box::new(std::iter::once(Err(store_error(error)))),
    };
    let entry = |entry: Result<(Stored<'_>, Stored<'_>), redb::StorageError>| {
        let (key, value) = entry.map_err(store_error)?;
        Ok((Bytes::copy_from_slice(key.value()), Some(Bytes::copy_from_slice(value.value()))))
    };
    match direction {
        Direction::Forward => Box::new(found.map(entry)),
        Direction::Backward => Box::new(found.rev().map(entry)),
    }
}

pub(super) fn store_error(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        // The file contradicts itself, or is too short.
        redb::Error::Io(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => damaged(error.to_string()),
        redb::Error::Io(error) => io_error(error),
        redb::Error::Corrupted(reason) => damaged(reason),
        error => StoreError::Platform(error.to_string()),
    }
}

/// [`catch_panics`](super::catch_panics) fills in which file.
fn damaged(reason: String) -> StoreError {
    StoreError::Damaged { file: PathBuf::new(), reason }
}
