//! Events that are asked for by what relates to them (MSC3440, "Fetch all threads in a room"; the
//! specification has left it out since there is a list of threads, clients of servers without that
//! list use it).

use super::{error::Result, event::Event, relations::REDACTION, visibility::Viewer};
use crate::{
    homeserver::Homeserver,
    position::Position,
    tables::{self, Relation, UserNid},
    time_slice::TimeSlice,
};
use ephapse_store::Direction;
use ruma::OwnedUserId;
use serde::Deserialize;
use std::collections::BTreeSet;

/// How many children of an event are read at first: mostly the newest is one that counts.
const FIRST_BATCH: usize = 8;
/// How many are read at once after that.
const BATCH: usize = 128;

/// What a filter says of the events that relate to an event.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RelatedBy {
    /// By whom one of them has to be.
    #[serde(rename = "related_by_senders")]
    senders: Option<Vec<OwnedUserId>>,
    /// How one of them has to relate to it.
    #[serde(rename = "related_by_rel_types")]
    rel_types: Option<Vec<String>>,
}

impl RelatedBy {
    /// How many users and types it names.
    pub fn names(&self) -> usize {
        self.senders.as_ref().map_or(0, Vec::len) + self.rel_types.as_ref().map_or(0, Vec::len)
    }
}

/// The same with the numbers of its users.
#[derive(Debug, Default)]
pub struct Related {
    senders: Option<BTreeSet<UserNid>>,
    rel_types: Option<BTreeSet<String>>,
}

impl Related {
    fn is_asked_for(&self) -> bool {
        self.senders.is_some() || self.rel_types.is_some()
    }

    /// Whether a child is one of those that are asked for; a redaction is no child.
    fn means(&self, child: &Relation) -> bool {
        child.rel_type != REDACTION
            && self.senders.as_ref().is_none_or(|senders| senders.contains(&child.sender))
            && self.rel_types.as_ref().is_none_or(|rel_types| rel_types.contains(&child.rel_type))
    }
}

/// Which events of a timeline are asked for.
pub struct Wanted<'a> {
    /// By what they are.
    pub by_itself: &'a dyn Fn(&Event) -> bool,
    /// By what relates to them.
    pub related: &'a Related,
}

impl Homeserver {
    /// Whom and what a filter means. A user that nobody has heard of has sent nothing.
    pub async fn related(&self, by: &RelatedBy) -> Result<Related> {
        let slice = TimeSlice::new(&*self.host);
        let mut numbers = BTreeSet::new();
        for sender in by.senders.iter().flatten() {
            numbers.extend(self.find_user(sender).await?);
            slice.step().await;
        }
        let senders = by.senders.is_some().then_some(numbers);
        Ok(Related { senders, rel_types: by.rel_types.clone().map(BTreeSet::from_iter) })
    }

    /// Whether an event that `viewer` sees has a child that is asked for, is not redacted and is
    /// theirs to see as well. The newest are looked at first, and others have their turn between
    /// them; how many were read is added to `read`.
    pub async fn is_related(&self, viewer: &mut Viewer, event: &Event, related: &Related, read: &mut usize) -> Result<bool> {
        if !related.is_asked_for() {
            return Ok(true);
        }
        let mut range = tables::RELATIONS.range(&(event.room, event.pdu.event_id.clone()));
        let mut portion = FIRST_BATCH;
        let slice = TimeSlice::new(&*self.host);
        loop {
            let children = tables::RELATIONS.scan_range(self.store(), range.clone(), Direction::Backward, portion).await?;
            *read += children.len();
            let meant: Vec<Position> = children.iter().filter(|(_, child)| related.means(child)).map(|((_, _, position), _)| *position).collect();
            let mut left: Vec<_> = self.events_at(event.room, &meant).await?.into_iter().flatten().collect();
            left.retain(|child| child.redacted_by.is_none());
            if !viewer.visible(self, left).await?.is_empty() {
                return Ok(true);
            }
            let Some((oldest, _)) = children.last().filter(|_| children.len() == portion) else { return Ok(false) };
            range.end = tables::RELATIONS.key(oldest);
            portion = BATCH;
            slice.end().await;
        }
    }
}
