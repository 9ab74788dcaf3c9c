//! Uploads (Client-Server API, Uploading keys): a device's identity keys, one-time keys and
//! fallback keys.

use super::{
    Changed, Error, Refused,
    claimed::{Claimed, Fingerprint},
    object, shown,
    signed::{self, public_key},
    stored_object,
};
use crate::{
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, FallbackKey, Json, KeyCounts, KnownOneTimeKey, OneTimeKey, Session, UserNid},
    time_slice::TimeSlice,
    transaction::Tx,
};
use ephapse_events::Inserted;
use ephapse_store::Direction;
use ruma::{
    CanonicalJsonValue, OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, UInt,
    encryption::{self, DeviceKeys},
    serde::Raw,
};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// One-time keys that a device may have which nobody has claimed.
const MOST_ONE_TIME_KEYS: usize = 10_000;

/// Algorithms that a device may have one-time keys of, and fallback keys: the specification names
/// two.
const MOST_ALGORITHMS: usize = 16;

/// Bytes of `algorithm:id`.
const LONGEST_KEY_ID: usize = 255;

/// Bytes of a device's identity keys, or of one other key.
const LONGEST_KEY: usize = 64 << 10;

/// One-time or fallback keys, by their ids.
type Keys = BTreeMap<OwnedOneTimeKeyId, Raw<encryption::OneTimeKey>>;

/// What a device uploads.
pub struct Uploaded<'a> {
    /// Its identity keys.
    pub identity: Option<&'a Raw<DeviceKeys>>,
    /// One-time keys.
    pub one_time: &'a Keys,
    /// Fallback keys.
    pub fallback: &'a Keys,
}

/// Keeps the keys of a device. What was uploaded before is no refusal. Answers how many one-time
/// keys the device has now.
pub async fn upload(hs: &Homeserver, generation: u64, session: &Session, keys: Uploaded<'_>) -> Result<BTreeMap<OneTimeKeyAlgorithm, UInt>, Error> {
    let _lock = hs.lock(LockKey::Account(session.user_id.to_string())).await;
    let key = (session.user, session.device.clone());
    // It may have been deleted while this waited.
    tables::DEVICES.get(hs.store(), &key).await?.ok_or(Refused::NoDevice)?;
    let mut counts = tables::KEY_COUNTS.get(hs.store(), &key).await?.unwrap_or_default();
    let before = counts.clone();
    let identity = match keys.identity {
        Some(keys) => new_identity(hs, session, keys).await?,
        None => None,
    };
    let one_time = new_one_time_keys(hs, &key, keys.one_time, &mut counts).await?;
    let fallback = new_fallback_keys(hs, &key, keys.fallback, &mut counts).await?;
    let change = if identity.is_some() { Some(hs.device_list_change(session.user).await?) } else { None };
    let written = hs.write(generation, |tx| {
        if let Some(identity) = &identity {
            identity.put(tx, &key);
        }
        for new in one_time {
            new.put(tx, &key);
        }
        for (algorithm, new) in fallback {
            tables::FALLBACK_KEYS.put(tx, &(key.0, key.1.clone(), algorithm), &new);
        }
        if counts != before {
            tables::KEY_COUNTS.put(tx, &key, &counts);
        }
        if let Some(change) = change {
            change.stage(tx, hs.host.now(), [Changed::Device(session.device.clone())]);
        }
    });
    written?.visible();
    Ok(shown(&counts))
}

/// Identity keys of a device that take the place of other ones, or of none.
struct Identity {
    keys: Json,
    /// What others signed was another object.
    is_another: bool,
}

impl Identity {
    fn put(&self, tx: &mut Tx, device: &(UserNid, OwnedDeviceId)) {
        if self.is_another {
            tables::KEY_SIGNATURES.delete_all(tx, &(device.0, device.0, device.1.to_string()));
        }
        tables::DEVICE_KEYS.put(tx, device, &self.keys);
    }
}

/// The identity keys, where they are other ones than before. Their signatures are for other clients
/// to verify: the specification has the server check none, and whoever could be kept from uploading
/// a wrong one would leave it out.
async fn new_identity(hs: &Homeserver, session: &Session, keys: &Raw<DeviceKeys>) -> Result<Option<Identity>, Error> {
    let parsed: DeviceKeys = keys.deserialize().map_err(Refused::Unreadable)?;
    if parsed.user_id != session.user_id || parsed.device_id != session.device {
        return Err(Refused::Invalid("The keys belong to another user or device".to_owned()).into());
    }
    if keys.json().get().len() > LONGEST_KEY {
        return Err(Refused::TooLarge("Device keys too large".to_owned()).into());
    }
    let mut keys = object(keys.json().get())?;
    keys.remove("unsigned");
    signed::keep_own_signatures(&mut keys, &session.user_id);
    for (_, key) in tables::CROSS_SIGNING_KEYS.scan(hs.store(), &session.user, Direction::Forward, 3).await? {
        // "Servers therefore must ensure that device IDs will not collide with cross-signing public
        // keys."
        let key = stored_object(&key, || format!("a cross-signing key of {}", session.user_id))?;
        if public_key(&key) == Some(session.device.as_str()) {
            return Err(Refused::NameTaken("The device ID is already the ID of a cross-signing key").into());
        }
    }
    let key = (session.user, session.device.clone());
    let stored = tables::DEVICE_KEYS.get(hs.store(), &key).await?;
    let is_another = match &stored {
        Some(stored) => !signed::is_same(&stored_object(stored, || format!("the keys of {} of {}", session.device, session.user_id))?, &keys),
        None => false,
    };
    let keys = Json(CanonicalJsonValue::Object(keys).to_string());
    Ok((stored.as_ref() != Some(&keys)).then_some(Identity { keys, is_another }))
}

/// A one-time key that is uploaded for the first time.
struct NewOneTimeKey {
    algorithm: String,
    number: u64,
    key: OneTimeKey,
    known: KnownOneTimeKey,
}

impl NewOneTimeKey {
    fn put(self, tx: &mut Tx, (user, device): &(UserNid, OwnedDeviceId)) {
        tables::ONE_TIME_KEYS.put(tx, &(*user, device.clone(), self.algorithm, self.number), &self.key);
        tables::ONE_TIME_KEY_IDS.put(tx, &(*user, device.clone(), self.key.id), &self.known);
    }
}

/// Those of `keys` that the device does not have, and has not had.
async fn new_one_time_keys(
    hs: &Homeserver,
    device: &(UserNid, OwnedDeviceId),
    keys: &Keys,
    counts: &mut KeyCounts,
) -> Result<Vec<NewOneTimeKey>, Error> {
    let mut new = Vec::new();
    if keys.is_empty() {
        return Ok(new);
    }
    let too_many = || Refused::TooLarge(format!("Too many one-time keys: at most {MOST_ONE_TIME_KEYS} per device are allowed"));
    if keys.len() > MOST_ONE_TIME_KEYS {
        return Err(too_many().into());
    }
    let (user, id) = device;
    let slice = TimeSlice::new(&*hs.host);
    let mut checked_keys = Vec::with_capacity(keys.len());
    for (key_id, key) in keys {
        slice.step().await;
        let key = checked(key_id, key)?;
        checked_keys.push((key_id, Fingerprint::of(key_id.algorithm().as_str(), &key), key.to_string(), without_signatures(key).to_string()));
    }
    let places: Vec<_> = keys.keys().map(|key_id| (*user, id.clone(), key_id.to_string())).collect();
    let unclaimed = tables::ONE_TIME_KEY_IDS.get_many(hs.store(), &places).await?;
    let claimed = Claimed::read(hs, device, checked_keys.iter().map(|(_, fingerprint, _, _)| *fingerprint)).await?;
    let mut left = (MOST_ONE_TIME_KEYS as u64).saturating_sub(counts.one_time.values().sum());
    let mut next: BTreeMap<String, u64> = BTreeMap::new();
    for ((key_id, fingerprint, key, unsigned), known) in checked_keys.into_iter().zip(unclaimed) {
        slice.step().await;
        let hash = Sha256::digest(&unsigned).into();
        match known {
            // Uploaded again because the answer was lost, maybe signed anew. Before, what was kept
            // was the hash of the whole.
            Some(known) if known.hash == hash || known.hash[..] == Sha256::digest(&key)[..] => continue,
            Some(_) => return Err(Refused::Invalid(format!("One-time key {key_id} already exists with another value")).into()),
            // The same after somebody has claimed it: nobody is given it a second time.
            None if claimed.has(fingerprint) => continue,
            None => {}
        }
        left = left.checked_sub(1).ok_or_else(too_many)?;
        let algorithm = key_id.algorithm().to_string();
        *counts.one_time.entry(algorithm.clone()).or_default() += 1;
        if counts.one_time.len() > MOST_ALGORITHMS {
            return Err(too_many_algorithms().into());
        }
        let number = match next.get(&algorithm) {
            Some(number) => *number,
            None => {
                let newest = tables::ONE_TIME_KEYS.scan(hs.store(), &(*user, id.clone(), algorithm.clone()), Direction::Backward, 1).await?;
                newest.first().map_or(0, |((_, _, _, number), _)| number + 1)
            }
        };
        next.insert(algorithm.clone(), number + 1);
        let key = OneTimeKey { id: key_id.to_string(), key: Json(key) };
        new.push(NewOneTimeKey { algorithm, number, key, known: KnownOneTimeKey { hash } });
    }
    Ok(new)
}

/// Signatures are made anew for the same key, and differ where the algorithm has randomness in it.
fn without_signatures(mut key: CanonicalJsonValue) -> CanonicalJsonValue {
    if let CanonicalJsonValue::Object(key) = &mut key {
        key.remove("signatures");
    }
    key
}

/// Those of `keys` that are other ones than before, by algorithm.
async fn new_fallback_keys(
    hs: &Homeserver,
    device: &(UserNid, OwnedDeviceId),
    keys: &Keys,
    counts: &mut KeyCounts,
) -> Result<Vec<(String, FallbackKey)>, Error> {
    let mut new = Vec::new();
    if keys.is_empty() {
        return Ok(new);
    }
    let given: BTreeSet<String> = keys.keys().map(|key_id| key_id.algorithm().to_string()).inserted();
    if given.len() < keys.len() {
        return Err(Refused::Invalid("Only one fallback key per algorithm is allowed".to_owned()).into());
    }
    let stored = tables::FALLBACK_KEYS.scan(hs.store(), device, Direction::Forward, usize::MAX).await?;
    let mut stored: BTreeMap<String, FallbackKey> = stored.into_iter().map(|((_, _, algorithm), key)| (algorithm, key)).inserted();
    if given.iter().filter(|algorithm| !stored.contains_key(*algorithm)).count() + stored.len() > MOST_ALGORITHMS {
        return Err(too_many_algorithms().into());
    }
    for (key_id, key) in keys {
        let algorithm = key_id.algorithm().to_string();
        let key = FallbackKey { id: key_id.to_string(), key: Json(checked(key_id, key)?.to_string()), used: false };
        // The same key again stays used when it was.
        if stored.remove(&algorithm).is_some_and(|stored| stored.id == key.id && stored.key == key.key) {
            continue;
        }
        counts.unused_fallback.insert(algorithm.clone());
        new.push((algorithm, key));
    }
    Ok(new)
}

fn too_many_algorithms() -> Refused {
    Refused::TooLarge(format!("Too many algorithms: at most {MOST_ALGORITHMS} per device are allowed"))
}

/// A one-time or fallback key: a string, or an object with the key and its signatures, as signed
/// algorithms have it.
fn checked(key_id: &OwnedOneTimeKeyId, key: &Raw<encryption::OneTimeKey>) -> Result<CanonicalJsonValue, Refused> {
    if key_id.as_str().len() > LONGEST_KEY_ID {
        return Err(Refused::Invalid(format!("Key ID too long: at most {LONGEST_KEY_ID} bytes are allowed")));
    }
    let key = key.json().get();
    if key.len() > LONGEST_KEY {
        return Err(Refused::TooLarge(format!("Key {key_id} is too large")));
    }
    let key: CanonicalJsonValue = serde_json::from_str(key).map_err(Refused::Unreadable)?;
    let is_signed = key_id.algorithm().to_string().starts_with("signed_");
    let fits = match &key {
        CanonicalJsonValue::String(_) => !is_signed,
        CanonicalJsonValue::Object(key) => {
            key.get("key").is_some_and(|key| key.as_str().is_some())
                && key.get("signatures").is_some_and(|signatures| signatures.as_object().is_some())
        }
        _ => false,
    };
    if fits { Ok(key) } else { Err(Refused::Malformed(format!("{key_id} is not a valid key of its algorithm"))) }
}
