//! The mainline ordering follows power levels events back to the room's first. Where the mainlines of all events of a conflict have met, what lies
//! further back changes no order: ruma is shown the event where they meet as if nothing came before it.

use super::{super::pdu::Pdu, known::Gather};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, UserId,
    events::{StateEventType, TimelineEventType},
    state_res::Event,
};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// An event as ruma sees it.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pdu: &'a Pdu,
    is_cut: bool,
}

impl<'a> View<'a> {
    pub(super) fn new(pdu: &'a Pdu, cut: Option<&OwnedEventId>) -> Self {
        Self { pdu, is_cut: cut == Some(&pdu.event_id) }
    }
}

/// Where the mainlines of these events meet, if that event is outside the full conflicted set.
pub(super) fn mainline_cut<'k>(full: &[&'k Pdu], unconflicted: impl Iterator<Item = &'k OwnedEventId>, gather: &Gather<'k>) -> Option<OwnedEventId> {
    let mut waiting: BTreeMap<(u64, &EventId), &Pdu> = BTreeMap::new();
    let is_power_levels = |event: &Pdu| event.is_at(&StateEventType::RoomPowerLevels, "");
    let starts = full.iter().copied().chain(unconflicted.filter_map(|id| gather.event(id)).filter(|event| is_power_levels(event)));
    for event in starts {
        waiting.insert((event.generation, &event.event_id), event);
    }
    while let Some((_, event)) = waiting.pop_last() {
        let is_last = waiting.is_empty();
        if is_last && is_power_levels(event) && event.generation > 0 && !full.iter().any(|f| f.event_id == event.event_id) {
            return Some(event.event_id.clone());
        }
        let auth_events = event.auth_events.iter().filter_map(|id| gather.event(id));
        if let Some(before) = { auth_events }.find(|event| is_power_levels(event)) {
            waiting.insert((before.generation, &before.event_id), before);
        }
    }
    None
}

impl Event for View<'_> {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.pdu.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.pdu.room_id()
    }

    fn sender(&self) -> &UserId {
        &self.pdu.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.pdu.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.pdu.event_type
    }

    fn content(&self) -> &RawValue {
        &self.pdu.content
    }

    fn state_key(&self) -> Option<&str> {
        self.pdu.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.pdu.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        let auth_events = if self.is_cut { &[][..] } else { &self.pdu.auth_events };
        Box::new(auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.pdu.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.pdu.rejected
    }
}
