//! Filters that clients upload and name in later requests (Client-Server API, Filtering).

use super::wire::{Json, Own};
use crate::{
    damaged::Damaged,
    error::{Error, Result},
    router::UserCall,
    sync::filter,
    tables,
};
use ruma::{
    UserId,
    api::client::filter::{create_filter::v3 as create_filter, get_filter::v3 as get_filter},
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// Bytes of one filter.
const LARGEST: usize = 64 << 10;

/// `POST /_matrix/client/v3/user/{userId}/filter`: the id follows from the content, so that the
/// same filter is kept once. It is kept as it was sent, since clients compare what they get back
/// with what they would send.
pub async fn create(call: UserCall, request: create_filter::Request) -> Result<create_filter::Response> {
    own(&call, &request.user_id)?;
    let content = if call.raw.body.is_empty() { "{}" } else { str::from_utf8(&call.raw.body).map_err(|error| Error::bad_json(error.to_string()))? };
    if content.len() > LARGEST {
        return Err(Error::too_large(format!("Filter too large: at most {LARGEST} bytes are allowed")));
    }
    filter::check(&filter::parse(content).map_err(|error| Error::unreadable(&error))?)?;
    let id: String = Sha256::digest(content.as_bytes()).iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    let key = (call.session.user, id.clone());
    if tables::FILTERS.get(call.hs.store(), &key).await?.is_none() {
        let kept = call.hs.write(call.raw.generation, |tx| tables::FILTERS.put(tx, &key, &tables::Json(content.to_owned())));
        kept?.visible();
    }
    Ok(create_filter::Response::new(id))
}

/// `GET /_matrix/client/v3/user/{userId}/filter/{filterId}`
pub async fn get(call: UserCall, Own(request): Own<get_filter::Request>) -> Result<Json> {
    own(&call, &request.user_id)?;
    let stored = tables::FILTERS.get(call.hs.store(), &(call.session.user, request.filter_id)).await?;
    let content = stored.ok_or_else(|| Error::not_found("Filter not found"))?.0;
    let filter = RawValue::from_string(content).map_err(|error| Damaged::new("a stored filter", error))?;
    Ok(Json::of(&filter))
}

fn own(call: &UserCall, user: &UserId) -> Result<()> {
    if user == call.session.user_id { Ok(()) } else { Err(Error::forbidden("You can only access your own filters")) }
}
