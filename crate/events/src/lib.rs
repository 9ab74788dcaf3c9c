//! Matrix events as servers exchange them: formats by room version, ids, hashes, signatures, redaction, authorization rules and state resolution.
//!
//! Plain functions of events and state: nothing here reads a store, knows the time or waits for anything.

pub mod json;
#[cfg(any(test, feature = "test-rooms"))]
pub mod model;
mod pdu;
mod power;
pub mod resolve;
#[cfg(any(test, feature = "test-rooms"))]
pub mod scenarios;
mod sign;

pub use self::{
    pdu::{
        EventReference, MAX_AUTH_EVENTS, MAX_ID_BYTES, MAX_PDU_BYTES, MAX_PREV_EVENTS, Marked, Pdu, PduError, ReceivedPdu, StateKey, create_of_room,
        max_depth, room_id_of_create,
    },
    power::{Levels, check_shape},
    sign::NewPdu,
};
