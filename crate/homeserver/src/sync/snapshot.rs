//! Rooms and account data as they are, with the newest events: `GET /initialSync` and
//! `GET /rooms/{roomId}/initialSync`, which r0 deprecated.

use super::{ephemeral::account_data_event, old::in_room};
use crate::{
    damaged::LeaveOut,
    error::Result,
    homeserver::Homeserver,
    position::Position,
    push::PUSH_RULES,
    requester::Requester,
    room::{Event, Format, NodeId, Related, RoomInfo, Viewer, Wanted, state_tree::Part},
    tables::{self, Membership, MembershipKind, RoomNid, Session},
    time_slice::TimeSlice,
};
use ephapse_store::Direction;
use ruma::{
    OwnedRoomId, OwnedUserId, RoomId,
    events::{AnyGlobalAccountDataEvent, AnyRoomAccountDataEvent, AnyStateEvent, AnyTimelineEvent},
    serde::Raw,
};
use serde::Serialize;
use serde_json::value::RawValue;
use std::{collections::BTreeSet, rc::Rc};

/// A room as a user sees it.
#[derive(Serialize)]
pub struct Snapshot {
    room_id: OwnedRoomId,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<&'static str>,
    visibility: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    inviter: Option<OwnedUserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invite: Option<Raw<AnyTimelineEvent>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Messages>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<Vec<Raw<AnyStateEvent>>>,
    account_data: Vec<Raw<AnyRoomAccountDataEvent>>,
    presence: Vec<Box<RawValue>>,
    receipts: Vec<Box<RawValue>>,
}

#[derive(Serialize)]
struct Messages {
    start: String,
    end: String,
    chunk: Vec<Raw<AnyTimelineEvent>>,
}

/// All that a user sees.
#[derive(Serialize)]
pub struct GlobalSnapshot {
    end: String,
    rooms: Vec<Snapshot>,
    presence: Vec<Box<RawValue>>,
    receipts: Vec<Box<RawValue>>,
    account_data: Vec<Raw<AnyGlobalAccountDataEvent>>,
}

impl Homeserver {
    /// All rooms that a user is in or invited to, and with `archived` those that they have left.
    pub(crate) async fn global_snapshot(&self, session: &Session, is_guest: bool, limit: usize, archived: bool) -> Result<GlobalSnapshot> {
        let requester = Requester::local(session, is_guest);
        let to = self.positions.newest();
        let rooms = self.user_rooms(session.user).await?;
        let all: Vec<(RoomNid, Membership)> = rooms.all().into_iter().filter(|(_, own)| !own.forgotten).collect();
        let numbers: Vec<RoomNid> = all.iter().map(|(room, _)| *room).collect();
        let mut snapshots = Vec::new();
        let mut receipts = Vec::new();
        let slice = TimeSlice::new(&*self.host);
        for ((_, own), room) in all.iter().zip(self.rooms_by_nid(&numbers).await?) {
            let Some(room) = room else { continue };
            let snapshot = match own.kind {
                MembershipKind::Invite => self.invitation(requester, session, &room, own).await,
                MembershipKind::Join => self.snapshot(requester, session, &room.id, limit, to).await.map(Some),
                MembershipKind::Leave | MembershipKind::Ban if archived && own.ever_joined => {
                    self.snapshot(requester, session, &room.id, limit, to).await.map(Some)
                }
                _ => Ok(None),
            };
            // One room that is damaged must not keep the others from their user.
            let snapshot = snapshot.map_err(|error| error.in_room(&room.id)).leave_out()?;
            if let Some(mut snapshot) = snapshot.flatten() {
                receipts.append(&mut snapshot.receipts);
                snapshots.push(snapshot);
            }
            slice.check().await;
        }
        let ignored = self.ignored_by(session.user).await?;
        let mut users = self.worth_showing().await?;
        users.insert(session.user);
        let mut account_data = Vec::new();
        for (kind, data) in self.account_data_of(session.user, 0, None).await? {
            if kind != PUSH_RULES {
                account_data.extend(account_data_event(&session.user_id, &kind, &data).leave_out()?);
            }
        }
        let presence = self.old_presence(session, &ignored, users, &rooms.joined()).await?;
        Ok(GlobalSnapshot { end: self.token(to), rooms: snapshots, presence, receipts, account_data })
    }

    /// A room that a user is in or invited to, as of `to`, or as it was when they left it; else one
    /// that everybody may read.
    pub(crate) async fn room_snapshot(&self, session: &Session, is_guest: bool, id: &RoomId, limit: usize) -> Result<Snapshot> {
        let requester = Requester::local(session, is_guest);
        let mut snapshot = self.snapshot(requester, session, id, limit, self.positions.newest()).await?;
        let room = self.known_room(id).await?;
        if snapshot.membership.is_none_or(|own| own == MembershipKind::Join.as_str()) {
            let ignored = self.ignored_by(session.user).await?;
            snapshot.presence = self.old_presence(session, &ignored, self.first_members(room.nid).await?, &[room.nid]).await?;
        }
        Ok(snapshot)
    }

    async fn snapshot(&self, requester: Requester<'_>, session: &Session, id: &RoomId, limit: usize, to: Position) -> Result<Snapshot> {
        let (room, mut until) = self.readable(requester, id).await?;
        let own = tables::MEMBERSHIPS.get(self.store(), &(session.user, room.nid)).await?;
        let own = own.filter(|own| !own.forgotten && own.ever_joined);
        if let Some(own) = own.as_ref().filter(|own| own.kind != MembershipKind::Join) {
            until = Some(own.last_left.unwrap_or(own.position));
        }
        let end = until.unwrap_or(to);
        let state = match until {
            Some(left) => self.event_at(room.nid, left).await?.room_state,
            None => self.room_state_at(room.nid, &*self.room_head(room.nid).await?, to).await?,
        };
        let mut viewer = Viewer::new(self, &room, requester).await?;
        let wanted = Wanted { by_itself: &|_| true, related: &Related::default() };
        let mut page = self.page(&room, &mut viewer, Position::MIN..end, Direction::Backward, limit, wanted).await?;
        page.events.reverse();
        let start = if page.end == Position::MIN { Position(0) } else { page.end };
        let messages = Messages {
            start: self.token(start),
            end: self.token(end),
            chunk: self.timeline_events(&room, &page.events, requester, Format::Old, &viewer).await?,
        };
        let mut snapshot = self.bare_snapshot(session, &room).await?;
        snapshot.membership = own.map(|own| own.kind.as_str());
        snapshot.messages = Some(messages);
        let state = self.whole_state(&room, state).await?;
        snapshot.state = Some(self.client_events(&room, &state, requester, Format::Old).await?);
        if until.is_none() {
            let ignored = self.ignored_by(session.user).await?;
            let receipts = self.receipts_of(room.nid, None).await?;
            let events = self.receipt_events(session.user, &ignored, &receipts).await?;
            snapshot.receipts = events.iter().map(|event| in_room(event, &room.id)).collect::<Result<_>>()?;
        }
        Ok(snapshot)
    }

    async fn invitation(&self, requester: Requester<'_>, session: &Session, room: &Rc<RoomInfo>, own: &Membership) -> Result<Option<Snapshot>> {
        let invite = self.event_at(room.nid, own.position).await?;
        let ignored: Rc<BTreeSet<OwnedUserId>> = self.ignored_by(session.user).await?;
        if ignored.contains(&invite.pdu.sender) || self.blocks_invites(session.user).await? {
            return Ok(None);
        }
        let mut snapshot = self.bare_snapshot(session, room).await?;
        snapshot.membership = Some(own.kind.as_str());
        snapshot.inviter = Some(invite.pdu.sender.clone());
        snapshot.invite = self.client_events(room, &[invite], requester, Format::Old).await?.pop();
        Ok(Some(snapshot))
    }

    /// What is said of every room.
    async fn bare_snapshot(&self, session: &Session, room: &RoomInfo) -> Result<Snapshot> {
        let is_published = tables::PUBLISHED_ROOMS.get(self.store(), &room.nid).await?.is_some();
        let mut account_data = Vec::new();
        for (kind, data) in self.account_data_of(session.user, room.nid, None).await? {
            account_data.extend(account_data_event(&session.user_id, &kind, &data).leave_out()?);
        }
        Ok(Snapshot {
            room_id: room.id.clone(),
            membership: None,
            visibility: if is_published { "public" } else { "private" },
            inviter: None,
            invite: None,
            messages: None,
            state: None,
            account_data,
            presence: Vec::new(),
            receipts: Vec::new(),
        })
    }

    async fn whole_state(&self, room: &RoomInfo, state: NodeId) -> Result<Vec<Rc<Event>>> {
        let mut positions: Vec<Position> = self.state_entries(room.nid, state, Part::All).await?.into_iter().map(|(_, at)| at).collect();
        positions.sort_unstable();
        Ok(self.events_at(room.nid, &positions).await?.into_iter().flatten().collect())
    }
}
