//! Who is there (Client-Server API, Presence): what each device says with its syncs, put together
//! for each user, with a position for each change of the whole, so that syncs see it in order.
//!
//! It lives in memory. What is written with a change is what a restart would lose: who is there,
//! when they were last active, and their status message. A sync that says again what is known
//! writes nothing and wakes nobody. Nor does it when somebody does something who is offline; when
//! that was is written now and then, and told to who joins a room with them. What a sync shows of
//! it is in `presence_events`.

use super::memberships::UserRooms;
use crate::{
    cache::Cache,
    damaged::LeaveOut,
    error::{Error, Result},
    homeserver::Homeserver,
    tables::{self, Change, PresenceKind, Session, StoredPresence, UserNid},
    time_slice::TimeSlice,
    transaction::{Submitted, Tx},
};
use ephapse_store::{Direction, StoreError};
use ruma::{DeviceId, OwnedDeviceId, UserId};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

/// How long after its last sync a device counts as there, in ms.
const OFFLINE_AFTER: u64 = 30_000;
/// "The server will automatically set a user's presence to unavailable if their last active time
/// was over a threshold value", in ms.
const IDLE_AFTER: u64 = 5 * 60_000;
/// How long what another server has said of a user holds, in ms: it says when something changes.
const BY_SERVER_FOR: u64 = 30 * 60_000;
/// How many users can be there at a time; others are offline until somebody goes.
const MOST_PRESENT: usize = 4096;
/// How many users of other servers can be there at a time.
const MOST_OF_OTHERS: usize = MOST_PRESENT / 2;
/// How many devices of a user are told apart.
const MOST_DEVICES: usize = 16;
/// How many users' changes are written together.
const BATCH: usize = 64;

/// Characters that are kept of what another server says beside a user's presence.
const LONGEST_STATUS: usize = 1000;

/// How exactly it is written when somebody was last active who is offline, in ms.
const WRITTEN_AFTER: u64 = 60_000;
/// Bytes of when they were.
const CACHED_BYTES: usize = 256 << 10;

/// Everybody who is there.
pub struct Presences {
    users: RefCell<HashMap<UserNid, Present>>,
    /// When those who are offline were last active, and what of that is written, in ms.
    offline: RefCell<Cache<UserNid, (u64, u64)>>,
    watched: Cell<bool>,
}

impl Default for Presences {
    fn default() -> Self {
        Self { users: RefCell::default(), offline: RefCell::new(Cache::new(CACHED_BYTES)), watched: Cell::default() }
    }
}

/// What it means that a device sends, types or reads.
#[derive(Debug, PartialEq, Eq)]
enum Touched {
    /// Its user is there, as everybody knows.
    Known,
    /// Others have to hear of it.
    News,
    /// Its user is offline, and stays so.
    Offline,
}

/// A user who is there, or was until lately.
struct Present {
    devices: HashMap<OwnedDeviceId, Attached>,
    /// The last pro-active event, in ms.
    last_active: u64,
    /// From when on nothing happened that would end idleness, in ms.
    quiet_from: u64,
    status_msg: Option<String>,
    /// What others know.
    told: PresenceKind,
    /// What the user's server says, where that is another one, and when it did, in ms.
    by_server: Option<(PresenceKind, u64)>,
}

/// What a device says of its user.
struct Attached {
    says: PresenceKind,
    /// Syncs under way.
    held: usize,
    /// When the last one ended, in ms.
    seen: u64,
}

/// A user's presence as others are shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Online, unavailable, offline.
    pub state: PresenceKind,
    /// Whether the user is unavailable by doing nothing.
    pub is_idle: bool,
    /// The last pro-active event, in ms since the epoch, when there was one.
    pub last_active: Option<u64>,
    /// What the user says about it.
    pub status_msg: Option<String>,
}

impl Shown {
    /// How long ago the user was active.
    pub fn last_active_ago(&self, now: u64) -> Option<Duration> {
        self.last_active.map(|then| Duration::from_millis(now.saturating_sub(then)))
    }

    /// Whether the user is active now: who is not for some minutes is no longer shown as online.
    pub fn currently_active(&self) -> Option<bool> {
        match self.state {
            PresenceKind::Online => Some(true),
            PresenceKind::Unavailable => Some(false),
            PresenceKind::Offline => None,
        }
    }
}

/// A sync under way; when it is dropped, the device is seen for the last time.
pub struct PresenceGuard {
    hs: Rc<Homeserver>,
    user: UserNid,
    device: OwnedDeviceId,
}

impl Drop for PresenceGuard {
    fn drop(&mut self) {
        let now = self.hs.host.now();
        if let Some(present) = self.hs.sync.presence.users.borrow_mut().get_mut(&self.user)
            && let Some(device) = present.devices.get_mut(&self.device)
        {
            device.held = device.held.saturating_sub(1);
            device.seen = now;
        }
    }
}

impl Attached {
    fn is_live(&self, now: u64) -> bool {
        self.held > 0 || self.seen + OFFLINE_AFTER > now
    }
}

impl Present {
    /// What the user's devices say.
    fn said(&self, now: u64) -> PresenceKind {
        if let Some((says, heard)) = self.by_server {
            return if heard + BY_SERVER_FOR > now { says } else { PresenceKind::Offline };
        }
        self.devices.values().filter(|device| device.is_live(now)).map(|device| device.says).max().unwrap_or(PresenceKind::Offline)
    }

    /// Whether the devices say online, and the user does nothing.
    fn is_idle(&self, now: u64) -> bool {
        self.by_server.is_none() && self.said(now) == PresenceKind::Online && self.quiet_from + IDLE_AFTER <= now
    }

    fn state(&self, now: u64) -> PresenceKind {
        if self.is_idle(now) { PresenceKind::Unavailable } else { self.said(now) }
    }

    fn shown(&self, now: u64) -> Shown {
        let last_active = Some(self.last_active).filter(|last| *last > 0);
        Shown { state: self.state(now), is_idle: self.is_idle(now), last_active, status_msg: self.status_msg.clone() }
    }

    fn active(&mut self, now: u64) {
        (self.last_active, self.quiet_from) = (now, now);
    }

    /// The next time at which its state may change by itself.
    fn deadline(&self, now: u64) -> Option<u64> {
        let waiting = self.devices.values().filter(|device| device.held == 0);
        let gone = waiting.map(|device| device.seen + OFFLINE_AFTER).filter(|at| *at > now).min();
        let idle = Some(self.quiet_from + IDLE_AFTER).filter(|at| *at > now && self.state(now) == PresenceKind::Online);
        let silent = self.by_server.map(|(_, heard)| heard + BY_SERVER_FOR).filter(|at| *at > now);
        gone.into_iter().chain(idle.filter(|_| self.by_server.is_none())).chain(silent).min()
    }

    /// A device says something; `None` when there are too many of them.
    fn device(&mut self, id: &DeviceId, says: PresenceKind, now: u64) -> Option<&mut Attached> {
        // What the user's devices said before the restart holds until one of them says something.
        let restored = self.devices.remove(before_restart());
        let known = self.devices.get(id).or(restored.as_ref()).filter(|device| device.is_live(now));
        // "A pro-active event may be sending a message to a room or changing presence state to
        // `online`."
        if says == PresenceKind::Online && known.is_none_or(|known| known.says != says) {
            self.active(now);
        }
        if !self.devices.contains_key(id) {
            self.devices.retain(|_, device| device.is_live(now));
            if self.devices.len() >= MOST_DEVICES {
                return None;
            }
        }
        let device = self.devices.entry(id.to_owned()).or_insert(Attached { says, held: 0, seen: now });
        (device.says, device.seen) = (says, now);
        Some(device)
    }
}

/// No device has this id.
fn before_restart() -> &'static DeviceId {
    <&DeviceId>::from("")
}

impl Presences {
    /// Those who are there, or were until lately.
    pub fn users(&self) -> Vec<UserNid> {
        self.users.borrow().keys().copied().collect()
    }

    /// Whether a user is in memory; `None`: not yet, but there is room.
    fn holds(&self, user: UserNid) -> Option<bool> {
        let users = self.users.borrow();
        let is_known = users.contains_key(&user);
        (is_known || users.len() >= MOST_PRESENT).then_some(is_known)
    }

    /// Whether another user of another server may come into memory.
    fn has_room_for(&self, user: UserNid) -> bool {
        let users = self.users.borrow();
        users.contains_key(&user) || users.values().filter(|present| present.by_server.is_some()).count() < MOST_OF_OTHERS
    }

    /// A device sends, types or reads.
    fn touch(&self, session: &Session, now: u64) -> Touched {
        let mut users = self.users.borrow_mut();
        let Some(present) = users.get_mut(&session.user) else { return Touched::Offline };
        present.active(now);
        if present.state(now) == PresenceKind::Offline {
            return Touched::Offline;
        }
        let says = present.devices.get(&session.device).filter(|device| device.is_live(now)).map(|device| device.says);
        // Who wants to be offline on this device stays so.
        if says != Some(PresenceKind::Offline) && present.state(now) != PresenceKind::Online {
            present.device(&session.device, PresenceKind::Online, now);
        }
        if present.state(now) == present.told { Touched::Known } else { Touched::News }
    }

    /// A user who is offline does something; whether that is to be written.
    fn touch_offline(&self, user: UserNid, now: u64) -> bool {
        let mut offline = self.offline.borrow_mut();
        let written = offline.get(&user).map(|(_, written)| written).filter(|written| written + WRITTEN_AFTER > now);
        offline.insert(user, (now, written.unwrap_or(now)), 0);
        written.is_none()
    }

    /// When a user was last active while offline, as far as memory knows.
    fn active_offline(&self, user: UserNid) -> Option<u64> {
        self.offline.borrow_mut().get(&user).map(|(last, _)| last)
    }

    /// Bytes that it takes in memory of who is offline, roughly.
    pub fn cached_bytes(&self) -> usize {
        self.offline.borrow().bytes()
    }

    /// What others have to be told of a user now, and that they are.
    fn news(&self, user: UserNid, now: u64, status: bool) -> Option<Shown> {
        let mut users = self.users.borrow_mut();
        let present = users.get_mut(&user)?;
        let shown = present.shown(now);
        let is_news = present.told != shown.state || status;
        present.told = shown.state;
        if shown.state == PresenceKind::Offline && present.devices.values().all(|device| device.held == 0) {
            users.remove(&user);
        }
        is_news.then_some(shown)
    }

    /// Whose state changed with time, or who can be forgotten.
    fn due(&self, now: u64) -> Vec<UserNid> {
        let users = self.users.borrow();
        let due = users.iter().filter(|(_, present)| {
            let state = present.state(now);
            state != present.told || state == PresenceKind::Offline && present.devices.values().all(|device| device.held == 0)
        });
        let mut due: Vec<UserNid> = due.map(|(user, _)| *user).collect();
        due.sort_unstable();
        due
    }

    /// How long nothing can happen by itself; `None`: nobody is there.
    fn quiet_for(&self, now: u64) -> Option<Duration> {
        let users = self.users.borrow();
        if users.is_empty() {
            return None;
        }
        // A device that ends its sync in the meantime is there for this long.
        let next = users.values().filter_map(|present| present.deadline(now)).min().unwrap_or(u64::MAX);
        Some(Duration::from_millis(next.saturating_sub(now).clamp(1, OFFLINE_AFTER)))
    }
}

impl Homeserver {
    /// A device syncs, and says that its user is online or unavailable, until what this returns is
    /// dropped. A device that says offline says nothing.
    pub(crate) async fn attend(self: &Rc<Self>, session: &Session, says: PresenceKind) -> Result<Option<PresenceGuard>> {
        if !self.config.presence || says == PresenceKind::Offline {
            return Ok(None);
        }
        let rooms = self.user_rooms(session.user).await?;
        if !self.remember_presence(session.user).await? {
            return Ok(None);
        }
        let now = self.host.now();
        let attached = {
            let mut users = self.sync.presence.users.borrow_mut();
            let device = users.get_mut(&session.user).and_then(|present| present.device(&session.device, says, now));
            device.map(|device| device.held += 1)
        };
        self.tell_presence(&[(session.user, rooms)], false).ok();
        self.watch_presence();
        Ok(attached.map(|()| PresenceGuard { hs: self.clone(), user: session.user, device: session.device.clone() }))
    }

    /// A user says how it is, on one device, and what others are to read beside it.
    pub(crate) async fn set_presence(self: &Rc<Self>, session: &Session, says: PresenceKind, status_msg: Option<String>) -> Result<()> {
        let rooms = self.user_rooms(session.user).await?;
        if !self.remember_presence(session.user).await? {
            return Err(Error::limit_exceeded(Duration::from_millis(OFFLINE_AFTER)));
        }
        let now = self.host.now();
        let before = {
            let mut users = self.sync.presence.users.borrow_mut();
            let Some(present) = users.get_mut(&session.user) else { return Ok(()) };
            present.device(&session.device, says, now);
            // "The activity time is updated to reflect that activity."
            present.active(now);
            std::mem::replace(&mut present.status_msg, status_msg.clone())
        };
        let told = self.tell_presence(&[(session.user, rooms)], before != status_msg);
        self.watch_presence();
        match told {
            Err(error) if before != status_msg => {
                // A message that is not kept is not shown either.
                if let Some(present) = self.sync.presence.users.borrow_mut().get_mut(&session.user) {
                    present.status_msg = before;
                }
                Err(error.into())
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// A user did something. Who is offline stays so: sending alone does not show anybody, but when
    /// it was is remembered.
    pub(crate) async fn note_activity(self: &Rc<Self>, session: &Session) -> Result<()> {
        if !self.config.presence {
            return Ok(());
        }
        let now = self.host.now();
        match self.sync.presence.touch(session, now) {
            Touched::Known => {}
            Touched::News => {
                let rooms = self.user_rooms(session.user).await?;
                self.aside(|hs| hs.tell_presence(&[(session.user, rooms)], false)).ok();
            }
            Touched::Offline if self.sync.presence.touch_offline(session.user, now) => {
                let written = self.aside(|hs| hs.write(hs.store().generation(), |tx| tables::LAST_ACTIVE.put(tx, &session.user, &now)));
                // Where storage is full memory knows it for a while.
                written.map(Submitted::visible).ok();
            }
            Touched::Offline => {}
        }
        Ok(())
    }

    /// Another server says how one of its users is.
    pub(crate) async fn presence_by_server(
        self: &Rc<Self>,
        user_id: &UserId,
        says: PresenceKind,
        last_active: u64,
        status_msg: Option<String>,
    ) -> Result<()> {
        let status_msg = status_msg.map(|message| message.chars().take(LONGEST_STATUS).collect::<String>());
        let Some(user) = self.find_user(user_id).await?.filter(|_| self.config.presence) else { return Ok(()) };
        let rooms = self.user_rooms(user).await?;
        // Nobody here is shown it.
        if rooms.joined().is_empty() || !self.sync.presence.has_room_for(user) || !self.remember_presence(user).await? {
            return Ok(());
        }
        let now = self.host.now();
        let before = {
            let mut users = self.sync.presence.users.borrow_mut();
            let Some(present) = users.get_mut(&user) else { return Ok(()) };
            present.by_server = Some((says, now));
            present.last_active = last_active.min(now).max(present.last_active);
            std::mem::replace(&mut present.status_msg, status_msg.clone())
        };
        self.tell_presence(&[(user, rooms)], before != status_msg).ok();
        self.watch_presence();
        Ok(())
    }

    /// A user leaves for good: offline, without a word.
    pub(crate) async fn end_presence(&self, user: UserNid) -> Result<(), StoreError> {
        if self.config.presence && self.remember_presence(user).await? {
            let rooms = self.user_rooms(user).await?;
            let had_status = {
                let mut users = self.sync.presence.users.borrow_mut();
                let present = users.get_mut(&user);
                present.is_some_and(|present| {
                    present.devices.clear();
                    present.status_msg.take().is_some()
                })
            };
            self.tell_presence(&[(user, rooms)], had_status).ok();
        }
        Ok(())
    }

    /// The presence of users, as it is now.
    pub(crate) async fn presence_of(&self, users: &[UserNid]) -> Result<Vec<Shown>> {
        let now = self.host.now();
        let mut shown: Vec<Option<Shown>> = {
            let present = self.sync.presence.users.borrow();
            users.iter().map(|user| present.get(user).map(|present| present.shown(now))).collect()
        };
        let absent: Vec<UserNid> = users.iter().zip(&shown).filter(|(_, shown)| shown.is_none()).map(|(user, _)| *user).collect();
        if !absent.is_empty() {
            let mut stored = self.stored_presence(&absent).await?.into_iter();
            shown.iter_mut().filter(|shown| shown.is_none()).for_each(|shown| *shown = stored.next());
        }
        Ok(shown.into_iter().flatten().collect())
    }

    async fn stored_presence(&self, users: &[UserNid]) -> Result<Vec<Shown>, StoreError> {
        let last_active = tables::LAST_ACTIVE.get_many(self.store(), users).await?;
        let status = tables::STATUS_MESSAGES.get_many(self.store(), users).await?;
        let last_active = users.iter().zip(last_active).map(|(user, stored)| stored.max(self.sync.presence.active_offline(*user)));
        Ok(last_active
            .zip(status)
            .map(|(last_active, status_msg)| Shown { state: PresenceKind::Offline, is_idle: false, last_active, status_msg })
            .collect())
    }

    /// Brings a user's presence into memory; whether there was room for it.
    async fn remember_presence(&self, user: UserNid) -> Result<bool, StoreError> {
        if let Some(is_known) = self.sync.presence.holds(user) {
            return Ok(is_known);
        }
        let stored = self.stored_presence(&[user]).await?.pop();
        if let Some(is_known) = self.sync.presence.holds(user) {
            return Ok(is_known);
        }
        let (last_active, status_msg) = stored.map_or((None, None), |stored| (stored.last_active, stored.status_msg));
        let last_active = last_active.unwrap_or_default();
        let present =
            Present { devices: HashMap::new(), last_active, quiet_from: last_active, status_msg, told: PresenceKind::Offline, by_server: None };
        self.sync.presence.users.borrow_mut().insert(user, present);
        Ok(true)
    }

    /// Tells those who share a room with users what changed about them. The users' rooms are held
    /// meanwhile: they say who has to wake up. Where storage is full, they are not told.
    fn tell_presence(&self, users: &[(UserNid, Rc<UserRooms>)], status: bool) -> Result<(), StoreError> {
        let now = self.host.now();
        let told = self.write(self.store().generation(), |tx| {
            for (user, _) in users {
                if let Some(shown) = self.sync.presence.news(*user, now, status) {
                    put_presence(tx, *user, &shown, status);
                }
            }
        });
        told.map(Submitted::visible)
    }

    /// Who was there when the server stopped is there until it is clear that they do not come back.
    pub(crate) async fn restore_presence(&self) -> Result<(), StoreError> {
        if !self.config.presence {
            return Ok(());
        }
        let now = self.host.now();
        let present = tables::PRESENT.scan(self.store(), &(), Direction::Forward, MOST_PRESENT).await?;
        if present.is_empty() {
            return Ok(());
        }
        let users: Vec<UserNid> = present.iter().map(|(user, _)| *user).collect();
        let stored = self.stored_presence(&users).await?;
        let mut is_local = Vec::with_capacity(users.len());
        for user in &users {
            is_local.push(self.user_id(*user).await.leave_out()?.is_none_or(|id| self.is_local(&id)));
        }
        let mut users = self.sync.presence.users.borrow_mut();
        for (((user, StoredPresence { told, is_idle }), stored), is_local) in present.into_iter().zip(stored).zip(is_local) {
            let (says, quiet_from) = if is_idle { (PresenceKind::Online, now.saturating_sub(IDLE_AFTER)) } else { (told, now) };
            let devices = [(before_restart().to_owned(), Attached { says, held: 0, seen: now })].into();
            let last_active = stored.last_active.unwrap_or_default();
            let by_server = (!is_local).then_some((told, now));
            users.insert(user, Present { devices, last_active, quiet_from, status_msg: stored.status_msg, told, by_server });
        }
        Ok(())
    }

    /// Has somebody notice when devices are gone and users idle, as long as anybody is there.
    pub(crate) fn watch_presence(self: &Rc<Self>) {
        let presence = &self.sync.presence;
        if !presence.users.borrow().is_empty() && !presence.watched.replace(true) {
            self.host.spawn(Box::pin(watch(self.clone())));
        }
    }
}

/// Stages what others are told of a user, and what a restart would lose of it.
fn put_presence(tx: &mut Tx, user: UserNid, shown: &Shown, status: bool) {
    match shown.state {
        PresenceKind::Offline => tables::PRESENT.delete(tx, &user),
        told => tables::PRESENT.put(tx, &user, &StoredPresence { told, is_idle: shown.is_idle }),
    }
    if let Some(last_active) = shown.last_active {
        tables::LAST_ACTIVE.put(tx, &user, &last_active);
    }
    if status {
        match &shown.status_msg {
            Some(message) => tables::STATUS_MESSAGES.put(tx, &user, message),
            None => tables::STATUS_MESSAGES.delete(tx, &user),
        }
    }
    tx.change(Change::Presence { user });
}

/// Takes away what is kept of a user's presence.
pub fn forget_presence(tx: &mut Tx, user: UserNid) {
    tables::PRESENT.delete(tx, &user);
    tables::LAST_ACTIVE.delete(tx, &user);
    tables::STATUS_MESSAGES.delete(tx, &user);
    tx.then(move |hs| {
        hs.sync.presence.users.borrow_mut().remove(&user);
        hs.sync.presence.offline.borrow_mut().remove(&user);
    });
}

async fn watch(hs: Rc<Homeserver>) {
    let slice = TimeSlice::new(&*hs.host);
    while !hs.notify.is_closed() {
        hs.begin_reading();
        for due in hs.sync.presence.due(hs.host.now()).chunks(BATCH) {
            let mut users = Vec::new();
            for user in due {
                match hs.user_rooms(*user).await {
                    Ok(rooms) => users.push((*user, rooms)),
                    Err(error) => tracing::debug!("could not read who shares a room with a user: {error}"),
                }
            }
            hs.tell_presence(&users, false).ok();
            slice.end().await;
        }
        let Some(quiet) = hs.sync.presence.quiet_for(hs.host.now()) else { break };
        hs.host.sleep(quiet).await;
    }
    hs.sync.presence.watched.set(false);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(device: &str) -> Session {
        Session { user: 1, user_id: ruma::user_id!("@a:x").to_owned(), device: device.into() }
    }

    fn present() -> Present {
        Present { devices: HashMap::new(), last_active: 0, quiet_from: 0, status_msg: None, told: PresenceKind::Offline, by_server: None }
    }

    #[test]
    fn the_presence_of_a_users_devices_is_combined_and_ends_one_by_one() {
        let mut user = present();
        user.device("A".into(), PresenceKind::Unavailable, 0).expect("there is room").held = 1;
        assert_eq!(user.state(0), PresenceKind::Unavailable);
        user.device("B".into(), PresenceKind::Online, 1000);
        assert_eq!((user.state(1000), user.last_active), (PresenceKind::Online, 1000));
        assert_eq!(user.deadline(1000), Some(31_000), "only that device can go by itself");
        assert_eq!((user.state(30_999), user.state(31_000)), (PresenceKind::Online, PresenceKind::Unavailable));
        user.device("B".into(), PresenceKind::Offline, 32_000);
        assert_eq!(user.state(32_000), PresenceKind::Unavailable);
    }

    #[test]
    fn who_only_listens_becomes_idle_and_who_sends_is_back() {
        let presences = Presences::default();
        let mut user = present();
        user.device("A".into(), PresenceKind::Online, 1).expect("there is room").held = 1;
        presences.users.borrow_mut().insert(1, user);
        assert_eq!(presences.news(1, 1, false).map(|shown| shown.state), Some(PresenceKind::Online));
        assert_eq!(presences.quiet_for(1), Some(Duration::from_millis(OFFLINE_AFTER)));
        presences.users.borrow_mut().get_mut(&1).and_then(|user| user.device("A".into(), PresenceKind::Online, 200_000)).expect("known");
        assert_eq!(presences.due(300_000), [] as [UserNid; 0]);
        assert_eq!(presences.due(300_001), [1]);
        assert_eq!(presences.news(1, 300_001, false).map(|shown| shown.state), Some(PresenceKind::Unavailable));
        assert_eq!(presences.news(1, 300_002, false), None);
        assert_eq!(presences.touch(&session("B"), 400_000), Touched::News, "on any device");
        assert_eq!(presences.news(1, 400_000, false).and_then(|shown| shown.last_active), Some(400_000));
        assert_eq!(presences.touch(&session("B"), 400_001), Touched::Known);
    }

    #[test]
    fn who_is_offline_is_written_once_a_minute() {
        let presences = Presences::default();
        assert_eq!(presences.touch(&session("A"), 1), Touched::Offline);
        let written = [1, 2, 60_000, 60_001, 60_002].map(|now| presences.touch_offline(1, now));
        assert_eq!((written, presences.active_offline(1)), ([true, false, false, true, false], Some(60_002)));
    }

    #[test]
    fn devices_are_bounded() {
        let mut user = present();
        for number in 0..MOST_DEVICES {
            assert!(user.device(<&DeviceId>::from(&*number.to_string()), PresenceKind::Online, 0).is_some());
        }
        assert!(user.device("more".into(), PresenceKind::Online, 0).is_none());
        assert!(user.device("more".into(), PresenceKind::Online, OFFLINE_AFTER).is_some(), "the others are gone");
    }
}
