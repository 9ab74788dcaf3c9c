//! Connections and shutdown, without sockets.

mod abandoned_requests;
mod shutdown;
mod slow_clients;
mod support;
