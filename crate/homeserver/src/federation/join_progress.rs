//! How far joins through other servers are.

use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde::Serialize;
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

/// What the owner of a node sees of a join that is under way: events come first, and are then
/// verified and kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinStatus {
    /// The server that is asked.
    pub server: OwnedServerName,
    /// The room.
    pub room: OwnedRoomId,
    /// How many events of its state have come; none while it has not answered.
    pub events_read: u64,
    /// How many of them are kept.
    pub events_kept: u64,
}

/// The joins that are under way.
#[derive(Default)]
pub struct Joins {
    under_way: RefCell<BTreeMap<u64, JoinStatus>>,
    numbers: Cell<u64>,
}

impl Joins {
    /// A join begins, which ends with what this answers.
    pub fn begin(&self, room: &RoomId, server: &ServerName) -> JoinProgress<'_> {
        let number = self.numbers.replace(self.numbers.get() + 1);
        let status = JoinStatus { server: server.to_owned(), room: room.to_owned(), events_read: 0, events_kept: 0 };
        self.under_way.borrow_mut().insert(number, status);
        JoinProgress { joins: self, number }
    }

    pub fn status(&self) -> Vec<JoinStatus> {
        self.under_way.borrow().values().cloned().collect()
    }
}

/// A join that is under way.
pub struct JoinProgress<'a> {
    joins: &'a Joins,
    number: u64,
}

impl JoinProgress<'_> {
    fn change(&self, change: impl FnOnce(&mut JoinStatus)) {
        self.joins.under_way.borrow_mut().get_mut(&self.number).map(change);
    }

    /// An event has come.
    pub fn has_read(&self) {
        self.change(|status| status.events_read += 1);
    }

    /// So many more are kept.
    pub fn has_kept(&self, count: usize) {
        self.change(|status| status.events_kept += count as u64);
    }
}

impl Drop for JoinProgress<'_> {
    fn drop(&mut self) {
        self.joins.under_way.borrow_mut().remove(&self.number);
    }
}
