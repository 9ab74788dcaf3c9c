//! What memory keeps of rows: bounded in bytes, never older than what is stored, and never of
//! another generation of the store.

use crate::cache::Cache;
use ephapse_store::Reader;
use std::{
    borrow::Borrow,
    cell::{Cell, RefCell},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash},
};

/// How many changes are told apart while something is read; where there are more, what was read is
/// not kept.
const MAX_CHANGES_TRACKED: u64 = 32;

/// Rows lately used, or what was made of them.
pub(crate) struct Rows<K, V> {
    values: RefCell<Cache<K, V>>,
    state: State,
}

/// When a read began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadSince {
    generation: u64,
    changes: u64,
}

/// What is not about keys and values, so that it is compiled once.
struct State {
    reader: Reader,
    /// What generation of the store the values are of.
    generation: Cell<u64>,
    /// How many times a value was changed or forgotten.
    changes: Cell<u64>,
    /// The hashes of the keys of the last changes, each at its number.
    changed: [Cell<u64>; MAX_CHANGES_TRACKED as usize],
}

impl State {
    fn new(reader: Reader) -> Self {
        let generation = Cell::new(reader.generation());
        Self { reader, generation, changes: Cell::new(0), changed: [const { Cell::new(0) }; MAX_CHANGES_TRACKED as usize] }
    }

    /// Where the key of a change stands.
    fn place(&self, number: u64) -> &Cell<u64> {
        &self.changed[(number % MAX_CHANGES_TRACKED) as usize]
    }

    fn change(&self, key: u64) {
        let number = self.changes.get();
        self.place(number).set(key);
        self.changes.set(number + 1);
    }

    /// Whether what is kept is of another generation, and has to go.
    fn is_outdated(&self) -> bool {
        let generation = self.reader.generation();
        self.generation.replace(generation) != generation
    }

    /// As [`Rows::may_be_old`], by the key's hash.
    fn may_be_old(&self, since: ReadSince, key: u64) -> bool {
        let changes = self.changes.get();
        since.generation != self.reader.generation()
            || changes - since.changes > MAX_CHANGES_TRACKED
            || (since.changes..changes).any(|number| self.place(number).get() == key)
    }
}

fn hash(key: &(impl Hash + ?Sized)) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key)
}

impl<K: Hash + Eq, V: Clone> Rows<K, V> {
    /// At most `limit` bytes of what `reader` reads.
    pub(crate) fn new(reader: &Reader, limit: usize) -> Self {
        Self { values: RefCell::new(Cache::new(limit)), state: State::new(reader.clone()) }
    }

    /// The values, after those of another generation are forgotten.
    fn current(&self) -> std::cell::RefMut<'_, Cache<K, V>> {
        let mut values = self.values.borrow_mut();
        if self.state.is_outdated() {
            values.clear();
        }
        values
    }

    /// The value of a key, if memory has it.
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.current().get(key)
    }

    /// To be asked before a read, and given to [`Self::found`] with what was found.
    pub(crate) fn read_since(&self) -> ReadSince {
        ReadSince { generation: self.state.reader.generation(), changes: self.state.changes.get() }
    }

    /// Whether what was read of a key may be older than what is stored.
    pub(crate) fn may_be_old<Q: Hash + Eq + ?Sized>(&self, since: ReadSince, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.state.may_be_old(since, hash(key))
    }

    /// Keeps a value that was read and holds `weight` bytes beside itself, unless it changed
    /// meanwhile; the newest there is.
    pub(crate) fn found(&self, since: ReadSince, key: K, value: V, weight: usize) -> V {
        let mut values = self.current();
        if self.state.may_be_old(since, hash(&key)) {
            return values.get(&key).unwrap_or(value);
        }
        values.insert(key, value.clone(), weight);
        value
    }

    /// A value is another one from now on; for the transaction that writes it.
    pub(crate) fn set(&self, key: K, value: V, weight: usize) {
        self.state.change(hash(&key));
        self.current().insert(key, value, weight);
    }

    /// Changes a value that memory has, to one that holds as many bytes beside itself as `change`
    /// says; for the transaction that writes it.
    pub(crate) fn change(&self, key: K, change: impl FnOnce(&mut V) -> usize) {
        self.state.change(hash(&key));
        let mut values = self.current();
        if let Some(mut value) = values.remove(&key) {
            let weight = change(&mut value);
            values.insert(key, value, weight);
        }
    }

    /// A value is to be read anew; for the transaction that writes it.
    pub(crate) fn forget<Q: Hash + Eq + ?Sized>(&self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.state.change(hash(key));
        self.current().remove(key);
    }

    /// Forgets what `keep` does not want, and what is being read.
    pub(crate) fn retain(&self, keep: impl Fn(&V) -> bool) {
        self.state.changes.set(self.state.changes.get() + MAX_CHANGES_TRACKED + 1);
        self.current().retain(keep);
    }

    /// Forgets everything, and what is being read.
    pub(crate) fn clear(&self) {
        self.retain(|_| false);
    }

    /// Bytes that the values take, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.values.borrow().bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ephapse_store::{Batch, MemoryStore, Store, StoreError, unreliable::UnreliableStore};
    use std::rc::Rc;

    fn rows<V: Clone>() -> Rows<u32, V> {
        Rows::new(&Reader::new(Rc::new(MemoryStore::new())), 1 << 12)
    }

    #[test]
    fn what_was_read_before_it_changed_is_not_kept() {
        let rows = rows();
        let since = rows.read_since();
        rows.forget(&1);
        assert_eq!(rows.found(since, 1, "old", 0), "old");
        assert_eq!(rows.get(&1), None, "it changed while it was read");
        assert_eq!(rows.found(rows.read_since(), 1, "new", 0), "new");
        assert_eq!(rows.get(&1), Some("new"));
    }

    #[test]
    fn what_was_read_before_a_write_does_not_take_its_place() {
        let rows = rows();
        let since = rows.read_since();
        rows.set(1, "new", 0);
        assert_eq!(rows.found(since, 1, "old", 0), "new");
        rows.retain(|_| false);
        assert_eq!(rows.found(since, 1, "old", 0), "old");
        assert_eq!(rows.get(&1), None, "also when what was written was pushed out meanwhile");
    }

    #[test]
    fn changes_of_others_do_not_keep_what_was_read_from_being_kept() {
        let rows = rows();
        let since = rows.read_since();
        (100..100 + MAX_CHANGES_TRACKED as u32).for_each(|key| rows.set(key, "other", 0));
        rows.found(since, 1, "read", 0);
        assert_eq!(rows.get(&1), Some("read"));
        rows.set(200, "one more", 0);
        rows.found(since, 2, "read", 0);
        assert_eq!(rows.get(&2), None, "so many are not told apart");
    }

    #[test]
    fn a_change_is_not_lost_to_a_value_that_was_read_before_it() {
        let rows = rows();
        let since = rows.read_since();
        rows.change(1, |_: &mut String| unreachable!("there is nothing to change"));
        rows.found(since, 1, "old".to_owned(), 3);
        assert_eq!(rows.get(&1), None);
        rows.found(rows.read_since(), 1, "new".to_owned(), 3);
        let bytes = rows.bytes();
        rows.change(1, |value| {
            value.push_str("er");
            value.len()
        });
        assert_eq!((rows.get(&1).as_deref(), rows.bytes()), (Some("newer"), bytes + 2));
    }

    #[test]
    fn a_failed_write_empties_the_cache() {
        let store = UnreliableStore::new();
        let rows = Rows::new(&Reader::new(Rc::new(store.clone())), 1 << 12);
        let since = rows.read_since();
        rows.set(1, "written", 0);
        store.fail_next(StoreError::QuotaExceeded);
        let mut batch = Batch::new();
        batch.put("key", "value");
        drop(store.commit(batch));
        assert_eq!(rows.get(&1), None);
        rows.found(since, 2, "read before", 0);
        assert_eq!(rows.get(&2), None);
        rows.found(rows.read_since(), 2, "read anew", 0);
        assert_eq!(rows.get(&2), Some("read anew"));
    }
}
