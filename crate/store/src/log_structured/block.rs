//! A block: some 32 KiB of sorted entries. A key is stored without the prefix that it shares with
//! the one before.
//!
//! An entry is `shared | rest length | value | rest | value bytes`. Here `value` is 0 for a
//! deletion, and else one more than the value's length. Every 16th entry is a restart point: it
//! shares nothing. The block ends in the offsets of its restart points and their number. So a
//! look-up decodes what follows one restart point.

use crate::{
    Bytes, Direction,
    codec::{Damaged, get_length, get_number, put_number},
    memtable::Lookup,
    merge::Entry,
};
use bytes::Buf;
use std::ops::Range;

const RESTART_INTERVAL: usize = 16;

/// A block that is being written.
#[derive(Default)]
pub(super) struct BlockBuilder {
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    entries: usize,
    last: Bytes,
}

impl BlockBuilder {
    pub(super) fn push(&mut self, key: &Bytes, value: Option<&Bytes>) {
        let shared = if self.entries.is_multiple_of(RESTART_INTERVAL) {
            self.restarts.push(self.bytes.len() as u32);
            0
        } else {
            self.last.iter().zip(key.iter()).take_while(|(a, b)| a == b).count()
        };
        put_number(&mut self.bytes, shared as u64);
        put_number(&mut self.bytes, (key.len() - shared) as u64);
        put_number(&mut self.bytes, value.map_or(0, |value| value.len() as u64 + 1));
        self.bytes.extend_from_slice(&key[shared..]);
        self.bytes.extend_from_slice(value.map_or(&[], |value| value.as_ref()));
        self.last = key.clone();
        self.entries += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() + 4 * self.restarts.len() + 4
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The block's bytes; the builder is empty again.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let mut block = std::mem::take(self);
        for restart in &block.restarts {
            block.bytes.extend_from_slice(&restart.to_le_bytes());
        }
        block.bytes.extend_from_slice(&(block.restarts.len() as u32).to_le_bytes());
        block.bytes
    }
}

/// A block that was read.
#[derive(Clone, Debug)]
pub(super) struct Block {
    entries: Bytes,
    restarts: Bytes,
}

impl Block {
    pub(super) fn read(mut bytes: Bytes) -> Result<Self, Damaged> {
        let count_at = bytes.len().checked_sub(4).ok_or(Damaged("a block without an end"))?;
        let count = bytes.split_off(count_at).get_u32_le() as usize;
        let restarts_at =
            count.checked_mul(4).and_then(|length| bytes.len().checked_sub(length)).ok_or(Damaged("a block with too many restart points"))?;
        let restarts = bytes.split_off(restarts_at);
        Ok(Self { entries: bytes, restarts })
    }

    /// Bytes of the block in memory.
    pub(super) fn bytes(&self) -> usize {
        self.entries.len() + self.restarts.len() + 64
    }

    /// The same block in a buffer of its own.
    pub(super) fn copied(&self) -> Self {
        Self { entries: Bytes::copy_from_slice(&self.entries), restarts: Bytes::copy_from_slice(&self.restarts) }
    }

    fn restarts(&self) -> usize {
        self.restarts.len() / 4
    }

    fn restart_bytes(&self, restart: usize) -> Result<Bytes, Damaged> {
        let at = |restart: usize| (&self.restarts[restart * 4..]).get_u32_le() as usize;
        let end = if restart + 1 < self.restarts() { at(restart + 1) } else { self.entries.len() };
        if at(restart) > end || end > self.entries.len() {
            return Err(Damaged("a restart point outside its block"));
        }
        Ok(self.entries.slice(at(restart)..end))
    }

    /// The entries from one restart point to the next, in order.
    fn entries_from(&self, restart: usize) -> Result<Vec<Entry>, Damaged> {
        let mut bytes = self.restart_bytes(restart)?;
        let mut entries: Vec<Entry> = Vec::with_capacity(RESTART_INTERVAL);
        while bytes.has_remaining() {
            let last = entries.last().map_or(&[][..], |(key, _)| key.as_ref());
            let entry = next_entry(&mut bytes, last)?;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The key at a restart point.
    fn first_key(&self, restart: usize) -> Result<Bytes, Damaged> {
        let mut bytes = self.restart_bytes(restart)?;
        Ok(next_entry(&mut bytes, &[])?.0)
    }

    /// The last restart point at or before `key`, or the first.
    fn restart_for(&self, key: &[u8]) -> Result<usize, Damaged> {
        let (mut low, mut high) = (0, self.restarts());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.first_key(middle)?.as_ref() <= key {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// What the block says of a key. A value is a copy, so that it does not keep the block in
    /// memory.
    pub(super) fn get(&self, key: &[u8]) -> Result<Lookup, Damaged> {
        if self.restarts() == 0 {
            return Ok(Lookup::NotFound);
        }
        let mut bytes = self.restart_bytes(self.restart_for(key)?)?;
        let mut last = Vec::new();
        while bytes.has_remaining() {
            let (shared, rest, value) = split_entry(&mut bytes, last.len())?;
            last.truncate(shared);
            last.extend_from_slice(&rest);
            match last.as_slice().cmp(key) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Ok(value.map_or(Lookup::Deleted, |value| Lookup::Found(Bytes::copy_from_slice(&value)))),
                std::cmp::Ordering::Greater => break,
            }
        }
        Ok(Lookup::NotFound)
    }

    /// The entries of `range` in `direction`, decoded from one restart point at a time.
    pub(super) fn entries(&self, range: Range<Vec<u8>>, direction: Direction) -> impl Iterator<Item = Result<Entry, Damaged>> + use<> {
        let block = self.clone();
        let (restarts, mut failed) = match self.restarts_of(&range) {
            Ok(restarts) => (restarts, None),
            Err(damaged) => (0..0, Some(Err(damaged))),
        };
        let (start, end) = (restarts.start, restarts.end);
        let entries = (0..end - start).flat_map(move |nth| {
            let restart = if direction == Direction::Forward { start + nth } else { end - 1 - nth };
            let (mut entries, failed) = match block.entries_from(restart) {
                Ok(entries) => (entries, None),
                Err(damaged) => (Vec::new(), Some(Err(damaged))),
            };
            if direction == Direction::Backward {
                entries.reverse();
            }
            entries.into_iter().map(Ok).chain(failed)
        });
        let inside = move |entry: &Result<Entry, Damaged>| {
            entry.as_ref().map_or(true, |(key, _)| range.start.as_slice() <= key.as_ref() && key.as_ref() < range.end.as_slice())
        };
        entries.filter(inside).chain(std::iter::from_fn(move || failed.take()))
    }

    /// The restart points after which entries of `range` may lie.
    fn restarts_of(&self, range: &Range<Vec<u8>>) -> Result<Range<usize>, Damaged> {
        if self.restarts() == 0 || range.start >= range.end {
            return Ok(0..0);
        }
        Ok(self.restart_for(&range.start)?..self.restart_for(&range.end)? + 1)
    }
}

/// The shared length, the rest of the key and the value of the next entry.
fn split_entry(bytes: &mut Bytes, last: usize) -> Result<(usize, Bytes, Option<Bytes>), Damaged> {
    let shared = usize::try_from(get_number(bytes)?).ok().filter(|shared| *shared <= last).ok_or(Damaged("a key shares too much"))?;
    let rest = get_length(bytes)?;
    let value = get_number(bytes)?;
    let value_len = usize::try_from(value.saturating_sub(1)).ok();
    let value_len = value_len.filter(|length| rest.checked_add(*length).is_some_and(|both| both <= bytes.remaining()));
    let value_len = value_len.ok_or(Damaged("an entry passes the end"))?;
    let rest = bytes.split_to(rest);
    let value_bytes = bytes.split_to(value_len);
    Ok((shared, rest, (value > 0).then_some(value_bytes)))
}

fn next_entry(bytes: &mut Bytes, last: &[u8]) -> Result<Entry, Damaged> {
    let (shared, rest, value) = split_entry(bytes, last.len())?;
    let key = if shared == 0 { rest } else { [&last[..shared], &rest].concat().into() };
    Ok((key, value))
}
