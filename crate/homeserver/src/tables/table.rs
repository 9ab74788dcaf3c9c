//! A typed view of one prefix of the store.

use super::KeyPart;
use ephapse_store::{Batch, Bytes, Direction, Store, StoreError};
use serde::{Serialize, de::DeserializeOwned};
use std::{marker::PhantomData, ops::Range};

/// A table: keys `K`, values `V` encoded by postcard.
pub struct Table<K, V> {
    prefix: u8,
    /// Its name, for messages about values that cannot be read.
    pub name: &'static str,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: KeyPart, V: Serialize + DeserializeOwned> Table<K, V> {
    /// The table that owns the keys which begin with `prefix`.
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

    /// Sets a value.
    pub fn put(&self, batch: &mut Batch, key: &K, value: &V) {
        let bytes = postcard::to_allocvec(value).expect("our own types have known lengths");
        batch.put(self.key(key), bytes);
    }

    /// Removes a value.
    pub fn delete(&self, batch: &mut Batch, key: &K) {
        batch.delete(self.key(key));
    }

    /// Removes all values whose keys' first parts are `part`.
    pub fn delete_all(&self, batch: &mut Batch, part: &impl KeyPart) {
        batch.delete_range(self.range(part));
    }

    /// Reads a value from its bytes.
    pub fn decode(&self, bytes: &Bytes) -> Result<V, StoreError> {
        postcard::from_bytes(bytes).map_err(|error| StoreError::Platform(format!("a value of {} cannot be read: {error}", self.name)))
    }

    fn decode_key(&self, bytes: &Bytes) -> Result<K, StoreError> {
        let mut rest = bytes.get(1..).unwrap_or_default();
        K::decode(&mut rest).ok_or_else(|| StoreError::Platform(format!("a key of {} cannot be read", self.name)))
    }

    /// The value of `key`.
    pub async fn get(&self, store: &dyn Store, key: &K) -> Result<Option<V>, StoreError> {
        let keys = [self.key(key)];
        let found = store.get_many(&keys).await?;
        found.first().and_then(Option::as_ref).map(|bytes| self.decode(bytes)).transpose()
    }

    /// The values of `keys`, in their order.
    pub async fn get_many(&self, store: &dyn Store, keys: &[K]) -> Result<Vec<Option<V>>, StoreError> {
        let keys: Vec<_> = keys.iter().map(|key| self.key(key)).collect();
        let found = store.get_many(&keys).await?;
        found.iter().map(|bytes| bytes.as_ref().map(|bytes| self.decode(bytes)).transpose()).collect()
    }

    /// At most `limit` entries whose keys' first parts are `part`.
    pub async fn scan(&self, store: &dyn Store, part: &impl KeyPart, direction: Direction, limit: usize) -> Result<Vec<(K, V)>, StoreError> {
        self.scan_range(store, self.range(part), direction, limit).await
    }

    /// At most `limit` entries of a range of encoded keys (made with [`Self::key`], [`Self::prefix_of`] and [`Self::range`]).
    pub async fn scan_range(&self, store: &dyn Store, range: Range<Vec<u8>>, direction: Direction, limit: usize) -> Result<Vec<(K, V)>, StoreError> {
        let entries = store.scan(range, direction, limit).await?;
        entries.iter().map(|(key, value)| Ok((self.decode_key(key)?, self.decode(value)?))).collect()
    }
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
