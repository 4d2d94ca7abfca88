//! The controller: the pause by the mapping, the breaker, renewal, and redrive.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use local::stack::{Function, Peeked, Queue};
use reqwest::StatusCode;
use serde_json::{Value, json};
use shared::{Origin, QueueMessage};

use crate::{TestApp, eventually};

impl TestApp {
    /// Invokes the controller with a task.
    pub(crate) async fn task(&self, task: &Value) -> Value {
        let answer = self.stack.invoke(Function::Extractor, task).await.unwrap();
        assert!(!answer.failed, "{answer:?}");
        let mut document = answer.payload;
        let fields = document.as_object_mut().unwrap();
        assert_eq!(fields.remove("v"), Some(json!(1)));
        assert_eq!(fields.remove("relayVersion"), Some(json!("0.1.0")));
        document
    }

    pub(crate) async fn reconcile(&self) -> Value {
        self.task(&json!({"task": "reconcile"})).await
    }

    async fn status(&self) -> Value {
        self.task(&json!({"task": "status"})).await
    }

    /// The breaker's parameter; null before it first opened.
    async fn breaker(&self) -> Value {
        let name = format!("{}-breaker", self.stack.pause_parameter());
        let text = self.stack.parameter(&name).await.unwrap();
        text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
    }
}

#[tokio::test]
async fn five_thousand_events_are_held_without_a_receive_and_then_delivered() {
    let app = TestApp::new("controlled").await;
    let first = app.queue_all(&["c-0"]).await;
    app.arrived(&first).await;
    app.settled().await;

    let pause = r#"{"state":"paused","by":"ada","reason":"audit","since":"2026-01-02T03:04:05Z"}"#;
    app.stack.set_pause(pause).await.unwrap();
    let status = app.reconcile().await;
    assert_eq!((&status["state"], &status["by"]), (&json!("paused"), &json!("ada")));
    assert_eq!(
        (&status["reason"], &status["since"]),
        (&json!("audit"), &json!("2026-01-02T03:04:05Z"))
    );
    assert_eq!(app.stack.mapping_state().await.unwrap(), "Disabled");
    assert_eq!(status["mapping"], "Disabled");

    // The first few as Gladly sends them; the others as ingest-fn queues them.
    let mut ids = app.queue_all(&["c-1", "c-2", "c-3"]).await;
    let recorded = (Timestamp::now() - SignedDuration::from_mins(1)).to_string();
    for number in 0..50 {
        app.conversation(&format!("h-{number}"));
    }
    let mut bodies = Vec::new();
    for number in 0..4_997 {
        let mut event =
            app.gladly.organization().event("CONVERSATION/CLOSED", &format!("h-{}", number % 50));
        event["timestamp"] = recorded.clone().into();
        ids.push(event["id"].as_str().unwrap().to_owned());
        let event = event.to_string();
        let message = QueueMessage::wrap(&event, Timestamp::now(), Origin::Webhook).unwrap();
        bodies.push(message.to_json().unwrap());
    }
    app.stack.send_all(Queue::Events, &bodies).await.unwrap();
    let held = app.stack.peek(Queue::Events).await.unwrap();
    assert_eq!(held.len(), 5_000);

    // The controller runs; nothing receives the events.
    app.reconcile().await;
    let status = app.status().await;
    assert_eq!((&status["backlog"], &status["inFlight"]), (&json!(5_000), &json!(0)));
    let held = app.stack.peek(Queue::Events).await.unwrap();
    assert_eq!(held.iter().map(|message| message.receive_count).sum::<u64>(), 0);
    assert!(ids.iter().all(|id| app.destination.times(id) == 0));

    app.stack.set_pause("running").await.unwrap();
    let status = app.reconcile().await;
    assert_eq!((&status["state"], &status["mapping"]), (&json!("running"), &json!("Enabled")));
    app.arrived(&ids).await;
    app.settled().await;
    assert_eq!(app.total(Queue::Quarantine).await, 0);
    assert_eq!(app.status().await["backlog"], 0);
    app.end().await;
}

#[tokio::test]
async fn a_mapping_toggled_by_hand_is_corrected() {
    let app = TestApp::new("by-hand").await;
    app.stack.enable_mapping(false).await.unwrap();
    let event = json!({"source": "aws.ssm", "detail-type": "Parameter Store Change", "detail": {"name": "/x", "operation": "Update"}});
    assert_eq!(app.task(&event).await["mapping"], "Enabled");
    app.stack.set_pause("nonsense").await.unwrap();
    let status = app.task(&event).await;
    assert_eq!((&status["state"], &status["mapping"]), (&json!("paused"), &json!("Disabled")));
    app.stack.enable_mapping(true).await.unwrap();
    app.reconcile().await;
    assert_eq!(app.stack.mapping_state().await.unwrap(), "Disabled");
    // A pause ends at its `until`.
    app.stack.set_pause(r#"{"state":"paused","until":"2026-01-02T03:04:05Z"}"#).await.unwrap();
    assert_eq!(app.reconcile().await["mapping"], "Enabled");
    app.end().await;
}

#[tokio::test]
async fn a_wrong_token_opens_the_breaker_and_the_right_one_closes_it() {
    let app = TestApp::new("breaker").await;
    let token = "/breaker/gladly-token";
    app.stack.put_secret(token, "a-wrong-token").await.unwrap();
    let ids = app.queue_all(&["c-1", "c-2", "c-3"]).await;
    eventually("the breaker opens", async || app.breaker().await["state"] == "open").await;
    let breaker = app.breaker().await;
    assert_eq!((&breaker["cause"], &breaker["waitSeconds"]), (&json!("gladly"), &json!(60)));
    let status = app.reconcile().await;
    assert_eq!((&status["state"], &status["mapping"]), (&json!("breaker"), &json!("Disabled")));
    assert!(status["reason"].as_str().unwrap().contains("401"), "{status}");

    // While it is open nothing is received, fetched or quarantined.
    let counts = async || {
        let held = app.stack.peek(Queue::Events).await.unwrap();
        held.iter().map(|message| message.receive_count).collect::<Vec<_>>()
    };
    // Apart from the controller's own probe, once a minute has passed.
    let calls = || {
        let traffic = app.gladly.traffic();
        traffic.count("") - traffic.count("/api/v1/organization")
    };
    let (receives, before) = (counts().await, calls());
    assert_eq!(receives.len(), 3);
    let later = app.queue(&app.event("c-4")).await;
    app.reconcile().await;
    assert_eq!(counts().await.iter().sum::<u64>(), receives.iter().sum::<u64>());
    assert_eq!(calls(), before, "the token is still the wrong one");

    // The breaker does not lift the operator's pause.
    app.stack.set_pause("paused").await.unwrap();
    app.stack.put_secret(token, &app.settings.gladly_token).await.unwrap();
    eventually("the breaker is half-open", async || {
        app.reconcile().await;
        app.breaker().await["state"] == "half-open"
    })
    .await;
    assert_eq!(app.stack.mapping_state().await.unwrap(), "Disabled");
    assert_eq!(app.stack.parameter(app.stack.pause_parameter()).await.unwrap().unwrap(), "paused");

    app.stack.set_pause("running").await.unwrap();
    app.reconcile().await;
    let ids: Vec<_> = ids.into_iter().chain([later]).collect();
    app.arrived(&ids).await;
    app.settled().await;
    assert_eq!(app.breaker().await["state"], "closed");
    assert_eq!(app.total(Queue::Quarantine).await, 0);
    app.end().await;
}

#[tokio::test]
async fn held_events_outlive_the_queues_retention() {
    let app = TestApp::new("renewed").await;
    app.stack.set_pause("paused").await.unwrap();
    app.reconcile().await;
    // SQS's minimum.
    app.stack.set_queue_attribute(Queue::Events, "MessageRetentionPeriod", "60").await.unwrap();
    let ids = app.queue_all(&["c-1", "c-2", "c-3"]).await;
    let sent = app.stack.peek(Queue::Events).await.unwrap();
    let began = Timestamp::now();
    eventually("more than a retention has passed", async || {
        let status = app.reconcile().await;
        assert_eq!(status["backlog"], 3, "nothing expires: {status}");
        Timestamp::now().duration_since(began) > SignedDuration::from_secs(90)
    })
    .await;
    let held = app.stack.peek(Queue::Events).await.unwrap();
    let bodies = |messages: &[Peeked]| {
        messages.iter().map(|message| message.body.clone()).collect::<BTreeSet<_>>()
    };
    assert_eq!(bodies(&held), bodies(&sent), "byte for byte");
    assert_eq!(app.stack.mapping_state().await.unwrap(), "Disabled");

    app.stack.set_pause("running").await.unwrap();
    app.reconcile().await;
    app.arrived(&ids).await;
    app.end().await;
}

#[tokio::test]
async fn quarantined_events_are_redriven_once_their_cause_is_gone() {
    let app = TestApp::new("redriven").await;
    app.destination.refuse("c-bad", StatusCode::UNPROCESSABLE_ENTITY);
    let ids = app.queue_all(&["c-bad", "c-good"]).await;
    app.post("hello").await;
    eventually("both are quarantined", async || app.total(Queue::Quarantine).await == 2).await;
    app.arrived(&ids[1..]).await;

    let status = app.status().await;
    assert_eq!(status["quarantined"], 2);
    assert_eq!(status["quarantinedByReason"], json!({"rejected": 1, "unreadable": 1}));
    let list = app.task(&json!({"task": "quarantine"})).await;
    assert_eq!(list["total"], 2);
    let rejected =
        list["messages"].as_array().unwrap().iter().find(|entry| entry["reason"] == "rejected");
    assert_eq!(rejected.unwrap()["conversationId"], "c-bad");

    app.destination.accept();
    let redriven = app.task(&json!({"task": "redrive"})).await;
    assert_eq!(redriven, json!({"redriven": 1, "stayed": 1, "more": false}));
    app.arrived(&ids).await;
    assert_eq!(app.total(Queue::Quarantine).await, 1, "the invalid event stays");
    app.settled().await;
    app.end().await;
}
