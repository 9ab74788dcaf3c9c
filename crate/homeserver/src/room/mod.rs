//! Rooms: the only writer of events. Build, receive, authorize, resolve, append.
//!
//! `pdu`, `sign` and `state_tree` are plain functions of events and state: they read no store and know no time.

mod pdu;
mod rooms;
mod sign;
pub mod state_tree;

pub use self::{
    pdu::{EventReference, MAX_AUTH_EVENTS, MAX_ID_BYTES, MAX_PDU_BYTES, MAX_PREV_EVENTS, Pdu, PduError, ReceivedPdu, StateKey, room_id_of_create},
    rooms::Rooms,
    sign::NewPdu,
    state_tree::{Node, NodeId},
};
