//! What a client has not seen yet, and the waiting for it (Client-Server API, Syncing).
//!
//! [`Syncing`] is what memory holds for it; all of it can be dropped at any time without changing an answer, except who types and who is there.

mod changes;
mod ephemeral;
pub mod filter;
mod ignored;
mod look;
mod memberships;
mod presence;
mod presence_events;
mod remembered;
mod rooms;
mod sent_members;
mod summary;
pub mod threads;
mod typing;

pub use look::Ask;
pub use presence_events::wants_presence;
pub use remembered::Remembered;
pub use typing::Typing;

use crate::{
    push::{RuleSets, Unreads},
    tables::Change,
};
use ignored::Ignored;
use memberships::Memberships;
use presence::Presences;
use sent_members::SentMembers;

/// What memory holds for syncs.
#[derive(Default)]
pub struct Syncing {
    pub(crate) typing: Typing,
    pub(crate) presence: Presences,
    pub(crate) memberships: Memberships,
    pub(crate) rules: RuleSets,
    pub(crate) unread: Unreads,
    pub(crate) ignored: Ignored,
    pub(crate) sent_members: SentMembers,
}

impl Syncing {
    /// Takes note of what became visible, before anyone is woken for it.
    pub(crate) fn changed(&self, changes: &[Change]) {
        self.memberships.changed(changes);
        self.rules.changed(changes);
        self.ignored.changed(changes);
    }

    /// Forgets what may be lost.
    pub(crate) fn reset(&self) {
        self.memberships.reset();
        self.rules.reset();
        self.ignored.reset();
        self.unread.reset();
    }
}
