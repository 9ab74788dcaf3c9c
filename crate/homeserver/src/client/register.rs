//! Making accounts (Client-Server API, Account registration and management).

use super::{
    account_data, devices, interactive, password, push_rules, session,
    wire::{Json, Own},
};
use crate::{
    config::Registration,
    error::{Error, Result},
    homeserver::Homeserver,
    locks::LockKey,
    router::{Call, token_hash},
    tables::{self, Account},
};
use ephapse_store::Batch;
use http::StatusCode;
use ruma::{
    OwnedDeviceId, OwnedUserId, UserId,
    api::{
        client::{
            account::{
                check_registration_token_validity::v1 as token_validity,
                get_username_availability::v3 as get_username_availability,
                register::{RegistrationKind, v3 as register},
            },
            uiaa::{AuthData, AuthFlow, AuthType},
        },
        error::ErrorKind,
    },
    push::Ruleset,
};
use serde::Serialize;

/// The answer to a registration; ruma's would say `"device_id": null` where nobody was logged in.
#[derive(Serialize)]
struct Registered<'a> {
    user_id: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<OwnedDeviceId>,
}

/// `POST /_matrix/client/v3/register`
pub async fn register(call: Call, Own(request): Own<register::Request>) -> Result<Json> {
    let hs = &call.hs;
    if request.kind == RegistrationKind::Guest {
        return register_guest(&call, request.initial_device_display_name).await;
    }
    let flows = flows(hs)?;
    take_turn(hs)?;
    devices::acceptable(request.device_id.as_deref(), request.initial_device_display_name.as_deref())?;
    request.password.as_deref().map(password::acceptable).transpose()?;
    let session = request.auth.as_ref().and_then(AuthData::session).map(str::to_owned);
    // Of those that come at once with the same session, the others find what the first one made.
    let _lock = match &session {
        Some(session) => Some(hs.lock(LockKey::Registration(session.clone())).await),
        None => None,
    };
    if let Some(session) = &session
        && let Some(made) = interactive::registered(hs, &call.raw, session).await?
    {
        return repeated(&call, made, request).await;
    }
    let user_id = match &request.username {
        Some(username) => {
            let user_id = chosen(hs, username)?;
            match &request.guest_access_token {
                Some(token) => belongs_to_guest(hs, token, &user_id).await?,
                None => available(hs, &user_id).await?,
            }
            Some(user_id)
        }
        None if request.guest_access_token.is_some() => return Err(Error::missing_param("a guest keeps their name: the username is missing")),
        None => None,
    };
    interactive::require_of(hs, &call.raw, None, flows, request.auth.as_ref()).await?;
    let given = request.password.as_deref().ok_or_else(|| Error::missing_param("the password is missing"))?;
    let user_id = user_id.unwrap_or_else(|| generated(hs));
    let account = NewAccount {
        user_id,
        kind: Kind::User { hash: password::hash(hs, given).await?, was_guest: request.guest_access_token.is_some() },
        device_id: request.device_id,
        device_display_name: request.initial_device_display_name,
        inhibit_login: request.inhibit_login,
        session,
    };
    create(hs, Batch::since(call.raw.generation), account).await
}

/// "All parameters in the request body with the exception of initial_device_display_name MUST BE ignored by the server."
async fn register_guest(call: &Call, device_display_name: Option<String>) -> Result<Json> {
    let hs = &call.hs;
    if hs.config.registration != Registration::Open {
        return Err(Error::guest_access_forbidden("this server has no guests"));
    }
    take_turn(hs)?;
    devices::acceptable(None, device_display_name.as_deref())?;
    let account = NewAccount { user_id: generated(hs), kind: Kind::Guest, device_id: None, device_display_name, inhibit_login: false, session: None };
    create(hs, Batch::since(call.raw.generation), account).await
}

fn take_turn(hs: &Homeserver) -> Result<()> {
    if hs.config.rate_limits { hs.rate_limits.registrations.take("", hs.host.now()) } else { Ok(()) }
}

/// Guests become users by their own access token, under their own name.
async fn belongs_to_guest(hs: &Homeserver, token: &str, user_id: &UserId) -> Result<()> {
    let session = tables::ACCESS_TOKENS.get(hs.store(), &token_hash(token)).await?.filter(|session| session.user_id == user_id);
    match session {
        Some(session) if hs.is_guest(session.user).await? => Ok(()),
        _ => Err(Error::forbidden("this is not the access token of a guest of this name")),
    }
}

/// The answer to a registration that was not heard, for as long as its session lasts: the same user, and the same device with a new access token.
/// Whoever asks knows the password that the account was made with, and must know the one it has.
async fn repeated(call: &Call, made: tables::Registered, request: register::Request) -> Result<Json> {
    let hs = &call.hs;
    let user_id = hs.user_id(made.user).await?;
    let mut registered = Registered { user_id: &user_id, access_token: None, device_id: None };
    if made.device.is_some() {
        let given = request.password.as_deref().unwrap_or_default();
        let checked = password::check(hs, &user_id, given).await?;
        let checked = checked.ok_or_else(|| Error::forbidden("the account has another password since, or none"))?;
        let (token, device) = session::log_in(call, &checked, &user_id, made.device, request.initial_device_display_name).await?;
        registered.access_token = Some(token);
        registered.device_id = Some(device);
    }
    Ok(Json::of(&registered))
}

/// An account that may be made.
pub struct NewAccount {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Whether it is a guest's.
    pub kind: Kind,
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

/// Makes an account if its name is still free, in one batch with what `batch` holds already.
pub async fn create(hs: &Homeserver, mut batch: Batch, account: NewAccount) -> Result<Json> {
    let NewAccount { user_id, kind, device_id, device_display_name, inhibit_login, session } = account;
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
    tables::ACCOUNTS.put(&mut batch, &user, &Account { password, deactivated: false, created: hs.host.now() });
    if is_guest {
        tables::GUESTS.put(&mut batch, &user, &());
    } else if was_guest {
        tables::GUESTS.delete(&mut batch, &user);
    }
    let mut registered = Registered { user_id: &user_id, access_token: None, device_id: None };
    if !inhibit_login {
        let (token, device) = session::sign_in(hs, user, &user_id, device_id, device_display_name, &mut batch).await?;
        registered.access_token = Some(token);
        registered.device_id = Some(device);
    }
    // Who was a guest may share rooms already.
    let devices = if was_guest { Some(hs.device_list_change(user).await?) } else { None };
    if let Some(session) = session {
        tables::REGISTERED.put(&mut batch, &session, &tables::Registered { user, device: registered.device_id.clone() });
    }
    // Clients see the push rules in their first sync, as any account data.
    let rules = push_rules::stored_as(&Ruleset::server_default(&user_id));
    let mut changes = vec![account_data::stage(hs, &mut batch, user, 0, push_rules::TYPE.to_owned(), rules)];
    changes.extend(devices.map(|change| (hs.positions.next(), change)));
    hs.submit(batch, changes)?;
    if is_guest || was_guest {
        hs.users.guests.submitted(user, is_guest);
    }
    Ok(Json::of(&registered))
}

/// `GET /_matrix/client/v3/register/available`
pub async fn username_available(call: Call, request: get_username_availability::Request) -> Result<get_username_availability::Response> {
    flows(&call.hs)?;
    available(&call.hs, &chosen(&call.hs, &request.username)?).await?;
    Ok(get_username_availability::Response::new(true))
}

/// `GET /_matrix/client/v1/register/m.login.registration_token/validity`
pub async fn token_validity(call: Call, request: token_validity::Request) -> Result<token_validity::Response> {
    flows(&call.hs)?;
    Ok(token_validity::Response::new(interactive::registration_token(&call.hs, &request.token)?))
}

/// What a new user has to go through; 403 where nobody may register.
fn flows(hs: &Homeserver) -> Result<Vec<AuthFlow>> {
    match &hs.config.registration {
        Registration::Closed => Err(Error::forbidden("this server does not let anybody register")),
        Registration::Token(_) => Ok(vec![AuthFlow::new(vec![AuthType::RegistrationToken, AuthType::Dummy])]),
        Registration::Open => Ok(vec![AuthFlow::new(vec![AuthType::Dummy])]),
    }
}

/// The user id that a username stands for: capitals are made small, anything else outside the grammar is refused.
pub fn chosen(hs: &Homeserver, username: &str) -> Result<OwnedUserId> {
    let localpart = username.to_ascii_lowercase();
    let fits =
        !localpart.is_empty() && localpart.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'=' | b'-' | b'/' | b'+'));
    let user_id = fits.then(|| UserId::parse_with_server_name(localpart, hs.server_name()).ok()).flatten();
    user_id.filter(|id| id.as_str().len() <= 255).ok_or_else(|| {
        let message = "a username has the characters a-z, 0-9 and ._=-/+ only, and at most 255 with the server's name";
        Error::new(StatusCode::BAD_REQUEST, ErrorKind::InvalidUsername, message)
    })
}

fn generated(hs: &Homeserver) -> OwnedUserId {
    UserId::parse_with_server_name(hs.random_string(16).to_ascii_lowercase(), hs.server_name()).expect("letters and digits are a localpart")
}

/// A user id is given once, also when its account was deactivated since.
pub async fn available(hs: &Homeserver, user_id: &UserId) -> Result<()> {
    let taken = match hs.find_user(user_id).await? {
        Some(user) => tables::ACCOUNTS.get(hs.store(), &user).await?.is_some(),
        None => false,
    };
    if taken { Err(Error::new(StatusCode::BAD_REQUEST, ErrorKind::UserInUse, "somebody has this name already")) } else { Ok(()) }
}
