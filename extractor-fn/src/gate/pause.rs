//! The operator's switch, asked before anything is fetched or forwarded.

use std::{convert::Infallible, str::FromStr};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use shared::{Clock, Parameter, ParameterError, error_chain};
use tokio::join;

use crate::gate::breaker::{Breaker, State};

/// How old the switch's state may be.
pub(crate) const PAUSE_TTL: SignedDuration = SignedDuration::from_secs(10);
/// For so long an event has to have failed by itself, and a fault to have lasted, before anything
/// is given up for it.
pub(crate) const DAY: SignedDuration = SignedDuration::from_hours(24);

/// What the pause parameter says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Switch {
    /// Extract.
    Running,
    /// Hold everything.
    Paused(Pause),
    /// Nobody can tell what the operator meant. Holding loses nothing; running might.
    Invalid,
}

/// What the operator says of a pause, as far as it can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) by: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) since: Option<Timestamp>,
    /// It ends by itself then.
    pub(crate) until: Option<Timestamp>,
}

impl Switch {
    /// What holds extraction at this time, if anything does. A pause is over when its time is.
    pub(crate) fn held(&self, now: Timestamp) -> Option<PauseReason> {
        match self {
            Self::Running => None,
            Self::Paused(pause) => {
                pause.until.is_none_or(|until| now < until).then_some(PauseReason::Paused)
            }
            Self::Invalid => Some(PauseReason::Invalid),
        }
    }
}

impl FromStr for Switch {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        #[derive(Deserialize)]
        struct Document {
            state: String,
            until: Option<Timestamp>,
            // For people, so that nothing in them makes a pause unintelligible.
            by: Option<Value>,
            reason: Option<Value>,
            since: Option<Value>,
        }
        let text = text.trim();
        // A list is no document, though serde would take one for a struct.
        let document = text.starts_with('{').then(|| serde_json::from_str(text).ok()).flatten();
        let (state, pause) = match document {
            Some(Document { state, until, by, reason, since }) => {
                let text = |value: Option<Value>| value?.as_str().map(str::to_owned);
                let since = text(since).and_then(|since| since.parse().ok());
                (state, Pause { by: text(by), reason: text(reason), since, until })
            }
            None => (text.to_owned(), Pause::default()),
        };
        Ok(match state.trim() {
            state if state.eq_ignore_ascii_case("running") => Self::Running,
            state if state.eq_ignore_ascii_case("paused") => Self::Paused(pause),
            _ => Self::Invalid,
        })
    }
}

/// Why nothing is extracted now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PauseReason {
    #[error("the operator paused extraction")]
    Paused,
    #[error("the pause parameter says neither running nor paused")]
    Invalid,
    #[error("the circuit breaker is open: {0}")]
    Breaker(String),
    #[error("the pause or the breaker parameter was never readable: {0}")]
    Unreadable(String),
}

/// Lets work through while neither the operator nor the breaker holds it.
pub(crate) struct Gate {
    pub(crate) switch: Parameter<Switch>,
    pub(crate) breaker: Breaker,
    clock: Clock,
}

impl Gate {
    pub(crate) fn new(switch: Parameter<Switch>, breaker: Breaker, clock: Clock) -> Self {
        Self { switch, breaker, clock }
    }

    pub(crate) async fn check(&self) -> Result<(), PauseReason> {
        let (switch, breaker) = join!(self.switch.value(), self.breaker.value());
        let unreadable = |err: ParameterError| PauseReason::Unreadable(error_chain(&err));
        let holder = switch.map_err(unreadable)?.held(self.clock.now());
        holder.or(breaker.map_err(unreadable)?.held()).map_or(Ok(()), Err)
    }

    /// The last time at which the operator or the breaker may have held extraction, as far as this
    /// environment knows. Whatever wrote a state may have ended a hold by it.
    pub(crate) async fn last_hold(&self) -> Option<Timestamp> {
        let (switch, changed_at) = join!(self.switch.last(), self.breaker.changed_at());
        let (switch, switched_at) = switch.unzip();
        let until = match switch.as_deref() {
            Some(Switch::Paused(pause)) => pause.until,
            _ => None,
        };
        [until, switched_at.flatten(), changed_at].into_iter().flatten().max()
    }

    /// Whether neither the operator nor the breaker, open or half-open, has held extraction within
    /// this time. Unknown is no.
    pub(crate) async fn was_free_for(&self, span: SignedDuration) -> bool {
        let (switch, breaker) = join!(self.switch.fetch(), self.breaker.fetch());
        let (Ok((switch, Some(switched_at))), Ok(breaker)) = (switch, breaker) else {
            return false;
        };
        let closed_at = match &*breaker {
            State::Closed { closed_at: Some(closed_at), .. } => *closed_at,
            // Closed by hand. From now on there is a time that it was closed by at the latest.
            State::Closed { closed_at: None, wait_seconds } => {
                self.breaker.close(*wait_seconds).await;
                return false;
            }
            State::Open(_) | State::HalfOpen(_) | State::Invalid => return false,
        };
        let until = match &*switch {
            Switch::Paused(pause) => pause.until,
            Switch::Running | Switch::Invalid => None,
        };
        let now = self.now();
        let is_past = |at: Timestamp| now.duration_since(at) >= span;
        switch.held(now).is_none()
            && [Some(switched_at), until, Some(closed_at)].into_iter().flatten().all(is_past)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_documents_are_understood_and_all_else_is_not() {
        let at = |text: &str| text.parse::<Timestamp>().ok();
        let paused = Switch::Paused(Pause::default());
        let told = Pause {
            by: Some("ada".into()),
            reason: Some("audit".into()),
            since: at("2026-01-01T00:00:00Z"),
            until: at("2026-01-02T03:04:05Z"),
        };
        for (text, expected) in [
            ("running", Switch::Running),
            (" Running\n", Switch::Running),
            ("PAUSED", paused.clone()),
            (r#"{"state":"paused"}"#, paused.clone()),
            (r#"{"state":"paused","by":7,"reason":[],"since":"lately"}"#, paused.clone()),
            (r#"{"state":"running","by":7,"new":[]}"#, Switch::Running),
            (
                r#"{"state":"Paused","by":"ada","reason":"audit","since":"2026-01-01T00:00:00Z","until":"2026-01-02T04:04:05+01:00"}"#,
                Switch::Paused(told),
            ),
            (r#"{"state":"paused","until":null}"#, paused),
            ("", Switch::Invalid),
            ("stopped", Switch::Invalid),
            ("{}", Switch::Invalid),
            (r#"{"state":true}"#, Switch::Invalid),
            (r#"{"state":"running","until":"tomorrow"}"#, Switch::Invalid),
            (r#"{"state":"paused","until":"tomorrow"}"#, Switch::Invalid),
            (r#""running""#, Switch::Invalid),
            (r#"["running",null]"#, Switch::Invalid),
            (r#"{"state":"paused","state":"running"}"#, Switch::Invalid),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }
}
