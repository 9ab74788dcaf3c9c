//! An event of a room as this server holds it: the PDU, where it stands, and what is known of it.

use super::{rooms::RoomInfo, state_tree::NodeId};
use crate::{
    damaged::Damaged,
    position::Position,
    tables::{EventRecord, RawBytes, RoomNid, Withheld},
};
use ephapse_events::{Pdu, PduError};
use ruma::{OwnedDeviceId, RoomId};
use std::{fmt::Display, sync::Arc};

/// A stored event.
#[derive(Clone, Debug)]
pub struct Event {
    /// The room's number.
    pub room: RoomNid,
    /// Where it stands.
    pub position: Position,
    /// The event itself; redacted, if it was.
    pub pdu: Arc<Pdu>,
    /// Why the auth rules rejected it, if they did.
    pub rejected: Option<String>,
    /// Whether it failed against the current state when it arrived.
    pub soft_failed: bool,
    /// Whether it is a redaction that cannot be applied, or not yet, of which clients are not told
    /// since v3.
    pub waiting: bool,
    /// The state before it.
    pub state_before: NodeId,
    /// The state after it.
    pub state_after: NodeId,
    /// The room's state once it had arrived: not the state after it where the room was forked.
    pub room_state: NodeId,
    /// The device and transaction id it was sent with.
    pub txn_id: Option<(OwnedDeviceId, String)>,
    /// The state event that it replaced.
    pub replaces: Option<Position>,
    /// The redaction that took its content away.
    pub redacted_by: Option<Position>,
    /// Where states refer to it, when it was an outlier before it got its place in the timeline.
    /// Its own position where it has a place and the state there is not known all the same.
    pub outlier: Option<Position>,
}

impl Event {
    /// Reads what a table holds.
    pub fn from_record(room: &RoomInfo, position: Position, record: EventRecord) -> Result<Self, PduError> {
        let state_before = NodeId(record.state_before);
        let state_after = record.state_after.map_or(state_before, NodeId);
        let pdu = Pdu::from_stored(record.event_id, record.pdu.0.into(), record.rejected.is_some(), &room.rules)?;
        Ok(Self {
            room: room.nid,
            position,
            pdu: Arc::new(Pdu { auth_depth: record.auth_depth, ..pdu }),
            rejected: record.rejected,
            soft_failed: record.withheld == Withheld::SoftFailed,
            waiting: record.withheld == Withheld::Waiting,
            state_before,
            state_after,
            room_state: record.room_state.map_or(state_after, NodeId),
            txn_id: record.txn_id,
            replaces: record.replaces,
            redacted_by: record.redacted_by,
            outlier: record.outlier,
        })
    }

    /// What the table holds of it.
    pub fn to_record(&self) -> EventRecord {
        EventRecord {
            pdu: RawBytes(self.pdu.json.to_vec()),
            event_id: self.pdu.event_id.clone(),
            rejected: self.rejected.clone(),
            withheld: self.withheld(),
            state_before: self.state_before.0,
            state_after: (self.state_after != self.state_before).then_some(self.state_after.0),
            room_state: (self.room_state != self.state_after).then_some(self.room_state.0),
            txn_id: self.txn_id.clone(),
            replaces: self.replaces,
            redacted_by: self.redacted_by,
            auth_depth: self.pdu.auth_depth,
            outlier: self.outlier,
        }
    }

    fn withheld(&self) -> Withheld {
        match self {
            Self { soft_failed: true, .. } => Withheld::SoftFailed,
            Self { waiting: true, .. } => Withheld::Waiting,
            _ => Withheld::No,
        }
    }

    /// Whether it is a part of the room: neither rejected nor soft-failed.
    pub fn is_accepted(&self) -> bool {
        self.rejected.is_none() && !self.soft_failed
    }

    /// Whether clients may be shown it at all.
    pub fn is_shown(&self) -> bool {
        self.is_accepted() && !self.waiting && !self.is_outlier()
    }

    /// Whether it has no place in the timeline: the state before it is not known. It is here since
    /// a state or an auth chain refers to it.
    pub fn is_outlier(&self) -> bool {
        self.position.is_outlier()
    }

    /// Whether it is known what the room's state is after it. It is not of an outlier, and not of a
    /// membership of this server's users from before it was in the room.
    pub fn has_state(&self) -> bool {
        !self.is_outlier() && self.outlier != Some(self.position)
    }

    /// Where states refer to it.
    pub fn state_position(&self) -> Position {
        self.outlier.unwrap_or(self.position)
    }

    /// Says that it cannot be shown.
    pub fn damaged(&self, room: &RoomId, why: impl Display) -> Damaged {
        Damaged::new(format!("event {} of {room}", self.pdu.event_id), why)
    }

    /// Bytes it takes in memory, roughly.
    pub fn weight(&self) -> usize {
        512 + 2 * self.pdu.json.len()
    }
}
