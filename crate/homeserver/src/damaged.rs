//! What is stored and cannot be read: a disk or a browser may damage a value, and an older version
//! may have taken in what this one cannot read.
//!
//! Where many things are answered together, a damaged one is left out and logged, and the others
//! are answered ([`LeaveOut`], and the tables' `get_many` and `scan`). Where one thing is asked
//! for, or a decision stands on it, the request fails instead (500 M_UNKNOWN).

use crate::{
    error::{Error, Result},
    request_log,
};
pub use ephapse_store::Damaged;
use ephapse_store::StoreError;
use std::fmt::Display;

/// An error that may mean that one stored thing is damaged.
pub trait MayBeDamage: Display {
    /// Whether it means that, and not that nothing can be read or written now.
    fn is_damage(&self) -> bool;
}

impl MayBeDamage for Damaged {
    fn is_damage(&self) -> bool {
        true
    }
}

impl MayBeDamage for StoreError {
    fn is_damage(&self) -> bool {
        matches!(self, Self::Unreadable(_))
    }
}

impl MayBeDamage for Error {
    fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Store(error) => error.is_damage(),
            _ => false,
        }
    }
}

/// One of many that are answered together.
pub trait LeaveOut<T, E> {
    /// `None`, and a line in the log, where it is damaged. Any other error stays one.
    fn leave_out(self) -> Result<Option<T>, E>;
}

impl<T, E: MayBeDamage> LeaveOut<T, E> for Result<T, E> {
    fn leave_out(self) -> Result<Option<T>, E> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_damage() => {
                request_log::error(&format_args!("left out of a response: {error}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Those of many that can be read; each other one is left out and logged.
pub fn readable<T>(many: impl IntoIterator<Item = Result<T, Damaged>>) -> impl Iterator<Item = T> {
    many.into_iter().filter_map(|one| one.leave_out().ok().flatten())
}
