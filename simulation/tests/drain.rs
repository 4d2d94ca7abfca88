//! The cost of draining a backlog.

use simulation::drain;

#[test]
fn a_backlog_drains_at_the_rate_limit_with_few_extra_calls() {
    let drain = drain(2_000, 400);
    assert_eq!(drain.violation, None);
    assert_eq!((drain.customers, drain.throttled), (360, 0));
    assert!((1.0..=1.1).contains(&drain.ratio()), "{drain}");
    assert!((0.9..=1.0).contains(&drain.use_of_share()), "{drain}");
}
