//! The template's alarms about the extractor and its controller, raised by the metrics that the
//! code prints on a virtual clock. Each scenario is good, then bad, then good again.

use local::{
    alarm::{Run, mark, tell},
    aws::THROTTLED,
};
use serde_json::json;
use tokio::time::{Duration, sleep};

use crate::{
    gap::{Side, watched, webhook},
    raw_record, settle,
    time::{LEFT, Reply, World, records, working},
};

const FUNCTION: &str = "ExtractorFunction";

impl World {
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

mod scenario {
    use super::*;

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn forgotten_pause() {
        let world = World::new(working);
        mark(world.clock.now());
        world.minutes(60).await;
        world.aws.put("/relay/pause", "paused");
        world.minutes(180).await;
        world.aws.put("/relay/pause", "running");
        world.minutes(60).await;
        world.aws.put("/relay/pause", "paused");
        world.minutes(360).await;
        world.aws.put("/relay/pause", "running");
        world.minutes(120).await;
        mark(world.clock.now());
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn refused_credentials() {
        use std::sync::{
            Arc,
            atomic::{AtomicBool, Ordering::Relaxed},
        };
        let refused = Arc::new(AtomicBool::new(false));
        let world = World::new({
            let refused = Arc::clone(&refused);
            move |path| {
                let asked = path.starts_with("api/") && refused.load(Relaxed);
                if asked { Reply::Status(401, None) } else { working(path) }
            }
        });
        mark(world.clock.now());
        world.minutes(20).await;
        // A token that was mended within two minutes.
        for minutes in [2, 60] {
            refused.store(true, Relaxed);
            settle(&world.extractor, &world.aws, &records(3), LEFT).await;
            world.minutes(minutes).await;
            refused.store(false, Relaxed);
            world.aws.put("/relay/gladly-token", "another-token");
            world.minutes(30).await;
        }
        mark(world.clock.now());
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn failing_destination() {
        use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
        let tries = AtomicUsize::new(0);
        let world = World::new(move |path| match path {
            "deliveries" => match tries.fetch_add(1, Relaxed) {
                0 => Reply::Status(503, None),
                1 => Reply::Hang,
                3..=5 => Reply::Unreachable,
                6 => Reply::Status(422, None),
                7 => Reply::Status(999, None),
                _ => working(path),
            },
            path => working(path),
        });
        mark(world.clock.now());
        // Delivered at the third try, not at all, rejected, and refused with no status there is.
        for kept in [0, 1, 0, 1] {
            let settled = settle(&world.extractor, &world.aws, &records(1), LEFT).await;
            assert_eq!(settled.kept.len(), kept);
        }
        mark(world.clock.now());
    }

    async fn held_for_four_days(renew: &str) {
        let world = World::with(&[("RENEW_HELD_EVENTS", renew)], working);
        world.aws.put("/relay/pause", "paused");
        mark(world.clock.now());
        let now = world.clock.now();
        world.aws.state().send("events", "held", Vec::new(), 0, now);
        for _ in 0..4 * 24 * 12 {
            world.task("reconcile").await;
            sleep(Duration::from_mins(5)).await;
        }
        world.aws.put("/relay/pause", "running");
        let now = world.clock.now();
        let left = world.aws.state().receive("events", 10, None, now).unwrap();
        for message in left {
            world.aws.state().delete(&message.receipt, now);
        }
        world.minutes(60).await;
        mark(world.clock.now());
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
        let world = World::new(working);
        mark(world.clock.now());
        world.minutes(20).await;
        let unreadable = [raw_record(0, "no event")];
        settle(&world.extractor, &world.aws, &unreadable, LEFT).await.is_done();
        world.minutes(60).await;
        // Somebody has looked at it and taken it away.
        let now = world.clock.now();
        let found = world.aws.state().receive("quarantine", 10, None, now).unwrap();
        for message in found {
            world.aws.state().delete(&message.receipt, now);
        }
        world.minutes(30).await;
        mark(world.clock.now());
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn blind_controller() {
        let world = World::new(working);
        mark(world.clock.now());
        world.minutes(30).await;
        let fault = |fault| world.aws.state().ssm_fault = fault;
        world.trouble(|| fault(Some(THROTTLED)), || fault(None)).await;
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn unintelligible_pause() {
        let world = World::new(working);
        mark(world.clock.now());
        world.minutes(30).await;
        let say = |word| world.aws.put("/relay/pause", word);
        world.trouble(|| say("pasued"), || say("running")).await;
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "a scenario"]
    async fn disabled_webhook() {
        // Switched off by hand, so that it is not the relay's to switch on again.
        let side = Side { webhooks: json!([webhook(true)]), ..Side::default() };
        let (world, side) = watched(side);
        mark(world.clock.now());
        for (enabled, minutes) in [(true, 30), (false, 20), (true, 40)] {
            side.lock().unwrap().webhooks = json!([webhook(enabled)]);
            world.minutes(minutes).await;
        }
        mark(world.clock.now());
    }
}

const OF_THE_CONTROLLER: [&str; 3] =
    ["ControllerSilentAlarm", "ExtractorErrorsAlarm", "ExpiryAlarm"];

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
