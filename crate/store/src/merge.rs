//! Reading a stack of sorted sources, newest first, as one map.

use crate::{Bytes, Direction, StoreError, layer::Ranges};
use std::iter::Peekable;

/// An entry of a source: a value, or "deleted here".
pub(crate) type Entry = (Bytes, Option<Bytes>);

/// One sorted source and the ranges in which it hides everything older.
pub(crate) struct Source<'a> {
    entries: Peekable<Box<dyn Iterator<Item = Result<Entry, StoreError>> + 'a>>,
    hidden: Option<&'a Ranges>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(entries: impl Iterator<Item = Result<Entry, StoreError>> + 'a, hidden: Option<&'a Ranges>) -> Self {
        let boxed: Box<dyn Iterator<Item = Result<Entry, StoreError>> + 'a> = Box::new(entries);
        Self { entries: boxed.peekable(), hidden }
    }
}

/// At most `limit` live entries of `sources`, which are given from the newest to the oldest, each sorted in `direction`.
pub(crate) fn merge(mut sources: Vec<Source<'_>>, direction: Direction, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    let mut found = Vec::new();
    while found.len() < limit {
        let mut next: Option<(usize, Bytes)> = None;
        for (age, source) in sources.iter_mut().enumerate() {
            match source.entries.peek() {
                Some(Ok((key, _))) if next.as_ref().is_none_or(|(_, best)| comes_before(key, best, direction)) => next = Some((age, key.clone())),
                Some(Err(error)) => return Err(error.clone()),
                _ => {}
            }
        }
        let Some((age, key)) = next else { break };
        let mut value = None;
        for (at, source) in sources.iter_mut().enumerate().skip(age) {
            if let Some(Ok((_, entry))) = source.entries.next_if(|entry| matches!(entry, Ok((other, _)) if *other == key))
                && at == age
            {
                value = entry;
            }
        }
        let hidden = sources[..age].iter().any(|newer| newer.hidden.is_some_and(|ranges| ranges.contains(&key)));
        if let (Some(value), false) = (value, hidden) {
            found.push((key, value));
        }
    }
    Ok(found)
}

fn comes_before(key: &Bytes, other: &Bytes, direction: Direction) -> bool {
    match direction {
        Direction::Forward => key < other,
        Direction::Backward => key > other,
    }
}
