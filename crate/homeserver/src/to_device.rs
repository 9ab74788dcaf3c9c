//! Send-to-device messaging (Client-Server API, Send-to-Device messaging): each device has a queue,
//! a subject of the stream `to_device`.
//!
//! A message counts as delivered when the device syncs with a `since` at or after the message's
//! position; until then every sync with an older `since` gets it again. A sync shows 100 at most.
//! When there are more, its `next_batch` says which message is the first that it did not show.

use crate::{
    damaged::{Damaged, LeaveOut},
    failure::{Failure, Refusal},
    federation::outbox::{Queues as PeerQueues, WaitingEdu},
    homeserver::Homeserver,
    position::{Position, Token},
    tables::{self, Change, Session, UserNid},
    time_slice::TimeSlice,
    transaction::{Submitted, Tx},
};
use ephapse_store::{Direction, StoreError};
use ephapse_streams::{Entry, Limits, Redelivery, Retention, Stream, Subject, WhenFull};
use ruma::{
    CanonicalJsonValue, DeviceId, OwnedDeviceId, OwnedUserId, ServerName, UserId,
    api::federation::transactions::edu::{DirectDeviceContent, DirectDeviceMessages},
    events::{AnyToDeviceEvent, AnyToDeviceEventContent},
    serde::Raw,
    to_device::DeviceIdOrAllDevices,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{collections::BTreeMap, fmt::Display, rc::Rc, time::Duration};

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

/// A message as it waits.
#[derive(Debug, Serialize, Deserialize)]
struct Message {
    position: Position,
    event: String,
}

/// Messages by user and device; `*` is every device of the user.
pub type Messages = BTreeMap<OwnedUserId, BTreeMap<DeviceIdOrAllDevices, Raw<AnyToDeviceEventContent>>>;

/// What is refused, and why. The texts are for whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The content of one message.
    #[error("Message too large: at most {} bytes are allowed", LONGEST_CONTENT)]
    LongContent,
    /// A number that has no canonical form, in a message to another server.
    #[error("Message to another server is not canonical JSON: numbers must be integers between -2^53 + 1 and 2^53 - 1")]
    NotCanonical,
    /// More messages, or bytes of them, than are sent in one go.
    #[error("Too many to-device messages in one request")]
    TooMany,
}

/// Why messages are not sent.
pub type Error = Failure<Refused>;

impl Refusal for Refused {}

/// Puts messages of a user, of this server or another, into the queues of the devices of this
/// server's users. Those of a user of this server for users of others are sent there. `done` stages
/// that it was done, in the same transaction.
pub async fn send(
    hs: &Homeserver,
    generation: u64,
    sender: &UserId,
    event_type: &str,
    messages: &Messages,
    done: &dyn Fn(&mut Tx),
) -> Result<(), Error> {
    if messages.values().flat_map(BTreeMap::values).any(|content| content.json().get().len() > LONGEST_CONTENT) {
        return Err(Refused::LongContent.into());
    }
    let mut queues = Queues { cleared: hs.streams.cleared(), ..Queues::default() };
    let slice = TimeSlice::new(&*hs.host);
    for (user, messages) in messages {
        slice.step().await;
        if hs.is_local(user) {
            queues.add(hs, user, messages).await?;
        }
    }
    let others = if hs.is_local(sender) { for_others(hs, sender, event_type, messages).await? } else { Vec::new() };
    loop {
        let sent = hs.write(generation, |tx| {
            let is_current = queues.cleared == hs.streams.cleared();
            if is_current {
                queues.queues.iter().for_each(|queue| queue.append(hs, tx, sender, event_type));
                others.iter().for_each(|(queues, edu)| queues.append_edu(tx, hs.host.now(), edu));
                done(tx);
            }
            is_current
        });
        if sent?.visible() {
            return Ok(());
        }
        queues.leave_out_deleted(hs).await?;
    }
}

/// What is sent to other servers, one message to each of them, with an id by which it takes effect
/// there once.
async fn for_others(hs: &Homeserver, sender: &UserId, event_type: &str, messages: &Messages) -> Result<Vec<(Rc<PeerQueues>, WaitingEdu)>, Error> {
    let mut servers: BTreeMap<&ServerName, DirectDeviceMessages> = BTreeMap::new();
    for (user, messages) in messages.iter().filter(|(user, _)| hs.tells(user.server_name())) {
        for content in messages.values() {
            // Requests between servers are signed, which only canonical JSON can be.
            serde_json::from_str::<CanonicalJsonValue>(content.json().get()).map_err(|_| Refused::NotCanonical)?;
        }
        servers.entry(user.server_name()).or_default().insert(user.clone(), messages.clone());
    }
    let mut edus = Vec::with_capacity(servers.len());
    for (server, messages) in servers {
        let mut content = DirectDeviceContent::new(sender.to_owned(), event_type.into(), hs.random_string(24).into());
        content.messages = messages;
        let content = serde_json::to_string(&content).map_err(|error| Error::Internal(format!("could not write a message: {error}")))?;
        edus.push((hs.queues(server).await?, WaitingEdu::ToDevice(content)));
    }
    Ok(edus)
}

/// A message and the queue it goes to.
struct Queue<'a> {
    user: UserNid,
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
    /// How many queues had been cleared when it was read whose they are.
    cleared: u64,
}

impl<'a> Queues<'a> {
    /// Adds the queues that `messages` go to; devices that do not exist have none.
    async fn add(
        &mut self,
        hs: &Homeserver,
        user: &OwnedUserId,
        messages: &'a BTreeMap<DeviceIdOrAllDevices, Raw<AnyToDeviceEventContent>>,
    ) -> Result<(), Error> {
        let Some(nid) = hs.find_user(user).await? else { return Ok(()) };
        let slice = TimeSlice::new(&*hs.host);
        for ((_, device), _) in tables::DEVICES.scan(hs.store(), &nid, Direction::Forward, MOST_DEVICES).await? {
            let content = messages.get(&DeviceIdOrAllDevices::DeviceId(device.clone())).or_else(|| messages.get(&DeviceIdOrAllDevices::AllDevices));
            let Some(content) = content.map(Raw::json) else { continue };
            self.bytes += content.get().len();
            if self.bytes > LARGEST_REQUEST || self.queues.len() == MOST_MESSAGES {
                return Err(Refused::TooMany.into());
            }
            let subject = subject(hs, nid, &device).await?;
            self.queues.push(Queue { user: nid, device, subject, content });
            slice.step().await;
        }
        Ok(())
    }
}

impl Queues<'_> {
    /// Leaves out the queues of devices that were deleted meanwhile, which nobody would ever empty.
    async fn leave_out_deleted(&mut self, hs: &Homeserver) -> Result<(), StoreError> {
        self.cleared = hs.streams.cleared();
        let devices: Vec<_> = self.queues.iter().map(|queue| (queue.user, queue.device.clone())).collect();
        let mut there = tables::DEVICES.get_many(hs.store(), &devices).await?.into_iter().map(|device| device.is_some());
        self.queues.retain(|_| there.next().unwrap_or(false));
        Ok(())
    }
}

impl Queue<'_> {
    fn append(&self, hs: &Homeserver, tx: &mut Tx, sender: &UserId, event_type: &str) {
        #[derive(Serialize)]
        struct Event<'a> {
            content: &'a RawValue,
            sender: &'a UserId,
            r#type: &'a str,
        }
        let event = Event { content: self.content, sender, r#type: event_type };
        let position = tx.change(Change::ToDevice { user: self.user, device: self.device.clone() });
        let message = Message { position, event: serde_json::to_string(&event).expect("strings and JSON are JSON") };
        let body = postcard::to_allocvec(&message).expect("our own types have known lengths");
        self.subject.append(tx, hs.host.now(), body).expect("a queue that drops its oldest is never full");
    }
}

/// What a sync shows of a device's queue.
#[derive(Default)]
pub struct Pending {
    /// The messages, in order.
    pub events: Vec<Raw<AnyToDeviceEvent>>,
    /// The number of the first one that there was no room for.
    pub next: Option<u64>,
}

/// The messages that wait for a session's device after `since` and up to `to`, which will be that
/// sync's `next_batch`: in order, 100 at most, the same again for the same `since`. Those that
/// `since` says were seen have arrived and are deleted; where that is refused, as by a full store,
/// they are passed over next time too.
pub async fn pending(hs: &Homeserver, session: &Session, since: Option<Token>, to: Position) -> Result<Pending, StoreError> {
    let generation = hs.store().generation();
    let subject = subject(hs, session.user, &session.device).await?;
    let mut shown = Pending { events: Vec::new(), next: None };
    let mut page = subject.pending(hs.store(), DEVICE, PAGE).await?;
    let slice = TimeSlice::new(&*hs.host);
    loop {
        let mut arrived = None;
        let mut goes_on = page.len() == PAGE;
        for entry in &page {
            // One that is damaged goes when one after it has arrived.
            let Some(message) = Waiting::read(entry, session).leave_out()? else { continue };
            if since.is_some_and(|since| message.is_seen(since)) {
                arrived = Some(entry);
            } else if message.position > to {
                goes_on = false;
                break;
            } else if shown.events.len() == SHOWN {
                shown.next = Some(message.number);
                goes_on = false;
                break;
            } else {
                shown.events.push(Raw::from_json(message.event));
            }
        }
        if let Some(last) = arrived {
            forget_arrived(hs, &subject, last, generation);
        }
        let Some(last) = page.last().filter(|_| goes_on) else { return Ok(shown) };
        page = subject.read(hs.store(), last.end.entries, PAGE).await?;
        slice.step().await;
    }
}

/// A message that waits, and its number in the queue.
struct Waiting {
    number: u64,
    position: Position,
    event: Box<RawValue>,
}

impl Waiting {
    fn read(entry: &Entry, session: &Session) -> Result<Self, Damaged> {
        let unreadable = |error: &dyn Display| Damaged::new(format!("a message to {} of {}", session.device, session.user_id), error);
        let Message { position, event } = postcard::from_bytes(&entry.body).map_err(|error| unreadable(&error))?;
        let event = RawValue::from_string(event).map_err(|error| unreadable(&error))?;
        Ok(Self { number: entry.number(), position, event })
    }

    fn is_seen(&self, since: Token) -> bool {
        self.position <= since.position && since.to_device.is_none_or(|next| self.number < next)
    }
}

fn forget_arrived(hs: &Homeserver, subject: &Subject, last: &Entry, generation: u64) {
    let acknowledged = hs.write(generation, |tx| subject.ack(tx, DEVICE, last.end));
    if let Err(error) = acknowledged.map(Submitted::visible) {
        tracing::debug!("could not delete delivered to-device messages: {error}");
    }
}

/// What waits for a device that is being deleted.
pub struct Departing(Subject);

/// What waits for a device, to be removed with it.
pub async fn departing(hs: &Homeserver, user: UserNid, device: &DeviceId) -> Result<Departing, StoreError> {
    Ok(Departing(subject(hs, user, device).await?))
}

impl Departing {
    /// Removes it.
    pub fn forget(&self, tx: &mut Tx) {
        self.0.clear(tx);
    }
}

async fn subject(hs: &Homeserver, user: UserNid, device: &DeviceId) -> Result<Subject, StoreError> {
    hs.streams.subject(hs, &TO_DEVICE, &format!("{user}/{device}")).await
}
