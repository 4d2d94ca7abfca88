//! Names, addresses and times that are the same in every simulation.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

pub(crate) use testing::settings::{
    DESTINATION_TOKEN_PARAMETER, DESTINATION_URL, GLADLY_TOKEN_PARAMETER, PAUSE_PARAMETER,
};

/// When every simulation begins.
pub(crate) const EPOCH: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// The circuit breaker's parameter.
pub(crate) const BREAKER_PARAMETER: &str = "/relay/pause-breaker";
/// The renewal's parameter.
pub(crate) const RENEWAL_PARAMETER: &str = "/relay/pause-renewal";
/// The parameters of pending recoveries.
pub(crate) const RECOVERY_PARAMETERS: [&str; 2] = ["/relay/pause-backfill", "/relay/pause-import"];

/// Where Gladly is.
pub(crate) const GLADLY: &str = "https://acme.gladly.com/api/v1";
/// The relay's webhook.
pub(crate) const WEBHOOK_URL: &str = "https://relay.example.com/webhooks/gladly";

/// The function's timeout. An invocation may rely until its end on what it read at its start.
pub(crate) const INVOCATION_TIMEOUT: Duration = Duration::from_mins(5);
/// How long an event must have failed on its own before it is exhausted.
pub(crate) const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Whether there is no controller, and the redrive policy is one for queues that are never paused.
/// That loses events: `mutants` shows it.
pub(crate) const GATE_ALONE: bool = false;

/// The wall clock's time this long after a simulation began.
pub(crate) fn instant(elapsed: Duration) -> Timestamp {
    EPOCH + SignedDuration::try_from(elapsed).unwrap_or_default()
}

/// How long after the beginning of its simulation a time is.
pub(crate) fn elapsed(now: Timestamp) -> Duration {
    now.duration_since(EPOCH).unsigned_abs()
}
