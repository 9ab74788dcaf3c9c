//! Several servers in one process, as their users and each other see them.

mod backfill;
mod hostile;
mod joins;
mod media;
mod missing;
mod send;
mod server_keys;
mod support;
