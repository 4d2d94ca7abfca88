//! Inputs that once violated a guarantee: found by the fuzz targets, and kept in `fuzz/findings`.

use jiff::SignedDuration;
use serde_json::{Value, json};
use testing::{
    connector::{Body, Reply},
    destination::violations,
    record::SqsRecord,
};
use tokio::time::Duration;

use crate::{
    FIRST_BACKOFF,
    deadlines::{LEFT, TestApp, healthy_reply, records},
    raw_record, record, settle,
};

/// One path has this reply.
fn with_reply(path: &'static str, reply: impl Into<String>) -> TestApp {
    let reply = reply.into();
    TestApp::new(move |requested| match requested.strip_prefix("api/v1/") {
        Some(requested) if requested == path => Reply::text(reply.clone()),
        _ => healthy_reply(requested),
    })
}

/// The first delivery after extracting these records.
async fn delivered(app: &TestApp, records: &[SqsRecord]) -> Value {
    settle(&app.extractor, &app.aws, records, LEFT).await.is_done();
    let delivery = serde_json::from_str(&app.sent("deliveries")[0]).unwrap();
    assert_eq!(violations(&delivery), Vec::<String>::new());
    delivery
}

fn nested(levels: usize) -> String {
    format!(r#"{{"a":{}1{}}}"#, "[".repeat(levels), "]".repeat(levels))
}

#[tokio::test(start_paused = true)]
async fn an_item_or_topic_without_an_id_still_fits_the_schema() {
    let items =
        r#"[{"content":{"type":"SMS","content":"Hello"}},{"id":"i-2"},{"id":"","content":7}]"#;
    let app = with_reply("conversations/c-0/items", items);
    let delivery = delivered(&app, &records(1)).await;
    let items = delivery["conversations"][0]["items"].as_array().unwrap();
    assert_eq!(items.len(), 3);
    assert_eq!((&items[0]["text"], &items[1]["content"]), (&json!("Hello"), &json!({})));
    assert_eq!(items[0]["id"].as_str().unwrap().len(), 43, "the hash of its bytes");

    let app = with_reply("conversations/c-0", r#"{"topicIds":["","t-1"]}"#);
    let delivery = delivered(&app, &records(1)).await;
    assert_eq!(delivery["conversations"][0]["topics"], json!([{"id": "t-1"}]));
}

#[tokio::test(start_paused = true)]
async fn a_malformed_initiator_is_omitted() {
    let event = |initiator: Value| {
        let event =
            json!({"type": "A", "initiator": initiator, "content": {"conversationId": "c-0"}});
        [record(0, &event)]
    };
    for initiator in [json!({"id": 7}), json!({"type": null}), json!(["a", "b"]), json!("AGENT")] {
        let delivery = delivered(&TestApp::new(healthy_reply), &event(initiator.clone())).await;
        assert_eq!(delivery["events"][0].get("initiator"), None, "{initiator}");
    }
    for malformed in [json!(null), json!(7), json!([])] {
        let initiator = json!({"id": malformed, "type": "AGENT", "new": 1});
        let delivery = delivered(&TestApp::new(healthy_reply), &event(initiator)).await;
        assert_eq!(delivery["events"][0]["initiator"], json!({"type": "AGENT", "new": 1}));
    }
    for initiator in [json!({}), json!({"id": "a-1", "type": "AGENT", "new": 1})] {
        let delivery = delivered(&TestApp::new(healthy_reply), &event(initiator.clone())).await;
        assert_eq!(delivery["events"][0]["initiator"], initiator);
    }
}

#[tokio::test(start_paused = true)]
async fn deeply_nested_content_is_omitted() {
    let items = format!(r#"[{{"id":"i-1","content":{}}}]"#, nested(200));
    let app = with_reply("conversations/c-0/items", items);
    let delivery = delivered(&app, &records(1)).await;
    assert_eq!(delivery["conversations"][0]["items"][0]["content"], json!({}));
    for (path, reply) in [
        ("conversations/c-0", format!(r#"{{"customAttributes":[{}]}}"#, nested(200))),
        ("customer-profiles/u", format!(r#"{{"id":"u","customAttributes":{}}}"#, nested(200))),
    ] {
        delivered(&with_reply(path, reply), &records(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_note_with_a_duplicate_type_is_still_a_note() {
    let items = r#"[{"id":"i-1","content":{"type":"SMS","type":"CONVERSATION_NOTE","body":"hm"}}]"#;
    let app = TestApp::with(&[("FORWARD_NOTES", "false")], move |path| match path {
        "api/v1/conversations/c-0/items" => Reply::text(items),
        _ => healthy_reply(path),
    });
    let delivery = delivered(&app, &records(1)).await;
    assert_eq!(delivery["conversations"][0]["items"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn an_excessive_retry_after_is_limited_to_an_hour() {
    let centuries = "18446744073709551615";
    for at in ["deliveries", "api/v1/conversations/c-0"] {
        let app = TestApp::new(move |path| match path {
            path if path == at => Reply::status(429).header("retry-after", centuries),
            _ => healthy_reply(path),
        });
        let settled = settle(&app.extractor, &app.aws, &records(1), LEFT).await;
        settled.assert_returned(&["m-0"], 3_600..=3_600);
        // An hour later Gladly is called again.
        tokio::time::sleep(Duration::from_hours(1)).await;
        let before = app.times(at).len();
        settle(&app.extractor, &app.aws, &records(1), LEFT).await;
        assert!(app.times(at).len() > before, "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn timestamps_at_the_limits_cause_no_failure() {
    const FIRST: &str = "-009999-01-02T01:59:59Z";
    let open = json!({"state": "open", "cause": "gladly", "reason": "x", "since": FIRST, "retryAt": FIRST, "waitSeconds": 60});
    let pass = json!({"events": {"pass": {"begunAt": FIRST, "renewed": 0}}});
    for (name, text) in [("breaker", open), ("renewal", pass)] {
        let app = TestApp::new(healthy_reply);
        app.aws.put(&format!("/relay/pause-{name}"), &text.to_string());
        assert_eq!(app.task("reconcile").await["state"], "running", "{name}");
    }
    let webhook = json!({"id": "w-1", "url": "https://relay.example.com", "disabledAtDueToRetryLimit": FIRST});
    let app =
        TestApp::with(&[("WEBHOOK_URL", "https://relay.example.com")], move |path| match path {
            "api/v1/webhooks" => Reply::json(json!([webhook])),
            _ => healthy_reply(path),
        });
    assert_eq!(app.task("reconcile").await["state"], "running");

    let mut record = raw_record(0, "");
    record = record.sent(jiff::Timestamp::MAX - SignedDuration::from_secs(1));
    let app = TestApp::new(healthy_reply);
    app.aws.put("/relay/pause", "paused");
    let settled = settle(&app.extractor, &app.aws, &[record], LEFT).await;
    settled.assert_returned(&["m-0"], FIRST_BACKOFF);
}

#[tokio::test(start_paused = true)]
async fn a_malformed_webhook_or_export_hides_no_other() {
    let relay = json!({"id": "w-1", "url": "https://relay.example.com", "enabled": true,
                      "disabledAtDueToRetryLimit": "", "events": null});
    let malformed =
        [json!({"id": "../w", "url": "x"}), json!({"id": "w-2", "url": null}), json!(7)];
    let webhooks = json!([malformed[0], malformed[1], malformed[2], relay]);
    let app =
        TestApp::with(&[("WEBHOOK_URL", "https://relay.example.com")], move |path| match path {
            "api/v1/webhooks" => Reply::json(webhooks.clone()),
            _ => healthy_reply(path),
        });
    let status = app.task("watch").await;
    assert_eq!(status["webhook"]["enabled"], true);
    assert_eq!(status["webhook"].get("missing"), None);
    assert_eq!(status["webhook"]["missingEvents"].as_array().unwrap().len(), 9);

    let job = json!({"id": "j-1", "files": [null, "conversation_items.jsonl"],
                     "parameters": {"startAt": "2026-01-01T00:00:00Z", "endAt": "2026-01-02T00:00:00Z"}});
    let now = "2026-01-03T00:00:00Z".parse().unwrap();
    let app = TestApp::at(now, &[], move |path| match path {
        path if path.starts_with("api/v1/export/jobs?") => {
            Reply::json(json!([{"id": "j-0"}, null, job]))
        }
        path if path.ends_with("/files/conversation_items.jsonl") => Reply::text(String::new()),
        _ => healthy_reply(path),
    });
    let range = json!({"task": "import", "from": "2026-01-01T00:00:00Z"});
    assert_eq!(app.invoke(range).await.unwrap()["done"], true);
    assert_eq!(app.times("export/jobs/j-1/files").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn characters_that_sqs_rejects_are_redriven_escaped() {
    let event = r#"{"type":"A","content":{"conversationId":"c-1","note":"\uffff"}}"#;
    let message = format!(r#"{{"v":1,"receivedAt":"2026-01-02T03:04:05.678Z","event":{event}}}"#);
    // From another JSON writer: an escape becomes the character itself once it is read.
    let quarantined = json!({"v": 1, "receivedAt": "2026-01-02T03:04:05.678Z", "reason": "rejected", "detail": "why",
                       "origin": "extractor-fn", "raw": message.replace(r"\uffff", "\u{ffff}")});
    let app = TestApp::new(healthy_reply);
    let quarantined = quarantined.to_string().replace('\u{ffff}', r"\uffff");
    app.aws.state().send("quarantine", &quarantined, Vec::new(), 0, app.clock.now());
    assert_eq!(app.task("redrive").await["redriven"], 1);
    assert_eq!(app.aws.state().messages[0].body, message);
}

#[tokio::test(start_paused = true)]
async fn a_malformed_field_is_omitted_alone() {
    let conversation = r#"{"customerId":"x","customerId":"u","status":"OPEN","status":7,"createdAt":["2026"],
        "closedAt":"2026-01-02T03:04:05Z","inboxId":{},"agentId":"a","agentId":"b","topicIds":[null,"tp1",7,"",{"id":"t"}],
        "customAttributes":[1.10,null],"customAttributes":[{"id":"k","value":2.50}]}"#;
    let customer = r#"{"id":"u","name":"Sam","name":"Ada","emails":[null,{"original":null,"normalized":"ada@example.com"},7],
        "phones":{"normalized":"+1"},"externalCustomerId":7,"externalCustomerIds":{"shop":"s-1","old":null},"customAttributes":{"a":1.10,"a":2}}"#;
    let items = r#"[null,{"id":"i-1","id":"i-2","timestamp":7,"initiator":{"id":null,"type":"AGENT"},"responder":{"id":"a-1","type":7},
        "content":{"type":"PHONE_CALL"}},[],{"id":"i-3","initiator":null,"responder":"a-1","content":null}]"#;
    let transcript = r#"{"paragraphs":[null,{"transcript":7},{"transcript":"a","transcript":"Hello"},"x",{"transcript":"you"}],"paragraphs2":1}"#;
    let app = TestApp::new(move |path| match path {
        "api/v1/conversations/c-0" => Reply::text(conversation),
        "api/v1/conversations/c-0/items" => Reply::text(items),
        "api/v1/customer-profiles/u" => Reply::text(customer),
        "api/v1/conversation-items/i-2/voice-transcript" => Reply::text(transcript),
        path => healthy_reply(path),
    });
    let delivery = delivered(&app, &records(1)).await;
    let mut snapshot = delivery["conversations"][0].clone();
    snapshot.as_object_mut().unwrap().remove("fetchedAt");
    assert_eq!(
        snapshot,
        json!({
            "id": "c-0", "customerId": "u", "closedAt": "2026-01-02T03:04:05Z", "agent": {"id": "b"}, "topics": [{"id": "tp1"}],
            "customAttributes": [{"id": "k", "value": 2.5}],
            "customer": {"id": "u", "name": "Ada", "emails": ["ada@example.com"],
                         "externalCustomerIds": {"shop": "s-1", "old": null}, "customAttributes": {"a": 2}},
            "items": [
                {"id": "i-2", "type": "PHONE_CALL", "author": {"kind": "agent"}, "responder": {"id": "a-1"},
                 "text": "Hello\nyou", "content": {"type": "PHONE_CALL"}},
                {"id": "i-3", "author": {"kind": "unknown"}, "content": {}},
            ],
            "truncated": false,
        })
    );

    // An empty list, as some servers write it.
    let app = with_reply("conversations/c-0/items", "null");
    let delivery = delivered(&app, &records(1)).await;
    assert_eq!(delivery["conversations"][0]["items"], json!([]));

    // The ids in an event's content.
    let event = r#"{"type":"A","content":{"conversationId":"c-0","customerId":"x","customerId":"u","messageId":7,"noteId":"n-1"}}"#;
    let body = format!(r#"{{"v":1,"receivedAt":"2026-01-02T03:04:05.678Z","event":{event}}}"#);
    let note = r#"[{"id":"n-1","content":{"type":"CONVERSATION_NOTE","body":"hm"}}]"#;
    let app = with_reply("conversations/c-0/items", note);
    let delivery = delivered(&app, &[raw_record(0, &body)]).await;
    assert_eq!(delivery["events"][0]["customerId"], "u");
}

#[tokio::test(start_paused = true)]
async fn a_byte_order_mark_before_json_is_no_error() {
    let app = TestApp::new(|path| match path {
        path if path.starts_with("api/v1/conversations/") && !path.ends_with("/items") => {
            Reply::text("\u{feff}{\"customerId\":\"u\",\"topicIds\":[\"t\"]}")
        }
        "api/v1/topics" => Reply::text("\u{feff}[{\"id\":\"t\",\"name\":\"Delivery\"}]"),
        path => match healthy_reply(path) {
            Reply::Response { body: Body::Json(json), .. } => {
                Reply::text(format!("\u{feff}{json}"))
            }
            reply => reply,
        },
    });
    app.aws.put("/relay/pause", "\u{feff}{\"state\":\"running\"}");
    app.aws.put("/relay/pause-breaker", "\u{feff}{\"state\":\"closed\"}");
    app.aws.put_secret("/relay/gladly-token", "\u{feff}gladly-token");
    app.aws.put_secret("/relay/destination-token", "\u{feff}destination-token\n");
    let delivery = delivered(&app, &records(1)).await;
    let snapshot = &delivery["conversations"][0];
    assert_eq!(snapshot["topics"], json!([{"id": "t", "name": "Delivery"}]));
    assert_eq!(snapshot["customer"], json!({"id": "u"}));
    assert_eq!(app.task("reconcile").await["state"], "running");
    app.aws.put("/relay/pause", "\u{feff}paused");
    assert_eq!(app.task("reconcile").await["state"], "paused");
}

#[tokio::test(start_paused = true)]
async fn without_contact_everything_else_stays_byte_for_byte() {
    let attributes = r#"{"price": 19.990000000000002, "n":12345678901234567890123,"e":1e999, "k":"\u0041","k":1.10}"#;
    let content = format!(
        r#"{{ "type":"EMAIL","total":{attributes},"from":"sam@example.com" , "x":[{{"to":["a@example.com"],"cc":1e999}}, -0.0 ],"\u0066rom":1,"content":"caf\u00e9 \/" }}"#
    );
    let kept = format!(
        r#"{{ "type":"EMAIL","total":{attributes}, "x":[{{}}, -0.0 ],"content":"caf\u00e9 \/" }}"#
    );
    let items = format!(r#"[{{"id":"i-1","content":{content}}}]"#);
    let customer = format!(
        r#"{{"id":"u","emails":[{{"normalized":"sam@example.com"}}],"externalCustomerId":"s","externalCustomerIds":{{"shop":"s"}},"customAttributes":{attributes}}}"#
    );
    let event = format!(
        r#"{{"type":"A","initiator":{{"id":"a", "n":1.10}},"content":{{"conversationId":"c-0","n":{attributes}}}}}"#
    );
    let body = format!(r#"{{"v":1,"receivedAt":"2026-01-02T03:04:05.678Z","event":{event}}}"#);
    let conversation = format!(r#"{{"customerId":"u","customAttributes":[{attributes}]}}"#);
    for (contact, content) in [("false", &kept), ("true", &content)] {
        let answers = [conversation.clone(), items.clone(), customer.clone()];
        let app = TestApp::with(&[("FORWARD_CUSTOMER_CONTACT", contact)], move |path| match path {
            "api/v1/conversations/c-0" => Reply::text(answers[0].clone()),
            "api/v1/conversations/c-0/items" => Reply::text(answers[1].clone()),
            "api/v1/customer-profiles/u" => Reply::text(answers[2].clone()),
            path => healthy_reply(path),
        });
        settle(&app.extractor, &app.aws, &[raw_record(0, &body)], LEFT).await.is_done();
        let sent = &app.sent("deliveries")[0];
        for whole in [
            format!(r#""content":{content}"#),
            format!(r#""customAttributes":{attributes}"#),
            format!(r#""customAttributes":[{attributes}]"#),
            format!(r#""content":{{"conversationId":"c-0","n":{attributes}}}"#),
            r#""initiator":{"id":"a", "n":1.10}"#.to_owned(),
        ] {
            assert!(sent.contains(&whole), "{whole} in {sent}");
        }
        let shows_ids = sent.contains(r#""externalCustomerIds":{"shop":"s"}"#);
        assert_eq!(shows_ids, contact == "true");
        assert_eq!(sent.contains("example.com\""), contact == "true", "{sent}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_is_covered_by_a_snapshot_that_shows_its_item_or_was_begun_after_the_read_lag() {
    let items = r#"[{"id":"shown","content":{}}]"#;
    let app = with_reply("conversations/c-0/items", items);
    let event = |id: &str, item: Option<&str>, seconds_ago: i64| {
        let at = app.clock.now() - SignedDuration::from_secs(seconds_ago);
        let content = json!({"conversationId": "c-0", "messageId": item});
        record(0, &json!({"id": id, "type": "A", "timestamp": at.to_string(), "content": content}))
    };
    let fetches = || app.times("conversations/c-0/items").len();
    settle(&app.extractor, &app.aws, &[event("first", None, 60)], LEFT).await.is_done();
    assert_eq!(fetches(), 1);
    for (item, seconds_ago, is_covered) in [
        (None, 6, true),
        (None, 4, false),
        (Some("shown"), 6, true),
        (Some("shown"), 4, false),
        (Some("late"), 31, true),
        (Some("late"), 29, false),
        (Some("late"), 6, false),
    ] {
        // Second receives: an item that is not listed is no longer waited for.
        let before = fetches();
        let event = event("next", item, seconds_ago).received(2);
        settle(&app.extractor, &app.aws, &[event], LEFT).await.is_done();
        assert_eq!(fetches() == before, is_covered, "{item:?} {seconds_ago} s before");
        let complete = self::event_without_item(&app);
        settle(&app.extractor, &app.aws, &[complete], LEFT).await.is_done();
    }
}

/// An event of now, which no snapshot covers: it causes a complete fetch.
fn event_without_item(app: &TestApp) -> SqsRecord {
    let at = app.clock.now();
    record(
        0,
        &json!({"id": "again", "type": "A", "timestamp": at.to_string(), "content": {"conversationId": "c-0"}}),
    )
}

#[tokio::test(start_paused = true)]
async fn large_customers_are_evicted_before_they_fill_the_memory() {
    let app = TestApp::new(|path| match path {
        path if path.ends_with("/items") => Reply::json(json!([])),
        path if path.starts_with("api/v1/conversations/c-") => Reply::json(
            json!({"customerId": format!("u-{}", &path["api/v1/conversations/c-".len()..])}),
        ),
        path if path.starts_with("api/v1/customer-profiles/") => {
            Reply::json(json!({"customAttributes": {"x": "x".repeat(1_000_000)}}))
        }
        path => healthy_reply(path),
    });
    settle(&app.extractor, &app.aws, &records(20), LEFT).await.is_done();
    for n in [19, 0] {
        let again = records(20).remove(n);
        settle(&app.extractor, &app.aws, &[again], LEFT).await.is_done();
    }
    assert_eq!(app.times("customer-profiles/u-19").len(), 1, "kept for ten minutes");
    assert_eq!(app.times("customer-profiles/u-0").len(), 2, "8 MiB hold eight of them");
}
