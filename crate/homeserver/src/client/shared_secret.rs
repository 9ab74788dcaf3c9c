//! Making accounts with a secret shared with the operator's tools, `/_synapse/admin/v1/register`:
//! not of the specification, but what the ecosystem's tools and test suites use, as Synapse
//! documents it (Shared-Secret Registration).
//!
//! Without the secret in the settings there is no such endpoint. `admin` is accepted and signed; no
//! account has special powers here.

use super::{register, wire::Json};
use crate::{
    accounts::{self, Kind, NewAccount, password},
    error::{Error, Result},
    homeserver::Homeserver,
    router::Call,
};
use hmac::{Hmac, KeyInit, Mac};
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
use sha1::Sha1;
use std::{collections::BTreeMap, time::Duration};

const PATH: SinglePath = SinglePath::new("/_synapse/admin/v1/register");

/// How long a nonce is good for.
const NONCE_LIFETIME: Duration = Duration::from_secs(60);

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
    let made = format!("{:x}.{}", hs.host.now(), hs.random_string(24));
    let mac = hex(&signed(secret, &made).finalize().into_bytes());
    Ok(Json::of(&BTreeMap::from([("nonce", format!("{made}.{mac}"))])))
}

/// `POST /_synapse/admin/v1/register`
pub async fn register(call: Call, request: RegisterBySecret) -> Result<Json> {
    let hs = &call.hs;
    let secret = secret(hs)?;
    if !is_ours(hs, secret, &request.nonce) {
        return Err(Error::new(StatusCode::BAD_REQUEST, ErrorKind::Unknown, "Unrecognised nonce"));
    }
    let kind = if request.admin { "admin" } else { "notadmin" };
    let mut message = [&request.nonce, &request.username, &request.password, kind].join("\0");
    if let Some(user_type) = &request.user_type {
        message = [&message, user_type.as_str()].join("\0");
    }
    if !is_signature(secret, &message, &request.mac) {
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

/// Nonces are signed rather than remembered: one used twice asks for a username that is taken.
fn is_ours(hs: &Homeserver, secret: &str, nonce: &str) -> bool {
    let Some((made, mac)) = nonce.rsplit_once('.') else { return false };
    let at = made.split_once('.').and_then(|(at, _)| u64::from_str_radix(at, 16).ok());
    is_signature(secret, made, mac) && at.is_some_and(|at| hs.host.now().saturating_sub(at) <= NONCE_LIFETIME.as_millis() as u64)
}

fn signed(secret: &str, message: &str) -> Hmac<Sha1> {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("keys of HMAC have any length");
    mac.update(message.as_bytes());
    mac
}

fn is_signature(secret: &str, message: &str, mac: &str) -> bool {
    unhex(mac).is_some_and(|mac| signed(secret, message).verify_slice(&mac).is_ok())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).ok());
    digits.map(|pair| pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())).collect()
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
