//! The Client-Server API: one file for each group of endpoints, named as the specification's chapters.

mod versions;

use crate::router::Table;

/// Everything of this API that is implemented.
pub fn routes(table: &mut Table) {
    table.public(versions::versions).public(versions::well_known);
}
