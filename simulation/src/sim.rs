//! The shared state of one simulation: the account, the servers outside of it, the clock and the random
//! number generator.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use jiff::Timestamp;
use shared::Clock;
use testing::aws::{Aws, Disorder};
use tokio::{sync::Notify, time::Instant};

use crate::{
    checker::{Checker, Context, Effects, Invocation},
    constants::{
        BREAKER_PARAMETER, DESTINATION_TOKEN_PARAMETER, EPOCH, GATE_ALONE, GLADLY_TOKEN_PARAMETER,
        PAUSE_PARAMETER, RECOVERY_PARAMETERS, instant,
    },
    gladly::Gladly,
    history::{Journal, Keep},
    invariant,
    plan::Plan,
};

/// A simulation.
pub(crate) struct Simulation {
    pub(crate) plan: Plan,
    pub(crate) aws: Aws,
    /// Notified when the mapping is switched.
    pub(crate) switched: Notify,
    began: Instant,
    state: Mutex<State>,
}

/// The mutable state.
pub(crate) struct State {
    pub(crate) rng: Rng,
    pub(crate) journal: Journal,
    pub(crate) checker: Checker,
    pub(crate) gladly: Gladly,
    /// The operator's requests for a recovery that are not yet recorded.
    pub(crate) recoveries: usize,
    /// Parameters that were changed and that EventBridge has not yet seen.
    pub(crate) changes: Vec<&'static str>,
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Simulation")
    }
}

impl Simulation {
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
            let receives = if GATE_ALONE { 5 } else { 1_000 };
            queue.redrive = Some((receives, "quarantine".into()));
            account.queue("quarantine", EPOCH).retention = quarantine;
        }
        aws.put(PAUSE_PARAMETER, "running");
        aws.put_secret(GLADLY_TOKEN_PARAMETER, "gladly-token-0");
        aws.put_secret(DESTINATION_TOKEN_PARAMETER, "destination-token-0");
        aws.assume("ExtractorRole");
        Arc::new(Self {
            plan,
            aws,
            switched: Notify::new(),
            began,
            state: Mutex::new(State {
                rng,
                journal: Journal::new(keep),
                checker: Checker::default(),
                gladly: Gladly::default(),
                recoveries: 0,
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

    /// Whether all faults are over.
    pub(crate) fn is_calm(&self) -> bool {
        self.elapsed() >= self.plan.calm
    }

    /// Whether something with this probability goes wrong now.
    pub(crate) fn goes_wrong(&self, how_likely: f64) -> bool {
        !self.is_calm() && self.state().rng.f64() < how_likely
    }

    /// A time between two others.
    pub(crate) fn time_between(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.state().rng.u64(least..most))
    }

    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        let at = self.elapsed();
        self.state().journal.note(at, line);
    }

    pub(crate) fn count(&self, what: &'static str) {
        self.state().journal.count(what);
    }

    pub(crate) fn count_many(&self, what: &'static str, times: usize) {
        self.state().journal.tally.add(what, times as u64);
    }

    /// Records that an invariant does not hold. The first violation is kept.
    pub(crate) fn violate(&self, invariant: &'static str, how: impl FnOnce() -> String) {
        let at = self.elapsed();
        self.state().journal.violate(at, invariant, how);
    }

    /// Runs the checker on something that happens now.
    pub(crate) fn check<T>(&self, see: impl FnOnce(&mut Checker, &mut Context<'_>) -> T) -> T {
        let now = self.now();
        let State { checker, journal, .. } = &mut *self.state();
        see(checker, &mut Context { plan: &self.plan, now, journal })
    }

    /// Runs the checker on the effects of calls on the account since the last time.
    pub(crate) fn audit(&self, by: Invocation) {
        let effects = Effects::take(&mut self.aws.state());
        if effects.switches_mapping() {
            self.switched.notify_waiters();
        }
        let changed = self.check(|checker, cx| checker.audit(effects, by, cx));
        self.state().changes.extend(changed);
    }

    /// Whether nothing is left to be recovered.
    fn is_recovered(&self) -> bool {
        let done = {
            let state = self.state();
            state.gladly.is_webhook_on() && state.recoveries == 0
        };
        let account = self.aws.state();
        let text = |name: &str| account.parameters.get(name).map_or("{}", |text| text);
        done && RECOVERY_PARAMETERS.iter().all(|name| text(name) == "{}")
    }

    /// Whether nothing is left in the queue or to be recovered.
    pub(crate) fn is_drained(&self) -> bool {
        let now = self.now();
        self.is_recovered() && self.aws.state().queue("events", now).is_empty()
    }

    /// Runs the checker on the final state.
    pub(crate) fn check_end(&self) {
        let (quarantine, pause) = {
            let mut account = self.aws.state();
            let pause = account.parameters.get(PAUSE_PARAMETER).cloned().unwrap_or_default();
            let queue = account.queue("quarantine", self.now());
            (queue.bodies().map(|(_, body)| body.to_string()).collect::<Vec<_>>(), pause)
        };
        self.check(|checker, cx| checker.check_end(&quarantine, &pause, cx));
    }

    /// Records why the backlog has not drained.
    pub(crate) fn has_not_drained(&self, waited: Duration) {
        let now = self.now();
        let (left, mapping, breaker) = {
            let mut account = self.aws.state();
            let left = account.queue("events", now).len();
            let breaker = account.parameters.get(BREAKER_PARAMETER).cloned().unwrap_or_default();
            (left, account.mapping.state(now), breaker)
        };
        let (minutes, recovered) = (waited.as_secs() / 60, self.is_recovered());
        self.violate(invariant::BACKLOG_DRAINS, || {
            format!("{left} messages are left after {minutes} minutes; mapping {mapping}, breaker {breaker:?}, recovered: {recovered}")
        });
    }
}

fn now(began: Instant) -> Timestamp {
    instant(began.elapsed())
}
