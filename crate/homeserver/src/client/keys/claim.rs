//! `POST /_matrix/client/v3/keys/claim`: each one-time key is given out once, in the order of upload; then the fallback key, again and again.
//!
//! Who has no key to give is left out, as the specification has it: clients remember that, and ask the device again only after a while.

use super::{
    MOST,
    claimed::{Claimed, Mark},
    query::unreachable_servers,
};
use crate::{
    client::wire::{Json as Answer, Own},
    damaged::{Damaged, LeaveOut},
    error::{Error, Result},
    homeserver::Homeserver,
    locks::LockKey,
    router::UserCall,
    tables::{self, FallbackKey, Json, KeyCounts, OneTimeKey, UserSn},
    turns::Turns,
};
use ephapse_store::{Batch, Direction};
use ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, OwnedUserId, UserId,
    api::client::keys::claim_keys::v3::{self as claim_keys, OneTimeKeys},
    encryption,
    serde::Raw,
};
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// `POST /_matrix/client/v3/keys/claim`
pub async fn claim(call: UserCall, Own(request): Own<claim_keys::Request>) -> Result<Answer> {
    let hs = &call.hs;
    let mut response = Keys::default();
    // A user of whom no key is claimed is looked up all the same.
    if request.one_time_keys.values().map(|devices| devices.len().max(1)).sum::<usize>() > MOST {
        return Err(Error::too_large(format!("a request claims {MOST} keys at most")));
    }
    let mut turns = Turns::new(&*hs.host);
    for (user, devices) in request.one_time_keys.iter().filter(|(user, _)| hs.is_local(user)) {
        turns.step().await;
        let keys = claim_of(hs, user, devices).await?;
        if !keys.is_empty() {
            response.one_time_keys.insert(user.clone(), keys);
        }
    }
    response.failures = unreachable_servers(hs, request.one_time_keys.keys()).await;
    Ok(Answer::of(&response))
}

/// Claimed keys; ruma's response would leave out failures where there are none, and some clients look for them.
#[derive(Default, Serialize)]
struct Keys {
    one_time_keys: BTreeMap<OwnedUserId, OneTimeKeys>,
    failures: BTreeMap<String, serde_json::Value>,
}

/// A key for each of a local user's devices that has one; also what other servers claim. The keys are gone in the order of commits, and no answer
/// leaves before its commit is durable.
pub async fn claim_of(hs: &Homeserver, user: &UserId, devices: &BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>) -> Result<OneTimeKeys> {
    let mut claimed = OneTimeKeys::new();
    let generation = hs.store().generation();
    let Some(sn) = hs.find_user(user).await? else { return Ok(claimed) };
    let _lock = hs.lock(LockKey::Account(user.to_string())).await;
    let mut batch = Batch::since(generation);
    let mut turns = Turns::new(&*hs.host);
    for (device, algorithm) in devices {
        turns.step().await;
        if let Some((id, key)) = take(hs, sn, device, algorithm, &mut batch).await? {
            claimed.insert(device.clone(), BTreeMap::from([(id, key)]));
        }
    }
    if !batch.is_empty() {
        hs.submit(batch, Vec::new())?;
    }
    Ok(claimed)
}

type Key = (OwnedOneTimeKeyId, Raw<encryption::OneTimeKey>);

/// A device and an algorithm.
type Place = (UserSn, OwnedDeviceId, String);

async fn take(hs: &Homeserver, user: UserSn, device: &OwnedDeviceId, algorithm: &OneTimeKeyAlgorithm, batch: &mut Batch) -> Result<Option<Key>> {
    let device_key = (user, device.clone());
    let place = (user, device.clone(), algorithm.to_string());
    let mut counts = tables::KEY_COUNTS.get(hs.store(), &device_key).await?.unwrap_or_default();
    let before = counts.clone();
    let mut found = take_one_time(hs, &place, &mut counts, batch).await?;
    if found.is_none()
        && let Some(fallback) = tables::FALLBACK_KEYS.get(hs.store(), &place).await?
    {
        if !fallback.used {
            tables::FALLBACK_KEYS.put(batch, &place, &FallbackKey { used: true, ..fallback.clone() });
            counts.unused_fallback.remove(algorithm.as_str());
        }
        found = Some((fallback.id, fallback.key));
    }
    if counts != before {
        tables::KEY_COUNTS.put(batch, &device_key, &counts);
    }
    let Some((id, key)) = found else { return Ok(None) };
    let id = OwnedOneTimeKeyId::try_from(id).map_err(|error| unreadable(&error))?;
    let key = RawValue::from_string(key.0).map_err(|error| unreadable(&error))?;
    Ok(Some((id, Raw::from_json(key))))
}

/// The oldest key of a device and algorithm that nobody was given under another id. Those before it that somebody was given go too.
async fn take_one_time(hs: &Homeserver, place: &Place, counts: &mut KeyCounts, batch: &mut Batch) -> Result<Option<(String, Json)>> {
    let (user, device, algorithm) = place;
    let device_key = (*user, device.clone());
    let mut range = tables::ONE_TIME_KEYS.range(place);
    let mut turns = Turns::new(&*hs.host);
    while let Some((row, OneTimeKey { id, key })) = tables::ONE_TIME_KEYS.scan_range(hs.store(), range.clone(), Direction::Forward, 1).await?.pop() {
        tables::ONE_TIME_KEYS.delete(batch, &row);
        tables::ONE_TIME_KEY_IDS.delete(batch, &(*user, device.clone(), id.clone()));
        if let Some(count) = counts.one_time.get_mut(algorithm) {
            *count = count.saturating_sub(1);
        }
        counts.one_time.retain(|_, count| *count > 0);
        let damaged = |error| Damaged::new(format!("one-time key {id} of {device} of user number {user}"), error);
        let value: Option<ruma::CanonicalJsonValue> = serde_json::from_str(&key.0).map_err(damaged).leave_out()?;
        let mark = value.map(|value| Mark::of(algorithm, &value));
        let mut claimed = Claimed::read(hs, &device_key, mark.into_iter()).await?;
        if let Some(mark) = mark
            && !claimed.has(mark)
        {
            claimed.add(&device_key, mark, batch);
            return Ok(Some((id, key)));
        }
        range.start = tables::ONE_TIME_KEYS.key(&row);
        // The first key behind it.
        range.start.push(0);
        turns.step().await;
    }
    Ok(None)
}

fn unreadable(what: &dyn std::fmt::Display) -> Error {
    Damaged::new("a stored key of a device", what).into()
}
