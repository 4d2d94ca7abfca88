//! Gladly disables the webhook, and the relay re-enables it.

use std::{
    env,
    time::{Duration, Instant},
};

use fastrand::Rng;
use futures::{StreamExt as _, stream};
use local::stack::{Function, Queue};
use serde_json::{Value, json};

use crate::{TestApp, WAIT_TIMEOUT, eventually};

/// Stacks at once.
const AT_ONCE: usize = 5;
/// The event types that Gladly's Events API lists and this test uses.
const LISTED: [&str; 6] = [
    "CONVERSATION/CREATED",
    "CONVERSATION/CLOSED",
    "CONVERSATION/NOTE_CREATED",
    "CONVERSATION/TOPIC_ADDED",
    "CONTACT/MESSAGE_RECEIVED",
    "CONTACT/MESSAGE_SENT",
];

impl TestApp {
    /// Emits events at Gladly, which sends them if it can.
    fn emit_events(&self, rng: &mut Rng, count: usize) -> Vec<String> {
        let emit = |_| {
            let conversation = format!("c-{}", rng.usize(0..10));
            let event = self.gladly.emit(LISTED[rng.usize(0..LISTED.len())], &conversation);
            event["id"].as_str().unwrap().to_owned()
        };
        (0..count).map(emit).collect()
    }

    fn webhook(&self) -> Value {
        self.gladly.webhooks().remove(0)
    }
}

/// ingest-fn is throttled, Gladly disables the webhook, more events happen; then ingest-fn is back.
async fn recover(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let name = format!("healed-{seed}");
    // The last of the five attempts comes after 3.6 s.
    let app = TestApp::at_pace(&name, &[("WatchWebhook", "true")], 0.001).await;
    app.stack.stop_schedule().await.unwrap();
    let url = app.stack.webhook_url().to_owned();
    app.stack.know_webhook().await.unwrap();
    app.gladly.subscribe(&url, &[("x-api-key", app.key())]);
    for number in 0..10 {
        app.conversation(&format!("c-{number}"));
    }
    let mut ids = app.emit_events(&mut rng, 3);
    app.arrived(&ids).await;

    let received = ids.len();
    app.stack.reserve_concurrency(Function::Ingest, 0).await.unwrap();
    let count = rng.usize(1..10);
    ids.extend(app.emit_events(&mut rng, count));
    let disabled = async || {
        app.gladly.wait_for(|gladly| gladly.webhooks()[0]["enabled"] == false, WAIT_TIMEOUT).await
    };
    assert!(disabled().await, "Gladly disables the webhook");
    let since = Instant::now();
    let count = rng.usize(1..30);
    let missed = app.emit_events(&mut rng, count);
    let undelivered = ids.len() - received + missed.len();
    assert!(missed.iter().all(|id| app.destination.times(id) == 0));

    // While the endpoint does not answer, Gladly refuses; the events are backfilled anyway.
    let status = app.task(&json!({"task": "watch"})).await;
    assert_eq!(status["webhook"]["enabled"], false, "{status}");
    app.stack.reserve_concurrency(Function::Ingest, 10).await.unwrap();
    let status = app.task(&json!({"task": "watch"})).await;
    assert_eq!(status["webhook"]["enabled"], true, "{status}");
    assert_eq!(app.webhook()["enabled"], true);
    ids.extend(missed);
    ids.extend(app.emit_events(&mut rng, 3));

    let work = format!("{}-backfill", app.stack.pause_parameter());
    eventually("the gap is filled", async || {
        app.reconcile().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        app.stack.parameter(&work).await.unwrap().as_deref() == Some("{}")
    })
    .await;
    app.arrived(&ids).await;
    app.settled().await;
    assert_eq!(app.total(Queue::Quarantine).await, 0);
    let backfilled = ids.iter().filter_map(|id| app.destination.event(id));
    assert!(backfilled.clone().any(|event| event["origin"] == "backfill"));
    assert_eq!(backfilled.count(), ids.len());
    eprintln!(
        "seed {seed}: {} events, none lost, {undelivered} of them not sent by webhook; {} s from the deactivation to the last",
        ids.len(),
        since.elapsed().as_secs()
    );
    app.end().await;
}

/// `HEALINGS=20` runs this with 20 stacks, each with other events, some at once.
#[tokio::test]
async fn a_webhook_that_gladly_disabled_is_re_enabled_and_loses_nothing() {
    let healings = env::var("HEALINGS").map_or(1, |count| count.parse().unwrap());
    stream::iter(0..healings).for_each_concurrent(AT_ONCE, recover).await;
}
