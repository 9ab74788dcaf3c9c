//! Where a request was sent to, as its client has it: from the connection, the Host header and what
//! a proxy says.

use http::{HeaderMap, HeaderValue, Request, Uri, header, uri::Authority, uri::Scheme};

/// What a proxy that ended TLS calls the scheme that its client used.
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// `request` with its target as the scheme and authority of its URI. A proxy is believed what the
/// scheme was, when it is `near`: on this machine or network; it passes on the Host header, and any
/// other header that names a host may be its client's invention. Without a Host that can be one,
/// neither is there.
pub fn with_target<B>(mut request: Request<B>, scheme: &Scheme, near: bool) -> Request<B> {
    let scheme = forwarded(request.headers()).filter(|_| near).unwrap_or_else(|| scheme.clone());
    let authority = authority(&request);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = authority.is_some().then_some(scheme);
    parts.authority = authority;
    *request.uri_mut() = Uri::from_parts(parts).expect("with an authority a scheme and a path, without one neither");
    request
}

/// Where the request line names one, it counts and not the header (RFC 9112, 3.2.2).
fn authority<B>(request: &Request<B>) -> Option<Authority> {
    // CONNECT has no path and OPTIONS may have `*`: nothing here is asked for by these.
    request.uri().path_and_query().filter(|path| path.as_str().starts_with('/'))?;
    let named = request.uri().authority().cloned();
    let host = || Authority::try_from(request.headers().get(header::HOST)?.as_bytes()).ok();
    named.or_else(host).filter(|authority| !authority.as_str().contains('@') && !authority.host().is_empty())
}

fn forwarded(headers: &HeaderMap<HeaderValue>) -> Option<Scheme> {
    match headers.get(FORWARDED_PROTO)?.as_bytes() {
        b"https" => Some(Scheme::HTTPS),
        b"http" => Some(Scheme::HTTP),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(uri: &str, headers: &[(&str, &str)], scheme: &Scheme, near: bool) -> String {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        with_target(request.body(()).expect("a request"), scheme, near).uri().to_string()
    }

    #[test]
    fn the_target_is_the_address_the_client_used() {
        assert_eq!(target("/a?b=c", &[("host", "localhost:8008")], &Scheme::HTTP, false), "http://localhost:8008/a?b=c");
        assert_eq!(target("/a", &[("host", "[::1]:8448")], &Scheme::HTTPS, false), "https://[::1]:8448/a");
        assert_eq!(target("http://m.example/a", &[("host", "other.example")], &Scheme::HTTPS, false), "https://m.example/a");
    }

    #[test]
    fn only_a_proxy_on_this_machine_or_network_sets_the_scheme() {
        let headers = [("host", "m.example"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "evil.example")];
        assert_eq!(target("/a", &headers, &Scheme::HTTP, true), "https://m.example/a");
        assert_eq!(target("/a", &headers, &Scheme::HTTP, false), "http://m.example/a");
        assert_eq!(target("/a", &[("host", "m.example"), ("x-forwarded-proto", "javascript")], &Scheme::HTTP, true), "http://m.example/a");
    }

    #[test]
    fn what_cannot_be_a_host_is_none() {
        for host in ["", "a b", "evil@m.example", "m.example/path", ":80"] {
            assert_eq!(target("/a?b", &[("host", host)], &Scheme::HTTP, true), "/a?b", "{host}");
        }
        assert_eq!(target("/a", &[], &Scheme::HTTP, true), "/a");
        assert_eq!(target("*", &[("host", "m.example")], &Scheme::HTTP, true), "*");
    }
}
