//! The `presence` section of a sync (Client-Server API, Presence): users who share a room with the
//! client's user, and that user.

use super::{builder::SyncBuilder, changes::Changes, filter, memberships::UserRooms, presence::Shown};
use crate::{
    damaged::LeaveOut,
    error::{Error, Result},
    homeserver::Homeserver,
    room::membership_of,
    tables::{self, MembershipKind, PresenceKind, RoomNid, UserNid},
};
use ephapse_events::Inserted;
use ephapse_store::Direction;
use ruma::{
    OwnedUserId, UInt,
    api::client::{filter::FilterDefinition, sync::sync_events::v3::Response},
    events::presence::{PresenceEvent, PresenceEventContent},
    serde::Raw,
};
use std::collections::{BTreeMap, BTreeSet};

/// The type of the events.
pub(super) const PRESENCE: &str = "m.presence";
/// The most events of one answer: of those who were active last.
pub(super) const MOST: usize = 1000;
/// How many of the users who are offline are looked at for one who shares a room and has something
/// to say.
const MOST_OFFLINE: usize = 256;

/// Whom a look shows: those whose presence changed, or whom it is the first to show.
#[derive(Default)]
struct Wanted {
    changed: BTreeSet<UserNid>,
    /// As far as there is something to say of them.
    new: BTreeSet<UserNid>,
    /// Those of the new whose rooms the client's user has come into: also when they were last
    /// active says something.
    met: BTreeSet<UserNid>,
    /// In which of the client's rooms somebody's membership changed: of who has come in there is
    /// told in any case.
    moved: BTreeMap<UserNid, Vec<RoomNid>>,
}

/// Whether the client wants to see presence at all.
pub fn wants_presence(filter: &FilterDefinition) -> bool {
    let filter = &filter.presence;
    filter.limit != Some(UInt::MIN) && filter::allows(filter, PRESENCE, None)
}

impl SyncBuilder<'_> {
    /// Adds what changed; everything that is not offline and silent when nothing has been looked
    /// at.
    pub(super) async fn presence(&self, rooms: &UserRooms, changes: Option<&Changes>, response: &mut Response) -> Result<()> {
        let hs = self.hs;
        let filter = &self.ask.filter.presence;
        if !hs.config.presence || !wants_presence(&self.ask.filter) {
            return Ok(());
        }
        let wanted = self.wanted(rooms, changes).await?;
        let users: Vec<UserNid> = wanted.changed.union(&wanted.new).copied().collect();
        let own = rooms.joined();
        let mut shown: Vec<(OwnedUserId, Shown)> = Vec::new();
        for (user, mut presence) in users.iter().zip(hs.presence_of(&users).await?) {
            let is_offline = presence.state == PresenceKind::Offline;
            let changed = wanted.changed.contains(user);
            let is_silent = is_offline && presence.status_msg.is_none() && !changed;
            if is_silent && !self.is_told_of_offline(&wanted, *user, &presence).await? {
                continue;
            }
            let Some(id) = hs.user_id(*user).await.leave_out()? else { continue };
            if !filter::allows(filter, PRESENCE, Some(id.as_str())) || self.ignored.contains(&id) {
                continue;
            }
            if *user == self.ask.session.user || wanted.met.contains(user) || hs.is_joined_to_one_of(*user, &own).await? {
                shown.push((id, presence));
            } else if let Some(changes) = changes.filter(|_| is_offline && changed)
                && self.has_left(rooms, *user, changes).await?
            {
                // Who went offline and then left is not to seem present for ever; there is no more
                // to say of them.
                presence.status_msg = None;
                shown.push((id, presence));
            }
            self.slice.check().await;
        }
        shown.sort_by_key(|(_, presence)| std::cmp::Reverse(presence.last_active));
        let limit = filter.limit.map_or(MOST, |limit| usize::try_from(u64::from(limit)).unwrap_or(MOST).min(MOST));
        shown.truncate(limit);
        let now = hs.host.now();
        let events = shown.into_iter().map(|(id, presence)| event(id, presence, now));
        response.presence.events = events.collect::<Result<_>>()?;
        Ok(())
    }

    async fn wanted(&self, rooms: &UserRooms, changes: Option<&Changes>) -> Result<Wanted> {
        let hs = self.hs;
        let mut wanted = Wanted::default();
        let Some(Changes { presence, moved, rooms: changed, .. }) = changes else {
            wanted.new = hs.worth_showing().await?;
            return Ok(wanted);
        };
        wanted.changed.clone_from(presence);
        for (room, user) in moved.iter().filter(|(room, _)| rooms.is_joined(*room)) {
            wanted.new.insert(*user);
            wanted.moved.entry(*user).or_default().push(*room);
        }
        let came = |room: &RoomNid| rooms.get(*room).is_some_and(|own| own.kind == MembershipKind::Join && Some(own.position) > self.from);
        let entered: Vec<RoomNid> = changed.iter().filter(|(room, changes)| changes.own && came(room)).map(|(room, _)| *room).collect();
        if !entered.is_empty() {
            for user in hs.worth_showing().await? {
                if user != self.ask.session.user && hs.is_joined_to_one_of(user, &entered).await? {
                    wanted.new.insert(user);
                }
                self.slice.check().await;
            }
            for room in entered {
                let members = tables::MEMBERS.scan(hs.store(), &(room, MembershipKind::Join as u8), Direction::Forward, MOST).await?;
                wanted.met.extend(members.into_iter().map(|((_, _, user), _)| user));
                if wanted.met.len() >= MOST {
                    break;
                }
            }
            wanted.met.remove(&self.ask.session.user);
            wanted.new.extend(&wanted.met);
        }
        Ok(wanted)
    }

    /// Whether the client's user and somebody who is offline have come to share a room since: who
    /// comes is told of in any case, those who were there only where there is something to say.
    async fn is_told_of_offline(&self, wanted: &Wanted, user: UserNid, presence: &Shown) -> Result<bool> {
        if user == self.ask.session.user {
            return Ok(false);
        }
        if wanted.met.contains(&user) && presence.last_active.is_some() {
            return Ok(true);
        }
        for room in wanted.moved.get(&user).into_iter().flatten() {
            if self.has_come(*room, user).await? {
                return Ok(true);
            }
            self.slice.check().await;
        }
        Ok(false)
    }

    /// Whether a user has come into a room since, and has not just another name there.
    async fn has_come(&self, room: RoomNid, user: UserNid) -> Result<bool> {
        let now = tables::MEMBERSHIPS.get(self.hs.store(), &(user, room)).await?;
        let Some(now) = now.filter(|now| now.kind == MembershipKind::Join && Some(now.position) > self.from) else { return Ok(false) };
        let event = async |position| Ok::<_, Error>(self.hs.events_at(room, &[position]).await?.into_iter().flatten().next());
        let before = match event(now.position).await?.map(|join| join.replaces) {
            Some(Some(before)) => event(before).await?,
            Some(None) => return Ok(true),
            None => return Ok(false),
        };
        Ok(before.is_none_or(|before| membership_of(&before) != MembershipKind::Join))
    }

    /// Whether a user was in one of the client's rooms until lately.
    async fn has_left(&self, rooms: &UserRooms, user: UserNid, changes: &Changes) -> Result<bool> {
        let moves = changes.moved.iter().filter(|(room, who)| *who == user && rooms.is_joined(*room));
        let keys: Vec<_> = moves.map(|(room, _)| (user, *room)).collect();
        let found = tables::MEMBERSHIPS.get_many(self.hs.store(), &keys).await?;
        Ok(found.into_iter().flatten().any(|membership| membership.last_left > self.from))
    }
}

impl Homeserver {
    /// Everybody of whom there is something to say: who is there, and who has left a message.
    pub(super) async fn worth_showing(&self) -> Result<BTreeSet<UserNid>> {
        let mut users: BTreeSet<UserNid> = self.sync.presence.users().into_iter().inserted();
        let silent = tables::STATUS_MESSAGES.scan(self.store(), &(), Direction::Forward, MOST_OFFLINE).await?;
        users.extend(silent.into_iter().map(|(user, _)| user));
        Ok(users)
    }
}

fn event(sender: OwnedUserId, presence: Shown, now: u64) -> Result<Raw<PresenceEvent>> {
    let content = content(presence, now);
    Raw::new(&PresenceEvent { content, sender }).map_err(|error| Error::Internal(format!("could not serialize an event: {error}")))
}

/// What an event says of a user.
pub(super) fn content(presence: Shown, now: u64) -> PresenceEventContent {
    let mut content = PresenceEventContent::new(presence.state.into());
    content.currently_active = presence.currently_active();
    content.last_active_ago = presence.last_active_ago(now).map(|ago| UInt::new_saturating(ago.as_millis() as u64));
    content.status_msg = presence.status_msg;
    content
}
