//! The log lines and their fields.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use shared::subscriber;
use testing::connector::Reply;
use tracing::{
    level_filters::LevelFilter,
    subscriber::{DefaultGuard, set_default},
};

use crate::{
    control::REQUEST_ID,
    deadlines::{TestApp, healthy_reply, records},
};

/// The lines logged since this was created, as Lambda shows them.
struct Lines {
    lines: Arc<Mutex<Vec<Value>>>,
    _listening: DefaultGuard,
}

impl Lines {
    fn listen() -> Self {
        let lines = Arc::<Mutex<Vec<Value>>>::default();
        let written = Arc::clone(&lines);
        let write = move |line: &[u8]| {
            written.lock().unwrap().push(serde_json::from_slice(line).unwrap());
        };
        Self { lines, _listening: set_default(subscriber(LevelFilter::INFO, write)) }
    }

    /// The lines with this message.
    fn with(&self, message: &str) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| line["message"] == message).cloned().collect()
    }

    #[track_caller]
    fn all_name_the_invocation(&self) {
        for line in &*self.lines.lock().unwrap() {
            assert_eq!(line["request_id"], REQUEST_ID, "{line}");
        }
    }

    fn one(&self, message: &str) -> Value {
        let [line] = &self.with(message)[..] else { panic!("{message}: {:?}", self.lines) };
        line.clone()
    }
}

/// A batch as Lambda sends it.
fn batch(bodies: impl IntoIterator<Item = String>) -> Value {
    let record = |(index, body)| {
        json!({
            "messageId": format!("m-{index}"), "receiptHandle": format!("receipt of m-{index}"), "body": body,
            "attributes": {"ApproximateReceiveCount": "1"},
        })
    };
    json!({"Records": bodies.into_iter().enumerate().map(record).collect::<Vec<_>>()})
}

#[tokio::test(start_paused = true)]
async fn every_line_of_a_batch_names_its_invocation_even_from_spawned_tasks() {
    let app = TestApp::new(|path| match path {
        path if path.contains("c-1/items") => Reply::status(500),
        path if path.contains("c-2/items") => panic!("a bug"),
        path => healthy_reply(path),
    });
    let lines = Lines::listen();
    let bodies = records(5).into_iter().map(|record| record.body);
    let payload = batch(bodies.chain(["hello".to_owned()]));
    let answer = app.invoke(payload).await.unwrap();
    assert_eq!(
        answer["batchItemFailures"],
        json!([{"itemIdentifier": "m-1"}, {"itemIdentifier": "m-2"}])
    );

    lines.all_name_the_invocation();
    // Each is logged from its own tokio task.
    assert_eq!(
        lines.one("could not fetch a conversation; its records return to the queue")["gladly.conversation_id"],
        "c-1"
    );
    let delivered = lines.one("delivered");
    assert_eq!(delivered["level"], "INFO");
    let sent: Value = serde_json::from_str(&app.sent("deliveries")[0]).unwrap();
    assert_eq!(delivered["delivery.id"], sent["id"]);
    assert_eq!(
        (&delivered["delivery.event_ids"], &delivered["delivery.conversation_ids"]),
        (&json!("e-0,e-3,e-4"), &json!("c-0,c-3,c-4"))
    );
    assert_eq!(
        (&delivered["delivery.events"], &delivered["delivery.conversations"]),
        (&json!(3), &json!(3))
    );
    let quarantined = lines.one("quarantined an event");
    assert_eq!(
        (&quarantined["level"], &quarantined["reason"]),
        (&json!("ERROR"), &json!("unreadable"))
    );
    assert_eq!(quarantined["sqs.message_id"], "m-5");
    let done = lines.one("batch done");
    assert_eq!((&done["batch.records"], &done["batch.returned"]), (&json!(6), &json!(2)));
}

#[tokio::test(start_paused = true)]
async fn a_large_delivery_logs_its_first_hundred_ids() {
    let app = TestApp::new(healthy_reply);
    let lines = Lines::listen();
    // Two events for each conversation.
    let bodies = || records(100).into_iter().map(|record| record.body);
    app.invoke(batch(bodies().chain(bodies()))).await.unwrap();
    let delivered = lines.with("delivered");
    assert_eq!(app.sent("deliveries").len(), delivered.len());
    let count = |line: &Value, name: &str| line[name].as_str().unwrap().split(',').count();
    let total = |name: &str| delivered.iter().map(|line| line[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((total("delivery.events"), total("delivery.conversations")), (200, 100));
    for line in &delivered {
        assert_eq!(
            count(line, "delivery.conversation_ids") as u64,
            line["delivery.conversations"].as_u64().unwrap()
        );
        assert_eq!(
            count(line, "delivery.event_ids") as u64,
            line["delivery.events"].as_u64().unwrap().min(100)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_and_a_pause_each_log_one_line_that_names_its_invocation() {
    let app = TestApp::new(healthy_reply);
    let lines = Lines::listen();
    app.task("status").await;
    assert_eq!(lines.one("task done")["task"], "status");
    app.aws.put("/relay/pause", "paused");
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    app.invoke(batch(records(2).into_iter().map(|record| record.body))).await.unwrap();
    let holding = lines.one("returned records to the queue");
    assert_eq!((&holding["level"], &holding["count"]), (&json!("WARN"), &json!(2)));
    assert!(holding["reason"].is_string(), "{holding}");
    lines.all_name_the_invocation();
}
