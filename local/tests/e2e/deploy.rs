//! Deploys over a running stack.

use local::stack::{Function, Queue};

use crate::{TestApp, eventually};

#[tokio::test]
async fn a_deploy_in_the_middle_of_a_drain_loses_nothing() {
    // Three calls a conversation, at eight a second: half a minute of work.
    let app = TestApp::with("drains", &[("GladlyRequestsPerSecond", "4")]).await;
    app.gather().await;
    // Unlike AWS, the emulator ends running invocations: their events come back after this and not half an hour.
    app.stack.set_queue_attribute(Queue::Events, "VisibilityTimeout", "30").await.unwrap();
    let names: Vec<_> = (0..80).map(|number| format!("c-{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let ids = app.queue_all(&names).await;
    app.stack.enable_mapping(true).await.unwrap();
    eventually("the drain has begun", async || app.gladly.traffic().count("") >= 20).await;

    let changed = app.settings.clone().with("GladlyRequestsPerSecond", "10");
    app.stack.upgrade("second", &changed.with("DestinationGzip", "true")).await.unwrap();
    let waiting = app.total(Queue::Events).await;
    assert!(waiting > 0, "it was in the middle");

    // What came in meanwhile is forwarded by the new version.
    let later = app.queue_all(&["later"]).await;
    app.arrived(&ids).await;
    app.arrived(&later).await;
    app.settled().await;
    assert_eq!(app.total(Queue::Quarantine).await, 0);
    let gzip = app.stack.variable(Function::Extractor, "DESTINATION_GZIP").await.unwrap();
    assert_eq!(gzip.as_deref(), Some("true"), "it is the new version that runs");
    app.stack.delete().await.unwrap();
}
