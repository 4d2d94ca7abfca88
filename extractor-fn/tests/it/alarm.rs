//! The template's alarms about the extractor and its controller, raised by the metrics that the
//! code writes on a virtual clock. Each scenario is good, then bad, then good again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use shared::{Origin, QueueMessage};
use testing::{
    alarm::Timeline,
    aws::{Fault, THROTTLED},
    connector::Reply,
    record::SqsRecord,
};
use tokio::time::{Duration, sleep};

use crate::{
    backfill::{FakeGladly, watched, webhook},
    deadlines::{LEFT, TestApp, healthy_reply, records},
    raw_record, settle,
};

impl TestApp {
    /// The metrics from the app's start until now.
    fn timeline(&self) -> Timeline {
        let end = self.clock.now();
        let lasted = SignedDuration::try_from(self.began.elapsed()).unwrap();
        self.metrics.timeline(end - lasted, end)
    }

    /// Lets so many minutes pass, with the schedule's call at the begin of each and Lambda's count of its failure.
    async fn minutes(&self, minutes: u32) {
        for _ in 0..minutes {
            let began = tokio::time::Instant::now();
            let failed = self.invoke(json!({"task": "reconcile"})).await.is_err();
            let now = self.clock.now();
            let errors = ("AWS/Lambda", "Errors");
            let function = ("FunctionName", "ExtractorFunction");
            self.metrics.push_from_aws(now, errors, function, failed.into());
            let held = self.aws.state().queue("quarantine", now).len() as u64;
            let visible = ("AWS/SQS", "ApproximateNumberOfMessagesVisible");
            self.metrics.push_from_aws(now, visible, ("QueueName", "QuarantineQueue"), held);
            sleep(Duration::from_mins(1).saturating_sub(began.elapsed())).await;
        }
    }

    /// A minute of trouble, which the next makes good, then an hour of it.
    async fn trouble(&self, begin: impl Fn(), end: impl Fn()) {
        for minutes in [1, 60] {
            begin();
            self.minutes(minutes).await;
            end();
            self.minutes(30).await;
        }
    }
}

/// The events queue and its mapping: in the order in which they can be seen, records go to the extractor in batches.
struct Events<'a> {
    app: &'a TestApp,
    /// From when on each can be seen.
    waiting: Vec<(Timestamp, SqsRecord)>,
    sent: usize,
}

impl<'a> Events<'a> {
    fn of(app: &'a TestApp) -> Self {
        Self { app, waiting: Vec::new(), sent: 0 }
    }

    /// An event is received and comes into the queue at these times from now.
    fn send(&mut self, conversation: &str, origin: Origin, received: i64, queued: i64) {
        let at = |minutes| self.app.clock.now() + SignedDuration::from_mins(minutes);
        let id = self.sent;
        let event = json!({"id": format!("e-{id}"), "type": "A", "content": {"conversationId": conversation}});
        let event = event.to_string();
        let message = QueueMessage::wrap(&event, at(received), origin).unwrap();
        let record = raw_record(id, &message.to_json().unwrap());
        self.waiting.push((at(queued), record.sent(at(queued))));
        self.sent += 1;
    }

    /// So many events of as many conversations come in each of these minutes from now.
    fn arrive(&mut self, minutes: std::ops::Range<i64>, each_minute: usize) {
        for minute in minutes {
            for _ in 0..each_minute {
                self.send(&format!("c-{}", self.sent), Origin::Webhook, minute, minute);
            }
        }
    }

    /// Lets so many minutes pass, in which the controller is called and what can be seen is extracted.
    async fn pass(&mut self, minutes: i64) {
        let end = self.app.clock.now() + SignedDuration::from_mins(minutes);
        while self.app.clock.now() < end {
            self.app.minutes(1).await;
            let now = self.app.clock.now();
            self.waiting.sort_by_key(|(from, _)| *from);
            let seen = self.waiting.partition_point(|(from, _)| *from <= now).min(500);
            if seen == 0 {
                continue;
            }
            let mut batch: Vec<_> = self.waiting.drain(..seen).map(|(_, record)| record).collect();
            let settled = settle(&self.app.extractor, &self.app.aws, &batch, LEFT).await;
            batch.retain(|record| settled.kept.contains(&record.id));
            let now = self.app.clock.now();
            let back = batch.into_iter().map(|record| {
                let wait = SignedDuration::from_secs(settled.visibility[&record.id]);
                let receives = record.receives + 1;
                (now + wait, record.received(receives))
            });
            self.waiting.extend(back);
        }
    }
}

const OF_THE_CONTROLLER: [&str; 3] =
    ["ControllerSilentAlarm", "ExtractorErrorsAlarm", "ExpiryAlarm"];

/// An app whose Gladly rejects the credentials while the flag is set.
fn with_rejectable_credentials() -> (TestApp, Arc<AtomicBool>) {
    let rejects = Arc::new(AtomicBool::new(false));
    let app = TestApp::new({
        let rejects = Arc::clone(&rejects);
        move |path| {
            let rejected = path.starts_with("api/") && rejects.load(Relaxed);
            if rejected { Reply::status(401) } else { healthy_reply(path) }
        }
    });
    (app, rejects)
}

async fn held_for_four_days(renew: &str) -> Timeline {
    let app = TestApp::with(&[("RENEW_HELD_EVENTS", renew)], healthy_reply);
    app.aws.put("/relay/pause", "paused");
    let now = app.clock.now();
    app.aws.state().send("events", "held", Vec::new(), 0, now);
    for _ in 0..4 * 24 * 12 {
        app.task("reconcile").await;
        sleep(Duration::from_mins(5)).await;
    }
    app.aws.put("/relay/pause", "running");
    let now = app.clock.now();
    let left = app.aws.state().receive("events", 10, None, now).unwrap();
    for message in left {
        app.aws.state().delete(&message.receipt, now);
    }
    app.minutes(60).await;
    app.timeline()
}

#[tokio::test(start_paused = true)]
async fn an_intake_above_the_quotas_share_raises_the_alarm_until_it_is_worked_off() {
    // Two calls an event, one a second, five minutes of six: 25 events a minute.
    let app = TestApp::with(&[("GLADLY_REQUESTS_PER_SECOND", "1")], healthy_reply);
    let mut events = Events::of(&app);
    events.arrive(0..30, 5);
    events.arrive(30..90, 60);
    events.arrive(90..280, 1);
    events.pass(280).await;
    let metrics = app.timeline();
    // Too much from 30 to 90: half an hour late from some 75 on, worked off at some 180, and seen for 75 minutes more.
    metrics.raises("LateAlarm", 70..=90, 250..=275);
    metrics.never_raises(&OF_THE_CONTROLLER);
    metrics.never_raises(&["PausedAlarm", "BreakerAlarm", "QuarantineAlarm"]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_again_and_again_is_late_before_it_is_delivered() {
    let fails = Arc::new(AtomicBool::new(true));
    let app = TestApp::new({
        let fails = Arc::clone(&fails);
        move |path| {
            let stuck = path.ends_with("conversations/stuck") && fails.load(Relaxed);
            if stuck { Reply::status(500) } else { healthy_reply(path) }
        }
    });
    let mut events = Events::of(&app);
    events.arrive(0..400, 1);
    events.send("stuck", Origin::Webhook, 30, 30);
    events.pass(240).await;
    fails.store(false, Relaxed);
    events.pass(160).await;
    assert!(events.waiting.is_empty());
    let metrics = app.timeline();
    // From 30 to 240, and delivered at its next try, within 72 minutes.
    metrics.raises("LateAlarm", 60..=75, 315..=400);
    metrics.never_raises(&OF_THE_CONTROLLER);
    metrics.never_raises(&["BreakerAlarm", "QuarantineAlarm"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_hold_or_an_operator_made_late_raises_no_alarm() {
    let (app, rejects) = with_rejectable_credentials();
    let mut events = Events::of(&app);
    events.arrive(0..90, 1);
    events.pass(90).await;
    // Three hours of pause, of which the mapping hands nothing out.
    app.aws.put("/relay/pause", "paused");
    events.arrive(0..180, 1);
    app.minutes(180).await;
    app.aws.put("/relay/pause", "running");
    events.pass(30).await;
    // A pause that ends by itself.
    let until = app.clock.now() + SignedDuration::from_mins(90);
    app.aws.put("/relay/pause", &json!({"state": "paused", "until": until}).to_string());
    events.arrive(0..90, 1);
    app.minutes(90).await;
    events.pass(30).await;
    // The breaker, for an hour and a half.
    rejects.store(true, Relaxed);
    events.arrive(0..90, 1);
    events.pass(90).await;
    rejects.store(false, Relaxed);
    app.aws.put("/relay/gladly-token", "another-token");
    events.pass(60).await;
    // An operator has queued again what is days old.
    for minute in 0..30 {
        events.send("redriven", Origin::Webhook, -5_000, minute);
        events.send("backfilled", Origin::Backfill, -5_000, minute);
    }
    events.pass(60).await;
    assert!(events.waiting.is_empty());
    let metrics = app.timeline();
    metrics.never_raises(&["LateAlarm", "QuarantineAlarm"]);
    metrics.never_raises(&OF_THE_CONTROLLER);
}

#[tokio::test(start_paused = true)]
async fn what_was_renewed_without_a_hold_is_late_all_the_same() {
    let app = TestApp::new(healthy_reply);
    let mut events = Events::of(&app);
    events.arrive(0..240, 1);
    // Each is sent again after an hour, and then waits behind others for three quarters of one.
    for minute in 0..30 {
        events.send("renewed", Origin::Webhook, minute, minute + 60);
        events.waiting.last_mut().unwrap().0 += SignedDuration::from_mins(45);
    }
    events.pass(240).await;
    let metrics = app.timeline();
    metrics.raises("LateAlarm", 105..=112, 205..=220);
}

#[tokio::test(start_paused = true)]
async fn an_extractor_that_cannot_extract_raises_the_alarm_about_errors() {
    let app = TestApp::new(healthy_reply);
    app.minutes(30).await;
    // Disabled by hand: for once it is enabled again, then the permission for that is gone as well.
    let refused = Fault::Refused(403, "AccessDeniedException");
    for fault in [None, Some(refused)] {
        let now = app.clock.now();
        app.aws.state().mapping.switch(false, now);
        app.aws.state().lambda_fault = fault;
        app.minutes(60).await;
        app.aws.state().lambda_fault = None;
        app.minutes(30).await;
        assert_eq!(app.aws.state().mapping.state(app.clock.now()), "Enabled");
    }
    let metrics = app.timeline();
    // Disabled from 30 and enabled within a minute; from 120 to 180 it cannot be.
    metrics.raises("ExtractorErrorsAlarm", 125..=131, 180..=192);
    metrics.never_raises(&["LateAlarm", "PausedAlarm", "BreakerAlarm"]);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_pause_raises_its_alarm_and_a_short_one_does_not() {
    let app = TestApp::new(healthy_reply);
    app.minutes(60).await;
    app.aws.put("/relay/pause", "paused");
    app.minutes(180).await;
    app.aws.put("/relay/pause", "running");
    app.minutes(60).await;
    app.aws.put("/relay/pause", "paused");
    app.minutes(360).await;
    app.aws.put("/relay/pause", "running");
    app.minutes(120).await;
    let metrics = app.timeline();
    // Paused from 300 to 660, and before that for three hours.
    metrics.raises("PausedAlarm", 540..=545, 660..=665);
    metrics.never_raises(&OF_THE_CONTROLLER);
    metrics.never_raises(&["BreakerAlarm", "QuarantineAlarm"]);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_stays_open_raises_its_alarm_and_one_that_heals_does_not() {
    let (app, rejects) = with_rejectable_credentials();
    app.minutes(20).await;
    // A token that was replaced within two minutes.
    for minutes in [2, 60] {
        rejects.store(true, Relaxed);
        settle(&app.extractor, &app.aws, &records(3), LEFT).await;
        app.minutes(minutes).await;
        rejects.store(false, Relaxed);
        app.aws.put("/relay/gladly-token", "another-token");
        app.minutes(30).await;
    }
    let metrics = app.timeline();
    // Open from 20 to 22, and from 52 to 112.
    metrics.raises("BreakerAlarm", 56..=60, 116..=122);
    metrics.never_raises(&OF_THE_CONTROLLER);
    metrics.never_raises(&["PausedAlarm", "QuarantineAlarm"]);
}

#[tokio::test(start_paused = true)]
async fn events_that_are_not_renewed_raise_the_alarm_a_day_before_they_expire() {
    let metrics = held_for_four_days("false").await;
    let hours = 60;
    metrics.raises("ExpiryAlarm", 72 * hours..=72 * hours + 30, 96 * hours..=97 * hours);
    held_for_four_days("true").await.never_raises(&["ExpiryAlarm"]);
}

#[tokio::test(start_paused = true)]
async fn a_quarantined_event_raises_the_alarm_until_it_is_removed() {
    let app = TestApp::new(healthy_reply);
    app.minutes(20).await;
    let unreadable = [raw_record(0, "no event")];
    settle(&app.extractor, &app.aws, &unreadable, LEFT).await.is_done();
    app.minutes(60).await;
    // Somebody has looked at it and taken it away.
    let now = app.clock.now();
    let found = app.aws.state().receive("quarantine", 10, None, now).unwrap();
    for message in found {
        app.aws.state().delete(&message.receipt, now);
    }
    app.minutes(30).await;
    let metrics = app.timeline();
    metrics.raises("QuarantineAlarm", 20..=22, 80..=86);
    metrics.never_raises(&OF_THE_CONTROLLER);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_fails_and_reports_nothing_raises_both_alarms() {
    let app = TestApp::new(healthy_reply);
    app.minutes(30).await;
    let fault = |fault| app.aws.state().ssm_fault = fault;
    app.trouble(|| fault(Some(THROTTLED)), || fault(None)).await;
    let metrics = app.timeline();
    // Blind in minute 30, and from 61 to 121.
    metrics.raises("ControllerSilentAlarm", 70..=73, 121..=125);
    metrics.raises("ExtractorErrorsAlarm", 65..=69, 121..=133);
    metrics.never_raises(&["ExpiryAlarm", "PausedAlarm", "BreakerAlarm"]);
}

#[tokio::test(start_paused = true)]
async fn an_invalid_pause_parameter_raises_an_alarm_within_ten_minutes() {
    let app = TestApp::new(healthy_reply);
    app.minutes(30).await;
    let say = |word| app.aws.put("/relay/pause", word);
    app.trouble(|| say("pasued"), || say("running")).await;
    let metrics = app.timeline();
    // Misspelt in minute 30, and from 61 to 121.
    metrics.raises("ExtractorErrorsAlarm", 65..=71, 121..=133);
    metrics.never_raises(&["ControllerSilentAlarm", "ExpiryAlarm", "PausedAlarm", "BreakerAlarm"]);
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_is_switched_off_raises_its_alarm() {
    // Switched off by hand, so that it is not the relay's to switch on again.
    let upstream = FakeGladly { webhooks: json!([webhook(true)]), ..FakeGladly::default() };
    let (app, upstream) = watched(upstream);
    for (enabled, minutes) in [(true, 30), (false, 20), (true, 40)] {
        upstream.lock().unwrap().webhooks = json!([webhook(enabled)]);
        app.minutes(minutes).await;
    }
    let metrics = app.timeline();
    metrics.raises("WebhookDisabledAlarm", 30..=37, 50..=67);
    metrics.never_raises(&OF_THE_CONTROLLER);
}

#[tokio::test(start_paused = true)]
async fn every_request_of_a_delivery_that_fails_is_counted_by_its_status() {
    let tries = AtomicUsize::new(0);
    let app = TestApp::new(move |path| match path {
        "deliveries" => match tries.fetch_add(1, Relaxed) {
            0 => Reply::status(503),
            1 => Reply::Hang,
            3..=5 => Reply::Reset,
            6 => Reply::status(422),
            7 => Reply::status(999),
            _ => healthy_reply(path),
        },
        path => healthy_reply(path),
    });
    // Delivered at the third try, not at all, rejected, and refused with no status there is.
    for kept in [0, 1, 0, 1] {
        let settled = settle(&app.extractor, &app.aws, &records(1), LEFT).await;
        assert_eq!(settled.kept.len(), kept);
    }
    let metrics = app.timeline();
    for (status, count) in
        [("503", 1), ("timeout", 1), ("connect", 3), ("422", 1), ("500", 1), ("999", 0), ("200", 0)]
    {
        assert_eq!(metrics.sum("DeliveryFailures", &[("Status", status)]), count, "{status}");
    }
    assert_eq!(metrics.sum("DeliveryFailures", &[]), 7, "what an alarm can watch");
}
