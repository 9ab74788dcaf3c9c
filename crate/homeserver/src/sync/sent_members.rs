//! Which member events a device has been given while it lazy-loads members (Client-Server API, Lazy-loading room members): sent again, they would be
//! redundant.
//!
//! A device has what an answer contained once it asks on from that answer: an answer that was lost is not counted. Bounded; what is forgotten is sent
//! again, which is allowed.

use crate::{
    position::Position,
    tables::{RoomSn, UserSn},
};
use hashlink::LruCache;
use ruma::OwnedDeviceId;
use std::{cell::RefCell, rc::Rc};

const REMEMBERED: usize = 32_768;
const DEVICES: usize = 1024;

/// A device's member events: room and position of the event, with the position up to which the answer went that contained it.
pub struct SentMembers {
    sent: RefCell<LruCache<(u32, RoomSn, Position), Position>>,
    devices: RefCell<LruCache<(UserSn, Rc<str>), u32>>,
    newest: RefCell<u32>,
}

impl Default for SentMembers {
    fn default() -> Self {
        Self { sent: RefCell::new(LruCache::new(REMEMBERED)), devices: RefCell::new(LruCache::new(DEVICES)), newest: RefCell::default() }
    }
}

impl SentMembers {
    /// The number of a device that goes on from an earlier answer; one that begins anew gets a new one, since it has nothing.
    pub fn device(&self, user: UserSn, device: &OwnedDeviceId, begins: bool) -> u32 {
        let key = (user, Rc::from(device.as_str()));
        let mut devices = self.devices.borrow_mut();
        if !begins && let Some(number) = devices.get(&key) {
            return *number;
        }
        let mut newest = self.newest.borrow_mut();
        *newest = newest.wrapping_add(1);
        devices.insert(key, *newest);
        *newest
    }

    /// Whether a device that goes on from `since` has a member event.
    pub fn has(&self, device: u32, room: RoomSn, event: Position, since: Position) -> bool {
        self.sent.borrow_mut().get(&(device, room, event)).is_some_and(|answer| *answer <= since)
    }

    /// The answer up to `answer` contains a member event.
    pub fn sent(&self, device: u32, room: RoomSn, event: Position, answer: Position) {
        let mut sent = self.sent.borrow_mut();
        // The earliest answer counts: the device may go on from that one.
        let earliest = sent.get(&(device, room, event)).map_or(answer, |before| (*before).min(answer));
        sent.insert((device, room, event), earliest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_when_the_device_goes_on_from_it() {
        let members = SentMembers::default();
        let device: OwnedDeviceId = "D".into();
        let number = members.device(1, &device, true);
        members.sent(number, 5, Position(3), Position(10));
        assert!(!members.has(number, 5, Position(3), Position(9)), "the answer was lost");
        assert!(members.has(number, 5, Position(3), Position(10)));
        assert!(!members.has(number, 5, Position(4), Position(10)), "a newer member event");
        assert_eq!(members.device(1, &device, false), number);
        let anew = members.device(1, &device, true);
        assert!(!members.has(anew, 5, Position(3), Position(10)), "an initial sync begins with nothing");
    }
}
