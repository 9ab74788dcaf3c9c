//! What one write stages, and who may stage it.

use crate::{Batch, LocalBoxFuture, Store, StoreError};
use futures_util::{FutureExt, future::Shared};
use std::{mem::take, ops::Range};

/// What tables are written in.
///
/// An application has one type that implements it. Where that type is made in one function alone,
/// which also hands in what was staged, nothing can be written past it. A [`Batch`] is no
/// transaction, for the same reason.
pub trait Transaction {
    /// What this transaction hands in.
    fn staged(&mut self) -> &mut Staged;
}

/// A batch that is being filled, with what memory takes back should nothing come of it.
///
/// When it is dropped, or refused at once, what it was told to undo is undone: what was changed
/// last first.
pub struct Staged {
    batch: Batch,
    undo: Vec<Box<dyn FnOnce()>>,
    /// What [`Self::undo_once`] was asked to undo.
    undone_once: Vec<usize>,
}

impl Staged {
    /// Nothing yet, in `batch`, which says what it stands on: [`Batch::since`].
    pub fn new(batch: Batch) -> Self {
        Self { batch, undo: Vec::new(), undone_once: Vec::new() }
    }

    /// Sets a key.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.batch.put(key, value);
    }

    /// Removes a key.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.batch.delete(key);
    }

    /// Removes the keys of a range.
    pub fn delete_range(&mut self, range: Range<Vec<u8>>) {
        self.batch.delete_range(range);
    }

    /// Says that this makes room ([`Batch::set_frees_space`]).
    pub fn frees_space(&mut self) {
        self.batch.set_frees_space();
    }

    /// This stands on what was read since the store's generation was `generation`, too.
    pub fn stands_on(&mut self, generation: u64) {
        self.batch.append(Batch::since(generation));
    }

    /// Takes back what was changed in memory already, should nothing come of this.
    pub fn undo(&mut self, undo: impl FnOnce() + 'static) {
        self.undo.push(Box::new(undo));
    }

    /// As [`Self::undo`], for what this changes many times: `undo` is made the first time, for the
    /// thing at an address.
    pub fn undo_once<U: FnOnce() + 'static>(&mut self, address: usize, undo: impl FnOnce() -> U) {
        if !self.undone_once.contains(&address) {
            self.undone_once.push(address);
            self.undo(undo());
        }
    }

    /// Hands the batch in. When this returns reads see it, or it is refused and undone.
    ///
    /// What fails later takes the store to another generation ([`Store::generation`]). It is not
    /// undone, since others may stand on it: what memory holds is read anew.
    ///
    /// # Errors
    /// Why the store refused it at once.
    pub fn commit(mut self, store: &dyn Store) -> Result<Submitted<()>, StoreError> {
        let mut written = None;
        if !self.batch.is_empty() {
            let commit = store.commit(take(&mut self.batch)).shared();
            if let Some(Err(error)) = commit.clone().now_or_never() {
                return Err(error);
            }
            written = Some(commit);
        }
        self.undo.clear();
        Ok(Submitted { value: (), written })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        while let Some(undo) = self.undo.pop() {
            undo();
        }
    }
}

/// Ends when a batch is on disk, or with the reason why it never will be.
pub type Written = Shared<LocalBoxFuture<'static, Result<(), StoreError>>>;

/// A transaction whose batch was taken: reads see it.
#[must_use = "say whether to wait until it is on disk: `durable().await?`, or `visible()` for what an answer waits for anyway"]
pub struct Submitted<T> {
    value: T,
    /// None where there was nothing to write.
    written: Option<Written>,
}

impl<T> Submitted<T> {
    /// What was made while it was staged. Whoever shows nothing of it before [`Store::barrier`]
    /// need not wait.
    pub fn visible(self) -> T {
        self.value
    }

    /// The same, when the batch is on disk.
    ///
    /// # Errors
    /// Why it will never be.
    pub async fn durable(self) -> Result<T, StoreError> {
        if let Some(written) = self.written {
            written.await?;
        }
        Ok(self.value)
    }

    /// The same batch, with another value.
    pub fn with<U>(self, value: U) -> Submitted<U> {
        Submitted { value, written: self.written }
    }

    /// The write itself; `None` where there was nothing to write.
    pub fn written(&self) -> Option<&Written> {
        self.written.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unreliable::UnreliableStore;
    use std::{
        cell::{Cell, RefCell},
        rc::Rc,
    };

    fn staged(what: &Rc<RefCell<Vec<u8>>>) -> Staged {
        let mut staged = Staged::new(Batch::new());
        for number in 1..=3 {
            let what = what.clone();
            staged.undo(move || what.borrow_mut().push(number));
        }
        staged
    }

    #[test]
    fn what_is_dropped_is_undone_the_last_change_first() {
        let undone = Rc::default();
        drop(staged(&undone));
        assert_eq!(*undone.borrow(), [3, 2, 1]);
    }

    #[test]
    fn what_is_refused_at_once_is_undone_and_what_is_taken_is_not() {
        let store = UnreliableStore::new();
        store.fail_next(StoreError::QuotaExceeded);
        let undone = Rc::default();
        let mut refused = staged(&undone);
        refused.put(b"key".to_vec(), b"value".to_vec());
        assert_eq!(refused.commit(&store).map(Submitted::visible), Err(StoreError::QuotaExceeded));
        assert_eq!(*undone.borrow(), [3, 2, 1]);

        let undone = Rc::default();
        let mut taken = staged(&undone);
        taken.put(b"key".to_vec(), b"value".to_vec());
        let taken = taken.commit(&store).expect("there is room");
        futures_executor::block_on(taken.durable()).expect("it is written");
        assert!(undone.borrow().is_empty());
    }

    #[test]
    fn what_is_changed_many_times_is_undone_once() {
        let undone = Rc::new(Cell::new(0));
        let mut staged = staged(&Rc::default());
        for _ in 0..3 {
            staged.undo_once(7, || {
                let undone = undone.clone();
                move || undone.set(undone.get() + 1)
            });
        }
        drop(staged);
        assert_eq!(undone.get(), 1);
    }
}
