//! One batch's leave to go on, asked for before every call and every delivery.

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use shared::{FailureStatus, Id, Metric, Metrics};
use tokio::time::{Duration, Instant};

use crate::{
    gate::breaker::{DENIALS, NONE_FOUND, State, Upstream},
    gate::pause::{DAY, Gate, PauseReason},
};

/// Why a batch stops before its end. What is unfinished is given back.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Interrupted {
    /// Extraction is paused.
    #[error(transparent)]
    PauseReason(PauseReason),
    /// One side failed in a way that everything else would meet too.
    #[error("gave up: {}", .0.reason)]
    Fault(Fault),
}

/// What opens the circuit breaker.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) upstream: Upstream,
    pub(crate) reason: String,
    /// It counts only while the breaker is half-open.
    pub(crate) in_trial: bool,
}

/// A batch being worked on, or another task that asks Gladly.
pub(crate) struct BatchContext {
    gate: Arc<Gate>,
    /// Asks neither the switch nor the breaker: it is the controller, which looks after both.
    unguarded: bool,
    /// Of each side, the first one.
    faults: [OnceLock<Fault>; 2],
    /// Whether each side served a conversation, and how many it denied.
    served: [AtomicBool; 2],
    denied: [AtomicUsize; 2],
    /// How often each side had succeeded when this began.
    successes: [u64; 2],
    /// At which side a conversation failed, and how often that side had succeeded when this
    /// environment last saw it fail there, or when this began.
    failures: Mutex<HashMap<Id, (Upstream, u64)>>,
    metrics: Mutex<Metrics>,
    pub(crate) times: Deadlines,
}

impl BatchContext {
    pub(crate) fn new(gate: Arc<Gate>, time_left: Duration) -> Self {
        Self {
            successes: Upstream::BOTH.map(|upstream| gate.breaker.successes(upstream)),
            gate,
            unguarded: false,
            faults: Default::default(),
            served: Default::default(),
            denied: Default::default(),
            failures: Mutex::default(),
            metrics: Mutex::default(),
            times: Deadlines::new(time_left),
        }
    }

    /// A run of the controller's, which has to ask Gladly while nothing else may.
    pub(crate) fn unguarded(gate: Arc<Gate>, time_left: Duration) -> Self {
        Self { unguarded: true, ..Self::new(gate, time_left) }
    }

    /// Asks the switch and the breaker, which are at most 10 s old, and whether the batch has given
    /// up.
    pub(crate) async fn check(&self) -> Result<(), Interrupted> {
        if let Some(fault) = self.fault() {
            return Err(Interrupted::Fault(fault.clone()));
        }
        if self.unguarded {
            return Ok(());
        }
        self.gate.check().await.map_err(Interrupted::PauseReason)
    }

    /// Gives the batch up.
    pub(crate) fn fail(&self, upstream: Upstream, reason: String) {
        self.give_up(Fault { upstream, reason, in_trial: false });
    }

    fn give_up(&self, fault: Fault) {
        // The first fault is the one to tell of.
        let _ = self.faults[fault.upstream as usize].set(fault);
    }

    /// Why the batch was given up, for each side.
    pub(crate) fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter_map(OnceLock::get)
    }

    /// Why the batch was given up.
    pub(crate) fn fault(&self) -> Option<&Fault> {
        self.faults().next()
    }

    /// Why the batch was given up, if it was for this side.
    pub(crate) fn fault_of(&self, upstream: Upstream) -> Option<&Fault> {
        self.faults[upstream as usize].get()
    }

    /// A side gave an answer.
    pub(crate) fn answered(&self, upstream: Upstream) {
        if !self.unguarded {
            self.gate.breaker.answered(upstream);
        }
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
        let in_trial = self.gate.breaker.retry(upstream);
        if self.gate.breaker.failed(upstream, conversations) {
            self.give_up(Fault {
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
            self.give_up(Fault { upstream, reason: upstream.denial().to_owned(), in_trial: true });
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

/// The end of each step, so that nothing is started that cannot finish before Lambda ends the
/// invocation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// No conversation is begun after this.
    pub(crate) begin: Instant,
    /// What is not fetched by then is given back.
    pub(crate) fetch: Instant,
    /// No delivery is begun after this.
    pub(crate) forward: Instant,
    /// Deliveries end by then.
    pub(crate) deliver: Instant,
    /// Records are settled by then.
    pub(crate) settle: Instant,
}

impl Deadlines {
    /// Each step's share is bounded, so a long invocation spends its time on fetching.
    fn new(left: Duration) -> Self {
        let share = |most: u64, part: u32| Duration::from_secs(most).min(left / part);
        let settle = Instant::now() + left - share(1, 20);
        let deliver = settle - share(9, 8);
        let forward = deliver - share(2, 20);
        let fetch = deliver - share(30, 4);
        let begin = fetch - share(15, 8);
        Self { begin, fetch, forward, deliver, settle }
    }
}
