//! Rooms: the only writer of events. Build, receive, authorize, resolve, append.

mod rooms;

pub use rooms::Rooms;
