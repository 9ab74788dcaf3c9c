//! Sending: messages and redactions (Client-Server API, "Sending events to a room", "Redactions").

use super::{
    answered::{self, NewRequest, Request},
    content,
    wire::WithoutTxnId,
};
use crate::{
    error::{Error, Result},
    room::{Draft, RoomInfo, Stop, Viewer},
    router::UserCall,
    tables::AnsweredRequest,
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId,
    api::client::{message::send_message_event, redact::redact_event},
    events::TimelineEventType,
};
use std::rc::Rc;

/// `PUT /rooms/{roomId}/send/{eventType}/{txnId}`
pub async fn message(call: UserCall, request: send_message_event::v3::Request) -> Result<send_message_event::v3::Response> {
    let new = match answered::look_up(&call, &request.txn_id).await? {
        Request::Answered(answered) => return Ok(send_message_event::v3::Response::new(event_of(answered)?)),
        Request::New(new) => new,
    };
    send_message(&call, request, Some(&new)).await
}

/// `POST /rooms/{roomId}/send/{eventType}`: as clients of before r0 sent it. Sent again, it is
/// another event.
pub async fn message_without_txn_id(
    call: UserCall,
    WithoutTxnId(request): WithoutTxnId<send_message_event::v3::Request>,
) -> Result<send_message_event::v3::Response> {
    send_message(&call, request, None).await
}

/// `PUT /rooms/{roomId}/redact/{eventId}/{txnId}`
pub async fn redact(call: UserCall, request: redact_event::v3::Request) -> Result<redact_event::v3::Response> {
    let new = match answered::look_up(&call, &request.txn_id).await? {
        Request::Answered(answered) => return Ok(redact_event::v3::Response::new(event_of(answered)?)),
        Request::New(new) => new,
    };
    send_redaction(&call, request, Some(&new)).await
}

/// `POST /rooms/{roomId}/redact/{eventId}`: as clients of before r0 sent it.
pub async fn redact_without_txn_id(
    call: UserCall,
    WithoutTxnId(request): WithoutTxnId<redact_event::v3::Request>,
) -> Result<redact_event::v3::Response> {
    send_redaction(&call, request, None).await
}

async fn send_message(
    call: &UserCall,
    request: send_message_event::v3::Request,
    new: Option<&NewRequest>,
) -> Result<send_message_event::v3::Response> {
    let room = call.hs.known_room(&request.room_id).await?;
    let mut draft = Draft::message(call.session.user_id.clone(), request.event_type.into(), content(request.body.json().get(), &room.rules)?);
    if draft.event_type == TimelineEventType::RoomRedaction {
        let target = take_redacts(&mut draft.content)?;
        may_redact(call, &room, &target).await?;
        draft.redacts = Some(target);
    }
    Ok(send_message_event::v3::Response::new(send(call, &room, draft, new).await?))
}

async fn send_redaction(call: &UserCall, request: redact_event::v3::Request, new: Option<&NewRequest>) -> Result<redact_event::v3::Response> {
    let room = call.hs.known_room(&request.room_id).await?;
    may_redact(call, &room, &request.event_id).await?;
    let content: CanonicalJsonObject = request.reason.map(|reason| ("reason".to_owned(), CanonicalJsonValue::String(reason))).into_iter().collect();
    let mut draft = Draft::message(call.session.user_id.clone(), TimelineEventType::RoomRedaction, content);
    draft.redacts = Some(request.event_id);
    Ok(redact_event::v3::Response::new(send(call, &room, draft, new).await?))
}

/// The event, and where the request has a transaction id its answer, in one batch.
async fn send(call: &UserCall, room: &Rc<RoomInfo>, mut draft: Draft, new: Option<&NewRequest>) -> Result<OwnedEventId> {
    draft.txn_id = new.map(|new| (call.session.device.clone(), new.txn_id.clone()));
    call.hs.note_activity(&call.session).await?;
    let event = call.hs.write_room(room, call.raw.generation, |write| {
        let event = write.send(draft.clone())?;
        if let Some(new) = new {
            new.remember(call, write.tx, Some(event.pdu.event_id.clone()));
        }
        Ok::<_, Stop>(event)
    });
    Ok(event.await?.pdu.event_id.clone())
}

fn event_of(answered: AnsweredRequest) -> Result<OwnedEventId> {
    answered.event_id.ok_or_else(|| Error::Internal("a stored send response has no event id".to_owned()))
}

/// What a redaction redacts: before v11 this stands beside the content, and signing the event puts
/// it where the room's version wants it.
fn take_redacts(content: &mut CanonicalJsonObject) -> Result<OwnedEventId> {
    let redacts = content.remove("redacts").ok_or_else(|| Error::bad_json("A redaction must name an event in `redacts`"))?;
    redacts.as_str().and_then(|id| OwnedEventId::try_from(id).ok()).ok_or_else(|| Error::bad_json("`redacts` is not an event ID"))
}

/// Members may redact their own events; others', and what this server does not have, only with the
/// level for it. (The auth rules leave this to whoever applies the redaction.)
///
/// # Errors
/// 403 M_FORBIDDEN; 400 M_INVALID_PARAM for another room's event; 404 M_NOT_FOUND for one that the
/// user cannot know of.
async fn may_redact(call: &UserCall, room: &Rc<RoomInfo>, target: &EventId) -> Result<()> {
    let (hs, user) = (&call.hs, &call.session.user_id);
    hs.joined_room(call.session.user, &room.id).await?;
    let may_redact_others = hs.may_redact_others(room, user).await?;
    let target = match hs.find_event(target).await? {
        Some((found, _)) if found != room.nid => return Err(Error::invalid_param(format!("{target} is in another room"))),
        Some((_, position)) => Some(hs.event_at(room.nid, position).await?).filter(|event| event.is_accepted()),
        None => None,
    };
    match target {
        Some(event) if event.pdu.is_create() => Err(Error::forbidden("Cannot redact the m.room.create event")),
        Some(event) if event.pdu.event_type == TimelineEventType::RoomServerAcl => Err(Error::forbidden("Cannot redact m.room.server_acl events")),
        Some(event) if event.pdu.sender == *user || may_redact_others => Ok(()),
        None if may_redact_others => Ok(()),
        Some(event) if Viewer::new(hs, room, call.requester()).await?.sees(hs, &event).await? => {
            Err(Error::forbidden("You don't have permission to redact events of other users"))
        }
        _ => Err(Error::not_found("Event not found, or you are not allowed to see it")),
    }
}
