//! What a user's power level allows in a room as it is now.

use super::{
    append::membership_of,
    error::{Refused, Result},
    rooms::RoomInfo,
    state_tree::NodeId,
};
use crate::{homeserver::Homeserver, tables::MembershipKind};
use ruma::{UserId, events::StateEventType};

impl Homeserver {
    /// Whether a joined user's power level allows a state event of a type now.
    pub async fn may_send_state(&self, room: &RoomInfo, user: &UserId, event_type: StateEventType) -> Result<bool> {
        let head = self.room_head(room.nid).await?;
        let member = self.state_event(room.nid, NodeId(head.state), (StateEventType::RoomMember, user.to_string())).await?;
        if member.is_none_or(|event| membership_of(&event) != MembershipKind::Join) {
            return Ok(false);
        }
        let levels = self.levels(room, NodeId(head.state)).await?;
        let needed = levels.event(&event_type.into(), Some("")).map_err(Refused::NotAllowed)?;
        Ok(levels.user(user).map_err(Refused::NotAllowed)? >= needed)
    }

    /// Whether a user's power level allows to redact others' events now.
    pub async fn may_redact_others(&self, room: &RoomInfo, user: &UserId) -> Result<bool> {
        let head = self.room_head(room.nid).await?;
        let levels = self.levels(room, NodeId(head.state)).await?;
        Ok(levels.may_redact_others(user).map_err(Refused::NotAllowed)?)
    }
}
