//! Passwords: kept as argon2id in PHC form, compared in constant time, tried a limited number of times, and few at a time.

use crate::{
    error::{Error, Result},
    homeserver::Homeserver,
    tables::{self, Account, UserSn},
};
use argon2::{
    Argon2, Params,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use http::StatusCode;
use ruma::{
    UserId,
    api::{client::uiaa::UserIdentifier, error::ErrorKind},
};

/// Blocks of 1 KiB, passes and lanes: one of the settings OWASP names as the least for argon2id.
const PARAMS: (u32, u32, u32) = (7168, 5, 1);

/// What is compared with when nobody has the name, so that this takes as long as a wrong password.
const NOBODY: &str = "$argon2id$v=19$m=7168,t=5,p=1$bm9ib2R5IGhhcyB0aGlzIQ$RqhBzqvlbSNvFuQUPTVTMBmDLB8ghHhKw0PJR7JXcWM";

/// Bytes a password may have.
const LONGEST: usize = 512;

/// Refuses what cannot be a password.
pub fn acceptable(password: &str) -> Result<()> {
    if password.is_empty() {
        return Err(Error::new(StatusCode::BAD_REQUEST, ErrorKind::WeakPassword, "the password is empty"));
    }
    if password.len() > LONGEST {
        return Err(Error::invalid_param(format!("a password may have {LONGEST} bytes at most")));
    }
    Ok(())
}

/// The PHC string of a new password; 429 when too many are under way.
pub async fn hash(hs: &Homeserver, password: &str) -> Result<String> {
    let place = hs.rate_limits.hash_one()?;
    let mut salt = [0; 16];
    hs.host.random(&mut salt);
    let password = password.as_bytes().to_vec();
    let hashed = hs.host.compute(Box::new(move || {
        let _place = place;
        argon2().hash_password_with_salt(&password, &salt).map(|hash| hash.to_string().into_bytes()).unwrap_or_default()
    }));
    String::from_utf8(hashed.await).ok().filter(|hash| !hash.is_empty()).ok_or_else(|| Error::Internal("a password cannot be hashed".to_owned()))
}

/// Whose password was right.
pub struct Checked {
    /// The user.
    pub user: UserSn,
    /// The hash it was compared with: what is done under the account's lock asks whether it is still the account's.
    hash: String,
}

impl Checked {
    /// Whether the password has not changed since, nor the account ended.
    pub fn still_holds(&self, account: Option<&Account>) -> bool {
        account.is_some_and(|account| !account.deactivated && account.password.as_ref() == Some(&self.hash))
    }
}

/// The account of `user`, if it has this password; 429 when too many wrong ones were tried, or too many are under way.
pub async fn check(hs: &Homeserver, user: &UserId, password: &str) -> Result<Option<Checked>> {
    let place = hs.rate_limits.hash_one()?;
    let sn = if hs.is_local(user) { hs.find_user(user).await? } else { None };
    let account = match sn {
        Some(sn) => tables::ACCOUNTS.get(hs.store(), &sn).await?,
        None => None,
    };
    // Apart from those that somebody has, so that nobody who has an account is kept out by what others make up.
    if account.is_none() {
        hs.rate_limits.unknown_names.take("", hs.host.now())?;
    }
    hs.rate_limits.passwords.take(user.as_str(), hs.host.now())?;
    let stored = account.filter(|account| !account.deactivated).and_then(|account| account.password);
    let compared = stored.clone().unwrap_or_else(|| NOBODY.to_owned());
    // Longer than any password that was ever set: compare something of bearable length, in vain.
    let tried = password.as_bytes().get(..LONGEST + 1).unwrap_or(password.as_bytes()).to_vec();
    let compare = move || {
        let _place = place;
        vec![u8::from(verify(&tried, &compared))]
    };
    let verified = hs.host.compute(Box::new(compare)).await == [1];
    let checked = sn.zip(stored).filter(|_| verified).map(|(user, hash)| Checked { user, hash });
    if checked.is_some() {
        hs.rate_limits.passwords.give_back(user.as_str());
    }
    Ok(checked)
}

/// The user id that an `m.id.user` identifier means on this server, given as a whole or as its localpart.
pub fn identified(hs: &Homeserver, identifier: &UserIdentifier) -> Option<ruma::OwnedUserId> {
    match identifier {
        UserIdentifier::Matrix(id) => named(hs, &id.user),
        _ => None,
    }
}

/// As [`identified`], for a bare name. Names are registered in lower case.
pub fn named(hs: &Homeserver, user: &str) -> Option<ruma::OwnedUserId> {
    let id = if user.starts_with('@') { UserId::parse(user) } else { UserId::parse_with_server_name(user, hs.server_name()) }.ok()?;
    UserId::parse_with_server_name(id.localpart().to_lowercase(), id.server_name()).ok()
}

fn argon2() -> Argon2<'static> {
    let (m, t, p) = PARAMS;
    Argon2::from(Params::new(m, t, p, None).expect("the parameters are within argon2's bounds"))
}

/// With the parameters that `stored` names.
fn verify(password: &[u8], stored: &str) -> bool {
    PasswordHash::new(stored).is_ok_and(|hash| argon2().verify_password(password, &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobodys_password_costs_what_a_real_one_costs() {
        let nobody = PasswordHash::new(NOBODY).expect("a PHC string");
        let real = argon2().hash_password_with_salt(b"secret", &[7; 16]).expect("hashed");
        assert_eq!((nobody.algorithm, nobody.version, nobody.params), (real.algorithm, real.version, real.params.clone()));
        assert!(verify(b"secret", &real.to_string()) && !verify(b"secret ", &real.to_string()) && !verify(b"secret", NOBODY));
    }
}
