//! Listing and redriving the quarantine.

use serde_json::{Value, json};
use testing::aws::{Fault, Unconfirmed};

use crate::deadlines::{TestApp, healthy_reply};

const RECEIVED: &str = "2026-01-02T03:04:05.678Z";
const EVENT: &str = r#"{ "type":"A/Ä", "id":"e-1", "content":{"conversationId":"c-1"} }"#;

fn quarantine_message(origin: &str, reason: &str, raw: &str) -> Value {
    json!({"v": 1, "receivedAt": RECEIVED, "reason": reason, "detail": "why", "origin": origin, "raw": raw})
}

fn queued() -> String {
    let escaped = EVENT.replace('Ä', r"\u00c4");
    format!(r#"{{"v":1,"receivedAt":"{RECEIVED}","event":{escaped}}}"#)
}

impl TestApp {
    fn put_in_quarantine(&self, body: &str) {
        let now = self.clock.now();
        self.aws.state().send("quarantine", body, Vec::new(), 0, now);
    }

    fn bodies(&self, queue: &str) -> Vec<String> {
        let now = self.clock.now();
        self.aws.state().queue(queue, now).bodies().map(|(_, body)| body.to_string()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn valid_events_are_redriven_and_the_rest_stays() {
    let mut cut = quarantine_message("extractor-fn", "rejected", &queued());
    cut["truncated"] = json!(true);
    let mut coded = quarantine_message("ingest-fn", "unreadable", "/wA=");
    coded["encoding"] = json!("base64");
    let cases = [
        (quarantine_message("extractor-fn", "rejected", &queued()).to_string(), true),
        (quarantine_message("extractor-fn", "exhausted", &queued()).to_string(), true),
        // Bodies that ingest-fn quarantined are validated again: the rules may have changed.
        (quarantine_message("ingest-fn", "unreadable", EVENT).to_string(), true),
        // A webhook's body with a byte order mark, which was invalid in an earlier version.
        (
            quarantine_message("ingest-fn", "unreadable", &format!("\u{feff}{EVENT}")).to_string(),
            true,
        ),
        // Moved by SQS's redrive policy.
        (queued(), true),
        (quarantine_message("ingest-fn", "unreadable", "hello").to_string(), false),
        (
            quarantine_message("ingest-fn", "no-type", r#"{"content":{"conversationId":"c"}}"#)
                .to_string(),
            false,
        ),
        (quarantine_message("ingest-fn", "unreadable", r#"{"type":"PING"}"#).to_string(), false),
        (
            quarantine_message("ingest-fn", "unreadable", r#"{"type":"A","content":{}}"#)
                .to_string(),
            false,
        ),
        (quarantine_message("extractor-fn", "unreadable", "hello").to_string(), false),
        (cut.to_string(), false),
        (coded.to_string(), false),
        ("hello".to_owned(), false),
    ];
    for (body, is_redriven) in cases {
        let app = TestApp::new(healthy_reply);
        app.put_in_quarantine(&body);
        let answer = app.task("redrive").await;
        let (redriven, stayed) = if is_redriven { (1, 0) } else { (0, 1) };
        assert_eq!(
            answer,
            json!({"redriven": redriven, "stayed": stayed, "more": false}),
            "{body}"
        );
        if is_redriven {
            assert_eq!(app.bodies("events"), [queued()], "{body}");
            assert!(app.bodies("quarantine").is_empty());
            let now = app.clock.now();
            let message = app.aws.state().receive("events", 1, None, now).unwrap().remove(0);
            assert_eq!(message.attributes, [("type".to_owned(), "A/?".to_owned())]);
        } else {
            assert!(app.bodies("events").is_empty());
            assert_eq!(app.bodies("quarantine"), [body]);
            assert_eq!(
                app.task("quarantine").await["total"],
                1,
                "and is visible again immediately"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_redrive_moves_at_most_the_requested_number() {
    let app = TestApp::new(healthy_reply);
    for _ in 0..25 {
        app.put_in_quarantine(
            &quarantine_message("extractor-fn", "rejected", &queued()).to_string(),
        );
    }
    app.put_in_quarantine("hello");
    for (max, redriven, more) in [(0, 0, true), (7, 7, true), (18, 18, false), (5, 0, false)] {
        let answer = app.invoke(json!({"task": "redrive", "max": max})).await.unwrap();
        assert_eq!(
            (&answer["redriven"], &answer["more"]),
            (&json!(redriven), &json!(more)),
            "{max}"
        );
    }
    assert_eq!((app.bodies("events").len(), app.bodies("quarantine").len()), (25, 1));
    let answer = app.invoke(json!({"task": "redrive"})).await.unwrap();
    assert_eq!(answer, json!({"redriven": 0, "stayed": 1, "more": false}));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_sqs_does_not_confirm_stays_in_quarantine() {
    for how in [Unconfirmed::NoMessageId, Unconfirmed::OtherMd5, Unconfirmed::NoMd5] {
        let app = TestApp::new(healthy_reply);
        app.put_in_quarantine(
            &quarantine_message("extractor-fn", "rejected", &queued()).to_string(),
        );
        app.aws.state().sqs_fault = Some(Fault::Unconfirmed(how));
        app.invoke(json!({"task": "redrive"})).await.unwrap_err();
        app.aws.state().sqs_fault = None;
        assert_eq!((app.bodies("events").len(), app.bodies("quarantine").len()), (0, 1));
        // The failed redrive left it hidden.
        tokio::time::sleep(std::time::Duration::from_mins(5)).await;
        assert_eq!(app.task("redrive").await["redriven"], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_sqs_does_not_accept_stays_in_quarantine() {
    let app = TestApp::new(healthy_reply);
    app.put_in_quarantine(&quarantine_message("extractor-fn", "rejected", &queued()).to_string());
    app.aws.state().sqs_faults = [Fault::Hang; 1].into_iter().collect();
    // The first receive hangs and is retried; then the send fails permanently.
    app.task("quarantine").await;
    app.aws.state().sqs_fault = Some(testing::aws::THROTTLED);
    app.invoke(json!({"task": "redrive"})).await.unwrap_err();
    app.aws.state().sqs_fault = None;
    assert_eq!((app.bodies("events").len(), app.bodies("quarantine").len()), (0, 1));
    assert_eq!(app.task("redrive").await["redriven"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_list_of_the_quarantine_fits_into_a_response() {
    let app = TestApp::new(healthy_reply);
    let mut message = quarantine_message("extractor-fn", "rejected", &queued());
    for field in ["detail", "origin"] {
        message[field] = json!("ä".repeat(20_000));
    }
    let message = message.to_string();
    for _ in 0..100 {
        app.put_in_quarantine(&message);
    }
    let list = app.task("quarantine").await;
    assert_eq!(list["messages"].as_array().unwrap().len(), 100);
    let bytes = list.to_string().len();
    assert!(bytes < 6_000_000 / 10, "a thousand would have {bytes}0");
    assert_eq!(app.task("quarantine").await["total"], 100, "and is visible again immediately");
}

#[tokio::test(start_paused = true)]
async fn one_message_is_shown_and_a_selection_is_redriven_or_discarded() {
    let app = TestApp::new(healthy_reply);
    app.put_in_quarantine(&quarantine_message("extractor-fn", "rejected", &queued()).to_string());
    app.put_in_quarantine(&quarantine_message("ingest-fn", "unreadable", "hello").to_string());
    let listed = app.task("quarantine").await["messages"].clone();
    let find = |reason: &str| {
        let entry = listed.as_array().unwrap().iter().find(|entry| entry["reason"] == reason);
        entry.unwrap()["id"].as_str().unwrap().to_owned()
    };
    let (rejected, unreadable) = (find("rejected"), find("unreadable"));
    let shown = app.invoke(json!({"task": "show", "id": unreadable})).await.unwrap();
    assert_eq!((&shown["body"], &shown["reason"]), (&json!("hello"), &json!("unreadable")));
    let error = app.invoke(json!({"task": "show", "id": "gone"})).await.unwrap_err().to_string();
    assert!(error.contains("no message with the id gone"), "{error}");

    // Nobody discards everything by accident, and an unknown condition is none that is left out.
    assert!(app.invoke(json!({"task": "discard"})).await.is_err());
    assert!(app.invoke(json!({"task": "discard", "reasons": ["unreadable"]})).await.is_err());
    let dry = json!({"task": "discard", "reason": "unreadable", "dryRun": true});
    assert_eq!(app.invoke(dry).await.unwrap()["discarded"], 1);
    assert_eq!(app.bodies("quarantine").len(), 2);
    let discard = json!({"task": "discard", "id": unreadable});
    assert_eq!(app.invoke(discard).await.unwrap()["discarded"], 1);
    let dry = json!({"task": "redrive", "id": rejected, "dryRun": true});
    assert_eq!(app.invoke(dry).await.unwrap()["redriven"], 1);
    assert_eq!((app.bodies("events").len(), app.bodies("quarantine").len()), (0, 1));
    let redrive = json!({"task": "redrive", "id": rejected});
    assert_eq!(app.invoke(redrive).await.unwrap()["redriven"], 1);
    assert_eq!((app.bodies("events").len(), app.bodies("quarantine").len()), (1, 0));
}
