//! A short soak, so that `make soak` keeps working.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use local::soak::{Plan, Target, soak};
use tokio::sync::Mutex;

/// A soak needs the whole machine: beside another one, webhooks would time out until Gladly disables theirs.
static MACHINE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn every_accepted_event_is_accounted_for_after_a_run_with_faults() {
    let _machine = MACHINE.lock().await;
    let plan = Plan { name: "soak-test", ..Plan::new(1, 300, Duration::from_secs(15)) };
    let report = soak(&plan).await.unwrap();
    assert_eq!(report.sent, 300);
    assert_eq!(report.failures(), Vec::<String>::new());
}

#[tokio::test]
async fn what_a_bucket_was_given_in_a_run_with_faults_is_read_back_by_duckdb() {
    let _machine = MACHINE.lock().await;
    let plan = Plan::new(1, 300, Duration::from_secs(15));
    let plan = Plan { name: "soak-bucket", target: Target::Bucket, ..plan };
    let report = soak(&plan).await.unwrap();
    assert_eq!(report.sent, 300);
    assert_eq!(report.failures(), Vec::<String>::new());
}
