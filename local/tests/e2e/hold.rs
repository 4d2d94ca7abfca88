//! The pause, held by the guard alone: nobody switches the mapping off here.

use std::time::{Duration, Instant};

use local::stack::Queue;

use crate::{World, eventually, is_given_back};

#[tokio::test]
async fn nothing_moves_while_paused_and_everything_after() {
    let world = World::new("paused").await;
    world.stack.stop_schedule().await.unwrap();
    world.stack.set_pause(r#"{"state":"paused","by":"ada","reason":"audit"}"#).await.unwrap();
    let ids = world.queue_all(&["c-1", "c-2", "c-3"]).await;
    for message in world.given_back(3).await {
        let seconds = message.hidden_for.as_secs();
        assert!((10..=36).contains(&seconds), "hidden for {seconds} s");
    }
    assert_eq!(world.gladly.traffic().count(""), 0);
    assert_eq!(world.destination.traffic().count(""), 0);
    assert_eq!(world.total(Queue::Quarantine).await, 0);

    world.stack.set_pause("running").await.unwrap();
    world.arrived(&ids).await;
    world.settled().await;
    assert!(ids.iter().all(|id| world.destination.times(id) == 1));
    world.end().await;
}

#[tokio::test]
async fn a_running_extractor_heeds_a_pause_within_15_s() {
    let world = World::new("heeds").await;
    world.stack.stop_schedule().await.unwrap();
    let first = world.queue_all(&["c-0"]).await;
    world.arrived(&first).await;
    world.settled().await;
    world.stack.set_pause("PAUSED").await.unwrap();
    let flipped = Instant::now();

    // One event after the other is still delivered, until the first is held.
    let mut number = 0;
    eventually("an event is held", async || {
        number += 1;
        let id = world.queue(&world.event(&format!("c-{number}"))).await;
        let mut held = false;
        eventually("it is delivered or held", async || {
            let waiting = world.stack.peek(Queue::Events).await.unwrap();
            held = waiting.iter().any(is_given_back);
            held || world.destination.times(&id) > 0
        })
        .await;
        held
    })
    .await;
    assert!(flipped.elapsed() < Duration::from_secs(15), "{:?}", flipped.elapsed());

    let (asked, delivered) =
        (world.gladly.traffic().count(""), world.destination.traffic().count(""));
    let held = world.queue_all(&["later-1", "later-2"]).await;
    world.given_back(3).await;
    assert_eq!(world.gladly.traffic().count(""), asked);
    assert_eq!(world.destination.traffic().count(""), delivered);
    assert!(held.iter().all(|id| world.destination.times(id) == 0));
    world.end().await;
}
