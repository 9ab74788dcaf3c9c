//! What an operator or a page decides about its server.

use ruma::{OwnedServerName, RoomVersionId};
use std::time::Duration;

/// Who may register an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Nobody.
    Closed,
    /// Whoever has this token (`m.login.registration_token`).
    Token(String),
    /// Everybody (`m.login.dummy`).
    Open,
}

/// The settings of one homeserver.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name to be known by; `None`: the `k51…` name that follows from the node's key. Fixed
    /// when the database is made.
    pub server_name: Option<OwnedServerName>,
    /// Who may register.
    pub registration: Registration,
    /// What an operator's tools have to know to make accounts (`/_synapse/admin/v1/register`);
    /// `None`: there is no such endpoint.
    pub registration_shared_secret: Option<String>,
    /// The version of rooms created without one.
    pub default_room_version: RoomVersionId,
    /// How long a `/sync` is held at most, whatever the client asks.
    pub longest_sync: Duration,
    /// Whether clients that ask too often are answered 429.
    pub rate_limits: bool,
    /// Whether users see who of those they share a room with is there.
    pub presence: bool,
    /// The base URL in `/.well-known/matrix/client`; `None`: the one that the request came by,
    /// where it says so.
    pub public_url: Option<String>,
    /// Where a user asks for help when storage is full: a URI, in `admin_contact`.
    pub admin_contact: String,
    /// What clients are told when storage is full: the host knows whether that is a disk or what a
    /// browser grants a site.
    pub storage_full: String,
    /// Bytes that any request's body may have; most endpoints take less.
    pub largest_body: usize,
    /// The largest allowed upload in bytes, unless `Homeserver::set_max_upload` says
    /// another number.
    pub max_upload: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server_name: None,
            registration: Registration::Closed,
            registration_shared_secret: None,
            default_room_version: RoomVersionId::V12,
            longest_sync: Duration::from_secs(25),
            rate_limits: true,
            presence: true,
            public_url: None,
            admin_contact: "https://github.com/ephapse/ephapse#storage-is-full".to_owned(),
            storage_full: "Storage is full: leave and forget rooms that you no longer need".to_owned(),
            largest_body: 2 << 20,
            max_upload: 100 << 20,
        }
    }
}
