//! Webhook monitoring, and the backfill of events that Gladly could not deliver.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use extractor_fn::InvocationError;
use futures::join;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use shared::{QueueMessage, Subject};
use testing::{
    aws::{Fault, THROTTLED, Unconfirmed},
    connector::{Body, Reply},
    gladly::{ERASURE_TYPES, EVENT_TYPES},
};
use tokio::time::{Duration, Instant, sleep};
use tracing::Level;

use crate::{
    deadlines::{LEFT, TestApp, healthy_reply, records},
    redaction::Log,
    settle,
};

const BACKFILL: &str = "/relay/pause-backfill";
const IMPORT: &str = "/relay/pause-import";
const LEASE: &str = "/relay/pause-recovery-lease";
const URL: &str = "https://relay.example.com/webhooks/gladly";

/// A fake Gladly: its webhooks and events, and whether its PING is answered.
#[derive(Default)]
pub(crate) struct FakeGladly {
    pub(crate) webhooks: Value,
    pub(crate) pings: bool,
    pub(crate) events: Vec<(Timestamp, String)>,
    /// How the next lists of events fail, in order.
    pub(crate) lists: VecDeque<ListReply>,
    /// Its export jobs, each with the wait before every line of its file. A job without lines is
    /// deleted.
    pub(crate) jobs: Vec<(Value, Duration, Vec<String>)>,
    /// Whether it serves range requests for files.
    pub(crate) parts: bool,
    /// Runs while it rejects a token.
    pub(crate) on_refusal: Option<Box<dyn FnOnce() + Send>>,
}

pub(crate) enum ListReply {
    Unavailable,
    /// 429 with this `Retry-After`, in seconds.
    Throttled(u32),
    /// 401, and the token is replaced meanwhile.
    Unauthorized,
    /// The list takes this long.
    Slow(Duration),
    /// The list is cut after this many lines.
    Cut(usize),
}

pub(crate) fn webhook(enabled: bool) -> Value {
    let events = [&EVENT_TYPES[..], &ERASURE_TYPES].concat();
    json!({"id": "w-1", "name": "relay", "url": URL, "enabled": enabled, "events": events})
}

/// An extractor that monitors this Gladly's webhook.
pub(crate) fn watched(gladly: FakeGladly) -> (TestApp, Arc<Mutex<FakeGladly>>) {
    let gladly = Arc::new(Mutex::new(gladly));
    let app = TestApp::with(&[("WEBHOOK_URL", URL)], {
        let gladly = Arc::clone(&gladly);
        move |path| {
            let mut gladly = gladly.lock().unwrap();
            match path {
                "api/v1/webhooks" => Reply::json(gladly.webhooks.clone()),
                // Gladly answers a change with 204; the relay only ever enables it.
                "api/v1/webhooks/w-1" if gladly.pings => {
                    gladly.webhooks = json!([webhook(true)]);
                    Reply::status(204)
                }
                "api/v1/webhooks/w-1" => Reply::status(400),
                path if path.starts_with("api/v1/events?") => {
                    let text = listed(&gladly, path);
                    match gladly.lists.pop_front() {
                        None => Reply::text(text),
                        Some(ListReply::Unavailable) => Reply::status(503),
                        Some(ListReply::Throttled(seconds)) => {
                            Reply::status(429).header("retry-after", seconds.to_string())
                        }
                        Some(ListReply::Unauthorized) => {
                            gladly.on_refusal.take().unwrap()();
                            Reply::status(401)
                        }
                        Some(ListReply::Slow(wait)) => {
                            Reply::stream(vec![(wait / 2, text), (wait / 2, "\n".into())])
                        }
                        Some(ListReply::Cut(lines)) => {
                            let cut = text.lines().count() > lines;
                            let lines = text.split_inclusive('\n').take(lines).collect();
                            let parts = vec![(Duration::ZERO, lines)];
                            if cut { Reply::cut(parts) } else { Reply::stream(parts) }
                        }
                    }
                }
                path if path.starts_with("api/v1/export/jobs") => exported(&gladly, path),
                _ => healthy_reply(path),
            }
        }
    });
    (app, gladly)
}

/// Gladly's list of a range, oldest first.
fn listed(gladly: &FakeGladly, path: &str) -> String {
    let time = |name: &str| -> Timestamp {
        let value = path.split(['?', '&']).find_map(|pair| pair.strip_prefix(name)).unwrap();
        value.trim_start_matches('=').parse().unwrap()
    };
    let range = time("startAt")..=time("endAt");
    let mut text = String::new();
    for (_, event) in gladly.events.iter().filter(|(at, _)| range.contains(at)) {
        writeln!(text, "{event}").unwrap();
    }
    text
}

/// Gladly's list of export jobs, or the items of one.
fn exported(gladly: &FakeGladly, path: &str) -> Reply {
    let Some(path) = path.strip_prefix("api/v1/export/jobs/") else {
        return Reply::json(gladly.jobs.iter().map(|(job, ..)| job.clone()).collect());
    };
    let (path, from) = path.split_once(" bytes=").unwrap_or((path, "0-"));
    let id = path.strip_suffix("/files/conversation_items.jsonl").unwrap();
    let (_, wait, lines) = gladly.jobs.iter().find(|(job, ..)| job["id"] == id).unwrap();
    if lines.is_empty() {
        return Reply::status(404);
    }
    let from: usize = from.trim_end_matches('-').parse().unwrap();
    let from = if gladly.parts { from } else { 0 };
    let (mut at, mut parts) = (0, Vec::new());
    for line in lines {
        let line = format!("{line}\n");
        if at >= from {
            parts.push((*wait, line.clone()));
        }
        at += line.len();
    }
    if from == 0 {
        return Reply::stream(parts);
    }
    Reply::response(206, Body::Stream { parts, cut: false })
        .header("content-range", format!("bytes {from}-99999/100000"))
}

fn job(id: &str, from: Timestamp, to: Timestamp) -> Value {
    json!({"id": id, "status": "COMPLETED", "files": ["agents.jsonl", "conversation_items.jsonl"],
           "parameters": {"type": "X", "startAt": from.to_string(), "endAt": to.to_string()}})
}

fn item(conversation: &str, at: Timestamp) -> String {
    json!({"id": "i", "conversationId": conversation, "customerId": "u", "timestamp": at.to_string(), "content": {}}).to_string()
}

/// Why a recorded range could not be queued yet.
#[track_caller]
fn postponed(answer: &Value) -> &str {
    answer["postponed"].as_str().unwrap_or_else(|| panic!("not postponed: {answer}"))
}

fn event(number: i32, at: Timestamp) -> (Timestamp, String) {
    let id = format!("e-{number}");
    let content = json!({"conversationId": format!("c-{}", number % 10), "customerId": "u"});
    let event = json!({"id": id, "type": "CONVERSATION/CLOSED", "timestamp": at.to_string(), "content": content});
    (at, event.to_string())
}

impl TestApp {
    /// The ids of the queued events, after checking their origin.
    fn queued(&self) -> Vec<String> {
        let messages = self.aws.state().messages.clone();
        let id = |body: &str| {
            assert!(body.ends_with(r#","origin":"backfill"}"#), "{body}");
            let message = QueueMessage::read(body).unwrap();
            message.event().unwrap().id.unwrap().to_string()
        };
        messages.iter().map(|message| id(&message.body)).collect()
    }

    fn pending_backfill(&self) -> Value {
        self.parameter(BACKFILL)
    }

    fn parameter(&self, name: &str) -> Value {
        let text = self.aws.state().parameters.get(name).cloned();
        text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
    }

    /// Stores a pending range, as another invocation left it.
    fn put_pending_range(&self, from: Timestamp, to: Option<Timestamp>) {
        let (from, lasts) = (from.to_string(), to.is_none());
        let to = to.map_or(from.clone(), |to| to.to_string());
        let range = json!({"since": from, "from": from, "to": to, "lasts": lasts});
        self.aws.put(BACKFILL, &json!({"ranges": [range]}).to_string());
    }

    async fn backfill(&self, from: Timestamp, to: Timestamp) -> Result<Value, InvocationError> {
        self.run_range_task("backfill", from, to).await
    }

    async fn import(&self, from: Timestamp, to: Timestamp) -> Result<Value, InvocationError> {
        self.run_range_task("import", from, to).await
    }

    async fn run_range_task(
        &self,
        task: &str,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Value, InvocationError> {
        let began = Instant::now();
        let range = json!({"task": task, "from": from.to_string(), "to": to.to_string()});
        let answer = self.invoke(range).await;
        assert!(began.elapsed() <= LEFT, "{task} took {:?}", began.elapsed());
        answer
    }

    /// Invokes the schedule for this many minutes; each invocation ends in time.
    async fn schedule(&self, minutes: usize) {
        for _ in 0..minutes {
            let began = Instant::now();
            let _ = self.invoke(json!({"task": "reconcile"})).await;
            assert!(began.elapsed() <= LEFT, "took {:?}", began.elapsed());
            sleep(Duration::from_mins(1).saturating_sub(began.elapsed())).await;
        }
    }

    /// The conversations that were queued, each once.
    fn conversations(&self) -> BTreeSet<String> {
        let messages = self.aws.state().messages.clone();
        let read = |body: &str| {
            let subject = QueueMessage::read(body).unwrap().event().unwrap().subject;
            let Some(Subject::Conversation(id)) = subject else { panic!("{body}") };
            id.to_string()
        };
        messages.iter().map(|message| read(&message.body)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn the_webhook_is_checked_and_reported_every_five_minutes() {
    let mut few = webhook(true);
    few["events"] = [&EVENT_TYPES[1..], &ERASURE_TYPES].concat().into();
    let mut old = webhook(true);
    old["events"] = json!(EVENT_TYPES);
    let other = json!({"id": "w-2", "url": "https://elsewhere.example.com", "enabled": true, "events": EVENT_TYPES});
    for (webhooks, enabled, expected) in [
        (json!([other, webhook(true)]), true, json!({})),
        (json!([other]), false, json!({"missing": true})),
        (json!([]), false, json!({"missing": true})),
        (json!([few]), true, json!({"missingEvents": ["CONVERSATION/CREATED"]})),
        (json!([old]), true, json!({"missingErasures": ERASURE_TYPES})),
        // Disabled by hand, which is an operator's decision.
        (json!([webhook(false)]), false, json!({})),
    ] {
        let (app, gladly) = watched(FakeGladly { webhooks, pings: true, ..FakeGladly::default() });
        for _ in 0..20 {
            app.task("reconcile").await;
            sleep(Duration::from_mins(1)).await;
        }
        assert_eq!(app.times("webhooks").len(), 4, "in twenty minutes");
        let mut webhook = app.task("status").await["webhook"].take();
        webhook.as_object_mut().unwrap().remove("checkedAt").unwrap();
        assert_eq!(webhook["enabled"].take(), enabled);
        webhook.as_object_mut().unwrap().remove("enabled");
        assert_eq!(webhook, expected);
        assert_eq!(gladly.lock().unwrap().events.len(), 0);
        assert_eq!(app.pending_backfill(), Value::Null, "there is no gap");
    }
}

#[tokio::test(start_paused = true)]
async fn the_webhook_is_checked_no_more_often_while_gladly_rejects_the_credentials() {
    let app = TestApp::with(&[("WEBHOOK_URL", URL)], |_| Reply::status(401));
    for _ in 0..20 {
        let _ = app.invoke(json!({"task": "reconcile"})).await;
        sleep(Duration::from_mins(1)).await;
    }
    assert_eq!(app.times("webhooks").len(), 4, "in twenty minutes");
}

#[tokio::test(start_paused = true)]
async fn a_failing_backfill_is_retried_every_five_minutes() {
    let app = TestApp::new(|_| Reply::status(500));
    let now = app.clock.now();
    let time = |hours| (now - SignedDuration::from_hours(hours)).to_string();
    app.put_pending_range(
        now - SignedDuration::from_hours(3),
        Some(now - SignedDuration::from_hours(1)),
    );
    for _ in 0..20 {
        let result = app.invoke(json!({"task": "reconcile"})).await;
        assert!(result.is_ok() || result.unwrap_err().to_string().contains("Gladly answered 5"));
        sleep(Duration::from_mins(1)).await;
    }
    assert_eq!(app.times("events").len(), 4, "in twenty minutes");

    // An operator does not wait.
    let range = json!({"task": "backfill", "from": time(3), "to": time(1)});
    for _ in 0..3 {
        let answer = app.invoke(range.clone()).await.unwrap();
        assert_eq!((&answer["queued"], &answer["done"]), (&json!(0), &json!(false)));
        assert!(postponed(&answer).contains("Gladly answered 500"), "{answer}");
    }
    assert_eq!(app.times("events").len(), 7);
    assert_ne!(app.pending_backfill(), json!({}), "the range stays pending");
}

#[tokio::test(start_paused = true)]
async fn gladly_is_not_called_when_the_webhook_is_not_monitored() {
    for settings in [&[("WEBHOOK_URL", URL), ("WATCH_WEBHOOK", "false")][..], &[]] {
        let app = TestApp::with(settings, |_| Reply::status(500));
        app.task("reconcile").await;
        assert_eq!(app.task("status").await.get("webhook"), None);
        assert!(app.times("").is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_gladly_disabled_is_re_enabled_and_its_gap_is_backfilled() {
    let mut disabled = webhook(false);
    let (app, gladly) = watched(FakeGladly::default());
    let now = app.clock.now();
    disabled["disabledAtDueToRetryLimit"] =
        (now - SignedDuration::from_mins(10)).to_string().into();
    gladly.lock().unwrap().webhooks = json!([disabled]);
    // Before the gap, in it, and after.
    let ages = [150, 129, 60, 5];
    let mut events: Vec<_> = ages
        .iter()
        .enumerate()
        .map(|(number, age)| (number.try_into().unwrap(), *age))
        .map(|(number, age)| event(number, now - SignedDuration::from_mins(age)))
        .collect();
    events.push((now, "not JSON".into()));
    events.push((now, json!({"type": "CONTACT/STARTED", "content": {}}).to_string()));
    gladly.lock().unwrap().events = events;

    // The endpoint does not answer Gladly's PING yet.
    app.task("reconcile").await;
    let first = app.aws.state().writes[0].text.clone();
    let begins = now - SignedDuration::from_mins(130);
    assert_eq!(
        first,
        format!(
            r#"{{"ranges":[{{"since":"{begins}","from":"{begins}","to":"{begins}","lasts":true}}]}}"#
        )
    );
    assert_eq!(app.queued().len(), 3, "available events are queued already");
    assert_eq!(app.pending_backfill()["ranges"][0]["lasts"], true, "the gap still lasts");
    assert_eq!(app.task("status").await["webhook"]["enabled"], false);
    sleep(Duration::from_mins(2)).await;
    let late = app.clock.now() - SignedDuration::from_secs(10);
    gladly.lock().unwrap().events.push(event(4, late));
    gladly.lock().unwrap().pings = true;
    for _ in 0..6 {
        sleep(Duration::from_mins(1)).await;
        app.task("reconcile").await;
    }
    assert_eq!(app.task("status").await["webhook"]["enabled"], true);
    assert_eq!(app.pending_backfill(), json!({}), "the backfill is complete");
    assert_eq!(
        app.queued().into_iter().collect::<BTreeSet<_>>(),
        ["e-1", "e-2", "e-3", "e-4"].map(String::from).into()
    );
    app.assert_pause_is_the_operators();
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_re_enabling_the_webhook_loses_no_gap() {
    let (app, gladly) =
        watched(FakeGladly { webhooks: json!([webhook(true)]), ..FakeGladly::default() });
    let now = app.clock.now();
    gladly.lock().unwrap().events = vec![event(1, now - SignedDuration::from_mins(30))];
    app.put_pending_range(now - SignedDuration::from_mins(60), None);
    for _ in 0..3 {
        app.task("reconcile").await;
        sleep(Duration::from_mins(1)).await;
    }
    assert_eq!(app.queued(), ["e-1"]);
    assert_eq!(app.pending_backfill(), json!({}));
}

#[tokio::test(start_paused = true)]
async fn a_range_is_limited_to_what_gladly_lists_and_resumes_after_a_fault() {
    let (app, gladly) =
        watched(FakeGladly { webhooks: json!([webhook(true)]), ..FakeGladly::default() });
    let now = app.clock.now();
    let hours = |hours| now - SignedDuration::from_hours(hours);
    let at = |n: i32| hours(23) + SignedDuration::from_secs(i64::from(n) * 10);
    let events = (0..2_500).map(|n| event(n, at(n)));
    gladly.lock().unwrap().events = events.collect();
    let range =
        json!({"task": "backfill", "from": hours(48).to_string(), "to": hours(1).to_string()});

    app.aws.state().sqs_fault = Some(THROTTLED);
    let answer = app.invoke(range.clone()).await.unwrap();
    assert!(postponed(&answer).contains("could not send to SQS"), "{answer}");
    assert_eq!(
        (&answer["cut"], &answer["done"], answer.get("settling")),
        (&json!(true), &json!(false), None)
    );
    app.aws.state().sqs_fault = None;
    app.task("reconcile").await;
    assert_eq!(app.queued().len(), 2_500, "the controller continues automatically");
    assert_eq!(app.pending_backfill(), json!({}));

    let done = app.invoke(range).await.unwrap();
    assert_eq!(
        (&done["queued"], &done["cut"], &done["done"]),
        (&json!(2_500), &json!(true), &json!(true))
    );
    for (from, to) in [(hours(1), hours(2)), (hours(50), hours(30))] {
        let range = json!({"task": "backfill", "from": from.to_string(), "to": to.to_string()});
        let error = app.invoke(range).await.unwrap_err().to_string();
        assert!(error.contains("within the last 24 hours"), "{error}");
    }
    let error = app.invoke(json!({"task": "backfill"})).await.unwrap_err().to_string();
    assert!(error.starts_with("from is missing"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_partly_accepted_batch_is_queued_again() {
    let (app, gladly) =
        watched(FakeGladly { webhooks: json!([webhook(true)]), ..FakeGladly::default() });
    let begins = app.clock.now() - SignedDuration::from_hours(1);
    let at = |n: i32| begins + SignedDuration::from_secs(n.into());
    gladly.lock().unwrap().events = (0..25).map(|n| event(n, at(n))).collect();
    // SQS still answers 200.
    app.aws.state().sqs_faults = [Fault::Entries(0b101)].into();
    let range = json!({"task": "backfill", "from": begins.to_string()});
    let answer = app.invoke(range.clone()).await.unwrap();
    assert!(postponed(&answer).ends_with("SQS did not accept some of the messages: 2 of 10"));
    // Answered 200, without an id for any of them.
    app.aws.state().sqs_faults = [Fault::Unconfirmed(Unconfirmed::NoMessageId)].into();
    let answer = app.invoke(range).await.unwrap();
    assert!(postponed(&answer).ends_with("SQS did not accept some of the messages: 10 of 10"));
    sleep(Duration::from_mins(1)).await;
    app.task("reconcile").await;
    assert_eq!(app.queued().into_iter().collect::<BTreeSet<_>>().len(), 25);
    assert_eq!(app.pending_backfill(), json!({}));
}

#[tokio::test(start_paused = true)]
async fn an_import_queues_one_event_for_each_conversation_of_the_exports() {
    let now = Timestamp::now();
    let days = |days: i64| now - SignedDuration::from_hours(24 * days);
    let job = |id: &str, from: i64| {
        json!({"id": id, "status": "COMPLETED", "files": ["agents.jsonl", "conversation_items.jsonl"],
               "parameters": {"type": "X", "startAt": days(from).to_string(), "endAt": days(from - 1).to_string()}})
    };
    let item = |conversation: &str, day: i64| {
        let at = days(day) + SignedDuration::from_hours(1);
        json!({"id": "i", "conversationId": conversation, "customerId": "u", "timestamp": at.to_string(), "content": {}}).to_string()
    };
    let files = [
        [item("c-1", 4), item("c-2", 4), "garbage".to_owned(), json!({"id": "i"}).to_string()]
            .join("\n"),
        [item("c-1", 3), item("c-1", 3)].join("\n"),
    ];
    let fetched = Arc::new(AtomicUsize::new(0));
    let app = TestApp::new({
        let fetched = Arc::clone(&fetched);
        let jobs = json!([job("j-2", 3), job("j-1", 4), job("j-0", 9)]);
        move |path| match path {
            path if path.starts_with("api/v1/export/jobs?") => Reply::json(jobs.clone()),
            path if path.ends_with("/files/conversation_items.jsonl") => {
                fetched.fetch_add(1, Ordering::Relaxed);
                Reply::text(files[usize::from(path.contains("j-2"))].clone())
            }
            _ => healthy_reply(path),
        }
    });
    let range = json!({"task": "import", "from": days(5).to_string()});
    let done = app.invoke(range).await.unwrap();
    assert_eq!((&done["queued"], &done["done"]), (&json!(3), &json!(true)), "{done}");
    assert_eq!(fetched.load(Ordering::Relaxed), 2, "an export outside the range is not read");
    let messages = app.aws.state().messages.clone();
    let last: Value = serde_json::from_str(&messages[2].body).unwrap();
    assert_eq!(last["origin"], "backfill");
    assert_eq!(
        last["event"],
        json!({"type": "RELAY/IMPORTED", "timestamp": (days(3) + SignedDuration::from_hours(1)).to_string(),
               "content": {"customerId": "u", "conversationId": "c-1"}})
    );
    assert_eq!(messages[2].attributes, [("type".to_owned(), "RELAY/IMPORTED".to_owned())]);
}

/// Events with these numbers, ten seconds apart, starting at a time.
fn series(numbers: std::ops::Range<i32>, from: Timestamp) -> Vec<(Timestamp, String)> {
    let first = numbers.start;
    let at = |n: i32| from + SignedDuration::from_secs(i64::from(n - first) * 10);
    numbers.map(|n| event(n, at(n))).collect()
}

fn ids(numbers: std::ops::Range<i32>) -> BTreeSet<String> {
    numbers.map(|n| format!("e-{n}")).collect()
}

const HOUR: SignedDuration = SignedDuration::from_hours(1);

#[tokio::test(start_paused = true)]
async fn a_range_added_during_another_backfill_is_kept() {
    // With the lease, and with two concurrent invocations.
    for at_once in [false, true] {
        let (app, gladly) =
            watched(FakeGladly { webhooks: json!([webhook(true)]), ..FakeGladly::default() });
        let now = app.clock.now();
        let (old, new) = (now - 5 * HOUR, now - 2 * HOUR);
        {
            let mut gladly = gladly.lock().unwrap();
            gladly.events = [series(0..20, old), series(20..40, new)].concat();
            gladly.lists =
                [ListReply::Slow(Duration::from_secs(20)), ListReply::Unavailable].into();
            if !at_once {
                gladly.lists.pop_back();
            }
        }
        app.put_pending_range(new, Some(now - HOUR));
        let operator = app.another(&[("WEBHOOK_URL", URL)]);
        let requested = async {
            sleep(Duration::from_secs(10)).await;
            if at_once {
                app.aws.state().parameters.remove(LEASE).unwrap();
            }
            operator.backfill(old, now - 4 * HOUR).await
        };
        let (scheduled, requested) = join!(app.invoke(json!({"task": "reconcile"})), requested);
        scheduled.unwrap();
        if at_once {
            assert!(requested.unwrap()["postponed"].is_string());
            operator.schedule(7).await;
        } else {
            assert_eq!(
                requested.unwrap()["done"],
                false,
                "the schedule holds the lease, and continues it"
            );
        }
        assert_eq!(app.queued().into_iter().collect::<BTreeSet<_>>(), ids(0..40));
        assert_eq!(app.pending_backfill(), json!({}));
        assert_eq!(app.parameter(LEASE), Value::Null);
    }
}

#[tokio::test(start_paused = true)]
async fn a_gap_recorded_during_an_import_is_kept() {
    for list in [None, Some(ListReply::Unavailable)] {
        let (app, gladly) = watched(FakeGladly { pings: true, ..FakeGladly::default() });
        let now = app.clock.now();
        let mut disabled = webhook(false);
        disabled["disabledAtDueToRetryLimit"] = (now - HOUR).to_string().into();
        {
            let mut gladly = gladly.lock().unwrap();
            gladly.webhooks = json!([disabled]);
            gladly.events = series(0..40, now - HOUR);
            gladly.lists.extend(list);
            // Three files of 25 seconds.
            gladly.jobs = (0..3)
                .map(|n| {
                    let (from, to) = (now - (50 - n) * HOUR, now - (49 - n) * HOUR);
                    let at = from + HOUR / 2;
                    let lines = [item(&format!("x-{n}"), at), item(&format!("y-{n}"), at)];
                    (job(&format!("j-{n}"), from, to), Duration::from_millis(12_500), lines.into())
                })
                .collect();
        }
        let operator = app.another(&[("WEBHOOK_URL", URL)]);
        let watch = async {
            sleep(Duration::from_secs(40)).await;
            // The exports answer 503 immediately; the gap is recorded anyway.
            let _ = app.invoke(json!({"task": "reconcile"})).await;
        };
        let (imported, ()) = join!(operator.import(now - 60 * HOUR, now), watch);
        assert_eq!(imported.unwrap()["done"], true);
        app.schedule(7).await;
        let queued: BTreeSet<_> = app
            .aws
            .state()
            .messages
            .iter()
            .filter_map(|message| QueueMessage::read(&message.body).unwrap().event().unwrap().id)
            .map(|id| id.to_string())
            .collect();
        assert_eq!(queued, ids(0..40), "all of the gap");
        let conversations = app.conversations();
        assert!((0..3).all(|n| conversations.contains(&format!("x-{n}"))));
        assert_eq!((app.pending_backfill(), app.parameter(IMPORT)), (json!({}), json!({})));
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_import_does_not_drop_the_first() {
    let (app, gladly) =
        watched(FakeGladly { webhooks: json!([webhook(true)]), ..FakeGladly::default() });
    let now = app.clock.now();
    let day = 24 * HOUR;
    gladly.lock().unwrap().jobs = [5, 3]
        .map(|age| {
            let from = now - age * day;
            let lines = vec![item(&format!("c-{age}"), from + HOUR)];
            (job(&format!("j-{age}"), from, from + day), Duration::ZERO, lines)
        })
        .into();
    app.aws.state().sqs_fault = Some(THROTTLED);
    for from in [5, 3] {
        let from = now - from * day;
        let answer = app.import(from, from + day).await.unwrap();
        assert!(postponed(&answer).contains("could not send to SQS"), "{answer}");
    }
    app.aws.state().sqs_fault = None;
    app.schedule(1).await;
    assert_eq!(app.conversations(), ["c-3", "c-5"].map(String::from).into());
    assert_eq!(app.parameter(IMPORT), json!({}));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_counts_and_records_and_queues_nothing() {
    let (app, gladly) =
        watched(FakeGladly { webhooks: json!([webhook(true)]), ..FakeGladly::default() });
    let now = app.clock.now();
    {
        let mut gladly = gladly.lock().unwrap();
        gladly.events = series(0..25, now - HOUR);
        gladly.events.push((now - HOUR, "not JSON".into()));
        let at = now - 30 * HOUR;
        let lines = ["x", "y", "x"].map(|id| item(id, at + HOUR / 2)).into();
        gladly.jobs = vec![(job("j-1", at, at + HOUR), Duration::ZERO, lines)];
    }
    let dry_run = async |task: &str, from: Timestamp| {
        app.invoke(json!({"task": task, "from": from.to_string(), "dryRun": true})).await
    };
    let counted = dry_run("backfill", now - 30 * HOUR).await.unwrap();
    assert_eq!(
        (&counted["queued"], &counted["cut"], &counted["invalidLines"]),
        (&json!(25), &json!(true), &json!(1))
    );
    assert_eq!(
        (&counted["done"], &counted["settling"]),
        (&json!(false), &json!(true)),
        "the last moments cannot be counted yet"
    );
    let counted = dry_run("import", now - 40 * HOUR).await.unwrap();
    assert_eq!((&counted["queued"], &counted["done"]), (&json!(2), &json!(true)));

    // Nothing is recorded that could be continued: a failure is the invocation's.
    gladly.lock().unwrap().lists =
        [ListReply::Unavailable, ListReply::Unavailable, ListReply::Unavailable].into();
    let error = dry_run("backfill", now - HOUR).await.unwrap_err().to_string();
    assert!(error.contains("503"), "{error}");
    app.schedule(3).await;
    let account = app.aws.state();
    assert!(account.messages.is_empty() && account.writes.is_empty(), "{:?}", account.writes);
}

#[tokio::test(start_paused = true)]
async fn an_import_of_fourteen_days_of_hourly_exports_fits_into_its_parameter() {
    let (app, gladly) =
        watched(FakeGladly { webhooks: json!([webhook(true)]), ..FakeGladly::default() });
    let now = app.clock.now();
    gladly.lock().unwrap().jobs = (0..336)
        .map(|n| {
            let from = now - (336 - n) * HOUR;
            let lines = vec![item(&format!("c-{n}"), from + HOUR / 2)];
            (job(&format!("j-{n}"), from, from + HOUR), Duration::from_secs(2), lines)
        })
        .collect();
    let done = app.import(now - 20 * 24 * HOUR, now).await.unwrap();
    assert_eq!((&done["cut"], &done["done"]), (&json!(true), &json!(false)));
    assert!(done["queued"].as_u64().unwrap() > 100, "{done}");
    app.schedule(20).await;
    assert_eq!(app.parameter(IMPORT), json!({}));
    assert_eq!(app.conversations().len(), 336);
    let read = app.times("/files/").len();
    assert!((336..336 + 20).contains(&read), "{read} files were read");
    assert!(app.times("/export/jobs?").len() < 25, "the jobs are listed once an invocation");
}

#[tokio::test(start_paused = true)]
async fn an_export_job_longer_than_an_invocation_resumes_where_it_stopped() {
    for parts in [true, false] {
        let (app, gladly) = watched(FakeGladly {
            webhooks: json!([webhook(true)]),
            parts,
            ..FakeGladly::default()
        });
        let now = app.clock.now();
        let from = now - 30 * HOUR;
        let lines = |count| (0..count).map(|n| item(&format!("c-{n}"), from + HOUR)).collect();
        let slow = Duration::from_secs(10);
        gladly.lock().unwrap().jobs = vec![(job("j-1", from, from + 24 * HOUR), slow, lines(100))];
        for expected in 1.. {
            let done = app.import(from, now).await.unwrap();
            assert_eq!(app.parameter(LEASE), Value::Null);
            if done["done"] == true {
                break;
            }
            assert!(done["queued"].as_u64().unwrap() > 25, "{done}");
            assert!(expected < 5, "it ends");
            if !parts {
                // The slowness ends.
                gladly.lock().unwrap().jobs[0].1 = Duration::ZERO;
            }
        }
        assert_eq!(app.conversations().len(), 100);
        assert_eq!(app.aws.state().messages.len(), 100, "no line is read twice");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_line_exceeds_no_deadline_and_loses_no_earlier_line() {
    let now = Timestamp::now();
    let from = now - 2 * HOUR;
    let events = series(0..3, from);
    let parts = events[..2].iter().map(|(_, line)| (Duration::ZERO, format!("{line}\n")));
    let trickle = events[2].1.chars().map(|c| (Duration::from_secs(20), c.to_string()));
    let stream = Reply::stream(parts.chain(trickle).collect());
    let app = TestApp::new(move |path| match path {
        path if path.starts_with("api/v1/events?") => stream.clone(),
        path => healthy_reply(path),
    });
    let done = app.backfill(from, now - HOUR).await.unwrap();
    assert_eq!((&done["queued"], &done["done"]), (&json!(2), &json!(false)));
    assert_eq!(app.pending_backfill()["ranges"][0]["from"], events[1].0.to_string());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_export_job_does_not_stop_the_others() {
    let (app, gladly) =
        watched(FakeGladly { webhooks: json!([webhook(true)]), ..FakeGladly::default() });
    let now = app.clock.now();
    let day = 24 * HOUR;
    {
        let mut gladly = gladly.lock().unwrap();
        gladly.events = series(0..3, now - HOUR);
        gladly.jobs = [5, 4, 3]
            .map(|age| {
                let from = now - age * day;
                let lines = vec![item(&format!("x-{age}"), from + HOUR)];
                (job(&format!("j-{age}"), from, from + day), Duration::ZERO, lines)
            })
            .into();
        gladly.jobs[0].2.clear();
        gladly.jobs[1].2.clear();
    }
    let log = Log::default();
    let gate = log.listen(Level::ERROR);
    let done = app.import(now - 5 * day, now).await.unwrap();
    drop(gate);
    assert_eq!(
        (&done["queued"], &done["missingJobs"], &done["done"]),
        (&json!(1), &json!(2), &json!(true))
    );
    assert_eq!(log.text().matches("export job no longer exists").count(), 2, "{}", log.text());
    assert!(log.text().contains(r#""gladly.job_id":"j-5""#), "{}", log.text());

    // A failing import does not affect a backfill.
    gladly.lock().unwrap().jobs[2].0["id"] = json!("j-unknown");
    app.aws.put(IMPORT, "not a document");
    let done = app.backfill(now - 2 * HOUR, now - HOUR / 2).await.unwrap();
    assert_eq!((&done["queued"], &done["done"]), (&json!(3), &json!(true)));
}

#[tokio::test(start_paused = true)]
async fn a_truncated_list_resumes_where_it_was_cut() {
    let (app, gladly) =
        watched(FakeGladly { webhooks: json!([webhook(true)]), ..FakeGladly::default() });
    let begins = app.clock.now() - 10 * HOUR;
    {
        let mut gladly = gladly.lock().unwrap();
        gladly.events = series(0..3_000, begins);
        gladly.lists = (0..100).map(|_| ListReply::Cut(1_000)).collect();
    }
    app.put_pending_range(begins, Some(begins + 9 * HOUR));
    app.schedule(6).await;
    assert_eq!(app.pending_backfill(), json!({}));
    assert_eq!(app.queued().into_iter().collect::<BTreeSet<_>>(), ids(0..3_000));
    assert!(app.queued().len() < 3_010, "{}", app.queued().len());
}

#[tokio::test(start_paused = true)]
async fn a_throttled_download_pauses_all_calls_for_its_retry_after() {
    let (app, gladly) =
        watched(FakeGladly { webhooks: json!([webhook(true)]), ..FakeGladly::default() });
    let begins = app.clock.now() - 2 * HOUR;
    {
        let mut gladly = gladly.lock().unwrap();
        gladly.events = series(0..20, begins);
        gladly.lists = [ListReply::Throttled(600)].into();
    }
    app.put_pending_range(begins, Some(begins + HOUR));
    app.schedule(20).await;
    let throttled = app.times("api/v1/events")[0];
    let next = app.times("api/v1").into_iter().find(|at| *at > throttled).unwrap();
    assert!(next - throttled >= Duration::from_mins(10), "{:?}", next - throttled);
    assert_eq!(app.queued().into_iter().collect::<BTreeSet<_>>(), ids(0..20));
}

#[tokio::test(start_paused = true)]
async fn the_calls_of_the_controller_and_of_batches_have_one_rate_limit() {
    let rate = [("WEBHOOK_URL", URL), ("GLADLY_REQUESTS_PER_SECOND", "2")];
    let (app, gladly) =
        watched(FakeGladly { webhooks: json!([webhook(true)]), ..FakeGladly::default() });
    let app = app.another(&rate);
    let now = app.clock.now();
    gladly.lock().unwrap().events = series(0..20, now - 2 * HOUR);
    let records = records(10);
    let (backfilled, _) = join!(
        app.backfill(now - 2 * HOUR, now - HOUR),
        settle(&app.extractor, &app.aws, &records, LEFT)
    );
    backfilled.unwrap();
    app.schedule(10).await;
    let (times, listed) = (app.times("api/v1"), app.times("api/v1/events"));
    assert!(!listed.is_empty() && !app.times("api/v1/webhooks").is_empty());
    assert!(times.len() > 20, "{}", times.len());
    for pair in times.windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_millis(500), "{:?}", pair[1] - pair[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_rejected_during_a_token_change_is_retried_with_the_new_token() {
    let (app, gladly) =
        watched(FakeGladly { webhooks: json!([webhook(true)]), ..FakeGladly::default() });
    let now = app.clock.now();
    let aws = app.aws.clone();
    {
        let mut gladly = gladly.lock().unwrap();
        gladly.events = series(0..20, now - 2 * HOUR);
        gladly.lists = [ListReply::Unauthorized].into();
        gladly.on_refusal = Some(Box::new(move || aws.put("/relay/gladly-token", "another-token")));
    }
    let answer = app.backfill(now - 2 * HOUR, now - HOUR).await.unwrap();
    assert!(postponed(&answer).contains("the Gladly token was replaced during the call"));
    app.schedule(7).await;
    assert_eq!(app.queued().into_iter().collect::<BTreeSet<_>>(), ids(0..20));
}

#[tokio::test(start_paused = true)]
async fn while_the_webhook_is_disabled_each_check_resumes_where_the_last_one_stopped() {
    let (app, gladly) = watched(FakeGladly::default());
    let now = app.clock.now();
    let mut disabled = webhook(false);
    disabled["disabledAtDueToRetryLimit"] = now.to_string().into();
    gladly.lock().unwrap().webhooks = json!([disabled]);
    gladly.lock().unwrap().events = series(0..100, now - HOUR);
    app.schedule(60).await;
    assert_eq!(app.queued().into_iter().collect::<BTreeSet<_>>(), ids(0..100));
    assert_eq!(app.queued().len(), 100, "each once");
    assert!(app.times("webhooks/w-1").len() >= 10, "and each check tries to re-enable it");
    // Another environment's check knows the gap too.
    let another = app.another(&[("WEBHOOK_URL", URL)]);
    another.schedule(6).await;
    assert_eq!(app.queued().len(), 100);
    gladly.lock().unwrap().pings = true;
    another.schedule(7).await;
    assert_eq!(app.pending_backfill(), json!({}));
}

#[tokio::test(start_paused = true)]
async fn an_import_starts_at_the_oldest_time_that_gladly_accepts() {
    let requested = Arc::new(Mutex::new(None));
    let app = TestApp::new({
        let requested = Arc::clone(&requested);
        move |path| match path.strip_prefix("api/v1/export/jobs?status=COMPLETED&startAt=") {
            Some(since) => {
                let since: Timestamp = since.parse().unwrap();
                *requested.lock().unwrap() = Some(since);
                Reply::json(json!([job("j-1", since, since + 24 * HOUR)]))
            }
            None if path.contains("/files/") => Reply::text(String::new()),
            None => healthy_reply(path),
        }
    });
    let now = app.clock.now();
    let oldest = now - 14 * 24 * HOUR;
    for (from, cut) in [(oldest - 100 * HOUR, true), (oldest, true), (oldest + 2 * HOUR, false)] {
        let done = app.import(from, now).await.unwrap();
        let since = requested.lock().unwrap().unwrap();
        assert!(since >= oldest + SignedDuration::from_secs(30), "Gladly refuses {since}");
        assert_eq!(done["cut"] == true, cut, "{done}");
    }
    let error = app.import(oldest - HOUR, oldest).await.unwrap_err().to_string();
    assert!(error.contains("within the last 14 days"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_line_needs_only_its_conversation_and_invalid_lines_are_counted() {
    let (app, gladly) =
        watched(FakeGladly { webhooks: json!([webhook(true)]), ..FakeGladly::default() });
    let now = app.clock.now();
    let from = now - 30 * HOUR;
    let at = from + HOUR;
    let long_fraction = format!("{}.1234567891Z", at.strftime("%Y-%m-%dT%H:%M:%S"));
    let lines = vec![
        format!("\u{feff}{}", item("c-0", at)),
        json!({"conversationId": "c-1", "customerId": 7, "timestamp": at.to_string()}).to_string(),
        json!({"conversationId": "c-2", "timestamp": long_fraction}).to_string(),
        json!({"conversationId": "c-3", "timestamp": "yesterday", "content": {"text": "\u{0}"}})
            .to_string(),
        json!({"conversationId": "c-4", "customerId": null, "timestamp": 5}).to_string(),
        format!(r#"{{"conversationId":"c-5","x":"\ud800","x":1,"timestamp":"{at}"}} "#),
        String::new(),
        "garbage".into(),
        json!({"id": "i"}).to_string(),
        json!({"conversationId": 7, "timestamp": at.to_string()}).to_string(),
        json!({"conversationId": "../x", "timestamp": at.to_string()}).to_string(),
        item("outside", from - HOUR),
    ];
    gladly.lock().unwrap().jobs = vec![(job("j-1", from, now - HOUR), Duration::ZERO, lines)];
    let log = Log::default();
    let gate = log.listen(Level::WARN);
    let done = app.import(from, now).await.unwrap();
    drop(gate);
    assert_eq!((&done["queued"], &done["invalidLines"]), (&json!(6), &json!(4)), "{done}");
    let text = log.text();
    assert!(text.contains("ignored malformed lines") && text.contains(r#""count":4"#), "{text}");
    assert_eq!(app.conversations(), (0..6).map(|n| format!("c-{n}")).collect());
    let events: Vec<Value> = {
        let messages = &app.aws.state().messages;
        messages.iter().map(|m| serde_json::from_str(&m.body).unwrap()).collect()
    };
    let of = |n: usize| {
        let id = format!("c-{n}");
        let event = |message: &&Value| message["event"]["content"]["conversationId"] == id;
        events.iter().find(event).unwrap()["event"].clone()
    };
    assert_eq!(
        of(1),
        json!({"type": "RELAY/IMPORTED", "timestamp": at.to_string(), "content": {"conversationId": "c-1"}})
    );
    assert_eq!(of(3), json!({"type": "RELAY/IMPORTED", "content": {"conversationId": "c-3"}}));
    let fraction = format!("{}.123456789Z", at.strftime("%Y-%m-%dT%H:%M:%S"));
    assert_eq!(of(2)["timestamp"], fraction);

    app.aws.state().messages.clear();
    let at = now - HOUR;
    gladly.lock().unwrap().events = vec![
        (at, format!("\u{feff}{}", event(0, at).1)),
        (at, "garbage".into()),
        (at, json!({"type": "A", "content": {"conversationId": 7}}).to_string()),
        (at, json!({"type": "CONTACT/STARTED", "content": {}}).to_string()),
        event(1, at),
    ];
    let done = app.backfill(now - 2 * HOUR, now - HOUR / 2).await.unwrap();
    assert_eq!((&done["queued"], &done["invalidLines"]), (&json!(2), &json!(2)), "{done}");
}

#[tokio::test(start_paused = true)]
async fn events_that_gladly_no_longer_lists_are_an_error_and_the_rest_is_queued() {
    let (app, gladly) =
        watched(FakeGladly { webhooks: json!([webhook(true)]), ..FakeGladly::default() });
    let now = app.clock.now();
    gladly.lock().unwrap().events = series(0..3, now - 2 * HOUR);
    let log = Log::default();
    let gate = log.listen(Level::ERROR);
    app.put_pending_range(now - 40 * HOUR, Some(now - 30 * HOUR));
    app.schedule(1).await;
    assert_eq!(app.pending_backfill(), json!({}), "none of it is available");
    app.put_pending_range(now - 30 * HOUR, Some(now - HOUR));
    app.schedule(1).await;
    drop(gate);
    let lost = "events are outside Gladly's 24 h window and are lost; no import brings deletions";
    assert_eq!(log.text().matches(lost).count(), 2, "{}", log.text());
    assert!(log.text().contains(r#""before":""#));
    assert_eq!(app.queued().into_iter().collect::<BTreeSet<_>>(), ids(0..3));
    assert_eq!(app.pending_backfill(), json!({}));
}
