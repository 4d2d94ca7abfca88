//! The circuit breaker: what opens it, what it holds, and how it closes.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use shared::{Origin, QueueMessage};
use testing::{
    aws::{Aws, THROTTLED},
    connector::Reply,
    record::SqsRecord,
};
use tokio::time::{Duration, sleep};

use crate::{
    BatchResult, FIRST_BACKOFF,
    deadlines::{LEFT, TestApp, healthy_reply, records},
    raw_record, record, settle,
};

const BREAKER: &str = "/relay/pause-breaker";

impl TestApp {
    fn breaker(&self) -> Value {
        let text = self.aws.state().parameters.get(BREAKER).cloned();
        text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
    }

    /// Extracts one event for each of `count` conversations.
    async fn extract(&self, count: usize) -> BatchResult {
        self.settle(&records(count)).await
    }

    async fn settle(&self, records: &[SqsRecord]) -> BatchResult {
        settle(&self.extractor, &self.aws, records, LEFT).await
    }

    /// Extracts records whenever they are due again, until the breaker is open or ten minutes have
    /// passed. Returns after how many seconds.
    async fn retry_until_open(&self, mut records: Vec<SqsRecord>) -> i64 {
        let began = self.clock.now();
        let elapsed = || self.clock.now().duration_since(began).as_secs();
        let mut due = vec![0; records.len()];
        while self.breaker() == Value::Null && elapsed() < 600 {
            let next = *due.iter().min().unwrap();
            sleep(Duration::from_secs((next - elapsed()).max(0).try_into().unwrap())).await;
            let is_due = |index: &usize| due[*index] <= elapsed();
            let now: Vec<usize> = (0..records.len()).filter(is_due).collect();
            let batch: Vec<_> = now.iter().map(|index| records[*index].clone()).collect();
            let settled = self.settle(&batch).await;
            for index in now {
                due[index] = elapsed() + settled.visibility[&records[index].id];
                records[index].receives += 1;
            }
        }
        elapsed()
    }

    /// Runs the controller an hour later.
    async fn an_hour_later(&self) {
        sleep(Duration::from_hours(1) + Duration::from_secs(1)).await;
        self.task("reconcile").await;
    }

    /// Records as SQS hands them out a day and a half after their first receive.
    fn long_failing(&self, records: Vec<SqsRecord>) -> Vec<SqsRecord> {
        let sent_at = self.clock.now() - SignedDuration::from_hours(36);
        let long_failing = |record: SqsRecord| record.received(30).sent(sent_at);
        records.into_iter().map(long_failing).collect()
    }

    /// The reasons of the quarantined messages.
    fn reasons(&self) -> Vec<String> {
        let account = self.aws.state();
        let bodies = account.messages.iter().filter(|message| message.queue == "quarantine");
        let reason = |body: &str| {
            let envelope: Value = serde_json::from_str(body).unwrap();
            envelope["reason"].as_str().unwrap().to_owned()
        };
        bodies.map(|message| reason(&message.body)).collect()
    }

    /// The `snapshot` of each delivered event, in order.
    fn delivered(&self) -> Vec<String> {
        let deliveries = self.sent("deliveries");
        let events = deliveries.iter().flat_map(|body| {
            let delivery: Value = serde_json::from_str(body).unwrap();
            delivery["events"].as_array().unwrap().clone()
        });
        events.map(|event| event["snapshot"].as_str().unwrap().to_owned()).collect()
    }
}

/// Second receives of events about these conversations.
fn second_receives(conversations: std::ops::Range<usize>) -> Vec<SqsRecord> {
    let event = |n| json!({"id": format!("e-{n}"), "type": "A", "content": {"conversationId": format!("c-{n}")}});
    conversations.map(|n| record(n, &event(n)).received(2)).collect()
}

/// A Gladly without any of the conversations, until it is switched to having them all.
fn without_conversations() -> (TestApp, Arc<AtomicBool>) {
    let has_all = Arc::new(AtomicBool::new(false));
    let app = TestApp::new({
        let has_all = Arc::clone(&has_all);
        move |path| {
            let asked_for_one = path.contains("/conversations/");
            if asked_for_one && !has_all.load(Ordering::Relaxed) {
                Reply::status(404)
            } else {
                healthy_reply(path)
            }
        }
    });
    (app, has_all)
}

/// Gladly and the destination answer with statuses that can be changed.
fn with_statuses(gladly: u16, destination: u16) -> (TestApp, Arc<[AtomicU16; 2]>) {
    let statuses = Arc::new([AtomicU16::new(gladly), AtomicU16::new(destination)]);
    let app = TestApp::new({
        let statuses = Arc::clone(&statuses);
        move |path| match statuses[usize::from(path == "deliveries")].load(Ordering::Relaxed) {
            200 => healthy_reply(path),
            status => Reply::status(status),
        }
    });
    (app, statuses)
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_open_it_and_a_new_token_closes_it() {
    let (app, statuses) = with_statuses(401, 200);
    sleep(Duration::from_secs(2)).await;
    let settled = app.extract(20).await;
    assert_eq!(settled.kept.len(), 20);
    assert!(settled.visibility.values().all(|wait| FIRST_BACKOFF.contains(wait)));
    let breaker = app.breaker();
    assert_eq!((&breaker["state"], &breaker["cause"]), (&json!("open"), &json!("gladly")));
    assert_eq!(breaker["reason"], "Gladly rejected the API credentials (HTTP 401)");
    assert_eq!(breaker["waitSeconds"], 60);

    let before = app.times("").len();
    assert_eq!(app.extract(20).await.kept.len(), 20);
    assert_eq!(app.times("").len(), before, "no calls while it is open");
    let status = app.task("reconcile").await;
    assert_eq!((&status["state"], &status["mapping"]), (&json!("breaker"), &json!("Disabled")));
    assert_eq!(status["breaker"]["waitSeconds"], 60);
    assert_eq!(app.times("").len(), before, "nor before the retry is due");

    // The token is still rejected: the waits double, up to an hour.
    let mut waits = Vec::new();
    for _ in 0..400 {
        app.task("reconcile").await;
        waits.push(app.breaker()["waitSeconds"].as_u64().unwrap());
        sleep(Duration::from_mins(1)).await;
    }
    waits.dedup();
    assert_eq!(waits, [60, 120, 240, 480, 960, 1_920, 3_600]);
    assert!(app.times("organization").len() < 30, "{}", app.times("organization").len());
    assert_eq!(app.breaker()["since"], breaker["since"], "since it was opened first");

    // A replaced token is tried immediately, however long the wait.
    sleep(Duration::from_secs(2)).await;
    app.aws.put("/relay/gladly-token", "another-token");
    statuses[0].store(200, Ordering::Relaxed);
    let status = app.task("reconcile").await;
    assert_eq!((&status["state"], &status["mapping"]), (&json!("running"), &json!("Enabled")));
    assert_eq!(
        app.breaker()["state"],
        "half-open",
        "Gladly knows us; whether it serves us, a conversation shows"
    );
    sleep(Duration::from_secs(11)).await;
    let before = app.clock.now() - SignedDuration::from_secs(1);
    app.extract(20).await.is_done();
    let breaker = app.breaker();
    let closed_at: Timestamp = breaker["closedAt"].as_str().unwrap().parse().unwrap();
    assert!((before..=app.clock.now()).contains(&closed_at), "{closed_at}");
    assert_eq!(
        breaker,
        json!({"state": "closed", "closedAt": breaker["closedAt"], "waitSeconds": 3_600})
    );
    app.assert_pause_is_the_operators();
}

#[tokio::test(start_paused = true)]
async fn a_missing_secret_opens_it_and_a_failed_read_does_not() {
    for (name, cause) in
        [("/relay/gladly-token", "gladly"), ("/relay/destination-token", "destination")]
    {
        let app = TestApp::new(healthy_reply);
        app.aws.state().parameters.remove(name);
        assert_eq!(app.extract(3).await.kept.len(), 3);
        assert_eq!(
            (&app.breaker()["state"], &app.breaker()["cause"]),
            (&json!("open"), &json!(cause))
        );

        sleep(Duration::from_secs(2)).await;
        app.aws.put(name, "a-token");
        let status = app.task("reconcile").await;
        assert_eq!(status["state"], "running", "{status}");
        sleep(Duration::from_secs(11)).await;
        app.extract(3).await.is_done();
        assert_eq!(app.breaker()["state"], "closed");
    }
    let app = TestApp::new(healthy_reply);
    app.extract(1).await.is_done();
    sleep(Duration::from_mins(2)).await;
    app.aws.state().ssm_fault = Some(THROTTLED);
    app.extract(1).await.is_done();
    assert_eq!(app.breaker(), Value::Null);
}

#[tokio::test(start_paused = true)]
async fn an_outage_opens_it_after_two_minutes_and_two_conversations() {
    for (gladly, destination, cause) in [(503, 200, "gladly"), (200, 503, "destination")] {
        // One conversation is not an outage, however long.
        let (app, _) = with_statuses(gladly, destination);
        for _ in 0..10 {
            assert_eq!(app.extract(1).await.kept.len(), 1);
            sleep(Duration::from_mins(1)).await;
        }
        assert_eq!(app.breaker(), Value::Null);
        app.extract(2).await;
        let breaker = app.breaker();
        assert_eq!((&breaker["state"], &breaker["cause"]), (&json!("open"), &json!(cause)));
        assert!(breaker["reason"].as_str().unwrap().contains("503"), "{breaker}");

        // Nor are two minutes in which something succeeds.
        let (app, statuses) = with_statuses(gladly, destination);
        for round in 0..10 {
            let upstream = usize::from(cause == "destination");
            statuses[upstream].store(if round % 2 == 0 { 503 } else { 200 }, Ordering::Relaxed);
            app.extract(3).await;
            sleep(Duration::from_secs(61)).await;
        }
        assert_eq!(app.breaker(), Value::Null);

        // Nor are two failures hours apart with nothing between them.
        let (app, _) = with_statuses(gladly, destination);
        app.extract(1).await;
        sleep(Duration::from_hours(3)).await;
        app.extract(3).await;
        assert_eq!(app.breaker(), Value::Null);
    }
}

/// What failed returns when its own back-off is over; nothing else arrives.
#[tokio::test(start_paused = true)]
async fn an_outage_on_a_quiet_stack_opens_it_after_two_minutes_too() {
    for (gladly, destination, cause) in [(503, 200, "gladly"), (200, 503, "destination")] {
        let (app, _) = with_statuses(gladly, destination);
        let began = app.clock.now();
        let opened_after = app.retry_until_open(records(2)).await;
        assert!((120..=135).contains(&opened_after), "{cause}: after {opened_after} s");
        let breaker = app.breaker();
        assert_eq!((&breaker["state"], &breaker["cause"]), (&json!("open"), &json!(cause)));
        let since: Timestamp = breaker["since"].as_str().unwrap().parse().unwrap();
        assert!(since > began);
    }

    // One conversation alone never opens it, so it backs off as ever once the two minutes are over.
    let (app, _) = with_statuses(503, 200);
    let mut records = records(1);
    let mut waits = Vec::new();
    for receives in 1..=6 {
        records[0].receives = receives;
        let wait = app.settle(&records).await.visibility["m-0"];
        waits.push(wait);
        sleep(Duration::from_secs(wait.try_into().unwrap())).await;
    }
    let total: i64 = waits[..3].iter().sum();
    assert!((110..=125).contains(&total), "the third wait ends when the two minutes do: {waits:?}");
    assert!(waits[3] >= 192 && waits[4] >= 384, "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_requested_wait_is_kept_while_an_outage_is_being_determined() {
    let asks = |path: &str| match path {
        "deliveries" => Reply::status(503).header("retry-after", "600"),
        _ => healthy_reply(path),
    };
    let app = TestApp::new(asks);
    for _ in 0..2 {
        app.extract(2).await.assert_returned(&["m-0", "m-1"], 600..=600);
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_is_tried_half_open() {
    let (app, statuses) = with_statuses(200, 403);
    assert_eq!(app.extract(3).await.kept.len(), 3);
    assert_eq!(app.breaker()["reason"], "the destination answered 403");
    for wait in [60, 120, 240] {
        assert_eq!(app.breaker()["state"], "open");
        assert_eq!(app.breaker()["waitSeconds"], wait);
        sleep(Duration::from_secs(wait + 1)).await;
        let status = app.task("reconcile").await;
        assert_eq!((&status["state"], &status["mapping"]), (&json!("running"), &json!("Enabled")));
        assert_eq!(app.breaker()["state"], "half-open");
        // While half-open, one transient failure is enough.
        statuses[1].store(503, Ordering::Relaxed);
        assert_eq!(app.extract(3).await.kept.len(), 3);
    }
    sleep(Duration::from_hours(1)).await;
    app.task("reconcile").await;
    statuses[1].store(200, Ordering::Relaxed);
    app.extract(3).await.is_done();
    let breaker = app.breaker();
    assert_eq!((&breaker["state"], &breaker["waitSeconds"]), (&json!("closed"), &json!(480)));
    // Once closed, it takes two minutes again.
    statuses[1].store(503, Ordering::Relaxed);
    app.extract(3).await;
    assert_eq!(app.breaker()["state"], "closed");
    // Re-opened within an hour, it waits twice as long as before; later, as long as at first.
    for (status, wait) in [(403, 960), (200, 960), (403, 60)] {
        statuses[1].store(status, Ordering::Relaxed);
        sleep(Duration::from_mins(59)).await;
        app.task("reconcile").await;
        app.extract(3).await;
        assert_eq!(app.breaker()["waitSeconds"], wait, "{status}");
        sleep(Duration::from_mins(2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_a_failure_while_half_open_unless_another_is_accepted() {
    let (app, statuses) = with_statuses(200, 422);
    assert_eq!(app.extract(12).await.kept.len(), 12);
    for wait in [60, 120, 240] {
        assert_eq!(
            (&app.breaker()["state"], &app.breaker()["waitSeconds"]),
            (&json!("open"), &json!(wait))
        );
        sleep(Duration::from_secs(wait + 1)).await;
        app.task("reconcile").await;
        assert_eq!(app.breaker()["state"], "half-open");
        assert_eq!(app.extract(9).await.kept.len(), 9, "refused, and none accepted");
        assert_eq!(app.reasons(), [""; 0]);
    }
    statuses[1].store(200, Ordering::Relaxed);
    app.an_hour_later().await;
    app.extract(9).await.is_done();
    assert_eq!(app.breaker()["state"], "closed");

    // An accepted conversation shows that the destination works.
    let sent = AtomicUsize::new(0);
    let app = TestApp::new(move |path| match path {
        "deliveries" => match sent.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::status(403),
            // Both together, then one alone.
            1 | 2 => Reply::status(422),
            _ => healthy_reply(path),
        },
        _ => healthy_reply(path),
    });
    assert_eq!(app.extract(2).await.kept.len(), 2);
    app.an_hour_later().await;
    app.extract(2).await.is_done();
    assert_eq!(app.breaker()["state"], "closed");
    assert_eq!(app.reasons(), ["rejected"]);
}

#[tokio::test(start_paused = true)]
async fn refusals_count_across_batches_until_something_is_accepted() {
    let (app, statuses) = with_statuses(200, 200);
    let records = records(12);
    for (status, some) in [(422, 0..4), (422, 4..8), (200, 8..12), (422, 0..4), (422, 4..8)] {
        statuses[1].store(status, Ordering::Relaxed);
        app.settle(&records[some]).await.is_done();
    }
    assert_eq!((app.breaker(), app.reasons().len()), (Value::Null, 16));
    assert_eq!(app.settle(&records[8..12]).await.kept.len(), 4);
    assert_eq!(app.breaker()["reason"], "the destination rejects every conversation");
    assert_eq!(app.reasons().len(), 16);
}

#[tokio::test(start_paused = true)]
async fn one_conversation_that_is_refused_again_and_again_opens_nothing() {
    let (app, _) = with_statuses(200, 422);
    for _ in 0..30 {
        app.extract(1).await.is_done();
    }
    assert_eq!((app.breaker(), app.reasons().len()), (Value::Null, 30));
}

#[tokio::test(start_paused = true)]
async fn a_lone_conversation_that_is_refused_for_a_day_is_rejected() {
    for count in [1, 2] {
        let (app, statuses) = with_statuses(200, 403);
        assert_eq!(app.extract(count).await.kept.len(), count);
        statuses[1].store(422, Ordering::Relaxed);
        let mut hours = 0;
        while app.reasons().is_empty() && hours < 40 {
            app.an_hour_later().await;
            app.extract(count).await;
            hours += 1;
        }
        // Two rejected conversations may both be valid: nothing shows that the destination works.
        let expected = if count == 1 { (vec!["rejected".to_owned()], 24) } else { (vec![], 40) };
        assert_eq!((app.reasons(), hours), expected);
        assert_eq!(app.breaker()["state"], "open");
    }

    // Another event waits, and the destination may accept it.
    let (app, statuses) = with_statuses(200, 403);
    app.extract(1).await;
    for _ in 0..2 {
        app.aws.state().send("events", "something", Vec::new(), 0, app.clock.now());
    }
    statuses[1].store(422, Ordering::Relaxed);
    for _ in 0..30 {
        app.an_hour_later().await;
        assert_eq!(app.extract(1).await.kept.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_gladly_without_any_of_the_conversations_opens_it() {
    let (app, has_all) = without_conversations();
    let settled = app.settle(&second_receives(0..12)).await;
    assert_eq!(settled.kept.len(), 12);
    assert_eq!((app.delivered(), app.reasons()), (vec![], vec![]), "nothing is consumed");
    let breaker = app.breaker();
    assert_eq!((&breaker["state"], &breaker["cause"]), (&json!("open"), &json!("gladly")));
    assert_eq!(breaker["reason"], "Gladly answers 404 to every conversation");

    // Gladly answers the probe; only a conversation shows the fault.
    for wait in [120, 240] {
        app.an_hour_later().await;
        assert_eq!(app.breaker()["state"], "half-open");
        assert_eq!(app.settle(&second_receives(0..3)).await.kept.len(), 3);
        assert_eq!(
            (&app.breaker()["state"], &app.breaker()["waitSeconds"]),
            (&json!("open"), &json!(wait))
        );
        assert_eq!(app.delivered(), [""; 0]);
    }
    has_all.store(true, Ordering::Relaxed);
    app.an_hour_later().await;
    app.settle(&second_receives(0..12)).await.is_done();
    assert_eq!(app.breaker()["state"], "closed");
    assert_eq!(app.delivered(), ["included"; 12]);
}

#[tokio::test(start_paused = true)]
async fn missing_conversations_count_across_batches_each_once_until_one_is_found() {
    // First receives do not count, and each conversation counts once.
    let (app, has_all) = without_conversations();
    let settled = app.settle(&records(12)).await;
    assert_eq!(settled.visibility.into_values().collect::<Vec<_>>(), [30; 12]);
    for _ in 0..3 {
        app.settle(&second_receives(0..6)).await.is_done();
    }
    assert_eq!(app.breaker(), Value::Null);
    has_all.store(true, Ordering::Relaxed);
    app.settle(&second_receives(100..101)).await.is_done();
    has_all.store(false, Ordering::Relaxed);
    app.settle(&second_receives(6..12)).await.is_done();
    assert_eq!(app.breaker(), Value::Null, "one was found between them");

    assert_eq!(app.settle(&second_receives(12..18)).await.kept.len(), 6);
    assert_eq!(app.breaker()["cause"], "gladly");
    assert_eq!(app.delivered().iter().filter(|snapshot| *snapshot == "gone").count(), 24);
}

#[tokio::test(start_paused = true)]
async fn conversations_deleted_with_their_customer_are_gone() {
    let customers = AtomicUsize::new(0);
    let app = TestApp::new(move |path| match path {
        path if path.contains("/conversations/") => Reply::status(404),
        path if path.contains("/customer-profiles/u-gone") => {
            customers.fetch_add(1, Ordering::Relaxed);
            Reply::status(404)
        }
        path => healthy_reply(path),
    });
    let event = |n: usize, customer: &str| {
        let content = json!({"conversationId": format!("c-{n}"), "customerId": customer});
        record(n, &json!({"id": format!("e-{n}"), "type": "A", "content": content})).received(2)
    };
    let deleted: Vec<_> = (0..30).map(|n| event(n, &format!("u-gone-{}", n % 3))).collect();
    app.settle(&deleted).await.is_done();
    assert_eq!((app.delivered(), app.breaker()), (vec!["gone".to_owned(); 30], Value::Null));
    assert_eq!(app.times("customer-profiles").len(), 3, "fetched once");

    let there: Vec<_> = (30..42).map(|n| event(n, "u")).collect();
    assert_eq!(app.settle(&there).await.kept.len(), 12);
    assert_eq!(app.breaker()["state"], "open");
    // Also while it is half-open.
    app.an_hour_later().await;
    assert_eq!(app.breaker()["state"], "half-open");
    app.settle(&[event(50, "u-gone-1")]).await.is_done();
    assert_eq!(app.breaker()["state"], "half-open");
    assert_eq!(app.delivered().len(), 31);
}

#[tokio::test(start_paused = true)]
async fn a_conversation_missing_for_a_day_is_exhausted_and_never_gone() {
    let (app, _) = without_conversations();
    let all = second_receives(0..40);
    assert_eq!(app.settle(&all).await.kept.len(), 40);
    let mut hours = 0;
    while app.reasons().is_empty() && hours < 30 {
        app.an_hour_later().await;
        hours += 1;
        app.settle(&all).await;
    }
    assert_eq!((hours, app.reasons()), (24, vec!["exhausted".to_owned(); 40]));
    // A recent event has not been missing for a day.
    app.an_hour_later().await;
    let event = json!({"id": "e", "type": "A", "content": {"conversationId": "c-new"}});
    let new = record(0, &event).received(2).sent(app.clock.now());
    assert_eq!(app.settle(&[new]).await.kept.len(), 1);
    assert_eq!(app.delivered(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn while_half_open_the_newest_events_are_tried_first() {
    let app = TestApp::new(healthy_reply);
    let now = app.clock.now();
    let breaker = json!({
        "state": "half-open", "cause": "destination", "reason": "x", "since": now.to_string(),
        "retryAt": now.to_string(), "waitSeconds": 60,
    });
    app.aws.put(BREAKER, &breaker.to_string());
    let records: Vec<_> = (0..30)
        .map(|n: usize| {
            let event = json!({"id": format!("e-{n}"), "type": "A", "content": {"conversationId": format!("c-{n}x")}}).to_string();
            let at = now + SignedDuration::from_secs(i64::try_from(n * 7 % 30).unwrap());
            let message = QueueMessage::wrap(&event, at, Origin::Webhook).unwrap();
            raw_record(n, &message.to_json().unwrap())
        })
        .collect();
    app.settle(&records).await.is_done();
    let mut order: Vec<_> = (0..30).collect();
    order.sort_by_key(|n| app.times(&format!("conversations/c-{n}x/items"))[0]);
    let newest: BTreeSet<_> = order[..8].iter().map(|n| n * 7 % 30).collect();
    assert_eq!(newest, (22..30).collect());
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_the_probe_misses_reopens_it_with_longer_waits() {
    let app = TestApp::new(|path| {
        if path.contains("/conversations/") { Reply::status(403) } else { healthy_reply(path) }
    });
    for _ in 0..4 * 60 {
        app.extract(3).await;
        app.task("reconcile").await;
        sleep(Duration::from_mins(1)).await;
    }
    let opened =
        app.aws.state().writes.iter().filter(|write| write.text.contains(r#""open""#)).count();
    assert!((7..=10).contains(&opened), "{opened}");
    assert_eq!(app.breaker()["waitSeconds"], 3_600);
    assert_eq!(app.reasons(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_event_held_for_a_day_is_not_exhausted_by_its_next_failure() {
    let failing = Arc::new([AtomicU16::new(403), AtomicU16::new(200)]);
    let app = TestApp::new({
        let failing = Arc::clone(&failing);
        move |path| {
            let status = match path {
                "deliveries" => failing[0].load(Ordering::Relaxed),
                path if path.contains("c-1") => failing[1].load(Ordering::Relaxed),
                _ => 200,
            };
            if status == 200 { healthy_reply(path) } else { Reply::status(status) }
        }
    });
    for _ in 0..30 {
        assert_eq!(app.settle(&app.long_failing(records(4))).await.kept.len(), 4);
        app.an_hour_later().await;
    }
    failing[0].store(200, Ordering::Relaxed);
    failing[1].store(503, Ordering::Relaxed);
    for hours in [0, 23] {
        sleep(Duration::from_hours(hours)).await;
        assert_eq!(
            app.settle(&app.long_failing(records(4))).await.kept,
            ["m-1"],
            "closed {hours} h ago"
        );
        assert_eq!(app.reasons(), [""; 0]);
    }
    sleep(Duration::from_mins(61)).await;
    app.settle(&app.long_failing(records(4))).await.is_done();
    assert_eq!(app.reasons(), ["exhausted"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_exhausted_after_a_possible_hold_in_the_last_day() {
    let hours = SignedDuration::from_hours;
    let failing = || {
        TestApp::new(
            |path| if path.contains("c-1") { Reply::status(418) } else { healthy_reply(path) },
        )
    };
    for (what, name, text, exhausted) in [
        ("nothing", "/relay/none", String::new(), true),
        ("no telling when it closed", BREAKER, r#"{"state":"closed"}"#.into(), false),
        ("tried", BREAKER, json!({"state": "half-open", "cause": "gladly", "reason": "x", "since": Timestamp::now().to_string(), "retryAt": Timestamp::now().to_string(), "waitSeconds": 60}).to_string(), false),
        ("closed 26 h ago", BREAKER, json!({"state": "closed", "closedAt": (Timestamp::now() - hours(1)).to_string(), "waitSeconds": 60}).to_string(), true),
        ("closed 23 h ago", BREAKER, json!({"state": "closed", "closedAt": (Timestamp::now() + hours(2)).to_string()}).to_string(), false),
        ("a pause that is over for 26 h", "/relay/pause", json!({"state": "paused", "until": (Timestamp::now() - hours(1)).to_string()}).to_string(), true),
        ("a pause that is over for 23 h", "/relay/pause", json!({"state": "paused", "until": (Timestamp::now() + hours(2)).to_string()}).to_string(), false),
    ] {
        let app = failing();
        app.aws.put(name, &text);
        sleep(Duration::from_hours(25)).await;
        let settled = app.settle(&app.long_failing(records(3))).await;
        assert_eq!(settled.kept.is_empty(), exhausted, "{what}");
    }
    // A pause that was just lifted, and a state that cannot be read.
    let app = failing();
    sleep(Duration::from_hours(25)).await;
    app.aws.put("/relay/pause", "running");
    assert_eq!(app.settle(&app.long_failing(records(3))).await.kept, ["m-1"]);
    sleep(Duration::from_hours(25)).await;
    app.task("status").await;
    app.aws.state().ssm_fault = Some(THROTTLED);
    assert_eq!(app.settle(&app.long_failing(records(3))).await.kept, ["m-1"]);
    app.aws.state().ssm_fault = None;
    app.settle(&app.long_failing(records(3))).await.is_done();

    // Closed by hand: `closedAt` is written when first needed, and a day later it is in the past.
    let app = failing();
    app.aws.put(BREAKER, r#"{"state":"closed"}"#);
    assert_eq!(app.settle(&app.long_failing(records(3))).await.kept, ["m-1"]);
    assert!(app.breaker()["closedAt"].is_string());
    sleep(Duration::from_hours(25)).await;
    app.settle(&app.long_failing(records(3))).await.is_done();
}

#[tokio::test(start_paused = true)]
async fn an_event_is_exhausted_only_if_another_succeeds() {
    let only_one = Arc::new(AtomicBool::new(false));
    let app = TestApp::new({
        let only_one = Arc::clone(&only_one);
        move |path| {
            let fails = path.contains("c-1") || only_one.load(Ordering::Relaxed);
            if fails && path.contains("/conversations/") {
                Reply::status(418)
            } else {
                healthy_reply(path)
            }
        }
    });
    sleep(Duration::from_hours(25)).await;
    let one = |n: usize| app.long_failing(records(3)).remove(n);
    for records in [vec![one(1)], vec![one(1)], vec![one(1)]] {
        assert_eq!(app.settle(&records).await.kept, ["m-1"], "no other conversation succeeded");
    }
    only_one.store(true, Ordering::Relaxed);
    assert_eq!(app.settle(&app.long_failing(records(3))).await.kept.len(), 3, "all of them fail");
    only_one.store(false, Ordering::Relaxed);
    // In another invocation, after the last failure.
    app.settle(&[one(0)]).await.is_done();
    app.settle(&[one(1)]).await.is_done();
    assert_eq!(app.reasons(), ["exhausted"]);

    // Successes count per upstream: one of Gladly is none of the destination.
    let (app, _) = with_statuses(200, 503);
    sleep(Duration::from_hours(25)).await;
    assert_eq!(app.settle(&app.long_failing(records(3))).await.kept.len(), 3);
    assert_eq!(app.reasons(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_token_replaced_during_the_last_attempt_does_not_open_it() {
    for (upstream, name) in
        [("api/v1", "/relay/gladly-token"), ("deliveries", "/relay/destination-token")]
    {
        let (account, calls) = (Arc::new(OnceLock::<Aws>::new()), AtomicUsize::new(0));
        let app = TestApp::new({
            let account = Arc::clone(&account);
            move |path| {
                let matches = path == upstream
                    || path.ends_with("conversations/c-0") && upstream != "deliveries";
                match calls.fetch_add(usize::from(matches), Ordering::Relaxed) {
                    0 | 1 if matches => Reply::status(503),
                    2 if matches => {
                        account.get().unwrap().put(name, "another-token");
                        Reply::status(401)
                    }
                    _ => healthy_reply(path),
                }
            }
        });
        account.set(app.aws.clone()).unwrap();
        app.extract(1).await.assert_returned(&["m-0"], FIRST_BACKOFF);
        assert_eq!(app.breaker(), Value::Null, "{name}");
        app.extract(1).await.is_done();
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_refuses_everything_opens_it() {
    let (app, _) = with_statuses(200, 422);
    assert_eq!(app.extract(12).await.kept.len(), 12);
    assert_eq!(app.breaker()["reason"], "the destination rejects every conversation");
    assert!(app.aws.state().messages.is_empty(), "nothing is quarantined");
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_opens_it_exhausts_no_event() {
    for (gladly, destination) in [(401, 200), (200, 401), (200, 302)] {
        let (app, _) = with_statuses(gladly, destination);
        let old: Vec<_> = records(3)
            .into_iter()
            .map(|record| record.received(50).sent_ago(SignedDuration::from_hours(40)))
            .collect();
        let settled = settle(&app.extractor, &app.aws, &old, LEFT).await;
        assert_eq!(settled.kept.len(), 3, "{gladly} {destination}");
        assert_eq!(app.breaker()["state"], "open");
    }
}

#[tokio::test(start_paused = true)]
async fn it_holds_independently_of_the_operators_pause() {
    let (app, statuses) = with_statuses(401, 200);
    app.extract(2).await;
    app.aws.put("/relay/pause", "paused");
    sleep(Duration::from_mins(2)).await;
    statuses[0].store(200, Ordering::Relaxed);
    let status = app.task("reconcile").await;
    assert_eq!((&status["state"], &status["mapping"]), (&json!("paused"), &json!("Disabled")));
    assert_eq!(app.breaker()["state"], "half-open");
    assert_eq!(app.extract(2).await.kept.len(), 2);
    app.assert_pause_is_the_operators();
}

#[tokio::test(start_paused = true)]
async fn a_malformed_state_holds_until_the_controller_resets_it() {
    let app = TestApp::new(healthy_reply);
    app.aws.put(BREAKER, "{\"state\":\"ajar\"}");
    assert_eq!(app.extract(2).await.kept.len(), 2);
    assert_eq!(app.task("reconcile").await["state"], "running");
    sleep(Duration::from_secs(11)).await;
    app.extract(2).await.is_done();
    // The operator can close it by hand.
    app.aws.put(BREAKER, r#"{"state":"closed"}"#);
    app.extract(2).await.is_done();
}
