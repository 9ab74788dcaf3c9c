//! What another server may ask of a room.

use super::acl;
use crate::{
    error::{Error, Result},
    homeserver::Homeserver,
    room::RoomInfo,
};
use ruma::{RoomId, ServerName, UserId};
use std::rc::Rc;

/// A server speaks for its own users alone: "a valid user ID on the origin server".
///
/// # Errors
/// 403 M_FORBIDDEN.
pub fn must_be_of(origin: &ServerName, user: &UserId) -> Result<()> {
    if user.server_name() == origin { Ok(()) } else { Err(Error::forbidden(format!("{user} is not a user of {origin}"))) }
}

impl Homeserver {
    /// A room that users of this server are in, so that it can be told about, and whose server ACL
    /// lets another server ask (Server-Server API, "Server Access Control Lists").
    ///
    /// # Errors
    /// 404 M_NOT_FOUND where it is not known or nobody here is in it, 403 M_FORBIDDEN.
    pub(crate) async fn room_for(&self, origin: &ServerName, id: &RoomId) -> Result<Rc<RoomInfo>> {
        let unknown = || Error::not_found(format!("{id} is not known here"));
        let room = self.room(id).await?.ok_or_else(unknown)?;
        if !self.is_resident(room.nid).await? {
            return Err(unknown());
        }
        if !acl::allows(self, &room, origin).await? {
            return Err(Error::forbidden("Server is banned from room"));
        }
        Ok(room)
    }

    /// As [`Self::room_for`], for what only servers are told that are in the room themselves.
    ///
    /// # Errors
    /// As there, and 403 M_FORBIDDEN for a server that is not in it.
    pub(crate) async fn room_of(&self, origin: &ServerName, id: &RoomId) -> Result<Rc<RoomInfo>> {
        let room = self.room_for(origin, id).await?;
        if !self.servers_in(room.nid).await?.contains_key(origin) {
            return Err(Error::forbidden("Host not in room."));
        }
        Ok(room)
    }
}
