//! What passes in a room: who types, and who has read how far (`ephemeral` of a sync), and what a
//! user keeps about it (`account_data`).

use super::changes::{RoomChanges, Which};
use crate::{
    damaged::{Damaged, LeaveOut},
    error::{Error, Result},
    homeserver::Homeserver,
    position::Position,
    tables::{self, AccountData, ReceiptKind, RoomNid, StoredReceipt, UserNid},
    time_slice::TimeSlice,
};
use ephapse_store::Direction;
use ruma::{OwnedEventId, OwnedUserId, UserId, events::AnySyncEphemeralRoomEvent, serde::Raw};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::{BTreeMap, BTreeSet};

/// How many receipts are read at once.
const PAGE: usize = 1000;

/// `content.<event>.<type>.<user>` of an `m.receipt` event.
type ReceiptContent<'a> = BTreeMap<&'a OwnedEventId, BTreeMap<&'static str, BTreeMap<OwnedUserId, Receipt<'a>>>>;

#[derive(Serialize)]
struct Receipt<'a> {
    ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<&'a str>,
}

#[derive(Serialize)]
struct TypeAndContent<'a, C> {
    #[serde(rename = "type")]
    kind: &'a str,
    content: C,
}

/// An event that consists of a type and a content only.
pub fn bare_event<T>(kind: &str, content: impl Serialize) -> Result<Raw<T>> {
    to_raw_value(&TypeAndContent { kind, content })
        .map(Raw::from_json)
        .map_err(|error| Error::Internal(format!("could not serialize an event: {error}")))
}

/// Account data as an event.
pub fn account_data_event<T>(user: &UserId, kind: &str, data: &AccountData) -> Result<Raw<T>> {
    let content: &RawValue =
        serde_json::from_str(&data.content.0).map_err(|error| Damaged::new(format!("{kind} in the account data of {user}"), error))?;
    bare_event(kind, content)
}

impl Homeserver {
    /// The receipts of a room; `changes`: only what changed since then, else all.
    pub(super) async fn receipts_of(
        &self,
        room: RoomNid,
        changes: Option<(&RoomChanges, Position)>,
    ) -> Result<Vec<((UserNid, ReceiptKind), StoredReceipt)>> {
        match changes {
            Some((RoomChanges { receipts: Which::These(these), .. }, _)) => {
                let keys: Vec<_> = these.iter().map(|(user, kind)| (room, *user, kind.clone())).collect();
                if keys.is_empty() {
                    return Ok(Vec::new());
                }
                let found = tables::RECEIPTS.get_many(self.store(), &keys).await?;
                Ok(keys.into_iter().zip(found).filter_map(|((_, user, kind), receipt)| Some(((user, kind), receipt?))).collect())
            }
            other => {
                let since = other.map_or(Position::MIN, |(_, since)| since);
                let mut rest = tables::RECEIPTS.range(&room);
                let mut receipts = Vec::new();
                let slice = TimeSlice::of(&*self.host, PAGE);
                loop {
                    let page = tables::RECEIPTS.scan_range(self.store(), rest.clone(), Direction::Forward, PAGE).await?;
                    let last = page.last().filter(|_| page.len() == PAGE).map(|(key, _)| tables::RECEIPTS.key(key));
                    let newer = page.into_iter().filter(|(_, receipt)| receipt.position > since);
                    receipts.extend(newer.map(|((_, user, kind), receipt)| ((user, kind), receipt)));
                    let Some(mut last) = last else { return Ok(receipts) };
                    // The first key after it.
                    last.push(0);
                    rest.start = last;
                    slice.end().await;
                }
            }
        }
    }

    /// Receipts as `m.receipt` events for `user`, one for each thread; none of users who are
    /// ignored.
    pub(super) async fn receipt_events(
        &self,
        user: UserNid,
        ignored: &BTreeSet<OwnedUserId>,
        receipts: &[((UserNid, ReceiptKind), StoredReceipt)],
    ) -> Result<Vec<Raw<AnySyncEphemeralRoomEvent>>> {
        let mut threads: BTreeMap<Option<&str>, ReceiptContent<'_>> = BTreeMap::new();
        let slice = TimeSlice::of(&*self.host, PAGE);
        for ((whose, kind), receipt) in receipts {
            slice.step().await;
            if kind.private && *whose != user {
                continue;
            }
            let Some(id) = self.user_id(*whose).await.leave_out()? else { continue };
            if ignored.contains(&id) {
                continue;
            }
            let name = if kind.private { "m.read.private" } else { "m.read" };
            let users = threads.entry(kind.thread.as_deref()).or_default().entry(&receipt.event_id).or_default().entry(name).or_default();
            users.insert(id, Receipt { ts: receipt.ts, thread_id: kind.thread.as_deref() });
        }
        threads.into_values().map(|content| bare_event("m.receipt", content)).collect()
    }

    /// The room's `m.typing` event, without users who are ignored.
    pub(super) async fn typing_event(&self, room: RoomNid, ignored: &BTreeSet<OwnedUserId>) -> Result<Raw<AnySyncEphemeralRoomEvent>> {
        #[derive(Serialize)]
        struct Content {
            user_ids: Vec<OwnedUserId>,
        }
        let mut user_ids = self.typing_users(room).await?;
        user_ids.retain(|user| !ignored.contains(user));
        bare_event("m.typing", Content { user_ids })
    }

    /// A user's account data of a room (0: outside of rooms); `changes`: only of what changed since
    /// then, else all.
    pub(super) async fn account_data_of(
        &self,
        user: UserNid,
        room: RoomNid,
        changes: Option<(&Which<String>, Position)>,
    ) -> Result<Vec<(String, AccountData)>> {
        match changes {
            Some((Which::These(these), _)) => {
                let keys: Vec<_> = these.iter().map(|kind| (user, room, kind.clone())).collect();
                let found = tables::ACCOUNT_DATA.get_many(self.store(), &keys).await?;
                Ok(keys.into_iter().zip(found).filter_map(|((_, _, kind), data)| Some((kind, data?))).collect())
            }
            other => {
                let since = other.map_or(Position::MIN, |(_, since)| since);
                let found = tables::ACCOUNT_DATA.scan(self.store(), &(user, room), Direction::Forward, usize::MAX).await?;
                Ok(found.into_iter().filter(|(_, data)| data.position > since).map(|((_, _, kind), data)| (kind, data)).collect())
            }
        }
    }
}
