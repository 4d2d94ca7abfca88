//! Whether extraction runs, from its parameters.

use jiff::Timestamp;
use serde::Serialize;
use shared::{BreakerState, Extraction, OpenState, Pause, PauseState};

use crate::stack::{Stack, StackError};

/// Whether extraction runs, or what holds it since when and until when.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExtractionState {
    pub(super) state: Extraction,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    /// When a pause ends or an open breaker is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    /// The event source mapping's state, as Lambda names it.
    mapping: String,
}

impl ExtractionState {
    /// Reads the parameters. The controller's `status` has the same, but costs an invocation.
    pub(super) async fn read(stack: &Stack<'_>, now: Timestamp) -> Result<Self, StackError> {
        let name = stack.pause_parameter();
        let pause = stack.parameter(name).await?.unwrap_or_default();
        let breaker = stack.parameter(&format!("{name}-breaker")).await?;
        Ok(Self::new(&pause, breaker.as_deref(), stack.mapping_state().await?, now))
    }

    fn new(pause: &str, breaker: Option<&str>, mapping: String, now: Timestamp) -> Self {
        let (Ok(pause), Ok(breaker)) = (
            pause.parse::<PauseState>(),
            breaker.map_or(Ok(BreakerState::ABSENT), str::parse::<BreakerState>),
        );
        let (state, held) = match (pause.held(now), breaker.held(), pause, breaker) {
            (Some(_), _, PauseState::Paused(pause), _) => (Extraction::Paused, pause),
            (Some(held), ..) => {
                let reason = Some(held.to_string());
                (Extraction::Paused, Pause { reason, ..Pause::default() })
            }
            (None, Some(_), _, BreakerState::Open(OpenState { reason, since, retry_at, .. })) => {
                let (since, until) = (Some(since), Some(retry_at));
                (Extraction::Breaker, Pause { reason: Some(reason), since, until, by: None })
            }
            (None, Some(held), ..) => {
                let reason = Some(held.to_string());
                (Extraction::Breaker, Pause { reason, ..Pause::default() })
            }
            (None, None, ..) => (Extraction::Running, Pause::default()),
        };
        let Pause { by, reason, since, until } = held;
        Self { state, by, reason, since, until, mapping }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shown(pause: &str, breaker: Option<&str>) -> Value {
        let now = "2026-01-01T12:00:00Z".parse().unwrap();
        json!(ExtractionState::new(pause, breaker, "Enabled".to_owned(), now))
    }

    #[test]
    fn the_operators_pause_comes_before_the_breaker() {
        let open = r#"{"state":"open","cause":"gladly","reason":"HTTP 401","since":"2026-01-01T11:59:00Z","retryAt":"2026-01-01T12:00:30Z","waitSeconds":60}"#;
        let half_open = open.replace("\"open\"", "\"half-open\"");
        let paused =
            r#"{"state":"paused","by":"ada","reason":"audit","until":"2026-01-01T13:00:00Z"}"#;
        let ended = paused.replace("13:00", "11:00");
        let running = json!({"state": "running", "mapping": "Enabled"});
        let by_ada = json!({"state": "paused", "by": "ada", "reason": "audit", "until": "2026-01-01T13:00:00Z", "mapping": "Enabled"});
        let by_breaker = json!({"state": "breaker", "reason": "HTTP 401", "since": "2026-01-01T11:59:00Z", "until": "2026-01-01T12:00:30Z", "mapping": "Enabled"});
        for (pause, breaker, expected) in [
            ("running", None, &running),
            ("running", Some(half_open.as_str()), &running),
            (ended.as_str(), Some(r#"{"state":"closed"}"#), &running),
            (paused, None, &by_ada),
            (paused, Some(open), &by_ada),
            ("running", Some(open), &by_breaker),
        ] {
            assert_eq!(shown(pause, breaker), *expected, "{pause} {breaker:?}");
        }
        assert_eq!(shown("", None)["state"], "paused", "what is not valid holds");
        assert_eq!(shown("running", Some("?"))["state"], "breaker");
    }
}
