//! What relates to what: events are listed under those that they relate to, directly or through
//! others (Client-Server API, "Forming relationships between events"), and what a client may not
//! relate is refused ("Avoiding duplicate annotations", "Validation of m.thread relationships").

use super::{build::Draft, error::Refused, event::Event, stop::Stop, write::Write};
use crate::{
    position::Position,
    tables::{self, IndirectRelation, Relation, UserNid},
};
use ephapse_events::RelatesTo;
use ruma::events::TimelineEventType;
use sha2::{Digest, Sha256};
use std::rc::Rc;

/// Through how many relations one event is listed under another: "homeservers SHOULD traverse at
/// least 3 levels of relationships".
pub(crate) const DEPTH: usize = 3;

/// How redactions were listed among what relates to an event. They have a table of their own now,
/// and are no relations.
pub(crate) const REDACTION: &str = "m.redaction";
const THREAD: &str = "m.thread";

/// Tells annotations of one event apart: by sender, type and key.
fn annotation(relates: &RelatesTo, sender: UserNid, event_type: &TimelineEventType) -> Option<[u8; 16]> {
    let key = relates.annotation_key()?;
    let event_type = event_type.to_string();
    let hash = Sha256::new().chain_update(sender.to_be_bytes()).chain_update((event_type.len() as u64).to_be_bytes());
    let hash = hash.chain_update(event_type).chain_update(key).finalize();
    hash.first_chunk().copied()
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
        if let Some(fingerprint) = annotation(&relates, self.user_nid(&draft.sender)?, &draft.event_type)
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
        if let Some(fingerprint) = annotation(&relates, sender, &pdu.event_type).filter(|_| event.is_shown()) {
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
