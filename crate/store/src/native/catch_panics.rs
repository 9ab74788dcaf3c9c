//! redb on a damaged file: it trusts what it reads of its own pages, and panics where that cannot be. Here that becomes an error which names the file.

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

/// Whether a panic on this thread is about to become a [`StoreError::Damaged`], so that a panic hook need not tell of it.
pub fn panic_is_caught() -> bool {
    CATCHING.get()
}

/// What `work` gives, which reads or writes `file` by redb and nothing else that could be left half done.
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
    text.unwrap_or("its pages contradict each other").to_owned()
}
