//! Deliveries to a bucket, and what S3's responses mean. S3 verifies each signature by itself.

use std::{
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use aws_credential_types::{
    Credentials, credential_fn::provide_credentials_fn, provider::SharedCredentialsProvider,
};
use extractor_fn::{Extractor, Http};
use flate2::read::GzDecoder;
use jiff::SignedDuration;
use serde_json::{Value, json};
use shared::MetricsWriter;
use testing::{
    aws::{BUCKET, Fault, KEY_PREFIX, Object},
    connector::Reply,
    settings::DESTINATION_BUCKET_URL,
};
use tokio::time::{Duration, Instant};
use tracing::Level;

use crate::{
    FIRST_BACKOFF, account, config,
    deadlines::{LEFT, TestApp, healthy_reply, records},
    record,
    redaction::Log,
    settle,
};

const SETTINGS: &[(&str, &str)] = &[("DESTINATION_URL", DESTINATION_BUCKET_URL)];
const BREAKER: &str = "/relay/pause-breaker";

fn app() -> TestApp {
    TestApp::with(SETTINGS, healthy_reply)
}

/// The lines of an object.
fn lines(object: &Object) -> Vec<Value> {
    let mut text = String::new();
    GzDecoder::new(&*object.body).read_to_string(&mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn keys(objects: &[Object]) -> Vec<&str> {
    objects.iter().map(|object| object.key.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_delivery_is_written_as_snapshots_and_then_the_events_about_them() {
    let app = app();
    let today = app.clock.now().to_string()[..10].to_owned();
    settle(&app.extractor, &app.aws, &records(3), LEFT).await.is_done();

    let objects = app.aws.state().objects.clone();
    let [conversations, events] = &objects[..] else { panic!("{:?}", keys(&objects)) };
    let id = lines(events)[0]["deliveryId"].as_str().unwrap().to_owned();
    assert_eq!(id.len(), 64);
    for (object, kind) in [(conversations, "conversations"), (events, "events")] {
        let partition = format!("organization=acme.gladly.com/date={today}");
        assert_eq!(object.key, format!("{KEY_PREFIX}{kind}/{partition}/{id}.ndjson.gz"));
        assert_eq!((object.bucket.as_str(), &*object.content_type), (BUCKET, "application/gzip"));
        let lines = lines(object);
        assert_eq!(lines.len(), 3);
        for line in lines {
            assert_eq!(line["schema"], "gladly-relay/delivery/1");
            assert_eq!(line["organization"], "acme.gladly.com");
            assert_eq!(line["deliveryId"], id);
        }
    }
    let ids = |object, name: &str| {
        let ids: Vec<_> = lines(object).iter().map(|line| line[name].clone()).collect();
        json!(ids)
    };
    assert_eq!(ids(conversations, "id"), json!(["c-0", "c-1", "c-2"]));
    assert_eq!(ids(events, "id"), json!(["e-0", "e-1", "e-2"]));
    assert_eq!(ids(events, "conversationId"), json!(["c-0", "c-1", "c-2"]));
    assert!(app.times("deliveries").is_empty(), "nothing is posted");
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_written_as_a_tombstone_alone() {
    let app = app();
    let at = app.clock.now().to_string();
    let event = json!({
        "id": "e-9", "type": "CUSTOMER_PROFILE/DELETED", "timestamp": at, "content": {"customerId": "u"},
    });
    settle(&app.extractor, &app.aws, &[record(0, &event)], LEFT).await.is_done();
    let objects = app.aws.state().objects.clone();
    let [object] = &objects[..] else { panic!("{:?}", keys(&objects)) };
    let line = lines(object).remove(0);
    assert_eq!((&line["kind"], &line["customerId"]), (&json!("customer-deleted"), &json!("u")));
    let day = &line["at"].as_str().unwrap()[..10];
    let partition = format!("{KEY_PREFIX}tombstones/organization=acme.gladly.com/date={day}/");
    assert!(object.key.starts_with(&partition), "{}", object.key);
}

#[tokio::test(start_paused = true)]
async fn the_attempts_of_a_delivery_write_the_same_object_and_a_later_delivery_another() {
    let app = app();
    app.aws.state().s3_faults = [Some(Fault::Lost), Some(Fault::Lost)].into();
    settle(&app.extractor, &app.aws, &records(1), LEFT).await.is_done();
    let first = std::mem::take(&mut app.aws.state().objects);
    assert_eq!(first.len(), 4, "three attempts of one object, and the other");
    assert!(first[..3].iter().all(|object| *object == first[0]));
    settle(&app.extractor, &app.aws, &records(1), LEFT).await.is_done();
    let later = app.aws.state().objects.clone();
    assert!(later.iter().all(|object| !keys(&first).contains(&object.key.as_str())));
}

#[tokio::test(start_paused = true)]
async fn no_event_is_written_before_its_snapshot_and_none_is_lost() {
    let app = app();
    // The snapshots are written; then S3 is down for the rest of the delivery.
    app.aws.state().s3_faults = [None].into();
    app.aws.state().s3_fault = Some(Fault::Reset);
    let settled = settle(&app.extractor, &app.aws, &records(2), LEFT).await;
    settled.assert_returned(&["m-0", "m-1"], FIRST_BACKOFF);
    let written = app.aws.state().objects.clone();
    assert_eq!(written.len(), 1);
    assert!(written[0].key.contains("/conversations/"), "{:?}", keys(&written));

    app.aws.state().s3_fault = None;
    settle(&app.extractor, &app.aws, &records(2), LEFT).await.is_done();
    let written = app.aws.state().objects.clone();
    assert_eq!(written.len(), 3, "fetched again, so both objects are new");
    assert_eq!(lines(&written[2]).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn every_error_of_s3_is_retried_or_opens_the_breaker_and_none_rejects_a_conversation() {
    let transient = [
        (400, "RequestTimeout"),
        (503, "SlowDown"),
        (500, "InternalError"),
        (403, "RequestTimeTooSkewed"),
        (400, "ExpiredToken"),
        (503, "ServiceUnavailable"),
        (500, "SomethingNew"),
    ];
    let lasting = [
        (400, "EntityTooLarge"),
        (400, "InvalidRequest"),
        (400, "InvalidDigest"),
        (400, "AuthorizationHeaderMalformed"),
        (400, "KMS.DisabledException"),
        (301, "PermanentRedirect"),
        (307, "TemporaryRedirect"),
        (403, "AccessDenied"),
        (403, "InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch"),
        (404, "NoSuchBucket"),
        (405, "MethodNotAllowed"),
        (409, "OperationAborted"),
        (413, "SomethingNew"),
        (422, "SomethingNew"),
        (429, "SomethingNew"),
    ];
    let refused =
        |(status, code): (u16, &'static str)| (Fault::Refused(status, code), status, code);
    let cases = transient.map(refused).into_iter().map(|case| (case, false));
    let cases = cases.chain(lasting.map(refused).into_iter().map(|case| (case, true)));
    // Neither is an answer of S3: a gateway's page, and no answer at all.
    let others = [
        ((Fault::Garbage(502), 502, ""), false),
        ((Fault::Garbage(403), 403, ""), true),
        ((Fault::Reset, 0, ""), false),
        ((Fault::Hang, 0, ""), false),
    ];
    for ((fault, status, code), opens) in cases.chain(others) {
        let app = app();
        app.aws.state().s3_fault = Some(fault);
        let settled = settle(&app.extractor, &app.aws, &records(2), LEFT).await;
        settled.assert_returned(&["m-0", "m-1"], FIRST_BACKOFF);
        let breaker = app.aws.state().parameters.get(BREAKER).cloned();
        assert_eq!(breaker.is_some(), opens, "{fault:?}: {breaker:?}");
        if let Some(breaker) = breaker {
            let breaker: Value = serde_json::from_str(&breaker).unwrap();
            assert_eq!(breaker["cause"], "destination");
            // A code with other characters than letters and digits is left out.
            let code = if code.contains('.') { "" } else { code };
            let reason = format!("S3 answered {status} {code}");
            assert_eq!(breaker["reason"], reason.trim(), "{fault:?}");
        }
        assert_eq!(app.aws.state().s3_calls, if opens { 1 } else { 3 }, "{fault:?}");
        assert!(app.aws.state().messages.is_empty(), "nothing is quarantined: {fault:?}");
        if !opens {
            app.aws.state().s3_fault = None;
            settle(&app.extractor, &app.aws, &records(2), LEFT).await.is_done();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_back_closes_the_breaker() {
    let app = app();
    app.aws.state().s3_fault = Some(Fault::Refused(403, "AccessDenied"));
    settle(&app.extractor, &app.aws, &records(1), LEFT)
        .await
        .assert_returned(&["m-0"], FIRST_BACKOFF);
    app.aws.state().s3_fault = None;
    tokio::time::sleep(Duration::from_secs(61)).await;
    app.task("reconcile").await;
    settle(&app.extractor, &app.aws, &records(1), LEFT).await.is_done();
    let breaker = app.aws.state().parameters[BREAKER].clone();
    assert!(breaker.contains("\"closed\""), "{breaker}");
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_slow_delays_a_delivery_by_half_a_minute() {
    let app = app();
    app.aws.state().s3_fault = Some(Fault::Hang);
    let began = Instant::now();
    let settled = settle(&app.extractor, &app.aws, &records(2), LEFT).await;
    settled.assert_returned(&["m-0", "m-1"], FIRST_BACKOFF);
    assert!(began.elapsed() <= Duration::from_secs(35), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_wrong_clock_is_corrected_by_s3s_time() {
    for hours in [-1, 1] {
        let app = app();
        app.aws.state().s3_ahead_by = SignedDuration::from_hours(hours);
        settle(&app.extractor, &app.aws, &records(1), LEFT).await.is_done();
        assert_eq!(app.aws.state().s3_calls, 3, "one is rejected, and two objects are written");
        settle(&app.extractor, &app.aws, &records(1), LEFT).await.is_done();
        assert_eq!(app.aws.state().s3_calls, 5, "the correction is kept");
    }
}

#[tokio::test(start_paused = true)]
async fn expired_credentials_are_read_again() {
    let app = app();
    let reads = Arc::new(AtomicUsize::new(0));
    let provider = {
        let reads = Arc::clone(&reads);
        provide_credentials_fn(move || {
            let read = reads.fetch_add(1, Ordering::Relaxed);
            // S3 rejects the signature of the first ones.
            let secret = if read == 0 { "old" } else { "c" };
            async move { Ok(Credentials::new("AKIDEXAMPLE", secret, None, None, "test")) }
        })
    };
    let aws = account(app.aws.clone());
    aws.assume_with_a_bucket("ExtractorRole");
    aws.state().s3_faults = [Some(Fault::Refused(400, "ExpiredToken"))].into();
    let s3 = aws.config().into_builder();
    let s3 = s3.credentials_provider(SharedCredentialsProvider::new(provider)).build();
    let metrics = MetricsWriter::new("ExtractorFunction", |_| {});
    let http = Http::over(app.connector());
    let extractor = Extractor::new(&s3, config(SETTINGS), http, app.clock.clone(), metrics);
    settle(&Arc::new(extractor), &aws, &records(1), LEFT).await.is_done();
    assert_eq!(aws.state().s3_calls, 3);
    assert!(reads.load(Ordering::Relaxed) >= 3);
}

#[tokio::test(start_paused = true)]
async fn what_s3_answers_reaches_no_log() {
    let reply = |path: &str| {
        if path.ends_with("/items") {
            return Reply::json(json!([{
                "id": "i-1", "timestamp": "2020-01-01T00:00:00Z",
                "content": {"type": "SMS", "content": "a heron in the reeds"},
            }]));
        }
        healthy_reply(path)
    };
    let app = TestApp::with(SETTINGS, reply);
    let log = Log::default();
    let listening = log.listen(Level::TRACE);
    for fault in [Fault::Garbage(502), Fault::Garbage(403)] {
        app.aws.state().s3_fault = Some(fault);
        settle(&app.extractor, &app.aws, &records(2), LEFT).await;
    }
    drop(listening);
    let text = log.text();
    assert!(text.contains("S3 answered 502") && text.contains("S3 answered 403"), "{text}");
    for secret in ["heron", "AKIDEXAMPLE", "Signature", "gladly-token\"", "Parameter"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}
