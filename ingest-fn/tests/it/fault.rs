//! Failures of SQS and SSM.

use std::time::Duration;

use testing::aws::{Fault, THROTTLED, Unconfirmed};
use tokio::time::Instant;

use crate::{EVENT, KEY, Outcome, TestApp, answer};

/// The outcome after which Gladly sends the event again.
const UNAVAILABLE: (Outcome, &str) = (Outcome::Unavailable, "Unavailable=1 KeySlot=1");

#[tokio::test(start_paused = true)]
async fn a_queue_failure_gets_503_within_10_s() {
    let faults = [
        (Fault::Refused(403, "com.amazon.coral.service#AccessDeniedException"), 1..=1),
        (Fault::Refused(400, "com.amazonaws.sqs#QueueDoesNotExist"), 1..=1),
        (Fault::Refused(400, "com.amazonaws.sqs#InvalidMessageContents"), 1..=1),
        (Fault::Refused(400, "com.amazonaws.sqs#KmsDisabled"), 1..=1),
        (Fault::Garbage(200), 1..=20),
        (Fault::Unconfirmed(Unconfirmed::NoMessageId), 5..=20),
        (Fault::Unconfirmed(Unconfirmed::OtherMd5), 5..=20),
        (Fault::Unconfirmed(Unconfirmed::NoMd5), 5..=20),
        (Fault::Refused(403, "RequestExpired"), 5..=20),
        (Fault::Garbage(403), 1..=1),
        (Fault::Garbage(503), 5..=20),
        (Fault::Refused(500, "InternalFailure"), 5..=20),
        (Fault::Refused(403, "com.amazonaws.sqs#RequestThrottled"), 5..=20),
        (THROTTLED, 5..=20),
        (Fault::Reset, 5..=20),
        (Fault::Hang, 3..=4),
    ];
    for (fault, tries) in faults {
        for body in [EVENT.as_bytes(), b"not an event"] {
            let app = TestApp::new();
            app.aws.state().sqs_fault = Some(fault);
            app.ingest.warm_up().await;

            let began = Instant::now();
            let got = app.receive_counted(body).await;
            assert_eq!((got.0, got.1.as_str()), UNAVAILABLE, "{fault:?}");
            let took = began.elapsed();
            assert!(took <= Duration::from_millis(10_010), "{fault:?} took {took:?}");
            let calls = app.aws.state().sqs_calls;
            assert!(tries.contains(&calls), "{fault:?}: {calls} tries");

            assert_eq!(app.post(KEY, body).await, (503, answer("unavailable")), "{fault:?}");
            assert_eq!(app.messages(), []);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_transient_fault_delays_the_event_and_counts_once() {
    let faults = [
        vec![THROTTLED; 4],
        vec![Fault::Refused(503, "ServiceUnavailable"); 4],
        vec![Fault::Reset, Fault::Hang, Fault::Garbage(502), THROTTLED],
        vec![Fault::Hang, Fault::Hang],
        vec![
            Fault::Unconfirmed(Unconfirmed::NoMessageId),
            Fault::Unconfirmed(Unconfirmed::OtherMd5),
            Fault::Unconfirmed(Unconfirmed::NoMd5),
        ],
        vec![
            Fault::Refused(403, "com.amazon.coral.service#RequestExpired"),
            Fault::Refused(400, "RequestInTheFuture"),
            Fault::Refused(403, "RequestTimeTooSkewed"),
        ],
    ];
    for faults in faults {
        for (body, metrics) in [(EVENT, "Queued=1 KeySlot=1"), ("{", "Quarantined=1 KeySlot=1")] {
            let app = TestApp::new();
            app.aws.state().sqs_faults = faults.clone().into();
            assert_eq!(app.receive_counted(body.as_bytes()).await.1, metrics, "{faults:?}");
            assert_eq!(app.aws.state().sqs_calls, faults.len() + 1);
            assert_eq!(app.messages().len(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_outage_does_not_use_up_the_retries_of_later_events() {
    let app = TestApp::new();
    for fault in [THROTTLED, Fault::Hang] {
        app.aws.state().sqs_fault = Some(fault);
        for _ in 0..60 {
            assert_eq!(app.status(KEY).await, 503);
        }
        app.aws.state().sqs_fault = None;
        app.aws.state().sqs_faults = vec![fault; 2].into();
        assert_eq!(app.status(KEY).await, 200, "{fault:?}");
    }
    assert_eq!(app.messages().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn late_keys_and_a_hanging_queue_leave_time_for_a_response() {
    let app = TestApp::new();
    app.aws.state().ssm_faults = vec![Some(THROTTLED); 15].into();
    app.aws.state().sqs_fault = Some(Fault::Hang);
    let began = Instant::now();
    assert_eq!(app.receive_counted(EVENT.as_bytes()).await, (UNAVAILABLE.0, UNAVAILABLE.1.into()));
    // Lambda ends the invocation after 14 s.
    assert!(began.elapsed() < Duration::from_millis(13_100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn hanging_keys_and_a_hanging_queue_get_503_within_gladlys_15_s() {
    let app = TestApp::new();
    assert_eq!(app.status(KEY).await, 200);
    tokio::time::advance(Duration::from_mins(2)).await;
    app.aws.state().ssm_fault = Some(Fault::Hang);
    app.aws.state().sqs_fault = Some(Fault::Hang);
    let began = Instant::now();
    assert_eq!(app.status(KEY).await, 503);
    assert!(began.elapsed() < Duration::from_secs(14), "{:?}", began.elapsed());
}
