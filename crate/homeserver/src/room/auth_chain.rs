//! What events stand on: their auth events, the auth events of those, and so on.

use super::{error::Result, rooms::RoomInfo};
use crate::{homeserver::Homeserver, position::Position, tables, time_slice::TimeSlice};
use ruma::{OwnedEventId, events::StateEventType};
use std::collections::{BTreeSet, HashSet};

/// How many events are looked at at once.
const PORTION: usize = 256;

impl Homeserver {
    /// Where the events stand that are in the auth chains of the events at `positions`; those
    /// themselves only where another one stands on them. What is not here is left out.
    pub async fn auth_chain(&self, room: &RoomInfo, positions: &[Position]) -> Result<BTreeSet<Position>> {
        let slice = TimeSlice::new(&*self.host);
        let mut chain = BTreeSet::new();
        let mut seen: HashSet<OwnedEventId> = HashSet::new();
        let mut rest: Vec<Position> = positions.to_vec();
        while !rest.is_empty() {
            let portion = rest.split_off(rest.len().saturating_sub(PORTION));
            let mut ids = Vec::new();
            for event in self.events_at(room.nid, &portion).await?.into_iter().flatten() {
                ids.extend(event.pdu.auth_events.iter().filter(|id| seen.insert((*id).clone())).cloned());
            }
            for ids in ids.chunks(PORTION) {
                let found = tables::EVENT_IDS.get_many(self.store(), ids).await?;
                let found = found.into_iter().flatten().filter(|(nid, _)| *nid == room.nid).map(|(_, position)| position);
                rest.extend(found.filter(|position| chain.insert(*position)));
            }
            slice.check().await;
        }
        // Since v12 it is no auth event, but every event stands on it.
        if room.rules.authorization.room_create_event_id_as_room_id && !positions.is_empty() {
            chain.extend(self.room_head(room.nid).await?.create);
        }
        Ok(chain)
    }

    /// Where the events stand that are the state of a root.
    pub async fn state_positions(&self, room: &RoomInfo, root: super::state_tree::NodeId) -> Result<Vec<Position>> {
        let entries = self.state_entries(room.nid, root, super::state_tree::Part::All).await?;
        let is_create = |key: &ephapse_events::StateKey| key.0 == StateEventType::RoomCreate;
        // The create event first, as others stand on it.
        let (create, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(key, _)| is_create(key));
        Ok(create.into_iter().chain(others).map(|(_, position)| position).collect())
    }
}
