//! A batch: puts, deletes and range deletes that are written all or nothing.

use bytes::Bytes;
use std::ops::Range;

/// One change of a [`Batch`]; later ones win over earlier ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put(Bytes, Bytes),
    /// Removes a key, if it is there.
    Delete(Bytes),
    /// Removes every key of a range.
    DeleteRange(Range<Bytes>),
}

/// Changes that become visible and durable together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    ops: Vec<Op>,
    generation: Option<u64>,
    frees_space: bool,
}

impl Batch {
    /// An empty batch that stands on nothing read before.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch that stands on what was read since the store's generation was `generation`.
    pub fn since(generation: u64) -> Self {
        Self { generation: Some(generation), ..Self::default() }
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.ops.push(Op::Put(key.into(), value.into()));
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.ops.push(Op::Delete(key.into()));
    }

    /// Removes every key from `range.start` up to, not including, `range.end`.
    pub fn delete_range(&mut self, range: Range<Vec<u8>>) {
        self.ops.push(Op::DeleteRange(range.start.into()..range.end.into()));
    }

    /// Adds one change.
    pub fn push(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// Adds all changes of `other` after these.
    pub fn append(&mut self, other: Batch) {
        self.ops.extend(other.ops);
        self.generation = match (self.generation, other.generation) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.frees_space |= other.frees_space;
    }

    /// Says that this batch makes room. Where storage is full, it is written into the space that
    /// is kept back for such work.
    ///
    /// A batch that does not make room would use that space up. So this is for deleting what is
    /// large, and for what must be recorded with it.
    pub fn set_frees_space(&mut self) {
        self.frees_space = true;
    }

    /// Whether this batch makes room.
    pub fn frees_space(&self) -> bool {
        self.frees_space
    }

    /// The changes, in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The ranges of which every key is removed, in order.
    pub(crate) fn range_deletes(&self) -> impl Iterator<Item = &Range<Bytes>> {
        self.ops.iter().filter_map(|op| match op {
            Op::DeleteRange(range) => Some(range),
            Op::Put(..) | Op::Delete(_) => None,
        })
    }

    /// The generation this batch's reads were made in.
    pub fn generation(&self) -> Option<u64> {
        self.generation
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.ops
            .iter()
            .map(|op| match op {
                Op::Put(k, v) => k.len() + v.len(),
                Op::Delete(k) => k.len(),
                Op::DeleteRange(r) => r.start.len() + r.end.len(),
            })
            .sum()
    }
}
