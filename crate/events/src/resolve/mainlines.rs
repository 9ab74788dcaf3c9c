//! The mainline ordering follows power levels events back to the room's first. Where the mainlines
//! of all events of a conflict have met, what lies further back changes no order: the event where
//! they meet is taken as if nothing came before it.

use super::known::{Gather, Waiting};
use crate::{Inserted, Pdu};
use ruma::{OwnedEventId, events::StateEventType};
use std::collections::{BTreeSet, HashSet};

/// The walk along the mainlines of a full conflicted set, to where they meet.
pub(super) struct Mainlines {
    full: HashSet<OwnedEventId>,
    waiting: BTreeSet<(u64, OwnedEventId)>,
    cut: Option<OwnedEventId>,
}

impl Mainlines {
    /// From these events and from the power levels that are not in conflict.
    pub(super) fn begin(full: &[&Pdu], power_levels: Option<&Pdu>) -> Self {
        Self {
            full: full.iter().map(|event| event.event_id.clone()).collect(),
            waiting: full.iter().copied().chain(power_levels).map(|event| (event.auth_depth, event.event_id.clone())).inserted(),
            cut: None,
        }
    }

    /// The event where they meet, if it is outside the full conflicted set; None if they do not.
    pub(super) fn meet(&mut self, gather: &Gather<'_>) -> Result<Option<OwnedEventId>, Waiting> {
        while let (None, Some((auth_depth, id))) = (&self.cut, self.waiting.last().cloned()) {
            let event = gather.event(&id).ok_or(Waiting)?;
            let is_last = self.waiting.len() == 1;
            if is_last && auth_depth > 0 && is_power_levels(event) && !self.full.contains(&id) {
                self.cut = Some(id);
                break;
            }
            let auth_events: Vec<Option<&Pdu>> = event.auth_events.iter().map(|id| gather.event(id)).collect();
            if auth_events.iter().any(Option::is_none) {
                return Err(Waiting);
            }
            self.waiting.pop_last();
            let before = auth_events.into_iter().flatten().find(|event| is_power_levels(event));
            self.waiting.extend(before.map(|event| (event.auth_depth, event.event_id.clone())));
        }
        Ok(self.cut.clone())
    }
}

/// Whether it is the room's power levels.
pub(super) fn is_power_levels(event: &Pdu) -> bool {
    event.is_at(&StateEventType::RoomPowerLevels, "")
}
