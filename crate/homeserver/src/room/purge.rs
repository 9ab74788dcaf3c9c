//! A room that every local user has left and forgotten takes no space any more.

use super::rooms::RoomInfo;
use crate::{
    error::Result,
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, MembershipKind},
};
use ephapse_store::{Batch, Direction};
use std::rc::Rc;

/// How many events go in one batch.
const AT_ONCE: usize = 500;

impl Homeserver {
    /// Deletes a room when no local user is in it or remembers it.
    pub async fn purge_if_forgotten(&self, room: &Rc<RoomInfo>) -> Result<()> {
        let _lock = self.lock(LockKey::Room(room.sn)).await;
        let mut members = Vec::new();
        for kind in [MembershipKind::Join, MembershipKind::Invite, MembershipKind::Knock, MembershipKind::Leave, MembershipKind::Ban] {
            for ((_, _, user), _) in tables::MEMBERS.scan(self.store(), &(room.sn, kind as u8), Direction::Forward, usize::MAX).await? {
                let local = self.is_local(&self.user_id(user).await?);
                let forgotten = tables::MEMBERSHIPS.get(self.store(), &(user, room.sn)).await?.is_some_and(|membership| membership.forgotten);
                if local && !forgotten {
                    return Ok(());
                }
                members.push(user);
            }
        }
        self.purge_events(room).await?;
        let mut batch = Batch::new();
        batch.set_frees_space();
        for user in members {
            tables::MEMBERSHIPS.delete(&mut batch, &(user, room.sn));
            tables::UNREAD.delete(&mut batch, &(user, room.sn));
        }
        for ((_, alias), ()) in tables::ROOM_ALIASES.scan(self.store(), &room.sn, Direction::Forward, usize::MAX).await? {
            tables::ALIASES.delete(&mut batch, &alias);
        }
        tables::ROOM_ALIASES.delete_all(&mut batch, &room.sn);
        tables::STATE_NODES.delete_all(&mut batch, &room.sn);
        tables::RELATIONS.delete_all(&mut batch, &room.sn);
        tables::CITING.delete_all(&mut batch, &room.sn);
        tables::MEMBERS.delete_all(&mut batch, &room.sn);
        tables::RECEIPTS.delete_all(&mut batch, &room.sn);
        tables::PUBLISHED_ROOMS.delete(&mut batch, &room.sn);
        tables::ROOM_HEADS.delete(&mut batch, &room.sn);
        tables::ROOM_SNS.delete(&mut batch, &room.id);
        self.rooms.forget(room);
        self.submit(batch, Vec::new())?.durable().await?;
        Ok(())
    }

    /// Events go newest first, so that what is left after a crash is a room that can be purged again.
    async fn purge_events(&self, room: &RoomInfo) -> Result<()> {
        loop {
            let events = tables::EVENTS.scan(self.store(), &room.sn, Direction::Backward, AT_ONCE).await?;
            if events.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::new();
            batch.set_frees_space();
            for (key, record) in events {
                tables::EVENT_IDS.delete(&mut batch, &record.event_id);
                tables::EVENTS.delete(&mut batch, &key);
            }
            self.submit(batch, Vec::new())?.durable().await?;
            self.host.yield_now().await;
        }
    }
}
