//! Making accounts with a secret shared with the operator's tools, `/_synapse/admin/v1/register`:
//! not of the specification, but what the ecosystem's tools and test suites use, as Synapse
//! documents it (Shared-Secret Registration).
//!
//! Without the secret in the settings there is no such endpoint. `admin` is accepted and signed; no
//! account has special powers here.

use super::{register, wire::Json};
use crate::{
    accounts::{self, Kind, NewAccount, password, shared_secret},
    error::{Error, Result},
    homeserver::Homeserver,
    router::Call,
};
use http::{Method, StatusCode};
use ruma::{
    OwnedDeviceId,
    api::{
        IncomingRequest, Metadata,
        auth_scheme::NoAuthentication,
        error::{DeserializationError, Error as MatrixError, ErrorKind},
        path_builder::SinglePath,
    },
};
use serde::Deserialize;
use std::collections::BTreeMap;

const PATH: SinglePath = SinglePath::new("/_synapse/admin/v1/register");

/// `GET`: asks for a nonce.
pub struct GetNonce;

/// `POST`: makes the account.
#[derive(Deserialize)]
pub struct RegisterBySecret {
    nonce: String,
    username: String,
    password: String,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    displayname: Option<String>,
    device_id: Option<OwnedDeviceId>,
    #[serde(default)]
    inhibit_login: bool,
    /// HMAC-SHA1, in hexadecimal digits.
    mac: String,
}

/// `GET /_synapse/admin/v1/register`
pub async fn nonce(call: Call, _: GetNonce) -> Result<Json> {
    let hs = &call.hs;
    let secret = secret(hs)?;
    Ok(Json::of(&BTreeMap::from([("nonce", shared_secret::nonce(hs, secret))])))
}

/// `POST /_synapse/admin/v1/register`
pub async fn register(call: Call, request: RegisterBySecret) -> Result<Json> {
    let hs = &call.hs;
    let secret = secret(hs)?;
    if !shared_secret::is_nonce(hs, secret, &request.nonce) {
        return Err(Error::new(StatusCode::BAD_REQUEST, ErrorKind::Unknown, "Unrecognised nonce"));
    }
    let kind = if request.admin { "admin" } else { "notadmin" };
    let mut message = [&request.nonce, &request.username, &request.password, kind].join("\0");
    if let Some(user_type) = &request.user_type {
        message = [&message, user_type.as_str()].join("\0");
    }
    if !shared_secret::is_signature(secret, &message, &request.mac) {
        return Err(Error::forbidden("HMAC incorrect"));
    }
    password::acceptable(&request.password)?;
    let user_id = accounts::new_user_id(hs, &request.username)?;
    accounts::available(hs, &user_id).await?;
    let account = NewAccount {
        user_id,
        kind: Kind::User { hash: password::hash(hs, &request.password).await?, was_guest: false },
        display_name: request.displayname,
        device_id: request.device_id,
        device_display_name: None,
        inhibit_login: request.inhibit_login,
        session: None,
    };
    register::create(hs, call.raw.generation, account).await
}

fn secret(hs: &Homeserver) -> Result<&str> {
    hs.config.registration_shared_secret.as_deref().ok_or_else(Error::unrecognized)
}

impl Metadata for GetNonce {
    const METHOD: Method = Method::GET;
    const RATE_LIMITED: bool = false;
    type Authentication = NoAuthentication;
    type PathBuilder = SinglePath;
    const PATH_BUILDER: SinglePath = PATH;
}

impl IncomingRequest for GetNonce {
    type EndpointError = MatrixError;
    type OutgoingResponse = Json;

    fn try_from_http_request_inner(_: http::Request<&[u8]>, _: &[&str]) -> Result<Self, DeserializationError> {
        Ok(Self)
    }
}

impl Metadata for RegisterBySecret {
    const METHOD: Method = Method::POST;
    const RATE_LIMITED: bool = false;
    type Authentication = NoAuthentication;
    type PathBuilder = SinglePath;
    const PATH_BUILDER: SinglePath = PATH;
}

impl IncomingRequest for RegisterBySecret {
    type EndpointError = MatrixError;
    type OutgoingResponse = Json;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, _: &[&str]) -> Result<Self, DeserializationError> {
        Ok(serde_json::from_slice(request.body())?)
    }
}
