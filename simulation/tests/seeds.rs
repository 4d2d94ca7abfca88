//! A few hundred simulations, one of them twice.

use simulation::{COVERAGE, Keep, run, sweep};

#[test]
fn every_invariant_holds_in_300_simulations_with_every_fault() {
    let (tally, failed) = sweep(0..300, |_| {});
    if let Some(report) = failed {
        let violation = report.violation.unwrap();
        panic!(
            "seed {} violates an invariant: {}.\n  {}\nRun it again with: make simulate SEED={}",
            report.seed, violation.invariant, violation.how, report.seed
        );
    }
    let never: Vec<_> = COVERAGE.iter().filter(|what| tally.of(what) == 0).collect();
    assert!(never.is_empty(), "these never happened: {never:?}");
}

#[test]
fn a_seed_always_gives_the_same_simulation() {
    for seed in [3, 20, 77] {
        let (first, second) = (run(seed, Keep::Lines), run(seed, Keep::Lines));
        for (line, again) in first.history.iter().zip(&second.history) {
            assert_eq!(line, again, "of seed {seed}");
        }
        assert_eq!(first.history.len(), second.history.len());
        assert_eq!(first.tally, second.tally);
    }
}
