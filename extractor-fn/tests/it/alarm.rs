//! The template's alarms about the extractor and its controller, raised by the metrics that the
//! code prints on a virtual clock. Each scenario is good, then bad, then good again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use shared::{Origin, QueueMessage};
use testing::{
    alarm::{Run, mark, tell},
    aws::{Fault, THROTTLED},
    connector::Reply,
    record::SqsRecord,
};
use tokio::time::{Duration, sleep};

use crate::{
    backfill::{Upstream, watched, webhook},
    deadlines::{LEFT, TestApp, records, working},
    raw_record, settle,
};

const FUNCTION: &str = "ExtractorFunction";

impl TestApp {
    /// Lets so many minutes pass, with the schedule's call at the begin of each and Lambda's count of its failure.
    async fn minutes(&self, minutes: u32) {
        for _ in 0..minutes {
            let began = tokio::time::Instant::now();
            let failed = self.invoke(json!({"task": "reconcile"})).await.is_err();
            let now = self.clock.now();
            tell(now, ("AWS/Lambda", "Errors"), ("FunctionName", FUNCTION), failed.into());
            let held = self.aws.state().queue("quarantine", now).len() as u64;
            let visible = ("AWS/SQS", "ApproximateNumberOfMessagesVisible");
            tell(now, visible, ("QueueName", "QuarantineQueue"), held);
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
        mark(self.clock.now());
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

mod scenario {
    use super::*;

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn more_than_the_quotas_share() {
        // Two calls an event, one a second, five minutes of six: 25 events a minute.
        let app = TestApp::with(&[("GLADLY_REQUESTS_PER_SECOND", "1")], working);
        mark(app.clock.now());
        let mut events = Events::of(&app);
        events.arrive(0..30, 5);
        events.arrive(30..90, 60);
        events.arrive(90..280, 1);
        events.pass(280).await;
        mark(app.clock.now());
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn a_conversation_that_fails() {
        let fails = Arc::new(AtomicBool::new(true));
        let app = TestApp::new({
            let fails = Arc::clone(&fails);
            move |path| {
                let stuck = path.ends_with("conversations/stuck") && fails.load(Relaxed);
                if stuck { Reply::status(500) } else { working(path) }
            }
        });
        mark(app.clock.now());
        let mut events = Events::of(&app);
        events.arrive(0..400, 1);
        events.send("stuck", Origin::Webhook, 30, 30);
        events.pass(240).await;
        fails.store(false, Relaxed);
        events.pass(160).await;
        assert!(events.waiting.is_empty());
        mark(app.clock.now());
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn late_for_a_reason() {
        let refused = Arc::new(AtomicBool::new(false));
        let app = TestApp::new({
            let refused = Arc::clone(&refused);
            move |path| {
                let asked = path.starts_with("api/") && refused.load(Relaxed);
                if asked { Reply::status(401) } else { working(path) }
            }
        });
        mark(app.clock.now());
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
        refused.store(true, Relaxed);
        events.arrive(0..90, 1);
        events.pass(90).await;
        refused.store(false, Relaxed);
        app.aws.put("/relay/gladly-token", "another-token");
        events.pass(60).await;
        // An operator has queued again what is days old.
        for minute in 0..30 {
            events.send("redriven", Origin::Webhook, -5_000, minute);
            events.send("backfilled", Origin::Backfill, -5_000, minute);
        }
        events.pass(60).await;
        assert!(events.waiting.is_empty());
        mark(app.clock.now());
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn renewed_but_never_held() {
        let app = TestApp::new(working);
        mark(app.clock.now());
        let mut events = Events::of(&app);
        events.arrive(0..240, 1);
        // Each is sent again after an hour, and then waits behind others for three quarters of one.
        for minute in 0..30 {
            events.send("renewed", Origin::Webhook, minute, minute + 60);
            events.waiting.last_mut().unwrap().0 += SignedDuration::from_mins(45);
        }
        events.pass(240).await;
        mark(app.clock.now());
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn mapping_that_cannot_be_enabled() {
        let app = TestApp::new(working);
        mark(app.clock.now());
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
        mark(app.clock.now());
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn forgotten_pause() {
        let app = TestApp::new(working);
        mark(app.clock.now());
        app.minutes(60).await;
        app.aws.put("/relay/pause", "paused");
        app.minutes(180).await;
        app.aws.put("/relay/pause", "running");
        app.minutes(60).await;
        app.aws.put("/relay/pause", "paused");
        app.minutes(360).await;
        app.aws.put("/relay/pause", "running");
        app.minutes(120).await;
        mark(app.clock.now());
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn refused_credentials() {
        let refused = Arc::new(AtomicBool::new(false));
        let app = TestApp::new({
            let refused = Arc::clone(&refused);
            move |path| {
                let asked = path.starts_with("api/") && refused.load(Relaxed);
                if asked { Reply::status(401) } else { working(path) }
            }
        });
        mark(app.clock.now());
        app.minutes(20).await;
        // A token that was mended within two minutes.
        for minutes in [2, 60] {
            refused.store(true, Relaxed);
            settle(&app.extractor, &app.aws, &records(3), LEFT).await;
            app.minutes(minutes).await;
            refused.store(false, Relaxed);
            app.aws.put("/relay/gladly-token", "another-token");
            app.minutes(30).await;
        }
        mark(app.clock.now());
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn failing_destination() {
        use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
        let tries = AtomicUsize::new(0);
        let app = TestApp::new(move |path| match path {
            "deliveries" => match tries.fetch_add(1, Relaxed) {
                0 => Reply::status(503),
                1 => Reply::Hang,
                3..=5 => Reply::Reset,
                6 => Reply::status(422),
                7 => Reply::status(999),
                _ => working(path),
            },
            path => working(path),
        });
        mark(app.clock.now());
        // Delivered at the third try, not at all, rejected, and refused with no status there is.
        for kept in [0, 1, 0, 1] {
            let settled = settle(&app.extractor, &app.aws, &records(1), LEFT).await;
            assert_eq!(settled.kept.len(), kept);
        }
        mark(app.clock.now());
    }

    async fn held_for_four_days(renew: &str) {
        let app = TestApp::with(&[("RENEW_HELD_EVENTS", renew)], working);
        app.aws.put("/relay/pause", "paused");
        mark(app.clock.now());
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
        mark(app.clock.now());
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn not_renewed() {
        held_for_four_days("false").await;
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn renewed() {
        held_for_four_days("true").await;
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn unreadable_event() {
        let app = TestApp::new(working);
        mark(app.clock.now());
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
        mark(app.clock.now());
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn blind_controller() {
        let app = TestApp::new(working);
        mark(app.clock.now());
        app.minutes(30).await;
        let fault = |fault| app.aws.state().ssm_fault = fault;
        app.trouble(|| fault(Some(THROTTLED)), || fault(None)).await;
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn unintelligible_pause() {
        let app = TestApp::new(working);
        mark(app.clock.now());
        app.minutes(30).await;
        let say = |word| app.aws.put("/relay/pause", word);
        app.trouble(|| say("pasued"), || say("running")).await;
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn disabled_webhook() {
        // Switched off by hand, so that it is not the relay's to switch on again.
        let upstream = Upstream { webhooks: json!([webhook(true)]), ..Upstream::default() };
        let (app, upstream) = watched(upstream);
        mark(app.clock.now());
        for (enabled, minutes) in [(true, 30), (false, 20), (true, 40)] {
            upstream.lock().unwrap().webhooks = json!([webhook(enabled)]);
            app.minutes(minutes).await;
        }
        mark(app.clock.now());
    }
}

const OF_THE_CONTROLLER: [&str; 3] =
    ["ControllerSilentAlarm", "ExtractorErrorsAlarm", "ExpiryAlarm"];

#[test]
fn an_intake_above_the_quotas_share_raises_the_alarm_until_it_is_worked_off() {
    let run = Run::of("alarm::scenario::more_than_the_quotas_share", FUNCTION);
    // Too much from 30 to 90: half an hour late from some 75 on, worked off at some 180, and seen for 75 minutes more.
    run.raises("LateAlarm", 70..=90, 250..=275);
    run.leaves_alone(&OF_THE_CONTROLLER);
    run.leaves_alone(&["PausedAlarm", "BreakerAlarm", "QuarantineAlarm"]);
}

#[test]
fn what_fails_again_and_again_is_late_before_it_is_delivered() {
    let run = Run::of("alarm::scenario::a_conversation_that_fails", FUNCTION);
    // From 30 to 240, and delivered at its next try, within 72 minutes.
    run.raises("LateAlarm", 60..=75, 315..=400);
    run.leaves_alone(&OF_THE_CONTROLLER);
    run.leaves_alone(&["BreakerAlarm", "QuarantineAlarm"]);
}

#[test]
fn what_a_hold_or_an_operator_made_late_raises_no_alarm() {
    let run = Run::of("alarm::scenario::late_for_a_reason", FUNCTION);
    run.leaves_alone(&["LateAlarm", "QuarantineAlarm"]);
    run.leaves_alone(&OF_THE_CONTROLLER);
}

#[test]
fn what_was_renewed_without_a_hold_is_late_all_the_same() {
    let run = Run::of("alarm::scenario::renewed_but_never_held", FUNCTION);
    run.raises("LateAlarm", 105..=112, 205..=220);
}

#[test]
fn an_extractor_that_cannot_extract_raises_the_alarm_about_errors() {
    let run = Run::of("alarm::scenario::mapping_that_cannot_be_enabled", FUNCTION);
    // Disabled from 30 and enabled within a minute; from 120 to 180 it cannot be.
    run.raises("ExtractorErrorsAlarm", 125..=131, 180..=192);
    run.leaves_alone(&["LateAlarm", "PausedAlarm", "BreakerAlarm"]);
}

#[test]
fn a_forgotten_pause_raises_its_alarm_and_a_short_one_does_not() {
    let run = Run::of("alarm::scenario::forgotten_pause", FUNCTION);
    // Paused from 300 to 660, and before that for three hours.
    run.raises("PausedAlarm", 540..=545, 660..=665);
    run.leaves_alone(&OF_THE_CONTROLLER);
    run.leaves_alone(&["BreakerAlarm", "QuarantineAlarm"]);
}

#[test]
fn a_breaker_that_stays_open_raises_its_alarm_and_one_that_heals_does_not() {
    let run = Run::of("alarm::scenario::refused_credentials", FUNCTION);
    // Open from 20 to 22, and from 52 to 112.
    run.raises("BreakerAlarm", 56..=60, 116..=122);
    run.leaves_alone(&OF_THE_CONTROLLER);
    run.leaves_alone(&["PausedAlarm", "QuarantineAlarm"]);
}

#[test]
fn events_that_are_not_renewed_raise_the_alarm_a_day_before_they_expire() {
    let run = Run::of("alarm::scenario::not_renewed", FUNCTION);
    let hours = 60;
    run.raises("ExpiryAlarm", 72 * hours..=72 * hours + 30, 96 * hours..=97 * hours);
    Run::of("alarm::scenario::renewed", FUNCTION).leaves_alone(&["ExpiryAlarm"]);
}

#[test]
fn what_is_put_aside_raises_the_alarm_until_it_is_taken_away() {
    let run = Run::of("alarm::scenario::unreadable_event", FUNCTION);
    run.raises("QuarantineAlarm", 20..=22, 80..=86);
    run.leaves_alone(&OF_THE_CONTROLLER);
}

#[test]
fn a_controller_that_fails_or_tells_nothing_raises_both_alarms() {
    let run = Run::of("alarm::scenario::blind_controller", FUNCTION);
    // Blind in minute 30, and from 61 to 121.
    run.raises("ControllerSilentAlarm", 70..=73, 121..=125);
    run.raises("ExtractorErrorsAlarm", 65..=69, 121..=133);
    run.leaves_alone(&["ExpiryAlarm", "PausedAlarm", "BreakerAlarm"]);
}

#[test]
fn a_pause_that_nobody_can_read_raises_an_alarm_within_ten_minutes() {
    let run = Run::of("alarm::scenario::unintelligible_pause", FUNCTION);
    // Misspelt in minute 30, and from 61 to 121.
    run.raises("ExtractorErrorsAlarm", 65..=71, 121..=133);
    run.leaves_alone(&["ControllerSilentAlarm", "ExpiryAlarm", "PausedAlarm", "BreakerAlarm"]);
}

#[test]
fn a_webhook_that_is_switched_off_raises_its_alarm() {
    let run = Run::of("alarm::scenario::disabled_webhook", FUNCTION);
    run.raises("WebhookDisabledAlarm", 30..=37, 50..=67);
    run.leaves_alone(&OF_THE_CONTROLLER);
}

#[test]
fn every_request_of_a_delivery_that_fails_is_counted_by_its_status() {
    let run = Run::of("alarm::scenario::failing_destination", FUNCTION);
    for (status, count) in
        [("503", 1), ("timeout", 1), ("connect", 3), ("422", 1), ("500", 1), ("999", 0), ("200", 0)]
    {
        assert_eq!(run.sum("DeliveryFailures", &[("Status", status)]), count, "{status}");
    }
    assert_eq!(run.sum("DeliveryFailures", &[]), 7, "what an alarm can watch");
}
