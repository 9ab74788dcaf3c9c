//! Which thread an event is in (Client-Server API, Threaded read receipts): its own `m.thread` relation, or that of what it relates to.

use crate::{
    error::Result,
    homeserver::Homeserver,
    tables::{self, EventRecord, RoomSn},
};
use ruma::OwnedEventId;
use serde::Deserialize;

/// "A maximum of 3 hops is recommended to cover indirect relationships."
const HOPS: usize = 3;

#[derive(Deserialize)]
struct Event {
    content: Content,
}

#[derive(Deserialize)]
struct Content {
    #[serde(rename = "m.relates_to")]
    relates_to: Option<RelatesTo>,
}

/// A relation as it stands in an event's content.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub struct RelatesTo {
    /// How it relates.
    pub rel_type: String,
    /// To what.
    pub event_id: OwnedEventId,
}

/// The relation in an event's JSON; `None` also for one that is malformed.
pub fn relation(event: &[u8]) -> Option<RelatesTo> {
    serde_json::from_slice::<Event>(event).ok()?.content.relates_to
}

impl Homeserver {
    /// The root of the thread that an event is in; `None`: the main timeline, to which the roots themselves belong.
    pub(crate) async fn thread_of(&self, room: RoomSn, event: &EventRecord) -> Result<Option<OwnedEventId>> {
        let mut relates = relation(&event.pdu.0);
        for _ in 0..HOPS {
            match relates {
                None => return Ok(None),
                Some(relation) if relation.rel_type == "m.thread" => return Ok(Some(relation.event_id)),
                Some(relation) => {
                    let Some((_, position)) = tables::EVENT_IDS.get(self.store(), &relation.event_id).await?.filter(|(found, _)| *found == room)
                    else {
                        return Ok(None);
                    };
                    let parent = tables::EVENTS.get(self.store(), &(room, position)).await?;
                    relates = parent.and_then(|parent| self::relation(&parent.pdu.0));
                }
            }
        }
        Ok(relates.filter(|relation| relation.rel_type == "m.thread").map(|relation| relation.event_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_relations_count() {
        let event =
            br#"{"type":"m.room.message","content":{"m.relates_to":{"rel_type":"m.thread","event_id":"$root","m.in_reply_to":{"event_id":"$x"}}}}"#;
        assert_eq!(relation(event), Some(RelatesTo { rel_type: "m.thread".to_owned(), event_id: "$root".try_into().expect("an id") }));
        for none in [r#"{"content":{}}"#, r#"{"content":{"m.relates_to":{"m.in_reply_to":{"event_id":"$x"}}}}"#, r#"{"content":{"m.relates_to":7}}"#]
        {
            assert_eq!(relation(none.as_bytes()), None, "{none}");
        }
    }
}
