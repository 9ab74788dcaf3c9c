//! How many events a user has not read (Client-Server API, Receiving notifications, and Marking
//! notifications as read).
//!
//! Counted when the user syncs, over what came since the last time, for each thread; a receipt
//! resets what it covers, and so does an event of the user's own in its thread. What was counted is
//! kept in memory, and written once counting it anew would take long: after a restart it is counted
//! from what was written last, with the same result. How far the user's receipts reach is kept in
//! memory too: who reads many threads has many.

use super::rules::{Effect, Evaluation};
use crate::{
    damaged::LeaveOut,
    error::Result,
    homeserver::Homeserver,
    position::Position,
    room::{Reading, RoomInfo, membership_of},
    rows::{ReadSince, Rows},
    tables::{self, MembershipKind, ReceiptKind, RoomHead, RoomNid, Session, StoredReceipt, Unread, UnreadThread, UserNid},
    time_slice::TimeSlice,
    transaction::Submitted,
};
use ephapse_store::{Direction, Reader};
use ruma::{EventId, OwnedEventId, events::TimelineEventType};
use std::{collections::BTreeMap, ops::Range, rc::Rc};

/// How many events are looked at for one count at most: more unread ones than these are not told
/// apart by anybody.
const COUNTED_AT_MOST: usize = 2000;
/// After how many events counted in memory the count is written.
const WRITTEN_AFTER: usize = 64;

/// Bytes of counts in memory, and of how far receipts reach.
const CACHED_BYTES: usize = 2 << 20;

/// Counts lately used.
pub struct Unreads {
    /// What was counted, and how many events ago it was written.
    counts: Rows<(UserNid, RoomNid), (Unread, usize)>,
    read: Rows<(UserNid, RoomNid), Rc<Read>>,
}

impl Unreads {
    /// Of what `reader` reads.
    pub fn new(reader: &Reader) -> Self {
        Self { counts: Rows::new(reader, CACHED_BYTES), read: Rows::new(reader, CACHED_BYTES) }
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.counts.clear();
        self.read.clear();
    }

    /// Bytes that they take in memory, roughly.
    pub fn cached_bytes(&self) -> usize {
        self.counts.bytes() + self.read.bytes()
    }

    /// For [`Receipts::read_since`].
    pub(crate) fn read_since(&self) -> ReadSince {
        self.read.read_since()
    }

    /// A receipt of `user` has moved to the event at a position; for the transaction that moves it.
    pub(crate) fn receipt_moved(&self, room: RoomNid, user: UserNid, kind: &ReceiptKind, event: Position) {
        self.read.change((user, room), |read| {
            let read = Rc::make_mut(read);
            read.add(kind, event);
            read.weight()
        });
    }
}

/// All receipts of a user in a room, for who has them at hand.
pub(crate) struct Receipts {
    /// What [`Unreads::read_since`] was before they were read.
    pub read_since: ReadSince,
    /// The receipts.
    pub all: Vec<(ReceiptKind, StoredReceipt)>,
}

/// Unread events of a room or thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Those that notify.
    pub notifications: u32,
    /// Those of them that highlight.
    pub highlights: u32,
}

/// Unread events of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Outside of threads.
    pub main: Count,
    /// In each thread where there are any.
    pub threads: BTreeMap<OwnedEventId, Count>,
}

impl Counts {
    /// Of the room, whatever the thread.
    pub fn total(&self) -> Count {
        self.threads.values().fold(self.main, |sum, count| Count {
            notifications: sum.notifications + count.notifications,
            highlights: sum.highlights + count.highlights,
        })
    }
}

/// An event, as far as counting goes.
#[derive(Clone, Debug)]
struct Counted {
    position: Position,
    root: Option<OwnedEventId>,
    /// The user sent it, and so has read its thread up to it.
    own: bool,
    effect: Effect,
}

/// Whose events of which room are counted.
struct Counting<'a> {
    room: &'a RoomInfo,
    session: &'a Session,
    evaluation: Evaluation<'a>,
}

/// What counts of the newest events.
#[derive(Default)]
struct Newest {
    /// The newest first.
    events: Vec<Counted>,
    /// How many were looked at.
    read: usize,
    /// Whether one of those redacts another.
    redacts: bool,
}

/// How far a user's receipts reach, public or private: whatever the thread, and in each.
#[derive(Clone, Debug, Default)]
struct Read {
    whatever_the_thread: Option<Position>,
    threads: BTreeMap<String, Position>,
}

impl Read {
    fn of(receipts: &[(ReceiptKind, StoredReceipt)]) -> Self {
        let mut read = Self::default();
        receipts.iter().for_each(|(kind, receipt)| read.add(kind, receipt.event));
        read
    }

    /// A receipt reaches up to an event.
    fn add(&mut self, kind: &ReceiptKind, event: Position) {
        match &kind.thread {
            None => self.whatever_the_thread = self.whatever_the_thread.max(Some(event)),
            Some(thread) => {
                let reaches = self.threads.entry(thread.clone()).or_insert(event);
                *reaches = event.max(*reaches);
            }
        }
    }

    /// Up to where a thread (or the main timeline) has been read: the furthest of the receipts that
    /// cover it.
    fn up_to(&self, root: Option<&EventId>) -> Position {
        let thread = self.threads.get(root.map_or("main", EventId::as_str));
        self.whatever_the_thread().max(thread.copied().unwrap_or(Position::MIN))
    }

    /// Up to where everything has been read.
    fn whatever_the_thread(&self) -> Position {
        self.whatever_the_thread.unwrap_or(Position::MIN)
    }

    /// Bytes that it holds beside itself, roughly.
    fn weight(&self) -> usize {
        self.threads.keys().map(|thread| thread.len() + size_of::<(String, Position)>()).sum::<usize>() + size_of::<Self>()
    }
}

impl Unread {
    /// Applies receipts to what was counted. `Some`: a receipt lies inside of it, so that it has to
    /// be counted anew from there.
    fn apply(&mut self, read: &Read) -> Option<Position> {
        let mut anew = None;
        for thread in &mut self.threads {
            let up_to = read.up_to(thread.root.as_deref());
            if up_to >= self.counted {
                thread.notifications = 0;
            } else if up_to > thread.read {
                anew = Some(Position::MAX);
            }
        }
        self.threads.retain(|thread| thread.notifications > 0);
        anew.map(|_| self.threads.iter().map(|thread| read.up_to(thread.root.as_deref()).max(thread.read)).min().unwrap_or(self.counted))
    }

    fn add(&mut self, event: Counted, read: &Read) {
        self.counted = self.counted.max(event.position);
        if event.own {
            self.threads.retain(|thread| thread.root != event.root);
            return;
        }
        let up_to = read.up_to(event.root.as_deref());
        if !event.effect.notify || event.position <= up_to {
            return;
        }
        let index = self.threads.iter().position(|thread| thread.root == event.root).unwrap_or_else(|| {
            self.threads.push(UnreadThread { root: event.root, read: up_to, notifications: 0, highlights: 0 });
            self.threads.len() - 1
        });
        let thread = &mut self.threads[index];
        thread.notifications += 1;
        thread.highlights += u32::from(event.effect.highlight);
    }

    /// A redaction makes nothing unread that was not: such as what its user had read by an answer
    /// that is redacted now.
    fn lower_to(&mut self, before: &Self) {
        for thread in &mut self.threads {
            let known = before.threads.iter().find(|known| known.root == thread.root);
            thread.notifications = thread.notifications.min(known.map_or(0, |known| known.notifications));
            thread.highlights = thread.highlights.min(known.map_or(0, |known| known.highlights));
        }
        self.threads.retain(|thread| thread.notifications > 0);
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for thread in &self.threads {
            let count = Count { notifications: thread.notifications, highlights: thread.highlights };
            match &thread.root {
                None => counts.main = count,
                Some(root) => {
                    counts.threads.insert(root.clone(), count);
                }
            }
        }
        counts
    }
}

impl Homeserver {
    /// A user's unread events of a room, as of `to`. `receipts`: all of the user's, if they are at
    /// hand.
    pub(crate) async fn unread(
        &self,
        room: &RoomInfo,
        head: &RoomHead,
        session: &Session,
        receipts: Option<Receipts>,
        to: Position,
    ) -> Result<Counts> {
        let user = session.user;
        let generation = self.store().generation();
        let since = self.sync.unread.counts.read_since();
        let (mut unread, mut unwritten) = match self.sync.unread.counts.get(&(user, room.nid)) {
            Some(cached) => cached,
            // What is damaged is counted again.
            None => (tables::UNREAD.get(self.store(), &(user, room.nid)).await.leave_out()?.flatten().unwrap_or_default(), 0),
        };
        if unread.counted > to {
            return Ok(unread.counts());
        }
        if unread.counted == Position::default() || self.left_since(room.nid, user, unread.counted).await? {
            unread = Unread { counted: self.joined_at(room.nid, user).await?, threads: Vec::new() };
        }
        let read = &*self.read_up_to(room.nid, user, receipts).await?;
        if let Some(from) = unread.apply(read) {
            unread = Unread { counted: from.max(self.joined_at(room.nid, user).await?), threads: Vec::new() };
        }
        if unread.counted < to.min(head.newest) {
            let counting = Counting { room, session, evaluation: self.push_evaluation(room, head, user, &session.user_id).await? };
            let mut newest = self.newest(&counting, unread.counted.max(read.whatever_the_thread())..to).await?;
            if newest.redacts
                && let Some(lowest) = unread.threads.iter().map(|thread| thread.read).min()
            {
                // What was counted may have been redacted since, and then notifies no more.
                let anew = Unread { counted: lowest.max(self.joined_at(room.nid, user).await?), threads: Vec::new() };
                let before = std::mem::replace(&mut unread, anew);
                newest = self.newest(&counting, unread.counted..to).await?;
                let later = newest.events.iter().position(|event| event.position <= before.counted).unwrap_or(newest.events.len());
                newest.events.split_off(later).into_iter().rev().for_each(|event| unread.add(event, read));
                unread.lower_to(&before);
            }
            unwritten += newest.read;
            newest.events.into_iter().rev().for_each(|event| unread.add(event, read));
            unread.counted = to;
        }
        if unwritten >= WRITTEN_AFTER {
            let written = self.write(generation, |tx| tables::UNREAD.put(tx, &(user, room.nid), &unread));
            // Nobody is told of it: if it is refused or lost, it is counted again.
            if written.map(Submitted::visible).is_ok() {
                unwritten = 0;
            }
        }
        let counts = unread.counts();
        let weight = unread.threads.iter().map(|thread| size_of_val(thread) + thread.root.as_ref().map_or(0, |root| root.as_str().len())).sum();
        self.sync.unread.counts.found(since, (user, room.nid), (unread, unwritten), weight);
        Ok(counts)
    }

    /// How far a user's receipts in a room reach.
    async fn read_up_to(&self, room: RoomNid, user: UserNid, receipts: Option<Receipts>) -> Result<Rc<Read>> {
        let kept = &self.sync.unread.read;
        if let Some(read) = kept.get(&(user, room)) {
            return Ok(read);
        }
        let now = kept.read_since();
        let (since, receipts) = match receipts {
            Some(receipts) => (receipts.read_since, receipts.all),
            None => {
                let found = tables::RECEIPTS.scan(self.store(), &(room, user), Direction::Forward, usize::MAX).await?;
                (now, found.into_iter().map(|((_, _, kind), receipt)| (kind, receipt)).collect())
            }
        };
        let read = Rc::new(Read::of(&receipts));
        let weight = read.weight();
        Ok(kept.found(since, (user, room), read, weight))
    }

    /// What counts of the newest events between two boundaries. No event is held until all are
    /// read: they may be large, and there are many.
    async fn newest(&self, counting: &Counting<'_>, boundaries: Range<Position>) -> Result<Newest> {
        let Counting { room, session, evaluation } = counting;
        let ignored = self.ignored_by(session.user).await?;
        let mut reading = Reading::new(self, room.nid, boundaries, Direction::Backward);
        let mut newest = Newest::default();
        let slice = TimeSlice::new(&*self.host);
        while reading.goes_on && newest.read < COUNTED_AT_MOST {
            let events = reading.next(COUNTED_AT_MOST - newest.read).await?;
            newest.read += events.len();
            for event in events {
                newest.redacts |= event.pdu.event_type == TimelineEventType::RoomRedaction;
                if !event.is_shown() || ignored.contains(&event.pdu.sender) {
                    continue;
                }
                let own = event.pdu.sender == session.user_id;
                // There is nothing left to read of what is redacted, whatever the rules make of its
                // type; nor is it known any more which thread it was in.
                if event.redacted_by.is_some() {
                    slice.check().await;
                    continue;
                }
                let effect = if own { Effect::default() } else { evaluation.of(&event).await };
                if own || effect.notify {
                    let root = self.thread_of(room.nid, &event).await?;
                    newest.events.push(Counted { position: event.position, root, own, effect });
                }
                slice.check().await;
            }
        }
        Ok(newest)
    }

    /// Whether the user was out of the room at some time after `position`.
    async fn left_since(&self, room: RoomNid, user: UserNid, position: Position) -> Result<bool> {
        let rooms = self.user_rooms(user).await?;
        Ok(rooms.get(room).is_some_and(|membership| membership.last_left.is_some_and(|left| left > position)))
    }

    /// Since when the user has been in the room without a break.
    async fn joined_at(&self, room: RoomNid, user: UserNid) -> Result<Position> {
        let Some(membership) = self.user_rooms(user).await?.get(room) else { return Ok(Position::default()) };
        let mut position = membership.position;
        loop {
            let Some(event) = self.event_at(room, position).await.leave_out()? else { return Ok(position) };
            let Some(before) = event.replaces else { return Ok(position) };
            let Some(earlier) = self.event_at(room, before).await.leave_out()? else { return Ok(position) };
            if membership_of(&earlier) != MembershipKind::Join {
                return Ok(position);
            }
            position = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(thread: Option<&str>, private: bool, event: i64) -> (ReceiptKind, StoredReceipt) {
        let kind = ReceiptKind { private, thread: thread.map(str::to_owned) };
        (kind, StoredReceipt { event_id: "$e".try_into().expect("an id"), event: Position(event), ts: 0, position: Position(event) })
    }

    fn event(position: i64, root: Option<&str>, notify: bool, highlight: bool) -> Counted {
        let root = root.map(|root| root.try_into().expect("an id"));
        Counted { position: Position(position), root, own: false, effect: Effect { notify, highlight } }
    }

    fn counts(unread: &Unread) -> (u32, Vec<(String, u32)>) {
        let counts = unread.counts();
        (counts.main.notifications, counts.threads.iter().map(|(root, count)| (root.to_string(), count.notifications)).collect())
    }

    /// The room of the specification's example: threads of A and B, I in the main timeline.
    fn example(receipts: &[(ReceiptKind, StoredReceipt)]) -> Unread {
        let mut unread = Unread::default();
        let (a, b) = (Some("$A"), Some("$B"));
        for (position, root) in [(1, None), (2, None), (3, a), (4, b), (5, a), (6, b), (7, a), (8, a), (9, None)] {
            unread.add(event(position, root, true, false), &Read::of(receipts));
        }
        unread
    }

    #[test]
    fn receipts_cover_their_thread_and_unthreaded_ones_all() {
        let all = |n: u32, m: u32| vec![("$A".to_owned(), n), ("$B".to_owned(), m)];
        assert_eq!(counts(&example(&[])), (3, all(4, 2)));
        assert_eq!(counts(&example(&[receipt(Some("main"), false, 9)])), (0, all(4, 2)), "I in main");
        assert_eq!(counts(&example(&[receipt(Some("$A"), false, 5)])), (3, all(2, 2)), "E in the thread of A");
        assert_eq!(counts(&example(&[receipt(None, false, 4)])), (1, all(3, 1)), "D, whatever the thread");
        assert_eq!(
            counts(&example(&[receipt(None, false, 2), receipt(None, true, 6)])),
            (1, all(2, 0)[..1].to_vec()),
            "the one further ahead counts"
        );
    }

    #[test]
    fn a_receipt_that_arrives_later_gives_the_same_as_one_that_was_there() {
        for at in 1..=9 {
            for thread in [None, Some("main"), Some("$A"), Some("$B")] {
                let receipts = [receipt(thread, false, at)];
                let mut unread = example(&[]);
                if let Some(from) = unread.apply(&Read::of(&receipts)) {
                    assert!(from < Position(9));
                    unread = Unread { counted: from, threads: Vec::new() };
                    let (a, b) = (Some("$A"), Some("$B"));
                    for (position, root) in [(1, None), (2, None), (3, a), (4, b), (5, a), (6, b), (7, a), (8, a), (9, None)] {
                        if Position(position) > from {
                            unread.add(event(position, root, true, false), &Read::of(&receipts));
                        }
                    }
                }
                assert_eq!(counts(&unread), counts(&example(&receipts)), "{thread:?} {at}");
            }
        }
    }

    #[test]
    fn who_answers_in_a_thread_has_read_it() {
        let mut unread = example(&[]);
        unread.add(Counted { own: true, ..event(10, Some("$A"), false, false) }, &Read::default());
        assert_eq!(counts(&unread), (3, vec![("$B".to_owned(), 2)]));
    }

    #[test]
    fn highlights_are_counted_among_notifications() {
        let mut unread = Unread::default();
        unread.add(event(1, None, true, true), &Read::default());
        unread.add(event(2, None, true, false), &Read::default());
        unread.add(event(3, None, false, false), &Read::default());
        assert_eq!(unread.counts().total(), Count { notifications: 2, highlights: 1 });
    }
}
