//! `POST /rooms/{roomId}/receipt/{receiptType}/{eventId}` (Client-Server API, Receipts), and what
//! it shares with the read markers.
//!
//! A receipt or marker says "up to here", so it never moves backwards.

use crate::{
    error::{Error, Result},
    homeserver::Homeserver,
    locks::LockKey,
    position::Position,
    room::{Event, RoomInfo, Viewer},
    router::UserCall,
    tables::{self, AccountData, Change, Json, Membership, ReceiptKind, RoomNid, StoredReceipt},
    transaction::Submitted,
};
use ephapse_store::Direction;
use ruma::{
    OwnedEventId,
    api::client::receipt::create_receipt::v3::{ReceiptType, Request, Response},
    events::receipt::ReceiptThread,
};
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// The type of the account data that holds the read marker.
pub const FULLY_READ: &str = "m.fully_read";

/// Moves a receipt, or the read marker.
pub async fn create_receipt(call: UserCall, request: Request) -> Result<Response> {
    let place = call.hs.joined_room(call.session.user, &request.room_id).await?;
    let thread = match request.thread {
        ReceiptThread::Unthreaded => None,
        ReceiptThread::Main => Some("main".to_owned()),
        ReceiptThread::Thread(root) => Some(root.to_string()),
        _ => return Err(Error::invalid_param("Invalid thread_id: expected `main` or an event ID")),
    };
    let receipt = |private| vec![(ReceiptKind { private, thread: thread.clone() }, request.event_id.clone())];
    let marks = match request.receipt_type {
        ReceiptType::Read => Marks { receipts: receipt(false), fully_read: None },
        ReceiptType::ReadPrivate => Marks { receipts: receipt(true), fully_read: None },
        ReceiptType::FullyRead if thread.is_none() => Marks { receipts: Vec::new(), fully_read: Some(request.event_id.clone()) },
        ReceiptType::FullyRead => return Err(Error::invalid_param("thread_id is not allowed for m.fully_read")),
        other => return Err(Error::invalid_param(format!("Unknown receipt type {other}"))),
    };
    mark(&call, place, marks).await?;
    Ok(Response::new())
}

/// What is to be marked as read up to which event.
pub struct Marks {
    /// The read marker.
    pub fully_read: Option<OwnedEventId>,
    /// Receipts.
    pub receipts: Vec<(ReceiptKind, OwnedEventId)>,
}

/// The content of the read marker.
#[derive(Serialize, Deserialize)]
struct FullyRead {
    event_id: OwnedEventId,
}

/// Moves what of `marks` lies ahead of what is marked already, in a room that the user is joined
/// to.
pub async fn mark(call: &UserCall, (info, membership): (Rc<RoomInfo>, Membership), marks: Marks) -> Result<()> {
    let hs = &*call.hs;
    let user = call.session.user;
    let room = info.nid;
    // What somebody has written whom the user ignores can be passed like everything else.
    let mut viewer = Viewer::of(&info, call.session.user_id.clone(), Some(membership), Rc::default());
    call.hs.note_activity(&call.session).await?;
    let _guard = hs.lock(LockKey::Receipts(room, user)).await;

    let mut receipts = Vec::new();
    for (kind, event_id) in marks.receipts {
        let event = seen_event(hs, &mut viewer, room, &event_id).await?;
        check_thread(hs, room, &kind, &event_id, &event).await?;
        let key = (room, user, kind);
        if tables::RECEIPTS.get(hs.store(), &key).await?.is_none_or(|old| old.event < event.position) {
            receipts.push((key, event_id, event.position));
        }
    }
    let fully_read = match marks.fully_read {
        Some(event_id) if marker(hs, room, user).await? < Some(seen_event(hs, &mut viewer, room, &event_id).await?.position) => Some(event_id),
        _ => None,
    };

    let moved = hs.transaction(call.raw.generation, |tx| {
        for (key, event_id, event) in receipts {
            let position = tx.change(Change::Receipt { room, user, kind: key.2.clone() });
            tables::RECEIPTS.put(tx, &key, &StoredReceipt { event_id, event, ts: hs.host.now(), position });
            tx.then(move |hs| hs.sync.unread.receipt_moved(room, user, &key.2, event));
        }
        if let Some(event_id) = fully_read {
            let content = serde_json::to_string(&FullyRead { event_id }).map_err(|error| Error::Internal(error.to_string()))?;
            let position = tx.change(Change::AccountData { user, room, kind: FULLY_READ.to_owned() });
            tables::ACCOUNT_DATA.put(tx, &(user, room, FULLY_READ.to_owned()), &AccountData { content: Json(content), position });
        }
        Ok(())
    });
    moved.map(Submitted::visible)
}

/// An event that the user may see; an id that nothing has and one of what is hidden are answered
/// alike.
async fn seen_event(hs: &Homeserver, viewer: &mut Viewer, room: RoomNid, event_id: &OwnedEventId) -> Result<Rc<Event>> {
    let unknown = || Error::not_found(format!("Event {event_id} not found, or you are not allowed to see it"));
    let event = hs.event_by_id(room, event_id).await?.ok_or_else(unknown)?;
    if viewer.sees(hs, &event).await? { Ok(event) } else { Err(unknown()) }
}

/// "The event_id is not related to the thread_id" otherwise: a receipt in a thread is for an event
/// of that thread, or for its root, which belongs to the main timeline too. A redacted event no
/// longer tells which it was in.
async fn check_thread(hs: &Homeserver, room: RoomNid, kind: &ReceiptKind, event_id: &OwnedEventId, event: &Event) -> Result<()> {
    let Some(thread) = kind.thread.as_deref() else { return Ok(()) };
    let of_event = hs.thread_of(room, event).await?;
    if of_event.as_ref().map_or("main", |root| root.as_str()) == thread {
        return Ok(());
    }
    let may_be_in = thread == event_id.as_str() || event.redacted_by.is_some();
    if may_be_in && is_a_root(hs, room, thread).await? { Ok(()) } else { Err(Error::invalid_param("The event is not part of this thread")) }
}

/// Whether something relates to the event of an id. Where nothing does there is no thread, and
/// threads that are made up are not kept apart.
async fn is_a_root(hs: &Homeserver, room: RoomNid, id: &str) -> Result<bool> {
    let Ok(id) = OwnedEventId::try_from(id) else { return Ok(false) };
    Ok(!tables::RELATIONS.scan(hs.store(), &(room, id), Direction::Forward, 1).await?.is_empty())
}

/// Where the read marker is.
async fn marker(hs: &Homeserver, room: RoomNid, user: u32) -> Result<Option<Position>> {
    let Some(data) = tables::ACCOUNT_DATA.get(hs.store(), &(user, room, FULLY_READ.to_owned())).await? else { return Ok(None) };
    let Ok(marker) = serde_json::from_str::<FullyRead>(&data.content.0) else { return Ok(None) };
    Ok(hs.find_event(&marker.event_id).await?.map(|(_, at)| at))
}
