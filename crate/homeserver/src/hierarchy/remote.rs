//! Rooms that this server is not in, as those describe them that are (Server-Server API, "Spaces").

use super::{Child, Described};
use crate::{
    cache::Cache,
    federation::client::{AskError, LARGEST_ANSWER},
    homeserver::Homeserver,
    summaries::RoomSummary,
};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName, api::federation::space::get_hierarchy};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{cell::RefCell, rc::Rc, time::Duration};

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many servers are asked of one room.
const MOST_ASKED: usize = 3;
/// How long an answer counts, also that there was none, in ms: as other servers keep it.
const LIFETIME: u64 = 5 * 60 * 1000;
/// Bytes of answers that are kept.
const CACHED_BYTES: usize = 2 << 20;
/// Rooms below a space of which one answer tells.
const MOST_TOLD: usize = 1_000;

/// What another server says of a room and of those below it.
#[derive(Debug)]
pub struct Told {
    /// The room.
    pub room: Described,
    /// The rooms that it leads to, as far as the other server knows them.
    pub children: Vec<RoomSummary>,
    /// Those of them that this server may not know of.
    pub inaccessible: Vec<OwnedRoomId>,
}

impl Told {
    fn weight(&self) -> usize {
        self.room.weight() + self.children.iter().map(RoomSummary::weight).sum::<usize>() + 64 * self.inaccessible.len()
    }
}

/// The room, whether only suggested rooms below it are told, and who was asked: what one server
/// says stands for no other.
type Key = (OwnedRoomId, bool, Vec<OwnedServerName>);

/// What was told lately, each with when it was, in ms; also that nobody said anything.
pub struct Answers(RefCell<Cache<Key, At>>);

/// What was told, and when.
type At = (u64, Option<Rc<Told>>);

impl Default for Answers {
    fn default() -> Self {
        Self(RefCell::new(Cache::new(CACHED_BYTES)))
    }
}

impl Answers {
    /// Bytes that it takes, roughly.
    pub fn bytes(&self) -> usize {
        self.0.borrow().bytes()
    }

    fn get(&self, key: &Key, now: u64) -> Option<Option<Rc<Told>>> {
        let (at, told) = self.0.borrow_mut().get(key)?;
        (now < at + LIFETIME).then_some(told)
    }

    fn put(&self, key: Key, now: u64, told: Option<Rc<Told>>) {
        let servers: usize = key.2.iter().map(|server| 32 + server.as_str().len()).sum();
        let weight = key.0.as_str().len() + servers + told.as_ref().map_or(0, |told| told.weight());
        self.0.borrow_mut().insert(key, (now, told), weight);
    }
}

fn key(hs: &Homeserver, room: &RoomId, suggested_only: bool, via: &[OwnedServerName]) -> Key {
    let others = via.iter().filter(|server| *server != hs.server_name()).take(MOST_ASKED).cloned();
    (room.to_owned(), suggested_only, others.collect())
}

/// What these servers said of a room in the last minutes: `Some(None)`, that it was nothing.
pub fn known(hs: &Homeserver, room: &RoomId, suggested_only: bool, via: &[OwnedServerName]) -> Option<Option<Rc<Told>>> {
    let key = key(hs, room, suggested_only, via);
    if key.2.is_empty() { Some(None) } else { hs.federation.hierarchies.get(&key, hs.host.now()) }
}

/// Asks servers for a room, one after the other; none, if none says anything of it.
pub async fn ask(hs: &Homeserver, room: &RoomId, suggested_only: bool, via: &[OwnedServerName]) -> Option<Rc<Told>> {
    if let Some(told) = known(hs, room, suggested_only, via) {
        return told;
    }
    let key = key(hs, room, suggested_only, via);
    let told = hs.ask_any(&key.2, async |server| ask_one(hs, server, room, suggested_only).await, |_| false).await;
    let told = told.ok().map(Rc::new);
    hs.federation.hierarchies.put(key, hs.host.now(), told.clone());
    told
}

async fn ask_one(hs: &Homeserver, server: &ServerName, room: &RoomId, suggested_only: bool) -> Result<Told, AskError> {
    #[derive(Deserialize)]
    struct Answer {
        room: Box<RawValue>,
        #[serde(default)]
        children: Vec<Box<RawValue>>,
        #[serde(default)]
        inaccessible_children: Vec<Box<RawValue>>,
    }
    #[derive(Default, Deserialize)]
    struct Children {
        #[serde(default)]
        children_state: Vec<Box<RawValue>>,
    }
    let mut request = get_hierarchy::v1::Request::new(room.to_owned());
    request.suggested_only = suggested_only;
    let answer: Answer = hs.ask_for(server, request, PATIENCE, LARGEST_ANSWER).await?;
    let summary: RoomSummary = serde_json::from_str(answer.room.get()).map_err(|error| AskError::Malformed(error.to_string()))?;
    if summary.room_id != room {
        return Err(AskError::Malformed("it is about another room".to_owned()));
    }
    let children: Children = serde_json::from_str(answer.room.get()).unwrap_or_default();
    let children = children.children_state.iter().filter_map(|child| Child::told(child.get()));
    Ok(Told {
        room: Described { children_state: super::in_order(children.filter(|child| !suggested_only || child.is_suggested())), summary },
        children: readable(&answer.children),
        inaccessible: readable(&answer.inaccessible_children),
    })
}

/// Those of many that are what they should be.
fn readable<T: serde::de::DeserializeOwned>(many: &[Box<RawValue>]) -> Vec<T> {
    many.iter().take(MOST_TOLD).filter_map(|one| serde_json::from_str(one.get()).ok()).collect()
}
