//! New accounts, of users and guests, and the names that they have.

use super::{
    Error, Refused,
    sessions::{Login, NewSession},
};
use crate::{
    homeserver::Homeserver,
    keys::Changed,
    locks::LockKey,
    profiles,
    push::user_rules,
    tables::{self, Account, UserNid},
    transaction::Tx,
};
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

/// An account that may be made.
pub struct NewAccount {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Whether it is a guest's.
    pub kind: Kind,
    /// What its user is called at first; `None`: by the localpart.
    pub display_name: Option<String>,
    /// The name of the first device.
    pub device_id: Option<OwnedDeviceId>,
    /// What the first device is called.
    pub device_display_name: Option<String>,
    /// Whether there is to be no first device.
    pub inhibit_login: bool,
    /// The user-interactive session that it is made through, which remembers it.
    pub session: Option<String>,
}

/// Whose account it is.
pub enum Kind {
    /// A guest's, who has no password.
    Guest,
    /// A user's.
    User {
        /// The hash of the password.
        hash: String,
        /// Whether the account is there already, as a guest's.
        was_guest: bool,
    },
}

/// Makes an account if its name is still free, and logs its first device in.
pub async fn create(hs: &Homeserver, generation: u64, account: NewAccount) -> Result<Option<Login>, Error> {
    let NewAccount { user_id, kind, display_name, device_id, device_display_name, inhibit_login, session } = account;
    let _lock = hs.lock(LockKey::Account(user_id.to_string())).await;
    let user = hs.intern_user(&user_id).await?;
    let (password, was_guest) = match kind {
        Kind::Guest => (None, false),
        Kind::User { hash, was_guest } => (Some(hash), was_guest),
    };
    // A guest may have become a user while this one was asked for the stages.
    if !was_guest || !hs.is_guest(user).await? {
        available(hs, &user_id).await?;
    }
    let is_guest = password.is_none();
    let account = Account { password, deactivated: false, created: hs.host.now() };
    let login = match inhibit_login {
        true => None,
        false => Some(NewSession::of(hs, user, &user_id, device_id, device_display_name).await?),
    };
    // Who was a guest may share rooms already.
    let devices = if was_guest { Some(hs.device_list_change(user).await?) } else { None };
    let made = hs.write(generation, |tx| {
        // Who was a guest has a name already, or none.
        if !was_guest {
            profiles::put_first_name(tx, user, display_name.as_deref().unwrap_or(user_id.localpart()));
        }
        tables::ACCOUNTS.put(tx, &user, &account);
        if is_guest || was_guest {
            put_guest(tx, user, is_guest);
        }
        if let Some(login) = &login {
            login.begin(tx);
        }
        if let Some(session) = &session {
            let device = login.as_ref().map(|login| login.session.device.clone());
            tables::REGISTERED.put(tx, session, &tables::Registered { user, device });
        }
        user_rules::put_first(tx, user, &user_id);
        if let Some(change) = devices {
            change.stage(tx, hs.host.now(), login.iter().map(|login| Changed::Device(login.session.device.clone())));
        }
    });
    made?.visible();
    Ok(login.map(NewSession::login))
}

fn put_guest(tx: &mut Tx, user: UserNid, is_guest: bool) {
    match is_guest {
        true => tables::GUESTS.put(tx, &user, &()),
        false => tables::GUESTS.delete(tx, &user),
    }
    tx.then(move |hs| hs.users.guests.set(user, is_guest));
}

/// The user id that a username stands for: capitals are made small, anything else outside the
/// grammar is refused.
pub fn new_user_id(hs: &Homeserver, username: &str) -> Result<OwnedUserId, Refused> {
    let localpart = username.to_ascii_lowercase();
    let fits =
        !localpart.is_empty() && localpart.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'=' | b'-' | b'/' | b'+'));
    let user_id = fits.then(|| UserId::parse_with_server_name(localpart, hs.server_name()).ok()).flatten();
    user_id.filter(|id| id.as_str().len() <= 255).ok_or(Refused::MalformedName)
}

/// The user id that somebody means by a name, which may be a whole id. Names are registered in
/// lower case.
pub fn named(hs: &Homeserver, user: &str) -> Option<OwnedUserId> {
    let id = if user.starts_with('@') { UserId::parse(user) } else { UserId::parse_with_server_name(user, hs.server_name()) }.ok()?;
    UserId::parse_with_server_name(id.localpart().to_lowercase(), id.server_name()).ok()
}

/// A name that is made up.
pub fn generated(hs: &Homeserver) -> OwnedUserId {
    UserId::parse_with_server_name(hs.random_string(16).to_ascii_lowercase(), hs.server_name()).expect("letters and digits are a localpart")
}

/// A user id is given once, also when its account was deactivated since.
pub async fn available(hs: &Homeserver, user_id: &UserId) -> Result<(), Error> {
    let taken = match hs.find_user(user_id).await? {
        Some(user) => tables::ACCOUNTS.get(hs.store(), &user).await?.is_some(),
        None => false,
    };
    if taken { Err(Refused::NameTaken.into()) } else { Ok(()) }
}
