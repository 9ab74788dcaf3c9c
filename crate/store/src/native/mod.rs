//! The native store: a synced log in front of redb.
//!
//! A redb commit of a few kilobytes rewrites a path of pages for each key. It takes several times
//! as long as appending to a log and syncing that, and it grows with the tree. So a batch is
//! durable when its log record is (`log`). redb takes over some megabytes at a time, on a thread of
//! its own (`redb`). Until then a memtable answers for them. What is too large for the map lies in
//! files beside it (`chunks`).

mod catch_panics;
mod chunks;
#[cfg(test)]
mod damage_tests;
mod directory;
mod log;
mod redb;
mod tables;
#[cfg(test)]
mod tests;

pub use catch_panics::panic_is_caught;
pub use redb::{RedbOptions, RedbStore};
