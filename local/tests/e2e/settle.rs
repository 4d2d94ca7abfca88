//! Faults that pass: nothing is lost, nothing is quarantined, and everything comes in the end.

use std::time::Duration;

use local::{
    fault::Fault,
    stack::{Function, Peeked, Queue},
};
use serde_json::json;

use crate::{SAID, World, batches};

/// The wait after a first failure is 30 s, 20 % up or down; some of it has passed when we look.
#[track_caller]
fn assert_backs_off(message: &Peeked) {
    let seconds = message.hidden_for.as_secs();
    assert!((10..=36).contains(&seconds), "hidden for {seconds} s");
    assert_eq!(message.receive_count, 1);
}

#[tokio::test]
async fn what_is_given_back_is_delivered_once_its_cause_is_gone() {
    let world = World::new("transient").await;
    // What both say with it may repeat what they were told.
    let said =
        format!("{SAID}, {}, {}", world.settings.gladly_token, world.settings.destination_token);
    let on = |fault: Fault, path: &str| fault.on(format!("/api/v1/conversations/{path}"));
    world.gladly.fault(on(Fault::status(500).body(&*said), "gladly-down"));
    world.gladly.fault(on(Fault::cut(), "gladly-cut/items"));
    world.destination.fault(Fault::status(503).body(&*said));
    world.gather().await;
    let mut ids = world.queue_all(&["destination-down", "gladly-down", "gladly-cut", "gone"]).await;
    world.gladly.organization().delete_conversation("gone");
    // Gladly's reads lag behind its events.
    let mut lagging = world.event("lagging");
    lagging["content"]["messageId"] = "late-1".into();
    ids.push(world.queue(&lagging).await);
    world.stack.enable_mapping(true).await.unwrap();

    for message in world.given_back(5).await {
        assert_backs_off(&message);
    }
    assert!(world.destination.deliveries().is_empty());
    assert_eq!(world.total(Queue::Quarantine).await, 0);

    world.gladly.traffic().clear_faults();
    world.destination.traffic().clear_faults();
    let late = json!({"id": "late-1", "content": {"type": "SMS", "from": "+1", "to": "+1", "content": "I am late"}});
    world.gladly.organization().add_item("lagging", late);

    world.arrived(&ids).await;
    world.settled().await;
    let coverage = |id: &String| world.destination.event(id).unwrap()["snapshot"].clone();
    let expected = ["included", "included", "included", "gone", "included"];
    assert_eq!(ids.iter().map(coverage).collect::<Vec<_>>(), expected);
    assert_eq!(world.destination.conversation("gone"), None);
    let items = &world.destination.conversation("lagging").unwrap()["items"];
    assert_eq!(items[1]["text"], "I am late");
    assert_eq!(world.total(Queue::Quarantine).await, 0);
    world.end().await;
}

#[tokio::test]
async fn what_gladly_cannot_give_is_given_back_alone() {
    let world = World::new("alone").await;
    world.gather().await;
    let elsewhere = format!("{}/elsewhere", world.destination.url());
    let faults = [
        ("redirected", Fault::redirect(302, &elsewhere)),
        ("odd", Fault::status(418).body(SAID)),
        ("garbled", Fault::garbled()),
        ("endless", Fault::large(40)),
    ];
    for (conversation, fault) in &faults {
        world.queue_all(&[conversation]).await;
        world.gladly.fault(fault.clone().on(format!("/api/v1/conversations/{conversation}")));
    }
    let good = world.queue_all(&["good"]).await;
    world.stack.enable_mapping(true).await.unwrap();

    world.arrived(&good).await;
    for message in world.given_back(faults.len()).await {
        assert_backs_off(&message);
    }
    assert_eq!(world.destination.event_ids().len(), 1);
    assert_eq!(world.destination.traffic().count("/elsewhere"), 0, "credentials stay at Gladly");
    assert_eq!(world.total(Queue::Quarantine).await, 0);
    world.end().await;
}

#[tokio::test]
async fn a_destination_that_rejects_everything_is_at_fault_itself() {
    let world = World::new("at-fault").await;
    world.gather().await;
    world.destination.fault(Fault::status(422));
    let conversations = (0..10).map(|number| format!("c-{number}"));
    for conversation in conversations {
        world.queue_all(&[&conversation]).await;
    }
    world.stack.enable_mapping(true).await.unwrap();
    for message in world.given_back(10).await {
        assert_backs_off(&message);
    }
    assert_eq!(world.total(Queue::Quarantine).await, 0);
    world.end().await;
}

#[tokio::test]
async fn refused_credentials_cost_time_and_no_event() {
    for (name, secret) in [("gladly-401", "gladly-token"), ("destination-401", "destination-token")]
    {
        let world = World::new(name).await;
        world.gather().await;
        let parameter = format!("/{name}/{secret}");
        world.stack.put_secret(&parameter, "outdated").await.unwrap();
        world.queue_all(&["c-1", "c-2"]).await;
        world.stack.enable_mapping(true).await.unwrap();
        for message in world.given_back(2).await {
            assert_backs_off(&message);
        }
        assert_eq!(world.total(Queue::Quarantine).await, 0);
        assert!(world.destination.deliveries().is_empty());
        world.end().await;
    }
}

#[tokio::test]
async fn a_wait_that_was_asked_for_is_kept() {
    let world = World::new("retry-after").await;
    world.gather().await;
    world.queue_all(&["c-1"]).await;
    world.destination.fault(Fault::status(429).header("retry-after", "500"));
    world.stack.enable_mapping(true).await.unwrap();
    let message = world.given_back(1).await.remove(0);
    let seconds = message.hidden_for.as_secs();
    assert!((480..=500).contains(&seconds), "hidden for {seconds} s");
    world.end().await;
}

#[tokio::test]
async fn what_does_not_fit_into_an_invocation_goes_back_at_once() {
    let world = World::with("short", &[("GladlyRequestsPerSecond", "2")]).await;
    world.stack.configure(Function::Extractor, &json!({"Timeout": 20})).await.unwrap();
    world.gather().await;
    // At 2 requests a second the first eight take 10 s, and 20 s leave 9 s to begin another in.
    let conversations: Vec<_> = (0..10).map(|number| format!("c-{number}")).collect();
    let conversations: Vec<_> = conversations.iter().map(String::as_str).collect();
    let ids = world.queue_all(&conversations).await;
    world.stack.enable_mapping(true).await.unwrap();

    world.arrived(&ids).await;
    world.settled().await;
    let summaries = batches(&world.stack.logs(Function::Extractor).await.unwrap());
    assert!(summaries[0]["batch.given_back"].as_u64() > Some(0), "{summaries:?}");
    // A back-off would have taken 24 s at least.
    let calls = world.destination.traffic().calls("");
    let took = calls[calls.len() - 1].at - calls[0].at;
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(world.total(Queue::Quarantine).await, 0);
    world.end().await;
}
