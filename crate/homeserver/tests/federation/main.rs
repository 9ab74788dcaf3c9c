//! Several servers in one process, as their users and each other see them.

mod backfill;
mod device_lists;
mod edus;
mod forks;
mod history;
mod hostile;
mod joins;
mod media;
mod missing;
mod outbox;
mod policy;
mod reads;
mod send;
mod server_keys;
mod spec;
mod specified;
mod support;
