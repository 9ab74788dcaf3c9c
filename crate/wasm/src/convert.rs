//! Requests and headers as JavaScript gives and takes them.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};

/// Header names and values in turn, as `[...request.headers].flat()` makes them.
pub type Headers = Vec<String>;

/// The core's request; the status to answer with when there can be none.
pub fn request(method: &str, path_and_query: &str, headers: Headers, body: Vec<u8>) -> Result<Request<Bytes>, StatusCode> {
    let mut request = Request::builder().method(method).uri(path_and_query);
    let mut headers = headers.into_iter();
    while let (Some(name), Some(value)) = (headers.next(), headers.next()) {
        request = request.header(name, value);
    }
    request.body(Bytes::from(body)).map_err(|error| {
        tracing::warn!("a request was not understood: {error}");
        StatusCode::BAD_REQUEST
    })
}

/// The headers of a response. JavaScript takes Latin-1 in values, and so does HTTP.
pub fn header_pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().iter().map(|&byte| char::from(byte)).collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_its_parts() {
        let headers = ["authorization", "Bearer t", "content-type", "application/json"].map(str::to_owned).to_vec();
        let request = request("PUT", "/_matrix/client/v3/x?a=b%20c", headers, b"{}".to_vec()).expect("a valid request");
        assert_eq!(request.method(), http::Method::PUT);
        assert_eq!(request.uri().path(), "/_matrix/client/v3/x");
        assert_eq!(request.uri().query(), Some("a=b%20c"));
        assert_eq!(request.headers()["authorization"], "Bearer t");
        assert_eq!(&request.body()[..], b"{}");
    }

    #[test]
    fn what_is_no_request_is_answered_400() {
        assert_eq!(request("G T", "/", Vec::new(), Vec::new()).map(|_| ()), Err(StatusCode::BAD_REQUEST));
        assert_eq!(request("GET", "/", vec!["a b".into(), "c".into()], Vec::new()).map(|_| ()), Err(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn header_values_are_latin_1() {
        let mut headers = HeaderMap::new();
        headers.insert("x-name", http::HeaderValue::from_bytes(b"caf\xe9").expect("a valid header value"));
        assert_eq!(header_pairs(&headers), [("x-name".to_owned(), "café".to_owned())]);
    }
}
