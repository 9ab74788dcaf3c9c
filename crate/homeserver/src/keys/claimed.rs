//! Which one-time keys of a device were claimed: none is given a second time, also when it is
//! uploaded again, however late.
//!
//! Of each key a fingerprint of a few bytes is kept as long as the device is there, in 256 rows by
//! the fingerprint's first byte. What a device may fill is bounded without forgetting any: a row
//! that is full takes no more, and whatever would be marked there counts as claimed, so that the
//! device has to make another key.

use crate::{
    homeserver::Homeserver,
    tables::{self, RawBytes, UserNid},
    transaction::Tx,
};
use ephapse_events::Inserted;
use ephapse_store::StoreError;
use ruma::{CanonicalJsonValue, OwnedDeviceId};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a fingerprint, without the one that names its row.
const BYTES: usize = 7;
/// Marks in a row.
const MOST: usize = 1024;

/// What is kept of a claimed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    row: u8,
    bytes: [u8; BYTES],
}

impl Fingerprint {
    /// The fingerprint of a key: of the public key alone, since it is the same one under another id
    /// or with other signatures.
    pub fn of(algorithm: &str, key: &CanonicalJsonValue) -> Self {
        let public = match key {
            CanonicalJsonValue::Object(key) => key.get("key").and_then(CanonicalJsonValue::as_str),
            key => key.as_str(),
        };
        let hash: [u8; 32] = Sha256::new().chain_update(algorithm).chain_update([0]).chain_update(public.unwrap_or_default()).finalize().into();
        let [row, rest @ ..] = hash;
        Self { row, bytes: *rest.first_chunk().expect("31 bytes are enough") }
    }
}

/// Rows of fingerprints.
pub struct Claimed(BTreeMap<u8, Vec<u8>>);

impl Claimed {
    /// The rows of a device that `fingerprints` are in.
    pub async fn read(
        hs: &Homeserver,
        device: &(UserNid, OwnedDeviceId),
        fingerprints: impl Iterator<Item = Fingerprint>,
    ) -> Result<Self, StoreError> {
        let rows: BTreeSet<u8> = fingerprints.map(|fingerprint| fingerprint.row).inserted();
        let places: Vec<_> = rows.iter().map(|row| (device.0, device.1.clone(), *row)).collect();
        let found = tables::CLAIMED_KEYS.get_all(hs.store(), &places).await?;
        Ok(Self(rows.into_iter().zip(found).map(|(row, found)| (row, found.map_or_else(Vec::new, |fingerprints| fingerprints.0))).inserted()))
    }

    /// Whether a key was claimed, or may have been.
    pub fn has(&self, fingerprint: Fingerprint) -> bool {
        let Some(row) = self.0.get(&fingerprint.row) else { return false };
        row.len() >= MOST * BYTES || row.chunks_exact(BYTES).any(|known| known == fingerprint.bytes)
    }

    /// Adds a key, unless it is there or its row is full.
    pub fn add(&mut self, fingerprint: Fingerprint) {
        if !self.has(fingerprint) {
            self.0.entry(fingerprint.row).or_default().extend(fingerprint.bytes);
        }
    }

    /// Stages the rows, which are a device's.
    pub fn put(self, tx: &mut Tx, device: &(UserNid, OwnedDeviceId)) {
        for (row, fingerprints) in self.0 {
            tables::CLAIMED_KEYS.put(tx, &(device.0, device.1.clone(), row), &RawBytes(fingerprints));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_row_of_claimed_keys_keeps_its_keys_and_adds_none() {
        let mut claimed = Claimed(BTreeMap::new());
        let fingerprint = |number: usize| Fingerprint { row: 7, bytes: *number.to_be_bytes().last_chunk().expect("8 bytes") };
        for number in 0..MOST + 10 {
            claimed.add(fingerprint(number));
        }
        assert_eq!(claimed.0[&7].len(), MOST * BYTES);
        assert!((0..MOST + 20).all(|number| claimed.has(fingerprint(number))));
        assert!(!claimed.has(Fingerprint { row: 8, ..fingerprint(0) }));
    }
}
