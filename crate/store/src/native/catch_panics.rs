//! redb trusts what it reads of its file, and panics where that is damaged. Here such a panic
//! becomes an error that names the file.

use crate::StoreError;
use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread will become a [`StoreError::Damaged`]. A panic hook need not
/// report it.
pub fn panic_is_caught() -> bool {
    CATCHING.get()
}

/// The result of `work`. It reads or writes `file` by redb, and must change nothing else that a
/// panic could leave half done.
pub(super) fn catch_panics<T>(file: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let outer = CATCHING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(outer);
    let reason = match result {
        Ok(Err(StoreError::Damaged { reason, .. })) => reason,
        Ok(result) => return result,
        Err(panic) => message(&*panic),
    };
    Err(StoreError::Damaged { file: file.to_owned(), reason })
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("its pages are inconsistent").to_owned()
}
