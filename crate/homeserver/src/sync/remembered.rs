//! A bounded cache that takes nothing in that was being read while something was forgotten.

use crate::cache::Cache;
use std::{
    cell::{Cell, RefCell},
    hash::Hash,
};

/// Values lately used.
pub struct Remembered<K, V> {
    values: RefCell<Cache<K, V>>,
    epoch: Cell<u64>,
}

impl<K: Hash + Eq, V: Clone> Remembered<K, V> {
    /// At most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { values: RefCell::new(Cache::new(limit)), epoch: Cell::new(0) }
    }

    /// The value of `key`, or what has to be given to [`Self::keep`] when it has been read.
    pub fn get(&self, key: &K) -> Result<V, u64> {
        self.values.borrow_mut().get(key).ok_or(self.epoch.get())
    }

    /// The time for [`Self::keep`].
    pub fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// Keeps a value that was read since `epoch` and holds `weight` bytes beside itself, unless something was forgotten meanwhile: it may be that.
    pub fn keep(&self, epoch: u64, key: K, value: V, weight: usize) {
        if self.epoch.get() == epoch {
            self.values.borrow_mut().insert(key, value, weight);
        }
    }

    /// Changes a value that is remembered, to one that holds as many bytes beside itself as `change` says. One that is being read now is not kept.
    pub fn change(&self, key: K, change: impl FnOnce(&mut V) -> usize) {
        let mut values = self.values.borrow_mut();
        match values.remove(&key) {
            Some(mut value) => {
                let weight = change(&mut value);
                values.insert(key, value, weight);
            }
            None => self.epoch.set(self.epoch.get() + 1),
        }
    }

    /// Bytes that the values take, roughly.
    pub fn bytes(&self) -> usize {
        self.values.borrow().bytes()
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
        let remembered = Remembered::new(1 << 10);
        let epoch = remembered.get(&1).expect_err("nothing yet");
        remembered.forget(&1);
        remembered.keep(epoch, 1, "old", 0);
        let epoch = remembered.get(&1).expect_err("it changed while it was read");
        remembered.keep(epoch, 1, "new", 0);
        assert_eq!(remembered.get(&1), Ok("new"));
    }

    #[test]
    fn a_change_is_not_lost_to_a_value_that_was_read_before_it() {
        let remembered = Remembered::new(1 << 10);
        let epoch = remembered.get(&1).expect_err("nothing yet");
        remembered.change(1, |_| unreachable!("there is nothing to change"));
        remembered.keep(epoch, 1, "old".to_owned(), 3);
        let epoch = remembered.get(&1).expect_err("it changed while it was read");
        remembered.keep(epoch, 1, "new".to_owned(), 3);
        let bytes = remembered.bytes();
        remembered.change(1, |value| {
            value.push_str("er");
            value.len()
        });
        assert_eq!((remembered.get(&1).as_deref(), remembered.bytes()), (Ok("newer"), bytes + 2));
    }
}
