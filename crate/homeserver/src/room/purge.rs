//! A room that every local user has left and forgotten, or left with their account or as a guest,
//! takes no space any more.
//!
//! It is known to nobody from one batch on; what it held goes in many, and a crash between them is
//! made up for when the server next clears up.

use super::{error::Result, rooms::RoomInfo};
use crate::{
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, MembershipKind, RoomNid, UserNid},
    time_slice::TimeSlice,
    transaction::{Submitted, Tx},
};
use ephapse_store::Direction;
use std::rc::Rc;

/// How many members or events are looked at, or go in one batch, before others have their turn.
const BATCH: usize = 500;

impl Homeserver {
    /// Deletes a room when no local user is in it or remembers it. Whoever forgets it, ends their
    /// account or leaves as a guest puts it into [`tables::ROOMS_TO_DELETE`] in the same batch.
    pub async fn purge_if_forgotten(&self, room: &Rc<RoomInfo>) -> Result<()> {
        let lock = self.lock(LockKey::Room(room.nid)).await;
        let generation = self.begin_reading();
        if !self.is_forgotten(room.nid).await? {
            let stays = self.write(generation, |tx| tables::ROOMS_TO_DELETE.delete(tx, &room.nid));
            // It is asked again later if this is lost.
            stays.map(Submitted::visible).ok();
            return Ok(());
        }
        let aliases = tables::ROOM_ALIASES.scan(self.store(), &room.nid, Direction::Forward, usize::MAX).await?;
        let unknown = self.write(generation, |tx| {
            tx.frees_space();
            for ((_, alias), ()) in &aliases {
                tables::ALIASES.delete(tx, alias);
            }
            tables::ROOM_ALIASES.delete_all(tx, &room.nid);
            tables::PUBLISHED_ROOMS.delete(tx, &room.nid);
            tables::ROOM_HEADS.delete(tx, &room.nid);
            tables::ROOM_NIDS.delete(tx, &room.id);
            tables::ROOMS_TO_DELETE.put(tx, &room.nid, &true);
            let forgotten = room.clone();
            tx.then(move |hs| hs.rooms.forget(&forgotten));
        });
        unknown?.durable().await?;
        drop(lock);
        self.purge(room.nid).await
    }

    /// Whether no local user is in a room or remembers it.
    async fn is_forgotten(&self, room: RoomNid) -> Result<bool> {
        let slice = TimeSlice::new(&*self.host);
        let range = tables::MEMBERS.range(&room);
        let mut from = range.start;
        loop {
            let page = tables::MEMBERS.scan_range(self.store(), from..range.end.clone(), Direction::Forward, BATCH).await?;
            let places: Vec<_> = page.iter().map(|((_, _, user), _)| (*user, room)).collect();
            let memberships = tables::MEMBERSHIPS.get_all(self.store(), &places).await?;
            for ((user, _), membership) in places.iter().zip(memberships) {
                let forgotten = membership.as_ref().is_some_and(|membership| membership.forgotten);
                if !forgotten && self.can_forget(*user, membership.map(|membership| membership.kind)).await? {
                    return Ok(false);
                }
            }
            let Some((last, _)) = page.last().filter(|_| page.len() == BATCH) else { return Ok(true) };
            from = tables::MEMBERS.key(last);
            // The first key after it.
            from.push(0);
            slice.end().await;
        }
    }

    /// Whether there is a user of this server to forget a room: where there is no account, or none
    /// any more, nobody ever could. Forgetting is not for guests: they have forgotten what they
    /// have left.
    async fn can_forget(&self, user: UserNid, membership: Option<MembershipKind>) -> Result<bool> {
        if matches!(membership, Some(MembershipKind::Leave | MembershipKind::Ban)) && self.is_guest(user).await? {
            return Ok(false);
        }
        let account = if self.is_local(&self.user_id(user).await?) { tables::ACCOUNTS.get(self.store(), &user).await? } else { None };
        Ok(account.is_some_and(|account| !account.deactivated))
    }

    /// Deletes what a room held that nobody knows any more. Nothing of it changes any more, so each
    /// batch stands on its own reads alone.
    async fn purge(&self, room: RoomNid) -> Result<()> {
        let slice = TimeSlice::new(&*self.host);
        loop {
            let generation = self.begin_reading();
            let members = tables::MEMBERS.scan(self.store(), &room, Direction::Forward, BATCH).await?;
            if members.is_empty() {
                break;
            }
            self.purged(generation, &slice, |tx| {
                for (key @ (_, _, user), _) in &members {
                    tables::MEMBERS.delete(tx, key);
                    tables::MEMBERSHIPS.delete(tx, &(*user, room));
                    tables::UNREAD.delete(tx, &(*user, room));
                    tables::ACCOUNT_DATA.delete_all(tx, &(*user, room));
                }
            })
            .await?;
        }
        // Who was never in it may have account data of it all the same.
        loop {
            let generation = self.begin_reading();
            let owners = tables::ROOM_ACCOUNT_DATA.scan(self.store(), &room, Direction::Forward, BATCH).await?;
            if owners.is_empty() {
                break;
            }
            self.purged(generation, &slice, |tx| {
                for (key @ (_, user), ()) in &owners {
                    tables::ROOM_ACCOUNT_DATA.delete(tx, key);
                    tables::ACCOUNT_DATA.delete_all(tx, &(*user, room));
                }
            })
            .await?;
        }
        loop {
            let generation = self.begin_reading();
            let events = tables::EVENTS.scan(self.store(), &room, Direction::Backward, BATCH).await?;
            if events.is_empty() {
                return self.purged(generation, &slice, |tx| delete_ranges(tx, room)).await;
            }
            self.purged(generation, &slice, |tx| {
                for (key, record) in &events {
                    tables::EVENT_IDS.delete(tx, &record.event_id);
                    tables::EVENTS.delete(tx, key);
                }
            })
            .await?;
        }
    }

    /// One of many batches of deletions: then others have their turn.
    async fn purged(&self, generation: u64, slice: &TimeSlice<'_>, delete: impl FnOnce(&mut Tx)) -> Result<()> {
        let deleted = self.write(generation, |tx| {
            tx.frees_space();
            delete(tx);
        });
        deleted?.durable().await?;
        slice.end().await;
        Ok(())
    }

    /// Goes on with the deletions that the end of the last run interrupted.
    pub(crate) async fn resume_purges(&self) -> Result<()> {
        for (room, is_unknown) in tables::ROOMS_TO_DELETE.scan(self.store(), &(), Direction::Forward, usize::MAX).await? {
            match is_unknown {
                true => self.purge(room).await?,
                false => self.purge_if_forgotten(&self.room_by_nid(room).await?).await?,
            }
        }
        Ok(())
    }
}

/// The end of a room. Its rows are gone one by one already; what a range covers, the store drops
/// without merging it, which takes room.
fn delete_ranges(tx: &mut Tx, room: RoomNid) {
    tables::EVENTS.delete_all(tx, &room);
    tables::MEMBERS.delete_all(tx, &room);
    tables::STATE_NODES.delete_all(tx, &room);
    tables::RELATIONS.delete_all(tx, &room);
    tables::INDIRECT_RELATIONS.delete_all(tx, &room);
    tables::ANNOTATIONS.delete_all(tx, &room);
    tables::WAITING_REDACTIONS.delete_all(tx, &room);
    tables::AUTH_EDGES.delete_all(tx, &room);
    tables::RECEIPTS.delete_all(tx, &room);
    tables::ROOM_SERVERS.delete_all(tx, &room);
    tables::STRIPPED_STATES.delete_all(tx, &room);
    tables::MISSING_PARENTS.delete_all(tx, &room);
    tables::GUESTS_TO_LEAVE.delete(tx, &room);
    tables::ROOMS_TO_DELETE.delete(tx, &room);
}
