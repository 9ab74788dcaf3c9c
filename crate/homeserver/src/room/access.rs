//! Which rooms somebody may read, and until when.

use super::{
    error::{Refused, Result},
    rooms::RoomInfo,
    state_tree::NodeId,
};
use crate::{
    homeserver::Homeserver,
    position::Position,
    requester::Requester,
    tables::{self, Membership, MembershipKind, UserNid},
};
use ruma::{RoomId, events::room::history_visibility::HistoryVisibility};
use serde::Deserialize;
use std::rc::Rc;

impl Homeserver {
    /// A room that somebody names, whether or not they are in it. Where there is none, they are
    /// told that they are not in it.
    pub async fn known_room(&self, id: &RoomId) -> Result<Rc<RoomInfo>> {
        let room = self.noted_room(id).await?;
        // Of a room that users were only invited to there is nothing here yet.
        if self.room_head(room.nid).await?.create.is_none() {
            return Err(Refused::NotInRoom.into());
        }
        Ok(room)
    }

    /// As [`Self::known_room`], also one of which nothing is known but that users of this server
    /// were invited or knock.
    pub async fn noted_room(&self, id: &RoomId) -> Result<Rc<RoomInfo>> {
        Ok(self.room(id).await?.ok_or(Refused::NotInRoom)?)
    }

    /// A room that a user has joined, and their part in it.
    ///
    /// # Errors
    /// [`Refused::NotInRoom`], also where there is no such room.
    pub async fn joined_room(&self, user: UserNid, id: &RoomId) -> Result<(Rc<RoomInfo>, Membership)> {
        let room = self.known_room(id).await?;
        let membership = tables::MEMBERSHIPS.get(self.store(), &(user, room.nid)).await?;
        let joined = membership.filter(|membership| membership.kind == MembershipKind::Join).ok_or(Refused::NotInRoom)?;
        Ok((room, joined))
    }

    /// A room that somebody may read, and until when: where they left it, unless they are in it or
    /// everybody may read it. Who has forgotten it was never in it.
    ///
    /// # Errors
    /// [`Refused::NotInRoom`], also where there is no such room.
    pub async fn readable(&self, requester: Requester<'_>, id: &RoomId) -> Result<(Rc<RoomInfo>, Option<Position>)> {
        let room = self.known_room(id).await?;
        let membership = match requester {
            Requester::User(session) | Requester::Guest(session) => tables::MEMBERSHIPS.get(self.store(), &(session.user, room.nid)).await?,
            // What a server may read beyond what everybody may follows from its members.
            Requester::Server(_) => None,
        };
        match membership.filter(|membership| !membership.forgotten) {
            Some(membership) if membership.kind == MembershipKind::Join => Ok((room, None)),
            _ if self.is_world_readable(&room).await? => Ok((room, None)),
            // Also who is invited again or knocks was once in it.
            Some(membership) if membership.ever_joined => Ok((room, Some(membership.last_left.unwrap_or(membership.position)))),
            _ => Err(Refused::NotInRoom.into()),
        }
    }

    /// A room and the root of the state that somebody may read: the current one for members and
    /// where everybody may read, that of the departure for others.
    pub async fn readable_state(&self, requester: Requester<'_>, id: &RoomId) -> Result<(Rc<RoomInfo>, NodeId)> {
        let (room, until) = self.readable(requester, id).await?;
        let root = match until {
            // The departure may have come without an event of its own, by a fork that was decided
            // against the user.
            Some(left) => self.event_at(room.nid, left).await?.room_state,
            None => NodeId(self.room_head(room.nid).await?.state),
        };
        Ok((room, root))
    }

    async fn is_world_readable(&self, room: &RoomInfo) -> Result<bool> {
        #[derive(Deserialize)]
        struct Content {
            history_visibility: HistoryVisibility,
        }
        let head = self.room_head(room.nid).await?;
        let Some(position) = head.history_visibility else { return Ok(false) };
        let event = self.event_at(room.nid, position).await?;
        let content: Option<Content> = serde_json::from_str(event.pdu.content.get()).ok();
        Ok(content.is_some_and(|content| content.history_visibility == HistoryVisibility::WorldReadable))
    }
}
