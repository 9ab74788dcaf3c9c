//! Claims (Client-Server API, One-time and fallback keys): each one-time key is given out once, in
//! the order of upload; then the fallback key, again and again.
//!
//! Who has no key to give is left out, as the specification has it: clients remember that, and ask
//! the device again only after a while.

use super::{
    Error, MOST, Refused,
    claimed::{Claimed, Fingerprint},
};
use crate::{
    damaged::{Damaged, LeaveOut},
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, FallbackKey, Json, KeyCounts, OneTimeKey, UserNid},
    time_slice::TimeSlice,
    transaction::Tx,
};
use ephapse_store::{Direction, StoreError};
use ruma::{OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, OwnedUserId, UserId, encryption, serde::Raw};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// One key of each of a user's devices.
pub type OneTimeKeys = BTreeMap<OwnedDeviceId, BTreeMap<OwnedOneTimeKeyId, Raw<encryption::OneTimeKey>>>;

/// Of which algorithm a key of each of a user's devices is claimed.
type Claims = BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>;

/// Keys of this server's users, for a client or another server: one for each device that has one.
/// Users of other servers are passed over.
pub async fn claim(hs: &Homeserver, claims: &BTreeMap<OwnedUserId, Claims>) -> Result<BTreeMap<OwnedUserId, OneTimeKeys>, Error> {
    // A user of whom no key is claimed is looked up all the same.
    if claims.values().map(|devices| devices.len().max(1)).sum::<usize>() > MOST {
        return Err(Refused::TooLarge(format!("Too many keys in one request: at most {MOST} are allowed")).into());
    }
    let mut claimed = BTreeMap::new();
    let slice = TimeSlice::new(&*hs.host);
    for (user, devices) in claims.iter().filter(|(user, _)| hs.is_local(user)) {
        slice.step().await;
        let keys = claim_of(hs, user, devices).await?;
        if !keys.is_empty() {
            claimed.insert(user.clone(), keys);
        }
    }
    Ok(claimed)
}

/// A key for each of a local user's devices that has one. The keys are gone in the order of
/// commits, and no answer leaves before its commit is durable.
async fn claim_of(hs: &Homeserver, user: &UserId, devices: &Claims) -> Result<OneTimeKeys, StoreError> {
    let mut claimed = OneTimeKeys::new();
    let generation = hs.store().generation();
    let Some(nid) = hs.find_user(user).await? else { return Ok(claimed) };
    let _lock = hs.lock(LockKey::Account(user.to_string())).await;
    let mut given = Vec::new();
    let slice = TimeSlice::new(&*hs.host);
    for (device, algorithm) in devices {
        slice.step().await;
        let key = Given::find(hs, (nid, device.clone(), algorithm.to_string())).await?;
        if let Some((id, key)) = key.shown()? {
            claimed.insert(device.clone(), BTreeMap::from([(id, key)]));
        }
        given.push(key);
    }
    let written = hs.write(generation, |tx| given.into_iter().for_each(|key| key.take(tx)));
    written?.visible();
    Ok(claimed)
}

/// A device and an algorithm.
type Place = (UserNid, OwnedDeviceId, String);

/// The key that is given out of a device, and what changes with it.
struct Given {
    place: Place,
    /// The key and its id, if there is one.
    key: Option<(String, Json)>,
    /// The one-time keys that are gone then, by their place and id.
    gone: Vec<((UserNid, OwnedDeviceId, String, u64), String)>,
    /// The rows of claimed keys that the one given is in.
    claimed: Option<Claimed>,
    /// The fallback key, where it is given for the first time.
    fallback: Option<FallbackKey>,
    /// How many keys are left, where that changes.
    counts: Option<KeyCounts>,
}

impl Given {
    /// The oldest one-time key of a device and algorithm, or else the fallback key.
    async fn find(hs: &Homeserver, place: Place) -> Result<Self, StoreError> {
        let before = tables::KEY_COUNTS.get(hs.store(), &(place.0, place.1.clone())).await?.unwrap_or_default();
        let mut counts = before.clone();
        let mut given = Self { place, key: None, gone: Vec::new(), claimed: None, fallback: None, counts: None };
        given.find_one_time(hs, &mut counts).await?;
        if given.key.is_none()
            && let Some(fallback) = tables::FALLBACK_KEYS.get(hs.store(), &given.place).await?
        {
            if !fallback.used {
                counts.unused_fallback.remove(&given.place.2);
                given.fallback = Some(FallbackKey { used: true, ..fallback.clone() });
            }
            given.key = Some((fallback.id, fallback.key));
        }
        given.counts = Some(counts).filter(|counts| *counts != before);
        Ok(given)
    }

    /// The oldest key that nobody was given under another id. Those before it that somebody was
    /// given go too.
    async fn find_one_time(&mut self, hs: &Homeserver, counts: &mut KeyCounts) -> Result<(), StoreError> {
        let (user, device, algorithm) = &self.place;
        let device_key = (*user, device.clone());
        let mut range = tables::ONE_TIME_KEYS.range(&self.place);
        let slice = TimeSlice::new(&*hs.host);
        while let Some((row, OneTimeKey { id, key })) =
            tables::ONE_TIME_KEYS.scan_range(hs.store(), range.clone(), Direction::Forward, 1).await?.pop()
        {
            if let Some(count) = counts.one_time.get_mut(algorithm) {
                *count = count.saturating_sub(1);
            }
            counts.one_time.retain(|_, count| *count > 0);
            range.start = tables::ONE_TIME_KEYS.key(&row);
            // The first key after it.
            range.start.push(0);
            self.gone.push((row, id.clone()));
            let damaged = |error| Damaged::new(format!("one-time key {id} of {device} of user number {user}"), error);
            let value: Option<ruma::CanonicalJsonValue> = serde_json::from_str(&key.0).map_err(damaged).leave_out()?;
            let fingerprint = value.map(|value| Fingerprint::of(algorithm, &value));
            let mut claimed = Claimed::read(hs, &device_key, fingerprint.into_iter()).await?;
            if let Some(fingerprint) = fingerprint
                && !claimed.has(fingerprint)
            {
                claimed.add(fingerprint);
                (self.claimed, self.key) = (Some(claimed), Some((id, key)));
                return Ok(());
            }
            slice.step().await;
        }
        Ok(())
    }

    /// The key as it is answered.
    fn shown(&self) -> Result<Option<(OwnedOneTimeKeyId, Raw<encryption::OneTimeKey>)>, Damaged> {
        let Some((id, key)) = &self.key else { return Ok(None) };
        let id = OwnedOneTimeKeyId::try_from(id.as_str()).map_err(|error| unreadable(&error))?;
        let key = RawValue::from_string(key.0.clone()).map_err(|error| unreadable(&error))?;
        Ok(Some((id, Raw::from_json(key))))
    }

    /// The key is given: nobody is given it again, if it is a one-time key.
    fn take(self, tx: &mut Tx) {
        let device = (self.place.0, self.place.1.clone());
        for (row, id) in self.gone {
            tables::ONE_TIME_KEYS.delete(tx, &row);
            tables::ONE_TIME_KEY_IDS.delete(tx, &(device.0, device.1.clone(), id));
        }
        if let Some(claimed) = self.claimed {
            claimed.put(tx, &device);
        }
        if let Some(fallback) = self.fallback {
            tables::FALLBACK_KEYS.put(tx, &self.place, &fallback);
        }
        if let Some(counts) = self.counts {
            tables::KEY_COUNTS.put(tx, &device, &counts);
        }
    }
}

fn unreadable(what: &dyn std::fmt::Display) -> Damaged {
    Damaged::new("a stored key of a device", what)
}
