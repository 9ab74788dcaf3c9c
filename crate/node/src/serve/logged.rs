//! What `--log debug` and `--metrics` say of a request: its method, its endpoint's path, the
//! status, and how long it took. Of whom and of what it was about, and with which token, they say
//! nothing.

use super::metrics::Requests;
use ephapse_homeserver::{Entrance, Homeserver};
use http::{Method, Request, Response, StatusCode};
use std::rc::Rc;
use tokio::time::Instant;

/// A request that is still to be told of: when it is answered, or given up because its client
/// went away.
pub struct Logged(Option<LoggedRequest>);

struct LoggedRequest {
    method: &'static str,
    endpoint: &'static str,
    began: Instant,
    requests: Option<Rc<Requests>>,
}

impl Logged {
    /// A request that arrived just now.
    pub fn new<B>(homeserver: &Homeserver, entrance: Entrance, request: &Request<B>, requests: Option<Rc<Requests>>) -> Self {
        let is_told = requests.is_some() || tracing::enabled!(tracing::Level::DEBUG);
        let asked = || LoggedRequest {
            method: known(request.method()),
            endpoint: homeserver.endpoint_of(entrance, request.uri().path()).unwrap_or("(no such endpoint)"),
            began: Instant::now(),
            requests,
        };
        Self(is_told.then(asked))
    }

    /// Tells of it, and passes the answer on.
    pub fn answered<B>(mut self, response: Response<B>) -> Response<B> {
        self.write(Some(response.status()));
        response
    }

    fn write(&mut self, status: Option<StatusCode>) {
        let Some(LoggedRequest { method, endpoint, began, requests }) = self.0.take() else { return };
        let took = began.elapsed();
        if let Some(requests) = requests {
            requests.count(method, endpoint, status.map(|status| status.as_u16()), took);
        }
        let status = status.as_ref().map_or("aborted", StatusCode::as_str);
        tracing::debug!("{method} {endpoint} {status} {} ms", took.as_millis());
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        self.write(None);
    }
}

/// A client may send any word as a method.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "(another method)",
    }
}
