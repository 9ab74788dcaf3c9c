//! Sends what waits for other servers (Server-Server API, "Transactions"): to each of them one
//! transaction at a time. A transaction is stored before it is sent, and sent again, byte for byte,
//! until it is answered. Who does not answer is tried less and less often.

use super::{
    client::AskError,
    outbox::{Destination, OUTBOX_EDUS, OUTBOX_EVENTS, Queues, SENDER, WaitingEdu, WaitingEvent},
    passing::{Passing, edu},
};
use crate::{
    damaged::{Damaged, LeaveOut},
    error::{Error, Result},
    homeserver::Homeserver,
    keys,
    position::Position,
    room::Event,
    tables::{self, Missed, OutboxTransaction, RawBytes, RoomNid},
    time_slice::TimeSlice,
};
use bytes::Bytes;
use ephapse_store::{Direction, StoreError};
use ephapse_streams::{Entry, Offset, Stream};
use futures_util::future::select;
use http::{HeaderValue, Request, StatusCode, header};
use ruma::{
    ServerName,
    api::federation::authentication::{XMatrix, XMatrixSigningInput},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{collections::BTreeMap, pin::pin, rc::Rc, time::Duration};

/// "A PDU list can have at most 50 PDUs", and "at most 100 EDUs".
const MOST_EVENTS: usize = 50;
const MOST_EDUS: usize = 100;
/// Bytes of a transaction after which nothing more is added.
const LARGE: usize = 4 << 20;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of the answer.
const LARGEST_ANSWER: usize = 1 << 20;

/// When a server is tried again that did not answer: it doubles each time, and is made longer or
/// shorter by a fifth.
const FIRST_DELAY: u64 = 2000;
const LONGEST_DELAY: u64 = 60 * 60 * 1000;

/// How often a server may refuse a transaction before it is dropped.
const MOST_REFUSALS: u32 = 5;

/// How long events are kept for a server one by one, in ms.
const KEPT_FOR: u64 = 7 * 24 * 60 * 60 * 1000;

/// Rooms that a server catches up with at a time.
const ROOMS_CAUGHT_UP: usize = 50;
/// Rows read at once.
const PAGE: usize = 256;

/// What came of one attempt.
enum Attempt {
    /// Something was sent and taken.
    Sent,
    /// Nothing waits.
    Idle,
}

/// Why nothing was sent.
enum Failed {
    Store(Error),
    Asked(AskError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error.into())
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// What goes into one transaction.
#[derive(Default)]
struct Contents {
    events: Vec<Rc<Event>>,
    edus: Vec<Box<RawValue>>,
    bytes: usize,
    newest: Position,
    events_end: Option<Offset>,
    edus_end: Option<Offset>,
    passing: Passing,
}

impl Homeserver {
    /// Sends to a server what waits for it.
    pub(crate) fn wake_sender(&self, server: &ServerName) {
        let destination = self.federation.outbox.destination(server);
        destination.is_due.set(true);
        let Some(hs) = self.me().filter(|_| !self.notify.is_closed()) else { return };
        if !destination.is_sending.replace(true) {
            self.host.spawn(Box::pin(run(hs, destination)));
        }
    }

    /// A server is there: it has sent something, or answered.
    pub(crate) fn heard_from(&self, server: &ServerName) {
        let Some(destination) = self.federation.outbox.known(server) else { return };
        if destination.failures.replace(0) > 0 {
            destination.next_try.set(0);
            destination.woken.notify(usize::MAX);
        }
    }

    /// Sends what waited when the server was last stopped. The first answer has this done too.
    pub fn begin_sending(&self) {
        let Some(hs) = self.me() else { return };
        if self.federates() && !self.federation.outbox.has_begun.replace(true) {
            self.host.spawn(Box::pin(async move {
                if let Err(error) = hs.wake_waiting().await {
                    tracing::warn!("could not read what waits for other servers: {error}");
                }
            }));
        }
    }

    /// As [`Self::begin_sending`], after nothing was to be held for a while.
    pub(crate) fn begin_sending_again(&self) {
        if self.federation.outbox.has_begun.replace(false) {
            self.begin_sending();
        }
    }

    async fn wake_waiting(&self) -> Result<(), StoreError> {
        for stream in [&OUTBOX_EVENTS, &OUTBOX_EDUS] {
            self.wake_subjects(stream).await?;
        }
        let mut range = tables::DESTINATIONS.range(&());
        loop {
            let page = tables::DESTINATIONS.scan_range(self.store(), range.clone(), Direction::Forward, PAGE).await?;
            for (server, _) in page.iter().filter(|(_, stored)| stored.missed.is_some()) {
                self.wake_sender(server);
            }
            let Some((last, _)) = page.last().filter(|_| page.len() == PAGE) else { return Ok(()) };
            range.start = [&tables::DESTINATIONS.key(last)[..], &[0]].concat();
        }
    }

    async fn wake_subjects(&self, stream: &'static Stream) -> Result<(), StoreError> {
        let mut after: Option<String> = None;
        loop {
            let page = self.streams.subjects(self, stream, after.as_deref(), PAGE).await?;
            for server in page.iter().filter_map(|name| <&ServerName>::try_from(name.as_str()).ok()) {
                self.wake_sender(server);
            }
            after = page.last().filter(|_| page.len() == PAGE).cloned();
            if after.is_none() {
                return Ok(());
            }
        }
    }
}

/// Sends to one server until nothing waits for it.
async fn run(hs: Rc<Homeserver>, destination: Rc<Destination>) {
    while !hs.notify.is_closed() {
        destination.is_due.set(false);
        wait_for_next_try(&hs, &destination).await;
        let outbox = &hs.federation.outbox;
        let slots = if destination.failures.get() == 0 { &outbox.slots } else { &outbox.slots_to_try };
        let slot = slots.acquire_arc().await;
        let attempt = attempt(&hs, &destination).await;
        drop(slot);
        match attempt {
            Ok(Attempt::Sent) => destination.answered(),
            Ok(Attempt::Idle) if destination.is_due.get() => {}
            Ok(Attempt::Idle) => break,
            Err(error) => {
                destination.failed(&hs, &error);
                if let Err(error) = drop_old(&hs, &destination).await {
                    tracing::debug!("could not look whether events for {} are too old: {error}", destination.server);
                }
            }
        }
    }
    destination.is_sending.set(false);
}

async fn wait_for_next_try(hs: &Homeserver, destination: &Destination) {
    loop {
        let woken = destination.woken.listen();
        let now = hs.host.now();
        let next_try = destination.next_try.get();
        if destination.failures.get() == 0 || next_try <= now {
            return;
        }
        select(pin!(woken), hs.host.sleep(Duration::from_millis(next_try - now))).await;
    }
}

impl Destination {
    fn answered(&self) {
        self.failures.set(0);
        self.refusals.set(0);
        self.is_reachable.set(Some(true));
        self.last_error.take();
    }

    fn failed(&self, hs: &Homeserver, error: &Failed) {
        let text = match error {
            Failed::Store(error) => format!("what waits for it could not be read or written: {error}"),
            Failed::Asked(error) => error.to_string(),
        };
        tracing::debug!("could not send to {}: {text}", self.server);
        let failures = self.failures.get();
        self.failures.set(failures + 1);
        self.is_reachable.set(Some(matches!(error, Failed::Asked(AskError::Refused { .. }))));
        self.next_try.set(hs.host.now() + delay(hs, failures));
        self.last_error.replace(Some(text));
        self.passing.borrow_mut().forget_typing();
    }
}

/// How long to wait after a number of failures before this one, in ms.
fn delay(hs: &Homeserver, failures: u32) -> u64 {
    let mut dice = [0];
    hs.host.random(&mut dice);
    let delay = FIRST_DELAY.saturating_mul(1 << failures.min(20)).min(LONGEST_DELAY);
    delay * 4 / 5 + delay * 2 / 5 * u64::from(dice[0]) / 255
}

/// Sends the transaction that the server has not answered, or the next one.
async fn attempt(hs: &Homeserver, destination: &Destination) -> Result<Attempt, Failed> {
    let generation = hs.begin_reading();
    let server = &destination.server;
    let queues = hs.queues(server).await?;
    if let Some(frozen) = tables::OUTBOX_TRANSACTIONS.get(hs.store(), server).await.leave_out()?.flatten() {
        return send_frozen(hs, destination, &queues, generation, frozen).await;
    }
    let mut contents = Contents::default();
    contents.add_events(hs, &queues).await?;
    if contents.events_end.is_none()
        && let Some(missed) = queues.stored().missed
    {
        catch_up(hs, &queues, generation, missed).await?;
        destination.is_due.set(true);
        return Ok(Attempt::Idle);
    }
    contents.add_edus(hs, &queues).await?;
    contents.add_passing(hs, destination).await?;
    if contents.events_end.is_some() || contents.edus_end.is_some() {
        let frozen = freeze(hs, &queues, generation, contents).await?;
        return send_frozen(hs, destination, &queues, generation, frozen).await;
    }
    if contents.edus.is_empty() {
        return Ok(Attempt::Idle);
    }
    send_passing(hs, destination, generation, contents).await
}

/// Stores what is sent as it is sent.
async fn freeze(hs: &Homeserver, queues: &Queues, generation: u64, contents: Contents) -> Result<OutboxTransaction, Failed> {
    let id = format!("{:08x}-{}", hs.identity.instance, queues.stored().sequence);
    let Contents { events_end: events, edus_end: edus, newest, .. } = contents;
    let frozen = OutboxTransaction { id, body: RawBytes(contents.body(hs)?), events, edus, newest };
    let written = hs.write(generation, |tx| {
        tables::OUTBOX_TRANSACTIONS.put(tx, &queues.server, &frozen);
        queues.change(tx, |stored| stored.sequence += 1);
    });
    written?.durable().await?;
    Ok(frozen)
}

async fn send_frozen(
    hs: &Homeserver,
    destination: &Destination,
    queues: &Queues,
    generation: u64,
    frozen: OutboxTransaction,
) -> Result<Attempt, Failed> {
    let sent = send(hs, &destination.server, &frozen.id, frozen.body.0.into()).await;
    let is_taken = sent.is_ok();
    match sent {
        Ok(()) => {}
        // Whoever says so again and again will not change their mind.
        Err(AskError::Refused { status: StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE, .. } | AskError::Malformed(_))
            if destination.refusals.get() + 1 >= MOST_REFUSALS =>
        {
            tracing::warn!("{} refuses a transaction, which is dropped", destination.server);
        }
        Err(error) => {
            if matches!(error, AskError::Refused { .. } | AskError::Malformed(_)) {
                destination.refusals.set(destination.refusals.get() + 1);
            }
            return Err(Failed::Asked(error));
        }
    }
    let done = hs.write(generation, |tx| {
        tables::OUTBOX_TRANSACTIONS.delete(tx, &destination.server);
        if let Some(end) = frozen.events {
            queues.events.ack(tx, SENDER, end);
        }
        if let Some(end) = frozen.edus {
            queues.edus.ack(tx, SENDER, end);
        }
        if is_taken && frozen.events.is_some() {
            queues.change(tx, |stored| stored.delivered = stored.delivered.max(frozen.newest));
        }
    });
    done?.durable().await?;
    Ok(Attempt::Sent)
}

/// Sends what need not arrive, and is not stored.
async fn send_passing(hs: &Homeserver, destination: &Destination, generation: u64, mut contents: Contents) -> Result<Attempt, Failed> {
    // It tells of what was written.
    hs.durable_since(generation).await?;
    let outbox = &hs.federation.outbox;
    let number = outbox.unstored.get();
    outbox.unstored.set(number + 1);
    // Another run begins to count anew.
    let run = outbox.run.borrow_mut().get_or_insert_with(|| hs.random_string(8)).clone();
    let id = format!("{:08x}-{run}-{number}", hs.identity.instance);
    let body = contents.body(hs)?;
    let passing = std::mem::take(&mut contents.passing);
    match send(hs, &destination.server, &id, body.into()).await {
        Ok(()) => Ok(Attempt::Sent),
        Err(error) => {
            destination.passing.borrow_mut().put_back(passing);
            Err(Failed::Asked(error))
        }
    }
}

/// `PUT /_matrix/federation/v1/send/{txnId}`
async fn send(hs: &Homeserver, server: &ServerName, id: &str, body: Bytes) -> Result<(), AskError> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        pdus: BTreeMap<String, serde_json::Value>,
    }
    let unwritable = |error: &dyn std::fmt::Display| AskError::Malformed(format!("the transaction cannot be written: {error}"));
    let request = Request::put(format!("/_matrix/federation/v1/send/{id}")).header(header::CONTENT_TYPE, "application/json");
    let mut request = request.body(body).map_err(|error| unwritable(&error))?;
    let input = XMatrixSigningInput::new(hs.server_name().to_owned(), server.to_owned(), hs.identity.key_pair());
    let authorization = XMatrix::sign_http_request(&request, input).map_err(|error| unwritable(&error))?;
    request.headers_mut().insert(header::AUTHORIZATION, HeaderValue::from(&authorization));
    let answer = hs.answered(server, request, PATIENCE, LARGEST_ANSWER).await?;
    if let Ok(Answer { pdus }) = serde_json::from_slice(answer.body()) {
        for (event, said) in pdus.iter().filter(|(_, said)| said.get("error").is_some()) {
            tracing::debug!("{server} did not take {event}: {}", said["error"]);
        }
    }
    Ok(())
}

impl Contents {
    async fn add_events(&mut self, hs: &Homeserver, queues: &Queues) -> Result<()> {
        for entry in queues.events.pending(hs.store(), SENDER, MOST_EVENTS).await? {
            self.events_end = Some(entry.end);
            let Some(waiting) = read::<WaitingEvent>(&entry).leave_out()? else { continue };
            self.newest = self.newest.max(waiting.position);
            // The room may have been forgotten by everybody.
            let event = hs.event_by_id(waiting.room, &waiting.event_id).await.leave_out()?.flatten();
            self.bytes += event.as_ref().map_or(0, |event| event.pdu.json.len());
            self.events.extend(event);
            if self.bytes >= LARGE {
                break;
            }
        }
        Ok(())
    }

    async fn add_edus(&mut self, hs: &Homeserver, queues: &Queues) -> Result<()> {
        for entry in queues.edus.pending(hs.store(), SENDER, MOST_EDUS).await? {
            if self.bytes >= LARGE || self.edus.len() + 2 > MOST_EDUS {
                break;
            }
            self.edus_end = Some(entry.end);
            let Some(waiting) = read::<WaitingEdu>(&entry).leave_out()? else { continue };
            let edus = waiting.edus(hs).await?;
            self.bytes += edus.iter().map(|edu| edu.get().len()).sum::<usize>();
            self.edus.extend(edus);
        }
        Ok(())
    }

    async fn add_passing(&mut self, hs: &Homeserver, destination: &Destination) -> Result<()> {
        if destination.passing.borrow().is_empty() {
            return Ok(());
        }
        self.passing = destination.passing.borrow_mut().take(MOST_EDUS - self.edus.len());
        let edus = self.passing.edus(hs).await?;
        self.edus.extend(edus);
        Ok(())
    }

    fn body(&self, hs: &Homeserver) -> Result<Vec<u8>> {
        #[derive(Serialize)]
        struct Body<'a> {
            origin: &'a ServerName,
            origin_server_ts: u64,
            pdus: Vec<&'a RawValue>,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            edus: &'a [Box<RawValue>],
        }
        let pdus = self.events.iter().filter_map(|event| serde_json::from_slice(&event.pdu.json).ok()).collect();
        let body = Body { origin: hs.server_name(), origin_server_ts: hs.host.now(), pdus, edus: &self.edus };
        serde_json::to_vec(&body).map_err(|error| Error::Internal(format!("could not write a transaction: {error}")))
    }
}

fn read<'a, T: Deserialize<'a>>(entry: &'a Entry) -> Result<T, Damaged> {
    postcard::from_bytes(&entry.body).map_err(|error| Damaged::new("something that waits for another server", error))
}

impl WaitingEdu {
    /// What is sent of it: one or two EDUs; none where its user is gone.
    async fn edus(self, hs: &Homeserver) -> Result<Vec<Box<RawValue>>> {
        Ok(match self {
            Self::ToDevice(content) => {
                let content: Option<&RawValue> = serde_json::from_str(&content).ok();
                edu("m.direct_to_device", content).into_iter().collect()
            }
            Self::Device { user, device, version, previous } => {
                let content = keys::device_update(hs, user, &device, version, previous).await?;
                content.and_then(|content| edu("m.device_list_update", content)).into_iter().collect()
            }
            Self::CrossSigning { user } => {
                let Some(content) = keys::signing_key_update(hs, user).await? else { return Ok(Vec::new()) };
                // The name from before it was specified, which some servers still look for.
                ["m.signing_key_update", "org.matrix.signing_key_update"].into_iter().filter_map(|name| edu(name, &content)).collect()
            }
        })
    }
}

/// Where the oldest event that waits is too old, none is kept any more.
async fn drop_old(hs: &Homeserver, destination: &Destination) -> Result<(), StoreError> {
    let generation = hs.begin_reading();
    let queues = hs.queues(&destination.server).await?;
    let oldest = queues.events.pending(hs.store(), SENDER, 1).await?;
    if oldest.first().is_some_and(|oldest| oldest.appended.saturating_add(KEPT_FOR) <= hs.host.now()) {
        hs.write(generation, |tx| queues.drop_events(tx))?.durable().await?;
    }
    Ok(())
}

/// Puts the newest events of some rooms into the queue of a server that has missed events: what
/// lies between it asks for itself.
async fn catch_up(hs: &Homeserver, queues: &Queues, generation: u64, missed: Missed) -> Result<()> {
    let Some(next) = missed.next else {
        // What happens from now on is kept again; then the rooms are looked at.
        let begun = hs.write(generation, |tx| {
            queues.change(tx, |stored| stored.missed = Some(Missed { next: Some(0), ..missed }));
        });
        return Ok(begun?.durable().await?);
    };
    let (rooms, rest) = rooms_shared(hs, &queues.server, next).await?;
    let mut newest = Vec::new();
    for room in rooms {
        let Some(head) = hs.room_head(room).await.leave_out()?.filter(|head| head.newest > missed.since) else { continue };
        newest.extend(head.extremities.iter().rev().take(ephapse_events::MAX_PREV_EVENTS).map(|extremity| WaitingEvent {
            room,
            event_id: extremity.event_id.clone(),
            position: extremity.position,
        }));
    }
    let now = hs.host.now();
    let queued = hs.write(generation, |tx| {
        queues.change(tx, |stored| stored.missed = rest.map(|next| Missed { since: missed.since, next: Some(next) }));
        newest.iter().for_each(|event| queues.append_event(tx, now, event));
    });
    Ok(queued?.durable().await?)
}

/// Some of the rooms that a server has members in, from a number on, and the number where the
/// others begin.
async fn rooms_shared(hs: &Homeserver, server: &ServerName, from: RoomNid) -> Result<(Vec<RoomNid>, Option<RoomNid>)> {
    let mut range = tables::ROOM_SERVERS.range(&());
    range.start = tables::ROOM_SERVERS.prefix_of(&from);
    let mut rooms = Vec::new();
    let slice = TimeSlice::new(&*hs.host);
    loop {
        let page = tables::ROOM_SERVERS.scan_range(hs.store(), range.clone(), Direction::Forward, PAGE).await?;
        for ((room, _), _) in page.iter().filter(|((_, other), _)| other == server) {
            if rooms.len() == ROOMS_CAUGHT_UP {
                return Ok((rooms, Some(*room)));
            }
            rooms.push(*room);
        }
        let Some((last, _)) = page.last().filter(|_| page.len() == PAGE) else { return Ok((rooms, None)) };
        range.start = [&tables::ROOM_SERVERS.key(last)[..], &[0]].concat();
        slice.end().await;
    }
}
