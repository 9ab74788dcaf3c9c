//! What a client has not seen yet, and the waiting for it (Client-Server API, Syncing).
//!
//! [`Syncing`] is what memory holds for it; all of it can be dropped at any time without changing
//! an answer, except who types and who is there.

mod builder;
mod changes;
mod ephemeral;
pub mod filter;
mod forget;
mod ignored;
mod memberships;
mod old;
mod presence;
mod presence_events;
mod rooms;
mod sent_members;
mod snapshot;
mod stream;
mod summary;
pub mod threads;
mod typing;

pub use builder::SyncRequest;
pub(crate) use changes::Listed;
pub use presence::forget_presence;
pub use presence_events::wants_presence;
pub use stream::Stream;
pub use typing::Typing;

use crate::{
    position::Position,
    push::{RuleSets, Unreads},
    tables::Change,
};
use ephapse_store::Reader;
use ignored::Ignored;
pub(crate) use memberships::{Memberships, UserRooms};
use presence::Presences;
use sent_members::SentMembers;
use std::cell::Cell;

/// What memory holds for syncs.
pub struct Syncing {
    pub(crate) typing: Typing,
    pub(crate) presence: Presences,
    pub(crate) memberships: Memberships,
    pub(crate) rules: RuleSets,
    pub(crate) unread: Unreads,
    pub(crate) ignored: Ignored,
    pub(crate) sent_members: SentMembers,
    /// Behind which position every change is listed.
    pub(crate) changes_floor: Cell<Position>,
}

impl Syncing {
    /// With nothing in memory; after `changes_floor` every change is listed.
    pub(crate) fn new(changes_floor: Position, reader: &Reader) -> Self {
        Self {
            typing: Typing::default(),
            presence: Presences::default(),
            memberships: Memberships::default(),
            rules: RuleSets::new(reader),
            unread: Unreads::new(reader),
            ignored: Ignored::new(reader),
            sent_members: SentMembers::default(),
            changes_floor: Cell::new(changes_floor),
        }
    }

    /// Bytes that the caches take, roughly.
    pub(crate) fn cached_bytes(&self) -> usize {
        let counts = self.rules.cached_bytes() + self.unread.cached_bytes() + self.presence.cached_bytes();
        counts + self.memberships.cached_bytes() + self.ignored.cached_bytes() + self.sent_members.cached_bytes()
    }

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
