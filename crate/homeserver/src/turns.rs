//! Turns: who works long lets others go on in between. The engine has one thread, and reading from
//! a store that has everything in memory is no pause.

use crate::host::Host;

/// How long one computes before others have their turn, in ms.
const TURN: u64 = 8;
/// So many steps end a turn whatever the clock says.
pub(crate) const STEPS: usize = 64;

/// The turns of one long work.
pub(crate) struct Turns<'a> {
    host: &'a dyn Host,
    /// In ms.
    ends: u64,
    /// Steps left.
    left: usize,
}

impl<'a> Turns<'a> {
    /// The first turn begins now.
    pub(crate) fn new(host: &'a dyn Host) -> Self {
        Self { host, ends: host.now() + TURN, left: STEPS }
    }

    /// After each of many steps: others go on when the turn is over.
    pub(crate) async fn step(&mut self) {
        self.left -= 1;
        if self.left == 0 || self.host.now() >= self.ends {
            self.end().await;
        }
    }

    /// After each of many steps that are short: others go on when time is up.
    pub(crate) async fn short_step(&mut self) {
        if self.host.now() >= self.ends {
            self.end().await;
        }
    }

    async fn end(&mut self) {
        self.host.yield_now().await;
        *self = Self::new(self.host);
    }
}
