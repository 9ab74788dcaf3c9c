//! Who somebody is that has an OpenID token of this server (Server-Server API, "OpenID"): for
//! whoever was given it, who need be no server.

use crate::{
    error::{Error, Result},
    openid,
    router::{Call, parameter},
};
use ruma::api::{
    IncomingRequest, Metadata,
    error::DeserializationError,
    federation::openid::get_openid_userinfo::v1::{Request, Response},
};

/// Whoever asks without a token is told that one is missing, as with other tokens.
pub struct UserInfo(Option<Request>);

impl Metadata for UserInfo {
    const METHOD: http::Method = Request::METHOD;
    const RATE_LIMITED: bool = Request::RATE_LIMITED;
    type Authentication = <Request as Metadata>::Authentication;
    type PathBuilder = <Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = Request::PATH_BUILDER;
}

impl IncomingRequest for UserInfo {
    type EndpointError = ruma::api::error::Error;
    type OutgoingResponse = Response;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        let has_token = request.uri().query().is_some_and(|query| parameter(query, "access_token").is_some());
        let request = has_token.then(|| Request::try_from_http_request_inner(request, path_args));
        request.transpose().map(Self)
    }
}

/// `GET /_matrix/federation/v1/openid/userinfo`
pub async fn userinfo(call: Call, UserInfo(request): UserInfo) -> Result<Response> {
    let request = request.ok_or_else(Error::missing_token)?;
    let user = openid::user_of(&call.hs, &request.access_token).await?;
    Ok(Response::new(user.ok_or_else(Error::unknown_token)?))
}
