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
    gate::breaker::{DENIALS, NONE_FOUND, Side, State},
    gate::pause::{DAY, Guard, Held},
};

/// Why a batch stops before its end. What is unfinished is given back.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Stopped {
    /// Extraction is paused.
    #[error(transparent)]
    Held(Held),
    /// One side failed in a way that everything else would meet too.
    #[error("gave up: {}", .0.reason)]
    Fault(Fault),
}

/// What opens the circuit breaker.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) side: Side,
    pub(crate) reason: String,
    /// It counts only while the breaker is half-open.
    pub(crate) in_trial: bool,
}

/// A batch being worked on, or another task that asks Gladly.
pub(crate) struct Run {
    guard: Arc<Guard>,
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
    failures: Mutex<HashMap<Id, (Side, u64)>>,
    metrics: Mutex<Metrics>,
    pub(crate) times: Times,
}

impl Run {
    pub(crate) fn new(guard: Arc<Guard>, time_left: Duration) -> Self {
        Self {
            successes: Side::BOTH.map(|side| guard.breaker.successes(side)),
            guard,
            unguarded: false,
            faults: Default::default(),
            served: Default::default(),
            denied: Default::default(),
            failures: Mutex::default(),
            metrics: Mutex::default(),
            times: Times::new(time_left),
        }
    }

    /// A run of the controller's, which has to ask Gladly while nothing else may.
    pub(crate) fn unguarded(guard: Arc<Guard>, time_left: Duration) -> Self {
        Self { unguarded: true, ..Self::new(guard, time_left) }
    }

    /// Asks the switch and the breaker, which are at most 10 s old, and whether the batch has given
    /// up.
    pub(crate) async fn permit(&self) -> Result<(), Stopped> {
        if let Some(fault) = self.fault() {
            return Err(Stopped::Fault(fault.clone()));
        }
        if self.unguarded {
            return Ok(());
        }
        self.guard.permit().await.map_err(Stopped::Held)
    }

    /// Gives the batch up.
    pub(crate) fn fail(&self, side: Side, reason: String) {
        self.give_up(Fault { side, reason, in_trial: false });
    }

    fn give_up(&self, fault: Fault) {
        // The first fault is the one to tell of.
        let _ = self.faults[fault.side as usize].set(fault);
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
    pub(crate) fn fault_of(&self, side: Side) -> Option<&Fault> {
        self.faults[side as usize].get()
    }

    /// A side gave an answer.
    pub(crate) fn answered(&self, side: Side) {
        if !self.unguarded {
            self.guard.breaker.answered(side);
        }
    }

    /// A side served a conversation: Gladly has one, or the destination took one.
    pub(crate) async fn served(&self, side: Side) {
        self.served[side as usize].store(true, Ordering::Relaxed);
        self.guard.breaker.served(side).await;
    }

    /// A side did all that was asked for conversations.
    pub(crate) fn succeeded<'a>(&self, side: Side, conversations: impl Iterator<Item = &'a Id>) {
        self.guard.breaker.succeeded(side, conversations);
    }

    /// A side failed with these conversations, in a way that passes. The batch is given up once
    /// that is all it has done for a while, or while it is being tried.
    pub(crate) fn failed<'a>(
        &self,
        side: Side,
        conversations: impl Iterator<Item = &'a Id> + Clone,
        why: &str,
    ) {
        conversations.clone().for_each(|conversation| self.failed_alone(side, conversation));
        let in_trial = self.guard.breaker.tries(side);
        if self.guard.breaker.failed(side, conversations) {
            self.give_up(Fault { side, reason: format!("{side} does not work: {why}"), in_trial });
        }
    }

    /// A side failed with this conversation, which tells nothing of the others.
    pub(crate) fn failed_alone(&self, side: Side, conversation: &Id) {
        let before = self.guard.breaker.note_failure(side, conversation);
        let since = before.unwrap_or(self.successes[side as usize]);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.entry(conversation.clone()).or_insert((side, since));
    }

    /// Whether a conversation failed where another one has succeeded since, so that its failure is
    /// its own. Unknown is no.
    pub(crate) fn failed_where_another_succeeded(&self, conversation: &Id) -> bool {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(conversation).is_some_and(|(side, since)| {
            self.guard.breaker.another_succeeded(*side, conversation, *since)
        })
    }

    /// A side denied a conversation: Gladly has none such, or the destination will not have it. The
    /// batch is given up once that is all it does.
    pub(crate) fn denied(&self, side: Side, conversation: &Id) {
        let denied = self.denied[side as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let ever = self.guard.breaker.denied(side, conversation);
        let at_fault = match self.guard.breaker.trial() {
            Some(opening) if opening.cause == side => {
                // After a day of that, what is missing is looked for in turn, and ends.
                let settles = opening.reason == NONE_FOUND && opening.lasts(DAY, self.guard.now());
                denied >= DENIALS && !settles
            }
            _ => ever,
        };
        if at_fault {
            self.fail(side, side.denial().to_owned());
        }
    }

    /// Judges a side that denied conversations of this batch and served none: while it is being
    /// tried for that, it has failed.
    pub(crate) async fn judge(&self, side: Side) {
        let (denied, served) = (&self.denied[side as usize], &self.served[side as usize]);
        if denied.load(Ordering::Relaxed) == 0 || served.load(Ordering::Relaxed) {
            return;
        }
        // As it is now: another environment may have opened or closed it.
        let doubtful = match self.guard.breaker.fetch().await.as_deref().map(State::opening) {
            // One conversation that Gladly no longer has is nothing special, unless it is what it
            // was opened for.
            Ok(Some(opening)) => {
                opening.cause == side && (side == Side::Destination || opening.reason == NONE_FOUND)
            }
            Ok(None) => false,
            Err(_) => true,
        };
        if doubtful {
            self.give_up(Fault { side, reason: side.denial().to_owned(), in_trial: true });
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
pub(crate) struct Times {
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

impl Times {
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
