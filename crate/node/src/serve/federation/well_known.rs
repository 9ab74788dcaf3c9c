//! `/.well-known/matrix/server`: the name that a domain's web server says for its Matrix server
//! (Server-Server API, "Resolving server names", 3).

use super::HttpsClient;
use bytes::Bytes;
use hashlink::LruCache;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri,
    header::{CACHE_CONTROL, CONNECTION, EXPIRES, HOST, LOCATION, USER_AGENT},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use std::{cell::RefCell, rc::Rc, time::SystemTime};
use tokio::{
    sync::Mutex,
    time::{Duration, Instant, timeout},
};
use url::Url;

/// How long the answer may take, with all that it redirects to.
const WITHIN: Duration = Duration::from_secs(10);

/// Bytes of the answer.
const LARGEST: usize = 50 << 10;

/// Redirects that are followed.
const MOST_REDIRECTS: usize = 10;

/// Domains of which it is remembered what they said: those that were asked last.
const MOST_REMEMBERED: usize = 10_000;

/// How long an answer counts that does not say it.
const USUAL: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an answer counts at most, and at least. "Servers should additionally impose a maximum
/// cache time for responses: 48 hours is recommended."
const LONGEST: Duration = Duration::from_secs(48 * 60 * 60);
const SHORTEST: Duration = Duration::from_secs(5 * 60);

/// How long it counts that a domain says nothing of this. "Errors are recommended to be cached for
/// up to an hour, and servers are encouraged to exponentially back off for repeated failures."
const OF_ERROR: Duration = Duration::from_secs(60 * 60);

/// How long after it did not answer a domain is asked again the first time.
const FIRST_RETRY: Duration = Duration::from_secs(2 * 60);

/// What domains have said.
pub struct WellKnown {
    client: HttpsClient,
    /// The port of web servers.
    port: u16,
    domains: RefCell<LruCache<String, Rc<Mutex<Option<Said>>>>>,
}

/// What a domain said last.
struct Said {
    server: Option<OwnedServerName>,
    /// When it said so.
    at: Instant,
    /// When it is asked again.
    until: Instant,
    /// How often it has not answered since.
    failures: u32,
}

/// Why a domain names no server.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    /// Perhaps it will answer later.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// It does not say a server.
    #[error("{0}")]
    Invalid(String),
}

#[derive(Deserialize)]
struct Content {
    #[serde(rename = "m.server")]
    server: OwnedServerName,
}

impl WellKnown {
    /// Nothing is known.
    pub fn new(client: HttpsClient, port: u16) -> Self {
        Self { client, port, domains: RefCell::new(LruCache::new(MOST_REMEMBERED)) }
    }

    /// The server that the domain of this name says, if it says one. Who asks while somebody else
    /// does waits for the same answer.
    pub async fn of(&self, domain: &ServerName) -> Option<OwnedServerName> {
        let domain = domain.host().to_lowercase();
        let said = self.domains.borrow_mut().entry(domain.clone()).or_insert_with(Rc::default).clone();
        let mut said = said.lock().await;
        let now = Instant::now();
        if let Some(said) = &*said
            && now < said.until
        {
            return said.server.clone();
        }
        let found = match timeout(WITHIN, self.fetch(&domain)).await {
            Ok(found) => found,
            Err(_) => Err(FetchError::NoAnswer("timed out".to_owned())),
        };
        if let Err(error) = &found {
            tracing::debug!("/.well-known/matrix/server of {domain}: {error}");
        }
        let before = said.take();
        let new = said.insert(Said::next(before, found, now));
        new.server.clone()
    }

    async fn fetch(&self, domain: &str) -> Result<(OwnedServerName, Duration), FetchError> {
        let invalid = |error: &dyn std::fmt::Display| FetchError::Invalid(error.to_string());
        let mut url = Url::parse(&format!("https://{domain}/.well-known/matrix/server")).map_err(|error| invalid(&error))?;
        for _ in 0..=MOST_REDIRECTS {
            let response = self.get(&url).await?;
            match response.status() {
                StatusCode::OK => return read(response).await,
                status if status.is_redirection() => url = redirected(&url, response.headers())?,
                status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    return Err(FetchError::NoAnswer(status.to_string()));
                }
                status => return Err(invalid(&status)),
            }
        }
        Err(FetchError::Invalid(format!("more than {MOST_REDIRECTS} redirects")))
    }

    async fn get(&self, url: &Url) -> Result<Response<Incoming>, FetchError> {
        let host = url.host_str().unwrap_or_default();
        let port = url.port().unwrap_or(self.port);
        let uri = Uri::builder()
            .scheme("https")
            .authority(format!("{host}:{port}"))
            .path_and_query(&url[url::Position::BeforePath..url::Position::AfterQuery]);
        let named = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let request = uri.build().and_then(|uri| {
            // Of a web server nothing else is asked.
            let request =
                Request::get(uri).header(HOST, named).header(USER_AGENT, super::AGENT).header(CONNECTION, HeaderValue::from_static("close"));
            request.body(Full::<Bytes>::default())
        });
        let request = request.map_err(|error| FetchError::Invalid(error.to_string()))?;
        self.client.request(request).await.map_err(|error| FetchError::NoAnswer(super::reason(&error).to_string()))
    }
}

impl Said {
    /// What counts of a domain after it was asked.
    fn next(before: Option<Self>, found: Result<(OwnedServerName, Duration), FetchError>, now: Instant) -> Self {
        match found {
            Ok((server, lifetime)) => Self { server: Some(server), at: now, until: now + lifetime, failures: 0 },
            Err(FetchError::Invalid(_)) => Self { server: None, at: now, until: now + OF_ERROR, failures: 0 },
            Err(FetchError::NoAnswer(_)) => {
                let failures = before.as_ref().map_or(0, |before| before.failures);
                let wait = (FIRST_RETRY * (1 << failures.min(16))).min(OF_ERROR);
                // While its web server is down a domain keeps its Matrix server.
                let kept = before.filter(|before| now < before.at + LONGEST);
                let at = kept.as_ref().map_or(now, |kept| kept.at);
                Self { server: kept.and_then(|kept| kept.server), at, until: now + wait, failures: failures + 1 }
            }
        }
    }
}

/// Where a redirect leads.
fn redirected(from: &Url, headers: &HeaderMap) -> Result<Url, FetchError> {
    let location =
        headers.get(LOCATION).and_then(|location| location.to_str().ok()).ok_or_else(|| FetchError::Invalid("a redirect to nowhere".to_owned()))?;
    let url = from.join(location).map_err(|error| FetchError::Invalid(format!("a redirect to no URL: {error}")))?;
    if url.scheme() == "https" { Ok(url) } else { Err(FetchError::Invalid("a redirect to what is not HTTPS".to_owned())) }
}

async fn read(response: Response<Incoming>) -> Result<(OwnedServerName, Duration), FetchError> {
    let lifetime = lifetime(response.headers(), SystemTime::now());
    let body = match Limited::new(response.into_body(), LARGEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<hyper::Error>() => return Err(FetchError::NoAnswer(error.to_string())),
        Err(_) => return Err(FetchError::Invalid(format!("more than {LARGEST} bytes"))),
    };
    let content: Content = serde_json::from_slice(&body).map_err(|error| FetchError::Invalid(error.to_string()))?;
    Ok((content.server, lifetime))
}

/// How long an answer with these headers counts.
fn lifetime(headers: &HeaderMap, now: SystemTime) -> Duration {
    let directives: Vec<_> =
        headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).collect();
    let has = |name: &str| directives.iter().any(|directive| directive.trim().eq_ignore_ascii_case(name));
    let max_age = || {
        let (_, seconds) =
            directives.iter().filter_map(|directive| directive.split_once('=')).find(|(name, _)| name.trim().eq_ignore_ascii_case("max-age"))?;
        seconds.trim().trim_matches('"').parse().ok().map(Duration::from_secs)
    };
    let expires = || {
        let expires = headers.get(EXPIRES)?.to_str().ok()?;
        // "An invalid date ... represents a time in the past" (RFC 9111, 5.3).
        Some(httpdate::parse_http_date(expires).ok().and_then(|expires| expires.duration_since(now).ok()).unwrap_or_default())
    };
    let said = if has("no-store") || has("no-cache") { Some(Duration::ZERO) } else { max_age().or_else(expires) };
    said.unwrap_or(USUAL).clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_as_long_as_it_says() {
        let hour = Duration::from_secs(60 * 60);
        let now = SystemTime::UNIX_EPOCH + 100 * hour;
        let expires = httpdate::fmt_http_date(now + 3 * hour);
        for (headers, expected) in [
            (&[][..], 24 * hour),
            (&[("cache-control", "public, MAX-AGE=7200")][..], 2 * hour),
            (&[("cache-control", "max-age=7200"), ("expires", "0")], 2 * hour),
            (&[("expires", expires.as_str())], 3 * hour),
            (&[("expires", "0")], SHORTEST),
            (&[("cache-control", "no-store, max-age=7200")], SHORTEST),
            (&[("cache-control", "max-age=999999999")], 48 * hour),
            (&[("cache-control", "max-age=99999999999999999999999")], 24 * hour),
        ] {
            let headers = headers.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect();
            assert_eq!(lifetime(&headers, now), expected, "{headers:?}");
        }
    }

    #[tokio::test]
    async fn a_domain_keeps_its_server_while_its_web_server_is_down() {
        let start = Instant::now();
        let server: OwnedServerName = "m.example".try_into().expect("a name");
        let no_answer = || Err(FetchError::NoAnswer("refused".to_owned()));
        let mut said = Said::next(None, Ok((server.clone(), USUAL)), start);
        assert_eq!((said.server.clone(), said.until), (Some(server.clone()), start + USUAL));
        // Two minutes, four, and so on to an hour.
        let mut now = said.until;
        for wait in [2, 4, 8, 16, 32, 60, 60] {
            said = Said::next(Some(said), no_answer(), now);
            assert_eq!((said.server.clone(), said.until - now), (Some(server.clone()), Duration::from_secs(wait * 60)));
            now = said.until;
        }
        said = Said::next(Some(said), no_answer(), start + LONGEST);
        assert_eq!(said.server, None, "it was said two days ago");

        let said = Said::next(Some(Said::next(None, Ok((server, USUAL)), start)), Err(FetchError::Invalid("404".to_owned())), start);
        assert_eq!((said.server, said.until), (None, start + OF_ERROR), "it is said no more");
    }
}
