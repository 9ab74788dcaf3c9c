//! What tests of several crates share. It depends on none of them, so that each may use it in tests
//! of its own parts too.

mod property;

pub use property::holds;
