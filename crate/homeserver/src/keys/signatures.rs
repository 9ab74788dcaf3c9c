//! Signatures that are made after the keys that they are of were uploaded (Client-Server API,
//! Cross-signing).

use super::{
    Changed, Error, Refused,
    cross_signing::{Keys, device_key, key_and_id, stored_keys},
    object,
    signed::{is_same, is_signed, public_key, signature, signatures_of},
    stored_object,
};
use crate::{
    damaged::LeaveOut,
    failure::Failure,
    homeserver::Homeserver,
    locks::LockKey,
    position::Position,
    tables::{self, Change, CrossSigningUse, UserNid},
    time_slice::TimeSlice,
};
use ephapse_events::Inserted;
use ephapse_store::StoreError;
use ruma::{OwnedUserId, UserId};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};

/// Keys that one request may sign.
const MOST_SIGNED: usize = 10_000;

/// Bytes of one signed key, with all of its signatures.
const LONGEST_SIGNED: usize = 256 << 10;

/// What is wrong with keys, by their users and names; `None` where what is stored of one cannot be
/// read.
pub type Failures = BTreeMap<OwnedUserId, BTreeMap<String, Option<Refused>>>;

/// Keeps the signatures that a user of this server made, by the user and the name of the key. Each
/// key is looked at on its own.
pub async fn upload_signatures(
    hs: &Homeserver,
    generation: u64,
    user: UserNid,
    user_id: &UserId,
    signed: &BTreeMap<OwnedUserId, Vec<(&str, &RawValue)>>,
) -> Result<Failures, Error> {
    if signed.values().map(|keys| keys.len().max(1)).sum::<usize>() > MOST_SIGNED {
        return Err(Refused::TooLarge(format!("Too many keys in one request: at most {MOST_SIGNED} are allowed")).into());
    }
    let _lock = hs.lock(LockKey::Account(user_id.to_string())).await;
    let signer = Signer { user, user_id, keys: stored_keys(hs, user).await? };
    let mut failures = Failures::new();
    let mut accepted = Vec::new();
    let mut changes = Vec::new();
    let mut own = None;
    let slice = TimeSlice::new(&*hs.host);
    for (owner, keys) in signed {
        let mut is_changed = false;
        slice.step().await;
        for (key, json) in keys {
            slice.step().await;
            let refused = match signer.accept(hs, owner, key, json.get(), &slice).await {
                Ok((of, signatures)) => {
                    is_changed |= !signatures.is_empty();
                    accepted.extend(signatures.into_iter().map(|(by, signature)| ((of, user, (*key).to_owned(), by), signature)));
                    continue;
                }
                Err(Failure::Refused(refused)) => Some(refused),
                Err(error) => Err(error).leave_out()?,
            };
            failures.entry(owner.clone()).or_default().insert((*key).to_owned(), refused);
        }
        if is_changed {
            let of = hs.find_user(owner).await?.ok_or_else(|| Error::Internal(format!("{owner} has keys, but no numeric ID")))?;
            if of == user {
                own = Some((hs.device_list_change(of).await?, hs.changed_by_signatures(of, &accepted).await?));
            } else {
                changes.push(Change::KeySignature { by: user, of });
            }
        }
    }
    let written = hs.write(generation, |tx| {
        for (place, signature) in &accepted {
            tables::KEY_SIGNATURES.put(tx, place, signature);
        }
        if let Some((change, changed)) = own {
            change.stage(tx, hs.host.now(), changed);
        }
        for change in changes {
            tx.change(change);
        }
    });
    written?.visible();
    Ok(failures)
}

/// Whose keys a user has signed. Signatures are found by whose key they are of, and the list of
/// changes keeps the newest of each pair for good.
pub async fn signed_by(hs: &Homeserver, user: UserNid) -> Result<BTreeSet<UserNid>, StoreError> {
    let listed = hs.changes_between(Position::default(), hs.positions.newest()).await?;
    let signed = listed.changes.iter().filter_map(|(_, change)| match change {
        Change::KeySignature { by, of } if *by == user => Some(*of),
        _ => None,
    });
    Ok(signed.inserted())
}

/// A signature by whose key it is of, who made it, the name of the key, and the key that made it.
type Signature = ((UserNid, UserNid, String, String), String);

impl Homeserver {
    /// What of a user's devices and keys has new signatures.
    async fn changed_by_signatures(&self, of: UserNid, accepted: &[Signature]) -> Result<Vec<Changed>, StoreError> {
        let names: BTreeSet<&String> = accepted.iter().filter(|((whose, ..), _)| *whose == of).map(|((_, _, name, _), _)| name).inserted();
        let places: Vec<_> = names.iter().map(|name| (of, name.as_str().into())).collect();
        let devices = tables::DEVICES.get_many(self.store(), &places).await?;
        let (devices, keys): (Vec<_>, Vec<_>) = places.into_iter().zip(devices).partition(|(_, device)| device.is_some());
        let devices = devices.into_iter().map(|((_, device), _)| Changed::Device(device));
        Ok(devices.chain((!keys.is_empty()).then_some(Changed::CrossSigning)).collect())
    }
}

/// Who signs, and with what.
struct Signer<'a> {
    user: UserNid,
    user_id: &'a UserId,
    keys: Keys,
}

/// Whose key was signed, and the signatures by the names of the keys that made them.
type Accepted = (UserNid, Vec<(String, String)>);

impl Signer<'_> {
    /// The new signatures of one key, each verified: of an own device by the self-signing key, of
    /// the own master key by own devices, of another user's master key by the user-signing key.
    async fn accept(&self, hs: &Homeserver, owner: &UserId, key: &str, json: &str, slice: &TimeSlice<'_>) -> Result<Accepted, Error> {
        if json.len() > LONGEST_SIGNED {
            return Err(Refused::TooLarge(format!("JSON object too large: at most {LONGEST_SIGNED} bytes are allowed")).into());
        }
        let given = object(json)?;
        let unknown = || Refused::NotFound("Key not found");
        let of = hs.find_user(owner).await?.ok_or_else(unknown)?;
        let device = tables::DEVICE_KEYS.get(hs.store(), &(of, key.into())).await?.filter(|_| of == self.user);
        let is_device = device.is_some();
        let stored = match device {
            Some(keys) => stored_object(&keys, || format!("the keys of {key} of {owner}"))?,
            None => {
                let master = tables::CROSS_SIGNING_KEYS.get(hs.store(), &(of, CrossSigningUse::Master as u8)).await?.ok_or_else(unknown)?;
                let master = stored_object(&master, || format!("the master key of {owner}"))?;
                if public_key(&master) != Some(key) {
                    return Err(unknown().into());
                }
                master
            }
        };
        if !is_same(&stored, &given) {
            return Err(Refused::InvalidSignature("The signed key differs from the uploaded key".to_owned()).into());
        }
        let signer = match (of == self.user, is_device) {
            (true, true) => self.keys.get(&CrossSigningUse::SelfSigning),
            (true, false) => None,
            (false, _) => self.keys.get(&CrossSigningUse::UserSigning),
        };
        let signer = signer.map(key_and_id).transpose()?;
        let mut accepted = Vec::new();
        for (by, made) in signatures_of(&given, self.user_id).into_iter().flatten() {
            slice.step().await;
            let made = made.as_str().ok_or_else(|| Refused::Malformed("A signature must be a string".to_owned()))?;
            // What was uploaded with the key comes back with it.
            if signature(&stored, self.user_id, by) == Some(made) {
                continue;
            }
            let key = match &signer {
                Some((id, key)) if id == by => Some(*key),
                None if of == self.user && !is_device => device_key(hs, self.user, by).await?,
                _ => None,
            };
            let key = key.ok_or_else(|| Refused::InvalidSignature(format!("{by} is not a key that can sign this key")))?;
            if !is_signed(&given, &key, made) {
                return Err(Refused::InvalidSignature(format!("Invalid signature by {by}")).into());
            }
            accepted.push((by.clone(), made.to_owned()));
        }
        Ok((of, accepted))
    }
}
