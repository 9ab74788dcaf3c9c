//! Several servers in one process, as their users and each other see them.

mod joins;
mod media;
mod send;
mod server_keys;
mod support;
