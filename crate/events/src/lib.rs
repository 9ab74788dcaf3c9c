//! Matrix events as servers exchange them, in room versions 1 to 12: formats, event ids, content
//! and reference hashes, signatures, redaction, authorization rules and state resolution.
//!
//! All of it is plain functions of events and state. Nothing here reads a store, knows the time,
//! waits, or speaks HTTP. What a function needs it is given, or asks for through a closure. What is
//! not at hand it names, and is called again.
//!
//! Ids, event types, the rules of room versions (`ruma::RoomVersionId::rules`) and the
//! authorization rules are ruma's. Written here are canonical JSON, hashes, signatures and ids, in
//! one pass over an event, and a state resolution whose work follows the conflict and not the size
//! of the room.
//!
//! | The specification | Here |
//! |---|---|
//! | Signing events, event format | [`NewPdu::sign`] |
//! | Checks on receipt of a PDU, 1: format and sizes | [`ReceivedPdu::parse`] |
//! | 2 and 3: signatures and content hash | [`ReceivedPdu::verify`], [`ReceivedPdu::verify_all`] |
//! | 4: the authorization rules, by the events that it names | [`auth::check_auth_events`] |
//! | 4 to 6: the authorization rules in a state | [`auth::check_in_state`] |
//! | Auth events selection | [`auth::auth_events_of`] |
//! | Redactions | [`auth::may_redact`], [`Pdu::redacted`] |
//! | Forming relationships between events | [`RelatesTo`] |
//! | State resolution | [`resolve::Resolution`], [`resolve::resolve_in_memory`] |
//!
//! # A room is made, and another server checks its first event
//!
//! ```
//! use ephapse_events::{JsonObject, NewPdu, ReceivedPdu, auth, public_keys, signing_key};
//! use ruma::{MilliSecondsSinceUnixEpoch, RoomVersionId, events::TimelineEventType, server_name, user_id};
//! use std::convert::Infallible;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rules = RoomVersionId::V12.rules().ok_or("not a room version of the specification")?;
//! let server = server_name!("one.example");
//! let key = signing_key(&[7; 32], "1");
//!
//! let create = NewPdu {
//!     room_id: None, // since version 12 it is made of this event's id
//!     sender: user_id!("@alice:one.example").to_owned(),
//!     event_type: TimelineEventType::RoomCreate,
//!     state_key: Some(String::new()),
//!     content: JsonObject::read(r#"{"room_version":"12"}"#, true)?,
//!     prev_events: vec![],
//!     auth_events: vec![],
//!     depth: 1,
//!     origin_server_ts: MilliSecondsSinceUnixEpoch(1_700_000_000_000_u64.try_into()?),
//!     redacts: None,
//!     event_localpart: String::new(),
//! }
//! .sign(server, &key, &rules)?;
//!
//! // On the other server, which has asked the first one for its public key:
//! let received = ReceivedPdu::parse(&create.json, &rules)?.verify(&public_keys(server, &key), &rules)?;
//! assert_eq!(received.event_id, create.event_id);
//! assert_eq!(received.room_id.as_str()[1..], received.event_id.as_str()[1..]);
//! // It names no events, so there is none to fetch.
//! auth::check_auth_events(&rules.authorization, &received, |_| Ok::<_, Infallible>(None))?;
//! # Ok(())
//! # }
//! ```
//!
//! `examples/forked_room.rs` goes on to a room that two servers change at the same time, and to
//! what its state becomes.
//!
//! # Features
//!
//! `test-rooms`: rooms in memory (`model`) and the authorization rules as scenarios (`scenarios`),
//! for tests of this crate and of those that use it.

pub mod auth;
mod canonical;
mod inserted;
pub mod json;
#[cfg(any(test, feature = "test-rooms"))]
pub mod model;
mod pdu;
mod relations;
pub mod resolve;
#[cfg(any(test, feature = "test-rooms"))]
pub mod scenarios;
mod sign;
mod signatures;

pub use self::{
    canonical::{NotJson, write_canonical},
    inserted::Inserted,
    pdu::{
        EventReference, JsonObject, MAX_AUTH_EVENTS, MAX_ID_BYTES, MAX_PDU_BYTES, MAX_PREV_EVENTS, Pdu, PduError, ReceivedPdu, SignatureError,
        StateKey, create_of_room, max_depth, room_id_of_create,
    },
    relations::RelatesTo,
    sign::{NewPdu, public_keys, signing_key},
    signatures::Verifier,
};

use ruma::{RoomVersionId, room_version_rules::RoomVersionRules};

/// The rules of a room version, if it is one of [`ROOM_VERSIONS`].
pub fn rules_of(version: &RoomVersionId) -> Option<RoomVersionRules> {
    Some(version).filter(|version| ROOM_VERSIONS.contains(version)).and_then(RoomVersionId::rules)
}

/// The room versions whose events this crate writes, checks and resolves.
pub const ROOM_VERSIONS: [RoomVersionId; 12] = [
    RoomVersionId::V1,
    RoomVersionId::V2,
    RoomVersionId::V3,
    RoomVersionId::V4,
    RoomVersionId::V5,
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];
