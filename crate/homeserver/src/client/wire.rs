//! Requests and responses that ruma's types read or write otherwise than the specification.

use ruma::{
    OwnedDeviceId, OwnedUserId,
    api::{
        BytesBody, IncomingRequest, Metadata, OutgoingResponse,
        client::{account::register, session::login, uiaa::UiaaResponse},
        error::{DeserializationError, Error as MatrixError, IntoHttpError},
        path_builder::VersionHistory,
    },
};
use serde::{Deserialize, Serialize};

/// `POST /_matrix/client/v3/login`: ruma panics when the body has no `type`.
pub struct Login(pub login::v3::Request);

impl Metadata for Login {
    const METHOD: http::Method = login::v3::Request::METHOD;
    const RATE_LIMITED: bool = login::v3::Request::RATE_LIMITED;
    type Authentication = <login::v3::Request as Metadata>::Authentication;
    type PathBuilder = VersionHistory;
    const PATH_BUILDER: VersionHistory = login::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for Login {
    type EndpointError = MatrixError;
    type OutgoingResponse = login::v3::Response;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        #[derive(Deserialize)]
        struct HasType {
            #[serde(rename = "type")]
            _type: String,
        }
        serde_json::from_slice::<HasType>(request.body())?;
        login::v3::Request::try_from_http_request_inner(request, path_args).map(Self)
    }
}

/// `POST /_matrix/client/v3/register`: ruma writes `"device_id": null` when nobody was logged in.
pub struct Register(pub register::v3::Request);

/// The answer to [`Register`].
#[derive(Serialize)]
pub struct Registered {
    /// Who was made.
    pub user_id: OwnedUserId,
    /// Their first access token, unless a login was not wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// Their first device, unless a login was not wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<OwnedDeviceId>,
}

impl OutgoingResponse for Registered {
    type Body = BytesBody;

    fn try_into_http_response_inner(self) -> Result<http::Response<BytesBody>, IntoHttpError> {
        let mut response = http::Response::new(BytesBody(serde_json::to_vec(&self)?));
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        Ok(response)
    }
}

impl Metadata for Register {
    const METHOD: http::Method = register::v3::Request::METHOD;
    const RATE_LIMITED: bool = register::v3::Request::RATE_LIMITED;
    type Authentication = <register::v3::Request as Metadata>::Authentication;
    type PathBuilder = VersionHistory;
    const PATH_BUILDER: VersionHistory = register::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for Register {
    type EndpointError = UiaaResponse;
    type OutgoingResponse = Registered;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        register::v3::Request::try_from_http_request_inner(request, path_args).map(Self)
    }
}
