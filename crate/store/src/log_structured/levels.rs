//! Which sstables there are and in which order they are read.

use super::sstable::Sstable;
use crate::Bytes;
use std::{ops::Range, rc::Rc};

/// The sstables, by level.
#[derive(Clone, Debug, Default)]
pub(super) struct Levels {
    /// Newest first. They may overlap.
    level_zero: Vec<Rc<Sstable>>,
    /// Level 1 and deeper. The sstables of each are sorted and do not overlap.
    deeper: Vec<Vec<Rc<Sstable>>>,
}

impl Levels {
    pub(super) fn new(sstables: impl IntoIterator<Item = Sstable>) -> Self {
        let mut levels = Self::default();
        sstables.into_iter().for_each(|sstable| levels.add(Rc::new(sstable)));
        levels
    }

    pub(super) fn add(&mut self, sstable: Rc<Sstable>) {
        match usize::from(sstable.level).checked_sub(1) {
            None => {
                let at = self.level_zero.partition_point(|other| other.id > sstable.id);
                self.level_zero.insert(at, sstable);
            }
            Some(level) => {
                if self.deeper.len() <= level {
                    self.deeper.resize_with(level + 1, Vec::new);
                }
                let run = &mut self.deeper[level];
                let at = run.partition_point(|other| other.start < sstable.start);
                run.insert(at, sstable);
            }
        }
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.level_zero.retain(|sstable| sstable.id != id);
        self.deeper.iter_mut().for_each(|run| run.retain(|sstable| sstable.id != id));
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.all().any(|sstable| sstable.id == id)
    }

    /// Every sstable, newest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Rc<Sstable>> {
        self.level_zero.iter().chain(self.deeper.iter().flatten())
    }

    /// Level 0, newest first.
    pub(super) fn level_zero(&self) -> &[Rc<Sstable>] {
        &self.level_zero
    }

    /// A level deeper than 0, sorted. Empty when there is none so deep.
    pub(super) fn run(&self, level: u8) -> &[Rc<Sstable>] {
        usize::from(level).checked_sub(1).and_then(|at| self.deeper.get(at)).map_or(&[], Vec::as_slice)
    }

    /// The deepest level that was ever used.
    pub(super) fn deepest(&self) -> u8 {
        self.deeper.len() as u8
    }

    /// The sstables of a run that overlap `range`.
    pub(super) fn overlapping(&self, level: u8, range: &Range<Bytes>) -> &[Rc<Sstable>] {
        let run = self.run(level);
        let start = run.partition_point(|sstable| sstable.end <= range.start);
        let end = run.partition_point(|sstable| sstable.start < range.end);
        &run[start..end.max(start)]
    }

    /// Whether anything deeper than `level` overlaps `range`.
    pub(super) fn anything_below(&self, level: u8, range: &Range<Bytes>) -> bool {
        (level + 1..=self.deepest()).any(|deeper| !self.overlapping(deeper, range).is_empty())
    }

    /// The sstable of a run that may hold `key`.
    pub(super) fn sstable_for(&self, level: u8, key: &[u8]) -> Option<&Rc<Sstable>> {
        let run = self.run(level);
        let at = run.partition_point(|sstable| sstable.end.as_ref() <= key);
        run.get(at).filter(|sstable| sstable.may_hold(key))
    }

    /// The sstables that may hold `key`, newest first.
    pub(super) fn candidates<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = &'a Rc<Sstable>> + 'a {
        let level_zero = self.level_zero.iter().filter(|sstable| sstable.may_hold(key));
        level_zero.chain((1..=self.deepest()).filter_map(|level| self.sstable_for(level, key)))
    }

    /// Bytes of the Blobs of a run.
    pub(super) fn run_bytes(&self, level: u8) -> u64 {
        self.run(level).iter().map(|sstable| u64::from(sstable.length)).sum()
    }

    /// Bytes of all Blobs.
    pub(super) fn bytes(&self) -> u64 {
        self.all().map(|sstable| u64::from(sstable.length)).sum()
    }

    /// How many sorted runs a scan has to merge.
    pub(super) fn sorted_runs(&self) -> u32 {
        (self.level_zero.len() + self.deeper.iter().filter(|run| !run.is_empty()).count()) as u32
    }
}
