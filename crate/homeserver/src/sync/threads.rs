//! Which thread an event is in (Client-Server API, Threaded read receipts): its own `m.thread`
//! relation, or that of what it relates to.

use crate::{error::Result, homeserver::Homeserver, room::Event, tables::RoomNid};
use ephapse_events::RelatesTo;
use ruma::OwnedEventId;

/// "A maximum of 3 hops is recommended to cover indirect relationships."
const HOPS: usize = 3;

impl Homeserver {
    /// The root of the thread that an event is in; `None`: the main timeline, to which the roots
    /// themselves belong.
    pub(crate) async fn thread_of(&self, room: RoomNid, event: &Event) -> Result<Option<OwnedEventId>> {
        let mut relates = RelatesTo::in_json(event.pdu.content.get());
        for _ in 0..HOPS {
            match relates {
                Some(relation) if relation.rel_type != "m.thread" => {
                    let parent = self.event_by_id(room, &relation.event_id).await?;
                    relates = parent.and_then(|parent| RelatesTo::in_json(parent.pdu.content.get()));
                }
                _ => break,
            }
        }
        Ok(relates.filter(|relation| relation.rel_type == "m.thread").map(|relation| relation.event_id))
    }
}
