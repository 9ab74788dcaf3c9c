//! Server-side key backups (Client-Server API, Server-side key backups).

use crate::{
    damaged::{Damaged, LeaveOut},
    error::{Error, Result},
    keys::backup::{self, Keys},
    router::UserCall,
    tables::{BackedUpKey, Json, KeyBackup},
    time_slice::TimeSlice,
};
use ephapse_events::Inserted;
use ruma::{
    OwnedRoomId, UInt,
    api::client::backup::{
        BackupAlgorithm, KeyBackupData, RoomKeyBackup, add_backup_keys::v3 as add_backup_keys,
        add_backup_keys_for_room::v3 as add_backup_keys_for_room, add_backup_keys_for_session::v3 as add_backup_keys_for_session,
        create_backup_version::v3 as create_backup_version, delete_backup_keys::v3 as delete_backup_keys,
        delete_backup_keys_for_room::v3 as delete_backup_keys_for_room, delete_backup_keys_for_session::v3 as delete_backup_keys_for_session,
        delete_backup_version::v3 as delete_backup_version, get_backup_info::v3 as get_backup_info, get_backup_keys::v3 as get_backup_keys,
        get_backup_keys_for_room::v3 as get_backup_keys_for_room, get_backup_keys_for_session::v3 as get_backup_keys_for_session,
        get_latest_backup_info::v3 as get_latest_backup_info, update_backup_version::v3 as update_backup_version,
    },
    serde::Raw,
};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// `POST /_matrix/client/v3/room_keys/version`
pub async fn create(call: UserCall, request: create_backup_version::Request) -> Result<create_backup_version::Response> {
    let Body { algorithm, auth_data, .. } = Body::read(&request.algorithm)?;
    let version = backup::create(&call.hs, call.raw.generation, call.session.user, algorithm, Json(auth_data.get().to_owned())).await?;
    Ok(create_backup_version::Response::new(version.to_string()))
}

/// `GET /_matrix/client/v3/room_keys/version`
pub async fn latest(call: UserCall, _: get_latest_backup_info::Request) -> Result<get_latest_backup_info::Response> {
    let newest = backup::newest(&call.hs, call.session.user).await?;
    let (version, backup) = newest.ok_or_else(|| Error::not_found("No current backup version"))?;
    Ok(get_latest_backup_info::Response::new(algorithm(&backup)?, UInt::new_saturating(backup.count), backup.etag.to_string(), version.to_string()))
}

/// `GET /_matrix/client/v3/room_keys/version/{version}`
pub async fn get(call: UserCall, request: get_backup_info::Request) -> Result<get_backup_info::Response> {
    let (version, backup) = backup::existing(&call.hs, call.session.user, &request.version).await?;
    Ok(get_backup_info::Response::new(algorithm(&backup)?, UInt::new_saturating(backup.count), backup.etag.to_string(), version.to_string()))
}

/// `PUT /_matrix/client/v3/room_keys/version/{version}`: "Only `auth_data` can be modified."
pub async fn update(call: UserCall, request: update_backup_version::Request) -> Result<update_backup_version::Response> {
    let (hs, user) = (&call.hs, call.session.user);
    let Body { algorithm, auth_data, version } = Body::read(&request.algorithm)?;
    if version.is_some_and(|version| version != request.version) {
        // That a version is not there is said before that.
        backup::existing(hs, user, &request.version).await?;
        return Err(Error::invalid_param("The version in the body does not match the version in the path"));
    }
    backup::update(hs, call.raw.generation, user, &request.version, &algorithm, Json(auth_data.get().to_owned())).await?;
    Ok(update_backup_version::Response::new())
}

/// `DELETE /_matrix/client/v3/room_keys/version/{version}`: "If the backup was previously deleted,
/// the call should succeed."
pub async fn delete(call: UserCall, request: delete_backup_version::Request) -> Result<delete_backup_version::Response> {
    backup::delete(&call.hs, call.raw.generation, call.session.user, &request.version).await?;
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
    let mut rooms: BTreeMap<OwnedRoomId, BTreeMap<String, Raw<KeyBackupData>>> = BTreeMap::new();
    let mut pages = backup::read(&call.hs, call.session.user, &request.version, None).await?;
    while let Some(page) = pages.next().await? {
        for ((_, _, room, session), key) in page {
            let Some(key) = raw(key.data).leave_out()? else { continue };
            rooms.entry(room).or_default().insert(session, key);
        }
    }
    Ok(get_backup_keys::Response::new(rooms.into_iter().map(|(room, sessions)| (room, RoomKeyBackup::new(sessions))).inserted()))
}

/// `GET /_matrix/client/v3/room_keys/keys/{roomId}`: without keys of the room, "an empty object".
pub async fn get_keys_of_room(call: UserCall, request: get_backup_keys_for_room::Request) -> Result<get_backup_keys_for_room::Response> {
    let mut sessions = BTreeMap::new();
    let mut pages = backup::read(&call.hs, call.session.user, &request.version, Some(request.room_id)).await?;
    while let Some(page) = pages.next().await? {
        for ((_, _, _, session), key) in page {
            sessions.extend(raw(key.data).leave_out()?.map(|key| (session, key)));
        }
    }
    Ok(get_backup_keys_for_room::Response::new(sessions))
}

/// `GET /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub async fn get_key(call: UserCall, request: get_backup_keys_for_session::Request) -> Result<get_backup_keys_for_session::Response> {
    let key = backup::key(&call.hs, call.session.user, &request.version, request.room_id, request.session_id).await?;
    Ok(get_backup_keys_for_session::Response::new(raw(key.data)?))
}

/// `DELETE /_matrix/client/v3/room_keys/keys`
pub async fn delete_keys(call: UserCall, request: delete_backup_keys::Request) -> Result<delete_backup_keys::Response> {
    let (etag, count) = remove(&call, &request.version, Keys::All).await?;
    Ok(delete_backup_keys::Response::new(etag, count))
}

/// `DELETE /_matrix/client/v3/room_keys/keys/{roomId}`
pub async fn delete_keys_of_room(call: UserCall, request: delete_backup_keys_for_room::Request) -> Result<delete_backup_keys_for_room::Response> {
    let (etag, count) = remove(&call, &request.version, Keys::Room(request.room_id)).await?;
    Ok(delete_backup_keys_for_room::Response::new(etag, count))
}

/// `DELETE /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub async fn delete_key(call: UserCall, request: delete_backup_keys_for_session::Request) -> Result<delete_backup_keys_for_session::Response> {
    let (etag, count) = remove(&call, &request.version, Keys::Session(request.room_id, request.session_id)).await?;
    Ok(delete_backup_keys_for_session::Response::new(etag, count))
}

/// Keeps keys; the new etag and count.
async fn put(call: &UserCall, version: &str, keys: Vec<(OwnedRoomId, String, Raw<KeyBackupData>)>) -> Result<(String, UInt)> {
    let slice = TimeSlice::new(&*call.hs.host);
    let mut read = Vec::with_capacity(keys.len());
    for (room, session, key) in keys {
        read.push(((room, session), read_key(&key)?));
        slice.step().await;
    }
    Ok(state_of(&backup::put(&call.hs, call.raw.generation, call.session.user, version, &read).await?))
}

/// Deletes keys; the new etag and count.
async fn remove(call: &UserCall, version: &str, keys: Keys) -> Result<(String, UInt)> {
    Ok(state_of(&backup::remove(&call.hs, call.raw.generation, call.session.user, version, keys).await?))
}

fn state_of(backup: &KeyBackup) -> (String, UInt) {
    (backup.etag.to_string(), UInt::new_saturating(backup.count))
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
