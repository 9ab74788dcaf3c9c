//! Ways along a room's graph, from events to those before them (Server-Server API, "Backfilling and
//! retrieving missing events").

use super::{error::Result, event::Event, rooms::RoomInfo};
use crate::{homeserver::Homeserver, time_slice::TimeSlice};
use ruma::{EventId, OwnedEventId};
use std::{
    collections::{BTreeMap, HashSet},
    rc::Rc,
};

/// Events that are looked at for each that is wanted, where most are none to be shown.
const LOOKED_AT: usize = 20;

impl Homeserver {
    /// Events of a room by their ids, as far as they are here, in no particular order.
    pub async fn events_by_id(&self, room: &RoomInfo, ids: impl IntoIterator<Item = &EventId>) -> Result<Vec<Rc<Event>>> {
        let mut positions = Vec::new();
        for id in ids {
            positions.extend(self.find_event(id).await?.filter(|(nid, _)| *nid == room.nid).map(|(_, position)| position));
        }
        Ok(self.events_at(room.nid, &positions).await?.into_iter().flatten().collect())
    }

    /// At most `limit` events, those at `from` and what came before them, by their depth from the
    /// newest: without those that were rejected, and as far back as they are known here.
    pub async fn before(&self, room: &RoomInfo, from: &[OwnedEventId], limit: usize) -> Result<Vec<Rc<Event>>> {
        let mut seen: HashSet<OwnedEventId> = from.iter().cloned().collect();
        let mut rest = BTreeMap::new();
        let mut found = Vec::new();
        let slice = TimeSlice::new(&*self.host);
        let mut next: Vec<OwnedEventId> = seen.iter().cloned().collect();
        for _ in 0..LOOKED_AT * limit {
            let events = self.events_by_id(room, next.iter().map(|id| &**id)).await?;
            rest.extend(events.into_iter().filter(|event| !event.is_outlier()).map(|event| ((event.pdu.depth, event.position), event)));
            let Some((_, event)) = rest.pop_last() else { break };
            next = event.pdu.prev_events.iter().filter(|id| seen.insert((*id).clone())).cloned().collect();
            if event.rejected.is_none() {
                found.push(event);
            }
            if found.len() == limit {
                break;
            }
            slice.step().await;
        }
        Ok(found)
    }

    /// At most `limit` events that lead from `earliest` to `latest`, neither of these among them,
    /// the oldest first: those nearest to `latest` where there are more. None that was rejected,
    /// and none of a depth below `min_depth`.
    pub async fn between(
        &self,
        room: &RoomInfo,
        earliest: &[OwnedEventId],
        latest: &[OwnedEventId],
        min_depth: u64,
        limit: usize,
    ) -> Result<Vec<Rc<Event>>> {
        let mut seen: HashSet<OwnedEventId> = earliest.iter().chain(latest).cloned().collect();
        let mut front = self.events_by_id(room, latest.iter().map(|id| &**id)).await?;
        let mut found: Vec<Rc<Event>> = Vec::new();
        let mut looked_at = 0;
        let slice = TimeSlice::new(&*self.host);
        while !front.is_empty() && found.len() < limit && looked_at < LOOKED_AT * limit {
            let next: Vec<OwnedEventId> =
                front.iter().flat_map(|event| &event.pdu.prev_events).filter(|id| seen.insert((*id).clone())).cloned().collect();
            front = self.events_by_id(room, next.iter().map(|id| &**id)).await?;
            front.retain(|event| !event.is_outlier() && event.pdu.depth >= min_depth);
            front.sort_by_key(|event| std::cmp::Reverse((event.pdu.depth, event.position)));
            front.truncate(LOOKED_AT * limit);
            looked_at += front.len();
            found.extend(front.iter().filter(|event| event.rejected.is_none()).cloned());
            slice.step().await;
        }
        found.truncate(limit);
        found.reverse();
        Ok(found)
    }
}
