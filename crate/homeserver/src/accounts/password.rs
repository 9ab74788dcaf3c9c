//! Passwords: kept as argon2id, compared in constant time, tried a limited number of times, and few
//! at a time.
//!
//! One hash takes the one thread of a browser's worker for tens of milliseconds, and cannot be
//! interrupted. So it is made in rounds, each over what the one before gave, and others have their
//! turn in between. What is stored is the number of rounds and the last of them in PHC form:
//! `3$argon2id$v=19$m=7168,t=2,p=1$SALT$HASH`; without a number there is one.
//!
//! Passwords are hashed in Unicode's Normalization Form KC: keyboards write the same character in
//! several ways.

use super::{Error, Refused, hashing::Place};
use crate::{
    homeserver::Homeserver,
    tables::{self, Account, UserNid},
};
use argon2::{
    Algorithm, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};
use ephapse_store::StoreError;
use ruma::UserId;
use std::{fmt, sync::Arc};

/// Blocks of 1 KiB, passes and lanes of a round.
const PARAMS: (u32, u32, u32) = (7168, 2, 1);
/// With this memory, five passes are the least that OWASP names for argon2id; here they are six.
const ROUNDS: u32 = 3;

/// What is compared with when nobody has the name, so that this takes as long as a wrong password.
const DUMMY_HASH: &str = "3$argon2id$v=19$m=7168,t=2,p=1$bm9ib2R5IGhhcyB0aGlzIQ$RqhBzqvlbSNvFuQUPTVTMBmDLB8ghHhKw0PJR7JXcWM";

/// Bytes a password may have.
pub(super) const LONGEST: usize = 512;

/// Refuses what cannot be a password.
pub fn acceptable(password: &str) -> Result<(), Refused> {
    if password.is_empty() {
        return Err(Refused::EmptyPassword);
    }
    if password.len() > LONGEST {
        return Err(Refused::LongPassword);
    }
    Ok(())
}

/// What is stored of a new password.
///
/// # Errors
/// Too many are under way.
pub async fn hash(hs: &Homeserver, password: &str) -> Result<String, Error> {
    let place = hs.rate_limits.hash_one()?;
    let mut salt = [0; 16];
    hs.host.random(&mut salt);
    let failed = || Error::Internal("a password cannot be hashed".to_owned());
    let mut stored = Stored::with(&salt).ok_or_else(failed)?;
    stored.last.hash = Some(stored.output(hs, &Arc::new(place), hs.host.nfkc(password).into_bytes()).await.ok_or_else(failed)?);
    Ok(stored.to_string())
}

/// Whose password was right.
pub struct Checked {
    /// The user.
    pub user: UserNid,
    /// The hash it was compared with: what is done under the account's lock asks whether it is
    /// still the account's.
    hash: String,
}

impl Checked {
    /// Whether the password has not changed since, nor the account ended.
    pub fn still_holds(&self, account: Option<&Account>) -> bool {
        account.is_some_and(|account| !account.deactivated && account.password.as_ref() == Some(&self.hash))
    }
}

/// The account of `user`, if it has this password.
///
/// # Errors
/// Too many wrong ones were tried, or too many are under way.
pub async fn check(hs: &Homeserver, user: &UserId, password: &str) -> Result<Option<Checked>, Error> {
    let place = hs.rate_limits.hash_one()?;
    let nid = if hs.is_local(user) { hs.find_user(user).await? } else { None };
    let account = match nid {
        Some(nid) => tables::ACCOUNTS.get(hs.store(), &nid).await?,
        None => None,
    };
    // Apart from those that somebody has, so that nobody who has an account is kept out by what
    // others make up.
    if account.is_none() {
        hs.rate_limits.unknown_names.take("", hs.host.now())?;
    }
    hs.rate_limits.passwords.take(user.as_str(), hs.host.now())?;
    let stored = account.filter(|account| !account.deactivated).and_then(|account| account.password);
    let verified = is_of(hs, place, password, stored.as_deref().unwrap_or(DUMMY_HASH)).await;
    let checked = nid.zip(stored).filter(|_| verified).map(|(user, hash)| Checked { user, hash });
    if checked.is_some() {
        hs.rate_limits.passwords.give_back(user.as_str());
    }
    Ok(checked)
}

/// The account of `user`, if its password still has this hash.
pub async fn unchanged(hs: &Homeserver, user: UserNid, hash: &str) -> Result<Option<Checked>, StoreError> {
    let account = tables::ACCOUNTS.get(hs.store(), &user).await?;
    let checked = Checked { user, hash: hash.to_owned() };
    Ok(checked.still_holds(account.as_ref()).then_some(checked))
}

/// Whether a hash that is no account's is of this password.
///
/// # Errors
/// Too many wrong ones were tried for what it is kept `for_what`, or too many are under way.
pub async fn is_hash_of(hs: &Homeserver, hash: &str, password: &str, for_what: &str) -> Result<bool, Error> {
    let place = hs.rate_limits.hash_one()?;
    hs.rate_limits.passwords.take(for_what, hs.host.now())?;
    let is_right = is_of(hs, place, password, hash).await;
    if is_right {
        hs.rate_limits.passwords.give_back(for_what);
    }
    Ok(is_right)
}

/// Whether what is stored is of this password.
async fn is_of(hs: &Homeserver, place: Place, password: &str, stored: &str) -> bool {
    let Some(stored) = Stored::read(stored).filter(|stored| stored.last.hash.is_some()) else { return false };
    // Longer than any password that was ever set: compare something of bearable length, in vain.
    let tried = password.get(..LONGEST + 1).unwrap_or(if password.len() > LONGEST { "" } else { password });
    let place = Arc::new(place);
    let normalized = hs.host.nfkc(tried);
    // Outputs are compared in constant time.
    if stored.output(hs, &place, normalized.as_bytes().to_vec()).await == stored.last.hash {
        return true;
    }
    // What was stored by versions that did not normalize is of what was typed.
    normalized != tried && stored.output(hs, &place, tried.as_bytes().to_vec()).await == stored.last.hash
}

/// A password's hash as it is stored.
struct Stored {
    rounds: u32,
    last: PasswordHash,
}

impl Stored {
    /// Of a new password, but for the hash itself.
    fn with(salt: &[u8]) -> Option<Self> {
        let (m, t, p) = PARAMS;
        let params = ParamsString::try_from(&Params::new(m, t, p, None).ok()?).ok()?;
        let salt = Some(Salt::new(salt).ok()?);
        let last = PasswordHash { algorithm: Algorithm::Argon2id.ident(), version: Some(Version::V0x13.into()), params, salt, hash: None };
        Some(Self { rounds: ROUNDS, last })
    }

    fn read(stored: &str) -> Option<Self> {
        let at = stored.find('$')?;
        let rounds = if at == 0 { 1 } else { stored[..at].parse().ok()? };
        let last = PasswordHash::new(&stored[at..]).ok()?;
        let known = last.algorithm == Algorithm::Argon2id.ident() && last.version == Some(Version::V0x13.into());
        known.then_some(Self { rounds, last })
    }

    /// What the rounds make of `secret`, each in a turn of its own. All of them count as one
    /// password under way, until the last has ended.
    async fn output(&self, hs: &Homeserver, place: &Arc<Place>, secret: Vec<u8>) -> Option<Output> {
        let salt = self.last.salt?;
        let params = Params::try_from(&self.last).ok()?;
        let mut derived = secret;
        for _ in 0..self.rounds {
            let (place, params) = (place.clone(), params.clone());
            let round = move || place.round(&params, &derived, salt.as_ref()).unwrap_or_default();
            derived = hs.host.compute(Box::new(round)).await;
            // What failed must not be taken for a secret.
            if derived.is_empty() {
                return None;
            }
        }
        Output::new(&derived).ok()
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.rounds, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checking_an_unknown_user_costs_as_much_as_a_real_password() {
        let nobody = Stored::read(DUMMY_HASH).expect("what is stored of a password");
        let real = Stored::with(&[7; 16]).expect("the parameters are within argon2's bounds");
        assert_eq!((nobody.rounds, nobody.last.params), (real.rounds, real.last.params));
        assert!(nobody.last.hash.is_some());
    }

    #[test]
    fn a_hash_is_read_as_it_was_stored() {
        let stored = Stored::read(DUMMY_HASH).expect("what is stored of a password");
        assert_eq!(stored.to_string(), DUMMY_HASH);
        let bare = DUMMY_HASH.strip_prefix('3').expect("a number of rounds");
        assert_eq!(Stored::read(bare).expect("a PHC string").rounds, 1);
        for wrong in ["", "3", "three$argon2id$v=19$m=7168,t=2,p=1$bm9i", &bare.replace("argon2id", "argon2i"), &bare.replace("v=19", "v=16")] {
            assert!(Stored::read(wrong).is_none(), "{wrong}");
        }
    }
}
