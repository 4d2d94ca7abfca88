//! Renewal: held events outlive their queue's retention.

use std::collections::{BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use testing::aws::{Fault, THROTTLED, Unconfirmed};
use tokio::time::{Duration, sleep};

use crate::{
    deadlines::{LEFT, TestApp, healthy_reply, records},
    settle,
};

const HOUR: SignedDuration = SignedDuration::from_hours(1);

impl TestApp {
    /// The bodies in a queue, and when each was sent.
    fn held(&self, queue: &str) -> Vec<(Timestamp, String)> {
        let now = self.clock.now();
        let mut state = self.aws.state();
        state.queue(queue, now).bodies().map(|(sent, body)| (sent, body.to_string())).collect()
    }

    fn fill(&self, queue: &str, count: usize) -> BTreeSet<String> {
        let now = self.clock.now();
        let bodies: BTreeSet<_> = (0..count).map(|n| format!("{{\"n\":{n}}}")).collect();
        for body in &bodies {
            let kind = vec![("type".to_owned(), "A".to_owned())];
            self.aws.state().send(queue, body, kind, 0, now);
        }
        bodies
    }

    fn renewal_state(&self) -> Value {
        let text = self.aws.state().parameters.get("/relay/pause-renewal").cloned();
        text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn records_near_expiry_are_re_enqueued() {
    for (text, waits) in [("paused", true), ("running", false)] {
        let app = TestApp::new(move |path| {
            if waits { healthy_reply(path) } else { testing::connector::Reply::status(503) }
        });
        app.aws.put("/relay/pause", text);
        // The queue keeps messages for 96 hours.
        for (age, late) in [(65, false), (67, true), (95, true)] {
            app.aws.state().messages.clear();
            let records: Vec<_> = records(12).into_iter().map(|r| r.sent_ago(HOUR * age)).collect();
            let settled = settle(&app.extractor, &app.aws, &records, LEFT).await;
            let sent = app.aws.state().messages.clone();
            if late {
                settled.is_done();
                let bodies: BTreeSet<_> = sent.iter().map(|message| message.body.clone()).collect();
                assert_eq!(bodies, records.iter().map(|record| record.body.clone()).collect());
                let kind = [("type".to_owned(), "A".to_owned())];
                assert!(sent.iter().all(|sent| sent.queue == "events" && sent.attributes == kind));
            } else {
                assert_eq!((settled.kept.len(), sent.len()), (12, 0), "{age} h");
            }
        }
        let now = app.clock.now();
        let visible = app.aws.state().receive("events", 10, None, now).unwrap();
        assert!(visible.is_empty(), "their delay is the visibility timeout they would have had");
    }
}

#[tokio::test(start_paused = true)]
async fn events_expire_when_renewal_is_disabled() {
    let app = TestApp::with(&[("RENEW_HELD_EVENTS", "false")], healthy_reply);
    app.aws.put("/relay/pause", "paused");
    let records: Vec<_> = records(3).into_iter().map(|record| record.sent_ago(HOUR * 95)).collect();
    let settled = settle(&app.extractor, &app.aws, &records, LEFT).await;
    assert_eq!(settled.kept.len(), 3);
    app.fill("events", 3);
    for _ in 0..100 {
        app.task("reconcile").await;
        sleep(Duration::from_hours(1)).await;
    }
    assert!(app.held("events").is_empty());
    assert!(app.aws.state().messages.is_empty(), "nothing was sent");
    let status = app.task("status").await;
    assert_eq!((&status["backlog"], &status["renews"]), (&json!(0), &json!(false)));
}

#[tokio::test(start_paused = true)]
async fn records_that_cannot_be_re_enqueued_are_returned() {
    let app = TestApp::new(healthy_reply);
    app.aws.put("/relay/pause", "paused");
    let records: Vec<_> = records(1).into_iter().map(|record| record.sent_ago(HOUR * 95)).collect();
    // The retention is read only once.
    for fault in [
        THROTTLED,
        Fault::Unconfirmed(Unconfirmed::NoMessageId),
        Fault::Unconfirmed(Unconfirmed::OtherMd5),
    ] {
        app.aws.state().sqs_fault = Some(fault);
        let settled = settle(&app.extractor, &app.aws, &records, LEFT).await;
        assert_eq!(settled.kept, ["m-0"], "{fault:?}");
    }
    app.aws.state().sqs_fault = None;
    sleep(Duration::from_secs(10)).await;
    settle(&app.extractor, &app.aws, &records, LEFT).await.is_done();
}

#[tokio::test(start_paused = true)]
async fn an_original_is_deleted_only_after_sqs_confirms_its_copy() {
    for how in [Unconfirmed::NoMessageId, Unconfirmed::OtherMd5, Unconfirmed::NoMd5] {
        let app = TestApp::new(healthy_reply);
        app.aws.put("/relay/pause", "paused");
        app.task("reconcile").await;
        let events = app.fill("events", 25);
        sleep(Duration::from_hours(47)).await;
        app.aws.state().sqs_fault = Some(Fault::Unconfirmed(how));
        for _ in 0..60 {
            app.task("reconcile").await;
            sleep(Duration::from_mins(1)).await;
        }
        assert_eq!(bodies(&app), events, "{how:?}: none is deleted");
        assert!(app.aws.state().messages.is_empty(), "{how:?}");
        app.aws.state().sqs_fault = None;
        for _ in 0..60 {
            app.task("reconcile").await;
            sleep(Duration::from_mins(1)).await;
        }
        assert_eq!(bodies(&app), events, "{how:?}: each is there once");
        assert_eq!(app.aws.state().messages.len(), 25, "{how:?}: and renewed");
    }
}

fn bodies(app: &TestApp) -> BTreeSet<String> {
    app.held("events").into_iter().map(|(_, body)| body).collect()
}

#[tokio::test(start_paused = true)]
async fn a_long_pause_loses_nothing_and_costs_one_receive_per_renewal() {
    let app = TestApp::new(healthy_reply);
    app.aws.put("/relay/pause", "paused");
    app.task("reconcile").await;
    let (events, quarantined) = (app.fill("events", 250), app.fill("quarantine", 15));
    app.aws.state().queue("quarantine", app.clock.now()).retention = HOUR * 14 * 24;
    let mut before = app.aws.state().sqs_calls;
    let mut busy = Vec::new();
    for hour in 0..12 * 24 {
        app.task("reconcile").await;
        let calls = app.aws.state().sqs_calls - before;
        if calls > 20 {
            busy.push(hour);
        }
        sleep(Duration::from_hours(1)).await;
        before = app.aws.state().sqs_calls;
    }
    let now = app.clock.now();
    for (queue, bodies, most) in [("events", events, 48), ("quarantine", quarantined, 7 * 24)] {
        let held = app.held(queue);
        assert_eq!(held.len(), bodies.len(), "no copy is left behind in {queue}");
        assert_eq!(held.iter().map(|(_, body)| body.clone()).collect::<BTreeSet<_>>(), bodies);
        let oldest = held.iter().map(|(sent, _)| now.duration_since(*sent)).max().unwrap();
        assert!(oldest <= HOUR * (most + 2), "{queue}: {oldest:?}");
    }
    let receives = app.aws.state().receive("events", 10, None, now).unwrap();
    assert!(receives.iter().all(|message| message.receives <= 3), "copies start with no receives");
    assert!(receives.iter().all(|message| message.attributes[0].0 == "type"));
    assert!((7..30).contains(&busy.len()), "most hours nothing is received: {busy:?}");
    app.assert_pause_is_the_operators();
}

#[tokio::test(start_paused = true)]
async fn a_renewal_pass_resumes_after_a_fault() {
    let app = TestApp::new(healthy_reply);
    app.aws.put("/relay/pause", "paused");
    app.task("reconcile").await;
    let events = app.fill("events", 1_000);
    sleep(Duration::from_hours(49)).await;
    // Some calls succeed, some entries of a batch fail, then every call fails.
    let mut faults = VecDeque::from([Fault::Entries(0); 150]);
    faults.extend([Fault::Entries(0b101); 3]);
    faults.extend([THROTTLED; 9]);
    app.aws.state().sqs_faults = faults;
    // Whether the invocation fails depends on which call is throttled last.
    let _ = app.invoke(json!({"task": "reconcile"})).await;
    let begun = app.renewal_state()["events"]["pass"].clone();
    let renewed = begun["renewed"].as_u64().unwrap();
    assert!((100..1_000).contains(&renewed), "{renewed}");

    sleep(Duration::from_mins(1)).await;
    while let Some(pass) = app.renewal_state()["events"].get("pass") {
        assert_eq!(pass["begunAt"], begun["begunAt"]);
        app.task("reconcile").await;
        sleep(Duration::from_mins(1)).await;
    }
    let old = |held: &[(Timestamp, String)]| {
        let now = app.clock.now();
        held.iter().filter(|(sent, _)| now.duration_since(*sent) > HOUR * 40).count()
    };
    let missed = old(&app.held("events"));
    assert!(missed < 25, "{missed}");

    // They are retried, sooner than usual.
    for _ in 0..13 {
        sleep(Duration::from_hours(1)).await;
        app.task("reconcile").await;
    }
    let held = app.held("events");
    assert_eq!(old(&held), 0);
    assert_eq!(held.iter().map(|(_, body)| body.clone()).collect::<BTreeSet<_>>(), events);
    assert!(held.len() <= 1_020, "a copy or two, of what could not be deleted: {}", held.len());
}

/// Events that come every minute, each in its settle window of five minutes, as ingest-fn sends them.
/// The mapping takes them at once.
async fn flow(app: &TestApp, minutes: u32) {
    for minute in 0..minutes {
        sleep(Duration::from_mins(1)).await;
        let (now, body) = (app.clock.now(), format!("{{\"flows\":{minute}}}"));
        app.aws.state().send("events", &body, Vec::new(), 300, now);
        let seen = app.aws.state().receive("events", 10, None, now).unwrap();
        for message in seen {
            app.aws.state().delete(&message.receipt, now);
        }
        app.task("reconcile").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_live_queue_is_neither_old_nor_renewed() {
    let app = TestApp::new(healthy_reply);
    // Half the retention, and half of that.
    flow(&app, 72 * 60).await;
    let status = app.task("status").await;
    assert_eq!((&status["backlog"], &status["delayed"]), (&json!(5), &json!(5)), "{status}");
    let age = status["oldestEventAgeSeconds"].as_i64().unwrap();
    assert!(age <= 900, "{status}");
    assert_eq!(status["expiresInSeconds"], 96 * 3_600 - age, "{status}");
    assert!(status["drainSeconds"].as_i64() >= Some(300), "{status}");
    assert!(app.aws.state().messages.is_empty(), "nothing was renewed");

    // What becomes visible is bound by when nothing else waited.
    let now = app.clock.now();
    app.aws.state().send("events", "{}", Vec::new(), 0, now);
    let status = app.task("status").await;
    let age = status["oldestEventAgeSeconds"].as_i64().unwrap();
    assert!((900..=3_600 * 13).contains(&age), "{status}");
}

#[tokio::test(start_paused = true)]
async fn events_that_a_pass_cannot_see_in_their_window_are_renewed_by_the_next() {
    let app = TestApp::new(healthy_reply);
    let now = app.clock.now();
    app.aws.state().queue("events", now).retention = HOUR * 24;
    app.aws.put("/relay/pause", "paused");
    app.task("reconcile").await;
    let mut events = app.fill("events", 5);
    // Around the first pass, at half of the retention.
    for quarter in 0..180 {
        if (150..=156).contains(&quarter) {
            let now = app.clock.now();
            let body = format!("{{\"delayed\":{quarter}}}");
            app.aws.state().send("events", &body, Vec::new(), 900, now);
            events.insert(body);
        }
        for _ in 0..5 {
            app.task("reconcile").await;
            sleep(Duration::from_mins(1)).await;
        }
    }
    // Three retentions later, nothing has expired.
    for _ in 0..72 {
        for _ in 0..4 {
            app.task("reconcile").await;
            sleep(Duration::from_mins(15)).await;
        }
    }
    assert_eq!(bodies(&app), events);
}
