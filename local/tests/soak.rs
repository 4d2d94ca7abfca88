//! A short soak, so that `make soak` keeps working.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use local::soak::{Plan, soak};

#[tokio::test]
async fn every_accepted_event_is_accounted_for_after_a_run_with_faults() {
    let plan = Plan { name: "soak-test", ..Plan::new(1, 300, Duration::from_secs(15)) };
    let report = soak(&plan).await.unwrap();
    assert_eq!(report.sent, 300);
    assert_eq!(report.failures(), Vec::<String>::new());
}
