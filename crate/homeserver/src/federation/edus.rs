//! EDUs of other servers (Server-Server API, "EDUs").

use crate::{error::Result, homeserver::Homeserver};
use ruma::{ServerName, api::federation::transactions::edu::Edu, serde::Raw};
use std::rc::Rc;

/// Takes in the EDUs of a transaction of a server.
#[expect(clippy::unused_async, reason = "none has an effect yet")]
pub async fn received(_: &Rc<Homeserver>, origin: &ServerName, edus: Vec<Raw<Edu>>) -> Result<()> {
    if !edus.is_empty() {
        tracing::debug!("{} EDUs of {origin} have no effect", edus.len());
    }
    Ok(())
}
