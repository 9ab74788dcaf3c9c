//! What this server is: versions, well-known (Client-Server API, 2 API Standards and 3 Server discovery).

use crate::{error::Result, router::Call};
use ruma::api::client::discovery::{
    discover_homeserver::{self, HomeserverInfo},
    get_supported_versions,
};
use std::collections::BTreeMap;

/// `GET /_matrix/client/versions`: a version is named only when clients may rely on all of it.
pub async fn versions(_: Call, _: get_supported_versions::Request) -> Result<get_supported_versions::Response> {
    let versions = ["r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10"].map(str::to_owned).to_vec();
    let mut response = get_supported_versions::Response::new(versions);
    response.unstable_features = BTreeMap::new();
    Ok(response)
}

/// `GET /.well-known/matrix/client`
pub async fn well_known(call: Call, _: discover_homeserver::Request) -> Result<discover_homeserver::Response> {
    let base_url = call.hs.config.public_url.clone().unwrap_or_else(|| format!("https://{}", call.hs.server_name()));
    Ok(discover_homeserver::Response::new(HomeserverInfo::new(base_url)))
}
