//! Answers whose JSON is written by types of our own, where ruma's leave something out.

use ruma::api::{
    BytesBody, IncomingRequest, Metadata, OutgoingResponse,
    error::{DeserializationError, IntoHttpError},
};
use serde::Serialize;

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
