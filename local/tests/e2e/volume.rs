//! Many events, and the format of a delivery.

use std::{collections::BTreeMap, slice, time::Duration};

use jiff::{SignedDuration, Timestamp};
use local::stack::{Function, Queue};
use serde_json::json;

use crate::{TestApp, json_lines};

#[tokio::test]
async fn a_burst_costs_two_calls_a_conversation() {
    let app = TestApp::new("burst").await;
    // One environment, so that the count is exact: each would fetch a conversation once.
    app.stack.reserve_concurrency(Function::Extractor, 1).await.unwrap();
    app.gather().await;
    let minute_ago = (Timestamp::now() - SignedDuration::from_mins(1)).to_string();
    let mut ids = Vec::new();
    for number in 0..20 {
        app.conversation(&format!("c-{number}"));
    }
    for number in 0..200 {
        let conversation = format!("c-{}", number % 20);
        let mut event = app.gladly.organization().event("CONVERSATION/CLOSED", &conversation);
        event["timestamp"] = minute_ago.clone().into();
        ids.push(app.queue(&event).await);
    }
    assert_eq!(app.total(Queue::Events).await, 200);
    app.stack.enable_mapping(true).await.unwrap();

    app.arrived(&ids).await;
    app.settled().await;
    let calls = |pattern: &str| app.gladly.traffic().count(pattern);
    let expected = [
        ("/api/v1/conversations/*", 20),
        ("/api/v1/conversations/*/items", 20),
        ("/api/v1/customer-profiles/*", 20),
        ("/api/v1/agents", 1),
        ("/api/v1/topics", 1),
        ("/api/v1/inboxes", 1),
        ("", 63),
    ];
    for (pattern, times) in expected {
        assert_eq!(calls(pattern), times, "{pattern}");
    }
    // At 10 a second. No window is checked: on a busy machine two calls may arrive close to each other.
    let all = app.gladly.traffic().calls("");
    assert!(all[62].at - all[0].at > Duration::from_secs(6));
    assert!(ids.iter().all(|id| app.destination.times(id) == 1));
    assert_eq!(app.destination.conversations().len(), 20);

    let lines = json_lines(&app.stack.logs(Function::Extractor).await.unwrap());
    let mut sums = BTreeMap::new();
    for name in ["Forwarded", "Covered", "Snapshots", "GladlyCalls"] {
        let sum: u64 = lines.iter().filter_map(|line| line[name].as_u64()).sum();
        sums.insert(name, sum);
    }
    assert_eq!((sums["Forwarded"], sums["Snapshots"], sums["GladlyCalls"]), (200, 20, 63));
    let covered =
        ids.iter().filter(|id| app.destination.event(id).unwrap()["snapshot"] == "covered");
    assert_eq!(sums["Covered"], covered.count() as u64);
    app.end().await;
}

#[tokio::test]
async fn a_new_environment_knows_what_the_one_before_delivered() {
    let app = TestApp::new("sharing").await;
    let minute_ago = (Timestamp::now() - SignedDuration::from_mins(1)).to_string();
    let mut event = app.event("c");
    event["timestamp"] = minute_ago.into();
    let first = app.queue(&event).await;
    app.arrived(&[first]).await;
    app.settled().await;

    // A setting that nothing reads: it replaces the environments, and with them what they remember.
    app.stack.set_variable(Function::Extractor, "REPLACED", Some("true")).await.unwrap();
    event["id"] = json!("another");
    let second = app.queue(&event).await;
    app.arrived(slice::from_ref(&second)).await;
    app.settled().await;
    assert_eq!(app.destination.event(&second).unwrap()["snapshot"], "covered");
    assert_eq!(app.gladly.traffic().count("/api/v1/conversations/*/items"), 1);
    app.end().await;
}

#[tokio::test]
async fn the_template_parameters_control_the_format_of_a_delivery() {
    let parameters = [
        ("DestinationGzip", "true"),
        ("DestinationTokenHeader", "x-token"),
        ("ForwardCustomerContact", "false"),
        ("ForwardNotes", "false"),
    ];
    let app = TestApp::with("form", &parameters).await;
    let event = app.event("c");
    let note = json!({"type": "CONVERSATION_NOTE", "body": "call him back"});
    app.gladly.organization().add_item("c", note);
    let id = app.queue(&event).await;
    app.arrived(&[id]).await;
    app.settled().await;

    let delivery = app.destination.deliveries().remove(0);
    assert_eq!(delivery.path, "/deliveries");
    assert_eq!(delivery.headers["content-encoding"], "gzip");
    assert!(delivery.wire_bytes < delivery.bytes);
    assert!(delivery.headers["user-agent"].to_str().unwrap().starts_with("gladly-relay/"));
    assert!(!delivery.headers.contains_key("authorization"));
    let text = delivery.body.to_string();
    for withheld in ["Sample.Customer", "5550100", "ext-u-c", "call him back"] {
        assert!(!text.contains(withheld), "{withheld}");
    }
    assert!(text.contains("Mitzi") && text.contains("Sample Customer"));
    app.end().await;
}
