//! No message text, address or secret reaches a log line.

use std::{
    io,
    sync::{Arc, Mutex},
};

use futures::future::join_all;
use serde_json::{Value, json};
use testing::{aws::Fault as AwsFault, fault::Fault};
use tracing::{Level, subscriber::DefaultGuard};
use tracing_subscriber::{filter::Targets, fmt::MakeWriter, layer::SubscriberExt as _};

use crate::{DESTINATION_TOKEN, FIRST_BACKOFF, GLADLY_TOKEN, TestApp, raw_record, record};

/// Everything that was logged, at every level.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    /// Captures the functions' lines from this level on, and libraries' from WARN on.
    pub(crate) fn listen(&self, level: Level) -> DefaultGuard {
        let filter = Targets::new()
            .with_default(Level::WARN)
            .with_targets(["extractor_fn", "shared"].map(|target| (target, level)));
        let lines = tracing_subscriber::fmt::layer().json().with_writer(self.clone());
        tracing::subscriber::set_default(tracing_subscriber::registry().with(lines).with(filter))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test]
async fn a_failure_is_logged_once_with_its_cause() {
    let app = TestApp::new();
    let event = app.conversation("c-1");
    app.gladly.fault(Fault::cut().on("/api/v1/conversations/c-1/items"));
    let log = Log::default();
    let gate = log.listen(Level::INFO);
    app.extract([&event]).await.assert_returned(&["m-0"], FIRST_BACKOFF);
    let another = TestApp::new();
    another.aws.state().ssm_fault = Some(AwsFault::Refused(400, "AccessDeniedException"));
    another.extract([&event]).await.assert_returned(&["m-0"], FIRST_BACKOFF);
    drop(gate);

    let log = log.text();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let failures: Vec<_> = lines
        .filter(|line| line["level"] != "INFO")
        .map(|line| line["fields"].as_object().unwrap().values().map(Value::to_string).collect())
        .collect();
    let [cut, denied]: [String; 2] = failures.try_into().unwrap();
    assert!(cut.contains("no complete response from Gladly: ") && cut.contains("c-1"), "{cut}");
    // An SDK error's own text is only "service error".
    assert!(denied.contains("AccessDeniedException"), "{denied}");
}

#[tokio::test]
async fn no_error_path_logs_a_secret_or_message_text() {
    const MESSAGE_TEXT: &str = "my cat is called Mitzi";
    let log = Log::default();
    let _guard = log.listen(Level::TRACE);

    let faults = || {
        let body = format!(r#"{{"text":"{MESSAGE_TEXT}","token":"{GLADLY_TOKEN}"#);
        [200, 400, 401, 403, 404, 418, 422, 429, 500]
            .map(|status| Fault::status(status).body(body.clone()))
            .into_iter()
            .chain([
                Fault::cut(),
                Fault::garbled(),
                Fault::redirect(302, &format!("http://{MESSAGE_TEXT}/")),
            ])
    };
    let record_with_text = |app: &TestApp| {
        let event = app.conversation("c-1");
        let mut at_gladly = app.gladly.organization();
        at_gladly.add_item(
            "c-1",
            json!({"type": "EMAIL", "from": "sam@example.com", "content": MESSAGE_TEXT, "subject": MESSAGE_TEXT}),
        );
        record(0, &event)
    };
    join_all(faults().map(async |fault| {
        for path in
            ["conversations/c-1", "conversations/c-1/items", "customer-profiles/*", "agents"]
        {
            let app = TestApp::new();
            let event = record_with_text(&app);
            app.gladly.fault(fault.clone().on(format!("/api/v1/{path}")));
            app.batch(&[event]).await;
        }
        let app = TestApp::new();
        let event = record_with_text(&app);
        app.destination.fault(fault);
        let foreign = raw_record(1, &format!(r#"{{"v":1,"receivedAt":"{MESSAGE_TEXT}"}}"#));
        app.batch(&[event, foreign, raw_record(2, MESSAGE_TEXT)]).await;
    }))
    .await;
    for fault in [AwsFault::Garbage(200), AwsFault::Garbage(500), AwsFault::Reset] {
        let app = TestApp::new();
        let event = record_with_text(&app);
        app.aws.state().sqs_fault = Some(fault);
        app.batch(&[event.clone(), raw_record(1, MESSAGE_TEXT)]).await;
        app.aws.state().ssm_fault = Some(fault);
        let app = TestApp::new();
        app.aws.state().ssm_fault = Some(fault);
        app.batch(&[event]).await;
    }

    let log = log.text();
    assert!(log.lines().count() > 50, "the log was captured");
    let basic = "cmVsYXlAZXhhbXBsZS5vcmc6";
    for secret in [
        MESSAGE_TEXT,
        GLADLY_TOKEN,
        DESTINATION_TOKEN,
        basic,
        "example.com",
        "Sample Customer",
        "5550100",
    ] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}
