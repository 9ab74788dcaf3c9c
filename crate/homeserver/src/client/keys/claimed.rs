//! Which one-time keys of a device were claimed: none is given a second time, also when it is
//! uploaded again, however late.
//!
//! Of each key a mark of a few bytes is kept as long as the device is there, in 256 rows by the
//! mark's first byte. What a device may fill is bounded without forgetting any: a row that is full
//! takes no more, and whatever would be marked there counts as claimed, so that the device has to
//! make another key.

use crate::{
    error::Result,
    homeserver::Homeserver,
    tables::{self, RawBytes, UserSn},
    transaction::Tx,
};
use ruma::{CanonicalJsonValue, OwnedDeviceId};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a mark, without the one that names its row.
const BYTES: usize = 7;
/// Marks in a row.
const MOST: usize = 1024;

/// What is kept of a claimed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    row: u8,
    bytes: [u8; BYTES],
}

impl Mark {
    /// The mark of a key: of the public key alone, since it is the same one under another id or
    /// with other signatures.
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

/// Rows of marks.
pub struct Claimed(BTreeMap<u8, Vec<u8>>);

impl Claimed {
    /// The rows of a device that `marks` are in.
    pub async fn read(hs: &Homeserver, device: &(UserSn, OwnedDeviceId), marks: impl Iterator<Item = Mark>) -> Result<Self> {
        let rows: BTreeSet<u8> = marks.map(|mark| mark.row).collect();
        let places: Vec<_> = rows.iter().map(|row| (device.0, device.1.clone(), *row)).collect();
        let found = tables::CLAIMED_KEYS.get_all(hs.store(), &places).await?;
        Ok(Self(rows.into_iter().zip(found).map(|(row, found)| (row, found.map_or_else(Vec::new, |marks| marks.0))).collect()))
    }

    /// Whether a key was claimed, or may have been.
    pub fn has(&self, mark: Mark) -> bool {
        let Some(row) = self.0.get(&mark.row) else { return false };
        row.len() >= MOST * BYTES || row.chunks_exact(BYTES).any(|known| known == mark.bytes)
    }

    /// Adds a key, unless it is there or its row is full.
    pub fn add(&mut self, mark: Mark) {
        if !self.has(mark) {
            self.0.entry(mark.row).or_default().extend(mark.bytes);
        }
    }

    /// Stages the rows, which are a device's.
    pub fn put(self, tx: &mut Tx, device: &(UserSn, OwnedDeviceId)) {
        for (row, marks) in self.0 {
            tables::CLAIMED_KEYS.put(tx, &(device.0, device.1.clone(), row), &RawBytes(marks));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_row_forgets_nothing_and_takes_nothing() {
        let mut claimed = Claimed(BTreeMap::new());
        let mark = |number: usize| Mark { row: 7, bytes: *number.to_be_bytes().last_chunk().expect("8 bytes") };
        for number in 0..MOST + 10 {
            claimed.add(mark(number));
        }
        assert_eq!(claimed.0[&7].len(), MOST * BYTES);
        assert!((0..MOST + 20).all(|number| claimed.has(mark(number))));
        assert!(!claimed.has(Mark { row: 8, ..mark(0) }));
    }
}
