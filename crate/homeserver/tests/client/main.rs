//! The homeserver as clients see it: HTTP in, JSON out, over a store in memory, with time and dice of the test's own.

mod account;
mod account_data;
mod cross_signing;
mod device_lists;
mod devices;
mod endpoints;
mod errors;
mod failures;
mod hostile;
mod key_backup;
mod keys;
mod knock;
mod old_tokens;
mod presence;
mod profile;
mod push_rules;
mod register;
mod rooms;
mod session;
mod shared_secret;
mod signing;
mod slow;
mod support;
mod sync;
mod sync_model;
mod to_device;
