//! Account data, of an account and of rooms.

use crate::{
    tables::{self, AccountData, Change, Json, RoomNid, UserNid},
    transaction::Tx,
};

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
