//! The devices of this server's users and their keys, for other servers (Server-Server API, "Device
//! Management" and "End-to-End Encryption").

use crate::{
    error::{Error, Result},
    json_answer::{Json, Own},
    keys,
    router::PeerCall,
};
use ruma::{
    CanonicalJsonObject, OwnedDeviceId, OwnedUserId,
    api::federation::{
        device::get_devices::v1 as get_devices,
        keys::{claim_keys::v1 as claim_keys, get_keys::v1 as get_keys},
    },
    encryption::CrossSigningKey,
    serde::Raw,
};
use serde::Serialize;

/// A user's devices.
#[derive(Serialize)]
struct Devices {
    user_id: OwnedUserId,
    stream_id: u64,
    devices: Vec<Device>,
    #[serde(skip_serializing_if = "Option::is_none")]
    master_key: Option<Raw<CrossSigningKey>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    self_signing_key: Option<Raw<CrossSigningKey>>,
}

/// A device: other servers are not told its name.
#[derive(Serialize)]
struct Device {
    device_id: OwnedDeviceId,
    keys: CanonicalJsonObject,
}

/// `GET /_matrix/federation/v1/user/devices/{userId}`
pub async fn of_user(call: PeerCall, Own(request): Own<get_devices::Request>) -> Result<Json> {
    let hs = &call.hs;
    let user = request.user_id;
    let unknown = || Error::not_found(format!("{user} has no account on this server"));
    let nid = if hs.is_local(&user) { hs.find_account(&user).await? } else { None };
    let nid = nid.ok_or_else(unknown)?;
    // Read first: where something changes meanwhile, an update follows.
    let stream_id = keys::device_list_version(hs, nid).await?;
    let keys = keys::keys_of(hs, nid, &user, None, &[]).await?;
    let devices = keys.devices.into_iter().map(|(device_id, device)| Device { device_id, keys: device.keys });
    Ok(Json::of(&Devices { devices: devices.collect(), stream_id, user_id: user, master_key: keys.master, self_signing_key: keys.self_signing }))
}

/// `POST /_matrix/federation/v1/user/keys/query`
pub async fn query_keys(call: PeerCall, request: get_keys::Request) -> Result<get_keys::Response> {
    let keys = keys::query(&call.hs, None, &request.device_keys).await?;
    let mut response = get_keys::Response::new(keys.devices);
    (response.master_keys, response.self_signing_keys) = (keys.master, keys.self_signing);
    Ok(response)
}

/// `POST /_matrix/federation/v1/user/keys/claim`
pub async fn claim_keys(call: PeerCall, request: claim_keys::Request) -> Result<claim_keys::Response> {
    Ok(claim_keys::Response::new(keys::claim(&call.hs, &request.one_time_keys).await?))
}
