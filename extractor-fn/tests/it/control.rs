//! The controller and the event source mapping.

use aws_lambda_events::sqs::SqsBatchResponse;
use extractor_fn::{Invocation, InvocationError, Response};
use jiff::SignedDuration;
use lambda_runtime::{Context, LambdaEvent};
use serde_json::{Value, json};
use testing::{
    aws::{Fault, THROTTLED},
    connector::Reply,
};
use tokio::time::{Duration, Instant, sleep};

use crate::deadlines::{LEFT, TestApp, healthy_reply};

/// The request id of every invocation.
pub(crate) const REQUEST_ID: &str = "8476a536-e9f4-11e8-9739-2dfe598c3fcd";

impl TestApp {
    /// Invokes the function as Lambda does.
    pub(crate) async fn invoke(&self, payload: Value) -> Result<Value, InvocationError> {
        let payload: Invocation = serde_json::from_value(payload).unwrap();
        let deadline = self.clock.now() + SignedDuration::try_from(LEFT).unwrap();
        let mut context = Context::default();
        context.request_id = REQUEST_ID.into();
        context.deadline = deadline.as_millisecond().try_into().unwrap();
        let answer = self.extractor.handle(LambdaEvent::new(payload, context)).await?;
        let mut answer = serde_json::to_value(answer).unwrap();
        // Every task's document has these; a batch's response does not.
        if let Some(version) = answer.as_object_mut().and_then(|fields| fields.remove("v")) {
            assert_eq!((version, &answer["relayVersion"]), (json!(1), &json!("0.1.0")));
            answer.as_object_mut().unwrap().remove("relayVersion");
        }
        Ok(answer)
    }

    pub(crate) async fn task(&self, task: &str) -> Value {
        self.invoke(json!({ "task": task })).await.unwrap()
    }

    fn mapping(&self) -> &'static str {
        self.aws.state().mapping.state(self.clock.now())
    }

    /// Only the operator writes the pause parameter.
    #[track_caller]
    pub(crate) fn assert_pause_is_the_operators(&self) {
        let writes = &self.aws.state().writes;
        let names: Vec<_> = writes.iter().map(|write| write.name.as_str()).collect();
        assert!(!names.contains(&"/relay/pause"), "{names:?}");
    }
}

#[test]
fn a_batch_response_serializes_in_lambdas_format() {
    let mut response = SqsBatchResponse::default();
    response.set_failures(["a"]);
    let text = serde_json::to_string(&Response::Batch(response)).unwrap();
    assert_eq!(text, r#"{"batchItemFailures":[{"itemIdentifier":"a"}]}"#);
}

#[tokio::test(start_paused = true)]
async fn the_mapping_follows_the_parameter_through_its_transitions() {
    let app = TestApp::new(healthy_reply);
    app.aws.state().mapping.transition = SignedDuration::from_secs(20);
    for (text, state, mapping) in [
        ("running", "running", "Enabled"),
        (r#"{"state":"paused","by":"ada","reason":"audit"}"#, "paused", "Disabled"),
        ("Paused", "paused", "Disabled"),
        ("RUNNING", "running", "Enabled"),
        ("stop!", "paused", "Disabled"),
        (r#"{"state":"paused","until":"2020-01-01T00:00:00Z"}"#, "running", "Enabled"),
    ] {
        app.aws.put("/relay/pause", text);
        let status = app.task("reconcile").await;
        assert_eq!(
            (&status["state"], &status["mapping"]),
            (&json!(state), &json!(mapping)),
            "{text}"
        );
        assert_eq!(app.mapping(), mapping);
    }
    assert_eq!(app.aws.state().mapping.conflicts, 0, "no switch during a transition");
    assert_eq!(app.aws.state().mapping.switches.len(), 4, "no redundant switches");
    app.assert_pause_is_the_operators();
}

#[tokio::test(start_paused = true)]
async fn a_decision_on_stale_state_is_corrected() {
    let app = TestApp::new(healthy_reply);
    app.aws.state().mapping.transition = SignedDuration::from_secs(10);
    app.aws.put("/relay/pause", "paused");
    let aws = app.aws.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(5)).await;
        aws.put("/relay/pause", "running");
    });
    let event = json!({"source": "aws.ssm", "detail-type": "Parameter Store Change", "detail": {"name": "/relay/pause"}});
    let (first, second) =
        tokio::join!(app.invoke(event.clone()), app.invoke(json!({"task": "reconcile"})));
    assert_eq!(
        (&first.unwrap()["mapping"], &second.unwrap()["mapping"]),
        (&json!("Enabled"), &json!("Enabled"))
    );
    assert_eq!(app.mapping(), "Enabled");

    // A change by hand, or a deploy.
    app.aws.state().mapping.switch(false, app.clock.now());
    assert_eq!(app.invoke(event).await.unwrap()["mapping"], "Enabled");
}

#[tokio::test(start_paused = true)]
async fn a_transition_that_takes_too_long_is_left_to_the_next_invocation() {
    let app = TestApp::new(healthy_reply);
    app.aws.state().mapping.transition = SignedDuration::from_mins(3);
    app.aws.put("/relay/pause", "paused");
    let began = Instant::now();
    assert_eq!(app.task("reconcile").await["mapping"], "Disabling");
    assert!(began.elapsed() < Duration::from_mins(1), "{:?}", began.elapsed());
    sleep(Duration::from_mins(3)).await;
    assert_eq!(app.task("reconcile").await["mapping"], "Disabled");
    assert_eq!(app.aws.state().mapping.conflicts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_read_is_an_error_and_changes_nothing() {
    let app = TestApp::new(healthy_reply);
    app.task("reconcile").await;
    app.aws.put("/relay/pause", "paused");
    app.aws.state().ssm_fault = Some(THROTTLED);
    let error = app.invoke(json!({"task": "reconcile"})).await.unwrap_err().to_string();
    assert!(error.starts_with("could not read the parameter /relay/pause"), "{error}");
    assert_eq!(app.mapping(), "Enabled", "nothing is switched on stale state");

    app.aws.state().ssm_fault = None;
    app.aws.state().lambda_fault = Some(Fault::Refused(403, "AccessDeniedException"));
    let error = app.invoke(json!({"task": "reconcile"})).await.unwrap_err().to_string();
    assert!(error.starts_with("could not list the event source mappings"), "{error}");
    assert!(error.contains("AccessDenied"), "{error}");

    app.aws.state().lambda_fault = None;
    "another".clone_into(&mut app.aws.state().mapping.function);
    let error = app.invoke(json!({"task": "reconcile"})).await.unwrap_err().to_string();
    assert!(error.starts_with("there is no event source mapping"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_status_shows_pause_backlog_and_quarantine() {
    let app = TestApp::new(healthy_reply);
    let now = app.clock.now();
    let paused =
        json!({"state": "paused", "by": "ada", "reason": "audit", "since": "2026-01-02T03:04:05Z"});
    app.aws.put("/relay/pause", &paused.to_string());
    for body in ["1", "2", "3"] {
        app.aws.state().send("events", body, Vec::new(), 0, now);
    }
    app.aws.state().receive("events", 1, Some(600), now).unwrap();
    let reason = vec![("reason".to_owned(), "rejected".to_owned())];
    let quarantined = r#"{"v":1,"receivedAt":"2026-01-02T03:04:05Z","reason":"rejected","detail":"the destination answered 422","origin":"extractor-fn","raw":"{}"}"#;
    app.aws.state().send("quarantine", quarantined, reason, 0, now);
    app.task("reconcile").await;
    sleep(Duration::from_hours(3)).await;

    let mut status = app.task("status").await;
    // SQS reports its creation time to the second, and the mapping took a moment.
    for (figure, about) in [("oldestEventAgeSeconds", 3 * 3_600), ("expiresInSeconds", 93 * 3_600)]
    {
        let seconds = status.as_object_mut().unwrap().remove(figure).unwrap().as_i64().unwrap();
        assert!((seconds - about).abs() <= 3, "{figure}: {seconds}");
    }
    assert_eq!(
        status,
        json!({
            "state": "paused", "by": "ada", "reason": "audit", "since": "2026-01-02T03:04:05Z",
            "mapping": "Disabled", "backlog": 3, "inFlight": 0, "delayed": 0, "quarantined": 1,
            "quarantinedByReason": {"rejected": 1},
            "drainSeconds": 1, "renews": true,
        })
    );
    assert_eq!(app.task("quarantine").await["total"], 1, "listing removes nothing");
}

/// Every call to Gladly would fail.
#[tokio::test(start_paused = true)]
async fn while_paused_the_controller_does_not_call_gladly() {
    let app = TestApp::new(|_| Reply::status(500));
    app.aws.put("/relay/pause", "paused");
    for _ in 0..10 {
        app.task("reconcile").await;
        sleep(Duration::from_mins(1)).await;
    }
    assert_eq!(app.times("").len(), 0);
    assert!(app.aws.state().writes.is_empty(), "{:?}", app.aws.state().writes);
}
