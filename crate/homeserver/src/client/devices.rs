//! Devices (Client-Server API, Device management).

use super::{interactive, keys, to_device, wire::Confirmed};
use crate::{
    cache::Cache,
    error::{Error, Result},
    homeserver::Homeserver,
    locks::LockKey,
    router::UserCall,
    schema::Identifier,
    tables::{self, Change, Device, Session, UserNid},
    time_slice::TimeSlice,
    transaction::Tx,
};
use ephapse_store::Direction;
use ruma::{
    DeviceId, MilliSecondsSinceUnixEpoch, OwnedDeviceId, UInt,
    api::client::device::{
        self, delete_device::v3 as delete_device, delete_devices::v3 as delete_devices, get_device::v3 as get_device, get_devices::v3 as get_devices,
        update_device::v3 as update_device,
    },
};
use std::{cell::RefCell, collections::BTreeSet, rc::Rc, time::Duration};

/// Characters a display name may have.
const LONGEST_NAME: usize = 100;

/// Devices that one request may delete.
const MOST_DELETED: usize = 10_000;

/// How often it is written when a device was last seen.
const SEEN_EVERY: Duration = Duration::from_secs(60 * 60);

/// Bytes of what is remembered of it.
const SEEN_BYTES: usize = 1 << 20;

/// When devices were last written to have been seen.
pub struct Seen(RefCell<Cache<(UserNid, OwnedDeviceId), u64>>);

impl Default for Seen {
    fn default() -> Self {
        Self(RefCell::new(Cache::new(SEEN_BYTES)))
    }
}

impl Seen {
    /// Bytes that it takes, roughly.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.0.borrow().bytes()
    }
}

/// Refuses ids and names that no device can have.
pub fn acceptable(id: Option<&DeviceId>, display_name: Option<&str>) -> Result<()> {
    if id.is_some_and(|id| !Identifier::DeviceId.fits(id.as_str())) {
        return Err(Error::invalid_param(format!("this cannot be {}", Identifier::DeviceId.expected())));
    }
    if display_name.is_some_and(|name| name.chars().count() > LONGEST_NAME) {
        return Err(Error::invalid_param(format!("a device's name has {LONGEST_NAME} characters at most")));
    }
    Ok(())
}

/// `GET /_matrix/client/v3/devices`
pub async fn list(call: UserCall, _: get_devices::Request) -> Result<get_devices::Response> {
    let devices = of_user(&call.hs, call.session.user).await?;
    Ok(get_devices::Response::new(devices.into_iter().map(|(id, device)| shown(id, device)).collect()))
}

/// `GET /_matrix/client/v3/devices/{deviceId}`
pub async fn get(call: UserCall, request: get_device::Request) -> Result<get_device::Response> {
    let device = tables::DEVICES.get(call.hs.store(), &(call.session.user, request.device_id.clone())).await?.ok_or_else(unknown)?;
    Ok(get_device::Response::new(shown(request.device_id, device)))
}

/// `PUT /_matrix/client/v3/devices/{deviceId}`
pub async fn update(call: UserCall, request: update_device::Request) -> Result<update_device::Response> {
    let hs = &call.hs;
    acceptable(None, request.display_name.as_deref())?;
    let key = (call.session.user, request.device_id);
    let _lock = hs.lock(LockKey::Account(call.session.user_id.to_string())).await;
    let mut device = tables::DEVICES.get(hs.store(), &key).await?.ok_or_else(unknown)?;
    // "If not given, the display name is unchanged."
    if request.display_name.is_some() && request.display_name != device.display_name {
        device.display_name = request.display_name;
        let change = hs.device_list_change(call.session.user).await?;
        let renamed = hs.write(call.raw.generation, |tx| {
            tables::DEVICES.put(tx, &key, &device);
            tx.change(change);
        });
        renamed?.visible();
    }
    Ok(update_device::Response::new())
}

/// `DELETE /_matrix/client/v3/devices/{deviceId}`
pub async fn delete(call: UserCall, Confirmed(request): Confirmed<delete_device::Request>) -> Result<delete_device::Response> {
    interactive::require(&call, interactive::password_flow(), request.auth.as_ref()).await?;
    remove(&call, |device| *device == request.device_id).await?;
    Ok(delete_device::Response::new())
}

/// `POST /_matrix/client/v3/delete_devices`: devices that do not exist (any more) are no error.
pub async fn delete_many(call: UserCall, Confirmed(request): Confirmed<delete_devices::Request>) -> Result<delete_devices::Response> {
    if request.devices.len() > MOST_DELETED {
        return Err(Error::too_large(format!("a request deletes {MOST_DELETED} devices at most")));
    }
    interactive::require(&call, interactive::password_flow(), request.auth.as_ref()).await?;
    let devices: BTreeSet<OwnedDeviceId> = request.devices.into_iter().collect();
    remove(&call, |device| devices.contains(device)).await?;
    Ok(delete_devices::Response::new())
}

/// Removes those of the caller's devices of which `which` says yes, with everything that is theirs.
pub async fn remove(call: &UserCall, which: impl Fn(&OwnedDeviceId) -> bool) -> Result<()> {
    let hs = &call.hs;
    let _lock = hs.lock(LockKey::Account(call.session.user_id.to_string())).await;
    let departing = departing(hs, &call.session, which).await?;
    hs.write(call.raw.generation, |tx| departing.forget(tx))?.visible();
    Ok(())
}

/// Devices that are about to be deleted, with everything that is theirs.
pub struct Departing {
    user: UserNid,
    devices: Vec<(OwnedDeviceId, Device, to_device::Departing, keys::Departing)>,
    /// What others have to be told.
    change: Change,
}

/// Those devices of `owner` of which `which` says yes, for who holds the account's lock.
pub async fn departing(hs: &Homeserver, owner: &Session, which: impl Fn(&OwnedDeviceId) -> bool) -> Result<Departing> {
    let user = owner.user;
    let change = hs.device_list_change(user).await?;
    let mut devices = Vec::new();
    let slice = TimeSlice::new(&*hs.host);
    for (id, device) in of_user(hs, user).await?.into_iter().filter(|(id, _)| which(id)) {
        slice.step().await;
        let messages = to_device::departing(hs, user, &id).await?;
        let keys = keys::departing(hs, user, &id).await?;
        devices.push((id, device, messages, keys));
    }
    Ok(Departing { user, devices, change })
}

impl Departing {
    /// Deletes them, and has others told if there are any.
    pub fn forget(self, tx: &mut Tx) {
        if !self.devices.is_empty() {
            tx.change(self.change);
        }
        for (id, device, messages, keys) in self.devices {
            messages.forget(tx);
            keys.forget(tx);
            tables::ACCESS_TOKENS.delete(tx, &device.token);
            tables::TRANSACTIONS.delete_all(tx, &(self.user, id.clone()));
            tables::DEVICES.delete(tx, &(self.user, id));
        }
    }
}

/// Remembers that a device is in use: looks in memory only, and writes at most once an hour, behind
/// the request.
pub fn seen(hs: &Rc<Homeserver>, session: &Session) {
    let now = hs.host.now();
    let key = (session.user, session.device.clone());
    let mut written = hs.seen.0.borrow_mut();
    if written.get(&key).is_some_and(|last| last.saturating_add(SEEN_EVERY.as_millis() as u64) > now) {
        return;
    }
    let weight = key.1.as_str().len();
    written.insert(key.clone(), now, weight);
    let (hs, user_id) = (hs.clone(), session.user_id.to_string());
    hs.clone().host.spawn(Box::pin(async move {
        if let Err(error) = write_seen(&hs, user_id, key, now).await {
            tracing::debug!("it could not be written when a device was last seen: {error}");
        }
    }));
}

async fn write_seen(hs: &Homeserver, user_id: String, key: (UserNid, OwnedDeviceId), now: u64) -> Result<()> {
    let generation = hs.fresh_generation();
    let _lock = hs.lock(LockKey::Account(user_id)).await;
    let Some(mut device) = tables::DEVICES.get(hs.store(), &key).await? else { return Ok(()) };
    if device.last_seen.saturating_add(SEEN_EVERY.as_millis() as u64) <= now {
        device.last_seen = now;
        let written = hs.write(generation, |tx| tables::DEVICES.put(tx, &key, &device));
        written?.durable().await?;
    }
    Ok(())
}

async fn of_user(hs: &Homeserver, user: UserNid) -> Result<Vec<(OwnedDeviceId, Device)>> {
    let found = tables::DEVICES.scan(hs.store(), &user, Direction::Forward, usize::MAX).await?;
    Ok(found.into_iter().map(|((_, id), device)| (id, device)).collect())
}

fn shown(id: OwnedDeviceId, stored: Device) -> device::Device {
    let mut device = device::Device::new(id);
    device.display_name = stored.display_name;
    device.last_seen_ts = UInt::new(stored.last_seen).map(MilliSecondsSinceUnixEpoch);
    device
}

fn unknown() -> Error {
    Error::not_found("there is no such device")
}
