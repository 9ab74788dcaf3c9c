//! What happened since a token, one event after the other: `GET /events`, which r0 deprecated.

use super::{
    changes::{Changes, RoomChanges},
    ephemeral::account_data_event,
    memberships::UserRooms,
    old::in_room,
};
use crate::{
    damaged::LeaveOut,
    error::Result,
    homeserver::Homeserver,
    position::Position,
    push::PUSH_RULES,
    requester::Requester,
    room::{Event, Format, Related, RoomInfo, Viewer, Wanted, membership_of},
    tables::{Change, Membership, MembershipKind, RoomNid, Session, UserNid},
    time_slice::TimeSlice,
};
use ephapse_events::Inserted;
use ephapse_store::Direction;
use ruma::{
    OwnedUserId,
    events::{AnyGlobalAccountDataEvent, AnyRoomAccountDataEvent, StateEventType},
    serde::Raw,
};
use serde_json::value::RawValue;
use std::{collections::BTreeSet, rc::Rc};

/// Who listens, and to what.
pub struct Stream {
    /// Who.
    pub session: Session,
    /// Whether it is a guest's.
    pub is_guest: bool,
    /// The only room to listen to; `None`: to all rooms of the user.
    pub room: Option<Rc<RoomInfo>>,
    /// The most events of rooms in one answer.
    pub limit: usize,
}

/// Events of rooms, each as it is told and where it stands.
#[derive(Default)]
struct Told {
    events: Vec<(Position, Box<RawValue>)>,
    /// Who has come into a room, and the room where it is the user's own coming.
    came: Vec<(RoomNid, UserNid)>,
    /// Up to where all are told.
    end: Position,
}

impl Homeserver {
    /// What a user has not heard after `from`, and up to where that is, at most `to`.
    pub(crate) async fn stream(&self, ask: &Stream, from: Position, to: Position) -> Result<(Vec<Box<RawValue>>, Position)> {
        let user = ask.session.user;
        let rooms = self.user_rooms(user).await?;
        let ignored = self.ignored_by(user).await?;
        let mut listed = self.changes_between(from, to).await?;
        let mut changes = self.changes_for(user, &rooms, from, to, &listed).await?;
        let told = self.told(ask, &rooms, &changes, from, to).await?;
        if told.end < to {
            listed = self.changes_between(from, told.end).await?;
            changes = self.changes_for(user, &rooms, from, told.end, &listed).await?;
        }
        let mut chunk: Vec<Box<RawValue>> = told.events.into_iter().map(|(_, event)| event).collect();

        let heard: Vec<RoomNid> = ask.room.as_ref().map_or_else(|| rooms.joined(), |room| vec![room.nid]);
        let mut present: BTreeSet<UserNid> = told.came.iter().map(|(_, user)| *user).inserted();
        for (room, _) in told.came.iter().filter(|(_, who)| *who == user) {
            present.extend(self.first_members(*room).await?);
        }
        present.extend(listed.changes.iter().filter_map(|(_, change)| if let Change::Presence { user } = change { Some(*user) } else { None }));
        chunk.extend(self.old_presence(&ask.session, &ignored, present, &heard).await?);

        if let Some(room) = ask.room.as_ref().filter(|room| !rooms.is_joined(room.nid)) {
            let changes = Self::changes_in(user, room.nid, &listed);
            chunk.extend(self.passing(&ask.session, room.nid, &changes, &ignored, from).await?);
            return Ok((chunk, told.end));
        }
        for (room, changes) in changes.rooms.iter().filter(|(room, _)| rooms.is_joined(**room) && heard.contains(room)) {
            chunk.extend(self.passing(&ask.session, *room, changes, &ignored, from).await?);
        }
        for (kind, data) in self.account_data_of(user, 0, Some((&changes.account_data, from))).await? {
            if kind != PUSH_RULES {
                let event = account_data_event::<AnyGlobalAccountDataEvent>(&ask.session.user_id, &kind, &data).leave_out()?;
                chunk.extend(event.map(Raw::into_json));
            }
        }
        Ok((chunk, told.end))
    }

    /// The events of rooms, in their order, as many as are told at once.
    async fn told(&self, ask: &Stream, rooms: &UserRooms, changes: &Changes, from: Position, to: Position) -> Result<Told> {
        let candidates: Vec<(RoomNid, Option<Membership>)> = match &ask.room {
            Some(room) => vec![(room.nid, rooms.get(room.nid))],
            None => changes.rooms.iter().filter(|(_, changes)| changes.events).map(|(room, _)| (*room, rooms.get(*room))).collect(),
        };
        let numbers: Vec<RoomNid> = candidates.iter().map(|(room, _)| *room).collect();
        let mut told = Told { end: to, ..Told::default() };
        let slice = TimeSlice::new(&*self.host);
        for ((_, own), room) in candidates.into_iter().zip(self.rooms_by_nid(&numbers).await?) {
            let Some(room) = room else { continue };
            self.told_of_room(ask, &room, own, from, &mut told).await.map_err(|error| error.in_room(&room.id)).leave_out()?;
            slice.check().await;
        }
        told.events.sort_by_key(|(position, _)| *position);
        if let Some((last, _)) = ask.limit.checked_sub(1).and_then(|last| told.events.get(last)) {
            told.end = told.end.min(*last);
        }
        let end = told.end;
        told.events.retain(|(position, _)| *position <= end);
        Ok(told)
    }

    async fn told_of_room(&self, ask: &Stream, room: &Rc<RoomInfo>, own: Option<Membership>, from: Position, told: &mut Told) -> Result<()> {
        let requester = Requester::local(&ask.session, ask.is_guest);
        let is_joined = own.as_ref().is_some_and(|own| own.kind == MembershipKind::Join);
        let mut viewer = Viewer::new(self, room, requester).await?;
        let mut events: Vec<Rc<Event>> = Vec::new();
        if is_joined || ask.room.is_some() || own.as_ref().is_some_and(|own| own.last_left > Some(from)) {
            let until = own.as_ref().filter(|_| !is_joined && ask.room.is_none()).map_or(told.end, |own| told.end.min(own.position));
            let wanted = Wanted { by_itself: &|_| true, related: &Related::default() };
            let page = self.page(room, &mut viewer, from..until, Direction::Forward, ask.limit, wanted).await?;
            if page.more {
                told.end = told.end.min(page.end);
            }
            events = page.events;
        }
        // An invitation, or its end, is the user's to see whatever the room's history is.
        if let Some(own) = own.filter(|own| !is_joined && own.position > from && own.position <= told.end)
            && events.iter().all(|event| event.position != own.position)
        {
            let event = self.event_at(room.nid, own.position).await?;
            let is_wanted = own.kind != MembershipKind::Invite || !self.blocks_invites(ask.session.user).await?;
            if is_wanted && !self.ignored_by(ask.session.user).await?.contains(&event.pdu.sender) {
                events.push(event);
            }
        }
        for event in events {
            if let Some((StateEventType::RoomMember, who)) = event.pdu.key()
                && membership_of(&event) == MembershipKind::Join
                && let Ok(who) = OwnedUserId::try_from(who)
            {
                told.came.extend(self.find_user(&who).await?.map(|who| (room.nid, who)));
            }
            let written: Vec<Raw<ruma::events::AnyTimelineEvent>> =
                self.timeline_events(room, std::slice::from_ref(&event), requester, Format::Old, &viewer).await?;
            told.events.extend(written.into_iter().map(|written| (event.position, written.into_json())));
        }
        Ok(())
    }

    /// What passes in a room, and what the user keeps about it.
    async fn passing(
        &self,
        session: &Session,
        room: RoomNid,
        changes: &RoomChanges,
        ignored: &BTreeSet<OwnedUserId>,
        from: Position,
    ) -> Result<Vec<Box<RawValue>>> {
        let Some(info) = self.rooms_by_nid(&[room]).await?.pop().flatten() else { return Ok(Vec::new()) };
        let receipts = self.receipts_of(room, Some((changes, from))).await?;
        let mut passing = self.receipt_events(session.user, ignored, &receipts).await?;
        if changes.typing {
            passing.push(self.typing_event(room, ignored).await?);
        }
        let mut events = passing.iter().map(|event| in_room(event, &info.id)).collect::<Result<Vec<_>>>()?;
        for (kind, data) in self.account_data_of(session.user, room, Some((&changes.account_data, from))).await? {
            if let Some(event) = account_data_event::<AnyRoomAccountDataEvent>(&session.user_id, &kind, &data).leave_out()? {
                events.push(in_room(&event, &info.id)?);
            }
        }
        Ok(events)
    }
}
