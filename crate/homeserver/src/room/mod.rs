//! Rooms: the only writer of events. Build, receive, authorize, resolve, append.
//!
//! `pdu`, `sign`, `state_tree` and `resolve` are plain functions of events and state: they read no store and know no time. `read` brings what they need into
//! memory, `write` turns a decision into one batch, `build` makes local events, `receive` checks remote ones, and both enter by `append`.

mod append;
#[cfg(test)]
mod auth_rules;
mod build;
mod client_event;
mod create;
mod erased;
mod event;
mod guests;
mod invitee;
#[cfg(test)]
mod model;
mod pdu;
mod power;
mod purge;
mod read;
mod receive;
mod related;
mod relations;
mod resolution;
pub mod resolve;
mod rooms;
mod sign;
pub mod state_tree;
#[cfg(test)]
mod tests;
mod timeline;
mod visibility;
mod write;

pub(crate) use self::{
    append::membership_of,
    relations::{DEPTH, REDACTION, RelatesTo},
};
pub use self::{
    build::Draft,
    client_event::Format,
    create::{NewRoom, VERSIONS},
    event::Event,
    invitee::Invitee,
    pdu::{
        EventReference, MAX_AUTH_EVENTS, MAX_ID_BYTES, MAX_PDU_BYTES, MAX_PREV_EVENTS, Marked, Pdu, PduError, ReceivedPdu, StateKey, max_depth,
        room_id_of_create,
    },
    power::Levels,
    related::{Related, RelatedBy, Wanted},
    rooms::{RoomInfo, Rooms},
    sign::NewPdu,
    state_tree::{Node, NodeId},
    timeline::{Page, Reading},
    visibility::{Viewer, is_visible},
    write::{Need, Stop, Write},
};
