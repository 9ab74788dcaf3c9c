//! Guests in rooms (Client-Server API, Guest Access): they join where `m.room.guest_access` says
//! `can_join`, and when it does not any more they leave.

use super::{
    build::Draft,
    error::{Error, Refused, Result},
    rooms::RoomInfo,
    state_tree::NodeId,
    stop::Stop,
    write::Write,
};
use crate::{
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, MembershipKind, UserNid},
    time_slice::TimeSlice,
};
use ephapse_store::{Direction, LocalBoxFuture};
use ruma::{
    CanonicalJsonValue, OwnedUserId,
    events::{StateEventType, TimelineEventType, room::guest_access::GuestAccess},
};
use serde::Deserialize;
use std::rc::Rc;

/// How many members are looked at before others have their turn.
const BATCH: usize = 500;
/// How many guests leave with one batch.
const LEAVE_AT_ONCE: usize = 16;

impl Write<'_> {
    /// "Servers MUST only allow guest users to join rooms if the m.room.guest_access state event is
    /// present on the room, and has the guest_access value can_join." Refused otherwise, whichever
    /// way they try to.
    pub(super) fn guest_refused(&self, draft: &Draft, before: NodeId) -> Result<Option<Refused>, Stop> {
        let joins = draft.event_type == TimelineEventType::RoomMember && draft.content.get("membership").and_then(|it| it.as_str()) == Some("join");
        if !joins || self.is_new || !self.hs.users.guests.may_be() {
            return Ok(None);
        }
        let user = self.user_nid(&draft.sender)?;
        if !self.is_guest(user)? || self.member(user)?.is_some_and(|own| own.kind == MembershipKind::Join) || self.guests_may_join(before)? {
            return Ok(None);
        }
        Ok(Some(Refused::Guest))
    }

    fn guests_may_join(&self, state: NodeId) -> Result<bool, Stop> {
        #[derive(Deserialize)]
        struct Content {
            guest_access: GuestAccess,
        }
        let found = self.state_get(state, &[(StateEventType::RoomGuestAccess, String::new())])?;
        let Some(position) = found.first().copied().flatten() else { return Ok(false) };
        let content: Option<Content> = serde_json::from_str(self.event(position)?.pdu.content.get()).ok();
        Ok(content.is_some_and(|content| content.guest_access == GuestAccess::CanJoin))
    }

    /// The room may say something else of guests now: those in it are looked at when this is
    /// written.
    pub(super) fn guest_access_changed(&mut self) {
        if !self.is_new {
            let position = self.next_position();
            tables::GUESTS_TO_LEAVE.put(self.tx, &self.room.nid, &position);
            self.guest_access_changed = true;
        }
    }
}

impl Homeserver {
    /// "If the m.room.guest_access event is changed to stop this from being the case, the server
    /// MUST set those users' m.room.member state to leave." Where this is interrupted, it is done
    /// when the server next clears up.
    pub(super) fn send_guests_away<'a>(&'a self, room: &'a Rc<RoomInfo>) -> LocalBoxFuture<'a, ()> {
        // A type of its own: this writes to the room, and is called by whatever writes to rooms.
        Box::pin(async move {
            if let Err(error) = self.guests_leave(room).await {
                tracing::warn!("could not remove guests from a room that forbids guests: {error}");
            }
        })
    }

    async fn guests_leave(&self, room: &Rc<RoomInfo>) -> Result<()> {
        let generation = self.begin_reading();
        let Some(asked) = tables::GUESTS_TO_LEAVE.get(self.store(), &room.nid).await? else { return Ok(()) };
        let range = tables::MEMBERS.range(&(room.nid, MembershipKind::Join as u8));
        let mut from = range.start;
        let slice = TimeSlice::new(&*self.host);
        loop {
            let page = tables::MEMBERS.scan_range(self.store(), from..range.end.clone(), Direction::Forward, BATCH).await?;
            let mut guests = Vec::new();
            for ((_, _, user), _) in &page {
                if self.is_guest(*user).await? {
                    guests.push((*user, self.user_id(*user).await?));
                }
                slice.step().await;
            }
            for guests in guests.chunks(LEAVE_AT_ONCE) {
                self.leave_together(room, generation, guests).await?;
                slice.end().await;
            }
            let Some((last, _)) = page.last().filter(|_| page.len() == BATCH) else { break };
            from = tables::MEMBERS.key(last);
            // The first key after it.
            from.push(0);
        }
        let _lock = self.lock(LockKey::Room(room.nid)).await;
        // Unless it was changed once more since.
        if tables::GUESTS_TO_LEAVE.get(self.store(), &room.nid).await? == Some(asked) {
            let done = self.write(generation, |tx| tables::GUESTS_TO_LEAVE.delete(tx, &room.nid));
            done?.visible();
        }
        Ok(())
    }

    /// Those of `guests` who are in the room leave it, unless guests may be there after all.
    async fn leave_together(&self, room: &Rc<RoomInfo>, generation: u64, guests: &[(UserNid, OwnedUserId)]) -> Result<()> {
        let leave = |write: &mut Write<'_>| {
            if write.guests_may_join(write.state())? {
                return Ok(());
            }
            write.tx.frees_space();
            for (user, id) in guests {
                if write.member(*user)?.is_none_or(|member| member.kind != MembershipKind::Join) {
                    continue;
                }
                let content: ruma::CanonicalJsonObject = [("membership".to_owned(), CanonicalJsonValue::String("leave".to_owned()))].into();
                match write.send(Draft::state(id.clone(), StateEventType::RoomMember, id.as_str(), content)) {
                    Ok(_) => {}
                    Err(Stop::Refused(Error::Refused(error))) => tracing::debug!("a guest could not leave a room: {error}"),
                    Err(stop) => return Err(stop),
                }
            }
            Ok::<_, Stop>(())
        };
        self.write_room(room, generation, leave).await
    }

    /// Goes on where the end of the last run interrupted it.
    pub(crate) async fn resume_guests_leaving(&self) -> Result<()> {
        for (room, _) in tables::GUESTS_TO_LEAVE.scan(self.store(), &(), Direction::Forward, usize::MAX).await? {
            self.send_guests_away(&self.room_by_nid(room).await?).await;
        }
        Ok(())
    }
}
