//! History from before what is here, which is fetched when a client reads that far back
//! (Server-Server API, "Backfilling and retrieving missing events").

use super::{client::AskError, fetch::Asking, missing::by_parents};
use crate::{
    homeserver::Homeserver,
    locks::LockKey,
    position::Position,
    room::{self, Event, RoomInfo, Viewer},
};
use ephapse_events::Pdu;
use ephapse_store::Direction;
use futures_util::future::{Either, select};
use ruma::{OwnedEventId, UInt, api::federation::backfill::get_backfill};
use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    rc::Rc,
    time::Duration,
};

/// Events that are asked for at once, and added in one decision.
const LIMIT: u32 = 100;
/// Events that are taken of an answer.
const MOST: usize = 2 * LIMIT as usize;
/// Ids that a request names.
const MOST_NAMED: usize = 20;
/// Of how many events another server is asked what was before them.
const MOST_STATES: usize = 4;
/// How long a client waits for other servers.
const PATIENCE: Duration = Duration::from_secs(15);

/// Fetches more of a room's history, where other servers have some that the user may see; says
/// whether any came. Who does not see the oldest event here sees none before it.
pub async fn goes_on_elsewhere(hs: &Rc<Homeserver>, room: &Rc<RoomInfo>, viewer: &mut Viewer) -> Result<bool, room::Error> {
    let Some(oldest) = oldest(hs, room).await? else { return Ok(false) };
    if oldest.is_shown() && !viewer.sees(hs, &oldest).await? {
        return Ok(false);
    }
    fetch_history(hs, room).await
}

/// The oldest event of a room that is here.
pub async fn oldest(hs: &Homeserver, room: &RoomInfo) -> Result<Option<Rc<Event>>, room::Error> {
    Ok(hs.events_between(room.nid, Position::LAST_OUTLIER..Position::MAX, Direction::Forward, 1).await?.pop())
}

/// Fetches some of a room's history from before what is here; says whether any came. A client waits
/// for it, but not for long.
pub async fn fetch_history(hs: &Rc<Homeserver>, room: &Rc<RoomInfo>) -> Result<bool, room::Error> {
    if hs.missing_parents(room.nid).await?.is_empty() {
        return Ok(false);
    }
    let fetched = match select(pin!(fetch(hs, room)), hs.host.sleep(PATIENCE)).await {
        Either::Left((fetched, _)) => fetched,
        Either::Right(_) => Err("nobody answers in time".to_owned()),
    };
    if let Err(error) = &fetched {
        tracing::info!("history of {} could not be fetched: {error}", room.id);
    }
    Ok(fetched.unwrap_or(false))
}

async fn fetch(hs: &Rc<Homeserver>, room: &Rc<RoomInfo>) -> Result<bool, String> {
    let words = |error: room::Error| error.to_string();
    let before = hs.missing_parents(room.nid).await.map_err(words)?;
    let _one_at_a_time = hs.lock(LockKey::Backfill(room.nid)).await;
    let missing = hs.missing_parents(room.nid).await.map_err(words)?;
    if missing.is_empty() || missing != before || !hs.is_resident(room.nid).await.map_err(words)? {
        // Somebody else has fetched it meanwhile.
        return Ok(missing != before);
    }
    let asking = Asking::of(hs, room, []).await.map_err(words)?;
    let named: Vec<OwnedEventId> = missing.into_iter().take(MOST_NAMED).collect();
    let request = get_backfill::v1::Request::new(room.id.clone(), named.clone(), UInt::from(LIMIT));
    let mut told = asking
        .ask(async |server| {
            let told = hs.ask(server, request.clone()).await?.pdus;
            // It may have begun where this server did: others may have more.
            if told.is_empty() { Err(AskError::Malformed("it has nothing of what was before".to_owned())) } else { Ok(told) }
        })
        .await?;
    told.truncate(MOST);
    let events = new_history(&asking, named, &told).await?;
    let states = states_before(&asking, &events).await?;
    let ordered: Vec<Pdu> = by_parents(&events).into_iter().cloned().collect();
    let generation = hs.begin_reading();
    let came = hs.write_room(room, generation, |write| write.prepend(&ordered, &states)).await.map_err(words)?;
    Ok(came > 0)
}

/// Those of the events that another server told which are not here and lead to `named`.
async fn new_history(asking: &Asking<'_>, named: Vec<OwnedEventId>, told: &[Box<serde_json::value::RawValue>]) -> Result<Vec<Pdu>, String> {
    let mut told = asking.verified(told).await?;
    told.sort_by_key(|event| std::cmp::Reverse(event.depth));
    let mut wanted: HashSet<OwnedEventId> = named.into_iter().collect();
    let mut events = Vec::new();
    for event in told {
        let found = asking.hs.find_event(&event.event_id).await.map_err(|error| error.to_string())?;
        let is_here = found.is_some_and(|(nid, position)| nid == asking.room.nid && !position.is_outlier());
        if wanted.contains(&event.event_id) && !is_here {
            wanted.extend(event.prev_events.iter().cloned());
            events.push(event);
        }
    }
    Ok(events)
}

/// What other servers say was before those of the events whose parents are not here either.
async fn states_before(asking: &Asking<'_>, events: &[Pdu]) -> Result<HashMap<OwnedEventId, Vec<OwnedEventId>>, String> {
    let mut states = HashMap::new();
    let mut here: HashSet<OwnedEventId> = events.iter().map(|event| event.event_id.clone()).collect();
    for event in by_parents(events) {
        let mut has_parents = true;
        for parent in &event.prev_events {
            let is_known = asking.hs.has_state_after(asking.room.nid, parent).await.map_err(|error| error.to_string())?;
            has_parents &= here.contains(parent) || is_known;
        }
        if !asking.absent(&event.auth_events).await.map_err(|error| error.to_string())?.is_empty() {
            asking.fetch_auth_chain(event).await.ok();
        }
        if has_parents {
            continue;
        }
        let told = if states.len() < MOST_STATES { asking.state_ids(&event.event_id).await.ok() } else { None };
        match told {
            Some(told) => {
                asking.fetch_state(&event.event_id, &told.pdu_ids, &told.auth_chain_ids).await?;
                states.insert(event.event_id.clone(), told.pdu_ids);
            }
            // What is built on it alone stays out too.
            None => drop(here.remove(&event.event_id)),
        }
    }
    Ok(states)
}
