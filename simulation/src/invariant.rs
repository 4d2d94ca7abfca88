//! What has to hold in every world.

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// What happened instead.
    pub how: String,
}

pub(crate) const KEPT: &str =
    "every accepted event is delivered at least once or stands in quarantine with a reason";
pub(crate) const HEALTHY: &str = "quarantine holds only what there is a reason for";
pub(crate) const HELD: &str = "nothing is delivered more than 15 s into a pause";
pub(crate) const OPERATOR: &str = "the pause parameter is the operator's alone";
pub(crate) const SWITCH: &str = "the mapping is not switched on while the operator pauses";
pub(crate) const ALIGNED: &str = "a reconcile leaves the mapping as the parameters say";
pub(crate) const QUIET: &str =
    "a held event is received at most once in a renewal while the mapping is off";
pub(crate) const HONEST: &str = "a delivery carries what Gladly showed, under the schema";
pub(crate) const DRAINED: &str = "once all faults are over the backlog drains";
pub(crate) const SOUND: &str = "nothing panics, and nothing is asked that AWS does not take";
