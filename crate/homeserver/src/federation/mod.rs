//! The Server-Server API: what is behind the peers' entrance, one file for each group of endpoints.

pub mod authentication;
mod query;
mod server_keys;
mod version;
mod well_known;

use crate::router::Table;

/// Everything of this API that is implemented, and for whom.
pub fn routes(table: &mut Table) {
    table.public(well_known::server).public(version::version).public(server_keys::own);
    table.peer(query::profile).peer(query::directory);
}
