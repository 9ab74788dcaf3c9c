//! What a client needs to name a room (Client-Server API, `summary` of a sync): how many members,
//! and who some of them are.

use crate::{
    damaged::LeaveOut,
    error::Result,
    homeserver::Homeserver,
    position::Position,
    room::{NodeId, RoomInfo},
    tables::{self, MembershipKind, RoomHead, UserNid},
};
use ephapse_store::Direction;
use ruma::{UInt, api::client::sync::sync_events::v3::RoomSummary, events::StateEventType};
use serde::Deserialize;

/// How many heroes there are at most.
const HEROES: usize = 5;
/// How many members are looked at to find those who came first. In larger rooms they are those whom
/// this server has known longest.
const MAX_MEMBERS_READ: usize = 64;

impl Homeserver {
    /// The summary of a room for one of its members; heroes where the room has no name of its own.
    pub(crate) async fn room_summary(&self, room: &RoomInfo, head: &RoomHead, state: NodeId, user: UserNid) -> Result<RoomSummary> {
        let mut summary = RoomSummary::new();
        summary.joined_member_count = Some(UInt::from(head.joined));
        summary.invited_member_count = Some(UInt::from(head.invited));
        if !self.has_name(room, state).await? {
            let mut heroes = self.members_but(room, &[MembershipKind::Join, MembershipKind::Invite], user).await?;
            if heroes.is_empty() {
                heroes = self.members_but(room, &[MembershipKind::Leave, MembershipKind::Ban], user).await?;
            }
            for hero in heroes {
                summary.heroes.extend(self.user_id(hero).await.leave_out()?);
            }
        }
        Ok(summary)
    }

    async fn has_name(&self, room: &RoomInfo, state: NodeId) -> Result<bool> {
        #[derive(Deserialize)]
        struct Content {
            name: Option<String>,
            alias: Option<String>,
        }
        let keys = [(StateEventType::RoomName, String::new()), (StateEventType::RoomCanonicalAlias, String::new())];
        let positions: Vec<Position> = self.state_get(room.nid, state, &keys).await?.into_iter().flatten().collect();
        let events = self.events_at(room.nid, &positions).await?;
        Ok(events.iter().flatten().any(|event| {
            serde_json::from_str::<Content>(event.pdu.content.get())
                .is_ok_and(|content| [content.name, content.alias].into_iter().flatten().any(|name| !name.is_empty()))
        }))
    }

    async fn members_but(&self, room: &RoomInfo, kinds: &[MembershipKind], user: UserNid) -> Result<Vec<UserNid>> {
        let mut members = Vec::new();
        for kind in kinds {
            members.extend(tables::MEMBERS.scan(self.store(), &(room.nid, *kind as u8), Direction::Forward, MAX_MEMBERS_READ).await?);
        }
        let mut members: Vec<(Position, UserNid)> =
            members.into_iter().map(|((_, _, member), position)| (position, member)).filter(|(_, member)| *member != user).collect();
        members.sort_unstable();
        members.truncate(HEROES);
        Ok(members.into_iter().map(|(_, member)| member).collect())
    }
}
