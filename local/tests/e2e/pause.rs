//! The pause, held by the gate alone: the mapping stays enabled.

use std::time::{Duration, Instant};

use local::stack::Queue;

use crate::{TestApp, eventually, is_returned};

#[tokio::test]
async fn nothing_is_extracted_while_paused_and_everything_after() {
    let app = TestApp::new("paused").await;
    app.stack.stop_schedule().await.unwrap();
    app.stack.set_pause(r#"{"state":"paused","by":"ada","reason":"audit"}"#).await.unwrap();
    let ids = app.queue_all(&["c-1", "c-2", "c-3"]).await;
    for message in app.returned(3).await {
        let seconds = message.hidden_for.as_secs();
        assert!((10..=36).contains(&seconds), "hidden for {seconds} s");
    }
    assert_eq!(app.gladly.traffic().count(""), 0);
    assert_eq!(app.destination.traffic().count(""), 0);
    assert_eq!(app.total(Queue::Quarantine).await, 0);

    app.stack.set_pause("running").await.unwrap();
    app.arrived(&ids).await;
    app.settled().await;
    assert!(ids.iter().all(|id| app.destination.times(id) == 1));
    app.end().await;
}

#[tokio::test]
async fn a_running_extractor_stops_within_15_s_of_a_pause() {
    let app = TestApp::new("stops").await;
    app.stack.stop_schedule().await.unwrap();
    let first = app.queue_all(&["c-0"]).await;
    app.arrived(&first).await;
    app.settled().await;
    app.stack.set_pause("PAUSED").await.unwrap();
    let flipped = Instant::now();

    // One event after the other is still delivered, until the first is held.
    let mut number = 0;
    eventually("an event is held", async || {
        number += 1;
        let id = app.queue(&app.event(&format!("c-{number}"))).await;
        let mut held = false;
        eventually("it is delivered or held", async || {
            let waiting = app.stack.peek(Queue::Events).await.unwrap();
            held = waiting.iter().any(is_returned);
            held || app.destination.times(&id) > 0
        })
        .await;
        held
    })
    .await;
    assert!(flipped.elapsed() < Duration::from_secs(15), "{:?}", flipped.elapsed());

    let (fetched, delivered) =
        (app.gladly.traffic().count(""), app.destination.traffic().count(""));
    let held = app.queue_all(&["later-1", "later-2"]).await;
    app.returned(3).await;
    assert_eq!(app.gladly.traffic().count(""), fetched);
    assert_eq!(app.destination.traffic().count(""), delivered);
    assert!(held.iter().all(|id| app.destination.times(id) == 0));
    app.end().await;
}
