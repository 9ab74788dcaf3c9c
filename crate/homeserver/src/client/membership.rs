//! Membership: join, leave, invite, kick, ban, unban, knock, forget (Client-Server API, "Room
//! membership").

use super::{bare_member_content, content, invite_content, member_content, state::set_already};
use crate::{
    aliases,
    error::{Error, Result},
    federation::{joining::WantedMembership, refused::RemoteError},
    homeserver::Homeserver,
    locks::LockKey,
    restricted,
    room::{Draft, RoomInfo, Stop, Write},
    router::UserCall,
    tables::{self, Change, Membership, MembershipKind, Session},
};
use ephapse_events::JsonObject;
use http::StatusCode;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomOrAliasId, UserId,
    api::{
        client::{
            knock::knock_room,
            membership::{ban_user, forget_room, invite_user, join_room_by_id, join_room_by_id_or_alias, kick_user, leave_room, unban_user},
        },
        error::ErrorKind,
    },
    events::StateEventType,
};
use std::rc::Rc;

/// `POST /join/{roomIdOrAlias}`
pub async fn join(call: UserCall, request: join_room_by_id_or_alias::v3::Request) -> Result<join_room_by_id_or_alias::v3::Response> {
    let (room, servers) = named(&call.hs, &request.room_id_or_alias, request.via).await?;
    join_room(&call, &room, request.reason, servers).await?;
    Ok(join_room_by_id_or_alias::v3::Response::new(room))
}

/// `POST /rooms/{roomId}/join`
pub async fn join_by_id(call: UserCall, request: join_room_by_id::v3::Request) -> Result<join_room_by_id::v3::Response> {
    join_room(&call, &request.room_id, request.reason, Vec::new()).await?;
    Ok(join_room_by_id::v3::Response::new(request.room_id))
}

/// `POST /knock/{roomIdOrAlias}`
pub async fn knock(call: UserCall, request: knock_room::v3::Request) -> Result<knock_room::v3::Response> {
    let (hs, session) = (&call.hs, &call.session);
    let (id, servers) = named(hs, &request.room_id_or_alias, request.via).await?;
    let content = member_content(hs, session.user, "knock", request.reason).await?;
    let Some(room) = resident(hs, &id).await? else {
        through_others(&call, &id, content.into(), servers, async |wanted| hs.knock_through(&wanted).await).await?;
        return Ok(knock_room::v3::Response::new(id));
    };
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

/// The room that somebody names, and servers that may be in it.
async fn named(hs: &Homeserver, id: &RoomOrAliasId, mut servers: Vec<OwnedServerName>) -> Result<(OwnedRoomId, Vec<OwnedServerName>)> {
    let alias = match <&RoomId>::try_from(id) {
        Ok(id) => return Ok((id.to_owned(), servers)),
        Err(alias) => alias,
    };
    let (room, known) = aliases::resolved(hs, alias).await?;
    servers.extend(known);
    servers.push(alias.server_name().to_owned());
    Ok((room, servers))
}

/// The room, if users of this server are in it, so that it can be changed here.
async fn resident(hs: &Homeserver, id: &RoomId) -> Result<Option<Rc<RoomInfo>>> {
    let Some(room) = hs.room(id).await? else { return Ok(None) };
    // A room that everybody here has left is still this server's where nobody else was ever in it.
    let is_here = hs.is_resident(room.nid).await? || hs.servers_in(room.nid).await?.is_empty() && hs.room_head(room.nid).await?.create.is_some();
    Ok(is_here.then_some(room))
}

/// Asks other servers for a membership in a room that this one is not in.
async fn through_others(
    call: &UserCall,
    room: &RoomId,
    content: JsonObject,
    servers: Vec<OwnedServerName>,
    ask: impl AsyncFnOnce(WantedMembership<'_>) -> Result<(), RemoteError>,
) -> Result<()> {
    let hs = &call.hs;
    let mut named = servers;
    if let Some(known) = hs.room(room).await? {
        named.extend(hs.servers_of_membership(&known, call.session.user).await?);
        named.extend(hs.servers_in(known.nid).await?.keys().cloned());
    }
    let candidates = hs.candidates(room, named);
    let wanted = WantedMembership { room, user: &call.session.user_id, nid: call.session.user, content, candidates };
    Ok(ask(wanted).await?)
}

async fn join_room(call: &UserCall, id: &RoomId, reason: Option<String>, servers: Vec<OwnedServerName>) -> Result<()> {
    let hs = &call.hs;
    let user = &call.session.user_id;
    let Some(room) = &resident(hs, id).await? else {
        // What others send there meanwhile waits until the room is here.
        let joining = hs.lock(LockKey::Joining(id.to_owned())).await;
        if resident(hs, id).await?.is_some() {
            // Somebody else here has joined it meanwhile.
            drop(joining);
            return Box::pin(join_room(call, id, reason, servers)).await;
        }
        let content = member_content(hs, call.session.user, "join", reason).await?;
        return join_through_others(call, id, content.into(), servers).await;
    };
    let further = further(call, room)?;
    let own = tables::MEMBERSHIPS.get(hs.store(), &(call.session.user, room.nid)).await?;
    if further.is_empty() && own.as_ref().is_some_and(|own| own.kind == MembershipKind::Join) {
        return Ok(());
    }
    let mut content = member_content(hs, call.session.user, "join", reason).await?;
    content.extend(further.iter().map(|(key, value)| (key.clone(), value.clone())));
    let content = further.part(content);
    let authorised_via = match authorised_via(hs, &call.session, room).await {
        // Members on other servers may be able to.
        Err(error) if error.is_for_others_to_grant() && !hs.servers_in(room.nid).await?.is_empty() => {
            return join_through_others(call, id, content, servers).await;
        }
        authorised_via => authorised_via?,
    };
    let draft = Draft { authorised_via, ..Draft::state(user.clone(), StateEventType::RoomMember, user.as_str(), content) };
    let join = |write: &mut Write<'_>| match set_already(write, &draft)? {
        Some(event) => Ok(event),
        None => write.send(draft.clone()),
    };
    hs.write_room(room, call.raw.generation, join).await?;
    Ok(())
}

/// As [`through_others`], a join: of a guest only where the room lets guests join, which shows when
/// its state is here.
async fn join_through_others(call: &UserCall, id: &RoomId, content: JsonObject, servers: Vec<OwnedServerName>) -> Result<()> {
    let hs = &call.hs;
    through_others(call, id, content, servers, async |wanted| hs.join_through(&wanted).await).await?;
    if call.is_guest() && hs.joined_room(call.session.user, id).await.is_err() {
        return Err(Error::guest_access_forbidden("Guest access not allowed"));
    }
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
        _ => restricted::authorizer(hs, room, &session.user_id).await,
    }
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
    let room = hs.noted_room(&request.room_id).await?;
    let own = tables::MEMBERSHIPS.get(hs.store(), &(call.session.user, room.nid)).await?;
    match own.map(|own| own.kind) {
        Some(MembershipKind::Leave) => return Ok(leave_room::v3::Response::new()),
        None => return Err(Error::forbidden("You are not in this room")),
        Some(_) => {}
    }
    if resident(hs, &room.id).await?.is_none() {
        let content = bare_member_content("leave", request.reason);
        let left = through_others(&call, &room.id, content.into(), Vec::new(), async |wanted| hs.leave_through(&wanted).await).await;
        if let Err(error) = left {
            // The user is rid of it all the same, as on other servers: nobody there may ever
            // answer.
            tracing::info!("nobody was told that {} left {}: {error:?}", call.session.user_id, room.id);
            hs.end_membership(&room, &call.session).await?;
        }
        return Ok(leave_room::v3::Response::new());
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
    let room = hs.noted_room(&request.room_id).await?;
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
    if let Some(user) = draft.invited().filter(|user| !call.hs.is_local(user)) {
        call.hs.invite_through(room, call.raw.generation, draft, &user).await?;
        return Ok(());
    }
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
