//! The one way into a room: local and received events alike become part of it here
//! (server-server-api, "Checks performed on receipt of a PDU", and Client-Server API, "Room event
//! format").

use super::{
    error::Error,
    event::Event,
    state_tree::{self, Difference, NodeId},
    stop::{Need, Stop},
    write::Write,
};
use crate::{
    position::Position,
    tables::{self, Change, Extremity, Membership, MembershipKind, UserNid},
};
use ephapse_events::{
    Pdu, StateKey,
    auth::{self, AuthError},
};
use ruma::{
    EventId, OwnedDeviceId, OwnedEventId, OwnedServerName, OwnedUserId, UserId,
    events::{StateEventType, TimelineEventType},
};
use serde::Deserialize;
use std::{
    cell::RefCell,
    collections::{HashSet, VecDeque},
    rc::Rc,
    sync::Arc,
};

/// More forward extremities than this are not kept, so that nobody can make every send and
/// resolution slow by forking a room without end. A local event is built on many of them and
/// replaces them, and so does what other servers build on them.
const MAX_EXTREMITIES: usize = 64;

/// At how many rejected and soft-failed events one looks for the extremities that an event
/// replaces.
const MAX_UNACCEPTED_ANCESTORS: usize = 256;

/// What the auth rules say of an event.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Why the auth rules reject it.
    pub rejected: Option<String>,
    /// Whether it passes before its own state, but not in the current one.
    pub soft_failed: bool,
}

/// What the auth rules say of an event in a state.
pub(super) struct Ruling {
    pub(super) said: Result<(), String>,
    /// The places of the state that they looked at, and which events they found there.
    looked_at: Vec<(StateKey, Option<OwnedEventId>)>,
}

/// A user whose membership changes.
struct MembershipChange {
    user: UserNid,
    /// Of which other server.
    server: Option<OwnedServerName>,
    old: Option<Membership>,
    /// What the member event that holds from now on makes of them, and where it stands.
    new: Option<(MembershipKind, Position)>,
}

impl Write<'_> {
    /// Adds an event whose parents' state resolves to `before`. `txn_id` is the device and the
    /// transaction id it was sent with.
    pub(super) fn append(&mut self, pdu: Pdu, before: NodeId, verdict: Verdict, txn_id: Option<(OwnedDeviceId, String)>) -> Result<Rc<Event>, Stop> {
        let position = self.next_position();
        let event = self.placed(pdu, before, verdict, txn_id, position)?;
        let member = match event.pdu.key().filter(|_| event.rejected.is_none()) {
            Some((StateEventType::RoomMember, user)) => UserId::parse(&user).ok().map(|user| self.user_nid(&user)).transpose()?,
            _ => None,
        };
        if event.is_shown() {
            self.change(Change::Event { room: self.room.nid, member });
            self.head.newest = position;
        } else {
            // It takes a place in the order, but there is nothing to see.
            self.change(Change::Hidden);
        }
        self.relate(&event)?;
        if event.is_accepted() {
            let state = self.extend(&event)?;
            if state != event.state_after {
                // What clients are told of the state follows the room's, not one branch's.
                self.put_event(Rc::new(Event { room_state: state, ..Event::clone(&event) }));
            }
            self.set_state(&event, state)?;
            self.redact_target(&event)?;
        }
        Ok(event)
    }

    /// Puts an event at a place in the timeline, in the state before it.
    pub(super) fn placed(
        &mut self,
        pdu: Pdu,
        before: NodeId,
        verdict: Verdict,
        txn_id: Option<(OwnedDeviceId, String)>,
        position: Position,
    ) -> Result<Rc<Event>, Stop> {
        // States go on to refer to what they know.
        let outlier = self.outlier(&pdu.event_id)?;
        let state_position = outlier.unwrap_or(position);
        let key = pdu.key().filter(|_| verdict.rejected.is_none());
        let mut after = before;
        let mut replaces = None;
        if let Some(key) = &key {
            replaces = self.state_get(before, std::slice::from_ref(key))?[0];
            let update = state_tree::update(before, [(key.clone(), Some(state_position))], &|id| self.node(id))?;
            self.add_nodes(update.new_nodes);
            after = update.root;
        }
        let auth_depth = self.auth_depth_of(&pdu)?;
        let event = Event {
            room: self.room.nid,
            position,
            pdu: Arc::new(Pdu { auth_depth, ..pdu }),
            rejected: verdict.rejected,
            soft_failed: verdict.soft_failed,
            waiting: false,
            state_before: before,
            state_after: after,
            room_state: after,
            txn_id,
            replaces,
            redacted_by: None,
            outlier,
        };
        let event = Rc::new(Event { waiting: self.is_waiting(&event)?, ..event });
        self.put_event(event.clone());
        if key.is_some() && outlier.is_none() {
            self.add_auth_edges(position, &event.pdu.auth_events)?;
        }
        Ok(event)
    }

    pub(super) fn auth_depth_of(&self, pdu: &Pdu) -> Result<u64, Stop> {
        let mut auth_events = Vec::with_capacity(pdu.auth_events.len());
        for id in &pdu.auth_events {
            auth_events.extend(self.event_by_id(id)?);
        }
        Ok(Pdu::auth_depth_after(auth_events.iter().map(|event| &*event.pdu)))
    }

    /// Makes the event a forward extremity in place of those that it replaces, and answers the
    /// room's state then.
    fn extend(&mut self, event: &Event) -> Result<NodeId, Stop> {
        let pdu = &event.pdu;
        let replaced = self.replaced_by(pdu)?;
        self.head.extremities.retain(|extremity| !replaced.contains(&extremity.event_id));
        self.head.extremities.push(Extremity {
            event_id: pdu.event_id.clone(),
            position: event.position,
            depth: pdu.depth,
            state: event.state_after.0,
        });
        if self.head.extremities.len() > MAX_EXTREMITIES {
            self.drop_extremity();
        }
        let states: Vec<NodeId> = self.head.extremities.iter().map(|extremity| NodeId(extremity.state)).collect();
        self.resolve(&states)
    }

    /// The extremities that an event replaces, among other events: its parents, and the parents of
    /// those of them that were rejected or soft-failed, which never replaced any.
    fn replaced_by(&self, pdu: &Pdu) -> Result<HashSet<OwnedEventId>, Stop> {
        let is_extremity = |id: &EventId| self.head.extremities.iter().any(|extremity| extremity.event_id == id);
        let mut reached = HashSet::new();
        let mut rest = VecDeque::from(pdu.prev_events.clone());
        let mut looked_at = 0;
        while let Some(id) = rest.pop_front() {
            if !is_extremity(&id) && !reached.contains(&id) && looked_at < MAX_UNACCEPTED_ANCESTORS {
                looked_at += 1;
                let parent = self.event_by_id(&id)?.filter(|parent| !parent.is_accepted());
                rest.extend(parent.iter().flat_map(|parent| parent.pdu.prev_events.iter().cloned()));
            }
            reached.insert(id);
        }
        Ok(reached)
    }

    /// Drops the oldest extremity whose state another one has too, since that changes nothing but
    /// the graph. Where all states differ, it drops the newest, which forked the room once more: it
    /// must not push out what made the state, such as a ban. The dropped event enters the state
    /// with the first event that is built on it and on an extremity.
    fn drop_extremity(&mut self) {
        let extremities = &mut self.head.extremities;
        let twice = (0..extremities.len()).find(|at| extremities[at + 1..].iter().any(|other| other.state == extremities[*at].state));
        match twice {
            Some(at) => drop(extremities.remove(at)),
            None => drop(extremities.pop()),
        }
    }

    /// Makes `after` the current state: memberships, counts and the head's short cuts follow what
    /// differs.
    fn set_state(&mut self, event: &Event, after: NodeId) -> Result<(), Stop> {
        let before = self.state();
        if before == after {
            return Ok(());
        }
        let own = event.pdu.key();
        let differences = match &own {
            // Nothing but this event lies between the two.
            Some(key) if (before, after) == (event.state_before, event.state_after) => {
                vec![Difference { key: key.clone(), before: event.replaces, after: Some(event.state_position()) }]
            }
            _ => state_tree::diff(before, after, &|id| self.node(id))?,
        };
        self.head.state = after.0;
        self.head.newest_state = event.position;
        let reset = differences.iter().any(|difference| own.as_ref() != Some(&difference.key));
        self.follow(&differences)?;
        if reset {
            self.change(Change::StateReset { room: self.room.nid });
        }
        Ok(())
    }

    /// What is missing is asked for at once: a merge may change the memberships of thousands.
    fn follow(&mut self, differences: &[Difference]) -> Result<(), Stop> {
        let mut members = Vec::new();
        let mut needs = Vec::new();
        for Difference { key: (kind, state_key), after, .. } in differences {
            match kind {
                StateEventType::RoomMember => match self.moved(state_key, *after) {
                    Ok(moved) => members.extend(moved),
                    Err(more) => needs.extend(more),
                },
                _ if !state_key.is_empty() => {}
                StateEventType::RoomCreate => self.head.create = *after,
                StateEventType::RoomPowerLevels => self.head.power_levels = *after,
                StateEventType::RoomJoinRules => self.head.join_rules = *after,
                StateEventType::RoomHistoryVisibility => self.head.history_visibility = *after,
                StateEventType::RoomGuestAccess => self.guest_access_changed(),
                _ => {}
            }
        }
        if !needs.is_empty() {
            return Err(Stop::Missing(needs));
        }
        for moved in members {
            self.follow_member(moved)?;
        }
        Ok(())
    }

    /// Whose membership a place in the state is, and what it becomes; of a name that is no user's,
    /// none.
    fn moved(&self, state_key: &str, after: Option<Position>) -> Result<Option<MembershipChange>, Vec<Need>> {
        let Ok(user) = OwnedUserId::try_from(state_key) else { return Ok(None) };
        let member = self.user_nid(&user).and_then(|nid| Ok((nid, self.member(nid)?)));
        let new = |position| match self.entered.member(position) {
            Some(member) => Ok(member),
            None => self.event(position).map(|event| (membership_of(&event), event.position)),
        };
        match (member, after.map(new).transpose()) {
            (Ok((nid, old)), Ok(new)) => {
                let server = (!self.hs.is_local(&user)).then(|| user.server_name().to_owned());
                Ok(Some(MembershipChange { user: nid, server, old, new }))
            }
            (member, new) => Err(member.err().into_iter().chain(new.err()).collect()),
        }
    }

    fn follow_member(&mut self, MembershipChange { user, server, old, new }: MembershipChange) -> Result<(), Need> {
        let (kind, position) = new.unwrap_or((MembershipKind::Leave, self.head.newest));
        let before = old.as_ref().map(|old| old.kind);
        let joined = kind == MembershipKind::Join;
        if let Some(server) = &server
            && (before == Some(MembershipKind::Join)) != joined
        {
            self.server_moved(server, joined)?;
        }
        if before == Some(MembershipKind::Join) && !joined {
            self.head.joined = self.head.joined.saturating_sub(1);
        } else if before != Some(MembershipKind::Join) && joined {
            self.head.joined += 1;
        }
        if before == Some(MembershipKind::Invite) && kind != MembershipKind::Invite {
            self.head.invited = self.head.invited.saturating_sub(1);
        } else if before != Some(MembershipKind::Invite) && kind == MembershipKind::Invite {
            self.head.invited += 1;
        }
        let left = (before == Some(MembershipKind::Join) && !joined).then_some(position);
        self.left.extend(left.map(|_| user));
        let member = Membership {
            kind,
            position,
            last_left: left.or(old.as_ref().and_then(|old| old.last_left)),
            ever_joined: joined || old.as_ref().is_some_and(|old| old.ever_joined),
            // Forgetting ends when the user is asked in or comes back.
            forgotten: old.as_ref().is_some_and(|old| old.forgotten) && matches!(kind, MembershipKind::Leave | MembershipKind::Ban),
        };
        self.set_member(user, before, member);
        Ok(())
    }

    /// "While redactions are always accepted by the authorisation rules for events, they should not
    /// be sent to clients until both the redaction event and the event the redaction affects have
    /// been received, and can be validated" (rooms/v3, "Handling redactions"). One that is a state
    /// event is part of the state all the same.
    fn is_waiting(&self, event: &Event) -> Result<bool, Stop> {
        let is_redaction = event.pdu.event_type == TimelineEventType::RoomRedaction && event.pdu.state_key.is_none();
        if !is_redaction || !event.is_accepted() || self.room.rules.authorization.special_case_room_redaction {
            return Ok(false);
        }
        let target = event.pdu.redacts.as_ref().map(|id| self.event_by_id(id)).transpose()?.flatten();
        target.map_or(Ok(true), |target| Ok(!target.is_accepted() || !self.may_redact(&target, event)?))
    }

    /// A redaction takes the content of its target away, if its sender may, or waits for it.
    pub(super) fn redact_target(&mut self, redaction: &Rc<Event>) -> Result<(), Stop> {
        let Some(id) = &redaction.pdu.redacts else { return Ok(()) };
        if let Some(target) = self.event_by_id(id)? {
            if self.may_redact(&target, redaction)? {
                self.redact(&target, redaction)?;
            }
            return Ok(());
        }
        let sender = self.user_nid(&redaction.pdu.sender)?;
        tables::WAITING_REDACTIONS.put(self.tx, &(self.room.nid, id.clone(), sender), &redaction.position);
        Ok(())
    }

    /// Redactions that arrived before their target.
    pub(super) fn redact_if_asked_before(&mut self, event: &Rc<Event>) -> Result<(), Stop> {
        let id = &event.pdu.event_id;
        for (sender, position) in self.waiting_redactions(id)?.to_vec() {
            let redaction = self.event(position)?;
            let target = self.event(event.position)?;
            if self.may_redact(&target, &redaction)? {
                let redaction = if event.is_accepted() { self.show(redaction) } else { redaction };
                self.redact(&target, &redaction)?;
            }
            tables::WAITING_REDACTIONS.delete(self.tx, &(self.room.nid, id.clone(), sender));
        }
        Ok(())
    }

    /// A redaction that has waited stands at the end of the room from now on, as if it came now:
    /// clients read on from where they are.
    fn show(&mut self, redaction: Rc<Event>) -> Rc<Event> {
        if redaction.is_shown() {
            return redaction;
        }
        let position = self.next_position();
        tables::EVENTS.delete(self.tx, &(self.room.nid, redaction.position));
        for extremity in self.head.extremities.iter_mut().filter(|extremity| extremity.position == redaction.position) {
            extremity.position = position;
        }
        let shown = Rc::new(Event { position, waiting: false, room_state: self.state(), ..Event::clone(&redaction) });
        self.put_event(shown.clone());
        self.change(Change::Event { room: self.room.nid, member: None });
        self.head.newest = position;
        shown
    }

    fn redact(&mut self, target: &Rc<Event>, redaction: &Rc<Event>) -> Result<(), Stop> {
        if target.redacted_by.is_some() || target.pdu.is_create() {
            return Ok(());
        }
        let redacted = target.pdu.redacted(&self.room.rules).map_err(|error| Error::from(target.damaged(&self.room.id, error)))?;
        let event = Event { pdu: Arc::new(redacted), redacted_by: Some(redaction.position), ..Event::clone(target) };
        if event.pdu.is_at(&StateEventType::RoomGuestAccess, "") {
            self.guest_access_changed();
        }
        self.put_event(Rc::new(event));
        Ok(())
    }

    /// Whether a redaction takes its target's content away.
    fn may_redact(&self, target: &Event, redaction: &Event) -> Result<bool, Stop> {
        let nodes = |id: NodeId| self.node(id);
        let fetch = |kind: &StateEventType, state_key: &str| self.held(redaction.state_before, kind, state_key, &nodes);
        let asked = auth::may_redact(&self.room.rules, &redaction.pdu, &target.pdu, fetch);
        // Where the levels cannot be read nobody may.
        Ok(verdict(asked)?.unwrap_or(false))
    }

    /// The auth rules over the events that an event names (state-independent), with its reason when
    /// they fail.
    pub(super) fn check_by_auth_events(&self, pdu: &Pdu) -> Result<Result<(), String>, Stop> {
        let fetch = |id: &EventId| match self.event_by_id(id) {
            Ok(event) => Ok(event.map(|event| event.pdu.clone())),
            Err(need) => Err(vec![need]),
        };
        verdict(auth::check_auth_events(&self.room.rules.authorization, pdu, fetch))
    }

    /// The auth rules in a state, with the reason when they fail.
    pub(super) fn check_in_state(&self, pdu: &Pdu, state: NodeId) -> Result<Result<(), String>, Stop> {
        let nodes = |id: NodeId| self.node(id);
        self.check_by(pdu, |kind, state_key| self.held(state, kind, state_key, &nodes))
    }

    /// The auth rules by what `fetch` says is the state, with the reason when they fail.
    pub(super) fn check_by(
        &self,
        pdu: &Pdu,
        fetch: impl Fn(&StateEventType, &str) -> Result<Option<Arc<Pdu>>, Vec<Need>>,
    ) -> Result<Result<(), String>, Stop> {
        verdict(auth::check_in_state(&self.room.rules.authorization, pdu, fetch))
    }

    /// As [`Self::check_by`], with what the rules looked at.
    pub(super) fn rule(&self, pdu: &Pdu, fetch: impl Fn(&StateEventType, &str) -> Result<Option<Arc<Pdu>>, Vec<Need>>) -> Result<Ruling, Stop> {
        let looked_at = RefCell::new(Vec::new());
        let said = self.check_by(pdu, |kind, state_key| {
            let found = fetch(kind, state_key)?;
            looked_at.borrow_mut().push(((kind.clone(), state_key.to_owned()), found.as_ref().map(|event| event.event_id.clone())));
            Ok(found)
        })?;
        Ok(Ruling { said, looked_at: looked_at.into_inner() })
    }

    /// As [`Self::check_in_state`]. The rules say what they said before where they find the same:
    /// what they look at next follows from what they have found.
    pub(super) fn check_again(&self, pdu: &Pdu, before: &Ruling, state: NodeId) -> Result<Result<(), String>, Stop> {
        let (places, seen): (Vec<StateKey>, Vec<_>) = before.looked_at.iter().cloned().unzip();
        let held = self.state_get(state, &places)?;
        for (seen, held) in seen.iter().zip(held) {
            let held = held.map(|position| self.event(position)).transpose()?;
            if seen.as_ref() != held.as_ref().map(|event| &event.pdu.event_id) {
                return self.check_in_state(pdu, state);
            }
        }
        Ok(before.said.clone())
    }

    /// The event that holds a place in a state; where something has to be read first, that.
    fn held(&self, state: NodeId, kind: &StateEventType, state_key: &str, nodes: state_tree::Nodes<'_>) -> Result<Option<Arc<Pdu>>, Vec<Need>> {
        let found = state_tree::get(state, &[(kind.clone(), state_key.to_owned())], nodes);
        match found.map(|found| found[0].map(|position| self.event(position))) {
            Ok(None) => Ok(None),
            Ok(Some(Ok(event))) => Ok(Some(event.pdu.clone())),
            Ok(Some(Err(need))) => Err(vec![need]),
            Err(state_tree::Missing(ids)) => Err(ids.into_iter().map(Need::Node).collect()),
        }
    }
}

/// What the rules say, unless something has to be read first.
fn verdict<T>(asked: Result<T, AuthError<Vec<Need>>>) -> Result<Result<T, String>, Stop> {
    match asked {
        Ok(said) => Ok(Ok(said)),
        Err(AuthError::Forbidden(reason)) => Ok(Err(reason)),
        Err(AuthError::Missing(needs)) => Err(Stop::Missing(needs.into_iter().flatten().collect())),
    }
}

/// What a member event makes of its user.
pub(crate) fn membership_of(event: &Event) -> MembershipKind {
    #[derive(Deserialize)]
    struct Content<'a> {
        membership: &'a str,
    }
    let content: Option<Content<'_>> = serde_json::from_str(event.pdu.content.get()).ok();
    debug_assert_eq!(event.pdu.event_type, TimelineEventType::RoomMember);
    match content.map(|content| content.membership) {
        Some("join") => MembershipKind::Join,
        Some("invite") => MembershipKind::Invite,
        Some("knock") => MembershipKind::Knock,
        Some("ban") => MembershipKind::Ban,
        _ => MembershipKind::Leave,
    }
}
