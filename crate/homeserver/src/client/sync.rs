//! `GET /sync` (Client-Server API, Syncing): looks, and where there is nothing to see waits until
//! there is.

use super::{
    presence::kind_of,
    wire::{Json, Own, Synced},
};
use crate::{
    damaged::LeaveOut,
    error::{Error, Result},
    homeserver::Homeserver,
    keys,
    position::{Position, Token},
    router::UserCall,
    sync::{self, Memberships, SyncRequest, UserRooms},
    tables::{self, Change, RoomNid, Session},
    to_device,
};
use ephapse_store::StoreError;
use futures_util::future::{self, Either};
use ruma::api::client::sync::sync_events::v3::{Request, Response};
use std::{pin::pin, time::Duration};

/// Answers with what the client has not seen.
pub async fn sync_events(call: UserCall, Own(request): Own<Request>) -> Result<Json> {
    let hs = &*call.hs;
    let token = request.since.as_deref().map(|token| hs.read_token(token)).transpose()?.flatten();
    let since = token.map(|token| token.position.max(Position(0)));
    let filter = hs.filter(call.session.user, call.raw.parameter("filter")).await?;
    let wants_presence = hs.config.presence && sync::wants_presence(&filter);
    let is_guest = call.is_guest();
    let session = call.session.clone();
    let ask = SyncRequest { session, is_guest, filter, since, full_state: request.full_state, state_after: request.use_state_after };
    // Whoever syncs is there, until the answer leaves.
    let _attendance = call.hs.attend(&ask.session, kind_of(&request.set_presence)?).await?;
    let look = async |from, to| {
        let response = look(hs, &ask, token, from, to).await?;
        let is_told = since.is_none() || ask.full_state || !is_empty(&response);
        Ok((response, is_told))
    };
    let mut response = poll(&call, since, request.timeout.unwrap_or_default(), (wants_presence, None), look).await?;
    let counts = keys::counts(hs, &ask.session).await?;
    response.device_one_time_keys_count = counts.one_time;
    response.device_unused_fallback_key_types = Some(counts.unused_fallback);
    Ok(Json::of(&Synced::of(response)))
}

/// Looks at what came after `since`, and again whenever something may have changed for who asks, or
/// in the room that they look into without being in it, until there is something to tell or
/// `timeout` is over. `look` says what there is between two positions, and whether that is
/// something to tell.
pub(super) async fn poll<T>(
    call: &UserCall,
    since: Option<Position>,
    timeout: Duration,
    (wants_presence, peeked): (bool, Option<RoomNid>),
    look: impl AsyncFn(Option<Position>, Position) -> Result<(T, bool)>,
) -> Result<T> {
    let hs = &*call.hs;
    // Whose answer a failed write took back has waited, and is told at once what there is now.
    let longest = if call.raw.is_repeated { Duration::ZERO } else { hs.config.longest_sync };
    let deadline = hs.host.now() + timeout.min(longest).as_millis() as u64;
    let mut from = since;
    loop {
        let rooms = hs.user_rooms(call.session.user).await?;
        let session = call.session.clone();
        // In the queue before the look, so that nothing falls between look and wait. `rooms` stays
        // current: what changes is marked in it before anyone is woken.
        let server = call.hs.clone();
        let waiting = hs.notify.wait(move |change| {
            concerns(change, &session, &rooms, &server.sync.memberships, wants_presence)
                || peeked.is_some_and(|room| is_in(change, room, wants_presence))
        });
        let to = hs.positions.newest();
        let (answer, is_told) = look(from, to).await?;
        let now = hs.host.now();
        if is_told || now >= deadline || hs.notify.is_closed() {
            return Ok(answer);
        }
        from = Some(to);
        let timeout = hs.host.sleep(Duration::from_millis(deadline - now));
        if let Either::Left(_) = future::select(pin!(waiting.woken()), timeout).await {
            // What woke it may have been a failed write, and what was read may be lost by it.
            if hs.store().generation() != call.raw.generation {
                return Err(StoreError::RolledBack.into());
            }
            // Or the end of the session.
            let session = tables::ACCESS_TOKENS.get(hs.store(), &call.token).await?;
            session.ok_or_else(Error::unknown_token)?;
        }
    }
}

/// The whole response for a client that has seen everything up to `from`.
async fn look(hs: &Homeserver, ask: &SyncRequest, since: Option<Token>, from: Option<Position>, to: Position) -> Result<Response> {
    let mut response = match from {
        Some(from) if from == to && !ask.full_state => Response::new(hs.token(to)),
        Some(from) => {
            let listed = hs.changes_between(from, to).await?;
            let mut response = hs.sync_response(ask, Some((from, &listed)), to).await?;
            let lists = keys::device_lists(hs, ask.session.user, from, &listed).await?;
            (response.device_lists.changed, response.device_lists.left) = (lists.changed, lists.left);
            response
        }
        None => hs.sync_response(ask, None, to).await?,
    };
    let to_device = to_device::pending(hs, &ask.session, since, to).await.leave_out()?.unwrap_or_default();
    response.to_device.events = to_device.events;
    response.next_batch = hs.sync_token(to, to_device.next);
    Ok(response)
}

/// Whether a change may be of interest to a session, whose user is in `rooms`: `memberships` knows
/// who shares one with them.
fn concerns(change: &Change, session: &Session, rooms: &UserRooms, memberships: &Memberships, wants_presence: bool) -> bool {
    let is_near = |user| user == session.user || memberships.may_share(rooms, user);
    match change {
        Change::Event { room, member } => *member == Some(session.user) || rooms.may_be_joined(*room),
        Change::StateReset { room } | Change::Typing { room, .. } => rooms.may_be_joined(*room),
        Change::Receipt { room, user, kind } => (*user == session.user || !kind.private) && rooms.may_be_joined(*room),
        Change::AccountData { user, .. } => *user == session.user,
        Change::ToDevice { user, device } => *user == session.user && *device == session.device,
        Change::KeySignature { by, .. } => *by == session.user,
        Change::DeviceList { user } => is_near(*user),
        Change::Presence { user } => wants_presence && is_near(*user),
        Change::Forgotten { .. } | Change::Hidden => false,
    }
}

/// Whether a change may be of interest to who looks into a room without being in it.
fn is_in(change: &Change, peeked: RoomNid, wants_presence: bool) -> bool {
    match change {
        Change::Event { room, .. } | Change::StateReset { room } | Change::Typing { room, .. } => *room == peeked,
        Change::Receipt { room, kind, .. } => *room == peeked && !kind.private,
        Change::Presence { .. } => wants_presence,
        _ => false,
    }
}

fn is_empty(response: &Response) -> bool {
    response.rooms.is_empty()
        && response.presence.is_empty()
        && response.account_data.is_empty()
        && response.to_device.is_empty()
        && response.device_lists.is_empty()
}
