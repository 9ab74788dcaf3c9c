//! Keyed asynchronous locks: what must not interleave (writers of one room, equal requests, an
//! account) takes the lock of its name.

use async_lock::{Mutex, MutexGuardArc};
use ruma::{OwnedRoomId, OwnedServerName};
use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, Weak},
};

/// What a lock guards.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LockKey {
    /// A room's head: build, authorize, append.
    Room(u32),
    /// A room that was not known being noted.
    NewRoom(OwnedRoomId),
    /// A room being joined through another server, until it is here.
    Joining(OwnedRoomId),
    /// Rooms that are made in several turns.
    LongCreation,
    /// A room alias.
    Alias(String),
    /// An account with its devices and keys being made or changed.
    Account(String),
    /// A user-interactive session that makes an account.
    Registration(String),
    /// One user's receipts and read marker in a room.
    Receipts(u32, u32),
    /// A user's key backups.
    KeyBackup(u32),
    /// A user's profile, and what rooms show of it.
    Profile(String),
    /// The beginning of the list of changes.
    Changes,
    /// Files that can be had again, and how many bytes they have.
    MediaCache,
    /// The thumbnails of a file: server, media id.
    Thumbnails(String, String),
    /// A chunk of files, and who uses it.
    Chunk([u8; 32]),
    /// The signing keys of another server, being asked for.
    ServerKeys(OwnedServerName),
    /// A file being uploaded, fetched or cleared away: server, media id, variant.
    File(String, String, String),
    /// Media ids that a user was given.
    PendingMedia(u32),
    /// How many bytes users have uploaded.
    MediaUsed,
    /// The history of a room, being fetched.
    Backfill(u32),
    /// The transactions of another server.
    Transactions(OwnedServerName),
    /// What waits for another server, being looked up.
    Destination(OwnedServerName),
    /// The device list of a user of another server, being fetched.
    DeviceList(String),
    /// One request of a client that must happen once: user, device, method and path.
    TxnId(String),
}

/// Locks by key; a lock nobody holds or waits for takes no memory after the next clean-up.
#[derive(Default)]
pub struct Locks {
    map: RefCell<HashMap<LockKey, Weak<Mutex<()>>>>,
}

impl Locks {
    /// Waits for the lock of `key`; it is free again when the guard is dropped.
    pub async fn lock(&self, key: LockKey) -> MutexGuardArc<()> {
        let mutex = self.mutex(key);
        mutex.lock_arc().await
    }

    /// Whether somebody holds the lock of `key`.
    pub fn is_held(&self, key: &LockKey) -> bool {
        self.map.borrow().get(key).and_then(Weak::upgrade).is_some_and(|lock| lock.try_lock().is_none())
    }

    fn mutex(&self, key: LockKey) -> Arc<Mutex<()>> {
        let mut map = self.map.borrow_mut();
        if map.len() > 256 && map.len().is_power_of_two() {
            map.retain(|_, lock| lock.strong_count() > 0);
        }
        if let Some(lock) = map.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(Mutex::new(()));
        map.insert(key, Arc::downgrade(&lock));
        lock
    }
}
