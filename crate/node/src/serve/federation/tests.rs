//! Requests to servers on this machine, with a DNS server and a certificate authority of the tests.

mod connections;
mod discovery;
mod support;
mod well_known;
