//! Whom a user ignores (Client-Server API, Ignoring Users), and whether invitations are wanted at
//! all (Invite permission).

use crate::{
    damaged::LeaveOut,
    homeserver::Homeserver,
    rows::Rows,
    tables::{self, Change, UserNid},
};
use ephapse_events::Inserted;
use ephapse_store::{Reader, StoreError};
use ruma::{OwnedUserId, events::ignored_user_list::IgnoredUserListEventContent};
use serde::Deserialize;
use std::{collections::BTreeSet, rc::Rc};

/// The type of the account data that lists them.
const IGNORED_USERS: &str = "m.ignored_user_list";

/// Bytes of lists in memory.
const CACHED_BYTES: usize = 1 << 20;
/// Bytes that a place in a set takes, roughly.
const PLACE: usize = 32;

/// Lists lately used.
pub struct Ignored(Rows<UserNid, Rc<BTreeSet<OwnedUserId>>>);

impl Ignored {
    /// Of what `reader` reads.
    pub fn new(reader: &Reader) -> Self {
        Self(Rows::new(reader, CACHED_BYTES))
    }

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
        self.0.clear();
    }

    /// Bytes that they take in memory, roughly.
    pub fn cached_bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// The type of the account data that says who may invite.
const INVITE_PERMISSION: &str = "m.invite_permission_config";

impl Homeserver {
    /// Whether a user wants no invitations (Invite permission).
    pub(crate) async fn blocks_invites(&self, user: UserNid) -> Result<bool, StoreError> {
        #[derive(Deserialize)]
        struct Content {
            default_action: Option<String>,
        }
        let stored = tables::ACCOUNT_DATA.get(self.store(), &(user, 0, INVITE_PERMISSION.to_owned())).await.leave_out()?.flatten();
        let content = stored.and_then(|data| serde_json::from_str::<Content>(&data.content.0).ok());
        Ok(content.and_then(|content| content.default_action).is_some_and(|action| action == "block"))
    }

    /// Whom a user ignores.
    pub(crate) async fn ignored_by(&self, user: UserNid) -> Result<Rc<BTreeSet<OwnedUserId>>, StoreError> {
        if let Some(ignored) = self.sync.ignored.0.get(&user) {
            return Ok(ignored);
        }
        let since = self.sync.ignored.0.read_since();
        let stored = tables::ACCOUNT_DATA.get(self.store(), &(user, 0, IGNORED_USERS.to_owned())).await.leave_out()?.flatten();
        let stored = stored.and_then(|data| serde_json::from_str::<IgnoredUserListEventContent>(&data.content.0).ok());
        let mut ignored: BTreeSet<OwnedUserId> = stored.map(|content| content.ignored_users.into_keys().inserted()).unwrap_or_default();
        // Nobody is deaf to themselves: their own messages and receipts come back to all their
        // devices.
        if !ignored.is_empty() {
            ignored.remove(&self.user_id(user).await?);
        }
        let ignored = Rc::new(ignored);
        let weight = ignored.iter().map(|user| PLACE + user.as_str().len()).sum();
        Ok(self.sync.ignored.0.found(since, user, ignored, weight))
    }
}
