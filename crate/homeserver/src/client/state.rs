//! The state of a room (Client-Server API, "Getting events for a room"): as it is now for members,
//! as it was when they left for those who left.

use super::{
    content, membership,
    wire::{Json, Own},
};
use crate::{
    aliases,
    damaged::LeaveOut,
    error::{Error, Result},
    room::{Draft, Event, NodeId, Stop, Viewer, Write, state_tree::Part},
    router::UserCall,
    tables::{self, MembershipKind},
};
use ephapse_store::Direction;
use ruma::{
    OwnedUserId,
    api::client::{
        membership::{get_member_events, joined_members, joined_rooms},
        state::{get_state_event_for_key, get_state_events, send_state_event},
    },
    events::{StateEventType, TimelineEventType},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, rc::Rc};

/// How many members one answer lists at most.
const MEMBERS_LISTED: usize = 100_000;

/// `GET /rooms/{roomId}/state`
pub async fn all(call: UserCall, request: get_state_events::v3::Request) -> Result<get_state_events::v3::Response> {
    let hs = &call.hs;
    let (room, root) = hs.readable_state(call.requester(), &request.room_id).await?;
    let mut positions: Vec<_> = hs.state_entries(room.nid, root, Part::All).await?.into_iter().map(|(_, position)| position).collect();
    positions.sort_unstable();
    let events: Vec<_> = hs.events_at(room.nid, &positions).await?.into_iter().flatten().collect();
    let events = hs.client_events(&room, &events, call.requester(), crate::room::Format::Whole).await?;
    Ok(get_state_events::v3::Response::new(events))
}

/// `GET /rooms/{roomId}/state/{eventType}/{stateKey}`: the content, or the event with
/// `?format=event`.
pub async fn one(call: UserCall, request: get_state_event_for_key::v3::Request) -> Result<get_state_event_for_key::v3::Response> {
    let hs = &call.hs;
    let (room, root) = hs.readable_state(call.requester(), &request.room_id).await?;
    let event = hs.state_event(room.nid, root, (request.event_type, request.state_key)).await?;
    let event = event.ok_or_else(|| Error::not_found("State event not found"))?;
    let answer = match request.format {
        get_state_event_for_key::v3::StateEventFormat::Event => {
            let written: ruma::serde::Raw<ruma::events::AnyStateEvent> = hs.client_event(&room, &event, call.requester()).await?;
            written.into_json()
        }
        _ => {
            let served = hs.served(std::slice::from_ref(&event), call.requester()).await?;
            served.first().ok_or_else(|| event.damaged(&room.id, "it cannot be redacted"))?.pdu.content.clone()
        }
    };
    Ok(get_state_event_for_key::v3::Response::new(answer))
}

/// `PUT /rooms/{roomId}/state/{eventType}/{stateKey}`: what its sender has set already is not set
/// again, so that a client may repeat what it did not hear the answer of.
pub async fn put(call: UserCall, request: send_state_event::v3::Request) -> Result<send_state_event::v3::Response> {
    let hs = &call.hs;
    let room = hs.known_room(&request.room_id).await?;
    if request.event_type == StateEventType::RoomCreate {
        return Err(Error::invalid_param("A room is created once: use /createRoom for another"));
    }
    let content = content(request.body.json().get(), &room.rules)?;
    let mut unfit = BTreeMap::new();
    if request.event_type == StateEventType::RoomCanonicalAlias {
        let named = aliases::named(request.body.json().get()).map_err(|error| Error::unreadable(&error))?;
        unfit = aliases::unfit(hs, room.nid, named).await?;
    }
    let mut draft = Draft::state(call.session.user_id.clone(), request.event_type, request.state_key, content);
    if draft.is_join() {
        draft.authorised_via = membership::authorised_via(hs, &call.session, &room).await?;
    }
    hs.note_activity(&call.session).await?;
    if let Some(user) = draft.invited().filter(|user| !hs.is_local(user)) {
        let event = hs.invite_through(&room, call.raw.generation, draft, &user).await?;
        return Ok(send_state_event::v3::Response::new(event.pdu.event_id.clone()));
    }
    let set = |write: &mut Write<'_>| {
        if let Some(refused) = aliases::take_refused(write, &mut unfit)? {
            return Err(Stop::Refused(Error::from(refused)));
        }
        match set_already(write, &draft)? {
            Some(event) => Ok::<_, Stop<Error>>(event),
            None => Ok(write.send(draft.clone())?),
        }
    };
    let event = hs.write_room(&room, call.raw.generation, set).await?;
    Ok(send_state_event::v3::Response::new(event.pdu.event_id.clone()))
}

/// The current state event, where the sender of `draft` has said the same in it. Who is not in the
/// room any more has nothing to set: what the rules say of that is for [`Write::send`], but for
/// one's own membership, which may be the departure.
pub(super) fn set_already(write: &Write<'_>, draft: &Draft) -> Result<Option<Rc<Event>>, Stop> {
    let place = (draft.event_type.to_string().into(), draft.state_key.clone().unwrap_or_default());
    let Some(position) = write.state_get(write.state(), &[place])?.first().copied().flatten() else { return Ok(None) };
    let event = write.event(position)?;
    let said = |content| Draft::without_vouching(&draft.event_type, content);
    let says_it = || event.pdu.content_object(&write.room.rules).is_ok_and(|content| said(content) == said(draft.content.clone()));
    let same = event.pdu.sender == draft.sender && event.redacted_by.is_none() && says_it();
    let is_own = || draft.event_type == TimelineEventType::RoomMember && draft.state_key.as_deref() == Some(draft.sender.as_str());
    if !same || is_own() {
        return Ok(same.then_some(event));
    }
    let member = write.member(write.user_nid(&draft.sender)?)?;
    Ok(member.is_some_and(|member| member.kind == MembershipKind::Join).then_some(event))
}

/// `GET /rooms/{roomId}/members`, now or `at` a token; who has left sees those of the departure at
/// the latest, and nobody those of a time whose history is not theirs to see.
pub async fn members(call: UserCall, request: get_member_events::v3::Request) -> Result<get_member_events::v3::Response> {
    let hs = &call.hs;
    let (room, until) = hs.readable(call.requester(), &request.room_id).await?;
    let at = request.at.as_deref().map(|token| hs.position_of(token)).transpose()?.flatten();
    let head = hs.room_head(room.nid).await?;
    let root = match at.into_iter().chain(until).min() {
        Some(position) => hs.room_state_at(room.nid, &head, position).await?,
        None => NodeId(head.state),
    };
    if let Some(position) = at.filter(|at| until.is_none_or(|until| *at < until)) {
        let mut viewer = Viewer::new(hs, &room, call.requester()).await?;
        if !viewer.sees_state(hs, root, position).await? {
            return Err(Error::forbidden("You are not allowed to see the members of this room at that time"));
        }
    }
    let entries = hs.state_entries(room.nid, root, Part::Members).await?;
    let mut positions: Vec<_> = entries.into_iter().map(|(_, position)| position).collect();
    positions.sort_unstable();
    let mut events: Vec<_> = hs.events_at(room.nid, &positions).await?.into_iter().flatten().collect();
    events.retain(|event| {
        let kind = crate::room::membership_of(event).as_str();
        let is = request.membership.as_ref().map(|wanted| wanted.as_str() == kind);
        let is_not = request.not_membership.as_ref().map(|not| not.as_str() != kind);
        // "The two parameters create an 'or' condition."
        is.into_iter().chain(is_not).reduce(|is, is_not| is || is_not).unwrap_or(true)
    });
    let chunk = hs.client_events(&room, &events, call.requester(), crate::room::Format::Whole).await?;
    Ok(get_member_events::v3::Response::new(chunk))
}

/// `GET /rooms/{roomId}/joined_members`: what is not set is null, which ruma's answer would leave
/// out and some clients look for.
pub async fn joined_members(call: UserCall, Own(request): Own<joined_members::v3::Request>) -> Result<Json> {
    let hs = &call.hs;
    let (room, _) = hs.joined_room(call.session.user, &request.room_id).await?;
    #[derive(Default, Deserialize, Serialize)]
    struct Profile {
        #[serde(rename(serialize = "display_name"))]
        displayname: Option<String>,
        avatar_url: Option<ruma::OwnedMxcUri>,
    }
    let entries = tables::MEMBERS.scan(hs.store(), &(room.nid, MembershipKind::Join as u8), Direction::Forward, MEMBERS_LISTED).await?;
    let positions: Vec<_> = entries.into_iter().map(|(_, position)| position).collect();
    let mut joined = BTreeMap::new();
    for event in hs.events_at(room.nid, &positions).await?.into_iter().flatten() {
        let Some(user) = event.pdu.state_key.as_deref().and_then(|user| OwnedUserId::try_from(user).ok()) else { continue };
        let profile: Profile = serde_json::from_str(event.pdu.content.get()).unwrap_or_default();
        joined.insert(user, profile);
    }
    Ok(Json::of(&BTreeMap::from([("joined", joined)])))
}

/// `GET /joined_rooms`
pub async fn joined_rooms(call: UserCall, _: joined_rooms::v3::Request) -> Result<joined_rooms::v3::Response> {
    let hs = &call.hs;
    let mut ids = Vec::new();
    for ((_, room), membership) in tables::MEMBERSHIPS.scan(hs.store(), &call.session.user, Direction::Forward, MEMBERS_LISTED).await? {
        if membership.kind == MembershipKind::Join {
            ids.extend(hs.room_by_nid(room).await.leave_out()?.map(|room| room.id.clone()));
        }
    }
    Ok(joined_rooms::v3::Response::new(ids))
}
