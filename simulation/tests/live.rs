//! The cost of live traffic.

use simulation::{Delays, Environments, live};

#[test]
fn a_settle_window_serves_live_traffic_with_few_more_fetches_than_the_fewest() {
    let one = live(60, 300, Delays::AsShipped, Environments::One);
    assert_eq!(one.violation, None);
    assert!(one.of_optimum() <= 1.2, "{one}");
    // The names are fetched once an hour, which weighs more in so little traffic.
    assert!(one.calls_per_event() <= 2.0, "{one}");
    let without = live(60, 0, Delays::AsShipped, Environments::One);
    assert_eq!(without.violation, None);
    assert!(without.fetches > 2 * one.fetches, "{without}\n{one}");
    assert_eq!(without.events, one.events);
}
