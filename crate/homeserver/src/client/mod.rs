//! The Client-Server API: one file for each group of endpoints, named as the specification's chapters.

mod account;
mod devices;
pub mod interactive;
mod password;
mod rate_limit;
mod read_markers;
mod receipts;
mod register;
mod session;
mod shared_secret;
mod typing;
mod versions;
mod wire;

pub use devices::{Seen, seen};
pub use rate_limit::RateLimits;

use crate::router::Table;

/// Everything of this API that is implemented.
pub fn routes(table: &mut Table) {
    table.public(versions::versions).public(versions::well_known);
    table.public(session::login_types).public(session::login).user(session::logout).user(session::logout_all);
    table.public(register::register).public(register::username_available).public(register::token_validity);
    table.public(shared_secret::nonce).public(shared_secret::register);
    table.user(account::whoami).user(account::change_password).user(account::deactivate);
    table.user(devices::list).user(devices::get).user(devices::update).user(devices::delete).user(devices::delete_many);
    table.user(receipts::create_receipt).user(read_markers::set_read_marker).user(typing::create_typing_event);
}
