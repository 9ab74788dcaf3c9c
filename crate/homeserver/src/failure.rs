//! Why something is not done, without HTTP: each module that refuses things has an enum of its own
//! that says which and why. Who asked is told at the edges, a client by `client/refused.rs`.

use crate::damaged::{Damaged, MayBeDamage};
use ephapse_store::StoreError;
use std::fmt::Display;

/// Why something is not done. `R` says what is refused.
#[derive(Debug, thiserror::Error)]
pub enum Failure<R> {
    /// It must not be done.
    #[error(transparent)]
    Refused(R),
    /// The store could not do its part.
    #[error(transparent)]
    Store(StoreError),
    /// Something stored cannot be read; the text is for the log.
    #[error(transparent)]
    Damaged(Damaged),
    /// An invariant of ours is broken; the text is for the log.
    #[error("{0}")]
    Internal(String),
}

impl<R> Failure<R> {
    /// The same with what `say` makes of a refusal.
    pub fn map<S>(self, say: impl FnOnce(R) -> S) -> Failure<S> {
        match self {
            Self::Refused(refused) => Failure::Refused(say(refused)),
            Self::Store(error) => Failure::Store(error),
            Self::Damaged(damaged) => Failure::Damaged(damaged),
            Self::Internal(text) => Failure::Internal(text),
        }
    }
}

/// What a module refuses, and why.
pub trait Refusal {}

impl<R: Refusal> From<R> for Failure<R> {
    fn from(refused: R) -> Self {
        Self::Refused(refused)
    }
}

impl<R> From<StoreError> for Failure<R> {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl<R> From<Damaged> for Failure<R> {
    fn from(damaged: Damaged) -> Self {
        Self::Damaged(damaged)
    }
}

impl<R: Display> MayBeDamage for Failure<R>
where
    Self: Display,
{
    fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Store(error) => error.is_damage(),
            Self::Refused(_) | Self::Internal(_) => false,
        }
    }
}
