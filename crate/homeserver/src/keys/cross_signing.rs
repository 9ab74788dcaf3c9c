//! Cross-signing keys (Client-Server API, Cross-signing).

use super::{
    Changed, Error, Refused, object,
    signed::{self, is_signed, keep_own_signatures, key_of, public_key, signature, signatures_of},
    stored_object,
};
use crate::{
    damaged::Damaged,
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, Change, CrossSigningUse, Json, UserNid},
    time_slice::TimeSlice,
    transaction::Tx,
};
use ephapse_store::{Direction, StoreError};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, UserId,
    encryption::{CrossSigningKey, KeyUsage},
    serde::Raw,
};
use std::collections::BTreeMap;

/// Bytes of one key.
const LONGEST_KEY: usize = 64 << 10;

/// Signatures of one signer that are read of a user.
const MOST_SIGNATURES: usize = 10_000;

/// Keys of one user.
pub type Keys = BTreeMap<CrossSigningUse, CanonicalJsonObject>;

/// What came of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploaded {
    /// The user has the keys now.
    Done,
    /// Nothing: keys of the user would be replaced, which is only done where that is said.
    WouldReplace,
}

/// Gives a user of this server the keys `new`, each from [`checked`], once every signature in them
/// is right.
pub async fn upload(hs: &Homeserver, generation: u64, user: UserNid, user_id: &UserId, new: &Keys, may_replace: bool) -> Result<Uploaded, Error> {
    let _lock = hs.lock(LockKey::Account(user_id.to_string())).await;
    let stored = stored_keys(hs, user).await?;
    let is_new = |(used_for, key): (&CrossSigningUse, &CanonicalJsonObject)| stored.get(used_for).and_then(public_key) != public_key(key);
    if !new.iter().any(is_new) {
        return Ok(Uploaded::Done);
    }
    verify(hs, user, user_id, &stored, new).await?;
    // "there is no existing master signing key uploaded to the homeserver": nothing is replaced.
    if stored.contains_key(&CrossSigningUse::Master) && !may_replace {
        return Ok(Uploaded::WouldReplace);
    }
    replace(hs, generation, user, &stored, new).await?;
    Ok(Uploaded::Done)
}

/// Puts a user's keys in the place of those that are stored, and tells whom it concerns.
async fn replace(hs: &Homeserver, generation: u64, user: UserNid, stored: &Keys, new: &Keys) -> Result<(), StoreError> {
    let replacement = Replacement::of(hs, user, stored, new).await?;
    // Nobody else sees a user-signing key.
    let is_seen = new.iter().any(|(used_for, key)| *used_for != CrossSigningUse::UserSigning && stored.get(used_for) != Some(key));
    let own = Change::KeySignature { by: user, of: user };
    let seen = if is_seen { Some(hs.device_list_change(user).await?) } else { None };
    let replaced = hs.write(generation, |tx| {
        replacement.put(tx, user, new);
        match seen {
            Some(change) => change.stage(tx, hs.host.now(), [Changed::CrossSigning]),
            None => _ = tx.change(own),
        }
    });
    replaced?.visible();
    Ok(())
}

/// A key as the specification wants it: its user's, for its use, with one ed25519 key that is named
/// by itself.
pub fn checked(user: &UserId, used_for: CrossSigningUse, key: &Raw<CrossSigningKey>) -> Result<CanonicalJsonObject, Refused> {
    let parsed: CrossSigningKey = key.deserialize().map_err(Refused::Unreadable)?;
    if key.json().get().len() > LONGEST_KEY {
        return Err(Refused::TooLarge("Key too large".to_owned()));
    }
    if parsed.user_id != user {
        return Err(Refused::Invalid("The key belongs to another user".to_owned()));
    }
    let usage = usage(used_for);
    if !parsed.usage.contains(&usage) {
        return Err(Refused::Invalid(format!("The key is missing the usage {usage}")));
    }
    let named_by_itself =
        |(id, key): (&ruma::OwnedCrossSigningKeyId, &String)| id.as_str().strip_prefix("ed25519:") == Some(key) && signed::ed25519_key(key).is_some();
    if parsed.keys.len() != 1 || !parsed.keys.iter().all(named_by_itself) {
        return Err(Refused::Invalid("A cross-signing key must have exactly one ed25519 key, whose ID is the key itself".to_owned()));
    }
    let mut key = object(key.json().get())?;
    keep_own_signatures(&mut key, user);
    Ok(key)
}

fn usage(used_for: CrossSigningUse) -> KeyUsage {
    match used_for {
        CrossSigningUse::Master => KeyUsage::Master,
        CrossSigningUse::SelfSigning => KeyUsage::SelfSigning,
        CrossSigningUse::UserSigning => KeyUsage::UserSigning,
    }
}

/// The keys that a user has.
pub(super) async fn stored_keys(hs: &Homeserver, user: UserNid) -> Result<Keys, StoreError> {
    let mut keys = Keys::new();
    for used_for in [CrossSigningUse::Master, CrossSigningUse::SelfSigning, CrossSigningUse::UserSigning] {
        if let Some(key) = tables::CROSS_SIGNING_KEYS.get(hs.store(), &(user, used_for as u8)).await? {
            keys.insert(used_for, stored_object(&key, || format!("a cross-signing key of user number {user}"))?);
        }
    }
    Ok(keys)
}

/// Every signature in `new` must be right, and no key has the name of a device.
async fn verify(hs: &Homeserver, user: UserNid, user_id: &UserId, stored: &Keys, new: &Keys) -> Result<(), Error> {
    let master = new.get(&CrossSigningUse::Master).or_else(|| stored.get(&CrossSigningUse::Master));
    let master = master.ok_or(Refused::Missing("No master key found: upload a master key first"))?;
    let (master_id, master_key) = key_and_id(master)?;
    for (used_for, key) in new {
        let name = public_key(key).unwrap_or_default();
        if tables::DEVICES.get(hs.store(), &(user, name.into())).await?.is_some() {
            return Err(Refused::NameTaken("A device already has this key as its ID").into());
        }
        if *used_for == CrossSigningUse::Master {
            verify_by_devices(hs, user, user_id, key).await?;
        } else if signature(key, user_id, &master_id).is_none_or(|signature| !is_signed(key, &master_key, signature)) {
            return Err(Refused::InvalidSignature("The key is not signed by the master key".to_owned()).into());
        }
    }
    Ok(())
}

/// The signatures of a master key that its user's devices made must be right.
async fn verify_by_devices(hs: &Homeserver, user: UserNid, user_id: &UserId, master: &CanonicalJsonObject) -> Result<(), Error> {
    let own = format!("ed25519:{}", public_key(master).unwrap_or_default());
    let slice = TimeSlice::new(&*hs.host);
    for (key_id, made) in signatures_of(master, user_id).into_iter().flatten() {
        slice.step().await;
        let key = if *key_id == own { key_of(master, &own) } else { device_key(hs, user, key_id).await? };
        let is_right = key.zip(made.as_str()).is_some_and(|(key, made)| is_signed(master, &key, made));
        if !is_right {
            return Err(Refused::InvalidSignature(format!("Invalid signature by {key_id}")).into());
        }
    }
    Ok(())
}

/// The ed25519 key that a device of `user` signs with as `key_id`.
pub(super) async fn device_key(hs: &Homeserver, user: UserNid, key_id: &str) -> Result<Option<[u8; 32]>, StoreError> {
    let Some(device) = key_id.strip_prefix("ed25519:") else { return Ok(None) };
    let Some(keys) = tables::DEVICE_KEYS.get(hs.store(), &(user, device.into())).await? else { return Ok(None) };
    let keys = stored_object(&keys, || format!("the keys of {device} of user number {user}"))?;
    Ok(key_of(&keys, key_id))
}

/// The id and the public key of a cross-signing key.
pub(super) fn key_and_id(key: &CanonicalJsonObject) -> Result<(String, [u8; 32]), Damaged> {
    let id = format!("ed25519:{}", public_key(key).unwrap_or_default());
    let bytes = key_of(key, &id).ok_or_else(|| Damaged::new("a stored cross-signing key", "it is not a key"))?;
    Ok((id, bytes))
}

/// What goes when new keys take the place of old ones.
struct Replacement {
    /// Keys that the new master key has not signed.
    orphaned: Vec<CrossSigningUse>,
    /// What old keys signed.
    signatures: Vec<(UserNid, UserNid, String, String)>,
}

impl Replacement {
    async fn of(hs: &Homeserver, user: UserNid, stored: &Keys, new: &Keys) -> Result<Self, StoreError> {
        let has_new_master = new.contains_key(&CrossSigningUse::Master) && changed(stored, new, CrossSigningUse::Master);
        let (mut gone, mut orphaned) = (Vec::new(), Vec::new());
        for (used_for, old) in stored {
            let is_replaced = new.contains_key(used_for) && changed(stored, new, *used_for);
            let is_orphaned = !new.contains_key(used_for) && has_new_master;
            if is_replaced || is_orphaned {
                gone.extend(public_key(old));
            }
            if is_orphaned {
                orphaned.push(*used_for);
            }
        }
        let signatures = tables::KEY_SIGNATURES.scan(hs.store(), &(user, user), Direction::Forward, MOST_SIGNATURES).await?;
        let signatures = signatures
            .into_iter()
            .map(|(key, _)| key)
            .filter(|(_, _, signed, by)| gone.iter().any(|gone| signed == gone || by.strip_prefix("ed25519:") == Some(gone)));
        Ok(Self { orphaned, signatures: signatures.collect() })
    }

    fn put(&self, tx: &mut Tx, user: UserNid, new: &Keys) {
        for used_for in &self.orphaned {
            tables::CROSS_SIGNING_KEYS.delete(tx, &(user, *used_for as u8));
        }
        for signature in &self.signatures {
            tables::KEY_SIGNATURES.delete(tx, signature);
        }
        for (used_for, key) in new {
            tables::CROSS_SIGNING_KEYS.put(tx, &(user, *used_for as u8), &Json(CanonicalJsonValue::Object(key.clone()).to_string()));
        }
    }
}

fn changed(stored: &Keys, new: &Keys, used_for: CrossSigningUse) -> bool {
    stored.get(&used_for).and_then(public_key) != new.get(&used_for).and_then(public_key)
}
