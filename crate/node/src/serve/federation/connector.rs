//! A connection to the server of a name: its addresses, TCP, TLS. All of it is bounded in time, and
//! connections are in number.

use super::{
    Options,
    addresses::is_public,
    dns::{Dns, LookupError},
};
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use ruma::ServerName;
use std::{
    collections::HashMap,
    future::Future,
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{self, CertificateError, ClientConfig, pki_types},
};
use tower_service::Service;

/// How long it may take to find the addresses of a name.
const LOOKUP_WITHIN: Duration = Duration::from_secs(10);

/// How long it may take to connect to one of them.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// How long one address is tried alone before the next one is tried too (RFC 8305).
const HEAD_START: Duration = Duration::from_millis(250);

/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 16;

/// What Matrix servers are called in SRV records, and what they were called.
const SERVICES: [&str; 2] = ["_matrix-fed._tcp", "_matrix._tcp"];

/// Why there is no connection. The texts are for users.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no address.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// There is, and it may not be used. It is not said which: users would learn it of any name.
    #[error("its address is not a public one")]
    NotPublic,
    /// Nobody is there.
    #[error("{address}: {}", in_words(.source))]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Nobody is there in time.
    #[error("the connection timed out")]
    TimedOut,
    /// Whoever is there is somebody else.
    #[error("{}", tls_in_words(.0))]
    Tls(#[source] io::Error),
    /// The name.
    #[error("{0} is no name that a certificate could be for")]
    Name(String),
}

/// Makes connections; clones share what they count and remember.
#[derive(Clone)]
pub struct Connector(Arc<Shared>);

struct Shared {
    dns: Dns,
    tls: TlsConnector,
    known: HashMap<String, SocketAddr>,
    any_address: bool,
    default_port: u16,
    most: usize,
    free: Arc<Semaphore>,
}

impl Connector {
    pub fn new(options: &Options, dns: Dns, tls: Arc<ClientConfig>, default_port: u16) -> Self {
        Self(Arc::new(Shared {
            dns,
            tls: TlsConnector::from(tls),
            known: options.resolve.clone(),
            any_address: options.any_address,
            default_port,
            most: options.most_connections,
            free: Arc::new(Semaphore::new(options.most_connections)),
        }))
    }

    /// Whether it is said where this server is.
    pub fn knows(&self, server: &ServerName) -> bool {
        self.0.known.contains_key(&server.as_str().to_lowercase())
    }

    /// Whether so many connections are used that none should be kept for later.
    pub fn is_busy(&self) -> bool {
        self.0.free.available_permits() < self.0.most / 2
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move { shared.connect(&uri).await })
    }
}

impl Shared {
    async fn connect(&self, uri: &Uri) -> Result<Stream, ConnectError> {
        let (authority, host) = (uri.authority().map_or("", |authority| authority.as_str()), uri.host().unwrap_or_default());
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = pki_types::ServerName::try_from(host.to_owned()).map_err(|_| ConnectError::Name(host.to_owned()))?;
        let permit = self.free.clone().acquire_owned().await.expect("the semaphore is never closed");
        let addresses = match self.known.get(&authority.to_lowercase()) {
            Some(known) => vec![*known],
            None => self.allowed(self.addresses(host, uri.port_u16()).await?)?,
        };
        let connected = timeout(CONNECT_WITHIN, async {
            let stream = first_to_connect(addresses).await?;
            // A request is a whole, and waiting to fill a packet only delays it.
            let _ = stream.set_nodelay(true);
            self.tls.connect(name, stream).await.map_err(ConnectError::Tls)
        });
        let stream = connected.await.map_err(|_| ConnectError::TimedOut)??;
        Ok(Stream { stream: TokioIo::new(stream), _permit: permit })
    }

    /// All but those that may not be used.
    fn allowed(&self, mut addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, ConnectError> {
        addresses.retain(|address| self.any_address || is_public(address.ip()));
        addresses.truncate(MOST_ADDRESSES);
        if addresses.is_empty() { Err(ConnectError::NotPublic) } else { Ok(addresses) }
    }

    /// Where the server of a name is, which is no delegating one any more.
    async fn addresses(&self, host: &str, port: Option<u16>) -> Result<Vec<SocketAddr>, ConnectError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port.unwrap_or(self.default_port))]);
        }
        let found = timeout(LOOKUP_WITHIN, async {
            match port {
                Some(port) => self.addresses_of(host, port).await,
                None => self.addresses_of_service(host).await,
            }
        });
        Ok(found.await.map_err(|_| LookupError::NoAnswer(host.to_owned()))??)
    }

    async fn addresses_of_service(&self, host: &str) -> Result<Vec<SocketAddr>, LookupError> {
        for service in SERVICES {
            let targets = match self.dns.service(service, host).await {
                Err(refused @ LookupError::NoService(_)) => return Err(refused),
                // Some DNS servers know nothing of SRV. The certificate says whether it is the
                // right one that is found without it.
                found => found.unwrap_or_default(),
            };
            let mut addresses = Vec::new();
            let mut failed = None;
            for target in targets {
                match self.addresses_of(&target.host, target.port).await {
                    Ok(found) => addresses.extend(found),
                    Err(error) => failed = Some(error),
                }
            }
            match failed {
                _ if !addresses.is_empty() => return Ok(addresses),
                Some(error) => return Err(error),
                None => {}
            }
        }
        self.addresses_of(host, self.default_port).await
    }

    async fn addresses_of(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, LookupError> {
        Ok(self.dns.addresses(host).await?.into_iter().map(|address| SocketAddr::new(address, port)).collect())
    }
}

/// Tries one address after the other, and does not wait long for any of them.
async fn first_to_connect(addresses: Vec<SocketAddr>) -> Result<TcpStream, ConnectError> {
    let mut trying = JoinSet::new();
    let mut left = addresses.into_iter();
    let mut failed = ConnectError::NotPublic;
    loop {
        if let Some(address) = left.next() {
            trying.spawn(async move { TcpStream::connect(address).await.map_err(|source| ConnectError::Tcp { address, source }) });
        }
        tokio::select! {
            ended = trying.join_next() => match ended {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(error))) => failed = error,
                Some(Err(_)) => {}
                None => return Err(failed),
            },
            () = sleep(HEAD_START), if left.len() > 0 => {}
        }
    }
}

/// What the system says, as people say it.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "no route to it".to_owned(),
        _ => error.to_string(),
    }
}

fn tls_in_words(error: &io::Error) -> String {
    let of_library = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match of_library {
        Some(rustls::Error::InvalidCertificate(certificate)) => format!("its certificate {}", wrong_with(certificate)),
        Some(other) => format!("TLS failed: {other}"),
        None => format!("TLS failed: {}", in_words(error)),
    }
}

fn wrong_with(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "is not valid yet".to_owned(),
        CertificateError::UnknownIssuer => "was issued by nobody that is trusted here".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => "is for another name".to_owned(),
        other => format!("is not valid: {other}"),
    }
}

/// A connection; its place is free again when it is dropped.
pub struct Stream {
    stream: TokioIo<TlsStream<TcpStream>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}
