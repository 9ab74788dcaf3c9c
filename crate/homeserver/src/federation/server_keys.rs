//! The key that this server signs with, and those of others, as a notary (Server-Server API,
//! "Publishing keys", "Querying keys through another server").

use crate::{
    error::{Error, Result},
    homeserver::Homeserver,
    router::{Call, parameter},
};
use ephapse_events::{Inserted, public_keys};
use ruma::{
    CanonicalJsonObject, OwnedServerName, ServerName,
    api::{
        IncomingRequest, Metadata,
        error::DeserializationError,
        federation::discovery::{
            ServerSigningKeys,
            get_remote_server_keys::v2 as get_remote_server_keys,
            get_remote_server_keys_batch::v2::{Request as BatchRequest, Response as BatchResponse},
            get_server_keys::v2::{Request, Response},
        },
        path_builder::SinglePath,
    },
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

/// How many servers' keys are asked for in one request.
const MOST_SERVERS: usize = 100;

/// `GET /_matrix/key/v2/server`
pub async fn own(call: Call, _: Request) -> Result<Response> {
    let keys = signed_keys(&call.hs).map_err(|error| Error::Internal(format!("could not sign the server's keys: {error}")))?;
    Ok(Response::new(Raw::from_json(keys)))
}

fn signed_keys(hs: &Homeserver) -> Result<Box<RawValue>, Box<dyn std::error::Error>> {
    let (name, key) = (hs.server_name(), hs.identity.key_pair());
    let verify_keys = public_keys(name, key).remove(name.as_str()).unwrap_or_default();
    let verify_keys: serde_json::Map<_, _> = verify_keys.into_iter().map(|(id, key)| (id, json!({ "key": key }))).inserted();
    let mut keys: CanonicalJsonObject = serde_json::from_value(json!({
        "server_name": name,
        "verify_keys": verify_keys,
        "old_verify_keys": {},
        "valid_until_ts": hs.host.now() + VALID_FOR,
    }))?;
    sign_json(name.as_str(), key, &mut keys)?;
    Ok(to_raw_value(&keys)?)
}

/// `GET /_matrix/key/v2/query/{serverName}`, without ruma's default for the time, which would ask
/// the system's clock.
pub struct NotaryRequest {
    server: OwnedServerName,
    valid_until: Option<u64>,
}

impl Metadata for NotaryRequest {
    const METHOD: http::Method = get_remote_server_keys::Request::METHOD;
    const RATE_LIMITED: bool = false;
    type Authentication = <get_remote_server_keys::Request as Metadata>::Authentication;
    type PathBuilder = <get_remote_server_keys::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = get_remote_server_keys::Request::PATH_BUILDER;
}

impl IncomingRequest for NotaryRequest {
    type EndpointError = ruma::api::error::Error;
    type OutgoingResponse = get_remote_server_keys::Response;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        let server = path_args.first().copied().unwrap_or_default();
        let valid_until = request.uri().query().and_then(|query| parameter(query, "minimum_valid_until_ts"));
        Ok(Self { server: OwnedServerName::try_from(server)?, valid_until: valid_until.and_then(|time| time.parse().ok()) })
    }
}

/// As [`Request`] and [`NotaryRequest`], with the id of a key at the end of the path: until v1.6 it
/// could be named, and servers ask so still. All keys are answered all the same.
pub struct WithKeyId<R>(R);

/// Where such a request is sent to.
pub trait PathWithKeyId {
    /// The path.
    const PATH: SinglePath;
}

impl PathWithKeyId for Request {
    const PATH: SinglePath = SinglePath::new("/_matrix/key/v2/server/{key_id}");
}

impl PathWithKeyId for NotaryRequest {
    const PATH: SinglePath = SinglePath::new("/_matrix/key/v2/query/{server_name}/{key_id}");
}

impl<R: Metadata + PathWithKeyId> Metadata for WithKeyId<R> {
    const METHOD: http::Method = R::METHOD;
    const RATE_LIMITED: bool = false;
    type Authentication = R::Authentication;
    type PathBuilder = SinglePath;
    const PATH_BUILDER: SinglePath = R::PATH;
}

impl<R: IncomingRequest + PathWithKeyId> IncomingRequest for WithKeyId<R> {
    type EndpointError = R::EndpointError;
    type OutgoingResponse = R::OutgoingResponse;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        let without_key = &path_args[..path_args.len().saturating_sub(1)];
        R::try_from_http_request_inner(request, without_key).map(Self)
    }
}

/// `GET /_matrix/key/v2/server/{keyId}`
pub async fn own_with_key_id(call: Call, WithKeyId(request): WithKeyId<Request>) -> Result<Response> {
    own(call, request).await
}

/// `GET /_matrix/key/v2/query/{serverName}/{keyId}`
pub async fn notarized_with_key_id(call: Call, WithKeyId(request): WithKeyId<NotaryRequest>) -> Result<get_remote_server_keys::Response> {
    notarized(call, request).await
}

/// `GET /_matrix/key/v2/query/{serverName}`
pub async fn notarized(call: Call, request: NotaryRequest) -> Result<get_remote_server_keys::Response> {
    let until = request.valid_until.unwrap_or_else(|| call.hs.host.now());
    let document = document(&call.hs, &request.server, until).await?;
    Ok(get_remote_server_keys::Response::new(document.into_iter().collect()))
}

/// `POST /_matrix/key/v2/query`
pub async fn notarized_many(call: Call, request: BatchRequest) -> Result<BatchResponse> {
    if request.server_keys.len() > MOST_SERVERS {
        return Err(Error::too_large(format!("Too many servers in one request: at most {MOST_SERVERS} are allowed")));
    }
    let mut documents = Vec::new();
    for (server, keys) in &request.server_keys {
        let until = keys.values().filter_map(|criteria| criteria.minimum_valid_until_ts).max();
        let until = until.map_or_else(|| call.hs.host.now(), |until| u64::from(until.get()));
        documents.extend(document(&call.hs, server, until).await?);
    }
    Ok(BatchResponse::new(documents))
}

/// What a server says of its keys, signed by this one too.
async fn document(hs: &Homeserver, server: &ServerName, until: u64) -> Result<Option<Raw<ServerSigningKeys>>> {
    let unsigned = |error: &dyn std::fmt::Display| Error::Internal(format!("could not sign the keys of {server}: {error}"));
    if server == hs.server_name() {
        return Ok(Some(Raw::from_json(signed_keys(hs).map_err(|error| unsigned(&error))?)));
    }
    let Some(stored) = hs.key_document(server, until).await? else { return Ok(None) };
    let mut keys: CanonicalJsonObject = serde_json::from_str(&stored.json.0).map_err(|error| unsigned(&error))?;
    sign_json(hs.server_name().as_str(), hs.identity.key_pair(), &mut keys).map_err(|error| unsigned(&error))?;
    Ok(Some(Raw::from_json(to_raw_value(&keys).map_err(|error| unsigned(&error))?)))
}
