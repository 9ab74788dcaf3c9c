//! What this server allows its clients (Client-Server API, Capabilities negotiation).

use super::wire::{Json, Own};
use crate::{error::Result, router::UserCall};
use ephapse_events::{Inserted, ROOM_VERSIONS};
use ruma::api::client::discovery::get_capabilities::v3::Request;
use serde_json::json;
use std::collections::BTreeMap;

/// `GET /_matrix/client/v3/capabilities`: also what is so by default is said; ruma's response would
/// leave it out.
pub async fn capabilities(call: UserCall, _: Own<Request>) -> Result<Json> {
    let versions: BTreeMap<String, &str> = ROOM_VERSIONS.iter().map(|version| (version.to_string(), "stable")).inserted();
    let enabled = json!({ "enabled": true });
    let disabled = json!({ "enabled": false });
    Ok(Json::of(&json!({
        "capabilities": {
            "m.change_password": enabled,
            "m.room_versions": { "default": call.hs.config.default_room_version, "available": versions },
            "m.profile_fields": enabled,
            "m.set_displayname": enabled,
            "m.set_avatar_url": enabled,
            "m.3pid_changes": disabled,
            "m.get_login_token": disabled,
            "m.forget_forced_upon_leave": disabled,
        }
    })))
}
