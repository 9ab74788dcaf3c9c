//! Why something is not done with an account. It knows no HTTP: who asked is told at the edges, a
//! client by `client/refused.rs`.

use super::password::LONGEST;
use crate::{
    failure::{Failure, Refusal},
    rate_limits::TooMany,
    room,
};

/// Why something is not done with an account.
pub type Error = Failure<Refused>;

/// What is refused, and why. The texts are for whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A name that is outside of the grammar.
    #[error("A username can only contain the characters a-z, 0-9 and ._=-/+, and at most 255 characters together with the server name")]
    MalformedName,
    /// A name that an account has, or had.
    #[error("User ID already taken")]
    NameTaken,
    /// A password that is empty.
    #[error("The password is empty")]
    EmptyPassword,
    /// A password that is too long.
    #[error("Password too long: at most {} bytes are allowed", LONGEST)]
    LongPassword,
    /// A user or a password; which of them is not said.
    #[error("Invalid username or password")]
    WrongPassword,
    /// The id of a device, which is one of a cross-signing key.
    #[error("The device ID is already the ID of a cross-signing key")]
    DeviceIdTaken,
    /// The account has ended.
    #[error("This account was deactivated")]
    Deactivated,
    /// By a room that its user has a part in.
    #[error(transparent)]
    Room(room::Refused),
    /// More passwords than may be tried, or hashed at a time.
    #[error(transparent)]
    TooMany(TooMany),
}

impl Refusal for Refused {}

impl From<room::Error> for Error {
    fn from(error: room::Error) -> Self {
        error.map(Refused::Room)
    }
}

impl From<TooMany> for Error {
    fn from(too_many: TooMany) -> Self {
        Self::Refused(Refused::TooMany(too_many))
    }
}
