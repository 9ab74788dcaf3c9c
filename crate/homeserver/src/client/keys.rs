//! Keys of devices (Client-Server API, Key management API).

use super::wire::{Json as Answer, Own};
use crate::{
    error::Result,
    keys::{self, DeviceLists},
    position::Position,
    router::UserCall,
};
use ephapse_events::Inserted;
use ruma::{
    OwnedDeviceId, OwnedUserId,
    api::client::keys::{
        claim_keys::v3 as claim_keys, get_key_changes::v3 as get_key_changes, get_keys::v3 as get_keys, upload_keys::v3 as upload_keys,
    },
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

/// Servers that cannot be asked, and why.
type Failures = BTreeMap<String, serde_json::Value>;

/// `POST /_matrix/client/v3/keys/upload`
pub async fn upload(call: UserCall, request: upload_keys::Request) -> Result<upload_keys::Response> {
    let uploaded = keys::Uploaded { identity: request.device_keys.as_ref(), one_time: &request.one_time_keys, fallback: &request.fallback_keys };
    let counts = keys::upload(&call.hs, call.raw.generation, &call.session, uploaded).await?;
    Ok(upload_keys::Response::new(counts))
}

/// Keys of several users; ruma's response would leave out what is empty, and some clients look for
/// it.
#[derive(Serialize)]
struct Queried {
    device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>>,
    failures: Failures,
    master_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    self_signing_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    user_signing_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
}

/// `POST /_matrix/client/v3/keys/query`: every user asked for is accounted for, local ones in
/// `device_keys`, the servers of others in `failures`.
pub async fn query(call: UserCall, Own(request): Own<get_keys::Request>) -> Result<Answer> {
    let mut keys = keys::query(&call.hs, Some(call.session.user), &request.device_keys).await?;
    let failures = keys::query_others(&call.hs, call.session.user, &request.device_keys, request.timeout, &mut keys).await?;
    Ok(Answer::of(&Queried {
        device_keys: keys.devices,
        failures: shown(failures),
        master_keys: keys.master,
        self_signing_keys: keys.self_signing,
        user_signing_keys: keys.user_signing,
    }))
}

/// Claimed keys; ruma's response would leave out failures where there are none, and some clients
/// look for them.
#[derive(Serialize)]
struct Claimed {
    one_time_keys: BTreeMap<OwnedUserId, keys::OneTimeKeys>,
    failures: Failures,
}

/// `POST /_matrix/client/v3/keys/claim`
pub async fn claim(call: UserCall, Own(request): Own<claim_keys::Request>) -> Result<Answer> {
    let mut one_time_keys = keys::claim(&call.hs, &request.one_time_keys).await?;
    let failures = keys::claim_others(&call.hs, &request.one_time_keys, request.timeout, &mut one_time_keys).await?;
    Ok(Answer::of(&Claimed { one_time_keys, failures: shown(failures) }))
}

/// `GET /_matrix/client/v3/keys/changes`
pub async fn changes(call: UserCall, request: get_key_changes::Request) -> Result<get_key_changes::Response> {
    let hs = &call.hs;
    // A token of before the database was restored: everything may have changed since.
    let from = hs.position_of(&request.from)?.map_or(Position(0), |from| from.max(Position(0)));
    let to = hs.position_of(&request.to)?.unwrap_or_else(|| hs.positions.newest());
    let listed = hs.changes_between(from, to).await?;
    let DeviceLists { changed, left } = keys::device_lists(hs, call.session.user, from, &listed).await?;
    Ok(get_key_changes::Response::new(changed, left))
}

/// The servers that could not be asked, and why, as clients are told.
fn shown(failures: keys::Failures) -> Failures {
    let error = |why: String| json!({ "errcode": "M_UNKNOWN", "error": format!("Failed to connect to the server: {why}") });
    failures.into_iter().map(|(server, why)| (server.to_string(), error(why))).inserted()
}
