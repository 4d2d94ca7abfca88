//! No log line, metric or response contains a secret or part of the content.

use std::{env, process::Command, time::Duration};

use serde_json::Value;
use testing::aws::{Fault, THROTTLED};
use tokio::time::advance;

use crate::{NEXT_KEY, TestApp};

const KEY: &str = "s3cret-key-that-no-log-may-ever-show";
const TEXT: &str = "my card is 4111 1111";
const MAIL: &str = "mary@example.com";

/// What no log, metric or response may contain, in whole or in part.
const SECRETS: [&str; 6] = [KEY, "s3cret", NEXT_KEY, "card", MAIL, "mary"];

#[test]
fn no_key_text_or_personal_data_reaches_a_log_a_metric_or_a_response() {
    let run = Command::new(env::current_exe().unwrap())
        .args(["--exact", "redaction::every_path", "--ignored", "--nocapture"])
        .envs([("AWS_LAMBDA_LOG_LEVEL", "TRACE"), ("AWS_LAMBDA_FUNCTION_NAME", "ingest")])
        .output()
        .unwrap();
    let written = format!(
        "{}{}",
        String::from_utf8(run.stdout).unwrap(),
        String::from_utf8(run.stderr).unwrap()
    );
    assert!(run.status.success(), "{written}");
    for secret in SECRETS {
        let line = written.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }

    let lines: Vec<Value> =
        written.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let logged = |text: &str| {
        lines
            .iter()
            .any(|line| line["message"].as_str().is_some_and(|message| message.contains(text)))
    };
    for text in [
        "ignoring a webhook key",
        "no webhook keys yet",
        "could not check a webhook's key",
        "keeping the last good value",
        "quarantined a webhook",
        "could not store a webhook",
    ] {
        assert!(logged(text), "{text}");
    }
    let names = ["Queued", "Ignored", "Quarantined", "Unauthorized", "Unavailable", "KeySlot"];
    for name in names {
        let sent = |line: &&Value| line["_aws"].is_object() && line[name] == 1;
        let line = lines.iter().find(sent).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(line["FunctionName"], "ingest");
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Namespace"], "GladlyRelay");
    }
}

/// Every path through the function, with its log and metrics written as in Lambda.
#[tokio::test(start_paused = true)]
#[ignore = "run by the test above, which reads its output"]
async fn every_path() {
    shared::init_log();
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
        let app = TestApp::with_keys(KEY);
        app.aws.state().sqs_fault = *sqs_fault;
        assert_answer_redacted(&app, KEY, &large).await;
    }
    let short = "s3cret-but-short";
    for ssm_fault in faults {
        for keys in [KEY, short] {
            let app = TestApp::with_keys(keys);
            app.aws.state().ssm_fault = ssm_fault;
            app.ingest.warm_up().await;
            assert_answer_redacted(&app, keys, &bodies[0]).await;
        }
        let app = TestApp::with_keys(&format!("{short}\n{KEY}\n{NEXT_KEY}\n{NEXT_KEY}"));
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
