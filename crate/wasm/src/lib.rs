//! The homeserver for a service worker: converts between JavaScript's requests, options and events
//! and the core's, and decides nothing.
//!
//! `browser` is what JavaScript sees, and with `body` the only part that needs a browser; `calls`
//! knows which requests are under way; `convert` and `log` are plain functions.

#[cfg(target_arch = "wasm32")]
mod body;
#[cfg(target_arch = "wasm32")]
mod browser;
mod calls;
mod convert;
mod log;

#[cfg(not(target_arch = "wasm32"))]
pub use {
    calls::{RecordingStore, Turns, current, end, has_written},
    convert::{Headers, header_pairs, request},
    log::Console,
};
