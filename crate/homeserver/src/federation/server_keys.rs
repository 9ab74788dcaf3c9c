//! The key that this server signs with (Server-Server API, "Publishing keys").

use crate::{
    error::{Error, Result},
    homeserver::Homeserver,
    router::Call,
};
use ephapse_events::public_keys;
use ruma::{
    CanonicalJsonObject,
    api::federation::discovery::get_server_keys::v2::{Request, Response},
    serde::Raw,
    signatures::sign_json,
};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

/// How long the answer counts, in ms: "Servers MUST use the lesser of this field and 7 days into
/// the future". The key itself never changes.
const VALID_FOR: u64 = 7 * 24 * 60 * 60 * 1000;

/// `GET /_matrix/key/v2/server`
pub async fn own(call: Call, _: Request) -> Result<Response> {
    let keys = signed_keys(&call.hs).map_err(|error| Error::Internal(format!("could not sign the server's keys: {error}")))?;
    Ok(Response::new(Raw::from_json(keys)))
}

fn signed_keys(hs: &Homeserver) -> Result<Box<RawValue>, Box<dyn std::error::Error>> {
    let (name, key) = (hs.server_name(), hs.identity.key_pair());
    let verify_keys = public_keys(name, key).remove(name.as_str()).unwrap_or_default();
    let verify_keys: serde_json::Map<_, _> = verify_keys.into_iter().map(|(id, key)| (id, json!({ "key": key }))).collect();
    let mut keys: CanonicalJsonObject = serde_json::from_value(json!({
        "server_name": name,
        "verify_keys": verify_keys,
        "old_verify_keys": {},
        "valid_until_ts": hs.host.now() + VALID_FOR,
    }))?;
    sign_json(name.as_str(), key, &mut keys)?;
    Ok(to_raw_value(&keys)?)
}
