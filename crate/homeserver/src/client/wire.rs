//! Requests and responses that ruma's types read or write otherwise than the specification.

use ruma::{
    OwnedUserId,
    api::{
        BytesBody, IncomingRequest, Metadata, OutgoingResponse,
        client::{profile::set_profile_field, push::set_pushrule, session::login},
        error::{DeserializationError, Error as MatrixError, IntoHttpError},
    },
};
use serde::{Deserialize, Serialize, de};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// A request of ruma's that is answered with [`Json`].
pub struct Own<R>(pub R);

impl<R: Metadata> Metadata for Own<R> {
    const METHOD: http::Method = R::METHOD;
    const RATE_LIMITED: bool = R::RATE_LIMITED;
    type Authentication = R::Authentication;
    type PathBuilder = R::PathBuilder;
    const PATH_BUILDER: R::PathBuilder = R::PATH_BUILDER;
}

impl<R: IncomingRequest> IncomingRequest for Own<R> {
    type EndpointError = R::EndpointError;
    type OutgoingResponse = Json;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        R::try_from_http_request_inner(request, path_args).map(Self)
    }
}

/// A 200 with a body of our own.
pub struct Json(Vec<u8>);

impl Json {
    /// The answer that says `value`.
    pub fn of(value: &impl Serialize) -> Self {
        Self(serde_json::to_vec(value).expect("our own answers can be written as JSON"))
    }
}

impl OutgoingResponse for Json {
    type Body = BytesBody;

    fn try_into_http_response_inner(self) -> Result<http::Response<BytesBody>, IntoHttpError> {
        let mut response = http::Response::new(BytesBody(self.0));
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        Ok(response)
    }
}

/// `POST /_matrix/client/v3/login`: ruma panics when the body has no `type`.
pub struct Login(pub login::v3::Request);

impl Metadata for Login {
    const METHOD: http::Method = login::v3::Request::METHOD;
    const RATE_LIMITED: bool = login::v3::Request::RATE_LIMITED;
    type Authentication = <login::v3::Request as Metadata>::Authentication;
    type PathBuilder = <login::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = login::v3::Request::PATH_BUILDER;
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

/// `PUT /_matrix/client/v3/profile/{userId}/{keyName}`: what is missing or wrong in the body has errors of its own here, so it comes as it was sent.
pub struct SetProfileField {
    /// Whose profile.
    pub user_id: OwnedUserId,
    /// The field.
    pub field: String,
    /// What the body says of it, if anything.
    pub value: Option<Box<RawValue>>,
}

impl Metadata for SetProfileField {
    const METHOD: http::Method = set_profile_field::v3::Request::METHOD;
    const RATE_LIMITED: bool = set_profile_field::v3::Request::RATE_LIMITED;
    type Authentication = <set_profile_field::v3::Request as Metadata>::Authentication;
    type PathBuilder = <set_profile_field::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = set_profile_field::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for SetProfileField {
    type EndpointError = MatrixError;
    type OutgoingResponse = set_profile_field::v3::Response;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        let arguments = de::value::SeqDeserializer::<_, de::value::Error>::new(path_args.iter().copied());
        let (user_id, field): (OwnedUserId, String) = Deserialize::deserialize(arguments)?;
        let mut body: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(request.body())?;
        let value = body.remove(&field);
        Ok(Self { user_id, field, value })
    }
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`: ruma wants `conditions`, which "a rule with no conditions" has not.
pub struct SetPushRule(pub set_pushrule::v3::Request);

impl Metadata for SetPushRule {
    const METHOD: http::Method = set_pushrule::v3::Request::METHOD;
    const RATE_LIMITED: bool = set_pushrule::v3::Request::RATE_LIMITED;
    type Authentication = <set_pushrule::v3::Request as Metadata>::Authentication;
    type PathBuilder = <set_pushrule::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = set_pushrule::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for SetPushRule {
    type EndpointError = MatrixError;
    type OutgoingResponse = set_pushrule::v3::Response;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        let (parts, body) = request.into_parts();
        let mut body: BTreeMap<String, serde_json::Value> = serde_json::from_slice(body)?;
        body.entry("conditions".to_owned()).or_insert_with(|| serde_json::Value::Array(Vec::new()));
        let body = serde_json::to_vec(&body)?;
        let request = http::Request::from_parts(parts, body.as_slice());
        set_pushrule::v3::Request::try_from_http_request_inner(request, path_args).map(Self)
    }
}
