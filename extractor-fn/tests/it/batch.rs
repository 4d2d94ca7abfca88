//! Batches: the outcome of each record.

use std::time::Duration;

use aws_lambda_events::sqs::SqsBatchResponse;
use extractor_fn::{Invocation, InvocationError};
use jiff::{SignedDuration, Timestamp};
use lambda_runtime::{Context, LambdaEvent};
use serde_json::{Value, json};
use testing::{
    aws::{Fault as AwsFault, THROTTLED, Unconfirmed},
    fault::Fault,
};

use tokio::time::sleep;

use crate::{
    FIRST_BACKOFF, TIME_LEFT, TestApp,
    deadlines::{self, healthy_reply, records},
    invoke_batch, raw_record, record,
};

#[test]
fn the_response_lists_failed_records_in_lambdas_format() {
    // Any other name, an empty id or a missing list would delete every record that must stay.
    let mut response = SqsBatchResponse::default();
    assert_eq!(serde_json::to_string(&response).unwrap(), r#"{"batchItemFailures":[]}"#);
    response.set_failures(["a", "b"]);
    assert_eq!(
        serde_json::to_string(&response).unwrap(),
        r#"{"batchItemFailures":[{"itemIdentifier":"a"},{"itemIdentifier":"b"}]}"#
    );
}

#[tokio::test]
async fn a_record_without_a_message_id_keeps_the_whole_batch() {
    let app = TestApp::new();
    let without_id = json!({"receiptHandle": "r", "body": "{}"});
    for id in [json!(null), json!("")] {
        let mut message = without_id.clone();
        message["messageId"] = id;
        let answer = invoke_batch(&app.extractor, &app.aws, vec![message], TIME_LEFT).await;
        assert!(matches!(answer, Err(InvocationError::MissingMessageId(_))));
    }
    app.batch(&[]).await.is_done();
}

#[tokio::test(start_paused = true)]
async fn a_malformed_field_affects_neither_its_record_nor_the_others() {
    let app = deadlines::TestApp::new(healthy_reply);
    let message = |id: &Value, body: &Value, more: Value| {
        let mut message =
            json!({"messageId": id, "receiptHandle": format!("receipt of {id}"), "body": body});
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        message
    };
    let bodies: Vec<_> = records(4).into_iter().map(|record| json!(record.body)).collect();
    let not_a_text = json!({"v": 1, "n": [1.10]});
    let batch = json!({"Records": [
        message(&json!("m-0"), &bodies[0], json!({"attributes": {"ApproximateReceiveCount": 2, "SentTimestamp": null}})),
        message(&json!("m-1"), &bodies[1], json!({"attributes": 7, "messageAttributes": [], "md5OfBody": 7})),
        message(&json!("m-2"), &not_a_text, json!({"eventSourceARN": 7})),
        message(&json!("m-3"), &json!(null), json!({"awsRegion": []})),
        message(&json!("m-4"), &bodies[2], json!({"messageAttributes": {"type": {"stringValue": 7}}})),
        message(&json!("m-5"), &bodies[3], json!({"receiptHandle": 7})),
    ]});
    let response = app.invoke(batch).await.unwrap();
    assert_eq!(response, json!({"batchItemFailures": []}));

    let delivery: Value = serde_json::from_str(&app.sent("deliveries")[0]).unwrap();
    assert_eq!(delivery["events"].as_array().unwrap().len(), 4);
    let quarantined = app.aws.state().messages.clone();
    let raw = quarantined.iter().map(|message| {
        let body: Value = serde_json::from_str(&message.body).unwrap();
        assert_eq!(body["reason"], "unreadable");
        body["raw"].as_str().unwrap().to_owned()
    });
    assert_eq!(raw.collect::<Vec<_>>(), [not_a_text.to_string(), String::new()]);

    // A re-enqueued message keeps its readable attributes.
    app.aws.put("/relay/pause", "paused");
    sleep(Duration::from_secs(11)).await;
    let old = app.clock.now() - SignedDuration::from_hours(95);
    let attributes = json!({
        "attributes": {"SentTimestamp": old.as_millisecond().to_string()},
        "messageAttributes": {
            "type": {"stringValue": "A", "dataType": "String", "stringListValues": null, "binaryListValues": 7},
            "untyped": {"stringValue": "A"},
            "broken": {"dataType": "String", "stringValue": {}},
        },
    });
    let batch = json!({"Records": [message(&json!("m-6"), &bodies[0], attributes)]});
    assert_eq!(app.invoke(batch).await.unwrap(), json!({"batchItemFailures": []}));
    let renewed = app.aws.state().messages.last().unwrap().clone();
    assert_eq!(renewed.attributes, [("type".to_owned(), "A".to_owned())]);

    // A record without an id cannot be listed in the response, so the whole batch stays.
    for id in [json!(null), json!(7), json!(""), json!({})] {
        let batch = json!({"Records": [message(&id, &bodies[0], json!({})), message(&json!("m-7"), &bodies[1], json!({}))]});
        assert!(app.invoke(batch).await.is_err(), "{id}");
    }
}

#[tokio::test]
async fn an_unreadable_record_is_quarantined_and_never_fails_the_others() {
    let app = TestApp::new();
    let good = app.conversation("c-1");
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

    app.batch(&records).await.is_done();

    let quarantined = app.quarantined();
    assert_eq!(quarantined.len(), bodies.len());
    for ((message, body), (raw, reason)) in quarantined.iter().zip(&bodies) {
        assert_eq!((&body["reason"], &body["raw"]), (&json!(reason), &json!(raw)));
        assert_eq!(body["origin"], "extractor-fn");
        assert_eq!(message.attributes, [("reason".to_owned(), (*reason).to_owned())]);
    }
    assert_eq!(quarantined[4].1["receivedAt"], "2026-01-02T03:04:05.678Z");
    assert_eq!(app.destination.event_ids().len(), 1);
}

#[tokio::test]
async fn a_record_that_cannot_be_quarantined_stays_in_the_queue() {
    let app = TestApp::new();
    app.aws.state().sqs_fault = Some(THROTTLED);
    let settled = app.batch(&[raw_record(0, "not JSON")]).await;
    assert_eq!(settled.kept, ["m-0"]);
    assert!(settled.visibility.is_empty(), "SQS fails: the queue's own timeout brings it back");
    app.aws.state().sqs_fault = Some(AwsFault::Unconfirmed(Unconfirmed::OtherMd5));
    app.batch(&[raw_record(0, "not JSON")]).await.assert_returned(&["m-0"], FIRST_BACKOFF);

    app.aws.state().sqs_fault = None;
    app.batch(&[raw_record(0, "not JSON")]).await.is_done();
    assert_eq!(app.quarantined().len(), 1);
}

#[tokio::test]
async fn one_poison_event_among_499_good_ones_is_quarantined_alone() {
    let app = TestApp::new();
    let events: Vec<Value> = (0..500).map(|n| app.conversation(&format!("c-{n}"))).collect();
    app.gladly.fault(Fault::garbled().on("/api/v1/conversations/c-250/items"));

    app.extract(&events).await.assert_returned(&["m-250"], FIRST_BACKOFF);

    assert_eq!(app.destination.event_ids().len(), 499);
    assert!(app.quarantined().is_empty());
}

#[tokio::test]
async fn an_event_that_fails_for_a_day_is_quarantined() {
    let app = TestApp::new();
    let (event, other) = (app.conversation("c-1"), app.conversation("c-2"));
    app.gladly.fault(Fault::status(418).on("/api/v1/conversations/c-1"));
    let day = SignedDuration::from_hours(25);
    // Nothing was held in the meantime.
    app.aws.state().modified.insert("/relay/pause".into(), Timestamp::now() - day);
    let cases = [
        (record(0, &event).received(21).sent_ago(SignedDuration::from_hours(23)), false),
        (record(0, &event).received(20).sent_ago(day), false),
        (record(0, &event).received(21).sent_ago(day), true),
    ];
    for (failed, exhausted) in cases {
        let settled = app.batch(&[failed, record(1, &other)]).await;
        assert_eq!(settled.kept.is_empty(), exhausted);
    }
    let (_, body) = app.quarantined().remove(0);
    assert_eq!(body["reason"], "exhausted");

    // A pause is not a failure, however long.
    app.aws.put("/relay/pause", "paused");
    let app = TestApp::new();
    app.aws.put("/relay/pause", "paused");
    let settled = app.batch(&[record(0, &event).received(500).sent_ago(day)]).await;
    settled.assert_returned(&["m-0"], 2_880..=4_320);
}

#[tokio::test]
async fn an_unknown_payload_is_rejected_with_an_explanation() {
    let app = TestApp::new();
    for (payload, expected) in [
        (json!({"task": "backfill"}), "from is missing"),
        (json!({"task": "import", "to": "2026-01-02T03:04:05Z"}), "from is missing"),
        (json!({"task": "backfill", "from": "yesterday"}), "unknown invocation"),
        (json!({"task": "dance"}), "unknown invocation"),
        (json!({"task": 7}), "unknown invocation"),
        (json!({"task": "show"}), "unknown invocation"),
        (json!({"task": "redrive", "before": "2026-01-02T03:04:05Z"}), "unknown invocation"),
        (json!({"task": "discard", "conversationId": "../c"}), "unknown invocation"),
        (json!({"task": "discard"}), "expected an id, a reason or a conversationId"),
        (json!({"task": null}), "unknown invocation"),
        (json!({}), "unknown invocation"),
        (json!({"source": "aws.s3"}), "unknown invocation"),
        (json!(["Records"]), "unknown invocation"),
        (json!({"Records": [{"body": "x"}, 7]}), "a record has no message id"),
        (json!({"Records": {"body": "x"}}), "unknown invocation"),
    ] {
        let payload: Invocation = serde_json::from_value(payload).unwrap();
        let refused: InvocationError =
            app.extractor.handle(LambdaEvent::new(payload, Context::default())).await.unwrap_err();
        assert!(refused.to_string().starts_with(expected), "{refused}");
        // What the runtime logs.
        assert_eq!(format!("{refused:?}"), refused.to_string());
    }
}
