//! Calls to Gladly, and how its responses are handled.

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use testing::{fault::Fault, gladly::EVENT_TYPES};

use crate::{FIRST_BACKOFF, TestApp, record};

/// The event, recorded this long ago.
fn recorded(mut event: Value, seconds_ago: i64) -> Value {
    event["timestamp"] =
        json!((Timestamp::now() - SignedDuration::from_secs(seconds_ago)).to_string());
    event
}

/// The same event with another id.
fn again(event: &Value, id: &str) -> Value {
    let mut event = event.clone();
    event["id"] = json!(id);
    event
}

#[tokio::test]
async fn ten_events_of_a_conversation_share_one_snapshot() {
    let app = TestApp::new();
    app.conversation("c-1");
    let events: Vec<Value> =
        EVENT_TYPES.iter().map(|kind| app.gladly.organization().event(kind, "c-1")).collect();

    app.extract(&events).await.is_done();

    let deliveries = app.destination.deliveries();
    assert_eq!(deliveries.len(), 1);
    let body = &deliveries[0].body;
    assert_eq!(body["conversations"].as_array().unwrap().len(), 1);
    for (sent, event) in body["events"].as_array().unwrap().iter().zip(&events) {
        for field in ["id", "type", "timestamp", "initiator", "content"] {
            assert_eq!(sent.get(field), event.get(field), "{field} of {}", event["type"]);
        }
        assert_eq!(sent["conversationId"], "c-1");
        assert_eq!(sent["customerId"], "u");
        assert_eq!((&sent["snapshot"], &sent["origin"]), (&json!("included"), &json!("webhook")));
    }
    // Conversation, items, customer, agents, topics, inboxes.
    assert_eq!(app.calls(""), 6, "{:?}", app.gladly.traffic().calls(""));
}

#[tokio::test]
async fn fifty_events_of_a_conversation_cost_one_fetch() {
    let app = TestApp::new();
    let event = app.conversation("c-1");
    let events: Vec<Value> = (0..50).map(|n| again(&event, &format!("e-{n}"))).collect();
    app.extract(&events).await.is_done();
    assert_eq!(app.destination.event_ids().len(), 50);
    assert_eq!(app.calls("/api/v1/conversations/c-1/items"), 1);
}

#[tokio::test]
async fn a_burst_of_200_events_on_20_conversations_costs_63_calls() {
    let app = TestApp::new();
    let mut events = Vec::new();
    for n in 0..200 {
        let (conversation, customer) = (format!("c-{}", n % 20), format!("u-{}", n % 20));
        let mut at_gladly = app.gladly.organization();
        if n < 20 {
            at_gladly.add_conversation(&conversation, &customer, []);
        }
        events.push(at_gladly.event("CONVERSATION/CLOSED", &conversation));
    }
    app.extract(&events).await.is_done();
    assert_eq!(app.destination.event_ids().len(), 200);
    // Two per conversation, one for the customer, three lists of names.
    assert_eq!(app.calls(""), 2 * 20 + 20 + 3);
}

#[tokio::test]
async fn an_event_older_than_a_delivered_fetch_is_covered_by_it() {
    let app = TestApp::new();
    let event = app.conversation("c-1");
    let later = |id, seconds_ago| recorded(again(&event, id), seconds_ago);
    let fetches = || app.calls("/api/v1/conversations/c-1/items");
    app.extract([&event]).await.is_done();
    assert_eq!(fetches(), 1);

    app.extract(&[later("old", 10), later("older", 3_600)]).await.is_done();
    assert_eq!(fetches(), 1, "covered");
    assert_eq!(app.destination.event("old").unwrap()["snapshot"], "covered");
    assert_eq!(app.destination.deliveries()[1].body["conversations"], json!([]));

    app.extract(&[later("recent", 2)]).await.is_done();
    assert_eq!(fetches(), 2, "within the clocks' skew");
    assert_eq!(app.destination.event("recent").unwrap()["snapshot"], "included");

    let mut unreadable = later("unreadable", 60);
    for timestamp in [json!(null), json!("yesterday"), json!(7)] {
        unreadable["timestamp"] = timestamp;
        let before = fetches();
        app.extract([&unreadable]).await.is_done();
        assert_eq!(fetches(), before + 1, "never covered: {}", unreadable["timestamp"]);
    }

    let before = fetches();
    app.extract(&[later("old too", 60), later("new", 0)].map(|mut event| {
        event["id"] = json!(event["id"].as_str().unwrap().replace(' ', "-"));
        event
    }))
    .await
    .is_done();
    assert_eq!(fetches(), before + 1, "one new event causes a fetch for all");
    assert_eq!(app.destination.event("old-too").unwrap()["snapshot"], "included");
}

#[tokio::test]
async fn an_operators_wish_to_have_a_conversation_again_is_not_covered_by_an_earlier_snapshot() {
    let app = TestApp::new();
    let event = app.conversation("c-1");
    app.extract([&event]).await.is_done();
    // As an import queues it: with the time of its last item.
    let mut wish = recorded(again(&event, "wish"), 3_600);
    wish["type"] = json!("RELAY/IMPORTED");
    app.extract([&wish]).await.is_done();
    assert_eq!(app.calls("/api/v1/conversations/c-1/items"), 2);
    assert_eq!(app.destination.event("wish").unwrap()["snapshot"], "included");
}

#[tokio::test]
async fn a_snapshot_that_was_not_accepted_covers_nothing() {
    let app = TestApp::new();
    let event = recorded(app.conversation("c-1"), 60);
    app.destination.fault(Fault::status(503).times(3));
    app.extract([&event]).await.assert_returned(&["m-0"], FIRST_BACKOFF);
    app.extract(&[event]).await.is_done();
    assert_eq!(app.calls("/api/v1/conversations/c-1/items"), 2);
}

#[tokio::test]
async fn a_customer_is_fetched_once_and_followed_through_merges() {
    let app = TestApp::new();
    let events: Vec<Value> = (0..5).map(|n| app.conversation(&format!("c-{n}"))).collect();
    {
        let mut at_gladly = app.gladly.organization();
        for (id, customer) in [("c-1", "a"), ("c-2", "z"), ("c-3", "gone"), ("c-4", "far")] {
            at_gladly.change_conversation(id, json!({"customerId": customer}));
        }
        at_gladly.add_customer("d", json!({"name": "Survivor"}));
        for (old, new) in [("a", "b"), ("b", "c"), ("c", "d"), ("far", "a"), ("z", "z")] {
            at_gladly.merge_customer(old, new);
        }
    }
    app.extract(&events).await.is_done();
    let customer = |id| app.destination.conversation(id).unwrap().get("customer").cloned();
    assert_eq!(customer("c-0").unwrap()["id"], "u");
    let survivor = customer("c-1").unwrap();
    assert_eq!((&survivor["id"], &survivor["name"]), (&json!("d"), &json!("Survivor")));
    assert_eq!(customer("c-2"), None, "merged into itself");
    assert_eq!(customer("c-3"), None, "gone");
    assert_eq!(customer("c-4"), None, "moved four times");
    assert_eq!(app.calls("/api/v1/customer-profiles/a"), 1);

    let before = app.calls("/api/v1/customer-profiles/*");
    let again: Vec<Value> = (5..10).map(|n| app.conversation(&format!("c-{n}"))).collect();
    app.extract(&again).await.is_done();
    assert_eq!(app.calls("/api/v1/customer-profiles/*"), before, "kept for ten minutes");
}

#[tokio::test]
async fn a_missing_conversation_is_retried_once_then_forwarded_as_gone() {
    let app = TestApp::new();
    let event = app.conversation("c-1");
    app.gladly.organization().delete_conversation("c-1");

    app.extract([&event]).await.assert_returned(&["m-0"], 30..=30);
    assert!(app.destination.deliveries().is_empty());

    app.batch(&[record(0, &event).received(2)]).await.is_done();
    let sent = app.destination.event(event["id"].as_str().unwrap()).unwrap();
    assert_eq!(sent["snapshot"], "gone");
    assert_eq!(app.destination.deliveries()[0].body["conversations"], json!([]));
}

#[tokio::test]
async fn an_item_that_is_not_listed_yet_is_waited_for_once() {
    let app = TestApp::new();
    let closed = app.conversation("c-1");
    let mut message = app.gladly.organization().event("CONTACT/MESSAGE_RECEIVED", "c-1");
    message["content"]["messageId"] = json!("not-yet");

    app.extract(&[closed.clone(), message.clone()]).await.assert_returned(&["m-1"], 30..=30);
    assert_eq!(app.destination.event_ids().len(), 1, "the other event does not wait");

    let item = json!({"id": "not-yet", "initiator": {"type": "CUSTOMER"}, "content": {"type": "CHAT_MESSAGE", "content": "late"}});
    app.gladly.organization().add_item("c-1", item);
    let old = recorded(message.clone(), 60);
    app.batch(&[record(1, &old).received(2)]).await.is_done();
    let items = app.destination.conversation("c-1").unwrap()["items"].clone();
    assert!(
        items.as_array().unwrap().iter().any(|item| item["text"] == "late"),
        "not covered by the first"
    );

    message["content"]["messageId"] = json!("never");
    app.batch(&[record(1, &message).received(2)]).await.is_done();
}

#[tokio::test]
async fn a_close_that_gladly_does_not_show_yet_is_looked_at_again_once() {
    let app = TestApp::new();
    let close = app.conversation("c-1");
    let open = json!({"status": "OPEN", "closedAt": null});
    app.gladly.organization().change_conversation("c-1", open.clone());
    let other = recorded(app.gladly.organization().event("CONVERSATION/TOPIC_ADDED", "c-1"), 60);

    app.extract([&close, &other]).await.assert_returned(&["m-0"], 30..=30);
    assert_eq!(app.destination.event_ids().len(), 1, "the other event does not wait");
    app.batch(&[record(1, &other).received(2)]).await.is_done();
    assert_eq!(app.calls("/api/v1/conversations/c-1"), 2, "that snapshot covers nothing");

    let closed = json!({"status": "CLOSED", "closedAt": close["timestamp"]});
    app.gladly.organization().change_conversation("c-1", closed);
    app.batch(&[record(0, &close).received(2)]).await.is_done();
    assert_eq!(app.destination.conversation("c-1").unwrap()["status"], "CLOSED");

    // Reopened since: by a second look, or at once where an item shows the close.
    app.gladly.organization().change_conversation("c-1", open);
    let reopened = app.gladly.organization().event("CONVERSATION/CLOSED", "c-1");
    app.gladly.organization().change_conversation("c-1", json!({"status": "OPEN"}));
    app.batch(&[record(0, &reopened).received(2)]).await.is_done();
    let status = json!({
        "timestamp": reopened["timestamp"],
        "content": {"type": "CONVERSATION_STATUS_CHANGE", "status": "CLOSED"},
    });
    app.gladly.organization().add_item("c-1", status);
    app.extract([&reopened]).await.is_done();
}

#[tokio::test]
async fn items_beyond_a_truncated_list_are_fetched_individually() {
    let app = TestApp::new();
    app.conversation("c-1");
    let events: Vec<Value> = {
        let mut at_gladly = app.gladly.organization();
        at_gladly.fill("c-1", 1_500);
        at_gladly.add_item("c-1", json!({"id": "newest", "timestamp": "2026-01-01T00:00:00Z", "content": {"type": "CHAT_MESSAGE", "content": "the newest"}}));
        at_gladly.unsupported.insert("unsupported".into());
        ["newest", "unsupported", "missing"]
            .iter()
            .map(|id| {
                let mut event = at_gladly.event("CONTACT/MESSAGE_RECEIVED", "c-1");
                event["content"]["messageId"] = json!(id);
                recorded(event, 60)
            })
            .collect()
    };
    app.extract(&events).await.is_done();
    let snapshot = app.destination.conversation("c-1").unwrap();
    assert_eq!(snapshot["truncated"], true);
    let items = snapshot["items"].as_array().unwrap();
    assert_eq!(items.len(), 1_001);
    assert_eq!(items[0]["id"], "newest", "in its place by time");

    app.extract(&events[..1]).await.is_done();
    assert_eq!(
        app.calls("/api/v1/conversations/c-1/items"),
        2,
        "a truncated snapshot covers nothing"
    );
}

#[tokio::test]
async fn calls_and_voicemails_have_their_transcript_or_their_summary() {
    let app = TestApp::new();
    let event = app.conversation("c-1");
    let summary = |status: &str| json!({"status": status, "summary": "They talked."});
    let ids: Vec<String> = {
        let mut at_gladly = app.gladly.organization();
        let call = |summary: Value| json!({"type": "PHONE_CALL", "from": "+1", "to": "+2", "startedAt": "2026-01-01T00:00:00Z", "recordingSummary": summary});
        let ids = vec![
            at_gladly.add_item("c-1", call(summary("READY"))),
            at_gladly.add_item("c-1", call(summary("READY"))),
            at_gladly.add_item("c-1", json!({"type": "VOICEMAIL"})),
            at_gladly.add_item("c-1", call(summary("REDACTED"))),
        ];
        at_gladly.add_transcript(&ids[0], &["Hello?", "Hi, this is Sam."]);
        ids
    };
    app.extract(&[event]).await.is_done();
    let items = app.destination.conversation("c-1").unwrap()["items"].clone();
    let text = |id: &String| {
        items
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["id"] == **id)
            .unwrap()
            .get("text")
            .cloned()
    };
    assert_eq!(text(&ids[0]), Some(json!("Hello?\nHi, this is Sam.")));
    assert_eq!(text(&ids[1]), Some(json!("They talked.")));
    assert_eq!(text(&ids[2]), None);
    assert_eq!(text(&ids[3]), None, "redacted");
}

#[tokio::test]
async fn a_fault_of_gladly_affects_only_its_conversation() {
    let elsewhere = testing::gladly::Gladly::start(testing::gladly::Options::default()).unwrap();
    let away = format!("{}/api/v1/conversations/c-1", elsewhere.url());
    let faults = [
        ("broken JSON", Fault::garbled()),
        ("not JSON", Fault::status(200).body("<html>")),
        ("null", Fault::status(200).body("null")),
        ("400", Fault::status(400)),
        ("418", Fault::status(418)),
        ("204", Fault::status(204)),
        ("500", Fault::status(500)),
        ("503 for a while", Fault::status(503).header("retry-after", "60")),
        ("429", Fault::status(429).header("retry-after", "0")),
        ("a connection closed in mid-body", Fault::cut()),
        ("60 MiB", Fault::large(60)),
        ("a redirect", Fault::redirect(302, &away)),
        ("a permanent one", Fault::redirect(301, &away)),
        ("a see-other", Fault::redirect(303, &away)),
    ];
    let paths = ["/api/v1/conversations/c-1", "/api/v1/conversations/c-1/items"];
    // `null` is a valid empty list of items.
    let is_fault = |name: &str, path: &str| name != "null" || !path.ends_with("/items");
    let cases = faults.iter().flat_map(|(name, fault)| paths.map(|path| (name, fault, path)));
    let cases = cases.filter(|(name, _, path)| is_fault(name, path));
    join_all(cases.map(async |(name, fault, path)| {
        let app = TestApp::new();
        let events = [app.conversation("c-1"), app.conversation("c-2")];
        app.gladly.fault(fault.clone().on(path));
        let settled = app.extract(&events).await;
        assert_eq!(settled.kept, ["m-0"], "{name} at {path}");
        let wait = settled.visibility["m-0"];
        let expected = if *name == "503 for a while" { 60..=60 } else { FIRST_BACKOFF };
        assert!(expected.contains(&wait), "{name}: {wait}");
        assert_eq!(app.destination.event_ids().len(), 1, "{name} at {path}");
        assert!(app.quarantined().is_empty());
    }))
    .await;
    assert_eq!(elsewhere.traffic().count(""), 0, "redirects are never followed");
}

#[tokio::test]
async fn a_transient_fault_is_retried() {
    for fault in [
        Fault::status(500),
        Fault::status(429),
        Fault::cut(),
        Fault::status(408),
        Fault::status(425),
    ] {
        let app = TestApp::new();
        let event = app.conversation("c-1");
        app.gladly.fault(fault.on("/api/v1/conversations/c-1").times(2));
        app.extract(&[event]).await.is_done();
        assert_eq!(app.calls("/api/v1/conversations/c-1"), 3);
    }
}

#[tokio::test]
async fn rejected_credentials_return_everything_and_stop_all_calls() {
    for status in [401, 403] {
        let app = TestApp::new();
        let events: Vec<Value> = (0..50).map(|n| app.conversation(&format!("c-{n}"))).collect();
        app.gladly.fault(Fault::status(status));
        let settled = app.extract(&events).await;
        assert_eq!(settled.kept.len(), 50);
        assert!(settled.visibility.values().all(|wait| FIRST_BACKOFF.contains(wait)));
        assert!(app.calls("") <= 16, "only calls in flight: {}", app.calls(""));
        assert!(app.quarantined().is_empty());
    }
}

#[tokio::test]
async fn a_missing_token_returns_everything() {
    for name in ["/relay/gladly-token", "/relay/destination-token"] {
        let app = TestApp::new();
        let event = app.conversation("c-1");
        app.aws.state().parameters.remove(name);
        app.extract([&event]).await.assert_returned(&["m-0"], FIRST_BACKOFF);
        assert!(app.destination.deliveries().is_empty());
        assert!(app.quarantined().is_empty());
    }
}

#[tokio::test]
async fn a_lone_surrogate_is_replaced_in_events_and_conversations() {
    let app = TestApp::new();
    let event = app.conversation("c-1");
    let items = r#"[{"id":"i","content":{"type":"SMS","content":"cut \ud83d"}}]"#;
    let fault = Fault::status(200).body(items).on("/api/v1/conversations/c-1/items");
    app.gladly.fault(fault);
    let mut record = record(0, &event);
    record.body = record.body.replace(r#""content":{"#, r#""content":{"note":"cut \ud83d","#);
    app.batch(&[record]).await.is_done();
    let sent = app.destination.event(event["id"].as_str().unwrap()).unwrap();
    assert_eq!(sent["content"]["note"], "cut \u{fffd}");
    let snapshot = app.destination.conversation("c-1").unwrap();
    assert_eq!(snapshot["items"][0]["text"], "cut \u{fffd}");
}

#[tokio::test]
async fn invalid_ids_never_reach_a_url() {
    let app = TestApp::new();
    let mut event = app.conversation("c-1");
    app.gladly.organization().change_conversation("c-1", json!({"customerId": "../agents"}));
    event["content"]["customerId"] = json!("../../organization");
    event["content"]["messageId"] = json!("%2e%2e/x");
    app.extract(&[event]).await.is_done();
    assert_eq!(app.calls("/api/v1/customer-profiles/*"), 0);
    assert_eq!(app.calls("/api/v1/organization"), 0);
    assert_eq!(app.destination.event_ids().len(), 1);
}

#[tokio::test]
async fn analytics_fields_are_forwarded_where_gladly_provides_them() {
    for contact in ["true", "false"] {
        let app = TestApp::with(&[("FORWARD_CUSTOMER_CONTACT", contact)]);
        let event = app.conversation("c-1");
        let responder = json!({"id": "a-1", "type": "AGENT"});
        let ids = json!({"storefront": "s-1", "loyalty": "l-2"});
        let (parent, child) = {
            let mut at_gladly = app.gladly.organization();
            at_gladly.add_customer("u", json!({"externalCustomerIds": ids}));
            let child = at_gladly.topics.last().unwrap().clone();
            at_gladly
                .change_conversation("c-1", json!({"topicIds": [child["parentId"], child["id"]]}));
            let item = |kind: &str, content: Value| {
                json!({"id": format!("{kind}-{}", content.as_object().unwrap().keys().next().unwrap()),
                       "timestamp": null, "responder": responder, "content": {"type": kind, "customerAddress": "guest", "content": content}})
            };
            for kind in ["TEXT", "FILES"] {
                at_gladly.add_item("c-1", item(kind, json!({"text": "Hello"})));
                let files = json!({"caption": "A picture", "files": [{"id": "f"}]});
                at_gladly.add_item("c-1", item(kind, files));
            }
            let parent = at_gladly.topics.iter().find(|topic| topic["id"] == child["parentId"]);
            (parent.unwrap().clone(), child)
        };
        app.extract([event]).await.is_done();
        let snapshot = app.destination.conversation("c-1").unwrap();
        assert_eq!(
            snapshot["topics"],
            json!([{"id": parent["id"], "name": parent["name"]},
                   {"id": child["id"], "name": child["name"], "parentId": parent["id"]}])
        );
        let expected = (contact == "true").then_some(&ids);
        assert_eq!(snapshot["customer"].get("externalCustomerIds"), expected);
        let items = &snapshot["items"].as_array().unwrap()[1..];
        let texts: Vec<_> = items.iter().map(|item| (&item["type"], &item["text"])).collect();
        let (text, files) = (json!("TEXT"), json!("FILES"));
        let (hello, picture) = (json!("Hello"), json!("A picture"));
        let wanted = [(&text, &hello), (&text, &picture), (&files, &hello), (&files, &picture)];
        assert_eq!(texts, wanted);
        assert!(items.iter().all(|item| item["responder"] == responder));
    }
}
