//! One's own account: who am I, a new password, the end (Client-Server API, Account management).

use super::{
    interactive,
    wire::{Confirmed, Json, Own},
};
use crate::{
    accounts::{self, password},
    error::Result,
    router::UserCall,
};
use ruma::api::client::account::{
    ThirdPartyIdRemovalStatus, change_password::v3 as change_password, deactivate::v3 as deactivate, whoami::v3 as whoami,
};
use serde_json::json;

/// `GET /_matrix/client/v3/account/whoami`
pub async fn whoami(call: UserCall, _: Own<whoami::Request>) -> Result<Json> {
    Ok(Json::of(&json!({ "user_id": call.session.user_id, "device_id": call.session.device, "is_guest": call.is_guest() })))
}

/// `POST /_matrix/client/v3/account/password`
pub async fn change_password(call: UserCall, Confirmed(request): Confirmed<change_password::Request>) -> Result<change_password::Response> {
    let (hs, session) = (&call.hs, &call.session);
    password::acceptable(&request.new_password)?;
    interactive::require(&call, interactive::password_flow(), request.auth.as_ref()).await?;
    let hash = password::hash(hs, &request.new_password).await?;
    accounts::change_password(hs, call.raw.generation, session, hash, request.logout_devices).await?;
    Ok(change_password::Response::new())
}

/// `POST /_matrix/client/v3/account/deactivate`
pub async fn deactivate(call: UserCall, Confirmed(request): Confirmed<deactivate::Request>) -> Result<deactivate::Response> {
    let (hs, session) = (&call.hs, &call.session);
    interactive::require(&call, interactive::password_flow(), request.auth.as_ref()).await?;
    accounts::deactivate(hs, call.raw.generation, session.user, &session.user_id, request.erase).await?;
    // No third-party identifiers are kept here, so there was nothing to unbind.
    Ok(deactivate::Response::new(ThirdPartyIdRemovalStatus::Success))
}
