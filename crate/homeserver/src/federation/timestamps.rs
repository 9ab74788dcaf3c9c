//! Events close to a time that other servers have and this one has not (Server-Server API, `GET
//! /timestamp_to_event/{roomId}`).

use super::backfill;
use crate::{
    homeserver::Homeserver,
    room::{self, RoomInfo, Viewer},
};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName,
    api::{Direction, federation::event::get_event_by_timestamp::v1 as get_event_by_timestamp},
};
use std::{rc::Rc, time::Duration};

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many servers are asked.
const MOST_ASKED: usize = 3;
/// How often history is fetched on the way to an event, and for how long, in ms.
const ROUNDS: usize = 20;
const LONGEST: u64 = 20_000;

/// Where a time is before everything that is here of a room, and the room goes on elsewhere, asks
/// other servers in it for the event, and fetches the history up to it, within limits. Answers what
/// was told.
pub async fn fetch(
    hs: &Rc<Homeserver>,
    room: &Rc<RoomInfo>,
    viewer: &mut Viewer,
    ts: u64,
    direction: Direction,
) -> Result<Option<get_event_by_timestamp::Response>, room::Error> {
    let is_here = backfill::oldest(hs, room).await?.is_some_and(|oldest| u64::from(oldest.pdu.origin_server_ts.0) <= ts);
    if is_here || hs.missing_parents(room.nid).await?.is_empty() {
        return Ok(None);
    }
    let servers: Vec<OwnedServerName> = hs.servers_in(room.nid).await?.keys().take(MOST_ASKED).cloned().collect();
    let Ok(ts) = ruma::UInt::try_from(ts) else { return Ok(None) };
    let request = get_event_by_timestamp::Request::new(room.id.clone(), MilliSecondsSinceUnixEpoch(ts), direction);
    let told = hs.ask_any(&servers, async |server| hs.ask_within(server, request.clone(), PATIENCE, 64 << 10).await, |_| false).await;
    let Ok(told) = told else { return Ok(None) };
    let begun = hs.host.now();
    for _ in 0..ROUNDS {
        let place = hs.find_event(&told.event_id).await?;
        let came = place.is_some_and(|(nid, position)| nid == room.nid && !position.is_outlier());
        if came || hs.host.now() > begun + LONGEST || !backfill::goes_on_elsewhere(hs, room, viewer).await? {
            break;
        }
    }
    Ok(Some(told))
}
