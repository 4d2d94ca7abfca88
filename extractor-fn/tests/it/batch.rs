//! Records and how they end.

use std::time::Duration;

use aws_lambda_events::sqs::{SqsBatchResponse, SqsMessage};
use extractor_fn::{Invocation, InvocationError};
use jiff::SignedDuration;
use lambda_runtime::{Context, LambdaEvent};
use local::{
    aws::{Fault as AwsFault, THROTTLED, Unproven},
    fault::Fault,
};
use serde_json::{Value, json};

use crate::{FIRST_WAIT, World, raw_record, record};

#[test]
fn the_response_names_what_stays_as_lambda_reads_it() {
    // Any other name, an empty id or a missing list would delete every record that was to stay.
    let mut response = SqsBatchResponse::default();
    assert_eq!(serde_json::to_string(&response).unwrap(), r#"{"batchItemFailures":[]}"#);
    response.set_failures(["a", "b"]);
    assert_eq!(
        serde_json::to_string(&response).unwrap(),
        r#"{"batchItemFailures":[{"itemIdentifier":"a"},{"itemIdentifier":"b"}]}"#
    );
}

#[tokio::test]
async fn a_record_that_cannot_be_named_keeps_the_whole_batch() {
    let world = World::new();
    let nameless = json!({"receiptHandle": "r", "body": "{}"});
    for id in [json!(null), json!("")] {
        let mut message = nameless.clone();
        message["messageId"] = id;
        let message: SqsMessage = serde_json::from_value(message).unwrap();
        assert!(world.extractor.batch(vec![message], Duration::from_mins(1)).await.is_err());
    }
    world.batch(&[]).await.is_done();
}

#[tokio::test]
async fn an_unreadable_record_goes_to_quarantine_and_never_fails_its_neighbours() {
    let world = World::new();
    let good = world.conversation("c-1");
    let wrapped = |event: &str| {
        format!(r#"{{"v":1,"receivedAt":"2026-01-02T03:04:05.678Z","event":{event}}}"#)
    };
    let bodies = [
        (String::new(), "unreadable"),
        ("not JSON".into(), "unreadable"),
        (r#"{"v":2,"receivedAt":"2026-01-02T03:04:05Z","event":{}}"#.into(), "unreadable"),
        (r#"{"type":"A","content":{"conversationId":"c-1"}}"#.into(), "unreadable"),
        (wrapped("{}"), "no-type"),
        (wrapped(r#"{"type":"PING"}"#), "unreadable"),
        (wrapped(r#"{"type":"A","content":{}}"#), "unreadable"),
        (wrapped(r#"{"type":"A","content":{"conversationId":"../organization"}}"#), "invalid-id"),
    ];
    let mut records = vec![record(0, &good)];
    records.extend((1..).zip(&bodies).map(|(index, (body, _))| raw_record(index, body)));

    world.batch(&records).await.is_done();

    let quarantined = world.quarantined();
    assert_eq!(quarantined.len(), bodies.len());
    for ((message, body), (raw, reason)) in quarantined.iter().zip(&bodies) {
        assert_eq!((&body["reason"], &body["raw"]), (&json!(reason), &json!(raw)));
        assert_eq!(body["origin"], "extractor-fn");
        assert_eq!(message.attributes, [("reason".to_owned(), (*reason).to_owned())]);
    }
    assert_eq!(quarantined[4].1["receivedAt"], "2026-01-02T03:04:05.678Z");
    assert_eq!(world.destination.event_ids().len(), 1);
}

#[tokio::test]
async fn what_quarantine_does_not_take_stays_in_the_queue() {
    let world = World::new();
    world.aws.state().sqs_fault = Some(THROTTLED);
    let settled = world.batch(&[raw_record(0, "not JSON")]).await;
    assert_eq!(settled.kept, ["m-0"]);
    assert!(settled.visibility.is_empty(), "SQS fails: the queue's own timeout brings it back");
    world.aws.state().sqs_fault = Some(AwsFault::Unproven(Unproven::OtherMd5));
    world.batch(&[raw_record(0, "not JSON")]).await.gives_back(&["m-0"], FIRST_WAIT);

    world.aws.state().sqs_fault = None;
    world.batch(&[raw_record(0, "not JSON")]).await.is_done();
    assert_eq!(world.quarantined().len(), 1);
}

#[tokio::test]
async fn one_poison_event_among_499_good_ones_is_alone_in_its_fate() {
    let world = World::new();
    let events: Vec<Value> = (0..500).map(|n| world.conversation(&format!("c-{n}"))).collect();
    world.gladly.fault(Fault::garbled().on("/api/v1/conversations/c-250/items"));

    world.extract(&events).await.gives_back(&["m-250"], FIRST_WAIT);

    assert_eq!(world.destination.event_ids().len(), 499);
    assert!(world.quarantined().is_empty());
}

#[tokio::test]
async fn an_event_that_fails_for_a_day_is_put_aside_at_last() {
    let world = World::new();
    let event = world.conversation("c-1");
    world.gladly.fault(Fault::status(418));
    let day = SignedDuration::from_hours(25);
    let cases = [
        (record(0, &event).received(21).since(SignedDuration::from_hours(23)), false),
        (record(0, &event).received(20).since(day), false),
        (record(0, &event).received(21).since(day), true),
    ];
    for (record, exhausted) in cases {
        let settled = world.batch(&[record]).await;
        assert_eq!(settled.kept.is_empty(), exhausted);
    }
    let (_, body) = world.quarantined().remove(0);
    assert_eq!(body["reason"], "exhausted");

    // A pause is no failure, however long.
    world.aws.put("/relay/pause", "paused");
    let world = World::new();
    world.aws.put("/relay/pause", "paused");
    let settled = world.batch(&[record(0, &event).received(500).since(day)]).await;
    settled.gives_back(&["m-0"], 2_880..=4_320);
}

#[tokio::test]
async fn what_is_no_batch_is_refused_in_words() {
    let world = World::new();
    for (payload, expected) in [
        (json!({"task": "backfill"}), "from is missing"),
        (json!({"task": "dance"}), "unknown invocation"),
        (json!({}), "unknown invocation"),
        (json!({"source": "aws.s3"}), "unknown invocation"),
        (json!(["Records"]), "unknown invocation"),
        (json!({"Records": [{"body": "x"}, 7]}), "unknown invocation"),
    ] {
        let payload: Invocation = serde_json::from_value(payload).unwrap();
        let refused: InvocationError = world
            .extractor
            .handle(LambdaEvent::new(payload, Context::default()))
            .await
            .unwrap_err();
        assert!(refused.to_string().starts_with(expected), "{refused}");
        // What the runtime logs.
        assert_eq!(format!("{refused:?}"), refused.to_string());
    }
}
