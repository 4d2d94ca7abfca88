//! The log lines and their fields.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use shared::subscriber;
use testing::aws::Fault;
use tracing::{level_filters::LevelFilter, subscriber::set_default};

use crate::{EVENT, KEY, KEYS, REQUEST_ID, TestApp};

#[tokio::test(start_paused = true)]
async fn a_failure_logs_one_error_line_that_names_its_invocation_and_a_success_none() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let written = Arc::clone(&lines);
    let write = move |line: &[u8]| {
        written.lock().unwrap().push(serde_json::from_slice::<Value>(line).unwrap());
    };
    let _listening = set_default(subscriber(LevelFilter::INFO, write));
    let take = || std::mem::take(&mut *lines.lock().unwrap());
    let one = |message: &str| -> Value {
        let [line] = &take()[..] else { panic!("not one line: {message}") };
        assert_eq!((&line["message"], &line["level"]), (&message.into(), &"ERROR".into()));
        line.clone()
    };
    let named = |message: &str| -> Value {
        let line = one(message);
        assert_eq!(line["request_id"], REQUEST_ID, "{line}");
        line
    };

    let app = TestApp::new();
    for body in [EVENT, r#"{"type":"PING"}"#, r#"{"type":"A"}"#] {
        app.post(KEY, body.as_bytes()).await;
    }
    app.status("an unknown key").await;
    assert_eq!(take(), Vec::<Value>::new());

    app.post(KEY, br#"{"id":"e-1","type":"CUSTOMER_PROFILE/DELETED"}"#).await;
    let [line] = &take()[..] else { panic!("not one line") };
    assert_eq!(line["message"], "ignored an erasure that does not name its customer");
    let (level, event) = (&line["level"], &line["event.id"]);
    assert_eq!((level.as_str(), event.as_str()), (Some("WARN"), Some("e-1")));

    app.post(KEY, b"hello").await;
    let line = named("quarantined a webhook");
    assert_eq!(line["reason"], "unreadable");
    assert_eq!(line["detail"], "not JSON: error in line 1, column 1");

    // An error that is not retried: whether retries end by count or by time is left to chance.
    app.aws.state().sqs_fault = Some(Fault::Refused(403, "AccessDeniedException"));
    for body in [EVENT, "hello"] {
        app.post(KEY, body.as_bytes()).await;
        let line = named("could not store a webhook");
        assert!(line["error"].as_str().unwrap().contains("AccessDeniedException"), "{line}");
    }

    let keys = format!("short\n{KEY}\u{200b}\n\"{KEY}\"\n{KEY}");
    let app = TestApp::with_keys(&keys);
    app.ingest.warm_up().await;
    let refused: Vec<_> = take()
        .iter()
        .map(|line| {
            assert_eq!(
                (&line["message"], &line["level"]),
                (&"ignoring a webhook key".into(), &"ERROR".into())
            );
            assert!(line.get("request_id").is_none(), "there is no invocation yet: {line}");
            assert!(!line.to_string().contains(KEY), "{line}");
            (
                line["webhook_key.line"].as_u64().unwrap(),
                line["reason"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    assert_eq!(
        refused,
        [
            (1, "shorter than 32 characters".to_owned()),
            (2, "a character that is not printable ASCII, which no header can carry".to_owned()),
            (3, "enclosed in quotation marks".to_owned()),
        ]
    );
    assert_eq!(app.status(KEY).await, 200, "the good key beside them");

    let app = TestApp::with_keys("");
    app.aws.state().parameters.remove(KEYS);
    app.ingest.warm_up().await;
    assert!(one("could not read the webhook keys at start").get("request_id").is_none());
    app.status(KEY).await;
    let line = named("could not check a webhook's key");
    assert!(line["error"].as_str().unwrap().contains("ParameterNotFound"), "{line}");
}
