//! The one way to write: [`Homeserver::transaction`] runs a synchronous closure over a [`Tx`], and
//! what the closure staged becomes one batch. [`Homeserver::write`] is the same for closures that
//! do not refuse.
//!
//! Only a [`Tx`] puts into tables, gives positions and numbers, and appends to streams. It exists
//! inside of the closure alone, where nothing can be awaited: so nothing comes between the last
//! look at memory, the positions that are taken, and the batch that uses them. What memory is to
//! know of a write is handed to the same [`Tx`]: it is done when the batch was taken, and never
//! when it was refused.
//!
//! There are two exceptions, both here: [`write_at_opening`], and
//! [`Homeserver::transaction_in_turns`] for the creation of a very large room.
//!
//! A handler reads first, and then writes what it has gathered:
//!
//! ```no_run
//! # use ephapse_homeserver::{Error, Homeserver, Tx, tables};
//! # async fn erase(hs: &Homeserver, generation: u64) -> Result<(), Error> {
//! let user = hs.find_user(ruma::user_id!("@alice:example.org")).await?.unwrap_or_default();
//! let written = hs.write(generation, |tx: &mut Tx| tables::ERASED.put(tx, &user, &()));
//! written?.durable().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Nothing is awaited inside:
//!
//! ```compile_fail,E0728
//! # use ephapse_homeserver::{Error, Homeserver, Tx, tables};
//! # async fn erase(hs: &Homeserver, generation: u64) -> Result<(), Error> {
//! let written = hs.transaction(generation, |tx: &mut Tx| {
//!     let user = hs.find_user(ruma::user_id!("@alice:example.org")).await?.unwrap_or_default();
//!     tables::ERASED.put(tx, &user, &());
//!     Ok::<_, Error>(())
//! })?;
//! written.durable().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A transaction does not outlive its closure:
//!
//! ```compile_fail,E0521
//! # use ephapse_homeserver::{Error, Homeserver, Tx, tables};
//! # async fn erase(hs: &Homeserver, generation: u64) -> Result<(), Error> {
//! let mut kept: Option<&mut Tx> = None;
//! let written = hs.write(generation, |tx: &mut Tx| kept = Some(tx));
//! written?.durable().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A table is not written without one:
//!
//! ```compile_fail,E0277
//! # use ephapse_homeserver::tables;
//! let mut batch = ephapse_store::Batch::new();
//! tables::ERASED.put(&mut batch, &1, &());
//! ```

use crate::{
    homeserver::Homeserver,
    position::Position,
    tables::{self, Change},
};
pub use ephapse_store::Submitted;
use ephapse_store::{Batch, LocalBoxFuture, Reader, Staged, Store, StoreError, Transaction, Written};
use ephapse_streams::StreamStore;
use futures_util::FutureExt;
use std::{cell::RefCell, mem::take, rc::Rc};

type Then = Box<dyn FnOnce(&Homeserver)>;

/// What one write stages: everything in it is taken together, or none of it.
///
/// It cannot be made, kept or cloned outside of [`Homeserver::transaction`]. When it is dropped
/// before its batch was taken, what it has changed in memory is undone.
pub struct Tx {
    staged: Staged,
    /// The last position given before.
    base: Position,
    /// What becomes visible, at the positions after `base`.
    changes: Vec<Change>,
    then: Vec<Then>,
}

/// No other type of this crate is one: so tables are written, and streams are appended to, in a
/// [`Tx`] alone.
impl Transaction for Tx {
    fn staged(&mut self) -> &mut Staged {
        &mut self.staged
    }
}

impl Tx {
    fn new(batch: Batch, base: Position) -> Self {
        Self { staged: Staged::new(batch), base, changes: Vec::new(), then: Vec::new() }
    }

    /// Says that this makes room: where storage is full it is written all the same
    /// ([`Batch::set_frees_space`]).
    pub(crate) fn frees_space(&mut self) {
        self.staged.frees_space();
    }

    /// The last position that was given before this transaction.
    pub(crate) fn base(&self) -> Position {
        self.base
    }

    /// The position that the next change will have.
    pub(crate) fn next_position(&self) -> Position {
        Position(self.base.0 + 1 + self.changes.len() as i64)
    }

    /// Adds something that clients can see, and that wakes who waits for it; its position.
    pub(crate) fn change(&mut self, change: Change) -> Position {
        let position = self.next_position();
        self.changes.push(change);
        position
    }

    /// What memory is to know when the batch was taken, before anybody is woken for it.
    pub(crate) fn then(&mut self, know: impl FnOnce(&Homeserver) + 'static) {
        self.then.push(Box::new(know));
    }

    /// Takes back what was changed in memory already, should nothing come of this transaction. What
    /// was changed last is taken back first.
    pub(crate) fn undo(&mut self, undo: impl FnOnce() + 'static) {
        self.staged.undo(undo);
    }
}

/// What one request has handed in to be written.
#[derive(Default)]
pub(crate) struct Writes {
    last: RefCell<Option<Written>>,
    /// Why one before the last was lost, or one was refused.
    lost: RefCell<Option<StoreError>>,
}

impl Writes {
    fn add(&self, written: Written) {
        let before = self.last.replace(Some(written));
        // One that still waits takes along what came after it when it fails.
        if let Some(Err(error)) = before.and_then(Written::now_or_never) {
            self.lost.borrow_mut().get_or_insert(error);
        }
    }

    fn refused(&self, error: &StoreError) {
        // Else somebody else's failed.
        if *error != StoreError::RolledBack {
            self.lost.borrow_mut().get_or_insert(error.clone());
        }
    }

    pub(crate) fn are_none(&self) -> bool {
        self.last.borrow().is_none() && self.lost.borrow().is_none()
    }

    /// Ends when all of it is durable, or says why it will never be.
    pub(crate) async fn durable(&self) -> Result<(), StoreError> {
        match (self.lost.take(), self.last.take()) {
            (Some(error), _) => Err(error),
            (None, Some(last)) => last.await,
            (None, None) => Ok(()),
        }
    }
}

/// The writing half of a server's store.
pub(crate) struct Writer {
    store: Rc<dyn Store>,
    /// What the request writes that is running now.
    writes: RefCell<Option<Rc<Writes>>>,
}

impl Writer {
    pub(crate) fn new(store: Rc<dyn Store>) -> Self {
        Self { store, writes: RefCell::default() }
    }

    /// Whose the writes are from now on: a request's, or nobody's.
    pub(crate) fn count_for(&self, writes: Option<Rc<Writes>>) {
        self.writes.replace(writes);
    }

    /// As [`Store::barrier`].
    pub(crate) fn barrier(&self) -> LocalBoxFuture<'static, Result<(), StoreError>> {
        self.store.barrier()
    }

    /// As [`Store::close`].
    pub(crate) fn close(&self) -> LocalBoxFuture<'_, Result<(), StoreError>> {
        self.store.close()
    }

    /// Hands in what was staged.
    fn submit(&self, staged: Staged) -> Result<Submitted<()>, StoreError> {
        let submitted = staged.commit(&*self.store);
        let writes = self.writes.borrow();
        for writes in writes.iter() {
            match &submitted {
                Ok(submitted) => submitted.written().into_iter().for_each(|written| writes.add(written.clone())),
                Err(error) => writes.refused(error),
            }
        }
        submitted
    }
}

/// Writes what makes a database, before there is a server; durable when this returns.
pub(crate) async fn write_at_opening(store: &dyn Store, fill: impl FnOnce(&mut Tx)) -> Result<(), StoreError> {
    let mut tx = Tx::new(Batch::new(), Position::default());
    fill(&mut tx);
    tx.staged.commit(store)?.durable().await
}

impl Homeserver {
    /// Writes what `fill` stages, which stands on what was read since the store's generation was
    /// `generation`: take it before the first read. Reads see all of it when this returns. Where
    /// `fill` refuses, nothing is written, and no position is given.
    ///
    /// # Errors
    /// What `fill` refuses with. [`StoreError::RolledBack`] where what was read is not true any
    /// more: read again. Whatever else the store refuses the batch with, as where it is full:
    /// nothing of it became visible, and whoever wanted it must not answer as if it had been done.
    pub fn transaction<T, E: From<StoreError>>(&self, generation: u64, fill: impl FnOnce(&mut Tx) -> Result<T, E>) -> Result<Submitted<T>, E> {
        let mut tx = self.begin(generation, self.positions.given())?;
        let value = fill(&mut tx)?;
        Ok(self.commit(tx)?.with(value))
    }

    /// As [`Self::transaction`], of what is not refused.
    pub fn write<T>(&self, generation: u64, fill: impl FnOnce(&mut Tx) -> T) -> Result<Submitted<T>, StoreError> {
        self.transaction(generation, |tx| Ok(fill(tx)))
    }

    /// Has `write` write what a request notes beside what it is about, and may note twice. A
    /// request that has written nothing else is still done again when what it had read was lost
    /// ([`Homeserver::handle`]).
    pub(crate) fn aside<T>(&self, write: impl FnOnce(&Self) -> T) -> T {
        let writes = self.writer.writes.take();
        let written = write(self);
        self.writer.count_for(writes);
        written
    }

    /// As [`Self::transaction`], for the creation of a very large room, which nobody knows of
    /// before it is written: others go on while `fill` waits. It takes its positions `ahead` of the
    /// last one given. `None` where others were given as many meanwhile: then nothing is written,
    /// and it begins anew further ahead.
    pub(crate) async fn transaction_in_turns<T, E: From<StoreError>>(
        &self,
        generation: u64,
        ahead: i64,
        fill: impl AsyncFnOnce(&mut Tx) -> Result<T, E>,
    ) -> Result<Option<Submitted<T>>, E> {
        let base = Position(self.positions.given().0 + ahead);
        let mut tx = self.begin(generation, base)?;
        let value = fill(&mut tx).await?;
        if self.positions.given() > base {
            return Ok(None);
        }
        Ok(Some(self.commit(tx)?.with(value)))
    }

    fn begin(&self, generation: u64, base: Position) -> Result<Tx, StoreError> {
        match self.store().generation() == generation {
            true => Ok(Tx::new(Batch::since(generation), base)),
            false => Err(StoreError::RolledBack),
        }
    }

    /// Hands in what a transaction has staged, has memory follow, and wakes who waits for it.
    fn commit(&self, mut tx: Tx) -> Result<Submitted<()>, StoreError> {
        // Else a position would be given twice.
        assert!(self.positions.given() <= tx.base, "a transaction was begun within another");
        let changes = take(&mut tx.changes);
        let newest = Position(tx.base.0 + changes.len() as i64);
        if !changes.is_empty() {
            self.positions.give_up_to(newest);
            tables::NEWEST_POSITION.put(&mut tx, &(), &newest);
        }
        let mut position = tx.base;
        for change in &changes {
            position = position.next();
            tables::CHANGES.put(&mut tx, &position, change);
        }
        let submitted = self.writer.submit(tx.staged)?;
        if !changes.is_empty() {
            self.positions.became_visible(newest);
        }
        for know in tx.then {
            know(self);
        }
        self.sync.changed(&changes);
        self.notify.changed(&changes);
        self.tell_others(&changes);
        Ok(submitted)
    }
}

impl StreamStore for Homeserver {
    fn reader(&self) -> &Reader {
        self.store()
    }

    fn now(&self) -> u64 {
        self.host.now()
    }

    fn write(&self, generation: u64, fill: &mut dyn FnMut(&mut dyn Transaction)) -> Result<Submitted<()>, StoreError> {
        self.write(generation, |tx| fill(tx))
    }
}

#[cfg(test)]
mod tests;
