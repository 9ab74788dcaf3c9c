//! Membership: join, leave, invite, kick, ban, unban, knock, forget (Client-Server API, "Room
//! membership").

use super::{bare_member_content, content, invite_content, member_content, state::set_already};
use crate::{
    aliases,
    damaged::LeaveOut,
    error::{Error, Result},
    homeserver::Homeserver,
    locks::LockKey,
    room::{Draft, NodeId, RoomInfo, Stop, Write},
    router::UserCall,
    tables::{self, Change, Membership, MembershipKind, Session},
    time_slice::TimeSlice,
};
use ephapse_events::{JsonObject, auth::PowerLevels};
use ephapse_store::Direction;
use http::StatusCode;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedUserId, RoomOrAliasId, UserId,
    api::{
        client::{
            knock::knock_room,
            membership::{ban_user, forget_room, invite_user, join_room_by_id, join_room_by_id_or_alias, kick_user, leave_room, unban_user},
        },
        error::ErrorKind,
    },
    events::StateEventType,
};
use serde::Deserialize;
use std::rc::Rc;

/// How many members are looked at for one who can let somebody in, beside those who have a power
/// level of their own.
const AUTHORIZERS: usize = 1024;
/// How many of them are read at once.
const READ_AT_ONCE: usize = 64;

/// `POST /join/{roomIdOrAlias}`
pub async fn join(call: UserCall, request: join_room_by_id_or_alias::v3::Request) -> Result<join_room_by_id_or_alias::v3::Response> {
    let room = find(&call.hs, &request.room_id_or_alias).await?;
    join_room(&call, &room, request.reason).await?;
    Ok(join_room_by_id_or_alias::v3::Response::new(room.id.clone()))
}

/// `POST /rooms/{roomId}/join`
pub async fn join_by_id(call: UserCall, request: join_room_by_id::v3::Request) -> Result<join_room_by_id::v3::Response> {
    let room = find(&call.hs, <&RoomOrAliasId>::from(&*request.room_id)).await?;
    join_room(&call, &room, request.reason).await?;
    Ok(join_room_by_id::v3::Response::new(room.id.clone()))
}

/// `POST /knock/{roomIdOrAlias}`
pub async fn knock(call: UserCall, request: knock_room::v3::Request) -> Result<knock_room::v3::Response> {
    let (hs, session) = (&call.hs, &call.session);
    let room = find(hs, &request.room_id_or_alias).await?;
    let content = member_content(hs, session.user, "knock", request.reason).await?;
    let draft = Draft::state(session.user_id.clone(), StateEventType::RoomMember, session.user_id.as_str(), content);
    let knock = |write: &mut Write<'_>| {
        if let Some(own) = write.member(session.user)?.filter(|own| own.kind == MembershipKind::Knock) {
            let before = write.event(own.position)?;
            // Asked again in the same words: the members have heard it.
            if serde_json::from_str::<CanonicalJsonObject>(before.pdu.content.get()).is_ok_and(|before| before == *draft.content) {
                return Ok(());
            }
        }
        write.send(draft.clone())?;
        Ok::<_, Stop>(())
    };
    hs.write_room(&room, call.raw.generation, knock).await?;
    Ok(knock_room::v3::Response::new(room.id.clone()))
}

async fn find(hs: &Homeserver, id: &RoomOrAliasId) -> Result<Rc<RoomInfo>> {
    let room = match <&ruma::RoomId>::try_from(id) {
        Ok(id) => hs.room(id).await?,
        Err(alias) => aliases::room_of(hs, alias).await?,
    };
    room.ok_or_else(|| Error::not_found(format!("{id} was not found on this server")))
}

async fn join_room(call: &UserCall, room: &Rc<RoomInfo>, reason: Option<String>) -> Result<()> {
    let hs = &call.hs;
    let user = &call.session.user_id;
    let further = further(call, room)?;
    let own = tables::MEMBERSHIPS.get(hs.store(), &(call.session.user, room.nid)).await?;
    if further.is_empty() && own.as_ref().is_some_and(|own| own.kind == MembershipKind::Join) {
        return Ok(());
    }
    let mut content = member_content(hs, call.session.user, "join", reason).await?;
    content.extend(further.iter().map(|(key, value)| (key.clone(), value.clone())));
    let content = further.part(content);
    let authorised_via = authorised_via(hs, &call.session, room).await?;
    let draft = Draft { authorised_via, ..Draft::state(user.clone(), StateEventType::RoomMember, user.as_str(), content) };
    let join = |write: &mut Write<'_>| match set_already(write, &draft)? {
        Some(event) => Ok(event),
        None => write.send(draft.clone()),
    };
    hs.write_room(room, call.raw.generation, join).await?;
    Ok(())
}

/// What the body of a join says beside what the specification names: it goes into the member event,
/// as other servers have it.
fn further(call: &UserCall, room: &RoomInfo) -> Result<JsonObject> {
    if call.raw.body.is_empty() {
        return Ok(JsonObject::default());
    }
    let body = str::from_utf8(&call.raw.body).map_err(|_| Error::bad_json("The request body is not valid UTF-8"))?;
    let mut further = content(body, &room.rules)?;
    // The last two are the server's to say.
    for known in ["reason", "third_party_signed", "membership", "join_authorised_via_users_server"] {
        further.remove(known);
    }
    Ok(further)
}

/// On whose word a user joins a room: nobody's where none is needed.
pub(super) async fn authorised_via(hs: &Homeserver, session: &Session, room: &Rc<RoomInfo>) -> Result<Option<OwnedUserId>> {
    let own = tables::MEMBERSHIPS.get(hs.store(), &(session.user, room.nid)).await?;
    match own.map(|own| own.kind) {
        Some(MembershipKind::Join | MembershipKind::Invite) => Ok(None),
        _ => authorizer(hs, room, &session.user_id).await,
    }
}

/// In a restricted room: a member who may invite, for a user who is in one of the rooms that the
/// join rules allow.
async fn authorizer(hs: &Homeserver, room: &Rc<RoomInfo>, user: &UserId) -> Result<Option<OwnedUserId>> {
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
    let Some(user) = hs.find_user(user).await? else { return Ok(None) };
    let mut allowed = false;
    // What is malformed allows nothing, and takes nothing from the others.
    let allow = rules.allow.as_array().into_iter().flatten().filter_map(|entry| Allow::deserialize(entry).ok());
    for allow in allow.filter(|allow| allow.kind == "m.room_membership") {
        let Some(other) = hs.room(&allow.room_id).await? else { continue };
        let membership = tables::MEMBERSHIPS.get(hs.store(), &(user, other.nid)).await?;
        allowed |= membership.is_some_and(|membership| membership.kind == MembershipKind::Join);
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
        if may_invite(&user)? && membership_of(hs, room, &user).await? == Some(MembershipKind::Join) {
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

/// `POST /rooms/{roomId}/invite`
pub async fn invite(call: UserCall, request: invite_user::v3::Request) -> Result<invite_user::v3::Response> {
    let invite_user::v3::InvitationRecipient::UserId(invite) = request.recipient else {
        return Err(Error::new(
            StatusCode::FORBIDDEN,
            ErrorKind::ThreepidDenied,
            "This server does not support invites by email address or phone number",
        ));
    };
    let hs = &call.hs;
    let room = hs.known_room(&request.room_id).await?;
    let content = invite_content(hs, &invite.user_id, invite.reason).await?;
    set(&call, &room, &invite.user_id, content).await?;
    Ok(invite_user::v3::Response::new())
}

/// `POST /rooms/{roomId}/leave`: also refuses an invitation and takes back a knock.
pub async fn leave(call: UserCall, request: leave_room::v3::Request) -> Result<leave_room::v3::Response> {
    let hs = &call.hs;
    let room = hs.known_room(&request.room_id).await?;
    let own = tables::MEMBERSHIPS.get(hs.store(), &(call.session.user, room.nid)).await?;
    match own.map(|own| own.kind) {
        Some(MembershipKind::Leave) => return Ok(leave_room::v3::Response::new()),
        None => return Err(Error::forbidden("You are not in this room")),
        Some(_) => {}
    }
    set(&call, &room, &call.session.user_id.clone(), bare_member_content("leave", request.reason)).await?;
    Ok(leave_room::v3::Response::new())
}

/// `POST /rooms/{roomId}/kick`
pub async fn kick(call: UserCall, request: kick_user::v3::Request) -> Result<kick_user::v3::Response> {
    let room = call.hs.known_room(&request.room_id).await?;
    let target = membership_of(&call.hs, &room, &request.user_id).await?;
    if !matches!(target, Some(MembershipKind::Join | MembershipKind::Invite | MembershipKind::Knock)) {
        return Err(Error::forbidden(format!("{} is not in this room", request.user_id)));
    }
    set(&call, &room, &request.user_id, bare_member_content("leave", request.reason)).await?;
    Ok(kick_user::v3::Response::new())
}

/// `POST /rooms/{roomId}/ban`
pub async fn ban(call: UserCall, request: ban_user::v3::Request) -> Result<ban_user::v3::Response> {
    let room = call.hs.known_room(&request.room_id).await?;
    set(&call, &room, &request.user_id, bare_member_content("ban", request.reason)).await?;
    Ok(ban_user::v3::Response::new())
}

/// `POST /rooms/{roomId}/unban`
pub async fn unban(call: UserCall, request: unban_user::v3::Request) -> Result<unban_user::v3::Response> {
    let room = call.hs.known_room(&request.room_id).await?;
    if membership_of(&call.hs, &room, &request.user_id).await? != Some(MembershipKind::Ban) {
        return Err(Error::forbidden(format!("{} is not banned from this room", request.user_id)));
    }
    set(&call, &room, &request.user_id, bare_member_content("leave", request.reason)).await?;
    Ok(unban_user::v3::Response::new())
}

/// `POST /rooms/{roomId}/forget`
pub async fn forget(call: UserCall, request: forget_room::v3::Request) -> Result<forget_room::v3::Response> {
    let hs = &call.hs;
    let room = hs.known_room(&request.room_id).await?;
    let user = call.session.user;
    {
        let _lock = hs.lock(LockKey::Room(room.nid)).await;
        let own = tables::MEMBERSHIPS.get(hs.store(), &(user, room.nid)).await?.ok_or_else(|| Error::forbidden("You were never in this room"))?;
        if !matches!(own.kind, MembershipKind::Leave | MembershipKind::Ban) {
            return Err(Error::new(StatusCode::BAD_REQUEST, ErrorKind::Unknown, "You are still in this room: leave it before you forget it"));
        }
        if !own.forgotten {
            let forgotten = hs.write(call.raw.generation, |tx| {
                tx.frees_space();
                tables::MEMBERSHIPS.put(tx, &(user, room.nid), &Membership { forgotten: true, ..own });
                tables::ROOMS_TO_DELETE.put(tx, &room.nid, &false);
                tx.change(Change::Forgotten { user, room: room.nid });
            });
            forgotten?.durable().await?;
        }
    }
    hs.purge_if_forgotten(&room).await?;
    Ok(forget_room::v3::Response::new())
}

async fn membership_of(hs: &Homeserver, room: &RoomInfo, user: &UserId) -> Result<Option<MembershipKind>> {
    let Some(user) = hs.find_user(user).await? else { return Ok(None) };
    Ok(tables::MEMBERSHIPS.get(hs.store(), &(user, room.nid)).await?.map(|membership| membership.kind))
}

/// Sends a member event for `target`; the auth rules say whether the caller may.
async fn set(call: &UserCall, room: &Rc<RoomInfo>, target: &UserId, content: CanonicalJsonObject) -> Result<()> {
    send(call, room, Draft::state(call.session.user_id.clone(), StateEventType::RoomMember, target.as_str(), content)).await
}

async fn send(call: &UserCall, room: &Rc<RoomInfo>, draft: Draft) -> Result<()> {
    // Who leaves makes room, in the end: it works where storage is full.
    let leaves = draft.content.get("membership").and_then(CanonicalJsonValue::as_str) == Some("leave");
    // Guests do not come to forget it.
    let forgets = leaves && draft.state_key.as_deref() == Some(call.session.user_id.as_str()) && call.is_guest();
    let send = |write: &mut Write<'_>| {
        if leaves {
            write.tx.frees_space();
        }
        if forgets {
            tables::ROOMS_TO_DELETE.put(write.tx, &room.nid, &false);
        }
        write.send(draft.clone())
    };
    call.hs.write_room(room, call.raw.generation, send).await?;
    if forgets {
        call.hs.purge_if_forgotten(room).await?;
    }
    Ok(())
}
