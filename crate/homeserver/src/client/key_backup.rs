//! Server-side key backups (Client-Server API, Server-side key backups): versions that are never
//! used again, and the keys in them.

use crate::{
    damaged::{Damaged, LeaveOut},
    error::{Error, Result},
    homeserver::Homeserver,
    locks::LockKey,
    router::UserCall,
    tables::{self, BackedUpKey, Json, KeyBackup, KeyPart, UserNid},
    time_slice::TimeSlice,
    transaction::Tx,
};
use ephapse_store::Direction;
use http::StatusCode;
use ruma::{
    OwnedRoomId, UInt,
    api::{
        client::backup::{
            BackupAlgorithm, KeyBackupData, RoomKeyBackup, add_backup_keys::v3 as add_backup_keys,
            add_backup_keys_for_room::v3 as add_backup_keys_for_room, add_backup_keys_for_session::v3 as add_backup_keys_for_session,
            create_backup_version::v3 as create_backup_version, delete_backup_keys::v3 as delete_backup_keys,
            delete_backup_keys_for_room::v3 as delete_backup_keys_for_room, delete_backup_keys_for_session::v3 as delete_backup_keys_for_session,
            delete_backup_version::v3 as delete_backup_version, get_backup_info::v3 as get_backup_info, get_backup_keys::v3 as get_backup_keys,
            get_backup_keys_for_room::v3 as get_backup_keys_for_room, get_backup_keys_for_session::v3 as get_backup_keys_for_session,
            get_latest_backup_info::v3 as get_latest_backup_info, update_backup_version::v3 as update_backup_version,
        },
        error::{ErrorKind, WrongRoomKeysVersionErrorData},
    },
    serde::Raw,
};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;
use std::{collections::BTreeMap, ops::Range};

/// Versions that are read at once when the newest is looked for.
const PAGE: usize = 16;

/// Keys that are read at once.
const SLICE: usize = 128;

/// `POST /_matrix/client/v3/room_keys/version`
pub async fn create(call: UserCall, request: create_backup_version::Request) -> Result<create_backup_version::Response> {
    let (hs, user) = (&call.hs, call.session.user);
    let Body { algorithm, auth_data, .. } = Body::read(&request.algorithm)?;
    let auth_data = Json(auth_data.get().to_owned());
    let _lock = hs.lock(LockKey::KeyBackup(user)).await;
    let newest = tables::KEY_BACKUPS.last_key(hs.store(), &user).await?;
    let version = newest.map_or(1, |(_, version)| version + 1);
    let backup = KeyBackup { algorithm, auth_data, count: 0, etag: 0, deleted: false };
    written(&call, |tx| tables::KEY_BACKUPS.put(tx, &(user, version), &backup))?;
    Ok(create_backup_version::Response::new(version.to_string()))
}

/// `GET /_matrix/client/v3/room_keys/version`
pub async fn latest(call: UserCall, _: get_latest_backup_info::Request) -> Result<get_latest_backup_info::Response> {
    let (version, backup) = current(&call.hs, call.session.user).await?.ok_or_else(|| Error::not_found("there is no backup"))?;
    Ok(get_latest_backup_info::Response::new(algorithm(&backup)?, UInt::new_saturating(backup.count), backup.etag.to_string(), version.to_string()))
}

/// `GET /_matrix/client/v3/room_keys/version/{version}`
pub async fn get(call: UserCall, request: get_backup_info::Request) -> Result<get_backup_info::Response> {
    let (version, backup) = existing(&call.hs, call.session.user, &request.version).await?;
    Ok(get_backup_info::Response::new(algorithm(&backup)?, UInt::new_saturating(backup.count), backup.etag.to_string(), version.to_string()))
}

/// `PUT /_matrix/client/v3/room_keys/version/{version}`: "Only `auth_data` can be modified."
pub async fn update(call: UserCall, request: update_backup_version::Request) -> Result<update_backup_version::Response> {
    let (hs, user) = (&call.hs, call.session.user);
    let Body { algorithm, auth_data, version } = Body::read(&request.algorithm)?;
    let _lock = hs.lock(LockKey::KeyBackup(user)).await;
    let (number, backup) = existing(hs, user, &request.version).await?;
    if version.is_some_and(|version| version != request.version) {
        return Err(Error::invalid_param("the version in the body is not the one in the path"));
    }
    if algorithm != backup.algorithm {
        return Err(Error::invalid_param("the algorithm of a backup does not change"));
    }
    let backup = KeyBackup { auth_data: Json(auth_data.get().to_owned()), ..backup };
    written(&call, |tx| tables::KEY_BACKUPS.put(tx, &(user, number), &backup))?;
    Ok(update_backup_version::Response::new())
}

/// `DELETE /_matrix/client/v3/room_keys/version/{version}`: "If the backup was previously deleted,
/// the call should succeed."
pub async fn delete(call: UserCall, request: delete_backup_version::Request) -> Result<delete_backup_version::Response> {
    let (hs, user) = (&call.hs, call.session.user);
    let _lock = hs.lock(LockKey::KeyBackup(user)).await;
    let (number, backup) = find(hs, user, &request.version).await?.ok_or_else(unknown_version)?;
    if !backup.deleted {
        // Its number stays, so that it is not given again.
        let gone = KeyBackup { auth_data: Json("{}".to_owned()), count: 0, deleted: true, ..backup };
        written(&call, |tx| {
            tables::KEY_BACKUPS.put(tx, &(user, number), &gone);
            tables::BACKED_UP_KEYS.delete_all(tx, &(user, number));
        })?;
    }
    Ok(delete_backup_version::Response::new())
}

/// `PUT /_matrix/client/v3/room_keys/keys`
pub async fn put_keys(call: UserCall, request: add_backup_keys::Request) -> Result<add_backup_keys::Response> {
    let keys =
        request.rooms.into_iter().flat_map(|(room, backup)| backup.sessions.into_iter().map(move |(session, key)| (room.clone(), session, key)));
    let (etag, count) = put(&call, &request.version, keys.collect()).await?;
    Ok(add_backup_keys::Response::new(etag, count))
}

/// `PUT /_matrix/client/v3/room_keys/keys/{roomId}`
pub async fn put_keys_of_room(call: UserCall, request: add_backup_keys_for_room::Request) -> Result<add_backup_keys_for_room::Response> {
    let keys = request.sessions.into_iter().map(|(session, key)| (request.room_id.clone(), session, key)).collect();
    let (etag, count) = put(&call, &request.version, keys).await?;
    Ok(add_backup_keys_for_room::Response::new(etag, count))
}

/// `PUT /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub async fn put_key(call: UserCall, request: add_backup_keys_for_session::Request) -> Result<add_backup_keys_for_session::Response> {
    let (etag, count) = put(&call, &request.version, vec![(request.room_id, request.session_id, request.session_data)]).await?;
    Ok(add_backup_keys_for_session::Response::new(etag, count))
}

/// `GET /_matrix/client/v3/room_keys/keys`
pub async fn get_keys(call: UserCall, request: get_backup_keys::Request) -> Result<get_backup_keys::Response> {
    let (hs, user) = (&call.hs, call.session.user);
    let (number, _) = existing(hs, user, &request.version).await?;
    let mut rooms: BTreeMap<OwnedRoomId, BTreeMap<String, Raw<KeyBackupData>>> = BTreeMap::new();
    let mut pages = Pages::of(hs, &(user, number));
    while let Some(page) = pages.next().await? {
        for ((_, _, room, session), key) in page {
            let Some(key) = raw(key.data).leave_out()? else { continue };
            rooms.entry(room).or_default().insert(session, key);
        }
    }
    Ok(get_backup_keys::Response::new(rooms.into_iter().map(|(room, sessions)| (room, RoomKeyBackup::new(sessions))).collect()))
}

/// `GET /_matrix/client/v3/room_keys/keys/{roomId}`: without keys of the room, "an empty object".
pub async fn get_keys_of_room(call: UserCall, request: get_backup_keys_for_room::Request) -> Result<get_backup_keys_for_room::Response> {
    let (hs, user) = (&call.hs, call.session.user);
    let (number, _) = existing(hs, user, &request.version).await?;
    let mut sessions = BTreeMap::new();
    let mut pages = Pages::of(hs, &(user, number, request.room_id));
    while let Some(page) = pages.next().await? {
        for ((_, _, _, session), key) in page {
            sessions.extend(raw(key.data).leave_out()?.map(|key| (session, key)));
        }
    }
    Ok(get_backup_keys_for_room::Response::new(sessions))
}

/// `GET /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub async fn get_key(call: UserCall, request: get_backup_keys_for_session::Request) -> Result<get_backup_keys_for_session::Response> {
    let (hs, user) = (&call.hs, call.session.user);
    let (number, _) = existing(hs, user, &request.version).await?;
    let key = tables::BACKED_UP_KEYS.get(hs.store(), &(user, number, request.room_id, request.session_id)).await?;
    let key = key.ok_or_else(|| Error::not_found("there is no such key in the backup"))?;
    Ok(get_backup_keys_for_session::Response::new(raw(key.data)?))
}

/// `DELETE /_matrix/client/v3/room_keys/keys`
pub async fn delete_keys(call: UserCall, request: delete_backup_keys::Request) -> Result<delete_backup_keys::Response> {
    let (etag, count) = remove(&call, &request.version, Which::All).await?;
    Ok(delete_backup_keys::Response::new(etag, count))
}

/// `DELETE /_matrix/client/v3/room_keys/keys/{roomId}`
pub async fn delete_keys_of_room(call: UserCall, request: delete_backup_keys_for_room::Request) -> Result<delete_backup_keys_for_room::Response> {
    let (etag, count) = remove(&call, &request.version, Which::Room(request.room_id)).await?;
    Ok(delete_backup_keys_for_room::Response::new(etag, count))
}

/// `DELETE /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub async fn delete_key(call: UserCall, request: delete_backup_keys_for_session::Request) -> Result<delete_backup_keys_for_session::Response> {
    let (etag, count) = remove(&call, &request.version, Which::Session(request.room_id, request.session_id)).await?;
    Ok(delete_backup_keys_for_session::Response::new(etag, count))
}

/// Stores keys in the current version, in place of worse ones; the new etag and count.
async fn put(call: &UserCall, version: &str, keys: Vec<(OwnedRoomId, String, Raw<KeyBackupData>)>) -> Result<(String, UInt)> {
    let (hs, user) = (&call.hs, call.session.user);
    let slice = TimeSlice::new(&*hs.host);
    let mut read = Vec::with_capacity(keys.len());
    for (room, session, key) in keys {
        read.push(((room, session), read_key(&key)?));
        slice.step().await;
    }
    let _lock = hs.lock(LockKey::KeyBackup(user)).await;
    let (number, mut backup) = existing(hs, user, version).await?;
    let (newest, _) = current(hs, user).await?.ok_or_else(unknown_version)?;
    // "Keys can only be written to the most recently created version of the backup."
    if number != newest {
        let kind = ErrorKind::WrongRoomKeysVersion(WrongRoomKeysVersionErrorData::new(newest.to_string()));
        return Err(Error::new(StatusCode::FORBIDDEN, kind, "this is not the newest version of the backup"));
    }
    let mut better = Vec::new();
    for keys in read.chunks(SLICE) {
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
        written(call, |tx| {
            for (place, key) in &better {
                tables::BACKED_UP_KEYS.put(tx, place, key);
            }
            tables::KEY_BACKUPS.put(tx, &(user, number), &backup);
        })?;
    }
    Ok((backup.etag.to_string(), UInt::new_saturating(backup.count)))
}

/// "it will keep the key that has `is_verified` set to `true`", then "the key with a lower
/// `first_message_index`", then "a lower `forwarded_count`".
fn is_better(new: &BackedUpKey, old: &BackedUpKey) -> bool {
    let rank = |key: &BackedUpKey| (!key.is_verified, key.first_message_index, key.forwarded_count);
    rank(new) < rank(old)
}

fn written(call: &UserCall, fill: impl FnOnce(&mut Tx)) -> Result<()> {
    call.hs.write(call.raw.generation, fill)?.visible();
    Ok(())
}

#[derive(Clone)]
enum Which {
    All,
    Room(OwnedRoomId),
    Session(OwnedRoomId, String),
}

async fn remove(call: &UserCall, version: &str, which: Which) -> Result<(String, UInt)> {
    let (hs, user) = (&call.hs, call.session.user);
    let _lock = hs.lock(LockKey::KeyBackup(user)).await;
    let (number, mut backup) = existing(hs, user, version).await?;
    let keys = &tables::BACKED_UP_KEYS;
    let gone = match which.clone() {
        Which::All => backup.count,
        Which::Room(room) => {
            let mut count = 0;
            let mut pages = Pages::of(hs, &(user, number, room));
            while let Some(page) = pages.next().await? {
                count += page.len() as u64;
            }
            count
        }
        Which::Session(room, session) => u64::from(keys.get(hs.store(), &(user, number, room, session)).await?.is_some()),
    };
    if gone > 0 {
        backup.count = backup.count.saturating_sub(gone);
        backup.etag += 1;
        written(call, |tx| {
            match which {
                Which::All => keys.delete_all(tx, &(user, number)),
                Which::Room(room) => keys.delete_all(tx, &(user, number, room)),
                Which::Session(room, session) => keys.delete(tx, &(user, number, room, session)),
            }
            tables::KEY_BACKUPS.put(tx, &(user, number), &backup);
        })?;
    }
    Ok((backup.etag.to_string(), UInt::new_saturating(backup.count)))
}

/// Keys of a backup, a page at a time; between pages others have their turn.
struct Pages<'a> {
    hs: &'a Homeserver,
    slice: TimeSlice<'a>,
    /// What is left to read.
    rest: Option<Range<Vec<u8>>>,
}

type Place = (UserNid, u64, OwnedRoomId, String);

impl<'a> Pages<'a> {
    fn of(hs: &'a Homeserver, part: &impl KeyPart) -> Self {
        Self { hs, slice: TimeSlice::new(&*hs.host), rest: Some(tables::BACKED_UP_KEYS.range(part)) }
    }

    async fn next(&mut self) -> Result<Option<Vec<(Place, BackedUpKey)>>> {
        let Some(range) = self.rest.take() else { return Ok(None) };
        let end = range.end.clone();
        let page = tables::BACKED_UP_KEYS.scan_range(self.hs.store(), range, Direction::Forward, SLICE).await?;
        if let Some((last, _)) = page.last().filter(|_| page.len() == SLICE) {
            let mut start = tables::BACKED_UP_KEYS.key(last);
            // The first key behind it.
            start.push(0);
            self.rest = Some(start..end);
            self.slice.end().await;
        }
        Ok(Some(page))
    }
}

/// The newest version that was not deleted.
async fn current(hs: &Homeserver, user: UserNid) -> Result<Option<(u64, KeyBackup)>> {
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
async fn find(hs: &Homeserver, user: UserNid, version: &str) -> Result<Option<(u64, KeyBackup)>> {
    // One spelling for each version.
    let Some(number) = version.parse::<u64>().ok().filter(|number| number.to_string() == version) else { return Ok(None) };
    let found = tables::KEY_BACKUPS.get(hs.store(), &(user, number)).await?;
    Ok(found.map(|backup| (number, backup)))
}

async fn existing(hs: &Homeserver, user: UserNid, version: &str) -> Result<(u64, KeyBackup)> {
    find(hs, user, version).await?.filter(|(_, backup)| !backup.deleted).ok_or_else(unknown_version)
}

fn unknown_version() -> Error {
    Error::not_found("there is no such version of the backup")
}

/// The body that makes or changes a version.
#[derive(Deserialize)]
struct Body {
    algorithm: String,
    /// What its algorithm wants, which need not be known here.
    auth_data: Box<RawValue>,
    version: Option<String>,
}

impl Body {
    fn read(body: &Raw<BackupAlgorithm>) -> Result<Self> {
        serde_json::from_str(body.json().get()).map_err(|error| Error::unreadable(&error))
    }
}

fn algorithm(backup: &KeyBackup) -> Result<Raw<BackupAlgorithm>> {
    #[derive(Serialize)]
    struct Written<'a> {
        algorithm: &'a str,
        auth_data: &'a RawValue,
    }
    let auth_data = serde_json::from_str(&backup.auth_data.0).map_err(unreadable)?;
    let json = serde_json::to_string(&Written { algorithm: &backup.algorithm, auth_data }).map_err(unreadable)?;
    Ok(raw(Json(json))?)
}

fn raw<T>(json: Json) -> Result<Raw<T>, Damaged> {
    Ok(Raw::from_json(RawValue::from_string(json.0).map_err(unreadable)?))
}

fn unreadable(error: serde_json::Error) -> Damaged {
    Damaged::new("a stored key backup", error)
}

/// What decides which of two keys is kept; `session_data` is the algorithm's own.
fn read_key(key: &Raw<KeyBackupData>) -> Result<BackedUpKey> {
    #[derive(Deserialize)]
    struct Key {
        first_message_index: UInt,
        forwarded_count: UInt,
        is_verified: bool,
        #[serde(rename = "session_data")]
        _session_data: IgnoredAny,
    }
    let text = key.json().get();
    let key: Key = serde_json::from_str(text).map_err(|error| Error::unreadable(&error))?;
    Ok(BackedUpKey {
        is_verified: key.is_verified,
        first_message_index: key.first_message_index.into(),
        forwarded_count: key.forwarded_count.into(),
        data: Json(text.to_owned()),
    })
}
