//! Deploys over a stack that works.

use local::stack::{Function, Queue};

use crate::{World, eventually};

#[tokio::test]
async fn a_deploy_in_the_middle_of_a_drain_loses_nothing() {
    // Three calls a conversation, at eight a second: half a minute of work.
    let world = World::with("drains", &[("GladlyRequestsPerSecond", "4")]).await;
    world.gather().await;
    // The emulator ends what is at work, as AWS does not: its events come back after this and not half an hour.
    world.stack.set_queue_attribute(Queue::Events, "VisibilityTimeout", "30").await.unwrap();
    let names: Vec<_> = (0..80).map(|number| format!("c-{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let ids = world.queue_all(&names).await;
    world.stack.enable_mapping(true).await.unwrap();
    eventually("the drain has begun", async || world.gladly.traffic().count("") >= 20).await;

    let changed = world.settings.clone().with("GladlyRequestsPerSecond", "10");
    world.stack.upgrade("second", &changed.with("DestinationGzip", "true")).await.unwrap();
    let waiting = world.total(Queue::Events).await;
    assert!(waiting > 0, "it was in the middle");

    // What came in meanwhile is forwarded by the new version.
    let later = world.queue_all(&["later"]).await;
    world.arrived(&ids).await;
    world.arrived(&later).await;
    world.settled().await;
    assert_eq!(world.total(Queue::Quarantine).await, 0);
    let gzip = world.stack.variable(Function::Extractor, "DESTINATION_GZIP").await.unwrap();
    assert_eq!(gzip.as_deref(), Some("true"), "it is the new version that runs");
    world.stack.delete().await.unwrap();
}
