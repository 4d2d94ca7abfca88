//! Listing, showing, redriving and discarding the quarantine.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use testing::aws::{Fault, Unconfirmed};
use tokio::time::{Duration, sleep};

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
    assert_eq!(app.task("redrive").await, json!({"redriven": 0, "stayed": 1, "more": false}));
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
        assert_eq!(app.task("redrive").await["redriven"], 1, "it is visible again immediately");
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

/// A quarantine with five messages: two rejected events of conversation `c-1` and one of `c-2`, an event
/// of `c-1` that SQS moved, and a body that is not an event.
fn five_messages() -> TestApp {
    let app = TestApp::new(healthy_reply);
    let rejected = |id: &str, conversation: &str| {
        let event = queued().replace("e-1", id).replace("c-1", conversation);
        quarantine_message("extractor-fn", "rejected", &event).to_string()
    };
    app.put_in_quarantine(&rejected("r-1", "c-1"));
    app.put_in_quarantine(&rejected("r-2", "c-1"));
    app.put_in_quarantine(&rejected("r-3", "c-2"));
    app.put_in_quarantine(&queued());
    app.put_in_quarantine(&quarantine_message("ingest-fn", "unreadable", "hello").to_string());
    app
}

/// The id of a message with this body.
fn id_of(body: &str) -> String {
    let hash = Sha256::digest(body);
    let start = *hash.first_chunk().unwrap();
    format!("{:016x}", u64::from_be_bytes(start))
}

fn with(task: &str, selection: &Value) -> Value {
    let mut payload = selection.clone();
    payload["task"] = task.into();
    payload
}

#[tokio::test(start_paused = true)]
async fn a_message_has_the_same_id_after_a_renewal() {
    let app = TestApp::new(healthy_reply);
    let mut cut = quarantine_message("ingest-fn", "too-large", "hel");
    cut["truncated"] = json!(true);
    let cut = cut.to_string();
    app.put_in_quarantine(&cut);
    app.task("reconcile").await;
    let list = app.task("quarantine").await;
    assert_eq!(
        list["messages"],
        json!([{"id": id_of(&cut), "reason": "too-large", "receivedAt": RECEIVED, "origin": "ingest-fn", "detail": "why", "truncated": true}])
    );
    for _ in 0..60 {
        sleep(Duration::from_hours(1)).await;
        app.task("reconcile").await;
    }
    assert!(!app.aws.state().messages.is_empty(), "it was renewed");
    assert_eq!(app.task("quarantine").await, list);
}

#[tokio::test(start_paused = true)]
async fn one_message_is_shown_with_its_body() {
    let mut coded = quarantine_message("ingest-fn", "unreadable", "/wA=");
    coded["encoding"] = json!("base64");
    let event = queued();
    for (message, body, encoding) in [
        (quarantine_message("ingest-fn", "unreadable", "hällo").to_string(), "hällo", None),
        (coded.to_string(), "/wA=", Some("base64")),
        (quarantine_message("extractor-fn", "rejected", &event).to_string(), &*event, None),
        (event.clone(), &*event, None),
    ] {
        let app = five_messages();
        app.put_in_quarantine(&message);
        let shown = app.invoke(json!({"task": "show", "id": id_of(&message)})).await.unwrap();
        assert_eq!(
            (&shown["body"], shown.get("encoding")),
            (&json!(body), encoding.map(Value::from).as_ref())
        );
        let list = app.task("quarantine").await;
        assert_eq!(list["messages"].as_array().unwrap().len(), 6, "each is visible again");
        let mut listed = shown;
        listed.as_object_mut().unwrap().retain(|name, _| name != "body" && name != "encoding");
        assert!(list["messages"].as_array().unwrap().contains(&listed), "{listed}");
    }
    let app = five_messages();
    let unknown = json!({"task": "show", "id": "0123456789abcdef"});
    let error = app.invoke(unknown).await.unwrap_err().to_string();
    assert_eq!(error, "no message in quarantine has this id");
    assert_eq!(app.task("quarantine").await["messages"].as_array().unwrap().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_redrive_moves_only_what_is_selected() {
    let rejected = five_messages().bodies("quarantine").remove(0);
    for (selection, redriven, stayed) in [
        (json!({}), 4, 1),
        (json!({"id": id_of(&rejected)}), 1, 0),
        (json!({"id": "0123456789abcdef"}), 0, 0),
        (json!({"reason": "rejected"}), 3, 0),
        (json!({"reason": "exhausted"}), 1, 0),
        (json!({"reason": "unreadable"}), 0, 1),
        (json!({"conversationId": "c-1"}), 3, 0),
        (json!({"conversationId": "c-1", "reason": "rejected"}), 2, 0),
        (json!({"conversationId": "c-2", "id": id_of(&rejected)}), 0, 0),
    ] {
        let app = five_messages();
        let mut counted = selection.clone();
        counted["dryRun"] = json!(true);
        let expected = json!({"redriven": redriven, "stayed": stayed, "more": false});
        let answer = app.invoke(with("redrive", &counted)).await.unwrap();
        assert_eq!(answer, expected, "a dry run of {selection}");
        assert_eq!((app.bodies("events").len(), app.bodies("quarantine").len()), (0, 5));
        let answer = app.invoke(with("redrive", &selection)).await.unwrap();
        assert_eq!(answer, expected, "{selection}");
        assert_eq!(app.bodies("events").len(), redriven);
        let list = app.task("quarantine").await;
        assert_eq!(list["messages"].as_array().unwrap().len(), 5 - redriven, "the rest is visible");
    }
    let app = five_messages();
    for dry_run in [true, false] {
        let selection = json!({"reason": "rejected", "max": 2, "dryRun": dry_run});
        let answer = app.invoke(with("redrive", &selection)).await.unwrap();
        assert_eq!(answer, json!({"redriven": 2, "stayed": 0, "more": true}));
    }
}

#[tokio::test(start_paused = true)]
async fn a_discard_deletes_only_what_is_selected() {
    let rejected = five_messages().bodies("quarantine").remove(0);
    for (selection, discarded, more) in [
        (json!({"id": id_of(&rejected)}), 1, false),
        (json!({"id": "0123456789abcdef"}), 0, false),
        (json!({"reason": "rejected"}), 3, false),
        (json!({"reason": "rejected", "max": 2}), 2, true),
        (json!({"reason": "rejected", "max": 0}), 0, true),
        (json!({"conversationId": "c-1"}), 3, false),
        (json!({"conversationId": "c-1", "reason": "exhausted"}), 1, false),
    ] {
        let app = five_messages();
        let mut counted = selection.clone();
        counted["dryRun"] = json!(true);
        let expected = json!({"discarded": discarded, "more": more});
        let answer = app.invoke(with("discard", &counted)).await.unwrap();
        assert_eq!(answer, expected, "a dry run of {selection}");
        assert_eq!(app.bodies("quarantine").len(), 5);
        let answer = app.invoke(with("discard", &selection)).await.unwrap();
        assert_eq!(answer, expected, "{selection}");
        let list = app.task("quarantine").await;
        assert_eq!(
            list["messages"].as_array().unwrap().len(),
            5 - discarded,
            "the rest is visible"
        );
        assert!(app.bodies("events").is_empty());
    }

    // All of it is never discarded by accident.
    let app = five_messages();
    for selection in [json!({}), json!({"max": 1}), json!({"dryRun": true})] {
        let error = app.invoke(with("discard", &selection)).await.unwrap_err().to_string();
        assert!(error.starts_with("expected an id, a reason or a conversationId"), "{error}");
    }
    // What SQS does not delete is not counted as deleted.
    app.aws.state().sqs_faults = [Fault::Entries(0), Fault::Entries(0b1)].into();
    let answer = app.invoke(with("discard", &json!({"reason": "rejected"}))).await.unwrap();
    assert_eq!(answer, json!({"discarded": 2, "more": true}));
    assert_eq!(app.task("quarantine").await["messages"].as_array().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_failed_redrive_releases_what_it_has_not_handled() {
    let app = five_messages();
    // The receive, the first send, its deletion, the second send.
    let refused = Fault::Refused(400, "com.amazonaws.sqs#InvalidMessageContents");
    app.aws.state().sqs_faults =
        [Fault::Entries(0), Fault::Entries(0), Fault::Entries(0), refused].into();
    app.invoke(json!({"task": "redrive"})).await.unwrap_err();
    let list = app.task("quarantine").await;
    assert_eq!(list["messages"].as_array().unwrap().len(), 4);
    assert_eq!(app.task("redrive").await["redriven"], 3);
    assert_eq!(app.bodies("events").len(), 4);
}
