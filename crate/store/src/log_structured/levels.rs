//! Which segments there are and in which order they are read.

use super::segment::Segment;
use crate::Bytes;
use std::{ops::Range, rc::Rc};

/// The segments, by level.
#[derive(Clone, Debug, Default)]
pub(super) struct Levels {
    /// Newest first; they may overlap.
    zero: Vec<Rc<Segment>>,
    /// Level 1 and deeper; the segments of each are sorted and do not overlap.
    deeper: Vec<Vec<Rc<Segment>>>,
}

impl Levels {
    pub(super) fn new(segments: impl IntoIterator<Item = Segment>) -> Self {
        let mut levels = Self::default();
        segments.into_iter().for_each(|segment| levels.add(Rc::new(segment)));
        levels
    }

    pub(super) fn add(&mut self, segment: Rc<Segment>) {
        match usize::from(segment.level).checked_sub(1) {
            None => {
                let at = self.zero.partition_point(|other| other.id > segment.id);
                self.zero.insert(at, segment);
            }
            Some(level) => {
                if self.deeper.len() <= level {
                    self.deeper.resize_with(level + 1, Vec::new);
                }
                let run = &mut self.deeper[level];
                let at = run.partition_point(|other| other.start < segment.start);
                run.insert(at, segment);
            }
        }
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.zero.retain(|segment| segment.id != id);
        self.deeper.iter_mut().for_each(|run| run.retain(|segment| segment.id != id));
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.all().any(|segment| segment.id == id)
    }

    /// Every segment, newest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Rc<Segment>> {
        self.zero.iter().chain(self.deeper.iter().flatten())
    }

    /// Level 0, newest first.
    pub(super) fn zero(&self) -> &[Rc<Segment>] {
        &self.zero
    }

    /// A level below 0, sorted; empty when there is none so deep.
    pub(super) fn run(&self, level: u8) -> &[Rc<Segment>] {
        usize::from(level).checked_sub(1).and_then(|at| self.deeper.get(at)).map_or(&[], Vec::as_slice)
    }

    /// The deepest level that was ever used.
    pub(super) fn deepest(&self) -> u8 {
        self.deeper.len() as u8
    }

    /// The segments of a run that overlap `range`.
    pub(super) fn overlapping(&self, level: u8, range: &Range<Bytes>) -> &[Rc<Segment>] {
        let run = self.run(level);
        let start = run.partition_point(|segment| segment.end <= range.start);
        let end = run.partition_point(|segment| segment.start < range.end);
        &run[start..end.max(start)]
    }

    /// Whether anything deeper than `level` overlaps `range`.
    pub(super) fn anything_below(&self, level: u8, range: &Range<Bytes>) -> bool {
        (level + 1..=self.deepest()).any(|deeper| !self.overlapping(deeper, range).is_empty())
    }

    /// The segment of a run that may hold `key`.
    pub(super) fn holder(&self, level: u8, key: &[u8]) -> Option<&Rc<Segment>> {
        let run = self.run(level);
        let at = run.partition_point(|segment| segment.end.as_ref() <= key);
        run.get(at).filter(|segment| segment.may_hold(key))
    }

    /// The segments that may know `key`, newest first.
    pub(super) fn candidates<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = &'a Rc<Segment>> + 'a {
        let zero = self.zero.iter().filter(|segment| segment.may_hold(key));
        zero.chain((1..=self.deepest()).filter_map(|level| self.holder(level, key)))
    }

    /// Bytes of the Blobs of a run.
    pub(super) fn run_bytes(&self, level: u8) -> u64 {
        self.run(level).iter().map(|segment| u64::from(segment.length)).sum()
    }

    /// Bytes of all Blobs.
    pub(super) fn bytes(&self) -> u64 {
        self.all().map(|segment| u64::from(segment.length)).sum()
    }

    /// How many places a scan has to look at.
    pub(super) fn sorted_runs(&self) -> u32 {
        (self.zero.len() + self.deeper.iter().filter(|run| !run.is_empty()).count()) as u32
    }
}
