//! Each version reads what earlier versions wrote, and written formats change only on purpose. The
//! documents are in `shared/tests/golden`.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use testing::{
    connector::Reply,
    {aws::THROTTLED, destination::violations, golden::Golden},
};

use crate::{
    deadlines::{LEFT, TestApp, healthy_reply},
    raw_record, settle,
};

const PAUSE: &str = "/relay/pause";

/// When every golden document was written.
fn written() -> Timestamp {
    "2026-01-02T03:04:05.678Z".parse().unwrap()
}

/// An extractor that starts a minute after everything was written.
fn next_version() -> TestApp {
    TestApp::at(written() + SignedDuration::from_mins(1), &[], healthy_reply)
}

fn golden() -> Vec<Golden> {
    let all = Golden::all().unwrap();
    assert!(!all.is_empty());
    all
}

/// Asserts that `written` is the newest version's document, byte for byte.
#[track_caller]
fn assert_newest(name: &str, written: &str) {
    let golden = Golden::newest().unwrap();
    assert_eq!(
        written,
        golden.read(name).unwrap(),
        "{name} is no longer written as in {}: see CONTRIBUTING.md, Change a wire format",
        golden.version
    );
}

impl TestApp {
    async fn run_batch(&self, bodies: &[String]) -> crate::BatchResult {
        let records: Vec<_> =
            bodies.iter().enumerate().map(|(index, body)| raw_record(index, body)).collect();
        settle(&self.extractor, &self.aws, &records, LEFT).await
    }

    fn written(&self, name: &str) -> Vec<String> {
        let writes = self.aws.state().writes.clone();
        let writes = writes.into_iter().filter(|write| write.name == format!("{PAUSE}-{name}"));
        writes.map(|write| write.text).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn events_of_every_version_are_delivered_as_they_came() {
    for golden in golden() {
        let app = next_version();
        let events = ["event.webhook.json", "event.backfill.json"];
        let events = events.map(|name| golden.read(name).unwrap());
        app.run_batch(&events).await.is_done();
        let delivery: Value = serde_json::from_str(&app.sent("deliveries")[0]).unwrap();
        let without_held = |event: &Value| {
            let mut event = event.clone();
            event.as_object_mut().unwrap().remove("heldMs").unwrap();
            event
        };
        let listed: Vec<_> =
            delivery["events"].as_array().unwrap().iter().map(without_held).collect();
        let content = json!({"customerId": "u-1", "conversationId": "c-1"});
        assert_eq!(
            listed,
            [
                json!({"id": "e-1", "type": "CONVERSATION/CLOSED", "timestamp": "2026-01-02T03:04:04Z",
                       "receivedAt": "2026-01-02T03:04:05.678Z", "conversationId": "c-1", "customerId": "u-1",
                       "initiator": {"id": "a-1", "type": "AGENT"}, "content": content, "snapshot": "included",
                       "origin": "webhook"}),
                json!({"id": "e-2", "type": "CONVERSATION/CREATED", "timestamp": "2026-01-02T01:30:00Z",
                       "receivedAt": "2026-01-02T03:04:05.678Z", "conversationId": "c-1", "customerId": "u-1",
                       "content": content, "snapshot": "included", "origin": "backfill"}),
            ],
            "{}",
            golden.version
        );
    }
}

#[tokio::test(start_paused = true)]
async fn events_quarantined_by_every_version_are_listed_and_redriven() {
    for golden in golden() {
        let app = next_version();
        for name in ["extractor", "ingest", "ingest.base64", "ingest.truncated"] {
            let body = golden.read(&format!("quarantine.{name}.json")).unwrap();
            app.aws.state().send("quarantine", &body, Vec::new(), 0, written());
        }
        let shown = app.task("quarantine").await;
        let mut listed = shown["messages"].clone();
        for entry in listed.as_array_mut().unwrap() {
            let id = entry.as_object_mut().unwrap().remove("id").unwrap();
            assert_eq!(id.as_str().unwrap().len(), 16);
        }
        let listed: Vec<_> = listed.as_array().unwrap().iter().collect();
        let entry = |reason: &str, origin: &str, detail: &str| json!({"reason": reason, "receivedAt": "2026-01-02T03:04:05.678Z", "origin": origin, "detail": detail});
        let mut rejected = entry("rejected", "extractor-fn", "the destination answered 422");
        rejected["type"] = json!("CONVERSATION/CLOSED");
        rejected["conversationId"] = json!("c-1");
        rejected["eventId"] = json!("e-1");
        let mut truncated = entry("unreadable", "ingest-fn", "not JSON: error in line 1, column 1");
        truncated["truncated"] = json!(true);
        assert_eq!(
            listed,
            [
                &rejected,
                &entry("no-type", "ingest-fn", "no type"),
                &entry("unreadable", "ingest-fn", "not UTF-8"),
                &truncated,
            ],
            "{}",
            golden.version
        );

        let answer = app.task("redrive").await;
        assert_eq!(answer, json!({"redriven": 1, "stayed": 3, "more": false}));
        let sent = app.aws.state().messages.clone();
        assert_eq!(sent[0].body, golden.read("event.webhook.json").unwrap(), "as it was queued");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_every_version_holds_until_its_end() {
    let document = json!({"by": "ada", "reason": "audit", "since": "2026-01-02T03:00:00Z", "until": "2026-01-02T04:00:00Z"});
    for golden in golden() {
        for (name, state, people) in [
            ("pause.running", "running", None),
            ("pause.paused", "paused", None),
            ("pause.document.json", "paused", Some(&document)),
        ] {
            let app = next_version();
            app.aws.put(PAUSE, &golden.read(name).unwrap());
            let status = app.task("reconcile").await;
            assert_eq!(status["state"], state, "{} {name}", golden.version);
            let mapping = if state == "running" { "Enabled" } else { "Disabled" };
            assert_eq!(status["mapping"], mapping);
            for (field, value) in
                people.into_iter().flat_map(|document| document.as_object().unwrap())
            {
                assert_eq!(&status[field], value, "{} {name}", golden.version);
            }
        }
        let later = TestApp::at(written() + SignedDuration::from_hours(1), &[], healthy_reply);
        later.aws.put(PAUSE, &golden.read("pause.document.json").unwrap());
        assert_eq!(later.task("reconcile").await["state"], "running", "until has passed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_of_every_version_holds_and_closes() {
    for golden in golden() {
        let breaker = |name: &str| golden.read(&format!("breaker.{name}.json")).unwrap();
        let event = [golden.read("event.webhook.json").unwrap()];
        let app = TestApp::at(written() + SignedDuration::from_secs(20), &[], healthy_reply);
        let name = format!("{PAUSE}-breaker");

        app.aws.put(&name, &breaker("open"));
        assert_eq!(app.run_batch(&event).await.kept, ["m-0"]);
        let status = app.task("status").await;
        assert_eq!(
            (&status["state"], &status["reason"], &status["since"]),
            (
                &json!("breaker"),
                &json!("the destination answered 401"),
                &json!("2026-01-02T03:04:05Z")
            ),
            "{}",
            golden.version
        );
        assert_eq!(status["breaker"]["retryAt"], "2026-01-02T03:05:05Z");

        tokio::time::sleep(tokio::time::Duration::from_secs(11)).await;
        app.aws.put(&name, &breaker("half-open"));
        app.run_batch(&event).await.is_done();
        let closed =
            r#"{"state":"closed","closedAt":"2026-01-02T03:04:36Z","waitSeconds":60}"#.to_owned();
        assert_eq!(app.written("breaker"), [closed], "the first success closes it");

        // An operator who closes it by hand may omit the time.
        for closed in [breaker("closed"), r#"{"state":"closed"}"#.to_owned()] {
            app.aws.put(&name, &closed);
            assert_eq!(app.task("reconcile").await["state"], "running");
            assert_eq!(app.written("breaker").len(), 1, "there is nothing to reset");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_of_every_version_resumes() {
    for golden in golden() {
        let app = next_version();
        let created = written() - SignedDuration::from_hours(24 * 30);
        app.aws.state().queue("events", created);
        let sent = written() - SignedDuration::from_hours(50);
        app.aws.state().send("events", "held", Vec::new(), 0, sent);
        app.aws.put(PAUSE, "paused");
        app.aws.put(&format!("{PAUSE}-renewal"), &golden.read("renewal.json").unwrap());

        let status = app.task("status").await;
        let low_watermark: Timestamp = "2025-12-31T00:00:00Z".parse().unwrap();
        let age = app.clock.now().duration_since(low_watermark).as_secs();
        assert_eq!(status["oldestEventAgeSeconds"], age, "{}: its low watermark", golden.version);
        app.task("reconcile").await;
        let renewal = app.written("renewal").pop().unwrap();
        let renewal: Value = serde_json::from_str(&renewal).unwrap();
        let low_watermark = written() - SignedDuration::from_hours(24);
        assert_eq!(
            renewal["events"],
            json!({"lowWatermark": low_watermark.to_string()}),
            "its pass has ended"
        );
        assert_eq!(app.aws.state().messages[0].body, "held", "and renewed what there was");
    }
}

#[tokio::test(start_paused = true)]
async fn a_backfill_of_every_version_resumes() {
    for golden in golden() {
        let app = TestApp::at(written() + SignedDuration::from_mins(1), &[], gladly);
        for name in ["backfill", "import"] {
            let document = golden.read(&format!("{name}.json")).unwrap();
            app.aws.put(&format!("{PAUSE}-{name}"), &document);
        }
        app.task("reconcile").await;
        let asked = [
            "api/v1/events?startAt=2026-01-02T01:00:00.000Z&endAt=2026-01-02T02:00:00.000Z",
            "api/v1/export/jobs/j-1/files/conversation_items.jsonl",
        ];
        for asked in asked {
            assert_eq!(app.times(asked).len(), 1, "{}: {asked}", golden.version);
        }
        for name in ["backfill", "import"] {
            assert_eq!(app.written(name).pop().unwrap(), "{}", "and is done");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivery_of_every_version_fits_the_schema() {
    for golden in golden() {
        let delivery = serde_json::from_str(&golden.read("delivery.json").unwrap()).unwrap();
        assert_eq!(violations(&delivery), Vec::<String>::new(), "{}", golden.version);
    }
}

/// A Gladly with one of each: conversation, item, customer, agent, topic and inbox.
fn gladly(path: &str) -> Reply {
    Reply::json(match path {
        "api/v1/conversations/c-1" => {
            json!({"id": "c-1", "customerId": "u-1", "inboxId": "b-1", "agentId": "a-1", "topicIds": ["t-1"],
                   "createdAt": "2026-01-01T00:00:00Z", "closedAt": "2026-01-02T03:04:04Z", "status": "CLOSED",
                   "customAttributes": [{"id": "k", "value": "v"}]})
        }
        "api/v1/conversations/c-1/items" => {
            json!([{"id": "i-1", "timestamp": "2026-01-01T00:00:00.1Z", "initiator": {"id": "u-1", "type": "CUSTOMER"},
                    "content": {"type": "EMAIL", "subject": "Hello", "content": "Where is it?"}}])
        }
        "api/v1/customer-profiles/u-1" => {
            json!({"id": "u-1", "name": "Sam", "emails": [{"normalized": "sam@example.com"}],
                   "phones": [{"original": "+15555550100"}], "externalCustomerId": "x-1", "customAttributes": {"plan": "gold"}})
        }
        "api/v1/agents" => json!([{"id": "a-1", "name": "Ada"}]),
        "api/v1/topics" => json!([{"id": "t-1", "name": "Shipping"}]),
        "api/v1/inboxes" => json!([{"id": "b-1", "name": "Post"}]),
        path if path.starts_with("api/v1/export/jobs?") => {
            json!([{"id": "j-1", "files": ["conversation_items.jsonl"],
                    "parameters": {"startAt": "2025-12-31T00:00:00Z", "endAt": "2026-01-01T00:00:00Z"}}])
        }
        "api/v1/export/jobs/j-1/files/conversation_items.jsonl" => {
            json!({"id": "i", "conversationId": "c-1", "customerId": "u-1", "timestamp": "2025-12-31T12:00:00Z"})
        }
        path if path.starts_with("api/v1/events?") => {
            json!({"id": "e-2", "type": "CONVERSATION/CREATED", "timestamp": "2026-01-02T01:30:00Z",
                   "content": {"customerId": "u-1", "conversationId": "c-1"}})
        }
        _ => json!([]),
    })
}

#[tokio::test(start_paused = true)]
async fn a_delivery_and_its_batch_response_are_unchanged() {
    let event = [Golden::newest().unwrap().read("event.webhook.json").unwrap()];
    let app = TestApp::at(written(), &[], gladly);
    app.run_batch(&event).await.is_done();
    assert_newest("delivery.json", &app.sent("deliveries")[0]);

    app.aws.put(PAUSE, "paused");
    tokio::time::sleep(tokio::time::Duration::from_secs(11)).await;
    let record = json!({"messageId": "m-0", "receiptHandle": "receipt of m-0", "body": event[0]});
    let answer = app.invoke(json!({"Records": [record]})).await.unwrap();
    assert_newest("batch-response.json", &answer.to_string());
}

#[tokio::test(start_paused = true)]
async fn quarantine_and_breaker_documents_are_unchanged() {
    let event = [Golden::newest().unwrap().read("event.webhook.json").unwrap()];
    let answers = |status: u16| {
        let answer = move |path: &str| match path {
            "deliveries" => Reply::status(status),
            path => gladly(path),
        };
        TestApp::at(written(), &[], answer)
    };
    let app = answers(422);
    app.run_batch(&event).await.is_done();
    assert_newest("quarantine.extractor.json", &app.aws.state().messages[0].body);

    let app = answers(401);
    assert_eq!(app.run_batch(&event).await.kept, ["m-0"]);
    tokio::time::sleep(tokio::time::Duration::from_mins(1)).await;
    app.task("reconcile").await;
    let [open, half_open] = &app.written("breaker")[..] else { panic!("two writes") };
    assert_newest("breaker.open.json", open);
    assert_newest("breaker.half-open.json", half_open);
    let app = TestApp::at(written() + SignedDuration::from_mins(1), &[], gladly);
    app.aws.put(&format!("{PAUSE}-breaker"), half_open);
    app.run_batch(&event).await.is_done();
    assert_newest("breaker.closed.json", &app.written("breaker")[0]);
}

#[tokio::test(start_paused = true)]
async fn renewal_backfill_and_import_documents_are_unchanged() {
    let app = TestApp::at(written(), &[], gladly);
    app.aws.put(PAUSE, "paused");
    let created = written() - SignedDuration::from_hours(24 * 30);
    app.aws.state().queue("events", created);
    let sent = written() - SignedDuration::from_hours(50);
    app.aws.state().send("events", "held", Vec::new(), 0, sent);
    let known = r#"{"events":{"lowWatermark":"2025-12-31T00:00:00Z"},"quarantine":{}}"#;
    app.aws.put(&format!("{PAUSE}-renewal"), known);
    // The mapping is disabled already; disabling it would take time.
    app.aws.state().mapping.enabled = false;
    app.task("reconcile").await;
    assert_newest("renewal.json", &app.written("renewal")[0]);

    let app = TestApp::at(written(), &[], gladly);
    app.aws.state().sqs_fault = Some(THROTTLED);
    let import =
        json!({"task": "import", "from": "2025-12-31T00:00:00Z", "to": "2026-01-01T00:00:00Z"});
    assert!(app.invoke(import).await.unwrap()["postponed"].is_string());
    let range =
        json!({"task": "backfill", "from": "2026-01-02T01:00:00Z", "to": "2026-01-02T02:00:00Z"});
    assert!(app.invoke(range.clone()).await.unwrap()["postponed"].is_string());
    assert_newest("backfill.json", &app.written("backfill").pop().unwrap());
    assert_newest("import.json", &app.written("import").pop().unwrap());

    let app = TestApp::at(written(), &[], gladly);
    app.invoke(range).await.unwrap();
    let message = app.aws.state().messages[0].body.clone();
    let at = message.find(r#","event":"#).unwrap();
    let message = format!(r#"{{"v":1,"receivedAt":"2026-01-02T03:04:05.678Z"{}"#, &message[at..]);
    assert_newest("event.backfill.json", &message);
}
