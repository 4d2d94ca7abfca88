//! One batch's leave to go on, asked for before every call and every delivery.

use std::{
    mem,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use shared::{FailureStatus, Id, Metric, Metrics};
use tokio::time::{Duration, Instant};

use crate::{
    breaker::Side,
    pause::{Guard, Held},
};

/// The destination is at fault, not the conversations, once it refused this many and took none.
const REFUSALS: u64 = 10;

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
}

/// A batch being worked on, or another task that asks Gladly.
pub(crate) struct Run {
    guard: Arc<Guard>,
    /// Asks neither the switch nor the breaker: it is the controller, which looks after both.
    unguarded: bool,
    fault: OnceLock<Fault>,
    accepted: AtomicU64,
    refused: AtomicU64,
    metrics: Mutex<Metrics>,
    pub(crate) times: Times,
}

impl Run {
    pub(crate) fn new(guard: Arc<Guard>, time_left: Duration) -> Self {
        Self {
            guard,
            unguarded: false,
            fault: OnceLock::new(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
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
        // The first fault is the one to tell of.
        let _ = self.fault.set(Fault { side, reason });
    }

    /// Why the batch was given up.
    pub(crate) fn fault(&self) -> Option<&Fault> {
        self.fault.get()
    }

    /// A side did what it was asked for.
    pub(crate) async fn succeeded(&self, side: Side) {
        if !self.unguarded {
            self.guard.breaker.succeeded(side).await;
        }
    }

    /// A side failed with these conversations, in a way that passes. The batch is given up once
    /// that is all it has done for a while.
    pub(crate) fn failed<'a>(
        &self,
        side: Side,
        conversations: impl IntoIterator<Item = &'a Id>,
        why: &str,
    ) {
        if self.guard.breaker.failed(side, conversations) {
            self.fail(side, format!("{side} does not work: {why}"));
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

    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a conversation that the destination will not have.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        if self.destination_refuses_all() {
            self.fail(Side::Destination, "the destination refuses every conversation".into());
        }
    }

    /// Whether refusals tell of the destination rather than of the conversations.
    pub(crate) fn destination_refuses_all(&self) -> bool {
        let (accepted, refused) = (&self.accepted, &self.refused);
        accepted.load(Ordering::Relaxed) == 0 && refused.load(Ordering::Relaxed) >= REFUSALS
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
