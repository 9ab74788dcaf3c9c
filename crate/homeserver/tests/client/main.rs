//! The homeserver as clients see it: HTTP in, JSON out, over a store in memory, with time and dice of the test's own.

mod errors;
mod register;
mod rooms;
mod session;
mod support;
