//! Keys of devices and cross-signing keys (Client-Server API, End-to-End Encryption): upload,
//! query, claim, signatures, backups, and who has to be told. Another server asks for them by the
//! same functions as a client.
//!
//! A user's keys are written under the lock of the user's account, which deleting a device holds
//! too. For syncs: [`counts`] and [`device_lists`]; for the deletion of devices: [`departing`].

pub mod backup;
mod claim;
mod claimed;
pub mod cross_signing;
mod device_lists;
mod error;
mod query;
mod remote;
mod signatures;
mod signed;
mod updates;
mod upload;

pub use claim::{OneTimeKeys, claim};
pub use device_lists::{DeviceLists, device_lists};
pub use error::{Error, Refused};
pub use query::{keys_of, query};
pub use remote::{Failures, Fetching, claim_others, device_list_updated, query_others, signing_keys_updated};
pub use signatures::{signed_by, upload_signatures};
pub use updates::{Changed, DeviceListChange, device_list_version, device_update, signing_key_update};
pub use upload::{Uploaded, upload};

use crate::{
    damaged::Damaged,
    homeserver::Homeserver,
    tables::{self, Json, KeyCounts, Session, UserNid},
    transaction::Tx,
};
use ephapse_store::{Direction, StoreError};
use ruma::{CanonicalJsonObject, DeviceId, OneTimeKeyAlgorithm, OwnedDeviceId, UInt};
use std::collections::BTreeMap;

/// Devices, and signatures of one signer, that are read of a user; also the users that one request
/// asks for, and the keys that it claims.
const MOST: usize = 10_000;

/// What a sync says of its device's keys.
pub struct Counts {
    /// `device_one_time_keys_count`: every algorithm that has one, and `signed_curve25519` always,
    /// also when it is zero.
    pub one_time: BTreeMap<OneTimeKeyAlgorithm, UInt>,
    /// `device_unused_fallback_key_types`
    pub unused_fallback: Vec<OneTimeKeyAlgorithm>,
}

/// How many one-time keys a session's device has, and which fallback keys are unused. Reads one
/// key.
pub async fn counts(hs: &Homeserver, session: &Session) -> Result<Counts, StoreError> {
    let stored = tables::KEY_COUNTS.get(hs.store(), &(session.user, session.device.clone())).await?.unwrap_or_default();
    let unused_fallback = stored.unused_fallback.iter().map(|algorithm| algorithm.as_str().into()).collect();
    Ok(Counts { one_time: shown(&stored), unused_fallback })
}

fn shown(counts: &KeyCounts) -> BTreeMap<OneTimeKeyAlgorithm, UInt> {
    let mut shown = BTreeMap::from([(OneTimeKeyAlgorithm::SignedCurve25519, UInt::MIN)]);
    shown.extend(counts.one_time.iter().map(|(algorithm, count)| (algorithm.as_str().into(), UInt::new_saturating(*count))));
    shown
}

/// The keys of a device that is being deleted, and the signatures that it made or got.
pub struct Departing {
    user: UserNid,
    device: OwnedDeviceId,
    signatures: Vec<(UserNid, UserNid, String, String)>,
}

/// What of a user's keys goes with a device.
pub async fn departing(hs: &Homeserver, user: UserNid, device: &DeviceId) -> Result<Departing, StoreError> {
    let own = tables::KEY_SIGNATURES.scan(hs.store(), &(user, user), Direction::Forward, MOST).await?;
    let key_id = format!("ed25519:{device}");
    let signatures = own.into_iter().map(|(key, _)| key).filter(|(_, _, key, by)| *key == *device.as_str() || *by == key_id).collect();
    Ok(Departing { user, device: device.to_owned(), signatures })
}

impl Departing {
    /// Removes it.
    pub fn forget(&self, tx: &mut Tx) {
        let key = (self.user, self.device.clone());
        tables::DEVICE_KEYS.delete(tx, &key);
        tables::ONE_TIME_KEYS.delete_all(tx, &key);
        tables::ONE_TIME_KEY_IDS.delete_all(tx, &key);
        tables::CLAIMED_KEYS.delete_all(tx, &key);
        tables::FALLBACK_KEYS.delete_all(tx, &key);
        tables::KEY_COUNTS.delete(tx, &key);
        for signature in &self.signatures {
            tables::KEY_SIGNATURES.delete(tx, signature);
        }
    }
}

/// What somebody uploads, as canonical JSON.
fn object(json: &str) -> Result<CanonicalJsonObject, Refused> {
    serde_json::from_str(json).map_err(|error| Refused::Malformed(format!("Not a canonical JSON object: {error}")))
}

/// What is stored; `what` names it.
fn stored_object(json: &Json, what: impl FnOnce() -> String) -> Result<CanonicalJsonObject, Damaged> {
    serde_json::from_str(&json.0).map_err(|error| Damaged::new(what(), error))
}

#[cfg(test)]
mod tests;
