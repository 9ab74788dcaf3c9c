//! Why something is not done with keys. It knows no HTTP: who asked is told at the edges, a client
//! by `client/refused.rs`.

use crate::failure::{Failure, Refusal};

/// Why something is not done with keys.
pub type Error = Failure<Refused>;

/// What is refused, and why. The texts are for whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The device that the keys are for was deleted.
    #[error("Device not found: it was deleted")]
    NoDevice,
    /// What is asked for.
    #[error("{0}")]
    NotFound(&'static str),
    /// Something that belongs to what was given.
    #[error("{0}")]
    Missing(&'static str),
    /// Something that does not fit to who gave it, or to what is there.
    #[error("{0}")]
    Invalid(String),
    /// What has not the form of a key or signature.
    #[error("{0}")]
    Malformed(String),
    /// JSON that is no key.
    #[error(transparent)]
    Unreadable(serde_json::Error),
    /// The name of a device that is the name of a cross-signing key too.
    #[error("{0}")]
    NameTaken(&'static str),
    /// Something, or a number of things.
    #[error("{0}")]
    TooLarge(String),
    /// A signature that is wrong, or that nobody can check.
    #[error("{0}")]
    InvalidSignature(String),
    /// What is only written to the newest version of a backup, which is this one.
    #[error("This is not the current backup version")]
    NotNewestVersion(u64),
}

impl Refusal for Refused {}
