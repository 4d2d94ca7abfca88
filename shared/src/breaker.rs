//! The circuit breaker's parameter: why extraction is held by the system, and when it retries.

use std::{
    convert::Infallible,
    fmt::{self, Display},
    str::FromStr,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::pause::PauseReason;

/// How long the breaker stays open at first, in seconds; each re-opening doubles it.
const FIRST_WAIT_SECONDS: u32 = 60;
/// The longest that the breaker stays open before a retry, in seconds.
const MAX_WAIT_SECONDS: u32 = 3_600;
/// The reason of a breaker that is open because Gladly finds none of the conversations.
pub const NONE_FOUND: &str = "Gladly answers 404 to every conversation";
/// The reason of a breaker that is open because the destination accepts none of them.
const NONE_TAKEN: &str = "the destination rejects every conversation";

/// A service that extraction depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Upstream {
    /// Gladly's REST API.
    Gladly,
    /// Where deliveries go.
    Destination,
}

impl Upstream {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::Gladly, Self::Destination];

    /// The reason for an upstream that denies every conversation.
    #[must_use]
    pub fn denial(self) -> &'static str {
        match self {
            Self::Gladly => NONE_FOUND,
            Self::Destination => NONE_TAKEN,
        }
    }
}

impl Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gladly => "Gladly",
            Self::Destination => "the destination",
        })
    }
}

/// The breaker parameter's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum BreakerState {
    /// Extract.
    Closed {
        /// Unknown where it was closed by hand.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        closed_at: Option<Timestamp>,
        /// How long it was last open: another opening soon after lasts twice as long.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wait_seconds: Option<u32>,
    },
    /// Hold everything.
    Open(OpenState),
    /// Extract: the first success closes it, the first failure opens it again.
    HalfOpen(OpenState),
    /// Not a value that the relay writes; the controller resets it.
    #[serde(skip)]
    Invalid,
}

/// Why and how long the breaker is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenState {
    /// What cannot work.
    pub cause: Upstream,
    /// How it fails.
    pub reason: String,
    /// When it first opened: re-openings keep it.
    pub since: Timestamp,
    /// When it is tried again.
    pub retry_at: Timestamp,
    /// How long it stays open, in seconds.
    pub wait_seconds: u32,
}

impl OpenState {
    /// A breaker that opens, for twice the last wait if it has only just closed.
    #[must_use]
    pub fn first(cause: Upstream, reason: String, now: Timestamp, last_wait: Option<u32>) -> Self {
        let wait_seconds = last_wait.map_or(FIRST_WAIT_SECONDS, twice);
        let retry_at = now + SignedDuration::from_secs(wait_seconds.into());
        Self { cause, reason, since: now, retry_at, wait_seconds }
    }

    /// The same breaker, open from now on for twice as long.
    #[must_use]
    pub fn extend(&self, reason: String, now: Timestamp) -> Self {
        let extended = Self::first(self.cause, reason, now, Some(self.wait_seconds));
        // What follows from a day of missing conversations needs a day of exactly that reason.
        let differs = extended.reason == NONE_FOUND && self.reason != NONE_FOUND;
        Self { since: if differs { now } else { self.since }, ..extended }
    }

    /// Whether it has been open for at least this long.
    #[must_use]
    pub fn lasts(&self, span: SignedDuration, now: Timestamp) -> bool {
        now.duration_since(self.since) >= span
    }

    /// When it last opened.
    #[must_use]
    pub fn opened_at(&self) -> Timestamp {
        let wait = SignedDuration::from_secs(self.wait_seconds.min(MAX_WAIT_SECONDS).into());
        self.retry_at.saturating_sub(wait).unwrap_or(self.retry_at)
    }
}

fn twice(wait_seconds: u32) -> u32 {
    wait_seconds.saturating_mul(2).clamp(FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS)
}

impl BreakerState {
    /// The state while there is no parameter: the breaker has never been open.
    pub const ABSENT: Self =
        Self::Closed { closed_at: Some(Timestamp::UNIX_EPOCH), wait_seconds: None };

    /// The reason that extraction is held, if the breaker holds it.
    #[must_use]
    pub fn held(&self) -> Option<PauseReason> {
        match self {
            Self::Closed { .. } | Self::HalfOpen(_) => None,
            Self::Open(open_state) => Some(PauseReason::Breaker(open_state.reason.clone())),
            Self::Invalid => Some(PauseReason::Breaker("its parameter is malformed".into())),
        }
    }

    /// Why it is open or half-open, if it is.
    #[must_use]
    pub fn open_state(&self) -> Option<&OpenState> {
        match self {
            Self::Open(open_state) | Self::HalfOpen(open_state) => Some(open_state),
            Self::Closed { .. } | Self::Invalid => None,
        }
    }
}

impl FromStr for BreakerState {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        // A list is not a document, although serde reads one as a state.
        let document = text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok());
        Ok(document.flatten().unwrap_or(Self::Invalid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_matches_the_contract() {
        let open_state = OpenState {
            cause: Upstream::Gladly,
            reason: "Gladly rejected the API credentials (HTTP 401)".into(),
            since: "2026-01-02T03:04:05Z".parse().unwrap(),
            retry_at: "2026-01-02T03:05:05Z".parse().unwrap(),
            wait_seconds: 60,
        };
        for (state, text) in [
            (BreakerState::Closed { closed_at: None, wait_seconds: None }, r#"{"state":"closed"}"#),
            (
                BreakerState::Closed {
                    closed_at: Some(open_state.retry_at),
                    wait_seconds: Some(60),
                },
                r#"{"state":"closed","closedAt":"2026-01-02T03:05:05Z","waitSeconds":60}"#,
            ),
            (
                BreakerState::Open(open_state.clone()),
                r#"{"state":"open","cause":"gladly","reason":"Gladly rejected the API credentials (HTTP 401)","since":"2026-01-02T03:04:05Z","retryAt":"2026-01-02T03:05:05Z","waitSeconds":60}"#,
            ),
            (
                BreakerState::HalfOpen(OpenState { cause: Upstream::Destination, ..open_state }),
                r#"{"state":"half-open","cause":"destination","reason":"Gladly rejected the API credentials (HTTP 401)","since":"2026-01-02T03:04:05Z","retryAt":"2026-01-02T03:05:05Z","waitSeconds":60}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&state).unwrap(), text);
            assert_eq!(text.parse(), Ok(state));
        }
        assert_eq!(
            r#"{"state":"closed","since":1}"#.parse(),
            Ok(BreakerState::Closed { closed_at: None, wait_seconds: None })
        );
        for text in
            ["", "open", "{}", r#"{"state":"ajar"}"#, r#"{"state":"open"}"#, r#"["closed"]"#]
        {
            assert_eq!(text.parse(), Ok(BreakerState::Invalid), "{text}");
        }
    }

    #[test]
    fn each_re_opening_doubles_the_wait_up_to_an_hour() {
        let now = Timestamp::UNIX_EPOCH;
        let mut open_state = OpenState::first(Upstream::Gladly, String::new(), now, None);
        let mut waits = Vec::new();
        for _ in 0..8 {
            waits.push(open_state.wait_seconds);
            assert_eq!(open_state.opened_at(), now);
            open_state = open_state.extend(String::new(), now);
        }
        assert_eq!(waits, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
    }
}
