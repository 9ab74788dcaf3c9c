//! EDUs of other servers (Server-Server API, "EDUs"). Each is about users of the server that sends
//! it, else it is passed over; so is one that is malformed.

use super::access::must_be_of;
use crate::{
    damaged::MayBeDamage,
    error::{Error, Result},
    homeserver::Homeserver,
    keys,
    locks::LockKey,
    room::RoomInfo,
    tables::{self, Change, MembershipKind, PresenceKind, ReceiptKind, StoredReceipt, UserNid},
    time_slice::TimeSlice,
    to_device::{self, Messages},
    transaction::Tx,
};
use ephapse_store::Direction;
use ruma::{
    EventId, OwnedEventId, RoomId, ServerName, UserId,
    api::federation::transactions::edu::{DeviceListUpdateContent, DirectDeviceContent, PresenceUpdate, SigningKeyUpdateContent, TypingContent},
    presence::PresenceState,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{collections::BTreeMap, rc::Rc, time::Duration};

/// How long somebody types who does not say so again.
const TYPING_FOR: Duration = Duration::from_secs(60);
/// Bytes of the id of a message.
const LONGEST_MESSAGE_ID: usize = 255;
/// How long it is known which messages came, in ms.
const KNOWN_FOR: u64 = 15 * 24 * 60 * 60 * 1000;
/// Messages that are forgotten at once.
const PAGE: usize = 256;

/// Takes in the EDUs of a transaction of a server.
///
/// # Errors
/// One that must not be lost could not be stored: the server is to send all of them again.
pub async fn received(hs: &Rc<Homeserver>, origin: &ServerName, edus: &[&RawValue]) -> Result<()> {
    let slice = TimeSlice::new(&*hs.host);
    for edu in edus {
        if let Err(error) = take_in(hs, origin, edu).await {
            match error {
                Error::Store(error) if !error.is_damage() => return Err(error.into()),
                error => tracing::debug!("an EDU of {origin} has no effect: {error}"),
            }
        }
        slice.step().await;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Parts<'a> {
    edu_type: &'a str,
    #[serde(borrow)]
    content: &'a RawValue,
}

/// What an EDU says.
fn content<'a, T: Deserialize<'a>>(json: &'a RawValue) -> Result<T> {
    serde_json::from_str(json.get()).map_err(|error| Error::bad_json(error.to_string()))
}

async fn take_in(hs: &Rc<Homeserver>, origin: &ServerName, edu: &RawValue) -> Result<()> {
    let edu: Parts<'_> = content(edu)?;
    match edu.edu_type {
        "m.typing" => typing(hs, origin, content(edu.content)?).await,
        "m.receipt" => receipts(hs, origin, content(edu.content)?).await,
        "m.presence" => presence(hs, origin, edu.content).await,
        "m.direct_to_device" => direct_to_device(hs, origin, content(edu.content)?).await,
        "m.device_list_update" => {
            let update: DeviceListUpdateContent = content(edu.content)?;
            must_be_of(origin, &update.user_id)?;
            Ok(keys::device_list_updated(hs, update).await?)
        }
        // The second name is from before it was specified.
        "m.signing_key_update" | "org.matrix.signing_key_update" => {
            let update: SigningKeyUpdateContent = content(edu.content)?;
            must_be_of(origin, &update.user_id)?;
            Ok(keys::signing_keys_updated(hs, update).await?)
        }
        other => Err(Error::bad_json(format!("unknown type {other}"))),
    }
}

async fn is_joined(hs: &Homeserver, room: &RoomInfo, user: UserNid) -> Result<bool> {
    let membership = tables::MEMBERSHIPS.get(hs.store(), &(user, room.nid)).await?;
    Ok(membership.is_some_and(|membership| membership.kind == MembershipKind::Join))
}

/// A user who is in a room, of the server that speaks of them.
async fn member_of(hs: &Homeserver, origin: &ServerName, room: &RoomInfo, user: &UserId) -> Result<UserNid> {
    must_be_of(origin, user)?;
    let nid = hs.find_user(user).await?;
    match nid {
        Some(nid) if is_joined(hs, room, nid).await? => Ok(nid),
        _ => Err(Error::forbidden(format!("{user} is not in the room"))),
    }
}

async fn typing(hs: &Rc<Homeserver>, origin: &ServerName, content: TypingContent) -> Result<()> {
    let room = hs.room_of(origin, &content.room_id).await?;
    // Nobody leaves between the look and the notice, which would outlive it.
    let _guard = hs.lock(LockKey::Room(room.nid)).await;
    let user = member_of(hs, origin, &room, &content.user_id).await?;
    Ok(hs.set_typing(room.nid, user, content.typing.then_some(TYPING_FOR))?)
}

#[derive(Deserialize)]
struct Read<'a> {
    #[serde(rename = "m.read", borrow)]
    read: BTreeMap<String, &'a RawValue>,
}

#[derive(Deserialize)]
struct Receipt {
    data: ReceiptData,
    event_ids: Vec<OwnedEventId>,
}

#[derive(Deserialize)]
struct ReceiptData {
    #[serde(default)]
    ts: u64,
    thread_id: Option<String>,
}

async fn receipts(hs: &Homeserver, origin: &ServerName, rooms: BTreeMap<String, &RawValue>) -> Result<()> {
    let slice = TimeSlice::new(&*hs.host);
    for (room, receipts) in rooms {
        let taken = async {
            let room = hs.room_of(origin, <&RoomId>::try_from(room.as_str()).map_err(|_| Error::bad_json("no room id"))?).await?;
            for (user, receipt) in content::<Read<'_>>(receipts)?.read {
                if let Err(error) = receipt_of(hs, origin, &room, &user, receipt).await {
                    passed_over(origin, error)?;
                }
                slice.step().await;
            }
            Ok(())
        };
        if let Err(error) = taken.await {
            passed_over(origin, error)?;
        }
    }
    Ok(())
}

/// One bad item costs itself alone.
fn passed_over(origin: &ServerName, error: Error) -> Result<()> {
    match error {
        Error::Store(error) if !error.is_damage() => Err(error.into()),
        error => {
            tracing::debug!("a part of an EDU of {origin} has no effect: {error}");
            Ok(())
        }
    }
}

async fn receipt_of(hs: &Homeserver, origin: &ServerName, room: &RoomInfo, user: &str, receipt: &RawValue) -> Result<()> {
    let user = <&UserId>::try_from(user).map_err(|_| Error::bad_json("no user id"))?;
    let user = member_of(hs, origin, room, user).await?;
    let receipt: Receipt = content(receipt)?;
    let _guard = hs.lock(LockKey::Receipts(room.nid, user)).await;
    let generation = hs.begin_reading();
    let mut newest = None;
    for id in receipt.event_ids.iter().take(PAGE) {
        let event = hs.event_by_id(room.nid, id).await?.filter(|event| event.is_shown());
        newest = newest.max(event.map(|event| (event.position, id)));
    }
    let Some((event, event_id)) = newest else { return Err(Error::not_found("the event of a receipt is not here")) };
    if let Some(thread) = &receipt.data.thread_id {
        check_thread(hs, room, thread, event_id).await?;
    }
    let key = (room.nid, user, ReceiptKind { private: false, thread: receipt.data.thread_id });
    if tables::RECEIPTS.get(hs.store(), &key).await?.is_some_and(|old| old.event >= event) {
        return Ok(());
    }
    let moved = hs.write(generation, |tx| {
        let position = tx.change(Change::Receipt { room: room.nid, user, kind: key.2.clone() });
        tables::RECEIPTS.put(tx, &key, &StoredReceipt { event_id: event_id.clone(), event, ts: receipt.data.ts, position });
    });
    moved?.visible();
    Ok(())
}

/// Threads that are made up are not kept apart.
async fn check_thread(hs: &Homeserver, room: &RoomInfo, thread: &str, event_id: &EventId) -> Result<()> {
    if thread == "main" {
        return Ok(());
    }
    let root = OwnedEventId::try_from(thread).map_err(|_| Error::bad_json("no thread"))?;
    let event = hs.event_by_id(room.nid, event_id).await?;
    let of_event = match &event {
        Some(event) => hs.thread_of(room.nid, event).await?,
        None => None,
    };
    if of_event.as_ref() == Some(&root) {
        return Ok(());
    }
    let is_root = !tables::RELATIONS.scan(hs.store(), &(room.nid, root.clone()), Direction::Forward, 1).await?.is_empty();
    if is_root && root == event_id { Ok(()) } else { Err(Error::bad_json("the event is not part of the thread")) }
}

async fn presence(hs: &Rc<Homeserver>, origin: &ServerName, json: &RawValue) -> Result<()> {
    #[derive(Deserialize)]
    struct Push<'a> {
        #[serde(borrow)]
        push: Vec<&'a RawValue>,
    }
    let slice = TimeSlice::new(&*hs.host);
    for update in content::<Push<'_>>(json)?.push {
        if let Err(error) = presence_of(hs, origin, update).await {
            passed_over(origin, error)?;
        }
        slice.step().await;
    }
    Ok(())
}

async fn presence_of(hs: &Rc<Homeserver>, origin: &ServerName, update: &RawValue) -> Result<()> {
    let update: PresenceUpdate = content(update)?;
    must_be_of(origin, &update.user_id)?;
    let state = match update.presence {
        PresenceState::Online => PresenceKind::Online,
        PresenceState::Unavailable => PresenceKind::Unavailable,
        _ => PresenceKind::Offline,
    };
    let last_active = hs.host.now().saturating_sub(update.last_active_ago.into());
    hs.presence_by_server(&update.user_id, state, last_active, update.status_msg).await
}

async fn direct_to_device(hs: &Homeserver, origin: &ServerName, content: DirectDeviceContent) -> Result<()> {
    must_be_of(origin, &content.sender)?;
    let id = content.message_id.to_string();
    if id.len() > LONGEST_MESSAGE_ID {
        return Err(Error::bad_json("the id of a message is too long"));
    }
    let _guard = hs.lock(LockKey::TxnId(format!("{origin} {id}"))).await;
    let generation = hs.begin_reading();
    let place = (origin.to_owned(), id);
    if tables::RECEIVED_MESSAGES.get(hs.store(), &place).await?.is_some() {
        return Ok(());
    }
    let now = hs.host.now();
    let remember = |tx: &mut Tx| {
        tables::RECEIVED_MESSAGES.put(tx, &place, &now);
        tables::RECEIVED_MESSAGES_BY_TIME.put(tx, &(now, place.0.clone(), place.1.clone()), &());
    };
    let messages: Messages = content.messages;
    Ok(to_device::send(hs, generation, &content.sender, &content.ev_type.to_string(), &messages, &remember).await?)
}

impl Homeserver {
    /// Forgets which messages came that nobody sends again any more, a few at a time.
    pub(crate) async fn forget_received_messages(&self) -> Result<()> {
        let table = &tables::RECEIVED_MESSAGES_BY_TIME;
        let range = table.range(&()).start..table.prefix_of(&self.host.now().saturating_sub(KNOWN_FOR));
        let slice = TimeSlice::new(&*self.host);
        loop {
            let generation = self.begin_reading();
            let old = table.scan_range(self.store(), range.clone(), Direction::Forward, PAGE).await?;
            if old.is_empty() {
                return Ok(());
            }
            let forgotten = self.write(generation, |tx| {
                for (key, ()) in old {
                    table.delete(tx, &key);
                    let (_, server, id) = key;
                    tables::RECEIVED_MESSAGES.delete(tx, &(server, id));
                }
            });
            forgotten?.durable().await?;
            slice.end().await;
        }
    }
}
