//! One look at everything a client has not seen: which rooms belong in which section of the answer,
//! and what stands beside the rooms.

use super::{
    changes::{Changes, Listed, RoomChanges},
    ephemeral::{account_data_event, bare_event},
    filter::{self, Definition, Facts, Fields},
    rooms::FormerMembership,
    sent_members::Recipient,
};
use crate::{
    damaged::LeaveOut,
    error::{Error, Result},
    homeserver::Homeserver,
    position::Position,
    push::{PUSH_RULES, user_rules},
    requester::Requester,
    room::{Related, RoomInfo, membership_of},
    tables::{self, AccountData, Json, Membership, MembershipKind, RoomNid, Session},
    time_slice::TimeSlice,
};
use ephapse_store::Direction;
use futures_util::{StreamExt, TryStreamExt, stream};
use ruma::{
    OwnedUserId,
    api::client::sync::sync_events::v3::{InvitedRoom, JoinedRoom, KnockedRoom, LeftRoom, Response},
    events::{AnyGlobalAccountDataEvent, StateEventType},
    serde::Raw,
};
use serde_json::value::RawValue;
use std::{
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

/// How many rooms are read at a time, so that their reads share the way to the store.
const BATCH: usize = 16;

/// What a request asks for.
pub struct SyncRequest {
    /// Who asks, from which device.
    pub session: Session,
    /// Whether it is a guest's.
    pub is_guest: bool,
    /// What of it the client wants.
    pub filter: Definition,
    /// What the client has; `None`: nothing.
    pub since: Option<Position>,
    /// The whole state of each joined room, changed or not.
    pub full_state: bool,
    /// The state as of the end of the timeline instead of its start.
    pub state_after: bool,
}

impl SyncRequest {
    /// Who asks.
    pub(super) fn requester(&self) -> Requester<'_> {
        Requester::local(&self.session, self.is_guest)
    }
}

/// What one sync answers, from one position to another.
pub struct SyncBuilder<'a> {
    pub(super) hs: &'a Homeserver,
    pub(super) ask: &'a SyncRequest,
    /// What has been looked at already; `None`: nothing.
    pub(super) from: Option<Position>,
    pub(super) to: Position,
    pub(super) ignored: Rc<BTreeSet<OwnedUserId>>,
    /// What of each event is asked for; `None`: everything.
    pub(super) fields: Option<Fields>,
    /// Which events of timelines are asked for by what relates to them.
    pub(super) timeline_related: Related,
    /// The same of states.
    pub(super) state_related: Related,
    /// The device, as far as it lazy-loads members.
    pub(super) recipient: Recipient,
    /// All account data, when nothing has been looked at.
    account_data: HashMap<RoomNid, Vec<(String, AccountData)>>,
    /// Of all that is read for it, of rooms beside each other too.
    pub(super) slice: TimeSlice<'a>,
}

/// Where a room belongs.
enum Section {
    Join(JoinedRoom),
    Invite(InvitedRoom),
    Knock(KnockedRoom),
    Leave(LeftRoom),
}

impl Homeserver {
    /// What a sync tells of rooms and account data. `seen`: the position up to which the client has
    /// seen everything, and what has changed since.
    pub(crate) async fn sync_response(&self, ask: &SyncRequest, seen: Option<(Position, &Listed)>, to: Position) -> Result<Response> {
        let from = seen.map(|(from, _)| from);
        let user = ask.session.user;
        let mut response = Response::new(self.token(to));
        let rooms = self.user_rooms(user).await?;
        let changes = match seen {
            Some((from, listed)) => Some(self.changes_for(user, &rooms, from, to, listed).await?),
            None => None,
        };
        let mut builder = SyncBuilder {
            hs: self,
            ask,
            from,
            to,
            ignored: self.ignored_by(user).await?,
            fields: ask.filter.event_fields.as_deref().map(Fields::named),
            timeline_related: self.related(ask.filter.timeline_related()).await?,
            state_related: self.related(ask.filter.state_related()).await?,
            recipient: self.sync.sent_members.recipient(user, &ask.session.device, ask.since, to),
            account_data: HashMap::new(),
            slice: TimeSlice::new(&*self.host),
        };
        if from.is_none() {
            for ((_, room, kind), data) in tables::ACCOUNT_DATA.scan(self.store(), &user, Direction::Forward, usize::MAX).await? {
                builder.account_data.entry(room).or_default().push((kind, data));
            }
        }
        let candidates: Vec<(RoomNid, Membership)> = match &changes {
            Some(changes) if !ask.full_state => changes.rooms.keys().filter_map(|room| Some((*room, rooms.get(*room)?))).collect(),
            _ => rooms.all(),
        };
        // A device that has not seen the departure yet would show the room for ever.
        let is_told = |membership: &Membership| !membership.forgotten || from.is_some_and(|from| membership.position > from);
        let candidates = candidates.into_iter().filter(|(_, membership)| is_told(membership)).collect();
        builder.rooms(candidates, changes.as_ref(), &mut response).await?;
        builder.global_account_data(changes.as_ref(), &mut response).await?;
        builder.presence(&rooms, changes.as_ref(), &mut response).await?;
        Ok(response)
    }
}

impl SyncBuilder<'_> {
    async fn rooms(&self, candidates: Vec<(RoomNid, Membership)>, changes: Option<&Changes>, response: &mut Response) -> Result<()> {
        let numbers: Vec<RoomNid> = candidates.iter().map(|(room, _)| *room).collect();
        let infos = self.hs.rooms_by_nid(&numbers).await?;
        self.hs.room_heads(&numbers).await?;
        let filter = &self.ask.filter.room;
        let found = candidates.into_iter().zip(infos).filter_map(|(candidate, info)| Some((candidate, info?)));
        let wanted = found.filter(|(_, info)| filter::allows_room(filter.rooms.as_deref(), &filter.not_rooms, &info.id));
        let none = RoomChanges::default();
        let sections = stream::iter(wanted.map(|((room, now), info)| {
            let changes = changes.map(|changes| changes.rooms.get(&room).unwrap_or(&none));
            async move {
                let section = self.room(&info, &now, changes).await;
                self.slice.check().await;
                // Everybody may have forgotten the room meanwhile: then there is nothing left to
                // tell of it.
                let is_gone = section.is_err() && tables::ROOM_HEADS.get(self.hs.store(), &room).await.leave_out()? == Some(None);
                if is_gone {
                    return Ok((info, None));
                }
                // One room that is damaged in a way that all of it depends on must not keep the
                // others from their user for ever.
                let section = section.map_err(|error| error.in_room(&info.id)).leave_out()?;
                Ok::<_, crate::Error>((info, section.flatten()))
            }
        }));
        let mut sections = sections.buffered(BATCH);
        let rooms = &mut response.rooms;
        while let Some((info, section)) = sections.try_next().await? {
            let id = info.id.clone();
            match section {
                Some(Section::Join(room)) => drop(rooms.join.insert(id, room)),
                Some(Section::Invite(room)) => drop(rooms.invite.insert(id, room)),
                Some(Section::Knock(room)) => drop(rooms.knock.insert(id, room)),
                Some(Section::Leave(room)) => drop(rooms.leave.insert(id, room)),
                None => {}
            }
        }
        Ok(())
    }

    async fn room(&self, room: &Rc<RoomInfo>, now: &Membership, changes: Option<&RoomChanges>) -> Result<Option<Section>> {
        let Some((kind, position)) = (if now.position > self.to { self.membership_at(room, self.to).await? } else { Some((now.kind, now.position)) })
        else {
            return Ok(None);
        };
        let changed = changes.is_none_or(|changes| changes.own);
        let before = match self.from {
            None => None,
            Some(_) if !changed => Some(kind),
            Some(from) => self.membership_at(room, from).await?.map(|(kind, _)| kind),
        };
        let came = self.from.is_none_or(|from| position > from);
        match kind {
            MembershipKind::Join => {
                let from = self.from.filter(|_| before == Some(MembershipKind::Join));
                Ok(self.joined(room, now, changes, from).await?.map(Section::Join))
            }
            MembershipKind::Invite if came => self.invited(room, position).await.map(|invited| invited.map(Section::Invite)),
            MembershipKind::Knock if came => self.knocked(room, position).await.map(|knocked| Some(Section::Knock(knocked))),
            MembershipKind::Leave | MembershipKind::Ban if came && (self.from.is_some() || self.ask.filter.room.include_leave) => {
                let known = self.from.filter(|_| before == Some(MembershipKind::Join));
                let was_in = known.is_some() || now.last_left.is_some_and(|left| self.from.is_none_or(|from| left > from));
                // Of a room that was forgotten only the departure is told.
                let was_in = was_in && !now.forgotten;
                let again = known.is_none() && before.is_some();
                Ok(Some(Section::Leave(self.left(room, now, changes, position, FormerMembership { known, was_in, again }).await?)))
            }
            _ => Ok(None),
        }
    }

    /// The user's membership as it was at a position.
    async fn membership_at(&self, room: &RoomInfo, position: Position) -> Result<Option<(MembershipKind, Position)>> {
        let head = self.hs.room_head(room.nid).await?;
        let state = self.hs.room_state_at(room.nid, &head, position).await?;
        let key = (StateEventType::RoomMember, self.ask.session.user_id.to_string());
        Ok(self.hs.state_event(room.nid, state, key).await?.map(|event| (membership_of(&event), event.position)))
    }

    /// The user's account data of a room, or outside of rooms (0).
    pub(super) async fn account_data(&self, room: RoomNid, changes: Option<&super::changes::Which<String>>) -> Result<Vec<(String, AccountData)>> {
        match (self.from, changes) {
            (None, _) => Ok(self.account_data.get(&room).cloned().unwrap_or_default()),
            (Some(_), Some(changes)) if changes.is_none() => Ok(Vec::new()),
            (Some(from), changes) => self.hs.account_data_of(self.ask.session.user, room, changes.map(|changes| (changes, from))).await,
        }
    }

    async fn global_account_data(&self, changes: Option<&Changes>, response: &mut Response) -> Result<()> {
        let filter = &self.ask.filter.account_data;
        let data = self.account_data(0, changes.map(|changes| &changes.account_data)).await?;
        let events = &mut response.account_data.events;
        for (kind, data) in data.iter().filter(|(kind, _)| filter::allows(filter, kind, None)) {
            let user = &self.ask.session.user_id;
            let event = if kind == PUSH_RULES { self.push_rules(&data.content) } else { account_data_event(user, kind, data) };
            events.extend(event.leave_out()?);
        }
        // Everybody has push rules, also who never changed one.
        if changes.is_none() && data.iter().all(|(kind, _)| kind != PUSH_RULES) && filter::allows(filter, PUSH_RULES, None) {
            events.push(self.push_rules(&Json("{\"global\":{}}".to_owned()))?);
        }
        Ok(())
    }

    /// The user's push rules, as they are answered elsewhere too.
    fn push_rules(&self, stored: &Json) -> Result<Raw<AnyGlobalAccountDataEvent>> {
        let content = RawValue::from_string(user_rules::up_to_date(stored, &self.ask.session.user_id).0);
        bare_event(PUSH_RULES, content.map_err(|error| Error::Internal(format!("push rules are not JSON: {error}")))?)
    }

    /// Whether the filter for account data in rooms lets a type through.
    pub(super) fn allows_account_data(&self, room: &RoomInfo, kind: &str, content: &str) -> bool {
        let json = format!(r#"{{"content":{content}}}"#);
        filter::allows_room_event(&self.ask.filter.room.account_data, &room.id, Facts { event_type: kind, sender: None, json: json.as_bytes() })
    }
}
