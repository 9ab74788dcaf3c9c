//! TCP and TLS connections: HTTP/1.1 in and out, within bounds of number, size and time.

use super::{
    limits::{Place, Places, Room},
    logged::Logged,
    metrics::Requests,
    request_body::{Incomplete, RequestBody},
    target::with_target,
};
use ephapse_homeserver::{Body, Entrance, Homeserver};
use http::{Method, Request, Response, uri::Scheme};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{io, pin::Pin, rc::Rc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::spawn_local,
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How long a connection may take to send the headers of its next request. Longer than the 90 s for
/// which common HTTP clients keep idle connections, and the 120 s for which Synapse does, so that
/// the client closes first and no request is sent into a closing connection.
const HEADERS_WITHIN: Duration = Duration::from_secs(130);

/// How long a TLS handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(15);

/// How long a client may take to read on where the system's buffers are full of what it has not
/// read.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// About as many bytes a request's headers may have; longer ones are answered 431. As much is read
/// or written at once.
const BUFFER: usize = 64 << 10;

/// Headers of a request. More are answered 431.
const MOST_HEADERS: usize = 100;

/// How long to wait before the next accept when the system has no room for a connection.
const NO_ROOM: Duration = Duration::from_millis(50);

/// What every connection works with.
#[derive(Clone)]
pub(super) struct Serving {
    homeserver: Rc<Homeserver>,
    room: Room,
    /// Where requests are counted, if they are.
    requests: Option<Rc<Requests>>,
}

impl Serving {
    pub(super) fn new(homeserver: Rc<Homeserver>, requests: Option<Rc<Requests>>) -> Self {
        Self { homeserver, room: Room::new(), requests }
    }
}

/// Everything that is connected.
pub struct Connections {
    serving: Serving,
    places: Places,
    /// Becomes true when the server leaves. Every connection and every running handler holds a
    /// receiver, so that its end can be awaited.
    leaving: watch::Sender<bool>,
}

impl Connections {
    /// None yet.
    pub fn new(homeserver: Rc<Homeserver>, requests: Option<Rc<Requests>>) -> Self {
        Self { serving: Serving::new(homeserver, requests), places: Places::new(), leaving: watch::Sender::new(false) }
    }

    /// Serves what connects to `listener`, in the background.
    pub fn accept(&self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        let (serving, places, mut leaving) = (self.serving.clone(), self.places.clone(), self.leaving.subscribe());
        spawn_local(async move {
            while let Some((stream, place)) = next(&listener, &places, &mut leaving).await {
                let (serving, leaving, tls) = (serving.clone(), leaving.clone(), tls.clone());
                spawn_local(connection(stream, tls, serving, Rc::new(place), leaving));
            }
        });
    }

    /// Accepts nothing more, and ends when every request has been answered, or after `grace`.
    pub async fn close(self, grace: Duration) {
        self.leaving.send_replace(true);
        if timeout(grace, self.leaving.closed()).await.is_err() {
            tracing::warn!("some requests did not finish within {grace:?}: closing their connections");
        }
    }
}

/// The next connection; `None` when the server leaves.
async fn next(listener: &TcpListener, places: &Places, leaving: &mut watch::Receiver<bool>) -> Option<(TcpStream, Place)> {
    let accept = async {
        loop {
            let free = places.free().await;
            match listener.accept().await {
                Ok((stream, address)) => match places.take(free, address.ip()) {
                    Some(place) => return (stream, place),
                    None => tracing::debug!("{} has too many connections: closing a new one", address.ip()),
                },
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

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, serving: Serving, place: Rc<Place>, leaving: watch::Receiver<bool>) {
    // Answers are small and each is a whole: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let stream = patient(stream);
    let Some(tls) = tls else { return http(stream, Scheme::HTTP, serving, place, leaving).await };
    if let Some(stream) = handshake(&tls, stream, leaving.clone()).await {
        http(stream, Scheme::HTTPS, serving, place, leaving).await;
    }
}

/// TLS on `stream`; nothing when it comes to nothing, or the server leaves meanwhile.
pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    tls: &TlsAcceptor,
    stream: S,
    mut leaving: watch::Receiver<bool>,
) -> Option<TlsStream<S>> {
    let accepted = tokio::select! {
        accepted = timeout(HANDSHAKE_WITHIN, tls.accept(stream)) => accepted,
        _ = leaving.wait_for(|leaving| *leaving) => return None,
    };
    match accepted {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::debug!("TLS handshake failed: {error}"),
        Err(_) => tracing::debug!("TLS handshake timed out"),
    }
    None
}

/// A connection that ends when its client does not read what is written. What a client sends is
/// waited for elsewhere: while a sync is held it sends nothing.
pub(super) fn patient<S: AsyncRead + AsyncWrite>(stream: S) -> Pin<Box<TimeoutStream<S>>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(READ_WITHIN));
    Box::pin(stream)
}

/// Serves HTTP until either side ends it. `place` is taken until then, and until what was begun has
/// ended.
pub(super) async fn http<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    scheme: Scheme,
    serving: Serving,
    place: Rc<Place>,
    mut leaving: watch::Receiver<bool>,
) {
    let running = leaving.clone();
    let near = place.is_near();
    let service = service_fn(move |request| answer(serving.clone(), with_target(request, &scheme, near), place.clone(), running.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_headers(MOST_HEADERS)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = leaving.wait_for(|leaving| *leaving) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("connection closed: {error}");
    }
}

/// The process is ending.
#[derive(Debug, thiserror::Error)]
#[error("the request was aborted")]
struct GivenUp;

/// Clients and other servers come in by the same port; where there is no federation, all that comes
/// is clients'.
fn entrance(homeserver: &Homeserver, path: &str) -> Entrance {
    if homeserver.federates() { Entrance::of_path(path) } else { Entrance::Client }
}

/// Has the homeserver answer.
async fn answer(serving: Serving, request: Request<Incoming>, place: Rc<Place>, running: watch::Receiver<bool>) -> Result<Response<Body>, GivenUp> {
    let Serving { homeserver, room, requests } = serving;
    let entrance = entrance(&homeserver, request.uri().path());
    let logged = Logged::new(&homeserver, entrance, &request, requests);
    let streams = homeserver.takes_stream(entrance, request.method(), request.uri().path());
    let incomplete = Rc::new(Incomplete::new(if streams { room.share_of_stream(entrance) } else { room.share(entrance) }));
    let request = request.map(|body| Body::stream(RequestBody::new(body, running.clone(), incomplete.clone())));
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        // When the client goes away hyper drops this future, and with it a sync that is held for
        // nobody.
        return Ok(logged.answered(homeserver.handle(entrance, request).await));
    }
    // What was begun is finished, whether the client waits for it or not. Until then it counts as a
    // connection, so that clients that send and go away do not have more under way than those that
    // wait.
    let handler = spawn_local(async move {
        let response = logged.answered(homeserver.handle(entrance, request).await);
        drop((running, place));
        if incomplete.is_unanswered() { Err(GivenUp) } else { Ok(response) }
    });
    handler.await.map_err(|_| GivenUp)?
}
