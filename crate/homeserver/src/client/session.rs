//! Logging in and out (Client-Server API, Login and Session management).

use super::{
    devices::remove,
    password::{self, Checked},
    wire::Login,
};
use crate::{
    damaged::{Damaged, LeaveOut},
    devices,
    error::{Error, Result},
    homeserver::Homeserver,
    locks::LockKey,
    router::{Call, UserCall, token_hash},
    tables::{self, Device, Session, UserNid},
    transaction::Tx,
};
use ephapse_store::Direction;
use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId,
    api::client::session::{
        get_login_types::v3::{self as get_login_types, LoginType, PasswordLoginType},
        login::v3::{self as login, LoginInfo},
        logout::v3 as logout,
        logout_all::v3 as logout_all,
    },
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// `GET /_matrix/client/v3/login`
pub async fn login_types(_: Call, _: get_login_types::Request) -> Result<get_login_types::Response> {
    Ok(get_login_types::Response::new(vec![LoginType::Password(PasswordLoginType::new())]))
}

/// `POST /_matrix/client/v3/login`
pub async fn login(call: Call, Login(request): Login) -> Result<login::Response> {
    let hs = &call.hs;
    let LoginInfo::Password(given) = request.login_info else {
        return Err(Error::new(
            http::StatusCode::BAD_REQUEST,
            ruma::api::error::ErrorKind::Unknown,
            "Unknown login type: only m.login.password is supported",
        ));
    };
    devices::acceptable(request.device_id.as_deref(), request.initial_device_display_name.as_deref())?;
    #[allow(deprecated)]
    let user_id = match (&given.identifier, &given.user) {
        (Some(identifier), _) => password::identified(hs, identifier),
        // Before r0.4 the user stood beside the type.
        (None, Some(user)) => password::named(hs, user),
        (None, None) => return Err(Error::missing_param("Missing parameter identifier")),
    };
    let user_id = user_id.ok_or_else(refused)?;
    let checked = password::check(hs, &user_id, &given.password).await?.ok_or_else(refused)?;
    let (token, device) = log_in(&call, &checked, &user_id, request.device_id, request.initial_device_display_name).await?;
    let mut response = login::Response::new(user_id, token, device);
    // Deprecated since r0.4, but sent everywhere.
    #[allow(deprecated)]
    {
        response.home_server = Some(hs.server_name().to_owned());
    }
    Ok(response)
}

/// Gives a device, new or known, a new access token, if the password that was right still is.
pub async fn log_in(
    call: &Call,
    checked: &Checked,
    user_id: &OwnedUserId,
    device_id: Option<OwnedDeviceId>,
    display_name: Option<String>,
) -> Result<(String, OwnedDeviceId)> {
    let (hs, user) = (&call.hs, checked.user);
    let _lock = hs.lock(LockKey::Account(user_id.to_string())).await;
    // The account may have been deactivated or its password changed while this one was compared.
    if !checked.still_holds(tables::ACCOUNTS.get(hs.store(), &user).await?.as_ref()) {
        return Err(refused());
    }
    if let Some(device) = &device_id {
        is_no_cross_signing_key(hs, user, device).await?;
    }
    let new = NewSession::of(hs, user, user_id, device_id, display_name).await?;
    let change = if new.replaced.is_some() { None } else { Some(hs.device_list_change(user).await?) };
    let begun = hs.write(call.raw.generation, |tx| {
        new.begin(tx);
        if let Some(change) = change {
            tx.change(change);
        }
    });
    begun?.visible();
    let device = new.session.device;
    // A sync that is held with the token which the device had until now ends.
    hs.notify.wake_device(user, &device);
    Ok((new.token, device))
}

fn refused() -> Error {
    Error::forbidden("Invalid username or password")
}

/// "The given device ID must not be the same as a cross-signing key ID": the two share a namespace
/// in signatures.
async fn is_no_cross_signing_key(hs: &Homeserver, user: UserNid, device: &DeviceId) -> Result<()> {
    #[derive(Deserialize)]
    struct Key {
        keys: BTreeMap<String, String>,
    }
    for (_, stored) in tables::CROSS_SIGNING_KEYS.scan(hs.store(), &user, Direction::Forward, usize::MAX).await? {
        let key = serde_json::from_str::<Key>(&stored.0).map_err(|error| Damaged::new(format!("a cross-signing key of user number {user}"), error));
        let Some(key) = key.leave_out()? else { continue };
        if key.keys.values().any(|public| public == device.as_str()) {
            return Err(Error::forbidden("The device ID is already the ID of a cross-signing key"));
        }
    }
    Ok(())
}

/// A new access token of a device, new or known.
pub struct NewSession {
    /// The access token.
    pub token: String,
    /// Whose it is.
    pub session: Session,
    /// The device as it is from now on.
    device: Device,
    /// The hash of the token that a known device has had, which ends.
    replaced: Option<[u8; 32]>,
}

impl NewSession {
    /// For a device of a user; the account's lock must be held.
    pub async fn of(
        hs: &Homeserver,
        user: UserNid,
        user_id: &OwnedUserId,
        device_id: Option<OwnedDeviceId>,
        display_name: Option<String>,
    ) -> Result<Self> {
        let device_id = device_id.unwrap_or_else(|| hs.random_string(10).to_ascii_uppercase().into());
        let known = tables::DEVICES.get(hs.store(), &(user, device_id.clone())).await?;
        let replaced = known.as_ref().map(|known| known.token);
        let token = hs.random_string(43);
        // "Ignored if device_id corresponds to a known device."
        let display_name = known.map_or(display_name, |known| known.display_name);
        let device = Device { display_name, last_seen: hs.host.now(), token: token_hash(&token) };
        Ok(Self { token, session: Session { user, user_id: user_id.clone(), device: device_id }, device, replaced })
    }

    /// Gives the device the token.
    pub fn begin(&self, tx: &mut Tx) {
        if let Some(replaced) = &self.replaced {
            tables::ACCESS_TOKENS.delete(tx, replaced);
        }
        tables::DEVICES.put(tx, &(self.session.user, self.session.device.clone()), &self.device);
        tables::ACCESS_TOKENS.put(tx, &self.device.token, &self.session);
    }
}

/// `POST /_matrix/client/v3/logout`: the device goes with its token.
pub async fn logout(call: UserCall, _: logout::Request) -> Result<logout::Response> {
    remove(&call, &|device| *device == *call.session.device).await?;
    Ok(logout::Response::new())
}

/// `POST /_matrix/client/v3/logout/all`
pub async fn logout_all(call: UserCall, _: logout_all::Request) -> Result<logout_all::Response> {
    remove(&call, &|_| true).await?;
    Ok(logout_all::Response::new())
}
