//! What other servers are told and need not get: who types, has read how far, and is there. It
//! waits in memory, the newest of each.

use crate::{
    damaged::LeaveOut,
    error::{Error, Result},
    failure::Failure,
    federation::outbox::WaitingEdu,
    homeserver::Homeserver,
    keys,
    position::Position,
    room::membership_of,
    tables::{self, Change, MembershipKind, PresenceKind, ReceiptKind, RoomNid, UserNid},
    time_slice::TimeSlice,
};
use ephapse_events::Inserted;
use ephapse_store::{Direction, StoreError};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, UInt};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

/// How many of each kind wait for one server.
const MOST: usize = 1000;
/// Devices of one user that a server is told of when it meets them.
const MOST_DEVICES: usize = 100;
/// When a join has reached the servers that it concerns, most of the time.
const ENTERED_AFTER: Duration = Duration::from_secs(2);
/// Users in one presence EDU.
const USERS_IN_PRESENCE: usize = 50;
/// How often a server is told that somebody still types, in ms: others forget it after a minute.
const TELL_AGAIN: u64 = 40_000;

/// What waits for one server.
#[derive(Default)]
pub(super) struct Passing {
    typing: BTreeMap<(OwnedRoomId, OwnedUserId), bool>,
    /// By room, user and thread.
    receipts: BTreeMap<(OwnedRoomId, OwnedUserId, Option<String>), (OwnedEventId, u64)>,
    presence: BTreeMap<UserNid, OwnedUserId>,
}

#[derive(Serialize)]
struct Edu<C> {
    edu_type: &'static str,
    content: C,
}

/// An EDU as it is sent.
pub(super) fn edu(edu_type: &'static str, content: impl Serialize) -> Option<Box<RawValue>> {
    to_raw_value(&Edu { edu_type, content }).ok()
}

impl Passing {
    pub(super) fn is_empty(&self) -> bool {
        self.typing.is_empty() && self.receipts.is_empty() && self.presence.is_empty()
    }

    /// Forgets who types: it would not be true any more.
    pub(super) fn forget_typing(&mut self) {
        self.typing.clear();
    }

    /// Takes what fits into so many EDUs.
    pub(super) fn take(&mut self, edus: usize) -> Self {
        let mut taken = Self::default();
        if edus < 3 {
            return taken;
        }
        while taken.presence.len() < USERS_IN_PRESENCE
            && let Some((user, id)) = self.presence.pop_first()
        {
            taken.presence.insert(user, id);
        }
        // Each of these is one EDU at most.
        while taken.typing.len() + taken.receipts.len() + 1 < edus
            && let Some((place, typing)) = self.typing.pop_first()
        {
            taken.typing.insert(place, typing);
        }
        while taken.typing.len() + taken.receipts.len() + 1 < edus
            && let Some((place, receipt)) = self.receipts.pop_first()
        {
            taken.receipts.insert(place, receipt);
        }
        taken
    }

    /// Puts back what did not arrive, unless something newer waits. Who typed does not type any
    /// more when it is tried again.
    pub(super) fn put_back(&mut self, taken: Self) {
        for (place, receipt) in taken.receipts {
            self.receipts.entry(place).or_insert(receipt);
        }
        self.presence.extend(taken.presence);
    }

    /// The EDUs that say it.
    pub(super) async fn edus(&self, hs: &Homeserver) -> Result<Vec<Box<RawValue>>> {
        let mut edus = Vec::new();
        for ((room_id, user_id), typing) in &self.typing {
            #[derive(Serialize)]
            struct Typing<'a> {
                room_id: &'a OwnedRoomId,
                user_id: &'a OwnedUserId,
                typing: bool,
            }
            edus.extend(edu("m.typing", Typing { room_id, user_id, typing: *typing }));
        }
        edus.extend(self.receipt_edus());
        if !self.presence.is_empty() {
            edus.extend(self.presence_edu(hs).await?);
        }
        Ok(edus)
    }

    /// One EDU has one receipt of a user in a room: those of several threads need several.
    fn receipt_edus(&self) -> Vec<Box<RawValue>> {
        #[derive(Serialize)]
        struct Data<'a> {
            ts: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            thread_id: Option<&'a str>,
        }
        #[derive(Serialize)]
        struct Receipt<'a> {
            data: Data<'a>,
            event_ids: [&'a OwnedEventId; 1],
        }
        #[derive(Default, Serialize)]
        struct Read<'a> {
            #[serde(rename = "m.read")]
            read: BTreeMap<&'a OwnedUserId, Receipt<'a>>,
        }
        let mut contents: Vec<BTreeMap<&OwnedRoomId, Read<'_>>> = Vec::new();
        for ((room, user, thread), (event_id, ts)) in &self.receipts {
            let is_free = |content: &BTreeMap<&OwnedRoomId, Read<'_>>| content.get(room).is_none_or(|read| !read.read.contains_key(user));
            let place = contents.iter().position(is_free).unwrap_or_else(|| {
                contents.push(BTreeMap::new());
                contents.len() - 1
            });
            let receipt = Receipt { data: Data { ts: *ts, thread_id: thread.as_deref() }, event_ids: [event_id] };
            contents[place].entry(room).or_default().read.insert(user, receipt);
        }
        contents.into_iter().filter_map(|content| edu("m.receipt", content)).collect()
    }

    async fn presence_edu(&self, hs: &Homeserver) -> Result<Option<Box<RawValue>>> {
        #[derive(Serialize)]
        struct Update<'a> {
            user_id: &'a OwnedUserId,
            presence: ruma::presence::PresenceState,
            #[serde(skip_serializing_if = "Option::is_none")]
            status_msg: Option<String>,
            last_active_ago: UInt,
            currently_active: bool,
        }
        #[derive(Serialize)]
        struct Content<'a> {
            push: Vec<Update<'a>>,
        }
        let users: Vec<UserNid> = self.presence.keys().copied().collect();
        let now = hs.host.now();
        let shown = hs.presence_of(&users).await?;
        let push = self.presence.values().zip(shown).map(|(user_id, shown)| Update {
            user_id,
            presence: shown.state.into(),
            last_active_ago: UInt::new_saturating(shown.last_active_ago(now).map_or(0, |ago| ago.as_millis() as u64)),
            currently_active: shown.currently_active() == Some(true),
            status_msg: shown.status_msg,
        });
        Ok(edu("m.presence", Content { push: push.collect() }))
    }
}

/// What happened here that other servers have not been told.
#[derive(Default)]
pub(super) struct News {
    typing: RefCell<BTreeSet<RoomNid>>,
    receipts: RefCell<BTreeSet<(RoomNid, UserNid, ReceiptKind)>>,
    presence: RefCell<BTreeSet<UserNid>>,
    /// Whose membership changed, and where: who has come is told of those who are there.
    moved: RefCell<BTreeSet<(RoomNid, UserNid)>>,
    /// Who types, as far as others were told, and when, in ms.
    told: RefCell<BTreeMap<(RoomNid, UserNid), u64>>,
    is_told: Cell<bool>,
}

impl News {
    fn note(&self, changes: &[Change]) -> bool {
        let mut any = false;
        for change in changes {
            any |= match change {
                Change::Typing { room, .. } => self.typing.borrow_mut().insert(*room),
                Change::Receipt { room, user, kind } if !kind.private => self.receipts.borrow_mut().insert((*room, *user, kind.clone())),
                Change::Presence { user } => self.presence.borrow_mut().insert(*user),
                Change::Event { room, member: Some(member) } => self.moved.borrow_mut().insert((*room, *member)),
                _ => false,
            };
        }
        any
    }

    fn are_none(&self) -> bool {
        self.typing.borrow().is_empty() && self.receipts.borrow().is_empty() && self.presence.borrow().is_empty() && self.moved.borrow().is_empty()
    }
}

impl Homeserver {
    /// Has other servers told what changed, in a while.
    pub(crate) fn tell_others(&self, changes: &[Change]) {
        let outbox = &self.federation.outbox;
        if !outbox.has_peers() || !self.federates() || !outbox.news.note(changes) {
            return;
        }
        self.spread_news();
    }

    /// Somebody still types, who said so before.
    pub(crate) fn types_on(&self, room: RoomNid, user: UserNid) {
        let news = &self.federation.outbox.news;
        let is_old = news.told.borrow().get(&(room, user)).is_some_and(|told| told + TELL_AGAIN <= self.host.now());
        if is_old {
            news.told.borrow_mut().remove(&(room, user));
            news.typing.borrow_mut().insert(room);
            self.spread_news();
        }
    }

    fn spread_news(&self) {
        let Some(hs) = self.me() else { return };
        if !self.federation.outbox.news.is_told.replace(true) {
            self.host.spawn(Box::pin(async move {
                while !hs.notify.is_closed() && !hs.federation.outbox.news.are_none() {
                    hs.spread().await;
                }
                hs.federation.outbox.news.is_told.set(false);
            }));
        }
    }

    async fn spread(&self) {
        self.begin_reading();
        let news = &self.federation.outbox.news;
        let slice = TimeSlice::new(&*self.host);
        // Taken first, so that nothing is borrowed while this waits.
        let (typing, receipts, presence, moved) = (news.typing.take(), news.receipts.take(), news.presence.take(), news.moved.take());
        for room in typing {
            tell_of(self.spread_typing(room).await);
            slice.step().await;
        }
        for (room, user, kind) in receipts {
            tell_of(self.spread_receipt(room, user, kind).await);
            slice.step().await;
        }
        for user in presence {
            tell_of(self.spread_presence(user).await);
            slice.step().await;
        }
        for (room, user) in moved {
            tell_of(self.introduce(room, user).await);
            slice.step().await;
        }
    }

    async fn spread_typing(&self, room: RoomNid) -> Result<()> {
        let servers = self.servers_told_in(room).await?;
        let Some(info) = self.room_by_nid(room).await.leave_out()? else { return Ok(()) };
        let types: BTreeSet<UserNid> = self.sync.typing.in_room(room).into_iter().inserted();
        let told: BTreeSet<UserNid> = {
            let told = self.federation.outbox.news.told.borrow();
            told.range((room, 0)..=(room, UserNid::MAX)).map(|((_, user), _)| *user).inserted()
        };
        for user in types.symmetric_difference(&told) {
            let Some(id) = self.user_id(*user).await.leave_out()?.filter(|id| self.is_local(id)) else { continue };
            let is_typing = types.contains(user);
            {
                let mut told = self.federation.outbox.news.told.borrow_mut();
                match is_typing {
                    true => told.insert((room, *user), self.host.now()),
                    false => told.remove(&(room, *user)),
                };
            }
            self.pass_on(&servers, |passing| {
                if passing.typing.len() < MOST {
                    passing.typing.insert((info.id.clone(), id.clone()), is_typing);
                }
            });
        }
        Ok(())
    }

    async fn spread_receipt(&self, room: RoomNid, user: UserNid, kind: ReceiptKind) -> Result<()> {
        let servers = self.servers_told_in(room).await?;
        let Some(id) = self.user_id(user).await.leave_out()?.filter(|id| self.is_local(id)) else { return Ok(()) };
        let Some(receipt) = tables::RECEIPTS.get(self.store(), &(room, user, kind.clone())).await? else { return Ok(()) };
        let Some(info) = self.room_by_nid(room).await.leave_out()? else { return Ok(()) };
        self.pass_on(&servers, |passing| {
            let place = (info.id.clone(), id.clone(), kind.thread.clone());
            if passing.receipts.len() < MOST || passing.receipts.contains_key(&place) {
                passing.receipts.insert(place, (receipt.event_id.clone(), receipt.ts));
            }
        });
        Ok(())
    }

    async fn spread_presence(&self, user: UserNid) -> Result<()> {
        let Some(id) = self.user_id(user).await.leave_out()?.filter(|id| self.is_local(id)) else { return Ok(()) };
        let servers = self.servers_sharing_rooms(user).await?;
        self.pass_on(&servers, |passing| {
            if passing.presence.len() < MOST {
                passing.presence.insert(user, id.clone());
            }
        });
        Ok(())
    }

    /// Who has come into a room from another server is told of who is there, and the other servers
    /// of a user of this one who has come.
    async fn introduce(&self, room: RoomNid, user: UserNid) -> Result<()> {
        let membership = tables::MEMBERSHIPS.get(self.store(), &(user, room)).await?;
        let Some(membership) = membership.filter(|membership| membership.kind == MembershipKind::Join) else { return Ok(()) };
        if self.was_in_before(room, membership.position).await? {
            return Ok(());
        }
        // Servers take nothing of who they do not know to be in the room. Many may come at once, so
        // that nothing is held of them meanwhile.
        let Some(hs) = self.me() else { return Ok(()) };
        self.host.spawn(Box::pin(async move {
            hs.host.sleep(ENTERED_AFTER).await;
            hs.begin_reading();
            tell_of(hs.introduce_now(room, user).await);
        }));
        Ok(())
    }

    /// The same, unless the user has left meanwhile.
    async fn introduce_now(&self, room: RoomNid, user: UserNid) -> Result<()> {
        if !self.is_joined_to_one_of(user, &[room]).await? {
            return Ok(());
        }
        let Some(id) = self.user_id(user).await.leave_out()? else { return Ok(()) };
        let is_local = self.is_local(&id);
        let mut servers = self.servers_told_in(room).await?;
        servers.retain(|server| is_local || server == id.server_name());
        if servers.is_empty() {
            return Ok(());
        }
        if is_local {
            self.tell_of_devices(room, user, &servers).await?;
            return self.tell_of_presence(room, &[user], &servers).await;
        }
        self.tell_of_presence(room, &self.sync.presence.users(), &servers).await
    }

    /// Tells servers how those of `users` are who are in a room.
    async fn tell_of_presence(&self, room: RoomNid, users: &[UserNid], servers: &BTreeSet<OwnedServerName>) -> Result<()> {
        let slice = TimeSlice::new(&*self.host);
        if !self.config.presence {
            return Ok(());
        }
        for (user, shown) in users.iter().zip(self.presence_of(users).await?) {
            slice.step().await;
            let id = self.user_id(*user).await.leave_out()?.filter(|id| self.is_local(id) && shown.state != PresenceKind::Offline);
            let Some(id) = id else { continue };
            if self.is_joined_to_one_of(*user, &[room]).await? {
                self.pass_on(servers, |passing| {
                    if passing.presence.len() < MOST {
                        passing.presence.insert(*user, id.clone());
                    }
                });
            }
        }
        Ok(())
    }

    /// Whether somebody was in a room before the event that says so now, which changed their name.
    async fn was_in_before(&self, room: RoomNid, join: Position) -> Result<bool> {
        let event = async |position| Ok::<_, Error>(self.events_at(room, &[position]).await?.into_iter().flatten().next());
        let Some(before) = event(join).await?.and_then(|join| join.replaces) else { return Ok(false) };
        Ok(event(before).await?.is_some_and(|before| membership_of(&before) == MembershipKind::Join))
    }

    /// Servers that share their first room with a user of this one learn what devices they have
    /// ("when that user joins a room which contains servers which are not already receiving
    /// updates"). Where this is lost, they find out when they first ask.
    async fn tell_of_devices(&self, room: RoomNid, user: UserNid, servers: &BTreeSet<OwnedServerName>) -> Result<()> {
        let mut new = servers.clone();
        for other in self.user_rooms(user).await?.joined().into_iter().filter(|other| *other != room) {
            let known = self.servers_told_in(other).await?;
            new.retain(|server| !known.contains(server));
        }
        let devices = tables::DEVICES.scan(self.store(), &user, Direction::Forward, MOST_DEVICES).await?;
        let version = keys::device_list_version(self, user).await?;
        let now = self.host.now();
        for server in new {
            let queues = self.queues(&server).await?;
            let told = self.write(self.store().generation(), |tx| {
                for ((_, device), _) in &devices {
                    queues.append_edu(tx, now, &WaitingEdu::Device { user, device: device.clone(), version, previous: None });
                }
            });
            told?.visible();
        }
        Ok(())
    }

    fn pass_on(&self, servers: &BTreeSet<OwnedServerName>, add: impl Fn(&mut Passing)) {
        for server in servers {
            let destination: Rc<_> = self.federation.outbox.destination(server);
            add(&mut destination.passing.borrow_mut());
            self.wake_sender(server);
        }
    }

    /// The other servers with members in a room that are told what happens there.
    pub(crate) async fn servers_told_in(&self, room: RoomNid) -> Result<BTreeSet<OwnedServerName>, StoreError> {
        let servers = self.servers_in(room).await.map_err(|error| match error {
            Failure::Store(error) => error,
            other => StoreError::Unreadable(other.to_string()),
        })?;
        Ok(servers.keys().filter(|server| self.tells(server)).cloned().inserted())
    }

    /// The other servers with members in a room that a user is in.
    pub(crate) async fn servers_sharing_rooms(&self, user: UserNid) -> Result<BTreeSet<OwnedServerName>, StoreError> {
        let mut servers = BTreeSet::new();
        if !self.federation.outbox.has_peers() || !self.federates() {
            return Ok(servers);
        }
        let slice = TimeSlice::new(&*self.host);
        for room in self.user_rooms(user).await?.joined() {
            servers.extend(self.servers_told_in(room).await?);
            slice.step().await;
        }
        Ok(servers)
    }
}

/// One that could not be told costs none of the others.
fn tell_of(told: Result<()>) {
    if let Err(error) = told {
        tracing::debug!("could not tell other servers what passed: {error}");
    }
}
