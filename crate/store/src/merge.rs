//! Reading a stack of sorted sources, newest first, as one map.

use crate::{Bytes, Direction};
use std::{iter::Peekable, ops::Range};

/// An entry of a source: a value, or "deleted here".
pub(crate) type Entry = (Bytes, Option<Bytes>);

/// After so many hidden entries in a row, older sources are moved past what hides them.
const PATIENCE: u32 = 16;

type Hiding<'a> = Box<dyn Fn(&[u8]) -> Option<Range<Bytes>> + 'a>;
type Entries<'a, E> = Box<dyn Iterator<Item = Result<Entry, E>> + 'a>;

/// One sorted source and the ranges in which it hides everything older.
pub(crate) struct Source<'a, E> {
    entries: Peekable<Entries<'a, E>>,
    /// The entries of a part of the source's range.
    part: Box<dyn Fn(Range<Vec<u8>>) -> Entries<'a, E> + 'a>,
    /// The range around a key in which this source hides older ones.
    hiding: Hiding<'a>,
}

impl<'a, E: 'a> Source<'a, E> {
    /// A source whose entries `part` gives for any range, sorted in the direction of the merge.
    pub(crate) fn new(
        range: &Range<Vec<u8>>,
        part: impl Fn(Range<Vec<u8>>) -> Entries<'a, E> + 'a,
        hiding: impl Fn(&[u8]) -> Option<Range<Bytes>> + 'a,
    ) -> Self {
        Self { entries: part(range.clone()).peekable(), part: Box::new(part), hiding: Box::new(hiding) }
    }
}

/// The newest entry of every key, deletions included, without what newer ranges hide. After an error the iterator must not be used on.
pub(crate) struct Merge<'a, E> {
    sources: Vec<Source<'a, E>>,
    direction: Direction,
    range: Range<Vec<u8>>,
    hidden_in_a_row: u32,
}

impl<'a, E: 'a> Merge<'a, E> {
    /// Merges `sources`, given from the newest to the oldest.
    pub(crate) fn new(sources: Vec<Source<'a, E>>, range: Range<Vec<u8>>, direction: Direction) -> Self {
        Self { sources, direction, range, hidden_in_a_row: 0 }
    }

    /// The live entries.
    pub(crate) fn live(self, limit: usize) -> Result<Vec<(Bytes, Bytes)>, E> {
        self.filter_map(|entry| entry.map(|(key, value)| Some((key, value?))).transpose()).take(limit).collect()
    }

    /// Which source comes next: the newest of those that stand at the first key.
    fn next_source(&mut self) -> Option<Result<(usize, Bytes), E>> {
        let mut next: Option<(usize, Bytes)> = None;
        let mut failed = None;
        for (age, source) in self.sources.iter_mut().enumerate() {
            match source.entries.peek() {
                Some(Ok((key, _))) if next.as_ref().is_none_or(|(_, best)| comes_before(key, best, self.direction)) => {
                    next = Some((age, key.clone()))
                }
                // Every source is asked before giving up, so that all of them tell what they miss.
                Some(Err(_)) => failed = Some(age),
                _ => {}
            }
        }
        match failed {
            Some(age) => self.sources[age].entries.next().and_then(|entry| entry.err()).map(Err),
            None => next.map(Ok),
        }
    }

    /// Moves the sources older than `age` past `hidden`.
    fn skip(&mut self, age: usize, hidden: &Range<Bytes>) {
        let rest = match self.direction {
            Direction::Forward => hidden.end.to_vec()..self.range.end.clone(),
            Direction::Backward => self.range.start.clone()..hidden.start.to_vec(),
        };
        for source in &mut self.sources[age + 1..] {
            let inside = matches!(source.entries.peek(), Some(Ok((key, _))) if hidden.contains(key));
            if inside {
                source.entries = (source.part)(rest.clone()).peekable();
            }
        }
        self.hidden_in_a_row = 0;
    }
}

impl<'a, E: 'a> Iterator for Merge<'a, E> {
    type Item = Result<Entry, E>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (age, key) = match self.next_source()? {
                Ok(next) => next,
                Err(error) => return Some(Err(error)),
            };
            let mut value = None;
            for (at, source) in self.sources.iter_mut().enumerate().skip(age) {
                if let Some(Ok((_, entry))) = source.entries.next_if(|entry| matches!(entry, Ok((other, _)) if *other == key))
                    && at == age
                {
                    value = entry;
                }
            }
            let hidden = self.sources[..age].iter().enumerate().find_map(|(age, newer)| Some((age, (newer.hiding)(&key)?)));
            let Some((by, hidden)) = hidden else {
                self.hidden_in_a_row = 0;
                return Some(Ok((key, value)));
            };
            self.hidden_in_a_row += 1;
            if self.hidden_in_a_row > PATIENCE {
                self.skip(by, &hidden);
            }
        }
    }
}

fn comes_before(key: &Bytes, other: &Bytes, direction: Direction) -> bool {
    match direction {
        Direction::Forward => key < other,
        Direction::Backward => key > other,
    }
}
