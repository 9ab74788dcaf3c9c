//! What is true of few users. Where it is true of nobody memory says so, and nothing is read.

use crate::{homeserver::Homeserver, rows::Rows, tables::UserNid};
use ephapse_store::{Direction, Reader, StoreError, Table};

/// Bytes of what is known of users.
const CACHED_BYTES: usize = 256 << 10;

/// One such thing: a table of those of whom it is true, as far as memory knows it.
pub struct UserFlag {
    table: Table<UserNid, ()>,
    /// Whether it is true of anybody.
    any: Rows<(), bool>,
    users: Rows<UserNid, bool>,
}

impl UserFlag {
    /// Of the users in `table`.
    pub(crate) fn of(table: Table<UserNid, ()>, reader: &Reader) -> Self {
        Self { table, any: Rows::new(reader, CACHED_BYTES), users: Rows::new(reader, CACHED_BYTES) }
    }

    /// Whether it may be true of anybody.
    pub(crate) fn may_be(&self) -> bool {
        self.any.get(&()) != Some(false)
    }

    /// It is true of a user from now on, or not any more; for the transaction that writes it.
    pub(crate) fn set(&self, user: UserNid, is: bool) {
        if is {
            self.any.set((), true, 0);
        }
        self.users.set(user, is, 0);
    }

    /// Forgets what is known.
    pub(crate) fn clear(&self) {
        self.any.clear();
        self.users.clear();
    }

    /// Bytes that it takes, roughly.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.users.bytes()
    }
}

impl Homeserver {
    /// Whether it is true of a user.
    pub(crate) async fn has_flag(&self, flag: &UserFlag, user: UserNid) -> Result<bool, StoreError> {
        let any = match flag.any.get(&()) {
            Some(any) => any,
            None => {
                let since = flag.any.read_since();
                let found = !flag.table.scan(self.store(), &(), Direction::Forward, 1).await?.is_empty();
                flag.any.found(since, (), found, 0)
            }
        };
        if !any {
            return Ok(false);
        }
        if let Some(known) = flag.users.get(&user) {
            return Ok(known);
        }
        let since = flag.users.read_since();
        let found = flag.table.get(self.store(), &user).await?.is_some();
        Ok(flag.users.found(since, user, found, 0))
    }
}
