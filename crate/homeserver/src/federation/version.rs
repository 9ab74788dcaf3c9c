//! What runs here (Server-Server API, "Server implementation").

use crate::{error::Result, router::Call};
use ruma::api::federation::discovery::get_server_version::v1::{Request, Response, Server};

/// `GET /_matrix/federation/v1/version`
pub async fn version(_: Call, _: Request) -> Result<Response> {
    let mut server = Server::new();
    server.name = Some("ephapse".to_owned());
    server.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let mut response = Response::new();
    response.server = Some(server);
    Ok(response)
}
