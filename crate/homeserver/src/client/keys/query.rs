//! `POST /_matrix/client/v3/keys/query`: devices and cross-signing keys with the signatures that
//! the asking user may see.
//!
//! Every user asked for is accounted for: local ones in `device_keys`, the servers of others in
//! `failures`. The specification leaves unknown users out, but matrix-sdk-crypto takes a user who
//! is missing for one it has no answer for yet, and asks again at once.

use super::{MOST, signed};
use crate::{
    client::wire::{Json as Answer, Own},
    damaged::{Damaged, LeaveOut},
    error::{Error, Result},
    homeserver::Homeserver,
    router::UserCall,
    tables::{self, CrossSigningUse, UserNid},
    time_slice::TimeSlice,
};
use ephapse_store::Direction;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedDeviceId, OwnedUserId, UserId,
    api::client::keys::get_keys::v3 as get_keys,
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};
use serde::Serialize;
use serde_json::{json, value::RawValue};
use std::collections::{BTreeMap, BTreeSet};

/// `POST /_matrix/client/v3/keys/query`
pub async fn query(call: UserCall, Own(request): Own<get_keys::Request>) -> Result<Answer> {
    let (hs, viewer) = (&call.hs, call.session.user);
    if request.device_keys.len() > MOST {
        return Err(Error::too_large(format!("a request asks for the keys of {MOST} users at most")));
    }
    let mut response = Keys::default();
    let slice = TimeSlice::new(&*hs.host);
    for (user, devices) in request.device_keys.iter().filter(|(user, _)| hs.is_local(user)) {
        slice.step().await;
        let Some(nid) = hs.find_account(user).await? else {
            response.device_keys.insert(user.clone(), BTreeMap::new());
            continue;
        };
        let keys = keys_of(hs, nid, user, Some(viewer), devices).await?;
        response.device_keys.insert(user.clone(), keys.devices);
        response.master_keys.extend(keys.master.map(|key| (user.clone(), key)));
        response.self_signing_keys.extend(keys.self_signing.map(|key| (user.clone(), key)));
        response.user_signing_keys.extend(keys.user_signing.map(|key| (user.clone(), key)));
    }
    response.failures = unreachable_servers(hs, request.device_keys.keys()).await;
    Ok(Answer::of(&response))
}

/// Keys of several users; ruma's response would leave out what is empty, and some clients look for
/// it.
#[derive(Default, Serialize)]
struct Keys {
    device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>>,
    failures: BTreeMap<String, serde_json::Value>,
    master_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    self_signing_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    user_signing_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
}

/// A user's keys as somebody may see them.
pub struct UserKeys {
    /// The devices that have keys.
    pub devices: BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>,
    /// The master key.
    pub master: Option<Raw<CrossSigningKey>>,
    /// The self-signing key.
    pub self_signing: Option<Raw<CrossSigningKey>>,
    /// The user-signing key, which only its user sees.
    pub user_signing: Option<Raw<CrossSigningKey>>,
}

/// The keys of a local user as `viewer` may see them (none: another server); of all devices when
/// `asked` is empty.
pub async fn keys_of(hs: &Homeserver, nid: UserNid, user: &UserId, viewer: Option<UserNid>, asked: &[OwnedDeviceId]) -> Result<UserKeys> {
    let signatures = visible_signatures(hs, nid, viewer).await?;
    let mut devices = BTreeMap::new();
    let slice = TimeSlice::new(&*hs.host);
    for ((device, keys), named) in device_keys(hs, nid, asked).await? {
        let keys = stored_object(&keys, || format!("the keys of {device} of {user}")).leave_out()?;
        let Some(mut keys) = keys.map(|keys| with_name(keys, named)) else { continue };
        signatures.add_to(&mut keys, device.as_str());
        devices.insert(device, Raw::from_json(raw(keys)?));
        slice.step().await;
    }
    let mut cross_signing = BTreeMap::new();
    for ((_, used_for), key) in tables::CROSS_SIGNING_KEYS.scan(hs.store(), &nid, Direction::Forward, 3).await? {
        let Some(mut key) = stored_object(&key, || format!("a cross-signing key of {user}")).leave_out()? else { continue };
        signed::keep_own_signatures(&mut key, user);
        if let Some(public) = public_key(&key).map(str::to_owned) {
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
async fn device_keys(hs: &Homeserver, user: UserNid, asked: &[OwnedDeviceId]) -> Result<Vec<Found>> {
    let found: Vec<(OwnedDeviceId, tables::Json)> = if asked.is_empty() {
        let all = tables::DEVICE_KEYS.scan(hs.store(), &user, Direction::Forward, MOST).await?;
        all.into_iter().map(|((_, device), keys)| (device, keys)).collect()
    } else {
        let asked: BTreeSet<&OwnedDeviceId> = asked.iter().collect();
        if asked.len() > MOST {
            return Err(Error::too_large(format!("a request asks for {MOST} devices of a user at most")));
        }
        let places: Vec<_> = asked.iter().map(|device| (user, (*device).clone())).collect();
        let keys = tables::DEVICE_KEYS.get_many(hs.store(), &places).await?;
        asked.into_iter().cloned().zip(keys).filter_map(|(device, keys)| Some((device, keys?))).collect()
    };
    let places: Vec<_> = found.iter().map(|(device, _)| (user, device.clone())).collect();
    let named = tables::DEVICES.get_many(hs.store(), &places).await?;
    Ok(found.into_iter().zip(named).collect())
}

/// A device's keys with its name.
fn with_name(mut keys: CanonicalJsonObject, named: Option<tables::Device>) -> CanonicalJsonObject {
    let name = named.and_then(|device| device.display_name);
    let name = name.map(|name| ("device_display_name".to_owned(), CanonicalJsonValue::String(name)));
    keys.insert("unsigned".to_owned(), CanonicalJsonValue::Object(name.into_iter().collect()));
    keys
}

fn stored_object(json: &tables::Json, what: impl FnOnce() -> String) -> Result<CanonicalJsonObject, Damaged> {
    serde_json::from_str(&json.0).map_err(|error| Damaged::new(what(), error))
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

async fn visible_signatures(hs: &Homeserver, user: UserNid, viewer: Option<UserNid>) -> Result<Signatures> {
    let mut visible: BTreeMap<String, Vec<_>> = BTreeMap::new();
    let signers: BTreeSet<UserNid> = viewer.into_iter().chain([user]).collect();
    for signer in signers {
        let Some(id) = hs.user_id(signer).await.leave_out()? else { continue };
        for ((_, _, key, by), signature) in tables::KEY_SIGNATURES.scan(hs.store(), &(user, signer), Direction::Forward, MOST).await? {
            visible.entry(key).or_default().push((id.clone(), by, signature));
        }
    }
    Ok(Signatures(visible))
}

/// The public key of a cross-signing key, in base64: what it is named by.
pub(in crate::client) fn public_key(key: &CanonicalJsonObject) -> Option<&str> {
    key.get("keys")?.as_object()?.values().next()?.as_str()
}

fn raw(object: CanonicalJsonObject) -> Result<Box<RawValue>> {
    RawValue::from_string(CanonicalJsonValue::Object(object).to_string())
        .map_err(|error| crate::Error::Internal(format!("canonical JSON is no JSON: {error}")))
}

/// The servers of `users` that nothing can be asked of.
pub(super) async fn unreachable_servers(hs: &Homeserver, users: impl Iterator<Item = &OwnedUserId>) -> BTreeMap<String, serde_json::Value> {
    let slice = TimeSlice::new(&*hs.host);
    let mut servers = BTreeMap::new();
    for user in users.filter(|user| !hs.is_local(user)) {
        let error = || json!({ "errcode": "M_UNKNOWN", "error": "this server cannot be reached" });
        servers.entry(user.server_name().to_string()).or_insert_with(error);
        slice.step().await;
    }
    servers
}
