//! The Server-Server API: what is behind the peers' entrance, one file for each group of endpoints,
//! and what this server asks of others.

pub mod authentication;
pub mod client;
pub mod keys;
mod openid;
mod query;
mod server_keys;
mod version;
mod well_known;

use crate::{router::Table, transport::Transport};
use keys::Keys;
use std::rc::Rc;

/// What memory holds of other servers, and the way to them.
pub struct Federation {
    transport: Rc<dyn Transport>,
    keys: Keys,
}

impl Federation {
    pub(crate) fn new(transport: Rc<dyn Transport>) -> Self {
        Self { transport, keys: Keys::default() }
    }
}

/// Everything of this API that is implemented, and for whom.
pub fn routes(table: &mut Table) {
    table.public(well_known::server).public(version::version).public(server_keys::own);
    table.public(server_keys::notarized).public(server_keys::notarized_many);
    table.public(openid::userinfo);
    table.peer(query::profile).peer(query::directory);
}
