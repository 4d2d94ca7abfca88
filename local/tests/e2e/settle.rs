//! Transient faults: nothing is lost or quarantined, and everything is delivered in the end.

use local::stack::{Function, Peeked, Queue};
use serde_json::json;
use testing::fault::Fault;

use crate::{MESSAGE_TEXT, TestApp, batches};

/// The back-off after a first failure is 30 s ± 20 %; some of it has passed by now.
#[track_caller]
fn assert_backs_off(message: &Peeked) {
    let seconds = message.hidden_for.as_secs();
    assert!((10..=36).contains(&seconds), "hidden for {seconds} s");
    assert_eq!(message.receive_count, 1);
}

#[tokio::test]
async fn returned_events_are_delivered_once_the_fault_is_gone() {
    let app = TestApp::new("transient").await;
    // The response bodies of both may repeat what they were sent.
    let text = format!(
        "{MESSAGE_TEXT}, {}, {}",
        app.settings.gladly_token, app.settings.destination_token
    );
    let on = |fault: Fault, path: &str| fault.on(format!("/api/v1/conversations/{path}"));
    app.gladly.fault(on(Fault::status(500).body(&*text), "gladly-down"));
    app.gladly.fault(on(Fault::cut(), "gladly-cut/items"));
    app.destination.fault(Fault::status(503).body(&*text));
    app.gather().await;
    let mut ids = app.queue_all(&["destination-down", "gladly-down", "gladly-cut", "gone"]).await;
    app.gladly.organization().delete_conversation("gone");
    // Gladly's reads lag behind its events.
    let mut lagging = app.event("lagging");
    lagging["content"]["messageId"] = "late-1".into();
    ids.push(app.queue(&lagging).await);
    app.stack.enable_mapping(true).await.unwrap();

    for message in app.returned(5).await {
        assert_backs_off(&message);
    }
    assert!(app.destination.deliveries().is_empty());
    assert_eq!(app.total(Queue::Quarantine).await, 0);

    app.gladly.traffic().clear_faults();
    app.destination.traffic().clear_faults();
    let late = json!({"id": "late-1", "content": {"type": "SMS", "from": "+1", "to": "+1", "content": "I am late"}});
    app.gladly.organization().add_item("lagging", late);

    app.arrived(&ids).await;
    app.settled().await;
    let coverage = |id: &String| app.destination.event(id).unwrap()["snapshot"].clone();
    let expected = ["included", "included", "included", "gone", "included"];
    assert_eq!(ids.iter().map(coverage).collect::<Vec<_>>(), expected);
    assert_eq!(app.destination.conversation("gone"), None);
    let items = &app.destination.conversation("lagging").unwrap()["items"];
    assert_eq!(items[1]["text"], "I am late");
    assert_eq!(app.total(Queue::Quarantine).await, 0);
    app.end().await;
}

#[tokio::test]
async fn an_event_waits_for_its_window_and_a_close_less() {
    let app = TestApp::with("window", &[("SettleSeconds", "20")]).await;
    app.conversation("c-1");
    let emit = |kind: &str| {
        let event = app.gladly.organization().event(kind, "c-1");
        (event["id"].as_str().unwrap().to_owned(), event.to_string())
    };
    let (message, close) = (emit("CONTACT/MESSAGE_RECEIVED"), emit("CONVERSATION/CLOSED"));
    for (_, body) in [&message, &close] {
        assert_eq!(app.stack.post(app.key(), body.clone()).await.unwrap().status, 200);
    }
    let task = json!({"task": "status"});
    let status = app.stack.invoke(Function::Extractor, &task).await.unwrap().payload;
    assert_eq!((&status["backlog"], &status["delayed"]), (&json!(2), &json!(2)), "{status}");
    assert!(status["drainSeconds"].as_u64() >= Some(20), "{status}");

    // The close comes first, and its snapshot covers the message.
    app.arrived(&[message.0.clone(), close.0.clone()]).await;
    let snapshot = |id: &str| app.destination.event(id).unwrap()["snapshot"].clone();
    assert_eq!((snapshot(&close.0), snapshot(&message.0)), (json!("included"), json!("covered")));
    app.settled().await;
    app.end().await;
}

#[tokio::test]
async fn only_events_that_gladly_cannot_serve_are_returned() {
    let app = TestApp::new("alone").await;
    app.gather().await;
    let elsewhere = format!("{}/elsewhere", app.destination.url());
    let faults = [
        ("redirected", Fault::redirect(302, &elsewhere)),
        ("teapot", Fault::status(418).body(MESSAGE_TEXT)),
        ("garbled", Fault::garbled()),
        ("endless", Fault::large(40)),
    ];
    for (conversation, fault) in &faults {
        app.queue_all(&[conversation]).await;
        app.gladly.fault(fault.clone().on(format!("/api/v1/conversations/{conversation}")));
    }
    let good = app.queue_all(&["good"]).await;
    app.stack.enable_mapping(true).await.unwrap();

    app.arrived(&good).await;
    for message in app.returned(faults.len()).await {
        assert_backs_off(&message);
    }
    assert_eq!(app.destination.event_ids().len(), 1);
    assert_eq!(app.destination.traffic().count("/elsewhere"), 0, "credentials stay at Gladly");
    assert_eq!(app.total(Queue::Quarantine).await, 0);
    app.end().await;
}

#[tokio::test]
async fn a_destination_that_rejects_everything_quarantines_nothing() {
    let app = TestApp::new("at-fault").await;
    app.gather().await;
    app.destination.fault(Fault::status(422));
    let conversations = (0..10).map(|number| format!("c-{number}"));
    for conversation in conversations {
        app.queue_all(&[&conversation]).await;
    }
    app.stack.enable_mapping(true).await.unwrap();
    for message in app.returned(10).await {
        assert_backs_off(&message);
    }
    assert_eq!(app.total(Queue::Quarantine).await, 0);
    app.end().await;
}

#[tokio::test]
async fn rejected_credentials_lose_no_event() {
    for (name, secret) in [("gladly-401", "gladly-token"), ("destination-401", "destination-token")]
    {
        let app = TestApp::new(name).await;
        app.gather().await;
        let parameter = format!("/{name}/{secret}");
        app.stack.put_secret(&parameter, "outdated").await.unwrap();
        app.queue_all(&["c-1", "c-2"]).await;
        app.stack.enable_mapping(true).await.unwrap();
        for message in app.returned(2).await {
            assert_backs_off(&message);
        }
        assert_eq!(app.total(Queue::Quarantine).await, 0);
        assert!(app.destination.deliveries().is_empty());
        app.end().await;
    }
}

#[tokio::test]
async fn a_retry_after_is_honored() {
    let app = TestApp::new("retry-after").await;
    app.gather().await;
    app.queue_all(&["c-1"]).await;
    app.destination.fault(Fault::status(429).header("retry-after", "500"));
    app.stack.enable_mapping(true).await.unwrap();
    let message = app.returned(1).await.remove(0);
    let seconds = message.hidden_for.as_secs();
    assert!((480..=500).contains(&seconds), "hidden for {seconds} s");
    app.end().await;
}

#[tokio::test]
async fn events_beyond_one_invocation_are_delivered_by_the_next() {
    let app = TestApp::with("short", &[("GladlyRequestsPerSecond", "2")]).await;
    app.stack.configure(Function::Extractor, &json!({"Timeout": 20})).await.unwrap();
    app.gather().await;
    // At 2 requests a second ten conversations take 15 s, and 20 s leave 11.5 s to fetch in.
    let conversations: Vec<_> = (0..10).map(|number| format!("c-{number}")).collect();
    let conversations: Vec<_> = conversations.iter().map(String::as_str).collect();
    let ids = app.queue_all(&conversations).await;
    app.stack.enable_mapping(true).await.unwrap();

    app.arrived(&ids).await;
    app.settled().await;
    let summaries = batches(&app.stack.logs(Function::Extractor).await.unwrap());
    assert!(summaries[0]["batch.returned"].as_u64() > Some(0), "{summaries:?}");
    assert_eq!(app.total(Queue::Quarantine).await, 0);
    app.end().await;
}
