//! Queries (Client-Server API, Key management API): devices and cross-signing keys with the
//! signatures that who asks may see.
//!
//! Each local user who is asked for has an entry. The specification leaves unknown users out, but
//! matrix-sdk-crypto takes a user who is missing for one it has no answer for yet, and asks again
//! at once.

use super::{Error, MOST, Refused, signed, stored_object};
use crate::{
    damaged::LeaveOut,
    homeserver::Homeserver,
    tables::{self, CrossSigningUse, UserNid},
    time_slice::TimeSlice,
};
use ephapse_events::Inserted;
use ephapse_store::{Direction, StoreError};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedDeviceId, OwnedUserId, UserId,
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};

/// Keys of several users, as somebody may see them.
#[derive(Default)]
pub struct Queried {
    /// Of their devices, with what is not signed.
    pub devices: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>>,
    /// Their master keys.
    pub master: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    /// Their self-signing keys.
    pub self_signing: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    /// The user-signing key of who asks.
    pub user_signing: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
}

/// The keys of this server's users, as `viewer` may see them (`None`: another server); of all of a
/// user's devices where none is named. Users of other servers are passed over.
pub async fn query(hs: &Homeserver, viewer: Option<UserNid>, users: &BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>) -> Result<Queried, Error> {
    if users.len() > MOST {
        return Err(Refused::TooLarge(format!("Too many users in one request: at most {MOST} are allowed")).into());
    }
    let mut queried = Queried::default();
    let slice = TimeSlice::new(&*hs.host);
    for (user, devices) in users.iter().filter(|(user, _)| hs.is_local(user)) {
        slice.step().await;
        let Some(nid) = hs.find_account(user).await? else {
            queried.devices.insert(user.clone(), BTreeMap::new());
            continue;
        };
        let keys = keys_of(hs, nid, user, viewer, devices).await?;
        let mut shown = BTreeMap::new();
        for (device, keys) in keys.devices {
            shown.insert(device, keys.shown(viewer)?);
            slice.step().await;
        }
        queried.devices.insert(user.clone(), shown);
        queried.master.extend(keys.master.map(|key| (user.clone(), key)));
        queried.self_signing.extend(keys.self_signing.map(|key| (user.clone(), key)));
        queried.user_signing.extend(keys.user_signing.map(|key| (user.clone(), key)));
    }
    Ok(queried)
}

/// A user's keys as somebody may see them.
pub struct UserKeys {
    /// The devices that have keys.
    pub devices: BTreeMap<OwnedDeviceId, SignedDevice>,
    /// The master key.
    pub master: Option<Raw<CrossSigningKey>>,
    /// The self-signing key.
    pub self_signing: Option<Raw<CrossSigningKey>>,
    /// The user-signing key, which only its user sees.
    pub user_signing: Option<Raw<CrossSigningKey>>,
}

/// A device with its keys.
pub struct SignedDevice {
    /// Its keys as they were uploaded, with the signatures that are seen.
    pub keys: CanonicalJsonObject,
    /// What its owner calls it.
    pub display_name: Option<String>,
}

impl SignedDevice {
    /// Its keys with its name, which nobody signed. Other servers are told no names: they may say
    /// much of who uses the device, and nothing depends on them.
    pub(super) fn shown(mut self, viewer: Option<UserNid>) -> Result<Raw<DeviceKeys>, Error> {
        let name = self.display_name.filter(|_| viewer.is_some()).map(|name| ("device_display_name".to_owned(), CanonicalJsonValue::String(name)));
        self.keys.insert("unsigned".to_owned(), CanonicalJsonValue::Object(name.into_iter().inserted()));
        Ok(Raw::from_json(raw(self.keys)?))
    }
}

/// The keys of a local user as `viewer` may see them (none: another server); of all devices when
/// `asked` is empty.
pub async fn keys_of(hs: &Homeserver, nid: UserNid, user: &UserId, viewer: Option<UserNid>, asked: &[OwnedDeviceId]) -> Result<UserKeys, Error> {
    let signatures = visible_signatures(hs, nid, viewer).await?;
    let mut devices = BTreeMap::new();
    let slice = TimeSlice::new(&*hs.host);
    for ((device, keys), named) in device_keys(hs, nid, asked).await? {
        let keys = stored_object(&keys, || format!("the keys of {device} of {user}")).leave_out()?;
        let Some(mut keys) = keys else { continue };
        signatures.add_to(&mut keys, device.as_str());
        // Of devices of other servers the name is kept with the keys.
        let name_beside = keys.remove("unsigned").and_then(|unsigned| Some(unsigned.as_object()?.get("device_display_name")?.as_str()?.to_owned()));
        devices.insert(device, SignedDevice { keys, display_name: named.and_then(|device| device.display_name).or(name_beside) });
        slice.step().await;
    }
    let mut cross_signing = BTreeMap::new();
    for ((_, used_for), key) in tables::CROSS_SIGNING_KEYS.scan(hs.store(), &nid, Direction::Forward, 3).await? {
        let Some(mut key) = stored_object(&key, || format!("a cross-signing key of {user}")).leave_out()? else { continue };
        signed::keep_own_signatures(&mut key, user);
        if let Some(public) = signed::public_key(&key).map(str::to_owned) {
            signatures.add_to(&mut key, &public);
        }
        cross_signing.insert(used_for, Raw::from_json(raw(key)?));
    }
    let mut take = |used_for: CrossSigningUse| cross_signing.remove(&(used_for as u8));
    let (master, self_signing, user_signing) =
        (take(CrossSigningUse::Master), take(CrossSigningUse::SelfSigning), take(CrossSigningUse::UserSigning));
    Ok(UserKeys { devices, master, self_signing, user_signing: user_signing.filter(|_| viewer == Some(nid)) })
}

/// A device with its keys, and what else is known of it.
type Found = ((OwnedDeviceId, tables::Json), Option<tables::Device>);

/// The keys of a user's devices, each once however often it is asked for.
async fn device_keys(hs: &Homeserver, user: UserNid, asked: &[OwnedDeviceId]) -> Result<Vec<Found>, Error> {
    let found: Vec<(OwnedDeviceId, tables::Json)> = if asked.is_empty() {
        let all = tables::DEVICE_KEYS.scan(hs.store(), &user, Direction::Forward, MOST).await?;
        all.into_iter().map(|((_, device), keys)| (device, keys)).collect()
    } else {
        let asked: BTreeSet<&OwnedDeviceId> = asked.iter().inserted();
        if asked.len() > MOST {
            return Err(Refused::TooLarge(format!("Too many devices of one user: at most {MOST} are allowed")).into());
        }
        let places: Vec<_> = asked.iter().map(|device| (user, (*device).clone())).collect();
        let keys = tables::DEVICE_KEYS.get_many(hs.store(), &places).await?;
        asked.into_iter().cloned().zip(keys).filter_map(|(device, keys)| Some((device, keys?))).collect()
    };
    let places: Vec<_> = found.iter().map(|(device, _)| (user, device.clone())).collect();
    let named = tables::DEVICES.get_many(hs.store(), &places).await?;
    Ok(found.into_iter().zip(named).collect())
}

/// The signatures of a user's keys that somebody may see, by the key they sign: the user's own, and
/// those that the viewer made.
struct Signatures(BTreeMap<String, Vec<(OwnedUserId, String, String)>>);

impl Signatures {
    fn add_to(&self, key: &mut CanonicalJsonObject, id: &str) {
        for (signer, by, signature) in self.0.get(id).into_iter().flatten() {
            signed::add_signature(key, signer, by.clone(), signature.clone());
        }
    }
}

async fn visible_signatures(hs: &Homeserver, user: UserNid, viewer: Option<UserNid>) -> Result<Signatures, StoreError> {
    let mut visible: BTreeMap<String, Vec<_>> = BTreeMap::new();
    let signers: BTreeSet<UserNid> = viewer.into_iter().chain([user]).inserted();
    for signer in signers {
        let Some(id) = hs.user_id(signer).await.leave_out()? else { continue };
        for ((_, _, key, by), signature) in tables::KEY_SIGNATURES.scan(hs.store(), &(user, signer), Direction::Forward, MOST).await? {
            visible.entry(key).or_default().push((id.clone(), by, signature));
        }
    }
    Ok(Signatures(visible))
}

fn raw(object: CanonicalJsonObject) -> Result<Box<RawValue>, Error> {
    RawValue::from_string(CanonicalJsonValue::Object(object).to_string())
        .map_err(|error| Error::Internal(format!("canonical JSON cannot be written: {error}")))
}
