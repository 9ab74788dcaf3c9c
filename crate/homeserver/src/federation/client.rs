//! Requests to other servers: signed, sent, and their answers read (Server-Server API, "Request
//! Authentication").

use crate::{
    body::{Body, ReadError},
    homeserver::Homeserver,
    transport::TransportError,
};
use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Request, Response, StatusCode};
use ruma::{
    OwnedServerName, ServerName,
    api::{
        IncomingResponseExt, OutgoingRequest, OutgoingRequestExt,
        auth_scheme::{AuthScheme, NoAuthentication},
        error::FromHttpResponseError,
        federation::authentication::{ServerSignatures, XMatrixSigningInput},
        path_builder::SinglePath,
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use std::{future::Future, pin::pin, time::Duration};

/// Bytes of an answer that is read as a whole, unless its reader says otherwise.
pub const LARGEST_ANSWER: usize = 8 << 20;

/// How long another server may take to answer, from the first byte sent to the last one read,
/// unless who asks says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How much of the message of a refusal is repeated.
const LONGEST_MESSAGE: usize = 300;

/// Why another server did not answer what it was asked. The texts are for users, after the server's
/// name.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AskError {
    /// The request did not get there, or the answer not back.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// It took too long.
    #[error("it did not answer in time")]
    TimedOut,
    /// It refused.
    #[error("{status} {errcode}: {message}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The code, such as `M_FORBIDDEN`; `M_UNKNOWN` where it says none.
        errcode: String,
        /// What it says beside, shortened.
        message: String,
        /// The whole answer, where it is JSON.
        body: Option<Box<serde_json::value::RawValue>>,
    },
    /// What it answered is not what the specification says, and why.
    #[error("its answer is malformed: {0}")]
    Malformed(String),
    /// It answered more than can be taken.
    #[error("its answer has more than {0} bytes")]
    TooLarge(usize),
}

impl AskError {
    /// Whether the other server has understood the request and says no, so that asking again or
    /// asking another server would not help.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.is_client_error() && *status != StatusCode::TOO_MANY_REQUESTS)
    }

    /// Whether the other server does not have the endpoint.
    pub fn is_unrecognized(&self) -> bool {
        let unknown = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
        matches!(self, Self::Refused { status, errcode, .. } if errcode == "M_UNRECOGNIZED" || unknown.contains(status) && errcode == "M_UNKNOWN")
    }
}

/// How a request to another server is authenticated.
pub trait PeerAuthentication: AuthScheme {
    /// What ruma needs for it.
    fn input<'a>(hs: &'a Homeserver, destination: &ServerName) -> Self::Input<'a>;
}

impl PeerAuthentication for ServerSignatures {
    fn input<'a>(hs: &'a Homeserver, destination: &ServerName) -> XMatrixSigningInput<'a> {
        XMatrixSigningInput::new(hs.server_name().to_owned(), destination.to_owned(), hs.identity.key_pair())
    }
}

impl PeerAuthentication for NoAuthentication {
    fn input(_: &Homeserver, _: &ServerName) {}
}

impl Homeserver {
    /// Whether this server asks others at all.
    pub(crate) fn asks_others(&self) -> bool {
        self.config.federation && self.federation.transport.leads_somewhere()
    }

    /// Asks another server, and reads its answer: at most [`LARGEST_ANSWER`] bytes, within
    /// [`PATIENCE`].
    ///
    /// # Errors
    /// [`AskError`]. Nothing is tried again, and no other server is asked.
    pub(crate) async fn ask<R>(&self, destination: &ServerName, request: R) -> Result<R::IncomingResponse, AskError>
    where
        R: OutgoingRequest<PathBuilder = SinglePath, Authentication: PeerAuthentication>,
    {
        self.ask_within(destination, request, PATIENCE, LARGEST_ANSWER).await
    }

    /// As [`Self::ask`], with a time and a number of bytes of its own.
    pub(crate) async fn ask_within<R>(
        &self,
        destination: &ServerName,
        request: R,
        patience: Duration,
        limit: usize,
    ) -> Result<R::IncomingResponse, AskError>
    where
        R: OutgoingRequest<PathBuilder = SinglePath, Authentication: PeerAuthentication>,
    {
        let request = self.signed(destination, request)?;
        let answer = self.answered(destination, request, patience, limit).await?;
        let (parts, body) = answer.into_parts();
        R::IncomingResponse::try_from_http_response(Response::from_parts(parts, &body[..])).map_err(|error| match error {
            FromHttpResponseError::Deserialization(error) => AskError::Malformed(error.to_string()),
            _ => AskError::Malformed("it is none of the specification's".to_owned()),
        })
    }

    /// As [`Self::ask_within`], parsed as a type of our own, for what ruma's types would refuse as
    /// a whole where one of many is malformed.
    pub(crate) async fn ask_for<T, R>(&self, destination: &ServerName, request: R, patience: Duration, limit: usize) -> Result<T, AskError>
    where
        T: DeserializeOwned,
        R: OutgoingRequest<PathBuilder = SinglePath, Authentication: PeerAuthentication>,
    {
        let request = self.signed(destination, request)?;
        let answer = self.answered(destination, request, patience, limit).await?.into_body();
        ephapse_events::json::check(&answer).map_err(|unfit| AskError::Malformed(unfit.to_string()))?;
        serde_json::from_slice(&answer).map_err(|error| AskError::Malformed(error.to_string()))
    }

    /// Asks another server for what `read` reads as it comes, all within `patience`.
    ///
    /// # Errors
    /// [`AskError`], also for every status that is no success.
    pub(crate) async fn ask_and_read<T, R>(
        &self,
        destination: &ServerName,
        request: R,
        patience: Duration,
        read: impl AsyncFnOnce(Body) -> Result<T, AskError>,
    ) -> Result<T, AskError>
    where
        R: OutgoingRequest<PathBuilder = SinglePath, Authentication: PeerAuthentication>,
    {
        let request = self.signed(destination, request)?;
        self.in_time(patience, async { read(succeeded(self.sent(destination, request).await?).await?.into_body()).await }).await
    }

    /// Asks another server for what is read as it comes. The head of the answer is there within
    /// [`PATIENCE`].
    ///
    /// # Errors
    /// [`AskError`], also for every status that is no success.
    pub(crate) async fn ask_for_stream<R>(&self, destination: &ServerName, request: R) -> Result<Response<Body>, AskError>
    where
        R: OutgoingRequest<PathBuilder = SinglePath, Authentication: PeerAuthentication>,
    {
        let request = self.signed(destination, request)?;
        self.in_time(PATIENCE, async { succeeded(self.sent(destination, request).await?).await }).await
    }

    /// Sends a request that nobody signs, for what is read as it comes. The head of the answer is
    /// there within [`PATIENCE`]; an answer that leads elsewhere is not followed.
    ///
    /// # Errors
    /// [`AskError`], also for every status that says that there is an error.
    pub(crate) async fn ask_unsigned(&self, destination: &ServerName, request: Request<Bytes>) -> Result<Response<Body>, AskError> {
        self.in_time(PATIENCE, async {
            let answer = self.sent(destination, request).await?;
            if answer.status().is_redirection() { Ok(answer) } else { succeeded(answer).await }
        })
        .await
    }

    fn signed<R>(&self, destination: &ServerName, request: R) -> Result<Request<Bytes>, AskError>
    where
        R: OutgoingRequest<PathBuilder = SinglePath, Authentication: PeerAuthentication>,
    {
        let input = R::Authentication::input(self, destination);
        let request = request.try_into_http_request::<Vec<u8>>("", input, ());
        Ok(request.map_err(|error| AskError::Malformed(format!("the request cannot be written: {error}")))?.map(Bytes::from))
    }

    /// Sends a signed request, and reads all of its answer.
    pub(crate) async fn answered(
        &self,
        destination: &ServerName,
        request: Request<Bytes>,
        patience: Duration,
        limit: usize,
    ) -> Result<Response<Bytes>, AskError> {
        self.in_time(patience, async {
            let (parts, body) = succeeded(self.sent(destination, request).await?).await?.into_parts();
            let body = body.read(limit).await.map_err(|error| match error {
                ReadError::TooLarge(limit) => AskError::TooLarge(limit),
                ReadError::BrokeOff(error) => TransportError::Unreachable(error.to_string()).into(),
            })?;
            Ok(Response::from_parts(parts, body))
        })
        .await
    }

    async fn sent(&self, destination: &ServerName, request: Request<Bytes>) -> Result<Response<Body>, TransportError> {
        if !self.config.federation {
            return Err(TransportError::NoFederation);
        }
        if !self.config.federates_with.includes(destination) {
            return Err(TransportError::Blocked);
        }
        self.federation.transport.send(destination.to_owned(), request).await
    }

    async fn in_time<T>(&self, patience: Duration, asked: impl Future<Output = Result<T, AskError>>) -> Result<T, AskError> {
        match select(pin!(asked), self.host.sleep(patience)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => Err(AskError::TimedOut),
        }
    }

    /// Asks one server after the other, each at most once, until one answers or says no for all of
    /// them; the error is the last one, with the name of who gave it.
    pub(crate) async fn ask_any<T>(
        &self,
        candidates: &[OwnedServerName],
        ask: impl AsyncFn(&ServerName) -> Result<T, AskError>,
        is_final: impl Fn(&AskError) -> bool,
    ) -> Result<T, Option<(OwnedServerName, AskError)>> {
        let mut last = None;
        for server in candidates.iter().filter(|server| *server != self.server_name()) {
            match ask(server).await {
                Ok(answer) => return Ok(answer),
                Err(error) if is_final(&error) => return Err(Some((server.clone(), error))),
                Err(error) => last = Some((server.clone(), error)),
            }
        }
        Err(last)
    }
}

/// The answer, unless it says that it is none.
async fn succeeded(answer: Response<Body>) -> Result<Response<Body>, AskError> {
    #[derive(Default, Deserialize)]
    struct Refusal {
        errcode: Option<String>,
        error: Option<String>,
    }
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    // No refusal is longer than that.
    let body = answer.into_body().read(64 << 10).await.unwrap_or_default();
    let refusal: Refusal = serde_json::from_slice(&body).unwrap_or_default();
    Err(AskError::Refused {
        status,
        errcode: refusal.errcode.unwrap_or_else(|| "M_UNKNOWN".to_owned()),
        message: refusal.error.unwrap_or_default().chars().take(LONGEST_MESSAGE).collect(),
        body: serde_json::from_slice(&body).ok(),
    })
}
