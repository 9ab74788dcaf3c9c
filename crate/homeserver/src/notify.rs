//! Wakes the long polls that wait for something to happen.

use crate::tables::{Change, UserNid};
use event_listener::{Event, EventListener};
use ruma::DeviceId;
use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
};

type Concerns = Box<dyn Fn(&Change) -> bool>;

struct Waiter {
    concerns: Concerns,
    event: Event,
    woken: Cell<bool>,
}

/// Everyone who waits.
#[derive(Default)]
pub struct Notify {
    waiters: RefCell<Vec<Weak<Waiter>>>,
    closed: Cell<bool>,
}

/// A place in the queue; made *before* the caller looks whether there is something to see, so that
/// nothing falls between look and wait.
pub struct Waiting(Rc<Waiter>);

impl Notify {
    /// Waits for changes of which `concerns` says yes.
    pub fn wait(&self, concerns: impl Fn(&Change) -> bool + 'static) -> Waiting {
        let waiter = Rc::new(Waiter { concerns: Box::new(concerns), event: Event::new(), woken: Cell::new(self.closed.get()) });
        let mut waiters = self.waiters.borrow_mut();
        waiters.retain(|waiter| waiter.strong_count() > 0);
        waiters.push(Rc::downgrade(&waiter));
        Waiting(waiter)
    }

    /// Something became visible.
    pub fn changed(&self, changes: &[Change]) {
        for waiter in self.waiters.borrow().iter().filter_map(Weak::upgrade) {
            if !waiter.woken.get() && changes.iter().any(|change| (waiter.concerns)(change)) {
                waiter.wake();
            }
        }
    }

    /// Wakes everyone: it is not known what has changed.
    pub fn wake_all(&self) {
        for waiter in self.waiters.borrow().iter().filter_map(Weak::upgrade) {
            waiter.wake();
        }
    }

    /// Wakes those who wait for what concerns a device: its session may have ended.
    pub fn wake_device(&self, user: UserNid, device: &DeviceId) {
        self.changed(&[Change::ToDevice { user, device: device.to_owned() }]);
    }

    /// Wakes everyone, now and from now on: the server is about to stop, and holds nothing any
    /// more.
    pub fn close(&self) {
        self.closed.set(true);
        self.wake_all();
    }

    /// Lets wait again, after [`Self::close`].
    pub fn reopen(&self) {
        self.closed.set(false);
    }

    /// Whether the server is about to stop.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiters.borrow().iter().filter(|waiter| waiter.strong_count() > 0).count()
    }
}

impl Waiter {
    fn wake(&self) {
        self.woken.set(true);
        self.event.notify(usize::MAX);
    }
}

impl Waiting {
    /// Ends when something that concerns this waiter has happened since it was made.
    pub async fn woken(&self) {
        while !self.0.woken.get() {
            let listener: EventListener = self.0.event.listen();
            if self.0.woken.get() {
                return;
            }
            listener.await;
        }
    }
}
