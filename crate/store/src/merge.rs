//! Reading a stack of sorted sources, newest first, as one map.

use crate::{Bytes, Direction};
use std::ops::Range;

/// An entry of a source: a value, or "deleted here".
pub(crate) type Entry = (Bytes, Option<Bytes>);

/// After so many covered entries in a row, the older sources skip to the end of the tombstone.
const MAX_SKIPS: u32 = 16;

type Covering<'a> = Box<dyn Fn(&[u8]) -> Option<Range<Bytes>> + 'a>;
type Entries<'a, E> = Box<dyn Iterator<Item = Result<Entry, E>> + 'a>;

/// One sorted source, and its range tombstones.
pub(crate) struct Source<'a, E> {
    /// The next entry.
    head: Option<Result<Entry, E>>,
    /// Those after it.
    entries: Entries<'a, E>,
    /// The entries of a part of the source's range.
    part: Box<dyn Fn(Range<Vec<u8>>) -> Entries<'a, E> + 'a>,
    /// The range tombstone of this source that covers a key of older sources.
    covering: Covering<'a>,
}

impl<'a, E: 'a> Source<'a, E> {
    /// A source. `part` gives its entries of any range, sorted in the direction of the merge.
    pub(crate) fn new(
        range: &Range<Vec<u8>>,
        part: impl Fn(Range<Vec<u8>>) -> Entries<'a, E> + 'a,
        covering: impl Fn(&[u8]) -> Option<Range<Bytes>> + 'a,
    ) -> Self {
        let mut source = Self { head: None, entries: part(range.clone()), part: Box::new(part), covering: Box::new(covering) };
        source.advance();
        source
    }

    fn advance(&mut self) -> Option<Result<Entry, E>> {
        let next = self.entries.next();
        std::mem::replace(&mut self.head, next)
    }

    fn key(&self) -> Option<&Bytes> {
        self.head.as_ref()?.as_ref().ok().map(|(key, _)| key)
    }
}

/// The newest entry of every key, deletions included, without what newer range tombstones cover.
/// It must not be used on after an error.
pub(crate) struct Merge<'a, E> {
    sources: Vec<Source<'a, E>>,
    direction: Direction,
    range: Range<Vec<u8>>,
    covered_in_a_row: u32,
    /// The source of the last entry, and the one that would be next without it.
    front: Option<(usize, Option<usize>)>,
}

impl<'a, E: 'a> Merge<'a, E> {
    /// Merges `sources`, given from the newest to the oldest.
    pub(crate) fn new(sources: Vec<Source<'a, E>>, range: Range<Vec<u8>>, direction: Direction) -> Self {
        Self { sources, direction, range, covered_in_a_row: 0, front: None }
    }

    /// The live entries.
    pub(crate) fn live(self, limit: usize) -> Result<Vec<(Bytes, Bytes)>, E> {
        self.filter_map(|entry| entry.map(|(key, value)| Some((key, value?))).transpose()).take(limit).collect()
    }

    /// The source that comes next, which is the newest of those at the first key, and the one
    /// after it.
    fn next_source(&mut self) -> Option<Result<(usize, Option<usize>), E>> {
        // Neighbours in key often come from one source, which is then compared with one other.
        if let Some((age, other)) = self.front
            && let Some(key) = self.sources[age].key()
            && other.is_none_or(|other| self.sources[other].key().is_none_or(|other| comes_before(key, other, self.direction)))
        {
            return Some(Ok((age, other)));
        }
        // An error ends the merge. Every source was asked before, so all of them have said what
        // they miss.
        if let Some(failed) = self.sources.iter_mut().find(|source| matches!(source.head, Some(Err(_)))) {
            return failed.advance().and_then(Result::err).map(Err);
        }
        let (mut first, mut second): (Option<usize>, Option<usize>) = (None, None);
        for (age, source) in self.sources.iter().enumerate() {
            let Some(key) = source.key() else { continue };
            let before =
                |other: Option<usize>| other.and_then(|other| self.sources[other].key()).is_none_or(|other| comes_before(key, other, self.direction));
            if before(first) {
                second = first.replace(age);
            } else if before(second) {
                second = Some(age);
            }
        }
        self.front = first.map(|first| (first, second));
        self.front.map(Ok)
    }

    /// Moves the sources that are older than `age` past the range `covered`.
    fn skip(&mut self, age: usize, covered: &Range<Bytes>) {
        let rest = match self.direction {
            Direction::Forward => covered.end.to_vec()..self.range.end.clone(),
            Direction::Backward => self.range.start.clone()..covered.start.to_vec(),
        };
        for source in &mut self.sources[age + 1..] {
            if source.key().is_some_and(|key| covered.contains(key)) {
                source.entries = (source.part)(rest.clone());
                source.advance();
            }
        }
        self.covered_in_a_row = 0;
        self.front = None;
    }
}

impl<'a, E: 'a> Iterator for Merge<'a, E> {
    type Item = Result<Entry, E>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (age, other) = match self.next_source()? {
                Ok(next) => next,
                Err(error) => return Some(Err(error)),
            };
            let (key, value) = self.sources[age].advance()?.ok()?;
            if other.is_some_and(|other| self.sources[other].key() == Some(&key)) {
                self.sources.iter_mut().filter(|source| source.key() == Some(&key)).for_each(|source| drop(source.advance()));
                self.front = None;
            }
            let covered = self.sources[..age].iter().enumerate().find_map(|(age, newer)| Some((age, (newer.covering)(&key)?)));
            let Some((by, covered)) = covered else {
                self.covered_in_a_row = 0;
                return Some(Ok((key, value)));
            };
            self.covered_in_a_row += 1;
            if self.covered_in_a_row > MAX_SKIPS {
                self.skip(by, &covered);
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
