//! The status, as a document and as a screen.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use shared::{BreakerState as Breaker, Metric, Metrics, OpenState, Pause, PauseState};

use crate::controller::{
    text::{events, minute, span},
    webhook_monitor::Health,
};

/// The `status` document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    state: Extraction,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    mapping: String,
    backlog: u64,
    in_flight: u64,
    quarantined: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantined_by_reason: Option<BTreeMap<String, u64>>,
    oldest_event_age_seconds: u64,
    expires_in_seconds: u64,
    drain_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    breaker: Option<Breaker>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<Health>,
    /// For how long the pause parameter has been invalid.
    #[serde(skip)]
    invalid_for: Option<SignedDuration>,
    #[serde(skip)]
    now: Timestamp,
    #[serde(skip)]
    renews: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Extraction {
    Running,
    Paused,
    Breaker,
}

/// What a status is built from.
pub(crate) struct Facts {
    pub(crate) pause: PauseState,
    /// When the pause parameter was written.
    pub(crate) pause_written_at: Option<Timestamp>,
    pub(crate) breaker: Breaker,
    pub(crate) mapping: String,
    pub(crate) backlog: u64,
    pub(crate) in_flight: u64,
    pub(crate) quarantined: u64,
    pub(crate) retention: SignedDuration,
    /// No waiting event was sent before this.
    pub(crate) low_watermark: Timestamp,
    pub(crate) drain_seconds: u64,
    pub(crate) renews: bool,
    pub(crate) webhook: Option<Health>,
    pub(crate) now: Timestamp,
}

impl Status {
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
        let age = if facts.backlog == 0 { SignedDuration::ZERO } else { waiting };
        let left = facts.retention - age;
        Self {
            state,
            by,
            reason,
            since,
            until,
            mapping: facts.mapping,
            backlog: facts.backlog,
            in_flight: facts.in_flight,
            quarantined: facts.quarantined,
            quarantined_by_reason: None,
            oldest_event_age_seconds: seconds(age),
            expires_in_seconds: seconds(left),
            drain_seconds: facts.drain_seconds,
            breaker: facts.breaker.open_state().is_some().then_some(facts.breaker),
            webhook: facts.webhook,
            invalid_for,
            now,
            renews: facts.renews,
        }
    }

    /// The same, with the count of each reason in quarantine.
    pub(crate) fn with_reasons(self, reasons: BTreeMap<String, u64>) -> Self {
        Self { quarantined_by_reason: Some(reasons), ..self }
    }

    /// Whether the pause parameter has been invalid for at least this long.
    pub(crate) fn has_been_invalid_for(&self, least: SignedDuration) -> bool {
        self.invalid_for.is_some_and(|span| span >= least)
    }

    /// Records the document's numbers as metrics.
    pub(crate) fn record(&self, metrics: &mut Metrics) {
        let is_open = matches!(self.breaker, Some(Breaker::Open(_)));
        metrics.record(Metric::Paused, (self.state == Extraction::Paused).into());
        metrics.record(Metric::BreakerOpen, is_open.into());
        metrics.record(Metric::Backlog, self.backlog);
        metrics.record(Metric::OldestEventAgeSeconds, self.oldest_event_age_seconds);
        metrics.record(Metric::ExpiresInSeconds, self.expires_in_seconds);
        metrics.record(Metric::DrainSeconds, self.drain_seconds);
    }
}

fn seconds(span: SignedDuration) -> u64 {
    span.as_secs().try_into().unwrap_or_default()
}

/// The screen. Its last line sums up the state.
impl Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.since.map(|since| format!(", since {}", minute(since)));
        let by = self.by.as_ref().map(|by| format!(" by {by}"));
        let state = match self.state {
            Extraction::Running => "running",
            Extraction::Paused => "paused",
            Extraction::Breaker => "held by the circuit breaker",
        };
        let mut line = |name: &str, text: String| writeln!(f, "{name:<12}{text}");
        line("State", format!("{state}{}{}", by.unwrap_or_default(), since.unwrap_or_default()))?;
        if let Some(reason) = &self.reason {
            line("Why", reason.clone())?;
        }
        if let Some(until) = self.until {
            let left = until.duration_since(self.now);
            let left = if left.is_positive() {
                format!("in {}", span(seconds(left)))
            } else {
                "over".into()
            };
            line("Until", format!("{} ({left})", minute(until)))?;
        }
        if let Some(Breaker::Open(open_state) | Breaker::HalfOpen(open_state)) = &self.breaker {
            let OpenState { cause, reason, since, retry_at, .. } = open_state;
            let next = match &self.breaker {
                Some(Breaker::Open(_)) => format!("tries again at {}", minute(*retry_at)),
                _ => "is trying again".into(),
            };
            line(
                "Breaker",
                format!("open for {cause} since {}, {next}: {reason}", minute(*since)),
            )?;
        }
        line("Mapping", self.mapping.clone())?;
        line("Backlog", format!("{}, {} of them in flight", events(self.backlog), self.in_flight))?;
        if self.backlog > 0 {
            let age = span(self.oldest_event_age_seconds);
            let expires = span(self.expires_in_seconds);
            let renewed = if self.renews {
                "; renewed before that"
            } else {
                "; NOT renewed (RENEW_HELD_EVENTS=false)"
            };
            line("Oldest", format!("at most {age} old, cannot expire within {expires}{renewed}"))?;
            line("Drain", format!("about {} once it runs", span(self.drain_seconds)))?;
        }
        let reasons = self.quarantined_by_reason.iter().flatten();
        let reasons: Vec<_> = reasons.map(|(reason, count)| format!("{count} {reason}")).collect();
        let reasons =
            if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join(", ")) };
        line("Quarantine", format!("{}{reasons}", events(self.quarantined)))?;
        if let Some(webhook) = &self.webhook {
            line("Webhook", webhook.to_string())?;
        }
        f.write_str(match (self.state, &*self.mapping) {
            (Extraction::Running, "Enabled") => "Extraction is running.",
            (Extraction::Running, _) => "Extraction is about to run: the mapping is not enabled yet.",
            (Extraction::Paused, "Disabled") => {
                "Extraction is paused: events are held, and none is received, fetched or forwarded."
            }
            (Extraction::Paused, _) => {
                "Extraction is paused: events are held, within 15 s in every running extractor."
            }
            (Extraction::Breaker, _) => {
                "Extraction is held until its cause is gone, which is tried by itself: events are held."
            }
        })
    }
}
