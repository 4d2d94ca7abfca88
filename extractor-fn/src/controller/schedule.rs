//! How the controller's work is spread over invocations.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Duration;

/// What every invocation keeps for its end.
pub(crate) const RESERVE: Duration = Duration::from_secs(20);
/// How often Gladly is asked by the schedule.
pub(crate) const GLADLY_INTERVAL: SignedDuration = SignedDuration::from_secs(290);
/// Whether the schedule may ask Gladly again for what it last asked for at this time.
pub(crate) fn is_due(asked: Option<Timestamp>, now: Timestamp) -> bool {
    let ago = asked.map(|at| now.duration_since(at));
    ago.is_none_or(|ago| ago.is_negative() || ago >= GLADLY_INTERVAL)
}
