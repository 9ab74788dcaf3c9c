//! The one place where what went wrong becomes an errcode and an HTTP status.

use crate::{config::Config, damaged::Damaged, failure::Failure, request_log::RequestLog};
use ephapse_store::StoreError;
use ruma::RoomId;
use ruma::api::{
    OutgoingResponseExt,
    client::uiaa::UiaaInfo,
    error::{Error as MatrixError, ErrorBody, ErrorKind, LimitExceededErrorData, RetryAfter, StandardErrorBody, UnknownTokenErrorData},
};
use serde::Serialize;
use std::{fmt, time::Duration};

use http::StatusCode;

/// Why a request is not answered 200.
#[derive(Debug)]
pub enum Error {
    /// An error of the specification.
    Matrix(Box<MatrixError>),
    /// The client has to authenticate this request (401 with the stages).
    Interactive(Box<UiaaInfo>),
    /// The store could not do its part.
    Store(StoreError),
    /// Something stored cannot be read; the text is for the log.
    Damaged(Damaged),
    /// An invariant of ours is broken; the text is for the log.
    Internal(String),
}

/// What a handler answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the specification, with a message in plain words: those of libraries lose what
    /// they say of our types.
    pub fn new(status: StatusCode, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::Matrix(Box::new(MatrixError::new(status, ErrorBody::Standard(StandardErrorBody::new(kind, plain(message.into()))))))
    }

    /// 403 M_FORBIDDEN.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorKind::Forbidden, message)
    }

    /// 404 M_NOT_FOUND.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorKind::NotFound, message)
    }

    /// 400 M_INVALID_PARAM.
    pub fn invalid_param(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::InvalidParam, message)
    }

    /// 400 M_MISSING_PARAM.
    pub fn missing_param(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::MissingParam, message)
    }

    /// 400 M_BAD_JSON.
    pub fn bad_json(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::BadJson, message)
    }

    /// 400 M_NOT_JSON.
    pub fn not_json(reason: impl fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::NotJson, format!("Content not JSON: {reason}"))
    }

    /// 400 M_BAD_JSON for JSON that is not what a type of ours reads.
    pub fn unreadable(error: &serde_json::Error) -> Self {
        let text = error.to_string();
        Self::bad_json(missing(&text).map_or_else(|| format!("Invalid JSON content: {text}"), |field| format!("Missing parameter {field}")))
    }

    /// 400 M_INVALID_SIGNATURE.
    pub fn invalid_signature(message: impl Into<String>) -> Self {
        let kind = serde_json::from_str(r#"{"errcode":"M_INVALID_SIGNATURE"}"#).expect("every errcode is a kind, also one that ruma has no name for");
        Self::new(StatusCode::BAD_REQUEST, kind, message)
    }

    /// 403 M_GUEST_ACCESS_FORBIDDEN.
    pub fn guest_access_forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorKind::GuestAccessForbidden, message)
    }

    /// 413 M_TOO_LARGE.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::TooLarge, message)
    }

    /// 404 M_UNRECOGNIZED: no such endpoint here.
    pub fn unrecognized() -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorKind::Unrecognized, "Unrecognized request")
    }

    /// 400 M_UNRECOGNIZED: the endpoint is here, but not what its path names.
    pub fn unrecognized_part() -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::Unrecognized, "Unrecognized request")
    }

    /// 405 M_UNRECOGNIZED: the endpoint has no such method.
    pub fn wrong_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorKind::Unrecognized, "Method not allowed")
    }

    /// 401 M_MISSING_TOKEN.
    pub fn missing_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorKind::MissingToken, "Missing access token")
    }

    /// 401 M_UNAUTHORIZED: it is not known which server asks.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorKind::Unauthorized, message)
    }

    /// 401 M_UNKNOWN_TOKEN.
    pub fn unknown_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorKind::UnknownToken(UnknownTokenErrorData::new()), "Unrecognised access token: log in again")
    }

    /// Whether a restricted room could be joined on the word of another server, perhaps: nobody
    /// here may invite to it, or it is not known here who may join.
    pub fn is_for_others_to_grant(&self) -> bool {
        let kind = match self {
            Self::Matrix(error) => error.error_kind(),
            _ => None,
        };
        matches!(kind, Some(ErrorKind::UnableToGrantJoin | ErrorKind::UnableToAuthorizeJoin))
    }

    /// 429 M_LIMIT_EXCEEDED.
    pub fn limit_exceeded(retry_after: Duration) -> Self {
        let mut data = LimitExceededErrorData::new();
        data.retry_after = Some(RetryAfter::Delay(retry_after));
        Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorKind::LimitExceeded(data), "Too many requests")
    }

    /// Says in which room something stored is damaged.
    pub(crate) fn in_room(self, room: &RoomId) -> Self {
        match self {
            Self::Damaged(damaged) => Self::Damaged(Damaged::new(format!("room {room}"), damaged)),
            Self::Store(StoreError::Unreadable(damaged)) => Self::Damaged(Damaged::new(format!("room {room}"), damaged)),
            other => other,
        }
    }

    /// The answer to the request that `log` tells of; the configuration says what is told when
    /// storage is full.
    pub(crate) fn into_response(self, config: &Config, log: &RequestLog) -> http::Response<Vec<u8>> {
        let answer = match self {
            Self::Matrix(error) => error.try_into_http_response(),
            Self::Interactive(info) => return interactive(&info),
            Self::Store(error) => store_error(error, config, log).try_into_http_response(),
            error @ (Self::Damaged(_) | Self::Internal(_)) => {
                log.error(&error);
                unknown("Internal server error").try_into_http_response()
            }
        };
        answer.unwrap_or_else(|error| {
            log.error(&format_args!("could not serialize an error: {error}"));
            let mut response = http::Response::new(br#"{"errcode":"M_UNKNOWN","error":"Internal server error"}"#.to_vec());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}

/// The field that is missing, where serde says that one is.
pub(crate) fn missing(text: &str) -> Option<&str> {
    text.split_once("missing field `")?.1.split('`').next()
}

/// What serde says without what it knows of our types: `invalid type: sequence, expected struct
/// Filter at line 1 column 2`.
fn plain(text: String) -> String {
    let is_ours = [", expected ", "untagged enum", "`js_int::"].iter().any(|ours| text.contains(ours));
    if !is_ours {
        return text;
    }
    let place = text.rfind(" at line ").map_or("", |at| &text[at..]);
    let said = text.strip_suffix(place).unwrap_or(&text);
    let said = said.split_once(", expected ").map_or(said, |(found, _)| found);
    let (before, last) = said.rsplit_once(": ").map_or(("", said), |(before, last)| (&said[..before.len() + 2], last));
    let last = match last {
        number if number.contains("`js_int::") => "a number is too large, or not an integer",
        choice if choice.contains("untagged enum") => "a value does not match any allowed form",
        other => other,
    };
    format!("{before}{last}{place}")
}

/// The stages that are left; ruma's answer would leave out `completed` where there are none, and
/// some clients look for it.
fn interactive(info: &UiaaInfo) -> http::Response<Vec<u8>> {
    #[derive(Serialize)]
    struct UiaaResponse<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        completed: Option<[(); 0]>,
        #[serde(flatten)]
        info: &'a UiaaInfo,
    }
    let response = UiaaResponse { completed: info.completed.is_empty().then_some([]), info };
    let mut response = http::Response::new(serde_json::to_vec(&response).expect("our own answers can be written as JSON"));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn unknown(message: &str) -> MatrixError {
    MatrixError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorBody::Standard(StandardErrorBody::new(ErrorKind::Unknown, message.to_owned())))
}

fn store_error(error: StoreError, config: &Config, log: &RequestLog) -> MatrixError {
    use ruma::api::error::ResourceLimitExceededErrorData;
    match error {
        StoreError::QuotaExceeded => {
            let kind = ErrorKind::ResourceLimitExceeded(ResourceLimitExceededErrorData::new(config.admin_contact.clone()));
            MatrixError::new(StatusCode::FORBIDDEN, ErrorBody::Standard(StandardErrorBody::new(kind, config.storage_full.clone())))
        }
        StoreError::Fenced | StoreError::Closed | StoreError::RolledBack => {
            log.warn(&error);
            let body = StandardErrorBody::new(ErrorKind::Unknown, "The server is restarting: try again".to_owned());
            MatrixError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorBody::Standard(body))
        }
        StoreError::Unreadable(_) => {
            log.error(&error);
            unknown("Internal server error")
        }
        StoreError::NewerFormat { .. } | StoreError::InUse | StoreError::Damaged { .. } | StoreError::DamagedLog { .. } | StoreError::Platform(_) => {
            log.error(&error);
            unknown("Internal server error: storage failed")
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matrix(error) => f.write_str(message(error)),
            Self::Interactive(_) => f.write_str("This request needs user-interactive authentication"),
            Self::Store(error) => error.fmt(f),
            Self::Damaged(damaged) => damaged.fmt(f),
            Self::Internal(text) => f.write_str(text),
        }
    }
}

/// What an error says, without its errcode and status: messages may be part of others.
fn message(error: &MatrixError) -> &str {
    match &error.body {
        ErrorBody::Standard(body) => &body.message,
        _ => "The request was refused",
    }
}

impl std::error::Error for Error {}

impl From<Damaged> for Error {
    fn from(damaged: Damaged) -> Self {
        Self::Damaged(damaged)
    }
}

impl<R> From<Failure<R>> for Error
where
    Self: From<R>,
{
    fn from(failure: Failure<R>) -> Self {
        match failure {
            Failure::Refused(refused) => refused.into(),
            Failure::Store(error) => Self::Store(error),
            Failure::Damaged(damaged) => Self::Damaged(damaged),
            Failure::Internal(text) => Self::Internal(text),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, plain};

    #[test]
    fn what_serde_says_of_types_is_left_out() {
        for (said, shown) in [
            ("invalid type: sequence, expected struct Filter at line 1 column 2", "invalid type: sequence at line 1 column 2"),
            ("invalid length 1, expected struct RequestBody with 12 elements at line 1 column 5", "invalid length 1 at line 1 column 5"),
            ("data did not match any variant of untagged enum Key", "a value does not match any allowed form"),
            ("number found is not a valid `js_int::Int` at line 1 column 75", "a number is too large, or not an integer at line 1 column 75"),
            ("not canonical: number found is not a valid `js_int::Int`", "not canonical: a number is too large, or not an integer"),
            ("unexpected format of `ban`: invalid type: null, expected i64", "unexpected format of `ban`: invalid type: null"),
            ("You are not in this room", "You are not in this room"),
        ] {
            assert_eq!(plain(said.to_owned()), shown);
        }
    }

    #[test]
    fn an_error_inside_a_sentence_has_no_codes() {
        assert_eq!(Error::not_found("Key not found").to_string(), "Key not found");
    }
}
