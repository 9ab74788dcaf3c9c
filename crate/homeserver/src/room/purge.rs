//! A room that every local user has left and forgotten, or left with their account or as a guest, takes no space any more.
//!
//! It is known to nobody from one batch on; what it held goes in many, and a crash between them is made up for when the server next clears up.

use super::rooms::RoomInfo;
use crate::{
    error::Result,
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, MembershipKind, RoomSn, UserSn},
};
use ephapse_store::{Batch, Direction};
use std::rc::Rc;

/// How many members or events are looked at, or go in one batch, before others have their turn.
const AT_ONCE: usize = 500;

impl Homeserver {
    /// Deletes a room when no local user is in it or remembers it. Whoever forgets it, ends their account or leaves as a guest puts it into
    /// [`tables::ROOMS_TO_DELETE`] in the same batch.
    pub async fn purge_if_forgotten(&self, room: &Rc<RoomInfo>) -> Result<()> {
        let lock = self.lock(LockKey::Room(room.sn)).await;
        let mut batch = Batch::new();
        if !self.is_forgotten(room.sn).await? {
            tables::ROOMS_TO_DELETE.delete(&mut batch, &room.sn);
            // It is asked again later if this is lost.
            self.submit(batch, Vec::new()).ok();
            return Ok(());
        }
        batch.set_frees_space();
        for ((_, alias), ()) in tables::ROOM_ALIASES.scan(self.store(), &room.sn, Direction::Forward, usize::MAX).await? {
            tables::ALIASES.delete(&mut batch, &alias);
        }
        tables::ROOM_ALIASES.delete_all(&mut batch, &room.sn);
        tables::PUBLISHED_ROOMS.delete(&mut batch, &room.sn);
        tables::ROOM_HEADS.delete(&mut batch, &room.sn);
        tables::ROOM_SNS.delete(&mut batch, &room.id);
        tables::ROOMS_TO_DELETE.put(&mut batch, &room.sn, &true);
        self.rooms.forget(room);
        self.submit(batch, Vec::new())?.durable().await?;
        drop(lock);
        self.purge(room.sn).await
    }

    /// Whether no local user is in a room or remembers it.
    async fn is_forgotten(&self, room: RoomSn) -> Result<bool> {
        let range = tables::MEMBERS.range(&room);
        let mut from = range.start;
        loop {
            let page = tables::MEMBERS.scan_range(self.store(), from..range.end.clone(), Direction::Forward, AT_ONCE).await?;
            let places: Vec<_> = page.iter().map(|((_, _, user), _)| (*user, room)).collect();
            let memberships = tables::MEMBERSHIPS.get_all(self.store(), &places).await?;
            for ((user, _), membership) in places.iter().zip(memberships) {
                let forgotten = membership.as_ref().is_some_and(|membership| membership.forgotten);
                if !forgotten && self.can_forget(*user, membership.map(|membership| membership.kind)).await? {
                    return Ok(false);
                }
            }
            let Some((last, _)) = page.last().filter(|_| page.len() == AT_ONCE) else { return Ok(true) };
            from = tables::MEMBERS.key(last);
            // The first key behind it.
            from.push(0);
            self.host.yield_now().await;
        }
    }

    /// Whether there is a user of this server to forget a room: where there is no account, or none any more, nobody ever could. Forgetting is not for guests:
    /// they have forgotten what they have left.
    async fn can_forget(&self, user: UserSn, membership: Option<MembershipKind>) -> Result<bool> {
        if matches!(membership, Some(MembershipKind::Leave | MembershipKind::Ban)) && self.is_guest(user).await? {
            return Ok(false);
        }
        let account = if self.is_local(&self.user_id(user).await?) { tables::ACCOUNTS.get(self.store(), &user).await? } else { None };
        Ok(account.is_some_and(|account| !account.deactivated))
    }

    /// Deletes what a room held that nobody knows any more.
    async fn purge(&self, room: RoomSn) -> Result<()> {
        loop {
            let members = tables::MEMBERS.scan(self.store(), &room, Direction::Forward, AT_ONCE).await?;
            if members.is_empty() {
                break;
            }
            let mut batch = Batch::new();
            batch.set_frees_space();
            for (key @ (_, _, user), _) in members {
                tables::MEMBERS.delete(&mut batch, &key);
                tables::MEMBERSHIPS.delete(&mut batch, &(user, room));
                tables::UNREAD.delete(&mut batch, &(user, room));
                tables::ACCOUNT_DATA.delete_all(&mut batch, &(user, room));
            }
            self.purged(batch).await?;
        }
        // Who was never in it may have account data of it all the same.
        loop {
            let owners = tables::ROOM_ACCOUNT_DATA.scan(self.store(), &room, Direction::Forward, AT_ONCE).await?;
            if owners.is_empty() {
                break;
            }
            let mut batch = Batch::new();
            batch.set_frees_space();
            for (key @ (_, user), ()) in owners {
                tables::ROOM_ACCOUNT_DATA.delete(&mut batch, &key);
                tables::ACCOUNT_DATA.delete_all(&mut batch, &(user, room));
            }
            self.purged(batch).await?;
        }
        loop {
            let events = tables::EVENTS.scan(self.store(), &room, Direction::Backward, AT_ONCE).await?;
            let mut batch = Batch::new();
            batch.set_frees_space();
            if events.is_empty() {
                // They are gone one by one already; what a range covers, the store drops without merging it, which takes room.
                tables::EVENTS.delete_all(&mut batch, &room);
                tables::MEMBERS.delete_all(&mut batch, &room);
                tables::STATE_NODES.delete_all(&mut batch, &room);
                tables::RELATIONS.delete_all(&mut batch, &room);
                tables::INDIRECT_RELATIONS.delete_all(&mut batch, &room);
                tables::ANNOTATIONS.delete_all(&mut batch, &room);
                tables::WAITING_REDACTIONS.delete_all(&mut batch, &room);
                tables::CITING.delete_all(&mut batch, &room);
                tables::RECEIPTS.delete_all(&mut batch, &room);
                tables::GUESTS_TO_LEAVE.delete(&mut batch, &room);
                tables::ROOMS_TO_DELETE.delete(&mut batch, &room);
                return Ok(self.submit(batch, Vec::new())?.durable().await?);
            }
            for (key, record) in events {
                tables::EVENT_IDS.delete(&mut batch, &record.event_id);
                tables::EVENTS.delete(&mut batch, &key);
            }
            self.purged(batch).await?;
        }
    }

    /// One of many batches of deletions: then others have their turn.
    async fn purged(&self, batch: Batch) -> Result<()> {
        self.submit(batch, Vec::new())?.durable().await?;
        self.host.yield_now().await;
        Ok(())
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
