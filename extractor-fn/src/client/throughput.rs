//! How fast a backlog drains.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Duration;

use crate::config::Rate;

/// Environments that extract at once: the template's `MaximumConcurrency`.
const ENVIRONMENTS: f64 = 2.0;
/// The assumed calls to Gladly per event until enough events were counted.
const CALLS_PER_EVENT: f64 = 2.0;
/// Events after which the counted value is used.
const COUNTED_EVENTS: u64 = 100;
/// Calls that fetching a conversation takes: itself, its items and its customer.
const CALLS_PER_CONVERSATION: u32 = 3;

/// How fast a backlog drains, estimated from the calls per event so far.
pub(crate) struct ThroughputEstimate {
    rate: Rate,
    calls: AtomicU64,
    events: AtomicU64,
}

impl ThroughputEstimate {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, calls: AtomicU64::new(0), events: AtomicU64::new(0) }
    }

    /// Records the calls that a batch took to forward its events.
    pub(crate) fn note(&self, calls: u64, events: u64) {
        self.calls.fetch_add(calls, Ordering::Relaxed);
        self.events.fetch_add(events, Ordering::Relaxed);
    }

    /// Calls per second of all environments together, at most.
    fn per_second(&self) -> f64 {
        self.rate.per_second() * ENVIRONMENTS
    }

    /// Seconds that forwarding this many events takes, if no other integration slows the calls.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    pub(crate) fn drain(&self, events: u64) -> u64 {
        let (calls, counted) =
            (self.calls.load(Ordering::Relaxed), self.events.load(Ordering::Relaxed));
        let calls =
            if counted < COUNTED_EVENTS { CALLS_PER_EVENT } else { calls as f64 / counted as f64 };
        (events as f64 * calls / self.per_second()).ceil() as u64
    }
}

/// How long fetching this many conversations at once takes, with this time between two calls.
pub(crate) fn fetch_time(conversations: usize, interval: Duration) -> Duration {
    let calls =
        u32::try_from(conversations).unwrap_or(u32::MAX).saturating_mul(CALLS_PER_CONVERSATION);
    interval.saturating_mul(calls)
}
