//! Restricted rooms: on whose word somebody joins (Client-Server API, "Restricted rooms").

use crate::{
    damaged::LeaveOut,
    error::{Error, Result},
    homeserver::Homeserver,
    room::{NodeId, RoomInfo},
    tables::{self, MembershipKind},
    time_slice::TimeSlice,
};
use ephapse_events::auth::PowerLevels;
use ephapse_store::Direction;
use http::StatusCode;
use ruma::{OwnedRoomId, OwnedUserId, UserId, api::error::ErrorKind};
use serde::Deserialize;

/// How many members are looked at for one who can let somebody in, beside those who have a power
/// level of their own.
const AUTHORIZERS: usize = 1024;
/// How many of them are read at once.
const READ_AT_ONCE: usize = 64;

/// In a restricted room: a member who may invite, for a user who is in one of the rooms that the
/// join rules allow.
pub async fn authorizer(hs: &Homeserver, room: &RoomInfo, user: &UserId) -> Result<Option<OwnedUserId>> {
    #[derive(Deserialize)]
    struct JoinRules {
        join_rule: String,
        #[serde(default)]
        allow: serde_json::Value,
    }
    #[derive(Deserialize)]
    struct Allow {
        #[serde(rename = "type")]
        kind: String,
        room_id: OwnedRoomId,
    }
    let head = hs.room_head(room.nid).await?;
    let Some(position) = head.join_rules else { return Ok(None) };
    let event = hs.event_at(room.nid, position).await?;
    let Ok(rules) = serde_json::from_str::<JoinRules>(event.pdu.content.get()) else { return Ok(None) };
    if !matches!(rules.join_rule.as_str(), "restricted" | "knock_restricted") {
        return Ok(None);
    }
    // Of its own users this server knows all rooms.
    let is_local = hs.is_local(user);
    let Some(user) = hs.find_user(user).await? else { return Ok(None) };
    let (mut allowed, mut is_known) = (false, true);
    // What is malformed allows nothing, and takes nothing from the others.
    let allow = rules.allow.as_array().into_iter().flatten().filter_map(|entry| Allow::deserialize(entry).ok());
    for allow in allow.filter(|allow| allow.kind == "m.room_membership") {
        let other = match hs.room(&allow.room_id).await? {
            Some(other) if hs.is_resident(other.nid).await? => other,
            // Who is in it now is for other servers to say.
            _ => {
                is_known &= is_local;
                continue;
            }
        };
        let membership = tables::MEMBERSHIPS.get(hs.store(), &(user, other.nid)).await?;
        allowed |= membership.is_some_and(|membership| membership.kind == MembershipKind::Join);
    }
    if !allowed && !is_known {
        let message = "This server does not know who belongs to the required rooms/spaces";
        return Err(Error::new(StatusCode::BAD_REQUEST, ErrorKind::UnableToAuthorizeJoin, message));
    }
    if !allowed {
        return Err(Error::forbidden("You do not belong to any of the required rooms/spaces to join this room"));
    }
    let levels = hs.levels(room, NodeId(head.state)).await?;
    match member_who_may_invite(hs, room, &levels).await? {
        Some(member) => Ok(Some(member)),
        None => Err(Error::new(StatusCode::BAD_REQUEST, ErrorKind::UnableToGrantJoin, "No member on this server may invite you to this room")),
    }
}

/// A member on this server who may invite: one of those with a level of their own, who are few and
/// mostly may, or else any.
async fn member_who_may_invite(hs: &Homeserver, room: &RoomInfo, levels: &PowerLevels<'_>) -> Result<Option<OwnedUserId>> {
    let needed = levels.invite().map_err(Error::forbidden)?;
    let may_invite = |user: &UserId| Ok::<_, Error>(hs.is_local(user) && levels.user(user).map_err(Error::forbidden)? >= needed);
    let slice = TimeSlice::new(&*hs.host);
    for user in levels.named().map_err(Error::forbidden)? {
        if may_invite(&user)? && is_joined(hs, room, &user).await? {
            return Ok(Some(user));
        }
        slice.step().await;
    }
    let range = tables::MEMBERS.range(&(room.nid, MembershipKind::Join as u8));
    let mut from = range.start;
    for _ in 0..AUTHORIZERS / READ_AT_ONCE {
        let members = tables::MEMBERS.scan_range(hs.store(), from..range.end.clone(), Direction::Forward, READ_AT_ONCE).await?;
        for ((_, _, user), _) in &members {
            let Some(user) = hs.user_id(*user).await.leave_out()? else { continue };
            if may_invite(&user)? {
                return Ok(Some(user));
            }
            slice.step().await;
        }
        let Some((last, _)) = members.last() else { break };
        from = tables::MEMBERS.key(last);
        // The first key after it.
        from.push(0);
    }
    Ok(None)
}

async fn is_joined(hs: &Homeserver, room: &RoomInfo, user: &UserId) -> Result<bool> {
    let Some(user) = hs.find_user(user).await? else { return Ok(false) };
    Ok(tables::MEMBERSHIPS.get(hs.store(), &(user, room.nid)).await?.is_some_and(|membership| membership.kind == MembershipKind::Join))
}
