//! The pause parameter, which only the operator writes, and why extraction is held.

use std::{convert::Infallible, str::FromStr};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

/// The pause parameter's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PauseState {
    /// Extract.
    Running,
    /// Hold everything.
    Paused(Pause),
    /// Neither of the two. Held: waiting loses nothing, running might.
    Invalid,
}

/// The operator's description of a pause, as far as it can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pause {
    /// Who paused.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// When it began.
    pub since: Option<Timestamp>,
    /// When it ends automatically.
    pub until: Option<Timestamp>,
}

impl PauseState {
    /// The reason that extraction is held at this time, if it is. A pause ends at `until`.
    #[must_use]
    pub fn held(&self, now: Timestamp) -> Option<PauseReason> {
        match self {
            Self::Running => None,
            Self::Paused(pause) => {
                pause.until.is_none_or(|until| now < until).then_some(PauseReason::Paused)
            }
            Self::Invalid => Some(PauseReason::Invalid),
        }
    }
}

impl FromStr for PauseState {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        #[derive(Deserialize)]
        struct Document {
            state: String,
            until: Option<Timestamp>,
            // For people only, so nothing in them makes the parameter invalid.
            by: Option<Value>,
            reason: Option<Value>,
            since: Option<Value>,
        }
        let text = text.trim();
        // A list is not a document, although serde reads one as a struct.
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
pub enum PauseReason {
    /// The operator paused it.
    #[error("the operator paused extraction")]
    Paused,
    /// The pause parameter cannot be understood.
    #[error("invalid pause parameter: expected \"running\" or \"paused\"; treating as paused")]
    Invalid,
    /// The circuit breaker is open, for this reason.
    #[error("the circuit breaker is open: {0}")]
    Breaker(String),
    /// One of the two parameters cannot be read.
    #[error("could not read the pause or the breaker parameter: {0}")]
    Unreadable(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_documents_are_read_and_everything_else_is_invalid() {
        let at = |text: &str| text.parse::<Timestamp>().ok();
        let paused = PauseState::Paused(Pause::default());
        let described = Pause {
            by: Some("ada".into()),
            reason: Some("audit".into()),
            since: at("2026-01-01T00:00:00Z"),
            until: at("2026-01-02T03:04:05Z"),
        };
        for (text, expected) in [
            ("running", PauseState::Running),
            (" Running\n", PauseState::Running),
            ("PAUSED", paused.clone()),
            (r#"{"state":"paused"}"#, paused.clone()),
            (r#"{"state":"paused","by":7,"reason":[],"since":"lately"}"#, paused.clone()),
            (r#"{"state":"running","by":7,"new":[]}"#, PauseState::Running),
            (
                r#"{"state":"Paused","by":"ada","reason":"audit","since":"2026-01-01T00:00:00Z","until":"2026-01-02T04:04:05+01:00"}"#,
                PauseState::Paused(described),
            ),
            (r#"{"state":"paused","until":null}"#, paused),
            ("", PauseState::Invalid),
            ("stopped", PauseState::Invalid),
            ("{}", PauseState::Invalid),
            (r#"{"state":true}"#, PauseState::Invalid),
            (r#"{"state":"running","until":"tomorrow"}"#, PauseState::Invalid),
            (r#"{"state":"paused","until":"tomorrow"}"#, PauseState::Invalid),
            (r#""running""#, PauseState::Invalid),
            (r#"["running",null]"#, PauseState::Invalid),
            (r#"{"state":"paused","state":"running"}"#, PauseState::Invalid),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }
}
