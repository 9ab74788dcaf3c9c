//! What carries requests to other servers. It moves bytes and knows no Matrix: requests are signed
//! before it gets them, and what it brings is verified after.

use crate::body::Body;
use bytes::Bytes;
use ephapse_store::LocalBoxFuture;
use http::{Request, Response};
use ruma::OwnedServerName;

/// Carries requests to other servers: over HTTPS, over libp2p, or between the servers of a test.
pub trait Transport {
    /// Sends a request to a server. The URI is a path and a query, as they were signed. The answer
    /// is there when its head is; its body comes as it comes.
    fn send(&self, destination: OwnedServerName, request: Request<Bytes>) -> LocalBoxFuture<'static, Result<Response<Body>, TransportError>>;

    /// Whether it can reach anybody at all.
    fn leads_somewhere(&self) -> bool {
        true
    }
}

/// Why a request did not reach another server. The texts are for users, after the server's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// This server has no way to others.
    #[error("this server does not federate")]
    NoFederation,
    /// The other server has no address, and why.
    #[error("its address could not be found: {0}")]
    Unresolved(String),
    /// Nobody answers at its address, or not in a way that can be trusted, and why.
    #[error("it could not be reached: {0}")]
    Unreachable(String),
    /// The operator does not allow it.
    #[error("this server's settings do not allow it")]
    Blocked,
}

/// The transport of a server that does not federate.
pub struct NoTransport;

impl Transport for NoTransport {
    fn send(&self, _: OwnedServerName, _: Request<Bytes>) -> LocalBoxFuture<'static, Result<Response<Body>, TransportError>> {
        Box::pin(async { Err(TransportError::NoFederation) })
    }

    fn leads_somewhere(&self) -> bool {
        false
    }
}
