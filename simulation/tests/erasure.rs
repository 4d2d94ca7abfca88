//! Deletions and merges of customers among everything else that happens.

use simulation::run_erasures;

/// Each in its own thread's time; the seeds differ in what else happens.
#[test]
fn nothing_brings_back_any_of_a_thousand_deleted_and_five_hundred_merged_customers() {
    let report = run_erasures(1, 1_000, 500);
    if let Some(violation) = report.violation {
        let history = &report.history[report.history.len().saturating_sub(40)..];
        panic!("{}.\n  {}\n{}", violation.invariant, violation.how, history.join("\n"));
    }
    let tally = |what| report.tally.of(what);
    assert!(tally("erasures delivered") >= 1_500, "{}", tally("erasures delivered"));
    for what in ["pauses", "redrives", "backfills", "crashes", "environments", "events gone"] {
        assert!(tally(what) > 0, "there were {what}");
    }
}
