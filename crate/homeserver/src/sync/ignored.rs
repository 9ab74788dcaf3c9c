//! Whom a user ignores (Client-Server API, Ignoring Users).

use super::remembered::Remembered;
use crate::{
    error::Result,
    homeserver::Homeserver,
    tables::{self, Change, UserSn},
};
use ruma::{OwnedUserId, events::ignored_user_list::IgnoredUserListEventContent};
use std::{collections::BTreeSet, rc::Rc};

/// The type of the account data that lists them.
const IGNORED_USERS: &str = "m.ignored_user_list";

/// Bytes of lists in memory.
const CACHED_BYTES: usize = 1 << 20;
/// Bytes that a place in a set takes, roughly.
const PLACE: usize = 32;

/// Lists lately used.
pub struct Ignored(Remembered<UserSn, Rc<BTreeSet<OwnedUserId>>>);

impl Default for Ignored {
    fn default() -> Self {
        Self(Remembered::new(CACHED_BYTES))
    }
}

impl Ignored {
    /// Forgets the lists of users who changed them.
    pub fn changed(&self, changes: &[Change]) {
        for change in changes {
            if let Change::AccountData { user, room: 0, kind } = change
                && kind == IGNORED_USERS
            {
                self.0.forget(user);
            }
        }
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.0.forget_all();
    }

    /// Bytes that they take in memory, roughly.
    pub fn cached_bytes(&self) -> usize {
        self.0.bytes()
    }
}

impl Homeserver {
    /// Whom a user ignores.
    pub(crate) async fn ignored_by(&self, user: UserSn) -> Result<Rc<BTreeSet<OwnedUserId>>> {
        let epoch = match self.sync.ignored.0.get(&user) {
            Ok(ignored) => return Ok(ignored),
            Err(epoch) => epoch,
        };
        let stored = tables::ACCOUNT_DATA.get(self.store(), &(user, 0, IGNORED_USERS.to_owned())).await?;
        let stored = stored.and_then(|data| serde_json::from_str::<IgnoredUserListEventContent>(&data.content.0).ok());
        let mut ignored: BTreeSet<OwnedUserId> = stored.map(|content| content.ignored_users.into_keys().collect()).unwrap_or_default();
        // Nobody is deaf to themselves: their own messages and receipts come back to all their devices.
        if !ignored.is_empty() {
            ignored.remove(&self.user_id(user).await?);
        }
        let ignored = Rc::new(ignored);
        let weight = ignored.iter().map(|user| PLACE + user.as_str().len()).sum();
        self.sync.ignored.0.keep(epoch, user, ignored.clone(), weight);
        Ok(ignored)
    }
}
