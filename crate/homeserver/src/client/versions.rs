//! What this server is: versions, well-known (Client-Server API, 2 API Standards and 3 Server discovery).

use crate::{error::Result, router::Call};
use ruma::api::client::discovery::{
    discover_homeserver::{self, HomeserverInfo},
    get_supported_versions,
};

/// Parts of later versions, and proposals, that clients may rely on here although the version as a whole is not claimed.
const FEATURES: [&str; 4] = [
    // v1.4: receipts in threads, and unread counts for each thread in /sync.
    "org.matrix.msc3771",
    "org.matrix.msc3773",
    // v1.7: mentions by user id decide what notifies.
    "org.matrix.msc3952_intentional_mentions",
    // v1.10: relations of relations.
    "org.matrix.msc3981",
];

/// `GET /_matrix/client/versions`: v1.1 is the oldest version that today's clients accept; later ones are claimed when all of their endpoints are here.
pub async fn versions(_: Call, _: get_supported_versions::Request) -> Result<get_supported_versions::Response> {
    let mut response = get_supported_versions::Response::new(vec!["r0.6.1".to_owned(), "v1.1".to_owned()]);
    response.unstable_features = FEATURES.map(|feature| (feature.to_owned(), true)).into();
    Ok(response)
}

/// `GET /.well-known/matrix/client`
pub async fn well_known(call: Call, _: discover_homeserver::Request) -> Result<discover_homeserver::Response> {
    let base_url = call.hs.config.public_url.clone().unwrap_or_else(|| format!("https://{}", call.hs.server_name()));
    Ok(discover_homeserver::Response::new(HomeserverInfo::new(base_url)))
}
