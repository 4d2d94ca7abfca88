//! One world: the account, the outside, the clock and the dice, shared by everything in it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use shared::Clock;
use testing::aws::{Aws, Disorder};
use tokio::{sync::Notify, time::Instant};

use crate::{
    checker::Checker,
    fakes::{Delivered, Quota},
    gap::Gap,
    history::{History, Keep, Tally},
    plan::Plan,
};

/// The renewal's.
pub(crate) const RENEWAL: &str = "/relay/pause-renewal";

/// When every world begins.
pub(crate) const EPOCH: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// The operator's parameter.
pub(crate) const PAUSE: &str = "/relay/pause";
/// The breaker's.
pub(crate) const BREAKER: &str = "/relay/pause-breaker";

/// Whether there is no controller, and the redrive policy is one for queues that are never paused.
/// That loses events: `planted` shows it.
pub(crate) const GUARD_ALONE: bool = false;

/// A world.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) aws: Aws,
    /// Rings when the mapping is switched.
    pub(crate) switched: Notify,
    began: Instant,
    state: Mutex<State>,
}

/// What changes in it.
pub(crate) struct State {
    pub(crate) rng: Rng,
    pub(crate) tally: Tally,
    pub(crate) history: History,
    pub(crate) checker: Checker,
    pub(crate) delivered: Delivered,
    pub(crate) quota: Quota,
    pub(crate) gap: Gap,
    /// Parameters whose change is to be told to the function.
    pub(crate) changes: Vec<&'static str>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

impl World {
    pub(crate) fn new(mut rng: Rng, plan: Plan, keep: Keep) -> Arc<Self> {
        let began = Instant::now();
        let aws = Aws::new(move || now(began));
        {
            let (events, quarantine) = (plan.retention, plan.quarantine_retention);
            let disorder = Disorder { rng: rng.fork(), twice: plan.repeats, short: 0.05 };
            let mut account = aws.state();
            account.disorder = Some(disorder);
            let queue = account.queue("events", EPOCH);
            queue.retention = events;
            let receives = if GUARD_ALONE { 5 } else { 1_000 };
            queue.redrive = Some((receives, "quarantine".into()));
            account.queue("quarantine", EPOCH).retention = quarantine;
        }
        aws.put(PAUSE, "running");
        aws.put_secret("/relay/gladly-token", "gladly-token-0");
        aws.put_secret("/relay/destination-token", "destination-token-0");
        aws.assume("ExtractorRole");
        Arc::new(Self {
            plan,
            aws,
            switched: Notify::new(),
            began,
            state: Mutex::new(State {
                rng,
                tally: Tally::default(),
                history: History::new(keep),
                checker: Checker::default(),
                delivered: Delivered::default(),
                quota: Quota::default(),
                gap: Gap::default(),
                changes: Vec::new(),
            }),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn now(&self) -> Timestamp {
        now(self.began)
    }

    /// The wall clock that the functions see.
    pub(crate) fn clock(&self) -> Clock {
        let began = self.began;
        Clock::new(move || now(began))
    }

    /// Whether all troubles are over.
    pub(crate) fn is_calm(&self) -> bool {
        self.elapsed() >= self.plan.calm
    }

    /// Whether something this likely goes wrong now.
    pub(crate) fn goes_wrong(&self, how_likely: f64) -> bool {
        !self.is_calm() && self.state().rng.f64() < how_likely
    }

    /// A time between two others.
    pub(crate) fn time_between(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.state().rng.u64(least..most))
    }

    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        let at = self.elapsed();
        self.state().history.note(at, line);
    }

    pub(crate) fn count(&self, what: &'static str) {
        self.state().tally.count(what);
    }

    /// Says that a promise is broken. The first one counts.
    pub(crate) fn violate(&self, invariant: &'static str, how: impl FnOnce() -> String) {
        let mut state = self.state();
        if state.checker.violation.is_none() {
            let how = how();
            state.history.note(self.elapsed(), || format!("VIOLATION of \"{invariant}\": {how}"));
            state.checker.violation = Some(crate::Violation { invariant, how });
        }
    }
}

fn now(began: Instant) -> Timestamp {
    EPOCH + SignedDuration::try_from(began.elapsed()).unwrap_or_default()
}
