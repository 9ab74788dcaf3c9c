//! Room ids and their numbers, and the caches of rooms lately used.

use crate::tables::{self, RoomSn};
use ephapse_store::{Direction, Store, StoreError};
use std::cell::Cell;

/// What memory holds of rooms; all of it can be dropped at any time.
pub struct Rooms {
    newest: Cell<RoomSn>,
}

impl Rooms {
    pub(crate) fn new(newest: RoomSn) -> Self {
        Self { newest: Cell::new(newest) }
    }

    pub(crate) async fn newest_stored(store: &dyn Store) -> Result<RoomSn, StoreError> {
        Ok(tables::ROOMS.scan(store, &(), Direction::Backward, 1).await?.first().map_or(0, |(sn, _)| *sn))
    }

    pub(crate) fn reset(&self, newest: RoomSn) {
        self.newest.set(newest);
    }
}
