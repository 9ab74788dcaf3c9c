//! Who types where (Client-Server API, Typing Notifications): in memory only, with a position for
//! each change, so that syncs see it in order.

use crate::{
    damaged::LeaveOut,
    error::Result,
    homeserver::Homeserver,
    tables::{self, Change, RoomNid, UserNid},
    transaction::Submitted,
};
use ephapse_store::{Direction, StoreError};
use ruma::OwnedUserId;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    time::Duration,
};

/// How long somebody types at most without saying so again.
const LONGEST: Duration = Duration::from_secs(120);
/// How late the end of typing may be noticed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How many changes are looked through at the start for rooms in which somebody typed when the
/// server stopped.
const MAX_CHANGES_SEARCHED: usize = 256;

/// Who types in each room, and until when.
#[derive(Default)]
pub struct Typing {
    rooms: RefCell<HashMap<RoomNid, BTreeMap<UserNid, u64>>>,
    sweeping: Cell<bool>,
}

impl Typing {
    /// Who types in a room.
    pub fn in_room(&self, room: RoomNid) -> Vec<UserNid> {
        self.rooms.borrow().get(&room).map(|users| users.keys().copied().collect()).unwrap_or_default()
    }

    /// Says that `user` types until a time, or no more; whether that is news.
    fn set(&self, room: RoomNid, user: UserNid, until: Option<u64>) -> bool {
        let mut rooms = self.rooms.borrow_mut();
        match until {
            Some(until) => rooms.entry(room).or_default().insert(user, until).is_none(),
            None => {
                let Some(users) = rooms.get_mut(&room) else { return false };
                let typed = users.remove(&user).is_some();
                if users.is_empty() {
                    rooms.remove(&room);
                }
                typed
            }
        }
    }

    /// Forgets those whose time is over; the rooms they typed in.
    fn expire(&self, now: u64) -> BTreeSet<RoomNid> {
        let mut changed = BTreeSet::new();
        self.rooms.borrow_mut().retain(|room, users| {
            let before = users.len();
            users.retain(|_, until| *until > now);
            if users.len() < before {
                changed.insert(*room);
            }
            !users.is_empty()
        });
        changed
    }

    /// Forgets what `user` types in a room that they have left.
    pub fn left(&self, room: RoomNid, user: UserNid) {
        self.set(room, user, None);
    }

    /// Until when `user` types in a room, if at all.
    fn until(&self, room: RoomNid, user: UserNid) -> Option<u64> {
        self.rooms.borrow().get(&room)?.get(&user).copied()
    }

    fn change(&self, room: RoomNid) -> Change {
        Change::Typing { room, anybody: self.rooms.borrow().contains_key(&room) }
    }
}

impl Homeserver {
    /// `user` types in a room for `duration`, or no more.
    pub(crate) fn set_typing(self: &Rc<Self>, room: RoomNid, user: UserNid, duration: Option<Duration>) -> Result<(), StoreError> {
        let until = duration.map(|duration| self.host.now() + duration.min(LONGEST).as_millis() as u64);
        let told = self.write(self.store().generation(), |tx| {
            let before = self.sync.typing.until(room, user);
            if !self.sync.typing.set(room, user, until) {
                self.types_on(room, user);
            } else {
                let hs = self.clone();
                tx.undo(move || _ = hs.sync.typing.set(room, user, before));
                tx.change(self.sync.typing.change(room));
            }
        });
        told?.visible();
        if until.is_some() && !self.sync.typing.sweeping.replace(true) {
            self.host.spawn(Box::pin(sweep(self.clone())));
        }
        Ok(())
    }

    fn typing_changed(&self, rooms: impl IntoIterator<Item = RoomNid>) -> Result<(), StoreError> {
        let told = self.write(self.store().generation(), |tx| {
            for room in rooms {
                tx.change(self.sync.typing.change(room));
            }
        });
        told.map(Submitted::visible)
    }

    /// Who types in a room, by name.
    pub(crate) async fn typing_users(&self, room: RoomNid) -> Result<Vec<OwnedUserId>> {
        let mut users = Vec::new();
        for user in self.sync.typing.in_room(room) {
            users.extend(self.user_id(user).await.leave_out()?);
        }
        Ok(users)
    }

    /// Nobody types after a restart: tells the clients that were told otherwise.
    pub(crate) async fn end_typing_of_last_run(&self) -> Result<(), StoreError> {
        let changes = tables::CHANGES.scan(self.store(), &(), Direction::Backward, MAX_CHANGES_SEARCHED).await?;
        let mut newest: BTreeMap<RoomNid, bool> = BTreeMap::new();
        for (_, change) in changes {
            if let Change::Typing { room, anybody } = change {
                newest.entry(room).or_insert(anybody);
            }
        }
        // A full database opens all the same: then clients see somebody type until something can be
        // written.
        if let Err(error) = self.typing_changed(newest.into_iter().filter(|(_, anybody)| *anybody).map(|(room, _)| room)) {
            tracing::warn!("could not end the typing notifications from before the restart: {error}");
        }
        Ok(())
    }
}

/// Runs as long as anybody types.
async fn sweep(hs: Rc<Homeserver>) {
    while !hs.notify.is_closed() && !hs.sync.typing.rooms.borrow().is_empty() {
        hs.host.sleep(SWEEP_INTERVAL).await;
        let ended = hs.sync.typing.expire(hs.host.now());
        if let Err(error) = hs.typing_changed(ended) {
            tracing::debug!("could not announce that typing ended: {error}");
        }
    }
    hs.sync.typing.sweeping.set(false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_start_or_stop_of_typing_is_a_change() {
        let typing = Typing::default();
        assert!(typing.set(1, 7, Some(100)));
        assert!(!typing.set(1, 7, Some(200)), "goes on");
        assert!(typing.set(1, 8, Some(150)));
        assert!(typing.expire(120).is_empty());
        assert_eq!(typing.expire(150), BTreeSet::from([1]));
        assert_eq!(typing.in_room(1), [7]);
        assert!(typing.set(1, 7, None));
        assert!(!typing.set(1, 7, None));
        assert!(typing.in_room(1).is_empty());
    }
}
