//! Logging in and out (Client-Server API, Login and Session management).

use super::{devices::remove, interactive::identified, wire::Login};
use crate::{
    accounts::{self, Refused, password},
    devices,
    error::{Error, Result},
    router::{Call, UserCall},
};
use ruma::api::client::session::{
    get_login_types::v3::{self as get_login_types, LoginType, PasswordLoginType},
    login::v3::{self as login, LoginInfo},
    logout::v3 as logout,
    logout_all::v3 as logout_all,
};

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
        (Some(identifier), _) => identified(hs, identifier),
        // Before r0.4 the user stood beside the type.
        (None, Some(user)) => accounts::named(hs, user),
        (None, None) => return Err(Error::missing_param("Missing parameter identifier")),
    };
    let user_id = user_id.ok_or(Refused::WrongPassword)?;
    let checked = password::check(hs, &user_id, &given.password).await?.ok_or(Refused::WrongPassword)?;
    let made = accounts::log_in(hs, call.raw.generation, &checked, &user_id, request.device_id, request.initial_device_display_name).await?;
    let mut response = login::Response::new(user_id, made.token, made.device);
    // Deprecated since r0.4, but sent everywhere.
    #[allow(deprecated)]
    {
        response.home_server = Some(hs.server_name().to_owned());
    }
    Ok(response)
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
