//! A bounded cache that takes nothing in that was being read while something was forgotten.

use hashlink::LruCache;
use std::{
    cell::{Cell, RefCell},
    hash::Hash,
};

/// Values lately used.
pub struct Remembered<K, V> {
    values: RefCell<LruCache<K, V>>,
    epoch: Cell<u64>,
}

impl<K: Hash + Eq, V: Clone> Remembered<K, V> {
    /// At most `number` values.
    pub fn new(number: usize) -> Self {
        Self { values: RefCell::new(LruCache::new(number)), epoch: Cell::new(0) }
    }

    /// The value of `key`, or what has to be given to [`Self::keep`] when it has been read.
    pub fn get(&self, key: &K) -> Result<V, u64> {
        self.values.borrow_mut().get(key).cloned().ok_or(self.epoch.get())
    }

    /// The time for [`Self::keep`].
    pub fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// Keeps a value that was read since `epoch`, unless something was forgotten meanwhile: it may be that.
    pub fn keep(&self, epoch: u64, key: K, value: V) {
        if self.epoch.get() == epoch {
            self.values.borrow_mut().insert(key, value);
        }
    }

    /// Forgets one value.
    pub fn forget(&self, key: &K) {
        self.epoch.set(self.epoch.get() + 1);
        self.values.borrow_mut().remove(key);
    }

    /// Forgets everything.
    pub fn forget_all(&self) {
        self.epoch.set(self.epoch.get() + 1);
        self.values.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_it_changed_is_not_kept() {
        let remembered = Remembered::new(8);
        let epoch = remembered.get(&1).expect_err("nothing yet");
        remembered.forget(&1);
        remembered.keep(epoch, 1, "old");
        let epoch = remembered.get(&1).expect_err("it changed while it was read");
        remembered.keep(epoch, 1, "new");
        assert_eq!(remembered.get(&1), Ok("new"));
    }
}
