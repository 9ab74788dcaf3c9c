//! A room that every local user has left and forgotten takes no space any more.
//!
//! It is known to nobody from one batch on; what it held goes in many, and a crash between them is made up for when the server next clears up.

use super::rooms::RoomInfo;
use crate::{
    error::Result,
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, MembershipKind, RoomSn},
};
use ephapse_store::{Batch, Direction};
use std::rc::Rc;

/// How many events go in one batch.
const AT_ONCE: usize = 500;

impl Homeserver {
    /// Deletes a room when no local user is in it or remembers it. Whoever forgets it puts it into [`tables::ROOMS_TO_DELETE`] in the same batch.
    pub async fn purge_if_forgotten(&self, room: &Rc<RoomInfo>) -> Result<()> {
        let lock = self.lock(LockKey::Room(room.sn)).await;
        let mut members = Vec::new();
        for kind in [MembershipKind::Join, MembershipKind::Invite, MembershipKind::Knock, MembershipKind::Leave, MembershipKind::Ban] {
            for ((_, _, user), _) in tables::MEMBERS.scan(self.store(), &(room.sn, kind as u8), Direction::Forward, usize::MAX).await? {
                let local = self.is_local(&self.user_id(user).await?);
                let forgotten = tables::MEMBERSHIPS.get(self.store(), &(user, room.sn)).await?.is_some_and(|membership| membership.forgotten);
                if local && !forgotten {
                    let mut batch = Batch::new();
                    tables::ROOMS_TO_DELETE.delete(&mut batch, &room.sn);
                    // It is asked again later if this is lost.
                    self.submit(batch, Vec::new()).ok();
                    return Ok(());
                }
                members.push(user);
            }
        }
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
        tables::MEMBERS.delete_all(&mut batch, &room.sn);
        tables::PUBLISHED_ROOMS.delete(&mut batch, &room.sn);
        tables::ROOM_HEADS.delete(&mut batch, &room.sn);
        tables::ROOM_SNS.delete(&mut batch, &room.id);
        tables::ROOMS_TO_DELETE.put(&mut batch, &room.sn, &true);
        self.rooms.forget(room);
        self.submit(batch, Vec::new())?.durable().await?;
        drop(lock);
        self.purge(room.sn).await
    }

    /// Deletes what a room held that nobody knows any more.
    async fn purge(&self, room: RoomSn) -> Result<()> {
        loop {
            let events = tables::EVENTS.scan(self.store(), &room, Direction::Backward, AT_ONCE).await?;
            let mut batch = Batch::new();
            batch.set_frees_space();
            if events.is_empty() {
                // They are gone one by one already; what a range covers, the store drops without merging it, which takes room.
                tables::EVENTS.delete_all(&mut batch, &room);
                tables::STATE_NODES.delete_all(&mut batch, &room);
                tables::RELATIONS.delete_all(&mut batch, &room);
                tables::CITING.delete_all(&mut batch, &room);
                tables::RECEIPTS.delete_all(&mut batch, &room);
                tables::ROOMS_TO_DELETE.delete(&mut batch, &room);
                return Ok(self.submit(batch, Vec::new())?.durable().await?);
            }
            for (key, record) in events {
                tables::EVENT_IDS.delete(&mut batch, &record.event_id);
                tables::EVENTS.delete(&mut batch, &key);
            }
            self.submit(batch, Vec::new())?.durable().await?;
            self.host.yield_now().await;
        }
    }

    /// Goes on with the deletions that the end of the last run interrupted.
    pub(crate) async fn resume_purges(&self) -> Result<()> {
        for (room, is_unknown) in tables::ROOMS_TO_DELETE.scan(self.store(), &(), Direction::Forward, usize::MAX).await? {
            match is_unknown {
                true => self.purge(room).await?,
                false => self.purge_if_forgotten(&self.room_by_sn(room).await?).await?,
            }
        }
        Ok(())
    }
}
