//! `test` and `replay`: an event through the real endpoint and functions to the destination.

use std::time::Duration;

use axum::http::StatusCode;

use crate::sandbox::Sandbox;

const TEST: [&str; 3] = ["test", "--conversation", "c-1"];

#[tokio::test]
async fn a_test_event_is_followed_to_the_destination_or_to_what_stopped_it() {
    let sandbox = Sandbox::new("followed").await;
    sandbox.gladly.organization().add_conversation("c-1", "u-1", []);
    let ended = sandbox.account(&TEST, &[]).await;
    ended.shows(&[
        "PING",
        "queued, about conversation c-1",
        "accepted the delivery",
        "Everything works, from the endpoint to the destination.",
    ]);
    let tested = &sandbox.destination.deliveries()[0].body["events"][0];
    assert_eq!((&tested["type"], &tested["conversationId"]), (&"RELAY/TEST".into(), &"c-1".into()));

    let ended = sandbox.account(&[&TEST[..], &["--output", "json"]].concat(), &[]).await;
    let result = &ended.json()["result"];
    assert!(sandbox.destination.event(result["eventId"].as_str().unwrap()).is_some(), "{ended:?}");
    assert!(result["deliveredMs"].as_u64() > Some(0), "{ended:?}");

    sandbox.destination.refuse("c-1", StatusCode::UNPROCESSABLE_ENTITY);
    sandbox.account(&TEST, &[]).await.fails(
        1,
        "the event was quarantined, rejected: the destination answered 422. Correct the cause, then: gladly-relay quarantine redrive --stack followed",
    );
    sandbox.destination.accept();

    let before = sandbox.destination.deliveries().len();
    sandbox.account(&["replay", "--conversation", "c-1"], &[]).await.shows(&[]);
    let replayed =
        |destination: &testing::destination::Destination| destination.deliveries().len() > before;
    assert!(sandbox.destination.wait_for(replayed, Duration::from_mins(1)).await);
    assert_eq!(sandbox.destination.invalid(), Vec::<String>::new());
}
