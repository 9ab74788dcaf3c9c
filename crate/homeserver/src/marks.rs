//! What is true of few users. Where it is true of nobody memory says so, and nothing is read.

use crate::{
    cache::Cache,
    error::Result,
    homeserver::Homeserver,
    tables::{Table, UserSn},
};
use ephapse_store::Direction;
use std::cell::{Cell, RefCell};

/// Bytes of what is remembered of users.
const CACHED_BYTES: usize = 256 << 10;

/// One such thing: a table of those of whom it is true, as far as memory knows it.
pub struct Mark {
    table: Table<UserSn, ()>,
    /// Whether it is true of anybody.
    any: Cell<Option<bool>>,
    users: RefCell<Cache<UserSn, bool>>,
}

impl Mark {
    /// Of the users in `table`.
    pub(crate) fn of(table: Table<UserSn, ()>) -> Self {
        Self { table, any: Cell::new(None), users: RefCell::new(Cache::new(CACHED_BYTES)) }
    }

    /// Whether it may be true of anybody.
    pub(crate) fn may_be(&self) -> bool {
        self.any.get() != Some(false)
    }

    /// It is true of a user from now on, or not any more; for the transaction that writes it.
    pub(crate) fn set(&self, user: UserSn, is: bool) {
        if is {
            self.any.set(Some(true));
        }
        self.users.borrow_mut().insert(user, is, 0);
    }

    /// Forgets what may be lost.
    pub(crate) fn forget_all(&self) {
        self.any.set(None);
        self.users.borrow_mut().clear();
    }

    /// Bytes that it takes, roughly.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.users.borrow().bytes()
    }

    fn known(&self, user: UserSn) -> Option<bool> {
        if self.any.get() == Some(false) { Some(false) } else { self.users.borrow_mut().get(&user) }
    }
}

impl Homeserver {
    /// Whether it is true of a user.
    pub(crate) async fn is_marked(&self, mark: &Mark, user: UserSn) -> Result<bool> {
        if mark.any.get().is_none() {
            let generation = self.store().generation();
            let found = !mark.table.scan(self.store(), &(), Direction::Forward, 1).await?.is_empty();
            // It may have become true of somebody since it was read.
            if mark.any.get().is_none() && self.may_keep(generation) {
                mark.any.set(Some(found));
            }
        }
        if let Some(known) = mark.known(user) {
            return Ok(known);
        }
        let generation = self.store().generation();
        let found = mark.table.get(self.store(), &user).await?.is_some();
        if let Some(newer) = mark.known(user) {
            return Ok(newer);
        }
        if self.may_keep(generation) {
            mark.users.borrow_mut().insert(user, found, 0);
        }
        Ok(found)
    }
}
