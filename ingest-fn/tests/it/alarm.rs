//! The template's alarms about ingest-fn, raised by the metrics that the code writes on a virtual
//! clock. Each scenario is good, then bad, then good again.

use std::time::Duration;

use ingest_fn::Config;
use testing::aws::THROTTLED;
use tokio::time::advance;

use crate::{KEY, TestApp};

const MINUTE: Duration = Duration::from_mins(1);
/// When Gladly tries an event, in seconds after the first time, and gives the webhook up after the last.
const TRIES: [u64; 5] = [0, 30, 300, 1_800, 3_600];

impl TestApp {
    /// One event, with every one of Gladly's tries.
    async fn tried(&self, key: &str) {
        let mut passed = 0;
        for at in TRIES {
            advance(Duration::from_secs(at - passed)).await;
            passed = at;
            self.status(key).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_key_raises_the_alarm_before_gladly_disables_the_webhook_and_a_stray_request_does_not()
 {
    let app = TestApp::new();
    let start = app.now();
    advance(20 * MINUTE).await;
    app.status(KEY).await;
    app.status("a key that is not configured").await;
    advance(40 * MINUTE).await;
    app.tried("the key that was forgotten at the other end").await;
    advance(60 * MINUTE).await;
    let metrics = app.metrics.timeline(start, app.now());
    // The one event is tried from minute 60 on.
    metrics.raises("UnauthorizedAlarm", 65..=66, 70..=80);
    metrics.never_raises(&["WebhookUnavailableAlarm", "IngestErrorsAlarm"]);
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_queue_raises_the_alarm_before_gladly_disables_the_webhook() {
    let app = TestApp::new();
    let start = app.now();
    advance(20 * MINUTE).await;
    app.aws.state().sqs_fault = Some(THROTTLED);
    app.status(KEY).await;
    app.aws.state().sqs_fault = None;
    app.status(KEY).await;
    advance(40 * MINUTE).await;
    app.aws.state().sqs_fault = Some(THROTTLED);
    app.tried(KEY).await;
    advance(60 * MINUTE).await;
    let metrics = app.metrics.timeline(start, app.now());
    metrics.raises("WebhookUnavailableAlarm", 65..=67, 70..=80);
    metrics.never_raises(&["UnauthorizedAlarm", "IngestErrorsAlarm"]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_webhook_raises_the_alarm_after_a_day_and_a_night_does_not() {
    let app = TestApp::new();
    let start = app.now();
    // Two days with a night of twelve hours each, then a day and a quarter of nothing.
    for _ in 0..2 {
        for _ in 0..12 {
            app.status(KEY).await;
            advance(60 * MINUTE).await;
        }
        advance(12 * 60 * MINUTE).await;
    }
    advance(18 * 60 * MINUTE).await;
    app.status(KEY).await;
    advance(60 * MINUTE).await;
    let metrics = app.metrics.timeline(start, app.now());
    let hours = 60;
    metrics.raises("WebhookSilentAlarm", 59 * hours..=59 * hours + 5, 66 * hours..=66 * hours + 5);
}

#[tokio::test(start_paused = true)]
async fn a_function_that_does_not_start_raises_the_alarm() {
    let app = TestApp::new();
    let start = app.now();
    for minute in 0..90 {
        // In between the settings are missing, as they are in this process: the function does not start.
        let failed = (30..60).contains(&minute) && Config::from_env().is_err();
        if !failed {
            app.status(KEY).await;
        }
        let errors = ("AWS/Lambda", "Errors");
        let function = ("FunctionName", "IngestFunction");
        app.metrics.push_from_aws(app.now(), errors, function, failed.into());
        advance(MINUTE).await;
    }
    let metrics = app.metrics.timeline(start, app.now());
    metrics.raises("IngestErrorsAlarm", 32..=37, 60..=72);
    metrics.never_raises(&["UnauthorizedAlarm", "WebhookUnavailableAlarm"]);
}
