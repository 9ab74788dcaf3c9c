//! The one position counter, and the tokens that clients see of it.
//!
//! A position is given to everything a client can see, in the order in which it becomes visible.
//! Positions of a room's events that were fetched from before its start are negative. A token is a
//! position and the node's instance id, `s<position>_<instance>`, and means the same after any
//! restart. That of a sync that had no room for every to-device message has the number of the first
//! one left after it, `s<position>_<instance>_<number>`.

use ephapse_store::KeyPart;
use serde::{Deserialize, Serialize};
use std::{cell::Cell, fmt, str::FromStr};

/// A place in the order of everything that happens on this server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position(pub i64);

impl Position {
    /// Before everything.
    pub const MIN: Self = Self(i64::MIN);
    /// After everything.
    pub const MAX: Self = Self(i64::MAX);
    /// Before every event that has a place in its room's timeline. Up to here are outliers: events
    /// of other servers that states and auth chains refer to, in the order of their arrival.
    pub const LAST_OUTLIER: Self = Self(-(1 << 62));

    /// Whether it is an outlier's.
    pub fn is_outlier(self) -> bool {
        self <= Self::LAST_OUTLIER
    }

    /// The position right after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl KeyPart for Position {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        i64::decode(bytes).map(Self)
    }
}

/// Counts positions; the newest one is stored with every batch that uses one.
#[derive(Debug, Default)]
pub struct Positions {
    given: Cell<i64>,
    /// Not known after a failed write: what came after the last durable one is gone, and no client
    /// may hold a token of it.
    newest: Cell<Option<i64>>,
}

impl Positions {
    /// Goes on after `newest`, the last position that is stored.
    pub fn starting_after(newest: Position) -> Self {
        Self { given: Cell::new(newest.0), newest: Cell::new(Some(newest.0)) }
    }

    /// Gives every position up to and including `last`: to a transaction, which uses some of them.
    /// None is given twice.
    pub fn give_up_to(&self, last: Position) {
        debug_assert!(last > self.given(), "positions are given once");
        self.given.set(last.0);
    }

    /// The last position given, whether or not its batch was taken.
    pub fn given(&self) -> Position {
        Position(self.given.get())
    }

    /// The newest position of anything that can be seen.
    pub fn newest(&self) -> Position {
        Position(self.newest.get().unwrap_or(self.given.get()))
    }

    /// The batch that uses the positions up to this one was taken.
    pub fn became_visible(&self, newest: Position) {
        self.newest.set(Some(newest.0));
    }

    /// What could be seen may be lost.
    pub fn forget_newest(&self) {
        self.newest.set(None);
    }

    /// Whether [`Self::newest`] is certain.
    pub fn newest_is_known(&self) -> bool {
        self.newest.get().is_some()
    }

    /// The newest position that is stored, unless something newer became visible meanwhile.
    pub fn found_newest(&self, stored: Position) {
        self.newest.set(self.newest.get().max(Some(stored.0)));
    }
}

/// A position as clients hold it: in `since`, `from`, `prev_batch`, `next_batch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Everything up to and including this position has been seen.
    pub position: Position,
    /// The instance that gave the token.
    pub instance: u32,
    /// Of the to-device messages at these positions only those before this number have been seen.
    pub to_device: Option<u64>,
}

/// The string is not a token of this server.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("Invalid token")]
pub struct NotAToken;

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}_{:08x}", self.position, self.instance)?;
        self.to_device.map_or(Ok(()), |number| write!(f, "_{number}"))
    }
}

impl FromStr for Token {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let (position, rest) = text.strip_prefix('s').and_then(|rest| rest.split_once('_')).ok_or(NotAToken)?;
        let (instance, to_device) = rest.split_once('_').map_or((rest, None), |(instance, number)| (instance, Some(number)));
        if instance.len() != 8 {
            return Err(NotAToken);
        }
        let token = Self {
            position: Position(position.parse().map_err(|_| NotAToken)?),
            instance: u32::from_str_radix(instance, 16).map_err(|_| NotAToken)?,
            to_device: to_device.map(|number| number.parse().map_err(|_| NotAToken)).transpose()?,
        };
        // One spelling for each token: no leading zeros, plus signs or capitals.
        if token.to_string() == text { Ok(token) } else { Err(NotAToken) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_one_spelling() {
        for (text, to_device) in [("s-5_000000ab", None), ("s-5_000000ab_7", Some(7))] {
            let token = Token { position: Position(-5), instance: 0xab, to_device };
            assert_eq!(token.to_string(), text);
            assert_eq!(text.parse::<Token>().ok(), Some(token));
        }
        for wrong in ["s5_000000ab_", "s5_000000ab_07", "s5_000000ab_-7", "s5_000000ab_7_7"] {
            assert!(wrong.parse::<Token>().is_err(), "{wrong}");
        }
        for wrong in ["", "s", "5", "s5", "s5_", "s05_000000ab", "s+5_000000ab", "s5_000000AB", "s5_0000000ab", "s99999999999999999999_000000ab"] {
            assert!(wrong.parse::<Token>().is_err(), "{wrong}");
        }
    }
}
