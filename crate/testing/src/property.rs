//! Properties that hold whatever is drawn, with a seed that is printed.

use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngSeed, TestCaseResult, TestRunner},
};
use std::{
    env,
    hash::{BuildHasher, RandomState},
};

/// Runs `check` on what `strategy` draws and fails with the smallest case that it finds against it.
/// `SEED` repeats a run; `PROPTEST_CASES` runs so many cases instead of `cases`.
pub fn holds<S: Strategy>(cases: u32, strategy: &S, check: impl Fn(S::Value) -> TestCaseResult) {
    let seed = env::var("SEED").map_or_else(|_| RandomState::new().hash_one(0) >> 11, |seed| seed.parse().expect("SEED is a number"));
    println!("SEED={seed}");
    let default = Config::default();
    let cases = if env::var_os("PROPTEST_CASES").is_some() { default.cases } else { cases };
    let mut runner = TestRunner::new(Config { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..default });
    if let Err(failure) = runner.run(strategy, check) {
        // One line: of a long case most is only there because a case has so much at least.
        panic!("SEED={seed} repeats it: {}", failure.to_string().split_whitespace().collect::<Vec<_>>().join(" "));
    }
}
