//! The status document, and its numbers as metrics.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use shared::{
    BreakerState as Breaker, Extraction, Metric, Metrics, OpenState, Pause, PauseState,
    PendingRecovery, Status, WebhookHealth,
};

use crate::client::sqs::Depth;

/// The `status` document, and what only the controller needs.
pub(crate) struct StatusReport {
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
    /// What backfill and import have still to queue.
    pub(crate) recoveries: Vec<PendingRecovery>,
    pub(crate) now: Timestamp,
}

impl StatusReport {
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
        let Depth { total: backlog, in_flight, delayed, retention, .. } = facts.events;
        let age = if backlog == 0 { SignedDuration::ZERO } else { waiting };
        let status = Status {
            state,
            by,
            reason,
            since,
            until,
            mapping: facts.mapping,
            backlog,
            in_flight,
            delayed,
            quarantined: facts.quarantined,
            quarantined_by_reason: None,
            oldest_event_age_seconds: seconds(age),
            expires_in_seconds: seconds(retention - age),
            drain_seconds: facts.drain_seconds,
            breaker: facts.breaker.open_state().is_some().then_some(facts.breaker),
            renews: facts.renews,
            webhook: facts.webhook,
            recoveries: facts.recoveries,
        };
        Self { status, invalid_for }
    }

    /// The document, with the count of each reason in quarantine.
    pub(crate) fn with_reasons(self, reasons: BTreeMap<String, u64>) -> Status {
        Status { quarantined_by_reason: Some(reasons), ..self.status }
    }

    /// Whether the pause parameter has been invalid for at least this long.
    pub(crate) fn has_been_invalid_for(&self, least: SignedDuration) -> bool {
        self.invalid_for.is_some_and(|span| span >= least)
    }

    /// Records the document's numbers as metrics.
    pub(crate) fn record(&self, metrics: &mut Metrics) {
        let Status { state, breaker, backlog, .. } = &self.status;
        let is_open = matches!(breaker, Some(Breaker::Open(_)));
        metrics.record(Metric::Paused, (*state == Extraction::Paused).into());
        metrics.record(Metric::BreakerOpen, is_open.into());
        metrics.record(Metric::Backlog, *backlog);
        metrics.record(Metric::OldestEventAgeSeconds, self.status.oldest_event_age_seconds);
        metrics.record(Metric::ExpiresInSeconds, self.status.expires_in_seconds);
        metrics.record(Metric::DrainSeconds, self.status.drain_seconds);
    }
}

fn seconds(span: SignedDuration) -> u64 {
    span.as_secs().try_into().unwrap_or_default()
}
