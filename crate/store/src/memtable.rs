//! A memtable: changes kept sorted in memory, above what is stored.
//!
//! It holds point entries (a value, or "deleted") and disjoint range tombstones, which delete what
//! is older than the memtable. A point always wins over the tombstones of its own memtable,
//! because a range delete removes the points that it covers when it is applied.

use crate::{Batch, Bytes, Direction, Op, merge::Source};
use std::{
    collections::BTreeMap,
    ops::{Bound, Range},
};

/// What a memtable, or a block of an sstable, says of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The key has this value.
    Found(Bytes),
    /// The key is deleted here.
    Deleted,
    /// Nothing is said; what is older has to be asked.
    NotFound,
}

impl Lookup {
    /// The value, if there is one here.
    pub(crate) fn into_value(self) -> Option<Bytes> {
        match self {
            Self::Found(value) => Some(value),
            Self::Deleted | Self::NotFound => None,
        }
    }
}

/// Bytes of an entry in memory beyond its own: two `Bytes` and its share of a tree node.
const ENTRY_OVERHEAD: usize = 96;

/// Sorted changes in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memtable {
    points: BTreeMap<Bytes, Option<Bytes>>,
    range_tombstones: RangeTombstones,
    bytes: usize,
}

impl Memtable {
    /// A memtable of all changes of `batches`, in order.
    pub(crate) fn replay<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> Self {
        let mut memtable = Self::default();
        batches.into_iter().for_each(|batch| memtable.apply(batch));
        memtable
    }

    pub(crate) fn apply(&mut self, batch: &Batch) {
        for op in batch.ops() {
            match op {
                Op::Put(key, value) => self.set(key.clone(), Some(value.clone())),
                Op::Delete(key) => self.set(key.clone(), None),
                Op::DeleteRange(range) => self.delete_range(range.clone()),
            }
        }
    }

    pub(crate) fn set(&mut self, key: Bytes, value: Option<Bytes>) {
        let added = key.len() + value.as_ref().map_or(0, Bytes::len) + ENTRY_OVERHEAD;
        let key_len = key.len();
        self.bytes += added;
        if let Some(old) = self.points.insert(key, value) {
            self.bytes -= key_len + old.map_or(0, |v| v.len()) + ENTRY_OVERHEAD;
        }
    }

    pub(crate) fn delete_range(&mut self, range: Range<Bytes>) {
        if range.start >= range.end {
            return;
        }
        let covered: Vec<Bytes> = self.points.range(range.clone()).map(|(key, _)| key.clone()).collect();
        for key in covered {
            if let Some(old) = self.points.remove(&key) {
                self.bytes -= key.len() + old.map_or(0, |v| v.len()) + ENTRY_OVERHEAD;
            }
        }
        self.bytes += range.start.len() + range.end.len() + ENTRY_OVERHEAD;
        self.range_tombstones.insert(range);
    }

    pub(crate) fn get(&self, key: &[u8]) -> Lookup {
        match self.points.get(key) {
            Some(Some(value)) => Lookup::Found(value.clone()),
            Some(None) => Lookup::Deleted,
            None if self.range_tombstones.covers(key) => Lookup::Deleted,
            None => Lookup::NotFound,
        }
    }

    /// The points of `range`, deletions included.
    pub(crate) fn points(&self, range: &Range<Vec<u8>>, direction: Direction) -> Box<dyn Iterator<Item = (Bytes, Option<Bytes>)> + '_> {
        if range.start >= range.end {
            return Box::new(std::iter::empty());
        }
        let bounds = (Bound::Included(range.start.as_slice()), Bound::Excluded(range.end.as_slice()));
        let points = self.points.range::<[u8], _>(bounds).map(|(key, value)| (key.clone(), value.clone()));
        match direction {
            Direction::Forward => Box::new(points),
            Direction::Backward => Box::new(points.rev()),
        }
    }

    /// The memtable as a source of a merge.
    pub(crate) fn source<'a, E: 'a>(&'a self, range: &Range<Vec<u8>>, direction: Direction) -> Source<'a, E> {
        Source::new(range, move |part| Box::new(self.points(&part, direction).map(Ok)), |key| self.range_tombstones.covering(key))
    }

    /// Every point, in order.
    pub(crate) fn all_points(&self) -> impl Iterator<Item = (&Bytes, &Option<Bytes>)> {
        self.points.iter()
    }

    /// The range deletes.
    pub(crate) fn range_tombstones(&self) -> &RangeTombstones {
        &self.range_tombstones
    }

    /// Roughly what the memtable takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Disjoint, sorted key ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeTombstones(BTreeMap<Bytes, Bytes>);

impl RangeTombstones {
    /// Adds a range, joining those it touches.
    pub(crate) fn insert(&mut self, range: Range<Bytes>) {
        if range.start >= range.end {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((s, e)) = self.0.range::<Bytes, _>(..=&start).next_back().map(|(s, e)| (s.clone(), e.clone()))
            && e >= start
        {
            start = s;
            end = end.max(e);
        }
        while let Some((s, e)) = self.0.range::<Bytes, _>(&start..=&end).next().map(|(s, e)| (s.clone(), e.clone())) {
            self.0.remove(&s);
            end = end.max(e);
        }
        self.0.insert(start, end);
    }

    pub(crate) fn covers(&self, key: &[u8]) -> bool {
        self.covering(key).is_some()
    }

    /// The range that holds `key`.
    pub(crate) fn covering(&self, key: &[u8]) -> Option<Range<Bytes>> {
        let (start, end) = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        (end.as_ref() > key).then(|| start.clone()..end.clone())
    }

    /// The part of these ranges from `start` up to `end`; none means without a bound.
    pub(crate) fn clip(&self, start: Option<&Bytes>, end: Option<&Bytes>) -> Self {
        let mut clipped = Self::default();
        for (s, e) in self.iter() {
            let s = start.map_or(s, |start| start.max(s));
            let e = end.map_or(e, |end| end.min(e));
            clipped.insert(s.clone()..e.clone());
        }
        clipped
    }

    /// The same ranges in buffers of their own.
    pub(crate) fn copied(&self) -> Self {
        Self(self.iter().map(|(start, end)| (Bytes::copy_from_slice(start), Bytes::copy_from_slice(end))).collect())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.0.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn b(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn ranges(of: &[(&'static str, &'static str)]) -> RangeTombstones {
        let mut ranges = RangeTombstones::default();
        of.iter().for_each(|(s, e)| ranges.insert(b(s)..b(e)));
        ranges
    }

    #[test]
    fn ranges_that_touch_become_one() {
        for (given, wanted) in [
            (vec![("a", "c"), ("e", "g")], vec![("a", "c"), ("e", "g")]),
            (vec![("a", "c"), ("e", "g"), ("c", "e")], vec![("a", "g")]),
            (vec![("b", "c"), ("d", "e"), ("a", "z")], vec![("a", "z")]),
            (vec![("a", "z"), ("b", "c")], vec![("a", "z")]),
            (vec![("b", "d"), ("a", "b")], vec![("a", "d")]),
            (vec![("c", "c"), ("d", "b")], vec![]),
        ] {
            let got = ranges(&given);
            assert_eq!(
                got.iter().map(|(s, e)| (s.clone(), e.clone())).collect::<Vec<_>>(),
                wanted.iter().map(|(s, e)| (b(s), b(e))).collect::<Vec<_>>(),
                "{given:?}"
            );
        }
    }

    #[test]
    fn a_put_after_a_range_delete_is_seen_and_one_before_is_not() {
        let mut batch = Batch::new();
        batch.put("b1", "old");
        batch.delete_range(b"b".to_vec()..b"c".to_vec());
        batch.put("b2", "new");
        let memtable = Memtable::replay([&batch]);
        assert_eq!(memtable.get(b"b1"), Lookup::Deleted);
        assert_eq!(memtable.get(b"b2"), Lookup::Found(b("new")));
        assert_eq!(memtable.get(b"b3"), Lookup::Deleted);
        assert_eq!(memtable.get(b"c"), Lookup::NotFound);
    }
}
