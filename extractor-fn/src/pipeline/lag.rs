//! How far Gladly may be off.

use jiff::SignedDuration;

/// How far Gladly's clock may be ahead of AWS's, or behind it.
pub(crate) const SKEW: SignedDuration = SignedDuration::from_secs(5);
/// How far Gladly's reads may lag behind its events.
pub(crate) const READ_LAG: SignedDuration = SignedDuration::from_secs(30);
