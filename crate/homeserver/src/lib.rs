//! A Matrix homeserver without sockets, clock, threads or randomness of its own: it takes HTTP
//! requests and a [`Store`], and gives responses.
//!
//! A request flows `router` -> `client` or `federation` -> `room` or `sync` -> `tables` -> the
//! store. Start reading at [`Homeserver::handle`], then `room::append`.

mod accounts;
mod body;
mod cache;
pub mod config;
mod damaged;
mod devices;
pub mod error;
mod failure;
mod glob;
mod homeserver;
pub mod host;
pub mod identity;
mod json_answer;
mod keys;
mod locks;
mod position;
mod property_paths;
mod rate_limits;
mod request_log;
mod requester;
mod restricted;
mod router;
mod rows;
mod schema;
pub mod tables;
#[cfg(feature = "test-support")]
pub mod test_support;

mod account_data;
mod aliases;
mod client;
mod directory;
mod federation;
mod hierarchy;
mod media;
mod notify;
mod openid;
mod profiles;
mod push;
pub mod room;
mod summaries;
mod sync;
mod time_slice;
mod to_device;
mod transaction;
pub mod transport;
mod user_flag;
mod users;

pub use body::{Body, BodyError, PIECE, ReadError};
pub use config::{Config, FederatesWith, Registration};
pub use ephapse_store::Store;
pub use error::Error;
pub use homeserver::{Homeserver, OpenError, Status};
pub use host::Host;
pub use http::{Request, Response};
pub use media::{NoThumbnail, Thumbnail, ThumbnailSize, ThumbnailWanted};
pub use position::Position;
pub use requester::Requester;
pub use router::{Entrance, OwnPage};
pub use time_slice::EndOfSlice;
pub use transaction::{Submitted, Tx};
pub use transport::{Transport, TransportError};
