//! What the conversations of one batch share: whether it may go on, how the upstreams do, and metrics.

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
    /// Whether each side served a conversation, and how many it denied.
    served: [AtomicBool; 2],
    denied: [AtomicUsize; 2],
    /// How often each side had succeeded when this began.
    successes: [u64; 2],
    /// At which side a conversation failed, and how often that side had succeeded when this
    /// environment last saw it fail there, or when this began.
    failures: Mutex<HashMap<Id, (Upstream, u64)>>,
    metrics: Mutex<Metrics>,
    pub(crate) deadlines: Deadlines,
}

impl Permission for BatchContext {
    /// Asks the pause and the breaker, whose states are at most 10 s old, and whether the batch has
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

    /// Stops the batch: everything else would fail the same way.
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

    /// A side served a conversation: Gladly has one, or the destination took one.
    pub(crate) async fn served(&self, upstream: Upstream) {
        self.served[upstream as usize].store(true, Ordering::Relaxed);
        self.gate.breaker.served(upstream).await;
    }

    /// A side did all that was asked for conversations.
    pub(crate) fn succeeded<'a>(
        &self,
        upstream: Upstream,
        conversations: impl Iterator<Item = &'a Id>,
    ) {
        self.gate.breaker.succeeded(upstream, conversations);
    }

    /// A side failed with these conversations, in a way that passes. The batch is given up once
    /// that is all it has done for a while, or while it is being tried.
    pub(crate) fn failed<'a>(
        &self,
        upstream: Upstream,
        conversations: impl Iterator<Item = &'a Id> + Clone,
        why: &str,
    ) {
        conversations.clone().for_each(|conversation| self.failed_alone(upstream, conversation));
        let in_trial = self.gate.breaker.is_on_trial(upstream);
        if self.gate.breaker.failed(upstream, conversations) {
            self.stop(FatalError {
                upstream,
                reason: format!("{upstream} does not work: {why}"),
                in_trial,
            });
        }
    }

    /// A side failed with this conversation, which tells nothing of the others.
    pub(crate) fn failed_alone(&self, upstream: Upstream, conversation: &Id) {
        let before = self.gate.breaker.note_failure(upstream, conversation);
        let since = before.unwrap_or(self.successes[upstream as usize]);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.entry(conversation.clone()).or_insert((upstream, since));
    }

    /// Whether a conversation failed where another one has succeeded since, so that its failure is
    /// its own. Unknown is no.
    pub(crate) fn failed_where_another_succeeded(&self, conversation: &Id) -> bool {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(conversation).is_some_and(|(upstream, since)| {
            self.gate.breaker.another_succeeded(*upstream, conversation, *since)
        })
    }

    /// A side denied a conversation: Gladly has none such, or the destination will not have it. The
    /// batch is given up once that is all it does.
    pub(crate) fn denied(&self, upstream: Upstream, conversation: &Id) {
        let denied = self.denied[upstream as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let ever = self.gate.breaker.denied(upstream, conversation);
        let at_fault = match self.gate.breaker.trial() {
            Some(open_state) if open_state.cause == upstream => {
                // After a day of that, what is missing is looked for in turn, and ends.
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

    /// Judges a side that denied conversations of this batch and served none: while it is being
    /// tried for that, it has failed.
    pub(crate) async fn judge(&self, upstream: Upstream) {
        let (denied, served) = (&self.denied[upstream as usize], &self.served[upstream as usize]);
        if denied.load(Ordering::Relaxed) == 0 || served.load(Ordering::Relaxed) {
            return;
        }
        // As it is now: another environment may have opened or closed it.
        let doubtful = match self.gate.breaker.fetch().await.as_deref().map(State::open_state) {
            // One conversation that Gladly no longer has is nothing special, unless it is what it
            // was opened for.
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

    /// What there is to report, once.
    pub(crate) fn metrics(&self) -> Metrics {
        mem::take(&mut *self.metrics.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
