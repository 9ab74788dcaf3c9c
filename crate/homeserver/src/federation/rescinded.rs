//! The end of invitations and knocks of this server's users, in rooms that it is not in: those who
//! are in the room send it as they send every event.

use crate::{
    homeserver::Homeserver,
    room::{self, RoomInfo, Write},
    tables::{self, MembershipKind, UserNid},
};
use ephapse_events::Pdu;
use ruma::{UserId, events::TimelineEventType};
use serde::Deserialize;
use std::{borrow::Cow, rc::Rc};

impl Homeserver {
    /// Whose invitation or knock an event ends. Without the room's state nothing says who may do
    /// so, so it is for the servers that the membership came from, or that it names.
    pub(crate) async fn rescinds(&self, room: &RoomInfo, pdu: &Pdu) -> room::Result<Option<UserNid>> {
        #[derive(Deserialize)]
        struct Content<'a> {
            #[serde(borrow)]
            membership: Cow<'a, str>,
        }
        if pdu.event_type != TimelineEventType::RoomMember {
            return Ok(None);
        }
        let user = pdu.state_key.as_deref().and_then(|user| UserId::parse(user).ok()).filter(|user| self.is_local(user));
        let content: Option<Content<'_>> = serde_json::from_str(pdu.content.get()).ok();
        let ends = content.is_some_and(|content| matches!(&*content.membership, "leave" | "ban"));
        let Some(user) = user.filter(|_| ends) else { return Ok(None) };
        let Some(nid) = self.find_user(&user).await? else { return Ok(None) };
        let membership = tables::MEMBERSHIPS.get(self.store(), &(nid, room.nid)).await?;
        let Some(membership) = membership.filter(|membership| matches!(membership.kind, MembershipKind::Invite | MembershipKind::Knock)) else {
            return Ok(None);
        };
        let begun = self.event_at(room.nid, membership.position).await?;
        // One that comes late ended what was before, such as a ban.
        if pdu.depth <= begun.pdu.depth && !pdu.auth_events.contains(&begun.pdu.event_id) {
            return Ok(None);
        }
        let servers = self.servers_of_membership(room, nid).await?;
        Ok(servers.iter().any(|server| server == pdu.sender.server_name()).then_some(nid))
    }

    /// Takes in what [`Self::rescinds`] an invitation or a knock; false where it does not, or not
    /// any more.
    pub(crate) async fn rescind(&self, room: &Rc<RoomInfo>, pdu: &Pdu) -> room::Result<bool> {
        let generation = self.begin_reading();
        if self.rescinds(room, pdu).await?.is_none() {
            return Ok(false);
        }
        self.write_room(room, generation, |write: &mut Write<'_>| write.add_membership(pdu.clone())).await?;
        Ok(true)
    }
}
