//! TCP and TLS connections: HTTP/1.1 in and out, within bounds of number, size and time.

use bytes::{Bytes, BytesMut};
use ephapse_homeserver::{Entrance, Homeserver};
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{io, rc::Rc, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::spawn_local,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// Connections at a time. Past this, new ones wait in the listener's backlog.
const MOST_CONNECTIONS: usize = 4_096;

/// How long a connection may take to send the headers of its next request. Longer than the 90 s for which common HTTP clients keep idle connections,
/// so that the client closes first and no request is sent into a closing connection.
const HEADERS_WITHIN: Duration = Duration::from_secs(100);

/// How long a TLS handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(15);

/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(60);

/// How long to wait before the next accept when the system has no room for a connection.
const NO_ROOM: Duration = Duration::from_millis(50);

/// What answers.
#[derive(Clone)]
struct Engine {
    homeserver: Rc<Homeserver>,
    /// Bytes a body may have.
    largest_body: usize,
}

/// Everything that is connected.
pub struct Connections {
    engine: Engine,
    places: Arc<Semaphore>,
    /// Becomes true when the server leaves. Every connection and every running handler holds a receiver, so that its end can be awaited.
    leaving: watch::Sender<bool>,
}

impl Connections {
    /// None yet.
    pub fn new(homeserver: Rc<Homeserver>, largest_body: usize) -> Self {
        let engine = Engine { homeserver, largest_body };
        Self { engine, places: Arc::new(Semaphore::new(MOST_CONNECTIONS)), leaving: watch::Sender::new(false) }
    }

    /// Serves what connects to `listener`, in the background.
    pub fn accept(&self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        let (engine, places, mut leaving) = (self.engine.clone(), self.places.clone(), self.leaving.subscribe());
        spawn_local(async move {
            while let Some((stream, place)) = next(&listener, &places, &mut leaving).await {
                let (engine, leaving, tls) = (engine.clone(), leaving.clone(), tls.clone());
                spawn_local(async move {
                    connection(stream, tls, engine, leaving).await;
                    drop(place);
                });
            }
        });
    }

    /// Accepts nothing more, and ends when every request has been answered, or after `grace`.
    pub async fn close(self, grace: Duration) {
        self.leaving.send_replace(true);
        if timeout(grace, self.leaving.closed()).await.is_err() {
            tracing::warn!("some requests did not end within {grace:?}; their connections are cut");
        }
    }
}

/// The next connection; `None` when the server leaves.
async fn next(listener: &TcpListener, places: &Arc<Semaphore>, leaving: &mut watch::Receiver<bool>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let accept = async {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return (stream, place),
                // The peer went away while it waited: the next one may not have.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    sleep(NO_ROOM).await;
                }
            }
        }
    };
    tokio::select! {
        accepted = accept => Some(accepted),
        _ = leaving.wait_for(|leaving| *leaving) => None,
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, engine: Engine, leaving: watch::Receiver<bool>) {
    // Answers are small and each is a whole: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return http(stream, engine, leaving).await };
    match timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await {
        Ok(Ok(stream)) => http(stream, engine, leaving).await,
        Ok(Err(error)) => tracing::debug!("a TLS handshake failed: {error}"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// Serves HTTP until either side ends it.
async fn http<S: AsyncRead + AsyncWrite + Unpin + 'static>(stream: S, engine: Engine, mut leaving: watch::Receiver<bool>) {
    let running = leaving.clone();
    let service = service_fn(move |request| answer(engine.clone(), request, running.clone()));
    let connection =
        http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = leaving.wait_for(|leaving| *leaving) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    /// The client stopped in the middle.
    #[error(transparent)]
    Body(#[from] hyper::Error),
    /// The body took too long.
    #[error("the body did not arrive within {BODY_WITHIN:?}")]
    Slow,
    /// The process is ending.
    #[error("the request was given up")]
    GivenUp,
}

/// Reads the body and has the homeserver answer.
async fn answer(engine: Engine, request: Request<Incoming>, running: watch::Receiver<bool>) -> Result<Response<Full<Bytes>>, NoAnswer> {
    let (parts, body) = request.into_parts();
    let body = timeout(BODY_WITHIN, read(body, engine.largest_body)).await.map_err(|_| NoAnswer::Slow)??;
    let too_large = body.len() > engine.largest_body;
    let only_reads = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
    let request = Request::from_parts(parts, body);
    let mut response = if only_reads {
        // When the client goes away hyper drops this future, and with it a sync that is held for nobody.
        engine.homeserver.handle(Entrance::Client, request).await
    } else {
        // What was begun is finished, whether the client waits for it or not.
        let handler = spawn_local(async move {
            let response = engine.homeserver.handle(Entrance::Client, request).await;
            drop(running);
            response
        });
        handler.await.map_err(|_| NoAnswer::GivenUp)?
    };
    if too_large {
        // The rest of the body is still on its way.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(Full::new))
}

/// The body; of one that is larger than `limit` only so much that the homeserver sees that it is.
async fn read(mut body: Incoming, limit: usize) -> Result<Bytes, hyper::Error> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if whole.is_empty() && body.is_end_stream() && data.len() <= limit {
            return Ok(data);
        }
        whole.extend_from_slice(&data[..data.len().min(limit + 1 - whole.len())]);
        if whole.len() > limit {
            break;
        }
    }
    Ok(whole.freeze())
}
