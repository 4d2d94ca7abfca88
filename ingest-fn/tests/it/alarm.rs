//! The template's alarms about ingest-fn, raised by the metrics that the code prints on a virtual
//! clock. Each scenario is good, then bad, then good again.

use std::time::Duration;

use ingest_fn::Config;
use testing::{
    alarm::{Run, mark, tell},
    aws::THROTTLED,
};
use tokio::time::advance;

use crate::{KEY, TestApp};

const FUNCTION: &str = "IngestFunction";
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

mod scenario {
    use super::*;

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn wrong_key() {
        let app = TestApp::new();
        mark(app.now());
        advance(20 * MINUTE).await;
        app.status(KEY).await;
        app.status("a stranger's key, which is none of ours").await;
        advance(40 * MINUTE).await;
        app.tried("the key that was forgotten at the other end").await;
        advance(60 * MINUTE).await;
        mark(app.now());
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn queue_out_of_reach() {
        let app = TestApp::new();
        mark(app.now());
        advance(20 * MINUTE).await;
        app.aws.state().sqs_fault = Some(THROTTLED);
        app.status(KEY).await;
        app.aws.state().sqs_fault = None;
        app.status(KEY).await;
        advance(40 * MINUTE).await;
        app.aws.state().sqs_fault = Some(THROTTLED);
        app.tried(KEY).await;
        advance(60 * MINUTE).await;
        mark(app.now());
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn silence() {
        let app = TestApp::new();
        mark(app.now());
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
        mark(app.now());
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn broken_deploy() {
        let app = TestApp::new();
        mark(app.now());
        for minute in 0..90 {
            // In between the settings are missing, as they are in this process: the function does not start.
            let failed = (30..60).contains(&minute) && Config::from_env().is_err();
            if !failed {
                app.status(KEY).await;
            }
            let errors = ("AWS/Lambda", "Errors");
            tell(app.now(), errors, ("FunctionName", FUNCTION), failed.into());
            advance(MINUTE).await;
        }
        mark(app.now());
    }
}

#[test]
fn a_wrong_key_raises_the_alarm_before_gladly_gives_up_and_a_stray_request_does_not() {
    let run = Run::of("alarm::scenario::wrong_key", FUNCTION);
    // The one event is tried from minute 60 on.
    run.raises("UnauthorizedAlarm", 65..=66, 70..=80);
    run.leaves_alone(&["WebhookUnavailableAlarm", "IngestErrorsAlarm"]);
}

#[test]
fn a_queue_out_of_reach_raises_the_alarm_before_gladly_gives_up() {
    let run = Run::of("alarm::scenario::queue_out_of_reach", FUNCTION);
    run.raises("WebhookUnavailableAlarm", 65..=67, 70..=80);
    run.leaves_alone(&["UnauthorizedAlarm", "IngestErrorsAlarm"]);
}

#[test]
fn a_silent_webhook_raises_the_alarm_after_a_day_and_a_night_does_not() {
    let run = Run::of("alarm::scenario::silence", FUNCTION);
    let hours = 60;
    run.raises("WebhookSilentAlarm", 59 * hours..=59 * hours + 5, 66 * hours..=66 * hours + 5);
}

#[test]
fn a_function_that_does_not_start_raises_the_alarm() {
    let run = Run::of("alarm::scenario::broken_deploy", FUNCTION);
    run.raises("IngestErrorsAlarm", 32..=37, 60..=72);
    run.leaves_alone(&["UnauthorizedAlarm", "WebhookUnavailableAlarm"]);
}
