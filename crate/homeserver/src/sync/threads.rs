//! Which thread an event is in (Client-Server API, Threaded read receipts): its own `m.thread` relation, or that of what it relates to.

use crate::{error::Result, homeserver::Homeserver, room::Event, tables::RoomSn};
use ruma::OwnedEventId;
use serde::Deserialize;

/// "A maximum of 3 hops is recommended to cover indirect relationships."
const HOPS: usize = 3;

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

/// The relation in an event's content; `None` also for one that is malformed.
pub fn relation(content: &str) -> Option<RelatesTo> {
    // Most contents have none, and need not be parsed.
    content.contains("m.relates_to").then(|| serde_json::from_str::<Content>(content).ok()?.relates_to)?
}

impl Homeserver {
    /// The root of the thread that an event is in; `None`: the main timeline, to which the roots themselves belong.
    pub(crate) async fn thread_of(&self, room: RoomSn, event: &Event) -> Result<Option<OwnedEventId>> {
        let mut relates = relation(event.pdu.content.get());
        for _ in 0..HOPS {
            match relates {
                Some(relation) if relation.rel_type != "m.thread" => {
                    let parent = self.event_by_id(room, &relation.event_id).await?;
                    relates = parent.and_then(|parent| self::relation(parent.pdu.content.get()));
                }
                _ => break,
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
        let content = r#"{"m.relates_to":{"rel_type":"m.thread","event_id":"$root","m.in_reply_to":{"event_id":"$x"}}}"#;
        assert_eq!(relation(content), Some(RelatesTo { rel_type: "m.thread".to_owned(), event_id: "$root".try_into().expect("an id") }));
        for none in ["{}", r#"{"m.relates_to":{"m.in_reply_to":{"event_id":"$x"}}}"#, r#"{"m.relates_to":7}"#] {
            assert_eq!(relation(none), None, "{none}");
        }
    }
}
