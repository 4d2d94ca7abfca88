//! The invariants of every simulation.

use std::fmt::{self, Display};

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// What happened.
    pub how: String,
}

impl Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "An invariant does not hold: {}.\n  {}", self.invariant, self.how)
    }
}

pub(crate) const AT_LEAST_ONCE: &str =
    "every accepted event is delivered at least once or is in quarantine with a reason";
pub(crate) const QUARANTINE_HAS_REASONS: &str = "every quarantined message has a valid reason";
pub(crate) const PAUSE_HOLDS: &str = "nothing is delivered more than 15 s into a pause";
pub(crate) const PAUSE_IS_OPERATORS: &str = "only the operator writes the pause parameter";
pub(crate) const NOT_ENABLED_WHILE_PAUSED: &str =
    "the mapping is not enabled while the operator pauses";
pub(crate) const MAPPING_RECONCILED: &str =
    "a reconcile leaves the mapping as the parameters demand";
pub(crate) const ONE_RECEIVE_PER_RENEWAL: &str =
    "a held event is received at most once per renewal while the mapping is disabled";
pub(crate) const DELIVERY_IS_CORRECT: &str =
    "a delivery contains what Gladly showed and fits the schema";
pub(crate) const ERASED_STAYS_ERASED: &str = "a reader who keeps the rule shows nothing of a deleted customer after the tombstone, and everything else";
pub(crate) const BACKLOG_DRAINS: &str = "once all faults are over the backlog drains";
pub(crate) const NO_PANIC_OR_INVALID_CALL: &str = "nothing panics, and every call to AWS is valid";
