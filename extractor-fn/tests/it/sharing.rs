//! Coverage that environments share: two of them over one account, on tokio's paused clock.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::SignedDuration;
use serde_json::{Value, json};
use testing::{
    aws::{Fault, TABLE, THROTTLED},
    connector::Reply,
    record::SqsRecord,
};
use tokio::time::{Duration, Instant, sleep};
use tracing::Level;

use crate::{
    BatchResult, GLADLY_TOKEN,
    deadlines::{LEFT, TestApp, healthy_reply},
    record,
    redaction::Log,
    settle,
};

const SHARED: &[(&str, &str)] = &[("COVERAGE_TABLE", TABLE)];
const WARNING: &str = "could not share coverage with the other environments";

/// A Gladly whose conversations are closed and show the item `i-1`.
fn reply(path: &str) -> Reply {
    Reply::json(match path {
        path if path.ends_with("/items") => json!([{
            "id": "i-1", "timestamp": "2020-01-01T00:00:00Z", "initiator": {"id": "u", "type": "CUSTOMER"},
            "content": {"type": "SMS", "content": "hello"},
        }]),
        path if path.contains("/conversations/") => {
            json!({"customerId": "u", "status": {"value": "CLOSED"}})
        }
        path => return healthy_reply(path),
    })
}

impl TestApp {
    /// An event of a conversation, recorded this long ago.
    fn event(&self, kind: &str, conversation: &str, seconds_ago: i64) -> Value {
        let at = self.clock.now() - SignedDuration::from_secs(seconds_ago);
        json!({
            "id": format!("e-{seconds_ago}"), "type": kind,
            "timestamp": at.to_string(), "content": {"conversationId": conversation},
        })
    }

    /// One event for each of these conversations, recorded this long ago.
    fn events(&self, conversations: usize, seconds_ago: i64) -> Vec<SqsRecord> {
        let event = |n| self.event("A", &format!("c-{n}"), seconds_ago);
        (0..conversations).map(|n| record(n, &event(n))).collect()
    }

    async fn settle_all(&self, records: &[SqsRecord]) -> BatchResult {
        settle(&self.extractor, &self.aws, records, LEFT).await
    }

    /// Extracts one event of `c-0`, recorded this long ago. Returns whether it was covered.
    async fn is_covered(&self, seconds_ago: i64) -> bool {
        self.covers(&self.event("A", "c-0", seconds_ago)).await
    }

    async fn covers(&self, event: &Value) -> bool {
        let before = self.fetches();
        self.settle_all(&[record(0, event)]).await.is_done();
        let sent = self.sent("deliveries").pop().unwrap();
        let sent: Value = serde_json::from_str(&sent).unwrap();
        assert_eq!(sent["events"][0]["id"], event["id"]);
        let is_covered = sent["events"][0]["snapshot"] == "covered";
        assert_eq!(self.fetches() == before, is_covered, "{event}");
        is_covered
    }

    /// How often a conversation was fetched.
    fn fetches(&self) -> usize {
        self.times("/items").len()
    }

    fn dynamodb_calls(&self) -> usize {
        self.aws.state().dynamodb_calls
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_environment_delivered_covers_the_events_of_another() {
    let first = TestApp::with(SHARED, reply);
    assert!(!first.is_covered(60).await);

    let item = |id: &str| {
        let mut event = first.event("MESSAGE/RECEIVED", "c-0", 10);
        event["content"]["messageId"] = json!(id);
        event
    };
    for (what, event, is_covered) in [
        ("older than the fetch", first.event("A", "c-0", 10), true),
        ("within the clocks' skew", first.event("A", "c-0", 3), false),
        ("imported at an operator's wish", first.event("RELAY/IMPORTED", "c-0", 10), false),
        ("of an item that the snapshot shows", item("i-1"), true),
        ("a close that it shows", first.event("CONVERSATION/CLOSED", "c-0", 10), true),
    ] {
        assert_eq!(first.another(SHARED).covers(&event).await, is_covered, "{what}");
    }
    // Gladly does not show this item the second time either.
    let (second, before) = (first.another(SHARED), first.fetches());
    second.settle_all(&[record(0, &item("i-2")).received(2)]).await.is_done();
    assert!(first.fetches() > before, "of an item that it does not show");
}

#[tokio::test(start_paused = true)]
async fn without_the_table_each_environment_fetches_for_itself() {
    let first = TestApp::with(&[("COVERAGE_TABLE", "")], reply);
    assert!(!first.is_covered(60).await);
    assert!(!first.another(&[]).is_covered(60).await);
    assert!(first.is_covered(60).await);
    assert_eq!(first.dynamodb_calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_fails_costs_coverage_only_and_is_left_alone_for_30_seconds() {
    for fault in [
        Fault::Refused(400, "ResourceNotFoundException"),
        Fault::Refused(400, "AccessDeniedException"),
        Fault::Refused(400, "ProvisionedThroughputExceededException"),
        Fault::Refused(500, "InternalServerError"),
        THROTTLED,
        Fault::Garbage(200),
        Fault::Garbage(502),
        Fault::Reset,
        Fault::Lost,
        Fault::Hang,
    ] {
        let first = TestApp::with(SHARED, reply);
        assert!(!first.is_covered(60).await);
        let second = first.another(SHARED);

        let log = Log::default();
        let guard = log.listen(Level::INFO);
        first.aws.state().dynamodb_fault = Some(fault);
        let (before, began) = (first.dynamodb_calls(), Instant::now());
        assert!(!second.is_covered(60).await, "{fault:?}");
        let most = Duration::from_millis(if matches!(fault, Fault::Hang) { 550 } else { 150 });
        assert!(began.elapsed() <= most, "{fault:?} costs {:?}", began.elapsed());
        let calls = first.dynamodb_calls();
        assert!((1..=2).contains(&(calls - before)), "{fault:?}: no write, and one retry at most");

        sleep(Duration::from_secs(29)).await;
        assert!(second.is_covered(60).await, "{fault:?}: by its own memory");
        assert!(!second.covers(&second.event("A", "c-1", 60)).await, "{fault:?}");
        assert_eq!(first.dynamodb_calls(), calls, "{fault:?}: not asked again yet");
        drop(guard);
        let log = log.text();
        assert_eq!(log.matches(WARNING).count(), 1, "{fault:?}: {log}");
        assert!(!log.contains(GLADLY_TOKEN), "{fault:?}: {log}");

        first.aws.state().dynamodb_fault = None;
        sleep(Duration::from_secs(2)).await;
        assert!(!first.covers(&first.event("A", "c-2", 60)).await);
        assert!(second.covers(&second.event("A", "c-2", 60)).await, "{fault:?}: asked again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_neither_fails_nor_delays_a_batch() {
    for fault in [Fault::Refused(500, "InternalServerError"), Fault::Reset, Fault::Hang] {
        let app = TestApp::with(SHARED, reply);
        let log = Log::default();
        let guard = log.listen(Level::INFO);
        // The read succeeds.
        app.aws.state().dynamodb_faults = [Fault::Entries(0)].into();
        app.aws.state().dynamodb_fault = Some(fault);
        let began = Instant::now();
        app.settle_all(&app.events(30, 60)).await.is_done();
        assert!(began.elapsed() < Duration::from_secs(2), "{fault:?}: {:?}", began.elapsed());
        drop(guard);
        let log = log.text();
        assert_eq!(log.matches(WARNING).count(), 1, "{fault:?}: one line for both requests: {log}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_while_paused() {
    let app = TestApp::with(SHARED, reply);
    app.aws.put("/relay/pause", "paused");
    let held = app.settle_all(&app.events(2, 60)).await;
    assert_eq!(held.kept.len(), 2);
    assert_eq!(app.dynamodb_calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_makes_one_read_of_at_most_100_conversations() {
    let first = TestApp::with(SHARED, reply);
    first.settle_all(&first.events(120, 60)).await.is_done();
    assert_eq!(first.aws.state().coverage_reads, [100]);
    assert_eq!(first.dynamodb_calls(), 1 + 5, "25 items in a write");
    assert_eq!(first.aws.state().coverage.len(), 120);

    let (second, before) = (first.another(SHARED), first.fetches());
    second.settle_all(&second.events(120, 60)).await.is_done();
    assert_eq!(second.fetches() - before, 20, "those beyond the first hundred");
    assert_eq!(second.aws.state().coverage_reads, [100, 100]);

    second.settle_all(&second.events(120, 60)).await.is_done();
    assert_eq!(second.aws.state().coverage_reads, [100, 100], "what is known is not read");
}

#[tokio::test(start_paused = true)]
async fn what_is_left_unprocessed_is_fetched_and_no_failure() {
    let first = TestApp::with(SHARED, reply);
    // Of the write, the second item.
    first.aws.state().dynamodb_faults = [Fault::Entries(0), Fault::Entries(0b10)].into();
    first.settle_all(&first.events(4, 60)).await.is_done();
    let stored: Vec<_> = first.aws.state().coverage.keys().cloned().collect();
    assert_eq!(stored, ["c-0", "c-2", "c-3"]);

    let (second, before) = (first.another(SHARED), first.fetches());
    // Of the read, the third key.
    first.aws.state().dynamodb_faults = [Fault::Entries(0b100)].into();
    second.settle_all(&second.events(4, 60)).await.is_done();
    assert_eq!(second.fetches() - before, 2);
    assert_eq!(first.aws.state().coverage.len(), 4, "written, since there was no failure");
}

#[tokio::test(start_paused = true)]
async fn an_older_item_does_not_replace_what_is_known() {
    let is_down = Arc::new(AtomicBool::new(false));
    let down = Arc::clone(&is_down);
    let first = TestApp::with(SHARED, move |path| {
        if down.load(Ordering::Relaxed) && path.contains("/conversations/") {
            return Reply::status(500);
        }
        reply(path)
    });
    assert!(!first.is_covered(60).await);
    let older = first.aws.state().coverage["c-0"].clone();
    sleep(Duration::from_secs(100)).await;
    let second = first.another(SHARED);
    assert!(!second.is_covered(0).await);

    // Written later by an environment that was slow.
    first.aws.state().coverage.insert("c-0".into(), older);
    sleep(Duration::from_secs(10)).await;
    is_down.store(true, Ordering::Relaxed);
    let reads = first.aws.state().coverage_reads.len();
    let failed = second.settle_all(&[record(0, &second.event("A", "c-0", 0))]).await;
    assert_eq!(failed.kept, ["m-0"]);
    assert_eq!(first.aws.state().coverage_reads.len(), reads + 1);
    is_down.store(false, Ordering::Relaxed);
    assert!(second.is_covered(50).await);
    assert!(!first.another(SHARED).is_covered(50).await, "the item alone does not cover it");
}

#[tokio::test(start_paused = true)]
async fn an_item_that_is_malformed_or_old_or_of_other_settings_covers_nothing() {
    let first = TestApp::with(SHARED, reply);
    assert!(!first.is_covered(60).await);
    let item = first.aws.state().coverage["c-0"].clone();
    let fetched_at: i64 = item["fetchedAt"]["N"].as_str().unwrap().parse().unwrap();
    let hours = |hours: i64| json!({"N": (fetched_at + hours * 3_600_000).to_string()});
    for (name, value) in [
        ("fetchedAt", json!({"S": fetched_at.to_string()})),
        ("fetchedAt", json!({"N": "1e400"})),
        ("fetchedAt", json!({"N": i64::MAX.to_string()})),
        ("fetchedAt", hours(1)),
        ("fetchedAt", hours(-25)),
        ("scope", json!({"S": "another"})),
        ("scope", json!({"NULL": true})),
        ("items", json!({"S": "i-1"})),
        ("closed", json!({"S": "true"})),
        ("conversation", json!({"S": "c/0"})),
    ] {
        let mut malformed = item.clone();
        malformed[name] = value.clone();
        first.aws.state().coverage.insert("c-0".into(), malformed);
        assert!(!first.another(SHARED).is_covered(60).await, "{name}: {value}");
    }
    for (name, value) in [
        ("DESTINATION_URL", "https://another.example.com/deliveries"),
        ("GLADLY_HOST", "another.gladly.com"),
        ("FORWARD_NOTES", "false"),
        ("FORWARD_CUSTOMER_CONTACT", "false"),
    ] {
        first.aws.state().coverage.insert("c-0".into(), item.clone());
        let other = first.another(&[SHARED[0], (name, value)]);
        assert!(!other.is_covered(60).await, "{name}");
    }
    first.aws.state().coverage.insert("c-0".into(), item);
    assert!(first.another(SHARED).is_covered(60).await);
}

#[tokio::test(start_paused = true)]
async fn an_item_holds_ids_hashes_and_times_and_fits_into_one_write_unit() {
    let app = TestApp::with(SHARED, |path| match path {
        path if path.ends_with("/items") => {
            let item = |n| {
                json!({
                    "id": format!("i-{n}"), "timestamp": "2020-01-01T00:00:00Z",
                    "initiator": {"id": "u", "type": "CUSTOMER"},
                    "content": {"type": "SMS", "content": "hello"},
                })
            };
            Reply::json((0..200).map(item).collect())
        }
        path => reply(path),
    });
    let conversation = "c".repeat(64);
    assert!(!app.covers(&app.event("A", &conversation, 60)).await);
    let item = app.aws.state().coverage[&conversation].clone();
    let names: BTreeSet<_> = item.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["closed", "conversation", "expiresAt", "fetchedAt", "items", "scope"];
    assert_eq!(names, expected.into());
    let number = |name: &str| item[name]["N"].as_str().unwrap().parse::<i64>().unwrap();
    assert_eq!(number("expiresAt"), number("fetchedAt") / 1_000 + 24 * 3_600);
    // Base64 of 64 hashes of 8 bytes.
    assert_eq!(item["items"]["B"].as_str().unwrap().len(), (64_usize * 8).div_ceil(3) * 4);
    assert!(item.to_string().len() < 1_024);
}
