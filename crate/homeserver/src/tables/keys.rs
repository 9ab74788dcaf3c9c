//! The values of end-to-end encryption: one-time and fallback keys, cross-signing keys, key
//! backups.

use super::Json;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A one-time key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneTimeKey {
    /// `algorithm:id`
    pub id: String,
    /// The key, as uploaded.
    pub key: Json,
}

/// That a one-time key was uploaded, and nobody has claimed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownOneTimeKey {
    /// The SHA-256 of the key as canonical JSON.
    pub hash: [u8; 32],
}

/// A fallback key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackKey {
    /// `algorithm:id`
    pub id: String,
    /// The key, as uploaded.
    pub key: Json,
    /// Whether it was given to anybody.
    pub used: bool,
}

/// What syncs say of a device's one-time and fallback keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCounts {
    /// One-time keys that nobody has claimed, by algorithm; none that has no key.
    pub one_time: BTreeMap<String, u64>,
    /// Algorithms of fallback keys that nobody was given.
    pub unused_fallback: BTreeSet<String>,
}

/// What a cross-signing key is for, as the byte that keys hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum CrossSigningUse {
    /// Signs the other two.
    Master = 1,
    /// Signs the user's devices.
    SelfSigning = 2,
    /// Signs other users' master keys.
    UserSigning = 3,
}

/// A version of a user's key backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyBackup {
    /// How keys are encrypted.
    pub algorithm: String,
    /// What that algorithm needs.
    pub auth_data: Json,
    /// How many keys it holds.
    pub count: u64,
    /// Grows with every change of its keys.
    pub etag: u64,
    /// Whether it was deleted.
    pub deleted: bool,
}

/// A key in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUpKey {
    /// Whether the device that made the backup trusts the key's device.
    pub is_verified: bool,
    /// The first message it decrypts.
    pub first_message_index: u64,
    /// How often it was forwarded.
    pub forwarded_count: u64,
    /// The key data, as uploaded.
    pub data: Json,
}
