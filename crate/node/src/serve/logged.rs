//! What `--log debug` says of a request: a line with its method, its endpoint's path, the status,
//! and how long it took. Of whom and of what it was about, and with which token, it says nothing.

use ephapse_homeserver::{Entrance, Homeserver};
use http::{Method, Request, Response, StatusCode};
use tokio::time::Instant;

/// A request whose line is still to be written: when it is answered, or given up because its client
/// went away.
pub struct Logged(Option<LoggedRequest>);

struct LoggedRequest {
    method: &'static str,
    endpoint: &'static str,
    began: Instant,
}

impl Logged {
    /// A request that arrived just now.
    pub fn new<B>(homeserver: &Homeserver, entrance: Entrance, request: &Request<B>) -> Self {
        let asked = || LoggedRequest {
            method: known(request.method()),
            endpoint: homeserver.endpoint_of(entrance, request.uri().path()).unwrap_or("(no such endpoint)"),
            began: Instant::now(),
        };
        Self(tracing::enabled!(tracing::Level::DEBUG).then(asked))
    }

    /// Writes the line, and passes the answer on.
    pub fn answered<B>(mut self, response: Response<B>) -> Response<B> {
        self.write(Some(response.status()));
        response
    }

    fn write(&mut self, status: Option<StatusCode>) {
        let Some(LoggedRequest { method, endpoint, began }) = self.0.take() else { return };
        let status = status.as_ref().map_or("aborted", StatusCode::as_str);
        tracing::debug!("{method} {endpoint} {status} {} ms", began.elapsed().as_millis());
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
