//! Rooms with a second server in them: forks, late events, conflicting bans, through the one
//! append.

#[path = "../../tests/client/support.rs"]
#[allow(dead_code, clippy::unwrap_used, missing_docs)]
pub(crate) mod support;

mod auth_rules;
mod bans;
mod forked;
mod forks;
mod order;
mod turns;
