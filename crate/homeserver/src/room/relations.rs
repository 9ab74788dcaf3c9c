//! What relates to what: events are listed under those that they relate to, directly or through
//! others (Client-Server API, "Forming relationships between events"), and what a client may not
//! relate is refused ("Avoiding duplicate annotations", "Validation of m.thread relationships").

use super::{build::Draft, error::Refused, event::Event, stop::Stop, write::Write};
use crate::{
    position::Position,
    tables::{self, IndirectRelation, Relation, UserNid},
};
use ruma::{CanonicalJsonObject, OwnedEventId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::rc::Rc;

/// Through how many relations one event is listed under another: "homeservers SHOULD traverse at
/// least 3 levels of relationships".
pub(crate) const DEPTH: usize = 3;

/// How redactions were listed among what relates to an event. They have a table of their own now,
/// and are no relations.
pub(crate) const REDACTION: &str = "m.redaction";
const ANNOTATION: &str = "m.annotation";
const THREAD: &str = "m.thread";

/// A relation as it stands in an event's content.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct RelatesTo {
    /// How it relates.
    pub rel_type: String,
    /// To what.
    pub event_id: OwnedEventId,
    /// What an annotation says.
    key: Option<Value>,
}

impl RelatesTo {
    /// The relation in an event's content; `None` also for one that is malformed.
    pub fn in_json(content: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            #[serde(rename = "m.relates_to")]
            relates_to: Option<RelatesTo>,
        }
        // Most contents have none, and need not be parsed.
        content.contains("m.relates_to").then(|| serde_json::from_str::<Content>(content).ok()?.relates_to)?
    }

    fn in_object(content: &CanonicalJsonObject) -> Option<Self> {
        let relates_to = serde_json::to_value(content.get("m.relates_to")?).ok()?;
        serde_json::from_value(relates_to).ok()
    }

    /// Tells annotations of one event apart: by sender, type and key.
    fn annotation(&self, sender: UserNid, event_type: &TimelineEventType) -> Option<[u8; 16]> {
        let key = self.key.as_ref()?.as_str().filter(|_| self.rel_type == ANNOTATION)?;
        let event_type = event_type.to_string();
        let hash = Sha256::new().chain_update(sender.to_be_bytes()).chain_update((event_type.len() as u64).to_be_bytes());
        let hash = hash.chain_update(event_type).chain_update(key).finalize();
        hash.first_chunk().copied()
    }
}

impl Write<'_> {
    /// Why a client may not relate an event as it wants to: [`Refused::DuplicateAnnotation`],
    /// [`Refused::ThreadOnRelation`].
    pub(super) fn relation_refused(&self, draft: &Draft) -> Result<Option<Refused>, Stop> {
        let Some(relates) = RelatesTo::in_object(&draft.content) else { return Ok(None) };
        if relates.rel_type == THREAD
            && let Some(root) = self.event_by_id(&relates.event_id)?
            && RelatesTo::in_json(root.pdu.content.get()).is_some()
        {
            return Ok(Some(Refused::ThreadOnRelation));
        }
        if let Some(fingerprint) = relates.annotation(self.user_nid(&draft.sender)?, &draft.event_type)
            && let Some(before) = self.annotation(&relates.event_id, fingerprint)?
            && self.event(before)?.redacted_by.is_none()
        {
            return Ok(Some(Refused::DuplicateAnnotation));
        }
        Ok(None)
    }

    /// Lists the event under the one it relates to, and under those that this one relates to.
    pub(super) fn relate(&mut self, event: &Event) -> Result<(), Stop> {
        let (pdu, position) = (&event.pdu, event.position);
        let Some(relates) = RelatesTo::in_json(pdu.content.get()).filter(|_| pdu.redacts.is_none()) else { return Ok(()) };
        let sender = self.user_nid(&pdu.sender)?;
        let relation = Relation { rel_type: relates.rel_type.clone(), event_type: pdu.event_type.to_string(), sender };
        tables::RELATIONS.put(self.tx, &(self.room.nid, relates.event_id.clone(), position), &relation);
        if let Some(fingerprint) = relates.annotation(sender, &pdu.event_type).filter(|_| event.is_shown()) {
            tables::ANNOTATIONS.put(self.tx, &(self.room.nid, relates.event_id.clone(), fingerprint), &position);
        }
        match self.event_by_id(&relates.event_id)? {
            Some(parent) => self.list_above(parent, &[(position, IndirectRelation { relation, through: Vec::new() })]),
            None => Ok(()),
        }
    }

    /// Lists those that relate to an event and came before it under what it relates to.
    pub(super) fn relate_those_before(&mut self, event: &Rc<Event>) -> Result<(), Stop> {
        let related = self.relations(&event.pdu.event_id)?.iter().filter(|(_, related)| related.relation.rel_type != REDACTION);
        let related: Vec<_> = related.cloned().collect();
        self.list_above(event.clone(), &related)
    }

    /// Lists the descendants of an event under those that it relates to.
    fn list_above(&mut self, mut event: Rc<Event>, descendants: &[(Position, IndirectRelation)]) -> Result<(), Stop> {
        let mut through = Vec::new();
        while let Some(relates) = RelatesTo::in_json(event.pdu.content.get()) {
            through.push(event.position);
            for (position, descendant) in descendants.iter().filter(|(_, descendant)| descendant.through.len() + through.len() < DEPTH) {
                let indirect = IndirectRelation { relation: descendant.relation.clone(), through: [&descendant.through[..], &through].concat() };
                tables::INDIRECT_RELATIONS.put(self.tx, &(self.room.nid, relates.event_id.clone(), *position), &indirect);
            }
            if through.len() + 1 >= DEPTH {
                break;
            }
            let Some(parent) = self.event_by_id(&relates.event_id)? else { break };
            event = parent;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_relations_count() {
        let content = r#"{"m.relates_to":{"rel_type":"m.thread","event_id":"$root","m.in_reply_to":{"event_id":"$x"}}}"#;
        let root = RelatesTo { rel_type: "m.thread".to_owned(), event_id: "$root".try_into().expect("an id"), key: None };
        assert_eq!(RelatesTo::in_json(content), Some(root));
        for none in ["{}", r#"{"m.relates_to":{"m.in_reply_to":{"event_id":"$x"}}}"#, r#"{"m.relates_to":7}"#] {
            assert_eq!(RelatesTo::in_json(none), None, "{none}");
        }
    }
}
