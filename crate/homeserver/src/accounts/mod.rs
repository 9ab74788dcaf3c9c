//! Accounts of this server: how they begin and end, their passwords, and the access tokens of their
//! devices. What a client has to go through for that is in `client/`.
//!
//! An account is written under its lock, as its devices and keys are.

mod create;
mod end;
mod error;
mod hashing;
pub mod password;
mod sessions;
pub mod shared_secret;

pub use create::{Kind, NewAccount, available, create, generated, named, new_user_id};
pub use end::deactivate;
pub use error::{Error, Refused};
pub use hashing::{Hashing, Place};
pub use sessions::{Login, log_in, token_hash};

use crate::{
    devices,
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, Session},
};

/// Gives an account another password, of which `hash` is kept, and logs out all devices but the one
/// of `session` where that is asked for.
pub async fn change_password(hs: &Homeserver, generation: u64, session: &Session, hash: String, log_out_others: bool) -> Result<(), Error> {
    let _lock = hs.lock(LockKey::Account(session.user_id.to_string())).await;
    let account = tables::ACCOUNTS.get(hs.store(), &session.user).await?;
    let mut account = account.filter(|account| !account.deactivated).ok_or(Refused::Deactivated)?;
    account.password = Some(hash);
    let others = match log_out_others {
        true => Some(devices::departing(hs, session.user, &|device| *device != *session.device).await?),
        false => None,
    };
    let changed = hs.write(generation, |tx| {
        tables::ACCOUNTS.put(tx, &session.user, &account);
        if let Some(others) = others {
            others.forget(tx);
        }
    });
    changed?.visible();
    Ok(())
}
