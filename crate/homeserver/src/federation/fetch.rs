//! Events that are asked of other servers, of one room: read, verified, and of that room.

use super::client::{AskError, PATIENCE};
use crate::{
    homeserver::Homeserver,
    room::{self, RoomInfo},
    time_slice::TimeSlice,
};
use ephapse_events::{Pdu, ReceivedPdu};
use futures_util::{StreamExt, stream};
use ruma::{
    OwnedEventId, OwnedServerName, ServerName,
    api::federation::{
        authorization::get_event_authorization,
        event::{get_event, get_room_state, get_room_state_ids},
    },
};
use serde_json::value::RawValue;
use std::{collections::HashSet, pin::pin, rc::Rc, time::Duration};

/// Servers of a room that are asked for the same, one after the other.
const MOST_CANDIDATES: usize = 4;
/// Events that are asked for at once, each by a request of its own.
const ASKED_AT_ONCE: usize = 8;
/// So many events are asked for one by one; of more, all of the state they belong to is.
const ONE_BY_ONE: usize = 100;
/// Bytes of a room's state as another server tells it.
const LARGEST_STATE: usize = 64 << 20;
/// How often what is missing of a state is asked for. An event that is only late must not be left
/// out: the room would be another one here from then on.
const STATE_ROUNDS: usize = 3;
/// How long one waits before the next time.
const ROUND_PAUSE: Duration = Duration::from_secs(2);
/// How often one asks for the auth events of auth events that came.
const AUTH_ROUNDS: usize = 16;

/// A room, and the servers that are asked for what is missing of it here.
pub struct Asking<'a> {
    pub hs: &'a Rc<Homeserver>,
    pub room: &'a Rc<RoomInfo>,
    /// The first one is asked first.
    pub servers: Vec<OwnedServerName>,
}

impl<'a> Asking<'a> {
    /// Asks `first`, and where that fails other servers in the room.
    pub async fn of(hs: &'a Rc<Homeserver>, room: &'a Rc<RoomInfo>, first: impl IntoIterator<Item = OwnedServerName>) -> Result<Self, room::Error> {
        let mut servers: Vec<OwnedServerName> = Vec::new();
        let others = hs.servers_in(room.nid).await?;
        for server in first.into_iter().chain(others.keys().cloned()) {
            if servers.len() < MOST_CANDIDATES && server != hs.server_name() && !servers.contains(&server) {
                servers.push(server);
            }
        }
        Ok(Self { hs, room, servers })
    }

    /// What the first server says that does not fail.
    ///
    /// # Errors
    /// The last failure, in words.
    pub async fn ask<T>(&self, ask: impl AsyncFn(&ServerName) -> Result<T, AskError>) -> Result<T, String> {
        self.hs.ask_any(&self.servers, ask, |_| false).await.map_err(|last| match last {
            Some((server, error)) => format!("{server}: {error}"),
            None => "no other server is in the room".to_owned(),
        })
    }

    /// Those of the events that another server told which are of this room and signed as they must
    /// be (checks 1 to 3 on receipt of a PDU).
    pub async fn verified(&self, told: &[Box<RawValue>]) -> Result<Vec<Pdu>, String> {
        let (hs, rules) = (self.hs, &self.room.rules);
        let slice = TimeSlice::new(&*hs.host);
        let mut events = Vec::with_capacity(told.len());
        for event in told {
            events.extend(ReceivedPdu::parse(event.get().as_bytes(), rules).ok().filter(|event| event.unverified().room_id == self.room.id));
            slice.step().await;
        }
        hs.verified_events(events, rules).await.map_err(|error| error.to_string())
    }

    /// What the state before an event consists of, as another server says.
    pub async fn state_ids(&self, event: &OwnedEventId) -> Result<get_room_state_ids::v1::Response, String> {
        let request = get_room_state_ids::v1::Request::new(event.clone(), self.room.id.clone());
        self.ask(async |server| {
            let told = self.hs.ask(server, request.clone()).await?;
            // Others may know it.
            if told.pdu_ids.is_empty() { Err(AskError::Malformed("it does not know the state".to_owned())) } else { Ok(told) }
        })
        .await
    }

    /// Those of `ids` that are not here in any way.
    pub async fn absent<'b>(&self, ids: impl IntoIterator<Item = &'b OwnedEventId>) -> Result<Vec<OwnedEventId>, room::Error> {
        let slice = TimeSlice::new(&*self.hs.host);
        let (mut absent, mut seen) = (Vec::new(), HashSet::new());
        for id in ids {
            if seen.insert(id) && self.hs.find_event(id).await?.is_none() {
                absent.push(id.clone());
            }
            slice.step().await;
        }
        Ok(absent)
    }

    /// Takes in what is missing of the state before `at`: those of `state` and `auth_chain`, which
    /// another server says it consists of, and what authorizes them. They are outliers here.
    pub async fn fetch_state(&self, at: &OwnedEventId, state: &[OwnedEventId], auth_chain: &[OwnedEventId]) -> Result<(), String> {
        for round in 0..STATE_ROUNDS {
            let absent = self.absent(state.iter().chain(auth_chain)).await.map_err(|error| error.to_string())?;
            if absent.is_empty() {
                break;
            }
            if round > 0 {
                self.hs.host.sleep(ROUND_PAUSE).await;
            }
            self.fetch_absent(at, absent).await?;
        }
        Ok(())
    }

    async fn fetch_absent(&self, at: &OwnedEventId, absent: Vec<OwnedEventId>) -> Result<(), String> {
        let events = if absent.len() > ONE_BY_ONE {
            let request = get_room_state::v1::Request::new(at.clone(), self.room.id.clone());
            let told = self.ask(async |server| self.hs.ask_within(server, request.clone(), 2 * PATIENCE, LARGEST_STATE).await).await?;
            let absent: HashSet<_> = absent.into_iter().collect();
            let mut events = self.verified(&told.auth_chain).await?;
            events.extend(self.verified(&told.pdus).await?);
            events.retain(|event| absent.contains(&event.event_id));
            events
        } else {
            self.events(&absent).await?
        };
        self.add_outliers(events).await
    }

    /// Takes in what is missing of the auth events of `event`.
    pub async fn fetch_auth_chain(&self, event: &Pdu) -> Result<(), String> {
        let request = get_event_authorization::v1::Request::new(self.room.id.clone(), event.event_id.clone());
        let told = self.ask(async |server| self.hs.ask(server, request.clone()).await).await?;
        let events = self.verified(&told.auth_chain).await?;
        self.add_outliers(events).await
    }

    /// Events by their ids, as far as they can be had.
    pub async fn events(&self, ids: &[OwnedEventId]) -> Result<Vec<Pdu>, String> {
        let told = stream::iter(ids).map(|id| async move {
            let request = get_event::v1::Request::new(id.clone());
            self.ask(async |server| self.hs.ask(server, request.clone()).await).await.map(|answer| answer.pdu).ok()
        });
        let mut told = pin!(told.buffer_unordered(ASKED_AT_ONCE));
        let mut pdus = Vec::new();
        while let Some(pdu) = told.next().await {
            pdus.extend(pdu);
        }
        let mut events = self.verified(&pdus).await?;
        events.retain(|event| ids.contains(&event.event_id));
        Ok(events)
    }

    /// Takes in events that are not here, each after those that authorize it, which are fetched
    /// where they are missing too.
    pub async fn add_outliers(&self, mut events: Vec<Pdu>) -> Result<(), String> {
        for _ in 0..AUTH_ROUNDS {
            let among: HashSet<&OwnedEventId> = events.iter().map(|event| &event.event_id).collect();
            let auth_events = events.iter().flat_map(|event| &event.auth_events).filter(|id| !among.contains(id));
            let absent = self.absent(auth_events).await.map_err(|error| error.to_string())?;
            if absent.is_empty() || absent.len() > ONE_BY_ONE {
                break;
            }
            let more = self.events(&absent).await?;
            if more.is_empty() {
                break;
            }
            events.extend(more);
        }
        self.hs.add_outliers(self.room, room::by_auth_events(events)).await.map_err(|error| error.to_string())
    }
}
