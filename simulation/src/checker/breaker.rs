//! The history of the breaker's parameter.

use std::mem;

use jiff::Timestamp;
use serde_json::Value;

use super::Context;
use crate::constants::DAY;

/// The breaker's reason while Gladly has none of the conversations.
pub(super) const NONE_FOUND: &str = "Gladly answers 404 to every conversation";

/// The breaker's states until now.
#[derive(Debug)]
pub(super) struct BreakerHistory {
    /// The last state.
    state: String,
    /// While it is open or half-open.
    unclosed: Option<Unclosed>,
    /// When it last closed.
    closed_at: Timestamp,
}

#[derive(Debug)]
struct Unclosed {
    /// Since when it is so for this cause.
    since: Timestamp,
    cause: String,
    reason: String,
}

impl Default for BreakerHistory {
    fn default() -> Self {
        Self { state: "closed".into(), unclosed: None, closed_at: Timestamp::MIN }
    }
}

impl BreakerHistory {
    pub(super) fn is_open(&self) -> bool {
        self.state == "open"
    }

    /// Follows a write of the parameter. Returns whether it closes the breaker.
    pub(super) fn write(&mut self, text: &str, cx: &mut Context<'_>) -> bool {
        let document: Value = serde_json::from_str(text).unwrap_or_default();
        let field = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
        let (state, cause, reason) = (field("state"), field("cause"), field("reason"));
        let unclosed_since = self.unclosed.as_ref().map(|unclosed| unclosed.since);
        self.unclosed = match self.unclosed.take() {
            _ if state == "closed" => None,
            Some(before)
                if before.cause == cause
                    && (before.reason == NONE_FOUND) == (reason == NONE_FOUND) =>
            {
                Some(Unclosed { reason, ..before })
            }
            _ => Some(Unclosed { since: cx.now, cause, reason }),
        };
        let closes = state == "closed" && self.state != "closed";
        if closes {
            self.closed_at = cx.now;
            if unclosed_since.is_some_and(|since| cx.now.duration_since(since) >= DAY) {
                cx.journal.count("breaker unclosed for a day");
            }
        }
        let before = mem::replace(&mut self.state, state.clone());
        match (before.as_str(), state.as_str()) {
            ("half-open", "open") => cx.journal.count("breaker re-opened"),
            (before, "open") if before != "open" => cx.journal.count("breaker opened"),
            (before, "half-open") if before != "half-open" => {
                cx.journal.count("breaker half-open");
            }
            ("open" | "half-open", "closed") => cx.journal.count("breaker closed"),
            _ => {}
        }
        closes
    }

    /// Whether the breaker has been open or half-open for this since before then. No reason is any.
    pub(super) fn unclosed_before(&self, then: Timestamp, cause: &str, reason: &str) -> bool {
        self.unclosed.as_ref().is_some_and(|unclosed| {
            unclosed.since < then
                && unclosed.cause == cause
                && (reason.is_empty() || unclosed.reason == reason)
        })
    }

    /// Whether it has held anything within a day.
    pub(super) fn held_within_a_day(&self, now: Timestamp) -> bool {
        self.unclosed.is_some() || now.duration_since(self.closed_at) < DAY
    }
}
