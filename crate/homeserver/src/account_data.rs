//! Account data, of an account and of rooms.

use crate::{
    homeserver::Homeserver,
    tables::{self, AccountData, Change, Json, RoomNid, UserNid},
    time_slice::TimeSlice,
    transaction::Tx,
};
use ephapse_store::{Direction, StoreError};

/// The account data that is of no room.
pub const GLOBAL: RoomNid = 0;

/// Stages a piece of account data.
pub fn put(tx: &mut Tx, user: UserNid, room: RoomNid, kind: String, content: Json) {
    let position = tx.change(Change::AccountData { user, room, kind: kind.clone() });
    tables::ACCOUNT_DATA.put(tx, &(user, room, kind), &AccountData { content, position });
    if room != GLOBAL {
        tables::ROOM_ACCOUNT_DATA.put(tx, &(room, user), &());
    }
}

/// The rooms that a user has account data of. Each is one read: what is kept of a room may be
/// large.
pub async fn rooms_of(hs: &Homeserver, user: UserNid) -> Result<Vec<RoomNid>, StoreError> {
    let slice = TimeSlice::new(&*hs.host);
    let mut rest = tables::ACCOUNT_DATA.range(&(user, GLOBAL)).end..tables::ACCOUNT_DATA.range(&user).end;
    let mut rooms = Vec::new();
    while let Some(((_, room, _), _)) = tables::ACCOUNT_DATA.scan_range(hs.store(), rest.clone(), Direction::Forward, 1).await?.pop() {
        rest.start = tables::ACCOUNT_DATA.range(&(user, room)).end;
        rooms.push(room);
        slice.step().await;
    }
    Ok(rooms)
}
