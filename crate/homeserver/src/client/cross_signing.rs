//! Cross-signing keys and the signatures made with them (Client-Server API, Cross-signing).

use super::{
    interactive,
    wire::{Confirmed, Json as Answer, Own},
};
use crate::{
    error::{Error, Result},
    keys::{
        self, Refused,
        cross_signing::{self, Keys, Uploaded},
    },
    router::UserCall,
    tables::CrossSigningUse,
};
use ephapse_events::Inserted;
use ruma::{
    OwnedUserId,
    api::client::keys::{
        upload_signatures::v3::{self as upload_signatures, Failure},
        upload_signing_keys::v3 as upload_signing_keys,
    },
};
use serde_json::json;
use std::collections::BTreeMap;

/// `POST /_matrix/client/v3/keys/device_signing/upload`
pub async fn upload_keys(call: UserCall, Confirmed(request): Confirmed<upload_signing_keys::Request>) -> Result<upload_signing_keys::Response> {
    let (hs, session) = (&call.hs, &call.session);
    let given = [
        (CrossSigningUse::Master, &request.master_key),
        (CrossSigningUse::SelfSigning, &request.self_signing_key),
        (CrossSigningUse::UserSigning, &request.user_signing_key),
    ];
    let mut new = Keys::new();
    for (used_for, key) in given {
        if let Some(key) = key {
            new.insert(used_for, cross_signing::checked(&session.user_id, used_for, key)?);
        }
    }
    let mut is_authenticated = false;
    while cross_signing::upload(hs, call.raw.generation, session.user, &session.user_id, &new, is_authenticated).await? == Uploaded::WouldReplace {
        interactive::require(&call, interactive::password_flow(), request.auth.as_ref()).await?;
        is_authenticated = true;
    }
    Ok(upload_signing_keys::Response::new())
}

/// `POST /_matrix/client/v3/keys/signatures/upload`: each key on its own; what is wrong with one is
/// in `failures`.
pub async fn upload_signatures(call: UserCall, Own(request): Own<upload_signatures::Request>) -> Result<Answer> {
    let (hs, session) = (&call.hs, &call.session);
    let signed = request.signed_keys.iter().map(|(user, keys)| (user.clone(), keys.iter().collect())).inserted();
    let failures = keys::upload_signatures(hs, call.raw.generation, session.user, &session.user_id, &signed).await?;
    let failures: BTreeMap<OwnedUserId, BTreeMap<String, Failure>> =
        failures.into_iter().map(|(user, keys)| (user, keys.into_iter().map(|(key, refused)| (key, failure(refused))).inserted())).inserted();
    // ruma's response would leave them out where there are none, and some clients look for them.
    Ok(Answer::of(&BTreeMap::from([("failures", failures)])))
}

fn failure(refused: Option<Refused>) -> Failure {
    let (errcode, message) = match refused.map(Error::from) {
        Some(Error::Matrix(error)) => (error.error_kind().map(|kind| kind.errcode().to_string()), Error::Matrix(error).to_string()),
        Some(error) => (None, error.to_string()),
        None => (None, "Internal server error".to_owned()),
    };
    let json = json!({ "errcode": errcode.unwrap_or_else(|| "M_UNKNOWN".to_owned()), "error": message });
    serde_json::from_value(json).expect("these are a failure's fields")
}
