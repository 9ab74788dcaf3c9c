//! What a client has not seen yet, and the waiting for it (Client-Server API, Syncing).
//!
//! [`Syncing`] is what memory holds for it; all of it can be dropped at any time without changing an answer, except who types.

pub mod filter;
mod memberships;
pub mod threads;
mod typing;

pub use typing::Typing;

use crate::{
    push::{RuleSets, Unreads},
    tables::Change,
};
use memberships::Memberships;

/// What memory holds for syncs.
#[derive(Default)]
pub struct Syncing {
    pub(crate) typing: Typing,
    pub(crate) memberships: Memberships,
    pub(crate) rules: RuleSets,
    pub(crate) unread: Unreads,
}

impl Syncing {
    /// Takes note of what became visible, before anyone is woken for it.
    pub(crate) fn changed(&self, changes: &[Change]) {
        self.memberships.changed(changes);
        self.rules.changed(changes);
    }

    /// Forgets what may be lost.
    pub(crate) fn reset(&self) {
        self.memberships.reset();
        self.rules.reset();
        self.unread.reset();
    }
}
