//! The access tokens of devices: a device has one, which is kept as its hash.

use super::{Error, Refused, password::Checked};
use crate::{
    damaged::{Damaged, LeaveOut},
    homeserver::Homeserver,
    keys::Changed,
    locks::LockKey,
    tables::{self, Device, Session, UserNid},
    transaction::Tx,
};
use ephapse_store::{Direction, StoreError};
use ruma::{DeviceId, OwnedDeviceId, UserId};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What an access token is kept as.
pub fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// A device that is logged in.
pub struct Login {
    /// Its access token.
    pub token: String,
    /// The device.
    pub device: OwnedDeviceId,
}

/// Gives a device, new or known, a new access token, if the password that was right still is.
pub async fn log_in(
    hs: &Homeserver,
    generation: u64,
    checked: &Checked,
    user_id: &UserId,
    device_id: Option<OwnedDeviceId>,
    display_name: Option<String>,
) -> Result<Login, Error> {
    let user = checked.user;
    let _lock = hs.lock(LockKey::Account(user_id.to_string())).await;
    // The account may have been deactivated or its password changed while this one was compared.
    if !checked.still_holds(tables::ACCOUNTS.get(hs.store(), &user).await?.as_ref()) {
        return Err(Refused::WrongPassword.into());
    }
    if let Some(device) = &device_id {
        is_no_cross_signing_key(hs, user, device).await?;
    }
    let new = NewSession::of(hs, user, user_id, device_id, display_name).await?;
    let change = if new.replaced.is_some() { None } else { Some(hs.device_list_change(user).await?) };
    let begun = hs.write(generation, |tx| {
        new.begin(tx);
        if let Some(change) = change {
            change.stage(tx, hs.host.now(), [Changed::Device(new.session.device.clone())]);
        }
    });
    begun?.visible();
    let login = new.login();
    // A sync that is held with the token which the device had until now ends.
    hs.notify.wake_device(user, &login.device);
    Ok(login)
}

/// "The given device ID must not be the same as a cross-signing key ID": the two share a namespace
/// in signatures.
async fn is_no_cross_signing_key(hs: &Homeserver, user: UserNid, device: &DeviceId) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Key {
        keys: BTreeMap<String, String>,
    }
    for (_, stored) in tables::CROSS_SIGNING_KEYS.scan(hs.store(), &user, Direction::Forward, usize::MAX).await? {
        let key = serde_json::from_str::<Key>(&stored.0).map_err(|error| Damaged::new(format!("a cross-signing key of user number {user}"), error));
        let Some(key) = key.leave_out()? else { continue };
        if key.keys.values().any(|public| public == device.as_str()) {
            return Err(Refused::DeviceIdTaken.into());
        }
    }
    Ok(())
}

/// A new access token of a device, new or known.
pub struct NewSession {
    /// The access token.
    token: String,
    /// Whose it is.
    pub session: Session,
    /// The device as it is from now on.
    device: Device,
    /// The hash of the token that a known device has had, which ends.
    replaced: Option<[u8; 32]>,
}

impl NewSession {
    /// For a device of a user; the account's lock must be held.
    pub async fn of(
        hs: &Homeserver,
        user: UserNid,
        user_id: &UserId,
        device_id: Option<OwnedDeviceId>,
        display_name: Option<String>,
    ) -> Result<Self, StoreError> {
        let device_id = device_id.unwrap_or_else(|| hs.random_string(10).to_ascii_uppercase().into());
        let known = tables::DEVICES.get(hs.store(), &(user, device_id.clone())).await?;
        let replaced = known.as_ref().map(|known| known.token);
        let token = hs.random_string(43);
        // "Ignored if device_id corresponds to a known device."
        let display_name = known.map_or(display_name, |known| known.display_name);
        let device = Device { display_name, last_seen: hs.host.now(), token: token_hash(&token) };
        Ok(Self { token, session: Session { user, user_id: user_id.to_owned(), device: device_id }, device, replaced })
    }

    /// What whoever logged in is told.
    pub fn login(self) -> Login {
        Login { token: self.token, device: self.session.device }
    }

    /// Gives the device the token.
    pub fn begin(&self, tx: &mut Tx) {
        if let Some(replaced) = &self.replaced {
            tables::ACCESS_TOKENS.delete(tx, replaced);
        }
        tables::DEVICES.put(tx, &(self.session.user, self.session.device.clone()), &self.device);
        tables::ACCESS_TOKENS.put(tx, &self.device.token, &self.session);
    }
}
