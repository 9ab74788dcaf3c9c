//! The core's log lines, for a console.

use std::fmt::{self, Write};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Hands each event of level `WARN` and above to a function, as one line. What lies below is not
/// even compiled (Cargo.toml): a library tells of every event that the auth rules allow, and a
/// console takes longer for a line than the server for the event.
pub struct Console<F>(pub F);

impl<F: Fn(Level, &str) + 'static> Subscriber for Console<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        (self.0)(*event.metadata().level(), &line.0);
    }

    // Nobody here opens spans; one that came from a library would be left out.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        written.expect("a String takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn events_become_lines_and_details_stay_out() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let seen = lines.clone();
        let console = Console(move |level, line: &str| seen.lock().expect("nobody panicked").push(format!("{level} {line}")));
        tracing::subscriber::with_default(console, || {
            tracing::warn!(room = 3, "late");
            tracing::debug!("detail");
            tracing::info!(target: "a_library", "news");
            tracing::warn!(target: "a_library", "trouble");
        });
        assert_eq!(*lines.lock().expect("nobody panicked"), ["WARN late room=3", "WARN trouble"]);
    }
}
