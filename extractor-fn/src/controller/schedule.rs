//! How the controller's work is spread over invocations.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Duration;

/// The time that every invocation reserves for its end.
pub(crate) const RESERVE: Duration = Duration::from_secs(20);
/// How often the schedule calls Gladly.
pub(crate) const GLADLY_INTERVAL: SignedDuration = SignedDuration::from_secs(290);
/// Whether the schedule may repeat a call to Gladly that it last made at this time.
pub(crate) fn is_due(called: Option<Timestamp>, now: Timestamp) -> bool {
    let ago = called.map(|at| now.duration_since(at));
    ago.is_none_or(|ago| ago.is_negative() || ago >= GLADLY_INTERVAL)
}
