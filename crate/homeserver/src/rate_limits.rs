//! Who asks too often: buckets that fill again with time (Client-Server API, Rate limiting).
//!
//! Kept in memory only: a restart forgives. Wrong passwords are always limited; everything else
//! only where the settings say so.

use crate::{
    accounts::{Hashing, Place},
    cache::Cache,
};
use std::{cell::RefCell, time::Duration};

/// Bytes that a set of buckets may take; whoever was not seen for longest is forgotten first.
const MAX_BYTES: usize = 2 << 20;

/// How long to wait before the next try when as many passwords are hashed as may be.
const HASHING_RETRY: Duration = Duration::from_secs(1);

/// Something was asked for too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Too many requests")]
pub struct TooMany {
    /// When it may be asked for again.
    pub retry_after: Duration,
}

/// The buckets of one server, and how many passwords are hashed at a time.
pub struct RateLimits {
    /// Passwords tried, by user id: the right one is given back.
    pub passwords: Buckets,
    /// Passwords tried with names that nobody has, of all such names together: anybody can make up
    /// as many as they like.
    pub unknown_names: Buckets,
    /// Passwords that are hashed or compared.
    hashing: Hashing,
    /// Registration tokens tried.
    pub registration_tokens: Buckets,
    /// Accounts asked for.
    pub registrations: Buckets,
    /// OpenID tokens asked for, by user id.
    pub openid_tokens: Buckets,
    /// Transactions of other servers, by their names.
    pub transactions: Buckets,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            passwords: Buckets::new(10, Duration::from_secs(10)),
            unknown_names: Buckets::new(100, Duration::from_secs(1)),
            hashing: Hashing::default(),
            registration_tokens: Buckets::new(20, Duration::from_secs(5)),
            registrations: Buckets::new(200, Duration::from_secs(1)),
            openid_tokens: Buckets::new(50, Duration::from_secs(10)),
            // As fast as a server that was away can be told what it missed, one after the other.
            transactions: Buckets::new(500, Duration::from_millis(20)),
        }
    }
}

impl RateLimits {
    /// Bytes that all buckets take, roughly.
    pub(crate) fn cached_bytes(&self) -> usize {
        let asked = [&self.passwords, &self.unknown_names, &self.registration_tokens, &self.registrations];
        let buckets = asked.into_iter().chain([&self.openid_tokens, &self.transactions]);
        buckets.map(|buckets| buckets.full_at.borrow().bytes()).sum()
    }

    /// Lets one more password be hashed or compared, until what is returned is dropped.
    ///
    /// # Errors
    /// There are too many.
    pub fn hash_one(&self) -> Result<Place, TooMany> {
        self.hashing.place().ok_or(TooMany { retry_after: HASHING_RETRY })
    }
}

/// Buckets of one size, by key.
pub struct Buckets {
    size: u64,
    /// How long one drop takes to come back, in ms.
    refill: u64,
    /// When each bucket is full again, in ms: enough to know how full it is now.
    full_at: RefCell<Cache<String, u64>>,
}

impl Buckets {
    /// Buckets of `size`, that win back one in `refill`.
    pub fn new(size: u32, refill: Duration) -> Self {
        Self { size: size.into(), refill: refill.as_millis() as u64, full_at: RefCell::new(Cache::new(MAX_BYTES)) }
    }

    /// Takes one out of the bucket of `key`.
    ///
    /// # Errors
    /// There is none, and when there will be one.
    pub fn take(&self, key: &str, now: u64) -> Result<(), TooMany> {
        let mut full_at = self.full_at.borrow_mut();
        let empty_for = full_at.get(key).map_or(0, |full| full.saturating_sub(now));
        let after = empty_for + self.refill;
        if after > self.size * self.refill {
            return Err(TooMany { retry_after: Duration::from_millis(after - self.size * self.refill) });
        }
        full_at.insert(key.to_owned(), now + after, key.len());
        Ok(())
    }

    /// Puts one back into the bucket of `key`.
    pub fn give_back(&self, key: &str) {
        if let Some(full) = self.full_at.borrow_mut().get_mut(key) {
            *full = full.saturating_sub(self.refill);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_keys_take_no_more_than_they_may() {
        let limits = RateLimits::default();
        for n in 0..40_000 {
            limits.passwords.take(&format!("@{n}:{}", "x".repeat(n % 200)), 1_000).expect("one goes");
        }
        assert!((MAX_BYTES / 2..=MAX_BYTES).contains(&limits.cached_bytes()), "{}", limits.cached_bytes());
    }

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let buckets = Buckets::new(2, Duration::from_secs(10));
        assert!(buckets.take("a", 1_000).is_ok());
        assert!(buckets.take("a", 1_000).is_ok());
        assert!(buckets.take("a", 1_000).is_err());
        assert!(buckets.take("b", 1_000).is_ok());
        assert!(buckets.take("a", 10_999).is_err());
        assert!(buckets.take("a", 11_000).is_ok());
        assert!(buckets.take("a", 11_000).is_err());
        buckets.give_back("a");
        assert!(buckets.take("a", 11_000).is_ok());
    }
}
