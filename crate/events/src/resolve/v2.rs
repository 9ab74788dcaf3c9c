//! State resolution since room version 2 (rooms/v2.md, v12.md "State resolution"), from the full
//! conflicted set on.

use super::{Unresolved, judgements::Judgements, known::Gather, mainlines::is_power_levels};
use crate::{
    Pdu, StateKey,
    auth::{PowerLevels, in_state},
    create_of_room,
};
use ruma::{
    Int, OwnedEventId,
    events::{
        StateEventType, TimelineEventType,
        room::{member::MembershipState, power_levels::UserPowerLevel},
    },
    room_version_rules::AuthorizationRules,
    state_res::{
        StateMap, auth_types_for_event,
        events::RoomMemberEvent,
        reverse_topological_power_sort,
        utils::{event_id_map::EventIdMap, event_id_set::EventIdSet},
    },
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// Events, each with those of its auth events that are among them.
type Graph = EventIdMap<OwnedEventId, EventIdSet<OwnedEventId>>;

/// What the steps of the algorithm go by.
pub(super) struct Steps<'a, 'k> {
    pub(super) rules: &'a AuthorizationRules,
    pub(super) gather: &'a Gather<'k>,
    /// Nothing that comes before this event in the mainlines changes an order.
    pub(super) cut: Option<OwnedEventId>,
    pub(super) judgements: &'a mut Judgements,
}

impl<'k> Steps<'_, 'k> {
    /// The state that `start` becomes by the events of the full conflicted set.
    pub(super) fn resolve(&mut self, full: &BTreeSet<OwnedEventId>, start: StateMap<OwnedEventId>) -> Result<StateMap<OwnedEventId>, Unresolved> {
        self.judgements.begin();
        let events: Vec<&'k Pdu> = full.iter().filter_map(|id| self.gather.event(id)).collect();
        self.gather.complete()?;
        let graph = self.power_events(&events, full)?;
        let (power, rest): (Vec<&Pdu>, Vec<&Pdu>) = events.into_iter().partition(|event| graph.contains_event_id(&event.event_id));
        let power = self.in_power_order(power, &graph)?;
        let state = self.check_iteratively(&power, start)?;
        let rest = self.in_mainline_order(rest, state.get(&(StateEventType::RoomPowerLevels, String::new())))?;
        self.check_iteratively(&rest, state)
    }

    /// The power events, and those of their auth chains that are in the full conflicted set.
    fn power_events(&mut self, events: &[&'k Pdu], full: &BTreeSet<OwnedEventId>) -> Result<Graph, Unresolved> {
        let mut graph = EventIdMap::new();
        let mut up: Vec<&Pdu> = Vec::new();
        for event in events {
            if self.judgements.allow(|| Ok((is_power_event(event), event.content.get().len())))? {
                up.push(event);
            }
        }
        while let Some(event) = up.pop() {
            if graph.contains_event_id(&event.event_id) {
                continue;
            }
            let auth_events = event.auth_events.iter().filter(|id| full.contains(*id));
            up.extend(auth_events.clone().filter_map(|id| self.gather.event(id)));
            graph.insert(event.event_id.clone(), auth_events.cloned().collect());
        }
        self.gather.complete()?;
        Ok(graph)
    }

    /// "Reverse topological power ordering".
    fn in_power_order(&mut self, events: Vec<&'k Pdu>, graph: &Graph) -> Result<Vec<&'k Pdu>, Unresolved> {
        let mut order = EventIdMap::new();
        for event in events {
            let level = self.senders_level(event)?;
            order.insert(event.event_id.clone(), (level, event.origin_server_ts));
        }
        let not_found = |id: &ruma::EventId| ruma::state_res::Error::NotFound(id.to_owned());
        let sorted = reverse_topological_power_sort(graph, |id| order.get(id).copied().ok_or_else(|| not_found(id)));
        let sorted = sorted.map_err(|error| Unresolved::Failed(error.to_string()))?;
        Ok(sorted.iter().filter_map(|id| self.gather.event(id)).collect())
    }

    /// The power level of an event's sender by its auth events.
    fn senders_level(&mut self, event: &'k Pdu) -> Result<UserPowerLevel, Unresolved> {
        let Self { rules, gather, judgements, .. } = self;
        let level = judgements.make(|| {
            let auth_events: Vec<&Arc<Pdu>> = event.auth_events.iter().filter_map(|id| gather.shared(id)).collect();
            let levels = auth_events.iter().copied().find(|event| is_power_levels(event));
            let create = match create_of_room(&event.room_id).filter(|_| rules.room_create_event_id_as_room_id) {
                Some(id) => gather.shared(&id),
                None => auth_events.iter().copied().chain(gather.shared(&event.event_id)).find(|event| event.is_create()),
            };
            gather.complete()?;
            let level = create.map_or(Ok(0), |create| PowerLevels::new(create.clone(), levels.cloned(), rules)?.user(&event.sender));
            Ok((level.unwrap_or(0), levels.map_or(0, |levels| levels.content.get().len())))
        })?;
        Ok(if level == i64::MAX { UserPowerLevel::Infinite } else { Int::new_saturating(level).into() })
    }

    /// "Iterative auth checks": each event in order takes its place if the rules allow it.
    fn check_iteratively(&mut self, events: &[&'k Pdu], mut state: StateMap<OwnedEventId>) -> Result<StateMap<OwnedEventId>, Unresolved> {
        for event in events {
            let Some(key) = event.key() else { continue };
            if self.is_allowed(event, &state)? {
                state.insert(key, event.event_id.clone());
            }
        }
        Ok(state)
    }

    fn is_allowed(&mut self, event: &'k Pdu, state: &StateMap<OwnedEventId>) -> Result<bool, Unresolved> {
        let Self { rules, gather, judgements, .. } = self;
        judgements.allow(|| {
            let bytes = event.content.get().len();
            let keys = auth_types_for_event(&event.event_type, &event.sender, event.state_key.as_deref(), &event.content, rules);
            let Ok(keys) = keys else { return Ok((false, bytes)) };
            // "If a (event_type, state_key) key that is required for checking the authorization
            // rules is not present in the state, then the appropriate state event from the event's
            // auth_events is used if the auth event is not rejected."
            let mut read: HashMap<StateKey, &Arc<Pdu>> = HashMap::new();
            let named = event.auth_events.iter().filter_map(|id| gather.shared(id)).filter(|event| !event.rejected);
            read.extend(named.filter_map(|event| Some((event.key()?, event))));
            // Since v12 the create event is implied by the room's id.
            if rules.room_create_event_id_as_room_id
                && let Some(create) = create_of_room(&event.room_id).and_then(|id| gather.shared(&id))
            {
                read.insert((StateEventType::RoomCreate, String::new()), create);
            }
            for key in keys {
                let event = state.get(&key).and_then(|id| gather.shared(id)).filter(|event| !event.rejected);
                read.extend(event.map(|event| (key, event)));
            }
            gather.complete()?;
            let bytes = bytes + read.values().map(|event| event.content.get().len()).sum::<usize>();
            let fetch =
                |event_type: &StateEventType, state_key: &str| read.get(&(event_type.clone(), state_key.to_owned())).map(|event| Arc::clone(event));
            Ok((in_state(rules, event, &fetch).is_ok(), bytes))
        })
    }

    /// "Mainline ordering" by the power levels of the partially resolved state.
    fn in_mainline_order(&self, mut events: Vec<&'k Pdu>, power_levels: Option<&OwnedEventId>) -> Result<Vec<&'k Pdu>, Unresolved> {
        let mut mainline = Vec::new();
        let mut next = power_levels.and_then(|id| self.gather.event(id));
        while let Some(levels) = next {
            mainline.push(&levels.event_id);
            next = self.levels_before(levels);
        }
        // From the room's first on; 0 is before them all.
        let mut places: HashMap<&OwnedEventId, usize> = mainline.into_iter().rev().zip(1..).collect();
        for event in &events {
            let (mut path, mut next, mut place) = (Vec::new(), Some(*event), 0);
            while let Some(event) = next {
                if let Some(known) = places.get(&event.event_id) {
                    place = *known;
                    break;
                }
                path.push(&event.event_id);
                next = self.levels_before(event);
            }
            places.extend(path.into_iter().map(|id| (id, place)));
        }
        self.gather.complete()?;
        events.sort_by_key(|&event| (places.get(&event.event_id), event.origin_server_ts, &event.event_id));
        Ok(events)
    }

    /// The power levels event among an event's auth events.
    fn levels_before(&self, event: &Pdu) -> Option<&'k Pdu> {
        let auth_events = event.auth_events.iter().filter(|_| self.cut.as_ref() != Some(&event.event_id));
        auth_events.filter_map(|id| self.gather.event(id)).find(|event| is_power_levels(event))
    }
}

/// "A state event with type m.room.power_levels or m.room.join_rules, or a state event with type
/// m.room.member where the membership is leave or ban and the sender does not match the state_key."
fn is_power_event(event: &Pdu) -> bool {
    match event.event_type {
        TimelineEventType::RoomPowerLevels | TimelineEventType::RoomJoinRules | TimelineEventType::RoomCreate => {
            event.state_key.as_deref() == Some("")
        }
        TimelineEventType::RoomMember if event.state_key.as_deref() != Some(event.sender.as_str()) => {
            matches!(RoomMemberEvent::new(event).membership(), Ok(MembershipState::Leave | MembershipState::Ban))
        }
        _ => false,
    }
}
