//! Which member events a device has been given while it lazy-loads members (Client-Server API,
//! Lazy-loading room members): sent again, they would be redundant.
//!
//! A device has what an answer contained once it asks on from that answer: an answer that was lost
//! is not counted. Bounded; what is forgotten is sent again, which is allowed.

use crate::{
    cache::Cache,
    position::Position,
    tables::{RoomNid, UserNid},
};
use ruma::DeviceId;
use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    rc::Rc,
};

/// Bytes of what was sent.
const SENT_BYTES: usize = 3 << 20;
/// Bytes of what is known of devices.
const DEVICES_BYTES: usize = 1 << 20;
/// Bytes that the end of an answer takes in a set, roughly.
const END: usize = 32;

/// How many lost answers of one device are remembered before it counts as having nothing.
const ANSWERS: usize = 64;

/// The member events that devices have been given.
pub struct SentMembers {
    /// By device, room and position of the event: the end of the answer that contained it.
    sent: RefCell<Cache<(u32, RoomNid, Position), Position>>,
    devices: RefCell<Cache<(UserNid, Rc<str>), Device>>,
    newest: Cell<u32>,
}

/// How a device goes on from answer to answer.
#[derive(Clone)]
struct Device {
    /// Changes when the device begins anew.
    number: u32,
    /// The ends of answers that the device may or may not have.
    given: BTreeSet<Position>,
    /// The ends of answers that it does not have, since it went on from earlier ones.
    lost: Rc<BTreeSet<Position>>,
}

/// A device as of one request.
pub struct Recipient {
    key: (UserNid, Rc<str>),
    number: u32,
    lost: Rc<BTreeSet<Position>>,
    /// The end of the answer that it goes on from.
    since: Position,
    /// The end of the answer that it is being given.
    to: Position,
}

impl Default for SentMembers {
    fn default() -> Self {
        Self { sent: RefCell::new(Cache::new(SENT_BYTES)), devices: RefCell::new(Cache::new(DEVICES_BYTES)), newest: Cell::new(0) }
    }
}

impl SentMembers {
    /// A device that goes on from the answer that ended at `since`, and is given one that ends at
    /// `to`; without `since` it has nothing.
    pub fn recipient(&self, user: UserNid, device: &DeviceId, since: Option<Position>, to: Position) -> Recipient {
        let key = (user, Rc::from(device.as_str()));
        let mut devices = self.devices.borrow_mut();
        let known = since.zip(devices.remove(&key)).filter(|(_, device)| device.lost.len() < ANSWERS);
        let mut device = known.map_or_else(|| self.new_device(), |(_, device)| device);
        let since = since.unwrap_or(Position::MIN);
        let lost: Vec<Position> = device.given.range(since.next()..).copied().collect();
        if !lost.is_empty() {
            Rc::make_mut(&mut device.lost).extend(lost);
        }
        // It has those up to where it goes on from.
        device.given.clear();
        let recipient = Recipient { key: key.clone(), number: device.number, lost: device.lost.clone(), since, to };
        // With the end of this answer, should it contain members.
        let weight = key.1.len() + END * (device.lost.len() + 1);
        devices.insert(key, device, weight);
        recipient
    }

    fn new_device(&self) -> Device {
        self.newest.set(self.newest.get().wrapping_add(1));
        Device { number: self.newest.get(), given: BTreeSet::new(), lost: Rc::default() }
    }

    /// Bytes that it takes, roughly.
    pub fn cached_bytes(&self) -> usize {
        self.sent.borrow().bytes() + self.devices.borrow().bytes()
    }

    /// Whether the device has a member event.
    pub fn has(&self, device: &Recipient, room: RoomNid, event: Position) -> bool {
        let answer = self.sent.borrow_mut().get(&(device.number, room, event));
        answer.is_some_and(|answer| answer <= device.since && !device.lost.contains(&answer))
    }

    /// The answer contains a member event.
    pub fn sent(&self, device: &Recipient, room: RoomNid, event: Position) {
        if !self.has(device, room, event) {
            self.sent.borrow_mut().insert((device.number, room, event), device.to, 0);
            if let Some(known) = self.devices.borrow_mut().get_mut(&device.key) {
                known.given.insert(device.to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruma::OwnedDeviceId;

    #[test]
    fn many_devices_and_members_take_no_more_than_they_may() {
        let members = SentMembers::default();
        for n in 0..20_000 {
            let device: OwnedDeviceId = format!("D{}", n % 3_000).into();
            // Every answer is lost.
            let recipient = members.recipient(1, &device, Some(Position(0)), Position(n + 1));
            (0..5).for_each(|member| members.sent(&recipient, 1, Position(n * 5 + member)));
        }
        let bytes = members.cached_bytes();
        assert!((DEVICES_BYTES..=SENT_BYTES + DEVICES_BYTES).contains(&bytes), "{bytes}");
    }

    #[test]
    fn sent_members_count_once_the_device_uses_the_next_token() {
        let members = SentMembers::default();
        let device: OwnedDeviceId = "D".into();
        let ask = |since: Option<i64>, to| members.recipient(1, &device, since.map(Position), Position(to));
        let first = ask(None, 10);
        members.sent(&first, 5, Position(3));
        let second = ask(Some(10), 20);
        assert!(members.has(&second, 5, Position(3)));
        assert!(!members.has(&second, 5, Position(4)), "a newer member event");
        members.sent(&second, 5, Position(4));
        let again = ask(Some(10), 30);
        assert!(!members.has(&again, 5, Position(4)), "the answer was lost");
        let third = ask(Some(30), 40);
        assert!(!members.has(&third, 5, Position(4)), "and the next one did not contain it");
        assert!(members.has(&third, 5, Position(3)));
        assert!(!members.has(&ask(None, 40), 5, Position(3)), "an initial sync begins with nothing");
    }
}
