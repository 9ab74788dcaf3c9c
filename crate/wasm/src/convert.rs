//! Requests and headers as JavaScript gives and takes them.

use ephapse_homeserver::Body;
use http::{HeaderMap, Request, StatusCode, header};
use http_body::Body as _;

/// Header names and values in turn, as `[...request.headers].flat()` makes them.
pub type Headers = Vec<String>;

/// The core's request; the status to answer with when there can be none.
pub fn request(method: &str, path_and_query: &str, headers: Headers, body: Body) -> Result<Request<Body>, StatusCode> {
    let mut request = Request::builder().method(method).uri(path_and_query);
    let mut headers = headers.into_iter();
    while let (Some(name), Some(value)) = (headers.next(), headers.next()) {
        request = request.header(name, value);
    }
    request.body(body).map_err(|error| {
        tracing::warn!("could not read a request: {error}");
        StatusCode::BAD_REQUEST
    })
}

/// The headers of a response, with the length of its body where that is known. JavaScript takes
/// Latin-1 in values, and so does HTTP.
pub fn header_pairs(headers: &HeaderMap, body: &Body) -> Vec<(String, String)> {
    let length = body.size_hint().exact().filter(|&length| length > 0).map(|length| (header::CONTENT_LENGTH.to_string(), length.to_string()));
    let pair =
        |(name, value): (&http::HeaderName, &http::HeaderValue)| (name.to_string(), value.as_bytes().iter().map(|&byte| char::from(byte)).collect());
    headers.iter().map(pair).chain(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_its_parts() {
        let headers = ["authorization", "Bearer t", "content-type", "application/json"].map(str::to_owned).to_vec();
        let request = request("PUT", "/_matrix/client/v3/x?a=b%20c", headers, Body::from("{}")).expect("a valid request");
        assert_eq!(request.method(), http::Method::PUT);
        assert_eq!(request.uri().path(), "/_matrix/client/v3/x");
        assert_eq!(request.uri().query(), Some("a=b%20c"));
        assert_eq!(request.headers()["authorization"], "Bearer t");
        assert_eq!(request.body().size_hint().exact(), Some(2));
    }

    #[test]
    fn what_is_no_request_is_answered_400() {
        assert_eq!(request("G T", "/", Vec::new(), Body::from("")).map(|_| ()), Err(StatusCode::BAD_REQUEST));
        assert_eq!(request("GET", "/", vec!["a b".into(), "c".into()], Body::from("")).map(|_| ()), Err(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn header_values_are_latin_1() {
        let mut headers = HeaderMap::new();
        headers.insert("x-name", http::HeaderValue::from_bytes(b"caf\xe9").expect("a valid header value"));
        let pairs = header_pairs(&headers, &Body::from("{}"));
        assert_eq!(pairs, [("x-name", "café"), ("content-length", "2")].map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
