//! Devices (Client-Server API, Device management).

use super::{interactive, wire::Confirmed};
use crate::{
    devices,
    error::{Error, Result},
    router::UserCall,
    tables::Device,
};
use ephapse_events::Inserted;
use ruma::{
    DeviceId, MilliSecondsSinceUnixEpoch, OwnedDeviceId, UInt,
    api::client::device::{
        self, delete_device::v3 as delete_device, delete_devices::v3 as delete_devices, get_device::v3 as get_device, get_devices::v3 as get_devices,
        update_device::v3 as update_device,
    },
};
use std::collections::BTreeSet;

/// Devices that one request may delete.
const MOST_DELETED: usize = 10_000;

/// `GET /_matrix/client/v3/devices`
pub async fn list(call: UserCall, _: get_devices::Request) -> Result<get_devices::Response> {
    let devices = devices::all(&call.hs, call.session.user).await?;
    Ok(get_devices::Response::new(devices.into_iter().map(|(id, device)| shown(id, device)).collect()))
}

/// `GET /_matrix/client/v3/devices/{deviceId}`
pub async fn get(call: UserCall, request: get_device::Request) -> Result<get_device::Response> {
    let device = devices::find(&call.hs, call.session.user, &request.device_id).await?;
    Ok(get_device::Response::new(shown(request.device_id, device)))
}

/// `PUT /_matrix/client/v3/devices/{deviceId}`: "If not given, the display name is unchanged."
pub async fn update(call: UserCall, request: update_device::Request) -> Result<update_device::Response> {
    let (hs, session) = (&call.hs, &call.session);
    devices::rename(hs, call.raw.generation, session.user, &session.user_id, request.device_id, request.display_name).await?;
    Ok(update_device::Response::new())
}

/// `DELETE /_matrix/client/v3/devices/{deviceId}`
pub async fn delete(call: UserCall, Confirmed(request): Confirmed<delete_device::Request>) -> Result<delete_device::Response> {
    interactive::require(&call, interactive::password_flow(), request.auth.as_ref()).await?;
    remove(&call, &|device| *device == *request.device_id).await?;
    Ok(delete_device::Response::new())
}

/// `POST /_matrix/client/v3/delete_devices`: devices that do not exist (any more) are no error.
pub async fn delete_many(call: UserCall, Confirmed(request): Confirmed<delete_devices::Request>) -> Result<delete_devices::Response> {
    if request.devices.len() > MOST_DELETED {
        return Err(Error::too_large(format!("Too many devices in one request: at most {MOST_DELETED} are allowed")));
    }
    interactive::require(&call, interactive::password_flow(), request.auth.as_ref()).await?;
    let devices: BTreeSet<OwnedDeviceId> = request.devices.into_iter().inserted();
    remove(&call, &|device| devices.contains(device)).await?;
    Ok(delete_devices::Response::new())
}

/// Removes those of the caller's devices of which `which` says yes.
pub async fn remove(call: &UserCall, which: &dyn Fn(&DeviceId) -> bool) -> Result<()> {
    Ok(devices::remove(&call.hs, call.raw.generation, call.session.user, &call.session.user_id, which).await?)
}

fn shown(id: OwnedDeviceId, stored: Device) -> device::Device {
    let mut device = device::Device::new(id);
    device.display_name = stored.display_name;
    device.last_seen_ts = UInt::new(stored.last_seen).map(MilliSecondsSinceUnixEpoch);
    device
}
