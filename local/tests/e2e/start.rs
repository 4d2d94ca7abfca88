//! Invalid settings and invocations are reported.

use local::stack::Function;
use serde_json::{Value, json};

use crate::{MESSAGE_TEXT, TestApp, json_lines};

#[tokio::test]
async fn an_invalid_setting_prevents_the_start_and_is_named() {
    let app = TestApp::new("settings").await;
    let cases = [
        (Function::Extractor, "GLADLY_HOST", Some("https://evil.example"), "expected a host like"),
        (Function::Extractor, "GLADLY_HOST", None, "is not set"),
        (Function::Extractor, "DESTINATION_URL", Some("http://example.com/"), "expected"),
        (Function::Extractor, "DESTINATION_GZIP", Some("perhaps"), "expected"),
        (Function::Extractor, "GLADLY_REQUESTS_PER_SECOND", Some("many"), "expected"),
        (Function::Ingest, "EVENTS_QUEUE_URL", None, "is not set"),
        (Function::Ingest, "WEBHOOK_KEYS_PARAMETER", Some(""), "is not set"),
    ];
    for (function, name, bad, explanation) in cases {
        let good = app.stack.variable(function, name).await.unwrap().unwrap();
        app.stack.set_variable(function, name, bad).await.unwrap();
        let answered = app.stack.invoke(function, &json!({})).await.unwrap();
        assert!(answered.failed);
        let text = answered.payload["errorMessage"].as_str().unwrap();
        let line = text.split_once('{').map(|(_, rest)| format!("{{{rest}")).expect(text);
        let line: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
        assert_eq!(line["message"], "cannot start");
        let error = line["error"].as_str().unwrap();
        assert!(error.starts_with(&format!("{name} is not ")), "{error}");
        assert!(error.contains(explanation), "{error}");
        app.stack.set_variable(function, name, Some(&good)).await.unwrap();
    }
    let ids = app.queue_all(&["c"]).await;
    app.arrived(&ids).await;
    app.settled().await;
    app.end_after(5).await;
}

#[tokio::test]
async fn an_unknown_invocation_is_rejected_with_an_explanation() {
    let app = TestApp::new("invocations").await;
    // Nothing else may invoke it while its lines are counted.
    app.stack.stop_schedule().await.unwrap();
    let unknown = "unknown invocation: expected an SQS batch, ";
    let cases = [
        (json!({}), "UnknownInvocation", unknown),
        (json!([MESSAGE_TEXT]), "UnknownInvocation", unknown),
        (json!(MESSAGE_TEXT), "UnknownInvocation", unknown),
        (json!({"Records": MESSAGE_TEXT}), "UnknownInvocation", unknown),
        (json!({"source": "aws.s3"}), "UnknownInvocation", unknown),
        (json!({"task": "dance"}), "UnknownInvocation", unknown),
        (
            json!({"Records": [{"body": MESSAGE_TEXT}]}),
            "MissingMessageId",
            "a record has no message id, ",
        ),
    ];
    for (event, kind, explanation) in &cases {
        let answered = app.stack.invoke(Function::Extractor, event).await.unwrap();
        assert!(answered.failed, "{event}");
        assert_eq!(answered.payload["errorType"], *kind, "{event}");
        let message = answered.payload["errorMessage"].as_str().unwrap();
        assert!(message.starts_with(explanation), "{message}");
    }
    let lines = json_lines(&app.stack.logs(Function::Extractor).await.unwrap());
    assert_eq!(lines.len(), cases.len(), "one line a failure: {lines:#?}");
    for (line, (_, _, explanation)) in lines.iter().zip(&cases) {
        assert_eq!(line["level"], "ERROR");
        assert!(line["message"].as_str().unwrap().starts_with(explanation), "{line}");
    }
    // Later invocations are not affected.
    let ids = app.queue_all(&["c"]).await;
    app.arrived(&ids).await;
    app.settled().await;
    app.end_after(cases.len()).await;
}
