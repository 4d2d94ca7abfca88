//! No log line, metric or response contains a secret or part of the content.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use shared::subscriber;
use testing::aws::{Fault, THROTTLED};
use tokio::time::advance;
use tracing::{level_filters::LevelFilter, subscriber::set_default};

use crate::{NEXT_KEY, TestApp};

const KEY: &str = "s3cret-key-that-no-log-may-ever-show";
const TEXT: &str = "my card is 4111 1111";
const MAIL: &str = "mary@example.com";

/// What no log, metric or response may contain, in whole or in part.
const SECRETS: [&str; 6] = [KEY, "s3cret", NEXT_KEY, "card", MAIL, "mary"];

#[tokio::test(start_paused = true)]
async fn no_key_text_or_personal_data_reaches_a_log_a_metric_or_a_response() {
    let written = Written::default();
    let log = written.clone();
    let write = move |line: &[u8]| log.push(str::from_utf8(line).unwrap());
    let _listening = set_default(subscriber(LevelFilter::TRACE, write));
    take_every_path(&written).await;

    let written = written.0.lock().unwrap();
    for secret in SECRETS {
        let line = written.iter().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }

    let lines: Vec<Value> =
        written.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let logged = |text: &str| {
        lines
            .iter()
            .any(|line| line["message"].as_str().is_some_and(|message| message.contains(text)))
    };
    for text in [
        "ignoring a webhook key",
        "could not read the webhook keys at start",
        "could not check a webhook's key",
        "could not refresh parameter; using the cached value",
        "quarantined a webhook",
        "could not store a webhook",
    ] {
        assert!(logged(text), "{text}");
    }
    let names = ["Queued", "Ignored", "Quarantined", "Unauthorized", "Unavailable", "KeySlot"];
    for name in names {
        let sent = |line: &&Value| line["_aws"].is_object() && line[name] == 1;
        let line = lines.iter().find(sent).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(line["FunctionName"], "IngestFunction");
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Namespace"], "GladlyRelay");
    }
}

/// The lines of the log and of the metrics.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<String>>>);

impl Written {
    fn push(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }

    /// A receiver whose metrics are written here.
    fn app(&self, keys: &str) -> TestApp {
        let written = self.clone();
        TestApp::with(keys, move |line| written.push(line))
    }
}

/// Takes every path through the function.
async fn take_every_path(written: &Written) {
    let personal = format!(
        r#"{{"type":"{MAIL}","id":"ev-1","text":"{TEXT}","content":{{"conversationId":"c-1"}}}}"#
    );
    let bodies = [
        personal.clone().into_bytes(),
        format!(r#"{{"type":"A","text":"{TEXT}"}}"#).into_bytes(),
        format!(r#"{{"type":"PING","text":"{TEXT}"}}"#).into_bytes(),
        format!("{TEXT} {MAIL}").into_bytes(),
        [TEXT.as_bytes(), b"\xff"].concat(),
        personal.replace("c-1", MAIL).into_bytes(),
        personal.replace("ev-1", TEXT).into_bytes(),
        personal.replace("\"type\"", "\"kind\"").into_bytes(),
        personal.replace("\"id\"", "\"type\"").into_bytes(),
    ];
    let faults = [
        None,
        Some(Fault::Refused(403, "AccessDenied")),
        Some(Fault::Garbage(200)),
        Some(Fault::Garbage(500)),
        Some(THROTTLED),
        Some(Fault::Hang),
        Some(Fault::Reset),
    ];
    let large = personal.replace(TEXT, &TEXT.repeat(60_000)).into_bytes();
    for sqs_fault in &faults[..3] {
        let app = written.app(KEY);
        app.aws.state().sqs_fault = *sqs_fault;
        assert_answer_redacted(&app, KEY, &large).await;
    }
    let short = "s3cret-but-short";
    for ssm_fault in faults {
        for keys in [KEY, short] {
            let app = written.app(keys);
            app.aws.state().ssm_fault = ssm_fault;
            app.ingest.warm_up().await;
            assert_answer_redacted(&app, keys, &bodies[0]).await;
        }
        let app = written.app(&format!("{short}\n{KEY}\n{NEXT_KEY}\n{NEXT_KEY}"));
        app.ingest.warm_up().await;
        app.aws.state().ssm_fault = ssm_fault;
        for sqs_fault in faults {
            app.aws.state().sqs_fault = sqs_fault;
            advance(Duration::from_mins(2)).await;
            for body in &bodies {
                assert_answer_redacted(&app, KEY, body).await;
            }
            assert_answer_redacted(&app, &format!("{KEY} "), &bodies[0]).await;
        }
    }
}

async fn assert_answer_redacted(app: &TestApp, key: &str, body: &[u8]) {
    let (_, answer) = app.post(key, body).await;
    assert!(SECRETS.iter().all(|secret| !answer.contains(secret)));
}
