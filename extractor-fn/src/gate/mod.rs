//! Whether extraction may continue: the operator's pause and the circuit breaker.

pub(crate) mod breaker;

use jiff::{SignedDuration, Timestamp};
use shared::{Clock, Parameter, ParameterError, PauseReason, PauseState, error_chain};
use tokio::join;

use crate::gate::breaker::{Breaker, FatalError, State, Upstream};

/// How long the states of the pause and of the breaker are cached.
pub(crate) const PAUSE_TTL: SignedDuration = SignedDuration::from_secs(10);
/// How long an event must have failed by itself, or an upstream must have failed, before an event
/// is quarantined for it.
pub(crate) const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Why work is interrupted. What is unfinished returns to the queue.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Interrupted {
    /// Extraction is held.
    #[error(transparent)]
    Held(PauseReason),
    /// An upstream failed in a way that affects every conversation.
    #[error("interrupted: {}", .0.reason)]
    Fatal(FatalError),
}

/// Permission to call an upstream, checked before every call.
pub(crate) trait Permission: Sync {
    /// Whether the call may be made now.
    fn check(&self) -> impl Future<Output = Result<(), Interrupted>> + Send;

    /// An upstream answered, so it is up.
    fn answered(&self, upstream: Upstream);
}

/// The controller's permission: it calls Gladly while extraction is held, to find out whether the
/// hold can end, and its calls do not count for the breaker.
pub(crate) struct ControllerPermission;

impl Permission for ControllerPermission {
    async fn check(&self) -> Result<(), Interrupted> {
        Ok(())
    }

    fn answered(&self, _: Upstream) {}
}

/// Lets work through while neither the operator nor the breaker holds extraction.
pub(crate) struct Gate {
    pub(crate) pause: Parameter<PauseState>,
    pub(crate) breaker: Breaker,
    clock: Clock,
}

impl Gate {
    pub(crate) fn new(pause: Parameter<PauseState>, breaker: Breaker, clock: Clock) -> Self {
        Self { pause, breaker, clock }
    }

    pub(crate) async fn check(&self) -> Result<(), PauseReason> {
        let (pause, breaker) = join!(self.pause.value(), self.breaker.value());
        let unreadable = |err: ParameterError| PauseReason::Unreadable(error_chain(&err));
        let holder = pause.map_err(unreadable)?.held(self.clock.now());
        holder.or(breaker.map_err(unreadable)?.held()).map_or(Ok(()), Err)
    }

    /// The last time at which the operator or the breaker may have held extraction, as far as this
    /// environment has seen. Every write of a state may have ended a hold.
    pub(crate) async fn last_hold(&self) -> Option<Timestamp> {
        let (pause, changed_at) = join!(self.pause.last(), self.breaker.changed_at());
        let (pause, written_at) = pause.unzip();
        let until = match pause.as_deref() {
            Some(PauseState::Paused(pause)) => pause.until,
            _ => None,
        };
        [until, written_at.flatten(), changed_at].into_iter().flatten().max()
    }

    /// Whether neither the operator nor the breaker, open or half-open, has held extraction within
    /// this time. Unknown is no.
    pub(crate) async fn was_free_for(&self, span: SignedDuration) -> bool {
        let (pause, breaker) = join!(self.pause.fetch(), self.breaker.fetch());
        let (Ok((pause, Some(written_at))), Ok(breaker)) = (pause, breaker) else {
            return false;
        };
        let closed_at = match &*breaker {
            State::Closed { closed_at: Some(closed_at), .. } => *closed_at,
            // Closed by hand. Writing it again records an upper bound of the time of closing.
            State::Closed { closed_at: None, wait_seconds } => {
                self.breaker.close(*wait_seconds).await;
                return false;
            }
            State::Open(_) | State::HalfOpen(_) | State::Invalid => return false,
        };
        let until = match &*pause {
            PauseState::Paused(pause) => pause.until,
            PauseState::Running | PauseState::Invalid => None,
        };
        let now = self.now();
        let is_past = |at: Timestamp| now.duration_since(at) >= span;
        pause.held(now).is_none()
            && [Some(written_at), until, Some(closed_at)].into_iter().flatten().all(is_past)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
