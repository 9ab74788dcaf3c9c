//! Connections and shutdown, without sockets.

mod abandoned_requests;
mod clock;
mod operations;
mod other_servers;
mod shutdown;
mod slow_clients;
mod support;
