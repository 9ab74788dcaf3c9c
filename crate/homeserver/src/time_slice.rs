//! Time slices: work that takes long is cut into pieces, and others go on between them. The engine
//! has one thread, and reading from a store that has everything in memory is no pause. Nothing else
//! gives way: only a [`TimeSlice`] makes the [`EndOfSlice`] that the host asks for.

use crate::host::Host;
use std::cell::Cell;

/// How long a slice is, in ms.
const LENGTH: u64 = 8;
/// So many steps end a slice whatever the clock says.
pub(crate) const STEPS: usize = 64;

/// The slices of one long work.
pub(crate) struct TimeSlice<'a> {
    host: &'a dyn Host,
    /// What may be spent in each: steps, or what the work counts instead.
    budget: usize,
    /// What is left of it.
    left: Cell<usize>,
    /// When it ends in any case, in ms; `None`: the clock is not asked.
    ends: Cell<Option<u64>>,
}

impl<'a> TimeSlice<'a> {
    /// Slices that end after eight milliseconds or 64 steps. The first one begins now.
    pub(crate) fn new(host: &'a dyn Host) -> Self {
        Self { host, budget: STEPS, left: Cell::new(STEPS), ends: Cell::new(Some(host.now() + LENGTH)) }
    }

    /// Slices that end when `budget` is spent, such as bytes. The clock is not asked: this is for
    /// what is done more often than it could be.
    pub(crate) fn of(host: &'a dyn Host, budget: usize) -> Self {
        Self { host, budget, left: Cell::new(budget), ends: Cell::new(None) }
    }

    /// Spends some of the budget.
    pub(crate) fn spend(&self, cost: usize) {
        self.left.set(self.left.get().saturating_sub(cost));
    }

    /// Lets others go on if the slice is over.
    pub(crate) async fn check(&self) {
        if self.left.get() == 0 || self.ends.get().is_some_and(|ends| self.host.now() >= ends) {
            self.end().await;
        }
    }

    /// After each of many steps: lets others go on if the slice is over.
    pub(crate) async fn step(&self) {
        self.spend(1);
        self.check().await;
    }

    /// After a step that is a slice of its own, as a batch or a page is: lets others go on.
    pub(crate) async fn end(&self) {
        self.host.yield_now(EndOfSlice(())).await;
        self.left.set(self.budget);
        if self.ends.get().is_some() {
            self.ends.set(Some(self.host.now() + LENGTH));
        }
    }
}

/// Says that a time slice of the homeserver is over, and others may go on. Nobody else can:
///
/// ```compile_fail,E0423
/// let end = ephapse_homeserver::EndOfSlice(());
/// ```
pub struct EndOfSlice(());
