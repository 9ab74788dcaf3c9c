//! What this server is: versions, well-known (Client-Server API, 2 API Standards and 3 Server
//! discovery).

use crate::{error::Result, router::Call};
use http::Uri;
use ruma::api::client::discovery::{
    discover_homeserver::{self, HomeserverInfo},
    get_supported_versions,
};
use std::borrow::Cow;

/// Parts of later versions, and proposals, that clients may rely on here although the version as a
/// whole is not claimed.
const FEATURES: [&str; 7] = [
    // v1.4: receipts that are their user's alone.
    "org.matrix.msc2285.stable",
    // v1.4: receipts in threads, and unread counts for each thread in /sync.
    "org.matrix.msc3771",
    "org.matrix.msc3773",
    // v1.6: the event closest to a time.
    "org.matrix.msc3030",
    // v1.7: mentions by user id decide what notifies.
    "org.matrix.msc3952_intentional_mentions",
    // v1.10: relations of relations.
    "org.matrix.msc3981",
    // v1.11: files are downloaded with an access token.
    "org.matrix.msc3916.stable",
];

/// Parameters of queries by the names they had in those proposals: clients that see the feature and
/// not the version use them.
const PROPOSED_NAMES: [(&str, &str); 1] = [("org.matrix.msc3981.recurse", "recurse")];

/// Parameters of queries that name a place: an empty one names none, and is as good as absent.
const PLACES: [&str; 7] = ["from", "to", "at", "since", "next_batch", "before", "after"];

/// `uri`, with the names that the parameters of its query have in the specification, and without
/// those that say nothing.
pub fn with_stable_names(uri: &Uri) -> Uri {
    let Some(query) = uri.query() else { return uri.clone() };
    let stable = |parameter: &str| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if value.is_empty() && PLACES.contains(&name) {
            return None;
        }
        let named = PROPOSED_NAMES.iter().find(|(proposed, _)| *proposed == name).map(|(_, stable)| format!("{stable}={value}"));
        Some(named.unwrap_or_else(|| parameter.to_owned()))
    };
    let stable = query.split('&').filter_map(stable).collect::<Vec<_>>().join("&");
    if stable == query {
        return uri.clone();
    }
    // A query that is shorter is as good as the one that was sent.
    format!("{}?{stable}", uri.path()).parse().unwrap_or_else(|_| uri.clone())
}

/// `path`, where it is one of files as the oldest clients say it.
pub fn with_stable_path(path: &str) -> Cow<'_, str> {
    // What is new in v1 is there as it is.
    match path.strip_prefix("/_matrix/media/v1/").filter(|rest| *rest != "create") {
        Some(rest) => format!("/_matrix/media/v3/{rest}").into(),
        None => path.into(),
    }
}

/// `GET /_matrix/client/versions`: v1.1 is the oldest version that today's clients accept; later
/// ones are claimed when all of their endpoints are here.
pub async fn versions(_: Call, _: get_supported_versions::Request) -> Result<get_supported_versions::Response> {
    let mut response = get_supported_versions::Response::new(vec!["r0.6.1".to_owned(), "v1.1".to_owned()]);
    response.unstable_features = FEATURES.map(|feature| (feature.to_owned(), true)).into();
    Ok(response)
}

/// `GET /.well-known/matrix/client`: the base URL that the operator gave, or the one that this
/// request came by, which reached the server.
pub async fn well_known(call: Call, _: discover_homeserver::Request) -> Result<discover_homeserver::Response> {
    let base_url = match (&call.hs.config.public_url, &call.raw.origin) {
        (Some(url), _) => url.clone(),
        (None, Some((scheme, authority))) => format!("{scheme}://{authority}"),
        (None, None) => format!("https://{}", call.hs.server_name()),
    };
    Ok(discover_homeserver::Response::new(HomeserverInfo::new(base_url)))
}
