//! What an application lends its streams.

use ephapse_store::{Reader, StoreError, Submitted, Transaction};

/// What streams stand on: the application's reads, its clock, and its way to write.
pub trait StreamStore {
    /// Where entries are read from.
    fn reader(&self) -> &Reader;

    /// Milliseconds since the Unix epoch.
    fn now(&self) -> u64;

    /// Runs `fill` once and writes what it stages, which stands on what was read in `generation`
    /// of the store.
    ///
    /// # Errors
    /// It was refused at once, or what was read is not true any more: then nothing was written,
    /// and what was staged is undone.
    fn write(&self, generation: u64, fill: &mut dyn FnMut(&mut dyn Transaction)) -> Result<Submitted<()>, StoreError>;
}
