//! Making accounts (Client-Server API, Account registration and management).

use super::{
    interactive,
    wire::{Confirmed, Json, Own},
};
use crate::{
    accounts::{self, Kind, Login, NewAccount, password, token_hash},
    config::Registration,
    devices,
    error::{Error, Result},
    homeserver::Homeserver,
    locks::LockKey,
    router::Call,
    tables::{self, PendingRegistration},
};
use ruma::{
    OwnedDeviceId, ServerName, UserId,
    api::client::{
        account::{
            check_registration_token_validity::v1 as token_validity,
            get_username_availability::v3 as get_username_availability,
            register::{RegistrationKind, v3 as register},
        },
        uiaa::{AuthData, AuthFlow, AuthType},
    },
};
use serde::{Deserialize, Serialize};

/// The answer to a registration; ruma's would say `"device_id": null` where nobody was logged in.
#[derive(Serialize)]
struct Registered<'a> {
    user_id: &'a UserId,
    /// Deprecated since r0.4, but sent everywhere.
    home_server: &'a ServerName,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<OwnedDeviceId>,
}

fn registered(hs: &Homeserver, user_id: &UserId, login: Option<Login>) -> Json {
    let (access_token, device_id) = login.map(|login| (login.token, login.device)).unzip();
    Json::of(&Registered { user_id, home_server: hs.server_name(), access_token, device_id })
}

/// Makes an account, and answers so.
pub async fn create(hs: &Homeserver, generation: u64, account: NewAccount) -> Result<Json> {
    let user_id = account.user_id.clone();
    let login = accounts::create(hs, generation, account).await?;
    Ok(registered(hs, &user_id, login))
}

/// `POST /_matrix/client/v3/register`: what is wanted may be said in the first request or in a
/// later one of the same session, and need not be said again.
pub async fn register(call: Call, Own(Confirmed(request)): Own<Confirmed<register::Request>>) -> Result<Json> {
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
    let operation = format!("{} {}", call.raw.method, call.raw.path);
    let goes_on = match &session {
        Some(session) if interactive::goes_on(hs, session, &operation).await? => Some(session),
        _ => None,
    };
    let kept = match goes_on {
        Some(session) => tables::PENDING_REGISTRATIONS.get(hs.store(), session).await?.unwrap_or_default(),
        None => PendingRegistration::default(),
    };
    let wanted = wanted(&call, kept, &request)?;
    if let Some(session) = goes_on
        && let Some(made) = tables::REGISTERED.get(hs.store(), session).await?
    {
        return repeated(&call, made, wanted, request).await;
    }
    if let (Some(session), Some(hash), Some(given)) = (goes_on, &wanted.password, &request.password)
        && !password::is_hash_of(hs, hash, given, session).await?
    {
        return Err(changed("password"));
    }
    match (&wanted.user_id, &wanted.guest) {
        (Some(user_id), Some(token)) => belongs_to_guest(hs, token, user_id).await?,
        (Some(user_id), None) => accounts::available(hs, user_id).await?,
        (None, Some(_)) => return Err(Error::missing_param("Missing parameter username: a guest must register under their own username")),
        (None, None) => {}
    }
    match interactive::require_of(hs, &call.raw, operation, None, flows, request.auth.as_ref()).await {
        Err(Error::Interactive(asked)) => {
            if let Some(session) = &asked.session {
                keep(&call, session, wanted, request.password.as_deref()).await?;
            }
            return Err(Error::Interactive(asked));
        }
        done => done?,
    }
    let hash = match (&wanted.password, &request.password) {
        (Some(hash), _) => hash.clone(),
        (None, Some(given)) => password::hash(hs, given).await?,
        (None, None) => {
            if let Some(session) = &session {
                keep(&call, session, wanted, None).await?;
            }
            return Err(Error::missing_param("Missing parameter password"));
        }
    };
    let account = NewAccount {
        user_id: wanted.user_id.unwrap_or_else(|| accounts::generated(hs)),
        kind: Kind::User { hash, was_guest: wanted.guest.is_some() },
        display_name: None,
        device_id: wanted.device_id,
        device_display_name: wanted.device_display_name,
        inhibit_login: wanted.inhibit_login.unwrap_or_default(),
        session,
    };
    create(hs, call.raw.generation, account).await
}

/// What a request wants together with what those before it in its session did; 403 where it wants
/// something else than they.
fn wanted(call: &Call, kept: PendingRegistration, request: &register::Request) -> Result<PendingRegistration> {
    /// ruma's request does not tell `false` from nothing.
    #[derive(Default, Deserialize)]
    struct Body {
        inhibit_login: Option<bool>,
    }
    fn agreed<T: PartialEq>(kept: Option<T>, given: Option<T>, what: &str) -> Result<Option<T>> {
        if kept.is_some() && given.is_some() && kept != given { Err(changed(what)) } else { Ok(given.or(kept)) }
    }
    let user_id = request.username.as_deref().map(|username| accounts::new_user_id(&call.hs, username)).transpose()?;
    let Body { inhibit_login } = serde_json::from_slice(&call.raw.body).unwrap_or_default();
    Ok(PendingRegistration {
        user_id: agreed(kept.user_id, user_id, "username")?,
        guest: agreed(kept.guest, request.guest_access_token.as_deref().map(token_hash), "guest's access token")?,
        device_id: agreed(kept.device_id, request.device_id.clone(), "device id")?,
        device_display_name: request.initial_device_display_name.clone().or(kept.device_display_name),
        inhibit_login: inhibit_login.or(kept.inhibit_login),
        password: kept.password,
    })
}

fn changed(what: &str) -> Error {
    Error::forbidden(format!("The {what} has changed during the registration session"))
}

/// Keeps what is wanted for the next request of the session, and of the password its hash alone.
async fn keep(call: &Call, session: &String, mut wanted: PendingRegistration, given: Option<&str>) -> Result<()> {
    let hs = &call.hs;
    if let (None, Some(given)) = (&wanted.password, given) {
        wanted.password = Some(password::hash(hs, given).await?);
    }
    if wanted != PendingRegistration::default() {
        let kept = hs.write(call.raw.generation, |tx| tables::PENDING_REGISTRATIONS.put(tx, session, &wanted));
        kept?.visible();
    }
    Ok(())
}

/// "All parameters in the request body with the exception of initial_device_display_name MUST BE
/// ignored by the server."
async fn register_guest(call: &Call, device_display_name: Option<String>) -> Result<Json> {
    let hs = &call.hs;
    if hs.config.registration != Registration::Open {
        return Err(Error::guest_access_forbidden("Guest access is disabled"));
    }
    take_turn(hs)?;
    devices::acceptable(None, device_display_name.as_deref())?;
    let account = NewAccount {
        user_id: accounts::generated(hs),
        kind: Kind::Guest,
        display_name: None,
        device_id: None,
        device_display_name,
        inhibit_login: false,
        session: None,
    };
    create(hs, call.raw.generation, account).await
}

fn take_turn(hs: &Homeserver) -> Result<()> {
    if hs.config.rate_limits {
        hs.rate_limits.registrations.take("", hs.host.now())?;
    }
    Ok(())
}

/// Guests become users by their own access token, under their own name.
async fn belongs_to_guest(hs: &Homeserver, token: &[u8; 32], user_id: &UserId) -> Result<()> {
    let session = tables::ACCESS_TOKENS.get(hs.store(), token).await?.filter(|session| session.user_id == user_id);
    match session {
        Some(session) if hs.is_guest(session.user).await? => Ok(()),
        _ => Err(Error::forbidden("Invalid guest_access_token for this username")),
    }
}

/// The answer to a registration that was not heard, for as long as its session lasts: the same
/// user, and the same device with a new access token. Whoever asks knows the password that the
/// account has, or the session that it was given in, if it has not changed since.
async fn repeated(call: &Call, made: tables::Registered, wanted: PendingRegistration, request: register::Request) -> Result<Json> {
    let hs = &call.hs;
    let user_id = hs.user_id(made.user).await?;
    if wanted.user_id.is_some_and(|wanted| wanted != user_id) {
        return Err(changed("username"));
    }
    let mut login = None;
    if made.device.is_some() {
        if request.device_id.is_some() && request.device_id != made.device {
            return Err(changed("device id"));
        }
        let checked = match (&request.password, &wanted.password) {
            (Some(given), _) => password::check(hs, &user_id, given).await?,
            (None, Some(hash)) => password::unchanged(hs, made.user, hash).await?,
            (None, None) => None,
        };
        let checked = checked.ok_or_else(|| Error::forbidden("The password of the account has changed since"))?;
        login = Some(accounts::log_in(hs, call.raw.generation, &checked, &user_id, made.device, request.initial_device_display_name).await?);
    }
    Ok(registered(hs, &user_id, login))
}

/// `GET /_matrix/client/v3/register/available`
pub async fn username_available(call: Call, request: get_username_availability::Request) -> Result<get_username_availability::Response> {
    flows(&call.hs)?;
    accounts::available(&call.hs, &accounts::new_user_id(&call.hs, &request.username)?).await?;
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
        Registration::Closed => Err(Error::forbidden("Registration has been disabled on this server")),
        Registration::Token(_) => Ok(vec![AuthFlow::new(vec![AuthType::RegistrationToken, AuthType::Dummy])]),
        Registration::Open => Ok(vec![AuthFlow::new(vec![AuthType::Dummy])]),
    }
}
