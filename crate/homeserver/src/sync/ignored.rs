//! Whom a user ignores (Client-Server API, Ignoring Users).

use crate::{
    error::Result,
    homeserver::Homeserver,
    tables::{self, Change, UserSn},
};
use hashlink::LruCache;
use ruma::{OwnedUserId, events::ignored_user_list::IgnoredUserListEventContent};
use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

/// The type of the account data that lists them.
const IGNORED_USERS: &str = "m.ignored_user_list";

/// Lists lately used.
pub struct Ignored(RefCell<LruCache<UserSn, Rc<BTreeSet<OwnedUserId>>>>);

impl Default for Ignored {
    fn default() -> Self {
        Self(RefCell::new(LruCache::new(256)))
    }
}

impl Ignored {
    /// Forgets the lists of users who changed them.
    pub fn changed(&self, changes: &[Change]) {
        for change in changes {
            if let Change::AccountData { user, room: 0, kind } = change
                && kind == IGNORED_USERS
            {
                self.0.borrow_mut().remove(user);
            }
        }
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.0.borrow_mut().clear();
    }
}

impl Homeserver {
    /// Whom a user ignores.
    pub(crate) async fn ignored_by(&self, user: UserSn) -> Result<Rc<BTreeSet<OwnedUserId>>> {
        if let Some(ignored) = self.sync.ignored.0.borrow_mut().get(&user) {
            return Ok(ignored.clone());
        }
        let before = self.positions.newest();
        let stored = tables::ACCOUNT_DATA.get(self.store(), &(user, 0, IGNORED_USERS.to_owned())).await?;
        let stored = stored.and_then(|data| serde_json::from_str::<IgnoredUserListEventContent>(&data.content.0).ok());
        let ignored: Rc<BTreeSet<OwnedUserId>> = Rc::new(stored.map(|content| content.ignored_users.into_keys().collect()).unwrap_or_default());
        // What changed while this read may be newer than what was found.
        if self.positions.newest() == before {
            self.sync.ignored.0.borrow_mut().insert(user, ignored.clone());
        }
        Ok(ignored)
    }
}
