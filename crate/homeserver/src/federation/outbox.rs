//! What waits to be sent to other servers (Server-Server API, "Transactions").
//!
//! Each destination has two durable queues: one of the events that were made here, one of those
//! EDUs that must arrive. What is put there commits with what causes it. Typing, receipts and
//! presence wait in memory ([`Passing`]). A destination whose queue of events is full, or too old,
//! keeps none: it catches up once it answers again. The `sender` empties all of it.

use super::passing::Passing;
use crate::{
    homeserver::Homeserver,
    locks::LockKey,
    position::Position,
    tables::{self, Destination as StoredDestination, Missed, RoomNid, UserNid},
    transaction::Tx,
};
use async_lock::Semaphore;
use ephapse_store::{StoreError, Transaction};
use ephapse_streams::{Limits, Redelivery, Retention, Stream, Subject, WhenFull};
use event_listener::Event;
use ruma::{OwnedDeviceId, OwnedEventId, OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

/// Events that a destination's queue keeps.
const MOST_EVENTS: u64 = 1000;

/// The one who takes what waits.
pub(super) const SENDER: &str = "sender";

/// The sender counts its attempts itself: all that waits for a server fails together.
const BY_SENDER: Redelivery = Redelivery { attempts: None, first_delay: Duration::ZERO, longest_delay: Duration::ZERO };

/// Events made here that wait for other servers, a subject for each.
pub static OUTBOX_EVENTS: Stream = Stream {
    name: "outbox_events",
    consumers: &[SENDER],
    retention: Retention::WorkQueue,
    limits: Limits { entries: Some(MOST_EVENTS), ..Limits::NONE },
    when_full: WhenFull::Refuse,
    redelivery: BY_SENDER,
};

/// EDUs that must arrive and wait for other servers: messages to devices, and what is new of
/// devices and keys.
pub static OUTBOX_EDUS: Stream = Stream {
    name: "outbox_edus",
    consumers: &[SENDER],
    retention: Retention::WorkQueue,
    // A server that never comes back must not fill the disk: it keeps the newest.
    limits: Limits { entries: Some(100_000), bytes: Some(64 << 20), age: None },
    when_full: WhenFull::DropOldest,
    redelivery: BY_SENDER,
};

/// To how many servers things are sent at once.
const SENT_AT_ONCE: usize = 32;
/// How many of those that did not answer lately are tried at once, so that they hold up no other.
const TRIED_AT_ONCE: usize = 16;

/// An event that waits. Its bytes are read when it is sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WaitingEvent {
    pub room: RoomNid,
    pub event_id: OwnedEventId,
    pub position: Position,
}

/// An EDU that waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum WaitingEdu {
    /// The content of an `m.direct_to_device`.
    ToDevice(String),
    /// A device of a user of this server changed. Its keys are read when it is sent.
    Device { user: UserNid, device: OwnedDeviceId, version: u64, previous: Option<u64> },
    /// The cross-signing keys of a user of this server changed.
    CrossSigning { user: UserNid },
}

/// Everything that waits for other servers.
pub struct Outbox {
    destinations: RefCell<BTreeMap<OwnedServerName, Rc<Destination>>>,
    /// Whether there may be rooms with members of other servers.
    has_peers: Cell<bool>,
    /// Whether what waited at the start was looked for.
    pub(super) has_begun: Cell<bool>,
    pub(super) slots: Arc<Semaphore>,
    pub(super) slots_to_try: Arc<Semaphore>,
    /// Names the transactions that this process does not store.
    pub(super) run: RefCell<Option<String>>,
    pub(super) unstored: Cell<u64>,
    pub(super) news: super::passing::News,
}

/// A server that things are sent to.
pub struct Destination {
    pub(super) server: OwnedServerName,
    queues: RefCell<Option<Rc<Queues>>>,
    pub(super) passing: RefCell<Passing>,
    /// Whether somebody sends to it.
    pub(super) is_sending: Cell<bool>,
    /// Whether there may be something that the one who sends has not seen.
    pub(super) is_due: Cell<bool>,
    /// When the one who waits is to look whether it still has to.
    pub(super) woken: Event,
    /// How often it has failed since it last answered.
    pub(super) failures: Cell<u32>,
    /// How often it has refused the transaction that it gets now.
    pub(super) refusals: Cell<u32>,
    /// When it is tried again, in ms.
    pub(super) next_try: Cell<u64>,
    pub(super) last_error: RefCell<Option<String>>,
    /// Whether it answered when it was last asked; none: it was not.
    pub(super) is_reachable: Cell<Option<bool>>,
}

/// What waits durably for a destination, as one generation of the store has it.
pub(crate) struct Queues {
    pub(super) server: OwnedServerName,
    generation: u64,
    pub(super) events: Subject,
    pub(super) edus: Subject,
    stored: Rc<RefCell<StoredDestination>>,
}

/// What the owner of a node sees of a server that things are sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationStatus {
    /// The server.
    pub server: String,
    /// Whether it answered when it was last asked; none: it was not asked since the start.
    pub reachable: Option<bool>,
    /// Events and messages that wait for it.
    pub queued: u64,
    /// Whether events were dropped that it will have to catch up with.
    pub catching_up: bool,
    /// Why it did not take what it was last sent.
    pub last_error: Option<String>,
    /// When it is tried again, in ms since the epoch, where it failed.
    pub next_try: Option<u64>,
}

impl Outbox {
    pub(crate) fn new(has_peers: bool) -> Self {
        Self {
            destinations: RefCell::default(),
            has_peers: Cell::new(has_peers),
            has_begun: Cell::default(),
            slots: Arc::new(Semaphore::new(SENT_AT_ONCE)),
            slots_to_try: Arc::new(Semaphore::new(TRIED_AT_ONCE)),
            run: RefCell::default(),
            unstored: Cell::default(),
            news: super::passing::News::default(),
        }
    }

    /// Whether there may be rooms with members of other servers: where not, nobody has to be told.
    pub(crate) fn has_peers(&self) -> bool {
        self.has_peers.get()
    }

    /// A member of another server has joined a room.
    pub(crate) fn found_peers(&self) {
        self.has_peers.set(true);
    }

    pub(super) fn destination(&self, server: &ServerName) -> Rc<Destination> {
        if let Some(known) = self.known(server) {
            return known;
        }
        let destination = Rc::new(Destination::new(server.to_owned()));
        self.destinations.borrow_mut().insert(server.to_owned(), destination.clone());
        destination
    }

    pub(super) fn known(&self, server: &ServerName) -> Option<Rc<Destination>> {
        self.destinations.borrow().get(server).cloned()
    }

    pub(crate) fn status(&self) -> Vec<DestinationStatus> {
        self.destinations.borrow().values().map(|destination| destination.status()).collect()
    }
}

impl Destination {
    fn new(server: OwnedServerName) -> Self {
        Self {
            server,
            queues: RefCell::default(),
            passing: RefCell::default(),
            is_sending: Cell::default(),
            is_due: Cell::default(),
            woken: Event::new(),
            failures: Cell::default(),
            refusals: Cell::default(),
            next_try: Cell::default(),
            last_error: RefCell::default(),
            is_reachable: Cell::default(),
        }
    }

    fn at_hand(&self, generation: u64) -> Option<Rc<Queues>> {
        self.queues.borrow().clone().filter(|queues| queues.generation == generation)
    }

    fn status(&self) -> DestinationStatus {
        let queues = self.queues.borrow();
        let has_failed = self.failures.get() > 0;
        DestinationStatus {
            server: self.server.to_string(),
            reachable: self.is_reachable.get(),
            queued: queues.as_ref().map_or(0, |queues| queues.events.entries() + queues.edus.entries()),
            catching_up: queues.as_ref().is_some_and(|queues| queues.stored.borrow().missed.is_some()),
            last_error: self.last_error.borrow().clone(),
            next_try: has_failed.then(|| self.next_try.get()),
        }
    }
}

impl Queues {
    pub(super) fn stored(&self) -> StoredDestination {
        self.stored.borrow().clone()
    }

    /// Puts an event into the queue, in the transaction that makes it. Where the queue is full, all
    /// of it is dropped, and the server catches up later.
    pub(crate) fn append_event(&self, tx: &mut Tx, now: u64, event: &WaitingEvent) {
        if self.stored.borrow().missed.as_ref().is_some_and(|missed| missed.next.is_none()) {
            // What it misses is found by position.
            tx.staged().stands_on(self.generation);
        } else if self.events.append(tx, now, encoded(event)).is_err() {
            self.drop_events(tx);
        }
        self.wake(tx);
    }

    /// Puts an EDU into the queue, in the transaction that causes it.
    pub(crate) fn append_edu(&self, tx: &mut Tx, now: u64, edu: &WaitingEdu) {
        self.edus.append(tx, now, encoded(edu)).expect("a queue that drops its oldest is never full");
        self.wake(tx);
    }

    fn wake(&self, tx: &mut Tx) {
        let server = self.server.clone();
        tx.then(move |hs| hs.wake_sender(&server));
    }

    /// Drops the events that wait. From now on none is kept.
    pub(super) fn drop_events(&self, tx: &mut Tx) {
        self.events.clear(tx);
        // What is left of it that is not about events is sent anew.
        tables::OUTBOX_TRANSACTIONS.delete(tx, &self.server);
        self.change(tx, |stored| {
            let since = stored.missed.as_ref().map_or(stored.delivered, |missed| missed.since);
            stored.missed = Some(Missed { since, next: None });
        });
    }

    /// Changes what is stored of the destination.
    pub(super) fn change(&self, tx: &mut Tx, change: impl FnOnce(&mut StoredDestination)) {
        tx.staged().stands_on(self.generation);
        let before = self.stored.borrow().clone();
        change(&mut self.stored.borrow_mut());
        tables::DESTINATIONS.put(tx, &self.server, &self.stored.borrow());
        let stored = self.stored.clone();
        tx.undo(move || _ = stored.replace(before));
    }
}

fn encoded(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).expect("our own types have known lengths")
}

impl Homeserver {
    /// Whether this server sends anything to another by itself.
    pub(crate) fn tells(&self, server: &ServerName) -> bool {
        self.federates() && server != self.server_name() && self.config.federates_with.includes(server)
    }

    /// What waits for a server, if memory has it.
    pub(crate) fn queues_at_hand(&self, server: &ServerName) -> Option<Rc<Queues>> {
        self.federation.outbox.known(server)?.at_hand(self.store().generation())
    }

    /// What waits for a server. Good for as long as no write fails.
    pub(crate) async fn queues(&self, server: &ServerName) -> Result<Rc<Queues>, StoreError> {
        if let Some(known) = self.queues_at_hand(server) {
            return Ok(known);
        }
        let _lock = self.lock(LockKey::Destination(server.to_owned())).await;
        let destination = self.federation.outbox.destination(server);
        loop {
            let generation = self.store().generation();
            if let Some(known) = destination.at_hand(generation) {
                return Ok(known);
            }
            let server = server.to_owned();
            let stored = tables::DESTINATIONS.get(self.store(), &server).await?.unwrap_or_default();
            let events = self.streams.subject(self, &OUTBOX_EVENTS, server.as_str()).await?;
            let edus = self.streams.subject(self, &OUTBOX_EDUS, server.as_str()).await?;
            if self.store().generation() == generation {
                let queues = Queues { server, generation, events, edus, stored: Rc::new(RefCell::new(stored)) };
                destination.queues.replace(Some(Rc::new(queues)));
            }
        }
    }
}
