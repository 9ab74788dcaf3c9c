//! Requests to other servers over HTTPS: where a server is (Server-Server API, "Resolving server
//! names"), connections to it, and what comes of them in words for users.
//!
//! A server name leads to another name, the delegated one, or to itself (`well_known`). That one
//! is the request's authority: it is the `Host` header, and its host is what the certificate is
//! for. Which addresses it has is found where a connection is made (`connector`).

mod addresses;
mod connector;
mod dns;
mod response_body;
#[cfg(test)]
mod tests;

mod trusted;
mod well_known;

pub use trusted::{TrustError, extra_authorities};

use bytes::Bytes;
use connector::{ConnectError, Connector};
use dns::Dns;
use ephapse_homeserver::{
    Body,
    identity::has_address,
    transport::{Transport, TransportError},
};
use ephapse_store::LocalBoxFuture;
use http::{
    HeaderValue, Method, Request, Response, Uri,
    header::{CONNECTION, HOST, USER_AGENT},
    uri::Scheme,
};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{self, Client},
    rt::{TokioExecutor, TokioTimer},
};
use response_body::ResponseBody;
use ruma::{OwnedServerName, ServerName};
use std::{
    cell::{Cell, OnceCell},
    collections::HashMap,
    error::Error,
    io::{
        self,
        ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof},
    },
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};
use tokio_rustls::rustls::pki_types::CertificateDer;
use well_known::WellKnown;

/// How long a connection is kept that nobody uses: shorter than servers and proxies do, so that
/// they do not close it under a request.
const IDLE: Duration = Duration::from_secs(20);

/// Connections to one server that are kept.
const IDLE_PER_SERVER: usize = 4;

/// About as many bytes the headers of an answer may have.
const BUFFER: usize = 64 << 10;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("ephapse/", env!("CARGO_PKG_VERSION")));

/// What an operator says about requests to other servers.
#[derive(Clone, Default)]
pub struct Options {
    /// Authorities that certificates may be of, beside those that the system trusts.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Where servers are that are looked up nowhere else.
    pub resolve: HashMap<String, SocketAddr>,
    /// Whether addresses may be used that are not public.
    pub any_address: bool,
    /// Connections at a time.
    pub most_connections: usize,
}

/// The ports that names without one stand for.
#[derive(Clone, Copy)]
struct Ports {
    /// Of a server.
    server: u16,
    /// Of a web server.
    web: u16,
}

const PORTS: Ports = Ports { server: 8448, web: 443 };

type HttpsClient = Client<Connector, Full<Bytes>>;

/// The way to other servers over HTTPS. What it needs of the system is read when it is first used:
/// many servers are started to do something else.
pub struct Https {
    options: Options,
    /// Whether anything is sent.
    is_open: Cell<bool>,
    ready: OnceCell<Result<Rc<Ready>, TransportError>>,
}

struct Ready {
    client: HttpsClient,
    connector: Connector,
    well_known: WellKnown,
}

impl Https {
    /// Nothing is looked up yet, and nothing sent before [`Self::open`]: a server that other
    /// servers cannot find asks none of them.
    pub fn new(options: Options) -> Self {
        Self { options, is_open: Cell::new(false), ready: OnceCell::new() }
    }

    /// Requests are sent from now on.
    pub fn open(&self) {
        self.is_open.set(true);
    }

    /// What sends a request to this server, if one may be sent.
    fn ready_for(&self, destination: &ServerName) -> Result<Rc<Ready>, TransportError> {
        if !self.is_open.get() {
            return Err(TransportError::NoFederation);
        }
        if !has_address(destination) {
            return Err(TransportError::Unresolved("its name is that of its key, and leads to no address".to_owned()));
        }
        let ready = || Ok(Rc::new(Ready::new(&self.options, Dns::of_system(), PORTS)?));
        self.ready.get_or_init(ready).clone()
    }
}

impl Transport for Https {
    fn send(&self, destination: OwnedServerName, request: Request<Bytes>) -> LocalBoxFuture<'static, Result<Response<Body>, TransportError>> {
        let ready = self.ready_for(&destination);
        Box::pin(async move { ready?.send(&destination, request).await })
    }
}

impl Ready {
    fn new(options: &Options, dns: Dns, ports: Ports) -> Result<Self, TransportError> {
        let tls = trusted::client_config(&options.authorities).map_err(|error| TransportError::Unreachable(error.to_string()))?;
        let connector = Connector::new(options, dns, tls, ports.server);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_PER_SERVER)
            .http1_max_buf_size(BUFFER)
            .build(connector.clone());
        Ok(Self { well_known: WellKnown::new(client.clone(), ports.web), client, connector })
    }

    async fn send(&self, destination: &ServerName, request: Request<Bytes>) -> Result<Response<Body>, TransportError> {
        let named = self.delegated(destination).await;
        let mut request = addressed(request, &named)?;
        if self.connector.is_busy() {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // A kept connection may be closed by the other side while the request is on its way. Then
        // it is sent once more, unless doing it twice could be something else.
        let again = (request.method() != Method::POST).then(|| request.clone());
        let answer = match (self.client.request(request).await, again) {
            (Err(error), Some(again)) if is_closed(&error) => self.client.request(again).await,
            (answer, _) => answer,
        };
        match answer {
            Ok(answer) => Ok(answer.map(|body| Body::stream(ResponseBody::new(body)))),
            Err(error) => Err(reason(&error)),
        }
    }

    /// The name that the server has said for its own, where it says one.
    async fn delegated(&self, server: &ServerName) -> OwnedServerName {
        if server.is_ip_literal() || server.port().is_some() || self.connector.knows(server) {
            return server.to_owned();
        }
        self.well_known.of(server).await.unwrap_or_else(|| server.to_owned())
    }
}

/// `request`, whose URI is path and query, to the server with this name.
fn addressed(request: Request<Bytes>, named: &ServerName) -> Result<Request<Full<Bytes>>, TransportError> {
    let unusable = |error: http::Error| TransportError::Unresolved(format!("{named} cannot be part of a URL: {error}"));
    let (mut parts, body) = request.into_parts();
    let mut uri = parts.uri.into_parts();
    uri.scheme = Some(Scheme::HTTPS);
    uri.authority = Some(named.as_str().parse().map_err(|error: http::uri::InvalidUri| unusable(error.into()))?);
    parts.uri = Uri::from_parts(uri).map_err(|error| unusable(error.into()))?;
    parts.headers.insert(HOST, named.as_str().parse().map_err(|error: http::header::InvalidHeaderValue| unusable(error.into()))?);
    parts.headers.entry(USER_AGENT).or_insert(AGENT);
    Ok(Request::from_parts(parts, Full::new(body)))
}

/// Whether the other side closed a connection before it answered.
fn is_closed(error: &legacy::Error) -> bool {
    let by_http = || source::<hyper::Error>(error).is_some_and(|error| error.is_incomplete_message() || error.is_canceled() || error.is_closed());
    // Without a word of TLS, as many do.
    let by_system =
        || source::<io::Error>(error).is_some_and(|error| matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe));
    source::<ConnectError>(error).is_none() && (by_http() || by_system())
}

/// What an error says to users.
fn reason(error: &legacy::Error) -> TransportError {
    match source::<ConnectError>(error) {
        Some(ConnectError::Lookup(error)) => TransportError::Unresolved(error.to_string()),
        Some(other) => TransportError::Unreachable(other.to_string()),
        None if is_closed(error) => TransportError::Unreachable("it closed the connection without an answer".to_owned()),
        None => {
            let mut innermost: &dyn Error = error;
            while let Some(source) = innermost.source() {
                innermost = source;
            }
            TransportError::Unreachable(innermost.to_string())
        }
    }
}

/// The error of this kind that caused `error`.
fn source<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    std::iter::successors(Some(error), |error| (*error).source()).find_map(|error| error.downcast_ref())
}
