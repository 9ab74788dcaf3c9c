//! Cross-signing keys and the signatures made with them (Client-Server API, Cross-signing).

use super::{
    interactive,
    keys::{
        query::public_key,
        signed::{self, is_same, is_signed, keep_own_signatures, signature, signatures_of},
        upload::key_of,
    },
    object,
    wire::{Confirmed, Json as Answer, Own},
};
use crate::{
    error::{Error, Result},
    homeserver::Homeserver,
    locks::LockKey,
    router::UserCall,
    tables::{self, Change, CrossSigningUse, Json, Session, UserNid},
    time_slice::TimeSlice,
    transaction::Tx,
};
use ephapse_store::Direction;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, UserId,
    api::client::keys::{
        upload_signatures::v3::{self as upload_signatures, Failure},
        upload_signing_keys::v3 as upload_signing_keys,
    },
    encryption::{CrossSigningKey, KeyUsage},
    serde::Raw,
};
use serde_json::json;
use std::collections::BTreeMap;

/// Bytes of one key.
const LONGEST_KEY: usize = 64 << 10;

/// Signatures of one signer that are read of a user.
const MOST_SIGNATURES: usize = 10_000;

/// Keys that one request may sign.
const MOST_SIGNED: usize = 10_000;

type Keys = BTreeMap<CrossSigningUse, CanonicalJsonObject>;

/// `POST /_matrix/client/v3/keys/device_signing/upload`
pub async fn upload_keys(call: UserCall, Confirmed(request): Confirmed<upload_signing_keys::Request>) -> Result<upload_signing_keys::Response> {
    let (hs, session) = (&call.hs, &call.session);
    let given = [
        (CrossSigningUse::Master, KeyUsage::Master, &request.master_key),
        (CrossSigningUse::SelfSigning, KeyUsage::SelfSigning, &request.self_signing_key),
        (CrossSigningUse::UserSigning, KeyUsage::UserSigning, &request.user_signing_key),
    ];
    let mut new = Keys::new();
    for (used_for, usage, key) in given {
        if let Some(key) = key {
            new.insert(used_for, checked(session, key, &usage)?);
        }
    }
    let mut is_authenticated = false;
    loop {
        let lock = hs.lock(LockKey::Account(session.user_id.to_string())).await;
        let stored = stored_keys(hs, session.user).await?;
        let is_new = |(used_for, key): (&CrossSigningUse, &CanonicalJsonObject)| stored.get(used_for).and_then(public_key) != public_key(key);
        if !new.iter().any(is_new) {
            return Ok(upload_signing_keys::Response::new());
        }
        new = verified(&call, &stored, new).await?;
        // "there is no existing master signing key uploaded to the homeserver": nothing is
        // replaced.
        if stored.contains_key(&CrossSigningUse::Master) && !is_authenticated {
            drop(lock);
            interactive::require(&call, interactive::password_flow(), request.auth.as_ref()).await?;
            is_authenticated = true;
            continue;
        }
        let replacement = Replacement::of(hs, session.user, &stored, &new).await?;
        // Nobody else sees a user-signing key.
        let is_seen = new.iter().any(|(used_for, key)| *used_for != CrossSigningUse::UserSigning && stored.get(used_for) != Some(key));
        let own = Change::KeySignature { by: session.user, of: session.user };
        let change = if is_seen { hs.device_list_change(session.user).await? } else { own };
        let replaced = hs.write(call.raw.generation, |tx| {
            replacement.put(tx, session.user, &new);
            tx.change(change);
        });
        replaced?.visible();
        return Ok(upload_signing_keys::Response::new());
    }
}

/// A key as the specification wants it: its user's, for its use, with one ed25519 key that is named
/// by itself.
fn checked(session: &Session, key: &Raw<CrossSigningKey>, usage: &KeyUsage) -> Result<CanonicalJsonObject> {
    let parsed: CrossSigningKey = key.deserialize().map_err(|error| Error::unreadable(&error))?;
    if key.json().get().len() > LONGEST_KEY {
        return Err(Error::too_large("the key is too large"));
    }
    if parsed.user_id != session.user_id {
        return Err(Error::invalid_param("this is the key of another user"));
    }
    if !parsed.usage.contains(usage) {
        return Err(Error::invalid_param(format!("this key is not for {usage}")));
    }
    let named_by_itself =
        |(id, key): (&ruma::OwnedCrossSigningKeyId, &String)| id.as_str().strip_prefix("ed25519:") == Some(key) && signed::ed25519_key(key).is_some();
    if parsed.keys.len() != 1 || !parsed.keys.iter().all(named_by_itself) {
        return Err(Error::invalid_param("a cross-signing key has one ed25519 key, named by itself"));
    }
    let mut key = object(key.json().get())?;
    keep_own_signatures(&mut key, &session.user_id);
    Ok(key)
}

async fn stored_keys(hs: &Homeserver, user: UserNid) -> Result<Keys> {
    let mut keys = Keys::new();
    for used_for in [CrossSigningUse::Master, CrossSigningUse::SelfSigning, CrossSigningUse::UserSigning] {
        if let Some(key) = tables::CROSS_SIGNING_KEYS.get(hs.store(), &(user, used_for as u8)).await? {
            keys.insert(used_for, object(&key.0)?);
        }
    }
    Ok(keys)
}

/// `new` when every signature in it is right, and no key has the name of a device.
async fn verified(call: &UserCall, stored: &Keys, new: Keys) -> Result<Keys> {
    let (hs, session) = (&call.hs, &call.session);
    let user = &session.user_id;
    let master = new.get(&CrossSigningUse::Master).or_else(|| stored.get(&CrossSigningUse::Master));
    let master = master.ok_or_else(|| Error::missing_param("there is no master key"))?;
    let (master_id, master_key) = key_and_id(master)?;
    for (used_for, key) in &new {
        let name = public_key(key).unwrap_or_default();
        if tables::DEVICES.get(hs.store(), &(session.user, name.into())).await?.is_some() {
            return Err(Error::forbidden("a device has this key as its id"));
        }
        if *used_for == CrossSigningUse::Master {
            verify_by_devices(hs, session, key).await?;
        } else if signature(key, user, &master_id).is_none_or(|signature| !is_signed(key, &master_key, signature)) {
            return Err(Error::invalid_signature("the key is not signed by the master key"));
        }
    }
    Ok(new)
}

/// The signatures of a master key that its user's devices made must be right.
async fn verify_by_devices(hs: &Homeserver, session: &Session, master: &CanonicalJsonObject) -> Result<()> {
    let own = format!("ed25519:{}", public_key(master).unwrap_or_default());
    let slice = TimeSlice::new(&*hs.host);
    for (key_id, made) in signatures_of(master, &session.user_id).into_iter().flatten() {
        slice.step().await;
        let key = if *key_id == own { key_of(master, &own) } else { device_key(hs, session.user, key_id).await? };
        let is_right = key.zip(made.as_str()).is_some_and(|(key, made)| is_signed(master, &key, made));
        if !is_right {
            return Err(Error::invalid_signature(format!("the signature by {key_id} is wrong")));
        }
    }
    Ok(())
}

/// The ed25519 key that a device of `user` signs with as `key_id`.
async fn device_key(hs: &Homeserver, user: UserNid, key_id: &str) -> Result<Option<[u8; 32]>> {
    let Some(device) = key_id.strip_prefix("ed25519:") else { return Ok(None) };
    let keys = tables::DEVICE_KEYS.get(hs.store(), &(user, device.into())).await?;
    Ok(keys.map(|keys| object(&keys.0)).transpose()?.and_then(|keys| key_of(&keys, key_id)))
}

fn key_and_id(key: &CanonicalJsonObject) -> Result<(String, [u8; 32])> {
    let id = format!("ed25519:{}", public_key(key).unwrap_or_default());
    let bytes = key_of(key, &id).ok_or_else(|| Error::Internal("a stored cross-signing key is no key".to_owned()))?;
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
    async fn of(hs: &Homeserver, user: UserNid, stored: &Keys, new: &Keys) -> Result<Self> {
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

/// `POST /_matrix/client/v3/keys/signatures/upload`: each key on its own; what is wrong with one is
/// in `failures`.
pub async fn upload_signatures(call: UserCall, Own(request): Own<upload_signatures::Request>) -> Result<Answer> {
    let (hs, session) = (&call.hs, &call.session);
    if request.signed_keys.values().map(|keys| keys.iter().count().max(1)).sum::<usize>() > MOST_SIGNED {
        return Err(Error::too_large(format!("a request signs {MOST_SIGNED} keys at most")));
    }
    let _lock = hs.lock(LockKey::Account(session.user_id.to_string())).await;
    let own = stored_keys(hs, session.user).await?;
    let mut failures: BTreeMap<OwnedUserId, BTreeMap<String, Failure>> = BTreeMap::new();
    let mut accepted = Vec::new();
    let mut changes = Vec::new();
    let slice = TimeSlice::new(&*hs.host);
    for (user, keys) in &request.signed_keys {
        let mut is_changed = false;
        slice.step().await;
        for (key, json) in keys.iter() {
            slice.step().await;
            match accept(hs, session, &own, user, key, json.get(), &slice).await {
                Ok((of, signatures)) => {
                    is_changed |= !signatures.is_empty();
                    accepted.extend(signatures.into_iter().map(|(by, signature)| ((of, session.user, key.to_owned(), by), signature)));
                }
                Err(error @ (Error::Store(_) | Error::Damaged(_) | Error::Internal(_))) => return Err(error),
                Err(error) => {
                    failures.entry(user.clone()).or_default().insert(key.to_owned(), failure(&error));
                }
            }
        }
        if is_changed {
            let of = hs.find_user(user).await?.ok_or_else(|| Error::Internal(format!("{user} has keys and no number")))?;
            changes.push(if of == session.user { hs.device_list_change(of).await? } else { Change::KeySignature { by: session.user, of } });
        }
    }
    let written = hs.write(call.raw.generation, |tx| {
        for (place, signature) in &accepted {
            tables::KEY_SIGNATURES.put(tx, place, signature);
        }
        for change in changes {
            tx.change(change);
        }
    });
    written?.visible();
    // ruma's response would leave them out where there are none, and some clients look for them.
    Ok(Answer::of(&BTreeMap::from([("failures", failures)])))
}

fn failure(error: &Error) -> Failure {
    let errcode = match error {
        Error::Matrix(error) => error.error_kind().map(|kind| kind.errcode().to_string()),
        _ => None,
    };
    let json = json!({ "errcode": errcode.unwrap_or_else(|| "M_UNKNOWN".to_owned()), "error": error.to_string() });
    serde_json::from_value(json).expect("these are a failure's fields")
}

type Accepted = (UserNid, Vec<(String, String)>);

/// The new signatures of one key, each verified: of an own device by the self-signing key, of the
/// own master key by own devices, of another user's master key by the user-signing key.
async fn accept(hs: &Homeserver, session: &Session, own: &Keys, user: &UserId, key: &str, json: &str, slice: &TimeSlice<'_>) -> Result<Accepted> {
    let given = object(json)?;
    let unknown = || Error::not_found("there is no such key");
    let of = hs.find_user(user).await?.ok_or_else(unknown)?;
    let device = tables::DEVICE_KEYS.get(hs.store(), &(of, key.into())).await?.filter(|_| of == session.user);
    let is_device = device.is_some();
    let stored = match device {
        Some(keys) => object(&keys.0)?,
        None => {
            let master = tables::CROSS_SIGNING_KEYS.get(hs.store(), &(of, CrossSigningUse::Master as u8)).await?.ok_or_else(unknown)?;
            let master = object(&master.0)?;
            if public_key(&master) != Some(key) {
                return Err(unknown());
            }
            master
        }
    };
    if !is_same(&stored, &given) {
        return Err(Error::invalid_signature("this is not the key that was uploaded"));
    }
    let signer = match (of == session.user, is_device) {
        (true, true) => own.get(&CrossSigningUse::SelfSigning),
        (true, false) => None,
        (false, _) => own.get(&CrossSigningUse::UserSigning),
    };
    let signer = signer.map(key_and_id).transpose()?;
    let mut accepted = Vec::new();
    for (by, made) in signatures_of(&given, &session.user_id).into_iter().flatten() {
        slice.step().await;
        let made = made.as_str().ok_or_else(|| Error::bad_json("a signature is a string"))?;
        // What was uploaded with the key comes back with it.
        if signature(&stored, &session.user_id, by) == Some(made) {
            continue;
        }
        let key = match &signer {
            Some((id, key)) if id == by => Some(*key),
            None if of == session.user && !is_device => device_key(hs, session.user, by).await?,
            _ => None,
        };
        let key = key.ok_or_else(|| Error::invalid_signature(format!("{by} cannot sign this key")))?;
        if !is_signed(&given, &key, made) {
            return Err(Error::invalid_signature(format!("the signature by {by} is wrong")));
        }
        accepted.push((by.clone(), made.to_owned()));
    }
    Ok((of, accepted))
}
