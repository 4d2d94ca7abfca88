//! Events that can never be delivered are quarantined.

use local::stack::{Message, Queue};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{MESSAGE_TEXT, TestApp, answer, assert_is_a_time};

/// Checks a quarantine message against the contract, this reason and this origin; returns its `raw`.
#[track_caller]
fn assert_is_quarantined(message: &Message, reason: &str, origin: &str) -> Value {
    let mut body = message.json();
    assert_eq!(message.attributes["reason"], reason, "{body}");
    assert_eq!(
        (&body["v"], &body["reason"], &body["origin"]),
        (&json!(1), &json!(reason), &json!(origin))
    );
    assert_is_a_time(&body["receivedAt"]);
    let detail = body["detail"].as_str().unwrap();
    assert!((1..120).contains(&detail.len()) && !detail.contains("Mitzi"), "{detail}");
    body["raw"].take()
}

#[tokio::test]
async fn an_invalid_event_is_quarantined_with_its_reason() {
    let app = TestApp::new("quarantines").await;
    let about = |id: &str| {
        format!(r#"{{"type":"A","content":{{"conversationId":{id},"text":"{MESSAGE_TEXT}"}}}}"#)
    };
    let long = format!("\"{}\"", "a".repeat(65));
    let deep = format!(r#"{{"type":"A","content":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
    let cases = [
        ("unreadable", MESSAGE_TEXT.to_owned()),
        ("unreadable", String::new()),
        (
            "unreadable",
            format!(r#"{{"type":"A","content":{{"conversationId":"c","text":"{MESSAGE_TEXT}"#),
        ),
        ("unreadable", r#"{"type":"A","type":"B"}"#.to_owned()),
        ("unreadable", r#"{"type":"A","content":[]}"#.to_owned()),
        ("unreadable", deep),
        ("no-type", r#"{"content":{"conversationId":"c"}}"#.to_owned()),
        ("no-type", format!(r#"{{"type":7,"text":"{MESSAGE_TEXT}"}}"#)),
        ("no-type", r#"["PING"]"#.to_owned()),
        ("invalid-id", about(r#""../c""#)),
        ("invalid-id", about(r#""%2e%2e""#)),
        ("invalid-id", about(r#""""#)),
        ("invalid-id", about("7")),
        ("invalid-id", about(&long)),
        ("invalid-id", r#"{"type":"A","id":"a b","content":{"conversationId":"c"}}"#.to_owned()),
        ("invalid-id", r#"{"type":"A","id":"","content":{"conversationId":"c"}}"#.to_owned()),
    ];
    for (reason, body) in cases {
        assert_eq!(app.post(body.clone()).await, answer(200, "quarantined"), "{body}");
        let messages = app.quarantined(1).await;
        assert_eq!(assert_is_quarantined(&messages[0], reason, "ingest-fn"), body);
        assert_eq!(messages[0].json().get("truncated"), None);
    }
    assert_eq!(app.total(Queue::Events).await, 0);
    app.end().await;
}

#[tokio::test]
async fn bytes_that_are_not_utf_8_are_quarantined_unchanged() {
    let app = TestApp::new("no-text").await;
    assert_eq!(app.post(&b"{\"type\":\"A\xff\"}\x00"[..]).await, answer(200, "quarantined"));
    let messages = app.quarantined(1).await;
    assert_eq!(
        assert_is_quarantined(&messages[0], "unreadable", "ingest-fn"),
        "eyJ0eXBlIjoiQf8ifQA="
    );
    assert_eq!(messages[0].json()["encoding"], "base64");
    app.end().await;
}

#[tokio::test]
async fn an_event_larger_than_a_message_is_quarantined_truncated() {
    let app = TestApp::new("too-large").await;
    let text = "\u{1f600}".repeat(120_000);
    let event = format!(r#"{{"type":"A","content":{{"conversationId":"c"}},"text":"{text}"}}"#);
    assert!(event.len() < 1 << 20, "it is the escaping that makes it too large");
    assert_eq!(app.post(event.clone()).await, answer(200, "quarantined"));
    let messages = app.quarantined(1).await;
    let raw = assert_is_quarantined(&messages[0], "too-large", "ingest-fn");
    assert_eq!(messages[0].json()["truncated"], true);
    assert!(messages[0].body.len() <= (1 << 20) - 1_024);
    let raw = raw.as_str().unwrap();
    assert!(event.starts_with(raw) && raw.len() > 300_000);
    app.end().await;
}

#[tokio::test]
async fn a_large_event_is_delivered_whole() {
    let app = TestApp::new("large").await;
    let mut event = app.event("c");
    event["content"]["text"] = "x".repeat(1_000_000).into();
    let id = app.queue(&event).await;
    app.arrived(std::slice::from_ref(&id)).await;
    app.settled().await;
    assert_eq!(app.destination.event(&id).unwrap()["content"], event["content"]);
    app.end().await;
}

#[tokio::test]
async fn a_rejected_event_is_quarantined_and_the_others_are_delivered() {
    let app = TestApp::new("rejected").await;
    app.gather().await;
    let refusals = [
        ("c-2", StatusCode::BAD_REQUEST),
        ("c-4", StatusCode::PAYLOAD_TOO_LARGE),
        ("c-5", StatusCode::UNPROCESSABLE_ENTITY),
    ];
    for (conversation, status) in refusals {
        app.destination.refuse(conversation, status);
    }
    let ids = app.queue_all(&["c-1", "c-2", "c-3", "c-4", "c-5", "c-6", "c-7"]).await;
    app.stack.enable_mapping(true).await.unwrap();

    let good = [0, 2, 5, 6].map(|at: usize| ids[at].clone());
    app.arrived(&good).await;
    app.settled().await;
    let mut found = Vec::new();
    for message in app.quarantined(3).await {
        let raw = assert_is_quarantined(&message, "rejected", "extractor-fn");
        let event: Value = serde_json::from_str(raw.as_str().unwrap()).unwrap();
        assert_eq!(event["receivedAt"], message.json()["receivedAt"]);
        let detail = message.json()["detail"].as_str().unwrap().to_owned();
        found.push((
            event["event"]["content"]["conversationId"].as_str().unwrap().to_owned(),
            detail,
        ));
    }
    found.sort();
    let expected = refusals.map(|(conversation, status)| {
        (conversation.to_owned(), format!("the destination answered {}", status.as_u16()))
    });
    assert_eq!(found, expected);
    assert_eq!(app.destination.event_ids(), good.into_iter().collect());
    app.end().await;
}

#[tokio::test]
async fn an_unreadable_message_is_quarantined_and_the_others_are_delivered() {
    let app = TestApp::new("poison").await;
    app.gather().await;
    let mut ids = app.queue_all(&["c-1", "c-2"]).await;
    let wrapped = |event: &str| {
        format!(r#"{{"v":1,"receivedAt":"2026-01-02T03:04:05.000Z","event":{event}}}"#)
    };
    let poison = [
        ("unreadable", MESSAGE_TEXT.to_owned()),
        ("unreadable", r#"{"type":"A","content":{"conversationId":"c"}}"#.to_owned()),
        ("unreadable", wrapped(r#"{"type":"PING"}"#)),
        ("unreadable", wrapped(r#"{"type":"A","content":{}}"#)),
        ("no-type", wrapped(r#"{"content":{"conversationId":"c"}}"#)),
        ("invalid-id", wrapped(r#"{"type":"A","content":{"conversationId":"a/b"}}"#)),
    ];
    for (_, body) in &poison {
        app.stack.send(Queue::Events, body).await.unwrap();
    }
    ids.extend(app.queue_all(&["c-3"]).await);
    app.stack.enable_mapping(true).await.unwrap();

    app.arrived(&ids).await;
    app.settled().await;
    let messages = app.quarantined(poison.len() as u64).await;
    for (reason, body) in &poison {
        let message = messages.iter().find(|message| message.json()["raw"] == **body).unwrap();
        assert_is_quarantined(message, reason, "extractor-fn");
    }
    app.end().await;
}
