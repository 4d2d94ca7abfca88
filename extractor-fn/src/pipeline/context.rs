//! What the conversations of one batch share: whether it may continue, upstream results, and metrics.

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use shared::{FailureStatus, Id, Metric, Metrics};
use tokio::time::Duration;

use crate::{
    gate::{
        DAY, Gate, Interrupted, Permission,
        breaker::{DENIALS, FatalError, NONE_FOUND, State, Upstream},
    },
    pipeline::deadlines::Deadlines,
};

/// A batch being worked on.
pub(crate) struct BatchContext {
    gate: Arc<Gate>,
    /// The first one of each upstream.
    errors: [OnceLock<FatalError>; 2],
    /// Whether each upstream served a conversation, and how many it denied.
    served: [AtomicBool; 2],
    denied: [AtomicUsize; 2],
    /// Each upstream's number of successes when the batch began.
    successes: [u64; 2],
    /// The upstream at which a conversation failed, and that upstream's number of successes when
    /// this environment last saw it fail there, or when the batch began.
    failures: Mutex<HashMap<Id, (Upstream, u64)>>,
    metrics: Mutex<Metrics>,
    pub(crate) deadlines: Deadlines,
}

impl Permission for BatchContext {
    /// Checks the pause and the breaker, whose states are at most 10 s old, and whether the batch has
    /// met a fatal error.
    async fn check(&self) -> Result<(), Interrupted> {
        if let Some(error) = self.fatal_error() {
            return Err(Interrupted::Fatal(error.clone()));
        }
        self.gate.check().await.map_err(Interrupted::Held)
    }

    fn answered(&self, upstream: Upstream) {
        self.gate.breaker.answered(upstream);
    }
}

impl BatchContext {
    pub(crate) fn new(gate: Arc<Gate>, time_left: Duration) -> Self {
        Self {
            successes: Upstream::BOTH.map(|upstream| gate.breaker.successes(upstream)),
            gate,
            errors: Default::default(),
            served: Default::default(),
            denied: Default::default(),
            failures: Mutex::default(),
            metrics: Mutex::default(),
            deadlines: Deadlines::new(time_left),
        }
    }

    /// Stops the batch: every other conversation would fail the same way.
    pub(crate) fn fail(&self, upstream: Upstream, reason: String) {
        self.stop(FatalError { upstream, reason, in_trial: false });
    }

    fn stop(&self, error: FatalError) {
        // The first error is the cause.
        let _ = self.errors[error.upstream as usize].set(error);
    }

    /// Why the batch was stopped, for each upstream.
    pub(crate) fn fatal_errors(&self) -> impl Iterator<Item = &FatalError> {
        self.errors.iter().filter_map(OnceLock::get)
    }

    /// Why the batch was stopped.
    pub(crate) fn fatal_error(&self) -> Option<&FatalError> {
        self.fatal_errors().next()
    }

    /// Why the batch was stopped, if it was for this upstream.
    pub(crate) fn fatal_error_of(&self, upstream: Upstream) -> Option<&FatalError> {
        self.errors[upstream as usize].get()
    }

    /// An upstream served a conversation: Gladly has it, or the destination accepted it.
    pub(crate) async fn served(&self, upstream: Upstream) {
        self.served[upstream as usize].store(true, Ordering::Relaxed);
        self.gate.breaker.served(upstream).await;
    }

    /// An upstream succeeded with these conversations.
    pub(crate) fn succeeded<'a>(
        &self,
        upstream: Upstream,
        conversations: impl Iterator<Item = &'a Id>,
    ) {
        self.gate.breaker.succeeded(upstream, conversations);
    }

    /// An upstream failed transiently with these conversations. The batch stops once it has only
    /// failed for a while, or at once during a trial.
    pub(crate) fn failed<'a>(
        &self,
        upstream: Upstream,
        conversations: impl Iterator<Item = &'a Id> + Clone,
        why: &str,
    ) {
        conversations.clone().for_each(|conversation| self.failed_alone(upstream, conversation));
        let in_trial = self.gate.breaker.is_on_trial(upstream);
        if self.gate.breaker.failed(upstream, conversations) {
            self.stop(FatalError { upstream, reason: why.to_owned(), in_trial });
        }
    }

    /// How long until a further transient failure of this upstream can open the breaker, if that is still
    /// to come.
    pub(crate) fn decides_in(&self, upstream: Upstream) -> Option<Duration> {
        self.gate.breaker.decides_in(upstream)?.try_into().ok()
    }

    /// An upstream failed with this conversation, which is no evidence about the others.
    pub(crate) fn failed_alone(&self, upstream: Upstream, conversation: &Id) {
        let before = self.gate.breaker.note_failure(upstream, conversation);
        let since = before.unwrap_or(self.successes[upstream as usize]);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.entry(conversation.clone()).or_insert((upstream, since));
    }

    /// Whether a conversation failed where another one has succeeded since, so that the failure is
    /// its own. `false` if unknown.
    pub(crate) fn failed_where_another_succeeded(&self, conversation: &Id) -> bool {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(conversation).is_some_and(|(upstream, since)| {
            self.gate.breaker.another_succeeded(*upstream, conversation, *since)
        })
    }

    /// An upstream denied a conversation: Gladly does not have it, or the destination rejected it.
    /// The batch stops once the upstream denies everything.
    pub(crate) fn denied(&self, upstream: Upstream, conversation: &Id) {
        let denied = self.denied[upstream as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let ever = self.gate.breaker.denied(upstream, conversation);
        let at_fault = match self.gate.breaker.trial() {
            Some(open_state) if open_state.cause == upstream => {
                // After a day of this, missing conversations are fetched one after another and settled.
                let settles =
                    open_state.reason == NONE_FOUND && open_state.lasts(DAY, self.gate.now());
                denied >= DENIALS && !settles
            }
            _ => ever,
        };
        if at_fault {
            self.fail(upstream, upstream.denial().to_owned());
        }
    }

    /// Decides about an upstream that denied conversations of this batch and served none: if it is on
    /// trial for that, the trial has failed.
    pub(crate) async fn judge(&self, upstream: Upstream) {
        let (denied, served) = (&self.denied[upstream as usize], &self.served[upstream as usize]);
        if denied.load(Ordering::Relaxed) == 0 || served.load(Ordering::Relaxed) {
            return;
        }
        // Read now: another environment may have opened or closed it.
        let doubtful = match self.gate.breaker.fetch().await.as_deref().map(State::open_state) {
            // One conversation that Gladly no longer has is normal, unless the breaker opened for
            // that reason.
            Ok(Some(open_state)) => {
                open_state.cause == upstream
                    && (upstream == Upstream::Destination || open_state.reason == NONE_FOUND)
            }
            Ok(None) => false,
            Err(_) => true,
        };
        if doubtful {
            self.stop(FatalError {
                upstream,
                reason: upstream.denial().to_owned(),
                in_trial: true,
            });
        }
    }

    pub(crate) fn count(&self, metric: Metric, count: u64) {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).add(metric, count);
    }

    pub(crate) fn record(&self, metric: Metric, value: u64) {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).record(metric, value);
    }

    pub(crate) fn delivery_failed(&self, status: FailureStatus) {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).delivery_failed(status);
    }

    /// Takes the metrics, which are reported once.
    pub(crate) fn metrics(&self) -> Metrics {
        mem::take(&mut *self.metrics.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
