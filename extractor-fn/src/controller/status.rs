//! The current state, as the `status` document.

use jiff::{SignedDuration, Timestamp};
use shared::{
    BreakerState as Breaker, Extraction, Metric, Metrics, OpenState, Pause, PauseState,
    PendingRecovery, Status, WebhookHealth,
};

use crate::client::sqs::Depth;

/// The current state, and what only the controller needs of it.
#[derive(Debug)]
pub(crate) struct CurrentState {
    pub(crate) status: Status,
    /// For how long the pause parameter has been invalid.
    invalid_for: Option<SignedDuration>,
}

/// What a status is built from.
pub(crate) struct Facts {
    pub(crate) pause: PauseState,
    /// When the pause parameter was written.
    pub(crate) pause_written_at: Option<Timestamp>,
    pub(crate) breaker: Breaker,
    pub(crate) mapping: String,
    pub(crate) events: Depth,
    pub(crate) quarantined: u64,
    /// No waiting event was sent before this.
    pub(crate) low_watermark: Timestamp,
    pub(crate) drain_seconds: u64,
    pub(crate) renews: bool,
    pub(crate) webhook: Option<WebhookHealth>,
    pub(crate) recoveries: Vec<PendingRecovery>,
    pub(crate) now: Timestamp,
}

impl CurrentState {
    pub(crate) fn new(facts: Facts) -> Self {
        let now = facts.now;
        let held = facts.pause.held(now);
        let breaker_holds = facts.breaker.held();
        let invalid_for = (facts.pause == PauseState::Invalid).then(|| {
            facts.pause_written_at.map_or(SignedDuration::MAX, |at| now.duration_since(at))
        });
        let (state, Pause { by, reason, since, until }) = match (held, &breaker_holds, facts.pause)
        {
            (Some(_), _, PauseState::Paused(pause)) => {
                let since = pause.since.or(facts.pause_written_at);
                (Extraction::Paused, Pause { since, ..pause })
            }
            (Some(held), _, _) => {
                let reason = Some(held.to_string());
                (
                    Extraction::Paused,
                    Pause { reason, since: facts.pause_written_at, ..Pause::default() },
                )
            }
            (None, Some(held), _) => {
                let (reason, since) = match &facts.breaker {
                    Breaker::Open(OpenState { reason, since, .. }) => {
                        (reason.clone(), Some(*since))
                    }
                    _ => (held.to_string(), None),
                };
                (Extraction::Breaker, Pause { reason: Some(reason), since, ..Pause::default() })
            }
            (None, None, _) => {
                let since = facts.pause_written_at;
                (Extraction::Running, Pause { since, ..Pause::default() })
            }
        };
        // To the second: people read it.
        let since = since.map(|since| Timestamp::from_second(since.as_second()).unwrap_or(since));
        let waiting = now.duration_since(facts.low_watermark);
        let events = facts.events;
        let age = events.delay_alone().map_or(waiting, |delay| delay.min(waiting));
        let left = events.retention - age;
        let status = Status {
            state,
            by,
            reason,
            since,
            until,
            mapping: facts.mapping,
            backlog: events.total,
            in_flight: events.in_flight,
            delayed: events.delayed,
            quarantined: facts.quarantined,
            quarantined_by_reason: None,
            oldest_event_age_seconds: seconds(age),
            expires_in_seconds: seconds(left),
            drain_seconds: facts.drain_seconds,
            renews: facts.renews,
            breaker: facts.breaker.open_state().is_some().then_some(facts.breaker),
            webhook: facts.webhook,
            recoveries: facts.recoveries,
        };
        Self { status, invalid_for }
    }

    /// Whether the pause parameter has been invalid for at least this long.
    pub(crate) fn has_been_invalid_for(&self, least: SignedDuration) -> bool {
        self.invalid_for.is_some_and(|span| span >= least)
    }

    /// Records the document's numbers as metrics.
    pub(crate) fn record(&self, metrics: &mut Metrics) {
        let status = &self.status;
        let is_open = matches!(status.breaker, Some(Breaker::Open(_)));
        metrics.record(Metric::Paused, (status.state == Extraction::Paused).into());
        metrics.record(Metric::BreakerOpen, is_open.into());
        metrics.record(Metric::Backlog, status.backlog);
        metrics.record(Metric::Delayed, status.delayed);
        metrics.record(Metric::OldestEventAgeSeconds, status.oldest_event_age_seconds);
        metrics.record(Metric::ExpiresInSeconds, status.expires_in_seconds);
        metrics.record(Metric::DrainSeconds, status.drain_seconds);
    }
}

fn seconds(span: SignedDuration) -> u64 {
    span.as_secs().try_into().unwrap_or_default()
}
