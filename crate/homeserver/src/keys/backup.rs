//! Server-side key backups (Client-Server API, Server-side key backups): versions that are never
//! used again, and the keys in them.

use super::{Error, Refused};
use crate::{
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, BackedUpKey, Json, KeyBackup, UserNid},
    time_slice::TimeSlice,
};
use ephapse_store::{Direction, KeyPart, StoreError};
use ruma::OwnedRoomId;
use std::ops::Range;

/// Versions that are read at once when the newest is looked for.
const PAGE: usize = 16;

/// Keys that are read at once.
const SLICE: usize = 128;

const UNKNOWN_VERSION: Refused = Refused::NotFound("Unknown backup version");

/// A version of a backup by its number.
pub type Version = (u64, KeyBackup);

/// Keys of a backup.
#[derive(Clone)]
pub enum Keys {
    /// All of them.
    All,
    /// Those of a room.
    Room(OwnedRoomId),
    /// The one of a session in a room.
    Session(OwnedRoomId, String),
}

/// Makes a version; its number.
pub async fn create(hs: &Homeserver, generation: u64, user: UserNid, algorithm: String, auth_data: Json) -> Result<u64, StoreError> {
    let _lock = hs.lock(LockKey::KeyBackup(user)).await;
    let newest = tables::KEY_BACKUPS.last_key(hs.store(), &user).await?;
    let version = newest.map_or(1, |(_, version)| version + 1);
    let backup = KeyBackup { algorithm, auth_data, count: 0, etag: 0, deleted: false };
    hs.write(generation, |tx| tables::KEY_BACKUPS.put(tx, &(user, version), &backup))?.visible();
    Ok(version)
}

/// Gives a version other data of its algorithm, which stays.
pub async fn update(hs: &Homeserver, generation: u64, user: UserNid, version: &str, algorithm: &str, auth_data: Json) -> Result<(), Error> {
    let _lock = hs.lock(LockKey::KeyBackup(user)).await;
    let (number, backup) = existing(hs, user, version).await?;
    if algorithm != backup.algorithm {
        return Err(Refused::Invalid("The algorithm of a backup cannot be changed: create a new backup version".to_owned()).into());
    }
    let backup = KeyBackup { auth_data, ..backup };
    hs.write(generation, |tx| tables::KEY_BACKUPS.put(tx, &(user, number), &backup))?.visible();
    Ok(())
}

/// Deletes a version with its keys, unless that was done before.
pub async fn delete(hs: &Homeserver, generation: u64, user: UserNid, version: &str) -> Result<(), Error> {
    let _lock = hs.lock(LockKey::KeyBackup(user)).await;
    let (number, backup) = find(hs, user, version).await?.ok_or(UNKNOWN_VERSION)?;
    if !backup.deleted {
        // Its number stays, so that it is not given again.
        let gone = KeyBackup { auth_data: Json("{}".to_owned()), count: 0, deleted: true, ..backup };
        let deleted = hs.write(generation, |tx| {
            tables::KEY_BACKUPS.put(tx, &(user, number), &gone);
            tables::BACKED_UP_KEYS.delete_all(tx, &(user, number));
        });
        deleted?.visible();
    }
    Ok(())
}

/// Keeps keys in the newest version, in place of worse ones; the version as it is then.
pub async fn put(
    hs: &Homeserver,
    generation: u64,
    user: UserNid,
    version: &str,
    keys: &[((OwnedRoomId, String), BackedUpKey)],
) -> Result<KeyBackup, Error> {
    let slice = TimeSlice::new(&*hs.host);
    let _lock = hs.lock(LockKey::KeyBackup(user)).await;
    let (number, mut backup) = existing(hs, user, version).await?;
    let (newest, _) = newest(hs, user).await?.ok_or(UNKNOWN_VERSION)?;
    // "Keys can only be written to the most recently created version of the backup."
    if number != newest {
        return Err(Refused::NotNewestVersion(newest).into());
    }
    let mut better = Vec::new();
    for keys in keys.chunks(SLICE) {
        let places: Vec<_> = keys.iter().map(|((room, session), _)| (user, number, room.clone(), session.clone())).collect();
        let stored = tables::BACKED_UP_KEYS.get_many(hs.store(), &places).await?;
        for ((place, (_, key)), stored) in places.into_iter().zip(keys).zip(&stored) {
            if stored.as_ref().is_none_or(|stored| is_better(key, stored)) {
                better.push((place, key));
                backup.count += u64::from(stored.is_none());
            }
        }
        slice.step().await;
    }
    if !better.is_empty() {
        backup.etag += 1;
        let written = hs.write(generation, |tx| {
            for (place, key) in &better {
                tables::BACKED_UP_KEYS.put(tx, place, key);
            }
            tables::KEY_BACKUPS.put(tx, &(user, number), &backup);
        });
        written?.visible();
    }
    Ok(backup)
}

/// "it will keep the key that has `is_verified` set to `true`", then "the key with a lower
/// `first_message_index`", then "a lower `forwarded_count`".
fn is_better(new: &BackedUpKey, old: &BackedUpKey) -> bool {
    let rank = |key: &BackedUpKey| (!key.is_verified, key.first_message_index, key.forwarded_count);
    rank(new) < rank(old)
}

/// Deletes keys of a version; the version as it is then.
pub async fn remove(hs: &Homeserver, generation: u64, user: UserNid, version: &str, keys: Keys) -> Result<KeyBackup, Error> {
    let _lock = hs.lock(LockKey::KeyBackup(user)).await;
    let (number, mut backup) = existing(hs, user, version).await?;
    let table = &tables::BACKED_UP_KEYS;
    let gone = match keys.clone() {
        Keys::All => backup.count,
        Keys::Room(room) => {
            let mut count = 0;
            let mut pages = Pages::of(hs, &(user, number, room));
            while let Some(page) = pages.next().await? {
                count += page.len() as u64;
            }
            count
        }
        Keys::Session(room, session) => u64::from(table.get(hs.store(), &(user, number, room, session)).await?.is_some()),
    };
    if gone > 0 {
        backup.count = backup.count.saturating_sub(gone);
        backup.etag += 1;
        let removed = hs.write(generation, |tx| {
            match keys {
                Keys::All => table.delete_all(tx, &(user, number)),
                Keys::Room(room) => table.delete_all(tx, &(user, number, room)),
                Keys::Session(room, session) => table.delete(tx, &(user, number, room, session)),
            }
            tables::KEY_BACKUPS.put(tx, &(user, number), &backup);
        });
        removed?.visible();
    }
    Ok(backup)
}

/// The keys of a version, of a room or of all.
pub async fn read<'a>(hs: &'a Homeserver, user: UserNid, version: &str, room: Option<OwnedRoomId>) -> Result<Pages<'a>, Error> {
    let (number, _) = existing(hs, user, version).await?;
    Ok(match room {
        Some(room) => Pages::of(hs, &(user, number, room)),
        None => Pages::of(hs, &(user, number)),
    })
}

/// One key of a version.
pub async fn key(hs: &Homeserver, user: UserNid, version: &str, room: OwnedRoomId, session: String) -> Result<BackedUpKey, Error> {
    let (number, _) = existing(hs, user, version).await?;
    let key = tables::BACKED_UP_KEYS.get(hs.store(), &(user, number, room, session)).await?;
    Ok(key.ok_or(Refused::NotFound("Key not found in the backup"))?)
}

/// Keys of a backup, a page at a time; between pages others have their turn.
pub struct Pages<'a> {
    hs: &'a Homeserver,
    slice: TimeSlice<'a>,
    /// What is left to read.
    rest: Option<Range<Vec<u8>>>,
}

/// User, version, room and session.
type Place = (UserNid, u64, OwnedRoomId, String);

impl<'a> Pages<'a> {
    fn of(hs: &'a Homeserver, part: &impl KeyPart) -> Self {
        Self { hs, slice: TimeSlice::new(&*hs.host), rest: Some(tables::BACKED_UP_KEYS.range(part)) }
    }

    /// The next page; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<(Place, BackedUpKey)>>, StoreError> {
        let Some(range) = self.rest.take() else { return Ok(None) };
        let end = range.end.clone();
        let page = tables::BACKED_UP_KEYS.scan_range(self.hs.store(), range, Direction::Forward, SLICE).await?;
        if let Some((last, _)) = page.last().filter(|_| page.len() == SLICE) {
            let mut start = tables::BACKED_UP_KEYS.key(last);
            // The first key after it.
            start.push(0);
            self.rest = Some(start..end);
            self.slice.end().await;
        }
        Ok(Some(page))
    }
}

/// The newest version that was not deleted.
pub async fn newest(hs: &Homeserver, user: UserNid) -> Result<Option<Version>, StoreError> {
    let range = tables::KEY_BACKUPS.range(&user);
    let mut end = range.end;
    loop {
        let page = tables::KEY_BACKUPS.scan_range(hs.store(), range.start.clone()..end, Direction::Backward, PAGE).await?;
        let is_last = page.len() < PAGE;
        let Some((oldest, _)) = page.last() else { return Ok(None) };
        end = tables::KEY_BACKUPS.key(oldest);
        if let Some(((_, version), backup)) = page.into_iter().find(|(_, backup)| !backup.deleted) {
            return Ok(Some((version, backup)));
        }
        if is_last {
            return Ok(None);
        }
    }
}

/// A version, deleted or not.
async fn find(hs: &Homeserver, user: UserNid, version: &str) -> Result<Option<Version>, StoreError> {
    // One spelling for each version.
    let Some(number) = version.parse::<u64>().ok().filter(|number| number.to_string() == version) else { return Ok(None) };
    let found = tables::KEY_BACKUPS.get(hs.store(), &(user, number)).await?;
    Ok(found.map(|backup| (number, backup)))
}

/// A version that was not deleted.
pub async fn existing(hs: &Homeserver, user: UserNid, version: &str) -> Result<Version, Error> {
    Ok(find(hs, user, version).await?.filter(|(_, backup)| !backup.deleted).ok_or(UNKNOWN_VERSION)?)
}
