//! Received events that refer to others which are not here: they wait in a durable queue, one for
//! each room, until what is missing was fetched (Server-Server API, "Retrieving events").
//!
//! First the gap is asked for by `get_missing_events`, a number of times. Where it is larger, the
//! state at its end is, by `state_ids`, and what lies before stays out until somebody reads that
//! far back. That state is the one after each parent which is missing, so that it is resolved with
//! those after the parents which are here. What cannot be had or verified is dropped, with what was
//! built on it.

use super::fetch::Asking;
use crate::{
    failure::Failure,
    homeserver::Homeserver,
    room::{self, Received, RoomInfo},
    tables::{RawBytes, RoomNid},
    time_slice::TimeSlice,
};
use ephapse_events::Pdu;
use ephapse_store::StoreError;
use ephapse_streams::{Delivered, Entry, Full, Limits, Redelivery, Retention, Stream, WhenFull};
use ruma::{OwnedEventId, OwnedServerName, ServerName, UInt, api::federation::event::get_missing_events};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    rc::Rc,
    time::Duration,
};

/// Events that wait for others, by the numbers of their rooms.
pub static WAITING_EVENTS: Stream = Stream {
    name: "waiting_events",
    consumers: &[FETCHER],
    retention: Retention::WorkQueue,
    limits: Limits { entries: Some(1000), bytes: Some(16 << 20), age: Some(Duration::from_secs(24 * 60 * 60)) },
    // Their sender is told, and what it sends next leads to them again.
    when_full: WhenFull::Refuse,
    redelivery: Redelivery { attempts: Some(3), first_delay: Duration::from_secs(2), longest_delay: Duration::from_secs(60) },
};

const FETCHER: &str = "fetcher";

/// Events that are worked on at once.
const AT_ONCE: usize = 50;
/// How often `get_missing_events` is asked for one gap.
const ROUNDS: usize = 20;
/// Events that one answer to it should have, at most.
const LIMIT: u32 = 50;
/// Ids that a request for missing events names, of either kind.
const MOST_NAMED: usize = 20;
/// Events that are kept in memory while a gap is closed.
const MOST_FETCHED: usize = 2000;
/// Ends of gaps at which the state is asked for, for the events that are worked on at once.
const MOST_STATES: usize = 8;
/// Parents of one event after which the state is asked for; of more, the one before the event is.
const MOST_PARENTS: usize = 4;
/// Events that enter in one decision.
const ENTERED_AT_ONCE: usize = 50;
/// Rooms that are looked at after a restart in one go.
const PAGE: usize = 100;
/// How long the queue rests after the store has failed.
const REST: Duration = Duration::from_secs(1);

/// An event as it waits.
#[derive(Serialize, Deserialize)]
struct Waiting {
    origin: OwnedServerName,
    event_id: OwnedEventId,
    pdu: RawBytes,
}

/// Has verified events of `origin` wait until what they refer to is here; those that there is no
/// room for are answered.
pub async fn wait(hs: &Rc<Homeserver>, room: &RoomInfo, origin: &ServerName, events: Vec<Pdu>) -> Result<Vec<OwnedEventId>, StoreError> {
    let subject = hs.streams.subject(&**hs, &WAITING_EVENTS, &room.nid.to_string()).await?;
    let (task, nid, mut refused) = (hs.clone(), room.nid, Vec::new());
    let written = hs.write(hs.store().generation(), |tx| {
        for event in events {
            let waiting = Waiting { origin: origin.to_owned(), event_id: event.event_id, pdu: RawBytes(event.json.to_vec()) };
            let body = postcard::to_allocvec(&waiting).expect("our own types have known lengths");
            if let Err(Full) = subject.append(tx, hs.host.now(), body) {
                refused.push(waiting.event_id);
            }
        }
        tx.then(move |_| start(&task, nid));
    });
    written?.visible();
    Ok(refused)
}

/// Goes on where the last run ended.
pub async fn resume(hs: &Rc<Homeserver>) -> Result<(), StoreError> {
    let mut after: Option<String> = None;
    loop {
        let names = hs.streams.subjects(&**hs, &WAITING_EVENTS, after.as_deref(), PAGE).await?;
        names.iter().filter_map(|name| name.parse().ok()).for_each(|room| start(hs, room));
        if names.len() < PAGE {
            return Ok(());
        }
        after = names.last().cloned();
    }
}

/// Works on a room's queue until it is empty, on a task of its own.
fn start(hs: &Rc<Homeserver>, room: RoomNid) {
    if !hs.federation.fetching.borrow_mut().insert(room) {
        return;
    }
    let task = hs.clone();
    hs.host.spawn(Box::pin(async move {
        loop {
            match work(&task, room).await {
                Ok(()) => break,
                // What was read is lost: begin anew.
                Err(StoreError::RolledBack) => task.host.sleep(REST).await,
                Err(error) => {
                    tracing::warn!("events that wait for others are left for later: {error}");
                    break;
                }
            }
        }
        task.federation.fetching.borrow_mut().remove(&room);
    }));
}

async fn work(hs: &Rc<Homeserver>, room: RoomNid) -> Result<(), StoreError> {
    loop {
        let subject = hs.streams.subject(&**hs, &WAITING_EVENTS, &room.to_string()).await?;
        match subject.deliver(&**hs, FETCHER, AT_ONCE, |entries| take_in(hs, room, entries)).await? {
            Delivered::Nothing => return Ok(()),
            Delivered::Done(_) => {}
            Delivered::Failed(error) => tracing::info!("events of room number {room} still wait for others: {error}"),
            Delivered::Later(due) => hs.host.sleep(Duration::from_millis(due.saturating_sub(hs.host.now()).max(1))).await,
        }
    }
}

/// Takes in what waits, if what is missing can be had.
///
/// # Errors
/// It may be had later.
async fn take_in(hs: &Rc<Homeserver>, nid: RoomNid, entries: Vec<Entry>) -> Result<(), String> {
    let words = |error: room::Error| error.to_string();
    // Where nobody is in the room any more, nothing waits for it.
    let room = match resident_room(hs, nid).await {
        Ok(Some(room)) => room,
        Ok(None) | Err(Failure::Refused(_)) => return Ok(()),
        Err(error) => return Err(words(error)),
    };
    let mut by_origin: Vec<(OwnedServerName, Vec<Pdu>)> = Vec::new();
    for entry in entries {
        let Ok(Waiting { origin, event_id, pdu }) = postcard::from_bytes(&entry.body) else { continue };
        let Ok(event) = Pdu::from_stored(event_id, pdu.0.into(), false, &room.rules) else { continue };
        match by_origin.iter_mut().find(|(server, _)| *server == origin) {
            Some((_, events)) => events.push(event),
            None => by_origin.push((origin, vec![event])),
        }
    }
    let mut failed = Ok(());
    for (origin, events) in by_origin {
        let asking = Asking::of(hs, &room, [origin.clone()]).await.map_err(words)?;
        let sent = events.iter().map(|event| event.event_id.clone()).collect();
        let waiting = events.into_iter().map(|event| (event.event_id.clone(), event)).collect();
        let mut gap = Gap { waiting, asking, origin, sent, start: hs.room_head(nid).await.map_err(words)?.entered_at };
        if let Err(error) = gap.close().await {
            failed = Err(error);
        }
    }
    failed
}

async fn resident_room(hs: &Homeserver, nid: RoomNid) -> Result<Option<Rc<RoomInfo>>, room::Error> {
    let room = hs.room_by_nid(nid).await?;
    Ok(hs.is_resident(nid).await?.then_some(room))
}

/// Events that wait, and what was fetched between them and what is here.
struct Gap<'a> {
    asking: Asking<'a>,
    /// Who sent the events.
    origin: OwnedServerName,
    /// Those that it sent, until what is before them was asked for.
    sent: BTreeSet<OwnedEventId>,
    waiting: BTreeMap<OwnedEventId, Pdu>,
    /// The depth at which this server came into the room. What happened before is history: here it
    /// would come as if it were new, and be judged by a state that it knows nothing of.
    start: u64,
}

impl Gap<'_> {
    async fn close(&mut self) -> Result<(), String> {
        for _ in 0..ROUNDS {
            self.enter().await?;
            let missing = self.missing().await?;
            if missing.is_empty() || self.waiting.len() >= MOST_FETCHED || !self.fetch(missing).await? {
                break;
            }
        }
        for _ in 0..MOST_STATES {
            self.enter().await?;
            let Some(first) = by_parents(self.waiting.values()).first().map(|event| (*event).clone()) else { return Ok(()) };
            if let Err(error) = self.bridge(&first).await {
                tracing::info!("{} of {} is dropped, with what is built on it: {error}", first.event_id, self.asking.room.id);
                self.drop_branch(first.event_id);
            }
        }
        if !self.waiting.is_empty() {
            tracing::info!("{} events of {} are dropped: they are on too many branches", self.waiting.len(), self.asking.room.id);
        }
        Ok(())
    }

    /// Takes in those whose parents are here.
    async fn enter(&mut self) -> Result<(), String> {
        let ordered: Vec<Pdu> = by_parents(self.waiting.values()).into_iter().cloned().collect();
        for some in ordered.chunks(ENTERED_AT_ONCE) {
            let generation = self.asking.hs.begin_reading();
            let received = self.asking.hs.receive(self.asking.room, generation, some).await.map_err(|error| error.to_string())?;
            for (event, received) in some.iter().zip(received) {
                if let Received::Refused(reason) = &received {
                    tracing::info!("{} of {} is dropped: {reason}", event.event_id, self.asking.room.id);
                }
                if !matches!(received, Received::Missing) {
                    self.waiting.remove(&event.event_id);
                }
            }
        }
        Ok(())
    }

    /// Parents that are neither here nor among those that wait.
    async fn missing(&self) -> Result<HashSet<OwnedEventId>, String> {
        let slice = TimeSlice::new(&*self.asking.hs.host);
        let mut missing = HashSet::new();
        let after_the_start = self.waiting.values().filter(|event| event.depth > self.start);
        for parent in after_the_start.flat_map(|event| &event.prev_events) {
            if !self.waiting.contains_key(parent) && !missing.contains(parent) && !self.is_here(parent).await? {
                missing.insert(parent.clone());
            }
            slice.step().await;
        }
        Ok(missing)
    }

    async fn is_here(&self, id: &OwnedEventId) -> Result<bool, String> {
        self.asking.hs.has_state_after(self.asking.room.nid, id).await.map_err(|error| error.to_string())
    }

    /// Whether an event has its place here, be it that nothing is known of the state there.
    async fn is_placed(&self, id: &OwnedEventId) -> Result<bool, String> {
        let found = self.asking.hs.find_event(id).await.map_err(|error| error.to_string())?;
        Ok(found.is_some_and(|(nid, position)| nid == self.asking.room.nid && !position.is_outlier()))
    }

    /// Asks for events that are missing, and those before them; says whether any came.
    async fn fetch(&mut self, mut missing: HashSet<OwnedEventId>) -> Result<bool, String> {
        let (hs, room) = (self.asking.hs, self.asking.room);
        let head = hs.room_head(room.nid).await.map_err(|error| error.to_string())?;
        let earliest = head.extremities.iter().rev().take(MOST_NAMED).map(|extremity| extremity.event_id.clone()).collect();
        let latest = self.waiting.values().filter(|event| event.prev_events.iter().any(|id| missing.contains(id)));
        let latest = latest.take(MOST_NAMED).map(|event| event.event_id.clone()).collect();
        let mut request = get_missing_events::v1::Request::new(room.id.clone(), earliest, latest);
        request.limit = UInt::from(LIMIT);
        request.min_depth = UInt::new_saturating(self.start);
        // Who sent an event has it, and what it is built on.
        let (told, is_by_origin) = match hs.ask(&self.origin, request.clone()).await {
            Ok(answer) => (answer, true),
            // Whoever else is in the room may have what is missing too.
            Err(error) if error.is_refusal() => return Ok(false),
            Err(_) => (self.asking.ask(async |server| hs.ask(server, request.clone()).await).await?, false),
        };
        let mut told = self.asking.verified(&told.events).await?;
        let sent = std::mem::take(&mut self.sent);
        if is_by_origin {
            self.drop_undivulged(sent, &missing, &told);
        }
        // They come in the order of the graph: what leads to those that are missing is wanted.
        let mut came = false;
        told.retain(|event| event.depth >= self.start);
        told.sort_by_key(|event| std::cmp::Reverse(event.depth));
        for event in told {
            if missing.contains(&event.event_id) && self.waiting.len() < MOST_FETCHED && !self.is_placed(&event.event_id).await? {
                missing.extend(event.prev_events.iter().cloned());
                came |= self.waiting.insert(event.event_id.clone(), event).is_none();
            }
        }
        Ok(came)
    }

    /// Has an event enter though what is before it is not here: in the state that another server
    /// says was before it.
    async fn bridge(&mut self, event: &Pdu) -> Result<(), String> {
        let asking = &self.asking;
        let words = |error: room::Error| error.to_string();
        if !asking.absent(&event.auth_events).await.map_err(words)?.is_empty() {
            // All at once where that can be had. What authorizes it may also be what is missing
            // before it, which is fetched by itself.
            asking.fetch_auth_chain(event).await.ok();
        }
        let mut missing = Vec::new();
        for parent in &event.prev_events {
            if !self.is_here(parent).await? {
                missing.push(parent);
            }
        }
        let states = match self.states_after(&missing).await {
            Ok(states) if !event.prev_events.is_empty() => states,
            // Who has the event may not have its parents either.
            _ => vec![self.state_before(&event.event_id).await?],
        };
        let entered = asking.hs.receive_one(asking.room, event.clone(), |write, event| match &states[..] {
            [] => write.receive(event),
            states => write.receive_in_states(event, states),
        });
        entered.await.map_err(words)?;
        self.waiting.remove(&event.event_id);
        Ok(())
    }

    /// The state before an event, as another server tells it.
    async fn state_before(&self, id: &OwnedEventId) -> Result<Vec<OwnedEventId>, String> {
        let asking = &self.asking;
        let told = asking.state_ids(id).await?;
        asking.fetch_state(id, &told.pdu_ids, &told.auth_chain_ids).await?;
        Ok(told.pdu_ids)
    }

    /// The states after events that are not here.
    async fn states_after(&self, missing: &[&OwnedEventId]) -> Result<Vec<Vec<OwnedEventId>>, String> {
        if missing.len() > MOST_PARENTS {
            return Err("too many parents are missing".to_owned());
        }
        let mut states = Vec::with_capacity(missing.len());
        for parent in missing {
            let mut state = self.state_before(parent).await?;
            if !self.asking.absent([*parent]).await.map_err(|error| error.to_string())?.is_empty() {
                let found = self.asking.events(std::slice::from_ref(*parent)).await?;
                if found.is_empty() {
                    return Err(format!("{parent} cannot be had"));
                }
                self.asking.add_outliers(found).await?;
            }
            // Of the state it is a part only where it changes it, and was not rejected.
            state.push((*parent).clone());
            states.push(state);
        }
        Ok(states)
    }

    /// Drops what was sent by a server that shows nothing of what is right before it though it was
    /// asked and answered: nobody has to believe it what the room was then. One of several parents
    /// may be from before this server came in, which it has not asked for.
    fn drop_undivulged(&mut self, sent: BTreeSet<OwnedEventId>, missing: &HashSet<OwnedEventId>, told: &[Pdu]) {
        let is_hidden = |id: &OwnedEventId| missing.contains(id) && told.iter().all(|event| event.event_id != *id);
        let is_dropped = |id: &OwnedEventId| self.waiting.get(id).is_some_and(|event| event.prev_events.iter().all(is_hidden));
        for id in sent.into_iter().filter(is_dropped).collect::<Vec<_>>() {
            tracing::info!("{id} of {} is dropped, with what is built on it: its server does not show what is before it", self.asking.room.id);
            self.drop_branch(id);
        }
    }

    /// Drops an event and all that is built on it.
    fn drop_branch(&mut self, id: OwnedEventId) {
        let mut dropped = VecDeque::from([id]);
        while let Some(id) = dropped.pop_front() {
            if self.waiting.remove(&id).is_none() {
                continue;
            }
            dropped.extend(self.waiting.values().filter(|event| event.prev_events.contains(&id)).map(|event| event.event_id.clone()));
        }
    }
}

/// Events in an order in which each comes after its parents among them; what stands in a circle
/// comes last.
pub fn by_parents<'a>(events: impl IntoIterator<Item = &'a Pdu>) -> Vec<&'a Pdu> {
    let events: BTreeMap<&OwnedEventId, &Pdu> = events.into_iter().map(|event| (&event.event_id, event)).collect();
    let mut waits: HashMap<&OwnedEventId, usize> = HashMap::with_capacity(events.len());
    let mut children: HashMap<&OwnedEventId, Vec<&Pdu>> = HashMap::new();
    for event in events.values() {
        let parents: HashSet<&OwnedEventId> = event.prev_events.iter().filter(|id| events.contains_key(*id)).collect();
        waits.insert(&event.event_id, parents.len());
        parents.into_iter().for_each(|parent| children.entry(parent).or_default().push(event));
    }
    let mut ready: Vec<&Pdu> = events.values().copied().filter(|event| waits.get(&event.event_id) == Some(&0)).collect();
    // The oldest is taken first; of those that are as old, always the same.
    ready.sort_by(|a, b| (b.depth, &b.event_id).cmp(&(a.depth, &a.event_id)));
    let mut ordered: Vec<&Pdu> = Vec::with_capacity(events.len());
    while let Some(event) = ready.pop() {
        for child in children.remove(&event.event_id).unwrap_or_default() {
            let count = waits.entry(&child.event_id).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                ready.push(child);
            }
        }
        ordered.push(event);
    }
    let placed: HashSet<&OwnedEventId> = ordered.iter().map(|event| &event.event_id).collect();
    let circles: Vec<&Pdu> = events.values().copied().filter(|event| !placed.contains(&event.event_id)).collect();
    ordered.extend(circles);
    ordered
}
