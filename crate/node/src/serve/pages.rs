//! Small HTTP servers for the operator: the metrics' port, and the socket of `ephapse status`. They
//! answer GETs of a few paths.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, io, rc::Rc, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    task::spawn_local,
    time::{sleep, timeout},
};

/// Connections at a time. More wait.
const MOST_CONNECTIONS: usize = 16;

/// How long a connection may take, with all of its requests.
const WITHIN: Duration = Duration::from_secs(60);

/// How long to wait before the next accept when the system has no room for a connection.
const NO_ROOM: Duration = Duration::from_millis(50);

/// What is there to read: its type and content.
pub struct Page {
    /// The media type.
    pub kind: &'static str,
    /// The content.
    pub content: String,
}

/// The page of a path.
pub type Pages = Rc<dyn Fn(&str) -> Option<Page>>;

/// Answers, in the background, what connects: `accept` waits for the next connection.
pub fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(accept: impl AsyncFn() -> io::Result<S> + 'static, pages: Pages) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    spawn_local(async move {
        loop {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            match accept().await {
                Ok(stream) => {
                    let pages = pages.clone();
                    spawn_local(async move {
                        timeout(WITHIN, connection(stream, pages)).await.ok();
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    sleep(NO_ROOM).await;
                }
            }
        }
    });
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + 'static>(stream: S, pages: Pages) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, &pages);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!("connection closed: {error}");
    }
}

fn answer(request: &Request<Incoming>, pages: &Pages) -> Response<Full<Bytes>> {
    let plain = |status, text: &'static str| (status, Page { kind: "text/plain; charset=utf-8", content: text.to_owned() });
    let (status, page) = match (request.method(), pages(request.uri().path())) {
        (_, None) => plain(StatusCode::NOT_FOUND, "There is nothing here.\n"),
        (&Method::GET | &Method::HEAD, Some(page)) => (StatusCode::OK, page),
        (_, Some(_)) => plain(StatusCode::METHOD_NOT_ALLOWED, "Only GET is answered here.\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from(page.content)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(page.kind));
    response
}
