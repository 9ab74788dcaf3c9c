//! A room in the answer to a sync: its timeline, the state that goes with it, and what else belongs
//! to the section it is in.
//!
//! `state` is what brings a client that knows the state as of its last sync to the state at the
//! start of the timeline; the timeline does the rest. What changed within the timeline's span but
//! is not in it (filtered out, not visible, or decided by a fork) goes into `state` too, so that
//! the client arrives at the room's state; and a timeline whose last word on something is not the
//! room's begins after that. `state_after` is the difference to the end of the timeline, whatever
//! the timeline contains.

use super::{
    builder::SyncBuilder,
    changes::RoomChanges,
    ephemeral::account_data_event,
    filter::{self, Facts},
};
use crate::{
    damaged::{LeaveOut, readable},
    error::Result,
    homeserver::Homeserver,
    position::Position,
    push::{Count, Receipts},
    room::{self, Event, Format, NodeId, Related, RoomInfo, Viewer, Wanted, membership_of, state_tree::Part},
    tables::{self, Json, Membership, RoomHead, RoomNid},
};
use ephapse_events::{Inserted, StateKey};
use ephapse_store::Direction;
use ruma::{
    UInt,
    api::client::{
        filter::{EventFormat, LazyLoadOptions, RoomEventFilter},
        sync::sync_events::{
            UnreadNotificationsCount,
            v3::{InviteState, InvitedRoom, JoinedRoom, KnockState, KnockedRoom, LeftRoom, State, StateEvents, Timeline},
        },
    },
    events::{AnyStrippedStateEvent, StateEventType},
    serde::Raw,
};
use serde_json::value::RawValue;
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

/// How a user who has left a room was in it since the client's last sync.
pub(super) struct FormerMembership {
    /// What the client has of it; `None`: nothing.
    pub(super) known: Option<Position>,
    /// Whether the user was in it at all.
    pub(super) was_in: bool,
    /// Whether the user may have been in it before, and left: the client's timeline of that former
    /// does not go on here.
    pub(super) again: bool,
}

/// Which part of a room an answer covers.
struct Span<'a> {
    /// The user's part in the room.
    now: &'a Membership,
    /// Where the timeline begins; `None`: as far back as its limit goes.
    timeline_from: Option<Position>,
    /// Which state the client has; `None`: none.
    state_from: Option<Position>,
    /// Where both end.
    to: Position,
}

/// A timeline as events.
struct TimelineSlice {
    events: Vec<Rc<Event>>,
    limited: bool,
    /// The boundary that it begins after.
    start: Position,
    /// Whose eyes judged them.
    viewer: Option<Viewer>,
}

impl Homeserver {
    /// The room's state as it was at a position.
    pub(crate) async fn room_state_at(&self, room: RoomNid, head: &RoomHead, position: Position) -> Result<NodeId, room::Error> {
        if head.newest_state <= position {
            return Ok(NodeId(head.state));
        }
        let (mut end, mut count) = (position, 1);
        loop {
            // Mostly the first is accepted; many in a row that are not must not mean as many reads.
            let events = self.events_between(room, Position::MIN..end, Direction::Backward, count).await?;
            if let Some(event) = events.iter().find(|event| event.is_accepted()) {
                return Ok(event.room_state);
            }
            let Some(last) = events.last() else { return Ok(NodeId::EMPTY) };
            end = Position(last.position.0 - 1);
            count = (2 * count).min(64);
        }
    }
}

impl SyncBuilder<'_> {
    /// A room the user is in; `from`: what the client has of it.
    pub(super) async fn joined(
        &self,
        room: &Rc<RoomInfo>,
        now: &Membership,
        changes: Option<&RoomChanges>,
        from: Option<Position>,
    ) -> Result<Option<JoinedRoom>> {
        let user = self.ask.session.user;
        let head = self.hs.room_head(room.nid).await?;
        let whole = from.is_none() || self.ask.full_state;
        let changes = changes.filter(|_| from.is_some());
        let span = Span { now, timeline_from: from, state_from: from.filter(|_| !whole), to: self.to };
        let mut slice =
            if changes.is_none_or(|changes| changes.events) { self.timeline_slice(room, &head, &span).await? } else { TimelineSlice::empty(self.to) };
        if self.from.is_some() && from.is_none() {
            // The client's timeline of its earlier former does not go on here; and of a room that
            // is new to it, what the filter keeps back is a gap too.
            let is_gap = now.last_left.is_some() || self.holds_back_earlier(room, &mut slice).await?;
            slice.limited |= is_gap;
        }

        let mut joined = JoinedRoom::new();
        let end = self.hs.room_state_at(room.nid, &head, self.to).await?;
        if whole || changes.is_none_or(|changes| changes.members) || self.name_changed(&slice) {
            joined.summary = self.hs.room_summary(room, &head, end, user).await?;
        }
        let heroes = joined.summary.heroes.iter().map(ToString::to_string).inserted();
        joined.state = self.state(room, &head, &span, &slice, heroes).await?;
        joined.timeline = self.timeline(room, &slice).await?;

        let filter = &self.ask.filter.room.ephemeral;
        let allows = |kind| filter::allows_room_event(filter, &room.id, Facts { event_type: kind, sender: None, json: b"{}" });
        let read_since = self.hs.sync.unread.read_since();
        let receipts = self.hs.receipts_of(room.nid, changes.zip(from)).await?;
        if allows("m.receipt") {
            joined.ephemeral.events = self.hs.receipt_events(user, &self.ignored, &receipts).await?;
        }
        let typing = match changes {
            Some(changes) => changes.typing,
            None => !self.hs.sync.typing.in_room(room.nid).is_empty(),
        };
        if typing && allows("m.typing") {
            joined.ephemeral.events.push(self.hs.typing_event(room.nid, &self.ignored).await?);
        }
        for (kind, data) in self.account_data(room.nid, changes.map(|changes| &changes.account_data)).await? {
            if self.allows_account_data(room, &kind, &data.content.0) {
                joined.account_data.events.extend(account_data_event(&self.ask.session.user_id, &kind, &data).leave_out()?);
            }
        }
        if !whole && !joined.summary.is_empty() {
            let summary = std::mem::take(&mut joined.summary);
            if !joined.is_empty() || self.memberships_changed(room, &head, from, end).await? {
                joined.summary = summary;
            }
        }
        // One's own receipts change the counts, also those that the filter keeps back.
        if !whole && joined.is_empty() && !receipts.iter().any(|((whose, _), _)| *whose == user) {
            return Ok(None);
        }
        // All there are, or those that changed.
        let own = changes.is_none().then(|| {
            let own = receipts.into_iter().filter(|((whose, _), _)| *whose == user);
            Receipts { read_since, all: own.map(|((_, kind), receipt)| (kind, receipt)).collect() }
        });
        self.count_unread(room, &head, own, &mut joined).await?;
        // Clients look for it also where nothing has happened.
        joined.timeline.prev_batch.get_or_insert_with(|| self.hs.token(slice.start));
        Ok(Some(joined))
    }

    /// A room the user has left, at `leave`; only the leaving itself when the user was not in it
    /// since the client's last sync.
    pub(super) async fn left(
        &self,
        room: &Rc<RoomInfo>,
        now: &Membership,
        changes: Option<&RoomChanges>,
        leave: Position,
        former: FormerMembership,
    ) -> Result<LeftRoom> {
        let from = former.known;
        let head = self.hs.room_head(room.nid).await?;
        let span = Span { now, timeline_from: from, state_from: from, to: leave };
        let mut left = LeftRoom::new();
        let start;
        if former.was_in {
            let mut slice = self.timeline_slice(room, &head, &span).await?;
            slice.limited |= former.again;
            // Where the timeline's filter keeps the leaving back, it is in the state.
            left.state = self.state(room, &head, &span, &slice, BTreeSet::new()).await?;
            left.timeline = self.timeline(room, &slice).await?;
            start = slice.start;
        } else {
            let own = [self.hs.event_at(room.nid, leave).await?];
            let timeline = &self.ask.filter.room.timeline;
            let in_timeline = filter::timeline_limit(timeline) > 0 && allows(timeline, room, &own[0]);
            let in_state = (self.ask.state_after || !in_timeline) && allows(&self.ask.filter.room.state, room, &own[0]);
            let told = |is_told: bool| if is_told { &own[..] } else { &[] };
            left.state = self.state_of(self.write(room, told(in_state), None).await?);
            let viewer = self.viewer(room, now);
            left.timeline.events = self.write(room, told(in_timeline), Some(&viewer)).await?;
            start = if in_timeline { Position(leave.0 - 1) } else { leave };
        }
        left.timeline.prev_batch = Some(self.hs.token(start));
        let changes = changes.filter(|_| from.is_some());
        for (kind, data) in self.account_data(room.nid, changes.map(|changes| &changes.account_data)).await? {
            if self.allows_account_data(room, &kind, &data.content.0) {
                left.account_data.events.extend(account_data_event(&self.ask.session.user_id, &kind, &data).leave_out()?);
            }
        }
        Ok(left)
    }

    /// A room the user is invited to, unless by somebody the user ignores, or invitations are not
    /// wanted at all.
    pub(super) async fn invited(&self, room: &Rc<RoomInfo>, invite: Position) -> Result<Option<InvitedRoom>> {
        let invite = self.hs.event_at(room.nid, invite).await?;
        if self.ignored.contains(&invite.pdu.sender) || self.hs.blocks_invites(self.ask.session.user).await? {
            return Ok(None);
        }
        let mut state = InviteState::new();
        state.events = self.stripped(room, &invite).await?;
        Ok(Some(state.into()))
    }

    /// A room the user has knocked on.
    pub(super) async fn knocked(&self, room: &Rc<RoomInfo>, knock: Position) -> Result<KnockedRoom> {
        let knock = self.hs.event_at(room.nid, knock).await?;
        let mut state = KnockState::new();
        state.events = self.stripped(room, &knock).await?;
        Ok(state.into())
    }

    async fn stripped(&self, room: &RoomInfo, member: &Rc<Event>) -> Result<Vec<Raw<AnyStrippedStateEvent>>> {
        let sender = Some(&*member.pdu.sender).filter(|sender| member.pdu.state_key.as_deref() != Some(sender.as_str()));
        let events = self.hs.stripped_state(room, member.state_before, sender).await?;
        let is_known = events.iter().any(|event| event.pdu.is_create());
        let mut stripped: Vec<_> = readable(events.iter().map(|event| Homeserver::stripped_event(event))).collect();
        if !is_known && let Some(Json(told)) = tables::STRIPPED_STATES.get(self.hs.store(), &(room.nid, self.ask.session.user)).await? {
            // This server was not in the room: it knows what another one told it.
            let told: Vec<Raw<AnyStrippedStateEvent>> = serde_json::from_str(&told).unwrap_or_default();
            stripped.extend(told);
        }
        stripped.extend(readable([Homeserver::stripped_event(member)]));
        Ok(stripped)
    }

    async fn timeline_slice(&self, room: &Rc<RoomInfo>, head: &RoomHead, span: &Span<'_>) -> Result<TimelineSlice> {
        let filter = &self.ask.filter.room.timeline;
        let limit = filter::timeline_limit(filter);
        let mut viewer = self.viewer(room, span.now);
        let by_itself = |event: &Event| allows(filter, room, event);
        let wanted = Wanted { by_itself: &by_itself, related: &self.timeline_related };
        let boundaries = span.timeline_from.unwrap_or(Position::MIN)..span.to;
        // One more than the limit tells whether there are more.
        let mut page = self.hs.page(room, &mut viewer, boundaries, Direction::Backward, limit + 1, wanted).await?;
        let mut limited = page.more;
        let mut start = page.end;
        if page.events.len() > limit {
            limited = true;
            page.events.truncate(limit);
            start = page.events.last().map_or(span.to, |first| Position(first.position.0 - 1));
        }
        page.events.reverse();
        if !limited {
            let first = page.events.first().map(|first| Position(first.position.0 - 1));
            start = span.timeline_from.or(first).unwrap_or(span.to);
        }
        let mut slice = TimelineSlice { events: page.events, limited, start, viewer: Some(viewer) };
        if !self.ask.state_after {
            self.cut(room, head, span, &mut slice).await?;
        }
        Ok(slice)
    }

    /// Whether the user may see something of before a timeline that claims to be whole; then it is
    /// found as earlier history.
    async fn holds_back_earlier(&self, room: &RoomInfo, slice: &mut TimelineSlice) -> Result<bool> {
        let (false, Some(viewer)) = (slice.limited, &mut slice.viewer) else { return Ok(false) };
        let wanted = Wanted { by_itself: &|_| true, related: &Related::default() };
        let earlier = self.hs.page(room, viewer, Position::MIN..slice.start, Direction::Backward, 1, wanted).await?;
        Ok(!earlier.events.is_empty())
    }

    fn viewer(&self, room: &Rc<RoomInfo>, now: &Membership) -> Viewer {
        Viewer::of(room, self.ask.session.user_id.clone(), Some(now.clone()), self.ignored.clone())
    }

    /// Cuts off the beginning of a timeline that would leave the client with a state that is not
    /// the room's: where an event that decided it is not the user's to see, or a fork was decided
    /// against the last to arrive. What is cut off is found as earlier history.
    async fn cut(&self, room: &RoomInfo, head: &RoomHead, span: &Span<'_>, slice: &mut TimelineSlice) -> Result<()> {
        let told: BTreeMap<StateKey, Position> = slice.events.iter().filter_map(|event| Some((event.pdu.key()?, event.position))).inserted();
        if told.is_empty() {
            return Ok(());
        }
        let end = self.hs.room_state_at(room.nid, head, span.to).await?;
        let keys: Vec<StateKey> = told.keys().cloned().collect();
        let found = self.hs.state_get(room.nid, end, &keys).await?;
        let wrong = told.values().zip(found).filter(|(told, found)| found.is_some_and(|found| found != **told)).map(|(told, _)| *told).max();
        if let Some(wrong) = wrong {
            slice.events.retain(|event| event.position > wrong);
            (slice.limited, slice.start) = (true, wrong);
        }
        Ok(())
    }

    async fn timeline(&self, room: &RoomInfo, slice: &TimelineSlice) -> Result<Timeline> {
        let mut timeline = Timeline::new();
        timeline.limited = slice.limited;
        timeline.prev_batch = (slice.limited || !slice.events.is_empty()).then(|| self.hs.token(slice.start));
        timeline.events = self.write(room, &slice.events, slice.viewer.as_ref()).await?;
        Ok(timeline)
    }

    fn name_changed(&self, slice: &TimelineSlice) -> bool {
        let mut keys = slice.events.iter().filter_map(|event| event.pdu.key());
        slice.limited || keys.any(|(kind, _)| matches!(kind, StateEventType::RoomName | StateEventType::RoomCanonicalAlias))
    }

    /// Whether somebody's membership is another than at `from`, and not just their name.
    async fn memberships_changed(&self, room: &RoomInfo, head: &RoomHead, from: Option<Position>, end: NodeId) -> Result<bool> {
        let Some(from) = from else { return Ok(true) };
        let before = self.hs.room_state_at(room.nid, head, from).await?;
        for difference in self.hs.state_diff(room.nid, before, end).await? {
            if difference.key.0 != StateEventType::RoomMember {
                continue;
            }
            let (Some(before), Some(after)) = (difference.before, difference.after) else { return Ok(true) };
            let events = self.hs.events_at(room.nid, &[before, after]).await?;
            let mut kinds = events.iter().map(|event| event.as_ref().map(|event| membership_of(event)));
            if kinds.next() != kinds.next() {
                return Ok(true);
            }
            self.slice.check().await;
        }
        Ok(false)
    }

    /// The state that goes with a timeline.
    async fn state(&self, room: &Rc<RoomInfo>, head: &RoomHead, span: &Span<'_>, slice: &TimelineSlice, heroes: BTreeSet<String>) -> Result<State> {
        let (hs, nid) = (self.hs, room.nid);
        let end = hs.room_state_at(nid, head, span.to).await?;
        let known = match span.state_from {
            Some(from) => hs.room_state_at(nid, head, from).await?,
            None => NodeId::EMPTY,
        };
        let start = hs.room_state_at(nid, head, slice.start).await?;
        let target = if self.ask.state_after { end } else { start };
        let lazy = match self.ask.filter.room.state.lazy_load_options {
            LazyLoadOptions::Disabled => None,
            LazyLoadOptions::Enabled { include_redundant_members } => Some(include_redundant_members),
        };
        let whole = span.state_from.is_none();
        let mut state: BTreeMap<StateKey, Position> = if whole {
            let part = if lazy.is_some() { Part::WithoutMembers } else { Part::All };
            hs.state_entries(nid, target, part).await?.into_iter().inserted()
        } else {
            let differences = hs.state_diff(nid, known, target).await?;
            differences.into_iter().filter_map(|difference| Some((difference.key, difference.after?))).inserted()
        };
        let told: BTreeSet<StateKey> = slice.events.iter().filter_map(|event| event.pdu.key()).inserted();
        let in_timeline: BTreeSet<Position> = slice.events.iter().map(|event| event.position).inserted();
        if !self.ask.state_after && start != end {
            for difference in hs.state_diff(nid, start, end).await? {
                let Some(after) = difference.after.filter(|after| !in_timeline.contains(after)) else { continue };
                let passed_over = whole && lazy.is_some() && difference.key.0 == StateEventType::RoomMember;
                if !told.contains(&difference.key) && !passed_over {
                    state.insert(difference.key, after);
                }
            }
        }
        if let Some(redundant) = lazy {
            let mut wanted = heroes;
            wanted.extend(slice.events.iter().map(|event| event.pdu.sender.to_string()));
            if whole {
                wanted.insert(self.ask.session.user_id.to_string());
            }
            let keys: Vec<StateKey> =
                wanted.into_iter().map(|user| (StateEventType::RoomMember, user)).filter(|key| !state.contains_key(key)).collect();
            // Of whom the timeline says something, what was before it; of others, what is so at its
            // end.
            let (before, after): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| !self.ask.state_after && told.contains(key));
            let mut found = hs.state_get(nid, start, &before).await?;
            found.extend(hs.state_get(nid, end, &after).await?);
            for (key, position) in before.into_iter().chain(after).zip(found) {
                let Some(position) = position else { continue };
                let told = !self.ask.state_after && in_timeline.contains(&position);
                let has = !whole && !redundant && hs.sync.sent_members.has(&self.recipient, nid, position);
                if !told && !has {
                    state.insert(key, position);
                }
            }
            let in_timeline = slice.events.iter().filter(|event| event.pdu.key().is_some_and(|(kind, _)| kind == StateEventType::RoomMember));
            let members = state.iter().filter(|((kind, _), _)| *kind == StateEventType::RoomMember).map(|(_, position)| *position);
            for position in members.chain(in_timeline.map(|event| event.position)) {
                hs.sync.sent_members.sent(&self.recipient, nid, position);
            }
        }
        let mut positions: Vec<Position> = state.into_values().collect();
        positions.sort_unstable();
        let filter = &self.ask.filter.room.state;
        let mut events: Vec<Rc<Event>> = Vec::new();
        let mut viewer = self.viewer(room, span.now);
        for event in hs.events_at(nid, &positions).await?.into_iter().flatten() {
            if allows(filter, room, &event) && hs.is_related(&mut viewer, &event, &self.state_related, &mut 0).await? {
                events.push(event);
            }
            self.slice.check().await;
        }
        Ok(self.state_of(self.write(room, &events, None).await?))
    }

    fn state_of(&self, events: Vec<Raw<ruma::events::AnySyncStateEvent>>) -> State {
        if self.ask.state_after { State::After(StateEvents::with_events(events)) } else { State::Before(StateEvents::with_events(events)) }
    }

    /// Events in the format and with the fields that the filter asks for; those of a timeline with
    /// what `viewer` saw of them.
    async fn write<T>(&self, room: &RoomInfo, events: &[Rc<Event>], viewer: Option<&Viewer>) -> Result<Vec<Raw<T>>> {
        let written: Vec<Raw<T>> = if self.ask.filter.event_format == EventFormat::Federation {
            let mut written = Vec::with_capacity(events.len());
            for event in self.hs.served(events, self.ask.requester()).await?.iter() {
                written.extend(in_federation_format(event).map_err(|error| event.damaged(&room.id, error)).leave_out()?.map(Raw::from_json));
                self.slice.check().await;
            }
            written
        } else {
            match viewer {
                Some(viewer) => self.hs.timeline_events(room, events, self.ask.requester(), Format::InRoom, viewer).await?,
                None => self.hs.client_events(room, events, self.ask.requester(), Format::InRoom).await?,
            }
        };
        let Some(fields) = &self.fields else { return Ok(written) };
        let mut cut = Vec::with_capacity(written.len());
        for event in written {
            cut.extend(fields.of(event.json()).map(Raw::from_json));
            self.slice.check().await;
        }
        Ok(cut)
    }

    async fn count_unread(&self, room: &RoomInfo, head: &RoomHead, receipts: Option<Receipts>, joined: &mut JoinedRoom) -> Result<()> {
        let session = &self.ask.session;
        let counts = self.hs.unread(room, head, session, receipts, self.to).await?;
        if self.ask.filter.room.timeline.unread_thread_notifications {
            joined.unread_notifications = in_response(counts.main);
            joined.unread_thread_notifications = counts.threads.into_iter().map(|(root, count)| (root, in_response(count))).inserted();
        } else {
            joined.unread_notifications = in_response(counts.total());
        }
        Ok(())
    }
}

impl TimelineSlice {
    /// Nothing happened up to `to`.
    fn empty(to: Position) -> Self {
        Self { events: Vec::new(), limited: false, start: to, viewer: None }
    }
}

/// An event as servers exchange it, with its id, which clients cannot compute.
fn in_federation_format(event: &Event) -> serde_json::Result<Box<RawValue>> {
    let mut written: BTreeMap<&str, &RawValue> = serde_json::from_slice(&event.pdu.json)?;
    let id = serde_json::value::to_raw_value(&event.pdu.event_id)?;
    written.insert("event_id", &id);
    serde_json::value::to_raw_value(&written)
}

fn allows(filter: &RoomEventFilter, room: &RoomInfo, event: &Event) -> bool {
    let pdu = &event.pdu;
    let kind = pdu.event_type.to_string();
    filter::allows_room_event(filter, &room.id, Facts { event_type: &kind, sender: Some(pdu.sender.as_str()), json: &pdu.json })
}

fn in_response(count: Count) -> UnreadNotificationsCount {
    let mut unread = UnreadNotificationsCount::new();
    unread.notification_count = Some(UInt::from(count.notifications));
    unread.highlight_count = Some(UInt::from(count.highlights));
    unread
}
