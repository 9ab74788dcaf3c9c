//! The calls that are under way: whose turn it is, which of them have written, and how they end
//! with the instance.
//!
//! A panic may leave anything in memory half done, so from then on nothing is decided by it: tasks
//! get no more turns, and no write is taken. The exception are calls that had handed in what they
//! write when another call panicked. The store makes it durable all the same, and only this
//! instance has the answer that tells the client so; those calls go on to their end. All others
//! have changed nothing and can be done again by another instance.

use bytes::Bytes;
use ephapse_store::{Batch, Chunks, Direction, LocalBoxFuture, Stats, Store, StoreError};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    future::{Future, ready},
    ops::Range,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

thread_local! {
    static CURRENT: Cell<u32> = const { Cell::new(0) };
    static ENDED: Cell<bool> = const { Cell::new(false) };
    static WRITERS: RefCell<BTreeSet<u32>> = const { RefCell::new(BTreeSet::new()) };
}

/// The call whose turn it is or, after a trap, was; 0: a background task.
pub fn current() -> u32 {
    CURRENT.get()
}

/// Whether a call that is under way has handed in a write.
pub fn has_written(call: u32) -> bool {
    WRITERS.with_borrow(|writers| writers.contains(&call))
}

/// Ends the instance because of the current call.
pub fn end() {
    ENDED.set(true);
    WRITERS.with_borrow_mut(|writers| writers.remove(&current()));
}

/// A task that marks whose turn it is, and whose turns end with the instance.
pub struct Turns<T> {
    /// The call it belongs to; 0 for none.
    pub call: u32,
    /// What it does.
    pub task: LocalBoxFuture<'static, T>,
}

impl<T> Future for Turns<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if ENDED.get() && !has_written(self.call) {
            return Poll::Pending;
        }
        let before = CURRENT.replace(self.call);
        let polled = self.task.as_mut().poll(context);
        CURRENT.set(before);
        if polled.is_ready() {
            WRITERS.with_borrow_mut(|writers| writers.remove(&self.call));
        }
        polled
    }
}

/// A store that notes which calls write, and takes nothing more once the instance has ended.
pub struct RecordingStore(pub Rc<dyn Store>);

impl Store for RecordingStore {
    fn get_many<'a>(&'a self, keys: &'a [Vec<u8>]) -> LocalBoxFuture<'a, Result<Vec<Option<Bytes>>, StoreError>> {
        self.0.get_many(keys)
    }

    fn scan(&self, range: Range<Vec<u8>>, direction: Direction, limit: usize) -> LocalBoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        self.0.scan(range, direction, limit)
    }

    fn commit(&self, batch: Batch) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        if !batch.is_empty() {
            if ENDED.get() {
                return Box::pin(ready(Err(StoreError::Closed)));
            }
            // Background tasks have no answer that could be lost.
            if current() != 0 {
                WRITERS.with_borrow_mut(|writers| writers.insert(current()));
            }
        }
        self.0.commit(batch)
    }

    fn barrier(&self) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        self.0.barrier()
    }

    fn generation(&self) -> u64 {
        self.0.generation()
    }

    fn chunks(&self) -> &dyn Chunks {
        self.0.chunks()
    }

    fn stats(&self) -> Stats {
        self.0.stats()
    }

    fn close(&self) -> LocalBoxFuture<'_, Result<(), StoreError>> {
        self.0.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ephapse_store::MemoryStore;
    use futures_util::FutureExt;

    #[test]
    fn a_crashed_instance_only_runs_calls_that_have_written() {
        let store = Rc::new(RecordingStore(Rc::new(MemoryStore::new())));
        let gate = Rc::new(Cell::new(false));
        let call = |call: u32, writes: bool, again: bool| {
            let (store, gate) = (store.clone(), gate.clone());
            let task = Box::pin(async move {
                let batch = || {
                    let mut batch = Batch::new();
                    batch.put(vec![call as u8], vec![1]);
                    batch
                };
                if writes {
                    store.commit(batch()).await?;
                }
                std::future::poll_fn(|_| if gate.get() { Poll::Ready(()) } else { Poll::Pending }).await;
                if again { store.commit(batch()).await } else { Ok(()) }
            });
            Turns { call, task }
        };
        let mut reads = call(1, false, false);
        let mut writes = call(2, true, false);
        let mut writes_twice = call(3, true, true);
        let mut causes = call(4, true, false);
        for task in [&mut reads, &mut writes, &mut writes_twice, &mut causes] {
            assert_eq!(task.now_or_never(), None);
        }
        assert_eq!([1, 2, 3, 4].map(has_written), [false, true, true, true]);

        CURRENT.set(4);
        end();
        gate.set(true);
        assert_eq!(reads.now_or_never(), None);
        assert_eq!(causes.now_or_never(), None);
        assert_eq!(writes.now_or_never(), Some(Ok(())));
        assert_eq!(writes_twice.now_or_never(), Some(Err(StoreError::Closed)));
        assert_eq!(current(), 4, "who was it");
        assert!(![1, 2, 3, 4].into_iter().any(has_written));
    }
}
