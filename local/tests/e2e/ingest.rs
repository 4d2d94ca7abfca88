//! Requests to the webhook endpoint and their responses: design section 3, row by row.

use local::stack::{Function, Queue};
use reqwest::{Client, StatusCode};
use serde_json::json;
use testing::gladly::EVENT_TYPES;

use crate::{TestApp, answer, assert_is_a_time, eventually, json_lines};

const PING: &str = r#"{"type":"PING"}"#;

#[tokio::test]
async fn requests_without_the_valid_key_are_rejected() {
    let app = TestApp::new("unauthorized").await;
    let event = app.event("c").to_string();
    let key = app.key();
    let almost = format!("{key}0");
    let cases: [(&str, &[&str]); 6] = [
        ("no key", &[]),
        ("an empty key", &[""]),
        ("a wrong key", &["00000000000000000000000000000000"]),
        ("almost the key", &[&almost]),
        ("the key twice", &[key, key]),
        ("the key and another", &[key, "x"]),
    ];
    for (name, keys) in cases {
        for body in [PING, &event, "\u{0}"] {
            let mut request = app.stack.request().body(body.to_owned());
            for key in keys {
                request = request.header("x-api-key", *key);
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.headers()["content-type"], "application/json");
            let given = (response.status().as_u16(), response.text().await.unwrap());
            assert_eq!(given, answer(401, "unauthorized"), "{name}");
        }
    }
    let lines = json_lines(&app.stack.logs(Function::Ingest).await.unwrap());
    assert_eq!(lines.iter().filter(|line| line["Unauthorized"] == 1).count(), 18);
    assert_eq!(app.total(Queue::Events).await + app.total(Queue::Quarantine).await, 0);
    app.end().await;
}

#[tokio::test]
async fn a_ping_is_answered_and_stores_nothing() {
    let app = TestApp::new("ping").await;
    assert_eq!(app.post(PING).await, answer(200, "pong"));
    assert_eq!(app.post(r#"{"type":"PING","content":7}"#).await, answer(200, "pong"));
    // As "Content-Type" and "X-Api-Key".
    let client = Client::builder().no_proxy().http1_title_case_headers().build().unwrap();
    let request = client.post(app.stack.webhook_url()).header("x-api-key", app.key());
    let response = request.header("content-type", "image/png").body(PING).send().await.unwrap();
    assert_eq!(
        (response.status(), response.text().await.unwrap()),
        (StatusCode::OK, answer(200, "pong").1)
    );
    // The emulated gateway lower-cases all names, so the function is invoked directly too.
    for name in ["x-api-key", "X-API-KEY", "x-Api-kEy"] {
        let call = json!({"version": "2.0", "headers": {name: app.key()}, "body": PING, "isBase64Encoded": false});
        let answered = app.stack.invoke(Function::Ingest, &call).await.unwrap();
        assert_eq!(answered.payload["statusCode"], 200, "{name}: {answered:?}");
    }
    let elsewhere = app.stack.webhook_url().replace("/webhooks/gladly", "/webhooks/other");
    let request = client.post(elsewhere).header("x-api-key", app.key()).body(PING);
    assert_eq!(request.send().await.unwrap().status(), StatusCode::NOT_FOUND);

    assert_eq!(app.total(Queue::Events).await + app.total(Queue::Quarantine).await, 0);
    app.end().await;
}

#[tokio::test]
async fn every_kind_of_event_is_queued_and_delivered() {
    let app = TestApp::new("delivers").await;
    app.gladly.subscribe(app.stack.webhook_url(), &[("x-api-key", app.key())]);
    app.conversation("c");
    let sent: Vec<_> = EVENT_TYPES.iter().map(|kind| app.gladly.emit(kind, "c")).collect();
    let new = json!({"id": "new-1", "type": "BRAND/NEW", "content": {"conversationId": "c", "more": [null]}, "more": 1});
    app.queue(&new).await;

    let ids: Vec<_> =
        sent.iter().chain([&new]).map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    app.arrived(&ids).await;
    app.settled().await;

    let attempts = app.gladly.attempts();
    assert_eq!(attempts.len(), 10);
    for attempt in attempts {
        assert_eq!((attempt.status.unwrap(), attempt.answer), answer(200, "queued"));
    }
    for event in sent.iter().chain([&new]) {
        let arrived = app.destination.event(event["id"].as_str().unwrap()).unwrap();
        for field in ["id", "type", "timestamp", "content", "initiator"] {
            assert_eq!(arrived.get(field), event.get(field), "{field} of {event}");
        }
        assert_eq!(
            (&arrived["conversationId"], &arrived["origin"]),
            (&json!("c"), &json!("webhook"))
        );
        assert_is_a_time(&arrived["receivedAt"]);
        assert!(arrived["heldMs"].is_u64());
    }
    let conversation = app.destination.conversation("c").unwrap();
    assert_eq!(conversation["customer"]["name"], "Sample Customer");
    assert_eq!(conversation["items"][0]["author"]["kind"], "customer");
    assert_eq!(conversation["items"][0]["text"], "my cat is called Mitzi, c");
    assert!(conversation["inbox"]["name"].is_string() && conversation["agent"]["name"].is_string());
    assert_eq!(app.total(Queue::Quarantine).await, 0);
    app.end().await;
}

#[tokio::test]
async fn a_queued_event_waits_in_the_queue_as_gladly_sent_it() {
    let app = TestApp::new("waits").await;
    app.gather().await;
    let event =
        "{ \"type\":\"A/Ä\", \"content\":{\"conversationId\":\"c\"}, \"x\":\"\u{1f600}\u{fffe}\" }";
    assert_eq!(app.post(event).await, answer(200, "queued"));

    let messages = app.stack.drain(Queue::Events).await.unwrap();
    let [message] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!(message.attributes["type"], "A/?");
    assert_is_a_time(&message.json()["receivedAt"]);
    let (head, event) = message.body.split_once(r#","event":"#).unwrap();
    assert!(head.starts_with(r#"{"v":1,"receivedAt":""#), "{head}");
    assert_eq!(
        event,
        r#"{ "type":"A/\u00c4", "content":{"conversationId":"c"}, "x":"\ud83d\ude00\ufffe" }}"#
    );
    app.end().await;
}

#[tokio::test]
async fn an_event_without_a_conversation_is_ignored() {
    let app = TestApp::new("ignores").await;
    let bodies = [
        json!({"type": "AGENT_AVAILABILITY/UPDATED", "content": {"agentId": "a"}}),
        json!({"type": "CUSTOMER_PROFILE/CREATED", "id": "e", "content": {"conversationId": null}}),
        json!({"type": "A", "content": {}}),
    ];
    for body in bodies {
        assert_eq!(app.post(body.to_string()).await, answer(200, "ignored"), "{body}");
    }
    let lines = json_lines(&app.stack.logs(Function::Ingest).await.unwrap());
    assert_eq!(lines.iter().filter(|line| line["Ignored"] == 1).count(), 3);
    assert_eq!(app.total(Queue::Events).await + app.total(Queue::Quarantine).await, 0);
    app.end().await;
}

#[tokio::test]
async fn special_characters_arrive_unchanged() {
    let app = TestApp::new("characters").await;
    // The first are sent as they are, the others in escapes.
    let text = "\u{fffe}\u{ffff}\u{fdd0}\u{1f600}é\u{2028}\u{7f}\u{85}";
    let raw = format!(
        r#"{{"type":"A/{text}","content":{{"conversationId":"c","text":"{text}\u0000\u001f\ufffe\ud83d\ude00\"\\"}}}}"#
    );
    let expected = format!("{text}\u{0}\u{1f}\u{fffe}\u{1f600}\"\\");
    let mail = json!({"type": "EMAIL", "subject": expected, "content": expected});
    app.gladly.organization().add_conversation("c", "u", [mail]);

    assert_eq!(app.post(raw).await, answer(200, "queued"));
    let in_time =
        app.destination.wait_for(|it| it.event_ids().len() == 1, crate::WAIT_TIMEOUT).await;
    assert!(in_time);
    app.settled().await;

    let ids = app.destination.event_ids();
    let event = app.destination.event(ids.first().unwrap()).unwrap();
    assert_eq!(event["type"], format!("A/{text}"));
    assert_eq!(event["content"]["text"], expected);
    let item = &app.destination.conversation("c").unwrap()["items"][0];
    assert_eq!(item["content"]["content"], expected);
    assert_eq!(item["subject"], expected);
    app.end().await;
}

#[tokio::test]
async fn gladly_retries_an_event_that_the_queue_rejects() {
    let app = TestApp::new("refuses").await;
    app.gladly.subscribe(app.stack.webhook_url(), &[("x-api-key", app.key())]);
    app.conversation("c");
    // SQS's minimum; the event is larger.
    let limit = async |bytes: &str| {
        app.stack.set_queue_attribute(Queue::Events, "MaximumMessageSize", bytes).await.unwrap();
    };
    limit("1024").await;
    let mut event = app.gladly.organization().event("CONVERSATION/CLOSED", "c");
    event["content"]["more"] = "x".repeat(2_000).into();
    app.gladly.send(&event);
    app.gladly.wait_for(|gladly| !gladly.attempts().is_empty(), crate::WAIT_TIMEOUT).await;
    limit("1048576").await;

    app.arrived(&[event["id"].as_str().unwrap().to_owned()]).await;
    app.settled().await;
    let attempts = app.gladly.attempts();
    let answers: Vec<_> =
        attempts.iter().map(|it| (it.status.unwrap(), it.answer.clone())).collect();
    let last = answers.len() - 1;
    assert!(
        answers[..last].iter().all(|given| *given == answer(503, "unavailable")),
        "{answers:?}"
    );
    assert_eq!(answers[last], answer(200, "queued"));
    assert!(last >= 1);
    let lines = json_lines(&app.stack.logs(Function::Ingest).await.unwrap());
    assert_eq!(lines.iter().filter(|line| line["Unavailable"] == 1).count(), last);
    app.end().await;
}

#[tokio::test]
async fn a_missing_queue_gets_503() {
    let app = TestApp::new("gone-queues").await;
    app.gather().await;
    let event = app.event("c").to_string();
    app.stack.delete_queue(Queue::Quarantine).await.unwrap();
    assert_eq!(app.post("no event").await, answer(503, "unavailable"));
    assert_eq!(app.post(event.clone()).await, answer(200, "queued"));
    app.stack.delete_queue(Queue::Events).await.unwrap();
    assert_eq!(app.post(event).await, answer(503, "unavailable"));
    assert_eq!(app.post(PING).await, answer(200, "pong"));
    app.end().await;
}

#[tokio::test]
async fn keys_that_were_never_readable_get_503_until_they_are() {
    let app = TestApp::new("no-keys").await;
    let parameter = "/no-keys/webhook-keys";
    let short = &app.key()[1..32];
    app.stack.delete_parameter(parameter).await.unwrap();
    assert_eq!(app.post(PING).await, answer(503, "unavailable"));
    for unusable in ["\n", short] {
        app.stack.put_secret(parameter, unusable).await.unwrap();
        assert_eq!(app.post(PING).await, answer(503, "unavailable"), "{unusable:?}");
    }
    let answered = app.stack.post(short, PING).await.unwrap();
    assert_eq!((answered.status, answered.body), answer(503, "unavailable"));
    app.stack.put_secret(parameter, app.key()).await.unwrap();
    assert_eq!(app.post(PING).await, answer(200, "pong"));
    app.end().await;
}

#[tokio::test]
async fn a_key_is_replaced_without_a_gap() {
    let mut app = TestApp::new("rotation").await;
    let parameter = "/rotation/webhook-keys";
    let old = app.key().to_owned();
    let new: String = (0..40).map(|_| fastrand::alphanumeric()).collect();
    app.settings.webhook_keys.push(new.clone());
    let ping = async |key: &str| app.stack.post(key, PING).await.unwrap().status;

    assert_eq!((ping(&old).await, ping(&new).await), (200, 401));
    app.stack.put_secret(parameter, &format!("{old}\n{new}")).await.unwrap();
    // The rejected request above used up this environment's early refresh: 10 s at most.
    eventually("the new key is accepted", async || {
        assert_eq!(ping(&old).await, 200);
        ping(&new).await == 200
    })
    .await;
    app.stack.put_secret(parameter, &new).await.unwrap();
    eventually("the old key is refused", async || {
        assert_eq!(ping(&new).await, 200);
        // An unknown key also makes the function refresh early.
        assert_eq!(ping("00000000000000000000000000000000").await, 401);
        ping(&old).await == 401
    })
    .await;
    let lines = json_lines(&app.stack.logs(Function::Ingest).await.unwrap());
    let slot = |slot: &str| lines.iter().any(|line| line["Slot"] == slot && line["KeySlot"] == 1);
    assert!(slot("1") && slot("2"), "each key's use is counted");
    app.end().await;
}

#[tokio::test]
async fn keys_are_cached_while_they_cannot_be_read() {
    let app = TestApp::new("remembers").await;
    assert_eq!(app.post(PING).await, answer(200, "pong"));
    app.stack.delete_parameter("/remembers/webhook-keys").await.unwrap();
    // An unknown key makes the function refresh, and find nothing.
    let answered = app.stack.post("00000000000000000000000000000000", PING).await.unwrap();
    assert_eq!((answered.status, answered.body), answer(401, "unauthorized"));
    assert_eq!(app.post(PING).await, answer(200, "pong"));
    let lines = app.stack.logs(Function::Ingest).await.unwrap();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("could not refresh parameter; using the cached value"))
    );
    app.end().await;
}
