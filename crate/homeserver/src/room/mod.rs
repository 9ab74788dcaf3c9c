//! Rooms: the only writer of events. Build, receive, authorize, resolve, append.
//!
//! What an event is, and what the rules say of it, is in `ephapse_events`; the state of a room is
//! in `state_tree`. Both are plain functions. `read` and `needs` bring what they need into memory,
//! `write` turns a decision into one batch, `build` makes local events, `receive` checks remote
//! ones, and both enter by `append`.

mod access;
mod append;
mod auth_chain;
mod build;
mod client_event;
mod create;
mod erased;
mod error;
mod event;
mod graph;
mod guests;
mod history;
mod incoming;
mod invitee;
mod needs;
mod outgoing;
mod outliers;
mod permissions;
mod policy;
mod purge;
mod read;
mod receive;
mod related;
mod relations;
mod resolution;
mod rooms;
mod server_viewer;
pub mod state_tree;
mod stop;
#[cfg(test)]
pub(crate) mod tests;
mod timeline;
mod timestamp;
mod visibility;
mod write;

pub(crate) use self::{
    append::membership_of,
    relations::{DEPTH, REDACTION},
};
pub use self::{
    build::Draft,
    client_event::Format,
    create::NewRoom,
    error::{Error, Refused, Result},
    event::Event,
    incoming::Received,
    invitee::Invitee,
    outliers::{StateHere, by_auth_events, in_order},
    policy::{PolicyServer, Unsigned},
    related::{Related, RelatedBy, Wanted},
    rooms::{RoomInfo, Rooms},
    server_viewer::ServerViewer,
    state_tree::{Node, NodeId},
    stop::{Need, Stop},
    timeline::{Page, Reading},
    visibility::{Viewer, is_visible},
    write::Write,
};
