//! Devices of this server's users: their names, when they were last seen, and their end. Their keys
//! are in [`keys`], the messages that wait for them in [`to_device`].
//!
//! A user's devices are written under the lock of the user's account.

use crate::{
    cache::Cache,
    failure::{Failure, Refusal},
    homeserver::Homeserver,
    keys::{self, Changed, DeviceListChange},
    locks::LockKey,
    schema::Identifier,
    tables::{self, Device, Session, UserNid},
    time_slice::TimeSlice,
    to_device,
    transaction::Tx,
};
use ephapse_store::{Direction, StoreError};
use ruma::{DeviceId, OwnedDeviceId, UserId};
use std::{cell::RefCell, rc::Rc, time::Duration};

/// Characters a display name may have.
const LONGEST_NAME: usize = 100;

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

/// What is refused, and why. The texts are for whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The user has no device of this id.
    #[error("Device not found")]
    Unknown,
    /// An id that no device can have.
    #[error("Expected {}", Identifier::DeviceId.expected())]
    MalformedId,
    /// A display name that is too long.
    #[error("Device display name is too long: at most {} characters are allowed", LONGEST_NAME)]
    LongName,
}

/// Why something is not done with a device.
pub type Error = Failure<Refused>;

impl Refusal for Refused {}

/// Refuses ids and names that no device can have.
pub fn acceptable(id: Option<&DeviceId>, display_name: Option<&str>) -> Result<(), Refused> {
    if id.is_some_and(|id| !Identifier::DeviceId.fits(id.as_str())) {
        return Err(Refused::MalformedId);
    }
    if display_name.is_some_and(|name| name.chars().count() > LONGEST_NAME) {
        return Err(Refused::LongName);
    }
    Ok(())
}

/// All devices of a user.
pub async fn all(hs: &Homeserver, user: UserNid) -> Result<Vec<(OwnedDeviceId, Device)>, StoreError> {
    let found = tables::DEVICES.scan(hs.store(), &user, Direction::Forward, usize::MAX).await?;
    Ok(found.into_iter().map(|((_, id), device)| (id, device)).collect())
}

/// One device of a user.
pub async fn find(hs: &Homeserver, user: UserNid, id: &DeviceId) -> Result<Device, Error> {
    Ok(tables::DEVICES.get(hs.store(), &(user, id.to_owned())).await?.ok_or(Refused::Unknown)?)
}

/// Gives a device another display name; `None`: the one that it has.
pub async fn rename(hs: &Homeserver, generation: u64, user: UserNid, user_id: &UserId, id: OwnedDeviceId, name: Option<String>) -> Result<(), Error> {
    acceptable(None, name.as_deref())?;
    let _lock = hs.lock(LockKey::Account(user_id.to_string())).await;
    let mut device = find(hs, user, &id).await?;
    if name.is_some() && name != device.display_name {
        device.display_name = name;
        let change = hs.device_list_change(user).await?;
        let renamed = hs.write(generation, |tx| {
            tables::DEVICES.put(tx, &(user, id.clone()), &device);
            change.stage(tx, hs.host.now(), [Changed::Device(id)]);
        });
        renamed?.visible();
    }
    Ok(())
}

/// Deletes those of a user's devices of which `which` says yes, with everything that is theirs. It
/// is no refusal where there are none.
pub async fn remove(hs: &Homeserver, generation: u64, user: UserNid, user_id: &UserId, which: &dyn Fn(&DeviceId) -> bool) -> Result<(), StoreError> {
    let _lock = hs.lock(LockKey::Account(user_id.to_string())).await;
    let departing = departing(hs, user, which).await?;
    hs.write(generation, |tx| departing.forget(tx))?.visible();
    Ok(())
}

/// Devices that are about to be deleted, with everything that is theirs.
pub struct Departing {
    user: UserNid,
    devices: Vec<(OwnedDeviceId, Device, to_device::Departing, keys::Departing)>,
    /// What others have to be told.
    change: DeviceListChange,
    now: u64,
}

/// Those devices of a user of which `which` says yes, for who holds the account's lock.
pub async fn departing(hs: &Homeserver, user: UserNid, which: &dyn Fn(&DeviceId) -> bool) -> Result<Departing, StoreError> {
    let change = hs.device_list_change(user).await?;
    let mut devices = Vec::new();
    let slice = TimeSlice::new(&*hs.host);
    for (id, device) in all(hs, user).await?.into_iter().filter(|(id, _)| which(id)) {
        slice.step().await;
        let messages = to_device::departing(hs, user, &id).await?;
        let keys = keys::departing(hs, user, &id).await?;
        devices.push((id, device, messages, keys));
    }
    Ok(Departing { user, devices, change, now: hs.host.now() })
}

impl Departing {
    /// Deletes them, and has others told if there are any.
    pub fn forget(self, tx: &mut Tx) {
        if !self.devices.is_empty() {
            self.change.stage(tx, self.now, self.devices.iter().map(|(id, ..)| Changed::Device(id.clone())));
        }
        for (id, device, messages, keys) in self.devices {
            messages.forget(tx);
            keys.forget(tx);
            tables::ACCESS_TOKENS.delete(tx, &device.token);
            tables::ANSWERED_REQUESTS.delete_all(tx, &(self.user, id.clone()));
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
            tracing::debug!("could not save when a device was last seen: {error}");
        }
    }));
}

async fn write_seen(hs: &Homeserver, user_id: String, key: (UserNid, OwnedDeviceId), now: u64) -> Result<(), StoreError> {
    let generation = hs.begin_reading();
    let _lock = hs.lock(LockKey::Account(user_id)).await;
    let Some(mut device) = tables::DEVICES.get(hs.store(), &key).await? else { return Ok(()) };
    if device.last_seen.saturating_add(SEEN_EVERY.as_millis() as u64) <= now {
        device.last_seen = now;
        let written = hs.write(generation, |tx| tables::DEVICES.put(tx, &key, &device));
        written?.durable().await?;
    }
    Ok(())
}
