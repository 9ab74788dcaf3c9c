//! Memberships of other servers' users in rooms of this one, and invitations of this server's users
//! (Server-Server API, "Joining Rooms", "Knocking upon a room", "Inviting to a room", "Leaving
//! Rooms").

use super::{
    access::must_be_of,
    acl,
    events::{self, Piece},
    joining::{raw, stripped},
    template,
    v1::{Invite, SendJoin, SendLeave, V1},
};
use crate::{
    body::Body,
    error::{Error, Result},
    homeserver::Homeserver,
    json_answer::Json,
    restricted,
    room::{Draft, Event, RoomInfo, Write},
    router::PeerCall,
    tables::{self, MembershipKind},
};
use ephapse_events::{Pdu, ReceivedPdu, rules_of};
use http::{Response, StatusCode};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedUserId, RoomId, RoomVersionId, UserId,
    api::{
        error::{ErrorKind, IncompatibleRoomVersionErrorData},
        federation::membership::{
            RawStrippedState, create_invite, create_join_event, create_knock_event, create_leave_event, prepare_join_event, prepare_knock_event,
            prepare_leave_event,
        },
    },
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use std::rc::Rc;

/// `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`
pub async fn make_join(call: PeerCall, request: prepare_join_event::v1::Request) -> Result<prepare_join_event::v1::Response> {
    let hs = &call.hs;
    must_be_of(&call.origin, &request.user_id)?;
    let room = hs.room_for(&call.origin, &request.room_id).await?;
    is_compatible(&room, &request.ver)?;
    let authorised_via = match membership_of(hs, &room, &request.user_id).await? {
        Some(MembershipKind::Join | MembershipKind::Invite) => None,
        _ => restricted::authorizer(hs, &room, &request.user_id).await?,
    };
    let draft = Draft { authorised_via, ..member_draft(&request.user_id, "join") };
    let mut response = prepare_join_event::v1::Response::new(template(&call, &room, draft).await?);
    response.room_version = Some(room.version.clone());
    Ok(response)
}

/// `GET /_matrix/federation/v1/make_leave/{roomId}/{userId}`
pub async fn make_leave(call: PeerCall, request: prepare_leave_event::v1::Request) -> Result<prepare_leave_event::v1::Response> {
    must_be_of(&call.origin, &request.user_id)?;
    let room = call.hs.room_for(&call.origin, &request.room_id).await?;
    let template = template(&call, &room, member_draft(&request.user_id, "leave")).await?;
    Ok(prepare_leave_event::v1::Response::new(Some(room.version.clone()), template))
}

/// `GET /_matrix/federation/v1/make_knock/{roomId}/{userId}`
pub async fn make_knock(call: PeerCall, request: prepare_knock_event::v1::Request) -> Result<prepare_knock_event::v1::Response> {
    must_be_of(&call.origin, &request.user_id)?;
    let room = call.hs.room_for(&call.origin, &request.room_id).await?;
    is_compatible(&room, &request.ver)?;
    let template = template(&call, &room, member_draft(&request.user_id, "knock")).await?;
    Ok(prepare_knock_event::v1::Response::new(room.version.clone(), template))
}

fn is_compatible(room: &RoomInfo, versions: &[RoomVersionId]) -> Result<()> {
    if versions.contains(&room.version) {
        return Ok(());
    }
    let kind = ErrorKind::IncompatibleRoomVersion(IncompatibleRoomVersionErrorData::new(room.version.clone()));
    Err(Error::new(StatusCode::BAD_REQUEST, kind, "Your homeserver does not support the features required to interact with this room"))
}

fn member_draft(user: &UserId, membership: &str) -> Draft {
    let content = CanonicalJsonObject::from([("membership".to_owned(), CanonicalJsonValue::String(membership.to_owned()))]);
    Draft::state(user.to_owned(), StateEventType::RoomMember, user.as_str(), content)
}

async fn membership_of(hs: &Homeserver, room: &RoomInfo, user: &UserId) -> Result<Option<MembershipKind>> {
    let Some(user) = hs.find_user(user).await? else { return Ok(None) };
    Ok(tables::MEMBERSHIPS.get(hs.store(), &(user, room.nid)).await?.map(|membership| membership.kind))
}

async fn template(call: &PeerCall, room: &Rc<RoomInfo>, draft: Draft) -> Result<Box<RawValue>> {
    let hs = &call.hs;
    let new = hs.write_room(room, call.raw.generation, |write: &mut Write<'_>| write.template(draft.clone())).await?;
    template::written(&new, hs.server_name(), &room.rules).map_err(|error| Error::Internal(format!("could not write a template: {error}")))
}

/// `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`: the state leaves as a stream.
pub async fn send_join(call: PeerCall, request: create_join_event::v2::Request) -> Result<Response<Body>> {
    let (room, join) = joined(&call, &request.room_id, &request.event_id, &request.pdu).await?;
    let answer = room_state(&call.hs, &room, &join, request.omit_members).await?;
    Ok(events::answer(call.hs, room.nid, answer))
}

/// `PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}`, for servers of before 2019.
pub async fn send_join_v1(call: PeerCall, request: V1<SendJoin>) -> Result<Response<Body>> {
    let (room, join) = joined(&call, &request.room_id, &request.event_id, &request.pdu).await?;
    let answer = room_state(&call.hs, &room, &join, false).await?;
    let wrapped = [Piece::Text("[200,".to_owned())].into_iter().chain(answer).chain([Piece::Text("]".to_owned())]);
    Ok(events::answer(call.hs, room.nid, wrapped))
}

async fn joined(call: &PeerCall, room: &RoomId, id: &OwnedEventId, json: &RawValue) -> Result<(Rc<RoomInfo>, Rc<Event>)> {
    let room = call.hs.room_for(&call.origin, room).await?;
    let pdu = member_event(call, &room, id, json, "join").await?;
    let join = receive(call, &room, pdu).await?;
    Ok((room, join))
}

/// What a server that joins is told: the state before its join, and what that stands on.
async fn room_state(hs: &Homeserver, room: &RoomInfo, join: &Event, omit_members: bool) -> Result<Vec<Piece>> {
    let state = hs.state_positions(room, join.state_before).await?;
    let mut chain = hs.auth_chain(room, &[&state[..], &[join.position]].concat()).await?;
    if omit_members {
        // "Any events that are returned in `state` may be omitted from `auth_chain`, whether or not
        // membership events are omitted from `state`."
        for position in &state {
            chain.remove(position);
        }
    }
    let mut servers: Vec<String> = hs.servers_in(room.nid).await?.keys().map(ToString::to_string).collect();
    servers.push(hs.server_name().to_string());
    let end = json!({ "origin": hs.server_name(), "members_omitted": false, "servers_in_room": servers });
    let event = str::from_utf8(&join.pdu.json).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(vec![
        Piece::Text("{\"auth_chain\":[".to_owned()),
        Piece::Events(chain.into_iter().collect()),
        Piece::Text("],\"state\":[".to_owned()),
        Piece::Events(state),
        Piece::Text(format!("],\"event\":{event},{}", &end.to_string()[1..])),
    ])
}

/// `PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}`
pub async fn send_leave(call: PeerCall, request: create_leave_event::v2::Request) -> Result<create_leave_event::v2::Response> {
    left(&call, &request.room_id, &request.event_id, &request.pdu).await?;
    Ok(create_leave_event::v2::Response::new())
}

/// `PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}`, for servers of before 2019.
pub async fn send_leave_v1(call: PeerCall, request: V1<SendLeave>) -> Result<Json> {
    left(&call, &request.room_id, &request.event_id, &request.pdu).await?;
    Ok(Json::of(&json!([200, {}])))
}

async fn left(call: &PeerCall, room: &RoomId, id: &OwnedEventId, json: &RawValue) -> Result<()> {
    let room = call.hs.room_for(&call.origin, room).await?;
    let pdu = member_event(call, &room, id, json, "leave").await?;
    receive(call, &room, pdu).await?;
    Ok(())
}

/// `PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}`
pub async fn send_knock(call: PeerCall, request: create_knock_event::v1::Request) -> Result<create_knock_event::v1::Response> {
    let hs = &call.hs;
    let room = hs.room_for(&call.origin, &request.room_id).await?;
    let pdu = member_event(&call, &room, &request.event_id, &request.pdu, "knock").await?;
    let knock = receive(&call, &room, pdu).await?;
    // Whole events, since v1.16.
    let told = hs.stripped_state(&room, knock.state_before, None).await?;
    Ok(create_knock_event::v1::Response::new(told.iter().map(|event| RawStrippedState::Pdu(raw(&event.pdu))).collect()))
}

/// A member event that another server has signed for one of its users, with good signatures and
/// hash.
async fn member_event(call: &PeerCall, room: &RoomInfo, id: &OwnedEventId, json: &RawValue, membership: &str) -> Result<Pdu> {
    #[derive(Deserialize)]
    struct Content {
        membership: String,
        join_authorised_via_users_server: Option<OwnedUserId>,
    }
    let hs = &call.hs;
    let mut received = ReceivedPdu::parse(json.get().as_bytes(), &room.rules).map_err(|error| Error::bad_json(error.to_string()))?;
    let pdu = received.unverified();
    if pdu.room_id != room.id || pdu.event_id != *id {
        return Err(Error::invalid_param("The event is not the one that the path names"));
    }
    let content: Content = serde_json::from_str(pdu.content.get()).map_err(|error| Error::unreadable(&error))?;
    if pdu.event_type != TimelineEventType::RoomMember || pdu.state_key.as_deref() != Some(pdu.sender.as_str()) || content.membership != membership {
        return Err(Error::invalid_param(format!("The event is not a {membership} of its sender")));
    }
    must_be_of(&call.origin, &pdu.sender)?;
    if let Some(user) = content.join_authorised_via_users_server.filter(|user| hs.is_local(user)) {
        // Who let the user in is this server's: it says so once more, with its signature.
        if restricted::authorizer(hs, room, &pdu.sender).await?.is_some() && membership_of(hs, room, &user).await? == Some(MembershipKind::Join) {
            let signed = pdu.signed_by(hs.server_name(), hs.identity.key_pair(), &room.rules).map_err(|error| Error::bad_json(error.to_string()))?;
            received = ReceivedPdu::parse(&signed.json, &room.rules).map_err(|error| Error::bad_json(error.to_string()))?;
        }
    }
    verified(hs, received, &room.rules).await
}

async fn verified(hs: &Homeserver, received: ReceivedPdu, rules: &RoomVersionRules) -> Result<Pdu> {
    let verified = hs.verified(received, rules).await?;
    verified.map_err(|error| Error::forbidden(error.to_string()))
}

/// Takes in the event, and passes it on to the other servers in the room.
async fn receive(call: &PeerCall, room: &Rc<RoomInfo>, pdu: Pdu) -> Result<Rc<Event>> {
    let event = call.hs.receive_one(room, pdu, |write, event| write.receive_for_others(event)).await?;
    match &event.rejected {
        Some(reason) => Err(Error::forbidden(reason.clone())),
        None if event.soft_failed => Err(Error::forbidden("The event is not allowed by the current state of the room")),
        None => Ok(event),
    }
}

/// `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`
pub async fn invite(call: PeerCall, request: create_invite::v2::Request) -> Result<create_invite::v2::Response> {
    let event = invited(&call, &request.room_id, &request.event_id, &request.room_version, &request.event, request.invite_room_state).await?;
    Ok(create_invite::v2::Response::new(event))
}

/// `PUT /_matrix/federation/v1/invite/{roomId}/{eventId}`, for rooms of versions 1 and 2.
pub async fn invite_v1(call: PeerCall, request: V1<Invite>) -> Result<Json> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Body {
        unsigned: Unsigned,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Unsigned {
        invite_room_state: Vec<RawStrippedState>,
    }
    let told = serde_json::from_str(request.pdu.get()).map_or_else(|_| Vec::new(), |body: Body| body.unsigned.invite_room_state);
    let event = invited(&call, &request.room_id, &request.event_id, &RoomVersionId::V1, &request.pdu, told).await?;
    Ok(Json::of(&json!([200, { "event": event }])))
}

async fn invited(
    call: &PeerCall,
    room: &RoomId,
    id: &OwnedEventId,
    version: &RoomVersionId,
    json: &RawValue,
    told: Vec<RawStrippedState>,
) -> Result<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Content {
        membership: String,
    }
    let hs = &call.hs;
    let rules = rules_of(version).ok_or_else(|| {
        let kind = ErrorKind::IncompatibleRoomVersion(IncompatibleRoomVersionErrorData::new(version.clone()));
        Error::new(StatusCode::BAD_REQUEST, kind, format!("This server does not support room version {version}"))
    })?;
    let received = ReceivedPdu::parse(json.get().as_bytes(), &rules).map_err(|error| Error::bad_json(error.to_string()))?;
    let pdu = received.unverified();
    if pdu.room_id != room || pdu.event_id != *id {
        return Err(Error::invalid_param("The event is not the one that the path names"));
    }
    let content: Content = serde_json::from_str(pdu.content.get()).map_err(|error| Error::unreadable(&error))?;
    let user = pdu.state_key.as_deref().and_then(|user| UserId::parse(user).ok());
    let user = user.filter(|_| pdu.event_type == TimelineEventType::RoomMember && content.membership == "invite");
    let user = user.filter(|user| hs.is_local(user));
    let user = user.ok_or_else(|| Error::invalid_param("The event is not an invitation of a user of this server"))?;
    must_be_of(&call.origin, &pdu.sender)?;
    if let Some(room) = hs.room(room).await?
        && !acl::allows(hs, &room, &call.origin).await?
    {
        return Err(Error::forbidden("Server is banned from room"));
    }
    let invitee = hs.invitee(&user).await?;
    if let Some(refused) = invitee.refusal(&user) {
        return Err(refused.into());
    }
    let pdu = verified(hs, received, &rules).await?;
    let pdu = pdu.signed_by(hs.server_name(), hs.identity.key_pair(), &rules).map_err(|error| Error::bad_json(error.to_string()))?;
    let room = hs.room_or_new(room, version).await?;
    // Where users of this server are in the room, the event comes as every other one does.
    if !hs.is_resident(room.nid).await? {
        let nid = hs.intern_user(&user).await?;
        hs.add_membership(&room, nid, pdu.clone(), Some(stripped(told))).await?;
    }
    Ok(raw(&pdu))
}
