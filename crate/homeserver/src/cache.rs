//! A cache that is bounded by the bytes of what it holds; what was not used for longest goes first.

use hashlink::LruCache;
use std::{borrow::Borrow, hash::Hash};

/// What an entry takes beside what it holds, roughly: its place in the table and in the order of
/// use.
const ENTRY: usize = 64;

/// A bounded cache.
pub(crate) struct Cache<K, V> {
    map: LruCache<K, (V, usize)>,
    bytes: usize,
    limit: usize,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// At most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { map: LruCache::new_unbounded(), bytes: 0, limit }
    }

    /// The value of `key`.
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.map.get(key).map(|(value, _)| value.clone())
    }

    /// The value of `key`, to be changed without a change of its weight.
    pub(crate) fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.map.get_mut(key).map(|(value, _)| value)
    }

    /// Holds a value; `weight`: the bytes that key and value hold beside themselves.
    pub(crate) fn insert(&mut self, key: K, value: V, weight: usize) {
        let weight = weight + ENTRY + size_of::<K>() + size_of::<V>();
        if let Some((_, old)) = self.map.insert(key, (value, weight)) {
            self.bytes -= old;
        }
        self.bytes += weight;
        while self.bytes > self.limit {
            let Some((_, (_, weight))) = self.map.remove_lru() else { break };
            self.bytes -= weight;
        }
    }

    /// Takes a value out.
    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (value, weight) = self.map.remove(key)?;
        self.bytes -= weight;
        Some(value)
    }

    /// Forgets what `keep` does not want.
    pub(crate) fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        let bytes = &mut self.bytes;
        self.map.retain(|_, (value, weight)| {
            let stays = keep(value);
            if !stays {
                *bytes -= *weight;
            }
            stays
        });
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.map.clear();
        self.bytes = 0;
    }

    /// The bytes that it takes, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_what_was_used_last_stays() {
        let mut cache = Cache::new(10_000);
        cache.insert(0, "first".to_owned(), 5);
        for n in 1..1000 {
            assert!(cache.get(&0).is_some(), "used all the time");
            cache.insert(n, "x".repeat(n % 50), n % 50);
            assert!(cache.bytes() <= 10_000);
        }
        assert!(cache.bytes() > 9_000 && cache.get(&999).is_some() && cache.get(&1).is_none());
        cache.insert(5000, String::new(), 20_000);
        assert_eq!(cache.bytes(), 0, "what is larger than all is not kept, nor what it displaced");
    }

    #[test]
    fn removed_entries_are_not_counted() {
        let mut cache = Cache::new(1 << 20);
        for n in 0..100 {
            cache.insert(n, n, 100);
            cache.insert(n, n, 10);
        }
        let each = cache.bytes() / 100;
        cache.retain(|n| n % 2 == 0);
        assert_eq!(cache.bytes(), 50 * each);
        assert_eq!((cache.remove(&0), cache.remove(&1)), (Some(0), None));
        assert_eq!(cache.bytes(), 49 * each);
        cache.clear();
        assert_eq!((cache.bytes(), cache.get(&2)), (0, None));
    }
}
