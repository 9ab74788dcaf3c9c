//! What a resolution asks the rules. Each answer takes parsing what other servers wrote, power
//! levels of 60 KB among it, and a conflict may have thousands of events: so there are as many
//! answers at a time as others can wait for.
//!
//! A resolution that is begun anew with the same events known asks the same in the same order: what
//! was answered is not asked again.

use super::Unresolved;

/// After so many bytes of content others have their turn.
const MAX_BATCH_BYTES: usize = 128 << 10;
/// What an answer costs beside the content, in bytes.
const BYTES_PER_EVENT: usize = 512;

/// The answers of one resolution.
#[derive(Default)]
pub(super) struct Judgements {
    made: Vec<i64>,
    next: usize,
    /// In bytes, since it was begun anew.
    spent: usize,
}

impl Judgements {
    /// The resolution begins anew.
    pub(super) fn begin(&mut self) {
        self.next = 0;
        self.spent = 0;
    }

    /// The next answer, which `judge` gives with the bytes of content that it looked at.
    pub(super) fn make(&mut self, judge: impl FnOnce() -> Result<(i64, usize), Unresolved>) -> Result<i64, Unresolved> {
        if self.next == self.made.len() {
            if self.spent >= MAX_BATCH_BYTES {
                return Err(Unresolved::Unfinished);
            }
            let (answer, bytes) = judge()?;
            self.spent += BYTES_PER_EVENT + bytes;
            self.made.push(answer);
        }
        self.next += 1;
        Ok(self.made[self.next - 1])
    }

    /// The next answer, when it is yes or no.
    pub(super) fn allow(&mut self, judge: impl FnOnce() -> Result<(bool, usize), Unresolved>) -> Result<bool, Unresolved> {
        Ok(self.make(|| judge().map(|(answer, bytes)| (i64::from(answer), bytes)))? != 0)
    }
}
