//! Send-to-device messaging (Client-Server API, Send-to-Device messaging): each device has a queue, a subject of the stream `to_device`.
//!
//! A message counts as delivered when the device syncs with a `since` at or behind the message's position; until then every sync with an older `since`
//! gets it again. A sync shows 100 at most. Those it has no room for are *held*: from then on they count as arrived behind that sync's `next_batch`.

use super::transaction::{self, First};
use crate::{
    error::{Error, Result},
    homeserver::Homeserver,
    position::Position,
    router::UserCall,
    stream::{Limits, Redelivery, Retention, Stream, Subject, WhenFull},
    tables::{self, Change, Session, StreamEntry, UserSn},
    turns::Turns,
};
use ephapse_store::{Batch, Direction};
use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, UserId,
    api::client::to_device::send_event_to_device::v3 as send_event_to_device,
    events::{AnyToDeviceEvent, AnyToDeviceEventContent},
    serde::Raw,
    to_device::DeviceIdOrAllDevices,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{collections::BTreeMap, time::Duration};

/// Messages that wait for devices.
pub static TO_DEVICE: Stream = Stream {
    name: "to_device",
    consumers: &[DEVICE],
    retention: Retention::WorkQueue,
    // A device that never comes back must not fill the disk: it keeps the newest.
    limits: Limits { entries: Some(100_000), bytes: Some(64 << 20), age: None },
    when_full: WhenFull::DropOldest,
    // The device asks; nothing is pushed to it.
    redelivery: Redelivery { attempts: None, first_delay: Duration::ZERO, longest_delay: Duration::ZERO },
};

/// The one consumer of a device's queue.
const DEVICE: &str = "device";

/// Bytes that the content of a message may have, as much as an event.
const LONGEST_CONTENT: usize = 64 << 10;

/// Bytes that one request may put into queues.
const LARGEST_REQUEST: usize = 32 << 20;

/// Messages that one request may put into queues: they are put there in one go.
const MOST_MESSAGES: usize = 10_000;

/// Messages in one sync.
const SHOWN: usize = 100;

/// Messages read at once.
const PAGE: usize = 2 * SHOWN;

/// Devices one user may have.
const MOST_DEVICES: usize = 10_000;

/// Times that messages of one device can be held: each time leaves [`SHOWN`] of them in front.
const MOST_HELD: usize = 2_000;

/// A message as it waits.
#[derive(Debug, Serialize, Deserialize)]
struct Message {
    position: Position,
    event: String,
}

/// `PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}`
pub async fn send(call: UserCall, request: send_event_to_device::Request) -> Result<send_event_to_device::Response> {
    let First::Now(once) = transaction::begin(&call).await? else { return Ok(send_event_to_device::Response::new()) };
    let hs = &call.hs;
    if request.messages.values().flat_map(BTreeMap::values).any(|content| content.json().get().len() > LONGEST_CONTENT) {
        return Err(Error::too_large(format!("a message has {LONGEST_CONTENT} bytes at most")));
    }
    let mut batch = Batch::since(call.raw.generation);
    let mut queues = Queues::default();
    let mut turns = Turns::new(&*hs.host);
    for (user, messages) in &request.messages {
        turns.step().await;
        // Users of other servers get theirs by federation.
        if hs.is_local(user) {
            queues.add(hs, user, messages).await?;
        }
    }
    let sender = &call.session.user_id;
    let event_type = request.event_type.to_string();
    let changes = queues.queues.into_iter().map(|queue| queue.append(hs, &mut batch, sender, &event_type)).collect();
    once.done(&call, &mut batch, None);
    hs.submit(batch, changes)?;
    Ok(send_event_to_device::Response::new())
}

/// A message and the queue it goes to.
struct Queue<'a> {
    user: UserSn,
    device: OwnedDeviceId,
    subject: Subject,
    content: &'a RawValue,
}

/// What one request puts into queues.
#[derive(Default)]
struct Queues<'a> {
    queues: Vec<Queue<'a>>,
    /// Of the messages in them.
    bytes: usize,
}

impl<'a> Queues<'a> {
    /// Adds the queues that `messages` go to; devices that do not exist have none.
    async fn add(
        &mut self,
        hs: &Homeserver,
        user: &OwnedUserId,
        messages: &'a BTreeMap<DeviceIdOrAllDevices, Raw<AnyToDeviceEventContent>>,
    ) -> Result<()> {
        let Some(sn) = hs.find_user(user).await? else { return Ok(()) };
        let mut turns = Turns::new(&*hs.host);
        for ((_, device), _) in tables::DEVICES.scan(hs.store(), &sn, Direction::Forward, MOST_DEVICES).await? {
            let content = messages.get(&DeviceIdOrAllDevices::DeviceId(device.clone())).or_else(|| messages.get(&DeviceIdOrAllDevices::AllDevices));
            let Some(content) = content.map(Raw::json) else { continue };
            self.bytes += content.get().len();
            if self.bytes > LARGEST_REQUEST || self.queues.len() == MOST_MESSAGES {
                return Err(Error::too_large("these are too many messages for one request"));
            }
            let subject = subject(hs, sn, &device).await?;
            self.queues.push(Queue { user: sn, device, subject, content });
            turns.step().await;
        }
        Ok(())
    }
}

impl Queue<'_> {
    fn append(self, hs: &Homeserver, batch: &mut Batch, sender: &UserId, event_type: &str) -> (Position, Change) {
        #[derive(Serialize)]
        struct Event<'a> {
            content: &'a RawValue,
            sender: &'a UserId,
            r#type: &'a str,
        }
        let event = Event { content: self.content, sender, r#type: event_type };
        let position = hs.positions.next();
        let message = Message { position, event: serde_json::to_string(&event).expect("strings and JSON are JSON") };
        let body = postcard::to_allocvec(&message).expect("our own types have known lengths");
        self.subject.append(batch, hs.host.now(), body).expect("a queue that drops its oldest is never full");
        (position, Change::ToDevice { user: self.user, device: self.device })
    }
}

/// The messages that wait for a session's device behind `since` and up to `to`, which will be that sync's `next_batch`: in order, 100 at most, the same
/// again for the same `since`. Those at or before `since` have arrived and are deleted. When there are more, a [`Change::ToDevice`] behind `to` says so.
pub async fn pending(hs: &Homeserver, session: &Session, since: Option<Position>, to: Position) -> Result<Vec<Raw<AnyToDeviceEvent>>> {
    let generation = hs.store().generation();
    let (user, device) = (session.user, &session.device);
    let subject = subject(hs, user, device).await?;
    let mut waiting = subject.pending(hs.store(), DEVICE, PAGE).await?;
    if waiting.is_empty() {
        return Ok(Vec::new());
    }
    let held = tables::TO_DEVICE_HELD.scan(hs.store(), &(user, device.clone()), Direction::Forward, MOST_HELD).await?;
    let held: BTreeMap<u64, Position> = held.into_iter().map(|((_, _, number), position)| (number, position)).collect();
    let since = since.unwrap_or(Position::MIN);
    let mut turns = Turns::new(&*hs.host);
    loop {
        let messages = waiting.iter().map(|entry| Waiting::read(entry, &held)).collect::<Result<Vec<_>>>()?;
        let arrived = messages.iter().take_while(|message| message.position <= since).count();
        if let Some(last) = arrived.checked_sub(1) {
            forget_arrived(hs, session, &subject, &waiting[last], &held, generation);
            // There may be more behind this page than it shows. What has arrived is passed also when it could not be deleted.
            if messages.len() == PAGE {
                let behind = waiting[last].end.entries;
                turns.step().await;
                waiting = subject.read(hs.store(), behind, PAGE).await?;
                continue;
            }
        }
        let mut shown: Vec<Waiting> = messages.into_iter().skip(arrived).take_while(|message| message.position <= to).collect();
        if let Some(first) = shown.get(SHOWN) {
            hold(hs, session, first.number, generation)?;
        }
        shown.truncate(SHOWN);
        return shown.into_iter().map(|message| Ok(Raw::from_json(RawValue::from_string(message.event).map_err(unreadable)?))).collect();
    }
}

/// A message that waits, with the position that it counts as arrived at.
struct Waiting {
    number: u64,
    position: Position,
    event: String,
}

impl Waiting {
    fn read(entry: &StreamEntry, held: &BTreeMap<u64, Position>) -> Result<Self> {
        let number = entry.end.entries - 1;
        let Message { position, event } = postcard::from_bytes(&entry.body.0).map_err(unreadable)?;
        let held = held.range(..=number).next_back().map_or(Position::MIN, |(_, held)| *held);
        Ok(Self { number, position: position.max(held), event })
    }
}

fn unreadable(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("a stored to-device message cannot be read: {error}"))
}

fn forget_arrived(hs: &Homeserver, session: &Session, subject: &Subject, last: &StreamEntry, held: &BTreeMap<u64, Position>, generation: u64) {
    let mut batch = Batch::since(generation);
    batch.set_frees_space();
    subject.ack(&mut batch, DEVICE, last.end);
    // What was held for messages that are gone holds nothing any more; the last of them may still hold those behind it.
    let next = last.end.entries;
    let in_force = held.range(..=next).next_back().map_or(next, |(number, _)| *number);
    for (number, _) in held.range(..in_force) {
        tables::TO_DEVICE_HELD.delete(&mut batch, &(session.user, session.device.clone(), *number));
    }
    if let Err(error) = hs.submit(batch, Vec::new()) {
        tracing::debug!("to-device messages stay after their delivery: {error}");
    }
}

/// Without this the messages would count as arrived although they were not shown, so a sync that cannot write it fails.
fn hold(hs: &Homeserver, session: &Session, from: u64, generation: u64) -> Result<()> {
    let mut batch = Batch::since(generation);
    // What was shown goes with the next sync, and that makes more room than this takes.
    batch.set_frees_space();
    let position = hs.positions.next();
    tables::TO_DEVICE_HELD.put(&mut batch, &(session.user, session.device.clone(), from), &position);
    hs.submit(batch, vec![(position, Change::ToDevice { user: session.user, device: session.device.clone() })])?;
    Ok(())
}

/// What waits for a device that is being deleted.
pub struct Departing {
    user: UserSn,
    device: OwnedDeviceId,
    subject: Subject,
}

/// What waits for a device, to be removed with it.
pub async fn departing(hs: &Homeserver, user: UserSn, device: &DeviceId) -> Result<Departing> {
    Ok(Departing { user, device: device.to_owned(), subject: subject(hs, user, device).await? })
}

impl Departing {
    /// Removes it. No await may lie between this and the commit of `batch`.
    pub fn forget(&self, batch: &mut Batch) {
        self.subject.clear(batch);
        tables::TO_DEVICE_HELD.delete_all(batch, &(self.user, self.device.clone()));
    }
}

async fn subject(hs: &Homeserver, user: UserSn, device: &DeviceId) -> Result<Subject> {
    Ok(hs.streams.subject(hs, &TO_DEVICE, &format!("{user}/{device}"), hs.host.now()).await?)
}
