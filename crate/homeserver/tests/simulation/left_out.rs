//! Events that servers had to do without, since nobody could tell them the key that an event was
//! signed with: their rooms differ from then on, here as with other homeservers.

use std::{
    collections::BTreeSet,
    fmt::{Debug, Write},
    sync::Mutex,
};
use tracing::{Event, Subscriber, field::Field, field::Visit};
use tracing_subscriber::layer::{Context, Layer};

static LEFT_OUT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Their ids, since this was last asked.
pub fn take() -> BTreeSet<String> {
    std::mem::take(&mut *LEFT_OUT.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// Listens to what servers log of them.
pub struct Listening;

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            write!(self.0, "{value:?}").expect("a string takes all");
        }
    }
}

impl<S: Subscriber> Layer<S> for Listening {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !event.metadata().target().starts_with("ephapse_homeserver::federation") {
            return;
        }
        let mut message = Message::default();
        event.record(&mut message);
        if message.0.contains("no known key of") {
            let id = message.0.split_whitespace().find(|word| word.starts_with('$'));
            LEFT_OUT.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(id.map(str::to_owned));
        }
    }
}
