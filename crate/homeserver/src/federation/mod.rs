//! The Server-Server API: what is behind the peers' entrance.

use crate::router::Table;

/// Everything of this API that is implemented: nothing yet.
pub fn routes(_: &mut Table) {}
