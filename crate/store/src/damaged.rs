//! What is stored and cannot be read: a disk or a browser may damage a value, and an older version
//! may have written what this one cannot read.

use crate::StoreError;
use std::fmt::Display;

/// Something stored cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be read: {why}")]
pub struct Damaged {
    what: String,
    why: String,
}

impl Damaged {
    /// `what` names it, with whatever it belongs to.
    pub fn new(what: impl Into<String>, why: impl Display) -> Self {
        Self { what: what.into(), why: why.to_string() }
    }
}

impl From<Damaged> for StoreError {
    fn from(damaged: Damaged) -> Self {
        Self::Unreadable(damaged.to_string())
    }
}
