//! A typed view of one prefix of the store.

mod key;

pub use key::KeyPart;

use crate::{Bytes, Damaged, Direction, Reader, StoreError, Transaction};
use serde::{Serialize, de::DeserializeOwned};
use std::{marker::PhantomData, ops::Range};

/// A table: keys `K`, values `V` encoded by [postcard](https://docs.rs/postcard).
///
/// All tables of a store share its one map. A key begins with the table's prefix, a byte that no
/// other table has, and goes on with the parts of `K`, so that entries sort as their keys do.
///
/// A table is read by a [`Reader`] and written in a [`Transaction`].
///
/// Where many values are read at once, one that is damaged does not cost the others. It is left
/// out, and named in the reader's log.
pub struct Table<K, V> {
    prefix: u8,
    /// Its name, for messages about values that cannot be read.
    name: &'static str,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: KeyPart, V: Serialize + DeserializeOwned> Table<K, V> {
    /// The table that owns the keys which begin with `prefix`. Messages about values that cannot be
    /// read have its `name`.
    pub const fn new(prefix: u8, name: &'static str) -> Self {
        Self { prefix, name, types: PhantomData }
    }

    /// The bytes of `key`.
    pub fn key(&self, key: &K) -> Vec<u8> {
        self.prefix_of(key)
    }

    /// The bytes that all keys begin with whose first parts are `part`.
    pub fn prefix_of(&self, part: &impl KeyPart) -> Vec<u8> {
        let mut out = vec![self.prefix];
        part.encode(&mut out);
        out
    }

    /// All keys whose first parts are `part`; `&()` for the whole table.
    pub fn range(&self, part: &impl KeyPart) -> Range<Vec<u8>> {
        let start = self.prefix_of(part);
        let end = after(&start);
        start..end
    }

    /// The prefix that tells this table's keys from all others.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The bytes of a value.
    pub fn value(&self, value: &V) -> Vec<u8> {
        postcard::to_allocvec(value).expect("our own types have known lengths")
    }

    /// Sets a value.
    pub fn put(&self, tx: &mut (impl Transaction + ?Sized), key: &K, value: &V) {
        tx.staged().put(self.key(key), self.value(value));
    }

    /// Removes a value.
    pub fn delete(&self, tx: &mut (impl Transaction + ?Sized), key: &K) {
        tx.staged().delete(self.key(key));
    }

    /// Removes all values whose keys' first parts are `part`.
    pub fn delete_all(&self, tx: &mut (impl Transaction + ?Sized), part: &impl KeyPart) {
        tx.staged().delete_range(self.range(part));
    }

    /// Removes all values of a range of encoded keys, as [`Self::scan_range`] takes it.
    pub fn delete_range(&self, tx: &mut (impl Transaction + ?Sized), range: Range<Vec<u8>>) {
        tx.staged().delete_range(range);
    }

    fn decode(&self, key: &[u8], bytes: &Bytes) -> Result<V, Damaged> {
        postcard::from_bytes(bytes).map_err(|error| Damaged::new(self.value_of(key), error))
    }

    fn decode_key(&self, bytes: &[u8]) -> Result<K, Damaged> {
        let mut rest = bytes.get(1..).unwrap_or_default();
        K::decode(&mut rest).ok_or_else(|| Damaged::new(format!("a key of {}", self.name), bytes.escape_ascii()))
    }

    /// A value as the log says it.
    fn value_of(&self, key: &[u8]) -> String {
        // There is one in a table without keys.
        if key.len() == 1 { format!("the record `{}`", self.name) } else { format!("the value of {} in {}", self.shown(key), self.name) }
    }

    /// A key as the log says it.
    fn shown(&self, key: &[u8]) -> String {
        self.decode_key(key).map_or_else(|damaged| damaged.to_string(), |key| format!("{key:?}"))
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] where it cannot be read, as whatever else the store says.
    pub async fn get(&self, store: &Reader, key: &K) -> Result<Option<V>, StoreError> {
        let keys = [self.key(key)];
        let found = store.get_many(&keys).await?;
        Ok(found.first().and_then(Option::as_ref).map(|bytes| self.decode(&keys[0], bytes)).transpose()?)
    }

    /// The values of `keys`, in their order. One that is damaged is left out and logged, as if
    /// there were none: where that is not the same, as for what a decision stands on, there is
    /// [`Self::get_all`].
    pub async fn get_many(&self, store: &Reader, keys: &[K]) -> Result<Vec<Option<V>>, StoreError> {
        let keys: Vec<_> = keys.iter().map(|key| self.key(key)).collect();
        let found = store.get_many(&keys).await?;
        let found = keys.iter().zip(&found);
        Ok(found.map(|(key, bytes)| readable(store, self.decode(key, bytes.as_ref()?))).collect())
    }

    /// As [`Self::get_many`], for decisions: none is left out.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] where one cannot be read.
    pub async fn get_all(&self, store: &Reader, keys: &[K]) -> Result<Vec<Option<V>>, StoreError> {
        let keys: Vec<_> = keys.iter().map(|key| self.key(key)).collect();
        let found = store.get_many(&keys).await?;
        keys.iter().zip(&found).map(|(key, bytes)| Ok(bytes.as_ref().map(|bytes| self.decode(key, bytes)).transpose()?)).collect()
    }

    /// The last key whose first parts are `part`; `&()` for the last one of the table.
    pub async fn last_key(&self, store: &Reader, part: &impl KeyPart) -> Result<Option<K>, StoreError> {
        let last = store.scan(self.range(part), Direction::Backward, 1).await?;
        Ok(last.first().map(|(key, _)| self.decode_key(key)).transpose()?)
    }

    /// At most `limit` entries whose keys' first parts are `part`; else as [`Self::scan_range`].
    pub async fn scan(&self, store: &Reader, part: &impl KeyPart, direction: Direction, limit: usize) -> Result<Vec<(K, V)>, StoreError> {
        self.scan_range(store, self.range(part), direction, limit).await
    }

    /// At most `limit` entries of a range of encoded keys (made with [`Self::key`],
    /// [`Self::prefix_of`] and [`Self::range`]). One that is damaged is left out and logged, and
    /// others are read in its place: fewer than `limit` are all there are.
    pub async fn scan_range(&self, store: &Reader, range: Range<Vec<u8>>, direction: Direction, limit: usize) -> Result<Vec<(K, V)>, StoreError> {
        self.scan_readable(store, range, direction, limit, |key, value| Ok((key, value))).await
    }

    /// As [`Self::scan_range`], of entries from which `read` makes something, or finds that it
    /// cannot.
    pub async fn scan_readable<T>(
        &self,
        store: &Reader,
        mut range: Range<Vec<u8>>,
        direction: Direction,
        limit: usize,
        mut read: impl FnMut(K, V) -> Result<T, Damaged>,
    ) -> Result<Vec<T>, StoreError> {
        let mut found = Vec::new();
        loop {
            let wanted = limit - found.len();
            let entries = store.scan(range.clone(), direction, wanted).await?;
            let before = found.len();
            for (key, value) in &entries {
                let entry = self.decode_key(key).and_then(|decoded| read(decoded, self.decode(key, value)?));
                found.extend(readable(store, entry));
            }
            let Some((last, _)) = entries.last().filter(|_| entries.len() == wanted && found.len() - before < wanted) else { return Ok(found) };
            match direction {
                // The first key after it.
                Direction::Forward => range.start = [&last[..], &[0]].concat(),
                Direction::Backward => range.end = last.to_vec(),
            }
        }
    }
}

/// One of many that are read together: where it is damaged the log says so, and there is none.
fn readable<T>(store: &Reader, one: Result<T, Damaged>) -> Option<T> {
    one.inspect_err(|damaged| store.log_damage(&format_args!("left out of an answer: {damaged}"))).ok()
}

/// The first bytes that do not begin with `prefix`.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, MemoryStore, Store};
    use futures_executor::block_on;
    use std::{cell::Cell, rc::Rc};

    const TABLE: Table<(u32, String), u64> = Table::new(1, "a table");
    const NEIGHBOUR: Table<u32, u64> = Table::new(2, "another table");

    thread_local! {
        static LOGGED: Cell<usize> = const { Cell::new(0) };
    }

    /// Five values, of which the third cannot be read, and one of another table.
    fn damaged() -> Reader {
        let store = MemoryStore::new();
        let mut batch = Batch::new();
        for number in 0..5 {
            batch.put(TABLE.key(&place(number)), if number == 2 { vec![0xff; 3] } else { TABLE.value(&number) });
        }
        batch.put(NEIGHBOUR.key(&7), NEIGHBOUR.value(&7));
        block_on(store.commit(batch)).expect("memory takes it");
        Reader::logging(Rc::new(store), |what| {
            assert!(what.to_string().contains(r#"the value of (7, "2") in a table"#), "{what}");
            LOGGED.set(LOGGED.get() + 1);
        })
    }

    fn place(number: u64) -> (u32, String) {
        (7, number.to_string())
    }

    #[test]
    fn of_many_the_damaged_one_is_left_out_and_logged() {
        let reader = damaged();
        let found = block_on(TABLE.get_many(&reader, &[place(1), place(2), place(3), place(9)])).expect("the others are read");
        assert_eq!(found, [Some(1), None, Some(3), None]);
        assert_eq!(LOGGED.get(), 1);
        let scan = |direction, limit| {
            let found = block_on(TABLE.scan(&reader, &7_u32, direction, limit)).expect("the others are read");
            found.into_iter().map(|(_, value)| value).collect::<Vec<_>>()
        };
        assert_eq!(scan(Direction::Forward, 3), [0, 1, 3], "another takes its place");
        assert_eq!(scan(Direction::Backward, 3), [4, 3, 1]);
        assert_eq!(scan(Direction::Forward, 10), [0, 1, 3, 4], "and nothing of another table");
    }

    #[test]
    fn what_a_decision_stands_on_is_not_left_out() {
        let reader = damaged();
        let unreadable = |error| matches!(error, StoreError::Unreadable(_));
        assert!(block_on(TABLE.get(&reader, &place(2))).is_err_and(unreadable));
        assert!(block_on(TABLE.get_all(&reader, &[place(1), place(2)])).is_err_and(unreadable));
        assert_eq!(block_on(TABLE.last_key(&reader, &())), Ok(Some(place(4))));
        assert_eq!(LOGGED.get(), 0);
    }
}
