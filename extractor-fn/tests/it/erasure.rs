//! Deletions and merges of customers: what the destination has to forget, and that nothing brings it back
//! for a reader who does.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use testing::{
    connector::{Body, Reply},
    reader::Reader,
};
use tokio::time::{Duration, sleep};
use tracing::Level;

use crate::{
    TestApp as LoopbackApp,
    deadlines::{LEFT, TestApp, healthy_reply},
    record,
    redaction::Log,
    settle,
};

/// Gladly: every conversation is customer `u`'s, except those in the set, which are gone.
#[derive(Clone, Default)]
struct FakeGladly(Arc<Mutex<BTreeSet<&'static str>>>);

impl FakeGladly {
    /// From now on nothing under this part of a path is there.
    fn remove(&self, part: &'static str) {
        self.0.lock().unwrap().insert(part);
    }

    fn reply(&self, path: &str) -> Reply {
        if self.0.lock().unwrap().iter().any(|part| path.contains(part)) {
            return Reply::status(404);
        }
        match path {
            path if path.ends_with("customer-profiles/old") => {
                let moved =
                    json!({"errors": [{"code": "moved", "meta": {"old": "old", "new": "u"}}]});
                Reply::response(301, Body::Json(moved))
            }
            path if path.contains("customer-profiles") => {
                Reply::json(json!({"id": "u", "name": "Sam"}))
            }
            path if path.ends_with("conversations/c-old") => {
                Reply::json(json!({"customerId": "old"}))
            }
            path => healthy_reply(path),
        }
    }

    fn app(&self, settings: &[(&str, &str)]) -> TestApp {
        let gladly = self.clone();
        TestApp::with(settings, move |path| gladly.reply(path))
    }
}

impl TestApp {
    fn recorded(&self, seconds_ago: i64) -> Timestamp {
        self.clock.now() - SignedDuration::from_secs(seconds_ago)
    }

    fn deletion(&self, seconds_ago: i64) -> Value {
        let at = self.recorded(seconds_ago).to_string();
        json!({"id": "deletion", "type": "CUSTOMER_PROFILE/DELETED", "timestamp": at, "content": {"customerId": "u"}})
    }

    fn merge(&self, seconds_ago: i64, conversations: &Value) -> Value {
        let mut content = json!({"sourceCustomerId": "old", "destinationCustomerId": "u"});
        content.as_object_mut().unwrap().extend(conversations.as_object().unwrap().clone());
        let at = self.recorded(seconds_ago).to_string();
        json!({"id": "merge", "type": "CUSTOMER/MERGED", "timestamp": at, "content": content})
    }

    /// An event of customer `u` about a conversation.
    fn about(&self, conversation: &str, seconds_ago: i64) -> Value {
        json!({
            "id": format!("about-{conversation}"), "type": "CONVERSATION/CREATED",
            "timestamp": self.recorded(seconds_ago).to_string(),
            "content": {"conversationId": conversation, "customerId": "u"},
        })
    }

    /// Extracts events as the given receive; what stays in the queue, and for how long.
    async fn take(&self, events: &[Value], receives: u32) -> Vec<(String, i64)> {
        let records = events.iter().enumerate();
        let records: Vec<_> =
            records.map(|(n, event)| record(n, event).received(receives)).collect();
        let settled = settle(&self.extractor, &self.aws, &records, LEFT).await;
        assert_eq!(settled.kept.len(), settled.visibility.len(), "{settled:?}");
        settled.visibility.into_iter().collect()
    }

    fn deliveries(&self) -> Vec<Value> {
        self.sent("deliveries").iter().map(|body| serde_json::from_str(body).unwrap()).collect()
    }

    fn sum(&self, metric: &str) -> u64 {
        let now = self.clock.now();
        self.metrics.timeline(now, now).sum(metric, &[])
    }

    fn reader(&self) -> Reader {
        let mut reader = Reader::default();
        self.deliveries().iter().for_each(|delivery| {
            assert_eq!(testing::destination::violations(delivery), [""; 0], "{delivery}");
            reader.take(delivery);
        });
        reader
    }
}

fn at(time: Timestamp) -> String {
    format!("{time:.3}")
}

#[tokio::test(start_paused = true)]
async fn a_deletion_becomes_a_tombstone_with_a_receipt_and_calls_nobody_else() {
    let app = FakeGladly::default().app(&[]);
    let deletion = app.deletion(10);
    let log = Log::default();
    let gate = log.listen(Level::INFO);
    assert_eq!(app.take(std::slice::from_ref(&deletion), 1).await, []);
    drop(gate);

    let [delivery] = &app.deliveries()[..] else { panic!("not one delivery") };
    let tombstone = json!({
        "kind": "customer-deleted", "customerId": "u", "eventId": "deletion", "at": at(app.recorded(10) + SignedDuration::from_secs(35)),
    });
    assert_eq!(delivery["tombstones"], json!([tombstone]));
    assert_eq!((&delivery["events"], &delivery["conversations"]), (&json!([]), &json!([])));
    assert_eq!(app.times("api/").len(), 0, "Gladly is not asked");
    let counted = app.sum("Erased");
    assert_eq!((counted, app.sum("Forwarded"), app.sum("Gone")), (1, 1, 0));
    let receipts = log.text();
    let receipt = receipts.lines().find(|line| line.contains("accepted a tombstone")).unwrap();
    for part in ["customer-deleted", r#""gladly.customer_id":"u""#, r#""event.id":"deletion""#] {
        assert!(receipt.contains(part), "{receipt}");
    }

    // Sent again, also by another environment, it is the same.
    assert_eq!(app.another(&[]).take(&[deletion], 2).await, []);
    assert_eq!(app.deliveries()[1]["tombstones"], json!([tombstone]));
}

#[tokio::test(start_paused = true)]
async fn a_deletion_without_a_time_counts_from_its_receipt() {
    let app = FakeGladly::default().app(&[]);
    let mut deletion = app.deletion(0);
    for time in [Value::Null, json!("yesterday"), json!(7)] {
        deletion["timestamp"] = time;
        let received_at = Timestamp::now();
        app.take(std::slice::from_ref(&deletion), 1).await;
        let sent = app.deliveries().pop().unwrap();
        let at: Timestamp = sent["tombstones"][0]["at"].as_str().unwrap().parse().unwrap();
        let late = at.duration_since(received_at);
        assert!((34_900..36_000).contains(&late.as_millis()), "{late}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_deleted_customer_is_fetched_before_gladly_shows_nothing_of_them() {
    let gladly = FakeGladly::default();
    let app = gladly.app(&[]);
    assert_eq!(app.take(&[app.about("c-0", 60)], 1).await, []);
    assert_eq!(app.reader().conversations().len(), 1);

    // Gladly's reads lag: it still shows the customer.
    let fetches = app.times("/items").len();
    let kept = app.take(&[app.about("c-1", 0), app.deletion(0)], 1).await;
    let [(id, seconds)] = &kept[..] else { panic!("{kept:?}") };
    assert!(id == "m-0" && (31..=36).contains(seconds), "{kept:?}");
    assert_eq!(app.times("/items").len(), fetches, "no fetch is begun");
    assert_eq!(app.reader().conversations().len(), 0);
    // One that an earlier snapshot would cover is no longer: that is void.
    assert_eq!(app.take(&[app.about("c-0", 60)], 1).await.len(), 1);

    gladly.remove("c-");
    gladly.remove("customer-profiles");
    sleep(Duration::from_secs(36)).await;
    assert_eq!(app.take(&[app.about("c-1", 36), app.about("c-0", 96)], 1).await, []);
    let last = app.deliveries().pop().unwrap();
    for event in last["events"].as_array().unwrap() {
        assert_eq!((&event["snapshot"], &event["customerDeleted"]), (&json!("gone"), &json!(true)));
    }
    assert_eq!(app.times("customer-profiles").len(), 1, "known without being asked for");
    assert_eq!(app.reader().conversations().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cached_profile_is_not_used_after_the_deletion() {
    let gladly = FakeGladly::default();
    let app = gladly.app(&[]);
    app.take(&[app.about("c-0", 60)], 1).await;
    // A conversation that Gladly keeps although its customer is gone.
    gladly.remove("customer-profiles");
    app.take(&[app.deletion(60)], 1).await;
    assert_eq!(app.take(&[app.about("c-1", 10)], 2).await, []);
    let last = app.deliveries().pop().unwrap();
    let conversation = &last["conversations"][0];
    assert_eq!(
        (&conversation["customer"], &conversation["customerId"]),
        (&Value::Null, &json!("u"))
    );
}

#[tokio::test(start_paused = true)]
async fn what_another_environment_delivers_late_is_void() {
    let gladly = FakeGladly::default();
    let app = gladly.app(&[]);
    let other = app.another(&[]);
    app.take(&[app.deletion(0)], 1).await;
    // It does not know, and Gladly still shows the customer.
    sleep(Duration::from_secs(20)).await;
    assert_eq!(other.take(&[app.about("c-1", 30)], 1).await, []);
    assert_eq!(app.deliveries()[1]["conversations"][0]["customer"]["name"], "Sam");
    assert_eq!(app.reader().conversations().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_at_the_end_of_time_holds_its_customer_for_the_read_lag_only() {
    let app = FakeGladly::default().app(&[]);
    let mut deletion = app.deletion(0);
    deletion["timestamp"] = json!("9999-12-30T20:00:00Z");
    let kept = app.take(&[deletion, app.about("c-0", 0)], 1).await;
    assert_eq!(kept, [("m-1".to_owned(), 40)]);
}

#[tokio::test(start_paused = true)]
async fn a_merge_becomes_tombstones_and_what_remains_is_fetched_after_the_read_lag() {
    let app = FakeGladly::default().app(&[]);
    let conversations =
        json!({"sourceConversationId": "c-from", "destinationConversationId": "c-into"});
    let merge = app.merge(0, &conversations);
    let kept = app.take(std::slice::from_ref(&merge), 1).await;
    assert!(kept.len() == 1 && (25..=30).contains(&kept[0].1), "{kept:?}");
    let now = at(app.recorded(0));
    let first = app.deliveries().remove(0);
    assert_eq!(
        first["tombstones"],
        json!([
            {"kind": "customer-merged", "from": "old", "into": "u", "eventId": "merge", "at": now},
            {"kind": "conversation-merged", "from": "c-from", "into": "c-into", "eventId": "merge", "at": now},
        ])
    );
    assert_eq!(app.times("/items").len(), 0);

    sleep(Duration::from_secs(30)).await;
    assert_eq!(app.take(std::slice::from_ref(&merge), 2).await, []);
    let second = app.deliveries().remove(1);
    assert_eq!(
        (&second["events"], &second["conversations"][0]["id"]),
        (&json!([]), &json!("c-into"))
    );
    assert_eq!(second["tombstones"], first["tombstones"]);

    // Without conversations, with one that is gone, and with one that has been fetched since.
    for (conversations, fetches) in [
        (json!({"sourceConversationId": "", "destinationConversationId": null}), 1),
        (json!({}), 1),
        (conversations, 1),
    ] {
        assert_eq!(app.take(&[app.merge(60, &conversations)], 1).await, []);
        assert_eq!(app.times("/items").len(), fetches);
    }
}

#[tokio::test(start_paused = true)]
async fn a_merge_whose_remaining_conversation_is_gone_is_done() {
    let gladly = FakeGladly::default();
    gladly.remove("c-into");
    let app = gladly.app(&[]);
    let merge = || app.merge(60, &json!({"destinationConversationId": "c-into"}));
    assert_eq!(app.take(&[merge()], 1).await.len(), 1, "looked for once more");
    assert_eq!(app.take(&[merge()], 2).await, []);
    assert_eq!(app.sum("Gone"), 0);
}

#[tokio::test(start_paused = true)]
async fn conversations_of_merged_customers_are_gone_and_open_no_breaker() {
    let gladly = FakeGladly::default();
    gladly.remove("conversations/");
    let app = gladly.app(&[]);
    let of = |customer: &str| -> Vec<Value> {
        let about = (0..30).map(|n| app.about(&format!("c-{n}"), 60));
        let of = about.map(|mut event| {
            event["content"]["customerId"] = json!(customer);
            event
        });
        of.collect()
    };
    assert_eq!(app.take(&of("old"), 2).await, []);
    let gone = app.deliveries().remove(0);
    for event in gone["events"].as_array().unwrap() {
        assert_eq!((&event["snapshot"], &event["customerDeleted"]), (&json!("gone"), &Value::Null));
    }
    assert_eq!(
        app.take(&of("u"), 2).await.len(),
        30,
        "of a customer who is there: Gladly is at fault"
    );
}

#[tokio::test(start_paused = true)]
async fn a_backfill_queues_deletions_and_merges() {
    for (switch, queued, entities) in [
        ("true", vec!["deletion", "merge"], "&entities=CUSTOMER&entities=CUSTOMER_PROFILE"),
        ("false", vec![], "entities=CONTACT"),
    ] {
        let events = Arc::new(Mutex::new(String::new()));
        let listed = Arc::clone(&events);
        let app = TestApp::with(&[("FORWARD_ERASURES", switch)], move |path| match path {
            path if path.contains("/events?") => Reply::text(listed.lock().unwrap().clone()),
            path => healthy_reply(path),
        });
        let other = json!({"id": "e", "type": "CUSTOMER_PROFILE/UPDATED", "timestamp": at(app.recorded(60)), "content": {"customerId": "u"}});
        let lines =
            [app.deletion(60), app.merge(60, &json!({})), other].map(|event| event.to_string());
        *events.lock().unwrap() = lines.join("\n");
        let (from, to) = (at(app.recorded(3_600)), at(app.recorded(30)));
        app.invoke(json!({"task": "backfill", "from": from, "to": to})).await.unwrap();
        let messages = app.aws.state().messages.clone();
        let ids = messages.iter().map(|message| {
            assert!(message.body.ends_with(r#","origin":"backfill"}"#), "{}", message.body);
            serde_json::from_str::<Value>(&message.body).unwrap()["event"]["id"].clone()
        });
        assert_eq!(ids.collect::<Vec<_>>(), queued);
        assert_eq!(app.times(entities).len(), 1);
        assert_eq!(app.times("CUSTOMER").is_empty(), switch == "false");
    }
}

#[tokio::test(start_paused = true)]
async fn a_conversation_names_the_customer_who_remains() {
    let gladly = FakeGladly::default();
    let app = gladly.app(&[]);
    app.take(&[app.about("c-old", 60)], 1).await;
    gladly.remove("customer-profiles/u");
    app.another(&[]).take(&[app.about("c-old", 10)], 1).await;
    for (delivery, name) in app.deliveries().iter().zip([json!("Sam"), Value::Null]) {
        let conversation = &delivery["conversations"][0];
        assert_eq!(
            (&conversation["customerId"], &conversation["customer"]["name"]),
            (&json!("u"), &name)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_switch_erasures_are_ignored() {
    let app = FakeGladly::default().app(&[("FORWARD_ERASURES", "false")]);
    let merge = app.merge(60, &json!({"destinationConversationId": "c-into"}));
    assert_eq!(app.take(&[app.deletion(60), merge], 1).await, []);
    assert_eq!((app.deliveries().len(), app.sum("Ignored")), (0, 2));
}

#[tokio::test]
async fn a_tombstone_arrives_though_the_remaining_conversation_is_refused_and_no_word_is_quarantined()
 {
    let app = LoopbackApp::new();
    let (event, merge) = {
        let mut gladly = app.gladly.organization();
        for (conversation, customer) in [("c-from", "u-from"), ("c-into", "u-into")] {
            let words = json!({"type": "SMS", "from": "+15555550199", "to": "+1", "content": "secret words"});
            gladly.add_conversation(conversation, customer, [words]);
        }
        (gladly.event("CONVERSATION/CREATED", "c-into"), gladly.merge("u-from", "u-into"))
    };
    app.gladly.send(&merge);
    app.destination.refuse("c-into", StatusCode::UNPROCESSABLE_ENTITY);
    let mut merge = merge;
    merge["timestamp"] = json!((Timestamp::now() - SignedDuration::from_mins(1)).to_string());
    app.extract([&event, &merge]).await.is_done();
    let kinds: Vec<_> = app.destination.tombstones();
    let kinds: Vec<_> = kinds.iter().map(|it| it["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["conversation-merged", "customer-merged"]);
    let quarantined = app.quarantined();
    assert_eq!(
        quarantined.len(),
        2,
        "the event and the merge, which is redriven with its conversation"
    );
    for (message, envelope) in quarantined {
        assert_eq!(envelope["reason"], "rejected");
        for word in ["secret", "5550199", "Sample"] {
            assert!(!message.body.contains(word), "{}", message.body);
        }
    }
}
