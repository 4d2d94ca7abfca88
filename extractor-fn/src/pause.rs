//! The operator's switch, asked before anything is fetched or forwarded.

use std::{convert::Infallible, str::FromStr};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use shared::{Clock, Parameter, chain};

/// How old the switch's state may be.
pub(crate) const PAUSE_AGE: SignedDuration = SignedDuration::from_secs(10);

/// What the pause parameter says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Switch {
    /// Extract.
    Running,
    /// Hold everything, until a time if one is given.
    Paused(Option<Timestamp>),
    /// Nobody can tell what the operator meant. Holding loses nothing; running might.
    Unintelligible,
}

impl FromStr for Switch {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        #[derive(Deserialize)]
        struct Document {
            state: String,
            until: Option<Timestamp>,
        }
        let text = text.trim();
        // A list is no document, though serde would take one for a struct.
        let document = text.starts_with('{').then(|| serde_json::from_str(text).ok()).flatten();
        let (state, until) = match document {
            Some(Document { state, until }) => (state, until),
            None => (text.to_owned(), None),
        };
        Ok(match state.trim() {
            state if state.eq_ignore_ascii_case("running") => Self::Running,
            state if state.eq_ignore_ascii_case("paused") => Self::Paused(until),
            _ => Self::Unintelligible,
        })
    }
}

/// Why nothing is extracted now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Held {
    #[error("the operator paused extraction")]
    Paused,
    #[error("the pause parameter says neither running nor paused")]
    Unintelligible,
    #[error("the pause parameter was never readable: {0}")]
    Unreadable(String),
}

/// Lets work through while extraction is running.
pub(crate) struct Guard {
    switch: Parameter<Switch>,
    clock: Clock,
}

impl Guard {
    pub(crate) fn new(switch: Parameter<Switch>, clock: Clock) -> Self {
        Self { switch, clock }
    }

    pub(crate) async fn permit(&self) -> Result<(), Held> {
        let switch = self.switch.value().await.map_err(|err| Held::Unreadable(chain(&err)))?;
        match *switch {
            Switch::Running => Ok(()),
            Switch::Paused(Some(until)) if until <= self.clock.now() => Ok(()),
            Switch::Paused(_) => Err(Held::Paused),
            Switch::Unintelligible => Err(Held::Unintelligible),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_documents_are_understood_and_all_else_is_not() {
        let until: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        for (text, expected) in [
            ("running", Switch::Running),
            (" Running\n", Switch::Running),
            ("PAUSED", Switch::Paused(None)),
            (r#"{"state":"paused"}"#, Switch::Paused(None)),
            (r#"{"state":"running","by":7,"new":[]}"#, Switch::Running),
            (
                r#"{"state":"Paused","by":"ada","reason":"audit","since":"2026-01-01T00:00:00Z","until":"2026-01-02T04:04:05+01:00"}"#,
                Switch::Paused(Some(until)),
            ),
            (r#"{"state":"paused","until":null}"#, Switch::Paused(None)),
            ("", Switch::Unintelligible),
            ("stopped", Switch::Unintelligible),
            ("{}", Switch::Unintelligible),
            (r#"{"state":true}"#, Switch::Unintelligible),
            (r#"{"state":"running","until":"tomorrow"}"#, Switch::Unintelligible),
            (r#"{"state":"paused","until":"tomorrow"}"#, Switch::Unintelligible),
            (r#""running""#, Switch::Unintelligible),
            (r#"["running",null]"#, Switch::Unintelligible),
            (r#"{"state":"paused","state":"running"}"#, Switch::Unintelligible),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }
}
