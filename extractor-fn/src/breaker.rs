//! The circuit breaker: holds extraction by itself while one side cannot work for everybody, and
//! lets it go on once that side can. Its state is a parameter of its own, next to the operator's.

use std::{
    collections::HashSet,
    convert::Infallible,
    fmt::{self, Display},
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use shared::{Clock, Id, Parameter, ParameterError, chain};
use tracing::{error, info};

use crate::pause::Held;

/// How long the breaker stays open at first; each re-opening doubles it …
const FIRST_WAIT: u32 = 60;
/// … up to this, in seconds.
const LONGEST_WAIT: u32 = 3_600;
/// A side that has only failed for so long …
const OUTAGE: SignedDuration = SignedDuration::from_mins(2);
/// … over so many conversations is down, and not merely unable to do with one of them.
const CONVERSATIONS: usize = 2;

/// Which side is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    Gladly,
    Destination,
}

impl Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gladly => "Gladly",
            Self::Destination => "the destination",
        })
    }
}

/// What the breaker parameter says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(crate) enum State {
    /// Extract. So it is too while there is no parameter.
    Closed,
    /// Hold everything.
    Open(Opening),
    /// Extract: the first success closes it, the first failure opens it again.
    HalfOpen(Opening),
    /// Not ours; the controller mends it.
    #[serde(skip)]
    Unintelligible,
}

/// Why and how long the breaker is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Opening {
    pub(crate) cause: Side,
    pub(crate) reason: String,
    /// The first opening: re-openings keep it.
    pub(crate) since: Timestamp,
    pub(crate) retry_at: Timestamp,
    pub(crate) wait_seconds: u32,
}

impl Opening {
    fn first(cause: Side, reason: String, now: Timestamp) -> Self {
        let retry_at = now + SignedDuration::from_secs(FIRST_WAIT.into());
        Self { cause, reason, since: now, retry_at, wait_seconds: FIRST_WAIT }
    }

    /// The same breaker, open for twice as long from now on.
    fn again(&self, reason: String, now: Timestamp) -> Self {
        let wait_seconds = self.wait_seconds.saturating_mul(2).clamp(FIRST_WAIT, LONGEST_WAIT);
        let retry_at = now + SignedDuration::from_secs(wait_seconds.into());
        Self { cause: self.cause, reason, since: self.since, retry_at, wait_seconds }
    }

    /// When it was last found at fault.
    pub(crate) fn opened_at(&self) -> Timestamp {
        let wait = SignedDuration::from_secs(self.wait_seconds.min(LONGEST_WAIT).into());
        self.retry_at.saturating_sub(wait).unwrap_or(self.retry_at)
    }
}

impl State {
    /// What holds extraction, if this does.
    pub(crate) fn held(&self) -> Option<Held> {
        match self {
            Self::Closed | Self::HalfOpen(_) => None,
            Self::Open(opening) => Some(Held::Breaker(opening.reason.clone())),
            Self::Unintelligible => Some(Held::Breaker("its parameter is not ours".into())),
        }
    }
}

impl FromStr for State {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        // A list is no document, though serde would take one for a state.
        let document = text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok());
        Ok(document.flatten().unwrap_or(Self::Unintelligible))
    }
}

/// The breaker as one environment sees it.
pub(crate) struct Breaker {
    parameter: Parameter<State>,
    clock: Clock,
    half_open: AtomicBool,
    gladly: Mutex<Outage>,
    destination: Mutex<Outage>,
}

/// A side's failures since its last success, all of them of a kind that passes.
#[derive(Default)]
struct Outage {
    since: Option<Timestamp>,
    conversations: HashSet<Id>,
}

impl Breaker {
    pub(crate) fn new(parameter: Parameter<State>, clock: Clock) -> Self {
        Self {
            parameter: parameter.or(State::Closed),
            clock,
            half_open: AtomicBool::new(false),
            gladly: Mutex::default(),
            destination: Mutex::default(),
        }
    }

    /// The state, as old as its parameter may be.
    pub(crate) async fn value(&self) -> Result<Arc<State>, ParameterError> {
        self.parameter.value().await.inspect(|state| self.seen(state))
    }

    /// The state as it is now.
    pub(crate) async fn fresh(&self) -> Result<Arc<State>, ParameterError> {
        let (state, _) = self.parameter.fresh().await?;
        self.seen(&state);
        Ok(state)
    }

    fn seen(&self, state: &State) {
        self.half_open.store(matches!(state, State::HalfOpen(_)), Ordering::Relaxed);
    }

    /// To the second, as people read it.
    fn now(&self) -> Timestamp {
        let now = self.clock.now();
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }

    fn outage(&self, side: Side) -> &Mutex<Outage> {
        match side {
            Side::Gladly => &self.gladly,
            Side::Destination => &self.destination,
        }
    }

    /// A side did what it was asked for.
    pub(crate) async fn succeeded(&self, side: Side) {
        *self.outage(side).lock().unwrap_or_else(PoisonError::into_inner) = Outage::default();
        if side == Side::Destination && self.half_open.swap(false, Ordering::Relaxed) {
            self.close().await;
        }
    }

    /// A side failed with these conversations, in a way that passes. Whether that means that it is
    /// down: for everybody, and for more than a moment.
    pub(crate) fn failed<'a>(
        &self,
        side: Side,
        conversations: impl IntoIterator<Item = &'a Id>,
    ) -> bool {
        if side == Side::Destination && self.half_open.load(Ordering::Relaxed) {
            return true;
        }
        let now = self.clock.now();
        let mut outage = self.outage(side).lock().unwrap_or_else(PoisonError::into_inner);
        for conversation in conversations {
            if outage.conversations.len() < CONVERSATIONS {
                outage.conversations.insert(conversation.clone());
            }
        }
        let since = *outage.since.get_or_insert(now);
        outage.conversations.len() >= CONVERSATIONS && now.duration_since(since) >= OUTAGE
    }

    /// Holds extraction. An open breaker stays as it is, whoever opened it.
    pub(crate) async fn open(&self, cause: Side, reason: &str) {
        let now = self.now();
        let opening = match self.fresh().await.as_deref() {
            Ok(State::Open(_)) => return,
            Ok(State::HalfOpen(opening)) if opening.cause == cause => {
                opening.again(reason.to_owned(), now)
            }
            // Unreadable is no reason to go on: it is written all the same.
            Ok(_) | Err(_) => Opening::first(cause, reason.to_owned(), now),
        };
        self.write(State::Open(opening)).await;
    }

    /// Keeps it open for longer: what it was opened for still stands.
    pub(crate) async fn reopen(&self, opening: &Opening, reason: &str) {
        self.write(State::Open(opening.again(reason.to_owned(), self.now()))).await;
    }

    /// Lets deliveries try.
    pub(crate) async fn half_open(&self, opening: &Opening) {
        self.write(State::HalfOpen(opening.clone())).await;
    }

    pub(crate) async fn close(&self) {
        self.write(State::Closed).await;
    }

    async fn write(&self, state: State) {
        // Counted anew from here.
        for side in [Side::Gladly, Side::Destination] {
            *self.outage(side).lock().unwrap_or_else(PoisonError::into_inner) = Outage::default();
        }
        self.seen(&state);
        let text = serde_json::to_string(&state).unwrap_or_default();
        match self.parameter.write(text).await {
            Ok(()) => match &state {
                State::Open(Opening { cause, reason, retry_at, .. }) => error!(
                    breaker.cause = %cause,
                    breaker.retry_at = %retry_at,
                    reason,
                    "the circuit breaker is open"
                ),
                State::HalfOpen(Opening { cause, .. }) => {
                    info!(breaker.cause = %cause, "the circuit breaker is half-open");
                }
                State::Closed | State::Unintelligible => info!("the circuit breaker is closed"),
            },
            Err(err) => error!(error = chain(&err), "could not change the circuit breaker"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_the_contracts() {
        let opening = Opening {
            cause: Side::Gladly,
            reason: "Gladly refused our credentials with 401".into(),
            since: "2026-01-02T03:04:05Z".parse().unwrap(),
            retry_at: "2026-01-02T03:05:05Z".parse().unwrap(),
            wait_seconds: 60,
        };
        for (state, text) in [
            (State::Closed, r#"{"state":"closed"}"#),
            (
                State::Open(opening.clone()),
                r#"{"state":"open","cause":"gladly","reason":"Gladly refused our credentials with 401","since":"2026-01-02T03:04:05Z","retryAt":"2026-01-02T03:05:05Z","waitSeconds":60}"#,
            ),
            (
                State::HalfOpen(Opening { cause: Side::Destination, ..opening }),
                r#"{"state":"half-open","cause":"destination","reason":"Gladly refused our credentials with 401","since":"2026-01-02T03:04:05Z","retryAt":"2026-01-02T03:05:05Z","waitSeconds":60}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&state).unwrap(), text);
            assert_eq!(text.parse(), Ok(state));
        }
        assert_eq!(r#"{"state":"closed","since":1}"#.parse(), Ok(State::Closed));
        for text in
            ["", "open", "{}", r#"{"state":"ajar"}"#, r#"{"state":"open"}"#, r#"["closed"]"#]
        {
            assert_eq!(text.parse(), Ok(State::Unintelligible), "{text}");
        }
    }

    #[test]
    fn each_re_opening_waits_twice_as_long_up_to_an_hour() {
        let now = Timestamp::UNIX_EPOCH;
        let mut opening = Opening::first(Side::Gladly, String::new(), now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            waits.push(opening.wait_seconds);
            assert_eq!(opening.opened_at(), now);
            opening = opening.again(String::new(), now);
        }
        assert_eq!(waits, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
    }
}
