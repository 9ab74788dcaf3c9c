//! What r0's event streams have otherwise than a sync: ephemeral events and account data that name
//! their room, and presence that names its user in the content.

use super::presence_events::{MOST, PRESENCE, content};
use crate::{
    damaged::LeaveOut,
    error::{Error, Result},
    homeserver::Homeserver,
    tables::{self, MembershipKind, RoomNid, Session, UserNid},
    time_slice::TimeSlice,
};
use ephapse_events::Inserted;
use ephapse_store::Direction;
use ruma::{OwnedUserId, RoomId, UserId, events::presence::PresenceEventContent, serde::Raw};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Serialize)]
struct OldPresence<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    sender: &'a UserId,
    content: OldContent<'a>,
}

#[derive(Serialize)]
struct OldContent<'a> {
    user_id: &'a UserId,
    #[serde(flatten)]
    rest: PresenceEventContent,
}

fn unwritten(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("could not serialize an event: {error}"))
}

/// An event that stands in a room of a sync, outside of one.
pub fn in_room<T>(event: &Raw<T>, room: &RoomId) -> Result<Box<RawValue>> {
    let mut event: BTreeMap<&str, Box<RawValue>> = serde_json::from_str(event.json().get()).map_err(unwritten)?;
    event.insert("room_id", to_raw_value(room).map_err(unwritten)?);
    to_raw_value(&event).map_err(unwritten)
}

impl Homeserver {
    /// The presence of those of `users` who are in one of `rooms`, and of the user's own where it
    /// is among them; of the first thousand.
    pub(super) async fn old_presence(
        &self,
        session: &Session,
        ignored: &BTreeSet<OwnedUserId>,
        users: BTreeSet<UserNid>,
        rooms: &[RoomNid],
    ) -> Result<Vec<Box<RawValue>>> {
        if !self.config.presence {
            return Ok(Vec::new());
        }
        let users: Vec<UserNid> = users.into_iter().take(MOST).collect();
        let slice = TimeSlice::new(&*self.host);
        let mut events = Vec::new();
        for (user, presence) in users.iter().zip(self.presence_of(&users).await?) {
            slice.step().await;
            let Some(id) = self.user_id(*user).await.leave_out()? else { continue };
            if ignored.contains(&id) || (*user != session.user && !self.is_joined_to_one_of(*user, rooms).await?) {
                continue;
            }
            let content = OldContent { user_id: &id, rest: content(presence, self.host.now()) };
            events.push(to_raw_value(&OldPresence { kind: PRESENCE, sender: &id, content }).map_err(unwritten)?);
        }
        Ok(events)
    }

    /// Who is in a room, the first thousand.
    pub(super) async fn first_members(&self, room: RoomNid) -> Result<BTreeSet<UserNid>> {
        let members = tables::MEMBERS.scan(self.store(), &(room, MembershipKind::Join as u8), Direction::Forward, MOST).await?;
        Ok(members.into_iter().map(|((_, _, user), _)| user).inserted())
    }
}
